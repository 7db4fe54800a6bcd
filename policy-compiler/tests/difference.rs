// SPDX-License-Identifier: Apache-2.0
//! Is the difference of two sets of policies exactly what the oracle says flow by flow, also for pods that
//! do not exist yet?
#![expect(clippy::expect_used, reason = "tests fail loudly")]

mod facts;
mod suite;

use std::sync::Arc;

use facts::complete;
use policy_compiler::{
    Flow, Snapshot, Verdict,
    difference::{self, Change, Condition, Difference, End, Kind, Role, Witness},
    manifest,
    model::{ContainerPort, Family, Pod, PodKey, Protocol},
    parse,
    partial::{Assumptions, Evaluator},
    reference,
    strategies::{self, Settings, interesting_ports, snapshot},
    symbolic::Symbols,
    verdict::Endpoint,
};
use proptest::{collection::vec, prelude::*};
use suite::{EVERYTHING, check};

/// A cluster under two sets of policies, of which the second mostly keeps what the first has.
fn two_states() -> impl Strategy<Value = (Snapshot, Snapshot)> {
    let settings = Settings {
        network_policies: 3,
        pods: 5,
        ..Settings::default()
    };
    (snapshot(settings), snapshot(settings), 0..3_usize).prop_map(|(before, other, keep)| {
        let before = complete(before);
        let mut after = before.clone();
        match keep {
            // A policy less.
            0 => {
                after.network_policies.pop_last();
            }
            1 => {
                after.admin_policies.pop_first();
            }
            // Others.
            _ => {
                after.network_policies = other.network_policies;
                after.admin_policies = other.admin_policies;
                for (namespace, _) in after.network_policies.clone().keys() {
                    after.ensure_namespace(namespace);
                }
            }
        }
        let mut before = before;
        for name in after.namespaces.keys() {
            before.ensure_namespace(name);
        }
        (before, after)
    })
}

fn compare(before: &Snapshot, after: &Snapshot) -> (Difference, Symbols) {
    let symbols = Symbols::of(&[before, after], &[], 2000).expect("the pools are small");
    let (before, after) = (symbols.join(before), symbols.join(after));
    let of = |snapshot| Evaluator::new(snapshot, Assumptions::default(), Vec::new());
    let difference = difference::between(&of(&before), &of(&after), &symbols);
    (difference, symbols)
}

fn covers(change: &Change, flow: &Flow) -> bool {
    let holds = |ends: &[End], wanted: &Endpoint| {
        ends.iter().any(|end| match (end, wanted) {
            (End::Endpoint(end), wanted) => end == wanted,
            (End::Range(networks), Endpoint::Address(address)) => {
                networks.iter().any(|network| network.contains(address))
            }
            (End::Range(_), Endpoint::Pod(_) | Endpoint::Node(_)) => false,
        })
    };
    change.family.is_none_or(|family| family == flow.family)
        && change.through_service == flow.via_service
        && holds(&change.sources, &flow.source)
        && holds(&change.destinations, &flow.destination)
        && *change.ports.at(flow.protocol, flow.port)
}

#[test]
fn the_difference_is_what_the_oracle_says() {
    let own = ["gained", "lost", "same", "range", "through a service"];
    let required: Vec<&str> = EVERYTHING.into_iter().chain(own).collect();
    let worlds = (two_states().boxed(), vec(strategies::probe(), 48));
    check(
        "difference",
        10_000,
        worlds,
        &required,
        |((before, after), probes), met| {
            let (difference, _) = compare(&before, &after);
            let ports = interesting_ports(&after);
            let mut addresses = strategies::interesting_addresses(&before);
            addresses.extend(strategies::interesting_addresses(&after));
            for probe in &probes {
                let mut flow = probe.place(&after, &addresses, &ports);
                flow.via_service &= flow.source == flow.destination;
                let on_wire = flow.port > 0 || flow.protocol == Protocol::Other;
                if !on_wire || !is_compared(&before, &flow) {
                    continue;
                }
                if flow.source == flow.destination && !flow.via_service {
                    continue;
                }
                let was = reference::evaluate(&before, &flow);
                met.trace(&was);
                let was = was.verdict;
                let is = reference::evaluate(&after, &flow).verdict;
                let expected = match (was, is) {
                    (Verdict::Deny, Verdict::Allow) => Some(Kind::Gained),
                    (Verdict::Allow, Verdict::Deny) => Some(Kind::Lost),
                    (Verdict::Allow, Verdict::Allow) | (Verdict::Deny, Verdict::Deny) => None,
                };
                let found: Vec<&Change> = difference
                    .changes
                    .iter()
                    .filter(|change| covers(change, &flow))
                    .collect();
                met.met(match expected {
                    Some(Kind::Gained) => "gained",
                    Some(_) => "lost",
                    None => "same",
                });
                if expected.is_some() && flow.via_service {
                    met.met("through a service");
                }
                if expected.is_some() && matches!(flow.source, Endpoint::Address(_)) {
                    met.met("range");
                }
                match expected {
                    Some(kind) => prop_assert!(
                        found.iter().any(|change| change.kind == kind)
                            && found.iter().all(|change| change.kind == kind),
                        "{:?} of {:?}, found {:?}",
                        kind,
                        flow,
                        found
                    ),
                    None => prop_assert!(
                        found.is_empty(),
                        "{:?} is the same, found {:?}",
                        flow,
                        found
                    ),
                }
            }
            Ok(())
        },
    );
}

