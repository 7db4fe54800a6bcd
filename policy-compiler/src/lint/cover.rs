// SPDX-License-Identifier: Apache-2.0
//! Does one rule match everything another does, in every cluster? Proofs over selectors, blocks and
//! ports, not over the pods that happen to exist.

mod fewest;
mod pieces;

use std::{collections::BTreeSet, sync::Arc};

use ipnet::IpNet;

use crate::{
    model::{
        AdminPeer, AdminPort, AdminRule, IpBlock, NetworkPeer, NetworkPort, NetworkRule, Operator,
        PortRange, Protocol, Requirement, Selection, Selector, Subject,
    },
    portmap::PortSet,
    snapshot::{NAMESPACE_NAME_LABEL, Snapshot},
};

/// Whether every label set that `narrow` selects is selected by `wide`. `false` proves nothing.
pub(super) fn selector_implies(narrow: &Selector, wide: &Selector) -> bool {
    wide.requirements().iter().all(|wanted| {
        narrow
            .requirements()
            .iter()
            .any(|given| implies(given, wanted))
    })
}

fn implies(given: &Requirement, wanted: &Requirement) -> bool {
    if given.key != wanted.key {
        return false;
    }
    let listed = |value: &Arc<str>| wanted.values.contains(value);
    match (wanted.operator, given.operator) {
        (Operator::In, Operator::In) => given.values.iter().all(listed),
        (Operator::NotIn, Operator::In) => !given.values.iter().any(listed),
        (Operator::NotIn, Operator::NotIn) => wanted
            .values
            .iter()
            .all(|value| given.values.contains(value)),
        (Operator::Exists, Operator::In | Operator::Exists)
        | (Operator::NotIn | Operator::DoesNotExist, Operator::DoesNotExist) => true,
        (Operator::In, Operator::NotIn | Operator::Exists | Operator::DoesNotExist)
        | (Operator::NotIn, Operator::Exists)
        | (Operator::Exists, Operator::NotIn | Operator::DoesNotExist)
        | (Operator::DoesNotExist, Operator::In | Operator::NotIn | Operator::Exists) => false,
    }
}

/// One thing a rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Atom {
    Everything,
    Pods(Selector, Selector),
    Block(IpBlock),
    Nodes(Selector),
}

impl Atom {
    fn covers(&self, that: &Self) -> bool {
        match (self, that) {
            (Self::Everything, _) => true,
            (Self::Pods(namespaces, pods), Self::Pods(of, which)) => {
                selector_implies(of, namespaces) && selector_implies(which, pods)
            }
            (Self::Block(wide), Self::Block(narrow)) => {
                // What the wide block leaves out must be left out of the narrow one, or not be in it.
                let left_out = |hole: &IpNet| {
                    !overlap(hole, &narrow.cidr)
                        || narrow.except.iter().any(|except| except.contains(hole))
                };
                wide.cidr.contains(&narrow.cidr) && wide.except.iter().all(left_out)
            }
            (Self::Nodes(wide), Self::Nodes(narrow)) => selector_implies(narrow, wide),
            (Self::Pods(..), Self::Everything | Self::Block(_) | Self::Nodes(_))
            | (Self::Block(_), Self::Everything | Self::Pods(..) | Self::Nodes(_))
            | (Self::Nodes(_), Self::Everything | Self::Pods(..) | Self::Block(_)) => false,
        }
    }
}

/// Whether two blocks have addresses in common.
pub(super) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// The ports of a rule; names count as something of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    pub(super) fixed: PortSet,
    pub(super) names: BTreeSet<(Option<Protocol>, Arc<str>)>,
}

impl Ports {
    fn minus(&self, that: &Self) -> Self {
        let all_of = |protocol: Option<Protocol>| {
            let whole = |protocol| PortSet::of([(protocol, PortRange::ALL)]);
            match protocol {
                Some(protocol) => that.fixed.covers(&whole(protocol)),
                None => Protocol::WITH_PORTS
                    .into_iter()
                    .all(|protocol| that.fixed.covers(&whole(protocol))),
            }
        };
        Self {
            fixed: self.fixed.minus(&that.fixed),
            names: self
                .names
                .iter()
                .filter(|name| !that.names.contains(*name) && !all_of(name.0))
                .cloned()
                .collect(),
        }
    }

    /// What is left when all of `those` are taken away.
    fn left_by(&self, those: &[(usize, &Self)]) -> Self {
        let mut left = self.clone();
        for (_, ports) in those {
            if left.is_empty() {
                break;
            }
            left = left.minus(ports);
        }
        left
    }

    fn is_empty(&self) -> bool {
        self.fixed.is_empty() && self.names.is_empty()
    }

    fn meets(&self, that: &Self) -> bool {
        !self.fixed.intersection(&that.fixed).is_empty() || !self.names.is_disjoint(&that.names)
    }
}

