// SPDX-License-Identifier: Apache-2.0
//! Which pods are in scope, and which policies concern them?

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Compiler,
    classes::BaseId,
    rows::{RowState, Ruleset},
    services::Source,
    slab::Slab,
};
use crate::{
    compile::{
        ClassId, PodTable, RowId,
        hash::FastMap,
        rules::{
            self, Atoms as LocalAtoms, Isolating, Peers, Rule, Selecting, admin_rule, network_rule,
        },
        subjects::named_ports,
    },
    model::{AdminPolicy, Direction, NetworkPolicy, Pod, PodKey, PolicyRef, Tier},
};

/// A pod in scope.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) pod: Arc<Pod>,
    /// In the order of [`Direction::BOTH`].
    rows: [Option<RowId>; 2],
    /// Of which the pod is a member, by its IPv4 and its IPv6 address.
    pub(super) classes: Option<[ClassId; 2]>,
}

/// The rules of a policy in one direction, while any row follows them.
#[derive(Debug)]
struct Use {
    rules: Vec<Arc<Rule>>,
    policy: (PolicyRef, Direction),
    /// Whether the policy is audited, if it is one that isolates.
    isolates: Option<bool>,
    /// Rows that follow the rules.
    refs: u32,
}

/// The pods in scope and the rules that concern any of them.
#[derive(Debug, Default)]
pub(super) struct Subjects {
    pub(super) pods: BTreeMap<PodKey, Subject>,
    uses: Slab<Use>,
    /// The newest rules of each policy.
    use_ids: FastMap<(PolicyRef, Direction), u32>,
    /// Pods whose entry in the tables may not be what it should be.
    pub(super) stale: BTreeSet<PodKey>,
}

/// Rows to be built: how many pods want them, and the number they had best get.
type Pending = BTreeMap<Ruleset, (u32, Option<RowId>)>;

impl Compiler {
    /// The pod, if it is one in scope.
    pub(super) fn local(&self, key: &PodKey) -> Option<Arc<Pod>> {
        let pod = self.snapshot.pods.get(key)?;
        (pod.is_policed() && pod.node.as_ref() == Some(&self.node)).then(|| pod.clone())
    }

    /// Finds out again which policies concern the pods called `keys`, and builds the rows this takes.
    pub(super) fn select(&mut self, keys: &BTreeSet<PodKey>) {
        let mut wanted = Vec::with_capacity(keys.len());
        let mut pending = Pending::new();
        for key in keys {
            let pod = self.local(key);
            let before = self.subjects.pods.get(key).map(|subject| subject.rows);
            let before = before.unwrap_or_default();
            let rulesets = pod.as_ref().map_or([None, None], |pod| self.rulesets(pod));
            for (ruleset, before) in rulesets.iter().zip(before) {
                if let Some(ruleset) = ruleset {
                    self.want(ruleset, before, &mut pending);
                }
            }
            wanted.push((key, pod, rulesets));
        }
        // Only now, so that what both sides need is never given up.
        for (key, pod, _) in &wanted {
            let rows = self.subjects.pods.get(*key).map(|subject| subject.rows);
            for row in rows.into_iter().flatten().flatten() {
                self.give_up(row);
            }
            match (pod, self.subjects.pods.get_mut(*key)) {
                (Some(pod), Some(subject)) => {
                    subject.pod = pod.clone();
                    self.place_subject(key);
                }
                (None, Some(_)) => {
                    let subject = self.subjects.pods.remove(*key);
                    self.leave_classes(subject.and_then(|subject| subject.classes));
                }
                (_, None) => {}
            }
        }
        self.settle();
        for (ruleset, (refs, number)) in pending {
            let rules = self
                .uses_of(&ruleset)
                .flat_map(|of| of.rules.iter().cloned())
                .collect();
            let isolate = |of: &Use| Some((of.policy.0.clone(), of.isolates?));
            let isolating = Isolating::of(self.uses_of(&ruleset).filter_map(isolate));
            let state = RowState::new(ruleset, refs, rules, isolating);
            let row = self.rows.insert(number, state);
            self.name_atoms(row, None);
            self.build_row(row);
        }
        for (key, pod, rulesets) in wanted {
            let rows = rulesets.map(|ruleset| ruleset.and_then(|ruleset| self.rows.id(&ruleset)));
            if let Some(pod) = pod {
                let classes = self
                    .subjects
                    .pods
                    .get(key)
                    .and_then(|subject| subject.classes);
                let subject = Subject { pod, rows, classes };
                self.subjects.pods.insert(key.clone(), subject);
            }
            self.services.changed.insert(Source::Pod(key.clone()));
            self.subjects.stale.insert(key.clone());
        }
    }

    fn uses_of(&self, ruleset: &Ruleset) -> impl Iterator<Item = &Use> {
        ruleset
            .uses
            .iter()
            .filter_map(|of| self.subjects.uses.get(*of))
    }

