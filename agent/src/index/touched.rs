// SPDX-License-Identifier: Apache-2.0
//! Which objects of the snapshot are not what they were?

use std::{collections::BTreeSet, sync::Arc};

use policy_compiler::{
    Snapshot,
    change::Change,
    model::{AdminKind, PodKey},
};

/// Objects that may have changed, by their keys in the snapshot.
#[derive(Debug, Default)]
pub(super) struct Touched {
    pub(super) namespaces: BTreeSet<Arc<str>>,
    pub(super) nodes: BTreeSet<Arc<str>>,
    pub(super) pods: BTreeSet<PodKey>,
    pub(super) services: BTreeSet<(Arc<str>, Arc<str>)>,
    pub(super) network_policies: BTreeSet<(Arc<str>, Arc<str>)>,
    pub(super) admin_policies: BTreeSet<(AdminKind, Arc<str>)>,
    pub(super) options: bool,
}

impl Touched {
    /// What the objects are now. Objects come after their namespace and go before it.
    pub(super) fn changes(self, snapshot: &Snapshot) -> Vec<Change> {
        let options = self
            .options
            .then(|| Change::Options(snapshot.options.clone()));
        let mut changes: Vec<Change> = options.into_iter().collect();
        let mut gone = Vec::new();
        for name in self.namespaces {
            match snapshot.namespaces.get(&name) {
                Some(namespace) => {
                    changes.push(Change::Namespace(name, Some(namespace.labels.clone())));
                }
                None => gone.push(Change::Namespace(name, None)),
            }
        }
        for name in self.nodes {
            let node = snapshot.nodes.get(&name).cloned();
            changes.push(Change::Node(name, node));
        }
        for key in self.pods {
            let pod = snapshot.pods.get(&key).cloned();
            changes.push(Change::Pod(key, pod));
        }
        for key in self.services {
            let service = snapshot.services.get(&key).cloned();
            changes.push(Change::Service(key, service));
        }
        for key in self.network_policies {
            let policy = snapshot.network_policies.get(&key).cloned();
            changes.push(Change::NetworkPolicy(key, policy));
        }
        for key in self.admin_policies {
            let policy = snapshot.admin_policies.get(&key).cloned();
            changes.push(Change::AdminPolicy(key, policy));
        }
        changes.extend(gone);
        changes
    }
}
