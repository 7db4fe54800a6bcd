// SPDX-License-Identifier: Apache-2.0
//! What each ruleset says of each class, as interned port sets and decisions.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    ClassId, DecisionId, PodTable, PortSetId, Row, RowId,
    hash::FastMap,
    matching::{ListId, Matching},
    peers::{Peers, Signature},
    reduce::{By, Candidate, Exempt, Isolation, Outcome, Situation, explain, reduce},
    rules::{AtomId, Isolating, Peers as RulePeers, Rule},
    subjects::{RuleId, Ruleset, RulesetId, Subjects, id},
};
use crate::{
    Decision, Reason, Verdict,
    model::{ContainerPort, Direction, Tier},
    portmap::PortMap,
};

/// Builds rows, and interns what they share.
pub(super) struct Builder<'a> {
    subjects: &'a Subjects<'a>,
    peers: &'a Peers,
    /// Classes in which each atom holds.
    classes_of_atom: Vec<Vec<ClassId>>,
    /// Classes that egress rows may treat apart though no rule names them.
    special: Vec<ClassId>,
    decisions: Vec<Arc<Decision>>,
    decision_ids: FastMap<GlobalOutcome, DecisionId>,
    port_sets: Vec<PortMap<DecisionId>>,
    port_set_ids: FastMap<PortMap<DecisionId>, PortSetId>,
}

/// The rows of all rulesets.
pub(super) struct Rows {
    /// As [`super::Tables::rows`].
    pub(super) rows: Vec<Row>,
    /// Port set of the subject's own class per ruleset and class, for traffic through a Service.
    own: FastMap<(RulesetId, ClassId), PortSetId>,
}

/// An [`Outcome`] whose indices mean the same for every ruleset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct GlobalOutcome {
    by: GlobalBy,
    passed: [Option<RuleId>; 2],
    audited: Option<GlobalBy>,
}

/// A [`By`] whose indices mean the same for every ruleset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum GlobalBy {
    Rule(RuleId),
    /// Index into [`Subjects::isolating`].
    Isolated(u32),
    Exempt(Exempt),
    Default,
}

impl<'a> Builder<'a> {
    pub(super) fn new(subjects: &'a Subjects<'a>, peers: &'a Peers) -> Self {
        let mut classes_of_atom = vec![Vec::new(); subjects.atoms.0.len()];
        for (class, signature) in (ClassId::FIRST.0..).map(ClassId).zip(&peers.signatures) {
            for atom in &signature.atoms {
                if let Some(classes) = classes_of_atom.get_mut(atom.0 as usize) {
                    classes.push(class);
                }
            }
        }
        let is_special = |signature: &Signature| {
            signature.in_service_range || signature.node.is_some() || !signature.ports.is_empty()
        };
        let special = (ClassId::FIRST.0..)
            .map(ClassId)
            .zip(&peers.signatures)
            .filter(|(_, signature)| is_special(signature))
            .map(|(class, _)| class)
            .collect();
        let nothing = |verdict| {
            Arc::new(Decision {
                verdict,
                tier: Tier::Default,
                reason: Reason::Default,
                passed: vec![],
                audited: None,
            })
        };
        Self {
            subjects,
            peers,
            classes_of_atom,
            special,
            decisions: vec![nothing(Verdict::Deny), nothing(Verdict::Allow)],
            decision_ids: FastMap::default(),
            port_sets: vec![
                PortMap::uniform(DecisionId::NONE),
                PortMap::uniform(DecisionId::DEFER),
            ],
            port_set_ids: FastMap::default(),
        }
    }

    /// Builds the row of every ruleset.
    pub(super) fn rows(&mut self) -> Rows {
        let mut own_classes: FastMap<RulesetId, Vec<ClassId>> = FastMap::default();
        for (subject, classes) in self.subjects.pods.iter().zip(&self.peers.subjects) {
            for ruleset in [subject.ingress, subject.egress].into_iter().flatten() {
                own_classes.entry(ruleset).or_default().extend(classes);
            }
        }
        let mut rows = Rows {
            rows: vec![Row::default()],
            own: FastMap::default(),
        };
        let mut matching = Matching::new(self.peers.class_count());
        for (ruleset_id, ruleset) in (0..).map(RulesetId).zip(&self.subjects.rulesets) {
            let mut own = own_classes.remove(&ruleset_id).unwrap_or_default();
            own.sort_unstable();
            own.dedup();
            let mut row = RowBuilder::new(self, ruleset, &mut matching);
            rows.rows.push(row.row());
            for class in own {
                let port_set = row.port_set(class, Some(Exempt::SelfTraffic));
                rows.own.insert((ruleset_id, class), port_set);
            }
        }
        rows
    }

