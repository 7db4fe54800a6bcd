// SPDX-License-Identifier: Apache-2.0
//! What is known about one end? Its identity, its address and what applies to it.

use std::{net::IpAddr, sync::Arc};

use fixedbitset::FixedBitSet;

use super::{
    Assumptions, Fact, Tri,
    index::{Evaluator, PolicyId, Ports, RuleId, Term, TermId},
};
use crate::{
    model::{ContainerPort, Direction, Family, Pod, PortRange, Protocol, UnknownLabels, family_of},
    portmap::PortSet,
    snapshot::Gaps,
    verdict::Endpoint,
};

/// One end of a connection, with everything policies can see of it.
#[derive(Clone, Debug)]
pub struct Party {
    /// The end as it was asked for.
    pub asked: Endpoint,
    pub(super) identity: Identity,
    pub(super) address: Address,
    pub(super) unknown: Unknown,
    /// The terms that certainly match.
    pub(super) matches: FixedBitSet,
    /// The terms that may match.
    pub(super) may_match: FixedBitSet,
    pub(super) ingress: Side,
    pub(super) egress: Side,
}

/// What an end turns out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// A pod that policies can select.
    Pod(Arc<Pod>),
    /// A node, if it is known which.
    Node(Option<Arc<str>>),
    /// Neither.
    External,
}

/// The address that a flow of the family in question carries for an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Address {
    Known(IpAddr),
    /// There is one, possibly of a known family.
    Unknown(Option<Family>),
    /// The end has no address of the family.
    Missing,
}

/// What is not known of a pod besides its address and node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unknown {
    pub(super) labels: Option<UnknownLabels>,
    /// The labels of its namespace.
    pub(super) namespace: bool,
    /// There may be more container ports.
    pub(super) ports: bool,
    /// It may be on the host network, or have finished.
    pub(super) standing: bool,
}

impl Unknown {
    fn of(pod: &Pod, gaps: &Gaps) -> Self {
        Self {
            labels: gaps.labels.get(&pod.key).cloned(),
            namespace: gaps.namespaces.contains(&pod.key.namespace),
            ports: gaps.ports.contains(&pod.key),
            standing: gaps.standing.contains(&pod.key),
        }
    }
}

/// What applies to a pod in one direction, in order of precedence.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Side {
    pub(super) admin: Vec<Entry>,
    /// NetworkPolicies that certainly isolate the pod and are enforced.
    pub(super) isolating: Vec<PolicyId>,
    /// Those that certainly isolate it and are audited.
    pub(super) auditing: Vec<PolicyId>,
    /// The rules of both, by policy name and position.
    pub(super) network: Vec<RuleId>,
    /// NetworkPolicies that isolate the pod if its labels are as they want.
    pub(super) perhaps: Vec<PolicyId>,
    /// Their rules.
    pub(super) network_perhaps: Vec<RuleId>,
    /// Unreadable NetworkPolicies that may isolate and admit.
    pub(super) network_doubts: Vec<Unread>,
    pub(super) baseline: Vec<Entry>,
}

impl Side {
    /// Whether no policy has anything to say.
    pub(super) fn is_empty(&self) -> bool {
        self.admin.is_empty()
            && !self.is_selected()
            && self.perhaps.is_empty()
            && self.network_doubts.is_empty()
            && self.baseline.is_empty()
    }

    /// Whether some NetworkPolicy that can be read may isolate the pod.
    pub(super) fn may_be_selected(&self) -> bool {
        self.is_selected() || !self.perhaps.is_empty()
    }

    /// Whether some NetworkPolicy certainly isolates the pod, be it enforced or audited.
    pub(super) fn is_selected(&self) -> bool {
        !self.isolating.is_empty() || !self.auditing.is_empty()
    }
}

/// A policy, or a rule, that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Unread {
    /// Index into the doubts.
    pub(super) doubt: u32,
    /// The policy is audited: whatever it says, it denies nothing.
    pub(super) audited: bool,
}

/// A step of an ordered tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Entry {
    Rule(RuleId),
    /// A rule that is about the pod if its labels are as the policy wants.
    Perhaps(RuleId),
    /// An unreadable policy.
    Doubt(Unread),
}

impl Entry {
    /// The rule, if it can be read.
    fn rule(self) -> Option<RuleId> {
        match self {
            Self::Rule(rule) | Self::Perhaps(rule) => Some(rule),
            Self::Doubt(_) => None,
        }
    }
}

/// Switches that an answer depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaning {
    /// [`super::Assumptions::blocks_match_pods`].
    pub blocks_match_pods: bool,
    /// [`crate::snapshot::Options::local_node_egress`].
    pub local_node_egress: bool,
}

