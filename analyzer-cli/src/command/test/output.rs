// SPDX-License-Identifier: Apache-2.0
//! Test results for people and for CI.

use std::fmt::Write as _;

use policy_compiler::model::Protocol;
use serde_json::{Value, json};

use super::{Counterexample, Format, Outcome, TestResult};
use crate::{
    API_VERSION, Io,
    load::World,
    render::{plain, table::escape_xml},
};

/// Writes the results.
pub(super) fn write(
    io: &Io<'_>,
    world: &World,
    results: &[TestResult],
    format: Format,
) -> anyhow::Result<()> {
    match format {
        Format::Json => io.json(&document(results)),
        Format::Yaml => io.yaml(&document(results)),
        Format::Junit => io.answer(&junit(results)),
        Format::Text | Format::Wide => io.prose(&(text(results) + &io.scope(world))),
    }
}

impl Counterexample {
    fn packet(&self) -> String {
        let protocol = self.protocol.to_string().to_lowercase();
        match self.protocol {
            Protocol::Other => format!("{} -> {} icmp", self.src, self.dst),
            Protocol::Tcp | Protocol::Udp | Protocol::Sctp => {
                format!("{} -> {} {protocol}/{}", self.src, self.dst, self.port)
            }
        }
    }
}

fn text(results: &[TestResult]) -> String {
    let mut text = String::new();
    for result in results {
        let name = plain::line(&result.name);
        let because = |example: &Counterexample| {
            let words = format!("{}: {}", example.packet(), example.why);
            plain::line(&words).into_owned()
        };
        let _ = match &result.outcome {
            Outcome::Pass(pairs) => writeln!(text, "pass     {name} ({pairs} pairs)"),
            Outcome::Fail(example) => {
                writeln!(text, "FAIL     {name}\n         {}", because(example))
            }
            Outcome::Unknown(example) => {
                writeln!(text, "unknown  {name}\n         {}", because(example))
            }
        };
    }
    let count = |wanted: fn(&Outcome) -> bool| {
        results
            .iter()
            .filter(|result| wanted(&result.outcome))
            .count()
    };
    let _ = writeln!(
        text,
        "{} passed, {} failed, {} unknown",
        count(|outcome| matches!(outcome, Outcome::Pass(_))),
        count(|outcome| matches!(outcome, Outcome::Fail(_))),
        count(|outcome| matches!(outcome, Outcome::Unknown(_))),
    );
    text
}

fn document(results: &[TestResult]) -> Value {
    let example = |example: &Counterexample| {
        json!({
            "src": example.src,
            "dst": example.dst,
            "protocol": example.protocol,
            "port": example.port,
            "why": example.why,
        })
    };
    let tests: Vec<Value> = results
        .iter()
        .map(|result| match &result.outcome {
            Outcome::Pass(pairs) => json!({"name": result.name, "result": "pass", "pairs": pairs}),
            Outcome::Fail(found) => {
                json!({"name": result.name, "result": "fail", "counterexample": example(found)})
            }
            Outcome::Unknown(found) => {
                json!({"name": result.name, "result": "unknown", "counterexample": example(found)})
            }
        })
        .collect();
    json!({"apiVersion": API_VERSION, "kind": "TestResults", "tests": tests})
}

fn junit(results: &[TestResult]) -> String {
    let failures = results
        .iter()
        .filter(|result| matches!(result.outcome, Outcome::Fail(_)))
        .count();
    let errors = results
        .iter()
        .filter(|result| matches!(result.outcome, Outcome::Unknown(_)))
        .count();
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n  <testsuite name=\"netpol-analyze\" tests=\"{}\" failures=\"{failures}\" errors=\"{errors}\">\n",
        results.len()
    );
    for result in results {
        let name = escape_xml(&result.name);
        let _ = match &result.outcome {
            Outcome::Pass(_) => {
                writeln!(
                    text,
                    "    <testcase classname=\"policies\" name=\"{name}\"/>"
                )
            }
            Outcome::Fail(example) => writeln!(
                text,
                "    <testcase classname=\"policies\" name=\"{name}\"><failure message=\"{}\">{}</failure></testcase>",
                escape_xml(&example.packet()),
                escape_xml(&example.why)
            ),
            Outcome::Unknown(example) => writeln!(
                text,
                "    <testcase classname=\"policies\" name=\"{name}\"><error message=\"{}\">{}</error></testcase>",
                escape_xml(&example.packet()),
                escape_xml(&example.why)
            ),
        };
    }
    text.push_str("  </testsuite>\n</testsuites>\n");
    text
}
