// SPDX-License-Identifier: Apache-2.0
//! Which pods are behind a Service that nobody gave endpoints for.

use std::{net::IpAddr, sync::Arc};

use crate::{
    Snapshot,
    model::{PodKey, ServiceBackend},
};

/// Fills the backends of Services nobody gave EndpointSlices for, as the endpoint controller would.
pub(super) fn select(snapshot: &mut Snapshot, without_slices: &[(Arc<str>, Arc<str>)]) {
    for id in without_slices {
        let Some(original) = snapshot.services.get(id) else {
            continue;
        };
        if original.selector.is_none() {
            continue;
        }
        let mut service = (**original).clone();
        let first = PodKey::new(&id.0, "");
        let pods = snapshot
            .pods
            .range(first..)
            .take_while(|pod| pod.key.namespace == id.0)
            .filter(|pod| !pod.addresses.is_empty() && original.selects(pod));
        for pod in pods {
            for port in &mut service.ports {
                let Some(number) = port.target_on(pod) else {
                    continue;
                };
                let backend = |address: &IpAddr| ServiceBackend {
                    address: *address,
                    port: number,
                };
                port.backends.extend(pod.addresses.iter().map(backend));
            }
        }
        for port in &mut service.ports {
            port.backends.sort();
            port.backends.dedup();
        }
        snapshot.insert_service(service);
    }
}
