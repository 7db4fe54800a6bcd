// SPDX-License-Identifier: Apache-2.0
//! The demo tells an enforced cluster from one that is not. Needs root.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

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
                ports: [ContainerPort {
                    name: Some("web".into()),
                    protocol: Protocol::Tcp,
                    number: 8080,
                    host_port: 0,
                    host_address: None,
                }]
                .into(),
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
        audited: false,
        generation: 0,
        at: None,
    });
    let matrix = demo::run(&root, &snapshot, |_| Ok(())).unwrap();
    // Every pod is closed to all but its own node.
    let ends = matrix.by_ends();
    assert_eq!(ends["pod to pod"].differing, ends["pod to pod"].allowed);
    assert_eq!(ends["pod to outside"].differing, 0);
    // A packet that came through is not given a second chance to be dropped.
    assert!(matrix.differing().all(|cell| !cell.lacks_an_answer()));
    assert!(matrix.asked_again < ends["pod to pod"].differing);
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

/// The demo of the shop, below its own folder.
fn shop(root: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netpol-agent"));
    command
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .args(["demo", "--root"])
        .arg(root)
        .stdin(Stdio::null());
    command
}

fn own_root(name: &str) -> PathBuf {
    PathBuf::from(format!("/run/netpol-test-{}-{name}", std::process::id()))
}

#[test]
fn the_shop_is_as_predicted() {
    let root = own_root("shop");
    let output = shop(&root).args(["-o", "json"]).output().unwrap();
    let matrix: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(matrix["differing"], 0, "{matrix:#}");
    assert_eq!(output.status.code(), Some(0));
    for decider in [
        "NetworkPolicy",
        "AdminNetworkPolicy",
        "BaselineAdminNetworkPolicy",
        "ClusterNetworkPolicy",
        "default",
    ] {
        assert!(
            matrix["decidedBy"][decider].is_object(),
            "nothing decided by {decider}"
        );
    }
    for (group, names) in [
        ("families", &["IPv4", "IPv6"][..]),
        ("protocols", &["ICMP", "SCTP", "TCP", "UDP"]),
    ] {
        for name in names {
            for verdict in ["allowed", "denied"] {
                assert!(
                    matrix[group][name][verdict].as_u64().unwrap() > 0,
                    "{name} {verdict}"
                );
            }
        }
    }
    assert!(!root.exists());
}

#[test]
fn a_shop_that_nobody_guards_is_noticed() {
    let root = own_root("unguarded");
    let output = shop(&root).arg("--no-enforcement").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("predicted deny, measured allow"), "{text}");
    assert!(!root.exists());
}

#[test]
fn an_interrupted_demo_cleans_up_and_a_killed_one_is_cleaned_up_after() {
    let root = own_root("interrupted");
    let started = |child: &mut Child| {
        let pods = root.join(Root::PODS);
        while std::fs::read_dir(&pods).map_or(0, Iterator::count) < 3 {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    };
    let mut child = shop(&root).stdout(Stdio::null()).spawn().unwrap();
    started(&mut child);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!root.join(Root::PODS).exists());

    let mut child = shop(&root).stdout(Stdio::null()).spawn().unwrap();
    started(&mut child);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(root.join(Root::PODS).exists());
    drop(Root::claim(&root).unwrap());
    assert!(!root.exists());
}
