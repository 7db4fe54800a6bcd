// SPDX-License-Identifier: Apache-2.0
//! A small cluster of network namespaces with real agents.
//!
//! Two nodes, two namespaces, both families:
//!
//! | pod | node | addresses |
//! |---|---|---|
//! | `x/a` | n1 | 10.40.1.10, fd00:40:1::10 |
//! | `x/b` | n1 | 10.40.1.11, fd00:40:1::11 |
//! | `y/a` | n1 | 10.40.1.12, fd00:40:1::12 |
//! | `x/c` | n2 | 10.40.2.10, fd00:40:2::10 |
//! | `y/b` | n2 | 10.40.2.11, fd00:40:2::11 |
//!
//! Labels are `app` (the pod's name) and, on `x/a` and `y/a`, `tier: web`. The container port `web` is
//! 80 on pods of namespace x and 8080 on those of y. Outside are 203.0.113.10 and 2001:db8::10.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    ops::Range,
    path::PathBuf,
    sync::atomic::{AtomicU16, AtomicU32, Ordering},
    time::{Duration, Instant},
};

use agent::{
    args::{DatapathArgs, ExplainArgs, PlaceArgs},
    datapath::Pinned,
    demo::{
        Root,
        plan::{Probe, Transport},
        probe::{Measured, PATIENCE, measure},
        servers::Servers,
        topology::{Topology, outside_addresses},
    },
    engine::Settings,
    folder::{self, Options, Running, Status},
    inspect,
    names::Names,
    net::{Netlink, Netns, Route},
    run::kernel,
};
use ipnet::IpNet;
use policy_compiler::{Snapshot, model::PodKey};
use policy_ebpf_common::abi::ENDPOINT_QUARANTINE;

pub(crate) use Transport::{Icmp, Sctp, Tcp, Udp};

/// How long anything may take that has to happen.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// What is answered everywhere.
const SERVED: [Transport; 14] = [
    Tcp(80),
    Tcp(81),
    Tcp(443),
    Tcp(7999),
    Tcp(8000),
    Tcp(8080),
    Tcp(8500),
    Tcp(9000),
    Tcp(9001),
    Tcp(10250),
    Udp(53),
    Udp(80),
    Udp(81),
    Sctp(80),
];

/// Sysctls of namespaces that answer at once.
pub(crate) const QUICK: [(&str, &str); 2] = [
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv4/ping_group_range", "0 2147483647"),
];

/// How a world is made.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The policies to start with.
    pub(crate) policies: String,
    /// Objects beside the standing ones.
    pub(crate) objects: String,
    /// Options of the datapath.
    pub(crate) datapath: DatapathArgs,
    /// `--local-node-egress=allow`.
    pub(crate) local_node_egress: bool,
    /// Nobody talked before the agents came.
    pub(crate) fresh: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            policies: String::new(),
            objects: String::new(),
            datapath: DatapathArgs {
                events_per_second: 0,
                ..DatapathArgs::default()
            },
            local_node_egress: false,
            fresh: true,
        }
    }
}

/// The cluster, enforced.
pub(crate) struct World {
    // Dropped in this order: agents before their maps, servers before their namespaces.
    pub(crate) agents: Vec<Running>,
    pub(crate) servers: Servers,
    pub(crate) topology: Topology,
    pub(crate) snapshot: Snapshot,
    pub(crate) plan: Plan,
    /// By node.
    pub(crate) bpffs: BTreeMap<String, PathBuf>,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) root: Root,
    /// Where the next [`World::new_source_ports`] begin.
    next_ports: AtomicU16,
}

/// What [`World::new_source_ports`] takes from: below the ports that the kernel chooses by itself.
const SOURCE_PORTS: Range<u16> = 10_000..32_768;
/// Source ports at a time.
const STEP: u16 = 256;

impl World {
    /// The cluster under `policies`.
    pub(crate) fn new(policies: &str) -> Self {
        Self::with(Plan {
            policies: policies.to_owned(),
            ..Plan::default()
        })
    }

