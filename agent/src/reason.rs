// SPDX-License-Identifier: Apache-2.0
//! How is a decision put into words?

use policy_compiler::{
    Decision, Reason, RuleRef, Snapshot, Verdict,
    diagnostic::Location,
    model::{PolicyKind, PolicyRef},
};

/// The decision in one line: `NetworkPolicy shop/web ingress[0]`, `default`.
pub fn describe(decision: &Decision) -> String {
    match &decision.reason {
        Reason::Rule(rule) => rule_name(rule),
        Reason::FailClosed(rule) => format!("{} (fails closed)", rule_name(rule)),
        Reason::Isolated(policies) => {
            let names: Vec<_> = policies.iter().map(PolicyRef::to_string).collect();
            format!("isolated by {}", names.join(", "))
        }
        Reason::LocalNode => "local-node".to_owned(),
        Reason::SelfTraffic => "self".to_owned(),
        Reason::NotASubject => "not-a-subject".to_owned(),
        Reason::Default => "default".to_owned(),
    }
}

/// Where the deciding rule is written.
pub fn location(decision: &Decision) -> Option<&Location> {
    match &decision.reason {
        Reason::Rule(rule) | Reason::FailClosed(rule) => rule.at.as_ref(),
        Reason::Isolated(_)
        | Reason::LocalNode
        | Reason::SelfTraffic
        | Reason::NotASubject
        | Reason::Default => None,
    }
}

/// Where what decided is written: the rule, or the first of the policies that isolate the pod.
pub fn place(decision: &Decision, snapshot: &Snapshot) -> Option<Location> {
    match &decision.reason {
        Reason::Isolated(policies) => policies.iter().find_map(|policy| {
            let key = (policy.namespace.clone()?, policy.name.clone());
            snapshot.network_policies.get(&key)?.at.clone()
        }),
        Reason::Rule(_)
        | Reason::FailClosed(_)
        | Reason::LocalNode
        | Reason::SelfTraffic
        | Reason::NotASubject
        | Reason::Default => location(decision).cloned(),
    }
}

/// The kind of object that decided, if one did.
pub fn kind(decision: &Decision) -> Option<PolicyKind> {
    match &decision.reason {
        Reason::Rule(rule) | Reason::FailClosed(rule) => Some(rule.policy.kind),
        Reason::Isolated(_) => Some(PolicyKind::NetworkPolicy),
        Reason::LocalNode | Reason::SelfTraffic | Reason::NotASubject | Reason::Default => None,
    }
}

/// `AdminNetworkPolicy guard egress[2] (dns)`.
pub fn rule_name(rule: &RuleRef) -> String {
    let place = format!("{} {}[{}]", rule.policy, rule.direction, rule.index);
    match &rule.name {
        Some(name) => format!("{place} ({name})"),
        None => place,
    }
}

/// `allow` or `deny`.
pub const fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
    }
}
