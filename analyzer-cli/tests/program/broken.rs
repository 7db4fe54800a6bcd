// SPDX-License-Identifier: Apache-2.0
//! Does every input that is no manifest get its diagnostic, soon and without much memory?

use std::fmt::Write as _;

use super::{analyze, cluster, network_policy};

/// Refused with a place, and nothing on standard output.
#[track_caller]
fn refused(text: &str, wanted: &str) {
    let answer = analyze(&["reach", "t/a", "t/b"], text);
    assert!(
        [2, 3].contains(&answer.code),
        "{}: {}",
        answer.code,
        answer.err
    );
    assert!(
        answer.err.contains(wanted),
        "wanted {wanted}: {}",
        answer.err
    );
    assert!(answer.err.contains("--> -:"), "no place: {}", answer.err);
    assert!(
        answer.err.len() < 20_000,
        "{} bytes of diagnostics",
        answer.err.len()
    );
}

#[test]
fn text_that_is_no_manifest_is_refused() {
    refused("just words\n", "NPA001");
    refused("- a\n- b\n", "NPA001");
    refused("[[[[]]]]\n", "NPA001");
    refused("apiVersion: v1\nkind: Pod\nmetadata:\n\tname: a\n", "tab");
    refused("apiVersion: v1\nkind: [Pod]\n", "NPA001");
    refused("apiVersion: v1\nkind: Pod\nkind: Pod\n", "duplicate key");
    refused("{\"apiVersion\": \"v1\", \"kind\": \"Pod\", }}\n", "NPA001");
    refused("apiVersion: v1\nkind: List\nitems: {a: b}\n", "NPA001");
    refused("apiVersion: v1\nkind: List\nitems: [[[]]]\n", "NPA001");
    refused("apiVersion: v1\nkind: PodList\nitems: none\n", "NPA001");
    refused("\u{0}\u{1}\u{2}", "NPA001");
    refused("apiVersion: v1\nkind: Pod\nmetadata: *nobody\n", "NPA001");
}

#[test]
fn aliases_that_multiply_are_refused() {
    let mut text = String::from(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n",
    );
    for level in 1..12 {
        let below = format!("*a{}", level - 1);
        let ten = vec![below; 10].join(", ");
        writeln!(text, "  a{level}: &a{level} [{ten}]").unwrap();
    }
    refused(&text, "NPA001");
}

#[test]
fn deep_nesting_is_refused() {
    for (open, close) in [("[", "]"), ("{a: ", "}")] {
        let text = format!("a: {}{}\n", open.repeat(100_000), close.repeat(100_000));
        refused(&text, "NPA001");
    }
    refused(&"- ".repeat(100_000), "NPA001");
}

#[test]
fn byte_order_marks_carriage_returns_and_aliases_are_fine() {
    let policy = network_policy(
        "p",
        "{podSelector: {matchLabels: &labels {app: b}}, ingress: [{from: [{podSelector: {matchLabels: *labels}}]}]}",
    );
    let text = format!("\u{feff}{}", cluster(&policy).replace('\n', "\r\n"));
    let answer = analyze(&["reach", "t/a", "t/b", "-o", "json"], &text);
    assert_eq!(answer.code, 0, "{}", answer.err);
    assert_eq!(answer.json()["verdict"], "denied");
}

#[test]
fn a_document_of_ten_megabytes_is_read() {
    let mut text =
        cluster("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: big, namespace: t}\ndata:\n");
    while text.len() < 10_000_000 {
        let number = text.len();
        writeln!(text, "  key-{number}: \"{}\"", "v".repeat(200)).unwrap();
    }
    let answer = analyze(&["reach", "t/a", "t/b"], &text);
    assert_eq!(answer.code, 0, "{}", answer.err);
}

#[test]
fn lists_in_lists_are_taken_apart() {
    let inner =
        "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: t}, spec: {containers: []}}";
    let mut text = inner.to_owned();
    for _ in 0..20 {
        text = format!("{{apiVersion: v1, kind: List, items: [{text}]}}");
    }
    let answer = analyze(&["inputs"], &text);
    assert_eq!(answer.code, 0, "{}", answer.err);
    assert!(answer.out.contains("Pod t/a"), "{}", answer.out);
}
