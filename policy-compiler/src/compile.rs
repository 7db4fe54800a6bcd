// SPDX-License-Identifier: Apache-2.0
//! From a snapshot to the verdict tables of one node or of the whole cluster.
//!
//! 1. `subjects`: pods in scope that the same policies select share a ruleset per direction.
//! 2. `peers`: the predicates that those rulesets name split all addresses into classes; two addresses
//!    share a class exactly if no rule in scope can tell them apart.
//! 3. `rows`: for each ruleset and class, the rules that match reduce to a verdict per port.
//! 4. `services`: for each ruleset and Service address, the verdicts of all endpoints, if they agree.
//!
//! **Invariant:** tables are a function of the snapshot and the scope alone; ids are assigned in the
//! order of sorted input.

mod addresses;
mod groups;
pub(crate) mod hash;
mod host_ports;
mod incremental;
mod matching;
mod peers;
pub(crate) mod reduce;
mod rows;
pub(crate) mod rules;
mod services;
mod subjects;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use policy_ebpf_common::abi;

pub use addresses::AddressClasses;
pub use incremental::{Applied, Compiler, Delta};

use crate::{
    Decision, Flow, Reason, Snapshot, Trace, Verdict,
    model::{Direction, Family, PodKey, Protocol, Tier},
    portmap::PortMap,
    reach::{Party, Reach},
};

/// Whose tables to compile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The pods of one node, with its Services.
    Node(Arc<str>),
    /// Every pod; without Services, which only make sense to a datapath.
    Cluster,
}

/// Index of a peer class. 0 is no class, [`ClassId::HOST`] the subject's own node as a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassId(pub u32);

impl ClassId {
    /// The subject's own node as a source of traffic.
    pub const HOST: Self = Self(abi::CLASS_HOST as u32);
    /// The first class of addresses.
    pub const FIRST: Self = Self(2);
}

/// Index into [`Tables::rows`]; 0 is no row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId(pub u32);

/// Index into [`Tables::port_sets`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortSetId(pub u32);

impl PortSetId {
    /// Denies everything without a reason: what nobody filled in.
    pub const NONE: Self = Self(0);
    /// Judged after address translation.
    pub const DEFER: Self = Self(1);
}

/// Index into [`Tables::decisions`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DecisionId(pub u32);

impl DecisionId {
    /// Deny, without a reason.
    pub const NONE: Self = Self(0);
    /// No decision yet: judged after address translation.
    pub const DEFER: Self = Self(1);
}

/// The verdicts of all pods in scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Number of classes, 0 and [`ClassId::HOST`] included.
    pub classes: u32,
    /// Class of every address.
    pub addresses: AddressClasses,
    /// The pods in scope.
    pub pods: BTreeMap<PodKey, PodTable>,
    /// Rows; the first is empty.
    pub rows: Vec<Row>,
    /// Distinct partitions of protocols and ports.
    pub port_sets: Vec<PortMap<DecisionId>>,
    /// Distinct decisions with their reasons.
    pub decisions: Vec<Arc<Decision>>,
    /// Class of each Service address, protocol and port.
    pub services: BTreeMap<(IpAddr, Protocol, u16), ClassId>,
}

/// What the verdicts of one pod are found by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodTable {
    /// Row for traffic into the pod; `None` if no rule of any tier concerns it.
    pub ingress: Option<RowId>,
    /// Row for traffic out of the pod.
    pub egress: Option<RowId>,
    /// For traffic of the pod to itself through a Service: ingress and egress, for IPv4 and IPv6.
    pub own: [(PortSetId, PortSetId); 2],
    /// The pod as a peer, by its IPv4 and its IPv6 address.
    pub classes: [ClassId; 2],
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
}

impl PodTable {
    /// The row of `direction`.
    pub fn row(&self, direction: Direction) -> Option<RowId> {
        match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        }
    }
}

/// The verdicts of one ruleset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Port set of every class of addresses that is not listed.
    pub common: PortSetId,
    /// Port sets of the other classes, sorted by class.
    pub classes: Vec<(ClassId, PortSetId)>,
    /// The policies whose rules are in the row, sorted; for capacity errors.
    pub policies: Vec<Arc<str>>,
}

