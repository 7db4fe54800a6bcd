// SPDX-License-Identifier: Apache-2.0
//! What is remembered of flows, and when is it not believed?

use agent::datapath::{Origin, Switches};
use policy_ebpf_common::decide::Outcome::{
    Allowed, Denied, Established, Quarantined, Reply, Unenforced,
};

use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};

use super::{
    frames::{ACK, RST, SYN, echo, sctp, tcp, udp},
    lab::{Node, SELF, UPLINK, key, with_node},
};

const A: &str = "10.0.1.1";
const PEER: &str = "203.0.113.9";

/// DNS and web out, DNS in, echo nowhere.
const DNS: &str = "
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: dns, namespace: x}, spec: {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{ports: [{protocol: UDP, port: 5353}]}], egress: [{ports: [{protocol: UDP, port: 53}, {port: 443}, {protocol: SCTP, port: 9}]}]}}
";

/// The same with nothing out.
const NOTHING_OUT: &str = "
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: dns, namespace: x}, spec: {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{ports: [{protocol: UDP, port: 5353}]}]}}
";

/// Only ingress, and nothing in.
const NOTHING_IN: &str = "
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: in, namespace: x}, spec: {podSelector: {}, policyTypes: [Ingress]}}
";

fn switch(node: &mut Node, change: impl FnOnce(&mut Switches)) {
    let mut switches = Switches::default();
    change(&mut switches);
    node.datapath.configure(&switches);
}

#[test]
fn a_datagram_is_answered_only_after_it_was_sent() {
    with_node(|node| {
        for policy in [DNS, NOTHING_IN] {
            node.apply(policy);
            let port = if policy == DNS { 4000 } else { 4001 };
            let question = udp(A, port, PEER, 53);
            let answer = udp(PEER, 53, A, port);
            assert_eq!(node.to("x/a", UPLINK, &answer), Denied);
            assert!(!node.from("x/a", &question).is_drop());
            assert_eq!(node.to("x/a", UPLINK, &answer), Established);
            // Another port, another peer, another pod: not what was asked.
            assert_eq!(node.to("x/a", UPLINK, &udp(PEER, 53, A, 9)), Denied);
            assert_eq!(node.to("x/a", UPLINK, &udp(PEER, 54, A, port)), Denied);
            let elsewhere = udp("203.0.113.8", 53, A, port);
            assert_eq!(node.to("x/a", UPLINK, &elsewhere), Denied);
        }
    });
}

#[test]
fn a_pod_cannot_use_anothers_flows() {
    with_node(|node| {
        let both = format!(
            "{DNS}---\n{}",
            DNS.replace("namespace: x", "namespace: 'y'")
        );
        node.apply(&both);
        assert_eq!(node.from("x/a", &udp(A, 4000, PEER, 53)), Allowed);
        // Forged from another pod, or arriving there.
        assert_eq!(node.to("y/a", UPLINK, &udp(PEER, 53, A, 4000)), Denied);
        assert_eq!(node.from("y/a", &udp(PEER, 53, A, 4000)), Denied);
        assert_eq!(node.to("x/a", UPLINK, &udp(PEER, 53, A, 4000)), Established);
    });
}

#[test]
fn an_echo_is_answered_but_not_asked_back() {
    with_node(|node| {
        node.apply(NOTHING_IN);
        for (pod, peer) in [(A, PEER), ("fd00:1::1", "2001:db8::9")] {
            assert_eq!(node.to("x/a", UPLINK, &echo(peer, pod, 7, true)), Denied);
            assert_eq!(node.from("x/a", &echo(pod, peer, 7, false)), Unenforced);
            assert_eq!(
                node.to("x/a", UPLINK, &echo(peer, pod, 7, true)),
                Established
            );
            assert_eq!(node.to("x/a", UPLINK, &echo(peer, pod, 7, false)), Denied);
            assert_eq!(node.to("x/a", UPLINK, &echo(peer, pod, 8, true)), Denied);
        }
    });
}

#[test]
fn an_association_is_tracked_like_a_datagram() {
    with_node(|node| {
        node.apply(DNS);
        assert_eq!(node.to("x/a", UPLINK, &sctp(PEER, 9, A, 4000)), Denied);
        assert_eq!(node.from("x/a", &sctp(A, 4000, PEER, 9)), Allowed);
        assert_eq!(node.to("x/a", UPLINK, &sctp(PEER, 9, A, 4000)), Established);
    });
}

