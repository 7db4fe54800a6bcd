// SPDX-License-Identifier: Apache-2.0
//! Does the reader say of an object what an API server says of it?
//!
//! The cases are shared with other projects and live beside the repository.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use policy_compiler::{
    diagnostic::Severity,
    manifest::Locator,
    parse::{self, Channel, Settings},
};
use serde_json::{Value, json};

#[test]
fn golden_cases() {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../shared/golden/validation-cases.yaml"
    );
    if !Path::new(file).exists() {
        println!("skipped: the shared validation cases are not there");
        return;
    }
    let text = std::fs::read_to_string(file).unwrap();
    let groups: Value = serde_saphyr::from_str(&text).unwrap();
    let mut count = 0;
    let mut failures = Vec::new();
    for group in ["np", "anp", "banp", "cnp"] {
        for case in groups[group].as_array().unwrap() {
            count += 1;
            if let Err(why) = check(group, case) {
                failures.push(format!("{}: {why}", case["id"]));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(count >= 70, "only {count} cases");
}

fn check(group: &str, case: &Value) -> Result<(), String> {
    let mut spec = case["spec"].clone();
    if let Some(count) = case["rules"].as_u64() {
        let rule = json!({"action": "Deny", "from": [{"namespaces": {}}]});
        spec["ingress"] = (0..count).map(|_| rule.clone()).collect();
    }
    let name = case["name"].as_str().unwrap_or("p");
    let object = json!({"metadata": {"name": name}, "spec": spec});
    let settings = Settings {
        channel: match case["channel"].as_str() {
            Some("standard") => Channel::Standard,
            _ => Channel::Experimental,
        },
        ..Settings::default()
    };
    let locator = Locator::none();
    let (diagnostics, rejected) = match group {
        "np" => {
            let parsed = parse::network_policy(&object, &locator, &settings);
            (parsed.diagnostics, parsed.rejected)
        }
        other => {
            let read = match other {
                "anp" => parse::admin_network_policy,
                "banp" => parse::baseline_admin_network_policy,
                _ => parse::cluster_network_policy,
            };
            let parsed = read(&object, &locator, &settings);
            (parsed.diagnostics, parsed.rejected)
        }
    };
    let expected = case["expect"].as_str().unwrap();
    let found = match (rejected, diagnostics.is_empty()) {
        (true, _) => "reject",
        (false, false) => "accept-but-warn",
        (false, true) => "accept",
    };
    if found != expected {
        return Err(format!(
            "expected {expected}, found {found}: {diagnostics:?}"
        ));
    }
    let path = case["path"].as_str().unwrap();
    let fits = |found: &str| match path.strip_prefix('…') {
        Some(end) => found.ends_with(end),
        None => found == path,
    };
    let relevant = diagnostics
        .iter()
        .filter(|found| expected != "reject" || found.severity == Severity::Error);
    let mut paths = relevant.map(|found| &*found.path);
    if expected == "accept" || paths.any(fits) {
        Ok(())
    } else {
        Err(format!("no diagnostic at {path}: {diagnostics:?}"))
    }
}
