// SPDX-License-Identifier: Apache-2.0
//! What gets through between any two of many ends? The rules of an end are matched once for all peers
//! that they do not tell apart.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Outcome, Tri,
    decide::is_own_node,
    index::{Evaluator, TermId},
    party::{Identity, Party, Side},
};
use crate::{
    compile::hash::FastMap,
    model::{ContainerPort, Direction, Protocol},
    portmap::{PortMap, PortSet},
    verdict::Verdict,
};

/// The verdict of every protocol and port, where it is definite.
pub type Verdicts = PortMap<Option<Verdict>>;

/// Both directions between every two of some ends, which are numbered in the order they were given.
///
/// Costs as much as the rules of each different [`Side`] match ends, not as the square of the ends; only
/// the numbers of partitions are kept for every pair.
#[derive(Debug)]
pub struct Grid {
    partitions: Vec<Verdicts>,
    egress: Table,
    ingress: Table,
}

/// One direction: subjects of the same role share a row.
#[derive(Debug)]
struct Table {
    role_of: Vec<usize>,
    rows: Vec<Row>,
}

/// What the subjects of one role say of every end.
#[derive(Debug)]
struct Row {
    /// By peer: a group of ends that the rules do not tell apart.
    group_of: Vec<u32>,
    /// By group: the number of a partition.
    answers: Vec<u32>,
}

impl Table {
    fn row(&self, subject: usize) -> Option<(usize, &Row)> {
        let role = *self.role_of.get(subject)?;
        Some((role, self.rows.get(role)?))
    }

    fn at(&self, subject: usize, peer: usize) -> Option<u32> {
        let (_, row) = self.row(subject)?;
        let group = *row.group_of.get(peer)?;
        row.answers.get(group as usize).copied()
    }

    fn alike(&self, subject: usize, peer: usize) -> Option<(usize, u32)> {
        let (role, row) = self.row(subject)?;
        Some((role, *row.group_of.get(peer)?))
    }
}

/// Two numbers for the source's side and two for the destination's. Where those of a side are equal, the
/// same rules decide in the same way, whatever the facts that are missing turn out to be.
pub type Alike = [Option<(usize, u32)>; 2];

impl Grid {
    /// The partitions of the source's and the destination's side, by number. An end paired with itself,
    /// or with another name of the same pod, stands for another of its kind, as a second replica is.
    pub fn pair(&self, source: usize, destination: usize) -> (u32, u32) {
        let (egress, ingress) = (
            self.egress.at(source, destination),
            self.ingress.at(destination, source),
        );
        (egress.unwrap_or_default(), ingress.unwrap_or_default())
    }

    /// What all that plays a part for a pair of ends is numbered.
    pub fn alike(&self, source: usize, destination: usize) -> Alike {
        [
            self.egress.alike(source, destination),
            self.ingress.alike(destination, source),
        ]
    }

    /// What certainly gets through if the two sides say this, and what missing facts decide.
    pub fn through(&self, (egress, ingress): (u32, u32)) -> (PortSet, PortSet) {
        let of = |number: u32| self.partitions.get(number as usize);
        let (Some(egress), Some(ingress)) = (of(egress), of(ingress)) else {
            return (PortSet::uniform(false), PortSet::uniform(false));
        };
        let verdicts = egress.zip(ingress, |egress, ingress| both(*egress, *ingress));
        (
            verdicts.map(|verdict| *verdict == Some(Verdict::Allow)),
            verdicts.map(Option::is_none),
        )
    }
}

/// The verdict of a connection whose two sides have these.
pub(crate) fn both(egress: Option<Verdict>, ingress: Option<Verdict>) -> Option<Verdict> {
    match (egress, ingress) {
        (Some(Verdict::Deny), _) | (_, Some(Verdict::Deny)) => Some(Verdict::Deny),
        (Some(Verdict::Allow), Some(Verdict::Allow)) => Some(Verdict::Allow),
        (None, _) | (_, None) => None,
    }
}

