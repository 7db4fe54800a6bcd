// SPDX-License-Identifier: Apache-2.0
//! Which kinds of objects does the agent watch, where are they served, and what is kept of them?

use std::{borrow::Cow, fmt};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, core::DynamicResourceScope};
use serde::{Deserialize, Deserializer, de::DeserializeSeed};
use serde_json::Value;

use super::keep::Keep;

/// A kind of object the agent watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// v1
    Namespace,
    /// v1
    Node,
    /// v1
    Pod,
    /// v1
    Service,
    /// discovery.k8s.io/v1
    EndpointSlice,
    /// networking.k8s.io/v1
    NetworkPolicy,
    /// policy.networking.k8s.io/v1alpha1
    AdminNetworkPolicy,
    /// policy.networking.k8s.io/v1alpha1
    BaselineAdminNetworkPolicy,
    /// policy.networking.k8s.io/v1alpha2
    ClusterNetworkPolicy,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
        Self::NetworkPolicy,
        Self::AdminNetworkPolicy,
        Self::BaselineAdminNetworkPolicy,
        Self::ClusterNetworkPolicy,
    ];

    /// API group; empty for the core group.
    pub const fn group(self) -> &'static str {
        match self {
            Self::Namespace | Self::Node | Self::Pod | Self::Service => "",
            Self::EndpointSlice => "discovery.k8s.io",
            Self::NetworkPolicy => "networking.k8s.io",
            Self::AdminNetworkPolicy
            | Self::BaselineAdminNetworkPolicy
            | Self::ClusterNetworkPolicy => "policy.networking.k8s.io",
        }
    }

    /// Version the agent reads.
    pub const fn version(self) -> &'static str {
        match self {
            Self::Namespace
            | Self::Node
            | Self::Pod
            | Self::Service
            | Self::EndpointSlice
            | Self::NetworkPolicy => "v1",
            Self::AdminNetworkPolicy | Self::BaselineAdminNetworkPolicy => "v1alpha1",
            Self::ClusterNetworkPolicy => "v1alpha2",
        }
    }

    /// `kind` of the objects.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::AdminNetworkPolicy => "AdminNetworkPolicy",
            Self::BaselineAdminNetworkPolicy => "BaselineAdminNetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
        }
    }

    /// Resource name in request paths.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Namespace => "namespaces",
            Self::Node => "nodes",
            Self::Pod => "pods",
            Self::Service => "services",
            Self::EndpointSlice => "endpointslices",
            Self::NetworkPolicy => "networkpolicies",
            Self::AdminNetworkPolicy => "adminnetworkpolicies",
            Self::BaselineAdminNetworkPolicy => "baselineadminnetworkpolicies",
            Self::ClusterNetworkPolicy => "clusternetworkpolicies",
        }
    }

    /// `group/version`, or the version alone for the core group.
    pub fn api_version(self) -> String {
        match self.group() {
            "" => self.version().to_owned(),
            group => format!("{group}/{}", self.version()),
        }
    }

    /// Name of the CustomResourceDefinition that brings the kind, where one does.
    pub fn definition(self) -> String {
        format!("{}.{}", self.plural(), self.group())
    }

    /// Whether a cluster may lack the kind, because a CustomResourceDefinition brings it.
    pub const fn is_optional(self) -> bool {
        match self {
            Self::Namespace
            | Self::Node
            | Self::Pod
            | Self::Service
            | Self::EndpointSlice
            | Self::NetworkPolicy => false,
            Self::AdminNetworkPolicy
            | Self::BaselineAdminNetworkPolicy
            | Self::ClusterNetworkPolicy => true,
        }
    }

    /// Whether the objects are policies.
    pub const fn is_policy(self) -> bool {
        match self {
            Self::Namespace | Self::Node | Self::Pod | Self::Service | Self::EndpointSlice => false,
            Self::NetworkPolicy
            | Self::AdminNetworkPolicy
            | Self::BaselineAdminNetworkPolicy
            | Self::ClusterNetworkPolicy => true,
        }
    }

    /// What is kept of an object. Policies are kept whole, because an unknown field in a policy changes
    /// what the policy means.
    const fn keep(self) -> Keep {
        match self {
            Self::Namespace => Keep::Fields(&[("metadata", METADATA)]),
            Self::Node => Keep::Fields(&[
                ("metadata", METADATA),
                (
                    "spec",
                    Keep::Fields(&[("podCIDR", Keep::All), ("podCIDRs", Keep::All)]),
                ),
                ("status", Keep::Fields(&[("addresses", Keep::All)])),
            ]),
            Self::Pod => Keep::Fields(&[
                ("metadata", METADATA),
                (
                    "spec",
                    Keep::Fields(&[
                        ("containers", CONTAINER),
                        ("hostNetwork", Keep::All),
                        ("initContainers", CONTAINER),
                        ("nodeName", Keep::All),
                    ]),
                ),
                (
                    "status",
                    Keep::Fields(&[
                        ("phase", Keep::All),
                        ("podIP", Keep::All),
                        ("podIPs", Keep::All),
                    ]),
                ),
            ]),
            Self::Service => Keep::Fields(&[
                ("metadata", METADATA),
                ("spec", Keep::All),
                ("status", Keep::Fields(&[("loadBalancer", Keep::All)])),
            ]),
            Self::EndpointSlice => Keep::Fields(&[
                ("metadata", METADATA),
                ("addressType", Keep::All),
                ("endpoints", Keep::Fields(&[("addresses", Keep::All)])),
                ("ports", Keep::All),
            ]),
            Self::NetworkPolicy
            | Self::AdminNetworkPolicy
            | Self::BaselineAdminNetworkPolicy
            | Self::ClusterNetworkPolicy => Keep::AllBut(&[("metadata", METADATA)]),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

const METADATA: Keep = Keep::Fields(&[
    ("creationTimestamp", Keep::All),
    ("deletionTimestamp", Keep::All),
    ("generation", Keep::All),
    ("labels", Keep::All),
    ("name", Keep::All),
    ("namespace", Keep::All),
    ("ownerReferences", OWNER),
    ("resourceVersion", Keep::All),
    ("uid", Keep::All),
]);

const OWNER: Keep = Keep::Fields(&[
    ("controller", Keep::All),
    ("kind", Keep::All),
    ("name", Keep::All),
]);

const CONTAINER: Keep = Keep::Fields(&[
    ("name", Keep::All),
    ("ports", Keep::All),
    ("restartPolicy", Keep::All),
]);

/// An object of kind `Kind::ALL[KIND]` as a watch delivers it: what is kept of it, undigested.
#[derive(Clone, Debug)]
pub struct Watched<const KIND: usize> {
    meta: ObjectMeta,
    /// The object.
    pub value: Value,
}

impl<'de, const KIND: usize> Deserialize<'de> for Watched<KIND> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Kind::ALL[KIND].keep().deserialize(deserializer)?;
        let text = |field: &str| Some(value.get("metadata")?.get(field)?.as_str()?.to_owned());
        let meta = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            resource_version: text("resourceVersion"),
            ..ObjectMeta::default()
        };
        Ok(Self { meta, value })
    }
}

