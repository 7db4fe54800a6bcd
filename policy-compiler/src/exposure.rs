// SPDX-License-Identifier: Apache-2.0
//! Who may reach a workload: in the world, in the cluster, and in pods and namespaces to come? And through
//! which Service, Ingress or Gateway?
//!
//! Two questions are kept apart. What policies admit is exact, over every protocol and port, for every
//! audience. Which [`Door`]s lead to the workload is a matter of Services and what stands in front of
//! them; of each door it is said whether policies let through what comes in by it, as the address or pod
//! that is on the wire behind the door. What is not known of that, such as the pods behind an Ingress
//! class, leaves the door's answer unknown unless every possibility has the same one.

mod alike;
mod doors;
mod future;
mod pairs;
mod reach;
mod ways;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
};

pub use doors::{Door, DoorKind};
pub use future::Newcomer;
pub use reach::{Passage, Reach};
pub use ways::{Hop, Way, Ways};

use crate::{
    compile::hash::FastMap,
    model::{Direction, Entrances, Family, PodKey},
    partial::{Evaluator, Outcome, Party},
    portmap::{PortMap, PortSet},
    ranges::{self, Range},
    symbolic::TooMany,
    verdict::{Decision, Endpoint},
};
use alike::{Alike, Stranger};
use future::Newcomers;
use pairs::{AnswerId, Pairs};

/// What can be asked about the exposure of the pods of one snapshot.
#[derive(Debug)]
pub struct Analysis<'a> {
    evaluator: &'a Evaluator<'a>,
    entrances: &'a Entrances,
    controllers: &'a [PodKey],
    families: Vec<Option<Family>>,
    classes: Vec<Alike>,
    class_of: BTreeMap<PodKey, usize>,
    /// The ranges of outside addresses that policies tell apart.
    world: Vec<(Range, Stranger)>,
    nodes: Vec<(Arc<str>, Stranger)>,
    /// What the classes, and behind them the ranges, may open to each class.
    pairs: Pairs,
    newcomers: Newcomers,
    seen: RefCell<FastMap<Target, Rc<Seen>>>,
}

/// The numbers of classes, and whether a single pod is meant.
type Target = (Vec<usize>, bool);

/// Everybody who may or may not reach a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposure {
    /// What does not depend on where replicas run and what is in front of them: workloads of the same
    /// classes share it.
    pub seen: Rc<Seen>,
    /// The network stacks of known nodes.
    pub nodes: Vec<Audience<Arc<str>>>,
    /// What leads to the workload.
    pub doors: Vec<Door>,
}

/// Who may or may not reach all workloads that are alike.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    /// Every address that is no pod, Service or node: numbers of [`Analysis::ranges`].
    pub world: Vec<Audience<usize>>,
    /// Every other pod. A pod is no audience of itself: nothing keeps it from itself (A57).
    pub cluster: Vec<Audience<Members>>,
    /// A pod for every way in which policies could treat pods that do not exist yet, in namespaces that
    /// exist and in those that do not.
    pub future: Result<Vec<Audience<Rc<Newcomer>>>, TooMany>,
}

/// Pods of a class, which has its number in [`Analysis::classes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Members {
    /// All of them.
    All(usize),
    /// All but the pod that is asked about.
    Others(usize),
}

impl Members {
    /// The number of the class.
    pub const fn class(self) -> usize {
        match self {
            Self::All(class) | Self::Others(class) => class,
        }
    }
}

/// Some who are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audience<W> {
    /// All of them, sorted.
    pub who: Vec<W>,
    /// What they may open to the workload.
    pub reach: Rc<Reach>,
    /// What decided, for the first of them and the first replica. Equal ones are one object for all
    /// questions to an [`Analysis`].
    pub because: Rc<[Rc<Because>]>,
}

/// What decided a part of one direction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Because {
    /// The source's side or the workload's.
    pub direction: Direction,
    /// The part.
    pub ports: PortSet,
    /// The decision.
    pub decision: Decision,
}

