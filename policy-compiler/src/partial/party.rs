// SPDX-License-Identifier: Apache-2.0
//! What is known about one end? Its identity, and which subjects and peers it matches.

use std::{net::IpAddr, sync::Arc};

use fixedbitset::FixedBitSet;
use ipnet::IpNet;

use super::{
    Assumptions, Fact, Tri,
    index::{Evaluator, PolicyId, Ports, RuleId, SubjectOf, Term, TermId},
};
use crate::{
    model::{ContainerPort, Direction, Family, Node, Pod, PortRange, family_of},
    portmap::PortSet,
    verdict::Endpoint,
};

/// One end of a connection, with everything policies can see of it.
#[derive(Clone, Debug)]
pub struct Party {
    /// The end as it was asked for.
    pub asked: Endpoint,
    pub(super) identity: Identity,
    pub(super) address: Address,
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
    /// Unreadable NetworkPolicies that may isolate and admit.
    pub(super) network_doubts: Vec<Unread>,
    pub(super) baseline: Vec<Entry>,
}

impl Side {
    /// Whether no policy has anything to say.
    pub(super) fn is_empty(&self) -> bool {
        self.admin.is_empty()
            && !self.is_selected()
            && self.network_doubts.is_empty()
            && self.baseline.is_empty()
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
    /// An unreadable policy.
    Doubt(Unread),
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
        let of = |entry: &Entry| match entry {
            Entry::Rule(rule) => Some(*rule),
            Entry::Doubt(_) => None,
        };
        let admin = side.admin.iter().filter_map(of);
        let baseline = side.baseline.iter().filter_map(of);
        admin.chain(side.network.iter().copied()).chain(baseline)
    }

