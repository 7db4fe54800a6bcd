// SPDX-License-Identifier: Apache-2.0
//! Do prediction and measurement agree, and who decided?

use std::collections::BTreeMap;

use policy_compiler::{
    Decision, Trace, Verdict,
    diagnostic::Location,
    model::{Family, PolicyKind},
    verdict::Endpoint,
};

use super::{
    plan::{Party, Probe, Transport},
    probe::Measured,
};
use crate::reason;

/// One probe with what was predicted and what was seen.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The probe.
    pub probe: Probe,
    /// The analyzer's answer.
    pub predicted: Trace,
    /// The wire's answer.
    pub measured: Measured,
    /// Where the rule (or policy) behind [`Cell::decision`] is written.
    pub at: Option<Location>,
}

impl Cell {
    /// Whether the wire contradicts the prediction.
    pub fn differs(&self) -> bool {
        match self.measured {
            Measured::Allow => self.predicted.verdict != Verdict::Allow,
            Measured::Deny => self.predicted.verdict != Verdict::Deny,
            Measured::Broken(_) => true,
        }
    }

    /// Whether an answer was predicted and none came, or the probe failed.
    pub fn lacks_an_answer(&self) -> bool {
        self.differs() && self.measured != Measured::Allow
    }

    /// The side that settles the verdict: of a denial the first side that denies, of an admission the
    /// side that a policy has an opinion on, the receiver's before the sender's.
    pub fn decision(&self) -> &Decision {
        settles(&self.predicted)
    }
}

/// See [`Cell::decision`].
pub fn settles(trace: &Trace) -> &Decision {
    let Trace {
        egress, ingress, ..
    } = trace;
    if egress.verdict == Verdict::Deny {
        egress
    } else if ingress.verdict == Verdict::Deny || reason::kind(ingress).is_some() {
        ingress
    } else if reason::kind(egress).is_some() {
        egress
    } else {
        ingress
    }
}

/// All cells, in the order of the plan.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// Who probes index into.
    pub parties: Vec<Party>,
    /// The cells.
    pub cells: Vec<Cell>,
    /// How many cells were probed a second time because no answer came where one was predicted.
    pub asked_again: usize,
}

/// Counts of one group of cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Cells measured as allowed.
    pub allowed: usize,
    /// Cells measured as denied.
    pub denied: usize,
    /// Cells in which prediction and measurement differ.
    pub differing: usize,
}

impl Matrix {
    /// The cells in which prediction and measurement differ.
    pub fn differing(&self) -> impl Iterator<Item = &Cell> {
        self.cells.iter().filter(|cell| cell.differs())
    }

    /// Cells counted by what decided them.
    pub fn by_decider(&self) -> BTreeMap<&'static str, Count> {
        self.count(|cell| match reason::kind(cell.decision()) {
            Some(PolicyKind::NetworkPolicy) => "NetworkPolicy",
            Some(PolicyKind::AdminNetworkPolicy) => "AdminNetworkPolicy",
            Some(PolicyKind::BaselineAdminNetworkPolicy) => "BaselineAdminNetworkPolicy",
            Some(PolicyKind::ClusterNetworkPolicy) => "ClusterNetworkPolicy",
            None => "default",
        })
    }

    /// Cells counted by protocol.
    pub fn by_protocol(&self) -> BTreeMap<&'static str, Count> {
        self.count(|cell| protocol(cell.probe.transport))
    }

    /// Cells counted by address family.
    pub fn by_family(&self) -> BTreeMap<&'static str, Count> {
        self.count(|cell| family(cell.probe.family()))
    }

    /// Cells counted by kind of sender and receiver.
    pub fn by_ends(&self) -> BTreeMap<&'static str, Count> {
        self.count(|cell| {
            let kind = |party: usize| &self.parties[party].endpoint;
            match (kind(cell.probe.source), kind(cell.probe.destination)) {
                (Endpoint::Pod(_), Endpoint::Pod(_)) => "pod to pod",
                (Endpoint::Pod(_), Endpoint::Node(_)) => "pod to node",
                (Endpoint::Pod(_), Endpoint::Address(_)) => "pod to outside",
                (Endpoint::Node(_), _) => "node to pod",
                (Endpoint::Address(_), _) => "outside to pod",
            }
        })
    }

    fn count<'a>(
        &'a self,
        group: impl Fn(&'a Cell) -> &'static str,
    ) -> BTreeMap<&'static str, Count> {
        let mut counts = BTreeMap::<_, Count>::new();
        for cell in &self.cells {
            let count = counts.entry(group(cell)).or_default();
            match cell.measured {
                Measured::Allow => count.allowed += 1,
                Measured::Deny => count.denied += 1,
                Measured::Broken(_) => {}
            }
            count.differing += usize::from(cell.differs());
        }
        counts
    }
}

/// `TCP`, `UDP`, `SCTP` or `ICMP`.
pub fn protocol(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp(_) => "TCP",
        Transport::Udp(_) => "UDP",
        Transport::Sctp(_) => "SCTP",
        Transport::Icmp => "ICMP",
    }
}

/// `IPv4` or `IPv6`.
pub fn family(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}
