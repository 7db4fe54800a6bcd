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
mod reach;
mod ways;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ipnet::IpNet;

pub use doors::{Door, DoorKind};
pub use future::Newcomer;
pub use reach::{Passage, Reach};
pub use ways::{Hop, Way, Ways};

use crate::{
    model::{Direction, Entrances, Family, PodKey},
    partial::{self, Evaluator, Grid, Outcome, Party},
    portmap::PortSet,
    ranges,
    symbolic::TooMany,
    verdict::{Decision, Endpoint},
};
use alike::{Alike, Stranger};

/// What can be asked about the exposure of the pods of one snapshot.
#[derive(Debug)]
pub struct Analysis<'a> {
    evaluator: &'a Evaluator<'a>,
    entrances: &'a Entrances,
    controllers: &'a [PodKey],
    families: Vec<Option<Family>>,
    /// By family: what the classes may open to each other.
    grids: Vec<Grid>,
    classes: Vec<Alike>,
    class_of: BTreeMap<PodKey, usize>,
    /// The ranges of outside addresses that policies tell apart.
    world: Vec<(ranges::Range, Stranger)>,
    nodes: Vec<(Arc<str>, Stranger)>,
}

/// Everybody who may or may not reach a workload.
#[derive(Clone, Debug)]
pub struct Exposure {
    /// Every address that is no pod, Service or node.
    pub world: Vec<Audience<IpNet>>,
    /// The network stacks of known nodes.
    pub nodes: Vec<Audience<Arc<str>>>,
    /// Every other pod.
    pub cluster: Vec<Audience<PodKey>>,
    /// A pod for every way in which policies could treat pods that do not exist yet, in namespaces that
    /// exist and in those that do not.
    pub future: Result<Vec<Audience<Newcomer>>, TooMany>,
    /// What leads to the workload.
    pub doors: Vec<Door>,
}

/// Some who are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audience<W> {
    /// All of them, sorted.
    pub who: Vec<W>,
    /// What they may open to the workload.
    pub reach: Reach,
    /// What decided, for the first of them and the first replica.
    pub because: Vec<Because>,
}