#[test]
fn a_change_of_policy_acts_on_the_next_packet() {
    with_node(|node| {
        node.apply(DNS);
        let question = udp(A, 4000, PEER, 53);
        let answer = udp(PEER, 53, A, 4000);
        let segment = tcp(A, 4000, PEER, 443, ACK);
        let reply = tcp(PEER, 443, A, 4000, ACK);
        assert_eq!(node.from("x/a", &question), Allowed);
        assert_eq!(node.to("x/a", UPLINK, &answer), Established);
        assert_eq!(node.from("x/a", &segment), Allowed);
        assert_eq!(node.to("x/a", UPLINK, &reply), Reply);
        // An unrelated change: judged again, with the same result.
        node.apply(&format!(
            "{DNS}---\n{}",
            NOTHING_IN.replace("namespace: x", "namespace: 'y'")
        ));
        assert_eq!(node.to("x/a", UPLINK, &answer), Established);
        // The policy that admitted them goes.
        node.apply(NOTHING_OUT);
        for frame in [&answer, &reply] {
            assert_eq!(node.to("x/a", UPLINK, frame), Denied);
        }
        for frame in [&question, &segment] {
            assert_eq!(node.from("x/a", frame), Denied);
        }
        // Forgotten, not just suspended.
        node.apply(DNS);
        assert_eq!(node.to("x/a", UPLINK, &answer), Denied);
    });
}

#[test]
fn a_busy_flow_is_judged_by_the_tables_of_now() {
    with_node(|node| {
        // On one processor, which then knows the flows without looking them up.
        let mut processors = CpuSet::new();
        processors.set(sched_getcpu());
        sched_setaffinity(None, &processors).expect("affinity");
        for (pod, peer) in [(A, PEER), ("fd00:1::1", "2001:db8::9")] {
            let flows = [
                (udp(pod, 4000, peer, 53), udp(peer, 53, pod, 4000)),
                (
                    tcp(pod, 4000, peer, 443, SYN),
                    tcp(peer, 443, pod, 4000, SYN | ACK),
                ),
            ];
            for _ in 0..2 {
                node.apply(DNS);
                for (opener, answer) in &flows {
                    assert_eq!(node.to("x/a", UPLINK, &udp(peer, 53, pod, 9)), Denied);
                    assert_eq!(node.from("x/a", opener), Allowed);
                    for _ in 0..8 {
                        assert_eq!(node.to("x/a", UPLINK, answer), Established);
                    }
                }
                // Addresses and ports are those of a flow of the first pod.
                node.apply(&format!(
                    "{DNS}---\n{}",
                    DNS.replace("namespace: x", "namespace: 'y'")
                ));
                for (_, answer) in &flows {
                    assert_eq!(node.to("x/a", UPLINK, answer), Established);
                    assert_eq!(node.to("x/a", UPLINK, answer), Established);
                }
                let (_, datagram) = &flows[0];
                assert_eq!(node.to("y/a", UPLINK, datagram), Denied);
                node.apply(NOTHING_OUT);
                for (opener, answer) in &flows {
                    assert_eq!(node.to("x/a", UPLINK, answer), Denied);
                    assert_eq!(node.from("x/a", opener), Denied);
                }
            }
        }
    });
}

#[test]
fn a_reply_does_not_take_a_flow_over() {
    const DNS_OUT: &str = "
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: out, namespace: x}, spec: {podSelector: {}, policyTypes: [Egress], egress: [{ports: [{protocol: UDP, port: 53}]}, {to: [{ipBlock: {cidr: 203.0.113.0/24}}]}]}}
";
    const DNS_IN: &str = "
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: out, namespace: x}, spec: {podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24}}]}]}}
";
    let closed =
        |policy: &str, rules: &str| format!("{}}}}}\n", policy.split(rules).next().unwrap());
    let no_out = closed(DNS_OUT, ", egress: [{");
    let no_in = closed(DNS_IN, ", ingress: [{");
    with_node(|node| {
        for (question, answer) in [
            (udp(A, 4000, PEER, 53), udp(PEER, 53, A, 4000)),
            (echo(A, PEER, 7, false), echo(PEER, A, 7, true)),
        ] {
            // Only what goes out is policed, so replies need no memory; the flow is the pod's even so.
            node.apply(DNS_OUT);
            assert_eq!(node.from("x/a", &question), Allowed);
            assert_eq!(node.to("x/a", UPLINK, &answer), Unenforced);
            node.apply(&no_out);
            assert_eq!(node.from("x/a", &question), Denied);
        }
        for (question, answer) in [
            (udp(PEER, 4000, A, 53), udp(A, 53, PEER, 4000)),
            (echo(PEER, A, 7, false), echo(A, PEER, 7, true)),
        ] {
            node.apply(DNS_IN);
            assert_eq!(node.to("x/a", UPLINK, &question), Allowed);
            assert_eq!(node.from("x/a", &answer), Unenforced);
            node.apply(&no_in);
            assert_eq!(node.to("x/a", UPLINK, &question), Denied);
        }
    });
}

