// SPDX-License-Identifier: Apache-2.0
//! Which classes of addresses are there, made of which blocks and which pods?

use std::collections::{BTreeMap, BTreeSet};

use super::{
    atoms::Atoms,
    groups::{Groups, KindId, differing},
    slab::Slab,
};
use crate::compile::{ClassId, hash::FastMap, peers::Signature, rules::AtomId};

/// Addresses that no rule can tell apart but by the pod that owns them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct BaseId(pub(super) u32);

impl BaseId {
    /// Addresses of which no rule on addresses holds.
    pub(super) const NONE: Self = Self(0);
}

#[derive(Debug, Default)]
pub(super) struct Base {
    /// The atoms on addresses that hold, and what else sets the addresses apart.
    pub(super) signature: Signature,
    pub(super) classes: BTreeMap<KindId, ClassId>,
    /// Blocks of the address lines.
    pub(super) refs: u32,
}

/// What has the number of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Addresses and pods.
    Peers {
        base: BaseId,
        kind: KindId,
        /// Pods' addresses, blocks and pods of the node that are in the class.
        members: u32,
    },
    /// Ports of Services.
    Services,
}

/// The classes by what they are made of.
#[derive(Debug)]
pub(super) struct Classes {
    /// From [`ClassId::FIRST`] on.
    slab: Slab<Class>,
    ids: FastMap<(BaseId, KindId), ClassId>,
    pub(super) bases: Slab<Base>,
    base_ids: FastMap<Signature, BaseId>,
    /// Classes that egress rows may treat apart though no rule names them.
    pub(super) special: BTreeSet<ClassId>,
    /// Classes that may have no members left.
    pub(super) idle: BTreeSet<ClassId>,
    /// Bases that may have no classes left.
    pub(super) idle_bases: BTreeSet<BaseId>,
}

impl Default for Classes {
    fn default() -> Self {
        let mut bases = Slab::default();
        let none = BaseId(bases.insert(Base {
            // Never forgotten.
            refs: 1,
            ..Base::default()
        }));
        debug_assert_eq!(none, BaseId::NONE);
        Self {
            slab: Slab::default(),
            ids: FastMap::default(),
            bases,
            base_ids: [(Signature::default(), none)].into_iter().collect(),
            special: BTreeSet::new(),
            idle: BTreeSet::new(),
            idle_bases: BTreeSet::new(),
        }
    }
}

impl Classes {
    pub(super) fn get(&self, class: ClassId) -> Option<Class> {
        let index = class.0.checked_sub(ClassId::FIRST.0)?;
        self.slab.get(index).copied()
    }

    /// The base and the kind that a class is made of.
    pub(super) fn parts(&self, class: ClassId) -> Option<(BaseId, KindId)> {
        match self.get(class)? {
            Class::Peers { base, kind, .. } => Some((base, kind)),
            Class::Services => None,
        }
    }

    /// Adds a member to a class. Says whether the class is new.
    pub(super) fn acquire(
        &mut self,
        base: BaseId,
        kind: KindId,
        groups: &mut Groups,
    ) -> (ClassId, bool) {
        if let Some(class) = self.ids.get(&(base, kind)).copied() {
            self.count(class, 1);
            return (class, false);
        }
        let class = Class::Peers {
            base,
            kind,
            members: 1,
        };
        let class = ClassId(ClassId::FIRST.0 + self.slab.insert(class));
        self.ids.insert((base, kind), class);
        if let Some(known) = self.bases.get_mut(base.0) {
            known.classes.insert(kind, class);
        }
        if let Some(known) = groups.kinds.get_mut(kind.0) {
            known.classes.insert(base, class);
        }
        self.classify(class, groups);
        (class, true)
    }

    /// Takes a member from a class.
    pub(super) fn release(&mut self, class: ClassId) {
        if self.count(class, -1) == 0 {
            self.idle.insert(class);
        }
    }

    fn count(&mut self, class: ClassId, by: i32) -> u32 {
        let index = class.0.saturating_sub(ClassId::FIRST.0);
        match self.slab.get_mut(index) {
            Some(Class::Peers { members, .. }) => {
                *members = members.saturating_add_signed(by);
                *members
            }
            _ => u32::MAX,
        }
    }

