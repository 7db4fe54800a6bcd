// SPDX-License-Identifier: Apache-2.0
//! What do packets travel through?
//!
//! ```text
//!  client eth0 ──veth── router ──veth── eth0 server
//! ```
//!
//! The router is a node and the other two its pods, each on a link of its own. A world is made for
//! every reading and thrown away after it, so that no reading depends on where the one before it left
//! its memory, its sockets or its connection tracking.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use agent::{
    demo::{
        Root,
        plan::{Probe, Transport},
        probe::{Measured, measure},
        servers::Servers,
        topology::Topology,
    },
    net::{HostLinks, Netns},
};
use anyhow::{Context as _, Result, ensure};
use policy_compiler::{Snapshot, manifest, model::PodKey, parse::Settings};

/// The router.
pub(crate) const NODE: &str = "node-0000";
/// The client's address.
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 10);
/// The server's address.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 11);
/// The port that every policy lets the client reach, by TCP and UDP.
pub(crate) const ALLOWED: u16 = 7000;
/// The port that every policy keeps it from.
pub(crate) const FORBIDDEN: u16 = 7001;

/// How long an answer may take on a busy machine, attempt by attempt.
const PATIENCE: [Duration; 3] = [
    Duration::from_millis(250),
    Duration::from_millis(600),
    Duration::from_secs(3),
];

/// How long a forbidden packet must stay unanswered. One attempt: whoever mistakes a slow answer for
/// a drop here mistakes it before timing, where the same answers are late, too.
const SILENCE: [Duration; 1] = [Duration::from_millis(200)];

/// Objects that stand for the three.
const CLUSTER: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: bench, labels: {team: bench}}}
---
{apiVersion: v1, kind: Node, metadata: {name: node-0000}, status: {addresses: [{type: InternalIP, address: 172.31.0.1}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: client, namespace: bench, labels: {app: client}}, spec: {nodeName: node-0000, containers: [{name: c, image: i}]}, status: {phase: Running, podIPs: [{ip: 10.200.0.10}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: server, namespace: bench, labels: {app: server}}, spec: {nodeName: node-0000, containers: [{name: c, image: i}]}, status: {phase: Running, podIPs: [{ip: 10.200.0.11}]}}
---
";

/// Client, router and server, without any policy.
pub(crate) struct World {
    pub(crate) client: Netns,
    pub(crate) server: Netns,
    pub(crate) router: Netns,
    /// Interface indices of the router's ends: towards the client, towards the server.
    pub(crate) interfaces: [u32; 2],
    /// A BPF file system that goes with the world.
    pub(crate) bpffs: PathBuf,
    _root: Arc<Root>,
}

impl World {
    /// Builds the three namespaces below `root`; they live as long as anybody holds `root`.
    pub(crate) fn new(root: &Arc<Root>) -> Result<Self> {
        let snapshot = objects("")?;
        let topology = Topology::build(root, &snapshot, &BTreeSet::new())?;
        let pod = |name| {
            let found = topology.pods.get(&PodKey::new("bench", name));
            found.cloned().with_context(|| format!("no pod `{name}`"))
        };
        let (client, server) = (pod("client")?, pod("server")?);
        // A connection each time is what some readings are about: ports must not run out.
        client.set_sysctl("ipv4/ip_local_port_range", "1024 65535")?;
        let router = topology.nodes.get(NODE).context("no router")?.clone();
        let links = HostLinks::read(&router)?;
        let outside = |pod: &Netns| -> Result<u32> {
            let interfaces = links.interfaces_of(pod)?;
            let mut outside = interfaces.into_iter().filter_map(|i| i.outside);
            Ok(outside.next().context("no interface leads there")?.index)
        };
        Ok(Self {
            interfaces: [outside(&client)?, outside(&server)?],
            client,
            server,
            router,
            bpffs: root.bpf(NODE)?,
            _root: root.clone(),
        })
    }

    /// The allowed port.
    pub(crate) fn allowed() -> SocketAddr {
        SocketAddr::new(SERVER.into(), ALLOWED)
    }

    /// The forbidden one.
    pub(crate) fn forbidden() -> SocketAddr {
        SocketAddr::new(SERVER.into(), FORBIDDEN)
    }

    /// Both ports are served; fails unless the allowed one answers, and the forbidden one answers if
    /// and only if nothing is enforced.
    pub(crate) fn check(&self, is_enforced: bool) -> Result<()> {
        let servers = Servers::start()?;
        let ports = [ALLOWED, FORBIDDEN];
        let transports = ports.map(|port| [Transport::Tcp(port), Transport::Udp(port)]);
        let transports = transports.into_iter().flatten().collect();
        servers.add(&self.server, SERVER.into(), &transports)?;

        for (probe, measured) in self.probe(ALLOWED, &PATIENCE)? {
            ensure!(
                measured == Measured::Allow,
                "{probe:?} should be answered: {measured:?}"
            );
        }
        let patience: &[Duration] = if is_enforced { &SILENCE } else { &PATIENCE };
        for (probe, measured) in self.probe(FORBIDDEN, patience)? {
            ensure!(
                (measured == Measured::Allow) != is_enforced,
                "{probe:?} with enforcement {is_enforced}: {measured:?}"
            );
        }
        Ok(())
    }

    fn probe(&self, port: u16, patience: &[Duration]) -> Result<Vec<(Transport, Measured)>> {
        let transports = [Transport::Tcp(port), Transport::Udp(port)];
        let probes = transports.map(|transport| Probe {
            source: 0,
            destination: 0,
            from: IpAddr::V4(CLIENT),
            to: IpAddr::V4(SERVER),
            transport,
        });
        let measured = measure(&self.client, &probes, patience)?;
        Ok(transports.into_iter().zip(measured).collect())
    }
}

/// The three, and these policies, as a snapshot.
pub(crate) fn objects(policies: &str) -> Result<Snapshot> {
    let files = [("cluster.yaml", CLUSTER), ("policies.yaml", policies)];
    let loaded = manifest::load(files, &Settings::default());
    ensure!(
        loaded.diagnostics.is_empty(),
        "the benchmark's own objects: {:?}",
        loaded.diagnostics
    );
    Ok(loaded.snapshot)
}
