// SPDX-License-Identifier: Apache-2.0
//! `rule-shadowed`: reports rules of cluster-scoped policies that never decide, because earlier rules match everything they do and at least one has another action.

use super::{
    Lint,
    context::{Context, at_words, decides, is_closed, place},
    cover::{Matched, subject_implies},
};
use crate::{
    diagnostic::{Diagnostic, Severity},
    model::{AdminPolicy, AdminRule, Direction, Tier},
};

pub(super) const LINT: Lint = Lint {
    code: "NPA032",
    name: "rule-shadowed",
    severity: Severity::Warning,
    what: "Reports rules of cluster-scoped policies that never decide, because earlier rules match everything they do and at least one has another action.",
    why: "The rule looks as if it did something. It is proven for every cluster, not only for the pods that exist.",
    example: "ingress:\n- {action: Deny, from: [{namespaces: {}}]}\n- {action: Allow, from: [{namespaces: {matchLabels: {team: a}}}]}",
    instead: "The Allow rule first.",
};

pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Diagnostic>) {
    for tier in [Tier::Admin, Tier::Baseline] {
        for direction in Direction::BOTH {
            let rules = precedence(context, tier, direction);
            for (position, (policy, index, rule, matched)) in rules.iter().enumerate() {
                let Some(matched) = matched
                    .as_ref()
                    .filter(|_| !is_closed(rule, context.snapshot))
                else {
                    continue;
                };
                let Some(covering) = covering(&rules, position, matched) else {
                    continue;
                };
                let others: Vec<_> = covering.iter().filter_map(|at| rules.get(*at)).collect();
                let same = others.iter().all(|(_, _, other, _)| {
                    other.action == rule.action && !is_closed(other, context.snapshot)
                });
                if same {
                    continue;
                }
                let names: Vec<String> = others
                    .iter()
                    .map(|(policy, index, rule, _)| {
                        let words = place(direction, *index);
                        format!(
                            "{} {words}{}",
                            policy.policy_ref(),
                            at_words(rule.at.as_ref())
                        )
                    })
                    .collect();
                let message = format!("the rule never decides: {} come first", names.join(" and "));
                let message = if names.len() == 1 {
                    message.replace(" come first", " comes first")
                } else {
                    message
                };
                let path = format!("spec.{}", place(direction, *index));
                findings.push(LINT.at(message, &policy.policy_ref(), path, rule.at.clone()));
            }
        }
    }
}

/// A rule, its policy and position, and what it decides.
pub(super) type Ranked<'a> = (&'a AdminPolicy, usize, &'a AdminRule, Option<Matched>);

/// The rules of a tier in order of precedence.
pub(super) fn precedence<'a>(
    context: &Context<'a>,
    tier: Tier,
    direction: Direction,
) -> Vec<Ranked<'a>> {
    let mut rules = Vec::new();
    for policy in context.tier(tier) {
        for (index, rule) in policy.rules(direction).iter().enumerate() {
            rules.push((&**policy, index, rule, decides(rule, context.snapshot)));
        }
    }
    rules
}

/// The positions of earlier rules that together match everything a rule does, for all its subjects.
pub(super) fn covering(
    rules: &[Ranked<'_>],
    position: usize,
    matched: &Matched,
) -> Option<Vec<usize>> {
    let (policy, ..) = rules.get(position)?;
    if matched.is_nothing() {
        return None;
    }
    let earlier: Vec<(usize, &Matched)> = rules
        .iter()
        .enumerate()
        .take(position)
        .filter(|(_, (earlier, ..))| subject_implies(&policy.subject, &earlier.subject))
        .filter_map(|(at, (.., matched))| Some((at, matched.as_ref()?)))
        .collect();
    matched.covered_by(earlier.iter().copied())
}
