// SPDX-License-Identifier: Apache-2.0
//! How can somebody from outside get to a workload that has no open door of its own? Through others that
//! have one: pod after pod, each taken over in turn.

use std::rc::Rc;

use super::{Analysis, DoorKind, Passage, Reach, pairs::AnswerId};
use crate::{
    compile::hash::FastMap,
    graph::{self, Connectivity},
    model::{PodKey, PortRange},
    portmap::PortSet,
    verdict::Endpoint,
};

/// Who can be reached from outside through others.
#[derive(Debug)]
pub struct Ways<'a> {
    analysis: &'a Analysis<'a>,
    /// What certainly gets through.
    certain: Reached,
    /// What may get through, as far as is known.
    possible: Reached,
}

/// From outside to every group.
#[derive(Debug)]
struct Reached {
    paths: Vec<Option<Vec<graph::Hop>>>,
    cut_points: Vec<Option<Vec<usize>>>,
}

impl Reached {
    fn outside(graph: &Connectivity) -> Self {
        Self {
            paths: graph.paths(OUTSIDE),
            cut_points: graph.cut_points_from(OUTSIDE),
        }
    }
}

/// A way in, through others or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Each step; the first is through a door, the last leads to the workload.
    pub hops: Vec<Hop>,
    /// The classes of pods that every way passes: without any one of them there is none.
    pub cut_points: Vec<usize>,
    /// Whether every step certainly gets through.
    pub certain: bool,
}

/// One step of a way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The class of pods that the step leads to: a number of [`Analysis::classes`].
    pub to: usize,
    /// What may be opened on the step.
    pub ports: Rc<PortSet>,
}

/// The outside, as a group of the graphs; the classes of pods follow.
const OUTSIDE: usize = 0;

impl<'a> Ways<'a> {
    /// Asks about every pair of classes of pods, and about the doors of every pod.
    pub fn of(analysis: &'a Analysis<'a>) -> Self {
        let mut certain: Vec<(usize, usize, Rc<PortSet>)> = Vec::new();
        let mut possible = Vec::new();
        for (to, target) in analysis.classes.iter().enumerate() {
            let doors = analysis.doors(&target.members, None);
            let (mut open, mut maybe) = (PortSet::uniform(false), PortSet::uniform(false));
            for door in doors {
                if !door.kind.is_outer() || door.barred.is_some() {
                    continue;
                }
                let ports = match (door.kind, door.target) {
                    (DoorKind::HostNetwork, _) | (_, None) => PortSet::uniform(true),
                    (_, Some(port)) => PortSet::of([(door.protocol, PortRange::single(port))]),
                };
                match door.passage {
                    Passage::Open | Passage::Partly => open = open.union(&ports),
                    Passage::Unknown(_) => maybe = maybe.union(&ports),
                    Passage::Closed => {}
                }
            }
            possible.push((OUTSIDE, to + 1, Rc::new(maybe.union(&open))));
            certain.push((OUTSIDE, to + 1, Rc::new(open)));
        }
        // Where nothing leads in, it is no matter what leads on.
        if possible.iter().any(|(_, _, ports)| !ports.is_empty()) {
            onward(analysis, &mut certain, &mut possible);
        }
        let groups = || {
            let classes = analysis.classes.iter().map(|class| {
                let members = class.members.iter().cloned();
                members.map(Endpoint::Pod).collect()
            });
            std::iter::once(Vec::new()).chain(classes)
        };
        Self {
            certain: Reached::outside(&Connectivity::new(groups(), certain)),
            possible: Reached::outside(&Connectivity::new(groups(), possible)),
            analysis,
        }
    }

    /// A shortest way to any of `replicas`, a certain one if there is one.
    pub fn to(&self, replicas: &[PodKey]) -> Option<Way> {
        let targets = self.analysis.classes_of(replicas);
        [(&self.certain, true), (&self.possible, false)]
            .into_iter()
            .find_map(|(from, certain)| shortest(from, &targets, certain))
    }
}

fn shortest(from: &Reached, targets: &[usize], certain: bool) -> Option<Way> {
    let found = targets.iter().filter_map(|target| {
        let path = from.paths.get(target + 1)?.as_ref()?;
        Some((path, *target))
    });
    let (path, target) = found.min_by_key(|(path, _)| path.len())?;
    // Nobody has to pass the outside.
    let class = |group: usize| group.checked_sub(1);
    // Several classes of replicas may each have their own ways in.
    let cut_points = from.cut_points.get(target + 1).cloned().flatten();
    let cut_points = cut_points.filter(|_| targets.len() == 1);
    Some(Way {
        hops: path
            .iter()
            .filter_map(|hop| {
                Some(Hop {
                    to: class(hop.to)?,
                    ports: hop.ports.clone(),
                })
            })
            .collect(),
        cut_points: cut_points.into_iter().flatten().filter_map(class).collect(),
        certain,
    })
}

/// What pods of one class may open to another: certainly, and as far as is known.
fn onward(
    analysis: &Analysis<'_>,
    certain: &mut Vec<(usize, usize, Rc<PortSet>)>,
    possible: &mut Vec<(usize, usize, Rc<PortSet>)>,
) {
    let mut known: FastMap<AnswerId, [Rc<PortSet>; 2]> = FastMap::default();
    for to in 0..analysis.classes.len() {
        for from in (0..analysis.classes.len()).filter(|from| *from != to) {
            let Some(id) = analysis.ask_pods(from, &[to]) else {
                continue;
            };
            let [sure, maybe] = known.entry(id).or_insert_with(|| {
                let answer = analysis.pairs.answer(id);
                let reach = answer.map_or_else(Reach::nothing, |it| Reach::clone(&it.reach));
                let sure = Rc::new(reach.certain());
                let maybe = if reach.unknown.is_empty() {
                    sure.clone()
                } else {
                    Rc::new(reach.possible())
                };
                [sure, maybe]
            });
            for (ports, edges) in [(sure, &mut *certain), (maybe, &mut *possible)] {
                if !ports.is_empty() {
                    edges.push((from + 1, to + 1, ports.clone()));
                }
            }
        }
    }
}
