// SPDX-License-Identifier: Apache-2.0
//! What are the answers for every pair of many ends? What pairs have in common is found out once.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    rc::Rc,
};

use policy_compiler::{
    model::{Direction, Family},
    partial::{Evaluator, Grid, Party},
    portmap::PortSet,
};

use super::{Cell, Families, Inquiry, Told, ask, told_apart};
use crate::flow::{Group, PortQuery};

/// Classes of ends that are alike, asked about pair by pair, in every family.
pub struct Many<'a, 's> {
    evaluator: &'a Evaluator<'s>,
    ports: &'a PortQuery,
    /// Of each class one member, or two.
    ends: Vec<Group>,
    /// By class: its first member, and the one that it meets inside the class.
    members: Vec<[usize; 2]>,
    /// By end: the families it can be met in.
    families: Vec<Families>,
    /// By end: the number of what is asked about toward it.
    asked: Vec<u32>,
    questions: Numbered<PortSet>,
    views: BTreeMap<Option<Family>, View>,
    told: Numbered<Told>,
    /// By what is asked about and what is said.
    kinds: HashMap<(u32, Vec<Part>), Kind>,
}

/// Pairs of one kind have the same answer, but for the names of the ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind(usize);

/// What is said of a pair in one family: numbers of [`Told`] and of what is asked about.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Part {
    family: Option<Family>,
    told: [u32; 2],
    asked: u32,
}

/// The ends as one family sees them.
struct View {
    parties: Vec<Party>,
    grid: Grid,
    /// By end, for each direction: whether its rules name blocks.
    names_blocks: Vec<[bool; 2]>,
    /// The ends if blocks did not match pods, or did, whichever is not assumed; if a rule names blocks.
    otherwise: Option<(Vec<Party>, Grid)>,
    known: HashMap<Role, u32>,
}

/// What plays a part in one direction of a pair.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Role {
    direction: Direction,
    alike: Option<(usize, u32)>,
    alike_otherwise: Option<(usize, u32)>,
    asked: u32,
}

impl<'a, 's> Many<'a, 's> {
    /// Nothing is asked yet. Classes, whose members are also asked about the same `ports`, are called by
    /// their place.
    pub fn new(evaluator: &'a Evaluator<'s>, classes: &[Vec<Group>], ports: &'a PortQuery) -> Self {
        let mut ends = Vec::new();
        let members = classes.iter().map(|class| {
            let first = ends.len();
            ends.extend(class.iter().take(2).cloned());
            [first, ends.len().saturating_sub(1).max(first)]
        });
        let members = members.collect();
        let mut questions = Numbered::default();
        let toward = |end: &Group| questions.number(end.asked(evaluator.snapshot(), ports));
        Self {
            asked: ends.iter().map(toward).collect(),
            questions,
            families: ends
                .iter()
                .map(|end| Families::of(evaluator, &end.endpoint))
                .collect(),
            views: BTreeMap::new(),
            told: Numbered::default(),
            kinds: HashMap::new(),
            evaluator,
            members,
            ports,
            ends,
        }
    }

    /// A member of one class and a member of another; two of the same class, if it has two.
    fn pair(&self, from: usize, to: usize) -> Option<(usize, usize)> {
        let [src, _] = *self.members.get(from)?;
        let [first, other] = *self.members.get(to)?;
        Some((src, if from == to { other } else { first }))
    }

    /// What kind of pair a member of one class and a member of another make; `None` if the answer names
    /// them, because facts about them are missing, or if both are one pod.
    pub fn kind(&mut self, from: usize, to: usize) -> Option<Kind> {
        let (src, dst) = self.pair(from, to)?;
        let parts = self.parts(src, dst)?;
        let mut told = parts.iter().flat_map(|part| part.told);
        let nameless = told.all(|number| self.told.get(number).is_some_and(Told::is_nameless));
        let next = Kind(self.kinds.len());
        let asked = *self.asked.get(dst)?;
        nameless.then(|| *self.kinds.entry((asked, parts)).or_insert(next))
    }

    /// What [`ask`] says of a member of one class and a member of another.
    pub fn cells(&mut self, from: usize, to: usize) -> Vec<Cell> {
        let Some((src, dst)) = self.pair(from, to) else {
            return Vec::new();
        };
        let parts = self.parts(src, dst);
        let (Some(source), Some(destination)) = (self.ends.get(src), self.ends.get(dst)) else {
            return Vec::new();
        };
        let Some(parts) = parts else {
            let inquiry = Inquiry {
                ports: self.ports,
                family: None,
                via_service: false,
                explain: false,
            };
            return ask(self.evaluator, source, destination, &inquiry);
        };
        if parts.is_empty() {
            let asked = destination.asked(self.evaluator.snapshot(), self.ports);
            return vec![Cell::apart(source, destination, None, &asked)];
        }
        let cells = parts.iter().filter_map(|part| {
            let view = self.views.get(&part.family)?;
            let [egress, ingress] = part.told.map(|number| self.told.get(number));
            Some(Cell::of(
                self.evaluator,
                [source, destination],
                [view.parties.get(src)?, view.parties.get(dst)?],
                part.family,
                self.questions.get(part.asked)?,
                view.grid.through(view.grid.pair(src, dst)),
                [egress?, ingress?],
            ))
        });
        told_apart(cells.collect(), None)
    }