impl<'a> Analysis<'a> {
    /// Prepares for questions about pods of the evaluator's snapshot. `controllers` are the pods that
    /// serve Ingresses and Gateways, where that is known.
    pub fn new(
        evaluator: &'a Evaluator<'a>,
        entrances: &'a Entrances,
        controllers: &'a [PodKey],
    ) -> Self {
        let snapshot = evaluator.snapshot();
        let families = alike::families(snapshot);
        let classes = alike::classes(evaluator, &families);
        let numbered = classes.iter().enumerate();
        let class_of = numbered
            .flat_map(|(number, class)| class.members.iter().map(move |key| (key.clone(), number)))
            .collect();
        let stranger = |end: &Endpoint| Stranger::new(evaluator, &families, end);
        let world: Vec<(Range, Stranger)> = ranges::outside(&[snapshot])
            .into_iter()
            .map(|range| {
                let own = stranger(&Endpoint::Address(range.example));
                (range, own)
            })
            .collect();
        let nodes = snapshot.nodes.keys().map(|name| {
            let own = stranger(&Endpoint::Node(name.clone()));
            (name.clone(), own)
        });
        let nodes = nodes.collect();
        let seen_by = |family: usize| {
            let pods = classes
                .iter()
                .filter_map(|class| class.parties().nth(family));
            let outside = world
                .iter()
                .filter_map(|(_, stranger)| stranger.party(family));
            // INVARIANT: every end is seen by every family, so it has the same number in each.
            let ends: Vec<&Party> = pods.chain(outside).collect();
            evaluator.grid(&ends)
        };
        let grids = (0..families.len()).map(seen_by).collect();
        Self {
            pairs: Pairs::new(grids),
            newcomers: Newcomers::of(snapshot, evaluator.doubts()),
            seen: RefCell::default(),
            nodes,
            world,
            evaluator,
            entrances,
            controllers,
            families,
            classes,
            class_of,
        }
    }

    /// The members of every class, sorted: pods that policies do not tell apart.
    pub fn classes(&self) -> impl ExactSizeIterator<Item = &[PodKey]> {
        self.classes.iter().map(|class| class.members.as_slice())
    }

