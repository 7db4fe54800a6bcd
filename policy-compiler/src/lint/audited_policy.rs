// SPDX-License-Identifier: Apache-2.0
//! `audited-policy`: reports policies whose denials are reported and not enforced.

use super::{Lint, context::Context};
use crate::{
    diagnostic::{Diagnostic, Location, Severity},
    model::PolicyRef,
};

pub(super) const LINT: Lint = Lint {
    code: "NPA055",
    name: "audited-policy",
    severity: Severity::Info,
    what: "Reports policies whose denials are reported and not enforced.",
    why: "What the policy would keep out gets in. It is meant for a trial, and easily forgotten.",
    example: "metadata: {name: web, labels: {netpol.dev/mode: audit}}",
    instead: "The policy without the label, once nothing is reported that should pass.",
};

pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Diagnostic>) {
    let network = context.snapshot.network_policies.values();
    let network = network.filter(|policy| policy.audited);
    findings.extend(network.map(|policy| finding(&policy.policy_ref(), policy.at.clone())));
    let admin = context.snapshot.admin_policies.values();
    let admin = admin.filter(|policy| policy.audited);
    findings.extend(admin.map(|policy| finding(&policy.policy_ref(), policy.at.clone())));
}

fn finding(policy: &PolicyRef, at: Option<Location>) -> Diagnostic {
    let message = "audited, not enforced: what it denies passes and is reported".to_owned();
    LINT.at(message, policy, "metadata.labels".to_owned(), at)
}
