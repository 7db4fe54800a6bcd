// SPDX-License-Identifier: Apache-2.0
//! Do the programs say what the policies say?

use policy_ebpf_common::decide::Outcome::{
    Allowed, Denied, Infrastructure, NotIp, Quarantined, Reply, Unenforced, UnknownInterface,
};

use super::{
    frames::{ACK, SYN, echo, ethernet, icmp, sctp, tcp, udp},
    lab::{SELF, UPLINK, with_node},
};
use agent::datapath::Hook;

const A: &str = "10.0.1.1";
const PEER: &str = "10.0.2.2";
const STRANGER: &str = "203.0.113.9";

/// Ingress of x/a on TCP 80 from namespace y.
const INGRESS: &str = "
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: in, namespace: x}, spec: {podSelector: {matchLabels: {app: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: blue}}}], ports: [{port: 80}]}]}}
";

/// Nothing at all.
const DENY: &str = "
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: deny, namespace: x}, spec: {podSelector: {}, policyTypes: [Ingress, Egress]}}
";

/// Instructions of the programs and those the verifier looked at, with a tenth of room: whoever needs
/// more says why in the design notes.
const EFFORT: [(Hook, u32, u32); 4] = [
    (Hook::FromPod, 5_700, 70_000),
    (Hook::ToPod, 5_900, 97_000),
    (Hook::ToAny, 3_400, 28_000),
    (Hook::ToBridge, 3_400, 28_000),
];

#[test]
fn verifier_effort_stays_small() {
    with_node(|node| {
        for (hook, most, most_verified) in EFFORT {
            let info = node.datapath.program(hook).unwrap().info().unwrap();
            let verified = info.verified_instruction_count().unwrap();
            let size = info.size_translated().unwrap() / 8;
            println!("{}: {size} instructions, {verified} verified", hook.name());
            assert!(size < most, "{}: {size} instructions", hook.name());
            assert!(
                verified < most_verified,
                "{}: {verified} verified",
                hook.name()
            );
        }
    });
}

#[test]
fn rules_decide_by_peer_protocol_and_port() {
    with_node(|node| {
        node.apply(INGRESS);
        for (from, port, expected) in [
            (PEER, 80, Allowed),
            (PEER, 81, Denied),
            (PEER, 79, Denied),
            (STRANGER, 80, Denied),
            ("10.0.1.2", 80, Denied),
        ] {
            let syn = tcp(from, 40_000, A, port, SYN);
            assert_eq!(node.to("x/a", UPLINK, &syn), expected, "{from}:{port}");
        }
        assert_eq!(node.to("x/a", UPLINK, &udp(PEER, 1, A, 80)), Denied);
        assert_eq!(node.to("x/a", UPLINK, &sctp(PEER, 1, A, 80)), Denied);
        assert_eq!(node.to("x/a", UPLINK, &echo(PEER, A, 1, false)), Denied);
        // Unselected pods and the open direction are let be.
        let syn = tcp(A, 40_000, STRANGER, 443, SYN);
        assert_eq!(node.from("x/a", &syn), Unenforced);
        let other = tcp(STRANGER, 1, "10.0.2.1", 80, SYN);
        assert_eq!(node.to("y/a", UPLINK, &other), Unenforced);
    });
}

#[test]
fn both_families_are_judged() {
    with_node(|node| {
        node.apply(INGRESS);
        let six = "fd00:1::1";
        let from = |peer| tcp(peer, 40_000, six, 80, SYN);
        assert_eq!(node.to("x/a", UPLINK, &from("fd00:2::2")), Allowed);
        assert_eq!(node.to("x/a", UPLINK, &from("fd00:1::2")), Denied);
        assert_eq!(node.to("x/a", UPLINK, &from("2001:db8::1")), Denied);
    });
}

#[test]
fn blocks_are_judged_with_their_exceptions() {
    with_node(|node| {
        node.apply(
            "
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: out, namespace: x}, spec: {podSelector: {}, policyTypes: [Egress], egress: [
  {to: [{ipBlock: {cidr: 203.0.0.0/8, except: [203.0.113.0/24]}}, {ipBlock: {cidr: '2001:db8::/32', except: ['2001:db8:1::/48']}}]},
  {to: [{ipBlock: {cidr: 203.0.113.0/28}}], ports: [{port: 8000, endPort: 8080}, {protocol: UDP, port: 53}]}]}}
",
        );
        let six = "fd00:1::1";
        for (frame, expected) in [
            (tcp(A, 1, "203.9.9.9", 1, SYN), Allowed),
            (tcp(A, 1, "203.0.112.255", 1, SYN), Allowed),
            (tcp(A, 1, "203.0.114.0", 1, SYN), Allowed),
            (tcp(A, 1, "203.0.113.200", 1, SYN), Denied),
            (tcp(A, 1, "203.0.113.3", 7999, SYN), Denied),
            (tcp(A, 1, "203.0.113.3", 8000, SYN), Allowed),
            (tcp(A, 1, "203.0.113.3", 8080, SYN), Allowed),
            (tcp(A, 1, "203.0.113.3", 8081, SYN), Denied),
            (udp(A, 1, "203.0.113.3", 53), Allowed),
            (udp(A, 1, "203.0.113.3", 54), Denied),
            (echo(A, "203.9.9.9", 1, false), Allowed),
            (echo(A, "203.0.113.3", 1, false), Denied),
            (tcp(A, 1, "204.0.0.0", 1, SYN), Denied),
            (tcp(six, 1, "2001:db8::1", 1, SYN), Allowed),
            (tcp(six, 1, "2001:db8:1::1", 1, SYN), Denied),
            (tcp(six, 1, "2001:db9::1", 1, SYN), Denied),
        ] {
            assert_eq!(node.from("x/a", &frame), expected, "{frame:?}");
        }
    });
}