    /// A number for what the end is: a pod, a node or neither.
    pub(super) fn kind(&self) -> u8 {
        match self.identity {
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

    pub(super) fn term(&self, term: TermId, kind: &Term<'_>) -> Tri {
        let bit = term.0 as usize;
        if self.matches.contains(bit) {
            Tri::Yes
        } else if self.may_match.contains(bit) {
            Tri::Maybe(match (kind, &self.identity) {
                (Term::Nodes(_), Identity::Node(_)) => Fact::PeerNode,
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
            party.ingress = self.applying(pod, Direction::Ingress);
            party.egress = self.applying(pod, Direction::Egress);
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
        Party {
            asked: asked.clone(),
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
        let entries = side.admin.iter().chain(&side.baseline);
        let ordered = entries.filter_map(|entry| match entry {
            Entry::Rule(rule) => Some(*rule),
            Entry::Doubt(_) => None,
        });
        let names_blocks = |rule: RuleId| {
            let peers = self.rule(rule).peers.iter().flatten();
            peers
                .copied()
                .any(|term| matches!(self.term(term), Term::Block(_) | Term::Networks(_)))
        };
        Leaning {
            blocks_match_pods: peer.pod().is_some()
                && ordered
                    .chain(side.network.iter().copied())
                    .any(names_blocks),
            local_node_egress: direction == Direction::Egress
                && super::decide::is_own_node(subject, peer) != Tri::No
                && side.is_selected(),
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
                let addresses = self.snapshot.nodes.get(name).map(|node| &*node.addresses);
                let address = pick(addresses.unwrap_or_default(), family);
                (Identity::Node(Some(name.clone())), address)
            }
            Endpoint::Address(address) => self.owner_of(*address),
        }
    }

    /// A hostNetwork pod: its node, at the node's address or else at one the pod reports.
    fn host(&self, pod: &Pod, family: Option<Family>) -> (Identity, Address) {
        let node = pod
            .node
            .as_ref()
            .and_then(|name| self.snapshot.nodes.get(name));
        let declared = node.map_or(Address::Missing, |node| pick(&node.addresses, family));
        let address = match (declared, pick(&pod.addresses, family)) {
            (Address::Known(_), _)
            | (Address::Unknown(_), Address::Unknown(_) | Address::Missing) => declared,
            (_, reported) => reported,
        };
        if let (None, Address::Known(address)) = (&pod.node, address) {
            let (owner, address) = self.owner_of(address);
            if owner != Identity::External {
                return (owner, address);
            }
        }
        (Identity::Node(pod.node.clone()), address)
    }

    fn owner_of(&self, address: IpAddr) -> (Identity, Address) {
        let identity = match (
            self.snapshot.pod_at(address),
            self.snapshot.node_at(address),
        ) {
            (Some(pod), _) => Identity::Pod(pod.clone()),
            (None, Some(node)) => Identity::Node(Some(node.clone())),
            (None, None) => Identity::External,
        };
        (identity, Address::Known(address))
    }

    fn matching(&self, term: &Term<'_>, party: &Party, assumptions: Assumptions) -> Tri {
        match term {
            Term::Own(namespace, pods) => {
                definite(party.pod().is_some_and(|pod| {
                    pod.key.namespace == *namespace && pods.matches(&pod.labels)
                }))
            }
            Term::Pods(namespaces, pods) => definite(party.pod().is_some_and(|pod| {
                self.namespace_matches(*namespaces, &pod.key.namespace) && pods.matches(&pod.labels)
            })),
            Term::Block(_) | Term::Networks(_)
                if !assumptions.blocks_match_pods && party.pod().is_some() =>
            {
                Tri::No
            }
            Term::Block(block) => in_blocks(
                party,
                |address| block.contains(address),
                |family| block.except.is_empty() && covers_family(&block.cidr, family),
                |family| family.is_none_or(|family| family == family_of(block.cidr.addr())),
            ),
            Term::Networks(networks) => in_blocks(
                party,
                |address| networks.iter().any(|network| network.contains(&address)),
                |family| {
                    networks
                        .iter()
                        .any(|network| covers_family(network, family))
                },
                |family| {
                    networks
                        .iter()
                        .any(|net| family.is_none_or(|family| family == family_of(net.addr())))
                },
            ),
            Term::Nodes(selector) => {
                self.is_node_among(party, |node| selector.matches(&node.labels))
            }
            Term::Domains(patterns) => match party.address {
                Address::Known(address) => definite(self.snapshot.resolves(patterns, address)),
                Address::Unknown(_) if self.snapshot.domains.is_some() => {
                    Tri::Maybe(Fact::PeerAddress)
                }
                Address::Unknown(_) | Address::Missing => Tri::No,
            },
            Term::Nothing => Tri::No,
        }
    }

    fn is_node_among(&self, party: &Party, selects: impl Fn(&Node) -> bool) -> Tri {
        let mut selected = self.snapshot.nodes.values().filter(|node| selects(node));
        match (party.address, &party.identity) {
            (Address::Known(address), identity) => {
                if selected.any(|node| node.addresses.contains(&address)) {
                    return Tri::Yes;
                }
                // Every node of a cluster has addresses: one that shows none has not told them.
                match identity {
                    Identity::Pod(_) | Identity::External => Tri::No,
                    Identity::Node(name) => {
                        let known = name.as_ref().and_then(|it| self.snapshot.nodes.get(it));
                        match known {
                            Some(node) if !node.addresses.is_empty() || !selects(node) => Tri::No,
                            _ => Tri::Maybe(Fact::PeerNode),
                        }
                    }
                }
            }
            (Address::Missing, _) => Tri::No,
            (Address::Unknown(_), Identity::Node(Some(name)))
                if self.snapshot.nodes.contains_key(name) =>
            {
                definite(selected.any(|node| node.name == *name))
            }
            (Address::Unknown(_), Identity::Node(_)) => Tri::Maybe(Fact::PeerNode),
            (Address::Unknown(_), Identity::Pod(_) | Identity::External) => {
                if selected.any(|node| !node.addresses.is_empty()) {
                    Tri::Maybe(Fact::PeerAddress)
                } else {
                    Tri::No
                }
            }
        }
    }

    fn applying(&self, pod: &Pod, direction: Direction) -> Side {
        let mut side = Side {
            admin: self.ordered(&self.admin, pod, direction),
            baseline: self.ordered(&self.baseline, pod, direction),
            ..Side::default()
        };
        for id in self.network.get(&pod.key.namespace).into_iter().flatten() {
            let policy = self.policy(*id);
            if !self.selects(&policy.subject, pod) {
                continue;
            }
            let audited = policy.audited;
            match (policy.doubt(direction), policy.rules(direction)) {
                (Some(doubt), _) => side.network_doubts.push(Unread { doubt, audited }),
                (None, Some(rules)) => {
                    if audited {
                        side.auditing.push(*id);
                    } else {
                        side.isolating.push(*id);
                    }
                    side.network.extend_from_slice(rules);
                }
                (None, None) => {}
            }
        }
        side
    }

    fn ordered(&self, policies: &[PolicyId], pod: &Pod, direction: Direction) -> Vec<Entry> {
        let mut entries = Vec::new();
        for id in policies {
            let policy = self.policy(*id);
            if !self.selects(&policy.subject, pod) {
                continue;
            }
            let audited = policy.audited;
            match policy.doubt(direction) {
                Some(doubt) => entries.push(Entry::Doubt(Unread { doubt, audited })),
                None => entries.extend(
                    policy
                        .rules(direction)
                        .unwrap_or_default()
                        .iter()
                        .copied()
                        .map(Entry::Rule),
                ),
            }
        }
        entries
    }

    fn selects(&self, subject: &SubjectOf<'_>, pod: &Pod) -> bool {
        match subject {
            SubjectOf::Any => true,
            SubjectOf::Nothing => false,
            SubjectOf::Own(selection) => selection.matches(&pod.labels),
            SubjectOf::Pods(namespaces, pods) => {
                self.namespace_matches(*namespaces, &pod.key.namespace) && pods.matches(&pod.labels)
            }
        }
    }

    fn namespace_matches(&self, selector: usize, namespace: &str) -> bool {
        let matches = self.namespace_matches.get(selector);
        self.namespace_ids
            .get(namespace)
            .and_then(|id| matches?.get(*id).copied())
            .unwrap_or(false)
    }
}

impl Ports {
    /// The protocols and ports toward `destination`, if they depend on it.
    pub(super) fn toward(&self, destination: &Party) -> Option<PortSet> {
        if self.names.is_empty() {
            return None;
        }
        let named = self.names.iter().flat_map(|(wanted, name)| {
            let ports = destination
                .pod()
                .into_iter()
                .flat_map(move |pod| pod.ports_named(name));
            ports.filter(move |(protocol, _)| wanted.is_none_or(|wanted| wanted == *protocol))
        });
        let named = named.map(|(protocol, number)| (protocol, PortRange::single(number)));
        Some(self.fixed.union(&PortSet::of(named)))
    }
}

fn in_blocks(
    party: &Party,
    contains: impl Fn(IpAddr) -> bool,
    covers: impl Fn(Option<Family>) -> bool,
    overlaps: impl Fn(Option<Family>) -> bool,
) -> Tri {
    match party.address {
        Address::Known(address) => definite(contains(address)),
        Address::Unknown(family) if covers(family) => Tri::Yes,
        Address::Unknown(family) if overlaps(family) => Tri::Maybe(Fact::PeerAddress),
        Address::Unknown(_) | Address::Missing => Tri::No,
    }
}

fn definite(holds: bool) -> Tri {
    if holds { Tri::Yes } else { Tri::No }
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

/// Whether every address of `family`, or of the one family a cluster without addresses turns out to
/// have, is in `network`.
fn covers_family(network: &IpNet, family: Option<Family>) -> bool {
    network.prefix_len() == 0 && family.is_none_or(|family| family == family_of(network.addr()))
}
