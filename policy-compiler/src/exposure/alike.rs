// SPDX-License-Identifier: Apache-2.0
//! Which pods are alike in every address family that is in use, so that one can be asked for all?

use std::collections::{BTreeMap, BTreeSet};

use super::Reach;
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
    other: Option<Party>,
}

impl Alike {
    /// What a member may open to a member of `target`; `None` for a pod to itself, which is all there is
    /// to ask of a class of one.
    pub(super) fn reach(&self, evaluator: &Evaluator<'_>, target: &Self) -> Option<Reach> {
        let itself = self.members == target.members;
        let mut found = Vec::new();
        for (from, to) in self.seen.iter().zip(&target.seen) {
            let sibling;
            let to = match (itself, &to.other) {
                (false, _) => &to.party,
                (true, Some(other)) => other,
                // A workload without Pods stands for all of its replicas.
                (true, None) if stands_for_replicas(&self.members) => {
                    sibling = to.party.sibling();
                    &sibling
                }
                (true, None) => return None,
            };
            if from.party.has_family() && to.has_family() {
                found.push(Reach::of(evaluator, &from.party, to));
            }
        }
        Some(Reach::merge(&found))
    }

    /// A member of each of two classes, if they can meet in the family of this number.
    pub(super) fn meet<'s>(
        &'s self,
        target: &'s Self,
        family: usize,
    ) -> Option<(&'s Party, &'s Party)> {
        let (from, to) = (self.seen.get(family)?, target.seen.get(family)?);
        let meet = from.party.has_family() && to.party.has_family();
        meet.then_some((&from.party, &to.party))
    }

    /// A member as each family sees it.
    pub(super) fn parties(&self) -> impl Iterator<Item = &Party> {
        self.seen.iter().map(|seen| &seen.party)
    }
}

/// Somebody who is no pod, as each family sees them; `None` in families that they have no address of.
#[derive(Debug)]
pub(super) struct Stranger {
    seen: Vec<Option<Party>>,
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
            let party = fits(family).then(|| evaluator.party(end, *family));
            party.filter(Party::has_family)
        });
        Self {
            seen: seen.collect(),
        }
    }

    /// What they may open to a target, given as each family sees it.
    pub(super) fn reach<'t>(
        &self,
        evaluator: &Evaluator<'_>,
        target: impl IntoIterator<Item = &'t Party>,
    ) -> Reach {
        let meet = self.seen.iter().zip(target);
        let found: Vec<Reach> = meet
            .filter_map(|(from, to)| Some((from.as_ref()?, to)))
            .filter(|(_, to)| to.has_family())
            .map(|(from, to)| Reach::of(evaluator, from, to))
            .collect();
        Reach::merge(&found)
    }

    /// As one family sees them, with the target in the same family.
    pub(super) fn meet<'t>(
        &'t self,
        target: impl IntoIterator<Item = &'t Party>,
    ) -> Option<(&'t Party, &'t Party)> {
        let mut pairs = self.seen.iter().zip(target);
        pairs.find_map(|(from, to)| Some((from.as_ref()?, to)).filter(|(_, to)| to.has_family()))
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
            let seen = families.iter().map(|family| Seen {
                party: evaluator.party(&first, *family),
                other: second
                    .as_ref()
                    .map(|second| evaluator.party(second, *family)),
            });
            Some(Alike {
                seen: seen.collect(),
                members,
            })
        })
        .collect();
    classes.sort_by(|a, b| a.members.cmp(&b.members));
    classes
}
