// SPDX-License-Identifier: Apache-2.0
//! Which classes of addresses are there, made of which blocks and which pods?

use std::collections::{BTreeMap, BTreeSet};

use super::{
    atoms::{Atoms, Entry},
    groups::{Groups, KindId},
    parts::{Part, Parts},
    slab::Slab,
};
use crate::compile::{ClassId, hash::FastMap, peers::Signature};

/// Addresses that no rule can tell apart but by the pod that owns them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct BaseId(u32);

impl BaseId {
    /// Addresses of which no rule on addresses holds.
    pub(super) const NONE: Self = Self(0);
}

/// Addresses of one signature: the atoms on addresses that hold, and what else sets them apart.
#[derive(Debug, Default)]
pub(super) struct Base {
    pub(super) classes: BTreeMap<KindId, ClassId>,
    /// Blocks of the address lines.
    refs: u32,
}

impl Part for Base {
    type Id = BaseId;
    const NONE: BaseId = BaseId::NONE;

    fn id(number: u32) -> BaseId {
        BaseId(number)
    }

    fn number(BaseId(number): BaseId) -> u32 {
        number
    }

    fn holders(entry: &mut Entry) -> &mut BTreeSet<BaseId> {
        &mut entry.bases
    }

    fn is_idle(&self) -> bool {
        self.refs == 0 && self.classes.is_empty()
    }
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
#[derive(Debug, Default)]
pub(super) struct Classes {
    /// From [`ClassId::FIRST`] on.
    slab: Slab<Class>,
    ids: FastMap<(BaseId, KindId), ClassId>,
    pub(super) bases: Parts<Base>,
    /// Classes that egress rows may treat apart though no rule names them.
    pub(super) special: BTreeSet<ClassId>,
    /// Classes that may have no members left.
    pub(super) idle: BTreeSet<ClassId>,
    /// Bases that may have no classes left.
    pub(super) idle_bases: BTreeSet<BaseId>,
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
        if let Some(known) = self.bases.get_mut(base) {
            known.classes.insert(kind, class);
        }
        if let Some(known) = groups.kinds.get_mut(kind) {
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
        if let Some(known) = self.bases.get_mut(base) {
            known.classes.remove(&kind);
            self.idle_bases.insert(base);
        }
        if let Some(known) = groups.kinds.get_mut(kind) {
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
        let of_base = self.bases.signature(base);
        let of_kind = groups.kinds.signature(kind);
        let is_special = of_base.is_some_and(|s| s.in_service_range || s.node.is_some())
            || of_kind.is_some_and(|s| !s.ports.is_empty());
        if is_special {
            self.special.insert(class);
        } else {
            self.special.remove(&class);
        }
    }

    /// The base with `signature`.
    pub(super) fn intern_base(&mut self, signature: Signature, atoms: &mut Atoms) -> BaseId {
        let (base, is_new) = self.bases.intern(signature, atoms);
        if is_new {
            // Whoever asked uses it, or it goes.
            self.idle_bases.insert(base);
        }
        base
    }

    /// Counts a block of a base, or (`by` -1) one less.
    pub(super) fn count_base(&mut self, base: BaseId, by: i32) {
        if let Some(known) = self.bases.get_mut(base) {
            known.refs = known.refs.saturating_add_signed(by);
            if known.refs == 0 {
                self.idle_bases.insert(base);
            }
        }
    }
}
