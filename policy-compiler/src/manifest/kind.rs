// SPDX-License-Identifier: Apache-2.0
//! What a document is about.

use crate::parse::WorkloadKind;

/// What a document is, by `apiVersion` and `kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// No API server has such a kind; with the `apiVersion` and `kind` that were probably meant.
    Unknown(Option<(&'static str, &'static str)>),
    Workload(WorkloadKind),
}

impl Kind {
    /// The kind of a document.
    pub(super) fn of(api_version: &str, name: &str) -> Self {
        if name.is_empty() {
            return Self::None;
        }
        let group = group_of(api_version);
        let exact = KINDS
            .iter()
            .find(|known| known.name == name && group_of(known.api_version) == group);
        if let Some(known) = exact {
            let any_version = matches!(known.kind, Self::Workload(_) | Self::EndpointSlice);
            return if any_version || known.api_version == api_version {
                known.kind
            } else {
                Self::Unknown(Some((known.api_version, known.name)))
            };
        }
        // Groups without a dot and those of k8s.io are Kubernetes' own; their kinds are known.
        let own = !group.contains('.') || group.ends_with(".k8s.io");
        let meant = KINDS
            .iter()
            .find(|known| own && known.name.eq_ignore_ascii_case(name));
        match meant {
            Some(known) => Self::Unknown(Some((known.api_version, known.name))),
            None if group == "policy.networking.k8s.io" => Self::Unknown(None),
            None if group == "networking.k8s.io" && !NETWORKING.contains(&name) => {
                Self::Unknown(None)
            }
            None if name.ends_with("NetworkPolicy") => Self::ForeignPolicy,
            None => Self::Other,
        }
    }
}

struct Known {
    api_version: &'static str,
    name: &'static str,
    kind: Kind,
}

const fn known(api_version: &'static str, name: &'static str, kind: Kind) -> Known {
    Known {
        api_version,
        name,
        kind,
    }
}

const fn workload(api_version: &'static str, kind: WorkloadKind) -> Known {
    known(api_version, kind.name(), Kind::Workload(kind))
}

/// The kinds that decide about traffic. Of workloads and EndpointSlices older versions are read, too.
const KINDS: [Known; 16] = [
    known("v1", "Namespace", Kind::Namespace),
    known("v1", "Node", Kind::Node),
    known("v1", "Pod", Kind::Pod),
    known("v1", "Service", Kind::Service),
    known("discovery.k8s.io/v1", "EndpointSlice", Kind::EndpointSlice),
    known("networking.k8s.io/v1", "NetworkPolicy", Kind::NetworkPolicy),
    known(
        "policy.networking.k8s.io/v1alpha1",
        "AdminNetworkPolicy",
        Kind::AdminNetworkPolicy,
    ),
    known(
        "policy.networking.k8s.io/v1alpha1",
        "BaselineAdminNetworkPolicy",
        Kind::BaselineAdminNetworkPolicy,
    ),
    known(
        "policy.networking.k8s.io/v1alpha2",
        "ClusterNetworkPolicy",
        Kind::ClusterNetworkPolicy,
    ),
    workload("apps/v1", WorkloadKind::DaemonSet),
    workload("apps/v1", WorkloadKind::Deployment),
    workload("apps/v1", WorkloadKind::ReplicaSet),
    workload("apps/v1", WorkloadKind::StatefulSet),
    workload("batch/v1", WorkloadKind::CronJob),
    workload("batch/v1", WorkloadKind::Job),
    workload("v1", WorkloadKind::ReplicationController),
];

/// The other kinds of networking.k8s.io.
const NETWORKING: [&str; 5] = [
    "ClusterCIDR",
    "IPAddress",
    "Ingress",
    "IngressClass",
    "ServiceCIDR",
];

fn group_of(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(api_version: &str, name: &str, expect: Kind) {
        assert_eq!(Kind::of(api_version, name), expect);
    }

    #[test]
    fn kinds_are_told_by_group_and_name() {
        check("v1", "Pod", Kind::Pod);
        check(
            "apps/v1beta2",
            "Deployment",
            Kind::Workload(WorkloadKind::Deployment),
        );
        check("serving.knative.dev/v1", "Service", Kind::Other);
        check(
            "crd.projectcalico.org/v1",
            "NetworkPolicy",
            Kind::ForeignPolicy,
        );
        check("networking.k8s.io/v1", "Ingress", Kind::Other);
        check("example.org/v1", "networkpolicy", Kind::Other);
        check("", "", Kind::None);
    }

    #[test]
    fn what_no_api_server_has_is_no_other_kind() {
        let policy = Kind::Unknown(Some(("networking.k8s.io/v1", "NetworkPolicy")));
        for (api_version, name) in [
            ("networking.k8s.io/v1beta1", "NetworkPolicy"),
            ("extensions/v1beta1", "NetworkPolicy"),
            ("v1", "NetworkPolicy"),
            ("policy.networking.k8s.io/v1alpha2", "NetworkPolicy"),
            ("networking.k8s.io/v1", "networkpolicy"),
        ] {
            check(api_version, name, policy);
        }
        check("networking.k8s.io/v1", "NetworkPolcy", Kind::Unknown(None));
        check(
            "policy.networking.k8s.io/v1",
            "GuardRail",
            Kind::Unknown(None),
        );
        check("apps/v1", "Pod", Kind::Unknown(Some(("v1", "Pod"))));
        check("v1", "pod", Kind::Unknown(Some(("v1", "Pod"))));
    }
}
