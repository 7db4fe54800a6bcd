// SPDX-License-Identifier: Apache-2.0
//! `named-port-ambiguous`: reports port names that stand for different numbers on different destinations.

use super::{
    Lint,
    context::{Context, network_rules, place},
};
use crate::{
    diagnostic::{Diagnostic, Severity},
    model::{Direction, NetworkPeer, NetworkPolicy, NetworkPort, NetworkRule, Pod},
};
use std::{collections::BTreeSet, sync::Arc};

pub(super) const LINT: Lint = Lint {
    code: "NPA043",
    name: "named-port-ambiguous",
    severity: Severity::Info,
    what: "Reports port names that stand for different numbers on different destinations.",
    why: "It may be intended; it is surprising when it is not.",
    example: "ports: [{port: web}], where one pod's `web` is 80 and another's 8080",
    instead: "The numbers.",
};

pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Diagnostic>) {
    for policy in context.snapshot.network_policies.values() {
        for (direction, index, rule) in network_rules(policy) {
            for (port, number) in rule.ports.iter().flatten().zip(0..) {
                let NetworkPort::Named(protocol, name) = port else {
                    continue;
                };
                let numbers: BTreeSet<u16> = destinations(context, policy, direction, rule)
                    .into_iter()
                    .flat_map(|pod| pod.ports_named(name))
                    .filter(|(of, _)| of == protocol)
                    .map(|(_, number)| number)
                    .collect();
                if numbers.len() < 2 {
                    continue;
                }
                let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
                let message = format!(
                    "`{name}` is port {} of different destinations",
                    numbers.join(" and ")
                );
                let path = format!("spec.{}.ports[{number}]", place(direction, index));
                findings.push(LINT.at(message, &policy.policy_ref(), path, rule.at.clone()));
            }
        }
    }
}

/// The pods that a rule admits connections to, as far as labels are known.
pub(super) fn destinations<'c>(
    context: &'c Context<'_>,
    policy: &'c NetworkPolicy,
    direction: Direction,
    rule: &'c NetworkRule,
) -> Vec<&'c Arc<Pod>> {
    match (direction, &rule.peers) {
        (Direction::Ingress, _) => context.selected(policy),
        (Direction::Egress, None) => context.pods.values().flatten().collect(),
        (Direction::Egress, Some(peers)) => peers
            .iter()
            .flat_map(|peer| match peer {
                NetworkPeer::Pods {
                    namespaces: None,
                    pods,
                } => {
                    let own = context.pods_in(&policy.namespace).iter();
                    own.filter(|pod| context.snapshot.pod_matches(pods, pod) != Some(false))
                        .collect::<Vec<_>>()
                }
                NetworkPeer::Pods {
                    namespaces: Some(namespaces),
                    pods,
                } => context.matching(namespaces, pods).collect(),
                NetworkPeer::IpBlock(_) | NetworkPeer::Nothing => Vec::new(),
            })
            .filter(|pod| pod.is_policed())
            .collect(),
    }
}
