// SPDX-License-Identifier: Apache-2.0
//! What a document is about.

use crate::parse::WorkloadKind;

/// What a document is, by `apiVersion` and `kind`.
pub(super) enum Kind {
    AdminNetworkPolicy,
    BaselineAdminNetworkPolicy,
    ClusterNetworkPolicy,
    EndpointSlice,
    /// A policy of an API that is not evaluated.
    ForeignPolicy,
    Namespace,
    NetworkPolicy,
    Node,
    /// Not a Kubernetes object.
    None,
    Other,
    Pod,
    Service,
    /// A policy of one of the four kinds in a version that does not have it.
    UnknownVersion(&'static str),
    Workload(WorkloadKind),
}

impl Kind {
    /// The kind of a document.
    pub(super) fn of(api_version: &str, kind: &str) -> Self {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        match (group, kind) {
            (_, "") => Self::None,
            ("", "Namespace") => Self::Namespace,
            ("", "Node") => Self::Node,
            ("", "Pod") => Self::Pod,
            ("", "Service") => Self::Service,
            ("" | "discovery.k8s.io", "EndpointSlice") => Self::EndpointSlice,
            ("" | "networking.k8s.io" | "extensions", "NetworkPolicy") => {
                versioned(api_version, "networking.k8s.io/v1", Self::NetworkPolicy)
            }
            ("" | POLICY_GROUP, "AdminNetworkPolicy") => {
                let version = "policy.networking.k8s.io/v1alpha1";
                versioned(api_version, version, Self::AdminNetworkPolicy)
            }
            ("" | POLICY_GROUP, "BaselineAdminNetworkPolicy") => {
                let version = "policy.networking.k8s.io/v1alpha1";
                versioned(api_version, version, Self::BaselineAdminNetworkPolicy)
            }
            ("" | POLICY_GROUP, "ClusterNetworkPolicy") => {
                let version = "policy.networking.k8s.io/v1alpha2";
                versioned(api_version, version, Self::ClusterNetworkPolicy)
            }
            ("" | "apps" | "batch" | "extensions", kind) if WorkloadKind::named(kind).is_some() => {
                WorkloadKind::named(kind).map_or(Self::Other, Self::Workload)
            }
            (_, kind) if kind.ends_with("NetworkPolicy") => Self::ForeignPolicy,
            _ => Self::Other,
        }
    }
}

const POLICY_GROUP: &str = "policy.networking.k8s.io";

fn versioned(found: &str, expected: &'static str, kind: Kind) -> Kind {
    if found == expected {
        kind
    } else {
        Kind::UnknownVersion(expected)
    }
}
