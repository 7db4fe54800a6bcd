// SPDX-License-Identifier: Apache-2.0
//! What is wrong or surprising with policies that are well formed? One module per lint.
//!
//! A lint only says what it can prove over the given snapshot; what is shadowed or redundant is decided
//! by the same evaluation that answers questions about flows.

mod allow_all_defeats_default_deny;
mod audited_policy;
mod baseline_unreachable;
mod cidr_covers_pods;
mod cidr_overlaps_services;
mod context;
mod controller_added_label;
mod cover;
mod default_namespace;
mod deny_without_dns_exception;
mod dns_blocked;
mod fail_closed_rule;
pub mod fix;
mod host_network_subject;
mod inert_section;
mod input;
mod named_port_ambiguous;
mod named_port_unresolved;
mod non_isolated_pod;
mod pass_without_lower_tier;
mod peer_selects_nothing;
mod policy_redundant;
mod policy_types_surprise;
mod priority_tie;
mod rule_redundant;
mod rule_shadowed;
mod selects_nothing;
mod service_port_confusion;
mod tables_too_large;
mod written;

use std::sync::Arc;

use context::Context;

use crate::{
    diagnostic::{Diagnostic, Location, ObjectRef, Severity},
    manifest::Document,
    model::PolicyRef,
    partial::Evaluator,
    snapshot::Snapshot,
};

/// A kind of finding, with what there is to know about it.
#[derive(Clone, Copy, Debug)]
pub struct Lint {
    /// Stable code, `NPA012`.
    pub code: &'static str,
    /// Stable name, `unknown-field`.
    pub name: &'static str,
    /// How much a finding matters, unless the finding says otherwise.
    pub severity: Severity,
    /// What it does.
    pub what: &'static str,
    /// Why it matters.
    pub why: &'static str,
    /// A manifest, or part of one, that has the problem.
    pub example: &'static str,
    /// What to write instead.
    pub instead: &'static str,
}

/// Every lint, in order of codes.
pub fn all() -> Vec<&'static Lint> {
    let mut lints: Vec<&Lint> = input::LINTS.iter().collect();
    lints.extend([
        &selects_nothing::LINT,
        &peer_selects_nothing::LINT,
        &rule_shadowed::LINT,
        &rule_redundant::LINT,
        &policy_redundant::LINT,
        &allow_all_defeats_default_deny::LINT,
        &priority_tie::LINT,
        &baseline_unreachable::LINT,
        &pass_without_lower_tier::LINT,
        &fail_closed_rule::LINT,
        &deny_without_dns_exception::LINT,
        &dns_blocked::LINT,
        &named_port_unresolved::LINT,
        &named_port_ambiguous::LINT,
        &policy_types_surprise::LINT,
        &inert_section::LINT,
        &host_network_subject::LINT,
        &cidr_covers_pods::LINT,
        &cidr_overlaps_services::LINT,
        &service_port_confusion::LINT,
        &controller_added_label::LINT,
        &default_namespace::LINT,
        &non_isolated_pod::LINT,
        &tables_too_large::LINT,
        &audited_policy::LINT,
    ]);
    lints.sort_by_key(|lint| lint.code);
    lints
}

/// The lint with this code or name.
pub fn find(code_or_name: &str) -> Option<&'static Lint> {
    all()
        .into_iter()
        .find(|lint| lint.code.eq_ignore_ascii_case(code_or_name) || lint.name == code_or_name)
}

/// Everything the lints find, in order of place, code and message. `documents` are the policies as
/// written; without them nothing is said about what is left out.
pub fn run(
    snapshot: &Snapshot,
    evaluator: &Evaluator<'_>,
    documents: &[Document],
) -> Vec<Diagnostic> {
    run_only(snapshot, evaluator, documents, |_| true)
}

/// As [`run`], but only the lints that are `wanted`.
pub fn run_only(
    snapshot: &Snapshot,
    evaluator: &Evaluator<'_>,
    documents: &[Document],
    wanted: impl Fn(&Lint) -> bool,
) -> Vec<Diagnostic> {
    let context = Context::new(snapshot, evaluator, documents);
    let mut findings = Vec::new();
    for (_, check) in CHECKS.iter().filter(|(lint, _)| wanted(lint)) {
        check(&context, &mut findings);
    }
    findings.sort_by(|a, b| {
        (&a.at, a.id, &a.object, &a.path, &a.message)
            .cmp(&(&b.at, b.id, &b.object, &b.path, &b.message))
    });
    findings.dedup();
    findings
}

type Check = fn(&Context<'_>, &mut Vec<Diagnostic>);

const CHECKS: &[(&Lint, Check)] = &[
    (&selects_nothing::LINT, selects_nothing::check),
    (&peer_selects_nothing::LINT, peer_selects_nothing::check),
    (&rule_shadowed::LINT, rule_shadowed::check),
    (&rule_redundant::LINT, rule_redundant::check),
    (&policy_redundant::LINT, policy_redundant::check),
    (
        &allow_all_defeats_default_deny::LINT,
        allow_all_defeats_default_deny::check,
    ),
    (&priority_tie::LINT, priority_tie::check),
    (&baseline_unreachable::LINT, baseline_unreachable::check),
    (
        &pass_without_lower_tier::LINT,
        pass_without_lower_tier::check,
    ),
    (&fail_closed_rule::LINT, fail_closed_rule::check),
    (
        &deny_without_dns_exception::LINT,
        deny_without_dns_exception::check,
    ),
    (&dns_blocked::LINT, dns_blocked::check),
    (&named_port_unresolved::LINT, named_port_unresolved::check),
    (&named_port_ambiguous::LINT, named_port_ambiguous::check),
    (&policy_types_surprise::LINT, policy_types_surprise::check),
    (&inert_section::LINT, inert_section::check),
    (&host_network_subject::LINT, host_network_subject::check),
    (&cidr_covers_pods::LINT, cidr_covers_pods::check),
    (&cidr_overlaps_services::LINT, cidr_overlaps_services::check),
    (&service_port_confusion::LINT, service_port_confusion::check),
    (&controller_added_label::LINT, controller_added_label::check),
    (&default_namespace::LINT, default_namespace::check),
    (&non_isolated_pod::LINT, non_isolated_pod::check),
    (&tables_too_large::LINT, tables_too_large::check),
    (&audited_policy::LINT, audited_policy::check),
];

impl Lint {
    /// A finding of this lint.
    pub(crate) fn at(
        &self,
        message: String,
        policy: &PolicyRef,
        path: String,
        at: Option<Location>,
    ) -> Diagnostic {
        Diagnostic {
            id: self.name,
            severity: self.severity,
            message,
            object: Some(ObjectRef {
                kind: Arc::from(policy.kind.to_string()),
                namespace: policy.namespace.clone(),
                name: policy.name.clone(),
            }),
            path,
            at,
            help: None,
            is_refused: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_unique_and_documented() {
        let lints = all();
        for pair in lints.windows(2) {
            assert!(
                pair[0].code < pair[1].code,
                "{} {}",
                pair[0].code,
                pair[1].code
            );
        }
        for lint in &lints {
            assert_eq!(find(lint.name).map(|found| found.code), Some(lint.code));
            for text in [lint.what, lint.why, lint.example, lint.instead] {
                assert!(!text.trim().is_empty(), "{}", lint.name);
            }
        }
        assert_eq!(find("NPA012").map(|lint| lint.name), Some("unknown-field"));
    }
}
