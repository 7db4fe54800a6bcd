// SPDX-License-Identifier: Apache-2.0
//! `pass-without-lower-tier`: reports Pass rules of the Admin tier after which nothing is left to decide.

use super::{
    Lint,
    context::{Context, admin_rules, is_closed, place},
};
use crate::{
    diagnostic::{Diagnostic, Severity},
    model::{Action, Direction, Tier},
};

pub(super) const LINT: Lint = Lint {
    code: "NPA038",
    name: "pass-without-lower-tier",
    severity: Severity::Info,
    what: "Reports Pass rules of the Admin tier after which nothing is left to decide.",
    why: "No NetworkPolicy and no Baseline policy applies to the subjects, so Pass lets the traffic through.",
    example: "action: Pass, for pods without NetworkPolicies and without Baseline policies",
    instead: "action: Allow, which says so.",
};

pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Diagnostic>) {
    let isolated = |direction| context.isolated(direction);
    let (ingress, egress) = (isolated(Direction::Ingress), isolated(Direction::Egress));
    for policy in context.tier(Tier::Admin) {
        for (direction, index, rule) in admin_rules(policy) {
            if rule.action != Action::Pass || is_closed(rule, context.snapshot) {
                continue;
            }
            let isolated = match direction {
                Direction::Ingress => &ingress,
                Direction::Egress => &egress,
            };
            let subjects = context.subjects(policy);
            let baseline = context.tier(Tier::Baseline);
            let decided = subjects.iter().any(|pod| {
                isolated.contains(&pod.key)
                    || baseline.iter().any(|lower| {
                        !lower.rules(direction).is_empty()
                            && context
                                .subjects(lower)
                                .iter()
                                .any(|other| other.key == pod.key)
                    })
            });
            if !decided && !subjects.is_empty() {
                let message = "nothing decides after Pass: the traffic is let through".to_owned();
                let path = format!("spec.{}", place(direction, index));
                findings.push(LINT.at(message, &policy.policy_ref(), path, rule.at.clone()));
            }
        }
    }
}
