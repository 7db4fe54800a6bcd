// SPDX-License-Identifier: Apache-2.0
//! Namespaces, nodes, pods and Services: the cluster that policies speak of.

use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{ContainerPort, Labels, Offer, Protocol};
use crate::diagnostic::Location;

/// A namespace. `labels` always hold `kubernetes.io/metadata.name`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.labels`.
    pub labels: Labels,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// Every parseable entry of `status.addresses`.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
}

impl Node {
    /// Whether `address` is the node's own: one of its status, or the first host of a pod CIDR, which is
    /// the bridge through which the node's stack talks to its pods.
    pub fn owns(&self, address: IpAddr) -> bool {
        self.own_addresses().any(|own| own == address)
    }

    /// The addresses that [`Node::owns`].
    pub fn own_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let gateways = self.pod_cidrs.iter().filter_map(|cidr| gateway(*cidr));
        self.addresses.iter().copied().chain(gateways)
    }
}

/// The address after the network address, if the block has one.
fn gateway(cidr: IpNet) -> Option<IpAddr> {
    let gateway = match cidr.network() {
        IpAddr::V4(network) => IpAddr::V4(u32::from(network).checked_add(1)?.into()),
        IpAddr::V6(network) => IpAddr::V6(u128::from(network).checked_add(1)?.into()),
    };
    cidr.contains(&gateway).then_some(gateway)
}

/// Namespace and name of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodKey {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl PodKey {
    /// The pod `namespace/name`.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A pod, trimmed to what policies can see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Namespace and name.
    pub key: PodKey,
    /// `metadata.uid`; empty offline.
    pub uid: Arc<str>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `spec.nodeName`.
    pub node: Option<Arc<str>>,
    /// `status.podIPs`; at most one address of each family.
    pub addresses: Vec<IpAddr>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// `status.phase`.
    pub phase: Phase,
    /// Ports of regular and sidecar containers. Pods with equal ports may share them.
    pub ports: Arc<[ContainerPort]>,
    /// `metadata.creationTimestamp`, seconds since the epoch.
    pub created: Option<i64>,
    /// The workload the pod was derived from or owned by (`kind`, `name`), where known.
    pub owner: Option<(Arc<str>, Arc<str>)>,
    /// Where the pod (or the workload it was derived from) is written.
    pub at: Option<Location>,
}

impl Pod {
    /// Whether the pod can be subject or peer of a rule: it has its own network namespace and has not
    /// finished, so that its address cannot belong to somebody else yet.
    pub fn is_policed(&self) -> bool {
        !self.host_network && !self.phase.is_finished()
    }

    /// The (protocol, number) pairs of the container ports called `name`.
    pub fn ports_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (Protocol, u16)> + 'a {
        self.ports
            .iter()
            .filter(move |port| port.name.as_deref() == Some(name))
            .map(|port| (port.protocol, port.number))
    }
}

/// `status.phase` of a pod.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Phase {
    /// Accepted, not all containers started; also what a manifest without status means.
    #[default]
    Pending,
    /// Bound and at least one container runs.
    Running,
    /// All containers ended well.
    Succeeded,
    /// All containers ended, one badly.
    Failed,
    /// The node does not report.
    Unknown,
}

impl Phase {
    /// Whether the pod's containers are gone for good.
    pub const fn is_finished(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// A Service with the endpoints its EndpointSlices name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// Cluster IPs, external IPs and load balancer ingress IPs; empty for headless Services.
    pub addresses: Vec<IpAddr>,
    /// `spec.selector`; `None` if endpoints are managed by somebody else.
    pub selector: Option<Labels>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// How clients outside the cluster reach it.
    #[serde(default)]
    pub offer: Offer,
}

impl Service {
    /// Whether the selector is about `pod`.
    pub fn selects(&self, pod: &Pod) -> bool {
        let Some(selector) = &self.selector else {
            return false;
        };
        let mut wanted = selector.0.iter();
        pod.key.namespace == self.namespace
            && !pod.phase.is_finished()
            && wanted.all(|(key, value)| pod.labels.get(key) == Some(&**value))
    }
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// `name`; empty if there is only one port.
    pub name: Arc<str>,
    /// `protocol`, defaulted to TCP.
    pub protocol: Protocol,
    /// `port`, on the Service's addresses.
    pub port: u16,
    /// `targetPort` as a container port's name or number, for Services whose endpoints are not listed.
    pub target: ServiceTarget,
    /// `nodePort`, on every node's addresses; 0 if none.
    pub node_port: u16,
    /// Where connections to the port may end up, sorted; from EndpointSlices, whatever their conditions
    /// say, because a service proxy may use any of them.
    pub backends: Vec<ServiceBackend>,
}

impl ServicePort {
    /// The port of `pod`, which the Service selects, that connections end up at.
    pub fn target_on(&self, pod: &Pod) -> Option<u16> {
        match &self.target {
            ServiceTarget::Number(number) => Some(*number),
            ServiceTarget::Name(name) => pod
                .ports_named(name)
                .find(|(protocol, _)| *protocol == self.protocol)
                .map(|(_, number)| number),
        }
    }
}

/// `targetPort`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceTarget {
    /// A number.
    Number(u16),
    /// The name of a container port.
    Name(Arc<str>),
}

/// One endpoint address and port behind a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceBackend {
    /// Endpoint address.
    pub address: IpAddr,
    /// Endpoint port, after translation.
    pub port: u16,
}
