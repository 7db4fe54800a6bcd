// SPDX-License-Identifier: Apache-2.0
//! Does the command line say of every case in `testdata/cases` what the case expects, with the rule?
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use policy_compiler::{
    Verdict,
    cases::{self, Expectation, ExpectedFlow},
    manifest,
};
use serde_json::{Value, json};

#[test]
fn the_command_line_meets_every_expectation() {
    let mut files = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/cases");
    files_below(&root, &mut files);
    files.sort();
    let mut failures = String::new();
    let mut answered = 0;
    for file in &files {
        let expectation = read(file);
        if expectation.skip.contains_key("cli") || expectation.flows.is_empty() {
            continue;
        }
        for (expected, told) in expectation.flows.iter().zip(replay(file, &expectation)) {
            answered += 1;
            if let Err(why) = compare(expected, &told) {
                writeln!(
                    failures,
                    "{}: {why}\n  {expected:?}\n  {told}",
                    file.display()
                )
                .unwrap();
            }
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
    assert!(answered > 500, "only {answered} flows");
}

fn read(file: &Path) -> Expectation {
    let text = fs::read_to_string(file).unwrap();
    let (documents, _) = manifest::read(&file.display().to_string(), &text);
    let document = documents
        .iter()
        .find(|document| &*document.kind == cases::KIND)
        .unwrap();
    serde_json::from_value(document.value()).unwrap()
}

/// What `replay` says of the case's flows, judged as the agent would enforce them.
fn replay(file: &Path, expectation: &Expectation) -> Vec<Value> {
    let mut lines = String::new();
    for flow in &expectation.flows {
        let (port, protocol) = flow.port.split_once('/').unwrap_or(("0", &flow.port));
        let mut line = json!({
            "src": flow.from, "dst": flow.to, "protocol": protocol,
            "port": port.parse::<u16>().unwrap(), "viaService": flow.via_service,
        });
        if let Some(family) = flow.family {
            line["family"] = family.into();
        }
        writeln!(lines, "{line}").unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let flows = folder.path().join("flows.jsonl");
    fs::write(&flows, lines).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_netpol-analyze"));
    command
        .arg("-f")
        .arg(file)
        .args(["--allow-incomplete", "-o", "jsonl"]);
    if expectation.local_node_egress {
        command.args(["--assume", "local-node-egress=allow"]);
    }
    let output = command.arg("replay").arg(&flows).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let told: Vec<_> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        told.len(),
        expectation.flows.len(),
        "{}: {errors}",
        file.display()
    );
    told
}

fn compare(expected: &ExpectedFlow, told: &Value) -> Result<(), String> {
    let verdict = match expected.verdict {
        Verdict::Allow => "allowed",
        Verdict::Deny => "denied",
    };
    if told["verdict"] != verdict {
        return Err(format!("the verdict is {}", told["verdict"]));
    }
    let sides = ["egress", "ingress"].map(|side| (side, &told[side]));
    let mut deciding = match expected.verdict {
        Verdict::Allow => sides.to_vec(),
        Verdict::Deny => sides
            .iter()
            .filter(|(_, side)| side["verdict"] == "denied")
            .take(1)
            .copied()
            .collect(),
    };
    // The passing rules before a reason are not part of a line.
    for reason in expected.because.split(" and ") {
        let (reason, denial) = match reason.split_once(" (audited: ") {
            Some((reason, denial)) => (reason, denial.strip_suffix(')')),
            None => (reason, None),
        };
        let last = |chain: &str| short(chain.split(" -> ").last().unwrap_or_default());
        let wanted = (last(reason), denial.map(last));
        let says = |(direction, side): &(&str, &Value)| {
            let denial = side.get("audited");
            let said = (
                spell(direction, side),
                denial.map(|it| spell(direction, it)),
            );
            said == wanted
        };
        let Some(found) = deciding.iter().position(says) else {
            return Err(format!("nothing says {wanted:?}"));
        };
        deciding.remove(found);
    }
    Ok(())
}

/// A side of a line, as [`short`] spells reasons.
fn spell(direction: &str, side: &Value) -> String {
    let rule = || {
        let policy = side["policy"].as_str().unwrap_or_default();
        format!("{policy}#{direction}[{}]", side["rule"])
    };
    match side["reason"].as_str() {
        None => rule(),
        Some("fail-closed") => format!("fail-closed {}", rule()),
        Some(reason) => reason.to_owned(),
    }
}

/// A reason of the corpus without the kinds of policies, and without the list of isolating ones.
fn short(reason: &str) -> String {
    if reason.starts_with("isolated by ") {
        return "isolated".to_owned();
    }
    let kinds = ["np/", "anp/", "banp/", "cnp/"];
    let (closed, rule) = match reason.strip_prefix("fail-closed ") {
        Some(rule) => ("fail-closed ", rule),
        None => ("", reason),
    };
    let rule = kinds
        .iter()
        .find_map(|kind| rule.strip_prefix(kind))
        .unwrap_or(rule);
    format!("{closed}{rule}")
}

fn files_below(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, files);
        } else {
            files.push(path);
        }
    }
}
