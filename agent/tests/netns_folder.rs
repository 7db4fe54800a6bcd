// SPDX-License-Identifier: Apache-2.0
//! A folder is followed: edits, broken edits, pods that come and go. Needs root.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{fs, path::PathBuf, time::Duration};

use agent::{
    engine::{PodState, Recording},
    folder::{self, Options, Running, Status, pod_file},
    net::{Netlink, Netns},
};
use policy_compiler::model::PodKey;

const LIMIT: Duration = Duration::from_secs(20);

/// A node without pods and a folder about it; everything goes with it.
struct Node {
    dir: tempfile::TempDir,
    node: Netns,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("manifests")).unwrap();
        let node = Netns::create(&dir.path().join("nodes"), "n1").unwrap();
        Self { dir, node }
    }

    fn netns_dir(&self) -> PathBuf {
        self.dir.path().join("pods")
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.dir.path().join("manifests").join(file), text).unwrap();
    }

    fn start(&self) -> Running {
        let options = Options {
            dir: self.dir.path().join("manifests"),
            node: "n1".to_owned(),
            netns_dir: self.netns_dir(),
            local_node_egress: false,
            service_cidrs: Vec::new(),
            settings: agent::engine::Settings::default(),
            state_dir: None,
            cni_socket: None,
        };
        folder::start(&self.node, options, || Ok(Recording::default())).unwrap()
    }

    /// Makes a pod's namespace and its interface.
    fn add_pod(&self, pod: &PodKey, interface: &str) {
        let namespace = Netns::create(&self.netns_dir(), &pod_file(pod)).unwrap();
        let links = Netlink::open(&self.node).unwrap();
        links.add_veth(interface, "eth0", &namespace).unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = Netns::remove(&self.dir.path().join("nodes"), "n1");
        for entry in fs::read_dir(self.netns_dir()).into_iter().flatten() {
            let name = entry.unwrap().file_name();
            let _ = Netns::remove(&self.netns_dir(), &name.to_string_lossy());
        }
    }
}

#[track_caller]
fn wait(running: &Running, wanted: impl Fn(&Status) -> bool) -> Status {
    running
        .wait(LIMIT, wanted)
        .unwrap_or_else(|status| panic!("never became true: {status:?}"))
}

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {namespace: t, name: web}
spec: {nodeName: n1, containers: [{name: c, image: x}]}
status: {phase: Running, podIPs: [{ip: 10.1.0.1}]}
";

const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: t, name: closed}
spec: {podSelector: {}, policyTypes: [Ingress]}
";

#[test]
fn edits_take_effect_and_broken_ones_do_not() {
    let node = Node::new();
    node.write("pod.yaml", POD);
    let running = node.start();
    let first = wait(&running, |status| status.engine.generation == 1);
    assert_eq!(first.problems, [""; 0]);

    node.write("policy.yaml", POLICY);
    wait(&running, |status| status.engine.generation == 2);

    // `podSelektor` on line 5 is a typo that would widen the policy to everything.
    node.write(
        "policy.yaml",
        &POLICY.replace("{podSelector", "\n  {podSelektor"),
    );
    let broken = wait(&running, |status| !status.problems.is_empty());
    assert_eq!(broken.engine.generation, 2, "the good tables stay");
    let expected = format!(
        "{}:6:4: ",
        node.dir.path().join("manifests/policy.yaml").display()
    );
    assert!(
        broken.problems[0].starts_with(&expected),
        "{:?} does not start with {expected}",
        broken.problems
    );

    node.write("policy.yaml", "not: [closed");
    let worse = wait(&running, |status| status.problems != broken.problems);
    assert_eq!(worse.engine.generation, 2);
    assert!(worse.problems[0].contains("policy.yaml:1:"), "{worse:?}");

    fs::remove_file(node.dir.path().join("manifests/policy.yaml")).unwrap();
    let fixed = wait(&running, |status| status.engine.generation == 3);
    assert!(fixed.problems.is_empty());
}

#[test]
fn pods_are_found_by_their_namespace_file() {
    let node = Node::new();
    node.write("pod.yaml", POD);
    let running = node.start();
    let web = PodKey::new("t", "web");
    let waiting = wait(&running, |status| status.engine.generation == 1);
    assert_eq!(waiting.engine.pods[&web], PodState::Waiting);
    assert!(!waiting.is_settled());

    node.add_pod(&web, "x1");
    wait(&running, Status::is_settled);

    let links = Netlink::open(&node.node).unwrap();
    let index = links.link_named("x1").unwrap().unwrap().index;
    links.delete_link(index).unwrap();
    wait(&running, |status| {
        status.engine.pods[&web] == PodState::Waiting
    });
}

#[test]
fn an_annotation_names_another_namespace_file() {
    let node = Node::new();
    let elsewhere = node.dir.path().join("pods/special");
    let namespace = Netns::create(&node.netns_dir(), "special").unwrap();
    Netlink::open(&node.node)
        .unwrap()
        .add_veth("x2", "net1", &namespace)
        .unwrap();
    let annotation = format!(
        "name: web, annotations: {{netpol.dev/netns: {}}}",
        elsewhere.display()
    );
    node.write("pod.yaml", &POD.replace("name: web", &annotation));
    let running = node.start();
    wait(&running, Status::is_settled);
}

#[test]
fn a_pod_without_a_host_side_is_reported() {
    let node = Node::new();
    node.write("pod.yaml", POD);
    let web = PodKey::new("t", "web");
    let namespace = Netns::create(&node.netns_dir(), &pod_file(&web)).unwrap();
    // A bridge inside the pod leads nowhere.
    Netlink::open(&namespace)
        .unwrap()
        .add_bridge("br0")
        .unwrap();
    let running = node.start();
    let status = wait(&running, |status| status.engine.generation == 1);
    let PodState::Unreachable(why) = &status.engine.pods[&web] else {
        panic!("{status:?}");
    };
    assert!(why.contains("br0"), "{why}");
}
