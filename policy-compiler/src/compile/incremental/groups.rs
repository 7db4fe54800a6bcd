// SPDX-License-Identifier: Apache-2.0
//! Which pods are alike, and which of those can no rule tell apart but by address?

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{Hash, Hasher},
    sync::Arc,
};

use super::{
    atoms::{Atoms, Entry, listed_by},
    classes::BaseId,
    parts::{Part, Parts},
    slab::Slab,
};
use crate::{
    compile::{
        ClassId,
        hash::FastMap,
        peers::Signature,
        rules::{Atom, AtomId},
        subjects::named_ports,
    },
    model::{Labels, Pod},
};

/// Pods with equal namespace, labels and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct GroupId(pub(super) u32);

/// Groups that no rule can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct KindId(u32);

impl KindId {
    /// Of pods that no rule sees, and of addresses that no pod owns.
    pub(super) const NONE: Self = Self(0);
}

#[derive(Debug)]
pub(super) struct Group {
    /// Any pod of the group, perhaps one that is gone.
    pub(super) sample: Arc<Pod>,
    pub(super) namespace: u32,
    pub(super) kind: KindId,
    pub(super) pods: Vec<Arc<Pod>>,
}

/// Pods of one signature: the atoms and ports that rules see of them.
#[derive(Debug, Default)]
pub(super) struct Kind {
    pub(super) groups: BTreeSet<GroupId>,
    pub(super) classes: BTreeMap<BaseId, ClassId>,
}

impl Part for Kind {
    type Id = KindId;
    const NONE: KindId = KindId::NONE;

    fn id(number: u32) -> KindId {
        KindId(number)
    }

    fn number(KindId(number): KindId) -> u32 {
        number
    }

    fn holders(entry: &mut Entry) -> &mut BTreeSet<KindId> {
        &mut entry.kinds
    }

    fn is_idle(&self) -> bool {
        self.groups.is_empty() && self.classes.is_empty()
    }
}

/// A pod as its group's name.
#[derive(Debug)]
struct Alike(Arc<Pod>);

impl PartialEq for Alike {
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (&self.0, &other.0);
        a.key.namespace == b.key.namespace && a.labels == b.labels && a.ports == b.ports
    }
}

impl Eq for Alike {}

impl Hash for Alike {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.namespace.hash(state);
        self.0.labels.hash(state);
        self.0.ports.hash(state);
    }
}

/// Numbers of namespaces, which stay.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    ids: FastMap<Arc<str>, u32>,
    groups: Vec<BTreeSet<GroupId>>,
}

impl Namespaces {
    pub(super) fn id(&self, name: &str) -> Option<u32> {
        self.ids.get(name).copied()
    }

    /// The number of a namespace, and whether it is a new one.
    pub(super) fn enter(&mut self, name: &Arc<str>) -> (u32, bool) {
        if let Some(id) = self.ids.get(name) {
            return (*id, false);
        }
        self.groups.push(BTreeSet::new());
        let id = crate::compile::subjects::id(self.groups.len() - 1);
        self.ids.insert(name.clone(), id);
        (id, true)
    }

    pub(super) fn groups(&self, id: u32) -> impl Iterator<Item = GroupId> {
        self.groups.get(id as usize).into_iter().flatten().copied()
    }

    fn len(&self, id: u32) -> usize {
        self.groups.get(id as usize).map_or(0, BTreeSet::len)
    }
}

/// The pods of the cluster by what rules may see of them.
#[derive(Debug, Default)]
pub(super) struct Groups {
    ids: FastMap<Alike, GroupId>,
    pub(super) slab: Slab<Group>,
    pub(super) kinds: Parts<Kind>,
    pub(super) namespaces: Namespaces,
    /// The groups with each value of a label, for labels that were asked for.
    by_label: BTreeMap<Arc<str>, FastMap<Arc<str>, BTreeSet<GroupId>>>,
    /// Names of container ports in egress rules, which are looked up on the peer; how many use them.
    port_names: BTreeMap<Arc<str>, u32>,
    /// Names that came into use or out of it and are not evaluated yet.
    pub(super) changed_names: BTreeSet<Arc<str>>,
    /// Kinds that may have no groups left.
    pub(super) idle: BTreeSet<KindId>,
}

/// Above this many groups, it pays to look groups up by label.
const MANY: usize = 512;

impl Groups {
    pub(super) fn of(&self, pod: &Arc<Pod>) -> Option<GroupId> {
        self.ids.get(&Alike(pod.clone())).copied()
    }

    pub(super) fn kind_of(&self, pod: &Arc<Pod>) -> KindId {
        let group = self.of(pod).and_then(|group| self.slab.get(group.0));
        group.map_or(KindId::NONE, |group| group.kind)
    }

    /// Adds a pod to its group. The namespace is known.
    pub(super) fn insert(&mut self, pod: &Arc<Pod>, atoms: &mut Atoms) -> GroupId {
        if let Some(group) = self.of(pod) {
            if let Some(known) = self.slab.get_mut(group.0) {
                known.pods.push(pod.clone());
            }
            return group;
        }
        let (namespace, _) = self.namespaces.enter(&pod.key.namespace);
        let signature = self.signature(pod, namespace, atoms);
        let (kind, _) = self.kinds.intern(signature, atoms);
        let group = GroupId(self.slab.insert(Group {
            sample: pod.clone(),
            namespace,
            kind,
            pods: vec![pod.clone()],
        }));
        self.ids.insert(Alike(pod.clone()), group);
        if let Some(groups) = self.namespaces.groups.get_mut(namespace as usize) {
            groups.insert(group);
        }
        self.join(group, kind);
        for (key, groups) in &mut self.by_label {
            if let Some(value) = pod.labels.0.get(key) {
                groups.entry(value.clone()).or_default().insert(group);
            }
        }
        group
    }

