// SPDX-License-Identifier: Apache-2.0
//! `inert-section`: reports rules of a direction that policyTypes leaves out.

use super::{
    Lint,
    context::Context,
    written::{network_policies, types},
};
use crate::diagnostic::{Diagnostic, Severity};

pub(super) const LINT: Lint = Lint {
    code: "NPA045",
    name: "inert-section",
    severity: Severity::Warning,
    what: "Reports rules of a direction that policyTypes leaves out.",
    why: "They have no effect.",
    example: "policyTypes: [Egress]\ningress: [{from: [{podSelector: {}}]}]",
    instead: "policyTypes: [Ingress, Egress]",
};

pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Diagnostic>) {
    for written in network_policies(context.documents) {
        let declared = types(written.spec);
        if declared.is_empty() {
            continue;
        }
        for (section, kind) in [("ingress", "Ingress"), ("egress", "Egress")] {
            let rules = written
                .rules(section)
                .is_some_and(|rules| !rules.is_empty());
            if rules && !declared.iter().any(|declared| declared == kind) {
                let path = format!("spec.{section}");
                let message = format!("the rules have no effect: `policyTypes` leaves out {kind}");
                let at = written.at(&path);
                findings.push(LINT.at(message, &written.policy(context), path, at));
            }
        }
    }
}
