// SPDX-License-Identifier: Apache-2.0
//! Which changes are the same one? What changes alike in every family, from many groups of sources to
//! many groups of destinations, is said once.

use std::collections::{BTreeMap, BTreeSet};

use super::{Kind, variants::Comparison};
use crate::portmap::PortSet;

/// What changes, without the ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct What {
    pub(super) kind: Kind,
    pub(super) through_service: bool,
    pub(super) ports: PortSet,
}

impl What {
    pub(super) fn of(comparison: &Comparison) -> Self {
        Self {
            kind: comparison.kind,
            through_service: comparison.through_service,
            ports: comparison.ports.clone(),
        }
    }
}

/// One change from some groups to others, by number.
pub(super) struct Merged {
    pub(super) what: What,
    pub(super) sources: Vec<usize>,
    pub(super) destinations: Vec<usize>,
    /// The number of the family; `None` if it is the same in each.
    pub(super) family: Option<usize>,
}

/// In which families what changes between two groups.
#[derive(Default)]
pub(super) struct Grouped {
    numbers: BTreeMap<What, usize>,
    /// By change, destination and source: the families.
    found: BTreeMap<(usize, usize, usize), BTreeSet<usize>>,
}

impl Grouped {
    /// Notes a change from one group to another in one family.
    pub(super) fn add(&mut self, what: What, source: usize, destination: usize, family: usize) {
        let next = self.numbers.len();
        let number = *self.numbers.entry(what).or_insert(next);
        let families = self.found.entry((number, destination, source)).or_default();
        families.insert(family);
    }

    /// The changes, with as many groups together as the same is true of.
    pub(super) fn finish(self, families: usize) -> Vec<Merged> {
        let mut toward: BTreeMap<(usize, Option<usize>, usize), Vec<usize>> = BTreeMap::new();
        for ((what, destination, source), of) in self.found {
            let of: Vec<Option<usize>> = if of.len() == families {
                vec![None]
            } else {
                of.into_iter().map(Some).collect()
            };
            for family in of {
                let sources = toward.entry((what, family, destination)).or_default();
                sources.push(source);
            }
        }
        let mut merged: BTreeMap<(usize, Option<usize>, Vec<usize>), Vec<usize>> = BTreeMap::new();
        for ((what, family, destination), sources) in toward {
            let destinations = merged.entry((what, family, sources)).or_default();
            destinations.push(destination);
        }
        let whats: BTreeMap<usize, What> = self.numbers.into_iter().map(|(a, b)| (b, a)).collect();
        let changes = merged
            .into_iter()
            .filter_map(|((what, family, sources), destinations)| {
                Some(Merged {
                    what: whats.get(&what)?.clone(),
                    sources,
                    destinations,
                    family,
                })
            });
        changes.collect()
    }
}
