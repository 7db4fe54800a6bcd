// SPDX-License-Identifier: Apache-2.0
//! Does `lint --fix` correct what it can, keep the rest of the file, and change no verdict it should not?

use std::fs;

use super::{Run, cluster, program, run};

/// Corrects a file; the run and the text afterwards.
fn fix(text: &str) -> (Run, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policies.yaml");
    fs::write(&path, text).unwrap();
    let mut command = program();
    command
        .arg("-f")
        .arg(&path)
        .args(["lint", "--fix", "--fail-on", "error"]);
    let run = run(command, b"");
    (run, fs::read_to_string(&path).unwrap())
}

#[track_caller]
fn check(before: &str, after: &str) {
    let (before, after) = (cluster(before), cluster(after));
    let (run, fixed) = fix(&before);
    assert_eq!(fixed, after, "{}", run.err);
    assert_eq!(run.code, 0, "{}{}", run.out, run.err);
    assert!(run.err.contains("corrected: "), "{}", run.err);
    let (again, same) = fix(&fixed);
    assert_eq!(same, after);
    assert!(again.err.contains("corrected: 0"), "{}", again.err);
}

const HEAD: &str =
    "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: t}\n";
const ADMIN: &str = "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {name: p}\n";

#[test]
fn misspelt_fields_get_their_names() {
    check(
        &format!(
            "{HEAD}spec:\n  podselector: {{\"matchlabels\": {{app: a}}}} # web\n  ingress: []\n"
        ),
        &format!(
            "{HEAD}spec:\n  podSelector: {{\"matchLabels\": {{app: a}}}} # web\n  ingress: []\n"
        ),
    );
}

#[test]
fn ports_lose_their_quotes() {
    check(
        &format!(
            "{HEAD}spec:\n  podSelector: {{}}\n  ingress:\n  - ports:\n    - port: \"80\" # http\n    - port: '443'\n"
        ),
        &format!(
            "{HEAD}spec:\n  podSelector: {{}}\n  ingress:\n  - ports:\n    - port: 80 # http\n    - port: 443\n"
        ),
    );
}

#[test]
fn blocks_lose_the_bits_that_do_not_count() {
    check(
        &format!(
            "{HEAD}spec:\n  podSelector: {{}}\n  egress:\n  - to:\n    - ipBlock: {{cidr: 192.0.2.9/24, except: [\"192.0.2.77/28\"]}}\n    - ipBlock: {{cidr: \"2001:db8::1/32\"}}\n"
        ),
        &format!(
            "{HEAD}spec:\n  podSelector: {{}}\n  egress:\n  - to:\n    - ipBlock: {{cidr: 192.0.2.0/24, except: [\"192.0.2.64/28\"]}}\n    - ipBlock: {{cidr: \"2001:db8::/32\"}}\n"
        ),
    );
}

#[test]
fn peers_of_the_old_shape_get_the_new_one() {
    check(
        &format!(
            "{ADMIN}spec:\n  priority: 1\n  subject: {{namespaces: {{}}}}\n  ingress:\n  - action: Deny\n    from:\n    \
             - namespaces:\n        # the tenants\n        namespaceSelector:\n          matchLabels:\n            \
             tenant: x # who\n          matchExpressions:\n          - {{key: a, operator: Exists}}\n    \
             - namespaces: {{namespaceSelector: {{matchLabels: {{b: \"c\"}}}}}}\n  # last\n"
        ),
        &format!(
            "{ADMIN}spec:\n  priority: 1\n  subject: {{namespaces: {{}}}}\n  ingress:\n  - action: Deny\n    from:\n    \
             - namespaces:\n        # the tenants\n        matchLabels:\n          \
             tenant: x # who\n        matchExpressions:\n        - {{key: a, operator: Exists}}\n    \
             - namespaces: {{matchLabels: {{b: \"c\"}}}}\n  # last\n"
        ),
    );
}

#[test]
fn a_rule_written_twice_is_written_once() {
    check(
        &format!(
            "{HEAD}spec:\n  podSelector: {{}}\n  ingress:\n  # the first\n  - from:\n    - podSelector: {{}}\n    ports: [{{port: 80}}]\n  \
             - ports: [{{port: 80}}]\n    from:\n    - podSelector: {{}}\n  # the last\n  - ports: [{{port: 81}}]\n"
        ),
        &format!(
            "{HEAD}spec:\n  podSelector: {{}}\n  ingress:\n  # the first\n  - from:\n    - podSelector: {{}}\n    ports: [{{port: 80}}]\n  \
             # the last\n  - ports: [{{port: 81}}]\n"
        ),
    );
}

#[test]
fn what_would_have_to_be_guessed_stays() {
    for text in [
        // Two candidates for one name.
        format!("{HEAD}spec:\n  podSelector: {{}}\n  podselector: {{matchLabels: {{app: a}}}}\n"),
        // No field is like it.
        format!("{HEAD}spec:\n  podSelector: {{}}\n  frobnicate: 1\n"),
        // The old shape has more to say.
        format!(
            "{ADMIN}spec:\n  priority: 1\n  subject: {{namespaces: {{}}}}\n  ingress:\n  - action: Deny\n    from: [{{namespaces: {{sameLabels: [tenant]}}}}]\n"
        ),
    ] {
        let before = cluster(&text);
        let (run, after) = fix(&before);
        assert_eq!(after, before);
        assert_ne!(run.code, 0, "{}", run.out);
    }
}

#[test]
fn verdicts_stay_where_only_the_spelling_was_at_fault() {
    let before = cluster(&format!(
        "{HEAD}spec:\n  podSelector: {{}}\n  policyTypes: [Ingress, Egress]\n  egress:\n  - to: [{{ipBlock: {{cidr: 10.0.0.9/8}}}}]\n  \
         - to: [{{ipBlock: {{cidr: 10.0.0.0/8}}}}]\n  ingress:\n  - ports: [{{port: 80}}]\n  - ports: [{{port: 80}}]\n"
    ));
    let matrix = |text: &str| {
        let answer = super::analyze(&["matrix", "--expand", "--to-internet", "-o", "json"], text);
        assert_eq!(answer.code, 0, "{}", answer.err);
        let cells = answer.json()["cells"].as_array().unwrap().clone();
        let told = cells
            .iter()
            .map(|cell| format!("{} {} {}", cell["src"], cell["dst"], cell["allowed"]));
        told.collect::<Vec<_>>()
    };
    let (_, after) = fix(&before);
    assert_ne!(after, before);
    assert_eq!(matrix(&after), matrix(&before));
}
