// SPDX-License-Identifier: Apache-2.0
//! Can a name in somebody's manifests say something in our name: to a terminal, to the workflow that runs us,
//! or to the program that reads the answer?

use std::fs;

use super::{Run, program, run};

/// A name in YAML that ends a line, begins a workflow command, colours a terminal and breaks tables and XML.
fn name(word: &str) -> String {
    format!(r#""{word}\n::error::{word} | <{word}> \e[31m\x01""#)
}

fn manifests() -> String {
    let admin = "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy";
    format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: x}}}}\n---\n\
         {{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}}}}}\n---\n\
         {{apiVersion: v1, kind: Pod, metadata: {{name: a, namespace: x}}, spec: {{nodeName: n, containers: [{{name: c}}]}}}}\n---\n\
         {{apiVersion: v1, kind: Pod, metadata: {{name: {pod}, namespace: x}}, spec: {{nodeName: {node}, containers: [{{name: c}}]}}}}\n---\n\
         {{apiVersion: v1, kind: Node, metadata: {{name: {node}}}}}\n---\n\
         {{apiVersion: v1, kind: Service, metadata: {{name: {service}, namespace: x}}, spec: {{selector: {{}}, ports: [{{port: 80}}]}}}}\n---\n\
         {{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {policy}, namespace: x}}, spec: {{podSelector: {{}}, {field}: 1}}}}\n---\n\
         {admin}\nmetadata: {{name: {policy}}}\nspec:\n  tier: Admin\n  priority: 1\n  subject: {{namespaces: {{}}}}\n\
         \x20 egress: [{{name: {rule}, action: Deny, to: [{{networks: [9.0.0.0/8]}}]}}]\n",
        namespace = name("namespace"),
        pod = name("pod"),
        node = name("node"),
        service = name("service"),
        policy = name("policy"),
        field = name("field"),
        rule = name("rule"),
    )
}

fn tests() -> String {
    format!(
        "apiVersion: netpol-analyze/v1\nkind: PolicyTest\ntests:\n\
         - {{name: {}, from: {{namespace: x}}, to: internet, never: true}}\n",
        name("test")
    )
}

/// Runs the program on the manifests.
fn answer(line: &str) -> Run {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("empty")).unwrap();
    for (name, text) in [
        ("all.yaml", manifests()),
        (
            "none.yaml",
            "{apiVersion: v1, kind: Namespace, metadata: {name: x}}\n".to_owned(),
        ),
        ("tests.yaml", tests()),
    ] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let mut command = program();
    command.current_dir(folder.path()).args(line.split(' '));
    let run = run(command, b"");
    assert_ne!(run.code, 4, "{line}: {}", run.err);
    assert!(!run.out.is_empty(), "{line}: {}", run.err);
    run
}

#[track_caller]
fn plain(line: &str, text: &str) {
    for words in text.lines() {
        assert!(
            !words.trim_start().starts_with("::error"),
            "{line}: {words}"
        );
        assert!(!words.contains(char::is_control), "{line}: {words:?}");
    }
}

#[test]
fn names_stay_on_their_lines() {
    for line in [
        "-f all.yaml inputs",
        "-f all.yaml inputs -o md",
        "-f all.yaml lint",
        "-f all.yaml lint -o md",
        "-f all.yaml reach x/a 9.0.0.1",
        "-f all.yaml --allow-incomplete why x/a 9.0.0.1",
        "-f all.yaml --allow-incomplete why x/a 9.0.0.1 -o md",
        "-f all.yaml --allow-incomplete reach any any",
        "-f all.yaml --allow-incomplete matrix",
        "-f all.yaml --allow-incomplete matrix -o md",
        "-f all.yaml --allow-incomplete matrix --expand",
        "-f all.yaml --allow-incomplete exposure",
        "-f all.yaml --allow-incomplete exposure -o md",
        "-f all.yaml --allow-incomplete migrate",
        "-f all.yaml --allow-incomplete graph",
        "-f all.yaml --allow-incomplete graph -o mermaid",
        "-f all.yaml --allow-incomplete graph -o svg",
        "-f all.yaml --allow-incomplete names",
        "-f all.yaml --allow-incomplete test tests.yaml",
        "-f all.yaml --allow-incomplete test tests.yaml -o junit",
        "--allow-incomplete diff none.yaml all.yaml",
        "--allow-incomplete diff none.yaml all.yaml -o md",
        "--allow-incomplete diff all.yaml none.yaml",
    ] {
        let run = answer(line);
        plain(line, &run.out);
        plain(line, &run.err);
    }
}

#[test]
fn tables_keep_their_columns() {
    for (line, columns) in [
        ("-f all.yaml lint -o md", 7),
        ("-f all.yaml inputs -o md", 4),
    ] {
        for row in answer(line).out.lines() {
            let bars = row.replace("\\|", "").matches('|').count();
            assert_eq!(bars, columns + 1, "{row}");
        }
    }
}

#[test]
fn annotations_are_only_ours() {
    let run = answer("-f all.yaml lint -o github");
    for words in run.out.lines() {
        let ours = [
            "::error file=all.yaml,",
            "::warning file=all.yaml,",
            "::notice file=all.yaml,",
        ];
        assert!(ours.iter().any(|it| words.starts_with(it)), "{words}");
        assert!(!words.contains(char::is_control), "{words:?}");
    }
    plain("lint", &run.err);
}

#[test]
fn programs_read_the_names_as_they_are() {
    let run = answer("-f all.yaml lint -o json");
    let findings = run.json()["findings"].clone();
    let name = "policy\n::error::policy | <policy> \u{1b}[31m\u{1}";
    let mut findings = findings.as_array().unwrap().iter();
    assert!(findings.any(|finding| finding["object"]["name"] == name));
}
