// SPDX-License-Identifier: Apache-2.0
//! What do tens of thousands of peers cost that policies do not tell apart?

use std::net::{IpAddr, Ipv4Addr};

use policy_compiler::{
    Snapshot,
    change::Change,
    compile::{Applied, Compiler},
    lower::{Capacity, Image, Lowered, Reasons},
    model::{Phase, Pod, PodKey},
};
use policy_ebpf_common::decide::Outcome::{self, Allowed, Denied};
use zerocopy::{Immutable, IntoBytes};

use super::{
    frames::{SYN, tcp},
    lab::{Node, UPLINK, cluster, with_node},
};

const CROWD: u32 = 35_000;
/// The first pod's address; the others follow.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 1);

/// One label admits the crowd.
const POLICY: &str = "
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: crowd, namespace: x}, spec: {podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {role: client}}}], ports: [{port: 80}]}]}}
";

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(FIRST) + number)
}

/// A pod of the crowd on another node. `own` is a label that nobody else has.
fn pod(number: u32, role: &str, own: bool) -> Pod {
    let name = format!("crowd-{number}");
    let mut labels = vec![("role", role)];
    if own {
        labels.push(("statefulset.kubernetes.io/pod-name", &name));
    }
    Pod {
        key: PodKey::new("x", &name),
        uid: name.as_str().into(),
        labels: labels.into_iter().collect(),
        node: Some("n2".into()),
        addresses: vec![IpAddr::V4(address(number))],
        host_network: false,
        phase: Phase::Running,
        ports: [].into(),
        created: None,
        owner: None,
        at: None,
    }
}

fn crowd(size: u32, own: bool) -> Snapshot {
    let mut snapshot = cluster(POLICY);
    for number in 0..size {
        snapshot.insert_pod(pod(number, "client", own));
    }
    snapshot
}

/// A node's tables that follow changes.
struct Following {
    compiler: Compiler,
    lowered: Option<Lowered>,
    reasons: Reasons,
}

impl Following {
    fn new(snapshot: Snapshot) -> Self {
        let compiler = Compiler::new(&"n1".into(), snapshot);
        let mut reasons = Reasons::default();
        let lowered = Lowered::new(compiler.tables(), &Capacity::default(), &mut reasons);
        Self {
            compiler,
            lowered: Some(lowered.expect("the tables fit")),
            reasons,
        }
    }

    fn image(&self) -> &Image {
        self.lowered.as_ref().expect("tables").image()
    }

    /// Follows a change of a pod.
    fn follow(&mut self, key: PodKey, pod: Option<Pod>) {
        let change = Change::Pod(key, pod.map(Into::into));
        let Applied::Delta(delta) = self.compiler.apply(change) else {
            panic!("the pod makes a difference to the tables, and a small one");
        };
        let lowered = self.lowered.take().expect("tables");
        self.lowered = lowered.follow(
            self.compiler.tables(),
            &delta,
            &Capacity::default(),
            &mut self.reasons,
        );
    }

    fn publish(&self, node: &mut Node) {
        node.datapath.publish(self.image()).expect("publish");
    }
}

/// Words in which two maps differ.
fn differing<T: IntoBytes + Immutable>(before: &[T], after: &[T]) -> usize {
    let (before, after) = (before.as_bytes(), after.as_bytes());
    assert_eq!(before.len(), after.len(), "the map keeps its size");
    let (before, after) = (before.chunks(4), after.chunks(4));
    before
        .zip(after)
        .filter(|(before, after)| before != after)
        .count()
}

/// Words in which two images differ.
fn writes(before: &Image, after: &Image) -> usize {
    assert_eq!(before.services, after.services);
    assert_eq!(before.endpoints, after.endpoints);
    differing(&before.trie4, &after.trie4)
        + differing(&before.trie6, &after.trie6)
        + differing(&before.hosts6, &after.hosts6)
        + differing(&before.rows, &after.rows)
        + differing(&before.uniform, &after.uniform)
        + differing(&before.port_sets, &after.port_sets)
}

/// Whether two images have the same rows and port sets, whoever their classes consist of.
fn share_rules(one: &Image, other: &Image) -> bool {
    one.rows == other.rows
        && one.row_chunks == other.row_chunks
        && one.uniform == other.uniform
        && one.port_sets == other.port_sets
}

/// What becomes of a connection from an address of the crowd.
fn probe(node: &mut Node, number: u32) -> Outcome {
    let from = address(number).to_string();
    node.to("x/a", UPLINK, &tcp(&from, 40_000, "10.0.1.1", 80, SYN))
}

#[test]
fn s68_a_crowd_with_one_label_is_one_class() {
    with_node(|node| {
        let mut following = Following::new(crowd(CROWD, false));
        let few = Following::new(crowd(2, false));
        assert!(share_rules(following.image(), few.image()));
        following.publish(node);
        for number in [0, 255, 17_000, CROWD - 1] {
            assert_eq!(probe(node, number), Allowed, "{number}");
        }
        assert_eq!(probe(node, CROWD), Denied);

        let first = following.image().clone();
        let newcomer = pod(CROWD, "client", false);
        let key = newcomer.key.clone();
        following.follow(key.clone(), Some(newcomer));
        assert_eq!(writes(&first, following.image()), 1);
        following.publish(node);
        assert_eq!(probe(node, CROWD), Allowed);

        let grown = following.image().clone();
        following.follow(key, None);
        assert_eq!(writes(&grown, following.image()), 1);
        assert_eq!(*following.image(), first);
        following.publish(node);
        assert_eq!(probe(node, CROWD), Denied);
        assert_eq!(probe(node, CROWD - 1), Allowed);
    });
}

#[test]
fn s69_labels_that_no_selector_asks_for_make_no_classes() {
    with_node(|node| {
        let following = Following::new(crowd(CROWD, true));
        let alike = Following::new(crowd(CROWD, false));
        assert_eq!(following.image(), alike.image());
        following.publish(node);
        for number in [0, 255, 17_000, CROWD - 1] {
            assert_eq!(probe(node, number), Allowed, "{number}");
        }
        assert_eq!(probe(node, CROWD), Denied);
    });
}
