// SPDX-License-Identifier: Apache-2.0
//! `rule-redundant`: reports rules that could be removed without changing any verdict, because other rules with the same effect match everything they do.

use super::{
    Lint,
    context::{Context, at_words, place},
    cover::{Matched, selection_implies},
    rule_shadowed::each_covered,
};
use crate::{
    diagnostic::{Diagnostic, Severity},
    model::{Direction, NetworkPolicy},
};

pub(super) const LINT: Lint = Lint {
    code: "NPA033",
    name: "rule-redundant",
    severity: Severity::Warning,
    what: "Reports rules that could be removed without changing any verdict, because other rules with the same effect match everything they do.",
    why: "Rules without effect hide those that have one.",
    example: "ingress:\n- from: [{podSelector: {}}]\n- from: [{podSelector: {matchLabels: {app: web}}}]",
    instead: "Only the first rule.",
};

pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Diagnostic>) {
    each_covered(context, |covered| {
        if covered.same {
            let message = format!("covered by {}", covered.names());
            findings.push(covered.finding(&LINT, message));
        }
    });
    for policies in context.by_namespace().values() {
        for direction in Direction::BOTH {
            let rules = admitting(context, policies.iter().map(|policy| &***policy), direction);
            for (position, (policy, index, matched)) in rules.iter().enumerate() {
                let Some(covering) = covered(&rules, position, matched) else {
                    continue;
                };
                let names: Vec<String> = covering
                    .iter()
                    .filter_map(|at| rules.get(*at))
                    .map(|(policy, index, _)| {
                        let rule = policy.rules(direction).and_then(|rules| rules.get(*index));
                        let at = rule.and_then(|rule| rule.at.as_ref());
                        format!(
                            "{} {}{}",
                            policy.policy_ref(),
                            place(direction, *index),
                            at_words(at)
                        )
                    })
                    .collect();
                let rule = policy.rules(direction).and_then(|rules| rules.get(*index));
                let path = format!("spec.{}", place(direction, *index));
                let at = rule.and_then(|rule| rule.at.clone());
                let message = format!("covered by {}", names.join(" and "));
                findings.push(LINT.at(message, &policy.policy_ref(), path, at));
            }
        }
    }
}

/// A rule's policy and position, and what it admits.
pub(super) type Admitting<'a> = (&'a NetworkPolicy, usize, Matched);

/// The rules of NetworkPolicies of one namespace.
pub(super) fn admitting<'a>(
    context: &Context<'_>,
    policies: impl Iterator<Item = &'a NetworkPolicy>,
    direction: Direction,
) -> Vec<Admitting<'a>> {
    let mut admitting = Vec::new();
    for policy in policies {
        for (index, rule) in policy
            .rules(direction)
            .unwrap_or_default()
            .iter()
            .enumerate()
        {
            let matched = Matched::of_network(rule, &policy.namespace, context.snapshot);
            admitting.push((policy, index, matched));
        }
    }
    admitting
}

/// The positions of other rules that together admit everything a rule does. Of rules that cover each
/// other the first stays.
fn covered(rules: &[Admitting<'_>], position: usize, matched: &Matched) -> Option<Vec<usize>> {
    let (policy, ..) = rules.get(position)?;
    if matched.is_nothing() {
        return None;
    }
    let wider = |other: &NetworkPolicy| {
        other.name == policy.name || selection_implies(&policy.pod_selector, &other.pod_selector)
    };
    let others: Vec<(usize, &Matched)> = rules
        .iter()
        .enumerate()
        .filter(|(at, (other, _, theirs))| {
            let mutual = selection_implies(&other.pod_selector, &policy.pod_selector)
                && theirs.covered_by(std::iter::once((0, matched))).is_some();
            *at != position && wider(other) && (*at < position || !mutual)
        })
        .map(|(at, (.., matched))| (at, matched))
        .collect();
    matched.covered_by(others.iter().copied())
}
