// SPDX-License-Identifier: Apache-2.0
//! What does a change of each kind of object touch?

use std::{collections::BTreeSet, sync::Arc};

use super::{Compiler, groups::GroupId, services::Source};
use crate::{
    change::Change,
    compile::rules::{Atom, admin_policies_in_order},
    model::{AdminKind, AdminPolicy, Direction, Labels, NetworkPolicy, Node, Pod, PodKey, Service},
};

impl Compiler {
    pub(super) fn change_namespace(&mut self, name: &Arc<str>, labels: Option<Labels>) {
        let before = self.snapshot.namespaces.get(name).cloned();
        self.snapshot.apply(Change::Namespace(name.clone(), labels));
        if self.snapshot.namespaces.get(name) != before.as_ref() {
            self.follow_namespace(name);
        }
    }

    /// Follows the labels of a namespace.
    fn follow_namespace(&mut self, name: &Arc<str>) {
        let (namespace, _) = self.groups.namespaces.enter(name);
        let none = Labels::default();
        let known = self.snapshot.namespaces.get(name);
        let labels = known.map_or(&none, |namespace| &namespace.labels);
        if self.atoms.relabel_namespace(namespace, labels) {
            let groups: BTreeSet<GroupId> = self.groups.namespaces.groups(namespace).collect();
            self.regroup(groups);
        }
        let here = self.selected(|pod| pod.key.namespace == *name);
        if !here.is_empty() {
            self.select(&here);
        }
    }

    pub(super) fn change_node(&mut self, name: Arc<str>, node: Option<Arc<Node>>) {
        let before = self.snapshot.nodes.get(&name).cloned();
        if before == node {
            return;
        }
        let is_own = name == self.node;
        let sees_nodes = self
            .atoms
            .any_of_addresses(|atom| matches!(atom, Atom::Nodes(_)));
        let seen = |node: &Option<Arc<Node>>| {
            let node = node.as_ref();
            node.map(|node| (node.labels.clone(), node.addresses.clone()))
        };
        let is_seen = sees_nodes && seen(&before) != seen(&node);
        self.snapshot.apply(Change::Node(name, node));
        if self.snapshot.options.local_node_egress || is_seen {
            self.rebase();
        }
        if is_own {
            self.services.all = true;
        }
    }

    pub(super) fn change_pod(&mut self, key: PodKey, pod: Option<Arc<Pod>>) {
        let before = self.snapshot.pods.get(&key).cloned();
        if before == pod {
            return;
        }
        let has_namespace = self.snapshot.namespaces.contains_key(&key.namespace);
        let was_local = self.subjects.pods.contains_key(&key);
        self.snapshot.apply(Change::Pod(key.clone(), pod.clone()));
        if !has_namespace && pod.is_some() {
            self.follow_namespace(&key.namespace);
        }
        let of_node = |pod: &Option<Arc<Pod>>| pod.as_ref().is_some_and(|pod| pod.host_network);
        if self.snapshot.options.local_node_egress && (of_node(&before) || of_node(&pod)) {
            self.rebase();
        }
        // First in, so that a group that stays is not given up.
        if let Some(pod) = pod.filter(|pod| pod.is_policed()) {
            let group = self.groups.insert(&pod, &mut self.atoms);
            if let Some(before) = before.filter(|before| before.is_policed()) {
                self.remove_peer(&before);
            }
            self.claim(&pod, group);
        } else if let Some(before) = before.filter(|before| before.is_policed()) {
            self.remove_peer(&before);
        }
        if was_local || self.local(&key).is_some() {
            self.select(&BTreeSet::from([key]));
        }
    }

    pub(super) fn change_network_policy(
        &mut self,
        key: &(Arc<str>, Arc<str>),
        policy: Option<Arc<NetworkPolicy>>,
    ) {
        let before = self.snapshot.network_policies.get(key).cloned();
        if before == policy {
            return;
        }
        let has_namespace = self.snapshot.namespaces.contains_key(&key.0);
        let both = [&before, &policy];
        for direction in Direction::BOTH {
            let [old, new] = both.map(|policy| {
                let policy = policy.as_ref()?;
                Some((policy.audited, policy.rules(direction)?))
            });
            if let Some(before) = before.as_ref().filter(|_| old != new) {
                self.retire(before.policy_ref(), direction);
            }
        }
        let selected = self.selected(|pod| {
            let selects = |policy: &Arc<NetworkPolicy>| {
                pod.key.namespace == key.0 && policy.pod_selector.matches(&pod.labels)
            };
            both.into_iter().flatten().any(selects)
        });
        self.snapshot
            .apply(Change::NetworkPolicy(key.clone(), policy));
        if !has_namespace {
            self.follow_namespace(&key.0);
        }
        if !selected.is_empty() {
            self.select(&selected);
        }
    }

    pub(super) fn change_admin_policy(
        &mut self,
        key: (AdminKind, Arc<str>),
        policy: Option<Arc<AdminPolicy>>,
    ) {
        let before = self.snapshot.admin_policies.get(&key).cloned();
        if before == policy {
            return;
        }
        let both = [&before, &policy];
        for direction in Direction::BOTH {
            let seen = |policy: &Option<Arc<AdminPolicy>>| {
                let policy = policy.as_ref();
                policy.map(|p| (p.tier, p.audited, p.rules(direction).to_vec()))
            };
            if let Some(before) = before.as_ref().filter(|_| seen(&before) != seen(&policy)) {
                self.retire(before.policy_ref(), direction);
            }
        }
        let selected = self.selected(|pod| {
            let selects = |policy: &Arc<AdminPolicy>| self.admin_selects(policy, pod);
            both.into_iter().flatten().any(selects)
        });
        self.snapshot.apply(Change::AdminPolicy(key, policy));
        let admin = admin_policies_in_order(&self.snapshot);
        self.admin = admin.into_iter().cloned().collect();
        if !selected.is_empty() {
            self.select(&selected);
        }
    }

    pub(super) fn change_service(
        &mut self,
        key: (Arc<str>, Arc<str>),
        service: Option<Arc<Service>>,
    ) {
        if self.snapshot.services.get(&key) != service.as_ref() {
            self.services.changed.insert(Source::Service(key.clone()));
            self.snapshot.apply(Change::Service(key, service));
        }
    }
}
