// SPDX-License-Identifier: Apache-2.0
//! `non-isolated-pod`: reports pods that no NetworkPolicy isolates in a direction.

use super::{Lint, context::Context};
use crate::{
    diagnostic::{Diagnostic, ObjectRef, Severity},
    model::Direction,
};
use std::collections::BTreeMap;

pub(super) const LINT: Lint = Lint {
    code: "NPA052",
    name: "non-isolated-pod",
    severity: Severity::Info,
    what: "Reports pods that no NetworkPolicy isolates in a direction.",
    why: "Whatever the other tiers do not deny reaches them.",
    example: "A Deployment in a namespace without NetworkPolicies",
    instead: "A default-deny policy for the namespace.",
};

pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Diagnostic>) {
    let (ingress, egress) = (
        context.isolated(Direction::Ingress),
        context.isolated(Direction::Egress),
    );
    let mut reported: BTreeMap<ObjectRef, Diagnostic> = BTreeMap::new();
    for pod in context
        .pods
        .values()
        .flatten()
        .filter(|pod| pod.is_policed())
    {
        let ways: Vec<&str> = [("ingress", &ingress), ("egress", &egress)]
            .into_iter()
            .filter(|(_, isolated)| !isolated.contains(&pod.key))
            .map(|(way, _)| way)
            .collect();
        if ways.is_empty() {
            continue;
        }
        let (kind, name) = pod
            .owner
            .clone()
            .unwrap_or_else(|| ("Pod".into(), pod.key.name.clone()));
        let object = ObjectRef {
            kind,
            namespace: Some(pod.key.namespace.clone()),
            name,
        };
        reported
            .entry(object.clone())
            .or_insert_with(|| Diagnostic {
                id: LINT.name,
                severity: LINT.severity,
                message: format!(
                    "no NetworkPolicy isolates the pod for {}",
                    ways.join(" and ")
                ),
                object: Some(object),
                path: String::new(),
                at: pod.at.clone(),
                help: None,
                is_refused: false,
            });
    }
    findings.extend(reported.into_values());
}
