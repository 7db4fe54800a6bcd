// SPDX-License-Identifier: Apache-2.0
//! Which predicates on peers are in use, and by whom?

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use fixedbitset::FixedBitSet;

use super::{
    classes::BaseId,
    groups::{KindId, Namespaces},
    slab::Slab,
};
use crate::{
    Snapshot,
    compile::{
        RowId,
        hash::FastMap,
        rules::{Atom, AtomId},
    },
    model::{Labels, Operator, Selector},
};

/// The predicates that rules in force use.
#[derive(Debug, Default)]
pub(super) struct Atoms {
    ids: FastMap<Atom, AtomId>,
    slab: Slab<Entry>,
    /// Atoms on pods of one namespace.
    in_namespace: FastMap<Arc<str>, BTreeSet<AtomId>>,
    /// Atoms on pods of any namespace that must have one of some values of a label.
    listed: FastMap<Arc<str>, FastMap<Arc<str>, BTreeSet<AtomId>>>,
    /// The other atoms on pods of any namespace.
    unlisted: BTreeSet<AtomId>,
    /// Atoms on addresses.
    of_addresses: BTreeSet<AtomId>,
    selector_ids: FastMap<Selector, u32>,
    selectors: Slab<NamespaceSelector>,
    /// Atoms that came into use and are not evaluated yet.
    pub(super) added: BTreeSet<AtomId>,
    /// Atoms that nobody uses any more.
    pub(super) dead: BTreeSet<AtomId>,
}

/// An atom in use.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) atom: Atom,
    /// Policies that use it.
    refs: u32,
    /// Kinds of pods of which it holds.
    pub(super) kinds: BTreeSet<KindId>,
    /// Blocks of addresses of which it holds.
    pub(super) bases: BTreeSet<BaseId>,
    /// The rules of each row that name it.
    pub(super) users: BTreeMap<RowId, Vec<u32>>,
    /// For [`Atom::Pods`], its selector of namespaces.
    selector: Option<u32>,
}

#[derive(Debug)]
struct NamespaceSelector {
    selector: Selector,
    refs: u32,
    /// Namespaces that match.
    matches: FixedBitSet,
}

impl Atoms {
    pub(super) fn get(&self, id: AtomId) -> Option<&Entry> {
        self.slab.get(id.0)
    }

    pub(super) fn get_mut(&mut self, id: AtomId) -> Option<&mut Entry> {
        self.slab.get_mut(id.0)
    }

    /// Uses `atom` once more.
    pub(super) fn acquire(
        &mut self,
        atom: &Atom,
        snapshot: &Snapshot,
        namespaces: &Namespaces,
    ) -> AtomId {
        if let Some(id) = self.ids.get(atom).copied() {
            if let Some(entry) = self.slab.get_mut(id.0) {
                entry.refs += 1;
            }
            self.dead.remove(&id);
            return id;
        }
        let selector = match atom {
            Atom::Pods { namespaces: of, .. } => {
                Some(self.acquire_selector(of, snapshot, namespaces))
            }
            _ => None,
        };
        let id = AtomId(self.slab.insert(Entry {
            atom: atom.clone(),
            refs: 1,
            kinds: BTreeSet::new(),
            bases: BTreeSet::new(),
            users: BTreeMap::new(),
            selector,
        }));
        self.ids.insert(atom.clone(), id);
        self.index(atom, |atoms| {
            atoms.insert(id);
        });
        self.added.insert(id);
        id
    }

    /// Uses an atom once less.
    pub(super) fn release(&mut self, id: AtomId) {
        if let Some(entry) = self.slab.get_mut(id.0) {
            entry.refs = entry.refs.saturating_sub(1);
            if entry.refs == 0 {
                self.dead.insert(id);
            }
        }
    }

    /// Forgets an atom that nobody uses and that holds of nothing any more.
    pub(super) fn remove(&mut self, id: AtomId) {
        let Some(entry) = self.slab.remove(id.0) else {
            return;
        };
        debug_assert!(entry.kinds.is_empty() && entry.bases.is_empty() && entry.users.is_empty());
        self.ids.remove(&entry.atom);
        self.index(&entry.atom, |atoms| {
            atoms.remove(&id);
        });
        if let Some(selector) = entry.selector
            && let Some(known) = self.selectors.get_mut(selector)
        {
            known.refs -= 1;
            if known.refs == 0 {
                self.selector_ids.remove(&known.selector);
                self.selectors.remove(selector);
            }
        }
    }