#[test]
fn the_nodes_own_packets_are_told_by_where_they_are_made() {
    with_node(|node| {
        node.apply(DENY);
        let probe = tcp("192.168.0.1", 40_000, A, 80, SYN);
        assert_eq!(node.to("x/a", SELF, &probe), Allowed);
        // Masqueraded by the node, but made elsewhere.
        assert_eq!(node.to("x/a", UPLINK, &probe), Denied);
        // Whatever the address.
        let odd = tcp(STRANGER, 40_000, A, 80, SYN);
        assert_eq!(node.to("x/a", SELF, &odd), Allowed);
        // The answer to the probe passes, an attempt of the pod's own does not.
        let answer = tcp(A, 80, "192.168.0.1", 40_000, SYN | ACK);
        assert!(!node.from("x/a", &answer).is_drop());
        let attempt = tcp(A, 80, "192.168.0.1", 10_250, SYN);
        assert_eq!(node.from("x/a", &attempt), Denied);
    });
}

#[test]
fn resolution_of_addresses_is_never_blocked() {
    with_node(|node| {
        let arp = ethernet(0x0806);
        let solicitation = icmp("fe80::1", "ff02::1:ff00:1", 135, 0, &[0; 20]);
        let report = icmp("fe80::1", "ff02::16", 143, 0, &[0; 8]);
        let mut far = solicitation.clone();
        far[14 + 7] = 64;
        for publish in [false, true] {
            if publish {
                node.apply(DENY);
            }
            for frame in [&arp, &solicitation, &report] {
                assert_eq!(node.from("x/a", frame), Infrastructure);
                assert_eq!(node.to("x/a", UPLINK, frame), Infrastructure);
            }
            // It did not come from this link.
            assert!(node.to("x/a", UPLINK, &far).is_drop());
        }
    });
}

#[test]
fn a_pod_is_closed_until_its_tables_are_published() {
    with_node(|node| {
        let syn = tcp(A, 1, STRANGER, 80, SYN);
        let probe = tcp("192.168.0.1", 1, A, 80, SYN);
        assert_eq!(node.from("x/a", &syn), Quarantined);
        assert_eq!(node.to("x/a", SELF, &probe), Quarantined);
        assert_eq!(node.from("x/a", &ethernet(0x8100)), Quarantined);
        node.apply("");
        assert_eq!(node.from("x/a", &syn), Unenforced);
        assert_eq!(node.from("x/a", &ethernet(0x8847)), Unenforced);
        let index = node.ifindex[&super::lab::key("x/a")];
        node.datapath.unbind(index).unwrap();
        assert_eq!(node.from("x/a", &syn), Quarantined);
    });
}

#[test]
fn an_interface_that_nobody_announced_is_closed() {
    with_node(|node| {
        node.apply("");
        // The loopback interface is no endpoint.
        let syn = tcp(A, 1, STRANGER, 80, SYN);
        for hook in [Hook::FromPod, Hook::ToPod] {
            assert_eq!(node.judge_on(hook, 1, UPLINK, &syn), UnknownInterface);
        }
    });
}

#[test]
fn what_is_not_ip_is_closed_to_pods_under_policy() {
    with_node(|node| {
        node.apply(DENY);
        for protocol in [0x8100, 0x88a8, 0x8847, 0x8864, 0x88cc, 0] {
            assert_eq!(node.from("x/a", &ethernet(protocol)), NotIp);
            assert_eq!(node.to("x/a", UPLINK, &ethernet(protocol)), NotIp);
            assert_eq!(node.from("y/a", &ethernet(protocol)), Unenforced);
        }
    });
}

#[test]
fn replies_pass_without_having_seen_the_connection_open() {
    with_node(|node| {
        node.apply(
            "
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: web, namespace: x}, spec: {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{ports: [{port: 80}]}], egress: [{ports: [{port: 443}]}]}}
",
        );
        // The pod as a server.
        assert_eq!(
            node.from("x/a", &tcp(A, 80, STRANGER, 4000, SYN | ACK)),
            Reply
        );
        assert_eq!(node.from("x/a", &tcp(A, 80, STRANGER, 4000, ACK)), Reply);
        assert_eq!(node.from("x/a", &tcp(A, 81, STRANGER, 4000, ACK)), Denied);
        assert_eq!(node.from("x/a", &tcp(A, 80, STRANGER, 4000, SYN)), Denied);
        // The pod as a client.
        assert_eq!(
            node.to("x/a", UPLINK, &tcp(STRANGER, 443, A, 4000, SYN | ACK)),
            Reply
        );
        assert_eq!(
            node.to("x/a", UPLINK, &tcp(STRANGER, 443, A, 4000, SYN)),
            Denied
        );
        assert_eq!(
            node.to("x/a", UPLINK, &tcp(STRANGER, 444, A, 4000, ACK)),
            Denied
        );
    });
}