/// Those of `others` that match an atom, with the ports they match it on.
fn covering<'m>(atom: &Atom, others: &[(usize, &'m Matched)]) -> Vec<(usize, &'m Ports)> {
    let covers = |other: &Matched| other.atoms.iter().any(|wide| wide.covers(atom));
    let others = others.iter().filter(|(_, other)| covers(other));
    others.map(|(at, other)| (*at, &other.ports)).collect()
}

/// What a rule matches: some atom, on some port.
#[derive(Clone, Debug)]
pub(super) struct Matched {
    pub(super) atoms: Vec<Atom>,
    pub(super) ports: Ports,
}

impl Matched {
    /// What a rule of a NetworkPolicy in `namespace` matches.
    pub(super) fn of_network(
        rule: &NetworkRule,
        namespace: &Arc<str>,
        snapshot: &Snapshot,
    ) -> Self {
        let atoms = match &rule.peers {
            None => vec![Atom::Everything],
            Some(peers) => peers
                .iter()
                .filter_map(|peer| match peer {
                    NetworkPeer::Pods { namespaces, pods } => {
                        let own = || own_namespace(namespace, snapshot);
                        let namespaces = namespaces.clone().unwrap_or_else(own);
                        Some(Atom::Pods(namespaces, pods.clone()))
                    }
                    NetworkPeer::IpBlock(block) => Some(Atom::Block(block.clone())),
                    NetworkPeer::Nothing => None,
                })
                .collect(),
        };
        let ports = match &rule.ports {
            None => everything(),
            Some(ports) => {
                let ranges = ports.iter().filter_map(|port| match port {
                    NetworkPort::Range(protocol, range) => Some((*protocol, *range)),
                    NetworkPort::Named(..) | NetworkPort::Nothing => None,
                });
                let names = ports.iter().filter_map(|port| match port {
                    NetworkPort::Named(protocol, name) => Some((Some(*protocol), name.clone())),
                    NetworkPort::Range(..) | NetworkPort::Nothing => None,
                });
                Ports {
                    fixed: PortSet::of(ranges),
                    names: names.collect(),
                }
            }
        };
        Self { atoms, ports }
    }

    /// What a rule of a cluster-scoped policy matches; `None` if that cannot be told.
    pub(super) fn of_admin(rule: &AdminRule) -> Option<Self> {
        let mut atoms = Vec::new();
        for peer in &rule.peers {
            match peer {
                AdminPeer::Pods { namespaces, pods } => {
                    atoms.push(Atom::Pods(namespaces.clone(), pods.clone()));
                }
                AdminPeer::Networks(networks) => atoms.extend(networks.iter().map(|cidr| {
                    Atom::Block(IpBlock {
                        cidr: cidr.trunc(),
                        except: Vec::new(),
                    })
                })),
                AdminPeer::Nodes(selector) => atoms.push(Atom::Nodes(selector.clone())),
                AdminPeer::DomainNames(_) => return None,
            }
        }
        let ports = match &rule.ports {
            None => everything(),
            Some(ports) => {
                let ranges = ports.iter().filter_map(|port| match port {
                    AdminPort::Range(protocol, range) => {
                        let (start, end) = (*range.start(), *range.end());
                        Some((*protocol, PortRange { start, end }))
                    }
                    AdminPort::Named(_) => None,
                });
                let names = ports.iter().filter_map(|port| match port {
                    AdminPort::Named(name) => Some((None, name.clone())),
                    AdminPort::Range(..) => None,
                });
                Ports {
                    fixed: PortSet::of(ranges),
                    names: names.collect(),
                }
            }
        };
        Some(Self { atoms, ports })
    }

    /// Everything, on every port.
    pub(super) fn everything() -> Self {
        Self {
            atoms: vec![Atom::Everything],
            ports: everything(),
        }
    }

    /// Whether nothing is matched at all.
    pub(super) fn is_nothing(&self) -> bool {
        self.atoms.is_empty() || self.ports.is_empty()
    }

    /// The positions of the fewest of `others` that together match all of this, sorted; `None` if they do
    /// not, or if it takes too many pieces to tell. Where the search for fewer takes too long, none of
    /// what is found can be left out.
    pub(super) fn covered_by<'m>(
        &self,
        others: impl Iterator<Item = (usize, &'m Self)>,
    ) -> Option<Vec<usize>> {
        let others: Vec<(usize, &Self)> = others.collect();
        let found = fewest::of(&self.ports, &self.pieces(&others, false)?);
        if found.len() < 2 {
            // Nothing is covered by nothing, which is no other rule's doing.
            return (!found.is_empty()).then_some(found);
        }
        // What matches part of an atom only may make others needless.
        let fine = self.pieces(&others, true);
        Some(fine.map_or(found, |fine| fewest::of(&self.ports, &fine)))
    }

