// SPDX-License-Identifier: Apache-2.0
//! `named-port-unresolved`: reports port names that no destination of the rule has.

use super::{
    Lint,
    context::{Context, network_rules, place},
    named_port_ambiguous::destinations,
};
use crate::{
    diagnostic::{Diagnostic, Severity, with_article},
    model::NetworkPort,
};

pub(super) const LINT: Lint = Lint {
    code: "NPA042",
    name: "named-port-unresolved",
    severity: Severity::Warning,
    what: "Reports port names that no destination of the rule has.",
    why: "The entry matches nothing; usually the container port has another name or protocol.",
    example: "ports: [{port: htpp}]",
    instead: "ports: [{port: http}]",
};

pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Diagnostic>) {
    for policy in context.snapshot.network_policies.values() {
        for (direction, index, rule) in network_rules(policy) {
            for (port, number) in rule.ports.iter().flatten().zip(0..) {
                let NetworkPort::Named(protocol, name) = port else {
                    continue;
                };
                let pods = destinations(context, policy, direction, rule);
                let named = |pod: &&std::sync::Arc<crate::model::Pod>| {
                    pod.ports_named(name).any(|(of, _)| of == *protocol)
                };
                let may_have_more = |pod: &&std::sync::Arc<crate::model::Pod>| {
                    context.snapshot.gaps.ports.contains(&pod.key)
                };
                if pods.is_empty() || pods.iter().any(named) || pods.iter().any(may_have_more) {
                    continue;
                }
                let known: std::collections::BTreeSet<&str> = pods
                    .iter()
                    .flat_map(|pod| pod.ports.iter())
                    .filter_map(|port| port.name.as_deref())
                    .collect();
                let known: Vec<&str> = known.into_iter().collect();
                let message = format!(
                    "no destination has {} port called `{name}`; there are: {}",
                    with_article(&protocol.to_string()),
                    if known.is_empty() {
                        "none".to_owned()
                    } else {
                        known.join(", ")
                    }
                );
                let path = format!("spec.{}.ports[{number}]", place(direction, index));
                findings.push(LINT.at(message, &policy.policy_ref(), path, rule.at.clone()));
            }
        }
    }
}
