// SPDX-License-Identifier: Apache-2.0
//! What lints look at: the snapshot, its evaluation, and the documents as written.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::cover::Matched;
use crate::{
    diagnostic::Location,
    manifest::Document,
    model::{
        Action, AdminPolicy, AdminRule, Direction, NetworkPolicy, NetworkRule, Pod, PodKey,
        Selector, Subject, Tier,
    },
    partial::{Class, Evaluator},
    snapshot::Snapshot,
    verdict::Endpoint,
};

/// What lints look at.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) evaluator: &'a Evaluator<'a>,
    pub(super) documents: &'a [Document],
    /// The live pods of each namespace.
    pub(super) pods: BTreeMap<Arc<str>, Vec<Arc<Pod>>>,
    classes: OnceCell<Vec<Class>>,
    /// Pods that answer DNS queries, as far as labels and port names tell.
    pub(super) dns: Vec<Endpoint>,
}

impl<'a> Context<'a> {
    pub(super) fn new(
        snapshot: &'a Snapshot,
        evaluator: &'a Evaluator<'a>,
        documents: &'a [Document],
    ) -> Self {
        let mut pods: BTreeMap<Arc<str>, Vec<Arc<Pod>>> = BTreeMap::new();
        for pod in snapshot
            .pods
            .values()
            .filter(|pod| !pod.phase.is_finished())
        {
            pods.entry(pod.key.namespace.clone())
                .or_default()
                .push(pod.clone());
        }
        let is_dns = |pod: &&Arc<Pod>| {
            let labels = [
                ("k8s-app", "kube-dns"),
                ("k8s-app", "coredns"),
                ("app.kubernetes.io/name", "coredns"),
            ];
            let labelled = labels
                .iter()
                .any(|(key, value)| pod.labels.get(key) == Some(*value));
            labelled
                || pod.ports.iter().any(|port| {
                    port.number == 53
                        && port
                            .name
                            .as_deref()
                            .is_some_and(|name| name.starts_with("dns"))
                })
        };
        let dns = pods
            .values()
            .flatten()
            .filter(is_dns)
            .map(|pod| Endpoint::Pod(pod.key.clone()));
        Self {
            dns: dns.collect(),
            classes: OnceCell::new(),
            snapshot,
            evaluator,
            documents,
            pods,
        }
    }

    /// Live pods that policies cannot tell apart.
    pub(super) fn classes(&self) -> &[Class] {
        self.classes.get_or_init(|| {
            let pods = self.pods.values().flatten();
            let live: Vec<Endpoint> = pods.map(|pod| Endpoint::Pod(pod.key.clone())).collect();
            self.evaluator.classes(&live, None)
        })
    }

    /// The live pods of a namespace, hostNetwork ones included.
    pub(super) fn pods_in(&self, namespace: &str) -> &[Arc<Pod>] {
        self.pods.get(namespace).map_or(&[], Vec::as_slice)
    }

    /// The pods that a NetworkPolicy applies to, as far as their labels are known.
    pub(super) fn selected(&self, policy: &NetworkPolicy) -> Vec<&Arc<Pod>> {
        let pods = self.pods_in(&policy.namespace).iter();
        let may = |pod: &&Arc<Pod>| self.snapshot.pod_selected(policy, pod) != Some(false);
        pods.filter(|pod| pod.is_policed()).filter(may).collect()
    }