impl Row {
    /// The port set of `class`.
    pub fn port_set(&self, class: ClassId) -> PortSetId {
        match self
            .classes
            .binary_search_by_key(&class, |(class, _)| *class)
        {
            Ok(index) => self
                .classes
                .get(index)
                .map_or(PortSetId::NONE, |(_, port_set)| *port_set),
            Err(_) if class < ClassId::FIRST => PortSetId::NONE,
            Err(_) => self.common,
        }
    }
}

/// Compiles the tables of `scope`.
pub fn compile(snapshot: &Snapshot, scope: &Scope) -> Tables {
    let subjects = subjects::find(snapshot, scope);
    let peers = peers::classify(snapshot, scope, &subjects);
    let mut builder = rows::Builder::new(&subjects, &peers);
    let rows = builder.rows();
    let pods = builder.pods(&rows);
    let mut tables = Tables {
        classes: peers.class_count(),
        addresses: peers.addresses.clone(),
        pods,
        rows: rows.rows,
        port_sets: builder.port_sets(),
        decisions: builder.decisions(),
        services: BTreeMap::new(),
    };
    if let Scope::Node(node) = scope {
        services::add(snapshot, node, &peers, &mut tables);
    }
    tables
}

impl Tables {
    /// The decision of a packet of the pod's row.
    pub fn decision(&self, port_set: PortSetId, protocol: Protocol, port: u16) -> &Decision {
        static NONE: Decision = Decision {
            verdict: Verdict::Deny,
            tier: Tier::Default,
            reason: Reason::Default,
            passed: Vec::new(),
            audited: None,
        };
        let set = self.port_sets.get(port_set.0 as usize);
        let id = set.map_or(DecisionId::NONE, |set| *set.at(protocol, port));
        self.decisions
            .get(id.0 as usize)
            .map_or(&NONE, |decision| decision)
    }

    /// The port set that `row` has for `class`.
    pub fn port_set(&self, row: RowId, class: ClassId) -> PortSetId {
        let row = self.rows.get(row.0 as usize);
        row.map_or(PortSetId::NONE, |row| row.port_set(class))
    }

    /// The verdict of a flow between ends that `snapshot` resolves; the counterpart of
    /// [`crate::reference::evaluate`] for pods in scope. Ends outside the scope decide nothing.
    pub fn evaluate(&self, snapshot: &Snapshot, flow: &Flow) -> Trace {
        let reach = Reach::new(snapshot);
        let source = reach.party(&flow.source, flow.family);
        let destination = reach.party(&flow.destination, flow.family);
        let own = source
            .pod
            .zip(destination.pod)
            .is_some_and(|(a, b)| a.key == b.key);
        if own && !flow.via_service {
            let decision = || free(Reason::SelfTraffic);
            return Trace::new(decision(), decision());
        }
        Trace::new(
            self.direction(Direction::Egress, &source, &destination, own, flow),
            self.direction(Direction::Ingress, &destination, &source, own, flow),
        )
    }

    fn direction(
        &self,
        direction: Direction,
        me: &Party<'_>,
        peer: &Party<'_>,
        own: bool,
        flow: &Flow,
    ) -> Decision {
        let Some((pod, table)) = me.pod.and_then(|pod| Some((pod, self.pods.get(&pod.key)?)))
        else {
            return free(Reason::NotASubject);
        };
        let Some(row) = table.row(direction) else {
            return free(Reason::Default);
        };
        let family = match flow.family {
            Family::V4 => 0,
            Family::V6 => 1,
        };
        let own_node = peer.node.is_some() && peer.node == pod.node;
        let host = own_node && (direction == Direction::Ingress || peer.address.is_none());
        let port_set = if own {
            let (ingress, egress) = table.own[family];
            match direction {
                Direction::Ingress => ingress,
                Direction::Egress => egress,
            }
        } else if host {
            self.port_set(row, ClassId::HOST)
        } else {
            let class = match (
                peer.pod.and_then(|pod| self.pods.get(&pod.key)),
                peer.address,
            ) {
                (Some(table), _) => table.classes[family],
                (None, Some(address)) => self.addresses.class_of(address),
                (None, None) => ClassId::FIRST,
            };
            self.port_set(row, class)
        };
        self.decision(port_set, flow.protocol, flow.port).clone()
    }
}

/// Allowed, because no row was asked.
fn free(reason: Reason) -> Decision {
    Decision {
        verdict: Verdict::Allow,
        tier: Tier::Default,
        reason,
        passed: Vec::new(),
        audited: None,
    }
}
