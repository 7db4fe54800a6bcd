// SPDX-License-Identifier: Apache-2.0
//! `controller-added-label`: reports selectors on labels that controllers set.

use super::{
    Lint,
    context::{Context, network_rules, place},
};
use crate::{
    diagnostic::{Diagnostic, Severity},
    model::{Labels, NetworkPeer, Selection, Selector},
};

pub(super) const LINT: Lint = Lint {
    code: "NPA050",
    name: "controller-added-label",
    severity: Severity::Warning,
    what: "Reports selectors on labels that controllers set.",
    why: "They change with every rollout.",
    example: "matchLabels: {pod-template-hash: 5d59d67564}",
    instead: "A label of the pod template.",
};

pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Diagnostic>) {
    for policy in context.snapshot.network_policies.values() {
        if let Selection::Matching(selector) = &policy.pod_selector
            && let Some(key) = volatile(selector)
        {
            let message = format!("`{key}` changes with every rollout");
            let path = "spec.podSelector".to_owned();
            findings.push(LINT.at(message, &policy.policy_ref(), path, policy.at.clone()));
        }
        for (direction, index, rule) in network_rules(policy) {
            for peer in rule.peers.iter().flatten() {
                if let NetworkPeer::Pods { pods, .. } = peer
                    && let Some(key) = volatile(pods)
                {
                    let message = format!("`{key}` changes with every rollout");
                    let path = format!("spec.{}", place(direction, index));
                    findings.push(LINT.at(message, &policy.policy_ref(), path, rule.at.clone()));
                }
            }
        }
    }
}

fn volatile(selector: &Selector) -> Option<&str> {
    let terms = selector.requirements().iter();
    terms
        .map(|term| &*term.key)
        .find(|key| Labels::VOLATILE.contains(key))
}
