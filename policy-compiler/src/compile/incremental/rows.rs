// SPDX-License-Identifier: Apache-2.0
//! What does each ruleset say of each class?

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Compiler, classes::Class, delta::Delta, interned::Interner, slab::Slab};
use crate::{
    compile::{
        ClassId, DecisionId, PortSetId, Row, RowId, Tables,
        hash::FastMap,
        peers::Signature,
        reduce::{Candidate, Exempt, Isolation, Outcome, Situation, explain, reduce},
        rules::{Isolating, Peers, Rule},
        subjects::id,
    },
    model::{ContainerPort, Direction, PolicyRef},
};

/// What concerns pods with equal effective policy in one direction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ruleset {
    pub(super) direction: Direction,
    /// The policies in order of precedence, by their rules in force; see [`super::subjects`].
    pub(super) uses: Vec<u32>,
    /// The subject's container ports that its ingress rules name.
    pub(super) ports: Vec<ContainerPort>,
    /// The subject's node, where NetworkPolicies exempt traffic to it.
    pub(super) node: Option<Arc<str>>,
}

/// A row and what its cells are made from.
#[derive(Debug)]
pub(super) struct RowState {
    pub(super) ruleset: Ruleset,
    /// Pods that use the row.
    pub(super) refs: u32,
    rules: Vec<Arc<Rule>>,
    /// The policies that isolate; `None` if none does.
    isolating: Option<Isolating>,
    /// Indices of rules that match every class.
    everywhere: Vec<u32>,
    names_everywhere: bool,
    port_sets: FastMap<Matching, PortSetId>,
    decisions: FastMap<Outcome, DecisionId>,
}

/// The rules that match a class, and the class's ports where the rules name any.
type Matching = (Vec<u32>, Vec<ContainerPort>, Option<Exempt>);

/// What rules see of a class.
#[derive(Clone, Copy, Debug)]
struct Seen<'a> {
    base: &'a Signature,
    kind: &'a Signature,
}

impl RowState {
    pub(super) fn new(
        ruleset: Ruleset,
        refs: u32,
        rules: Vec<Arc<Rule>>,
        isolating: Option<Isolating>,
    ) -> Self {
        let indexed = (0u32..).zip(&rules);
        let everywhere: Vec<&Arc<Rule>> = rules
            .iter()
            .filter(|rule| matches!(rule.peers, Peers::All))
            .collect();
        Self {
            names_everywhere: everywhere.iter().any(|rule| has_names(rule)),
            everywhere: indexed
                .filter(|(_, rule)| matches!(rule.peers, Peers::All))
                .map(|(index, _)| index)
                .collect(),
            ruleset,
            refs,
            rules,
            isolating,
            port_sets: FastMap::default(),
            decisions: FastMap::default(),
        }
    }

    pub(super) fn is_egress(&self) -> bool {
        self.ruleset.direction == Direction::Egress
    }

    /// Keeps only what is still in use.
    pub(super) fn forget(
        &mut self,
        port_sets: &BTreeSet<PortSetId>,
        decisions: &BTreeSet<DecisionId>,
    ) {
        self.port_sets.retain(|_, known| port_sets.contains(known));
        self.decisions.retain(|_, known| decisions.contains(known));
    }

    /// Whether the cell of a class that no rule names may differ from the others'.
    fn sets_apart(&self, seen: Seen<'_>) -> bool {
        self.is_egress()
            && (seen.base.in_service_range
                || seen.base.node.is_some() && seen.base.node == self.ruleset.node
                || self.names_everywhere && !seen.kind.ports.is_empty())
    }

    /// The cell of a class that the rules in `matching` name.
    fn cell(&mut self, seen: Seen<'_>, matching: &[u32], interner: &mut Interner<'_>) -> PortSetId {
        if self.is_egress() && seen.base.in_service_range {
            return PortSetId::DEFER;
        }
        let own_node = self.ruleset.node.is_some() && seen.base.node == self.ruleset.node;
        let exempt = own_node.then_some(Exempt::LocalNode);
        self.port_set(&seen.kind.ports, matching, exempt, interner)
    }

