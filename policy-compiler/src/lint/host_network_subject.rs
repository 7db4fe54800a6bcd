// SPDX-License-Identifier: Apache-2.0
//! `host-network-subject`: reports policies whose selector matches hostNetwork pods.

use super::{
    Lint,
    context::{Context, some_pods},
};
use crate::diagnostic::{Diagnostic, Severity};

pub(super) const LINT: Lint = Lint {
    code: "NPA046",
    name: "host-network-subject",
    severity: Severity::Warning,
    what: "Reports policies whose selector matches hostNetwork pods.",
    why: "They use the node's network; policies do not apply to them and do not match them as peers.",
    example: "podSelector: {} in a namespace with hostNetwork pods",
    instead: "Protect the node with its own firewall; match it by ipBlock.",
};

pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Diagnostic>) {
    for policy in context.snapshot.network_policies.values() {
        let pods = context.pods_in(&policy.namespace).iter();
        let host: Vec<_> = pods
            .filter(|pod| pod.host_network && policy.pod_selector.matches(&pod.labels))
            .map(|pod| &pod.key)
            .collect();
        if !host.is_empty() {
            let message = format!(
                "the policy does not apply to {}: hostNetwork",
                some_pods(host)
            );
            let path = "spec.podSelector".to_owned();
            findings.push(LINT.at(message, &policy.policy_ref(), path, policy.at.clone()));
        }
    }
}
