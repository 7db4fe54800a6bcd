// SPDX-License-Identifier: Apache-2.0
//! What happens to tables, programs and maps while agents come and go?

use std::{
    thread,
    time::{Duration, Instant},
};

use agent::datapath::{
    Attachment, Datapath, DatapathError, Hook, Options, Pinned, Switches, cleanup,
};
use policy_compiler::lower::Capacity;
use policy_ebpf_common::{
    abi::Cell,
    decide::Outcome::{self, Allowed, Denied, Quarantined, Unenforced},
    lookup::{Peer, Port, Question, cell},
    parse::Address,
};

use super::{
    frames::{SYN, echo, ethernet, tcp, udp},
    lab::{Node, SELF, UPLINK, fresh_root, in_own_namespace, key, may_run, with_node},
};

const A: &str = "10.0.1.1";
const PEER: &str = "203.0.113.9";

/// TCP `port` in and out, nothing else.
fn only(port: u16) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: only, namespace: x}}, \
         spec: {{podSelector: {{}}, policyTypes: [Ingress, Egress], ingress: [{{ports: [{{port: {port}}}]}}], \
         egress: [{{ports: [{{port: {port}}}]}}]}}}}"
    )
}

/// The kernel frees a link that lost its last reference in the background.
pub(crate) fn wait_until_gone(hook: Hook, ifindex: u32) {
    let start = Instant::now();
    while Node::programs(hook, ifindex) > 0 {
        assert!(start.elapsed() < Duration::from_secs(20), "still attached");
        thread::yield_now();
    }
}

#[test]
fn an_agent_that_starts_takes_over_what_it_finds() {
    with_node(|node| {
        node.apply(&only(80));
        let allowed = tcp(A, 1, PEER, 80, SYN);
        let denied = tcp(A, 1, PEER, 81, SYN);
        let before = node.datapath.endpoints();
        let generation = node.datapath.config().generation;
        node.restart();
        // The maps, and with them the verdicts, are as they were.
        let after = node.datapath.endpoints();
        assert_eq!(before.len(), after.len());
        for (before, after) in before.iter().zip(&after) {
            assert_eq!((before.ifindex, before.entry), (after.ifindex, after.entry));
            assert_eq!(after.pod, None);
        }
        assert_eq!(node.datapath.config().generation, generation);
        assert_eq!(node.from("x/a", &allowed), Allowed);
        assert_eq!(node.from("x/a", &denied), Denied);
        // Its programs are in the place of the old ones.
        let index = node.ifindex[&key("x/a")];
        assert_eq!(Node::programs(Hook::FromPod, index), 1);
        assert_eq!(node.datapath.maintain().unwrap().repaired, []);
        // It goes on from there.
        for (pod, index) in node.ifindex.clone() {
            node.datapath.bind(index, &pod).unwrap();
        }
        node.apply(&only(81));
        assert_eq!(node.from("x/a", &allowed), Denied);
        assert_eq!(node.from("x/a", &denied), Allowed);
    });
}

#[test]
fn an_endpoint_nobody_claims_is_denied_with_the_first_publication() {
    with_node(|node| {
        node.apply("");
        let frame = tcp(A, 1, PEER, 80, SYN);
        assert_eq!(node.from("x/a", &frame), Unenforced);
        node.restart();
        node.apply("");
        assert_eq!(node.from("x/a", &frame), Denied);
        let index = node.ifindex[&key("x/a")];
        node.datapath.bind(index, &key("x/a")).unwrap();
        node.apply("");
        assert_eq!(node.from("x/a", &frame), Unenforced);
    });
}

#[test]
fn tables_that_do_not_fit_change_nothing() {
    with_node(|node| {
        node.apply(&only(80));
        let generation = node.datapath.config().generation;
        let mut image = node.image(&only(81));
        let row = image.rows.first().copied().unwrap();
        image
            .rows
            .resize(node.datapath.capacity().rows as usize + 1, row);
        let error = node.datapath.publish(&image).unwrap_err();
        assert!(
            matches!(error, DatapathError::TooLarge { map: "ROWS", .. }),
            "{error}"
        );
        assert_eq!(node.datapath.config().generation, generation);
        assert_eq!(node.from("x/a", &tcp(A, 1, PEER, 80, SYN)), Allowed);
        assert_eq!(node.from("x/a", &tcp(A, 1, PEER, 81, SYN)), Denied);
    });
}