/// A node reaches its own pods whatever isolates them: opening them changes that for other nodes only.
#[test]
fn a_node_gains_nothing_toward_its_own_pods() {
    let objects = |policies: &str| {
        let nodes = [("n1", "192.168.0.1"), ("n2", "192.168.0.2")].map(|(name, address)| {
            format!(
                "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n\
                 status: {{addresses: [{{type: InternalIP, address: {address}}}]}}\n---\n"
            )
        });
        let pods =
            [("a", "n1", "10.0.0.1"), ("b", "n2", "10.0.0.2")].map(|(name, node, address)| {
                format!(
                    "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: y}}\n\
                 spec: {{nodeName: {node}}}\nstatus: {{podIP: {address}}}\n---\n"
                )
            });
        let text = nodes.concat() + &pods.concat() + policies;
        manifest::load([("world.yaml", text.as_str())], &parse::Settings::default()).snapshot
    };
    let closed = objects(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: closed, namespace: y}\n\
         spec: {podSelector: {}}\n",
    );
    let (difference, _) = compare(&closed, &objects(""));
    let flow = |node: &str, pod: &str| Flow {
        source: Endpoint::Node(node.into()),
        destination: Endpoint::Pod(PodKey {
            namespace: "y".into(),
            name: pod.into(),
        }),
        protocol: Protocol::Tcp,
        port: 80,
        family: Family::V4,
        via_service: false,
    };
    let gains = |node, pod| {
        let flow = flow(node, pod);
        difference
            .changes
            .iter()
            .any(|change| covers(change, &flow))
    };
    assert!(!gains("n1", "a") && !gains("n2", "b"));
    assert!(gains("n1", "b") && gains("n2", "a"));
}

/// Ends that stand for themselves, and addresses that nobody owns; each with an address of the family.
fn is_compared(snapshot: &Snapshot, flow: &Flow) -> bool {
    let has_family = |addresses: &[std::net::IpAddr]| {
        addresses
            .iter()
            .any(|address| address.is_ipv4() == (flow.family == Family::V4))
    };
    [&flow.source, &flow.destination]
        .into_iter()
        .all(|end| match end {
            Endpoint::Pod(key) => snapshot
                .pods
                .get(key)
                .is_some_and(|pod| pod.is_policed() && has_family(&pod.addresses)),
            Endpoint::Node(name) => snapshot
                .nodes
                .get(name)
                .is_some_and(|node| has_family(&node.addresses)),
            Endpoint::Address(address) => {
                snapshot.pod_at(*address).is_none()
                    && snapshot.node_at(*address).is_none()
                    && address.is_ipv4() == (flow.family == Family::V4)
                    && !snapshot
                        .services
                        .values()
                        .any(|it| it.addresses.contains(address))
                    && !snapshot
                        .pods
                        .values()
                        .any(|it| it.addresses.contains(address))
                    && !snapshot
                        .options
                        .service_cidrs
                        .iter()
                        .any(|it| it.contains(address))
            }
        })
}

/// Every change is real: its witness, made into objects, is a flow with two verdicts.
#[test]
fn witnesses_are_real() {
    let required = ["symbol", "address", "port name", "real", "none"];
    check(
        "witness",
        10_000,
        two_states().boxed(),
        &required,
        |(before, after), met| {
            let (difference, symbols) = compare(&before, &after);
            if difference.changes.is_empty() {
                met.met("none");
            }
            for change in &difference.changes {
                let witness = &change.witness;
                if matches!(change.kind, Kind::Unclear | Kind::Undecided) {
                    continue;
                }
                let flow = |snapshot: &Snapshot| built(snapshot, &symbols, change);
                let ((before, flow), (after, _)) = (flow(&before), flow(&after));
                let was = reference::evaluate(&before, &flow);
                met.trace(&was);
                let was = was.verdict;
                let is = reference::evaluate(&after, &flow).verdict;
                let expected = match change.kind {
                    Kind::Gained => (Verdict::Deny, Verdict::Allow),
                    Kind::Lost | Kind::Unclear | Kind::Undecided => (Verdict::Allow, Verdict::Deny),
                };
                prop_assert_eq!(
                    (was, is),
                    expected,
                    "{:?} as {:?} in {:?} and {:?}",
                    change,
                    flow,
                    before,
                    after
                );
                met.met(if is_new(&symbols, &witness.source) {
                    "symbol"
                } else {
                    "real"
                });
                for condition in &witness.conditions {
                    met.met(match condition {
                        Condition::Address(..) => "address",
                        Condition::RunsOn(..) => "node",
                        Condition::PortNames(_) | Condition::TooManyPortNames(_) => "port name",
                    });
                }
            }
            Ok(())
        },
    );
}

