// SPDX-License-Identifier: Apache-2.0
//! AdminNetworkPolicy and BaselineAdminNetworkPolicy, with the fields of the experimental channel.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::{Deserialize, Serialize};

use super::{PolicyStatus, status::resource};

/// Rules of administrators, before NetworkPolicies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub struct AdminNetworkPolicy {
    /// The version of the API.
    #[serde(rename = "apiVersion", default)]
    pub api_version: ApiVersion,
    /// Standard metadata; there is no namespace.
    pub metadata: ObjectMeta,
    /// What the policy does.
    pub spec: AdminNetworkPolicySpec,
    /// What became of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<PolicyStatus>,
}

/// Rules of administrators, after NetworkPolicies. The only one is called `default`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub struct BaselineAdminNetworkPolicy {
    /// The version of the API.
    #[serde(rename = "apiVersion", default)]
    pub api_version: ApiVersion,
    /// Standard metadata; there is no namespace.
    pub metadata: ObjectMeta,
    /// What the policy does.
    pub spec: BaselineAdminNetworkPolicySpec,
    /// What became of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<PolicyStatus>,
}

resource!(AdminNetworkPolicy, "v1alpha1", "adminnetworkpolicies");
resource!(
    BaselineAdminNetworkPolicy,
    "v1alpha1",
    "baselineadminnetworkpolicies"
);

/// `apiVersion` of both kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApiVersion {
    /// The only version.
    #[default]
    #[serde(rename = "policy.networking.k8s.io/v1alpha1")]
    V1alpha1,
}

/// `spec` of an AdminNetworkPolicy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AdminNetworkPolicySpec {
    /// 0 (first) to 1000.
    pub priority: i32,
    /// The pods the rules are about.
    pub subject: Subject,
    /// At most 100, the first that matches decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<IngressRule<Action>>,
    /// At most 100, the first that matches decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<EgressRule<Action, EgressPeer>>,
}

/// `spec` of the BaselineAdminNetworkPolicy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BaselineAdminNetworkPolicySpec {
    /// The pods the rules are about.
    pub subject: Subject,
    /// At most 100, the first that matches decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<IngressRule<BaselineAction>>,
    /// At most 100, the first that matches decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<EgressRule<BaselineAction, BaselineEgressPeer>>,
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
    /// The namespaces; empty is all.
    pub namespace_selector: LabelSelector,
    /// The pods in them; empty is all.
    pub pod_selector: LabelSelector,
}

/// A rule for traffic into the subject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IngressRule<A> {
    /// At most 100 characters, free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What happens to what matches.
    pub action: A,
    /// 1 to 100 peers, of which one matches.
    pub from: Vec<Subject>,
    /// 1 to 100 ports, of which one matches; absent matches all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<Port>>,
}

/// A rule for traffic out of the subject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EgressRule<A, P> {
    /// At most 100 characters, free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What happens to what matches.
    pub action: A,
    /// 1 to 100 peers, of which one matches.
    pub to: Vec<P>,
    /// 1 to 100 ports, of which one matches; absent matches all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<Port>>,
}

/// Actions of an AdminNetworkPolicy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Let through, whatever NetworkPolicies say.
    Allow,
    /// Drop.
    Deny,
    /// Leave it to NetworkPolicies and the baseline.
    Pass,
}

/// Actions of the BaselineAdminNetworkPolicy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BaselineAction {
    /// Let through.
    Allow,
    /// Drop.
    Deny,
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
    /// 1 to 25 names; only where the action is Allow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain_names: Option<Vec<String>>,
}

/// Exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BaselineEgressPeer {
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
}

/// Exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// One port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_number: Option<PortNumber>,
    /// Several ports in a row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_range: Option<PortRange>,
    /// Container ports by name, whatever their protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub named_port: Option<String>,
}

/// One port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortNumber {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// 1 to 65535.
    pub port: u16,
}

/// Several ports in a row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRange {
    /// `TCP`, `UDP` or `SCTP`; TCP if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// First port.
    pub start: u16,
    /// Last port.
    pub end: u16,
}
