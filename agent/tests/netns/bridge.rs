// SPDX-License-Identifier: Apache-2.0
//! Pods on a bridge: scenarios 16 to 18, 28, 39 and 63 once more, with br_netfilter on and off.

use std::fs;

use crate::{
    services::{service, tally, translate},
    world::{Icmp, Plan, Sctp, Tcp, Udp, World, policy},
};

const EVERYTHING: [agent::demo::plan::Transport; 4] = [Tcp(80), Udp(80), Sctp(80), Icmp];

/// Sends bridged packets of node n1 through netfilter, or not. Whether the kernel can.
fn netfilter_on_bridges(world: &World, on: &str) -> bool {
    let node = world.namespace("node:n1");
    let keys = [
        "bridge/bridge-nf-call-iptables",
        "bridge/bridge-nf-call-ip6tables",
    ];
    keys.iter().all(|key| node.set_sysctl(key, on).is_ok())
}

#[test]
fn s39_s63_policy_applies_on_a_bridge() {
    let closed = policy(
        "closed",
        "{podSelector: {matchLabels: {app: e}}, policyTypes: [Ingress]}",
    );
    let mut world = World::with(Plan {
        policies: closed.clone(),
        objects: service("[10.40.1.71]", "['fd00:40:1::71']"),
        ..Plan::default()
    });
    world.bridge_pods();
    translate(
        &world,
        "n1",
        [&["10.40.1.71:8080"], &["fd00:40:1::71:8080"]],
        "",
    );
    let can = fs::exists("/proc/sys/net/bridge").unwrap();
    for on in ["0", "1"] {
        assert_eq!(netfilter_on_bridges(&world, on), can);
        world.edit(&closed);
        world.denies("x/d", "x/e", &EVERYTHING);
        world.allows("x/e", "x/d", &EVERYTHING);
        world.allows("node:n1", "x/e", &EVERYTHING);
        assert_eq!(tally(&world, "x/d", Tcp(80), 4), [0, 0]);

        world.edit(&policy(
            "one",
            "{podSelector: {matchLabels: {app: e}}, ingress: [{from: [{podSelector: {matchLabels: {app: d}}}], ports: [{port: 8080}]}]}",
        ));
        world.allows("x/d", "x/e", &[Tcp(8080)]);
        world.denies("x/d", "x/e", &[Tcp(80), Udp(80), Icmp]);
        if on == "1" && can {
            // The reply is translated back only where netfilter sees bridged packets.
            assert_eq!(tally(&world, "x/d", Tcp(80), 4), [4, 4]);
        }

        world.edit(&policy(
            "egress",
            "{podSelector: {matchLabels: {app: d}}, policyTypes: [Egress]}",
        ));
        world.denies("x/d", "x/e", &EVERYTHING);
        world.allows("x/e", "x/d", &EVERYTHING);
        assert_eq!(tally(&world, "x/d", Tcp(80), 4), [0, 0]);
    }
}