#[test]
fn a_segment_does_not_take_a_connection_over() {
    const OTHER: &str = "192.168.0.1";
    let policy = |egress: &str| {
        format!(
            "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: both, namespace: x}}, spec: {{podSelector: {{}}, policyTypes: [Ingress, Egress], ingress: [{{}}], egress: [{egress}]}}}}\n"
        )
    };
    with_node(|node| {
        let segment = tcp(A, 4000, OTHER, 80, ACK);
        let reply = tcp(OTHER, 80, A, 4000, ACK);
        node.apply(&policy("{}"));
        assert_eq!(node.from("x/a", &tcp(A, 4000, OTHER, 80, SYN)), Allowed);
        // Tables of another generation, by which the node could have opened it as well.
        node.apply(&policy("{}, {ports: [{port: 1}]}"));
        assert!(!node.to("x/a", SELF, &reply).is_drop());
        assert!(!node.from("x/a", &segment).is_drop());
        assert!(!node.to("x/a", SELF, &reply).is_drop());
        node.apply(&policy("{ports: [{port: 1}]}"));
        assert_eq!(node.from("x/a", &segment), Denied);
    });
}

#[test]
fn a_policy_cuts_what_was_opened_against_it_and_nothing_else() {
    with_node(|node| {
        // Nobody polices the pod yet.
        node.apply(&NOTHING_IN.replace("namespace: x", "namespace: 'y'"));
        assert_eq!(
            node.to("x/a", UPLINK, &tcp(PEER, 4000, A, 80, SYN)),
            Unenforced
        );
        assert_eq!(node.from("x/a", &tcp(A, 4001, PEER, 443, SYN)), Unenforced);
        node.apply(NOTHING_IN);
        // Opened by the peer: egress is open, but this is no reply.
        assert_eq!(node.to("x/a", UPLINK, &tcp(PEER, 4000, A, 80, ACK)), Denied);
        // Opened by the pod.
        assert_eq!(
            node.to("x/a", UPLINK, &tcp(PEER, 443, A, 4001, ACK)),
            Established
        );
        // Older than the programs: it may be a reply.
        assert_eq!(node.to("x/a", UPLINK, &tcp(PEER, 443, A, 4002, ACK)), Reply);
    });
}

#[test]
fn established_flows_can_be_kept() {
    with_node(|node| {
        switch(node, |switches| switches.keep_established = true);
        node.apply(DNS);
        let question = udp(A, 4000, PEER, 53);
        let answer = udp(PEER, 53, A, 4000);
        let segment = tcp(A, 4000, PEER, 443, ACK);
        let reply = tcp(PEER, 443, A, 4000, ACK);
        assert_eq!(node.from("x/a", &question), Allowed);
        assert_eq!(node.from("x/a", &tcp(A, 4000, PEER, 443, SYN)), Allowed);
        node.apply(NOTHING_OUT);
        assert_eq!(node.from("x/a", &question), Established);
        assert_eq!(node.to("x/a", UPLINK, &answer), Established);
        assert_eq!(node.from("x/a", &segment), Established);
        assert_eq!(node.to("x/a", UPLINK, &reply), Established);
        // New ones are not.
        assert_eq!(node.from("x/a", &tcp(A, 4000, PEER, 443, SYN)), Denied);
        assert_eq!(node.from("x/a", &udp(A, 4001, PEER, 53)), Denied);
    });
}

#[test]
fn strict_mode_wants_to_have_seen_the_connection_open() {
    with_node(|node| {
        switch(node, |switches| switches.strict_tcp = true);
        node.apply(DNS);
        let reply = tcp(PEER, 443, A, 4000, SYN | ACK);
        assert_eq!(node.to("x/a", UPLINK, &reply), Denied);
        assert_eq!(node.from("x/a", &tcp(A, 4000, PEER, 443, SYN)), Allowed);
        assert_eq!(node.to("x/a", UPLINK, &reply), Established);
        assert_eq!(
            node.to("x/a", UPLINK, &tcp(PEER, 443, A, 4001, ACK)),
            Denied
        );
    });
}