fn is_new(symbols: &Symbols, end: &Endpoint) -> bool {
    match end {
        Endpoint::Pod(key) => symbols.contains(key),
        Endpoint::Node(_) | Endpoint::Address(_) => false,
    }
}

/// The snapshot in which a witness holds, and the witness as a flow.
fn built(snapshot: &Snapshot, symbols: &Symbols, change: &Change) -> (Snapshot, Flow) {
    let Witness {
        source,
        destination,
        protocol,
        port,
        conditions,
        ..
    } = &change.witness;
    let mut snapshot = symbols.join(snapshot);
    let mut destination = destination.clone();
    // Inside a group of pods to come a second one is meant.
    if source == &destination && !change.through_service {
        let Endpoint::Pod(key) = &destination else {
            unreachable!("only pods talk to their like")
        };
        let mut second = Pod::clone(&snapshot.pods[key]);
        second.key.name = "second".into();
        destination = Endpoint::Pod(second.key.clone());
        snapshot.insert_pod(second);
    }
    let address = [source, &destination]
        .into_iter()
        .find_map(|end| match end {
            Endpoint::Address(address) => Some(*address),
            Endpoint::Pod(_) | Endpoint::Node(_) => None,
        });
    let named = conditions.iter().find_map(|condition| match condition {
        Condition::Address(_, address) => Some(*address),
        Condition::RunsOn(..) | Condition::PortNames(_) | Condition::TooManyPortNames(_) => None,
    });
    let family = address.or(named).map(|address| {
        if address.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        }
    });
    let family = change.family.or(family).unwrap_or(Family::V4);
    // Where no address is asked for, any will do.
    let any: std::net::IpAddr = match family {
        Family::V4 => [198, 18, 0, 1].into(),
        Family::V6 => [0x2001, 0x2, 0, 0, 0, 0, 0, 1].into(),
    };
    snapshot.pods.edit(|pod| {
        if pod.addresses.is_empty() {
            pod.addresses.push(any);
        }
    });
    let end_of = |role: Role| match role {
        Role::Source => source,
        Role::Destination => &destination,
    };
    let mut edit = |end: &Endpoint, edit: &mut dyn FnMut(&mut Pod)| {
        if let Endpoint::Pod(key) = end
            && let Some(mut pod) = snapshot.pods.remove(key)
        {
            edit(Arc::make_mut(&mut pod));
            snapshot.pods.insert(pod);
        }
    };
    for condition in conditions {
        match condition {
            Condition::Address(role, address) => {
                edit(end_of(*role), &mut |pod| pod.addresses = vec![*address]);
            }
            Condition::RunsOn(role, node) => {
                edit(end_of(*role), &mut |pod| pod.node = Some(node.clone()));
            }
            Condition::PortNames(names) => edit(&destination, &mut |pod| {
                pod.ports = names
                    .iter()
                    .map(|name| ContainerPort {
                        name: Some(name.clone()),
                        protocol: *protocol,
                        number: *port,
                        host_port: 0,
                        host_address: None,
                    })
                    .collect();
            }),
            Condition::TooManyPortNames(_) => {}
        }
    }
    let flow = Flow {
        source: source.clone(),
        destination,
        protocol: *protocol,
        port: *port,
        family,
        via_service: change.through_service,
    };
    (snapshot, flow)
}

