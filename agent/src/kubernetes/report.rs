// SPDX-License-Identifier: Apache-2.0
//! What does this node have to say for itself?

use std::{collections::BTreeMap, sync::Arc};

use policy_compiler::{
    Snapshot,
    model::{AdminPolicy, PodKey, PolicyKind, Subject},
};

use crate::{
    engine::{self, PodState},
    index::{Index, KindView, SyncState},
    status::report::{Failure, NodeEnforcementSpec, PodCounts, PolicyFailure, UnsupportedPod},
    watch::Trouble,
};

/// The report of a node that has put the policies of `digest` in force, the last time it could.
pub(super) fn report(
    index: &Index,
    engine: &engine::Report,
    failure: Option<Failure>,
    crowding: &[Arc<str>],
    digest: &str,
) -> NodeEnforcementSpec {
    let limit = NodeEnforcementSpec::LIST_LIMIT;
    let unreachable: Vec<(&PodKey, Failure)> = engine
        .pods
        .iter()
        .filter_map(|(pod, state)| match state {
            PodState::Unreachable(why) => Some((pod, no_host_interface(why))),
            PodState::Enforced | PodState::Quarantined | PodState::Waiting => None,
        })
        .collect();
    let unsupported_pods = unreachable
        .iter()
        .take(limit)
        .map(|(pod, failure)| UnsupportedPod {
            namespace: pod.namespace.to_string(),
            name: pod.name.to_string(),
            failure: failure.clone(),
        });
    NodeEnforcementSpec {
        policies: digest.to_owned(),
        pods: counts(&engine.pods),
        policy_failures: failure
            .iter()
            .flat_map(|failure| overflowing(crowding, failure))
            .chain(policy_failures(index.snapshot(), &unreachable))
            .take(limit)
            .collect(),
        failure,
        unsupported_pods: unsupported_pods.collect(),
    }
}

/// Why the newest policies are not in force, if they are not.
pub(super) fn failure(index: &Index, error: Option<&str>) -> Option<Failure> {
    if let Some(error) = error {
        let reason = if error.contains("do not fit") {
            "TableOverflow"
        } else {
            "PublishFailed"
        };
        return Some(new_failure(reason, error));
    }
    let unread = index.kinds().find(|kind| *kind.sync == SyncState::Never);
    // A server that is away will be back, and nobody could be told. A right that was taken away stays
    // away: what was read with it is enforced as it was last known.
    let denied = || index.kinds().find(|kind| is_denied(*kind));
    let kind = unread.or_else(denied)?;
    match kind.trouble {
        Some(Trouble::Denied(why)) => Some(new_failure(
            "AccessDenied",
            &format!("{}: {why}", kind.kind),
        )),
        Some(Trouble::Failing(why)) => {
            Some(new_failure("NotSynced", &format!("{}: {why}", kind.kind)))
        }
        None => None,
    }
}

/// That what is in force may have no effect.
pub(super) fn bypassed(why: Option<&str>) -> Option<Failure> {
    Some(new_failure("Bypassed", why?))
}

fn is_denied(kind: KindView<'_>) -> bool {
    matches!(kind.trouble, Some(Trouble::Denied(_)))
}

/// Why the agent is not ready; nothing if it is.
pub(super) fn unready(index: &Index, engine: &engine::Report) -> Vec<String> {
    let mut reasons = Vec::new();
    for kind in index.kinds().filter(|kind| *kind.sync == SyncState::Never) {
        reasons.push(match kind.trouble {
            Some(Trouble::Denied(why) | Trouble::Failing(why)) => {
                format!("{} not read: {why}", kind.kind)
            }
            None => format!("{} not read yet", kind.kind),
        });
    }
    let known = index.kinds().filter(|kind| *kind.sync != SyncState::Never);
    for kind in known.filter(|kind| is_denied(*kind)) {
        reasons.push(format!("{} may no longer be read", kind.kind));
    }
    reasons.extend(engine.error.iter().map(ToString::to_string));
    if engine.generation == 0 {
        reasons.push("no tables in force yet".to_owned());
    }
    for (pod, state) in &engine.pods {
        let has_address = || {
            let pod = index.snapshot().pods.get(pod);
            pod.is_some_and(|pod| !pod.addresses.is_empty())
        };
        match state {
            PodState::Quarantined => reasons.push(format!("pod {pod} is in quarantine")),
            // A pod without address has no network namespace yet; its interface is closed when it comes.
            PodState::Waiting if has_address() => {
                reasons.push(format!("no interface of pod {pod} found"));
            }
            PodState::Enforced | PodState::Waiting | PodState::Unreachable(_) => {}
        }
    }
    reasons
}

fn counts(pods: &BTreeMap<PodKey, PodState>) -> PodCounts {
    let mut counts = PodCounts::default();
    for state in pods.values() {
        match state {
            PodState::Enforced => counts.enforced += 1,
            PodState::Quarantined | PodState::Waiting => counts.quarantined += 1,
            PodState::Unreachable(_) => counts.unsupported += 1,
        }
    }
    counts
}

/// The cluster-scoped policies that select a pod which nothing on this node can police.
fn policy_failures(snapshot: &Snapshot, unreachable: &[(&PodKey, Failure)]) -> Vec<PolicyFailure> {
    if unreachable.is_empty() {
        return Vec::new();
    }
    snapshot
        .admin_policies
        .values()
        .filter_map(|policy| {
            let hit = unreachable
                .iter()
                .find(|(pod, _)| selects(snapshot, policy, pod))?;
            Some(PolicyFailure {
                kind: PolicyKind::from(policy.kind).to_string(),
                namespace: None,
                name: policy.name.to_string(),
                failure: new_failure(&hit.1.reason, &format!("pod {}: {}", hit.0, hit.1.message)),
            })
        })
        .collect()
}

/// The NetworkPolicies among those that take the most room in tables which do not fit.
fn overflowing(crowding: &[Arc<str>], failure: &Failure) -> Vec<PolicyFailure> {
    let names = crowding.iter().filter_map(|policy| {
        let (kind, name) = policy.split_once(' ')?;
        let (namespace, name) = name.split_once('/')?;
        Some((kind, namespace, name))
    });
    names
        .map(|(kind, namespace, name)| PolicyFailure {
            kind: kind.to_owned(),
            namespace: Some(namespace.to_owned()),
            name: name.to_owned(),
            failure: failure.clone(),
        })
        .collect()
}

fn selects(snapshot: &Snapshot, policy: &AdminPolicy, pod: &PodKey) -> bool {
    let (Some(pod), Some(namespace)) = (
        snapshot.pods.get(pod),
        snapshot.namespaces.get(&pod.namespace),
    ) else {
        return false;
    };
    match &policy.subject {
        Subject::Pods { namespaces, pods } => {
            namespaces.matches(&namespace.labels) && pods.matches(&pod.labels)
        }
        Subject::Nothing => false,
    }
}

fn no_host_interface(why: &str) -> Failure {
    new_failure("NoHostInterface", why)
}

fn new_failure(reason: &str, message: &str) -> Failure {
    Failure {
        reason: reason.to_owned(),
        message: message.chars().take(256).collect(),
    }
}