#[test]
fn answers_to_the_node_pass_whatever_its_addresses_are() {
    with_node(|node| {
        node.apply(NOTHING_OUT);
        let node_address = "192.168.0.1";
        // TCP: the table knows the node by where its packets are made, the answer only says where
        // they go.
        let answer = tcp(A, 8080, node_address, 4000, ACK);
        assert_eq!(node.from("x/a", &answer), Denied);
        assert_eq!(
            node.to("x/a", SELF, &tcp(node_address, 4000, A, 8080, SYN)),
            Allowed
        );
        assert_eq!(node.from("x/a", &answer), Established);
        // A connection older than the programs is picked up with the node's next segment.
        assert_eq!(
            node.to("x/a", SELF, &tcp(node_address, 4001, A, 8080, ACK)),
            Allowed
        );
        assert_eq!(
            node.from("x/a", &tcp(A, 8080, node_address, 4001, ACK)),
            Established
        );
        // UDP, across a change of tables: still the node, though its address is admitted nothing.
        assert_eq!(
            node.to("x/a", SELF, &udp(node_address, 4000, A, 53)),
            Allowed
        );
        node.apply(NOTHING_OUT);
        assert_eq!(
            node.from("x/a", &udp(A, 53, node_address, 4000)),
            Established
        );
    });
}

#[test]
fn the_time_of_pick_up_is_for_pods_that_were_running() {
    with_node(|node| {
        node.apply(DNS);
        let index = node.ifindex[&key("x/a")];
        let answer = udp(PEER, 53, A, 4000);
        assert_eq!(node.to("x/a", UPLINK, &answer), Denied);
        node.datapath.remove(index).unwrap();
        node.datapath.add(index, Origin::Running).unwrap();
        assert_eq!(node.to("x/a", UPLINK, &answer), Quarantined);
        node.datapath.bind(index, &key("x/a")).unwrap();
        assert_eq!(node.to("x/a", UPLINK, &answer), Reply);
        assert_eq!(node.to("x/a", UPLINK, &udp(PEER, 54, A, 4000)), Denied);
    });
}

#[test]
fn an_interface_number_used_again_inherits_nothing() {
    with_node(|node| {
        node.apply(DNS);
        assert_eq!(node.from("x/a", &udp(A, 4000, PEER, 53)), Allowed);
        let index = node.ifindex[&key("x/a")];
        let before = node.datapath.endpoint(index).unwrap().entry.id;
        node.datapath.remove(index).unwrap();
        node.datapath.add(index, Origin::New).unwrap();
        node.datapath.bind(index, &key("x/a")).unwrap();
        assert_ne!(node.datapath.endpoint(index).unwrap().entry.id, before);
        assert_eq!(node.to("x/a", UPLINK, &udp(PEER, 53, A, 4000)), Denied);
    });
}

#[test]
fn eviction_loses_no_connection() {
    with_node(|node| {
        node.apply(DNS);
        // Many more flows than there is room for.
        for port in 1..=5000 {
            assert_eq!(node.from("x/a", &tcp(A, port, PEER, 443, SYN)), Allowed);
            assert_eq!(node.from("x/a", &udp(A, port, PEER, 53)), Allowed);
        }
        for port in (1..=5000).step_by(97) {
            let reply = tcp(PEER, 443, A, port, ACK);
            let outcome = node.to("x/a", UPLINK, &reply);
            assert!(matches!(outcome, Reply | Established), "{outcome:?}");
            let forbidden = tcp(PEER, 444, A, port, ACK);
            assert_eq!(node.to("x/a", UPLINK, &forbidden), Denied);
        }
    });
}

#[test]
fn idle_flows_are_forgotten_and_live_ones_kept() {
    with_node(|node| {
        switch(node, |switches| {
            switches.timeouts.udp = std::time::Duration::ZERO;
        });
        node.apply(DNS);
        assert_eq!(node.from("x/a", &udp(A, 4000, PEER, 53)), Allowed);
        let alive = |node: &Node| {
            let mut ports: Vec<_> = node
                .datapath
                .flows()
                .unwrap()
                .iter()
                .map(|flow| flow.local_port)
                .collect();
            ports.sort_unstable();
            ports
        };
        assert!(alive(node).contains(&4000));
        while alive(node).contains(&4000) {
            node.datapath.maintain().unwrap();
        }
        assert_eq!(node.to("x/a", UPLINK, &udp(PEER, 53, A, 4000)), Denied);
        // A closed connection of the node's goes, an open one stays.
        switch(node, |switches| {
            switches.timeouts.other = std::time::Duration::ZERO;
        });
        let of = |port, flags| tcp("192.168.0.1", port, A, 8080, flags);
        assert_eq!(node.to("x/a", SELF, &of(1, SYN)), Allowed);
        assert_eq!(node.to("x/a", SELF, &of(2, SYN)), Allowed);
        assert_eq!(node.to("x/a", SELF, &of(2, RST)), Allowed);
        let remote = |node: &Node| {
            let flows = node.datapath.flows().unwrap();
            let mut ports: Vec<_> = flows.iter().map(|flow| flow.remote_port).collect();
            ports.sort_unstable();
            ports
        };
        while remote(node).contains(&2) {
            node.datapath.maintain().unwrap();
        }
        assert!(remote(node).contains(&1));
    });
}
