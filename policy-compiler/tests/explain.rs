// SPDX-License-Identifier: Apache-2.0
//! Does the smallest change really admit the flow?

mod facts;

use facts::complete;
use policy_compiler::{
    Snapshot, Verdict,
    model::Direction,
    partial::{Assumptions, Evaluator},
    reference,
    strategies::{self, Settings},
};
use proptest::prelude::*;

/// How many changes of a kind a run tried, by the first word of the change.
fn try_changes(
    snapshot: &Snapshot,
    flows: &[policy_compiler::Flow],
) -> Result<Vec<String>, TestCaseError> {
    let evaluator = Evaluator::new(snapshot, Assumptions::default(), Vec::new());
    let mut tried = Vec::new();
    for flow in flows {
        let trace = reference::evaluate(snapshot, flow);
        let source = evaluator.party(&flow.source, Some(flow.family));
        let destination = evaluator.party(&flow.destination, Some(flow.family));
        for (direction, subject, peer, before) in [
            (Direction::Egress, &source, &destination, &trace.egress),
            (Direction::Ingress, &destination, &source, &trace.ingress),
        ] {
            let at = (flow.protocol, flow.port);
            let denial = evaluator.denial(direction, subject, peer, flow.via_service, at);
            if before.verdict == Verdict::Allow {
                prop_assert_eq!(denial, None);
                continue;
            }
            let Some(change) = denial.and_then(|denial| denial.change) else {
                continue;
            };
            let changed = change.apply(snapshot);
            let after = reference::evaluate(&changed, flow);
            let after = match direction {
                Direction::Egress => after.egress,
                Direction::Ingress => after.ingress,
            };
            prop_assert_eq!(after.verdict, Verdict::Allow, "{} for {:?}", change, flow);
            tried.push(
                change
                    .to_string()
                    .split(' ')
                    .take(2)
                    .collect::<Vec<_>>()
                    .join(" "),
            );
        }
    }
    Ok(tried)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn applying_the_smallest_change_admits_the_flow(
        (snapshot, flows) in strategies::world(Settings::default(), 12)
    ) {
        try_changes(&complete(snapshot), &flows)?;
    }
}

#[test]
fn every_kind_of_change_is_tried() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let mut tried = std::collections::BTreeSet::new();
    for _ in 0..600 {
        let tree = strategies::world(Settings::default(), 12).new_tree(&mut runner);
        let (snapshot, flows) = tree.expect("worlds are never rejected").current();
        tried.extend(
            try_changes(&complete(snapshot), &flows).expect("changes admit what they promise"),
        );
    }
    let kinds: Vec<&str> = tried.iter().map(String::as_str).collect();
    for kind in ["add an", "add peer", "add port", "allow pods"] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
}
