// SPDX-License-Identifier: Apache-2.0
//! What is wrong with NetworkPolicies that only shows beside the other objects of the cluster?

use std::{collections::BTreeMap, sync::Arc};

use policy_compiler::{
    Snapshot, lint,
    model::{PolicyKind, PolicyRef},
    partial::{Assumptions, Evaluator},
};

use super::report::NodeEnforcementSpec;
use crate::index::{PolicyRecord, Problem};

/// The cluster as the lease holder looks at it.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Which state of the cluster this is: of two surveys by one agent with the same number the snapshot
    /// is the same.
    pub revision: u64,
    /// The objects.
    pub snapshot: Snapshot,
    /// `metadata.uid` of every NetworkPolicy.
    pub uids: BTreeMap<PolicyRef, Arc<str>>,
}

/// The lints whose findings are told: policies and rules that never match, and port names that nobody
/// has.
const TOLD: [&str; 3] = [
    "named-port-unresolved",
    "peer-selects-nothing",
    "selects-nothing",
];

/// The NetworkPolicies that have such problems, each with all of them.
pub fn findings(survey: &Survey) -> Vec<PolicyRecord> {
    let evaluator = Evaluator::new(&survey.snapshot, Assumptions::default(), Vec::new());
    let found = lint::run_only(&survey.snapshot, &evaluator, &[], |lint| {
        TOLD.contains(&lint.name)
    });
    let mut records: BTreeMap<&PolicyRef, PolicyRecord> = BTreeMap::new();
    for diagnostic in &found {
        let Some(object) = &diagnostic.object else {
            continue;
        };
        let policy = PolicyRef {
            kind: PolicyKind::NetworkPolicy,
            namespace: object.namespace.clone(),
            name: object.name.clone(),
        };
        // Cluster-scoped policies have no namespace and are not among them.
        if let Some((policy, uid)) = survey.uids.get_key_value(&policy) {
            let record = records.entry(policy).or_insert_with(|| PolicyRecord {
                uid: uid.clone(),
                ..PolicyRecord::new(policy.clone())
            });
            record.problems.extend(Problem::new(diagnostic));
        }
    }
    records.into_values().collect()
}

/// What nodes say of NetworkPolicies that they cannot enforce; of many nodes the first one's words.
pub fn failures<'a>(
    reports: impl IntoIterator<Item = (&'a Arc<str>, &'a NodeEnforcementSpec)>,
    survey: &Survey,
) -> Vec<PolicyRecord> {
    let mut records: BTreeMap<PolicyRef, PolicyRecord> = BTreeMap::new();
    for (node, report) in reports {
        for failed in &report.policy_failures {
            let Some(namespace) = &failed.namespace else {
                continue;
            };
            let policy = PolicyRef {
                kind: PolicyKind::NetworkPolicy,
                namespace: Some(namespace.as_str().into()),
                name: failed.name.as_str().into(),
            };
            if let Some(uid) = survey.uids.get(&policy) {
                records
                    .entry(policy)
                    .or_insert_with_key(|policy| PolicyRecord {
                        uid: uid.clone(),
                        problems: vec![Problem {
                            id: "table-overflow",
                            is_error: false,
                            message: format!("node {node}: {}", failed.failure.message),
                        }],
                        ..PolicyRecord::new(policy.clone())
                    });
            }
        }
    }
    records.into_values().collect()
}

/// The problems of `now` that were there `before`, too: whoever applies a policy and its pods at once
/// need not hear of the moment between.
pub fn lasting(before: &[PolicyRecord], now: &[PolicyRecord]) -> Vec<PolicyRecord> {
    let mut lasting = Vec::new();
    for record in now {
        let Some(known) = before.iter().find(|known| known.policy == record.policy) else {
            continue;
        };
        let mut record = record.clone();
        record
            .problems
            .retain(|problem| known.problems.contains(problem));
        if !record.problems.is_empty() {
            lasting.push(record);
        }
    }
    lasting
}
