// SPDX-License-Identifier: Apache-2.0
//! Which pods are in scope, and which rules concern them.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Scope,
    hash::FastMap,
    rules::{Atoms, Isolating, Rule, Selecting, admin_policies_in_order, admin_rule, network_rule},
};
use crate::{
    Snapshot,
    model::{AdminPolicy, ContainerPort, Direction, NetworkPolicy, Pod, Tier},
};

/// Index into [`Subjects::rules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RuleId(pub(super) u32);

/// Index into [`Subjects::rulesets`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RulesetId(pub(super) u32);

/// What concerns pods with equal effective policy in one direction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ruleset {
    pub(super) direction: Direction,
    /// In order of precedence.
    pub(super) rules: Vec<RuleId>,
    /// Index into [`Subjects::isolating`] of the policies that isolate; `None` if none does.
    pub(super) isolating: Option<u32>,
    /// The subject's container ports that its ingress rules name.
    pub(super) ports: Vec<ContainerPort>,
    /// The subject's node, where NetworkPolicies exempt traffic to it.
    pub(super) node: Option<Arc<str>>,
}

/// A pod in scope.
#[derive(Debug)]
pub(super) struct SubjectPod<'a> {
    pub(super) pod: &'a Arc<Pod>,
    pub(super) ingress: Option<RulesetId>,
    pub(super) egress: Option<RulesetId>,
}

/// The pods in scope with the rules that concern any of them.
#[derive(Debug, Default)]
pub(super) struct Subjects<'a> {
    pub(super) pods: Vec<SubjectPod<'a>>,
    pub(super) rules: Vec<Rule>,
    pub(super) atoms: Atoms,
    pub(super) rulesets: Vec<Ruleset>,
    pub(super) isolating: Vec<Isolating>,
}

/// Finds the subjects of `scope`.
pub(super) fn find<'a>(snapshot: &'a Snapshot, scope: &Scope) -> Subjects<'a> {
    let admin = admin_policies_in_order(snapshot);
    let mut finder = Finder {
        snapshot,
        ..Finder::new(snapshot)
    };
    for pod in snapshot.pods.values().filter(|pod| pod.is_policed()) {
        let in_scope = match scope {
            Scope::Node(node) => pod.node.as_ref() == Some(node),
            Scope::Cluster => true,
        };
        if in_scope {
            finder.add(pod, &admin);
        }
    }
    finder.subjects
}

/// The rules that concern pods with equal labels in one direction.
struct Concern {
    /// Without what differs from pod to pod.
    ruleset: Ruleset,
    /// Names of the subject's ports in its rules.
    names: Vec<Arc<str>>,
    /// What became of it, by what differs from pod to pod.
    known: FastMap<(Vec<ContainerPort>, Option<Arc<str>>), RulesetId>,
}

struct Finder<'a> {
    snapshot: &'a Snapshot,
    subjects: Subjects<'a>,
    /// Rules of a policy and direction, by the policy's address in memory.
    compiled: FastMap<(usize, bool), Vec<RuleId>>,
    /// What concerns pods, by namespace and labels.
    selected: FastMap<(&'a str, &'a crate::model::Labels), [Option<Concern>; 2]>,
    interned: FastMap<Ruleset, RulesetId>,
    isolating: FastMap<Isolating, u32>,
}

impl<'a> Finder<'a> {
    fn new(snapshot: &'a Snapshot) -> Self {
        Self {
            snapshot,
            subjects: Subjects::default(),
            compiled: FastMap::default(),
            selected: FastMap::default(),
            interned: FastMap::default(),
            isolating: FastMap::default(),
        }
    }