    /// The ranges of outside addresses that policies tell apart.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = &Range> {
        self.world.iter().map(|(range, _)| range)
    }

    /// The pods of a class.
    pub fn members(&self, class: usize) -> &[PodKey] {
        self.class(class).map_or(&[], |class| &class.members)
    }

    /// Who may reach the pods `replicas`, which are taken for one workload.
    pub fn exposure(&self, replicas: &[PodKey]) -> Exposure {
        let seen = self.seen(replicas);
        Exposure {
            nodes: self.node_audiences(replicas),
            doors: self.doors(replicas, Some(&seen.future)),
            seen,
        }
    }

    fn seen(&self, replicas: &[PodKey]) -> Rc<Seen> {
        let classes = self.classes_of(replicas);
        let single = match (replicas, classes.as_slice()) {
            ([_], [class]) => self
                .class(*class)
                .is_some_and(|it| !it.stands_for_replicas()),
            _ => false,
        };
        let key = (classes, single);
        if let Some(known) = self.seen.borrow().get(&key) {
            return known.clone();
        }
        let (classes, single) = &key;
        let seen = Rc::new(Seen {
            world: self.world_audiences(classes),
            cluster: self.pod_audiences(classes, *single),
            future: self.future(replicas),
        });
        self.seen.borrow_mut().insert(key, seen.clone());
        seen
    }

    /// The numbers of the classes that hold any of `replicas`.
    fn classes_of(&self, replicas: &[PodKey]) -> Vec<usize> {
        let found = replicas.iter().filter_map(|key| self.class_of.get(key));
        let mut found: Vec<usize> = found.copied().collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    fn class(&self, number: usize) -> Option<&Alike> {
        self.classes.get(number)
    }

    fn world_audiences(&self, targets: &[usize]) -> Vec<Audience<usize>> {
        let ranges = self.world.iter().enumerate();
        let asked = ranges.map(|(range, _)| (range, self.ask_range(range, targets)));
        self.together(asked)
    }

    /// What a range of outside addresses may open to several classes.
    fn ask_range(&self, range: usize, targets: &[usize]) -> AnswerId {
        let stranger = self.world.get(range).map(|(_, stranger)| stranger);
        let meetings = targets.iter().filter_map(|to| {
            let target = self.class(*to)?;
            Some((*to, stranger?.meetings(target.parties())))
        });
        let meetings: Vec<_> = meetings.collect();
        let end = self.classes.len() + range;
        self.pairs.ask(self.evaluator, end, &meetings)
    }

    fn node_audiences(&self, replicas: &[PodKey]) -> Vec<Audience<Arc<str>>> {
        // A pod is always reached from its own node, so here it matters where replicas run.
        let mut seen: BTreeMap<(usize, Option<&Arc<str>>), &PodKey> = BTreeMap::new();
        if !self.nodes.is_empty() {
            for key in replicas {
                let pod = self.evaluator.snapshot().pods.get(key);
                if let (Some(class), Some(pod)) = (self.class_of.get(key), pod) {
                    seen.entry((*class, pod.node.as_ref())).or_insert(key);
                }
            }
        }
        let targets: Vec<Vec<Party>> = seen
            .values()
            .map(|key| {
                let end = Endpoint::Pod((*key).clone());
                let families = self.families.iter();
                families
                    .map(|family| self.evaluator.party(&end, *family))
                    .collect()
            })
            .collect();
        let asked = self.nodes.iter().map(|(name, stranger)| {
            let found: Vec<Reach> = targets
                .iter()
                .map(|target| stranger.reach(self.evaluator, target))
                .collect();
            let mut met = targets.iter().flat_map(|target| stranger.meetings(target));
            let because = met.find_map(|meeting| {
                let (from, to) = meeting?;
                Some(because(self.evaluator, from, to))
            });
            let answer = self
                .pairs
                .keep(Reach::merge(&found), because.unwrap_or_default());
            (name.clone(), answer)
        });
        self.together(asked)
    }

    fn pod_audiences(&self, targets: &[usize], single: bool) -> Vec<Audience<Members>> {
        let asked = (0..self.classes.len()).filter_map(|from| {
            let who = if single && targets.contains(&from) {
                Members::Others(from)
            } else {
                Members::All(from)
            };
            Some((who, self.ask_pods(from, targets)?))
        });
        self.together(asked)
    }

    /// What the pods of a class may open to several classes; `None` for a pod to itself, which is all
    /// there is to ask of a class of one.
    fn ask_pods(&self, from: usize, targets: &[usize]) -> Option<AnswerId> {
        let source = self.class(from)?;
        let meetings = targets.iter().filter_map(|to| {
            let target = self.class(*to)?;
            let meetings = if from != *to {
                source.meetings(target)
            } else if source.has_others() {
                source.each_other()
            } else {
                return None;
            };
            Some((*to, meetings))
        });
        let meetings: Vec<_> = meetings.collect();
        let is_asked = !meetings.is_empty();
        is_asked.then(|| self.pairs.ask(self.evaluator, from, &meetings))
    }

    /// Those of whom the same is true as one audience.
    fn together<W>(&self, asked: impl IntoIterator<Item = (W, AnswerId)>) -> Vec<Audience<W>> {
        let mut audiences: Vec<Audience<W>> = Vec::new();
        let mut places: FastMap<AnswerId, usize> = FastMap::default();
        for (who, id) in asked {
            let next = audiences.len();
            let place = *places.entry(id).or_insert(next);
            if let Some(known) = audiences.get_mut(place) {
                known.who.push(who);
            } else if let Some(answer) = self.pairs.answer(id) {
                audiences.push(Audience {
                    who: vec![who],
                    reach: answer.reach.clone(),
                    because: answer.because.clone(),
                });
            }
        }
        audiences
    }

    /// What several answers have in common, and what only some of them say; `None` if there are none.
    fn merged(&self, ids: impl IntoIterator<Item = AnswerId>) -> Option<Reach> {
        let ids: BTreeSet<AnswerId> = ids.into_iter().collect();
        (!ids.is_empty()).then(|| self.pairs.merged(&ids))
    }
}

/// The distinct decisions of both directions.
fn because(evaluator: &Evaluator<'_>, source: &Party, target: &Party) -> Vec<Because> {
    let connection = evaluator.connection(source, target, false);
    let of = |direction, subject| {
        decisions(evaluator, direction, subject, connection.side(direction)).into_iter()
    };
    of(Direction::Egress, source)
        .chain(of(Direction::Ingress, target))
        .collect()
}

/// The distinct decisions of one direction.
fn decisions(
    evaluator: &Evaluator<'_>,
    direction: Direction,
    subject: &Party,
    map: &PortMap<Outcome>,
) -> Vec<Because> {
    let mut outcomes: Vec<&Outcome> = Vec::new();
    for (_, outcome) in map.runs() {
        if !outcomes.contains(&outcome) {
            outcomes.push(outcome);
        }
    }
    let because = outcomes.into_iter().filter_map(|outcome| {
        Some(Because {
            direction,
            ports: map.map(|at| at == outcome),
            decision: evaluator.decision(direction, subject, outcome)?,
        })
    });
    because.collect()
}