#[test]
fn many_publications_leave_the_last_one() {
    with_node(|node| {
        for round in 0..40_u16 {
            let port = 1000 + round;
            node.apply(&only(port));
            assert_eq!(node.from("x/a", &tcp(A, 1, PEER, port, SYN)), Allowed);
            assert_eq!(node.from("x/a", &tcp(A, 1, PEER, port - 1, SYN)), Denied);
            if round % 8 == 7 {
                // As if killed between two publications.
                node.restart();
                for (pod, index) in node.ifindex.clone() {
                    node.datapath.bind(index, &pod).unwrap();
                }
            }
        }
    });
}

#[test]
fn a_lost_program_is_put_back() {
    with_node(|node| {
        node.apply(&only(80));
        let index = node.ifindex[&key("x/a")];
        let pin = node
            .options
            .root
            .join(format!("netpol/v1/links/{index}-to_pod"));
        std::fs::remove_file(&pin).unwrap();
        wait_until_gone(Hook::ToPod, index);
        let done = node.datapath.maintain().unwrap();
        assert_eq!(done.repaired, [(Hook::ToPod, index)]);
        assert_eq!(done.failed, [""; 0]);
        assert_eq!(Node::programs(Hook::ToPod, index), 1);
    });
}

#[test]
fn audit_reports_but_lets_pass() {
    with_node(|node| {
        node.apply(&only(80));
        let mut events = node.datapath.events().unwrap();
        let denied = tcp(A, 1, PEER, 81, SYN);
        let index = node.ifindex[&key("x/a")];
        for whole_node in [true, false] {
            if whole_node {
                node.datapath.configure(&Switches {
                    audit: true,
                    ..Switches::default()
                });
            } else {
                node.datapath.configure(&Switches::default());
                node.datapath.set_flags(index, true, false).unwrap();
            }
            for frame in [&denied, &ethernet(0x8100), &echo(A, PEER, 1, false)] {
                assert!(node.from("x/a", frame).is_drop());
                assert!(
                    node.datapath
                        .test_run(Hook::FromPod, index, 0, frame)
                        .unwrap()
                );
            }
            let seen: Vec<_> = events.by_ref().collect();
            assert_eq!(seen.len(), 6);
            assert!(seen.iter().all(|event| event.audited == 1));
        }
        node.datapath.set_flags(index, false, false).unwrap();
        assert!(
            !node
                .datapath
                .test_run(Hook::FromPod, index, 0, &denied)
                .unwrap()
        );
        assert!(events.all(|event| event.audited == 0));
    });
}

#[test]
fn every_drop_is_reported_with_its_reason_within_the_budget() {
    with_node(|node| {
        node.apply(&only(80));
        node.datapath.configure(&Switches {
            events_per_second: 5,
            ..Switches::default()
        });
        let mut events = node.datapath.events().unwrap();
        assert_eq!(node.to("x/a", UPLINK, &udp(PEER, 7, A, 9)), Denied);
        let event = events.next().unwrap();
        assert_eq!(event.outcome(), Some(Denied));
        assert_eq!(event.source[12..], [203, 0, 113, 9]);
        assert_eq!(event.destination[12..], [10, 0, 1, 1]);
        assert_eq!(
            (event.source_port, event.destination_port),
            ([0, 7], [0, 9])
        );
        assert_eq!((event.protocol, event.direction), (17, 0));
        assert_eq!(event.ether_type, [8, 0]);
        let index = node.ifindex[&key("x/a")];
        let endpoint = node.datapath.endpoint(index).unwrap().entry;
        assert_eq!((event.ifindex, event.endpoint), (index, endpoint.id));
        let reason = Cell(event.cell).reason();
        let decision = node.reasons.get(reason).unwrap();
        assert_eq!(decision.verdict, policy_compiler::Verdict::Deny);
        let counted = node.datapath.rule_counter(reason).unwrap();
        assert_eq!(counted.packets, 1);
        assert_eq!(counted.bytes, 42);

        for _ in 0..100 {
            node.to("x/a", UPLINK, &udp(PEER, 7, A, 9));
        }
        let more = events.by_ref().count();
        assert!((4..50).contains(&more), "{more} events");
        // Nobody listening, nobody told.
        node.datapath.configure(&Switches {
            events_per_second: 0,
            ..Switches::default()
        });
        node.to("x/a", UPLINK, &udp(PEER, 7, A, 9));
        assert_eq!(events.next(), None);
    });
}

