// SPDX-License-Identifier: Apache-2.0
//! Which numbers do port sets and decisions have, and which are free again?

use std::{collections::BTreeSet, sync::Arc};

use super::{Compiler, delta::Delta, nothing};
use crate::{
    Decision, Verdict,
    compile::{DecisionId, PortSetId, Tables, hash::FastMap, subjects::id},
    portmap::PortMap,
};

/// Finds the numbers of port sets and decisions.
#[derive(Debug)]
pub(super) struct Interner<'a> {
    pub(super) known: &'a mut Interned,
    pub(super) tables: &'a mut Tables,
    pub(super) delta: &'a mut Delta,
}

/// The numbers of port sets and decisions.
#[derive(Debug, Default)]
pub(super) struct Interned {
    port_sets: FastMap<PortMap<DecisionId>, PortSetId>,
    decisions: FastMap<Arc<Decision>, DecisionId>,
    free_port_sets: BTreeSet<PortSetId>,
    free_decisions: BTreeSet<DecisionId>,
    /// How many port sets were in use when they were last counted.
    counted: usize,
}

/// Numbers below this are given out for good.
const RESERVED: u32 = 2;

impl Interner<'_> {
    pub(super) fn port_set(&mut self, map: PortMap<DecisionId>) -> PortSetId {
        if map.as_uniform() == Some(&DecisionId::DEFER) {
            return PortSetId::DEFER;
        }
        if let Some(port_set) = self.known.port_sets.get(&map) {
            return *port_set;
        }
        let list = &mut self.tables.port_sets;
        let port_set = if let Some(free) = self.known.free_port_sets.pop_first() {
            if let Some(entry) = list.get_mut(free.0 as usize) {
                *entry = map.clone();
            }
            free
        } else {
            list.push(map.clone());
            PortSetId(id(list.len() - 1))
        };
        self.known.port_sets.insert(map, port_set);
        self.delta.port_sets.insert(port_set);
        port_set
    }

    pub(super) fn decision(&mut self, decision: Decision) -> DecisionId {
        let decision = Arc::new(decision);
        if let Some(known) = self.known.decisions.get(&decision) {
            return *known;
        }
        let list = &mut self.tables.decisions;
        let number = if let Some(free) = self.known.free_decisions.pop_first() {
            if let Some(entry) = list.get_mut(free.0 as usize) {
                *entry = decision.clone();
            }
            free
        } else {
            list.push(decision.clone());
            DecisionId(id(list.len() - 1))
        };
        self.known.decisions.insert(decision, number);
        number
    }
}

impl Compiler {
    /// Forgets port sets and decisions that nothing refers to any more, if there may be many.
    pub(super) fn collect_garbage(&mut self) {
        let total = self.tables.port_sets.len() - self.interned.free_port_sets.len();
        if total <= 2 * self.interned.counted + 256 {
            return;
        }
        let mut used: BTreeSet<PortSetId> = (0..RESERVED).map(PortSetId).collect();
        for row in &self.tables.rows {
            used.insert(row.common);
            used.extend(row.classes.iter().map(|(_, port_set)| *port_set));
        }
        for pod in self.tables.pods.values() {
            used.extend(
                pod.own
                    .iter()
                    .flat_map(|(ingress, egress)| [*ingress, *egress]),
            );
        }
        let mut decided: BTreeSet<DecisionId> = (0..RESERVED).map(DecisionId).collect();
        for (number, map) in (0..).map(PortSetId).zip(&mut self.tables.port_sets) {
            if used.contains(&number) {
                decided.extend(map.runs().iter().map(|(_, decision)| *decision));
            } else if self.interned.free_port_sets.insert(number) {
                *map = PortMap::uniform(DecisionId::NONE);
                self.delta.unused_port_sets.insert(number);
            }
        }
        for (number, decision) in (0..).map(DecisionId).zip(&mut self.tables.decisions) {
            if !decided.contains(&number) && self.interned.free_decisions.insert(number) {
                *decision = nothing(Verdict::Deny);
            }
        }
        self.interned
            .port_sets
            .retain(|_, port_set| used.contains(port_set));
        self.interned
            .decisions
            .retain(|_, decision| decided.contains(decision));
        for row in self.rows.ids() {
            if let Some(state) = self.rows.get_mut(row) {
                state.forget(&used, &decided);
            }
        }
        self.interned.counted = used.len();
    }
}
