// SPDX-License-Identifier: Apache-2.0
//! Clusters of any size with a believable distribution of labels and policies, from a seed.
//!
//! The shape follows published summaries of real clusters: a hundred pods and ten workloads in a
//! namespace, a tenth of them StatefulSets, labels that controllers add and nobody selects by, mostly
//! small policies with a few wide ones.

mod naive;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net};
pub use naive::matches_one_by_one;

use crate::{
    Snapshot,
    model::{
        Action, AdminKind, AdminPeer, AdminPolicy, AdminPort, AdminRule, ContainerPort, IpBlock,
        Labels, NetworkPeer, NetworkPolicy, NetworkPort, NetworkRule, Node, Operator, Phase, Pod,
        PodKey, PortRange, Priority, Protocol, Requirement, Selection, Selector, Subject, Tier,
    },
};

/// How large a cluster to make, and of what kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Pods, a hundred to a namespace and to a node.
    pub pods: u32,
    /// NetworkPolicies, spread over the namespaces.
    pub policies: u32,
    /// Cluster-scoped policies.
    pub admin_policies: u32,
    /// What the labels and peers are like.
    pub kind: Kind,
    /// Equal shapes with equal seeds make equal clusters.
    pub seed: u64,
}

/// What the labels and peers of a cluster are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Believable.
    Realistic,
    /// Every pod has labels of its own, and policies select by them.
    DistinctLabels,
    /// Every policy has address blocks of its own with nested exceptions.
    DistinctBlocks,
    /// More than a third of the pods are peers of nearly every policy: 35,000 of 100,000.
    Crowd,
}

const PODS_PER_NAMESPACE: u32 = 100;
const WORKLOADS: u32 = 10;

/// Clusters of 1,000 to `most` pods (at most 100,000) with up to 10,000 policies, of every kind, each with a name for reports.
pub fn grid(most: u32) -> impl Iterator<Item = (String, Shape)> {
    let sizes = [
        (1_000, 100),
        (10_000, 1_000),
        (10_000, 10_000),
        (100_000, 10_000),
    ];
    let kinds = [
        Kind::Realistic,
        Kind::DistinctLabels,
        Kind::DistinctBlocks,
        Kind::Crowd,
    ];
    let sizes = sizes.into_iter().filter(move |(pods, _)| *pods <= most);
    let grid = sizes.flat_map(move |(pods, policies)| kinds.map(|kind| (pods, policies, kind)));
    grid.map(|(pods, policies, kind)| {
        let shape = Shape {
            pods,
            policies,
            admin_policies: 20,
            kind,
            seed: 1,
        };
        (format!("{pods}x{policies} {kind:?}"), shape)
    })
}

/// Makes the cluster.
pub fn cluster(shape: &Shape) -> Snapshot {
    let mut random = Random(shape.seed ^ 0x5851_f42d_4c95_7f2d);
    let mut snapshot = Snapshot::default();
    let namespaces = shape.pods.div_ceil(PODS_PER_NAMESPACE).max(1);
    for index in 0..namespaces {
        let labels = [
            ("team", format!("team-{}", index % 25)),
            (
                "env",
                ["prod", "stage", "dev"][(index % 3) as usize].to_owned(),
            ),
        ];
        snapshot.insert_namespace(&namespace_name(index), labels.into_iter().collect());
    }
    // As many nodes as namespaces.
    for index in 0..namespaces {
        snapshot.insert_node(node(index));
    }
    for index in 0..shape.pods {
        snapshot.insert_pod(pod(index, namespaces, shape.kind));
    }
    for index in 0..shape.policies {
        snapshot.insert_network_policy(network_policy(index, namespaces, shape.kind, &mut random));
    }
    for index in 0..shape.admin_policies {
        snapshot.insert_admin_policy(admin_policy(index, &mut random));
    }
    snapshot
}

/// The name of the `index`th node.
pub fn node_name(index: u32) -> Arc<str> {
    format!("node-{index:04}").into()
}

fn namespace_name(index: u32) -> String {
    format!("ns-{index:04}")
}