#[test]
fn what_is_loaded_can_be_read_without_the_agent() {
    with_node(|node| {
        node.apply(&only(80));
        assert_eq!(node.to("x/a", SELF, &udp("192.168.0.1", 1, A, 2)), Allowed);
        let pinned = Pinned::open(&node.options.root).unwrap();
        let bank = pinned.bank();
        let index = node.ifindex[&key("x/a")];
        let endpoint = pinned
            .endpoints()
            .into_values()
            .find(|endpoint| endpoint.ifindex == index)
            .unwrap();
        let rows = endpoint.rows[bank.number as usize];
        for (port, action) in [(80, Cell::ALLOW), (81, Cell::DENY)] {
            let question = Question {
                row: u16::try_from(rows >> 16).unwrap(),
                peer: Peer::Address,
                address: Address::v4([203, 0, 113, 9]),
                ipv6: false,
                egress: true,
                protocol: 6,
                port: Port::Known(port),
            };
            assert_eq!(cell(&pinned, &bank, &question).action(), action);
        }
        let flows = pinned.flows().unwrap();
        assert_eq!(flows.len(), 1);
        assert_eq!(flows[0].endpoint, endpoint.id);
        assert_eq!(pinned.links().unwrap().len(), 2 * node.ifindex.len());
        let counters = pinned.outcome_counters().unwrap();
        let allowed: u64 = counters
            .iter()
            .filter(|(_, outcome, _)| *outcome == Outcome::Allowed)
            .map(|(_, _, counter)| counter.packets)
            .sum();
        assert_eq!(allowed, 1);
    });
}

#[test]
fn programs_attach_without_tcx_too() {
    if !may_run() {
        return;
    }
    in_own_namespace(|here| {
        let root = fresh_root();
        let options = Options {
            root: root.path.clone(),
            flows: 64,
            attachment: Some(Attachment::Clsact),
            ..Options::default()
        };
        let links = agent::net::Netlink::open(here).unwrap();
        links.add_veth("pod", "in", here).unwrap();
        let index = links.link_named("pod").unwrap().unwrap().index;
        for _ in 0..2 {
            let mut datapath = Datapath::open(&options).unwrap();
            assert_eq!(datapath.attachment(), Attachment::Clsact);
            datapath.add(index, agent::datapath::Origin::New).unwrap();
            // Put back in any case, reported only where it was missing.
            assert_eq!(datapath.maintain().unwrap().repaired, []);
        }
        let filters = |side: &str| {
            let output = std::process::Command::new("tc")
                .args(["filter", "show", "dev", "pod", side])
                .output()
                .unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            text.matches("direct-action").count()
        };
        assert_eq!([filters("ingress"), filters("egress")], [1, 1]);
        cleanup(&options.root).unwrap();
        assert_eq!([filters("ingress"), filters("egress")], [0, 0]);
        let mut datapath = Datapath::open(&options).unwrap();
        datapath.remove(index).unwrap();
        // A second time there is nothing to remove.
        datapath.remove(index).unwrap();
        datapath.remove(4242).unwrap();
    });
}

#[test]
fn cleaning_up_leaves_nothing() {
    with_node(|node| {
        node.apply(&only(80));
        let index = node.ifindex[&key("x/a")];
        assert_eq!(Node::programs(Hook::FromPod, index), 1);
        cleanup(&node.options.root).unwrap();
        wait_until_gone(Hook::FromPod, index);
        assert!(!node.options.root.join("netpol").exists());
        cleanup(&node.options.root).unwrap();
        assert!(matches!(
            Pinned::open(&node.options.root),
            Err(DatapathError::NotRunning { .. })
        ));
    });
}

#[test]
fn capacity_is_kept_by_maps_that_exist() {
    with_node(|node| {
        let small = Capacity {
            rows: 128,
            ..Capacity::default()
        };
        node.options.capacity = small;
        let before = *node.datapath.capacity();
        node.restart();
        assert_eq!(*node.datapath.capacity(), before);
        assert_eq!(node.from("x/a", &tcp(A, 1, PEER, 80, SYN)), Quarantined);
    });
}

