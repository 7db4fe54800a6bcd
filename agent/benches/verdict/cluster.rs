// SPDX-License-Identifier: Apache-2.0
//! Which cluster is judged: a server in a cluster of any size, with any number of rules about it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};
use policy_compiler::{
    Snapshot,
    compile::{Scope, compile},
    lower::{Capacity, Image, Reasons, lower},
    model::{
        IpBlock, NetworkPeer, NetworkPolicy, NetworkPort, NetworkRule, Operator, Phase, Pod,
        PodKey, PortRange, Protocol, Requirement, Selection, Selector,
    },
    snapshot::NAMESPACE_NAME_LABEL,
    synthetic::{Kind, Shape, cluster, node_name},
};

/// Pods of a namespace, and workloads of one, as `synthetic` makes them.
const PODS_PER_NAMESPACE: u32 = 100;
const WORKLOADS: u32 = 10;

/// Ports that every rule admits to the server, and that it may ask its peers on.
pub(crate) const HTTP: u16 = 80;
pub(crate) const DNS: u16 = 53;
pub(crate) const DATABASE: u16 = 5432;

/// Rules about the server, and pods in the cluster.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) rules: u32,
    pub(crate) peers: u32,
}

impl Size {
    /// The namespace that rule `rule` admits a workload of.
    fn namespace(self, rule: u32) -> u32 {
        rule / WORKLOADS % (self.peers / PODS_PER_NAMESPACE)
    }

    /// The `number`th of the pods that the rules admit.
    pub(crate) fn peer(self, number: u32) -> u32 {
        // Spread, so that neighbouring flows share no cache lines but by chance.
        let number = number.wrapping_mul(2_654_435_761) >> 3;
        let namespaces = self.peers / PODS_PER_NAMESPACE;
        let admitted = (self.rules / WORKLOADS).clamp(1, namespaces);
        number % (admitted * PODS_PER_NAMESPACE)
    }

    /// What all replicas of a pod's workload have in common, as a number.
    pub(crate) fn identity(pod: u32) -> u32 {
        1000 + pod / PODS_PER_NAMESPACE * WORKLOADS + pod % WORKLOADS
    }
}

/// Addresses of a pod of the cluster.
pub(crate) fn addresses(pod: u32) -> (Ipv4Addr, Ipv6Addr) {
    let [_, a, b, c] = pod.to_be_bytes();
    let low = u16::from_be_bytes([b, c]);
    (
        Ipv4Addr::new(10, a, b, c),
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, u16::from(a), low),
    )
}

pub(crate) const SERVER: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(10, 250, 0, 1),
    Ipv6Addr::new(0xfd00, 0xfa, 0, 0, 0, 0, 0, 1),
);
pub(crate) const FREE: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(10, 250, 0, 2),
    Ipv6Addr::new(0xfd00, 0xfa, 0, 0, 0, 0, 0, 2),
);

/// The pod that the rules are about.
pub(crate) fn server() -> PodKey {
    PodKey::new("bench", "server")
}

/// A pod that no policy selects.
pub(crate) fn free() -> PodKey {
    PodKey::new("free", "free")
}

/// The tables of the node of both pods.
pub(crate) fn image(size: Size) -> Image {
    let tables = compile(&snapshot(size), &Scope::Node(node_name(0)));
    lower(&tables, &capacity(), &mut Reasons::default()).expect("the tables fit")
}

/// Room for the largest cluster, whose server alone has ten thousand rules.
pub(crate) fn capacity() -> Capacity {
    Capacity {
        rows: 262_144,
        hosts6: 131_072,
        // A cell names its rule, so no two rules share a port set.
        port_sets: 32_768,
        reasons: 65_536,
        ..Capacity::default()
    }
}

fn snapshot(size: Size) -> Snapshot {
    let mut snapshot = cluster(&Shape {
        pods: size.peers,
        policies: size.rules,
        admin_policies: 0,
        kind: Kind::Realistic,
        seed: 1,
    });
    snapshot.insert_pod(pod(server(), SERVER));
    snapshot.insert_pod(pod(free(), FREE));
    for rule in 0..size.rules {
        snapshot.insert_network_policy(policy(size, rule));
    }
    snapshot
}

fn pod(key: PodKey, (four, six): (Ipv4Addr, Ipv6Addr)) -> Pod {
    Pod {
        uid: key.to_string().into(),
        key,
        labels: [("app", "server")].into_iter().collect(),
        node: Some(node_name(0)),
        addresses: vec![IpAddr::V4(four), IpAddr::V6(six)],
        host_network: false,
        phase: Phase::Running,
        ports: [].into(),
        created: None,
        owner: None,
        at: None,
    }
}

/// Admits one workload of one namespace, and with every tenth rule a block of addresses.
fn policy(size: Size, rule: u32) -> NetworkPolicy {
    let namespace = format!("ns-{:04}", size.namespace(rule));
    let workload = format!("app-{}", rule % WORKLOADS);
    let mut peers = vec![NetworkPeer::Pods {
        namespaces: Some(equals(NAMESPACE_NAME_LABEL, &namespace)),
        pods: equals("app", &workload),
    }];
    if rule.is_multiple_of(10) {
        let first = u32::from(Ipv4Addr::new(100, 64, 0, 0)) + rule * 16;
        let block = Ipv4Net::new(first.into(), 28).expect("a length of IPv4");
        peers.push(NetworkPeer::IpBlock(IpBlock {
            cidr: IpNet::V4(block),
            except: Vec::new(),
        }));
    }
    let own = 10_000 + u16::try_from(rule % 1000).expect("below a thousand");
    let port = |protocol, port| NetworkPort::Range(protocol, PortRange::single(port));
    let rules = |ports| {
        Some(vec![NetworkRule {
            peers: Some(peers.clone()),
            ports: Some(ports),
            at: None,
        }])
    };
    NetworkPolicy {
        namespace: server().namespace,
        name: format!("rule-{rule:05}").into(),
        pod_selector: Selection::Matching(Selector::default()),
        ingress: rules(vec![
            port(Protocol::Tcp, HTTP),
            port(Protocol::Tcp, own),
            port(Protocol::Udp, DNS),
        ]),
        egress: rules(vec![port(Protocol::Tcp, DATABASE)]),
        audited: false,
        generation: 1,
        at: None,
    }
}

fn equals(key: &str, value: &str) -> Selector {
    Selector::new(vec![Requirement {
        key: key.into(),
        operator: Operator::In,
        values: vec![value.into()],
    }])
}