    fn want(&mut self, ruleset: &Ruleset, before: Option<RowId>, pending: &mut Pending) {
        if let Some(row) = self.rows.id(ruleset) {
            if let Some(state) = self.rows.get_mut(row) {
                state.refs += 1;
            }
            return;
        }
        if let Some((refs, _)) = pending.get_mut(ruleset) {
            *refs += 1;
            return;
        }
        for of in &ruleset.uses {
            if let Some(of) = self.subjects.uses.get_mut(*of) {
                of.refs += 1;
            }
        }
        pending.insert(ruleset.clone(), (1, before));
    }

    fn give_up(&mut self, row: RowId) {
        let Some(state) = self.rows.get_mut(row) else {
            return;
        };
        state.refs = state.refs.saturating_sub(1);
        if state.refs > 0 {
            return;
        }
        if let Some(state) = self.rows.remove(row) {
            self.name_atoms(row, Some(&state));
            for of in state.ruleset.uses {
                let refs = self.subjects.uses.get_mut(of).map(|of| {
                    of.refs = of.refs.saturating_sub(1);
                    of.refs
                });
                if refs == Some(0) {
                    self.forget_use(of);
                }
            }
        }
    }

    fn forget_use(&mut self, number: u32) {
        let Some(of) = self.subjects.uses.remove(number) else {
            return;
        };
        for rule in &of.rules {
            if let Peers::Any(atoms) = &rule.peers {
                for atom in atoms {
                    self.atoms.release(*atom);
                }
            }
            if of.policy.1 == Direction::Egress {
                let names = rule.port_names();
                names.for_each(|name| self.groups.use_port_name(name, -1));
            }
        }
        // The policy may have other rules by now.
        if self.subjects.use_ids.get(&of.policy) == Some(&number) {
            self.subjects.use_ids.remove(&of.policy);
        }
    }

    /// From now on a policy has other rules in `direction`.
    pub(super) fn retire(&mut self, policy: PolicyRef, direction: Direction) {
        self.subjects.use_ids.remove(&(policy, direction));
    }

    /// What concerns `pod`, in the order of [`Direction::BOTH`].
    pub(super) fn rulesets(&mut self, pod: &Arc<Pod>) -> [Option<Ruleset>; 2] {
        let admin: Vec<&Arc<AdminPolicy>> = self.admin.iter().collect();
        let selecting = Selecting::find(&self.snapshot, &admin, &pod.key.namespace, &pod.labels);
        let admin: Vec<Arc<AdminPolicy>> = selecting.admin.into_iter().cloned().collect();
        let network: Vec<Arc<NetworkPolicy>> = selecting.network.into_iter().cloned().collect();
        Direction::BOTH.map(|direction| self.ruleset(pod, &admin, &network, direction))
    }

    fn ruleset(
        &mut self,
        pod: &Arc<Pod>,
        admin: &[Arc<AdminPolicy>],
        network: &[Arc<NetworkPolicy>],
        direction: Direction,
    ) -> Option<Ruleset> {
        let mut uses = Vec::new();
        for policy in admin.iter().filter(|policy| policy.tier == Tier::Admin) {
            uses.extend(self.use_admin(policy, direction));
        }
        let isolates = |policy: &Arc<NetworkPolicy>| policy.rules(direction).is_some();
        let is_enforced = network.iter().any(|it| !it.audited && isolates(it));
        for policy in network {
            // Beside an enforced policy an audited one can only admit.
            let is_idle = is_enforced
                && policy.audited
                && policy.rules(direction).is_none_or(<[_]>::is_empty);
            if !is_idle {
                uses.extend(self.use_network(policy, direction));
            }
        }
        for policy in admin.iter().filter(|policy| policy.tier == Tier::Baseline) {
            uses.extend(self.use_admin(policy, direction));
        }
        if uses.is_empty() {
            return None;
        }
        let mut ruleset = Ruleset {
            direction,
            uses,
            ports: Vec::new(),
            node: None,
        };
        match direction {
            Direction::Ingress => {
                let rules = self.uses_of(&ruleset).flat_map(|of| &of.rules);
                let names: Vec<_> = rules.flat_map(|rule| rule.port_names()).collect();
                ruleset.ports = if names.is_empty() {
                    Vec::new()
                } else {
                    named_ports(pod, |name| names.contains(&name))
                };
            }
            Direction::Egress if self.snapshot.options.local_node_egress => {
                ruleset.node.clone_from(&pod.node);
            }
            Direction::Egress => {}
        }
        Some(ruleset)
    }

    fn use_network(&mut self, policy: &NetworkPolicy, direction: Direction) -> Option<u32> {
        let rules = policy.rules(direction)?;
        let key = (policy.policy_ref(), direction);
        if let Some(known) = self.subjects.use_ids.get(&key) {
            return Some(*known);
        }
        let mut atoms = LocalAtoms::default();
        let rules = rules.iter().enumerate();
        let rules =
            rules.map(|(index, rule)| network_rule(policy, direction, index, rule, &mut atoms));
        let rules = rules.collect();
        Some(self.insert_use(key, rules, &atoms, Some(policy.audited)))
    }