    /// What is said of a pair, family by family, of which there may be none; `None` if both ends are one
    /// pod.
    fn parts(&mut self, src: usize, dst: usize) -> Option<Vec<Part>> {
        let families = self.families.get(src)?;
        let families = families.in_common(self.families.get(dst)?);
        let asked = *self.asked.get(dst)?;
        let ports = self.questions.get(asked)?;
        let mut parts = Vec::with_capacity(families.len());
        for family in families {
            let view = self
                .views
                .entry(family)
                .or_insert_with(|| View::new(self.evaluator, &self.ends, family));
            if view.is_one_pod(src, dst) {
                return None;
            }
            let mut told = [0; 2];
            for (direction, told) in Direction::BOTH.into_iter().zip(&mut told) {
                let role = view.role(direction, src, dst, asked);
                *told = if let Some(known) = view.known.get(&role) {
                    *known
                } else {
                    let fresh = view.tell(self.evaluator, direction, src, dst, ports)?;
                    let number = self.told.number(fresh);
                    view.known.insert(role, number);
                    number
                };
            }
            parts.push(Part {
                family,
                told,
                asked,
            });
        }
        Some(parts)
    }
}

impl View {
    fn new(evaluator: &Evaluator<'_>, ends: &[Group], family: Option<Family>) -> Self {
        let gather = |party: &dyn Fn(&Group) -> Party| {
            let parties: Vec<Party> = ends.iter().map(party).collect();
            let grid = evaluator.grid(&parties.iter().collect::<Vec<_>>());
            (parties, grid)
        };
        let (parties, grid) = gather(&|end| evaluator.party(&end.endpoint, family));
        let names_blocks: Vec<[bool; 2]> = parties
            .iter()
            .map(|end| {
                Direction::BOTH.map(|way| evaluator.leans_on(way, end, end).blocks_match_pods)
            })
            .collect();
        let otherwise = names_blocks
            .iter()
            .any(|names| names.contains(&true))
            .then(|| gather(&|end| evaluator.party_otherwise(&end.endpoint, family)));
        Self {
            parties,
            grid,
            names_blocks,
            otherwise,
            known: HashMap::new(),
        }
    }

    fn is_one_pod(&self, src: usize, dst: usize) -> bool {
        let pod = |end: usize| self.parties.get(end).and_then(Party::pod);
        match (pod(src), pod(dst)) {
            (Some(source), Some(destination)) => source.key == destination.key,
            (None, _) | (_, None) => false,
        }
    }

    fn role(&self, direction: Direction, src: usize, dst: usize, asked: u32) -> Role {
        let (subject, way) = match direction {
            Direction::Egress => (src, 0),
            Direction::Ingress => (dst, 1),
        };
        let alike = |grid: &Grid| grid.alike(src, dst).get(way).copied().flatten();
        let names_blocks = self.names_blocks.get(subject);
        let names_blocks = names_blocks.is_some_and(|names| names.get(way) == Some(&true));
        let otherwise = self.otherwise.as_ref().filter(|_| names_blocks);
        Role {
            direction,
            alike: alike(&self.grid),
            alike_otherwise: otherwise.and_then(|(_, grid)| alike(grid)),
            asked,
        }
    }

    /// What one direction says of a pair.
    fn tell(
        &self,
        evaluator: &Evaluator<'_>,
        direction: Direction,
        src: usize,
        dst: usize,
        asked: &PortSet,
    ) -> Option<Told> {
        let (subject, number) = match direction {
            Direction::Egress => (src, dst),
            Direction::Ingress => (dst, src),
        };
        let (subject, peer) = (self.parties.get(subject)?, self.parties.get(number)?);
        let outcomes = evaluator.direction(direction, subject, peer, false);
        let otherwise = || {
            let parties = self.otherwise.as_ref().map(|(parties, _)| parties);
            let peer = parties.and_then(|parties| parties.get(number));
            // Without rules that name blocks there is nothing that could be otherwise.
            peer.map_or_else(
                || outcomes.clone(),
                |peer| evaluator.direction(direction, subject, peer, false),
            )
        };
        Some(Told::new(
            evaluator, direction, subject, peer, &outcomes, otherwise, asked,
        ))
    }
}

/// Values, each once.
struct Numbered<T> {
    list: Vec<Rc<T>>,
    numbers: HashMap<Rc<T>, u32>,
}

impl<T: Eq + Hash> Numbered<T> {
    fn number(&mut self, value: T) -> u32 {
        if let Some(number) = self.numbers.get(&value) {
            return *number;
        }
        let number = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        let value = Rc::new(value);
        self.list.push(value.clone());
        self.numbers.insert(value, number);
        number
    }

