// SPDX-License-Identifier: Apache-2.0
//! `policy-types-surprise`: reports policies with only egress rules and without policyTypes.

use super::{
    Lint,
    context::Context,
    written::{network_policies, types},
};
use crate::diagnostic::{Diagnostic, Severity};

pub(super) const LINT: Lint = Lint {
    code: "NPA044",
    name: "policy-types-surprise",
    severity: Severity::Warning,
    what: "Reports policies with only egress rules and without policyTypes.",
    why: "Without policyTypes a policy always isolates for ingress, too: everything into the pods is dropped.",
    example: "spec: {podSelector: {}, egress: [{}]}",
    instead: "spec: {podSelector: {}, policyTypes: [Egress], egress: [{}]}",
};

pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Diagnostic>) {
    for written in network_policies(context.documents) {
        let declared = types(written.spec);
        let rules = |direction| {
            written
                .rules(direction)
                .is_some_and(|rules| !rules.is_empty())
        };
        if declared.is_empty() && rules("egress") && written.rules("ingress").is_none() {
            let message =
                "without `policyTypes` the policy also isolates for ingress and admits nothing";
            let mut finding = LINT.at(
                message.to_owned(),
                &written.policy(context),
                "spec.policyTypes".to_owned(),
                written.at("spec.egress"),
            );
            finding.help = Some("add `policyTypes: [Egress]`, or ingress rules".to_owned());
            findings.push(finding);
        }
    }
}