    fn add(&mut self, pod: &'a Arc<Pod>, admin: &[&'a Arc<AdminPolicy>]) {
        let key = (&*pod.key.namespace, &pod.labels);
        let known = self.selected.get_mut(&key);
        let [egress, ingress] = if let Some(concerns) = known {
            concerns
        } else {
            let selecting = Selecting::find(self.snapshot, admin, &pod.key.namespace, &pod.labels);
            let both = Direction::BOTH.map(|direction| self.concern(&selecting, direction));
            self.selected.entry(key).or_insert(both)
        };
        let list = &mut self.subjects.rulesets;
        let mut intern = |concern: &mut Concern, node: Option<&Arc<str>>| {
            let ports = if concern.names.is_empty() {
                Vec::new()
            } else {
                named_ports(pod, |name| concern.names.contains(name))
            };
            let differs = (ports, node.cloned());
            if let Some(known) = concern.known.get(&differs) {
                return *known;
            }
            let ruleset = Ruleset {
                ports: differs.0.clone(),
                node: differs.1.clone(),
                ..concern.ruleset.clone()
            };
            let known = self.interned.entry(ruleset);
            let known = *known.or_insert_with_key(|ruleset| {
                list.push(ruleset.clone());
                RulesetId(id(list.len() - 1))
            });
            concern.known.insert(differs, known);
            known
        };
        let node = pod.node.as_ref();
        let node = node.filter(|_| self.snapshot.options.local_node_egress);
        let ingress = ingress.as_mut().map(|concern| intern(concern, None));
        let egress = egress.as_mut().map(|concern| intern(concern, node));
        self.subjects.pods.push(SubjectPod {
            pod,
            ingress,
            egress,
        });
    }

    /// `None` if no rule of any tier concerns the pods in `direction`.
    fn concern(&mut self, selecting: &Selecting<'a>, direction: Direction) -> Option<Concern> {
        let ruleset = self.ruleset(selecting, direction)?;
        let names = if direction == Direction::Ingress {
            let rules = ruleset.rules.iter();
            let rules = rules.filter_map(|id| self.subjects.rules.get(id.0 as usize));
            let names: BTreeSet<_> = rules.flat_map(Rule::port_names).cloned().collect();
            names.into_iter().collect()
        } else {
            Vec::new()
        };
        Some(Concern {
            ruleset,
            names,
            known: FastMap::default(),
        })
    }

    /// `None` if no rule of any tier concerns the pods in `direction`.
    fn ruleset(&mut self, selecting: &Selecting<'a>, direction: Direction) -> Option<Ruleset> {
        let mut rules = Vec::new();
        for policy in selecting
            .admin
            .iter()
            .filter(|policy| policy.tier == Tier::Admin)
        {
            rules.extend_from_slice(self.admin(policy, direction));
        }
        for policy in &selecting.network {
            rules.extend_from_slice(self.network(policy, direction));
        }
        for policy in selecting
            .admin
            .iter()
            .filter(|policy| policy.tier == Tier::Baseline)
        {
            rules.extend_from_slice(self.admin(policy, direction));
        }
        let isolating = selecting.isolating(direction);
        if rules.is_empty() && isolating.is_none() {
            return None;
        }
        let isolating = isolating.map(|policies| {
            let list = &mut self.subjects.isolating;
            *self
                .isolating
                .entry(policies)
                .or_insert_with_key(|policies| {
                    list.push(policies.clone());
                    id(list.len() - 1)
                })
        });
        Some(Ruleset {
            direction,
            rules,
            isolating,
            ports: Vec::new(),
            node: None,
        })
    }

    fn admin(&mut self, policy: &Arc<AdminPolicy>, direction: Direction) -> &[RuleId] {
        let key = (Arc::as_ptr(policy).addr(), direction == Direction::Egress);
        let subjects = &mut self.subjects;
        let learns = self.snapshot.domains.is_some();
        self.compiled.entry(key).or_insert_with(|| {
            let rules = policy.rules(direction).iter().enumerate();
            let rules = rules.filter_map(|(i, rule)| {
                admin_rule(policy, direction, i, rule, learns, &mut subjects.atoms)
            });
            push_all(&mut subjects.rules, rules)
        })
    }

    fn network(&mut self, policy: &Arc<NetworkPolicy>, direction: Direction) -> &[RuleId] {
        let key = (Arc::as_ptr(policy).addr(), direction == Direction::Egress);
        let subjects = &mut self.subjects;
        self.compiled.entry(key).or_insert_with(|| {
            let rules = policy.rules(direction).into_iter().flatten().enumerate();
            let rules = rules
                .map(|(i, rule)| network_rule(policy, direction, i, rule, &mut subjects.atoms));
            push_all(&mut subjects.rules, rules)
        })
    }
}

/// What rules can see of the pod's container ports whose name is wanted, sorted: not the node's ports that
/// lead there.
pub(super) fn named_ports(pod: &Pod, wanted: impl Fn(&Arc<str>) -> bool) -> Vec<ContainerPort> {
    let named = |port: &&ContainerPort| port.name.as_ref().is_some_and(&wanted);
    let seen = |port: &ContainerPort| ContainerPort {
        host_port: 0,
        host_address: None,
        ..port.clone()
    };
    let mut ports: Vec<_> = pod.ports.iter().filter(named).map(seen).collect();
    ports.sort();
    ports.dedup();
    ports
}

fn push_all(list: &mut Vec<Rule>, rules: impl Iterator<Item = Rule>) -> Vec<RuleId> {
    let first = list.len();
    list.extend(rules);
    (first..list.len()).map(|index| RuleId(id(index))).collect()
}

/// Counts of things that exist in memory fit 32 bits.
pub(super) fn id(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
