// SPDX-License-Identifier: Apache-2.0
//! `peer-selects-nothing`: reports peers that match no pod.

use super::{
    Lint,
    context::{Context, admin_rules, network_rules, place},
};
use crate::{
    diagnostic::{Diagnostic, Severity},
    explain::{spell_selector, words_of_peers},
    model::{AdminPeer, Direction, NetworkPeer},
};

pub(super) const LINT: Lint = Lint {
    code: "NPA031",
    name: "peer-selects-nothing",
    severity: Severity::Warning,
    what: "Reports peers that match no pod.",
    why: "The rule admits nobody through them; usually a label is misspelt, or the peer lives in another namespace and needs a namespaceSelector.",
    example: "from: [{podSelector: {matchLabels: {app: gatway}}}]",
    instead: "from: [{podSelector: {matchLabels: {app: gateway}}}]",
};

pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Diagnostic>) {
    if context.pods.is_empty() {
        return;
    }
    for policy in context.snapshot.network_policies.values() {
        for (direction, index, rule) in network_rules(policy) {
            for (peer, number) in rule.peers.iter().flatten().zip(0..) {
                let NetworkPeer::Pods { namespaces, pods } = peer else {
                    continue;
                };
                let own = || context.pods_in(&policy.namespace).iter();
                let found = match namespaces {
                    None => own().any(|pod| {
                        let matches = context.snapshot.pod_matches(pods, pod);
                        pod.is_policed() && matches != Some(false)
                    }),
                    Some(namespaces) => context
                        .matching(namespaces, pods)
                        .any(|pod| pod.is_policed()),
                };
                if !found {
                    let words = words_of_peers(Some(std::slice::from_ref(peer)), &policy.namespace);
                    let path = format!(
                        "spec.{}.{}[{number}]",
                        place(direction, index),
                        list(direction)
                    );
                    let message = format!("no pod matches: there are no {words}");
                    findings.push(LINT.at(message, &policy.policy_ref(), path, rule.at.clone()));
                }
            }
        }
    }
    for policy in context.snapshot.admin_policies.values() {
        for (direction, index, rule) in admin_rules(policy) {
            for (peer, number) in rule.peers.iter().zip(0..) {
                let AdminPeer::Pods { namespaces, pods } = peer else {
                    continue;
                };
                if !context
                    .matching(namespaces, pods)
                    .any(|pod| pod.is_policed())
                {
                    let path = format!(
                        "spec.{}.{}[{number}]",
                        place(direction, index),
                        list(direction)
                    );
                    let message = format!(
                        "no pod matches: there are no pods {} of namespaces {}",
                        spell_selector(pods),
                        spell_selector(namespaces)
                    );
                    findings.push(LINT.at(message, &policy.policy_ref(), path, rule.at.clone()));
                }
            }
        }
    }
}

fn list(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    }
}
