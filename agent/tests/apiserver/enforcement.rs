// SPDX-License-Identifier: Apache-2.0
//! From an object in the API to a packet on the wire.

use std::{collections::BTreeSet, fs, net::IpAddr, path::PathBuf, thread};

use agent::{
    args::DatapathArgs,
    demo::{
        Root,
        plan::{Probe, Transport},
        probe::{Measured, PATIENCE, measure},
        servers::Servers,
        topology::Topology,
    },
    folder,
    kubernetes::{self, Running},
    net::Netns,
    run::kernel,
};
use policy_compiler::model::PodKey;
use serde_json::json;

use crate::{
    cluster::{Cluster, deny_from, eventually, network_policy},
    control_plane::ControlPlane,
    node::{Node, blocking},
    watches::ready,
};

/// Two pods of one node, as a folder would have them; the API server is told the same.
const SHOP: &str = "
apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDR: 10.41.1.0/24, podCIDRs: [10.41.1.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.41}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
spec: {nodeName: n1, containers: [{name: c, image: x}]}
status: {phase: Running, podIPs: [{ip: 10.41.1.10}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: api, labels: {app: api}}
spec: {nodeName: n1, containers: [{name: c, image: x}]}
status: {phase: Running, podIPs: [{ip: 10.41.1.11}]}
";

const WEB: &str = "10.41.1.10";
const API: &str = "10.41.1.11";

/// Namespaces, servers and BPF file system of one node.
struct Shop {
    _servers: Servers,
    topology: Topology,
    bpffs: PathBuf,
    root: Root,
}

impl Shop {
    fn build() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("shop.yaml"), SHOP).unwrap();
        let snapshot = folder::load(folder.path()).unwrap().snapshot;
        let path = format!("/run/netpol-apiserver-{}", std::process::id());
        let root = Root::claim(&PathBuf::from(path)).unwrap();
        let topology = Topology::build(&root, &snapshot, &BTreeSet::new()).unwrap();
        let servers = Servers::start().unwrap();
        let served = BTreeSet::from([Transport::Tcp(80)]);
        for (pod, namespace) in &topology.pods {
            let address = snapshot.pods[pod].addresses[0];
            servers.add(namespace, address, &served).unwrap();
        }
        Self {
            _servers: servers,
            topology,
            bpffs: root.bpf("n1").unwrap(),
            root,
        }
    }

    /// Starts an agent on the node, with programs in the kernel.
    fn start(&self, keeper: &Node, plane: &ControlPlane) -> Running {
        let mut config = keeper.config();
        config.places.pinned = vec![self.root.dir(Root::PODS)];
        let datapath = DatapathArgs {
            bpffs: self.bpffs.clone(),
            events_per_second: 0,
            ..DatapathArgs::default()
        };
        let host: &Netns = &self.topology.nodes["n1"];
        kubernetes::start(&config, &plane.client(), host, kernel(&datapath)).unwrap()
    }

    /// Whether `api` answers `web`.
    fn passes(&self) -> bool {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let probe = Probe {
            source: 0,
            destination: 1,
            from: address(WEB),
            to: address(API),
            transport: Transport::Tcp(80),
        };
        let namespace = &self.topology.pods[&PodKey::new("shop", "web")];
        let measured = thread::scope(|scope| {
            let probing = scope.spawn(|| measure(namespace, &[probe], &PATIENCE).unwrap());
            probing.join().unwrap()
        });
        match &measured[0] {
            Measured::Allow => true,
            Measured::Deny => false,
            Measured::Broken(why) => panic!("the probe failed: {why}"),
        }
    }

    async fn becomes(&self, passes: bool, why: &str) {
        eventually(why, async || (self.passes() == passes).then_some(())).await;
    }
}

#[tokio::test]
async fn objects_decide_what_happens_to_packets() {
    let Some(mut plane) = ControlPlane::start().await else {
        return;
    };
    let cluster = Cluster::new(plane.client());
    cluster.namespace("shop", &json!({})).await;
    cluster.node("n1", "192.0.2.41").await;
    cluster.pod("shop", "web", "n1", WEB).await;
    cluster.pod("shop", "api", "n1", API).await;
    let shop = blocking(Shop::build);
    assert!(shop.passes(), "before any agent");

    let keeper = Node::new("n1");
    let running = shop.start(&keeper, &plane);
    ready(&running).await;
    shop.becomes(true, "no policy").await;
    cluster.apply(&network_policy("shop", "api", &[])).await;
    shop.becomes(false, "api is isolated").await;
    cluster
        .apply(&network_policy("shop", "api", &["web"]))
        .await;
    shop.becomes(true, "web is admitted").await;
    if cluster.install_policy_crds("experimental").await {
        let guard = deny_from("guard", 10, "web");
        cluster.apply(&guard).await;
        shop.becomes(false, "an administrator denies").await;
        cluster.delete(&guard).await;
        shop.becomes(true, "the denial is gone").await;
    }

    // Without agent and API server the kernel goes on, and the next agent takes over as it is.
    cluster.apply(&network_policy("shop", "api", &[])).await;
    shop.becomes(false, "api is isolated again").await;
    running.stop().await;
    assert!(!shop.passes(), "the agent is gone");
    plane.stop_apiserver();
    let running = shop.start(&keeper, &plane);
    assert!(!shop.passes(), "the API server is gone, too");
    plane.start_apiserver().await;
    ready(&running).await;
    assert!(!shop.passes(), "everybody is back");
    cluster.delete(&network_policy("shop", "api", &[])).await;
    shop.becomes(true, "no policy again").await;
    running.stop().await;
}