fn node(index: u32) -> Node {
    let [.., high, low] = index.to_be_bytes();
    Node {
        name: node_name(index),
        labels: [
            ("role", "worker"),
            ("zone", ["a", "b", "c"][(index % 3) as usize]),
        ]
        .into_iter()
        .collect(),
        addresses: vec![IpAddr::V4(Ipv4Addr::new(172, 16, high, low))],
        pod_cidrs: Vec::new(),
    }
}

fn pod(index: u32, nodes: u32, kind: Kind) -> Pod {
    let namespace = index / PODS_PER_NAMESPACE;
    let workload = index % WORKLOADS;
    let replica = index % PODS_PER_NAMESPACE / WORKLOADS;
    let app = format!("app-{workload}");
    let name = format!("{app}-{replica}");
    let mut labels: Labels = [
        ("app", app.clone()),
        (
            "tier",
            ["web", "api", "db"][(workload % 3) as usize].to_owned(),
        ),
        ("version", format!("v{}", replica % 2)),
        ("app.kubernetes.io/managed-by", "helm".to_owned()),
        (
            "pod-template-hash",
            format!("{:08x}", namespace.wrapping_mul(2_654_435_761) ^ workload),
        ),
    ]
    .into_iter()
    .collect();
    if workload == 0 {
        labels.insert(
            "statefulset.kubernetes.io/pod-name".into(),
            name.as_str().into(),
        );
    }
    if kind == Kind::DistinctLabels {
        labels.insert("identity".into(), format!("id-{index}").into());
    }
    if kind == Kind::Crowd && index % 20 < 7 {
        labels.insert("crowd".into(), "yes".into());
    }
    let [_, a, b, c] = index.to_be_bytes();
    Pod {
        key: PodKey::new(&namespace_name(namespace), &name),
        uid: format!("uid-{index}").into(),
        labels,
        // Replicas of a namespace spread over nodes.
        node: Some(node_name((namespace + replica * 7 + workload) % nodes)),
        addresses: vec![
            IpAddr::V4(Ipv4Addr::new(10, a, b, c)),
            IpAddr::V6(Ipv6Addr::new(
                0xfd00,
                0,
                0,
                0,
                0,
                0,
                u16::from(a),
                u16::from_be_bytes([b, c]),
            )),
        ],
        host_network: false,
        phase: Phase::Running,
        ports: Arc::new([ContainerPort {
            name: Some("http".into()),
            protocol: Protocol::Tcp,
            number: 8080 + u16::try_from(workload).unwrap_or_default(),
            host_port: 0,
            host_address: None,
        }]),
        created: Some(i64::from(index)),
        owner: None,
        at: None,
    }
}

fn network_policy(index: u32, namespaces: u32, kind: Kind, random: &mut Random) -> NetworkPolicy {
    let namespace = index % namespaces;
    let selected = random.below(WORKLOADS);
    // One policy in ten covers its namespace.
    let selector = if random.below(10) == 0 {
        Selector::default()
    } else {
        app(selected)
    };
    let both = random.below(3) == 0;
    let rules = |random: &mut Random| {
        (0..=random.below(2))
            .map(|_| network_rule(index, namespace, namespaces, kind, random))
            .collect()
    };
    NetworkPolicy {
        namespace: namespace_name(namespace).into(),
        name: format!("policy-{index:05}").into(),
        pod_selector: Selection::Matching(selector),
        ingress: Some(rules(random)),
        egress: if both { Some(rules(random)) } else { None },
        audited: false,
        generation: 1,
        at: None,
    }
}

fn network_rule(
    index: u32,
    namespace: u32,
    namespaces: u32,
    kind: Kind,
    random: &mut Random,
) -> NetworkRule {
    let peers = (0..=random.below(3))
        .map(|_| network_peer(index, namespace, namespaces, kind, random))
        .collect();
    let port = |random: &mut Random| match random.below(4) {
        0 => NetworkPort::Named(Protocol::Tcp, "http".into()),
        1 => NetworkPort::Range(
            Protocol::Tcp,
            PortRange {
                start: 8000,
                end: 9000,
            },
        ),
        _ => {
            let port = 8080 + u16::try_from(random.below(200)).unwrap_or_default();
            NetworkPort::Range(Protocol::Tcp, PortRange::single(port))
        }
    };
    let ports = (0..=random.below(2)).map(|_| port(random)).collect();
    NetworkRule {
        peers: Some(peers),
        ports: Some(ports),
        at: None,
    }
}

