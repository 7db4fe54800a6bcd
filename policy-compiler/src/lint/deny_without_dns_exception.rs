// SPDX-License-Identifier: Apache-2.0
//! `deny-without-dns-exception`: reports egress rules of cluster-scoped policies that deny DNS.

use super::{
    Lint,
    context::{Context, some_pods},
    dns_blocked::lookups,
};
use crate::{
    diagnostic::{Diagnostic, Severity},
    model::{Direction, Protocol},
    partial::{Cause, Outcome},
    verdict::{Endpoint, RuleRef, Verdict},
};
use std::collections::BTreeMap;

pub(super) const LINT: Lint = Lint {
    code: "NPA040",
    name: "deny-without-dns-exception",
    severity: Severity::Warning,
    what: "Reports egress rules of cluster-scoped policies that deny DNS.",
    why: "Pods that cannot resolve names fail in ways that do not look like a policy.",
    example: "egress: [{action: Deny, to: [{networks: [0.0.0.0/0]}]}]",
    instead: "An Allow rule for UDP and TCP 53 to the DNS pods before it.",
};

pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Diagnostic>) {
    let mut denied: BTreeMap<RuleRef, Vec<&Endpoint>> = BTreeMap::new();
    for class in context.classes() {
        for partition in lookups(context, class) {
            let Outcome::Decided {
                verdict: Verdict::Deny,
                cause: Cause::Rule(rule) | Cause::FailClosed(rule),
                ..
            } = partition.at(Protocol::Udp, 53)
            else {
                continue;
            };
            let rule = context.evaluator.rule_reference(*rule).clone();
            if rule.direction == Direction::Egress {
                denied.entry(rule).or_default().extend(&class.members);
            }
        }
    }
    for (rule, pods) in denied {
        let keys = pods.iter().filter_map(|pod| match pod {
            Endpoint::Pod(key) => Some(key),
            Endpoint::Node(_) | Endpoint::Address(_) => None,
        });
        let mut keys: Vec<_> = keys.collect();
        keys.sort();
        keys.dedup();
        let message = format!("DNS is denied to {}", some_pods(keys));
        let path = format!("spec.{}[{}]", rule.direction, rule.index);
        findings.push(LINT.at(message, &rule.policy, path, rule.at.clone()));
    }
}
