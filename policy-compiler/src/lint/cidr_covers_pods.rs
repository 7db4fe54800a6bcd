// SPDX-License-Identifier: Apache-2.0
//! `cidr-covers-pods`: reports blocks, other than whole families, that contain addresses of pods.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use super::{
    Lint,
    context::{Context, network_rules, place, some_pods},
    cover::overlap,
};
use crate::{
    diagnostic::{Diagnostic, Severity},
    model::{IpBlock, NetworkPeer, PodKey},
    snapshot::Snapshot,
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
    let addresses = addresses(context);
    let mut known: HashMap<&IpBlock, Option<String>> = HashMap::new();
    for policy in context.snapshot.network_policies.values() {
        for (direction, index, rule) in network_rules(policy) {
            for peer in rule.peers.iter().flatten() {
                let NetworkPeer::IpBlock(block) = peer else {
                    continue;
                };
                if block.cidr.prefix_len() == 0 {
                    continue;
                }
                // Few blocks are written by many rules.
                let message = known
                    .entry(block)
                    .or_insert_with(|| message(block, &addresses, context.snapshot));
                let Some(message) = message.clone() else {
                    continue;
                };
                let path = format!("spec.{}", place(direction, index));
                findings.push(LINT.at(message, &policy.policy_ref(), path, rule.at.clone()));
            }
        }
    }
}

/// Every address of a pod that policies can select, in order.
fn addresses<'c>(context: &'c Context<'_>) -> Vec<(IpAddr, &'c PodKey)> {
    let pods = context.pods.values().flatten();
    let pods = pods.filter(|pod| pod.is_policed());
    let own = pods.flat_map(|pod| pod.addresses.iter().map(|address| (*address, &pod.key)));
    let mut addresses: Vec<_> = own.collect();
    addresses.sort();
    addresses
}

/// What a block covers that pods own; `None` if nothing.
fn message(
    block: &IpBlock,
    addresses: &[(IpAddr, &PodKey)],
    snapshot: &Snapshot,
) -> Option<String> {
    let from = addresses.partition_point(|(address, _)| *address < block.cidr.network());
    let to = addresses.partition_point(|(address, _)| *address <= block.cidr.broadcast());
    let within = addresses.get(from..to).unwrap_or_default().iter();
    let within = within.filter(|(address, _)| block.contains(*address));
    let inside: BTreeSet<&PodKey> = within.map(|(_, key)| *key).collect();
    if !inside.is_empty() {
        let pods = some_pods(inside);
        return Some(format!("{} contains addresses of {pods}", block.cidr));
    }
    let mut ranges = snapshot.nodes.values().flat_map(|node| &node.pod_cidrs);
    let range = ranges.find(|range| {
        overlap(range, &block.cidr) && !block.except.iter().any(|except| except.contains(*range))
    })?;
    Some(format!("{} overlaps the pods' range {range}", block.cidr))
}