    fn port_set(
        &mut self,
        class_ports: &[ContainerPort],
        matching: &[u32],
        exempt: Option<Exempt>,
        interner: &mut Interner<'_>,
    ) -> PortSetId {
        let mut matching: Vec<u32> = matching.iter().chain(&self.everywhere).copied().collect();
        matching.sort_unstable();
        let rule = |index: &u32| self.rules.get(*index as usize);
        let named = matching.iter().filter_map(rule).any(|rule| has_names(rule));
        let ports = match self.ruleset.direction {
            _ if !named => Vec::new(),
            Direction::Ingress => self.ruleset.ports.clone(),
            Direction::Egress => class_ports.to_vec(),
        };
        let key = (matching, ports, exempt);
        if let Some(port_set) = self.port_sets.get(&key) {
            return *port_set;
        }
        let (matching, ports, _) = &key;
        let candidate = |index: &u32| {
            Some(Candidate::new(
                *index,
                self.rules.get(*index as usize)?,
                ports,
            ))
        };
        let candidates: Vec<_> = matching.iter().filter_map(candidate).collect();
        let situation = Situation {
            isolation: Isolation::by(self.isolating.as_ref()),
            exempt,
        };
        let outcomes = reduce(&candidates, situation);
        let decisions = outcomes.map(|outcome| {
            *self.decisions.entry(*outcome).or_insert_with(|| {
                let isolating = self.isolating.as_ref();
                interner.decision(explain(*outcome, &self.rules, isolating))
            })
        });
        let port_set = interner.port_set(decisions);
        self.port_sets.insert(key, port_set);
        port_set
    }
}

fn has_names(rule: &Rule) -> bool {
    rule.port_names().next().is_some()
}

/// The rows in force. Row 0 is none.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// Row `i + 1`.
    slab: Slab<RowState>,
    ids: FastMap<Ruleset, RowId>,
    /// Rows that are given up and not yet cleared.
    pub(super) gone: BTreeSet<RowId>,
    /// Rows that are new or built again.
    pub(super) built: BTreeSet<RowId>,
    /// Scratch: the rules that match each class.
    touched: Vec<Vec<u32>>,
}

impl Rows {
    pub(super) fn id(&self, ruleset: &Ruleset) -> Option<RowId> {
        self.ids.get(ruleset).copied()
    }

    pub(super) fn get(&self, row: RowId) -> Option<&RowState> {
        self.slab.get(row.0.checked_sub(1)?)
    }

    pub(super) fn get_mut(&mut self, row: RowId) -> Option<&mut RowState> {
        self.slab.get_mut(row.0.checked_sub(1)?)
    }

    /// Whether no row has the number.
    pub(super) fn is_free(&self, number: usize) -> bool {
        self.get(RowId(id(number))).is_none()
    }

    pub(super) fn ids(&self) -> Vec<RowId> {
        self.slab
            .iter()
            .map(|(index, _)| RowId(index + 1))
            .collect()
    }

    /// Rows of pods' outgoing traffic.
    pub(super) fn egress(&self) -> Vec<RowId> {
        let rows = self.slab.iter().filter(|(_, row)| row.is_egress());
        rows.map(|(index, _)| RowId(index + 1)).collect()
    }

    /// Adds a row, under the number `wanted` if that is free.
    pub(super) fn insert(&mut self, wanted: Option<RowId>, state: RowState) -> RowId {
        let wanted = wanted.and_then(|row| row.0.checked_sub(1));
        let ruleset = state.ruleset.clone();
        let row = RowId(self.slab.insert_at(wanted, state) + 1);
        self.ids.insert(ruleset, row);
        self.gone.remove(&row);
        row
    }

    pub(super) fn remove(&mut self, row: RowId) -> Option<RowState> {
        let state = self.slab.remove(row.0.checked_sub(1)?)?;
        self.ids.remove(&state.ruleset);
        self.gone.insert(row);
        self.built.remove(&row);
        Some(state)
    }

    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }
}

