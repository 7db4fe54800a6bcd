// SPDX-License-Identifier: Apache-2.0
//! `priority-tie`: reports cluster-scoped policies of one tier and priority that disagree about some traffic of the same pods.

use super::{
    Lint,
    context::{Context, at_words, is_closed, place},
    cover::Matched,
};
use crate::{
    diagnostic::{Diagnostic, Severity},
    model::{Action, AdminPolicy, AdminRule, Direction, Tier},
};

pub(super) const LINT: Lint = Lint {
    code: "NPA036",
    name: "priority-tie",
    severity: Severity::Warning,
    what: "Reports cluster-scoped policies of one tier and priority that disagree about some traffic of the same pods.",
    why: "The API leaves it open which of them wins; implementations differ.",
    example: "Two AdminNetworkPolicies with `priority: 10`, one allows and one denies the same peer",
    instead: "Different priorities.",
};

pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Diagnostic>) {
    for tier in [Tier::Admin, Tier::Baseline] {
        let policies = context.tier(tier);
        for (position, second) in policies.iter().enumerate() {
            for first in policies.iter().take(position) {
                if first.priority != second.priority || !share_subjects(context, first, second) {
                    continue;
                }
                if let Some((direction, mine, index)) = disagreement(context, first, second) {
                    let message = format!(
                        "{}{} has the same priority and another action for some of the same traffic",
                        first.policy_ref(),
                        at_words(
                            first
                                .rules(direction)
                                .get(mine)
                                .and_then(|rule| rule.at.as_ref())
                        )
                    );
                    let path = format!("spec.{}", place(direction, index));
                    let rule = second.rules(direction).get(index);
                    let at = rule.and_then(|rule| rule.at.clone());
                    findings.push(LINT.at(message, &second.policy_ref(), path, at));
                }
            }
        }
    }
}

fn share_subjects(context: &Context<'_>, first: &AdminPolicy, second: &AdminPolicy) -> bool {
    let theirs = context.subjects(second);
    context
        .subjects(first)
        .iter()
        .any(|pod| theirs.iter().any(|other| other.key == pod.key))
}

fn disagreement(
    context: &Context<'_>,
    first: &AdminPolicy,
    second: &AdminPolicy,
) -> Option<(Direction, usize, usize)> {
    for direction in Direction::BOTH {
        for (mine, a) in first.rules(direction).iter().enumerate() {
            for (theirs, b) in second.rules(direction).iter().enumerate() {
                if effect(context, a) != effect(context, b) && meet(context, a, b) {
                    return Some((direction, mine, theirs));
                }
            }
        }
    }
    None
}

fn effect(context: &Context<'_>, rule: &AdminRule) -> Action {
    if is_closed(rule, context.snapshot) && rule.action == Action::Pass {
        Action::Deny
    } else {
        rule.action
    }
}

/// Whether both rules match some traffic: certainly, or of a pod that exists.
fn meet(context: &Context<'_>, a: &AdminRule, b: &AdminRule) -> bool {
    let matched = |rule: &AdminRule| super::context::decides(rule, context.snapshot);
    let (Some(of_a), Some(of_b)) = (matched(a), matched(b)) else {
        return false;
    };
    if of_a.meets(&of_b) {
        return true;
    }
    let ports = |matched: &Matched| Matched {
        atoms: Matched::everything().atoms,
        ports: matched.ports.clone(),
    };
    ports(&of_a).meets(&ports(&of_b))
        && context.pods.values().flatten().any(|pod| {
            [a, b].into_iter().all(|rule| {
                rule.peers.iter().any(|peer| match peer {
                    crate::model::AdminPeer::Pods { namespaces, pods } => {
                        pods.matches(&pod.labels)
                            && context
                                .snapshot
                                .namespaces
                                .get(&pod.key.namespace)
                                .is_some_and(|namespace| namespaces.matches(&namespace.labels))
                    }
                    crate::model::AdminPeer::Networks(networks) => pod
                        .addresses
                        .iter()
                        .any(|address| networks.iter().any(|network| network.contains(address))),
                    crate::model::AdminPeer::Nodes(_) | crate::model::AdminPeer::DomainNames(_) => {
                        false
                    }
                })
            })
        })
}
