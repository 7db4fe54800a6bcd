// SPDX-License-Identifier: Apache-2.0
//! What may happen to a cluster, one object at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use crate::{
    Snapshot,
    model::{AdminKind, AdminPolicy, Labels, NetworkPolicy, Node, Pod, PodKey, Service},
    snapshot::Options,
};

/// An object appeared, changed or (`None`) went away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A namespace, by its labels. One that goes while it has pods or policies keeps its name label.
    Namespace(Arc<str>, Option<Labels>),
    /// A node.
    Node(Arc<str>, Option<Arc<Node>>),
    /// A pod.
    Pod(PodKey, Option<Arc<Pod>>),
    /// A Service with its endpoints, by namespace and name.
    Service((Arc<str>, Arc<str>), Option<Arc<Service>>),
    /// A NetworkPolicy, by namespace and name.
    NetworkPolicy((Arc<str>, Arc<str>), Option<Arc<NetworkPolicy>>),
    /// A cluster-scoped policy, by kind and name.
    AdminPolicy((AdminKind, Arc<str>), Option<Arc<AdminPolicy>>),
    /// What DNS answered; see [`Snapshot::domains`].
    Domains(Option<BTreeMap<Arc<str>, BTreeSet<IpAddr>>>),
    /// The operator's decisions.
    Options(Options),
}

impl Snapshot {
    /// Makes `change` true of the snapshot.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Namespace(name, Some(labels)) => self.insert_namespace(&name, labels),
            Change::Namespace(name, None) => {
                if self.is_inhabited(&name) {
                    self.insert_namespace(&name, Labels::default());
                } else {
                    self.namespaces.remove(&name);
                }
            }
            Change::Node(name, node) => set(&mut self.nodes, name, node),
            Change::Pod(key, pod) => {
                if pod.is_some() {
                    self.ensure_namespace(&key.namespace);
                }
                match pod {
                    Some(pod) => self.pods.insert(pod),
                    None => self.pods.remove(&key),
                };
            }
            Change::Service(key, service) => set(&mut self.services, key, service),
            Change::NetworkPolicy(key, policy) => {
                if policy.is_some() {
                    self.ensure_namespace(&key.0);
                }
                set(&mut self.network_policies, key, policy);
            }
            Change::AdminPolicy(key, policy) => set(&mut self.admin_policies, key, policy),
            Change::Domains(domains) => self.domains = domains,
            Change::Options(options) => self.options = options,
        }
    }

    /// The changes that lead from this snapshot to `next`. Applied in order, they do.
    pub fn changes_to(&self, next: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        if self.options != next.options {
            changes.push(Change::Options(next.options.clone()));
        }
        if self.domains != next.domains {
            changes.push(Change::Domains(next.domains.clone()));
        }
        // Objects go before their namespaces do, and come after them.
        let (namespaces, gone): (Vec<_>, Vec<_>) =
            difference(self.namespaces.iter(), next.namespaces.iter())
                .into_iter()
                .map(|(name, new)| (name, new.map(|namespace| namespace.labels.clone())))
                .partition(|(_, labels)| labels.is_some());
        let namespace = |(name, labels)| Change::Namespace(name, labels);
        changes.extend(namespaces.into_iter().map(namespace));
        let each = difference(self.nodes.iter(), next.nodes.iter());
        changes.extend(each.into_iter().map(|(key, new)| Change::Node(key, new)));
        let each = difference(self.pods.iter(), next.pods.iter());
        changes.extend(each.into_iter().map(|(key, new)| Change::Pod(key, new)));
        let each = difference(self.services.iter(), next.services.iter());
        changes.extend(each.into_iter().map(|(key, new)| Change::Service(key, new)));
        let each = difference(self.network_policies.iter(), next.network_policies.iter());
        let change = |(key, new)| Change::NetworkPolicy(key, new);
        changes.extend(each.into_iter().map(change));
        let each = difference(self.admin_policies.iter(), next.admin_policies.iter());
        let change = |(key, new)| Change::AdminPolicy(key, new);
        changes.extend(each.into_iter().map(change));
        changes.extend(gone.into_iter().map(namespace));
        changes
    }

    fn is_inhabited(&self, namespace: &Arc<str>) -> bool {
        let first = PodKey {
            namespace: namespace.clone(),
            name: "".into(),
        };
        let pod = self.pods.range(first..).next();
        let policy = self
            .network_policies
            .range((namespace.clone(), "".into())..)
            .next();
        pod.is_some_and(|pod| pod.key.namespace == *namespace)
            || policy.is_some_and(|((of, _), _)| of == namespace)
    }
}

fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

/// The entries of `new` that `old` has not, or has otherwise, and the keys that only `old` has.
fn difference<'a, K: Ord + Clone + 'a, V: PartialEq + 'a>(
    old: impl Iterator<Item = (&'a K, &'a Arc<V>)>,
    new: impl Iterator<Item = (&'a K, &'a Arc<V>)>,
) -> Vec<(K, Option<Arc<V>>)> {
    let mut different = Vec::new();
    let mut before = old.peekable();
    for (key, value) in new {
        while let Some((gone, _)) = before.next_if(|(old, _)| *old < key) {
            different.push((gone.clone(), None));
        }
        let known = before.next_if(|(old, _)| *old == key);
        if known.is_none_or(|(_, old)| !Arc::ptr_eq(old, value) && old != value) {
            different.push((key.clone(), Some(value.clone())));
        }
    }
    different.extend(before.map(|(gone, _)| (gone.clone(), None)));
    different
}
