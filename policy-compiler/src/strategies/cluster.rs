// SPDX-License-Identifier: Apache-2.0
//! Random namespaces, nodes, pods, Services and learned domain names.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net};
use proptest::{
    collection::{btree_set, vec},
    option,
    prelude::*,
    sample::select,
};

use super::{Settings, pools};
use crate::{
    model::{
        ContainerPort, Labels, Node, Offer, Phase, Pod, PodKey, Protocol, Service, ServiceBackend,
        ServicePort, ServiceTarget,
    },
    snapshot::{Options, Snapshot},
};

/// Labels of a namespace, without its name label.
pub fn namespace_labels() -> impl Strategy<Value = Labels> {
    labels(&pools::NAMESPACE_LABELS[..1])
}

/// A node with one or two addresses of each family.
pub fn node() -> impl Strategy<Value = Node> {
    (
        0..pools::NODES.len(),
        labels(&pools::NODE_LABELS),
        weighted_stack(),
        prop::bool::weighted(0.3),
        any::<bool>(),
    )
        .prop_map(|(index, labels, stack, second, has_pod_cidr)| {
            let number = u8::try_from(index).unwrap_or_default();
            let second = second.then_some(second_address(number));
            let cidr = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 10 + number, 0), 24);
            Node {
                name: pools::NODES[index].into(),
                labels,
                addresses: stack
                    .of(pools::node_addresses(number))
                    .chain(second)
                    .collect(),
                pod_cidrs: has_pod_cidr
                    .then_some(IpNet::V4(cidr))
                    .into_iter()
                    .collect(),
            }
        })
}

/// A pod: mostly a running one with its own address, sometimes finished, hostNetwork or without one.
pub fn pod(settings: Settings) -> impl Strategy<Value = Pod> {
    let namespaces = settings.namespaces.clamp(1, Settings::MAX_NAMESPACES);
    let identity = (0..namespaces, 0..pools::POD_NAMES.len());
    let place = (
        option::weighted(0.9, select(&pools::NODES[..])),
        weighted_stack(),
        option::weighted(0.1, 0..8_u8),
        option::weighted(0.5, 0..3_i64),
    );
    let phase = prop_oneof![
        12 => Just(Phase::Running),
        2 => Just(Phase::Pending),
        1 => Just(Phase::Unknown),
        1 => Just(Phase::Succeeded),
        1 => Just(Phase::Failed),
    ];
    (
        identity,
        labels(&pools::POD_LABELS),
        place,
        prop::bool::weighted(0.1),
        phase,
        vec(container_port(), 0..=3),
    )
        .prop_map(
            move |(identity, labels, place, host_network, phase, ports)| {
                let (namespace, name) = identity;
                let (node, stack, contested, created) = place;
                let slot = namespace * pools::POD_NAMES.len() + name;
                let contested = contested.filter(|_| settings.contested_addresses);
                let slot = contested.unwrap_or(u8::try_from(slot).unwrap_or_default());
                let number = pools::NODES.iter().position(|n| Some(*n) == node);
                let addresses = match number.and_then(|number| u8::try_from(number).ok()) {
                    Some(number) if host_network => pools::node_addresses(number),
                    _ => pools::pod_addresses(slot),
                };
                let stack = if settings.dual_stack {
                    stack
                } else {
                    stack.single()
                };
                Pod {
                    key: PodKey::new(pools::NAMESPACES[namespace], pools::POD_NAMES[name]),
                    uid: "".into(),
                    labels,
                    node: node.map(Into::into),
                    addresses: stack.of(addresses).collect(),
                    host_network,
                    phase,
                    ports: ports.into(),
                    created,
                    owner: None,
                    at: None,
                }
            },
        )
}

/// A cluster that has every pod and node a generated one may have, at the addresses of both families
/// that they have there, and nothing else: a network built for it fits whatever is generated without
/// contested addresses. Pods have no node.
pub fn everybody(settings: Settings) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for (number, name) in (0..).zip(pools::NODES) {
        snapshot.insert_node(Node {
            name: name.into(),
            labels: Labels::default(),
            addresses: node_addresses(number),
            pod_cidrs: Vec::new(),
        });
    }
    let namespaces = settings.namespaces.clamp(1, Settings::MAX_NAMESPACES);
    let names = pools::NAMESPACES[..namespaces]
        .iter()
        .flat_map(|namespace| {
            let names = pools::POD_NAMES.iter();
            names.map(move |name| PodKey::new(namespace, name))
        });
    for (slot, key) in (0..).zip(names) {
        snapshot.insert_pod(Pod {
            key,
            uid: "".into(),
            labels: Labels::default(),
            node: None,
            addresses: pools::pod_addresses(slot).into(),
            host_network: false,
            phase: Phase::Running,
            ports: Arc::default(),
            created: None,
            owner: None,
            at: None,
        });
    }
    snapshot
}

/// Addresses outside the cluster, some of which DNS answers with.
pub fn outside() -> Vec<IpAddr> {
    pools::OUTSIDE.into()
}