impl<const KIND: usize> Resource for Watched<KIND> {
    type DynamicType = ();
    type Scope = DynamicResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        Kind::ALL[KIND].name().into()
    }

    fn group((): &()) -> Cow<'_, str> {
        Kind::ALL[KIND].group().into()
    }

    fn version((): &()) -> Cow<'_, str> {
        Kind::ALL[KIND].version().into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        Kind::ALL[KIND].plural().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn kinds_are_in_order() {
        for (number, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
        }
    }

    #[test]
    fn a_pod_shrinks_to_what_policies_see() {
        let pod: Watched<{ Kind::Pod as usize }> = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "web", "namespace": "shop", "uid": "u1", "resourceVersion": "7",
                "labels": {"app": "web"}, "annotations": {"a": "b"},
                "managedFields": [{"manager": "kubelet"}],
                "ownerReferences": [{"kind": "ReplicaSet", "name": "web-1", "uid": "r", "controller": true}],
            },
            "spec": {
                "nodeName": "n1", "serviceAccountName": "default",
                "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}],
            },
            "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}],
                "conditions": [{"type": "Ready"}]},
        }))
        .unwrap();
        assert_eq!(pod.meta().resource_version.as_deref(), Some("7"));
        assert_eq!(
            pod.value,
            json!({
                "metadata": {
                    "name": "web", "namespace": "shop", "uid": "u1", "resourceVersion": "7",
                    "labels": {"app": "web"},
                    "ownerReferences": [{"kind": "ReplicaSet", "name": "web-1", "controller": true}],
                },
                "spec": {
                    "nodeName": "n1",
                    "containers": [{"name": "c", "ports": [{"containerPort": 80}]}],
                },
                "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]},
            })
        );
    }

    #[test]
    fn an_object_of_the_wrong_shape_still_decodes() {
        let odd: Watched<{ Kind::Pod as usize }> =
            serde_json::from_value(json!({"metadata": "none", "spec": 3})).unwrap();
        assert_eq!(odd.meta().name, None);
        assert_eq!(odd.value, json!({"metadata": "none", "spec": 3}));
    }
}