impl Evaluator<'_> {
    /// Both directions between every two of `ends`.
    pub fn grid(&self, ends: &[&Party]) -> Grid {
        let crowd = Crowd::of(self, ends);
        let mut partitions = Partitions::default();
        let egress = self.table(Direction::Egress, &crowd, &mut partitions);
        let ingress = self.table(Direction::Ingress, &crowd, &mut partitions);
        Grid {
            partitions: partitions.list,
            egress,
            ingress,
        }
    }

    fn table(&self, direction: Direction, crowd: &Crowd<'_>, partitions: &mut Partitions) -> Table {
        let mut roles: BTreeMap<Role<'_>, usize> = BTreeMap::new();
        let mut table = Table {
            role_of: Vec::with_capacity(crowd.ends.len()),
            rows: Vec::new(),
        };
        for (subject, own_ports) in crowd.ends.iter().zip(&crowd.ports) {
            let names_ports = self.names_ports(subject, direction);
            let role = Role {
                side: subject.side(direction),
                kind: subject.kind(),
                node: subject
                    .pod()
                    .filter(|_| crowd.has_nodes)
                    .and_then(|pod| pod.node.as_ref()),
                ports: (direction == Direction::Ingress && names_ports).then_some(*own_ports),
            };
            let next = table.rows.len();
            let role = *roles.entry(role).or_insert(next);
            if role == next {
                let row = self.row(direction, subject, crowd, partitions);
                table.rows.push(row);
            }
            table.role_of.push(role);
        }
        table
    }

    /// The partitions that one subject has for each end.
    fn row(
        &self,
        direction: Direction,
        subject: &Party,
        crowd: &Crowd<'_>,
        partitions: &mut Partitions,
    ) -> Row {
        let names_ports = self.names_ports(subject, direction);
        let mut groups = Groups::new(&crowd.kinds);
        for term in self.terms_of(subject, direction) {
            let matching = crowd.matching.get(term.0 as usize);
            groups.split(matching.into_iter().flatten().copied());
        }
        if direction == Direction::Egress && names_ports {
            groups.split((0..).zip(crowd.ports.iter().copied()));
        }
        if crowd.has_nodes {
            let ends = crowd.ends.iter();
            let own = ends.map(|peer| match is_own_node(subject, peer) {
                Tri::No => 0,
                Tri::Maybe(_) => 1,
                Tri::Yes => 2,
            });
            groups.split((0..).zip(own));
        }
        let mut answers: Vec<Option<u32>> = vec![None; groups.count as usize];
        for (peer, group) in crowd.ends.iter().zip(&groups.group_of) {
            if let Some(answer @ None) = answers.get_mut(*group as usize) {
                *answer = Some(partitions.number(self.verdicts(direction, subject, peer)));
            }
        }
        Row {
            // A group that everybody left says nothing.
            answers: answers.into_iter().map(Option::unwrap_or_default).collect(),
            group_of: groups.group_of,
        }
    }

    fn verdicts(&self, direction: Direction, subject: &Party, peer: &Party) -> Verdicts {
        let same = |peer: &Party| match (subject.pod(), peer.pod()) {
            (Some(subject), Some(peer)) => subject.key == peer.key,
            (None, _) | (_, None) => false,
        };
        let sibling;
        let peer = if same(peer) {
            sibling = peer.sibling();
            &sibling
        } else {
            peer
        };
        let outcomes = self.direction(direction, subject, peer, false);
        outcomes.map(Outcome::verdict)
    }

    fn terms_of(&self, subject: &Party, direction: Direction) -> BTreeSet<TermId> {
        let rules = subject.rules(direction);
        rules
            .filter_map(|rule| self.rule(rule).peers.as_ref())
            .flatten()
            .copied()
            .collect()
    }

    fn names_ports(&self, subject: &Party, direction: Direction) -> bool {
        let mut rules = subject.rules(direction);
        rules.any(|rule| !self.rule(rule).ports.names.is_empty())
    }
}

