// SPDX-License-Identifier: Apache-2.0
//! Do tables say of a Service's address what the oracle says of every endpoint behind it?

mod suite;

use std::sync::Arc;

use policy_compiler::{
    Flow, Snapshot, Verdict,
    compile::{PortSetId, Scope, Tables, compile},
    model::{Direction, Pod, ServiceBackend, family_of},
    reference::evaluate,
    strategies::{Settings, snapshot},
    verdict::Endpoint,
};
use proptest::{prelude::*, test_runner::TestCaseResult};
use suite::{Coverage, cases, check};

/// The verdict of a Service's address lets a packet through only if every endpoint may be reached, and
/// stops it only if none may, or if one that may not is the node itself, behind whose address no hook
/// judges again. Everything else is judged behind address translation (A49, C35).
#[test]
fn service_addresses_are_judged_by_their_endpoints() {
    let settings = Settings {
        services: 4,
        ..Settings::default()
    };
    let required = [
        "allow",
        "deny",
        "deferred",
        "endpoint of itself",
        "denied on the node",
    ];
    check(
        "services",
        cases(10_000),
        snapshot(settings).boxed(),
        &required,
        |snapshot, met| {
            for node in snapshot.nodes.keys() {
                let tables = compile(&snapshot, &Scope::Node(node.clone()));
                for pod in snapshot.pods.values() {
                    if pod.is_policed() && pod.node.as_ref() == Some(node) {
                        holds(&snapshot, &tables, pod, met)?;
                    }
                }
            }
            Ok(())
        },
    );
}

fn holds(
    snapshot: &Snapshot,
    tables: &Tables,
    pod: &Arc<Pod>,
    met: &mut Coverage,
) -> TestCaseResult {
    let Some(row) = tables.pods[&pod.key].row(Direction::Egress) else {
        return Ok(());
    };
    let node = pod.node.as_ref().and_then(|node| snapshot.nodes.get(node));
    let own_addresses = node.map_or(&[][..], |node| &node.addresses);
    for service in snapshot.services.values() {
        for port in &service.ports {
            let denies = |backend: &&ServiceBackend| {
                let flow = Flow {
                    source: Endpoint::Pod(pod.key.clone()),
                    destination: Endpoint::Address(backend.address),
                    protocol: port.protocol,
                    port: backend.port,
                    family: family_of(backend.address),
                    via_service: true,
                };
                evaluate(snapshot, &flow).egress.verdict == Verdict::Deny
            };
            let denied = port.backends.iter().filter(denies);
            let on_the_node = denied.clone().any(|b| own_addresses.contains(&b.address));
            let denied = denied.count();
            if port
                .backends
                .iter()
                .any(|b| snapshot.pod_at(b.address).is_some_and(|p| p.key == pod.key))
            {
                met.met("endpoint of itself");
            }
            let cluster = service
                .addresses
                .iter()
                .map(|address| (*address, port.port));
            let on_nodes = own_addresses
                .iter()
                .map(|address| (*address, port.node_port));
            for (address, number) in cluster.chain(on_nodes.filter(|_| port.node_port != 0)) {
                let class = tables.services[&(address, port.protocol, number)];
                let port_set = tables.port_set(row, class);
                if port_set == PortSetId::DEFER {
                    met.met("deferred");
                    prop_assert!(!on_the_node, "{} {address} {port:?}", pod.key);
                    continue;
                }
                let verdict = tables.decision(port_set, port.protocol, number).verdict;
                match verdict {
                    Verdict::Allow => {
                        met.met("allow");
                        prop_assert_eq!(denied, 0, "{} {} {:?}", pod.key, address, port);
                    }
                    Verdict::Deny => {
                        met.met("deny");
                        if on_the_node {
                            met.met("denied on the node");
                        }
                        let all = denied == port.backends.len();
                        prop_assert!(all || on_the_node, "{} {address} {port:?}", pod.key);
                    }
                }
            }
        }
    }
    Ok(())
}
