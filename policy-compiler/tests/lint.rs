// SPDX-License-Identifier: Apache-2.0
//! Is what lints call superfluous really superfluous?
#![expect(clippy::expect_used, reason = "tests fail loudly")]

use policy_compiler::{
    Flow, Snapshot,
    diagnostic::Diagnostic,
    lint,
    model::{AdminPolicy, Direction, NetworkPolicy},
    partial::{Assumptions, Evaluator},
    reference,
    strategies::{self, Settings},
};
use proptest::prelude::*;

fn findings(snapshot: &Snapshot) -> Vec<Diagnostic> {
    let evaluator = Evaluator::new(snapshot, Assumptions::default(), Vec::new());
    lint::run(snapshot, &evaluator, &[])
}

/// The snapshot without what a finding is about.
fn without(snapshot: &Snapshot, finding: &Diagnostic) -> Snapshot {
    let mut changed = snapshot.clone();
    let object = finding
        .object
        .clone()
        .expect("findings about rules name their policy");
    let spot = finding.path.strip_prefix("spec.").and_then(|path| {
        let (way, index) = path.split_once('[')?;
        let direction = if way == "ingress" {
            Direction::Ingress
        } else {
            Direction::Egress
        };
        Some((
            direction,
            index.trim_end_matches(']').parse::<usize>().ok()?,
        ))
    });
    match (&object.namespace, spot) {
        (Some(namespace), None) => {
            changed
                .network_policies
                .remove(&(namespace.clone(), object.name));
        }
        (Some(namespace), Some((direction, index))) => {
            let key = (namespace.clone(), object.name);
            let mut policy = NetworkPolicy::clone(&changed.network_policies[&key]);
            let rules = match direction {
                Direction::Ingress => &mut policy.ingress,
                Direction::Egress => &mut policy.egress,
            };
            rules.as_mut().expect("the rule exists").remove(index);
            changed.insert_network_policy(policy);
        }
        (None, spot) => {
            let (direction, index) = spot.expect("a rule is named");
            let found = changed.admin_policies.values().find(|policy| {
                policy.policy_ref().name == object.name
                    && *policy.policy_ref().kind.to_string() == *object.kind
            });
            let mut policy = AdminPolicy::clone(found.expect("the policy exists"));
            match direction {
                Direction::Ingress => policy.ingress.remove(index),
                Direction::Egress => policy.egress.remove(index),
            };
            changed.insert_admin_policy(policy);
        }
    }
    changed
}

fn check(snapshot: &Snapshot, flows: &[Flow]) -> Result<usize, TestCaseError> {
    let mut checked = 0;
    for finding in findings(snapshot) {
        if !["rule-shadowed", "rule-redundant", "policy-redundant"].contains(&finding.id) {
            continue;
        }
        let changed = without(snapshot, &finding);
        for flow in flows {
            let (before, after) = (
                reference::evaluate(snapshot, flow),
                reference::evaluate(&changed, flow),
            );
            prop_assert_eq!(
                before.egress.verdict,
                after.egress.verdict,
                "{:?} {:?}",
                finding,
                flow
            );
            prop_assert_eq!(
                before.ingress.verdict,
                after.ingress.verdict,
                "{:?} {:?}",
                finding,
                flow
            );
        }
        checked += 1;
    }
    Ok(checked)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn what_is_superfluous_changes_nothing(
        (snapshot, flows) in strategies::world(Settings { rules: 3, ..Settings::default() }, 24)
    ) {
        check(&snapshot, &flows)?;
    }
}

#[test]
fn superfluous_rules_are_found() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let settings = Settings {
        rules: 3,
        ..Settings::default()
    };
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..800 {
        let tree = strategies::world(settings, 8).new_tree(&mut runner);
        let (snapshot, flows) = tree.expect("worlds are never rejected").current();
        check(&snapshot, &flows).expect("nothing changes");
        ids.extend(findings(&snapshot).into_iter().map(|finding| finding.id));
    }
    for id in [
        "rule-shadowed",
        "rule-redundant",
        "policy-redundant",
        "selects-nothing",
        "fail-closed-rule",
    ] {
        assert!(ids.contains(id), "{ids:?}");
    }
}
