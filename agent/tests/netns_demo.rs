// SPDX-License-Identifier: Apache-2.0
//! The demo tells an enforced cluster from one that is not. Needs root.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{net::IpAddr, path::PathBuf};

use agent::{
    demo::{self, Root},
    net::Netns,
};
use policy_compiler::{
    Snapshot,
    model::{
        ContainerPort, Labels, NetworkPolicy, Node, Phase, Pod, PodKey, Protocol, Selection,
        Selector,
    },
};

/// Two nodes with two pods each, both families.
fn cluster() -> Snapshot {
    let mut snapshot = Snapshot::default();
    for node in 1..=2 {
        let name = format!("n{node}");
        snapshot.insert_node(Node {
            name: name.as_str().into(),
            labels: Labels::default(),
            addresses: addresses(&[format!("172.30.0.{node}"), format!("fd00:30::{node}")]),
            pod_cidrs: vec![format!("10.30.{node}.0/24").parse().unwrap()],
        });
        for pod in ["a", "b"] {
            let host = if pod == "a" { 10 } else { 11 };
            snapshot.insert_pod(Pod {
                key: PodKey::new("t", &format!("{pod}{node}")),
                uid: "".into(),
                labels: [("app", pod)].into_iter().collect(),
                node: Some(name.as_str().into()),
                addresses: addresses(&[
                    format!("10.30.{node}.{host}"),
                    format!("fd00:30:{node}::{host}"),
                ]),
                host_network: false,
                phase: Phase::Running,
                ports: vec![ContainerPort {
                    name: Some("web".into()),
                    protocol: Protocol::Tcp,
                    number: 8080,
                }],
                created: None,
                owner: None,
                at: None,
            });
        }
    }
    snapshot
}

fn addresses(text: &[String]) -> Vec<IpAddr> {
    text.iter().map(|text| text.parse().unwrap()).collect()
}

fn root(name: &str) -> (Root, PathBuf) {
    let path = PathBuf::from(format!("/run/netpol-test-{}-{name}", std::process::id()));
    (Root::claim(&path).unwrap(), path)
}

#[test]
fn nothing_is_dropped_where_nobody_enforces() {
    let (root, path) = root("open");
    let snapshot = cluster();
    let matrix = demo::run(&root, &snapshot, |_| Ok(())).unwrap();
    let differing: Vec<_> = matrix.differing().collect();
    assert!(differing.is_empty(), "{differing:?}");
    for group in [matrix.by_protocol(), matrix.by_family(), matrix.by_ends()] {
        for (name, count) in group {
            assert!(count.allowed > 0, "nothing measured for {name}");
            assert_eq!(count.denied, 0);
        }
    }
    assert_eq!(matrix.by_protocol().len(), 4);
    assert_eq!(matrix.by_family().len(), 2);
    assert_eq!(matrix.by_ends().len(), 5);
    drop(root);
    assert!(!path.exists());
}

#[test]
fn a_policy_that_nobody_enforces_shows() {
    let (root, _) = root("unenforced");
    let mut snapshot = cluster();
    snapshot.insert_network_policy(NetworkPolicy {
        namespace: "t".into(),
        name: "closed".into(),
        pod_selector: Selection::Matching(Selector::default()),
        ingress: Some(Vec::new()),
        egress: None,
        generation: 0,
        at: None,
    });
    let matrix = demo::run(&root, &snapshot, |_| Ok(())).unwrap();
    // Every pod is closed to all but its own node.
    let ends = matrix.by_ends();
    assert_eq!(ends["pod to pod"].differing, ends["pod to pod"].allowed);
    assert_eq!(ends["pod to outside"].differing, 0);
    let text = demo::render::text(&matrix, false);
    assert!(
        text.contains("isolated by NetworkPolicy t/closed"),
        "{text}"
    );
    let json = demo::render::json(&matrix);
    assert!(json["differing"].as_u64().unwrap() > 0);
}

#[test]
fn what_a_killed_demo_left_is_removed() {
    let path = PathBuf::from(format!("/run/netpol-test-{}-killed", std::process::id()));
    let pods = path.join(Root::PODS);
    Netns::create(&pods, "t_left").unwrap();
    std::fs::write(pods.join("t_half"), "").unwrap();
    let root = Root::claim(&path).unwrap();
    assert!(!pods.exists());
    assert!(
        Root::claim(&path).is_err(),
        "two demos must not share a folder"
    );
    let bpf = root.bpf("n1").unwrap();
    assert!(bpf.exists());
    drop(root);
    assert!(!path.exists());
}
