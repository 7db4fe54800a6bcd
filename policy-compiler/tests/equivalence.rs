// SPDX-License-Identifier: Apache-2.0
//! Do all engines say what the oracle says, with the same reason, in every world?
#![expect(clippy::expect_used, reason = "tests fail loudly")]

mod engines;
mod suite;

use engines::Answer;
use policy_compiler::{
    Flow,
    model::Protocol,
    portmap::PortMap,
    reach::Reach,
    reference,
    strategies::{Settings, interesting_ports, world},
};
use proptest::{prop_assert, prop_assert_eq, strategy::Strategy};
use suite::{EVERYTHING, check};

#[test]
fn engines_agree_with_the_oracle() {
    agree("engines", Settings::default(), 10_000, 48);
}

/// The same with more of everything.
#[test]
fn engines_agree_in_crowded_worlds() {
    agree("crowded", Settings::crowded(), 1_000, 200);
}

/// P12: what is said of all ports between two ends at once is what the oracle says of each: at the
/// ends of every range it distinguishes, and at every port that the policies or pods name, and beside.
#[test]
fn connections_are_exact_at_every_port() {
    let worlds = world(Settings::default(), 2).boxed();
    let required = ["allow", "deny", "several ranges"];
    check(
        "ports",
        10_000,
        worlds,
        &required,
        |(snapshot, flows), met| {
            let reach = Reach::new(&snapshot);
            for flow in &flows {
                let connection = reach.connection(
                    &flow.source,
                    &flow.destination,
                    flow.family,
                    flow.via_service,
                );
                let sides = [&connection.egress, &connection.ingress];
                if sides.iter().any(|side| side.runs().len() > 3) {
                    met.met("several ranges");
                }
                let ends = sides
                    .into_iter()
                    .flat_map(PortMap::segments)
                    .flat_map(|segment| {
                        [segment.ports.start, segment.ports.end]
                            .map(|port| (segment.protocol, port))
                    });
                for (protocol, port) in ends.chain(interesting_ports(&snapshot)) {
                    let expected = reference::evaluate(
                        &snapshot,
                        &Flow {
                            protocol,
                            port,
                            ..flow.clone()
                        },
                    );
                    met.trace(&expected);
                    let port = if protocol == Protocol::Other { 0 } else { port };
                    prop_assert_eq!(connection.egress.at(protocol, port), &expected.egress);
                    prop_assert_eq!(connection.ingress.at(protocol, port), &expected.ingress);
                }
            }
            Ok(())
        },
    );
}

#[track_caller]
fn agree(name: &'static str, settings: Settings, worlds: u32, flows: usize) {
    check(
        name,
        worlds,
        world(settings, flows).boxed(),
        &EVERYTHING,
        |(snapshot, flows), met| {
            let engines = engines::all();
            let (oracle, others) = engines.split_first().expect("the oracle is an engine");
            let oracle = oracle.load(&snapshot);
            let others: Vec<_> = others
                .iter()
                .map(|e| (e.name(), e.load(&snapshot)))
                .collect();
            for flow in &flows {
                let Answer::Trace(expected) = oracle(flow) else {
                    unreachable!("the oracle answers everything")
                };
                met.trace(&expected);
                for (name, engine) in &others {
                    match engine(flow) {
                        Answer::Trace(trace) => {
                            prop_assert_eq!(&trace, &expected, "{} on {:?}", name, flow);
                        }
                        Answer::Verdict(verdict) => {
                            prop_assert!(
                                verdict == expected.verdict,
                                "{name} on {flow:?}: {expected:?}"
                            );
                        }
                        Answer::Skip(_) => {}
                    }
                }
            }
            Ok(())
        },
    );
}
