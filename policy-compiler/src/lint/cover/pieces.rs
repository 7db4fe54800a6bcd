// SPDX-License-Identifier: Apache-2.0
//! What does it take several rules to match? An atom, cut where other rules cut it.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use super::{Atom, Matched, overlap};
use crate::{
    model::{IpBlock, Operator, Requirement, Selector},
    ranges::{next, previous, subnets},
};

/// Pieces that an atom is cut into at most; beyond that nothing is proven.
const MOST: usize = 256;

/// Atoms that together match what `atom` matches, so small that one of `others` matches each of them as a
/// whole or, as far as can be seen, not at all. `None` where nothing is gained by cutting.
pub(super) fn of(atom: &Atom, others: &[(usize, &Matched)]) -> Option<Vec<Atom>> {
    match atom {
        Atom::Everything => None,
        Atom::Pods(namespaces, pods) => {
            let (namespaces, pods) = (values(namespaces)?, values(pods)?);
            let count = namespaces.len() * pods.len();
            if !(2..=MOST).contains(&count) {
                return None;
            }
            let pair = |namespaces: &Selector| {
                let namespaces = namespaces.clone();
                let atom = move |pods: &Selector| Atom::Pods(namespaces.clone(), pods.clone());
                pods.iter().map(atom).collect::<Vec<_>>()
            };
            Some(namespaces.iter().flat_map(pair).collect())
        }
        Atom::Nodes(nodes) => {
            let pieces = values(nodes)?;
            (pieces.len() > 1).then(|| pieces.into_iter().map(Atom::Nodes).collect())
        }
        Atom::Block(block) => blocks(block, others),
    }
}

/// A selector for each combination of values that a selector lists.
fn values(selector: &Selector) -> Option<Vec<Selector>> {
    let mut combinations: Vec<Vec<Requirement>> = vec![Vec::new()];
    for requirement in selector.requirements() {
        let ways: Vec<Requirement> = match requirement.operator {
            Operator::In => {
                let one = |value| Requirement {
                    values: vec![value],
                    ..requirement.clone()
                };
                requirement.values.iter().cloned().map(one).collect()
            }
            Operator::NotIn | Operator::Exists | Operator::DoesNotExist => {
                vec![requirement.clone()]
            }
        };
        if combinations.len() * ways.len() > MOST {
            return None;
        }
        let with = |so_far: &Vec<Requirement>| {
            let so_far = so_far.clone();
            let add = move |way: &Requirement| [&so_far, std::slice::from_ref(way)].concat();
            ways.iter().map(add).collect::<Vec<_>>()
        };
        combinations = combinations.iter().flat_map(with).collect();
    }
    Some(combinations.into_iter().map(Selector::new).collect())
}