    /// Forgets a class without members. Says whether it did.
    pub(super) fn remove(&mut self, class: ClassId, groups: &mut Groups) -> bool {
        let Some(Class::Peers {
            base,
            kind,
            members: 0,
        }) = self.get(class)
        else {
            return false;
        };
        self.slab.remove(class.0 - ClassId::FIRST.0);
        self.ids.remove(&(base, kind));
        self.special.remove(&class);
        if let Some(known) = self.bases.get_mut(base.0) {
            known.classes.remove(&kind);
            self.idle_bases.insert(base);
        }
        if let Some(known) = groups.kinds.get_mut(kind.0) {
            known.classes.remove(&base);
            groups.idle.insert(kind);
        }
        true
    }

    /// A class for ports of Services.
    pub(super) fn insert_services(&mut self) -> ClassId {
        ClassId(ClassId::FIRST.0 + self.slab.insert(Class::Services))
    }

    pub(super) fn remove_services(&mut self, class: ClassId) {
        if self.get(class) == Some(Class::Services) {
            self.slab.remove(class.0 - ClassId::FIRST.0);
        }
    }

    /// One past the greatest class in use.
    pub(super) fn end(&self) -> u32 {
        let last = self.slab.iter().last().map_or(0, |(index, _)| index + 1);
        ClassId::FIRST.0 + last
    }

    /// How many classes there are.
    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    /// Brings [`Self::special`] up to date.
    pub(super) fn classify(&mut self, class: ClassId, groups: &Groups) {
        let Some((base, kind)) = self.parts(class) else {
            return;
        };
        let of_base = self.bases.get(base.0).map(|base| &base.signature);
        let of_kind = groups.kinds.get(kind.0).map(|kind| &kind.signature);
        let is_special = of_base.is_some_and(|s| s.in_service_range || s.node.is_some())
            || of_kind.is_some_and(|s| !s.ports.is_empty());
        if is_special {
            self.special.insert(class);
        } else {
            self.special.remove(&class);
        }
    }

    pub(super) fn known_base(&self, signature: &Signature) -> Option<BaseId> {
        self.base_ids.get(signature).copied()
    }

    /// The base with `signature`.
    pub(super) fn intern_base(&mut self, signature: Signature, atoms: &mut Atoms) -> BaseId {
        if let Some(base) = self.base_ids.get(&signature) {
            return *base;
        }
        let base = BaseId(self.bases.insert(Base {
            signature: signature.clone(),
            ..Base::default()
        }));
        for id in &signature.atoms {
            if let Some(atom) = atoms.get_mut(*id) {
                atom.bases.insert(base);
            }
        }
        self.base_ids.insert(signature, base);
        // Whoever asked uses it, or it goes.
        self.idle_bases.insert(base);
        base
    }

    /// Changes what rules see of all addresses of a base. Returns the atoms that hold now or held
    /// before, but not both.
    pub(super) fn relabel_base(
        &mut self,
        base: BaseId,
        signature: Signature,
        atoms: &mut Atoms,
    ) -> Vec<AtomId> {
        let Some(known) = self.bases.get_mut(base.0) else {
            return Vec::new();
        };
        let before = std::mem::replace(&mut known.signature, signature.clone());
        let changed = differing(&before.atoms, &signature.atoms);
        for id in &changed {
            let holds = signature.atoms.binary_search(id).is_ok();
            match atoms.get_mut(*id) {
                Some(atom) if holds => atom.bases.insert(base),
                Some(atom) => atom.bases.remove(&base),
                None => false,
            };
        }
        self.base_ids.remove(&before);
        self.base_ids.insert(signature, base);
        changed
    }

    /// Counts a block of a base, or (`by` -1) one less.
    pub(super) fn count_base(&mut self, base: BaseId, by: i32) {
        if let Some(known) = self.bases.get_mut(base.0) {
            known.refs = known.refs.saturating_add_signed(by);
            if known.refs == 0 {
                self.idle_bases.insert(base);
            }
        }
    }

    /// Forgets a base without blocks and classes.
    pub(super) fn remove_base(&mut self, base: BaseId, atoms: &mut Atoms) {
        let is_idle = |known: &Base| known.refs == 0 && known.classes.is_empty();
        if !self.bases.get(base.0).is_some_and(is_idle) {
            return;
        }
        if let Some(known) = self.bases.remove(base.0) {
            self.base_ids.remove(&known.signature);
            for atom in known.signature.atoms {
                if let Some(atom) = atoms.get_mut(atom) {
                    atom.bases.remove(&base);
                }
            }
        }
    }
}