impl Compiler {
    fn seen(&self, class: ClassId) -> Option<Seen<'_>> {
        let (base, kind) = self.classes.parts(class)?;
        Some(Seen {
            base: self.classes.bases.signature(base)?,
            kind: self.groups.kinds.signature(kind)?,
        })
    }

    /// The rules of each row that name a class, in order.
    fn naming(&self, class: ClassId) -> BTreeMap<RowId, Vec<u32>> {
        let mut naming: BTreeMap<RowId, Vec<u32>> = BTreeMap::new();
        let Some(seen) = self.seen(class) else {
            return naming;
        };
        let atoms = seen.base.atoms.iter().chain(&seen.kind.atoms);
        for entry in atoms.filter_map(|atom| self.atoms.get(*atom)) {
            for (row, rules) in &entry.users {
                naming.entry(*row).or_default().extend_from_slice(rules);
            }
        }
        for rules in naming.values_mut() {
            rules.sort_unstable();
            rules.dedup();
        }
        naming
    }

    /// Computes what every row says of a class.
    pub(super) fn fill_column(&mut self, class: ClassId) {
        if self.rows.len() == 0 {
            return;
        }
        let naming = self.naming(class);
        let Some((base, kind)) = self.classes.parts(class) else {
            return;
        };
        let Self {
            classes,
            groups,
            rows,
            interned,
            tables,
            delta,
            ..
        } = self;
        let (Some(base), Some(kind)) =
            (classes.bases.signature(base), groups.kinds.signature(kind))
        else {
            return;
        };
        let seen = Seen { base, kind };
        for row in rows.ids() {
            let Some(state) = rows.get_mut(row) else {
                continue;
            };
            let matching = naming.get(&row);
            let cell = if matching.is_some() || state.sets_apart(seen) {
                let matching = matching.map_or(&[][..], Vec::as_slice);
                let mut interner = Interner {
                    known: &mut *interned,
                    tables: &mut *tables,
                    delta: &mut *delta,
                };
                Some(state.cell(seen, matching, &mut interner))
            } else {
                None
            };
            set_cell(tables, delta, row, class, cell);
        }
    }

    /// Computes what a row says of every class.
    pub(super) fn build_row(&mut self, row: RowId) {
        let Self {
            classes,
            groups,
            atoms,
            rows,
            interned,
            tables,
            delta,
            ..
        } = self;
        let mut touched = std::mem::take(&mut rows.touched);
        touched.resize_with(tables.classes as usize, Vec::new);
        let Some(state) = rows.get_mut(row) else {
            return;
        };
        let mut particular: Vec<ClassId> = Vec::new();
        for (index, rule) in (0u32..).zip(&state.rules) {
            let Peers::Any(of_rule) = &rule.peers else {
                continue;
            };
            for entry in of_rule.iter().filter_map(|atom| atoms.get(*atom)) {
                let kinds = entry
                    .kinds
                    .iter()
                    .filter_map(|kind| groups.kinds.get(*kind));
                let bases = entry
                    .bases
                    .iter()
                    .filter_map(|base| classes.bases.get(*base));
                let of_kinds = kinds.flat_map(|kind| kind.classes.values());
                for class in of_kinds.chain(bases.flat_map(|base| base.classes.values())) {
                    if let Some(matching) = touched.get_mut(class.0 as usize)
                        && matching.last() != Some(&index)
                    {
                        if matching.is_empty() {
                            particular.push(*class);
                        }
                        matching.push(index);
                    }
                }
            }
        }
        let named = particular.len();
        if state.is_egress() {
            particular.extend(&classes.special);
        }
        let mut interner = Interner {
            known: interned,
            tables,
            delta,
        };
        let common = state.port_set(&[], &[], None, &mut interner);
        // No rule but one that matches everything can name the pod's own node as a source, or as a
        // destination whose address is unknown.
        let exempt = !state.is_egress() || state.ruleset.node.is_some();
        let exempt = exempt.then_some(Exempt::LocalNode);
        let host = state.port_set(&[], &[], exempt, &mut interner);
        let mut cells = vec![(ClassId::HOST, host)];
        for class in &particular {
            let Some((base, kind)) = classes.parts(*class) else {
                continue;
            };
            let (Some(base), Some(kind)) =
                (classes.bases.signature(base), groups.kinds.signature(kind))
            else {
                continue;
            };
            let seen = Seen { base, kind };
            let matching = touched.get(class.0 as usize).map_or(&[][..], Vec::as_slice);
            if matching.is_empty() && !state.sets_apart(seen) {
                continue;
            }
            let cell = state.cell(seen, matching, &mut interner);
            if cell != common {
                cells.push((*class, cell));
            }
        }
        for class in particular.iter().take(named) {
            if let Some(matching) = touched.get_mut(class.0 as usize) {
                matching.clear();
            }
        }
        let policies = policies(&state.rules);
        let is_egress = state.is_egress();
        rows.touched = touched;
        rows.built.insert(row);
        if tables.rows.len() <= row.0 as usize {
            tables.rows.resize_with(row.0 as usize + 1, Row::default);
        }
        let Some(known) = tables.rows.get_mut(row.0 as usize) else {
            return;
        };
        // What the row says of Services follows when the Services are looked at.
        let of_services = |class| is_egress && classes.get(class) == Some(Class::Services);
        cells.extend(
            known
                .classes
                .iter()
                .filter(|(class, _)| of_services(*class)),
        );
        cells.sort_unstable();
        cells.dedup();
        let built = Row {
            common,
            classes: cells,
            policies,
        };
        if *known != built {
            *known = built;
            delta.rows.insert(row);
        }
    }

    /// What a row says of a pod's traffic to itself through a Service.
    pub(super) fn own_port_set(&mut self, row: RowId, class: ClassId) -> PortSetId {
        let naming = self.naming(class);
        let Some((_, kind)) = self.classes.parts(class) else {
            return PortSetId::NONE;
        };
        let Self {
            groups,
            rows,
            interned,
            tables,
            delta,
            ..
        } = self;
        let (Some(state), Some(kind)) = (rows.get_mut(row), groups.kinds.signature(kind)) else {
            return PortSetId::NONE;
        };
        let matching = naming.get(&row).map_or(&[][..], Vec::as_slice);
        let mut interner = Interner {
            known: interned,
            tables,
            delta,
        };
        let exempt = Some(Exempt::SelfTraffic);
        state.port_set(&kind.ports, matching, exempt, &mut interner)
    }

    /// Notes which rules of a row name which atoms, or forgets it.
    pub(super) fn name_atoms(&mut self, row: RowId, state: Option<&RowState>) {
        let Self { rows, atoms, .. } = self;
        let is_gone = state.is_some();
        let Some(state) = state.or_else(|| rows.get(row)) else {
            return;
        };
        for (index, rule) in (0u32..).zip(&state.rules) {
            let Peers::Any(of_rule) = &rule.peers else {
                continue;
            };
            for atom in of_rule {
                let Some(entry) = atoms.get_mut(*atom) else {
                    continue;
                };
                if is_gone {
                    entry.users.remove(&row);
                } else {
                    entry.users.entry(row).or_default().push(index);
                }
            }
        }
    }
}

