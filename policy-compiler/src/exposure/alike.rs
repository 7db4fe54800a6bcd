// SPDX-License-Identifier: Apache-2.0
//! Which pods are alike in every address family that is in use, so that one can be asked for all?

use std::collections::{BTreeMap, BTreeSet};

use super::{Reach, pairs::Meeting};
use crate::{
    model::{Family, Phase, PodKey, family_of},
    partial::{Evaluator, Party},
    snapshot::Snapshot,
    verdict::Endpoint,
};

/// Pods alike.
#[derive(Debug)]
pub(super) struct Alike {
    /// Sorted.
    pub(super) members: Vec<PodKey>,
    /// A member as each family sees it, and another one for flows between members.
    seen: Vec<Seen>,
}

#[derive(Debug)]
struct Seen {
    party: Party,
    /// Another member, for what members may open to each other; a pod is no audience of itself.
    other: Option<Party>,
}

impl Alike {
    /// Whether some member has another one to meet.
    pub(super) fn has_others(&self) -> bool {
        self.seen.iter().all(|seen| seen.other.is_some())
    }

    /// Whether the only member is not a pod, but what a workload would make.
    pub(super) fn stands_for_replicas(&self) -> bool {
        stands_for_replicas(&self.members)
    }

    /// A member and another one as each family sees them; `None` in families they cannot meet in.
    pub(super) fn each_other(&self) -> Vec<Meeting<'_>> {
        let meetings = self.seen.iter().map(|seen| {
            let pair = Some((&seen.party, seen.other.as_ref()?));
            pair.filter(|(from, to)| from.has_family() && to.has_family())
        });
        meetings.collect()
    }

    /// A member and one of another class as each family sees them; `None` in families they cannot meet in.
    pub(super) fn meetings<'t>(&'t self, target: &'t Self) -> Vec<Meeting<'t>> {
        let meetings = self
            .parties()
            .zip(target.parties())
            .map(|pair| Some(pair).filter(|(from, to)| from.has_family() && to.has_family()));
        meetings.collect()
    }

    /// A member as each family sees it.
    pub(super) fn parties(&self) -> impl Iterator<Item = &Party> {
        self.seen.iter().map(|seen| &seen.party)
    }
}

/// Somebody who is no pod, as each family sees them, and whether they have an address of it.
#[derive(Debug)]
pub(super) struct Stranger {
    seen: Vec<(Party, bool)>,
}

impl Stranger {
    pub(super) fn new(
        evaluator: &Evaluator<'_>,
        families: &[Option<Family>],
        end: &Endpoint,
    ) -> Self {
        let fits = |family: &Option<Family>| match (end, family) {
            (Endpoint::Address(address), Some(family)) => family_of(*address) == *family,
            (Endpoint::Address(_) | Endpoint::Node(_) | Endpoint::Pod(_), _) => true,
        };
        let seen = families.iter().map(|family| {
            let party = evaluator.party(end, *family);
            let has_family = fits(family) && party.has_family();
            (party, has_family)
        });
        Self {
            seen: seen.collect(),
        }
    }

    /// As one family sees them, whether they have an address of it or not.
    pub(super) fn party(&self, family: usize) -> Option<&Party> {
        self.seen.get(family).map(|(party, _)| party)
    }

    /// As each family sees them, with the target as it sees that; `None` in families they cannot meet in.
    pub(super) fn meetings<'t>(
        &'t self,
        target: impl IntoIterator<Item = &'t Party>,
    ) -> Vec<Meeting<'t>> {
        let meetings = self
            .seen
            .iter()
            .zip(target)
            .map(|((from, has_family), to)| {
                let meet = *has_family && to.has_family();
                meet.then_some((from, to))
            });
        meetings.collect()
    }

    /// What they may open to a target, given as each family sees it.
    pub(super) fn reach<'t>(
        &'t self,
        evaluator: &Evaluator<'_>,
        target: impl IntoIterator<Item = &'t Party>,
    ) -> Reach {
        let meetings = self.meetings(target);
        let met = meetings.into_iter().flatten();
        let found: Vec<Reach> = met
            .map(|(from, to)| Reach::of(evaluator, from, to))
            .collect();
        Reach::merge(&found)
    }
}

/// Whether the only member is not a pod, but what a workload would make.
fn stands_for_replicas(members: &[PodKey]) -> bool {
    members.iter().any(|key| key.name.contains('/'))
}

/// The families that pods have addresses of; `None` if no address is known.
pub(super) fn families(snapshot: &Snapshot) -> Vec<Option<Family>> {
    let pods = snapshot.pods.values();
    let addresses = pods.flat_map(|pod| &pod.addresses);
    let known: BTreeSet<Family> = addresses.copied().map(family_of).collect();
    if known.is_empty() {
        return vec![None];
    }
    known.into_iter().map(Some).collect()
}

/// The classes of all pods that are not finished, in order of their first member.
pub(super) fn classes(evaluator: &Evaluator<'_>, families: &[Option<Family>]) -> Vec<Alike> {
    let live = |phase: Phase| !phase.is_finished();
    let pods = evaluator.snapshot().pods.values();
    let endpoints: Vec<Endpoint> = pods
        .filter(|pod| live(pod.phase))
        .map(|pod| Endpoint::Pod(pod.key.clone()))
        .collect();
    let mut looks: BTreeMap<Endpoint, Vec<usize>> = BTreeMap::new();
    for family in families {
        let classes = evaluator.classes(&endpoints, *family);
        for (number, class) in classes.into_iter().enumerate() {
            for member in class.members {
                looks.entry(member).or_default().push(number);
            }
        }
    }
    let mut groups: BTreeMap<Vec<usize>, Vec<PodKey>> = BTreeMap::new();
    for (endpoint, look) in looks {
        if let Endpoint::Pod(key) = endpoint {
            groups.entry(look).or_default().push(key);
        }
    }
    let mut classes: Vec<Alike> = groups
        .into_values()
        .filter_map(|members| {
            let end = |position: usize| members.get(position).cloned().map(Endpoint::Pod);
            let (first, second) = (end(0)?, end(1));
            let seen = families.iter().map(|family| {
                let party = evaluator.party(&first, *family);
                let other = match &second {
                    Some(second) => Some(evaluator.party(second, *family)),
                    // A workload without Pods stands for all of its replicas.
                    None => stands_for_replicas(&members).then(|| party.sibling()),
                };
                Seen { party, other }
            });
            let seen = seen.collect();
            Some(Alike { members, seen })
        })
        .collect();
    classes.sort_by(|a, b| a.members.cmp(&b.members));
    classes
}