    /// Live pods by the labels of their namespace and their own, as far as these are known.
    pub(super) fn matching<'c>(
        &'c self,
        namespaces: &'c Selector,
        pods: &'c Selector,
    ) -> impl Iterator<Item = &'c Arc<Pod>> {
        let snapshot = self.snapshot;
        let of = self.pods.iter().filter(|(name, _)| {
            let namespace = snapshot.namespaces.get(*name);
            namespace.is_some_and(|it| snapshot.namespace_matches(namespaces, it) != Some(false))
        });
        of.flat_map(|(_, pods)| pods)
            .filter(|pod| snapshot.pod_matches(pods, pod) != Some(false))
    }

    /// The pods that a cluster-scoped policy applies to, as far as labels are known.
    pub(super) fn subjects<'c>(&'c self, policy: &'c AdminPolicy) -> Vec<&'c Arc<Pod>> {
        match &policy.subject {
            Subject::Nothing => Vec::new(),
            Subject::Pods { namespaces, pods } => self
                .matching(namespaces, pods)
                .filter(|pod| pod.is_policed())
                .collect(),
        }
    }

    /// Cluster-scoped policies of a tier, in order of precedence.
    pub(super) fn tier(&self, tier: Tier) -> Vec<&'a Arc<AdminPolicy>> {
        let policies = self.snapshot.admin_policies.values();
        let mut policies: Vec<_> = policies.filter(|policy| policy.tier == tier).collect();
        policies.sort_by(|a, b| a.precedence().cmp(&b.precedence()));
        policies
    }

    /// NetworkPolicies by namespace, in order of names.
    pub(super) fn by_namespace(&self) -> BTreeMap<&'a Arc<str>, Vec<&'a Arc<NetworkPolicy>>> {
        let mut namespaces: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for policy in self.snapshot.network_policies.values() {
            namespaces
                .entry(&policy.namespace)
                .or_default()
                .push(policy);
        }
        namespaces
    }

    /// The pods that some NetworkPolicy isolates in a direction as far as their labels are known, not
    /// counting those that are audited.
    pub(super) fn isolated(&self, direction: Direction) -> BTreeSet<&PodKey> {
        self.isolated_if(direction, |_, _| true)
    }

    /// Those of [`Context::isolated`] that are, whatever is not known.
    pub(super) fn surely_isolated(&self, direction: Direction) -> BTreeSet<&PodKey> {
        let surely = |policy: &NetworkPolicy, pod: &Pod| {
            self.snapshot.pod_selected(policy, pod) == Some(true)
        };
        self.isolated_if(direction, surely)
    }

    fn isolated_if(
        &self,
        direction: Direction,
        counts: impl Fn(&NetworkPolicy, &Pod) -> bool,
    ) -> BTreeSet<&PodKey> {
        let mut isolated = BTreeSet::new();
        for policy in self.snapshot.network_policies.values() {
            if !policy.audited && policy.rules(direction).is_some() {
                let selected = self.selected(policy).into_iter();
                let counted = selected.filter(|pod| counts(policy, pod));
                isolated.extend(counted.map(|pod| &pod.key));
            }
        }
        isolated
    }
}

/// Every rule of a NetworkPolicy, with its direction and position.
pub(super) fn network_rules(
    policy: &NetworkPolicy,
) -> impl Iterator<Item = (Direction, usize, &NetworkRule)> {
    Direction::BOTH.into_iter().flat_map(|direction| {
        let rules = policy.rules(direction).unwrap_or_default();
        rules
            .iter()
            .enumerate()
            .map(move |(index, rule)| (direction, index, rule))
    })
}

/// Every rule of a cluster-scoped policy, with its direction and position.
pub(super) fn admin_rules(
    policy: &AdminPolicy,
) -> impl Iterator<Item = (Direction, usize, &AdminRule)> {
    Direction::BOTH.into_iter().flat_map(|direction| {
        let rules = policy.rules(direction);
        rules
            .iter()
            .enumerate()
            .map(move |(index, rule)| (direction, index, rule))
    })
}

/// Whether a rule fails closed.
pub(super) fn is_closed(rule: &AdminRule, snapshot: &Snapshot) -> bool {
    rule.closed.is_some()
        || rule.has_domain_names() && (rule.action != Action::Allow || snapshot.domains.is_none())
}

/// Whether a rule denies, but only on paper, because its policy is audited.
pub(super) fn is_left_out(policy: &AdminPolicy, rule: &AdminRule, snapshot: &Snapshot) -> bool {
    policy.audited
        && match rule.action {
            Action::Allow => false,
            Action::Deny => true,
            Action::Pass => is_closed(rule, snapshot),
        }
}

/// What a rule of a cluster-scoped policy decides: `None` if it never decides, or nobody can tell what.
pub(super) fn decides(rule: &AdminRule, snapshot: &Snapshot) -> Option<Matched> {
    match (is_closed(rule, snapshot), rule.action) {
        (true, Action::Allow) => None,
        (true, Action::Deny | Action::Pass) => Some(Matched::everything()),
        (false, _) => Matched::of_admin(rule),
    }
}

/// `ingress[0]`
pub(super) fn place(direction: Direction, index: usize) -> String {
    format!("{direction}[{index}]")
}

/// `, at FILE:LINE:COLUMN`, if known.
pub(super) fn at_words(at: Option<&Location>) -> String {
    at.map(|at| format!(" ({at})")).unwrap_or_default()
}

/// `2 pods (x/a, x/b)`, of many the first three.
pub(super) fn some_pods<'p>(pods: impl IntoIterator<Item = &'p PodKey>) -> String {
    let mut pods = pods.into_iter();
    let shown: Vec<String> = pods.by_ref().take(3).map(ToString::to_string).collect();
    let rest = pods.count();
    let more = if rest > 0 { ", ..." } else { "" };
    let count = shown.len() + rest;
    let unit = if count == 1 { "pod" } else { "pods" };
    format!("{count} {unit} ({}{more})", shown.join(", "))
}
