// SPDX-License-Identifier: Apache-2.0
//! How can somebody from outside get to a workload that has no open door of its own? Through others that
//! have one: pod after pod, each taken over in turn.

use super::{Analysis, DoorKind, Passage};
use crate::{
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
    /// The pods that every way passes: without any one of them there is none.
    pub cut_points: Vec<Vec<PodKey>>,
    /// Whether every step certainly gets through.
    pub certain: bool,
}

/// One step of a way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The pods, alike, that the step leads to.
    pub to: Vec<PodKey>,
    /// What may be opened on the step.
    pub ports: PortSet,
}

/// The outside, as a group of the graphs; the classes of pods follow.
const OUTSIDE: usize = 0;

impl<'a> Ways<'a> {
    /// Asks about every pair of classes of pods, and about the doors of every pod.
    pub fn of(analysis: &'a Analysis<'a>) -> Self {
        let mut certain: Vec<(usize, usize, PortSet)> = Vec::new();
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
            possible.push((OUTSIDE, to + 1, maybe.union(&open)));
            certain.push((OUTSIDE, to + 1, open));
            for from in 0..analysis.classes.len() {
                if from == to {
                    continue;
                }
                let Some(reach) = analysis.reach(from, to) else {
                    continue;
                };
                let sure = reach.certain();
                if !reach.unknown.is_empty() {
                    possible.push((from + 1, to + 1, sure.union(&reach.unknown)));
                } else if !sure.is_empty() {
                    possible.push((from + 1, to + 1, sure.clone()));
                }
                if !sure.is_empty() {
                    certain.push((from + 1, to + 1, sure));
                }
            }
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
            .find_map(|(from, certain)| self.shortest(from, &targets, certain))
    }

    fn shortest(&self, from: &Reached, targets: &[usize], certain: bool) -> Option<Way> {
        let found = targets.iter().filter_map(|target| {
            let path = from.paths.get(target + 1)?.as_ref()?;
            Some((path, *target))
        });
        let (path, target) = found.min_by_key(|(path, _)| path.len())?;
        let members = |group: usize| {
            let class = group
                .checked_sub(1)
                .and_then(|class| self.analysis.class(class));
            class.map(|class| class.members.clone()).unwrap_or_default()
        };
        // Several classes of replicas may each have their own ways in.
        let cut_points = from.cut_points.get(target + 1).cloned().flatten();
        let cut_points = cut_points.filter(|_| targets.len() == 1);
        Some(Way {
            hops: path
                .iter()
                .map(|hop| Hop {
                    to: members(hop.to),
                    ports: hop.ports.clone(),
                })
                .collect(),
            cut_points: cut_points.into_iter().flatten().map(members).collect(),
            certain,
        })
    }
}
