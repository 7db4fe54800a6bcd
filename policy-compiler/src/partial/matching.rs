// SPDX-License-Identifier: Apache-2.0
//! Which peers does an end match, and which policies select it, as far as that is known?

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::{
    Assumptions, Fact, Tri,
    index::{Evaluator, PolicyId, SubjectOf, Term},
    party::{Address, Entry, Identity, Party, Side, Unknown, Unread},
};
use crate::model::{Direction, Family, Node, Pod, Selector, UnknownLabels, family_of};

impl Evaluator<'_> {
    /// Whether a peer of a rule matches an end.
    pub(super) fn matching(&self, term: &Term<'_>, party: &Party, assumptions: Assumptions) -> Tri {
        match term {
            Term::Own(namespace, pods) => party
                .pod()
                .filter(|pod| pod.key.namespace == *namespace)
                .map_or(Tri::No, |pod| {
                    party.as_pod(pods_match(pods, pod, &party.unknown))
                }),
            Term::Pods(namespaces, pods) => party.pod().map_or(Tri::No, |pod| {
                let namespace = self.namespace_matches(*namespaces, &pod.key.namespace);
                party.as_pod(all([namespace, pods_match(pods, pod, &party.unknown)]))
            }),
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
                let gaps = &self.snapshot.gaps.nodes;
                if gaps.is_empty() {
                    return self.is_node_among(party, |node| selector.matches(&node.labels));
                }
                let others = UnknownLabels::others();
                let matches = |node: &Node| {
                    if gaps.contains(&node.name) {
                        selector.matches_partly(&node.labels, &others)
                    } else {
                        Some(selector.matches(&node.labels))
                    }
                };
                let surely = self.is_node_among(party, |node| matches(node) == Some(true));
                match self.is_node_among(party, |node| matches(node) != Some(false)) {
                    perhaps if perhaps == surely => surely,
                    _ => Tri::Maybe(Fact::PeerNode),
                }
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
        if let (true, Some(pod)) = (party.unknown.standing, party.pod()) {
            // On the host network it would be its node.
            let may_run_on = |node: &Arc<Node>| pod.node.as_ref().is_none_or(|it| *it == node.name);
            return if selected.any(may_run_on) {
                Tri::Maybe(Fact::PeerStanding)
            } else {
                Tri::No
            };
        }
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

    /// What applies to a pod in one direction.
    pub(super) fn applying(&self, pod: &Pod, unknown: &Unknown, direction: Direction) -> Side {
        let mut side = Side {
            admin: self.ordered(&self.admin, pod, unknown, direction),
            baseline: self.ordered(&self.baseline, pod, unknown, direction),
            ..Side::default()
        };
        for id in self.network.get(&pod.key.namespace).into_iter().flatten() {
            let policy = self.policy(*id);
            let selects = self.selects(&policy.subject, pod, unknown);
            if selects == Some(false) {
                continue;
            }
            let audited = policy.audited;
            match (policy.doubt(direction), policy.rules(direction)) {
                (Some(doubt), _) => side.network_doubts.push(Unread { doubt, audited }),
                (None, Some(rules)) if selects.is_none() => {
                    side.perhaps.push(*id);
                    side.network_perhaps.extend_from_slice(rules);
                }
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

    fn ordered(
        &self,
        policies: &[PolicyId],
        pod: &Pod,
        unknown: &Unknown,
        direction: Direction,
    ) -> Vec<Entry> {
        let mut entries = Vec::new();
        for id in policies {
            let policy = self.policy(*id);
            let entry = match self.selects(&policy.subject, pod, unknown) {
                Some(true) => Entry::Rule,
                Some(false) => continue,
                None => Entry::Perhaps,
            };
            let audited = policy.audited;
            match policy.doubt(direction) {
                Some(doubt) => entries.push(Entry::Doubt(Unread { doubt, audited })),
                None => entries.extend(
                    policy
                        .rules(direction)
                        .unwrap_or_default()
                        .iter()
                        .copied()
                        .map(entry),
                ),
            }
        }
        entries
    }

    fn selects(&self, subject: &SubjectOf<'_>, pod: &Pod, unknown: &Unknown) -> Option<bool> {
        match subject {
            SubjectOf::Any => Some(true),
            SubjectOf::Nothing => Some(false),
            SubjectOf::Own(selection) => match &unknown.labels {
                Some(unknown) => selection.matches_partly(&pod.labels, unknown),
                None => Some(selection.matches(&pod.labels)),
            },
            SubjectOf::Pods(namespaces, pods) => all([
                self.namespace_matches(*namespaces, &pod.key.namespace),
                pods_match(pods, pod, unknown),
            ]),
        }
    }

    fn namespace_matches(&self, selector: usize, namespace: &str) -> Option<bool> {
        let matches = self.namespace_matches.get(selector);
        let id = self.namespace_ids.get(namespace);
        let known = id.and_then(|id| matches?.get(*id).copied());
        known.unwrap_or(Some(false))
    }
}

/// Whether a selector matches the labels of a pod; `None` if those that are not known decide.
fn pods_match(pods: &Selector, pod: &Pod, unknown: &Unknown) -> Option<bool> {
    match &unknown.labels {
        Some(unknown) => pods.matches_partly(&pod.labels, unknown),
        None => Some(pods.matches(&pod.labels)),
    }
}

/// Whether both hold.
fn all(both: [Option<bool>; 2]) -> Option<bool> {
    if both.contains(&Some(false)) {
        Some(false)
    } else {
        both.iter().all(Option::is_some).then_some(true)
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

/// Whether every address of `family`, or of the one family a cluster without addresses turns out to
/// have, is in `network`.
fn covers_family(network: &IpNet, family: Option<Family>) -> bool {
    network.prefix_len() == 0 && family.is_none_or(|family| family == family_of(network.addr()))
}
