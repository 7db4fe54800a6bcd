// SPDX-License-Identifier: Apache-2.0
//! Two nodes joined by VXLAN: the core of policy and Services once more (scenarios 16 to 18, 23, 27, 28,
//! 30, 31, 32, 37, 41), in both families.
//!
//! The mark of a packet is copied to the packet around it, so it has to be used up before.

use std::process::Command;

use crate::{
    services::{both, egress, tally, translate},
    world::{Icmp, Plan, Sctp, Tcp, Udp, World, policy},
};
use agent::demo::plan::Transport;

const EVERYTHING: [Transport; 4] = [Tcp(80), Udp(80), Sctp(80), Icmp];

const BOTH: [&[&str]; 2] = [
    &["10.40.1.12:8080", "10.40.2.11:8080"],
    &["fd00:40:1::12:8080", "fd00:40:2::11:8080"],
];

/// Runs `ip` in the namespace of a node.
#[track_caller]
fn ip(world: &World, node: &str, arguments: &str) -> String {
    let namespace = world.namespace(&format!("node:{node}"));
    let arguments: Vec<_> = arguments.split_whitespace().collect();
    let output = namespace.run(|| Command::new("ip").args(&arguments).output());
    let output = output.unwrap();
    assert!(output.status.success(), "ip {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Sends what pods of one node say to pods of the other through a tunnel, and enforces `plan`.
fn tunnelled(plan: Plan) -> World {
    let mut world = World::unenforced(plan);
    for (node, here, there) in [("n1", 1, 2), ("n2", 2, 1)] {
        ip(
            &world,
            node,
            &format!(
                "link add vxlan0 type vxlan id 42 dstport 8472 local 172.40.0.{here} remote 172.40.0.{there} dev uplink"
            ),
        );
        ip(&world, node, "link set vxlan0 up");
        for (family, pods) in [
            ("-4", format!("10.40.{there}.0/24")),
            ("-6", format!("fd00:40:{there}::/64")),
        ] {
            let source = if family == "-4" {
                format!("172.40.0.{here}")
            } else {
                format!("fd00:172:40::{here}")
            };
            ip(
                &world,
                node,
                &format!("{family} route replace {pods} dev vxlan0 src {source}"),
            );
        }
        for (other, address) in [
            ("n1", "172.40.0.1"),
            ("n1", "fd00:172:40::1"),
            ("n2", "172.40.0.2"),
            ("n2", "fd00:172:40::2"),
        ] {
            if other == node {
                let length = if address.contains(':') { 128 } else { 32 };
                ip(
                    &world,
                    node,
                    &format!("address add {address}/{length} dev vxlan0"),
                );
            }
        }
        // Both ends answer for the pods behind them.
        for (key, value) in [
            ("ipv4/conf/vxlan0/proxy_arp", "1"),
            ("ipv6/conf/vxlan0/proxy_ndp", "1"),
            ("ipv4/neigh/vxlan0/proxy_delay", "0"),
            ("ipv6/neigh/vxlan0/proxy_delay", "0"),
        ] {
            let namespace = world.namespace(&format!("node:{node}"));
            namespace.set_sysctl(key, value).unwrap();
        }
        for pod in world.snapshot.pods.values() {
            if pod.node.as_deref() == Some(node) {
                for address in pod.addresses.iter().filter(|address| address.is_ipv6()) {
                    ip(
                        &world,
                        node,
                        &format!("-6 neighbour add proxy {address} dev vxlan0"),
                    );
                }
            }
        }
    }
    world.start();
    world
}

/// Packets that have left node n1 by the tunnel.
fn encapsulated(world: &World) -> u64 {
    let shown = ip(world, "n1", "-s link show vxlan0");
    let mut lines = shown.lines().skip_while(|line| !line.contains("TX:"));
    let numbers = lines.nth(1).unwrap();
    numbers.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn s16_s18_s23_policy_applies_through_a_tunnel() {
    let world = tunnelled(Plan {
        policies: policy(
            "deny",
            "{podSelector: {matchLabels: {app: a}}, policyTypes: [Ingress]}",
        ),
        ..Plan::default()
    });
    world.denies("y/b", "x/a", &EVERYTHING);
    world.denies("x/c", "x/a", &EVERYTHING);
    let before = encapsulated(&world);
    world.allows("x/a", "x/c", &EVERYTHING);
    world.allows("x/a", "y/b", &EVERYTHING);
    assert!(encapsulated(&world) > before);
    world.edit(&policy(
        "one",
        "{podSelector: {matchLabels: {app: a}}, policyTypes: [Ingress, Egress], ingress: [{from: [{namespaceSelector: {matchLabels: {team: 'y'}}}], ports: [{port: 80}]}]}",
    ));
    world.allows("y/b", "x/a", &[Tcp(80)]);
    world.denies("y/b", "x/a", &[Tcp(81), Udp(80), Sctp(80), Icmp]);
    world.denies("x/c", "x/a", &EVERYTHING);
    world.denies("x/a", "x/c", &EVERYTHING);
    world.edit(&(policy("open", "{podSelector: {}, ingress: [{}], egress: [{}], policyTypes: [Ingress, Egress]}") + "
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: apart}
spec: {tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {team: x}}}, egress: [{action: Deny, to: [{namespaces: {matchLabels: {team: 'y'}}}]}]}
"));
    world.denies("x/a", "y/b", &EVERYTHING);
    world.allows("x/a", "x/c", &EVERYTHING);
    world.allows("y/b", "x/a", &EVERYTHING);
}

#[test]
fn s27_families_do_not_cross_a_tunnel() {
    let world = tunnelled(Plan {
        policies: policy(
            "v4",
            "{podSelector: {matchLabels: {app: a}}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}",
        ),
        ..Plan::default()
    });
    world.allows("y/b", "10.40.1.10", &EVERYTHING);
    world.denies("y/b", "fd00:40:1::10", &EVERYTHING);
}

#[test]
fn s30_s31_a_mixed_service_with_an_endpoint_behind_a_tunnel() {
    let world = tunnelled(Plan {
        objects: both(),
        policies: egress("a", 8080),
        ..Plan::default()
    });
    for masquerade in [
        "",
        "ip daddr 10.40.0.0/16 ct status dnat masquerade; ip6 daddr fd00:40::/32 ct status dnat masquerade",
    ] {
        translate(&world, "n1", BOTH, masquerade);
        let any = egress("a", 8080).replace(", podSelector: {matchLabels: {app: a}}}]", "}]");
        world.edit(&any);
        let before = encapsulated(&world);
        assert_eq!(tally(&world, "x/a", Tcp(80), 20), [20, 20], "{masquerade}");
        assert!(encapsulated(&world) > before);
        // The endpoint on this node, then the one behind the tunnel: were the mark not used up before
        // the packet is wrapped, what carries it would be judged, and dropped on the uplink.
        world.edit(&egress("a", 8080));
        assert_eq!(tally(&world, "x/a", Tcp(80), 20), [10, 10], "{masquerade}");
        world.edit(&egress("b", 8080));
        assert_eq!(tally(&world, "x/a", Tcp(80), 20), [10, 10], "{masquerade}");
        world.edit(&egress("nobody", 8080));
        assert_eq!(tally(&world, "x/a", Tcp(80), 20), [0, 0], "{masquerade}");
    }
}