/// What decided a part of one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
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
        let seen_by = |family: usize| {
            let parties = classes
                .iter()
                .filter_map(|class| class.parties().nth(family));
            evaluator.grid(&parties.collect::<Vec<&Party>>())
        };
        let grids = (0..families.len()).map(seen_by).collect();
        let numbered = classes.iter().enumerate();
        let class_of = numbered
            .flat_map(|(number, class)| class.members.iter().map(move |key| (key.clone(), number)))
            .collect();
        let stranger = |end: &Endpoint| Stranger::new(evaluator, &families, end);
        let world = ranges::outside(&[snapshot])
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
        Self {
            nodes: nodes.collect(),
            world,
            evaluator,
            entrances,
            controllers,
            families,
            grids,
            classes,
            class_of,
        }
    }

    /// Who may reach the pods `replicas`, which are taken for one workload.
    pub fn exposure(&self, replicas: &[PodKey]) -> Exposure {
        let classes = self.classes_of(replicas);
        let future = self.future(replicas);
        Exposure {
            world: self.world_audiences(&classes),
            nodes: self.node_audiences(replicas),
            cluster: self.pod_audiences(&classes),
            doors: self.doors(replicas, Some(&future)),
            future,
        }
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

    fn world_audiences(&self, targets: &[usize]) -> Vec<Audience<IpNet>> {
        let mut audiences = Vec::new();
        for (range, stranger) in &self.world {
            let reach = self.merged(targets, |class| {
                Some(stranger.reach(self.evaluator, class.parties()))
            });
            let because = self.first(targets, |class| stranger.meet(class.parties()));
            join(
                &mut audiences,
                range.networks.iter().copied(),
                reach,
                because,
            );
        }
        for audience in &mut audiences {
            audience.who = IpNet::aggregate(&audience.who);
        }
        audiences
    }

    fn node_audiences(&self, replicas: &[PodKey]) -> Vec<Audience<Arc<str>>> {
        // A pod is always reached from its own node, so here it matters where replicas run.
        let mut seen: BTreeMap<(usize, Option<&Arc<str>>), &PodKey> = BTreeMap::new();
        for key in replicas {
            let pod = self.evaluator.snapshot().pods.get(key);
            if let (Some(class), Some(pod)) = (self.class_of.get(key), pod) {
                seen.entry((*class, pod.node.as_ref())).or_insert(key);
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
        let mut audiences = Vec::new();
        for (name, stranger) in &self.nodes {
            let found: Vec<Reach> = targets
                .iter()
                .map(|target| stranger.reach(self.evaluator, target))
                .collect();
            let pair = targets.iter().find_map(|target| stranger.meet(target));
            let because = pair.map(|(from, to)| self.because(from, to));
            let because = because.unwrap_or_default();
            join(
                &mut audiences,
                [name.clone()],
                Reach::merge(&found),
                because,
            );
        }
        audiences
    }

    fn pod_audiences(&self, targets: &[usize]) -> Vec<Audience<PodKey>> {
        let mut audiences = Vec::new();
        let mut known: HashMap<Vec<Option<partial::Alike>>, (Reach, Vec<Because>)> = HashMap::new();
        for (from, source) in self.classes.iter().enumerate() {
            let alike = self.alike(from, targets);
            let found = match alike.as_ref().and_then(|alike| known.get(alike)) {
                Some(found) => Some(found.clone()),
                None => self.pods_reach(from, targets),
            };
            let Some((reach, because)) = found else {
                continue;
            };
            // The facts that are missing may be about the source.
            if let Some(alike) = alike.filter(|_| reach.missing.is_empty()) {
                known.insert(alike, (reach.clone(), because.clone()));
            }
            join(
                &mut audiences,
                source.members.iter().cloned(),
                reach,
                because,
            );
        }
        for audience in &mut audiences {
            audience.who.sort();
        }
        audiences
    }

    /// What the pods of a class may open to several classes, and why; `None` if that is the same pod.
    fn pods_reach(&self, from: usize, targets: &[usize]) -> Option<(Reach, Vec<Because>)> {
        let reach = targets.iter().filter_map(|to| self.reach(from, *to));
        let reach: Vec<Reach> = reach.collect();
        let source = self.class(from).filter(|_| !reach.is_empty())?;
        let because = self.first(targets, |target| {
            (0..self.grids.len()).find_map(|family| source.meet(target, family))
        });
        Some((Reach::merge(&reach), because))
    }

    /// What a pod of one class may open to a pod of another; `None` for a pod to itself.
    fn reach(&self, from: usize, to: usize) -> Option<Reach> {
        let (source, target) = (self.class(from)?, self.class(to)?);
        if from == to {
            return source.reach(self.evaluator, target);
        }
        let mut found = Vec::new();
        for (family, grid) in self.grids.iter().enumerate() {
            let Some((source, target)) = source.meet(target, family) else {
                continue;
            };
            let (always, unknown) = grid.through(grid.pair(from, to));
            found.push(if unknown.is_empty() {
                Reach {
                    always,
                    ..Reach::nothing()
                }
            } else {
                Reach::of(self.evaluator, source, target)
            });
        }
        Some(Reach::merge(&found))
    }

    /// Equal for classes whose pods may open the same to `targets`, for the same reasons; `None` for a
    /// target.
    fn alike(&self, from: usize, targets: &[usize]) -> Option<Vec<Option<partial::Alike>>> {
        let source = self.class(from).filter(|_| !targets.contains(&from))?;
        let mut alike = Vec::with_capacity(targets.len() * self.grids.len());
        for to in targets {
            let target = self.class(*to)?;
            for (family, grid) in self.grids.iter().enumerate() {
                let meet = source.meet(target, family);
                alike.push(meet.map(|_| grid.alike(from, *to)));
            }
        }
        Some(alike)
    }

    /// What one source may open to several classes.
    fn merged(&self, targets: &[usize], ask: impl Fn(&Alike) -> Option<Reach>) -> Reach {
        let classes = targets.iter().filter_map(|number| self.class(*number));
        let found: Vec<Reach> = classes.filter_map(ask).collect();
        Reach::merge(&found)
    }

    /// What decided for the first class that `meet` has a pair of parties for.
    fn first<'s>(
        &'s self,
        targets: &[usize],
        meet: impl Fn(&'s Alike) -> Option<(&'s Party, &'s Party)>,
    ) -> Vec<Because> {
        let mut classes = targets.iter().filter_map(|number| self.class(*number));
        let pair = classes.find_map(meet);
        pair.map(|(from, to)| self.because(from, to))
            .unwrap_or_default()
    }

    fn because(&self, source: &Party, target: &Party) -> Vec<Because> {
        because(self.evaluator, source, target)
    }
}

/// The distinct decisions of both directions.
fn because(evaluator: &Evaluator<'_>, source: &Party, target: &Party) -> Vec<Because> {
    // Replicas that are one party are asked about as two: a pod is no audience of itself.
    let sibling = (source.asked == target.asked).then(|| target.sibling());
    let target = sibling.as_ref().unwrap_or(target);
    let connection = evaluator.connection(source, target, false);
    let mut found: Vec<Because> = Vec::new();
    for direction in Direction::BOTH {
        let map = connection.side(direction);
        let subject = match direction {
            Direction::Egress => source,
            Direction::Ingress => target,
        };
        let mut outcomes: Vec<&Outcome> = Vec::new();
        for (_, outcome) in map.runs() {
            if !outcomes.contains(&outcome) {
                outcomes.push(outcome);
            }
        }
        for outcome in outcomes {
            if let Some(decision) = evaluator.decision(direction, subject, outcome) {
                found.push(Because {
                    direction,
                    ports: map.map(|at| at == outcome),
                    decision,
                });
            }
        }
    }
    found
}

/// Adds some to those who are alike in what they may and why.
fn join<W>(
    audiences: &mut Vec<Audience<W>>,
    who: impl IntoIterator<Item = W>,
    reach: Reach,
    because: Vec<Because>,
) {
    let same = |known: &&mut Audience<W>| known.reach == reach && known.because == because;
    if let Some(known) = audiences.iter_mut().find(same) {
        known.who.extend(who);
    } else {
        audiences.push(Audience {
            who: who.into_iter().collect(),
            reach,
            because,
        });
    }
}
