// SPDX-License-Identifier: Apache-2.0
//! Pods, interfaces and agents that come and go: scenarios 1, 2, 4, 5, 9, 10, 15; and what the
//! commands say that need no agent.

use std::{
    fs,
    net::IpAddr,
    time::{Duration, Instant},
};

use agent::{
    args::{Dump, DumpArgs, Output},
    datapath::{self, Pinned},
    demo::probe::{Measured, PATIENCE, measure},
    folder::Status,
    inspect,
    net::{Netlink, Netns},
};

use crate::world::{Icmp, LIMIT, Plan, Tcp, Udp, World, pod, policy};

/// Polls until `wanted` holds.
#[track_caller]
fn eventually(what: &str, wanted: impl Fn() -> bool) {
    let start = Instant::now();
    while !wanted() {
        assert!(start.elapsed() < LIMIT, "{what} never became true");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn addresses(host: u8) -> [IpAddr; 2] {
    [
        IpAddr::from([10, 40, 1, host]),
        format!("fd00:40:1::{host}").parse().unwrap(),
    ]
}

/// Whether an endpoint is there for the interface, and in quarantine.
fn quarantined(world: &World, ifindex: u32) -> Option<bool> {
    let endpoints = Pinned::open(&world.bpffs["n1"]).unwrap().endpoints();
    let endpoint = endpoints.into_values().find(|e| e.ifindex == ifindex)?;
    Some(endpoint.flags & policy_ebpf_common::abi::ENDPOINT_QUARANTINE != 0)
}

#[test]
fn s01_s02_a_pod_nobody_knows_is_in_quarantine() {
    let world = World::new("");
    let index = world.plug("x_new", "plugged", &addresses(50));
    eventually("quarantine", || quarantined(&world, index) == Some(true));
    let namespace = Netns::open(&world.root.dir(agent::demo::Root::PODS).join("x_new")).unwrap();
    let probes = |to: &str| -> Vec<_> {
        let mut probes = Vec::new();
        for (from, to) in addresses(50).into_iter().zip(world.addresses(to)) {
            probes.extend(
                [Tcp(80), Udp(80), Icmp].map(|transport| agent::demo::plan::Probe {
                    source: 0,
                    destination: 0,
                    from,
                    to,
                    transport,
                }),
            );
        }
        probes
    };
    let seen = measure(&namespace, &probes("x/b"), &PATIENCE).unwrap();
    assert!(seen.iter().all(|seen| *seen == Measured::Deny), "{seen:?}");
    // Address resolution is answered: the node's own entry for the pod is complete.
    let seen = measure(&namespace, &probes("node:n1"), &PATIENCE).unwrap();
    assert!(seen.iter().all(|seen| *seen == Measured::Deny), "{seen:?}");

    // Known and selected by nobody: everything passes.
    fs::write(world.dir.path().join("new.yaml"), pod("x", "new", 1, 50)).unwrap();
    eventually("enforcement", || quarantined(&world, index) == Some(false));
    for to in ["x/b", "y/a", "node:n1"] {
        let seen = measure(&namespace, &probes(to), &[LIMIT]).unwrap();
        assert!(
            seen.iter().all(|seen| *seen == Measured::Allow),
            "{to}: {seen:?}"
        );
    }
}

#[test]
fn s05_s09_a_pod_recreated_under_its_name_is_enforced() {
    let closed = policy(
        "closed",
        "{podSelector: {matchLabels: {app: b}}, policyTypes: [Egress]}",
    );
    let world = World::new(&closed);
    world.denies("x/b", "x/a", &[Tcp(80)]);
    let node = Netlink::open(&world.topology.nodes["n1"]).unwrap();
    let links = agent::net::HostLinks::read(&world.topology.nodes["n1"]).unwrap();
    let old = links.interfaces_of(world.namespace("x/b")).unwrap();
    let old = old.iter().find_map(|i| i.outside.clone()).unwrap();
    node.delete_link(old.index).unwrap();
    eventually("the old interface's end", || {
        quarantined(&world, old.index).is_none()
    });

    // The same names once more; the namespace file stays, as a restarted sandbox may leave it.
    let index = world.plug("x_b", &old.name, &addresses(11));
    eventually("enforcement", || quarantined(&world, index) == Some(false));
    world.denies("x/b", "x/a", &[Tcp(80), Udp(80), Icmp]);
    world.edit("");
    world.allows("x/b", "x/a", &[Tcp(80), Udp(80), Icmp]);
}

#[test]
fn s10_s15_agents_come_and_go() {
    use std::io::{Read as _, Write as _};
    let mut world = World::new(&policy(
        "some",
        "{podSelector: {matchLabels: {app: a}}, policyTypes: [Ingress, Egress], ingress: [{ports: [{port: 80}]}]}",
    ));
    let mut stream = world
        .namespace("y/b")
        .run(|| std::net::TcpStream::connect("10.40.1.10:80"))
        .unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut exchange = || {
        stream.write_all(b"ping").unwrap();
        stream.read_exact(&mut [0; 4]).unwrap();
    };
    exchange();

    // Without an agent the kernel goes on.
    world.stop();
    exchange();
    world.allows("x/b", "x/a", &[Tcp(80)]);
    world.denies("x/b", "x/a", &[Tcp(81), Icmp]);
    world.denies("x/a", "x/b", &[Tcp(80)]);

    // The next agent takes over, and the folder has moved on meanwhile.
    let next = policy(
        "some",
        "{podSelector: {matchLabels: {app: a}}, policyTypes: [Ingress, Egress], ingress: [{ports: [{port: 80}, {port: 81}]}]}",
    );
    fs::write(world.dir.path().join("policies.yaml"), next).unwrap();
    world.start();
    exchange();
    world.allows("x/b", "x/a", &[Tcp(80), Tcp(81)]);
    world.denies("x/b", "x/a", &[Icmp]);
    world.denies("x/a", "x/b", &[Tcp(80)]);

    // Cleaning up leaves nothing that could drop a packet.
    world.stop();
    for (node, bpffs) in &world.bpffs {
        let bpffs = bpffs.clone();
        let cleaned = world.topology.nodes[&**node]
            .run(|| datapath::cleanup(&bpffs).map_err(std::io::Error::other));
        cleaned.unwrap();
        assert!(!bpffs.join("netpol").exists());
    }
    world.allows("x/b", "x/a", &[Tcp(81), Icmp]);
    world.allows("x/a", "x/b", &[Tcp(80)]);
}

#[test]
fn trace_knows_open_connections() {
    let mut world = World::with(Plan {
        policies: policy(
            "web",
            "{podSelector: {matchLabels: {app: a}}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {}}], ports: [{port: 80}]}]}",
        ),
        ..Plan::default()
    });
    world.allows("x/b", "x/a", &[Tcp(80)]);
    world.denies("x/a", "x/b", &[Tcp(80)]);
    world.stop();
    let tables = Pinned::open(&world.place("n1").bpffs).unwrap();
    let flows = tables.flows().unwrap();
    // One of each family, at the server's end.
    for (server, client) in addresses(10).into_iter().zip(addresses(11)) {
        let flow = flows
            .iter()
            .find(|flow| flow.local == server && flow.remote == client && flow.local_port == 80)
            .unwrap();
        let client = client.to_string();
        let trace = |port: u16, from_port| {
            let port = format!("tcp/{port}");
            world.trace("n1", ["x/a", &client], &port, from_port, true)
        };
        let reply = trace(flow.remote_port, Some(80));
        for said in [
            "  allow  part of a flow admitted by NetworkPolicy x/web ingress[0]",
            "a flow that the other end opened",
        ] {
            assert!(reply.contains(said), "{said}:\n{reply}");
        }
        // A packet of the pod's own accord is none of that flow, nor one from another port.
        for (answer, said) in [
            (trace(flow.remote_port, None), "  deny  isolated by"),
            (trace(flow.remote_port, Some(81)), "  deny  isolated by"),
            (trace(flow.remote_port, Some(81)), "no flow"),
        ] {
            assert!(answer.contains(said), "{said}:\n{answer}");
        }
        // Nobody saw this one opened; the server may be answering.
        let late = trace(flow.remote_port ^ 1, Some(80));
        let said = "  allow  replies to what is admitted by NetworkPolicy x/web ingress[0]";
        assert!(late.contains(said), "{late}");
    }
    assert_eq!(flows.len(), tables.flows().unwrap().len(), "it only looks");
}

#[test]
fn commands_agree_with_the_wire() {
    let mut world = World::with(Plan {
        policies: policy(
            "web",
            "{podSelector: {matchLabels: {app: a}}, ingress: [{from: [{podSelector: {}}], ports: [{port: 80}]}]}",
        ),
        ..Plan::default()
    });
    world.allows("x/b", "x/a", &[Tcp(80)]);
    world.denies("x/b", "x/a", &[Tcp(81)]);
    let explain = |world: &World, source: &str, destination: &str, port: &str, steps| {
        world.trace("n1", [source, destination], port, None, steps)
    };
    // The commands need no agent.
    world.stop();
    let answer = explain(&world, "x/b", "x/a", "tcp/80", false);
    assert_eq!(answer.lines().count(), 4, "{answer}");
    for line in answer.lines().filter(|line| line.starts_with("ingress")) {
        assert!(
            line.contains("  allow  NetworkPolicy x/web ingress[0] (NetworkPolicy)"),
            "{line}"
        );
        assert!(line.contains("policies.yaml:5:"), "{line}");
    }
    let answer = explain(&world, "10.40.2.11", "x/a", "tcp/80", false);
    assert!(
        answer.contains("deny  isolated by NetworkPolicy x/web"),
        "{answer}"
    );
    let answer = explain(&world, "host", "x/a", "icmp", true);
    assert!(answer.contains("allow  local-node"), "{answer}");
    assert!(answer.contains("    ROWS"), "{answer}");

    let dump = |what| {
        let place = world.place("n1");
        let output = Output::Text;
        inspect::dump(&DumpArgs {
            what,
            place,
            output,
        })
        .unwrap()
    };
    for (what, expected) in [
        (Dump::Endpoints, "x/a"),
        (Dump::Links, "to_pod"),
        (Dump::Peers, "10.40.1.10/31"),
        (Dump::Table, "NetworkPolicy x/web ingress[0]"),
        (Dump::Conntrack, "REMOTE"),
        (Dump::Services, "ADDRESS"),
    ] {
        let text = dump(what);
        assert!(text.contains(expected), "{what:?}:\n{text}");
    }
    // The rule's counter has seen the probes.
    let table = dump(Dump::Table);
    let rule = table
        .lines()
        .find(|line| line.contains("allow") && line.contains("ingress[0]"));
    let packets: u64 = rule.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(packets > 0, "{table}");
    assert!(
        world
            .agents
            .iter()
            .all(|agent| Status::is_settled(&agent.status()))
    );
}