    /// Changes the lists that `atom` is to be found in.
    fn index(&mut self, atom: &Atom, change: impl Fn(&mut BTreeSet<AtomId>)) {
        match atom {
            Atom::PodsIn { namespace, .. } => {
                change(self.in_namespace.entry(namespace.clone()).or_default());
            }
            Atom::Pods { pods, .. } => match listed_by(pods) {
                Some((key, values)) => {
                    let of_key = self.listed.entry(key.clone()).or_default();
                    for value in values {
                        change(of_key.entry(value.clone()).or_default());
                    }
                }
                None => change(&mut self.unlisted),
            },
            Atom::Block(_) | Atom::Nodes(_) | Atom::Domains(_) => change(&mut self.of_addresses),
        }
    }

    fn acquire_selector(
        &mut self,
        selector: &Selector,
        snapshot: &Snapshot,
        namespaces: &Namespaces,
    ) -> u32 {
        if let Some(id) = self.selector_ids.get(selector) {
            if let Some(known) = self.selectors.get_mut(*id) {
                known.refs += 1;
            }
            return *id;
        }
        let mut matches = FixedBitSet::new();
        for namespace in snapshot.namespaces.values() {
            if let Some(id) = namespaces.id(&namespace.name)
                && selector.matches(&namespace.labels)
            {
                matches.grow_and_insert(id as usize);
            }
        }
        let id = self.selectors.insert(NamespaceSelector {
            selector: selector.clone(),
            refs: 1,
            matches,
        });
        self.selector_ids.insert(selector.clone(), id);
        id
    }

    /// Notes the labels of a namespace. Returns whether any selector of namespaces sees a difference.
    pub(super) fn relabel_namespace(&mut self, namespace: u32, labels: &Labels) -> bool {
        let mut differs = false;
        let ids: Vec<u32> = self.selectors.iter().map(|(id, _)| id).collect();
        for id in ids {
            if let Some(known) = self.selectors.get_mut(id) {
                let matches = known.selector.matches(labels);
                if known.matches.contains(namespace as usize) != matches {
                    differs = true;
                    known.matches.grow((namespace + 1) as usize);
                    known.matches.set(namespace as usize, matches);
                }
            }
        }
        differs
    }

    /// The namespaces that an [`Atom::Pods`] may hold in.
    pub(super) fn namespaces_of(&self, id: AtomId) -> impl Iterator<Item = u32> {
        let selector = self.slab.get(id.0).and_then(|entry| entry.selector);
        let known = selector.and_then(|selector| self.selectors.get(selector));
        known
            .into_iter()
            .flat_map(|known| known.matches.ones())
            .filter_map(|namespace| u32::try_from(namespace).ok())
    }

    /// The atoms in use that hold of pods with `labels` in a namespace, sorted.
    pub(super) fn holding(
        &self,
        namespace: &str,
        namespace_id: u32,
        labels: &Labels,
    ) -> Vec<AtomId> {
        let here = self.in_namespace.get(namespace).into_iter().flatten();
        let listed = labels
            .0
            .iter()
            .filter_map(|(key, value)| self.listed.get(key)?.get(value));
        let anywhere = listed.flatten().chain(&self.unlisted);
        let holds = |id: &&AtomId| {
            self.slab.get(id.0).is_some_and(|entry| {
                entry.refs > 0
                    && match &entry.atom {
                        Atom::PodsIn { pods, .. } => pods.matches(labels),
                        Atom::Pods { pods, .. } => {
                            self.covers(entry, namespace_id) && pods.matches(labels)
                        }
                        _ => false,
                    }
            })
        };
        let mut holding: Vec<AtomId> = here.chain(anywhere).filter(holds).copied().collect();
        holding.sort_unstable();
        holding
    }

    fn covers(&self, entry: &Entry, namespace: u32) -> bool {
        let selector = entry.selector.and_then(|id| self.selectors.get(id));
        selector.is_some_and(|known| known.matches.contains(namespace as usize))
    }

    /// The atoms on addresses in use.
    pub(super) fn of_addresses(&self) -> impl Iterator<Item = (AtomId, &Atom)> {
        self.of_addresses.iter().filter_map(|id| {
            let entry = self.slab.get(id.0).filter(|entry| entry.refs > 0)?;
            Some((*id, &entry.atom))
        })
    }

    /// Whether any atom in use is one of `which`.
    pub(super) fn any_of_addresses(&self, which: impl Fn(&Atom) -> bool) -> bool {
        self.of_addresses().any(|(_, atom)| which(atom))
    }

    /// Whether the atom is one on addresses.
    pub(super) fn is_of_addresses(&self, id: AtomId) -> bool {
        self.of_addresses.contains(&id)
    }
}

/// A label of which `pods` asks for one of some values, if it does.
pub(super) fn listed_by(pods: &Selector) -> Option<(&Arc<str>, &[Arc<str>])> {
    let listed = pods
        .requirements()
        .iter()
        .filter(|r| r.operator == Operator::In);
    let fewest = listed.min_by_key(|requirement| requirement.values.len())?;
    Some((&fewest.key, &fewest.values))
}
