// SPDX-License-Identifier: Apache-2.0
//! `fail-closed-rule`: reports rules of cluster-scoped policies that cannot be enforced as written.

use super::{
    Lint,
    context::{Context, admin_rules, is_closed, place},
};
use crate::{
    diagnostic::{Diagnostic, Severity},
    model::Action,
};

pub(super) const LINT: Lint = Lint {
    code: "NPA039",
    name: "fail-closed-rule",
    severity: Severity::Warning,
    what: "Reports rules of cluster-scoped policies that cannot be enforced as written.",
    why: "An Allow rule then matches nothing, a Deny or Pass rule denies everything to its subjects.",
    example: "to: [{domainNames: [example.com]}]\naction: Deny",
    instead: "A rule with peers that the engine knows.",
};

pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Diagnostic>) {
    for policy in context.snapshot.admin_policies.values() {
        for (direction, index, rule) in admin_rules(policy) {
            if !is_closed(rule, context.snapshot) {
                continue;
            }
            let effect = match rule.action {
                Action::Allow => "matches nothing",
                Action::Deny | Action::Pass if policy.audited => {
                    "would deny everything to its subjects if its policy were enforced"
                }
                Action::Deny | Action::Pass => "denies everything to its subjects",
            };
            let why = match &rule.closed {
                Some(closed) => format!("{}: {}", closed.path, closed.why),
                None => "domain names need addresses learned from DNS".to_owned(),
            };
            let message = format!("the rule {effect} ({why})");
            let path = format!("spec.{}", place(direction, index));
            findings.push(LINT.at(message, &policy.policy_ref(), path, rule.at.clone()));
        }
    }
}
