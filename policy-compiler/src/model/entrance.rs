// SPDX-License-Identifier: Apache-2.0
//! How does traffic from outside find its way to Services? What Services, Ingresses and the objects of the
//! Gateway API say about that: facts, which no policy sees.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Selector;
use crate::diagnostic::Location;

/// `spec.type` of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ServiceType {
    /// Reached from inside the cluster.
    #[default]
    ClusterIp,
    /// Also at a port of every node.
    NodePort,
    /// Also at the addresses of a load balancer.
    LoadBalancer,
    /// A name in DNS; nothing is behind it.
    ExternalName,
}

/// What a Service offers to clients outside the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// `spec.type`.
    pub kind: ServiceType,
    /// `spec.externalIPs`.
    pub external_addresses: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip`.
    pub balancer_addresses: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].hostname`.
    pub balancer_names: Vec<Arc<str>>,
    /// `spec.loadBalancerSourceRanges`; empty for everybody.
    pub source_ranges: Vec<IpNet>,
    /// `spec.externalTrafficPolicy` is `Local`: pods see the address of the client. Otherwise a node may
    /// put its own in place.
    pub keeps_client: bool,
    /// `spec.allocateLoadBalancerNodePorts` is `false`.
    pub without_node_ports: bool,
    /// Where the Service is written.
    pub at: Option<Location>,
}

/// Everything beside Services that leads traffic from outside to pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entrances {
    /// Gateways by namespace and name.
    pub gateways: BTreeMap<(Arc<str>, Arc<str>), Gateway>,
    /// Ingresses and routes, in the order read.
    pub routes: Vec<Route>,
    /// Who may refer to Services of other namespaces.
    pub grants: Vec<Grant>,
}

/// The kinds of objects that lead to Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// gateway.networking.k8s.io
    GrpcRoute,
    /// gateway.networking.k8s.io
    HttpRoute,
    /// networking.k8s.io
    Ingress,
    /// gateway.networking.k8s.io
    TcpRoute,
    /// gateway.networking.k8s.io
    TlsRoute,
    /// gateway.networking.k8s.io
    UdpRoute,
}

impl RouteKind {
    /// What manifests call the kind.
    pub const fn name(self) -> &'static str {
        match self {
            Self::GrpcRoute => "GRPCRoute",
            Self::HttpRoute => "HTTPRoute",
            Self::Ingress => "Ingress",
            Self::TcpRoute => "TCPRoute",
            Self::TlsRoute => "TLSRoute",
            Self::UdpRoute => "UDPRoute",
        }
    }
}

/// An Ingress, or a route of the Gateway API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Kind of the object.
    pub kind: RouteKind,
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `spec.ingressClassName`, or the annotation that preceded it.
    pub class: Option<Arc<str>>,
    /// `spec.parentRefs` that name Gateways; empty for an Ingress.
    pub parents: Vec<Parent>,
    /// `spec.hostnames`; empty for every name, and for an Ingress, whose rules have each their own.
    pub hosts: Vec<Arc<str>>,
    /// The Services that the rules name.
    pub backends: Vec<Backend>,
    /// Where the object is written.
    pub at: Option<Location>,
}

/// A Gateway that a route wants to be attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Namespace of the Gateway.
    pub namespace: Arc<str>,
    /// Name of the Gateway.
    pub name: Arc<str>,
    /// `sectionName`: only this listener.
    pub listener: Option<Arc<str>>,
    /// `port`: only listeners of this port.
    pub port: Option<u16>,
}

/// A Service that a rule leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Namespace of the Service.
    pub namespace: Arc<str>,
    /// Name of the Service.
    pub service: Arc<str>,
    /// Port of the Service.
    pub port: BackendPort,
    /// The host of the rule of an Ingress.
    pub host: Option<Arc<str>>,
}

/// A port of a Service, as a rule calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendPort {
    /// By number.
    Number(u16),
    /// By name.
    Name(Arc<str>),
}

/// A Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `spec.gatewayClassName`.
    pub class: Arc<str>,
    /// `spec.listeners`.
    pub listeners: Vec<Listener>,
    /// `status.addresses`, or else `spec.addresses`: addresses and names.
    pub addresses: Vec<Arc<str>>,
}

/// A port of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// `name`.
    pub name: Arc<str>,
    /// `port`.
    pub port: u16,
    /// `hostname`; `None` for every name.
    pub host: Option<Arc<str>>,
    /// `allowedRoutes.namespaces`.
    pub routes_from: RoutesFrom,
    /// `allowedRoutes.kinds`; `None` for those that fit the protocol.
    pub kinds: Option<Vec<Arc<str>>>,
}

/// Where routes may come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoutesFrom {
    /// Every namespace.
    All,
    /// The Gateway's own namespace.
    Same,
    /// Namespaces with these labels.
    Selected(Selector),
    /// No namespace: what is written is not understood.
    Nowhere,
}

/// A ReferenceGrant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// `metadata.namespace`: whose Services may be referred to.
    pub namespace: Arc<str>,
    /// Kind and namespace of those who may.
    pub from: Vec<(Arc<str>, Arc<str>)>,
    /// The Services; `None` for all of them.
    pub services: Vec<Option<Arc<str>>>,
}

impl Entrances {
    /// Whether a route may lead to a Service: it is of the same namespace, or a grant says so.
    pub fn permits(&self, route: &Route, backend: &Backend) -> bool {
        route.namespace == backend.namespace
            || self.grants.iter().any(|grant| {
                grant.namespace == backend.namespace
                    && grant.from.iter().any(|(kind, namespace)| {
                        **kind == *route.kind.name() && *namespace == route.namespace
                    })
                    && grant
                        .services
                        .iter()
                        .any(|name| name.as_ref().is_none_or(|name| *name == backend.service))
            })
    }
}

impl Listener {
    /// Whether the listener serves one of `hosts`, of which none means every name.
    pub fn serves(&self, hosts: &[Arc<str>]) -> bool {
        let Some(own) = &self.host else { return true };
        hosts.is_empty() || hosts.iter().any(|host| overlap(own, host))
    }
}

/// Whether some name fits both, each a name or `*.` and a suffix of one.
fn overlap(a: &str, b: &str) -> bool {
    let (a, b) = (a.to_ascii_lowercase(), b.to_ascii_lowercase());
    match (a.strip_prefix('*'), b.strip_prefix('*')) {
        (None, None) => a == b,
        (Some(suffix), None) => b.ends_with(suffix),
        (None, Some(suffix)) => a.ends_with(suffix),
        (Some(a), Some(b)) => a.ends_with(b) || b.ends_with(a),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(a: &str, b: &str, expect: bool) {
        assert_eq!(overlap(a, b), expect);
        assert_eq!(overlap(b, a), expect);
    }

    #[test]
    fn names_of_hosts_overlap() {
        check("a.example.org", "A.example.org", true);
        check("*.example.org", "a.example.org", true);
        check("*.example.org", "example.org", false);
        check("*.example.org", "*.b.example.org", true);
        check("*.example.org", "*.example.com", false);
        check("*.example.org", "badexample.org", false);
    }
}
