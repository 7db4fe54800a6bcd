// SPDX-License-Identifier: Apache-2.0
//! What classes are made of, by what rules see of it: an address has a base, a pod has a kind.

use std::collections::BTreeSet;

use super::{
    atoms::{Atoms, Entry},
    slab::Slab,
};
use crate::compile::{hash::FastMap, peers::Signature, rules::AtomId};

/// One half of a class.
pub(super) trait Part: Default {
    type Id: Copy + Ord;
    /// What nothing is seen of. Never forgotten.
    const NONE: Self::Id;

    fn id(number: u32) -> Self::Id;
    fn number(id: Self::Id) -> u32;
    /// The parts of which an atom holds.
    fn holders(entry: &mut Entry) -> &mut BTreeSet<Self::Id>;
    /// Nobody needs it any more.
    fn is_idle(&self) -> bool;
}

/// All parts of one sort, each with a signature of its own.
#[derive(Debug)]
pub(super) struct Parts<P: Part> {
    slab: Slab<(Signature, P)>,
    ids: FastMap<Signature, P::Id>,
}

impl<P: Part> Default for Parts<P> {
    fn default() -> Self {
        let mut slab = Slab::default();
        let none = slab.insert(Default::default());
        debug_assert_eq!(none, P::number(P::NONE));
        Self {
            slab,
            ids: [(Signature::default(), P::NONE)].into_iter().collect(),
        }
    }
}

impl<P: Part> Parts<P> {
    pub(super) fn get(&self, id: P::Id) -> Option<&P> {
        let (_, part) = self.slab.get(P::number(id))?;
        Some(part)
    }

    pub(super) fn get_mut(&mut self, id: P::Id) -> Option<&mut P> {
        let (_, part) = self.slab.get_mut(P::number(id))?;
        Some(part)
    }

    /// What rules see of all that is made of the part.
    pub(super) fn signature(&self, id: P::Id) -> Option<&Signature> {
        let (signature, _) = self.slab.get(P::number(id))?;
        Some(signature)
    }

    pub(super) fn known(&self, signature: &Signature) -> Option<P::Id> {
        self.ids.get(signature).copied()
    }

    /// The part with `signature`, and whether it is a new one.
    pub(super) fn intern(&mut self, signature: Signature, atoms: &mut Atoms) -> (P::Id, bool) {
        if let Some(id) = self.ids.get(&signature) {
            return (*id, false);
        }
        let id = P::id(self.slab.insert((signature.clone(), P::default())));
        for atom in &signature.atoms {
            if let Some(entry) = atoms.get_mut(*atom) {
                P::holders(entry).insert(id);
            }
        }
        self.ids.insert(signature, id);
        (id, true)
    }

    /// Changes what rules see of all that is made of a part. Returns the atoms that hold now or held
    /// before, but not both.
    pub(super) fn relabel(
        &mut self,
        id: P::Id,
        signature: Signature,
        atoms: &mut Atoms,
    ) -> Vec<AtomId> {
        let Some((known, _)) = self.slab.get_mut(P::number(id)) else {
            return Vec::new();
        };
        let before = std::mem::replace(known, signature.clone());
        let changed = differing(&before.atoms, &signature.atoms);
        for atom in &changed {
            let holds = signature.atoms.binary_search(atom).is_ok();
            match atoms.get_mut(*atom) {
                Some(entry) if holds => P::holders(entry).insert(id),
                Some(entry) => P::holders(entry).remove(&id),
                None => false,
            };
        }
        self.ids.remove(&before);
        self.ids.insert(signature, id);
        changed
    }

    /// Forgets a part that nobody needs.
    pub(super) fn remove(&mut self, id: P::Id, atoms: &mut Atoms) {
        if id == P::NONE || !self.get(id).is_some_and(P::is_idle) {
            return;
        }
        if let Some((signature, _)) = self.slab.remove(P::number(id)) {
            self.ids.remove(&signature);
            for atom in &signature.atoms {
                if let Some(entry) = atoms.get_mut(*atom) {
                    P::holders(entry).remove(&id);
                }
            }
        }
    }
}

/// What is in one of two sorted lists, but not in both.
fn differing(a: &[AtomId], b: &[AtomId]) -> Vec<AtomId> {
    let only_a = a.iter().filter(|id| b.binary_search(id).is_err());
    let only_b = b.iter().filter(|id| a.binary_search(id).is_err());
    only_a.chain(only_b).copied().collect()
}
