// SPDX-License-Identifier: Apache-2.0
//! Pods that send from their first instruction on, made by real plugins: scenario 3.
//!
//! Each pod's process begins when the last plugin has returned, as a runtime lets it begin, and sends as
//! fast as it can: to the world, to its node and to a pod beside it. Under a policy that lets nothing out
//! nobody may hear any of them; when the policy is gone, everybody has to hear all of them.
//!
//! `NETPOL_CNI_PODS` is the number of pods, `NETPOL_CNI_STARTERS` how many start at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use agent::{
    args::{Attach, DatapathArgs},
    folder::Status,
    net::{Netlink, Netns, Route},
};
use serde_json::{Value, json};

use crate::{
    hold::{agent, datapath, pods},
    node::{NODE, Node, address_in},
};

/// Where the receivers listen; nobody else does.
const PORT: u16 = 9999;
/// Somebody outside of the node.
const WORLD: &str = "192.0.2.1";
/// How long a pod goes on at full speed.
const EAGER: Duration = Duration::from_millis(20);
/// How long anything may take that has to happen.
const LIMIT: Duration = Duration::from_mins(1);

const CLOSED: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: closed}
spec: {podSelector: {matchLabels: {app: new}}, policyTypes: [Ingress, Egress]}
";

/// What the processes in the pods are told, and how often they sent.
#[derive(Default)]
struct Orders {
    stop: AtomicBool,
    sent: AtomicU64,
}

/// Ends the processes even where a check fails, or nobody would see it.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A pod's process: sends its number everywhere, without a pause at first.
fn begin(namespace: &Netns, number: u16, to: &[SocketAddr], pause: Duration, orders: &Orders) {
    namespace.enter().unwrap();
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.set_nonblocking(true).unwrap();
    let start = Instant::now();
    while !orders.stop.load(Ordering::Relaxed) {
        for address in to {
            if socket.send_to(&number.to_be_bytes(), address).is_ok() {
                orders.sent.fetch_add(1, Ordering::Relaxed);
            }
        }
        if start.elapsed() > EAGER {
            thread::sleep(pause);
        }
    }
}

/// Sockets that hear what gets through.
struct Ears(Vec<(&'static str, UdpSocket)>);

impl Ears {
    fn open(places: [(&'static str, &Netns); 3]) -> Self {
        let open = |(who, namespace): (&'static str, &Netns)| {
            let socket = namespace.run(|| {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            });
            (who, socket.unwrap())
        };
        Self(places.into_iter().map(open).collect())
    }

    /// Who heard which pod since the last call.
    fn heard(&self) -> BTreeSet<(&'static str, u16)> {
        let mut heard = BTreeSet::new();
        for (who, socket) in &self.0 {
            let mut number = [0; 2];
            while socket.recv_from(&mut number).is_ok() {
                heard.insert((*who, u16::from_be_bytes(number)));
            }
        }
        heard
    }
}

/// The node's way out, and the world at its end.
fn connect(node: &Node, block: &str) -> Netns {
    let world = node.outside("world");
    let [near, far] = [&node.netns, &world].map(|netns| Netlink::open(netns).unwrap());
    near.add_veth("up0", "eth0", &world).unwrap();
    let up0 = near.link_named("up0").unwrap().unwrap().index;
    let eth0 = far.link_named("eth0").unwrap().unwrap().index;
    near.add_address(up0, format!("{NODE}/24").parse().unwrap())
        .unwrap();
    far.add_address(eth0, format!("{WORLD}/24").parse().unwrap())
        .unwrap();
    near.set_up(up0).unwrap();
    far.set_up(eth0).unwrap();
    far.add_route(Route {
        to: block.parse().unwrap(),
        via: Some(NODE.parse().unwrap()),
        device: eth0,
        source: None,
    })
    .unwrap();
    world
}

fn name(number: u16) -> String {
    format!("new{number}")
}

/// The node, and its new pods with the addresses that are known.
fn manifests(count: u16, addresses: &BTreeMap<u16, IpAddr>) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: n1}}\n\
         status: {{addresses: [{{type: InternalIP, address: {NODE}}}]}}\n---\n"
    );
    text.extend((1..=count).map(|number| {
        let status = addresses.get(&number).map_or_else(
            || "{phase: Pending}".to_owned(),
            |address| format!("{{phase: Running, podIPs: [{{ip: {address}}}]}}"),
        );
        format!(
            "apiVersion: v1\nkind: Pod\n\
             metadata: {{namespace: shop, name: {}, labels: {{app: new}}}}\n\
             spec: {{nodeName: n1, containers: [{{name: c, image: x}}]}}\n\
             status: {status}\n---\n",
            name(number)
        )
    }));
    text
}

