// SPDX-License-Identifier: Apache-2.0
//! Which pods that do not exist yet may reach a workload, should they be made?
//!
//! A pod to come gets some address that nobody has yet. Where policies decide by address, every range
//! they tell apart is asked about: a pod that gets through from some of them only does so sometimes.

use std::{cell::RefCell, collections::BTreeSet, net::IpAddr, rc::Rc, sync::Arc};

use super::{Analysis, Audience, Reach, because};
use crate::{
    model::{
        AdminPolicy, Family, Labels, NetworkPolicy, Pod, PodKey, Selection, Subject, family_of,
    },
    partial::{Doubt, Evaluator, Fact, Outcome, Party},
    snapshot::Snapshot,
    symbolic::{Symbols, TooMany},
    verdict::Endpoint,
};

/// A pod that does not exist yet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Newcomer {
    /// The namespace, if that exists.
    pub namespace: Option<Arc<str>>,
    /// Labels of the namespace, if that does not exist.
    pub namespace_labels: Labels,
    /// Labels of the pod.
    pub labels: Labels,
    /// `new pod app=db in new namespace team=red`.
    pub words: String,
}

/// Kinds of pods to come that are asked about at most.
const MOST_NEWCOMERS: usize = 2_000;

/// What is the same for pods to come, whichever workload they may reach.
#[derive(Debug)]
pub(super) struct Newcomers {
    /// Whose egress is restricted at all, and the namespaces: what that tells apart.
    restricting: Snapshot,
    /// The cluster without what plays no part: its pods, but for those in the networks of nodes, and
    /// NetworkPolicies about ingress alone that can be read.
    around: Snapshot,
    /// Each once.
    known: RefCell<BTreeSet<Rc<Newcomer>>>,
}

impl Newcomers {
    pub(super) fn of(snapshot: &Snapshot, doubts: &[Doubt]) -> Self {
        let is_doubted =
            |policy: &NetworkPolicy| doubts.iter().any(|it| it.policy == policy.policy_ref());
        let policies = snapshot.network_policies.iter();
        let hosts = snapshot.pods.values().filter(|pod| pod.host_network);
        Self {
            restricting: restricting(snapshot),
            around: Snapshot {
                namespaces: snapshot.namespaces.clone(),
                nodes: snapshot.nodes.clone(),
                pods: hosts.cloned().collect(),
                network_policies: policies
                    .filter(|(_, policy)| policy.egress.is_some() || is_doubted(policy))
                    .map(|(key, policy)| (key.clone(), policy.clone()))
                    .collect(),
                admin_policies: snapshot.admin_policies.clone(),
                domains: snapshot.domains.clone(),
                options: snapshot.options.clone(),
                gaps: snapshot.gaps.clone(),
                ..Snapshot::default()
            },
            known: RefCell::default(),
        }
    }

    fn keep(&self, newcomer: Newcomer) -> Rc<Newcomer> {
        let mut known = self.known.borrow_mut();
        if let Some(known) = known.get(&newcomer) {
            return known.clone();
        }
        let newcomer = Rc::new(newcomer);
        known.insert(newcomer.clone());
        newcomer
    }
}

impl Analysis<'_> {
    /// The kinds of pods to come, grouped by what they may open to `replicas`.
    pub(super) fn future(
        &self,
        replicas: &[PodKey],
    ) -> Result<Vec<Audience<Rc<Newcomer>>>, TooMany> {
        let snapshot = self.evaluator.snapshot();
        // One replica of a class stands for all of them.
        let classes = self.classes_of(replicas).into_iter();
        let pods: Vec<&Arc<Pod>> = classes
            .filter_map(|class| {
                let mut members = self.members(class).iter();
                let member = members.find(|key| replicas.contains(key))?;
                snapshot.pods.get(member)
            })
            .collect();
        let admitting = admitting(snapshot, &pods);
        let told_apart_by = [&self.newcomers.restricting, &admitting];
        let symbols = Symbols::of(&told_apart_by, &[], MOST_NEWCOMERS)?;
        let mut around = self.newcomers.around.clone();
        around.pods.extend(pods.iter().copied().cloned());
        let own = pods.iter().flat_map(|pod| selecting(snapshot, pod));
        let own = own.map(|policy| {
            let key = (policy.namespace.clone(), policy.name.clone());
            (key, policy.clone())
        });
        around.network_policies.extend(own);
        let joined = symbols.join(&around);
        let evaluator = self.evaluator.of_snapshot(&joined);
        let addresses: Vec<IpAddr> = self.ranges().map(|range| range.example).collect();
        let targets: Vec<(Option<Family>, Party)> = pods
            .iter()
            .flat_map(|pod| self.families.iter().map(move |family| (*family, pod)))
            .map(|(family, pod)| {
                let end = Endpoint::Pod(pod.key.clone());
                (family, evaluator.party(&end, family))
            })
            .filter(|(_, party)| party.has_family())
            .collect();
        let asked = symbols.pods().map(|key| {
            let end = Endpoint::Pod(key.clone());
            let mut found = Vec::new();
            let mut reasons = Vec::new();
            for (family, target) in &targets {
                let source = evaluator.party(&end, *family);
                if reasons.is_empty() {
                    reasons = because(&evaluator, &source, target);
                }
                found.push(reach(&evaluator, &source, target, *family, &addresses));
            }
            let newcomer = Newcomer {
                namespace: (!symbols.is_in_new_namespace(key)).then(|| key.namespace.clone()),
                namespace_labels: symbols.namespace_labels(key).cloned().unwrap_or_default(),
                labels: symbols.labels(key).cloned().unwrap_or_default(),
                words: symbols.describe(key).unwrap_or_default(),
            };
            let answer = self.pairs.keep(Reach::merge(&found), reasons);
            (self.newcomers.keep(newcomer), answer)
        });
        Ok(self.together(asked))
    }
}

