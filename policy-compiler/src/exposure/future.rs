// SPDX-License-Identifier: Apache-2.0
//! Which pods that do not exist yet may reach a workload, should they be made?
//!
//! A pod to come gets some address that nobody has yet. Where policies decide by address, every range
//! they tell apart is asked about: a pod that gets through from some of them only does so sometimes.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::{Analysis, Audience, Reach, because, join};
use crate::{
    model::{
        AdminPolicy, Family, Labels, NetworkPolicy, NetworkRule, Pod, PodKey, Selection, Subject,
        family_of,
    },
    partial::{Evaluator, Fact, Outcome, Party},
    snapshot::{Pods, Snapshot},
    symbolic::{Symbols, TooMany},
    verdict::Endpoint,
};

/// A pod that does not exist yet.
#[derive(Clone, Debug, PartialEq, Eq)]
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

impl Analysis<'_> {
    /// The kinds of pods to come, grouped by what they may open to `replicas`.
    pub(super) fn future(&self, replicas: &[PodKey]) -> Result<Vec<Audience<Newcomer>>, TooMany> {
        let snapshot = self.evaluator.snapshot();
        let telling = telling_apart(snapshot, replicas);
        let symbols = Symbols::of(&[&telling], &[], MOST_NEWCOMERS)?;
        let mut existing = Snapshot {
            pods: Pods::default(),
            ..snapshot.clone()
        };
        let own = replicas.iter().filter_map(|key| snapshot.pods.get(key));
        let hosts = snapshot.pods.values().filter(|pod| pod.host_network);
        for pod in own.chain(hosts) {
            existing.pods.insert(pod.clone());
        }
        existing.network_policies = self.concerned(replicas);
        let joined = symbols.join(&existing);
        let evaluator = self.evaluator.of_snapshot(&joined);
        let addresses: Vec<IpAddr> = self.world.iter().map(|(range, _)| range.example).collect();
        // One replica of a class stands for all of them.
        let mut targets: Vec<Endpoint> = Vec::new();
        for class in self.classes_of(replicas) {
            let members = self.class(class).map(|class| class.members.as_slice());
            let mut members = members.unwrap_or_default().iter();
            let member = members.find(|key| replicas.contains(key));
            targets.extend(member.cloned().map(Endpoint::Pod));
        }
        let targets: Vec<(Option<Family>, Party)> = targets
            .iter()
            .flat_map(|end| self.families.iter().map(move |family| (*family, end)))
            .map(|(family, end)| (family, evaluator.party(end, family)))
            .filter(|(_, party)| party.has_family())
            .collect();
        let mut audiences = Vec::new();
        for key in symbols.pods() {
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
            join(&mut audiences, [newcomer], Reach::merge(&found), reasons);
        }
        Ok(audiences)
    }

    /// The NetworkPolicies that may select a replica, or restrict what pods to come open, or of which
    /// that is not known: the others play no part.
    fn concerned(&self, replicas: &[PodKey]) -> BTreeMap<(Arc<str>, Arc<str>), Arc<NetworkPolicy>> {
        let snapshot = self.evaluator.snapshot();
        let pods = replicas.iter().filter_map(|key| snapshot.pods.get(key));
        let mut looks: Vec<&Arc<Pod>> = pods.collect();
        let unknown = |pod: &Pod| snapshot.gaps.labels.get(&pod.key);
        looks.dedup_by_key(|pod| (&pod.key.namespace, &pod.labels, unknown(pod)));
        let doubts = self.evaluator.doubts();
        let concerned = snapshot.network_policies.iter().filter(|(_, policy)| {
            let mut looks = looks.iter();
            policy.egress.is_some()
                || doubts
                    .iter()
                    .any(|doubt| doubt.policy == policy.policy_ref())
                || looks.any(|pod| {
                    pod.key.namespace == policy.namespace
                        && snapshot.pod_selected(policy, pod) != Some(false)
                })
        });
        let concerned = concerned.map(|(key, policy)| (key.clone(), policy.clone()));
        concerned.collect()
    }
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

/// The namespaces of `snapshot`, and of its policies what tells pods to come apart that open connections
/// to `replicas`: whom the policies of the replicas admit, and whose egress is restricted at all.
fn telling_apart(snapshot: &Snapshot, replicas: &[PodKey]) -> Snapshot {
    let pods: Vec<_> = replicas
        .iter()
        .filter_map(|key| snapshot.pods.get(key))
        .collect();
    let mut telling = Snapshot {
        namespaces: snapshot.namespaces.clone(),
        ..Snapshot::default()
    };
    let none: Vec<NetworkRule> = Vec::new();
    for policy in snapshot.network_policies.values() {
        let is_own = pods.iter().any(|pod| {
            pod.key.namespace == policy.namespace
                && snapshot.pod_selected(policy, pod) != Some(false)
        });
        telling.insert_network_policy(NetworkPolicy {
            pod_selector: if policy.egress.is_some() {
                policy.pod_selector.clone()
            } else {
                Selection::Nothing
            },
            ingress: policy.ingress.clone().filter(|_| is_own),
            egress: policy.egress.as_ref().map(|_| none.clone()),
            ..NetworkPolicy::clone(policy)
        });
    }
    for policy in snapshot.admin_policies.values() {
        let is_own = pods.iter().any(|pod| match &policy.subject {
            Subject::Pods { namespaces, pods } => snapshot.may_match(namespaces, pods, pod),
            Subject::Nothing => false,
        });
        telling.insert_admin_policy(AdminPolicy {
            subject: if policy.egress.is_empty() {
                Subject::Nothing
            } else {
                policy.subject.clone()
            },
            ingress: if is_own {
                policy.ingress.clone()
            } else {
                Vec::new()
            },
            egress: Vec::new(),
            ..AdminPolicy::clone(policy)
        });
    }
    telling
}
