// SPDX-License-Identifier: Apache-2.0
//! NetworkPolicies as they were written, before defaults: for lints about what is left out.

use super::context::Context;
use crate::{
    diagnostic::Location,
    manifest::{Content, Document, Node},
    model::{PolicyKind, PolicyRef},
};

/// A document with a NetworkPolicy that has a spec.
pub(super) struct Written<'a> {
    pub(super) document: &'a Document,
    pub(super) spec: &'a Node,
}

/// The NetworkPolicies among `documents`.
pub(super) fn network_policies(documents: &[Document]) -> impl Iterator<Item = Written<'_>> {
    documents
        .iter()
        .filter(|document| {
            &*document.kind == "NetworkPolicy" && &*document.api_version == "networking.k8s.io/v1"
        })
        .filter_map(|document| {
            let spec = document.node.get("spec")?;
            Some(Written { document, spec })
        })
}

impl Written<'_> {
    /// The items of a section, if it is written and not null.
    pub(super) fn rules(&self, section: &str) -> Option<&[Node]> {
        match &self.spec.get(section)?.content {
            Content::List(rules) => Some(rules),
            Content::Null
            | Content::Bool(_)
            | Content::Number(_)
            | Content::String(_)
            | Content::Map(_) => None,
        }
    }

    pub(super) fn at(&self, path: &str) -> Option<Location> {
        let at = self.document.locator().at(path);
        at.or_else(|| Some(self.document.location.clone()))
    }

    /// The policy; without a namespace it is the one of the snapshot that is written here.
    pub(super) fn policy(&self, context: &Context<'_>) -> PolicyRef {
        let name = self.document.name.clone().unwrap_or_default();
        let here = Some(&self.document.location);
        let mut known = context.snapshot.network_policies.values();
        let found = known.find(|policy| policy.name == name && policy.at.as_ref() == here);
        let written = self.document.namespace.clone();
        let namespace = written.or_else(|| found.map(|policy| policy.namespace.clone()));
        PolicyRef {
            kind: PolicyKind::NetworkPolicy,
            namespace: Some(namespace.unwrap_or_else(|| "default".into())),
            name,
        }
    }
}

/// The entries of `policyTypes`.
pub(super) fn types(spec: &Node) -> Vec<String> {
    match spec.get("policyTypes").map(|types| &types.content) {
        Some(Content::List(types)) => types
            .iter()
            .filter_map(|kind| kind.as_str().map(str::to_owned))
            .collect(),
        _ => Vec::new(),
    }
}