impl Party {
    pub(super) fn side(&self, direction: Direction) -> &Side {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// The rules of the NetworkPolicies that isolate the pod, by policy name and position.
    pub(crate) fn network_rules(&self, direction: Direction) -> &[RuleId] {
        &self.side(direction).network
    }

    /// The pod that policies can select, if the end is one.
    pub fn pod(&self) -> Option<&Arc<Pod>> {
        match &self.identity {
            Identity::Pod(pod) => Some(pod),
            Identity::Node(_) | Identity::External => None,
        }
    }

    /// The end in a family that it has no address of.
    #[must_use]
    pub fn without_address(mut self) -> Self {
        self.address = Address::Missing;
        self
    }

    /// Another replica: alike in everything but being another pod.
    #[must_use]
    pub fn sibling(&self) -> Self {
        let mut sibling = self.clone();
        if let Identity::Pod(pod) = &mut sibling.identity {
            let pod = Arc::make_mut(pod);
            pod.key.name = format!("{}#2", pod.key.name).into();
        }
        sibling
    }

    /// The end with other container ports.
    #[must_use]
    pub fn with_ports(&self, ports: Vec<ContainerPort>) -> Self {
        let mut party = self.clone();
        if let Identity::Pod(pod) = &mut party.identity {
            Arc::make_mut(pod).ports = ports.into();
        }
        party
    }

    /// The end on another node.
    #[must_use]
    pub fn on_node(&self, node: &Arc<str>) -> Self {
        let mut party = self.clone();
        if let Identity::Pod(pod) = &mut party.identity {
            Arc::make_mut(pod).node = Some(node.clone());
        }
        party
    }

    /// The node, if the end is the stack of a node that is known.
    pub fn node(&self) -> Option<&Arc<str>> {
        match &self.identity {
            Identity::Node(node) => node.as_ref(),
            Identity::Pod(_) | Identity::External => None,
        }
    }

    /// The rules that may apply to the end as a subject, tier by tier in order of precedence.
    pub(crate) fn rules(&self, direction: Direction) -> impl Iterator<Item = RuleId> + '_ {
        let side = self.side(direction);
        let of = |entry: &Entry| entry.rule();
        let admin = side.admin.iter().filter_map(of);
        let baseline = side.baseline.iter().filter_map(of);
        let network = side.network.iter().chain(&side.network_perhaps).copied();
        admin.chain(network).chain(baseline)
    }

    /// A number for what the end is: a pod, a node, neither, or perhaps a pod.
    pub(super) fn kind(&self) -> u8 {
        match self.identity {
            Identity::Pod(_) if self.unknown.standing => 3,
            Identity::Pod(_) => 0,
            Identity::Node(_) => 1,
            Identity::External => 2,
        }
    }

    /// The address policies see, if it is known.
    pub fn address(&self) -> Option<IpAddr> {
        match self.address {
            Address::Known(address) => Some(address),
            Address::Unknown(_) | Address::Missing => None,
        }
    }

    /// Whether flows of the family in question can start or end here, as far as is known.
    pub fn has_family(&self) -> bool {
        self.address != Address::Missing
    }

    /// Whether the end is a node's own stack.
    pub fn is_node(&self) -> bool {
        matches!(self.identity, Identity::Node(_))
    }

    /// Whether some NetworkPolicy, be it enforced or audited, certainly isolates the pod in `direction`.
    pub fn is_isolated(&self, direction: Direction) -> bool {
        self.side(direction).is_selected()
    }

    /// Whether the end matches as a pod whose labels match, if it is one.
    pub(super) fn as_pod(&self, labels: Option<bool>) -> Tri {
        match labels {
            Some(false) => Tri::No,
            Some(true) if self.unknown.standing => Tri::Maybe(Fact::PeerStanding),
            Some(true) => Tri::Yes,
            None => Tri::Maybe(Fact::PeerLabels),
        }
    }

    pub(super) fn term(&self, term: TermId, kind: &Term<'_>) -> Tri {
        let bit = term.0 as usize;
        if self.matches.contains(bit) {
            Tri::Yes
        } else if self.may_match.contains(bit) {
            Tri::Maybe(match (kind, &self.identity) {
                (Term::Own(..) | Term::Pods(..), _)
                    if self.unknown.labels.is_some() || self.unknown.namespace =>
                {
                    Fact::PeerLabels
                }
                (Term::Own(..) | Term::Pods(..), _) => Fact::PeerStanding,
                (Term::Nodes(_), Identity::Pod(_)) if self.unknown.standing => Fact::PeerStanding,
                (Term::Nodes(_), Identity::Node(_)) => Fact::PeerNode,
                (Term::Nodes(_), _) if self.address().is_some() => Fact::PeerNode,
                _ => Fact::PeerAddress,
            })
        } else {
            Tri::No
        }
    }
}

