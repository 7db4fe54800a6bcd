// SPDX-License-Identifier: Apache-2.0
//! Do all engines say what the oracle says, with the same reason, in every world?

mod engines;
#[path = "equivalence/services.rs"]
mod services;
mod suite;

use engines::Answer;
use policy_compiler::strategies::{Settings, world};
use proptest::{prop_assert, prop_assert_eq, strategy::Strategy};
use suite::{EVERYTHING, cases, check};

/// Flows tried in each world.
const FLOWS: usize = 48;

#[test]
fn engines_agree_with_the_oracle() {
    let worlds = world(Settings::default(), FLOWS).boxed();
    check(
        "engines",
        cases(10_000),
        worlds,
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
