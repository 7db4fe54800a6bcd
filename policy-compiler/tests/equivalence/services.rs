// SPDX-License-Identifier: Apache-2.0
//! Does what tables say of a Service's address hold for every endpoint behind it?

use std::net::IpAddr;

use crate::suite::{cases, check};
use policy_compiler::{
    Flow, Snapshot, Verdict,
    compile::{PortSetId, Scope, Tables, compile},
    model::{PodKey, Protocol, family_of},
    reference,
    strategies::{Settings, snapshot},
    verdict::Endpoint,
};
use proptest::prop_assert;

#[test]
fn service_verdicts_are_those_of_all_endpoints() {
    let settings = Settings {
        services: 3,
        contested_addresses: false,
        ..Settings::default()
    };
    let required = ["all", "none", "mixed", "no endpoints", "own node denied"];
    check(
        "services",
        cases(10_000),
        snapshot(settings),
        &required,
        |snapshot, met| {
            for node in snapshot.nodes.keys() {
                let tables = compile(&snapshot, &Scope::Node(node.clone()));
                let own = &snapshot.nodes[node].addresses;
                for (pod, table) in &tables.pods {
                    let Some(row) = table.egress else { continue };
                    for (key, class) in &tables.services {
                        let said = said(&tables, tables.port_set(row, *class), key.1);
                        let endpoints = endpoints(&snapshot, own, *key);
                        let truths: Vec<_> = endpoints
                            .iter()
                            .map(|to| (truth(&snapshot, pod, key.1, *to), own.contains(&to.0)))
                            .collect();
                        let all = |verdict| truths.iter().all(|(truth, _)| *truth == verdict);
                        let own_denied = truths.contains(&(Verdict::Deny, true));
                        met.met(match said {
                            _ if truths.is_empty() => "no endpoints",
                            Some(Verdict::Allow) => "all",
                            Some(Verdict::Deny) if own_denied && !all(Verdict::Deny) => {
                                "own node denied"
                            }
                            Some(Verdict::Deny) => "none",
                            None => "mixed",
                        });
                        let sound = match said {
                            Some(Verdict::Allow) => all(Verdict::Allow),
                            Some(Verdict::Deny) => all(Verdict::Deny) || own_denied,
                            // Judged again behind translation, which an endpoint on the node itself escapes.
                            None => !own_denied,
                        };
                        prop_assert!(sound, "{pod} to {key:?}: {said:?} of {truths:?}");
                    }
                }
            }
            Ok(())
        },
    );
}

/// What a port set that does not depend on ports says; `None` if it is deferred.
fn said(tables: &Tables, port_set: PortSetId, protocol: Protocol) -> Option<Verdict> {
    (port_set != PortSetId::DEFER).then(|| {
        let set = &tables.port_sets[port_set.0 as usize];
        assert!(
            set.as_uniform().is_some(),
            "the port is that of the Service, not of an endpoint"
        );
        tables.decision(port_set, protocol, 0).verdict
    })
}

/// The endpoints of the one Service port with this address, protocol and port. Where several Services
/// claim it, the last one has it.
fn endpoints(
    snapshot: &Snapshot,
    own: &[IpAddr],
    key: (IpAddr, Protocol, u16),
) -> Vec<(IpAddr, u16)> {
    let (address, protocol, port) = key;
    let ports = snapshot.services.values().flat_map(|service| {
        service.ports.iter().filter(move |candidate| {
            let cluster = service.addresses.contains(&address) && candidate.port == port;
            let node_port = own.contains(&address) && candidate.node_port == port && port != 0;
            candidate.protocol == protocol && (cluster || node_port)
        })
    });
    let port = ports.last().expect("tables know no other Services");
    port.backends
        .iter()
        .map(|backend| (backend.address, backend.port))
        .collect()
}

fn truth(snapshot: &Snapshot, pod: &PodKey, protocol: Protocol, to: (IpAddr, u16)) -> Verdict {
    let flow = Flow {
        source: Endpoint::Pod(pod.clone()),
        destination: Endpoint::Address(to.0),
        protocol,
        port: to.1,
        family: family_of(to.0),
        via_service: true,
    };
    reference::evaluate(snapshot, &flow).egress.verdict
}
