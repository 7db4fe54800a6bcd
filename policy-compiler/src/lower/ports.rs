// SPDX-License-Identifier: Apache-2.0
//! Partitions of ports as row entries, uniform cells and port sets.

use policy_ebpf_common::abi::{Cell, PORT_SET_BOUNDARIES, PortSet, RowEntry};

use super::{Entries, Reasons};
use crate::{
    Verdict,
    compile::{DecisionId, Tables},
    model::Tier,
};

/// The lowered port sets of some tables.
pub(super) struct Ports {
    /// Row entry of each of the tables' port sets.
    pub(super) entries: Entries,
    pub(super) uniform: Vec<u32>,
    pub(super) port_sets: Vec<PortSet>,
}

/// Runs that fit one port set.
const RUNS: usize = PORT_SET_BOUNDARIES + 1;

pub(super) fn lower(tables: &Tables, reasons: &mut Reasons) -> Ports {
    let cells: Vec<Cell> = (0..)
        .map(DecisionId)
        .zip(&tables.decisions)
        .map(|(id, decision)| match id {
            DecisionId::NONE => Cell(0),
            DecisionId::DEFER => Cell::new(Cell::DEFER, tier(Tier::Default), false, 0),
            DecisionId(_) => {
                let action = match decision.verdict {
                    Verdict::Allow => Cell::ALLOW,
                    Verdict::Deny => Cell::DENY,
                };
                Cell::new(action, tier(decision.tier), false, reasons.number(decision))
            }
        })
        .collect();
    let cell = |id: DecisionId| cells.get(id.0 as usize).map_or(0, |cell| cell.0);
    // INVARIANT: port set 0 denies, as does every entry that nobody wrote.
    let mut ports = Ports {
        entries: Vec::new(),
        uniform: Vec::new(),
        port_sets: vec![PortSet::default()],
    };
    for map in &tables.port_sets {
        let entry = if let Some(id) = map.as_uniform() {
            ports.uniform.push(cell(*id));
            RowEntry::uniform(truncate(ports.uniform.len() - 1))
        } else {
            let runs: Vec<_> = map
                .runs()
                .iter()
                .map(|(start, id)| (*start, cell(*id)))
                .collect();
            RowEntry::port_set(truncate(add(&mut ports.port_sets, &runs)))
        };
        ports.entries.push(entry);
    }
    ports
}

/// Adds the port sets that find the cell of `runs`, deepest first, and returns the index of the top.
fn add(port_sets: &mut Vec<PortSet>, runs: &[(u32, u32)]) -> usize {
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
        port_sets.push(set);
        return port_sets.len() - 1;
    }
    // As few levels as possible: each part of the top level holds a full subtree.
    let mut part = RUNS;
    while part * RUNS < runs.len() {
        part *= RUNS;
    }
    let tops: Vec<(u32, u32)> = runs
        .chunks(part)
        .map(|part| {
            let child = u32::try_from(add(port_sets, part)).unwrap_or(u32::MAX);
            let start = part.first().map_or(0, |(start, _)| *start);
            (start, Cell::new(Cell::DESCEND, 0, false, child).0)
        })
        .collect();
    add(port_sets, &tops)
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
fn truncate(index: usize) -> u16 {
    u16::try_from(index & 0x7fff).unwrap_or_default()
}