/// What of a subject plays a part in one direction.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Role<'p> {
    side: &'p Side,
    kind: u8,
    /// The one the subject runs on, if that is known and some peer is a node.
    node: Option<&'p Arc<str>>,
    /// Where rules name ports of the subject: the number of what it declares.
    ports: Option<u32>,
}

/// Many ends, by what rules see of them as peers.
struct Crowd<'p> {
    ends: &'p [&'p Party],
    /// By term: the ends that match it, and 1 if they only may.
    matching: Vec<Vec<(usize, u32)>>,
    /// Equal for ends that declare the same ports under names that rules use.
    ports: Vec<u32>,
    /// By end: [`Party::kind`].
    kinds: Vec<u32>,
    has_nodes: bool,
}

impl<'p> Crowd<'p> {
    fn of(evaluator: &'p Evaluator<'_>, ends: &'p [&'p Party]) -> Self {
        let mut matching = vec![Vec::new(); evaluator.terms.len()];
        for (number, end) in ends.iter().enumerate() {
            let surely = end.matches.ones().map(|term| (term, 0));
            let perhaps = end.may_match.ones().map(|term| (term, 1));
            for (term, holds) in surely.chain(perhaps) {
                if let Some(of_term) = matching.get_mut(term) {
                    of_term.push((number, holds));
                }
            }
        }
        let mut known: BTreeMap<(bool, BTreeSet<DeclaredPort<'_>>), u32> = BTreeMap::new();
        let ports = ends.iter().map(|end| {
            let declared = end.pod().into_iter().flat_map(|pod| pod.ports.iter());
            let declared = declared.filter(|port| evaluator.is_used_name(port));
            let declared = declared.map(|port| (port.name.as_ref(), port.protocol, port.number));
            let next = u32::try_from(known.len()).unwrap_or(u32::MAX);
            let declared = (end.unknown.ports, declared.collect());
            *known.entry(declared).or_insert(next)
        });
        Self {
            matching,
            ports: ports.collect(),
            kinds: ends.iter().map(|end| u32::from(end.kind())).collect(),
            has_nodes: ends
                .iter()
                .any(|end| matches!(end.identity, Identity::Node(_)) || end.unknown.standing),
            ends,
        }
    }
}

type DeclaredPort<'p> = (Option<&'p Arc<str>>, Protocol, u16);

impl Evaluator<'_> {
    /// Whether some rule calls a port by this port's name.
    pub(super) fn is_used_name(&self, port: &ContainerPort) -> bool {
        let name = port.name.as_ref();
        name.is_some_and(|name| self.port_names.binary_search(name).is_ok())
    }
}

/// Ends in groups, which are split until no rule tells members apart.
struct Groups {
    group_of: Vec<u32>,
    count: u32,
}

impl Groups {
    fn new(kinds: &[u32]) -> Self {
        Self {
            group_of: kinds.to_vec(),
            count: kinds.iter().max().map_or(0, |greatest| greatest + 1),
        }
    }

    /// Moves the ends that are named to groups of their own, by their group and mark so far.
    fn split(&mut self, marks: impl Iterator<Item = (usize, u32)>) {
        let mut moved: FastMap<(u32, u32), u32> = FastMap::default();
        for (end, mark) in marks {
            let Some(group) = self.group_of.get_mut(end) else {
                continue;
            };
            let next = self.count;
            *group = *moved.entry((*group, mark)).or_insert(next);
            if *group == next {
                self.count += 1;
            }
        }
    }
}

/// Partitions, each once.
#[derive(Default)]
struct Partitions {
    list: Vec<Verdicts>,
    numbers: FastMap<Verdicts, u32>,
}

impl Partitions {
    fn number(&mut self, verdicts: Verdicts) -> u32 {
        let next = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        let number = *self.numbers.entry(verdicts.clone()).or_insert(next);
        if number == next {
            self.list.push(verdicts);
        }
        number
    }
}