    fn use_admin(&mut self, policy: &AdminPolicy, direction: Direction) -> Option<u32> {
        if policy.rules(direction).is_empty() {
            return None;
        }
        let key = (policy.policy_ref(), direction);
        if let Some(known) = self.subjects.use_ids.get(&key) {
            return Some(*known);
        }
        let learns = self.snapshot.domains.is_some();
        let mut atoms = LocalAtoms::default();
        let rules = policy.rules(direction).iter().enumerate();
        let rules: Vec<Rule> = rules
            .filter_map(|(index, rule)| {
                admin_rule(policy, direction, index, rule, learns, &mut atoms)
            })
            .collect();
        // Rules that all fail closed by matching nothing are none.
        (!rules.is_empty()).then(|| self.insert_use(key, rules, &atoms, None))
    }

    fn insert_use(
        &mut self,
        key: (PolicyRef, Direction),
        mut rules: Vec<Rule>,
        local: &LocalAtoms,
        isolates: Option<bool>,
    ) -> u32 {
        for rule in &mut rules {
            if let Peers::Any(atoms) = &mut rule.peers {
                for atom in &mut *atoms {
                    if let Some(named) = local.0.get_index(atom.0 as usize) {
                        let namespaces = &self.groups.namespaces;
                        *atom = self.atoms.acquire(named, &self.snapshot, namespaces);
                    }
                }
            }
            if key.1 == Direction::Egress {
                let names = rule.port_names();
                names.for_each(|name| self.groups.use_port_name(name, 1));
            }
        }
        let number = self.subjects.uses.insert(Use {
            rules: rules.into_iter().map(Arc::new).collect(),
            policy: key.clone(),
            isolates,
            refs: 0,
        });
        self.subjects.use_ids.insert(key, number);
        number
    }

    /// The pods in scope that `selects` chooses by the labels of their namespace and their own.
    pub(super) fn selected(&self, selects: impl Fn(&Pod) -> bool) -> BTreeSet<PodKey> {
        let pods = self.subjects.pods.iter();
        let selected = pods.filter(|(_, subject)| selects(&subject.pod));
        selected.map(|(key, _)| key.clone()).collect()
    }

    /// Whether a cluster-scoped policy concerns `pod`.
    pub(super) fn admin_selects(&self, policy: &AdminPolicy, pod: &Pod) -> bool {
        let namespace = self.snapshot.namespaces.get(&pod.key.namespace);
        let none = crate::model::Labels::default();
        let labels = namespace.map_or(&none, |namespace| &namespace.labels);
        rules::subject_selects(policy, labels, &pod.labels)
    }

    /// Brings the tables' entries of stale pods up to date.
    pub(super) fn refresh_pods(&mut self) {
        let stale = std::mem::take(&mut self.subjects.stale);
        for key in stale {
            let Some(subject) = self.subjects.pods.get(&key) else {
                if self.tables.pods.remove(&key).is_some() {
                    self.delta.pods.insert(key);
                }
                continue;
            };
            let (pod, rows) = (subject.pod.clone(), subject.rows);
            let Some(classes) = self.place_subject(&key) else {
                continue;
            };
            let [egress, ingress] = rows;
            let mut own = |row: Option<RowId>, class| {
                row.map(|row| self.own_port_set(row, class))
                    .unwrap_or_default()
            };
            let table = PodTable {
                ingress,
                egress,
                own: classes.map(|class| (own(ingress, class), own(egress, class))),
                classes,
                addresses: pod.addresses.clone(),
            };
            if self.tables.pods.get(&key) != Some(&table) {
                self.tables.pods.insert(key.clone(), table);
                self.delta.pods.insert(key);
            }
        }
        self.subjects.stale.clear();
    }

    /// Puts a pod in scope into its classes as a peer, and notes that its entry may not be right.
    pub(super) fn place_subject(&mut self, key: &PodKey) -> Option<[ClassId; 2]> {
        let subject = self.subjects.pods.get(key)?;
        let (pod, before) = (subject.pod.clone(), subject.classes);
        let kind = self.groups.kind_of(&pod);
        let classes = [false, true].map(|is_v6| {
            let address = pod
                .addresses
                .iter()
                .find(|address| address.is_ipv6() == is_v6);
            // Without an address only selectors and names see the pod.
            let base = address.map_or(BaseId::NONE, |address| self.base_under(*address));
            self.join_class(base, kind)
        });
        self.leave_classes(before);
        self.subjects.pods.get_mut(key)?.classes = Some(classes);
        self.subjects.stale.insert(key.clone());
        Some(classes)
    }

    fn leave_classes(&mut self, classes: Option<[ClassId; 2]>) {
        for class in classes.into_iter().flatten() {
            self.classes.release(class);
        }
    }
}
