// SPDX-License-Identifier: Apache-2.0
//! What a document is about.

use crate::{
    model::RouteKind,
    parse::{WorkloadKind, similar},
};

/// What a document is, by `apiVersion` and `kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    AdminNetworkPolicy,
    BaselineAdminNetworkPolicy,
    ClusterNetworkPolicy,
    EndpointSlice,
    /// Leads traffic to Services in a way that is not read.
    ForeignEntrance,
    /// A policy of an API that is not evaluated.
    ForeignPolicy,
    Gateway,
    Namespace,
    NetworkPolicy,
    Node,
    /// Not a Kubernetes object.
    None,
    Other,
    Pod,
    ReferenceGrant,
    Route(RouteKind),
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
            let any_version =
                matches!(known.kind, Self::Workload(_) | Self::EndpointSlice) || group == GATEWAY;
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
            None if !api_version.is_empty() && is_among(OWN_KINDS, group, name) == Some(false) => {
                let known: Vec<&str> = KINDS
                    .iter()
                    .filter(|known| group_of(known.api_version) == group)
                    .map(|known| known.name)
                    .collect();
                let near = similar(name, &known);
                let meant = KINDS
                    .iter()
                    .find(|known| Some(known.name) == near && group_of(known.api_version) == group);
                Self::Unknown(meant.map(|known| (known.api_version, known.name)))
            }
            None if name.ends_with("NetworkPolicy")
                || is_among(FOREIGN_POLICIES, group, name) == Some(true) =>
            {
                Self::ForeignPolicy
            }
            None if is_among(FOREIGN_ENTRANCES, group, name) == Some(true) => Self::ForeignEntrance,
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

const fn route(api_version: &'static str, kind: RouteKind) -> Known {
    known(api_version, kind.name(), Kind::Route(kind))
}

/// The kinds that decide about traffic, or lead it. Of workloads, EndpointSlices and the Gateway API
/// older versions are read, too.
const KINDS: [Known; 26] = [
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
    workload("apps.openshift.io/v1", WorkloadKind::DeploymentConfig),
    workload("argoproj.io/v1alpha1", WorkloadKind::Rollout),
    route("networking.k8s.io/v1", RouteKind::Ingress),
    known("gateway.networking.k8s.io/v1", "Gateway", Kind::Gateway),
    known(
        "gateway.networking.k8s.io/v1beta1",
        "ReferenceGrant",
        Kind::ReferenceGrant,
    ),
    route("gateway.networking.k8s.io/v1", RouteKind::GrpcRoute),
    route("gateway.networking.k8s.io/v1", RouteKind::HttpRoute),
    route("gateway.networking.k8s.io/v1alpha2", RouteKind::TcpRoute),
    route("gateway.networking.k8s.io/v1alpha3", RouteKind::TlsRoute),
    route("gateway.networking.k8s.io/v1alpha2", RouteKind::UdpRoute),
];

/// The group of the Gateway API.
const GATEWAY: &str = "gateway.networking.k8s.io";

/// The other kinds of networking.k8s.io.
const NETWORKING: [&str; 5] = [
    "ClusterCIDR",
    "IPAddress",
    "Ingress",
    "IngressClass",
    "ServiceCIDR",
];

/// Groups and kinds.
type Groups = &'static [(&'static str, &'static [&'static str])];

/// Every kind of the groups in which workloads are written: what is not among them exists nowhere.
const OWN_KINDS: Groups = &[
    (
        "",
        &[
            "Binding",
            "ComponentStatus",
            // Not of an API server: what clients are configured with.
            "Config",
            "ConfigMap",
            "Endpoints",
            "Event",
            "LimitRange",
            "List",
            "PersistentVolume",
            "PersistentVolumeClaim",
            "PodTemplate",
            "ResourceQuota",
            "Secret",
            "ServiceAccount",
        ],
    ),
    ("apps", &["ControllerRevision"]),
    ("batch", &[]),
];

/// Kinds that decide about traffic and are not called so.
const FOREIGN_POLICIES: Groups = &[
    (
        "cilium.io",
        &["CiliumEgressGatewayPolicy", "CiliumLocalRedirectPolicy"],
    ),
    (
        "crd.projectcalico.org",
        &["GlobalNetworkSet", "NetworkSet", "Tier"],
    ),
    (
        "k8s.ovn.org",
        &["AdminPolicyBasedExternalRoute", "EgressFirewall"],
    ),
    (
        "policy.linkerd.io",
        &["AuthorizationPolicy", "Server", "ServerAuthorization"],
    ),
    (
        "projectcalico.org",
        &["GlobalNetworkSet", "NetworkSet", "Tier"],
    ),
    ("security.istio.io", &["AuthorizationPolicy"]),
];

/// Kinds that lead traffic to Services, beside Ingress and the Gateway API.
const FOREIGN_ENTRANCES: Groups = &[
    ("configuration.konghq.com", &["TCPIngress", "UDPIngress"]),
    ("gateway.networking.k8s.io", &["ListenerSet"]),
    ("gateway.networking.x-k8s.io", &["XListenerSet"]),
    ("networking.istio.io", &["Gateway", "VirtualService"]),
    ("projectcontour.io", &["HTTPProxy"]),
    ("route.openshift.io", &["Route"]),
    (
        "traefik.containo.us",
        &["IngressRoute", "IngressRouteTCP", "IngressRouteUDP"],
    ),
    (
        "traefik.io",
        &["IngressRoute", "IngressRouteTCP", "IngressRouteUDP"],
    ),
];

/// Whether a group that is listed has the kind; `None` if the group is not listed.
fn is_among(groups: Groups, group: &str, name: &str) -> Option<bool> {
    let (_, kinds) = groups.iter().find(|(listed, _)| *listed == group)?;
    Some(kinds.contains(&name))
}

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
        check("networking.k8s.io/v1", "IngressClass", Kind::Other);
        check(
            "networking.k8s.io/v1",
            "Ingress",
            Kind::Route(RouteKind::Ingress),
        );
        check(
            "gateway.networking.k8s.io/v1beta1",
            "HTTPRoute",
            Kind::Route(RouteKind::HttpRoute),
        );
        check("networking.istio.io/v1", "Gateway", Kind::ForeignEntrance);
        check("route.openshift.io/v1", "Route", Kind::ForeignEntrance);
        check(
            "security.istio.io/v1",
            "AuthorizationPolicy",
            Kind::ForeignPolicy,
        );
        check("v1", "ConfigMap", Kind::Other);
        check(
            "argoproj.io/v1alpha1",
            "Rollout",
            Kind::Workload(WorkloadKind::Rollout),
        );
        check("argoproj.io/v1alpha1", "Application", Kind::Other);
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
        let deployment = Kind::Unknown(Some(("apps/v1", "Deployment")));
        check("apps/v1", "Deployments", deployment);
        check("apps/v1", "Frobnicator", Kind::Unknown(None));
        check("v1", "Servicee", Kind::Unknown(Some(("v1", "Service"))));
        check("apps/v1", "Pod", Kind::Unknown(Some(("v1", "Pod"))));
        check("v1", "pod", Kind::Unknown(Some(("v1", "Pod"))));
    }
}
