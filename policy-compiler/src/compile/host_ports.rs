// SPDX-License-Identifier: Apache-2.0
//! Which ports of the node are pods' own (`hostPort`)?
//!
//! Whoever connects to one of them ends up at the pod, as with a Service of one endpoint, so that is what
//! they are compiled as. Ports of other nodes are translated there, out of this node's sight.

use std::{net::IpAddr, sync::Arc};

use crate::{
    Snapshot,
    model::{Offer, Pod, Service, ServiceBackend, ServicePort, ServiceTarget},
};

/// The host ports of the node's pods, one Service for each, in the order of pods and ports.
pub(super) fn services(
    snapshot: &Snapshot,
    node: &Arc<str>,
    own_addresses: &[IpAddr],
) -> Vec<Service> {
    let local = |pod: &&Arc<Pod>| pod.is_policed() && pod.node.as_ref() == Some(node);
    let pods = snapshot.pods.values().filter(local);
    pods.flat_map(|pod| of_pod(pod, own_addresses)).collect()
}

/// The host ports of a pod of the node, one Service for each, in the order of ports.
pub(super) fn of_pod(pod: &Pod, own_addresses: &[IpAddr]) -> Vec<Service> {
    let ports = pod.ports.iter().filter(|port| port.host_port != 0);
    ports
        .map(|port| Service {
            namespace: pod.key.namespace.clone(),
            name: pod.key.name.clone(),
            addresses: port
                .host_address
                .map_or_else(|| own_addresses.to_vec(), |address| vec![address]),
            selector: None,
            ports: vec![ServicePort {
                name: "".into(),
                protocol: port.protocol,
                port: port.host_port,
                target: ServiceTarget::Number(port.number),
                node_port: 0,
                backends: pod
                    .addresses
                    .iter()
                    .map(|address| ServiceBackend {
                        address: *address,
                        port: port.number,
                    })
                    .collect(),
            }],
            offer: Offer::default(),
        })
        .collect()
}
