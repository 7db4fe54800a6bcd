// SPDX-License-Identifier: Apache-2.0
//! `cidr-covers-pods`: reports blocks, other than whole families, that contain addresses of pods.

use super::{
    Lint,
    context::{Context, network_rules, place, some_pods},
    cover::overlap,
};
use crate::{
    diagnostic::{Diagnostic, Severity},
    model::NetworkPeer,
};

pub(super) const LINT: Lint = Lint {
    code: "NPA047",
    name: "cidr-covers-pods",
    severity: Severity::Warning,
    what: "Reports blocks, other than whole families, that contain addresses of pods.",
    why: "Addresses of pods change; some networks do not match pods by address at all.",
    example: "ipBlock: {cidr: 10.0.0.0/8}, where pods have addresses in 10.244.0.0/16",
    instead: "podSelector or namespaceSelector for pods, `except` for the pods' range.",
};

pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Diagnostic>) {
    let pods = || {
        context
            .pods
            .values()
            .flatten()
            .filter(|pod| pod.is_policed())
    };
    for policy in context.snapshot.network_policies.values() {
        for (direction, index, rule) in network_rules(policy) {
            for peer in rule.peers.iter().flatten() {
                let NetworkPeer::IpBlock(block) = peer else {
                    continue;
                };
                if block.cidr.prefix_len() == 0 {
                    continue;
                }
                let inside = pods()
                    .filter(|pod| pod.addresses.iter().any(|address| block.contains(*address)))
                    .map(|pod| &pod.key);
                let inside: Vec<_> = inside.collect();
                let mut ranges = context
                    .snapshot
                    .nodes
                    .values()
                    .flat_map(|node| &node.pod_cidrs);
                let message = if !inside.is_empty() {
                    format!("{} contains addresses of {}", block.cidr, some_pods(inside))
                } else if let Some(range) = ranges.find(|range| {
                    overlap(range, &block.cidr)
                        && !block.except.iter().any(|except| except.contains(*range))
                }) {
                    format!("{} overlaps the pods' range {range}", block.cidr)
                } else {
                    continue;
                };
                let path = format!("spec.{}", place(direction, index));
                findings.push(LINT.at(message, &policy.policy_ref(), path, rule.at.clone()));
            }
        }
    }
}
