// SPDX-License-Identifier: Apache-2.0
//! ClusterNetworkPolicy, with the fields of the experimental channel.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::{Deserialize, Serialize};

use super::{PolicyStatus, status::resource};

/// Rules of administrators, before or after NetworkPolicies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub struct ClusterNetworkPolicy {
    /// The version of the API.
    #[serde(rename = "apiVersion", default)]
    pub api_version: ApiVersion,
    /// Standard metadata; there is no namespace.
    pub metadata: ObjectMeta,
    /// What the policy does.
    pub spec: ClusterNetworkPolicySpec,
    /// What became of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<PolicyStatus>,
}

resource!(ClusterNetworkPolicy, "v1alpha2", "clusternetworkpolicies");

/// `apiVersion`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApiVersion {
    /// The only version.
    #[default]
    #[serde(rename = "policy.networking.k8s.io/v1alpha2")]
    V1alpha2,
}

/// `spec`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterNetworkPolicySpec {
    /// Before or after NetworkPolicies.
    pub tier: Tier,
    /// 0 (first) to 1000, within the tier.
    pub priority: i32,
    /// The pods the rules are about.
    pub subject: Subject,
    /// At most 25, the first that matches decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<IngressRule>,
    /// At most 25, the first that matches decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<EgressRule>,
}

/// `spec.tier`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tier {
    /// Before NetworkPolicies.
    Admin,
    /// After NetworkPolicies.
    Baseline,
}

/// Exactly one field is set. Also the shape of an ingress peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// All pods of namespaces with these labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    /// Pods by their labels and those of their namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacedPod>,
}

/// Pods by their labels and those of their namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespacedPod {
    /// The namespaces; absent or empty is all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// The pods in them; empty is all.
    pub pod_selector: LabelSelector,
}

/// A rule for traffic into the subject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IngressRule {
    /// At most 100 characters, free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What happens to what matches.
    pub action: Action,
    /// 1 to 25 peers, of which one matches.
    pub from: Vec<Subject>,
    /// 1 to 25 entries, of which one matches; absent matches all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocols: Option<Vec<Protocol>>,
}

/// A rule for traffic out of the subject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EgressRule {
    /// At most 100 characters, free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What happens to what matches.
    pub action: Action,
    /// 1 to 25 peers, of which one matches.
    pub to: Vec<EgressPeer>,
    /// 1 to 25 entries, of which one matches; absent matches all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocols: Option<Vec<Protocol>>,
}

/// `action` of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Let through; later tiers are not asked.
    Accept,
    /// Drop.
    Deny,
    /// Leave it to the next tier.
    Pass,
}

/// Exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EgressPeer {
    /// All pods of namespaces with these labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    /// Pods by their labels and those of their namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacedPod>,
    /// Nodes by their labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<LabelSelector>,
    /// 1 to 25 CIDRs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networks: Option<Vec<String>>,
    /// 1 to 25 names; only where the action is Accept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain_names: Option<Vec<String>>,
}

/// Exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Protocol {
    /// TCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Transport>,
    /// UDP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp: Option<Transport>,
    /// SCTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sctp: Option<Transport>,
    /// Container ports by name, whatever their protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_named_port: Option<String>,
}

/// A transport protocol's own matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transport {
    /// The destination port. The API has no way to leave it out.
    pub destination_port: Port,
}

/// Exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// One port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<u16>,
    /// Several ports in a row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<PortRange>,
}

/// Several ports in a row, `start < end`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRange {
    /// First port.
    pub start: u16,
    /// Last port.
    pub end: u16,
}
