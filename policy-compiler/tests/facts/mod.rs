// SPDX-License-Identifier: Apache-2.0
//! What does a snapshot lack, compared with a running cluster?

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use policy_compiler::{
    Snapshot,
    model::{Labels, Node, Pod, family_of},
};

/// A world in which every fact is known: all pods have a node, all nodes and pods addresses of both
/// families.
pub(crate) fn complete(mut snapshot: Snapshot) -> Snapshot {
    let names = ["n1", "n2", "n3"];
    for (index, name) in (1u8..).zip(names) {
        let known = snapshot.nodes.get(name).cloned();
        let mut node = known.map_or_else(|| bare_node(name), |node| Node::clone(&node));
        let own = [
            IpAddr::V4(Ipv4Addr::new(10, 0, 201, index)),
            IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 201, index.into())),
        ];
        for address in own {
            if !node
                .addresses
                .iter()
                .any(|known| family_of(*known) == family_of(address))
            {
                node.addresses.push(address);
            }
        }
        snapshot.insert_node(node);
    }
    let pods: Vec<Arc<Pod>> = snapshot.pods.values().cloned().collect();
    for (index, pod) in (1u8..).zip(pods) {
        let mut pod = Pod::clone(&pod);
        let own = [
            IpAddr::V4(Ipv4Addr::new(10, 0, 200, index)),
            IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 200, index.into())),
        ];
        for address in own {
            if !pod
                .addresses
                .iter()
                .any(|known| family_of(*known) == family_of(address))
            {
                pod.addresses.push(address);
            }
        }
        pod.node.get_or_insert_with(|| "n1".into());
        snapshot.insert_pod(pod);
    }
    snapshot
}

fn bare_node(name: &str) -> Node {
    Node {
        name: name.into(),
        labels: Labels::default(),
        addresses: Vec::new(),
        pod_cidrs: Vec::new(),
    }
}
