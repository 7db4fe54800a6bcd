// SPDX-License-Identifier: Apache-2.0
//! `rule-shadowed`: reports rules of cluster-scoped policies that never decide, because earlier rules match everything they do and at least one has another action.

use super::{
    Lint,
    context::{Context, at_words, decides, is_closed, is_left_out, place},
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
    each_covered(context, |covered| {
        if covered.same {
            return;
        }
        let come = if covered.by.len() == 1 {
            "comes"
        } else {
            "come"
        };
        let message = format!("the rule never decides: {} {come} first", covered.names());
        findings.push(covered.finding(&LINT, message));
    });
}

/// A rule that other rules leave nothing to decide.
pub(super) struct Covered<'a, 'r> {
    rule: &'r Ranked<'a>,
    direction: Direction,
    /// They are all earlier.
    by: Vec<&'r Ranked<'a>>,
    /// They do the same, so that nothing changes without the rule.
    pub(super) same: bool,
}

impl Covered<'_, '_> {
    /// The other rules in words.
    pub(super) fn names(&self) -> String {
        let names = self.by.iter().map(|(policy, index, rule, _)| {
            let words = place(self.direction, *index);
            format!(
                "{} {words}{}",
                policy.policy_ref(),
                at_words(rule.at.as_ref())
            )
        });
        names.collect::<Vec<_>>().join(" and ")
    }

    /// A finding at the rule.
    pub(super) fn finding(&self, lint: &Lint, message: String) -> Diagnostic {
        let (policy, index, rule, _) = self.rule;
        let path = format!("spec.{}", place(self.direction, *index));
        lint.at(message, &policy.policy_ref(), path, rule.at.clone())
    }
}

/// Reports every rule of cluster-scoped policies that others cover, of those that are read in full.
pub(super) fn each_covered(context: &Context<'_>, mut report: impl FnMut(&Covered<'_, '_>)) {
    for tier in [Tier::Admin, Tier::Baseline] {
        for direction in Direction::BOTH {
            let rules = precedence(context, tier, direction);
            for (position, ranked) in rules.iter().enumerate() {
                let (_, _, rule, matched) = ranked;
                let Some(matched) = matched
                    .as_ref()
                    .filter(|_| !is_closed(rule, context.snapshot))
                else {
                    continue;
                };
                let Some(covering) = covering(context, &rules, position, matched) else {
                    continue;
                };
                let by: Vec<_> = covering.iter().filter_map(|at| rules.get(*at)).collect();
                let same = by.iter().all(|(_, _, other, _)| {
                    other.action == rule.action && !is_closed(other, context.snapshot)
                });
                report(&Covered {
                    rule: ranked,
                    direction,
                    by,
                    same,
                });
            }
        }
    }
}

/// A rule, its policy and position, and what it decides, also on paper only.
type Ranked<'a> = (&'a AdminPolicy, usize, &'a AdminRule, Option<Matched>);

/// The rules of a tier in order of precedence.
fn precedence<'a>(context: &Context<'a>, tier: Tier, direction: Direction) -> Vec<Ranked<'a>> {
    let mut rules = Vec::new();
    for policy in context.tier(tier) {
        for (index, rule) in policy.rules(direction).iter().enumerate() {
            rules.push((&**policy, index, rule, decides(rule, context.snapshot)));
        }
    }
    rules
}

/// The positions of earlier rules that together match everything a rule does, for all its subjects.
fn covering(
    context: &Context<'_>,
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
        .filter(|(_, (earlier, _, rule, _))| !is_left_out(earlier, rule, context.snapshot))
        .filter(|(_, (earlier, ..))| subject_implies(&policy.subject, &earlier.subject))
        .filter_map(|(at, (.., matched))| Some((at, matched.as_ref()?)))
        .collect();
    matched.covered_by(earlier.iter().copied())
}