/// What no pod of [`Symbols`] shows, no pod shows: random newcomers never differ where no change says so.
#[test]
fn newcomers_are_foreseen() {
    let required = ["differs", "same", "new namespace", "old namespace"];
    let settings = Settings {
        contested_addresses: false,
        ..Settings::default()
    };
    let worlds = (
        two_states().boxed(),
        vec((strategies::pod(settings), 0..3_usize, any::<bool>()), 2),
        vec(strategies::namespace_labels(), 2),
    );
    check(
        "newcomers",
        1_000,
        worlds,
        &required,
        |((before, after), pods, namespaces), met| {
            let (difference, symbols) = compare(&before, &after);
            let mut states = [before, after];
            let mut newcomers = Vec::new();
            for (number, ((pod, place, _), labels)) in pods.into_iter().zip(namespaces).enumerate()
            {
                let namespace: Arc<str> = match place {
                    0 => format!("new-{number}").into(),
                    _ => pod.key.namespace.clone(),
                };
                let is_new = !states[0].namespaces.contains_key(&namespace);
                met.met(if is_new {
                    "new namespace"
                } else {
                    "old namespace"
                });
                let pod = Pod {
                    key: PodKey::new(&namespace, &format!("new-{number}")),
                    // Somewhere no pod is yet.
                    addresses: vec![std::net::IpAddr::from([
                        10,
                        0,
                        1,
                        200 + u8::try_from(number).expect("two"),
                    ])],
                    host_network: false,
                    phase: policy_compiler::model::Phase::Running,
                    ..pod
                };
                newcomers.push(Endpoint::Pod(pod.key.clone()));
                for state in &mut states {
                    if is_new {
                        state.insert_namespace(&namespace, labels.clone());
                    }
                    state.insert_pod(pod.clone());
                }
            }
            let others: Vec<Endpoint> = states[0]
                .endpoints()
                .filter(|end| is_live(&states[0], end))
                .collect();
            let ports: Vec<_> = interesting_ports(&states[1])
                .into_iter()
                // No packet has port 0.
                .filter(|(_, port)| *port > 0)
                .collect();
            for newcomer in &newcomers {
                for other in &others {
                    for (source, destination) in [(newcomer, other), (other, newcomer)] {
                        for (protocol, port) in ports.iter().copied().chain([(Protocol::Other, 0)])
                        {
                            let flow = Flow {
                                source: source.clone(),
                                destination: destination.clone(),
                                protocol,
                                port,
                                family: Family::V4,
                                via_service: source == destination,
                            };
                            let verdict = |state| reference::evaluate(state, &flow).verdict;
                            if verdict(&states[0]) == verdict(&states[1]) {
                                met.met("same");
                                continue;
                            }
                            met.met("differs");
                            let foreseen = difference.changes.iter().any(|change| {
                                let is_symbol = |ends: &[End]| {
                                    ends.iter().any(|end| match end {
                                        End::Endpoint(end) => is_new(&symbols, end),
                                        End::Range(_) => false,
                                    })
                                };
                                let fits = |ends: &[End], end: &Endpoint| {
                                    if newcomers.contains(end) {
                                        is_symbol(ends)
                                    } else {
                                        ends.contains(&End::Endpoint(end.clone()))
                                    }
                                };
                                fits(&change.sources, source)
                                    && fits(&change.destinations, destination)
                                    && *change.ports.at(protocol, port)
                            });
                            prop_assert!(
                                foreseen,
                                "{:?} differs, found {:?}",
                                flow,
                                difference.changes
                            );
                        }
                    }
                }
            }
            Ok(())
        },
    );
}

fn is_live(snapshot: &Snapshot, end: &Endpoint) -> bool {
    match end {
        Endpoint::Pod(key) => snapshot.pods.get(key).is_some_and(|pod| {
            pod.is_policed() && pod.addresses.iter().any(std::net::IpAddr::is_ipv4)
        }),
        Endpoint::Node(name) => snapshot
            .nodes
            .get(name)
            .is_some_and(|node| node.addresses.iter().any(std::net::IpAddr::is_ipv4)),
        Endpoint::Address(_) => false,
    }
}

#[test]
fn a_namespace_to_come_is_found_by_its_label() {
    let policy = |value: &str| {
        let text = format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: a, namespace: shop}}\n\
             spec: {{podSelector: {{}}, ingress: [{{from: [{{namespaceSelector: {{matchLabels: {{team: {value}}}}}}}]}}]}}\n"
        );
        let loaded = policy_compiler::manifest::load(
            [("a.yaml", text.as_str())],
            &policy_compiler::parse::Settings::default(),
        );
        loaded.snapshot
    };
    let (difference, symbols) = compare(&policy("red"), &policy("blue"));
    let mut said: Vec<String> = difference
        .changes
        .iter()
        .map(|change| {
            format!(
                "{:?} {} -> {} {}",
                change.kind,
                symbols.name(&change.witness.source),
                symbols.name(&change.witness.destination),
                change.ports
            )
        })
        .collect();
    said.sort();
    assert_eq!(
        said,
        [
            "Gained new pod without labels in new namespace team=blue -> new pod without labels in shop all",
            "Lost new pod without labels in new namespace team=red -> new pod without labels in shop all",
        ]
    );
}
