// SPDX-License-Identifier: Apache-2.0
//! Numbered things that come and go.

use std::collections::BTreeSet;

/// Things by number. Numbers of things that are gone are given out again, the lowest first.
#[derive(Clone, Debug)]
pub(super) struct Slab<T> {
    entries: Vec<Option<T>>,
    free: BTreeSet<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            free: BTreeSet::new(),
        }
    }
}

impl<T> Slab<T> {
    /// Adds `value` and returns its number.
    pub(super) fn insert(&mut self, value: T) -> u32 {
        let wanted = self.free.first().copied();
        self.insert_at(wanted, value)
    }

    /// Adds `value` under the number `wanted` if that is free.
    pub(super) fn insert_at(&mut self, wanted: Option<u32>, value: T) -> u32 {
        let id = wanted
            .filter(|wanted| self.free.remove(wanted))
            .or_else(|| self.free.pop_first());
        if let Some(id) = id {
            if let Some(entry) = self.entries.get_mut(id as usize) {
                *entry = Some(value);
            }
            return id;
        }
        self.entries.push(Some(value));
        crate::compile::subjects::id(self.entries.len() - 1)
    }

    /// Removes and returns what has the number.
    pub(super) fn remove(&mut self, id: u32) -> Option<T> {
        let removed = self.entries.get_mut(id as usize)?.take()?;
        self.free.insert(id);
        Some(removed)
    }

    pub(super) fn get(&self, id: u32) -> Option<&T> {
        self.entries.get(id as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        self.entries.get_mut(id as usize)?.as_mut()
    }

    /// Everything, by number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let entries = (0..).zip(&self.entries);
        entries.filter_map(|(id, entry)| Some((id, entry.as_ref()?)))
    }

    /// How many things there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }
}