/// The NetworkPolicies that select a pod, or may do so.
fn selecting<'s>(
    snapshot: &'s Snapshot,
    pod: &'s Pod,
) -> impl Iterator<Item = &'s Arc<NetworkPolicy>> {
    let first = (pod.key.namespace.clone(), Arc::from(""));
    let policies = snapshot.network_policies.range(first..);
    policies
        .map(|(_, policy)| policy)
        .take_while(|policy| policy.namespace == pod.key.namespace)
        .filter(|policy| snapshot.pod_selected(policy, pod) != Some(false))
}

/// What a pod to come may open, whichever address it gets.
fn reach(
    evaluator: &Evaluator<'_>,
    source: &Party,
    target: &Party,
    family: Option<Family>,
    addresses: &[IpAddr],
) -> Reach {
    let connection = evaluator.connection(source, target, false);
    let by_address = connection.ingress.runs().iter().any(|(_, outcome)| {
        matches!(outcome, Outcome::Unknown(facts) if facts.contains(&Fact::PeerAddress))
    });
    let own = Reach::of_connection(evaluator, source, target, &connection);
    if !by_address {
        return own;
    }
    let fits = |address: &&IpAddr| family.is_none_or(|family| family_of(**address) == family);
    let found: Vec<Reach> = addresses
        .iter()
        .filter(fits)
        .map(|address| Reach::of(evaluator, &evaluator.at(source, *address), target))
        .collect();
    if found.is_empty() {
        own
    } else {
        Reach::merge(&found)
    }
}

/// The namespaces of `snapshot`, and whom its policies select whose egress they restrict.
fn restricting(snapshot: &Snapshot) -> Snapshot {
    let mut telling = Snapshot {
        namespaces: snapshot.namespaces.clone(),
        ..Snapshot::default()
    };
    let policies = snapshot.network_policies.values();
    for policy in policies.filter(|policy| policy.egress.is_some()) {
        telling.insert_network_policy(NetworkPolicy {
            ingress: None,
            egress: Some(Vec::new()),
            ..NetworkPolicy::clone(policy)
        });
    }
    let policies = snapshot.admin_policies.values();
    for policy in policies.filter(|policy| !policy.egress.is_empty()) {
        telling.insert_admin_policy(AdminPolicy {
            ingress: Vec::new(),
            egress: Vec::new(),
            ..AdminPolicy::clone(policy)
        });
    }
    telling
}

/// Whom the policies of `pods` tell apart in what they admit.
fn admitting(snapshot: &Snapshot, pods: &[&Arc<Pod>]) -> Snapshot {
    let mut telling = Snapshot::default();
    let own = pods.iter().flat_map(|pod| selecting(snapshot, pod));
    for policy in own.filter(|policy| policy.ingress.is_some()) {
        let telling_one = NetworkPolicy {
            pod_selector: Selection::Nothing,
            egress: None,
            ..NetworkPolicy::clone(policy)
        };
        let key = (policy.namespace.clone(), policy.name.clone());
        telling.network_policies.insert(key, Arc::new(telling_one));
    }
    for policy in snapshot.admin_policies.values() {
        let is_own = pods.iter().any(|pod| match &policy.subject {
            Subject::Pods { namespaces, pods } => snapshot.may_match(namespaces, pods, pod),
            Subject::Nothing => false,
        });
        if is_own {
            telling.insert_admin_policy(AdminPolicy {
                subject: Subject::Nothing,
                egress: Vec::new(),
                ..AdminPolicy::clone(policy)
            });
        }
    }
    telling
}
