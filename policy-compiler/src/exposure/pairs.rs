// SPDX-License-Identifier: Apache-2.0
//! What may one end open to each of several classes, and why? What many ends have in common is found out
//! once.

use std::{cell::RefCell, collections::BTreeSet, rc::Rc};

use super::{Because, Reach, decisions};
use crate::{
    compile::hash::FastMap,
    model::Direction,
    partial::{Evaluator, Grid, Party, Verdicts},
    portmap::PortSet,
    verdict::Verdict,
};

/// The number of an [`Answer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct AnswerId(u32);

/// What some may open, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Answer {
    pub(super) reach: Rc<Reach>,
    pub(super) because: Rc<[Rc<Because>]>,
}

/// Answers for pairs of ends, which are numbered as in the grids.
#[derive(Debug)]
pub(super) struct Pairs {
    /// By family.
    grids: Vec<Grid>,
    known: RefCell<Known>,
}

/// What was found out so far, each once.
#[derive(Debug, Default)]
struct Known {
    roles: FastMap<(usize, Direction, usize, u32), u32>,
    said: Numbered<Said>,
    by_parts: FastMap<Vec<Option<Part>>, AnswerId>,
    answers: Numbered<Answer>,
    because: Numbered<Because>,
}

/// What the source's side and the target's say in one family: numbers of [`Said`].
type Part = (u32, u32);

/// What one side says.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Said {
    verdicts: Verdicts,
    because: Vec<Rc<Because>>,
}

/// Two ends as one family sees them; `None` if they cannot meet in it.
pub(super) type Meeting<'p> = Option<(&'p Party, &'p Party)>;

impl Pairs {
    /// Nothing is asked yet.
    pub(super) fn new(grids: Vec<Grid>) -> Self {
        Self {
            grids,
            known: RefCell::default(),
        }
    }

    /// What an answer says.
    pub(super) fn answer(&self, id: AnswerId) -> Option<Rc<Answer>> {
        self.known.borrow().answers.get(id.0)
    }

    /// What `from` may open to all of some targets: their numbers, and how each meets it in every family.
    pub(super) fn ask(
        &self,
        evaluator: &Evaluator<'_>,
        from: usize,
        targets: &[(usize, Vec<Meeting<'_>>)],
    ) -> AnswerId {
        let mut known = self.known.borrow_mut();
        let mut parts = Vec::with_capacity(targets.len() * self.grids.len());
        for (to, meetings) in targets {
            for ((family, grid), meeting) in self.grids.iter().enumerate().zip(meetings) {
                parts.push(meeting.map(|(source, target)| {
                    let [egress, ingress] = grid.alike(from, *to);
                    let egress = egress.map(|(role, group)| (Direction::Egress, role, group));
                    let ingress = ingress.map(|(role, group)| (Direction::Ingress, role, group));
                    let mut say = |role: Option<(Direction, usize, u32)>, subject, peer| {
                        let (direction, role, group) = role?;
                        let key = (family, direction, role, group);
                        if let Some(number) = known.roles.get(&key) {
                            return Some(*number);
                        }
                        let number = known.say(evaluator, direction, subject, peer);
                        known.roles.insert(key, number);
                        Some(number)
                    };
                    (
                        say(egress, source, target).unwrap_or_default(),
                        say(ingress, target, source).unwrap_or_default(),
                    )
                }));
            }
        }
        if let Some(id) = known.by_parts.get(&parts) {
            return *id;
        }
        let mut is_nameless = true;
        let mut of_targets = Vec::with_capacity(targets.len());
        let mut rest = parts.as_slice();
        for (_, meetings) in targets {
            let (own, others) = rest.split_at(meetings.len().min(rest.len()));
            rest = others;
            let of_families: Vec<Reach> = own
                .iter()
                .zip(meetings)
                .filter_map(|(part, meeting)| {
                    let (part, (source, target)) = ((*part)?, (*meeting)?);
                    let (always, unknown) = known.through(part);
                    Some(if unknown.is_empty() {
                        Reach {
                            always,
                            ..Reach::nothing()
                        }
                    } else {
                        // The facts that are missing may be about these two.
                        is_nameless = false;
                        Reach::of(evaluator, source, target)
                    })
                })
                .collect();
            of_targets.push(Reach::merge(&of_families));
        }
        let first = parts.iter().flatten().next();
        let because = first.into_iter().flat_map(|(egress, ingress)| {
            let said = [egress, ingress].map(|number| known.said.get(*number));
            said.into_iter().flatten()
        });
        let because: Vec<Rc<Because>> = because.flat_map(|it| it.because.clone()).collect();
        let id = known.answer(Reach::merge(&of_targets), because);
        if is_nameless {
            known.by_parts.insert(parts, id);
        }
        id
    }

    /// What several answers have in common, and what only some of them say.
    pub(super) fn merged(&self, ids: &BTreeSet<AnswerId>) -> Reach {
        let answers: Vec<Rc<Answer>> = ids.iter().filter_map(|id| self.answer(*id)).collect();
        Reach::merge(answers.iter().map(|answer| &*answer.reach))
    }

    /// Keeps what was found out about others than the ends of the grids.
    pub(super) fn keep(&self, reach: Reach, because: Vec<Because>) -> AnswerId {
        let mut known = self.known.borrow_mut();
        let because = because.into_iter().map(|it| known.because.keep(it).1);
        let because: Vec<Rc<Because>> = because.collect();
        known.answer(reach, because)
    }
}

impl Known {
    fn say(
        &mut self,
        evaluator: &Evaluator<'_>,
        direction: Direction,
        subject: &Party,
        peer: &Party,
    ) -> u32 {
        let outcomes = evaluator.direction(direction, subject, peer, false);
        let because = decisions(evaluator, direction, subject, &outcomes);
        let because = because.into_iter().map(|it| self.because.keep(it).1);
        let said = Said {
            because: because.collect(),
            verdicts: outcomes.map(crate::partial::Outcome::verdict),
        };
        self.said.keep(said).0
    }

    /// What certainly gets through if the two sides say this, and what missing facts decide.
    fn through(&self, (egress, ingress): Part) -> (PortSet, PortSet) {
        let (Some(egress), Some(ingress)) = (self.said.get(egress), self.said.get(ingress)) else {
            return (PortSet::uniform(false), PortSet::uniform(false));
        };
        let verdicts = egress.verdicts.zip(&ingress.verdicts, |egress, ingress| {
            crate::partial::both(*egress, *ingress)
        });
        (
            verdicts.map(|verdict| *verdict == Some(Verdict::Allow)),
            verdicts.map(Option::is_none),
        )
    }

    fn answer(&mut self, reach: Reach, because: Vec<Rc<Because>>) -> AnswerId {
        let answer = Answer {
            reach: reach.into(),
            because: because.into(),
        };
        AnswerId(self.answers.keep(answer).0)
    }
}

/// Values, each once.
#[derive(Debug)]
struct Numbered<T> {
    list: Vec<Rc<T>>,
    numbers: FastMap<Rc<T>, u32>,
}

impl<T: Eq + std::hash::Hash> Numbered<T> {
    fn keep(&mut self, value: T) -> (u32, Rc<T>) {
        if let Some((known, number)) = self.numbers.get_key_value(&value) {
            return (*number, known.clone());
        }
        let number = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        let value = Rc::new(value);
        self.list.push(value.clone());
        self.numbers.insert(value.clone(), number);
        (number, value)
    }

    fn get(&self, number: u32) -> Option<Rc<T>> {
        self.list.get(number as usize).cloned()
    }
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self {
            list: Vec::new(),
            numbers: FastMap::default(),
        }
    }
}
