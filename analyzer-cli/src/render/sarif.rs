// SPDX-License-Identifier: Apache-2.0
//! Findings as SARIF 2.1.0, which code scanning services show beside the lines.

use policy_compiler::{
    diagnostic::{Diagnostic, Severity},
    lint,
};
use serde_json::{Value, json};

/// One run with its rules and results.
pub fn document(findings: &[Diagnostic]) -> Value {
    let rules: Vec<Value> = lint::all()
        .into_iter()
        .map(|lint| {
            json!({
                "id": lint.code,
                "name": lint.name,
                "shortDescription": {"text": lint.what},
                "fullDescription": {"text": lint.why},
                "help": {"text": format!("Example:\n{}\n\nUse instead:\n{}", lint.example, lint.instead)},
                "defaultConfiguration": {"level": level(lint.severity)},
            })
        })
        .collect();
    let results: Vec<Value> = findings.iter().map(result).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "netpol-analyze",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn result(finding: &Diagnostic) -> Value {
    let (code, name) = crate::command::rule::code_of(finding.id);
    let id = if code.is_empty() { name } else { code };
    let mut text = finding.message.clone();
    if let Some(object) = &finding.object {
        text = format!("{object}: {text}");
    }
    if let Some(help) = &finding.help {
        text = format!("{text}\n{help}");
    }
    let mut result = json!({
        "ruleId": id,
        "level": level(finding.severity),
        "message": {"text": text},
    });
    if let (Some(at), Some(result)) = (&finding.at, result.as_object_mut()) {
        result.insert(
            "locations".to_owned(),
            json!([{"physicalLocation": {
                "artifactLocation": {"uri": &*at.file},
                "region": {"startLine": at.line, "startColumn": at.column},
            }}]),
        );
    }
    result
}

fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "note",
    }
}
