// SPDX-License-Identifier: Apache-2.0
//! `service-port-confusion`: reports rules with a Service's port where the pods behind it listen on another.

use super::{
    Lint,
    context::{Context, network_rules, place},
    named_port_ambiguous::destinations,
};
use crate::{
    diagnostic::{Diagnostic, Severity},
    model::{NetworkPort, Protocol, ServiceTarget},
};

pub(super) const LINT: Lint = Lint {
    code: "NPA049",
    name: "service-port-confusion",
    severity: Severity::Warning,
    what: "Reports rules with a Service's port where the pods behind it listen on another.",
    why: "Policies see the pod's port, the Service's targetPort.",
    example: "ports: [{port: 80}], where the Service has `port: 80, targetPort: 8080`",
    instead: "ports: [{port: 8080}]",
};

pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Diagnostic>) {
    for policy in context.snapshot.network_policies.values() {
        for (direction, index, rule) in network_rules(policy) {
            for (port, number) in rule.ports.iter().flatten().zip(0..) {
                let NetworkPort::Range(protocol, range) = port else {
                    continue;
                };
                if range.start != range.end {
                    continue;
                }
                let pods = destinations(context, policy, direction, rule);
                let listens = pods.iter().any(|pod| {
                    pod.ports
                        .iter()
                        .any(|own| own.protocol == *protocol && own.number == range.start)
                });
                if listens {
                    continue;
                }
                let Some((service, target)) = translated(context, &pods, *protocol, range.start)
                else {
                    continue;
                };
                let message = format!(
                    "port {} is the Service's ({service}); its pods get the traffic on {target}",
                    range.start
                );
                let path = format!("spec.{}.ports[{number}]", place(direction, index));
                let mut finding = LINT.at(message, &policy.policy_ref(), path, rule.at.clone());
                finding.help = Some(format!("use the pods' port, {target}"));
                findings.push(finding);
            }
        }
    }
}

/// The Service in front of some of `pods` that has this port but sends it to another.
fn translated(
    context: &Context<'_>,
    pods: &[&std::sync::Arc<crate::model::Pod>],
    protocol: Protocol,
    number: u16,
) -> Option<(String, String)> {
    context.snapshot.services.values().find_map(|service| {
        let port = service
            .ports
            .iter()
            .find(|port| port.protocol == protocol && port.port == number)?;
        let target = match &port.target {
            ServiceTarget::Number(target) if *target == number => return None,
            ServiceTarget::Number(target) => target.to_string(),
            ServiceTarget::Name(name) => name.to_string(),
        };
        let selector = service.selector.as_ref()?;
        let in_front = pods.iter().any(|pod| {
            pod.key.namespace == service.namespace
                && selector
                    .0
                    .iter()
                    .all(|(key, value)| pod.labels.get(key) == Some(&**value))
        });
        in_front.then(|| (format!("{}/{}", service.namespace, service.name), target))
    })
}
