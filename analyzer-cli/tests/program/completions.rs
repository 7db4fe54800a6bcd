// SPDX-License-Identifier: Apache-2.0
//! Does the shell complete what the input holds?

use std::path::Path;

use super::{Run, cluster, program, run};

/// What bash would offer for the last of `words`.
fn offered(words: &[&str], manifests: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("all.yaml"), manifests).unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_netpol-analyze"));
    let mut completions = program();
    completions.args(["completions", "bash"]);
    let script = run(completions, b"").out;
    let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let (current, previous) = (&words[words.len() - 1], &words[words.len() - 2]);
    let script = format!(
        "{script}\nCOMP_WORDS=({} {})\nCOMP_CWORD={}\n\
         _netpol_analyze_completed {} {} {}\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
        binary.display(),
        words.join(" "),
        words.len(),
        binary.display(),
        current,
        previous,
    );
    let mut bash = std::process::Command::new("bash");
    bash.args(["--norc", "-s"]).current_dir(folder.path());
    let Run { code, out, err } = run(bash, script.as_bytes());
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    out.lines().map(str::to_owned).collect()
}

fn manifests() -> String {
    cluster(
        "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: t}\nspec: {ports: [{port: 80}]}\n\
         ---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d, namespace: t}\nspec: {template: {spec: {containers: []}}}\n",
    )
}

#[test]
fn ends_of_flows_come_from_the_input() {
    let found = offered(&["-f", "all.yaml", "reach", "t/"], &manifests());
    assert_eq!(found, ["t/a", "t/b", "t/deployment/d", "t/svc/s"]);
    let found = offered(&["-f", "all.yaml", "why", "t/a", "t/d"], &manifests());
    assert_eq!(found, ["t/deployment/d"]);
    let found = offered(&["-f", "all.yaml", "exposure", "t/dep"], &manifests());
    assert_eq!(found, ["t/deployment/d"]);
}

#[test]
fn namespaces_come_from_the_input() {
    let found = offered(&["-f", "all.yaml", "reach", "-n", ""], &manifests());
    assert_eq!(found, ["t"]);
}

#[test]
fn flags_and_unreadable_input_are_left_to_the_rest() {
    let found = offered(&["-f", "all.yaml", "reach", "--ass"], &manifests());
    assert!(found.contains(&"--assert".to_owned()), "{found:?}");
    let found = offered(&["-f", "nowhere.yaml", "reach", "t/"], &manifests());
    assert!(
        found.iter().all(|name| !name.starts_with("t/")),
        "{found:?}"
    );
}
