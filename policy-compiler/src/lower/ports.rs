// SPDX-License-Identifier: Apache-2.0
//! Partitions of ports as row entries, uniform cells and port sets.

use policy_ebpf_common::abi::{Cell, PORT_SET_BOUNDARIES, PortSet, RowEntry};

use super::{Entries, Reasons};
use crate::{
    Verdict,
    compile::{DecisionId, PortSetId, Tables},
    model::Tier,
};

/// The lowered port sets of some tables.
#[derive(Clone, Debug, Default)]
pub(super) struct Ports {
    /// Row entry of each of the tables' port sets.
    pub(super) entries: Entries,
    pub(super) uniform: Pool<u32>,
    pub(super) port_sets: Pool<PortSet>,
    /// What each of the tables' port sets takes.
    held: Vec<Held>,
}

/// What a port set of the tables takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Held {
    #[default]
    Nothing,
    Uniform(u32),
    PortSets(Vec<u32>),
}

/// Entries of a map that come and go.
#[derive(Clone, Debug, Default)]
pub(super) struct Pool<T> {
    pub(super) entries: Vec<T>,
    free: Vec<u32>,
}

impl<T> Pool<T> {
    fn insert(&mut self, value: T) -> u32 {
        if let Some(free) = self.free.pop()
            && let Some(entry) = self.entries.get_mut(free as usize)
        {
            *entry = value;
            return free;
        }
        self.entries.push(value);
        u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX)
    }

    /// How many more entries fit.
    pub(super) fn room(&self, capacity: u32) -> usize {
        (capacity as usize + self.free.len()).saturating_sub(self.entries.len())
    }
}

/// Runs that fit one port set.
const RUNS: usize = PORT_SET_BOUNDARIES + 1;

/// At most so many port sets hold this many runs.
pub(super) const fn port_sets_for(runs: usize) -> usize {
    // Each level has a 32nd of the one below.
    runs.div_ceil(RUNS) * 2
}

pub(super) fn lower(tables: &Tables, reasons: &mut Reasons) -> Ports {
    let mut ports = Ports {
        // Port set 0 denies, as does every entry that nobody wrote.
        port_sets: Pool {
            entries: vec![PortSet::default()],
            free: Vec::new(),
        },
        ..Ports::default()
    };
    for id in (0..tables.port_sets.len()).filter_map(|id| u32::try_from(id).ok()) {
        ports.set(PortSetId(id), tables, reasons);
    }
    ports
}

impl Ports {
    /// Lowers a port set of the tables, in the place of what had its number before.
    pub(super) fn set(&mut self, id: PortSetId, tables: &Tables, reasons: &mut Reasons) {
        self.release(id);
        let Some(map) = tables.port_sets.get(id.0 as usize) else {
            return;
        };
        let (entry, held) = if let Some(decision) = map.as_uniform() {
            let cell = self.uniform.insert(cell(*decision, tables, reasons).0);
            (RowEntry::uniform(truncate(cell)), Held::Uniform(cell))
        } else {
            let runs = map.runs().iter();
            let runs: Vec<_> = runs
                .map(|(start, id)| (*start, cell(*id, tables, reasons).0))
                .collect();
            let mut held = Vec::new();
            let top = self.add(&runs, &mut held);
            (RowEntry::port_set(truncate(top)), Held::PortSets(held))
        };
        let index = id.0 as usize;
        if self.entries.len() <= index {
            self.entries.resize(index + 1, RowEntry(0));
            self.held.resize(index + 1, Held::Nothing);
        }
        self.entries[index] = entry;
        self.held[index] = held;
    }

    /// Frees what a port set of the tables took.
    pub(super) fn release(&mut self, id: PortSetId) {
        let Some(held) = self.held.get_mut(id.0 as usize) else {
            return;
        };
        match std::mem::take(held) {
            Held::Nothing => {}
            Held::Uniform(cell) => self.uniform.free.push(cell),
            Held::PortSets(sets) => self.port_sets.free.extend(sets),
        }
    }

    /// Adds the port sets that find the cell of `runs`, deepest first, and returns the index of the top.
    fn add(&mut self, runs: &[(u32, u32)], held: &mut Vec<u32>) -> u32 {
        if runs.len() <= RUNS {
            let mut set = PortSet {
                boundaries: [u32::MAX; PORT_SET_BOUNDARIES],
                ..PortSet::default()
            };
            let starts = runs.iter().skip(1).map(|(start, _)| *start);
            set.boundaries
                .iter_mut()
                .zip(starts)
                .for_each(|(boundary, start)| *boundary = start);
            set.cells
                .iter_mut()
                .zip(runs)
                .for_each(|(cell, (_, value))| *cell = *value);
            let index = self.port_sets.insert(set);
            held.push(index);
            return index;
        }
        // As few levels as possible: each part of the top level holds a full subtree.
        let mut part = RUNS;
        while part * RUNS < runs.len() {
            part *= RUNS;
        }
        let tops: Vec<(u32, u32)> = runs
            .chunks(part)
            .map(|part| {
                let child = self.add(part, held);
                let start = part.first().map_or(0, |(start, _)| *start);
                (start, Cell::new(Cell::DESCEND, 0, false, child).0)
            })
            .collect();
        self.add(&tops, held)
    }
}

fn cell(id: DecisionId, tables: &Tables, reasons: &mut Reasons) -> Cell {
    match (id, tables.decisions.get(id.0 as usize)) {
        (DecisionId::NONE, _) | (_, None) => Cell(0),
        (DecisionId::DEFER, _) => Cell::new(Cell::DEFER, tier(Tier::Default), false, 0),
        (_, Some(decision)) => {
            // An audited denial is one of the table, which the datapath reports and does not enforce.
            let with_all = decision.with_all();
            let action = match with_all.verdict {
                Verdict::Allow => Cell::ALLOW,
                Verdict::Deny => Cell::DENY,
            };
            let audited = decision.audited.is_some();
            let reason = reasons.number(decision);
            Cell::new(action, tier(with_all.tier), audited, reason)
        }
    }
}

/// The tier's number in [`Cell::new`].
fn tier(tier: Tier) -> u32 {
    match tier {
        Tier::Admin => 0,
        Tier::NetworkPolicy => 1,
        Tier::Baseline => 2,
        Tier::Default => 3,
    }
}

/// Indices beyond the entry's 15 bits are refused by the capacity check that follows.
fn truncate(index: u32) -> u16 {
    u16::try_from(index & 0x7fff).unwrap_or_default()
}