impl Evaluator<'_> {
    /// Resolves one end: a hostNetwork pod stands for its node, a finished pod for its address, and an
    /// address for the pod or node that owns it.
    ///
    /// Without `family` an unknown address may be of either.
    pub fn party(&self, asked: &Endpoint, family: Option<Family>) -> Party {
        self.party_under(asked, family, self.assumptions)
    }

    /// The same end under other assumptions.
    pub fn party_otherwise(&self, asked: &Endpoint, family: Option<Family>) -> Party {
        let otherwise = Assumptions {
            blocks_match_pods: !self.assumptions.blocks_match_pods,
        };
        self.party_under(asked, family, otherwise)
    }

    fn party_under(
        &self,
        asked: &Endpoint,
        family: Option<Family>,
        assumptions: Assumptions,
    ) -> Party {
        let mut party = self.unmatched(asked, family);
        let own = party
            .pod()
            .and_then(|pod| self.terms_by.namespace.get(&pod.key.namespace));
        let bits: Vec<usize> = own
            .into_iter()
            .flatten()
            .chain(&self.terms_by.wide)
            .copied()
            .collect();
        self.match_terms(&mut party, &bits, assumptions);
        if let Identity::Pod(pod) = &party.identity {
            let ingress = self.applying(pod, &party.unknown, Direction::Ingress);
            let egress = self.applying(pod, &party.unknown, Direction::Egress);
            (party.ingress, party.egress) = (ingress, egress);
        }
        party
    }

    /// The same end, should `address` turn out to be its own.
    #[must_use]
    pub fn at(&self, party: &Party, address: IpAddr) -> Party {
        let mut party = Party {
            address: Address::Known(address),
            ..party.clone()
        };
        self.match_terms(&mut party, &self.terms_by.address, self.assumptions);
        party
    }

    /// An end by what it is, before any policy is looked at.
    pub(super) fn unmatched(&self, asked: &Endpoint, family: Option<Family>) -> Party {
        let (identity, address) = self.identify(asked, family);
        let unknown = match &identity {
            Identity::Pod(pod) => Unknown::of(pod, &self.snapshot.gaps),
            Identity::Node(_) | Identity::External => Unknown::default(),
        };
        Party {
            asked: asked.clone(),
            unknown,
            identity,
            address,
            matches: FixedBitSet::with_capacity(self.terms.len()),
            may_match: FixedBitSet::with_capacity(self.terms.len()),
            ingress: Side::default(),
            egress: Side::default(),
        }
    }

    /// Finds out which of some terms match.
    pub(super) fn match_terms(&self, party: &mut Party, bits: &[usize], assumptions: Assumptions) {
        for bit in bits {
            let Some(term) = self.terms.get(*bit) else {
                continue;
            };
            let holds = self.matching(term, party, assumptions);
            party.matches.set(*bit, holds == Tri::Yes);
            party.may_match.set(*bit, matches!(holds, Tri::Maybe(_)));
        }
    }

    /// Which switches of [`super::Assumptions`] and [`crate::snapshot::Options`] the answer for one
    /// direction depends on.
    pub fn leans_on(&self, direction: Direction, subject: &Party, peer: &Party) -> Leaning {
        let side = subject.side(direction);
        let names_blocks = |rule: RuleId| {
            let peers = self.rule(rule).peers.iter().flatten();
            peers
                .copied()
                .any(|term| matches!(self.term(term), Term::Block(_) | Term::Networks(_)))
        };
        Leaning {
            blocks_match_pods: peer.pod().is_some() && subject.rules(direction).any(names_blocks),
            local_node_egress: direction == Direction::Egress
                && super::decide::is_own_node(subject, peer) != Tri::No
                && side.may_be_selected(),
        }
    }

    fn identify(&self, asked: &Endpoint, family: Option<Family>) -> (Identity, Address) {
        match asked {
            Endpoint::Pod(key) => match self.snapshot.pods.get(key) {
                None => (Identity::External, Address::Unknown(family)),
                Some(pod) if pod.host_network => self.host(pod, family),
                Some(pod) if pod.phase.is_finished() => match pick(&pod.addresses, family) {
                    Address::Known(address) => self.owner_of(address),
                    address @ (Address::Unknown(_) | Address::Missing) => {
                        (Identity::External, address)
                    }
                },
                Some(pod) => (Identity::Pod(pod.clone()), pick(&pod.addresses, family)),
            },
            Endpoint::Node(name) => {
                let address = self.address_of_node(name, family);
                (Identity::Node(Some(name.clone())), address)
            }
            Endpoint::Address(address) => self.owner_of(*address),
        }
    }

    /// A hostNetwork pod: its node, at the node's address or else at one the pod reports.
    fn host(&self, pod: &Pod, family: Option<Family>) -> (Identity, Address) {
        let Some(node) = &pod.node else {
            return match pick(&pod.addresses, family) {
                Address::Known(address) => self.owner_of(address),
                address @ (Address::Unknown(_) | Address::Missing) => {
                    (Identity::Node(None), address)
                }
            };
        };
        let declared = self.snapshot.nodes.get(node);
        let declared = declared.map_or(Address::Missing, |node| pick(&node.addresses, family));
        let address = match (declared, pick(&pod.addresses, family)) {
            (Address::Known(_), _) => declared,
            (_, reported @ Address::Known(_)) => reported,
            _ => self.address_of_node(node, family),
        };
        (Identity::Node(Some(node.clone())), address)
    }

    /// A node's address, or else one that hostNetwork pods report of it.
    fn address_of_node(&self, name: &str, family: Option<Family>) -> Address {
        let node = self.snapshot.nodes.get(name);
        let declared = node.map_or(Address::Unknown(family), |node| {
            pick(&node.addresses, family)
        });
        let reported: Vec<IpAddr> = self
            .reported
            .get(name)
            .into_iter()
            .flatten()
            .copied()
            .collect();
        match (declared, pick(&reported, family)) {
            (Address::Known(_), _) | (_, Address::Unknown(_)) => declared,
            (_, reported @ Address::Known(_)) => reported,
            (Address::Unknown(_) | Address::Missing, Address::Missing) => Address::Missing,
        }
    }

    /// Every address that is known of a node: its own, and those that hostNetwork pods report of it.
    pub fn addresses_of_node(&self, name: &str) -> impl Iterator<Item = IpAddr> + '_ {
        let node = self.snapshot.nodes.get(name);
        let declared = node.into_iter().flat_map(|node| &node.addresses);
        let reported = self.reported.get(name).into_iter().flatten();
        declared.chain(reported).copied()
    }

    fn owner_of(&self, address: IpAddr) -> (Identity, Address) {
        let identity = match (
            self.snapshot.pod_at(address),
            self.snapshot.node_at(address),
        ) {
            (Some(pod), _) => Identity::Pod(pod.clone()),
            (None, Some(node)) => Identity::Node(Some(node.clone())),
            (None, None) if self.is_of_some_node(address) => Identity::Node(None),
            (None, None) => Identity::External,
        };
        (identity, Address::Known(address))
    }
}

