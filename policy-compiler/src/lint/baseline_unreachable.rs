// SPDX-License-Identifier: Apache-2.0
//! `baseline-unreachable`: reports Baseline policies none of whose subjects the Baseline tier ever decides for.

use super::{
    Lint,
    context::{Context, some_pods},
};
use crate::{
    diagnostic::{Diagnostic, Severity},
    model::{Direction, Tier},
};

pub(super) const LINT: Lint = Lint {
    code: "NPA037",
    name: "baseline-unreachable",
    severity: Severity::Warning,
    what: "Reports Baseline policies none of whose subjects the Baseline tier ever decides for.",
    why: "A pod that a NetworkPolicy isolates in a direction never reaches the Baseline tier in it.",
    example: "A BaselineAdminNetworkPolicy that denies ingress to pods which all have NetworkPolicies for ingress",
    instead: "An AdminNetworkPolicy, which comes before NetworkPolicies.",
};

pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Diagnostic>) {
    for direction in Direction::BOTH {
        let isolated = context.surely_isolated(direction);
        for policy in context.tier(Tier::Baseline) {
            let subjects = context.subjects(policy);
            let reached = subjects.iter().any(|pod| !isolated.contains(&pod.key));
            if policy.rules(direction).is_empty() || subjects.is_empty() || reached {
                continue;
            }
            let message = format!(
                "the {direction} rules never decide: NetworkPolicies isolate all {}",
                some_pods(subjects.iter().map(|pod| &pod.key))
            );
            let path = format!("spec.{direction}");
            let at = policy
                .rules(direction)
                .first()
                .and_then(|rule| rule.at.clone());
            findings.push(LINT.at(message, &policy.policy_ref(), path, at));
        }
    }
}