/// A block without its exceptions, cut where blocks of others and their exceptions begin and end.
fn blocks(block: &IpBlock, others: &[(usize, &Matched)]) -> Option<Vec<Atom>> {
    let known = others.iter().flat_map(|(_, other)| &other.atoms);
    let known = known.filter_map(|atom| match atom {
        Atom::Block(block) => Some(block),
        Atom::Everything | Atom::Pods(..) | Atom::Nodes(_) => None,
    });
    let known = known.filter(|other| overlap(&other.cidr, &block.cidr));
    let cuts = known.chain([block]);
    let cuts = cuts.flat_map(|block| [&block.cidr].into_iter().chain(&block.except));
    let within = |net: &&IpNet| block.cidr.contains(*net);
    let mut starts: BTreeSet<IpAddr> = BTreeSet::new();
    for net in cuts.filter(within) {
        starts.insert(net.network());
        starts.extend(next(net.broadcast()).filter(|next| block.cidr.contains(next)));
        if starts.len() > MOST {
            return None;
        }
    }
    let mut pieces = Vec::new();
    let mut ends = starts.iter().skip(1).copied().filter_map(previous);
    for start in &starts {
        let end = ends.next().unwrap_or_else(|| block.cidr.broadcast());
        if block.except.iter().any(|except| except.contains(start)) {
            continue;
        }
        pieces.extend(subnets(*start, end).into_iter().map(|cidr| {
            Atom::Block(IpBlock {
                cidr,
                except: Vec::new(),
            })
        }));
        if pieces.len() > MOST {
            return None;
        }
    }
    Some(pieces)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::{
        super::{Ports, everything},
        *,
    };
    use crate::{
        model::{Labels, PortRange, Protocol},
        portmap::PortSet,
    };

    /// Something that sends or receives.
    #[derive(Clone, Debug)]
    enum End {
        Pod(Labels),
        Address(IpAddr),
    }

    fn block(cidr: &str, except: &[&str]) -> Atom {
        let net = |text: &&str| text.parse().expect("a block");
        Atom::Block(IpBlock {
            cidr: net(&cidr),
            except: except.iter().map(net).collect(),
        })
    }

    fn pods(values: &[&'static str]) -> Atom {
        let values = values.iter().copied().map(Arc::from).collect();
        let requirement = Requirement {
            key: "app".into(),
            operator: Operator::In,
            values,
        };
        Atom::Pods(Selector::default(), Selector::new(vec![requirement]))
    }

    fn rule(atoms: Vec<Atom>, ports: Option<(u16, u16)>) -> Matched {
        let range = |(start, end)| (Protocol::Tcp, PortRange { start, end });
        let ports = ports.map_or_else(everything, |ports| Ports {
            fixed: PortSet::of([range(ports)]),
            names: BTreeSet::new(),
        });
        Matched { atoms, ports }
    }

    fn matches(rule: &Matched, end: &End, port: u16) -> bool {
        let atom = |atom: &Atom| match (atom, end) {
            (Atom::Everything, _) => true,
            (Atom::Pods(_, pods), End::Pod(labels)) => pods.matches(labels),
            (Atom::Block(block), End::Address(address)) => {
                let left_out = block.except.iter().any(|except| except.contains(address));
                block.cidr.contains(address) && !left_out
            }
            _ => false,
        };
        *rule.ports.fixed.at(Protocol::Tcp, port) && rule.atoms.iter().any(atom)
    }

    fn ends() -> Vec<End> {
        let pods = ["a", "b", "c"].map(|app| End::Pod([("app", app)].into_iter().collect()));
        let addresses = (0..16).map(|last| End::Address(IpAddr::from([10, 0, 0, last])));
        pods.into_iter().chain(addresses).collect()
    }

    fn some_rule() -> impl Strategy<Value = Matched> {
        let blocks = [
            block("10.0.0.0/28", &[]),
            block("10.0.0.0/28", &["10.0.0.4/30"]),
            block("10.0.0.0/29", &[]),
            block("10.0.0.8/29", &["10.0.0.8/32"]),
            block("10.0.0.4/30", &[]),
            block("10.0.0.8/31", &[]),
        ];
        let lists: [&[&str]; 5] = [&["a"], &["b"], &["a", "b"], &["b", "c"], &["a", "b", "c"]];
        let atoms: Vec<Atom> = lists.into_iter().map(pods).chain(blocks).collect();
        let atoms = prop::collection::vec(prop::sample::select(atoms), 1..3);
        let ports = prop::sample::select(vec![None, Some((1, 9)), Some((5, 20)), Some((10, 20))]);
        (atoms, ports).prop_map(|(atoms, ports)| rule(atoms, ports))
    }

    fn covering(rule: &Matched, others: &[Matched]) -> Option<Vec<usize>> {
        rule.covered_by(others.iter().enumerate())
    }

    #[test]
    fn halves_cover_a_block() {
        let halves =
            ["10.0.0.0/25", "10.0.0.128/25"].map(|half| rule(vec![block(half, &[])], None));
        let whole = rule(vec![block("10.0.0.0/24", &[])], None);
        assert_eq!(covering(&whole, &halves), Some(vec![0, 1]));
        assert_eq!(covering(&whole, &halves[..1]), None);
    }

    #[test]
    fn a_hole_is_filled_by_another_rule() {
        let others = [
            rule(vec![block("10.0.0.0/8", &["10.1.0.0/16"])], None),
            rule(vec![block("10.1.0.0/16", &[])], None),
        ];
        assert_eq!(
            covering(&rule(vec![block("10.0.0.0/15", &[])], None), &others),
            Some(vec![0, 1])
        );
    }

    #[test]
    fn values_are_covered_one_by_one() {
        let others = [pods(&["a"]), pods(&["c"]), pods(&["b"])].map(|one| rule(vec![one], None));
        let listed = rule(vec![pods(&["a", "b"])], None);
        assert_eq!(covering(&listed, &others), Some(vec![0, 2]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Brute force over everything the pools can tell apart. In these pools nothing but blocks and
        /// lists of values is cut, so a rule that is covered is always proven to be.
        #[test]
        fn a_covering_is_of_the_fewest_rules_that_cover(
            covered in some_rule(),
            others in prop::collection::vec(some_rule(), 1..6),
        ) {
            let found = covering(&covered, &others);
            let ends = ends();
            let by = |rules: &[usize]| {
                let flows = ends.iter().flat_map(|end| [1, 7, 10, 20, 21].map(|port| (end, port)));
                let mut flows = flows.filter(|(end, port)| matches(&covered, end, *port));
                flows.all(|(end, port)| rules.iter().any(|at| matches(&others[*at], end, port)))
            };
            let all: Vec<usize> = (0..others.len()).collect();
            prop_assert_eq!(found.is_some(), by(&all));
            let fewest = (0..1_u32 << others.len())
                .map(|set| all.iter().copied().filter(|at| set >> at & 1 == 1).collect::<Vec<_>>())
                .filter(|rules| by(rules))
                .map(|rules| rules.len())
                .min();
            prop_assert_eq!(found.as_ref().map(Vec::len), fewest);
            prop_assert!(found.is_none_or(|found| by(&found)));
        }
    }
}
