// SPDX-License-Identifier: Apache-2.0
//! The transcripts in `tests/cmd` are what the program prints; they double as its documentation.

use std::collections::BTreeSet;

use policy_compiler::{diagnostic::Severity, lint};

#[test]
fn transcripts() {
    trycmd::TestCases::new()
        .default_bin_name("netpol-analyze")
        .case("tests/cmd/*.trycmd");
}

/// A rule without a transcript: its bad example is too large.
const WITHOUT: [&str; 1] = ["NPA053"];

#[test]
fn every_rule_is_found_in_its_bad_example_only() {
    let transcript = include_str!("cmd/rules.trycmd");
    let (mut bad, mut good) = (BTreeSet::new(), BTreeSet::new());
    for run in transcript.split("$ netpol-analyze ").skip(1) {
        let command = run.lines().next().unwrap_or_default();
        let code = command.rsplit(' ').next().unwrap_or_default();
        let found = run.contains(&format!("[{code}]"));
        let of_good = command.contains("/good");
        assert_ne!(found, of_good, "{run}");
        if of_good { &mut good } else { &mut bad }.insert(code);
    }
    let rules = lint::all().into_iter().map(|lint| lint.code);
    let rules: BTreeSet<&str> = rules.filter(|code| !WITHOUT.contains(code)).collect();
    assert_eq!(bad, rules);
    assert_eq!(good, rules);
}

#[test]
fn no_finding_is_worse_than_its_rule_says() {
    let transcript = include_str!("cmd/rules.trycmd");
    for lint in lint::all() {
        let found = |word: &str| transcript.contains(&format!("{word}[{}]", lint.code));
        let worst = if found("error") {
            Severity::Error
        } else if found("warning") {
            Severity::Warning
        } else {
            Severity::Info
        };
        assert!(worst <= lint.severity, "{}: {worst:?}", lint.code);
    }
}