    /// The tables of the pods in scope.
    pub(super) fn pods(&self, rows: &Rows) -> BTreeMap<crate::model::PodKey, PodTable> {
        // INVARIANT: row 0 is none, so ruleset `i` has row `i + 1`.
        let row = |ruleset: Option<RulesetId>| ruleset.map(|RulesetId(index)| RowId(index + 1));
        let subjects = self.subjects.pods.iter().zip(&self.peers.subjects);
        let tables = subjects.map(|(subject, classes)| {
            let own = |ruleset: Option<RulesetId>, class: ClassId| {
                ruleset
                    .and_then(|ruleset| rows.own.get(&(ruleset, class)).copied())
                    .unwrap_or_default()
            };
            let table = PodTable {
                ingress: row(subject.ingress),
                egress: row(subject.egress),
                own: classes.map(|class| (own(subject.ingress, class), own(subject.egress, class))),
                classes: *classes,
                addresses: subject.pod.addresses.clone(),
            };
            (subject.pod.key.clone(), table)
        });
        tables.collect()
    }

    pub(super) fn port_sets(&mut self) -> Vec<PortMap<DecisionId>> {
        std::mem::take(&mut self.port_sets)
    }

    pub(super) fn decisions(&mut self) -> Vec<Arc<Decision>> {
        std::mem::take(&mut self.decisions)
    }

    fn intern_port_set(&mut self, port_set: PortMap<DecisionId>) -> PortSetId {
        let list = &mut self.port_sets;
        *self
            .port_set_ids
            .entry(port_set)
            .or_insert_with_key(|port_set| {
                list.push(port_set.clone());
                PortSetId(id(list.len() - 1))
            })
    }
}

/// The rules that match a class, the class's ports where the rules name any, and what is exempt.
type Particular = (ListId, Vec<ContainerPort>, Option<Exempt>);

struct RowBuilder<'b, 'a> {
    builder: &'b mut Builder<'a>,
    ruleset: &'b Ruleset,
    rules: Vec<&'b Rule>,
    /// Indices of rules that match every class.
    everywhere: Vec<u32>,
    matching: &'b Matching,
    /// Whether any rule names ports.
    names: bool,
    /// Port sets by the list of rules that match a class, where nothing else about the class matters.
    plain: Vec<Option<PortSetId>>,
    /// The others.
    particular: FastMap<Particular, PortSetId>,
}