fn network_peer(
    index: u32,
    namespace: u32,
    namespaces: u32,
    kind: Kind,
    random: &mut Random,
) -> NetworkPeer {
    if kind == Kind::DistinctBlocks {
        let [_, a, b, c] = index.wrapping_mul(2_654_435_761).to_be_bytes();
        let block = |length| {
            Ipv4Net::new(Ipv4Addr::new(a, b, c, 0), length).map(|net| IpNet::V4(net.trunc()))
        };
        if let (Ok(cidr), Ok(inner)) = (block(16), block(24)) {
            return NetworkPeer::IpBlock(IpBlock {
                cidr,
                except: vec![inner],
            });
        }
    }
    if kind == Kind::DistinctLabels {
        let identity = random.below(namespaces * PODS_PER_NAMESPACE);
        return NetworkPeer::Pods {
            namespaces: Some(Selector::default()),
            pods: equals("identity", &format!("id-{identity}")),
        };
    }
    if kind == Kind::Crowd && random.below(2) == 0 {
        return NetworkPeer::Pods {
            namespaces: Some(Selector::default()),
            pods: equals("crowd", "yes"),
        };
    }
    match random.below(10) {
        0 => NetworkPeer::Pods {
            namespaces: Some(equals("team", &format!("team-{}", random.below(25)))),
            pods: Selector::default(),
        },
        1 => NetworkPeer::Pods {
            namespaces: Some(equals(
                crate::snapshot::NAMESPACE_NAME_LABEL,
                &namespace_name((namespace + 1 + random.below(5)) % namespaces),
            )),
            pods: app(random.below(WORKLOADS)),
        },
        2 => {
            let third = u8::try_from(random.below(256)).unwrap_or_default();
            let net = Ipv4Net::new(Ipv4Addr::new(203, 0, third, 0), 24).unwrap_or_default();
            NetworkPeer::IpBlock(IpBlock {
                cidr: IpNet::V4(net),
                except: Vec::new(),
            })
        }
        3 => NetworkPeer::Pods {
            namespaces: None,
            pods: equals("tier", "web"),
        },
        _ => NetworkPeer::Pods {
            namespaces: None,
            pods: app(random.below(WORKLOADS)),
        },
    }
}

fn admin_policy(index: u32, random: &mut Random) -> AdminPolicy {
    let team = format!("team-{}", random.below(25));
    let rule = |action, peer| AdminRule {
        name: None,
        action,
        closed: None,
        peers: vec![peer],
        ports: Some(vec![AdminPort::Range(Protocol::Tcp, 8080..=8090)]),
        at: None,
    };
    let pods = |namespaces, pods| AdminPeer::Pods { namespaces, pods };
    AdminPolicy {
        kind: AdminKind::Cluster,
        name: format!("guard-{index:04}").into(),
        tier: if index.is_multiple_of(2) {
            Tier::Admin
        } else {
            Tier::Baseline
        },
        priority: Priority(i32::try_from(index % 1000).unwrap_or_default()),
        subject: Subject::Pods {
            namespaces: equals("team", &team),
            pods: Selector::default(),
        },
        ingress: vec![
            rule(
                Action::Pass,
                pods(equals("team", &team), Selector::default()),
            ),
            rule(
                Action::Deny,
                pods(equals("env", "dev"), Selector::default()),
            ),
        ],
        egress: vec![rule(Action::Allow, AdminPeer::Nodes(equals("zone", "a")))],
        audited: false,
        generation: 1,
        at: None,
    }
}

fn app(workload: u32) -> Selector {
    equals("app", &format!("app-{workload}"))
}

fn equals(key: &str, value: &str) -> Selector {
    Selector::new(vec![Requirement {
        key: key.into(),
        operator: Operator::In,
        values: vec![value.into()],
    }])
}

/// A 64-bit linear congruential generator: equal on every platform, good enough to spread labels.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let high = self.0 >> 33;
        u32::try_from(high % u64::from(bound.max(1))).unwrap_or_default()
    }
}
