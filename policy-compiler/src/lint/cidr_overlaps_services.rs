// SPDX-License-Identifier: Apache-2.0
//! `cidr-overlaps-services`: reports blocks, other than whole families, that contain addresses of Services.

use super::{
    Lint,
    context::{Context, network_rules, place},
};
use crate::{
    diagnostic::{Diagnostic, Severity},
    model::NetworkPeer,
};

pub(super) const LINT: Lint = Lint {
    code: "NPA048",
    name: "cidr-overlaps-services",
    severity: Severity::Warning,
    what: "Reports blocks, other than whole families, that contain addresses of Services.",
    why: "Policies see connections after the Service's address was replaced by a pod's, so the block never matches through the Service.",
    example: "ipBlock: {cidr: 10.96.0.10/32}, the address of a Service",
    instead: "Select the pods behind the Service, and their ports.",
};

pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Diagnostic>) {
    for policy in context.snapshot.network_policies.values() {
        for (direction, index, rule) in network_rules(policy) {
            for peer in rule.peers.iter().flatten() {
                let NetworkPeer::IpBlock(block) = peer else {
                    continue;
                };
                if block.cidr.prefix_len() == 0 {
                    continue;
                }
                let mut services = context.snapshot.services.values();
                let Some(service) = services.find(|service| {
                    service
                        .addresses
                        .iter()
                        .any(|address| block.contains(*address))
                }) else {
                    continue;
                };
                let message = format!(
                    "{} contains the address of Service {}/{}, which policies never see",
                    block.cidr, service.namespace, service.name
                );
                let path = format!("spec.{}", place(direction, index));
                findings.push(LINT.at(message, &policy.policy_ref(), path, rule.at.clone()));
            }
        }
    }
}
