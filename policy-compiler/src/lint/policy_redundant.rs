// SPDX-License-Identifier: Apache-2.0
//! `policy-redundant`: reports NetworkPolicies that could be removed without changing any verdict.

use super::{
    Lint,
    context::{Context, at_words},
    cover::{Matched, selection_implies},
};
use crate::{
    diagnostic::{Diagnostic, Severity},
    model::{Direction, NetworkPolicy},
};

pub(super) const LINT: Lint = Lint {
    code: "NPA034",
    name: "policy-redundant",
    severity: Severity::Warning,
    what: "Reports NetworkPolicies that could be removed without changing any verdict.",
    why: "Another policy isolates every pod they select and admits everything they admit.",
    example: "Two copies of a default-deny policy under different names",
    instead: "One of them.",
};

pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Diagnostic>) {
    for policies in context.by_namespace().values() {
        for (position, policy) in policies.iter().enumerate() {
            let others = policies
                .iter()
                .enumerate()
                .filter(|(at, _)| *at != position);
            let replacing = others.filter(|(at, other)| {
                replaces(context, other, policy)
                    && (*at < position || !replaces(context, policy, other))
            });
            if let Some((_, other)) = replacing.into_iter().next() {
                let message = format!(
                    "{}{} isolates the same pods and admits everything this policy does",
                    other.policy_ref(),
                    at_words(other.at.as_ref())
                );
                findings.push(LINT.at(
                    message,
                    &policy.policy_ref(),
                    String::new(),
                    policy.at.clone(),
                ));
            }
        }
    }
}

/// Whether `wide` makes `narrow` superfluous.
fn replaces(context: &Context<'_>, wide: &NetworkPolicy, narrow: &NetworkPolicy) -> bool {
    // What only an audited policy isolates is open.
    (narrow.audited || !wide.audited)
        && selection_implies(&narrow.pod_selector, &wide.pod_selector)
        && Direction::BOTH.into_iter().all(|direction| {
            let Some(rules) = narrow.rules(direction) else {
                return true;
            };
            let Some(others) = wide.rules(direction) else {
                return false;
            };
            let matched = |rule| Matched::of_network(rule, &narrow.namespace, context.snapshot);
            let others: Vec<Matched> = others.iter().map(matched).collect();
            rules.iter().map(matched).all(|rule| {
                rule.is_nothing() || rule.covered_by(others.iter().enumerate()).is_some()
            })
        })
}