/// Sets what a row says of a class; `None` is what it says of all classes that are not listed.
pub(super) fn set_cell(
    tables: &mut Tables,
    delta: &mut Delta,
    row: RowId,
    class: ClassId,
    port_set: Option<PortSetId>,
) {
    let Some(known) = tables.rows.get_mut(row.0 as usize) else {
        return;
    };
    let port_set = port_set.filter(|port_set| *port_set != known.common);
    let at = known
        .classes
        .binary_search_by_key(&class, |(class, _)| *class);
    let before = at
        .ok()
        .and_then(|at| known.classes.get(at))
        .map(|(_, before)| *before);
    if before == port_set {
        return;
    }
    match (at, port_set) {
        (Ok(at), Some(port_set)) => known.classes[at] = (class, port_set),
        (Ok(at), None) => {
            known.classes.remove(at);
        }
        (Err(at), Some(port_set)) => known.classes.insert(at, (class, port_set)),
        (Err(_), None) => {}
    }
    delta.cells.insert((row, class));
}

/// The policies that rules belong to, sorted.
fn policies(rules: &[Arc<Rule>]) -> Vec<Arc<str>> {
    let mut policies: Vec<&PolicyRef> = rules.iter().map(|rule| &rule.reference.policy).collect();
    policies.dedup();
    let mut names: Vec<Arc<str>> = policies
        .into_iter()
        .map(|policy| policy.to_string().into())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}
