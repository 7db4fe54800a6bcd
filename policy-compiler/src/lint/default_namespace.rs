// SPDX-License-Identifier: Apache-2.0
//! `default-namespace`: reports policies without a namespace.

use super::{Lint, context::Context, written::network_policies};
use crate::diagnostic::{Diagnostic, Severity};

pub(super) const LINT: Lint = Lint {
    code: "NPA051",
    name: "default-namespace",
    severity: Severity::Info,
    what: "Reports policies without a namespace.",
    why: "They go to whatever namespace the client's context names.",
    example: "kind: NetworkPolicy\nmetadata: {name: web}",
    instead: "metadata: {name: web, namespace: shop}",
};

pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Diagnostic>) {
    for written in network_policies(context.documents) {
        if written.document.namespace.is_none() {
            let policy = written.policy(context);
            let namespace = policy.namespace.clone().unwrap_or_default();
            let message = format!("no namespace is written; `{namespace}` is assumed");
            let at = written.at("metadata");
            findings.push(LINT.at(message, &policy, "metadata.namespace".to_owned(), at));
        }
    }
}
