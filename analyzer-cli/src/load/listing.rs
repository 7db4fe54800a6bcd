// SPDX-License-Identifier: Apache-2.0
//! What does a listing of a cluster leave out, and which verdicts could that change?
//!
//! A live cluster, and a snapshot of one, carry a document that says which kinds could not be listed.
//! What it names is never taken for empty: whatever objects of the kind could decide is unknown.

use std::{collections::BTreeSet, sync::Arc};

use policy_compiler::{
    Snapshot,
    diagnostic::{Diagnostic, Severity},
    manifest::Document,
    model::{AdminPeer, Direction, NetworkPeer, PolicyKind, PolicyRef, Selector, Subject},
    partial::{Doubt, Extent},
};
use serde::{Deserialize, Serialize};

use crate::API_VERSION;

/// What a listing leaves out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listing {
    /// The only namespace that was listed; every one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Kinds that could not be listed.
    #[serde(default)]
    pub unlisted: Vec<Unlisted>,
}

/// A kind that could not be listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unlisted {
    /// `NetworkPolicy`, `Pod`, ...
    pub kind: String,
    /// What the API server said.
    pub reason: String,
}

impl Listing {
    /// The document that says so.
    #[cfg(feature = "live")]
    pub fn document(&self) -> serde_json::Value {
        serde_json::json!({"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "cluster"}, "spec": self})
    }

    /// Whether `document` is one that [`Listing::document`] makes.
    pub fn is_document(document: &Document) -> bool {
        *document.api_version == *API_VERSION && *document.kind == *KIND
    }

    /// Takes what listings leave out from among `documents`. A listing that cannot be read is reported
    /// as malformed, because nobody knows what it leaves out.
    pub fn take(documents: &mut Vec<Document>, diagnostics: &mut Vec<Diagnostic>) -> Self {
        let mut all = Self::default();
        documents.retain(|document| {
            if !Self::is_document(document) {
                return true;
            }
            let mut value = document.value();
            match serde_json::from_value::<Self>(value["spec"].take()) {
                Ok(listing) => {
                    all.namespace = all.namespace.take().or(listing.namespace);
                    all.unlisted.extend(listing.unlisted);
                }
                Err(error) => diagnostics.push(Diagnostic::new(
                    "malformed-document",
                    Severity::Error,
                    &format!("what the listing leaves out cannot be read: {error}"),
                    Some(document.location.clone()),
                )),
            }
            false
        });
        all
    }

    /// Whether objects of `kind` are missing.
    pub fn lacks(&self, kind: &str) -> bool {
        self.unlisted.iter().any(|unlisted| unlisted.kind == kind)
    }

    /// Whether objects are missing that could change a verdict.
    pub fn hides_verdicts(&self) -> bool {
        let mut kinds = self.unlisted.iter().map(|unlisted| unlisted.kind.as_str());
        kinds.any(|kind| !ENTRANCES.contains(&kind))
    }

    /// Whether objects are missing that lead traffic to Services.
    pub fn hides_entrances(&self) -> bool {
        let mut kinds = self.unlisted.iter().map(|unlisted| unlisted.kind.as_str());
        kinds.any(|kind| ENTRANCES.contains(&kind))
    }

    /// Says what is left out.
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        if let Some(namespace) = &self.namespace {
            let message =
                format!("only namespace `{namespace}` is listed; pods of others are not known");
            let mut diagnostic =
                Diagnostic::new("unlisted-kind", Severity::Warning, &message, None);
            diagnostic.help = Some("`-A` lists every namespace".to_owned());
            found.push(diagnostic);
        }
        for Unlisted { kind, reason } in &self.unlisted {
            let message = format!("{kind} objects cannot be listed: {reason}");
            if ENTRANCES.contains(&kind.as_str()) {
                let mut diagnostic =
                    Diagnostic::new("unlisted-kind", Severity::Warning, &message, None);
                diagnostic.help = Some("no verdict depends on them, `exposure` does".to_owned());
                found.push(diagnostic);
                continue;
            }
            let mut diagnostic = Diagnostic::new("unlisted-kind", Severity::Error, &message, None);
            diagnostic.help = Some(format!(
                "the user needs `list` on {kind}; what such objects could change is unknown"
            ));
            found.push(diagnostic);
        }
        found
    }

    /// The doubts that the missing objects cast.
    pub fn doubts(&self, snapshot: &Snapshot) -> Vec<Doubt> {
        let mut doubts = Vec::new();
        for Unlisted { kind, .. } in &self.unlisted {
            let why = format!("{kind} objects cannot be listed");
            let kind = match kind.as_str() {
                "NetworkPolicy" => PolicyKind::NetworkPolicy,
                "AdminNetworkPolicy" => PolicyKind::AdminNetworkPolicy,
                "BaselineAdminNetworkPolicy" => PolicyKind::BaselineAdminNetworkPolicy,
                "ClusterNetworkPolicy" => PolicyKind::ClusterNetworkPolicy,
                "Namespace" => {
                    doubts.extend(namespace_doubts(snapshot, &why));
                    continue;
                }
                _ => continue,
            };
            let namespaces: BTreeSet<Option<Arc<str>>> = if kind == PolicyKind::NetworkPolicy {
                let pods = snapshot.pods.keys().map(|key| key.namespace.clone());
                pods.map(Some).collect()
            } else {
                BTreeSet::from([None])
            };
            doubts.extend(namespaces.into_iter().map(|namespace| Doubt {
                policy: PolicyRef {
                    kind,
                    namespace,
                    name: "*".into(),
                },
                extent: Extent::Whole,
                why: why.clone(),
                at: None,
            }));
        }
        doubts
    }
}

/// What policies say with labels of namespaces, when nobody knows those.
fn namespace_doubts(snapshot: &Snapshot, why: &str) -> Vec<Doubt> {
    let mut doubts = Vec::new();
    let mut doubt = |policy: PolicyRef, extent| {
        doubts.push(Doubt {
            policy,
            extent,
            why: why.to_owned(),
            at: None,
        });
    };
    for policy in snapshot.network_policies.values() {
        for direction in Direction::BOTH {
            for (rule, index) in policy.rules(direction).into_iter().flatten().zip(0..) {
                let mut peers = rule.peers.iter().flatten();
                let asks = peers.any(|peer| match peer {
                    NetworkPeer::Pods {
                        namespaces: Some(namespaces),
                        ..
                    } => asks_for_labels(namespaces),
                    NetworkPeer::Pods {
                        namespaces: None, ..
                    }
                    | NetworkPeer::IpBlock(_)
                    | NetworkPeer::Nothing => false,
                });
                if asks {
                    doubt(policy.policy_ref(), Extent::Rule(direction, index));
                }
            }
        }
    }
    for policy in snapshot.admin_policies.values() {
        if let Subject::Pods { namespaces, .. } = &policy.subject
            && asks_for_labels(namespaces)
        {
            doubt(policy.policy_ref(), Extent::Subject);
        }
        for direction in Direction::BOTH {
            for (rule, index) in policy.rules(direction).iter().zip(0..) {
                let asks = rule.peers.iter().any(|peer| match peer {
                    AdminPeer::Pods { namespaces, .. } => asks_for_labels(namespaces),
                    AdminPeer::Networks(_) | AdminPeer::Nodes(_) | AdminPeer::DomainNames(_) => {
                        false
                    }
                });
                if asks {
                    doubt(policy.policy_ref(), Extent::Rule(direction, index));
                }
            }
        }
    }
    doubts
}

/// Whether the selector depends on more than the name, which every namespace has as a label.
fn asks_for_labels(selector: &Selector) -> bool {
    let mut requirements = selector.requirements().iter();
    requirements.any(|requirement| *requirement.key != *NAME_LABEL)
}

/// Kinds that lead traffic to Services, and that no policy sees.
const ENTRANCES: [&str; 8] = [
    "GRPCRoute",
    "Gateway",
    "HTTPRoute",
    "Ingress",
    "ReferenceGrant",
    "TCPRoute",
    "TLSRoute",
    "UDPRoute",
];

const KIND: &str = "Listing";
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