impl<'b, 'a: 'b> RowBuilder<'b, 'a> {
    /// Notes in `matching` which rules match each class.
    fn new(builder: &'b mut Builder<'a>, ruleset: &'b Ruleset, matching: &'b mut Matching) -> Self {
        let subjects = builder.subjects;
        let rules = ruleset.rules.iter();
        let rules: Vec<_> = rules
            .filter_map(|rule| subjects.rules.get(rule.0 as usize))
            .collect();
        matching.clear();
        let mut everywhere = Vec::new();
        for (index, rule) in (0u32..).zip(&rules) {
            let RulePeers::Any(atoms) = &rule.peers else {
                everywhere.push(index);
                continue;
            };
            let of_atom = |atom: &AtomId| builder.classes_of_atom.get(atom.0 as usize);
            for class in atoms.iter().filter_map(of_atom).flatten() {
                matching.add(index, *class);
            }
        }
        Self {
            builder,
            ruleset,
            names: rules.iter().any(|rule| rule.port_names().next().is_some()),
            rules,
            everywhere,
            matching,
            plain: Vec::new(),
            particular: FastMap::default(),
        }
    }

    /// The classes whose port set may differ from that of the class that nothing is known of, sorted.
    fn particular(&self) -> Vec<ClassId> {
        let mut classes = self.matching.classes().to_vec();
        if self.ruleset.direction == Direction::Egress {
            let names_everywhere = self.everywhere.iter().any(|index| self.has_names(*index));
            let special = &self.builder.special;
            classes.extend(special.iter().copied().filter(|class| {
                self.builder
                    .peers
                    .signature(*class)
                    .is_some_and(|signature| {
                        signature.in_service_range
                            || signature.node.is_some() && signature.node == self.ruleset.node
                            || names_everywhere && !signature.ports.is_empty()
                    })
            }));
        }
        classes.sort_unstable();
        classes.dedup();
        classes
    }

    fn row(&mut self) -> Row {
        let is_egress = self.ruleset.direction == Direction::Egress;
        let common = self.port_set_of(ClassId::FIRST, ListId::EMPTY, None);
        // No rule but one that matches everything can name the pod's own node as a source, or as a
        // destination whose address is unknown.
        let exempt = !is_egress || self.ruleset.node.is_some();
        let host = self.port_set_of(
            ClassId::HOST,
            ListId::EMPTY,
            exempt.then_some(Exempt::LocalNode),
        );
        let mut row = vec![(ClassId::HOST, host)];
        for class in self.particular() {
            let signature = self.builder.peers.signature(class);
            let port_set = if is_egress && signature.is_some_and(|s| s.in_service_range) {
                PortSetId::DEFER
            } else {
                let own_node = self.ruleset.node.is_some()
                    && signature.is_some_and(|signature| signature.node == self.ruleset.node);
                self.port_set(class, own_node.then_some(Exempt::LocalNode))
            };
            if port_set != common {
                row.push((class, port_set));
            }
        }
        Row {
            common,
            classes: row,
            policies: self.policies(),
        }
    }

    fn has_names(&self, index: u32) -> bool {
        let rule = self.rules.get(index as usize);
        rule.is_some_and(|rule| rule.port_names().next().is_some())
    }

    fn port_set(&mut self, class: ClassId, exempt: Option<Exempt>) -> PortSetId {
        self.port_set_of(class, self.matching.of(class), exempt)
    }

    /// The port set of a class that the rules of a list match.
    fn port_set_of(&mut self, class: ClassId, list: ListId, exempt: Option<Exempt>) -> PortSetId {
        if !self.names && exempt.is_none() {
            if let Some(Some(known)) = self.plain.get(list.index()) {
                return *known;
            }
            let port_set = self.reduce(&self.in_order(list), &[], None);
            if self.plain.len() <= list.index() {
                self.plain.resize(list.index() + 1, None);
            }
            if let Some(known) = self.plain.get_mut(list.index()) {
                *known = Some(port_set);
            }
            return port_set;
        }
        let mut all = self
            .everywhere
            .iter()
            .copied()
            .chain(self.matching.rules(list));
        let ports = match self.ruleset.direction {
            _ if !all.any(|index| self.has_names(index)) => Vec::new(),
            Direction::Ingress => self.ruleset.ports.clone(),
            Direction::Egress => {
                let signature = self.builder.peers.signature(class);
                signature.map_or_else(Vec::new, |signature| signature.ports.clone())
            }
        };
        let particular = (list, ports, exempt);
        if let Some(port_set) = self.particular.get(&particular) {
            return *port_set;
        }
        let port_set = self.reduce(&self.in_order(list), &particular.1, exempt);
        self.particular.insert(particular, port_set);
        port_set
    }

    /// The rules of a list and those that match every class, in order.
    fn in_order(&self, list: ListId) -> Vec<u32> {
        let everywhere = self.everywhere.iter().copied();
        let mut rules: Vec<u32> = everywhere.chain(self.matching.rules(list)).collect();
        rules.sort_unstable();
        rules
    }

    fn reduce(
        &mut self,
        matching: &[u32],
        ports: &[ContainerPort],
        exempt: Option<Exempt>,
    ) -> PortSetId {
        let candidates = matching.iter().filter_map(|index| {
            let rule = self.rules.get(*index as usize)?;
            Some(Candidate::new(*index, rule, ports))
        });
        let candidates: Vec<_> = candidates.collect();
        let situation = Situation {
            isolation: Isolation::by(self.isolating()),
            exempt,
        };
        let outcomes = reduce(&candidates, situation);
        let decisions = outcomes.map(|outcome| self.decision(*outcome));
        self.builder.intern_port_set(decisions)
    }

    fn decision(&mut self, outcome: Outcome) -> DecisionId {
        let rule = |index: u32| {
            self.ruleset
                .rules
                .get(index as usize)
                .copied()
                .unwrap_or(RuleId(u32::MAX))
        };
        let by = |by: By| match by {
            By::Rule(index) => GlobalBy::Rule(rule(index)),
            By::Isolated => GlobalBy::Isolated(self.ruleset.isolating.unwrap_or(u32::MAX)),
            By::Exempt(exempt) => GlobalBy::Exempt(exempt),
            By::Default => GlobalBy::Default,
        };
        let global = GlobalOutcome {
            by: by(outcome.by),
            passed: outcome.passed.map(|index| index.map(rule)),
            audited: outcome.audited.map(by),
        };
        if let Some(decision) = self.builder.decision_ids.get(&global) {
            return *decision;
        }
        let decision = explain(outcome, &self.rules, self.isolating());
        self.builder.decisions.push(Arc::new(decision));
        let decision = DecisionId(id(self.builder.decisions.len() - 1));
        self.builder.decision_ids.insert(global, decision);
        decision
    }

    fn isolating(&self) -> Option<&'a Isolating> {
        let list = self.ruleset.isolating?;
        self.builder.subjects.isolating.get(list as usize)
    }

    /// The policies whose rules are in the row, sorted.
    fn policies(&self) -> Vec<Arc<str>> {
        let mut policies: Vec<_> = self
            .rules
            .iter()
            .map(|rule| &rule.reference.policy)
            .collect();
        policies.sort_unstable();
        policies.dedup();
        let mut names: Vec<Arc<str>> = policies
            .iter()
            .map(|policy| policy.to_string().into())
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}
