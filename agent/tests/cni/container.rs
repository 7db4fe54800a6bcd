// SPDX-License-Identifier: Apache-2.0
//! A node that is itself a container keeps its own way out: there, the uplink is one end of a pair that
//! leads to a namespace which nobody on the node can see, exactly as a pod's interface does.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    process::Command,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use agent::{
    args::DatapathArgs,
    demo::{plan::Transport, servers::Servers},
    engine::{self, Age, Datapath, Desired},
    kubernetes::{self, Config, Running},
    metrics::Metrics,
    net::{Netlink, Netns, Route},
    run::kernel,
    status::writer::Pace,
    watch,
};
use anyhow::Result;
use kube::Client;
use policy_compiler::snapshot;
use tokio::{runtime::Builder, sync::oneshot};

use crate::node::{Node, answers, comes_to_answer};

const WORLD: &str = "192.0.2.1";
const OWN: &str = "192.0.2.41";

/// The node's `eth0`, and the world at its other end.
pub(crate) fn connect(node: &Node) -> (u32, Netns) {
    let world = node.outside("world");
    let [inside, outside] = [&node.netns, &world].map(|netns| Netlink::open(netns).unwrap());
    inside.add_veth("eth0", "n1", &world).unwrap();
    let eth0 = inside.link_named("eth0").unwrap().unwrap().index;
    let n1 = outside.link_named("n1").unwrap().unwrap().index;
    outside
        .add_address(n1, format!("{WORLD}/24").parse().unwrap())
        .unwrap();
    outside.set_up(n1).unwrap();
    inside.set_up(eth0).unwrap();
    (eth0, world)
}

#[test]
fn by_its_address_or_by_a_default_route() {
    let Some(node) = Node::new("uplink") else {
        return;
    };
    let (eth0, _world) = connect(&node);
    let is_pods = |addresses: &[&str]| node.find(addresses).pods.contains_key(&eth0);
    assert!(
        is_pods(&[OWN]),
        "a pair to somebody unknown, without an address"
    );
    let links = Netlink::open(&node.netns).unwrap();
    links
        .add_address(eth0, "192.0.2.41/24".parse().unwrap())
        .unwrap();
    assert!(is_pods(&[]), "an address that nobody called the node's");
    assert!(!is_pods(&[OWN]), "the node's own address");
    assert!(node.find(&[OWN]).uplinks.contains(&eth0));
    links
        .add_route(Route {
            to: "0.0.0.0/0".parse().unwrap(),
            via: Some(WORLD.parse().unwrap()),
            device: eth0,
            source: None,
        })
        .unwrap();
    assert!(!is_pods(&[]), "a default route");
}

#[test]
fn a_successor_that_knows_better_opens_it() {
    let Some(node) = Node::new("successor") else {
        return;
    };
    let (eth0, world) = connect(&node);
    let servers = Servers::start().unwrap();
    let there: IpAddr = WORLD.parse().unwrap();
    let served = BTreeSet::from([Transport::Tcp(80)]);
    servers.add(&world, there, &served).unwrap();
    let links = Netlink::open(&node.netns).unwrap();
    links
        .add_address(eth0, "192.0.2.41/24".parse().unwrap())
        .unwrap();
    assert!(comes_to_answer(&node.netns, there, 80), "before any agent");
    let datapath = DatapathArgs {
        bpffs: node.bpffs(),
        events_per_second: 0,
        ..DatapathArgs::default()
    };
    let running = start(&node, &[], kernel(&datapath));
    assert!(!answers(&node.netns, there, 80), "taken for a pod's");
    drop(running);
    assert!(
        !answers(&node.netns, there, 80),
        "an agent's end changes nothing"
    );
    let _running = start(&node, &[OWN], kernel(&datapath));
    assert!(
        comes_to_answer(&node.netns, there, 80),
        "known as the node's"
    );
}

#[test]
fn it_is_not_closed_when_the_link_changes() {
    let Some(node) = Node::new("flap") else {
        return;
    };
    let (eth0, _world) = connect(&node);
    let links = Netlink::open(&node.netns).unwrap();
    links
        .add_address(eth0, "192.0.2.41/24".parse().unwrap())
        .unwrap();
    let attached = Attached::default();
    let told = attached.clone();
    let _running = start(&node, &[OWN], move || Ok(told));
    for state in ["down", "up", "down", "up"] {
        let ip = || {
            Command::new("ip")
                .args(["link", "set", "eth0", state])
                .status()
        };
        assert!(node.netns.run(ip).unwrap().success());
    }
    // Changes are told in order: whoever has seen this one has seen the others.
    links.add_veth("pod", "eth0", &node.outside("pod")).unwrap();
    let pod = links.link_named("pod").unwrap().unwrap().index;
    let deadline = Instant::now() + Duration::from_secs(30);
    while !attached.0.lock().unwrap().contains(&pod) {
        assert!(
            Instant::now() < deadline,
            "the new interface was not closed"
        );
        thread::sleep(Duration::from_millis(5));
    }
    assert!(!attached.0.lock().unwrap().contains(&eth0));
}

/// Every interface that was ever attached to.
#[derive(Clone, Default)]
struct Attached(Arc<Mutex<BTreeSet<u32>>>);

impl Datapath for Attached {
    fn attach(&mut self, ifindex: u32, _: Age) -> Result<()> {
        self.0.lock().unwrap().insert(ifindex);
        Ok(())
    }

    fn detach(&mut self, _: u32) -> Result<()> {
        Ok(())
    }

    fn publish(&mut self, _: &Desired<'_>) -> Result<()> {
        Ok(())
    }
}

/// An agent of the node that knows `addresses` as the node's; there is no API server to tell it more.
pub(crate) fn start<D: Datapath + 'static>(
    node: &Node,
    addresses: &[&str],
    datapath: impl FnOnce() -> Result<D> + Send + 'static,
) -> Agent {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    let (stop, stopped) = oneshot::channel::<()>();
    thread::spawn(move || runtime.block_on(stopped));
    let running = handle.block_on(async {
        let nowhere = kube::Config::new("http://127.0.0.1:9".parse().unwrap());
        let client = Client::try_from(nowhere).unwrap();
        kubernetes::start(&config(node, addresses), &client, &node.netns, datapath).unwrap()
    });
    Agent {
        running,
        _stop: stop,
    }
}

/// An agent that stops when dropped.
pub(crate) struct Agent {
    running: Running,
    _stop: oneshot::Sender<()>,
}

impl Agent {
    pub(crate) fn unready(&self) -> Arc<Vec<String>> {
        self.running.health.unready()
    }

    pub(crate) fn metrics(&self) -> Metrics {
        self.running.metrics.clone()
    }
}

fn config(node: &Node, addresses: &[&str]) -> Config {
    Config {
        node: "n1".to_owned(),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        namespace: "netpol-system".to_owned(),
        bundle: Some(node.bundle()),
        names: None,
        listen: None,
        debug_socket: None,
        cni_socket: Some(node.socket()),
        places: node.places(),
        watch: watch::Settings::default(),
        options: snapshot::Options::default(),
        settings: engine::Settings::default(),
        pace: Pace::default(),
        lease: Duration::from_secs(3),
    }
}