    /// What covers each piece of this, as coarse as possible or as `fine`; `None` if something is left
    /// that nothing covers.
    fn pieces<'m>(
        &self,
        others: &[(usize, &'m Self)],
        fine: bool,
    ) -> Option<Vec<Vec<(usize, &'m Ports)>>> {
        let complete = |atom: &Atom| {
            let covering = covering(atom, others);
            let complete = self.ports.left_by(&covering).is_empty();
            complete.then_some(covering)
        };
        let mut pieces = Vec::new();
        for atom in &self.atoms {
            let whole = complete(atom);
            let cut = fine || whole.is_none();
            match cut.then(|| pieces::of(atom, others)).flatten() {
                Some(small) => {
                    for piece in &small {
                        pieces.push(complete(piece)?);
                    }
                }
                None => pieces.push(whole?),
            }
        }
        Some(pieces)
    }

    /// Whether some traffic is certainly matched by both; selectors that merely could meet do not count.
    pub(super) fn meets(&self, that: &Self) -> bool {
        let atoms = |a: &Atom, b: &Atom| {
            a.covers(b)
                || b.covers(a)
                || match (a, b) {
                    (Atom::Block(a), Atom::Block(b)) => overlap(&a.cidr, &b.cidr),
                    _ => false,
                }
        };
        self.ports.meets(&that.ports)
            && self
                .atoms
                .iter()
                .any(|a| that.atoms.iter().any(|b| atoms(a, b)))
    }
}

/// Whether every pod `narrow` selects is selected by `wide`.
pub(super) fn subject_implies(narrow: &Subject, wide: &Subject) -> bool {
    match (narrow, wide) {
        (Subject::Nothing, _) => true,
        (_, Subject::Nothing) => false,
        (
            Subject::Pods { namespaces, pods },
            Subject::Pods {
                namespaces: wide_namespaces,
                pods: wide_pods,
            },
        ) => selector_implies(namespaces, wide_namespaces) && selector_implies(pods, wide_pods),
    }
}

/// Whether every pod `narrow` selects is selected by `wide`.
pub(super) fn selection_implies(narrow: &Selection, wide: &Selection) -> bool {
    match (narrow, wide) {
        (Selection::Nothing, _) => true,
        (_, Selection::Nothing) => false,
        (Selection::Matching(narrow), Selection::Matching(wide)) => selector_implies(narrow, wide),
    }
}

/// The namespace of a policy, by its name and the labels it has.
fn own_namespace(name: &Arc<str>, snapshot: &Snapshot) -> Selector {
    let is = |key: &Arc<str>, value: &Arc<str>| Requirement {
        key: key.clone(),
        operator: Operator::In,
        values: vec![value.clone()],
    };
    let mut requirements = vec![is(&NAMESPACE_NAME_LABEL.into(), name)];
    if let Some(namespace) = snapshot.namespaces.get(name) {
        requirements.extend(namespace.labels.0.iter().map(|(key, value)| is(key, value)));
    }
    Selector::new(requirements)
}

fn everything() -> Ports {
    Ports {
        fixed: PortSet::uniform(true),
        names: BTreeSet::new(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Labels;

    fn requirement() -> impl Strategy<Value = Requirement> {
        let key = prop::sample::select(vec!["a", "b"]);
        let values = prop::sample::subsequence(vec!["x", "y", "z"], 1..3);
        let operator = prop::sample::select(vec![
            Operator::In,
            Operator::NotIn,
            Operator::Exists,
            Operator::DoesNotExist,
        ]);
        (key, operator, values).prop_map(|(key, operator, values)| Requirement {
            key: key.into(),
            operator,
            values: match operator {
                Operator::In | Operator::NotIn => values.into_iter().map(Arc::from).collect(),
                Operator::Exists | Operator::DoesNotExist => Vec::new(),
            },
        })
    }

    fn selector() -> impl Strategy<Value = Selector> {
        prop::collection::vec(requirement(), 0..3).prop_map(Selector::new)
    }

    /// Every assignment of the two keys, absent included.
    fn worlds() -> Vec<Labels> {
        let values = [None, Some("x"), Some("y"), Some("z"), Some("w")];
        let mut worlds = Vec::new();
        for a in values {
            for b in values {
                let pairs = [("a", a), ("b", b)];
                worlds.push(
                    pairs
                        .into_iter()
                        .filter_map(|(k, v)| Some((k, v?)))
                        .collect(),
                );
            }
        }
        worlds
    }

    proptest! {
        #[test]
        fn an_implication_holds_for_every_label_set(narrow in selector(), wide in selector()) {
            if selector_implies(&narrow, &wide) {
                for labels in worlds() {
                    prop_assert!(!narrow.matches(&labels) || wide.matches(&labels));
                }
            }
        }
    }
}