    /// The cluster as planned, with every pod enforced.
    pub(crate) fn with(plan: Plan) -> Self {
        let mut world = Self::unenforced(plan);
        world.start();
        world
    }

    /// The cluster without agents.
    pub(crate) fn unenforced(plan: Plan) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/run/netpol-world-{}-{number}", std::process::id()));
        let root = Root::claim(&path).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cluster.yaml"), cluster()).unwrap();
        fs::write(dir.path().join("objects.yaml"), &plan.objects).unwrap();
        fs::write(dir.path().join("policies.yaml"), &plan.policies).unwrap();
        let snapshot = folder::load(dir.path()).unwrap().snapshot;
        let topology = Topology::build(&root, &snapshot, &outside_addresses(&snapshot)).unwrap();
        let servers = Servers::start().unwrap();
        let served = BTreeSet::from(SERVED);
        for (pod, namespace) in &topology.pods {
            for address in &snapshot.pods[pod].addresses {
                servers.add(namespace, *address, &served).unwrap();
            }
        }
        for (node, namespace) in &topology.nodes {
            for address in &snapshot.nodes[node].addresses {
                servers.add(namespace, *address, &served).unwrap();
            }
        }
        for address in &topology.outside_addresses {
            servers.add(&topology.outside, *address, &served).unwrap();
        }
        Self {
            agents: Vec::new(),
            servers,
            topology,
            snapshot,
            plan,
            bpffs: BTreeMap::new(),
            dir,
            root,
            next_ports: AtomicU16::new(SOURCE_PORTS.start),
        }
    }

    /// Starts an agent on every node and waits for it.
    pub(crate) fn start(&mut self) {
        for (node, namespace) in &self.topology.nodes {
            let bpffs = self.bpffs.entry(node.to_string());
            let bpffs = bpffs
                .or_insert_with(|| self.root.bpf(node).unwrap())
                .clone();
            let options = Options {
                dir: self.dir.path().to_owned(),
                node: node.to_string(),
                netns_dir: self.root.dir(Root::PODS),
                local_node_egress: self.plan.local_node_egress,
                service_cidrs: self.plan.datapath.service_cidr.clone(),
                settings: Settings {
                    fresh: self.plan.fresh,
                    audit: self.plan.datapath.audit,
                    ..Settings::default()
                },
                state_dir: Some(self.root.state(node)),
                cni_socket: None,
            };
            let datapath = DatapathArgs {
                bpffs,
                ..self.plan.datapath.clone()
            };
            let agent = folder::start(namespace, options, kernel(&datapath)).unwrap();
            self.agents.push(agent);
        }
        for agent in &self.agents {
            agent
                .wait(LIMIT, Status::is_settled)
                .unwrap_or_else(|status| panic!("never settled: {status:?}"));
        }
    }

    /// Stops the agents; the kernel goes on.
    pub(crate) fn stop(&mut self) {
        self.agents.clear();
    }

    /// Where the commands that need no agent find what the agent of `node` left.
    pub(crate) fn place(&self, node: &str) -> PlaceArgs {
        PlaceArgs {
            bpffs: self.bpffs[node].clone(),
            state_dir: self.root.state(node),
        }
    }

    /// What the commands say, without an agent, of a flow between two `ends`; of its first packet unless
    /// `from_port` is given. With `steps` it is what `trace` prints.
    pub(crate) fn trace(
        &self,
        node: &str,
        [source, destination]: [&str; 2],
        port: &str,
        from_port: Option<u16>,
        steps: bool,
    ) -> String {
        let args = ExplainArgs {
            source: source.to_owned(),
            destination: destination.to_owned(),
            port: port.to_owned(),
            source_port: from_port,
            place: self.place(node),
        };
        inspect::answer(&args, steps).unwrap()
    }

    /// Makes an interface on node n1 that leads into the namespace file `file`, which is made if it is
    /// not there, with these addresses. Returns the index of the node's end.
    pub(crate) fn plug(&self, file: &str, name: &str, addresses: &[IpAddr]) -> u32 {
        let dir = self.root.dir(Root::PODS);
        let namespace = Netns::open(&dir.join(file))
            .or_else(|_| Netns::create(&dir, file))
            .unwrap();
        let near = Netlink::open(&self.topology.nodes["n1"]).unwrap();
        let far = Netlink::open(&namespace).unwrap();
        for (key, value) in QUICK {
            namespace.set_sysctl(key, value).unwrap();
        }
        let addresses: Vec<IpNet> = addresses.iter().copied().map(IpNet::from).collect();
        attach_pod(&near, &far, &namespace, name, &addresses)
    }

    /// Gives a pod of node n1 a second interface with this address, reached through the node; what the
    /// pod sends goes by the first.
    pub(crate) fn plug_second(&self, file: &str, name: &str, address: IpAddr) {
        let namespace = Netns::open(&self.root.dir(Root::PODS).join(file)).unwrap();
        let near = Netlink::open(&self.topology.nodes["n1"]).unwrap();
        let far = Netlink::open(&namespace).unwrap();
        near.add_veth(name, "net1", &namespace).unwrap();
        let index = near.link_named(name).unwrap().unwrap().index;
        let inside = far.link_named("net1").unwrap().unwrap().index;
        far.add_address(inside, IpNet::from(address)).unwrap();
        near.set_up(index).unwrap();
        far.set_up(inside).unwrap();
        near.add_route(Route {
            to: IpNet::from(address),
            via: None,
            device: index,
            source: self.addresses("node:n1").first().copied(),
        })
        .unwrap();
    }

    /// Waits until `count` interfaces of a pod have left quarantine.
    #[track_caller]
    pub(crate) fn settled_with(&self, count: usize, node: &str, pod: &str) {
        let place = self.place(node);
        let start = Instant::now();
        loop {
            let names = Names::read(&place.state_dir).unwrap_or_default();
            let endpoints = Pinned::open(&place.bpffs).unwrap().endpoints();
            let enforced = endpoints.values().filter(|endpoint| {
                endpoint.flags & ENDPOINT_QUARANTINE == 0
                    && names.interface(endpoint.ifindex) == pod
            });
            if enforced.count() == count {
                return;
            }
            assert!(
                start.elapsed() < LIMIT,
                "{pod} never had {count} interfaces"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Adds the pods x/d and x/e to node n1, on a bridge, and waits until they are enforced.
    pub(crate) fn bridge_pods(&mut self) {
        let node = self.topology.nodes["n1"].clone();
        let near = Netlink::open(&node).unwrap();
        near.add_bridge("br0").unwrap();
        let bridge = near.link_named("br0").unwrap().unwrap().index;
        let gateways: [IpNet; 2] = ["10.40.1.1/24", "fd00:40:1::1/64"].map(|g| g.parse().unwrap());
        for gateway in gateways {
            near.add_address(bridge, gateway).unwrap();
        }
        near.set_up(bridge).unwrap();
        let served = BTreeSet::from(SERVED);
        let mut manifests = String::new();
        for (name, host) in [("d", 70), ("e", 71)] {
            let key = PodKey::new("x", name);
            let namespace =
                Netns::create(&self.root.dir(Root::PODS), &folder::pod_file(&key)).unwrap();
            for (key, value) in QUICK {
                namespace.set_sysctl(key, value).unwrap();
            }
            let far = Netlink::open(&namespace).unwrap();
            near.add_veth(&format!("port{host}"), "eth0", &namespace)
                .unwrap();
            let port = near
                .link_named(&format!("port{host}"))
                .unwrap()
                .unwrap()
                .index;
            near.set_controller(port, bridge).unwrap();
            let inside = far.link_named("eth0").unwrap().unwrap().index;
            let addresses: [IpNet; 2] = [
                format!("10.40.1.{host}/24").parse().unwrap(),
                format!("fd00:40:1::{host}/64").parse().unwrap(),
            ];
            for address in addresses {
                far.add_address(inside, address).unwrap();
            }
            near.set_up(port).unwrap();
            far.set_up(inside).unwrap();
            for (gateway, everything) in gateways.into_iter().zip(["0.0.0.0/0", "::/0"]) {
                far.add_route(Route {
                    to: everything.parse().unwrap(),
                    via: Some(gateway.addr()),
                    device: inside,
                    source: None,
                })
                .unwrap();
            }
            for address in addresses {
                self.servers
                    .add(&namespace, address.addr(), &served)
                    .unwrap();
            }
            self.topology.pods.insert(key, namespace);
            manifests += &pod("x", name, 1, host);
        }
        fs::write(self.dir.path().join("bridged.yaml"), manifests).unwrap();
        self.snapshot = folder::load(self.dir.path()).unwrap().snapshot;
        let key = PodKey::new("x", "e");
        self.agents[0]
            .wait(LIMIT, |status| {
                status.is_settled() && status.engine.pods.contains_key(&key)
            })
            .unwrap_or_else(|status| panic!("the bridged pods are not enforced: {status:?}"));
    }

    /// Replaces the policies and waits until they are in force.
    #[track_caller]
    pub(crate) fn edit(&self, policies: &str) {
        let before: Vec<u64> = self
            .agents
            .iter()
            .map(|agent| agent.status().reads)
            .collect();
        fs::write(self.dir.path().join("policies.yaml"), policies).unwrap();
        for (agent, reads) in self.agents.iter().zip(before) {
            // A write may wake the agent up in the middle; what counts is what it read last.
            agent
                .wait(LIMIT, |status| status.reads > reads && status.is_settled())
                .unwrap_or_else(|status| panic!("never settled: {status:?}"));
        }
    }

    /// Replaces the policies by something broken and returns what the agents say about it.
    #[track_caller]
    pub(crate) fn break_policies(&self, text: &str) -> Vec<Status> {
        fs::write(self.dir.path().join("policies.yaml"), text).unwrap();
        self.agents
            .iter()
            .map(|agent| {
                agent
                    .wait(LIMIT, |status| !status.problems.is_empty())
                    .unwrap_or_else(|status| panic!("nothing is wrong: {status:?}"))
            })
            .collect()
    }

    /// The namespace of `x/a`, `node:n1` or `outside`.
    pub(crate) fn namespace(&self, who: &str) -> &Netns {
        if let Some(node) = who.strip_prefix("node:") {
            &self.topology.nodes[node]
        } else if let Some((namespace, name)) = who.split_once('/') {
            &self.topology.pods[&PodKey::new(namespace, name)]
        } else {
            &self.topology.outside
        }
    }

    /// The addresses of `x/a`, `node:n1`, `outside` or an address, IPv4 before IPv6.
    pub(crate) fn addresses(&self, who: &str) -> Vec<IpAddr> {
        if let Ok(address) = who.parse() {
            return vec![address];
        }
        let mut addresses = if let Some(node) = who.strip_prefix("node:") {
            self.snapshot.nodes[node].addresses.clone()
        } else if let Some((namespace, name)) = who.split_once('/') {
            self.snapshot.pods[&PodKey::new(namespace, name)]
                .addresses
                .clone()
        } else {
            let mut seen = (false, false);
            let mut first = self.topology.outside_addresses.clone();
            first.retain(|address| {
                let seen = if address.is_ipv4() {
                    &mut seen.0
                } else {
                    &mut seen.1
                };
                !std::mem::replace(seen, true)
            });
            first
        };
        addresses.sort();
        addresses
    }

    /// Lets what `from` sends from now on come from ports that nobody in this world had before.
    ///
    /// Netfilter remembers where it sent a connection whose first packet got lost afterwards, and sends
    /// there again what has the same ports, without asking its rules: whoever counts what they chose, or
    /// how many of several backends are reached, must not meet such a port again.
    pub(crate) fn new_source_ports(&self, from: &str) {
        let first = self.next_ports.fetch_add(STEP, Ordering::Relaxed);
        let last = first + STEP - 1;
        assert!(SOURCE_PORTS.contains(&last), "all ports are used up");
        self.namespace(from)
            .set_sysctl("ipv4/ip_local_port_range", &format!("{first} {last}"))
            .unwrap();
    }

    /// Sends one probe per transport and per family that both have, all at once.
    pub(crate) fn measure(
        &self,
        from: &str,
        to: &str,
        transports: &[Transport],
    ) -> Vec<(Probe, Measured)> {
        let mut probes = Vec::new();
        for source in self.addresses(from) {
            for destination in self.addresses(to) {
                if source.is_ipv4() == destination.is_ipv4() {
                    probes.extend(transports.iter().map(|transport| Probe {
                        source: 0,
                        destination: 0,
                        from: source,
                        to: destination,
                        transport: *transport,
                    }));
                }
            }
        }
        assert!(
            !probes.is_empty(),
            "{from} and {to} have no family in common"
        );
        let measured = measure(self.namespace(from), &probes, &PATIENCE).unwrap();
        probes.into_iter().zip(measured).collect()
    }

    /// Every transport gets through, in every family, and the tables say so of the first.
    #[track_caller]
    pub(crate) fn allows(&self, from: &str, to: &str, transports: &[Transport]) {
        let mut explain = BTreeSet::new();
        for (probe, mut measured) in self.measure(from, to, transports) {
            // What should pass may be slow on a busy machine; what should not must never pass.
            if measured == Measured::Deny {
                let patience = [Duration::from_secs(3)];
                measured = measure(self.namespace(from), &[probe], &patience).unwrap()[0].clone();
            }
            assert_eq!(measured, Measured::Allow, "{from} -> {to}: {probe:?}");
            if !explain.insert(probe.family()) {
                continue;
            }
            let explained = self.explained(from, to, &probe);
            let denied = explained.iter().find(|text| !text.contains("  allow  "));
            assert_eq!(denied, None, "{from} -> {to}: {probe:?}");
        }
    }

    /// No transport gets through, in any family, whoever it is that drops it.
    #[track_caller]
    pub(crate) fn denied(&self, from: &str, to: &str, transports: &[Transport]) {
        for (probe, measured) in self.measure(from, to, transports) {
            assert_eq!(measured, Measured::Deny, "{from} -> {to}: {probe:?}");
        }
    }

    /// No transport gets through, in any family, and the tables say so of the first.
    #[track_caller]
    pub(crate) fn denies(&self, from: &str, to: &str, transports: &[Transport]) {
        let mut explain = BTreeSet::new();
        for (probe, measured) in self.measure(from, to, transports) {
            assert_eq!(measured, Measured::Deny, "{from} -> {to}: {probe:?}");
            if !explain.insert(probe.family()) {
                continue;
            }
            let explained = self.explained(from, to, &probe);
            // Of an address, only its own end is explained.
            let whole = to.parse::<IpAddr>().is_err();
            assert!(
                !whole
                    || explained.is_empty()
                    || explained.iter().any(|text| text.contains("  deny  ")),
                "{from} -> {to}: {probe:?}: {explained:?}"
            );
        }
    }

    /// What `netpol-agent explain` says of a probe on the nodes of its ends; nothing where no tables are
    /// loaded, or where what is denied may pass.
    fn explained(&self, from: &str, to: &str, probe: &Probe) -> Vec<String> {
        let node_of = |who: &str| {
            let (namespace, name) = who.split_once('/')?;
            let pod = self.snapshot.pods.get(&PodKey::new(namespace, name))?;
            pod.node.clone()
        };
        let port = match probe.transport {
            Tcp(port) => format!("tcp/{port}"),
            Udp(port) => format!("udp/{port}"),
            Sctp(port) => format!("sctp/{port}"),
            Icmp => "icmp".to_owned(),
        };
        let ends = [
            node_of(from).map(|node| (node, from.to_owned(), probe.to.to_string())),
            node_of(to).map(|node| {
                let own = from.strip_prefix("node:") == Some(&*node);
                let source = if own {
                    "host".to_owned()
                } else {
                    probe.from.to_string()
                };
                (node, source, to.to_owned())
            }),
        ];
        ends.into_iter()
            .flatten()
            .filter(|(node, ..)| {
                let loaded = self.bpffs.get(&**node);
                !self.plan.datapath.audit && loaded.is_some_and(|b| b.join("netpol").exists())
            })
            .map(|(node, source, destination)| {
                self.trace(&node, [&source, &destination], &port, None, false)
            })
            .collect()
    }
}

/// Makes an interface of the node that leads to `namespace`, the far end, and gives it these addresses,
/// step by step as network plugins do. Returns the index of the node's end.
pub(crate) fn attach_pod(
    near: &Netlink,
    far: &Netlink,
    namespace: &Netns,
    name: &str,
    addresses: &[IpNet],
) -> u32 {
    near.add_veth(name, "eth0", namespace).unwrap();
    connect_pod(near, far, name, addresses)
}

/// Brings up and addresses a pair that leads to a pod. Returns the index of the node's end.
pub(crate) fn connect_pod(near: &Netlink, far: &Netlink, name: &str, addresses: &[IpNet]) -> u32 {
    let index = near.link_named(name).unwrap().unwrap().index;
    let inside = far.link_named("eth0").unwrap().unwrap().index;
    let gateways: [IpNet; 2] = ["169.254.1.1/32", "fe80::1/64"].map(|g| g.parse().unwrap());
    for gateway in gateways {
        near.add_address(index, gateway).unwrap();
    }
    for address in addresses {
        far.add_address(inside, *address).unwrap();
    }
    near.set_up(index).unwrap();
    far.set_up(inside).unwrap();
    for address in addresses {
        let route = |to: IpNet, via, device| Route {
            to,
            via,
            device,
            source: None,
        };
        let (gateway, default) = match address {
            IpNet::V4(_) => (gateways[0], "0.0.0.0/0"),
            IpNet::V6(_) => (gateways[1], "::/0"),
        };
        near.add_route(route(*address, None, index)).unwrap();
        far.add_route(route(
            default.parse().unwrap(),
            Some(gateway.addr()),
            inside,
        ))
        .unwrap();
    }
    index
}

fn cluster() -> String {
    let nodes = (1..=2).map(|node| {
        format!(
            "
apiVersion: v1
kind: Node
metadata: {{name: n{node}, labels: {{zone: z{node}}}}}
spec: {{podCIDRs: [10.40.{node}.0/24, 'fd00:40:{node}::/64']}}
status:
  addresses:
  - {{type: InternalIP, address: 172.40.0.{node}}}
  - {{type: InternalIP, address: 'fd00:172:40::{node}'}}
---"
        )
    });
    let namespaces = ["x", "y"].into_iter().map(|namespace| {
        format!(
            "
apiVersion: v1
kind: Namespace
metadata: {{name: {namespace}, labels: {{team: '{namespace}'}}}}
---"
        )
    });
    let pods = [
        ("x", "a", 1, 10),
        ("x", "b", 1, 11),
        ("y", "a", 1, 12),
        ("x", "c", 2, 10),
        ("y", "b", 2, 11),
    ];
    let pods = pods
        .into_iter()
        .map(|(namespace, name, node, host)| pod(namespace, name, node, host));
    nodes.chain(namespaces).chain(pods).collect()
}

/// A pod of the world, as a document.
pub(crate) fn pod(namespace: &str, name: &str, node: u8, host: u8) -> String {
    let tier = if name == "a" { ", tier: web" } else { "" };
    let web = if namespace == "x" { 80 } else { 8080 };
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{namespace: '{namespace}', name: {name}, labels: {{app: {name}{tier}}}}}
spec:
  nodeName: n{node}
  containers: [{{name: c, image: i, ports: [{{name: web, containerPort: {web}}}]}}]
status: {{phase: Running, podIPs: [{{ip: 10.40.{node}.{host}}}, {{ip: 'fd00:40:{node}::{host}'}}]}}
---"
    )
}

/// A NetworkPolicy of namespace x with this spec, in flow style.
pub(crate) fn policy(name: &str, spec: &str) -> String {
    format!(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{namespace: x, name: {name}}}
spec: {spec}
---"
    )
}

/// Policies of [`policy`], audited.
pub(crate) fn audited(policies: &str) -> String {
    let label = ", labels: {netpol.dev/mode: audit}}\nspec:";
    policies.replace("}\nspec:", label)
}
