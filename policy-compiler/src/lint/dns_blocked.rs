// SPDX-License-Identifier: Apache-2.0
//! `dns-blocked`: reports pods that NetworkPolicies isolate for egress without admitting DNS.

use super::{
    Lint,
    context::{Context, some_pods},
};
use crate::{
    diagnostic::{Diagnostic, Severity},
    model::{Direction, PolicyRef, Protocol},
    partial::{Cause, Class, Outcome},
    portmap::PortMap,
    verdict::{Endpoint, Verdict},
};
use std::collections::BTreeMap;

pub(super) const LINT: Lint = Lint {
    code: "NPA041",
    name: "dns-blocked",
    severity: Severity::Warning,
    what: "Reports pods that NetworkPolicies isolate for egress without admitting DNS.",
    why: "Pods that cannot resolve names fail in ways that do not look like a policy.",
    example: "policyTypes: [Egress]\negress: [{to: [{podSelector: {matchLabels: {app: db}}}]}]",
    instead: "One more rule: to the DNS pods, UDP and TCP 53.",
};

pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Diagnostic>) {
    let mut blocked: BTreeMap<PolicyRef, Vec<&Endpoint>> = BTreeMap::new();
    for class in context.classes() {
        let answers = lookups(context, class);
        let denied = |partition: &PortMap<Outcome>| {
            matches!(
                partition.at(Protocol::Udp, 53),
                Outcome::Decided {
                    verdict: Verdict::Deny,
                    cause: Cause::Isolated,
                    ..
                }
            )
        };
        if answers.is_empty() || !answers.iter().all(denied) {
            continue;
        }
        let isolating = context.evaluator.isolating(Direction::Egress, &class.party);
        if let Some(policy) = isolating.first() {
            blocked
                .entry(policy.clone())
                .or_default()
                .extend(&class.members);
        }
    }
    for (policy, pods) in blocked {
        let mut keys: Vec<_> = pods
            .iter()
            .filter_map(|pod| match pod {
                Endpoint::Pod(key) => Some(key),
                Endpoint::Node(_) | Endpoint::Address(_) => None,
            })
            .collect();
        keys.sort();
        let mut known = context.snapshot.network_policies.values();
        let at = known
            .find(|known| known.policy_ref() == policy)
            .and_then(|known| known.at.clone());
        let message = format!(
            "egress is isolated and DNS is not admitted for {}",
            some_pods(keys)
        );
        findings.push(LINT.at(message, &policy, "spec.egress".to_owned(), at));
    }
}

/// What the egress side of a class says of connections to each kind of DNS pod; empty if there are none
/// or the class is one.
pub(super) fn lookups(context: &Context<'_>, class: &Class) -> Vec<PortMap<Outcome>> {
    let is_dns = class
        .members
        .first()
        .is_some_and(|first| context.dns.contains(first));
    if is_dns || class.party.pod().is_none() {
        return Vec::new();
    }
    let servers = context.classes().iter().filter(|server| {
        server
            .members
            .first()
            .is_some_and(|first| context.dns.contains(first))
    });
    servers
        .map(|server| {
            context
                .evaluator
                .direction(Direction::Egress, &class.party, &server.party, false)
        })
        .collect()
}
