// SPDX-License-Identifier: Apache-2.0
//! How a property is checked: how many worlds, where failures are kept, and what must have been met.
#![expect(clippy::expect_used, clippy::panic, reason = "tests fail loudly")]

use std::{cell::RefCell, collections::BTreeMap, env};

use policy_compiler::{Decision, Reason, Trace, Verdict, model::Tier};
use proptest::{
    strategy::Strategy,
    test_runner::{Config, FileFailurePersistence, TestCaseResult, TestRunner},
};

/// Checks `property` on `cases` values of `strategy`, or on `NETPOL_PROPTEST_CASES`, and that all of
/// `required` was met on the way; of a shortened run that is not asked.
/// Failing seeds are kept in `proptest-regressions/NAME.txt` and tried first.
#[track_caller]
pub(crate) fn check<S: Strategy>(
    name: &'static str,
    cases: u32,
    strategy: S,
    required: &[&str],
    property: impl Fn(S::Value, &mut Coverage) -> TestCaseResult,
) {
    let path: &'static str = format!("proptest-regressions/{name}.txt").leak();
    let wanted = env::var("NETPOL_PROPTEST_CASES")
        .ok()
        .map(|wanted| wanted.parse().expect("NETPOL_PROPTEST_CASES is a number"));
    let config = Config {
        cases: wanted.unwrap_or(cases),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(path))),
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    let coverage = RefCell::new(Coverage::default());
    let result = TestRunner::new(config).run(&strategy, |value| {
        property(value, &mut coverage.borrow_mut())
    });
    if let Err(error) = result {
        panic!("{name}: {error}");
    }
    if wanted.is_none_or(|wanted| wanted >= cases) {
        coverage.borrow().require(name, required);
    }
}

/// How often what was met.
#[derive(Debug, Default)]
pub(crate) struct Coverage(BTreeMap<&'static str, u64>);

/// What every suite of verdicts must meet.
pub(crate) const EVERYTHING: [&str; 13] = [
    "allow",
    "deny",
    "pass",
    "isolated",
    "fail-closed",
    "local-node",
    "self",
    "not-a-subject",
    "default",
    "admin-rule",
    "network-rule",
    "baseline-rule",
    "audited",
];

impl Coverage {
    /// Counts `what`.
    pub(crate) fn met(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    /// Counts what `trace` shows.
    pub(crate) fn trace(&mut self, trace: &Trace) {
        self.met(match trace.verdict {
            Verdict::Allow => "allow",
            Verdict::Deny => "deny",
        });
        self.decision(&trace.egress);
        self.decision(&trace.ingress);
    }

    fn decision(&mut self, decision: &Decision) {
        if !decision.passed.is_empty() {
            self.met("pass");
        }
        if decision.audited.is_some() {
            self.met("audited");
        }
        self.met(match (&decision.reason, decision.tier) {
            (Reason::Rule(_), Tier::Admin) => "admin-rule",
            (Reason::Rule(_), Tier::NetworkPolicy) => "network-rule",
            (Reason::Rule(_), Tier::Baseline | Tier::Default) => "baseline-rule",
            (Reason::FailClosed(_), _) => "fail-closed",
            (Reason::Isolated(_), _) => "isolated",
            (Reason::LocalNode, _) => "local-node",
            (Reason::SelfTraffic, _) => "self",
            (Reason::NotASubject, _) => "not-a-subject",
            (Reason::Default, _) => "default",
        });
    }

    /// All of `required` was met.
    #[track_caller]
    pub(crate) fn require(&self, name: &str, required: &[&str]) {
        let missing: Vec<_> = required
            .iter()
            .filter(|what| !self.0.contains_key(*what))
            .collect();
        assert!(
            missing.is_empty(),
            "{name} never met {missing:?}, only {:?}",
            self.0
        );
    }
}
