// SPDX-License-Identifier: Apache-2.0
//! `selects-nothing`: reports policies that apply to no pod.

use super::{Lint, context::Context};
use crate::diagnostic::{Diagnostic, Severity};

pub(super) const LINT: Lint = Lint {
    code: "NPA030",
    name: "selects-nothing",
    severity: Severity::Warning,
    what: "Reports policies that apply to no pod.",
    why: "Such a policy protects nothing; usually a label is misspelt or in another namespace.",
    example: "podSelector: {matchLabels: {app: wbe}}",
    instead: "podSelector: {matchLabels: {app: web}}",
};

pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Diagnostic>) {
    if context.pods.is_empty() {
        return;
    }
    for policy in context.snapshot.network_policies.values() {
        if context.selected(policy).is_empty() {
            let message = format!("no pod of namespace `{}` is selected", policy.namespace);
            let path = "spec.podSelector".to_owned();
            findings.push(LINT.at(message, &policy.policy_ref(), path, policy.at.clone()));
        }
    }
    for policy in context.snapshot.admin_policies.values() {
        if context.subjects(policy).is_empty() {
            let path = "spec.subject".to_owned();
            let message = "no pod is a subject".to_owned();
            findings.push(LINT.at(message, &policy.policy_ref(), path, policy.at.clone()));
        }
    }
}
