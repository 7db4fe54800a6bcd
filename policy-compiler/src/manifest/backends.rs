// SPDX-License-Identifier: Apache-2.0
//! Which pods are behind a Service that nobody gave endpoints for.

use std::sync::Arc;

use crate::{
    Snapshot,
    model::{PodKey, ServiceBackend, ServiceTarget},
};

/// Fills the backends of Services nobody gave EndpointSlices for, as the endpoint controller would.
pub(super) fn select(snapshot: &mut Snapshot, without_slices: &[(Arc<str>, Arc<str>)]) {
    for id in without_slices {
        let Some(service) = snapshot.services.get(id) else {
            continue;
        };
        let Some(selector) = service.selector.clone() else {
            continue;
        };
        let mut service = (**service).clone();
        let first = PodKey::new(&id.0, "");
        let pods = snapshot
            .pods
            .range(first..)
            .take_while(|pod| pod.key.namespace == id.0)
            .filter(|pod| !pod.phase.is_finished() && !pod.addresses.is_empty())
            .filter(|pod| {
                let mut wanted = selector.0.iter();
                wanted.all(|(key, value)| pod.labels.get(key) == Some(&**value))
            });
        for pod in pods {
            for port in &mut service.ports {
                let number = match &port.target {
                    ServiceTarget::Number(number) => Some(*number),
                    ServiceTarget::Name(name) => pod
                        .ports_named(name)
                        .find(|(protocol, _)| *protocol == port.protocol)
                        .map(|(_, number)| number),
                };
                let addresses = number.map(|_| pod.addresses.iter()).into_iter().flatten();
                port.backends
                    .extend(addresses.map(|address| ServiceBackend {
                        address: *address,
                        port: number.unwrap_or_default(),
                    }));
            }
        }
        for port in &mut service.ports {
            port.backends.sort();
            port.backends.dedup();
        }
        snapshot.insert_service(service);
    }
}