/// A Service of one or two ports in front of pods, nodes and outside addresses.
pub fn service(settings: Settings) -> impl Strategy<Value = Service> {
    let namespaces = settings.namespaces.clamp(1, Settings::MAX_NAMESPACES);
    let backends = if settings.dual_stack { 0..20_u8 } else { 0..10 };
    let backend = (backends, select(&pools::PORTS[..])).prop_map(|(pick, port)| {
        let [v4, v6] = match pick % 10 {
            9 => [pools::OUTSIDE[0], pools::OUTSIDE[2]],
            8 => pools::node_addresses(0),
            slot => pools::pod_addresses(slot),
        };
        let address = if pick < 10 { v4 } else { v6 };
        ServiceBackend { address, port }
    });
    let port = (
        protocol(),
        select(&pools::PORTS[..]),
        prop::bool::weighted(0.2),
        btree_set(backend, 0..=3),
    );
    (
        0..namespaces,
        0..4_u8,
        option::of(labels(&pools::POD_LABELS)),
        vec(port, 1..=2),
    )
        .prop_map(move |(namespace, number, selector, ports)| {
            // Cluster IPs and node ports are unique, as the API server allocates them.
            let unique = u8::try_from(namespace * 16).unwrap_or_default() + number;
            let mut ports: Vec<_> = (0..)
                .zip(ports)
                .map(
                    |(index, (protocol, port, has_node_port, backends))| ServicePort {
                        name: format!("p{index}").into(),
                        protocol,
                        port,
                        target: ServiceTarget::Number(port),
                        node_port: if has_node_port {
                            30_000 + 2 * u16::from(unique) + index
                        } else {
                            0
                        },
                        backends: backends.into_iter().collect(),
                    },
                )
                .collect();
            // An API server refuses the same protocol and port twice.
            ports.dedup_by_key(|port| (port.protocol, port.port));
            let v6 = Ipv6Addr::new(0xfd00, 0xffff, 0, 0, 0, 0, 0, unique.into());
            let addresses = [
                IpAddr::V4(Ipv4Addr::new(172, 30, 0, unique)),
                IpAddr::V6(v6),
            ];
            Service {
                namespace: pools::NAMESPACES[namespace].into(),
                name: format!("s{number}").into(),
                addresses: addresses[..if settings.dual_stack { 2 } else { 1 }].into(),
                selector,
                ports,
                offer: Offer::default(),
            }
        })
}

/// What DNS answered, or that nobody listens.
pub fn domains(
    settings: Settings,
) -> impl Strategy<Value = Option<BTreeMap<Arc<str>, BTreeSet<IpAddr>>>> {
    let name = select(&pools::DOMAINS[..]).prop_map(Arc::from);
    let addresses = btree_set(select(&pools::OUTSIDE[..]), 1..=2);
    let learned = prop::collection::btree_map(name, addresses, 0..=2);
    prop_oneof![
        3 => Just(None),
        7 * u32::from(settings.domains) => learned.prop_map(Some),
    ]
}

/// The operator's decisions.
pub fn options() -> impl Strategy<Value = Options> {
    prop::bool::weighted(0.2).prop_map(|local_node_egress| Options {
        local_node_egress,
        service_cidrs: Vec::new(),
    })
}

/// A protocol with ports, mostly TCP.
pub(super) fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![
        6 => Just(Protocol::Tcp),
        3 => Just(Protocol::Udp),
        1 => Just(Protocol::Sctp),
    ]
}

fn container_port() -> impl Strategy<Value = ContainerPort> {
    (
        option::weighted(0.9, select(&pools::PORT_NAMES[..])),
        protocol(),
        select(&pools::PORTS[..]),
        // Not among the ports of flows: the oracle speaks of endpoints behind translation.
        option::weighted(0.1, 20_000..20_003_u16),
    )
        .prop_map(|(name, protocol, number, host_port)| ContainerPort {
            name: name.map(Into::into),
            protocol,
            number,
            host_port: host_port.unwrap_or_default(),
            host_address: None,
        })
}

fn labels(pool: &'static [(&str, &[&str])]) -> impl Strategy<Value = Labels> {
    let values: Vec<_> = pool
        .iter()
        .map(|(key, values)| {
            option::weighted(0.7, select(*values)).prop_map(|value| Some((*key, value?)))
        })
        .collect();
    values.prop_map(|values| values.into_iter().flatten().collect())
}

/// Every address that a node may have.
fn node_addresses(number: u8) -> Vec<IpAddr> {
    let [v4, v6] = pools::node_addresses(number);
    vec![v4, v6, second_address(number)]
}

/// No two nodes claim one address: on the wire nobody could tell them apart.
fn second_address(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1 + number))
}

/// Which families something has addresses of.
#[derive(Clone, Copy, Debug)]
enum Stack {
    Neither,
    V4,
    V6,
    Both,
}

impl Stack {
    fn of(self, [v4, v6]: [IpAddr; 2]) -> impl Iterator<Item = IpAddr> {
        let (has_v4, has_v6) = match self {
            Self::Neither => (false, false),
            Self::V4 => (true, false),
            Self::V6 => (false, true),
            Self::Both => (true, true),
        };
        [(has_v4, v4), (has_v6, v6)]
            .into_iter()
            .filter_map(|(has, address)| has.then_some(address))
    }

    fn single(self) -> Self {
        match self {
            Self::Neither => Self::Neither,
            Self::V4 | Self::V6 | Self::Both => Self::V4,
        }
    }
}

fn weighted_stack() -> impl Strategy<Value = Stack> {
    prop_oneof![
        5 => Just(Stack::Both),
        5 => Just(Stack::V4),
        1 => Just(Stack::V6),
        1 => Just(Stack::Neither),
    ]
}
