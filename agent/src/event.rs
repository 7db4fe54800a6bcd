// SPDX-License-Identifier: Apache-2.0
//! How is a judged packet reported?

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use policy_compiler::Decision;
use policy_ebpf_common::{
    abi::{Cell, Event},
    decide::Outcome,
    flow::Direction,
};
use tracing::{info, warn};

use crate::{names::Names, reason};

/// An event with its numbers resolved.
#[derive(Clone, Debug)]
pub struct Report<'a> {
    event: &'a Event,
    pod: String,
    decision: Option<&'a Decision>,
}

impl<'a> Report<'a> {
    /// Resolves the numbers of `event`.
    pub fn new(event: &'a Event, names: &'a Names) -> Self {
        let reason = Cell(event.cell).reason();
        Self {
            event,
            pod: names.interface(event.ifindex),
            // A cell of an audited policy is a denial that is not enforced.
            decision: names.decisions.get(&reason).map(|it| it.with_all()),
        }
    }

    /// `drop`, `pass`, or `would drop` if the packet passed only because of audit mode.
    pub fn verdict(&self) -> &'static str {
        let is_drop = self.event.outcome().is_none_or(Outcome::is_drop);
        match (self.event.audited != 0, is_drop) {
            (true, _) => "would drop",
            (false, true) => "drop",
            (false, false) => "pass",
        }
    }

    /// The rule that decided, or the outcome where none did.
    pub fn because(&self) -> String {
        match (self.decision, self.event.outcome()) {
            (Some(decision), _) => reason::describe(decision),
            (None, Some(outcome)) => format!("{outcome:?}"),
            (None, None) => format!("outcome {}", self.event.outcome),
        }
    }

    /// Writes the event to the log: one line, values as fields.
    pub fn log(&self) {
        let event = self.event;
        let direction = match event.direction() {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        };
        macro_rules! emit {
            ($level:ident) => {
                $level!(
                    pod = %self.pod,
                    direction,
                    source = %address(event.source),
                    source_port = u16::from_be_bytes(event.source_port),
                    destination = %address(event.destination),
                    destination_port = u16::from_be_bytes(event.destination_port),
                    protocol = %ProtocolName(event.protocol),
                    because = %self.because(),
                    tier = self.decision.map(|decision| tracing::field::display(decision.tier)),
                    at = self.decision.and_then(reason::location).map(tracing::field::display),
                    bytes = event.length,
                    suppressed = event.suppressed,
                    "{}", self.verdict(),
                )
            };
        }
        if self.verdict() == "pass" {
            emit!(info);
        } else {
            emit!(warn);
        }
    }
}

/// An address as the kernel's maps hold it.
pub fn address(octets: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(octets).to_canonical()
}

/// An IP protocol number, by name where it has a usual one.
#[derive(Clone, Copy, Debug)]
pub struct ProtocolName(pub u8);

impl fmt::Display for ProtocolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("icmp"),
            6 => f.write_str("tcp"),
            17 => f.write_str("udp"),
            58 => f.write_str("icmpv6"),
            132 => f.write_str("sctp"),
            number => write!(f, "protocol-{number}"),
        }
    }
}