#[test]
fn lost_pins_are_put_back() {
    with_node(|node| {
        node.apply(&only(80));
        let index = node.ifindex[&key("x/a")];
        std::fs::remove_dir_all(node.options.root.join("netpol")).unwrap();
        assert!(Pinned::open(&node.options.root).is_err());
        node.datapath.maintain().unwrap();
        for hook in [Hook::FromPod, Hook::ToPod] {
            assert_eq!(Node::programs(hook, index), 1);
        }
        // Who comes next finds everything as it was.
        let pinned = Pinned::open(&node.options.root).unwrap();
        assert_eq!(pinned.links().unwrap().len(), 2 * node.ifindex.len());
        node.restart();
        for hook in [Hook::FromPod, Hook::ToPod] {
            assert_eq!(Node::programs(hook, index), 1);
        }
        assert_eq!(node.from("x/a", &tcp(A, 1, PEER, 80, SYN)), Allowed);
        assert_eq!(node.from("x/a", &tcp(A, 1, PEER, 81, SYN)), Denied);
    });
}

#[test]
fn programs_of_others_ahead_of_ours_are_noticed() {
    with_node(|node| {
        node.apply("");
        assert_eq!(node.datapath.maintain().unwrap().ahead, []);
        let index = node.ifindex[&key("x/a")];
        let root = fresh_root();
        let options = Options {
            root: root.path.clone(),
            flows: 64,
            ..Options::default()
        };
        // First on what comes from the pod, as ours was.
        let mut other = Datapath::open(&options).unwrap();
        other.add(index, agent::datapath::Origin::New).unwrap();
        let ahead = node.datapath.maintain().unwrap().ahead;
        assert_eq!(ahead, [(index, "from_pod".to_owned())]);
        assert_eq!(other.maintain().unwrap().ahead, []);
    });
}

/// What `tc` says.
pub(crate) fn tc(arguments: &str) -> String {
    let output = std::process::Command::new("tc")
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    assert!(output.status.success(), "tc {arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn filters_of_others_are_noticed_and_left_alone() {
    if !may_run() {
        return;
    }
    in_own_namespace(|here| {
        let root = fresh_root();
        let options = Options {
            root: root.path.clone(),
            flows: 64,
            attachment: Some(Attachment::Clsact),
            ..Options::default()
        };
        let links = agent::net::Netlink::open(here).unwrap();
        let [alone, shared] = ["alone", "shared"].map(|name| {
            links.add_veth(name, &format!("in-{name}"), here).unwrap();
            links.link_named(name).unwrap().unwrap().index
        });
        tc("qdisc add dev shared clsact");
        let filter = |place: &str| {
            let mut command = std::process::Command::new("tc");
            command
                .args(["filter", "add", "dev"])
                .args(place.split(' '));
            // TC_ACT_OK, as classic BPF.
            command.args(["bpf", "da", "bytecode", "1,6 0 0 0"]);
            assert!(command.status().unwrap().success());
        };
        filter("shared ingress prio 9");
        let mut datapath = Datapath::open(&options).unwrap();
        for index in [alone, shared] {
            datapath.add(index, agent::datapath::Origin::New).unwrap();
        }
        assert_eq!(datapath.maintain().unwrap().ahead, []);
        filter("alone egress prio 1");
        let ahead = datapath.maintain().unwrap().ahead;
        assert_eq!(ahead, [(alone, "bpf filter of priority 1".to_owned())]);
        tc("filter del dev alone egress prio 1");
        assert_eq!(datapath.maintain().unwrap().ahead, []);

        // What we made goes, what we found stays.
        drop(datapath);
        cleanup(&options.root).unwrap();
        assert!(!tc("qdisc show dev alone").contains("clsact"));
        assert!(tc("qdisc show dev shared").contains("clsact"));
        let filters = links.filters(shared).unwrap();
        assert_eq!(filters.len(), 1, "{filters:?}");
        assert_eq!((filters[0].egress, filters[0].priority), (false, 9));
    });
}

#[test]
fn a_slot_rests_before_it_is_used_again() {
    with_node(|node| {
        node.apply("");
        let index = node.ifindex[&key("x/a")];
        let before = node.datapath.endpoint(index).unwrap().slot;
        node.datapath.remove(index).unwrap();
        // Packets on their way still name the slot by its number.
        node.datapath
            .add(index, agent::datapath::Origin::New)
            .unwrap();
        let after = node.datapath.endpoint(index).unwrap();
        assert_ne!(after.slot, before);
        node.datapath.bind(index, &key("x/a")).unwrap();
        node.apply(&only(80));
        assert_eq!(node.from("x/a", &tcp(A, 1, PEER, 80, SYN)), Allowed);
        assert_eq!(node.from("x/a", &tcp(A, 1, PEER, 81, SYN)), Denied);
    });
}
