// SPDX-License-Identifier: Apache-2.0
//! What is there to say about a policy, besides what it means?

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use policy_compiler::{
    diagnostic::{Diagnostic, Severity},
    model::{Action, AdminPolicy, AdminRule, Direction, PolicyRef, Priority, Tier},
};
use serde_json::Value;

use crate::status::conditions;

/// A policy as its status sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyRecord {
    /// Which policy.
    pub policy: PolicyRef,
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// `metadata.generation`.
    pub generation: i64,
    /// Where a cluster-scoped policy stands in the order of evaluation.
    pub order: Option<(Tier, Priority)>,
    /// What a cluster-scoped policy means, if it means anything.
    pub meaning: Option<Arc<AdminPolicy>>,
    /// Why the object as a whole is not a policy; the other fields say little then.
    pub rejected: Option<Arc<str>>,
    /// What the policy denies is reported and not enforced.
    pub audited: bool,
    /// The rules that fail closed, with what they do instead.
    pub unsupported: Vec<String>,
    /// What is wrong or probably not meant.
    pub problems: Vec<Problem>,
    /// The conditions in the object that are ours.
    pub conditions: Vec<Condition>,
}

/// One problem of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// [`Diagnostic::id`].
    pub id: &'static str,
    /// An API server should not have accepted this.
    pub is_error: bool,
    /// Field path and message.
    pub message: String,
}

impl PolicyRecord {
    /// A flawless record of `policy`.
    pub fn new(policy: PolicyRef) -> Self {
        Self {
            policy,
            uid: Arc::default(),
            generation: 0,
            order: None,
            meaning: None,
            rejected: None,
            audited: false,
            unsupported: Vec::new(),
            problems: Vec::new(),
            conditions: Vec::new(),
        }
    }

    /// Takes what the object and its diagnostics say.
    pub(super) fn read(&mut self, value: &Value, diagnostics: &[Diagnostic]) {
        let metadata = value.get("metadata");
        if let Some(uid) = metadata.and_then(|metadata| metadata.get("uid")?.as_str()) {
            self.uid = uid.into();
        }
        let generation = metadata.and_then(|metadata| metadata.get("generation")?.as_i64());
        self.generation = generation.unwrap_or_default();
        self.problems = diagnostics.iter().filter_map(Problem::new).collect();
        let conditions = value
            .get("status")
            .and_then(|status| status.get("conditions"));
        self.conditions = conditions
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|condition| serde_json::from_value::<Condition>(condition.clone()).ok())
            .filter(|condition| conditions::is_ours(&condition.type_))
            .collect();
    }

    /// Takes what the policy turned out to mean.
    pub(super) fn judge(&mut self, policy: &Arc<AdminPolicy>) {
        self.meaning = Some(policy.clone());
        self.order = Some((policy.tier, policy.priority));
        for direction in [Direction::Ingress, Direction::Egress] {
            for (index, rule) in policy.rules(direction).iter().enumerate() {
                if let Some(text) = unsupported(rule, policy.audited) {
                    self.unsupported
                        .push(format!("{direction}[{index}].{text}"));
                }
            }
        }
    }
}

impl Problem {
    /// What `diagnostic` says, unless that is only good to know.
    pub(crate) fn new(diagnostic: &Diagnostic) -> Option<Self> {
        let is_error = match diagnostic.severity {
            Severity::Info => return None,
            Severity::Warning => false,
            Severity::Error => true,
        };
        Some(Self {
            id: diagnostic.id,
            is_error,
            message: super::decode::spell(diagnostic),
        })
    }
}

/// How a rule deviates from what is written in it, if it does.
fn unsupported(rule: &AdminRule, audited: bool) -> Option<String> {
    let (path, why) = match &rule.closed {
        Some(closed) => (&*closed.path, &*closed.why),
        None if rule.has_domain_names() => ("to", "domain names are not resolved"),
        None => return None,
    };
    let instead = match rule.action {
        Action::Allow => "matches nothing",
        Action::Deny | Action::Pass if audited => "would deny everything if it were enforced",
        Action::Deny | Action::Pass => "denies everything",
    };
    Some(format!("{path}: {why}, so the rule {instead}"))
}

#[cfg(test)]
mod tests {
    use policy_compiler::snapshot::Options;
    use serde_json::json;

    use super::Value;
    use crate::index::{Index, Kind, Watched};

    /// What a watch keeps of an object of kind `Kind::ALL[KIND]`.
    fn kept<const KIND: usize>(object: &Value) -> Value {
        let watched = serde_json::from_value::<Watched<KIND>>(object.clone());
        watched.unwrap().value
    }

    #[track_caller]
    fn check(kind: Kind, mut policy: Value, keep: fn(&Value) -> Value) {
        let mut index = Index::new("n1", Options::default());
        for (mode, audited) in [("enforce", false), ("audit", true), ("enforce", false)] {
            policy["metadata"]["labels"] = json!({"netpol.dev/mode": mode});
            let effect = index.apply(kind, &keep(&policy));
            assert!(effect.changed && effect.records, "{mode}");
            let records: Vec<bool> = index.records().values().map(|it| it.audited).collect();
            assert_eq!(records, [audited], "{mode}");
            let snapshot = index.snapshot();
            let mut network = snapshot.network_policies.values().map(|it| it.audited);
            let mut admin = snapshot.admin_policies.values().map(|it| it.audited);
            assert_eq!(network.next().or(admin.next()), Some(audited), "{mode}");
        }
    }

    #[test]
    fn a_label_that_audits_is_a_change_of_the_policy_and_of_its_record() {
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": "shop", "name": "web", "uid": "u", "generation": 1},
            "spec": {"podSelector": {}},
        });
        let kind = Kind::NetworkPolicy;
        check(kind, policy, kept::<{ Kind::NetworkPolicy as usize }>);
        let policy = json!({
            "apiVersion": "policy.networking.k8s.io/v1alpha1", "kind": "AdminNetworkPolicy",
            "metadata": {"name": "guard", "uid": "u", "generation": 1},
            "spec": {"priority": 1, "subject": {"namespaces": {}}},
        });
        let kind = Kind::AdminNetworkPolicy;
        check(kind, policy, kept::<{ Kind::AdminNetworkPolicy as usize }>);
    }
}