    fn get(&self, number: u32) -> Option<&T> {
        self.list.get(number as usize).map(Rc::as_ref)
    }
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self {
            list: Vec::new(),
            numbers: HashMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell as Counter;

    use policy_compiler::{
        Snapshot,
        model::Pod,
        partial::{Assumptions, Doubt, Extent},
        strategies::{self, Settings},
        verdict::Endpoint,
    };
    use proptest::{
        collection::vec,
        prelude::*,
        test_runner::{Config, TestRunner},
    };

    use super::{super::Word, *};
    use crate::command::matrix;

    /// The cluster without the addresses and nodes of some pods.
    fn forgetful(snapshot: &Snapshot, forget: &[u8]) -> Snapshot {
        let mut known = snapshot.clone();
        let live = snapshot
            .pods
            .values()
            .filter(|pod| !pod.phase.is_finished());
        for (pod, forget) in live.zip(forget.iter().cycle()) {
            let mut pod = Pod::clone(pod);
            if forget & 1 == 1 {
                pod.addresses.clear();
            }
            if forget & 2 == 2 {
                pod.node = None;
            }
            known.insert_pod(pod);
        }
        known
    }

    /// Pods, nodes and the ranges of the internet, by what tells them apart.
    fn classes(evaluator: &Evaluator<'_>, ports: &PortQuery) -> Vec<Vec<Group>> {
        let nodes = evaluator.snapshot().nodes.keys().cloned();
        let mut ends = matrix::endpoints(evaluator);
        ends.extend(nodes.map(Endpoint::Node));
        let alike = matrix::alike(evaluator, &ends, ports).into_iter();
        let outside = crate::flow::internet(evaluator.snapshot()).into_iter();
        alike
            .map(|class| class.into_iter().map(Group::of).collect())
            .chain(outside.map(|range| vec![range]))
            .collect()
    }

    fn nameless(mut cells: Vec<Cell>) -> String {
        for cell in &mut cells {
            cell.src.clear();
            cell.dst.clear();
        }
        format!("{cells:?}")
    }

    #[test]
    fn pairs_are_told_as_if_asked_about_one_by_one() {
        let mut runner = TestRunner::new(Config {
            failure_persistence: None,
            ..Config::with_cases(120)
        });
        let words: [Counter<u32>; 4] = Default::default();
        let (shared, leaning) = (Counter::new(0), Counter::new(0));
        let clusters = (
            strategies::snapshot(Settings::crowded()),
            vec(0u8..8, 5),
            any::<[bool; 3]>(),
        );
        let outcome = runner.run(
            &clusters,
            |(snapshot, forget, [named, doubted, matching])| {
                let snapshot = forgetful(&snapshot, &forget);
                let doubted = snapshot
                    .network_policies
                    .values()
                    .next()
                    .filter(|_| doubted);
                let doubts = doubted.map(|policy| Doubt {
                    policy: policy.policy_ref(),
                    extent: Extent::Whole,
                    why: "illegible".to_owned(),
                    at: None,
                });
                let assumptions = Assumptions {
                    blocks_match_pods: matching,
                };
                let evaluator =
                    Evaluator::new(&snapshot, assumptions, doubts.into_iter().collect());
                let ports: PortQuery = if named {
                    "web".parse().unwrap()
                } else {
                    PortQuery::All
                };
                let inquiry = Inquiry {
                    ports: &ports,
                    family: None,
                    via_service: false,
                    explain: false,
                };
                let classes = classes(&evaluator, &ports);
                let mut many = Many::new(&evaluator, &classes, &ports);
                let mut kinds: HashMap<Kind, String> = HashMap::new();
                for (from, sources) in classes.iter().enumerate() {
                    for (to, destinations) in classes.iter().enumerate() {
                        let other = usize::from(from == to && destinations.len() > 1);
                        let alone = ask(&evaluator, &sources[0], &destinations[other], &inquiry);
                        let cells = many.cells(from, to);
                        prop_assert_eq!(format!("{cells:?}"), format!("{alone:?}"));
                        for cell in &cells {
                            let count = &words[cell.word() as usize];
                            count.set(count.get() + 1);
                            leaning.set(leaning.get() + cell.assumptions.len());
                        }
                        let Some(kind) = many.kind(from, to) else {
                            continue;
                        };
                        shared.set(shared.get() + u32::from(kinds.contains_key(&kind)));
                        let expected = kinds.entry(kind).or_insert_with(|| nameless(cells)).clone();
                        for src in sources {
                            for dst in destinations {
                                if src.name != dst.name {
                                    let cells = ask(&evaluator, src, dst, &inquiry);
                                    prop_assert_eq!(&nameless(cells), &expected);
                                }
                            }
                        }
                    }
                }
                Ok(())
            },
        );
        outcome.unwrap();
        for word in [Word::Allowed, Word::Denied, Word::Partial, Word::Unknown] {
            let count = words[word as usize].get();
            assert!(count > 500, "{word:?} came up {count} times");
        }
        assert!(
            shared.get() > 5_000,
            "{} pairs were of a kind",
            shared.get()
        );
        assert!(leaning.get() > 200, "{} cells leaned", leaning.get());
    }
}
