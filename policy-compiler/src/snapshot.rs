// SPDX-License-Identifier: Apache-2.0
//! The immutable input of a compilation: a cluster and its policies.

mod gaps;
mod pods;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use self::{gaps::Gaps, pods::Pods};
use crate::{
    model::{
        AdminKind, AdminPolicy, DomainPattern, Labels, Namespace, NetworkPolicy, Node, Pod, Service,
    },
    verdict::Endpoint,
};

/// A cluster and its policies. Maps are ordered, so everything derived from them is deterministic.
///
/// **Invariant:** keys repeat the identity inside the values; [`Snapshot::insert_pod`] and its siblings
/// keep that so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// By name. Namespaces that objects mention but nobody declared have only the name label.
    pub namespaces: BTreeMap<Arc<str>, Arc<Namespace>>,
    /// By name.
    pub nodes: BTreeMap<Arc<str>, Arc<Node>>,
    /// By namespace and name.
    pub pods: Pods,
    /// By namespace and name.
    pub services: BTreeMap<(Arc<str>, Arc<str>), Arc<Service>>,
    /// By namespace and name.
    pub network_policies: BTreeMap<(Arc<str>, Arc<str>), Arc<NetworkPolicy>>,
    /// By kind and name.
    pub admin_policies: BTreeMap<(AdminKind, Arc<str>), Arc<AdminPolicy>>,
    /// Addresses learned from DNS, by name; `None` if nobody learns them, in which case rules with
    /// domain names fail closed.
    pub domains: Option<BTreeMap<Arc<str>, BTreeSet<IpAddr>>>,
    /// Decisions the API leaves to the cluster's operator.
    pub options: Options,
    /// What is not known of the objects.
    pub gaps: Gaps,
}

/// Decisions the API leaves to the cluster's operator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// NetworkPolicies admit traffic of a pod to its own node (default: no, only from it).
    pub local_node_egress: bool,
    /// Address ranges of Services, so that unknown Services can be told from unknown hosts.
    pub service_cidrs: Vec<IpNet>,
}

/// The label every namespace carries, whatever its manifest says.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

impl Snapshot {
    /// Adds or replaces a namespace; the API server owns its name label.
    pub fn insert_namespace(&mut self, name: &str, labels: Labels) {
        let mut labels = labels;
        labels.insert(NAMESPACE_NAME_LABEL.into(), name.into());
        let name: Arc<str> = name.into();
        self.namespaces
            .insert(name.clone(), Arc::new(Namespace { name, labels }));
    }

    /// Adds the namespace with only its name label, unless it is there.
    pub fn ensure_namespace(&mut self, name: &str) {
        if !self.namespaces.contains_key(name) {
            self.insert_namespace(name, Labels::default());
        }
    }

    /// Adds or replaces a node.
    pub fn insert_node(&mut self, node: Node) {
        self.nodes.insert(node.name.clone(), Arc::new(node));
    }

    /// Adds or replaces a pod.
    pub fn insert_pod(&mut self, pod: Pod) {
        self.ensure_namespace(&pod.key.namespace);
        self.pods.insert(Arc::new(pod));
    }

    /// Adds or replaces a Service.
    pub fn insert_service(&mut self, service: Service) {
        self.services.insert(
            (service.namespace.clone(), service.name.clone()),
            Arc::new(service),
        );
    }

    /// Adds or replaces a NetworkPolicy.
    pub fn insert_network_policy(&mut self, policy: NetworkPolicy) {
        self.ensure_namespace(&policy.namespace);
        self.network_policies.insert(
            (policy.namespace.clone(), policy.name.clone()),
            Arc::new(policy),
        );
    }

    /// Adds or replaces a cluster-scoped policy.
    pub fn insert_admin_policy(&mut self, policy: AdminPolicy) {
        self.admin_policies
            .insert((policy.kind, policy.name.clone()), Arc::new(policy));
    }

    /// The pod that `address` belongs to: of the policed pods that claim it the running one, then the
    /// newest, then the first by name.
    pub fn pod_at(&self, address: IpAddr) -> Option<&Arc<Pod>> {
        self.pods
            .values()
            .filter(|pod| pod.is_policed() && pod.addresses.contains(&address))
            .min_by_key(|pod| {
                (
                    pod.phase != crate::model::Phase::Running,
                    std::cmp::Reverse(pod.created),
                    &pod.key,
                )
            })
    }

    /// The name of the node that `address` belongs to: the first by name that owns it
    /// ([`Node::owns`]), or else the node of the first hostNetwork pod by name that reports it, for
    /// input that holds pods but not their nodes.
    pub fn node_at(&self, address: IpAddr) -> Option<&Arc<str>> {
        let node = self
            .nodes
            .values()
            .find(|node| node.owns(address))
            .map(|node| &node.name);
        node.or_else(|| {
            let reports = |pod: &&Arc<Pod>| pod.host_network && pod.addresses.contains(&address);
            self.pods
                .values()
                .filter(reports)
                .find_map(|pod| pod.node.as_ref())
        })
    }

    /// The addresses learned for any name that `patterns` cover.
    pub fn resolves(&self, patterns: &[DomainPattern], address: IpAddr) -> bool {
        self.domains.iter().flatten().any(|(name, addresses)| {
            addresses.contains(&address) && patterns.iter().any(|pattern| pattern.matches(name))
        })
    }

    /// Where flows can start or end inside the cluster: every pod, then every node.
    pub fn endpoints(&self) -> impl Iterator<Item = Endpoint> + '_ {
        let pods = self.pods.keys().cloned().map(Endpoint::Pod);
        pods.chain(self.nodes.keys().cloned().map(Endpoint::Node))
    }
}
