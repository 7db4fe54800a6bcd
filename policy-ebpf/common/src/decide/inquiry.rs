// SPDX-License-Identifier: Apache-2.0 OR MIT OR GPL-2.0-only
//! What is asked of a table about a packet?

use crate::{
    flow::{Direction, Source},
    lookup::Port,
    parse::Packet,
};

/// What a court asks of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inquiry {
    /// The table.
    pub table: Direction,
    /// How the other end is known.
    pub source: Source,
    /// Which way the packet goes, hence which of its ends is the other one.
    pub direction: Direction,
    /// Destination port of the flow: in the opposite direction's table the packet's source port.
    pub port: Port,
    /// About the packet that an ICMP error quotes.
    pub quoted: bool,
}

impl Inquiry {
    /// Whether `packet` may open a flow.
    #[inline(always)]
    pub const fn of_new_flow(direction: Direction, source: Source, packet: &Packet) -> Self {
        Self {
            table: direction,
            source,
            direction,
            port: Port::Known(packet.destination_port),
            quoted: false,
        }
    }

    const PORT: u32 = 32;
    const SLOT: u32 = 48;
    const EGRESS_TABLE: u64 = 1;
    const EGRESS_PACKET: u64 = 1 << 1;
    const UNKNOWN: u64 = 1 << 2;
    const QUOTED: u64 = 1 << 3;
    const HOST: u64 = 1 << 4;
    const OWN: u64 = 2 << 4;
    const IN_SLOT: u64 = 3 << 4;
    const SOURCE: u64 = 3 << 4;

    /// The inquiry as a number, to pass between functions that the verifier checks apart from each
    /// other. Bits 8 to 31 are free for the caller.
    #[inline(always)]
    pub const fn pack(&self) -> u64 {
        let mut packed = match self.source {
            Source::Address => 0,
            Source::Host => Self::HOST,
            Source::Own => Self::OWN,
            Source::Slot(slot) => Self::IN_SLOT | (slot as u64 & 0xffff) << Self::SLOT,
        };
        packed |= match self.port {
            Port::Known(port) => (port as u64) << Self::PORT,
            Port::Unknown => Self::UNKNOWN,
        };
        if matches!(self.table, Direction::Egress) {
            packed |= Self::EGRESS_TABLE;
        }
        if matches!(self.direction, Direction::Egress) {
            packed |= Self::EGRESS_PACKET;
        }
        if self.quoted {
            packed |= Self::QUOTED;
        }
        packed
    }

    /// The inverse of [`Self::pack`].
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the fields are wanted")]
    pub const fn unpack(packed: u64) -> Self {
        const fn direction(egress: bool) -> Direction {
            if egress {
                Direction::Egress
            } else {
                Direction::Ingress
            }
        }
        Self {
            table: direction(packed & Self::EGRESS_TABLE != 0),
            source: match packed & Self::SOURCE {
                Self::HOST => Source::Host,
                Self::OWN => Source::Own,
                Self::IN_SLOT => Source::Slot((packed >> Self::SLOT) as u32),
                _ => Source::Address,
            },
            direction: direction(packed & Self::EGRESS_PACKET != 0),
            port: if packed & Self::UNKNOWN == 0 {
                Port::Known((packed >> Self::PORT) as u16)
            } else {
                Port::Unknown
            },
            quoted: packed & Self::QUOTED != 0,
        }
    }
}
