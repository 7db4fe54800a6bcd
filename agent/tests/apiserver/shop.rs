// SPDX-License-Identifier: Apache-2.0
//! Two pods with servers on one node, and programs in the kernel.

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

use crate::{cluster::eventually, control_plane::ControlPlane, node::Node};

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

pub(crate) const WEB: &str = "10.41.1.10";
pub(crate) const API: &str = "10.41.1.11";

/// Namespaces, servers and BPF file system of one node.
pub(crate) struct Shop {
    _servers: Servers,
    pub(crate) topology: Topology,
    pub(crate) bpffs: PathBuf,
    pub(crate) root: Root,
}

impl Shop {
    pub(crate) fn build() -> Self {
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
    pub(crate) fn start(&self, keeper: &Node, plane: &ControlPlane) -> Running {
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
    pub(crate) fn passes(&self) -> bool {
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

    pub(crate) async fn becomes(&self, passes: bool, why: &str) {
        eventually(why, async || (self.passes() == passes).then_some(())).await;
    }
}
