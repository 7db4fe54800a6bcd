// SPDX-License-Identifier: Apache-2.0
//! Which pods rules can tell apart by labels and port names.

use std::sync::Arc;

use super::{
    hash::FastMap,
    peers::Signature,
    rules::Atom,
    subjects::{Subjects, id, named_ports},
};
use crate::{
    Snapshot,
    model::{Direction, Operator, Pod, Selector},
};

/// Pods that no rule in scope can tell apart but by address.
pub(super) struct Groups<'a> {
    of_pod: FastMap<*const Pod, u32>,
    pub(super) groups: Vec<Group<'a>>,
}

pub(super) struct Group<'a> {
    pod: &'a Pod,
    /// What rules see of the pods, their addresses aside.
    pub(super) signature: Signature,
}

impl<'a> Groups<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, subjects: &Subjects<'_>) -> Self {
        let mut this = Self {
            of_pod: FastMap::default(),
            groups: Vec::new(),
        };
        let mut keys: Vec<&Arc<str>> = Vec::new();
        for (_, atom) in subjects.atoms.iter() {
            if let Atom::PodsIn { pods, .. } | Atom::Pods { pods, .. } = atom {
                keys.extend(
                    pods.requirements()
                        .iter()
                        .map(|requirement| &requirement.key),
                );
            }
        }
        keys.sort_unstable();
        keys.dedup();
        let names = egress_port_names(subjects);
        let by_namespace = this.group(snapshot, &keys, &names);
        this.evaluate(snapshot, subjects, &by_namespace);
        this
    }

    /// Groups pods by namespace, the labels that selectors use, and the ports that rules name.
    /// Returns the groups of each namespace.
    fn group(
        &mut self,
        snapshot: &'a Snapshot,
        keys: &[&Arc<str>],
        names: &[Arc<str>],
    ) -> FastMap<&'a str, Vec<u32>> {
        let mut by_namespace: FastMap<&str, Vec<u32>> = FastMap::default();
        let mut values: FastMap<&str, u32> = FastMap::default();
        let mut projected: FastMap<Box<[u32]>, u32> = FastMap::default();
        let mut scratch: Vec<u32> = Vec::new();
        let mut namespace: Option<(&str, u32)> = None;
        for pod in snapshot.pods.values().filter(|pod| pod.is_policed()) {
            let namespace_id = match namespace {
                Some((name, id)) if *name == *pod.key.namespace => id,
                _ => {
                    let next = id(by_namespace.len());
                    by_namespace.insert(&pod.key.namespace, Vec::new());
                    namespace = Some((&pod.key.namespace, next));
                    next
                }
            };
            scratch.clear();
            scratch.push(namespace_id);
            for (index, key) in (0u32..).zip(keys) {
                if let Some(value) = pod.labels.get(key) {
                    let next = id(values.len());
                    scratch.extend([index, *values.entry(value).or_insert(next)]);
                }
            }
            let ports = if names.is_empty() {
                Vec::new()
            } else {
                named_ports(pod, |n| names.binary_search(n).is_ok())
            };
            for port in &ports {
                let name = port
                    .name
                    .as_ref()
                    .and_then(|name| names.binary_search(name).ok());
                // Set apart from label pairs, whose index is below the number of keys.
                scratch.extend([
                    u32::MAX,
                    id(name.unwrap_or(names.len())),
                    port.protocol as u32,
                ]);
                scratch.push(u32::from(port.number));
            }
            let group = if let Some(group) = projected.get(scratch.as_slice()) {
                *group
            } else {
                let group = id(self.groups.len());
                self.groups.push(Group {
                    pod,
                    signature: Signature {
                        ports,
                        ..Signature::default()
                    },
                });
                projected.insert(scratch.as_slice().into(), group);
                by_namespace
                    .entry(&pod.key.namespace)
                    .or_default()
                    .push(group);
                group
            };
            self.of_pod.insert(Arc::as_ptr(pod), group);
        }
        by_namespace
    }

    /// Finds the selector atoms that hold for each group. Atoms come in order, so lists stay sorted.
    fn evaluate(
        &mut self,
        snapshot: &'a Snapshot,
        subjects: &Subjects<'_>,
        by_namespace: &FastMap<&'a str, Vec<u32>>,
    ) {
        let mut matching: FastMap<&Selector, Vec<u32>> = FastMap::default();
        let postings = self.postings(subjects);
        for (atom_id, atom) in subjects.atoms.iter() {
            let (groups, pods): (&[u32], _) = match atom {
                Atom::PodsIn { namespace, pods } => (
                    by_namespace
                        .get(&**namespace)
                        .map_or(&[][..], Vec::as_slice),
                    pods,
                ),
                Atom::Pods { namespaces, pods } => {
                    let groups = matching.entry(namespaces).or_insert_with(|| {
                        let selected = snapshot
                            .namespaces
                            .values()
                            .filter(|ns| namespaces.matches(&ns.labels));
                        // Pods come by namespace, so groups do, and the list is sorted.
                        selected
                            .filter_map(|ns| by_namespace.get(&*ns.name))
                            .flatten()
                            .copied()
                            .collect()
                    });
                    (groups.as_slice(), pods)
                }
                Atom::Block(_) | Atom::Nodes(_) | Atom::Domains(_) => continue,
            };
            // The groups that have one of the values some requirement lists are often far fewer.
            let listed = pods.requirements().iter().filter_map(|requirement| {
                let of_key = postings.binary_search_by_key(&&*requirement.key, |(key, _)| *key);
                let of_key = of_key
                    .ok()
                    .and_then(|index| postings.get(index))
                    .map(|(_, values)| values);
                let values = requirement
                    .values
                    .iter()
                    .filter(|_| requirement.operator == Operator::In);
                let groups: Vec<&Vec<u32>> =
                    values.filter_map(|value| of_key?.get(&**value)).collect();
                (requirement.operator == Operator::In).then_some(groups)
            });
            let fewest =
                listed.min_by_key(|groups| groups.iter().map(|groups| groups.len()).sum::<usize>());
            let mut holds = |group: u32| {
                if let Some(group) = self.groups.get_mut(group as usize)
                    && pods.matches(&group.pod.labels)
                {
                    group.signature.atoms.push(atom_id);
                }
            };
            match fewest
                .filter(|fewest| fewest.iter().map(|g| g.len()).sum::<usize>() < groups.len())
            {
                Some(fewest) => {
                    // A group has one value of a key, so no group comes twice.
                    for group in fewest.into_iter().flatten() {
                        if groups.binary_search(group).is_ok() {
                            holds(*group);
                        }
                    }
                }
                None => groups.iter().copied().for_each(holds),
            }
        }
    }

    /// The groups that have each label value which some selector lists, by key and value.
    fn postings<'s>(
        &self,
        subjects: &'s Subjects<'_>,
    ) -> Vec<(&'s str, FastMap<&'s str, Vec<u32>>)> {
        let mut listed: Vec<(&str, &str)> = Vec::new();
        for (_, atom) in subjects.atoms.iter() {
            let (Atom::PodsIn { pods, .. } | Atom::Pods { pods, .. }) = atom else {
                continue;
            };
            for requirement in pods
                .requirements()
                .iter()
                .filter(|r| r.operator == Operator::In)
            {
                listed.extend(
                    requirement
                        .values
                        .iter()
                        .map(|value| (&*requirement.key, &**value)),
                );
            }
        }
        listed.sort_unstable();
        listed.dedup();
        let mut postings: Vec<_> = listed
            .chunk_by(|a, b| a.0 == b.0)
            .filter_map(|of_key| {
                let (key, _) = of_key.first()?;
                let values: FastMap<_, _> = of_key
                    .iter()
                    .map(|(_, value)| (*value, Vec::new()))
                    .collect();
                Some((*key, values))
            })
            .collect();
        for (index, group) in (0..).zip(&self.groups) {
            for (key, values) in &mut postings {
                let groups = group
                    .pod
                    .labels
                    .get(key)
                    .and_then(|value| values.get_mut(value));
                if let Some(groups) = groups {
                    groups.push(index);
                }
            }
        }
        postings
    }

    pub(super) fn of(&self, pod: &Arc<Pod>) -> Option<u32> {
        self.of_pod.get(&Arc::as_ptr(pod)).copied()
    }

    pub(super) fn signature_of(&self, pod: &Arc<Pod>) -> Signature {
        let group = self
            .of(pod)
            .and_then(|group| self.groups.get(group as usize));
        group.map_or_else(Signature::default, |group| group.signature.clone())
    }
}

/// Sorted names of container ports in egress rules, which are looked up on the peer.
fn egress_port_names(subjects: &Subjects<'_>) -> Vec<Arc<str>> {
    let egress = subjects
        .rules
        .iter()
        .filter(|rule| rule.reference.direction == Direction::Egress);
    let mut names: Vec<_> = egress.flat_map(|rule| rule.port_names().cloned()).collect();
    names.sort();
    names.dedup();
    names
}
