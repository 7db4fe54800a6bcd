// SPDX-License-Identifier: Apache-2.0
//! Which endpoints stand behind which Service?

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use policy_compiler::{
    model::Service,
    parse::{EndpointSlice, attach_endpoints},
};

/// Namespace and name.
pub(super) type Key = (Arc<str>, Arc<str>);

/// Services and EndpointSlices, which arrive in any order.
#[derive(Debug, Default)]
pub(super) struct Services {
    declared: BTreeMap<Key, Service>,
    slices: BTreeMap<Key, EndpointSlice>,
    /// The slices of each Service.
    members: BTreeMap<Key, BTreeSet<Key>>,
}

impl Services {
    /// Adds or replaces a Service; its backends are those of the slices.
    pub(super) fn insert_service(&mut self, service: Service) {
        let key = (service.namespace.clone(), service.name.clone());
        self.declared.insert(key, service);
    }

    pub(super) fn remove_service(&mut self, key: &Key) {
        self.declared.remove(key);
    }

    /// Adds or replaces a slice. Returns the Services whose endpoints that may change.
    pub(super) fn insert_slice(&mut self, slice: EndpointSlice) -> Vec<Key> {
        let key = (slice.namespace.clone(), slice.name.clone());
        let mut touched = self.remove_slice(&key);
        if let Some(name) = &slice.service {
            let service = (slice.namespace.clone(), name.clone());
            let members = self.members.entry(service.clone()).or_default();
            members.insert(key.clone());
            if !touched.contains(&service) {
                touched.push(service);
            }
        }
        self.slices.insert(key, slice);
        touched
    }

    /// Removes a slice. Returns the Services whose endpoints that may change.
    pub(super) fn remove_slice(&mut self, key: &Key) -> Vec<Key> {
        let Some(service) = self.slices.remove(key).and_then(|slice| slice.service) else {
            return Vec::new();
        };
        let service = (key.0.clone(), service);
        if let Some(members) = self.members.get_mut(&service) {
            members.remove(key);
            if members.is_empty() {
                self.members.remove(&service);
            }
        }
        vec![service]
    }

    /// The Service with the backends that all its slices name.
    pub(super) fn resolve(&self, key: &Key) -> Option<Service> {
        let mut service = self.declared.get(key)?.clone();
        let slices = self.members.get(key).into_iter().flatten();
        attach_endpoints(
            &mut service,
            slices.filter_map(|slice| self.slices.get(slice)),
        );
        Some(service)
    }
}
