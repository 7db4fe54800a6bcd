// SPDX-License-Identifier: Apache-2.0
//! Who is who: scenarios 6, 7, 8, 14, 66, 67, 72.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    process::Command,
    time::{Duration, Instant},
};

use agent::{
    args::{Attach, DatapathArgs},
    datapath,
    demo::{
        plan::Probe,
        probe::{Measured, PATIENCE, measure},
    },
    event::Report,
    names::Names,
    net::{HostLinks, Netlink},
};

use crate::world::{Icmp, LIMIT, Plan, Tcp, Udp, World, pod, policy};

#[test]
fn s06_s07_names_that_look_alike() {
    let ingress = |namespace: &str, app: &str| {
        format!(
            "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{namespace: {namespace}, name: closed}}
spec: {{podSelector: {{matchLabels: {{app: {app}}}}}, policyTypes: [Ingress]}}
---"
        )
    };
    let objects = [
        pod("x", "web-a", 1, 60),
        pod("x", "web-b", 1, 61),
        pod("ab", "c", 1, 62),
        pod("a", "bc", 1, 63),
        pod("a-b", "c", 1, 64),
        pod("a", "b-c", 1, 65),
    ];
    let world = World::with(Plan {
        policies: ingress("x", "web-a") + &ingress("ab", "c") + &ingress("a", "b-c"),
        objects: objects.concat(),
        ..Plan::default()
    });
    for closed in ["x/web-a", "ab/c", "a/b-c"] {
        world.denies("y/b", closed, &[Tcp(80), Icmp]);
    }
    for open in ["x/web-b", "a/bc", "a-b/c"] {
        world.allows("y/b", open, &[Tcp(80), Icmp]);
    }
}

#[test]
fn s08_both_interfaces_of_a_pod() {
    let world = World::new(&policy(
        "closed",
        "{podSelector: {matchLabels: {app: b}}, policyTypes: [Ingress]}",
    ));
    // A second interface, to which only x/a's address gets; replies leave by the first.
    let second: IpAddr = "10.40.1.77".parse().unwrap();
    world.plug_second("x_b", "second", second);
    let namespace = world.namespace("x/b");
    world
        .servers
        .add(namespace, second, &BTreeSet::from([Tcp(80), Udp(80)]))
        .unwrap();
    world.settled_with(2, "n1", "x/b");
    world.denies("x/a", "10.40.1.77", &[Tcp(80), Udp(80), Icmp]);
    world.denies("x/a", "10.40.1.11", &[Tcp(80), Udp(80), Icmp]);
    world.edit("");
    world.allows("x/a", "10.40.1.77", &[Tcp(80), Udp(80), Icmp]);
    world.allows("x/a", "10.40.1.11", &[Tcp(80), Udp(80), Icmp]);
}

#[test]
fn s14_a_program_that_somebody_deleted_is_put_back() {
    let world = World::with(Plan {
        policies: policy("closed", "{podSelector: {}, policyTypes: [Ingress]}"),
        datapath: DatapathArgs {
            attach: Attach::Clsact,
            ..Plan::default().datapath
        },
        ..Plan::default()
    });
    world.denies("y/b", "x/a", &[Tcp(80)]);
    let node = world.namespace("node:n1");
    let inside = HostLinks::read(node)
        .unwrap()
        .interfaces_of(world.namespace("x/a"))
        .unwrap();
    let outside = inside.into_iter().find_map(|i| i.outside).unwrap();
    let deleted = node
        .run(|| {
            Command::new("tc")
                .args(["qdisc", "del", "dev", &outside.name, "clsact"])
                .status()
        })
        .unwrap();
    assert!(deleted.success());
    let start = Instant::now();
    while world
        .measure("y/b", "x/a", &[Tcp(80)])
        .iter()
        .any(|(_, m)| *m != Measured::Deny)
    {
        assert!(start.elapsed() < LIMIT, "the program never came back");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn s66_host_network_pods_are_their_node() {
    let host = "
apiVersion: v1
kind: Pod
metadata: {namespace: x, name: host, labels: {app: host}}
spec: {nodeName: n1, hostNetwork: true, containers: [{name: c, image: i}]}
status: {phase: Running, podIPs: [{ip: 172.40.0.1}, {ip: 'fd00:172:40::1'}]}
---";
    let world = World::with(Plan {
        policies: policy("closed", "{podSelector: {}, policyTypes: [Ingress]}"),
        objects: host.to_owned(),
        ..Plan::default()
    });
    world.allows("node:n1", "x/a", &[Tcp(80), Udp(80), Icmp]);
    world.denies("node:n1", "x/c", &[Tcp(80), Udp(80), Icmp]);
    // As a subject it does not exist: the policy closes every pod of x but this one.
    world.allows("y/b", "node:n1", &[Tcp(80), Udp(80), Icmp]);
}

#[test]
fn s67_an_address_that_the_node_got_later() {
    let world = World::new(&policy(
        "closed",
        "{podSelector: {}, policyTypes: [Ingress]}",
    ));
    let node = world.namespace("node:n1");
    let links = Netlink::open(node).unwrap();
    let uplink = links.link_named("uplink").unwrap().unwrap().index;
    let late: IpAddr = "192.0.2.7".parse().unwrap();
    links.add_address(uplink, late.into()).unwrap();
    let probes = [Tcp(80), Udp(80), Icmp].map(|transport| Probe {
        source: 0,
        destination: 0,
        from: late,
        to: "10.40.1.10".parse().unwrap(),
        transport,
    });
    let seen = measure(node, &probes, &[LIMIT]).unwrap();
    assert!(seen.iter().all(|seen| *seen == Measured::Allow), "{seen:?}");
}

#[test]
fn s72_every_drop_names_its_rule() {
    let mut plan = Plan {
        policies: policy(
            "closed",
            "{podSelector: {matchLabels: {app: a}}, policyTypes: [Ingress]}",
        ),
        ..Plan::default()
    };
    plan.datapath.events_per_second = 1000;
    let mut world = World::with(plan);
    // The log takes events off the buffer: look without an agent.
    world.stop();
    let sent = [Tcp(80), Udp(80), Icmp];
    for (_, measured) in world.measure("x/b", "x/a", &sent) {
        assert_eq!(measured, Measured::Deny);
    }
    let place = world.place("n1");
    let names = Names::read(&place.state_dir).unwrap();
    let events: Vec<_> = datapath::events(&place.bpffs).unwrap().collect();
    // Each transport and family, once per attempt.
    assert!(
        events.len() >= sent.len() * 2 * PATIENCE.len(),
        "{events:?}"
    );
    for event in &events {
        let report = Report::new(event, &names);
        assert_eq!(report.verdict(), "drop");
        assert_eq!(report.because(), "isolated by NetworkPolicy x/closed");
        assert_eq!(names.interface(event.ifindex), "x/a");
    }
}