/// Starts pods of `plugin` under a policy that lets nothing out, then takes the policy away.
fn run(mut node: Node, plugin: &Value, block: &str, how: &DatapathArgs, default: u16) {
    let count = number_from("NETPOL_CNI_PODS", default);
    let world = connect(&node, block);
    let hold = node.plugin(&json!({"timeoutSeconds": 60}));
    let chain = [plugin.clone(), hold];
    let folder = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| fs::write(folder.path().join(file), text).unwrap();
    write("policies.yaml", CLOSED);
    write("ear.yaml", &pods(&["ear"]));
    let agent = agent(&node, &folder, how);
    node.add_pod("ear", &chain);
    let ear = node.address("ear");
    write("pods.yaml", &manifests(count, &BTreeMap::new()));

    let ears = Ears::open([
        ("world", &world),
        ("node", &node.netns),
        ("pod", node.pod("ear")),
    ]);
    let to = [WORLD.parse().unwrap(), NODE.parse().unwrap(), ear];
    let to = to.map(|address: IpAddr| SocketAddr::new(address, PORT));
    let orders = Orders::default();
    let next = AtomicUsize::new(1);
    let addresses = Mutex::new(BTreeMap::new());
    // Together about a thousand rounds a second once all have begun.
    let pause = Duration::from_millis(count.into());
    let started = Instant::now();
    thread::scope(|scope| {
        let stop = StopOnDrop(&orders.stop);
        let start_some = || loop {
            let number = u16::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap();
            if number > count {
                return;
            }
            let namespace = node.sandbox(&name(number));
            let result = node.chain(&name(number), &chain).unwrap();
            let (to, orders) = (&to, &orders);
            scope.spawn(move || begin(&namespace, number, to, pause, orders));
            addresses
                .lock()
                .unwrap()
                .insert(number, address_in(&result));
        };
        let starters = number_from("NETPOL_CNI_STARTERS", 4);
        let starters: Vec<_> = (0..starters).map(|_| scope.spawn(start_some)).collect();
        for starter in starters {
            starter.join().unwrap();
        }
        let took = started.elapsed();
        thread::sleep(EAGER * 2);
        let sent = orders.sent.load(Ordering::Relaxed);
        println!("{count} pods began within {took:.1?} and sent {sent} packets");
        assert!(sent > u64::from(count));
        assert_eq!(ears.heard(), BTreeSet::new(), "of {sent} packets");

        // The addresses that the plugins gave them become known, and change nothing.
        let addresses = addresses.lock().unwrap();
        let reads = agent.status().reads;
        write("pods.yaml", &manifests(count, &addresses));
        let settled = agent.wait(LIMIT, |status| status.reads > reads && status.is_settled());
        settled.unwrap_or_else(|status| panic!("never settled: {status:?}"));
        thread::sleep(pause * 2);
        assert_eq!(ears.heard(), BTreeSet::new());

        fs::remove_file(folder.path().join("policies.yaml")).unwrap();
        let mut heard = BTreeSet::new();
        let start = Instant::now();
        while heard.len() < usize::from(count) * to.len() {
            let few = heard.len();
            assert!(start.elapsed() < LIMIT, "only {few} were heard");
            heard.extend(ears.heard());
            thread::sleep(Duration::from_millis(10));
        }
        drop(stop);
    });
    let enforced = agent.wait(LIMIT, Status::is_settled);
    enforced.unwrap_or_else(|status| panic!("never settled: {status:?}"));
}

/// The number in a variable of the environment.
fn number_from(variable: &str, default: u16) -> u16 {
    let wanted = env::var(variable).ok();
    wanted.map_or(default, |wanted| wanted.parse().unwrap())
}

fn ptp(node: &Node, block: &str) -> Value {
    json!({"type": "ptp", "ipMasq": false, "ipam": node.ipam(block)})
}

#[test]
fn s03_pods_of_ptp_begin_closed() {
    let Some(node) = Node::new("s03ptp") else {
        return;
    };
    let (block, how) = ("10.48.0.0/20", datapath(&node));
    let plugin = ptp(&node, block);
    run(node, &plugin, block, &how, 60);
}

#[test]
fn s03_pods_of_a_bridge_begin_closed() {
    let Some(node) = Node::new("s03bridge") else {
        return;
    };
    let (block, how) = ("10.48.16.0/20", datapath(&node));
    let ipam = node.ipam(block);
    let plugin = json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": ipam});
    run(node, &plugin, block, &how, 60);
}

#[test]
fn s03_pods_begin_closed_with_clsact() {
    let Some(node) = Node::new("s03clsact") else {
        return;
    };
    let (block, how) = ("10.48.32.0/20", datapath(&node));
    let how = DatapathArgs {
        attach: Attach::Clsact,
        ..how
    };
    let plugin = ptp(&node, block);
    run(node, &plugin, block, &how, 20);
}