    /// Removes a pod from its group.
    pub(super) fn remove(&mut self, pod: &Arc<Pod>) {
        let Some(id) = self.of(pod) else {
            return;
        };
        let Some(group) = self.slab.get_mut(id.0) else {
            return;
        };
        let at = group.pods.iter().position(|known| Arc::ptr_eq(known, pod));
        if let Some(at) = at {
            group.pods.swap_remove(at);
        }
        if !group.pods.is_empty() {
            return;
        }
        let (namespace, kind) = (group.namespace, group.kind);
        self.ids.remove(&Alike(pod.clone()));
        self.leave(id, kind);
        self.slab.remove(id.0);
        if let Some(groups) = self.namespaces.groups.get_mut(namespace as usize) {
            groups.remove(&id);
        }
        for (key, groups) in &mut self.by_label {
            let value = pod.labels.0.get(key);
            if let Some(of_value) = value.and_then(|value| groups.get_mut(value)) {
                of_value.remove(&id);
            }
        }
    }

    /// What rules see of a pod.
    pub(super) fn signature(&self, pod: &Pod, namespace: u32, atoms: &Atoms) -> Signature {
        let named = |name: &Arc<str>| self.port_names.contains_key(name);
        Signature {
            atoms: atoms.holding(&pod.key.namespace, namespace, &pod.labels),
            ports: if self.port_names.is_empty() {
                Vec::new()
            } else {
                named_ports(pod, named)
            },
            ..Signature::default()
        }
    }

    /// Moves a group to another kind.
    pub(super) fn transfer(&mut self, group: GroupId, to: KindId) {
        let Some(known) = self.slab.get_mut(group.0) else {
            return;
        };
        let from = std::mem::replace(&mut known.kind, to);
        self.leave(group, from);
        self.join(group, to);
    }

    fn join(&mut self, group: GroupId, kind: KindId) {
        if let Some(known) = self.kinds.get_mut(kind) {
            known.groups.insert(group);
        }
    }

    fn leave(&mut self, group: GroupId, kind: KindId) {
        if let Some(known) = self.kinds.get_mut(kind) {
            known.groups.remove(&group);
            if known.groups.is_empty() {
                self.idle.insert(kind);
            }
        }
    }

    /// Uses or (`by` -1) no longer uses the name of a container port in an egress rule.
    pub(super) fn use_port_name(&mut self, name: &Arc<str>, by: i32) {
        let count = self.port_names.entry(name.clone()).or_default();
        let before = *count;
        *count = count.saturating_add_signed(by);
        if (before == 0) != (*count == 0) {
            self.changed_names.insert(name.clone());
        }
        if *count == 0 {
            self.port_names.remove(name);
        }
    }

    /// The groups with a container port of one of these names.
    pub(super) fn with_ports(&self, names: &BTreeSet<Arc<str>>) -> Vec<GroupId> {
        let has = |group: &Group| {
            let named = group
                .sample
                .ports
                .iter()
                .filter_map(|port| port.name.as_ref());
            named.into_iter().any(|name| names.contains(name))
        };
        let groups = self.slab.iter().filter(|(_, group)| has(group));
        groups.map(|(id, _)| GroupId(id)).collect()
    }

    /// The groups of which a new atom holds.
    pub(super) fn matching(&mut self, id: AtomId, atoms: &Atoms) -> Vec<GroupId> {
        let Some(entry) = atoms.get(id) else {
            return Vec::new();
        };
        match &entry.atom {
            Atom::PodsIn { namespace, pods } => {
                let namespace = self.namespaces.id(namespace);
                let groups = namespace
                    .into_iter()
                    .flat_map(|id| self.namespaces.groups(id));
                groups
                    .filter(|group| self.labels(*group).is_some_and(|l| pods.matches(l)))
                    .collect()
            }
            Atom::Pods { pods, .. } => {
                let namespaces: BTreeSet<u32> = atoms.namespaces_of(id).collect();
                let many = namespaces
                    .iter()
                    .map(|id| self.namespaces.len(*id))
                    .sum::<usize>();
                let holds = |group: &Group| {
                    namespaces.contains(&group.namespace) && pods.matches(&group.sample.labels)
                };
                if let Some((key, values)) = listed_by(pods).filter(|_| many > MANY) {
                    let of_key = self.groups_by(key);
                    let groups = values.iter().filter_map(|value| of_key.get(value));
                    let groups: Vec<GroupId> = groups.flatten().copied().collect();
                    let holds = |id: &GroupId| self.slab.get(id.0).is_some_and(holds);
                    groups.into_iter().filter(holds).collect()
                } else {
                    let groups = namespaces.iter().flat_map(|id| self.namespaces.groups(*id));
                    groups
                        .filter(|group| self.labels(*group).is_some_and(|l| pods.matches(l)))
                        .collect()
                }
            }
            Atom::Block(_) | Atom::Nodes(_) | Atom::Domains(_) => Vec::new(),
        }
    }

    fn labels(&self, group: GroupId) -> Option<&Labels> {
        Some(&self.slab.get(group.0)?.sample.labels)
    }

    /// The groups by their value of a label.
    fn groups_by(&mut self, key: &Arc<str>) -> &FastMap<Arc<str>, BTreeSet<GroupId>> {
        let slab = &self.slab;
        self.by_label.entry(key.clone()).or_insert_with(|| {
            let mut groups: FastMap<Arc<str>, BTreeSet<GroupId>> = FastMap::default();
            for (id, group) in slab.iter() {
                if let Some(value) = group.sample.labels.0.get(key) {
                    groups.entry(value.clone()).or_default().insert(GroupId(id));
                }
            }
            groups
        })
    }
}