impl Evaluator<'_> {
    /// Whether a hostNetwork pod has the address of which it is not known where it runs.
    fn is_of_some_node(&self, address: IpAddr) -> bool {
        let reported = self.reported.get("");
        reported.is_some_and(|addresses| addresses.contains(&address))
    }
}

impl Ports {
    /// The protocols and ports toward `destination`, if they depend on it.
    pub(super) fn toward(&self, destination: &Party) -> Option<PortSet> {
        if self.names.is_empty() {
            return None;
        }
        if destination.unknown.standing {
            return Some(self.fixed.clone());
        }
        Some(self.fixed.union(&self.named_by(destination)))
    }

    /// The ports that `destination` is known to call by one of the names.
    fn named_by(&self, destination: &Party) -> PortSet {
        let named = self.names.iter().flat_map(|(wanted, name)| {
            let ports = destination
                .pod()
                .into_iter()
                .flat_map(move |pod| pod.ports_named(name));
            ports.filter(move |(protocol, _)| wanted.is_none_or(|wanted| wanted == *protocol))
        });
        PortSet::of(named.map(|(protocol, number)| (protocol, PortRange::single(number))))
    }

    /// The protocols and ports that may be meant besides toward a destination that may have more
    /// container ports than are known, or be a node, which has none.
    pub(super) fn perhaps_toward(&self, destination: &Party) -> Option<PortSet> {
        let unknown = &destination.unknown;
        if self.names.is_empty() || !(unknown.ports || unknown.standing) {
            return None;
        }
        let perhaps = if unknown.ports {
            let wanted = self.names.iter().flat_map(|(wanted, _)| match wanted {
                Some(protocol) => vec![*protocol],
                None => Protocol::WITH_PORTS.to_vec(),
            });
            let (start, end) = (1, u16::MAX);
            PortSet::of(wanted.map(|protocol| (protocol, PortRange { start, end })))
        } else {
            self.named_by(destination)
        };
        Some(perhaps.minus(&self.toward(destination)?))
    }
}

fn pick(addresses: &[IpAddr], family: Option<Family>) -> Address {
    let mut of_family = addresses
        .iter()
        .filter(|address| family.is_none_or(|family| family_of(**address) == family));
    match of_family.next() {
        Some(address) => Address::Known(*address),
        None if addresses.is_empty() => Address::Unknown(family),
        None => Address::Missing,
    }
}
