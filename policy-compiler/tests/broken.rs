// SPDX-License-Identifier: Apache-2.0
//! Is everything that is wrong with an input said, and where?
//!
//! Every file of `testdata/broken` names the diagnostics it must give, in order, in comments at its
//! start: `# expect: LINE:COLUMN ID: MESSAGE`.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use policy_compiler::{
    diagnostic::Diagnostic,
    lint,
    manifest::{Fate, load},
    parse::Settings,
};

#[test]
fn every_file_gives_its_diagnostics() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/broken"));
    let mut files = Vec::new();
    collect(root, &mut files);
    files.sort();
    assert!(files.len() >= 15, "only {} files", files.len());
    let mut failures = String::new();
    for path in &files {
        let text = fs::read_to_string(path).unwrap();
        let expected: Vec<&str> = text
            .trim_start_matches('\u{feff}')
            .lines()
            .map_while(|line| line.strip_prefix("# expect: "))
            .map(|line| line.trim_end_matches('\r'))
            .collect();
        let name = path
            .strip_prefix(root)
            .unwrap()
            .to_string_lossy()
            .into_owned();
        let loaded = load([(&*name, &*text)], &Settings::default());
        for diagnostic in &loaded.diagnostics {
            let id = diagnostic.id;
            assert!(lint::find(id).is_some(), "{id} is not documented");
        }
        let found: Vec<String> = loaded.diagnostics.iter().map(show).collect();
        if found != expected {
            let _ = writeln!(failures, "{name}:");
            for line in found {
                let _ = writeln!(failures, "# expect: {line}");
            }
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

fn show(diagnostic: &Diagnostic) -> String {
    let at = diagnostic.at.as_ref().unwrap();
    format!(
        "{}:{} {}: {}",
        at.line, at.column, diagnostic.id, diagnostic.message
    )
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension != "md") {
            files.push(path);
        }
    }
}

#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let loaded = load([("big.yaml", text)], &Settings::default());
    let found: Vec<String> = loaded.diagnostics.iter().map(show).collect();
    assert_eq!(found, expected);
}

#[test]
fn depth_is_bounded() {
    let deep = "nested deeper than 64 levels";
    check(
        &"[".repeat(1_000_000),
        &[&format!("1:65 malformed-document: {deep}")],
    );
    check(
        &"- ".repeat(100_000),
        &[&format!("1:129 malformed-document: {deep}")],
    );
    check(
        &"{a: ".repeat(100_000),
        &[&format!("1:257 malformed-document: {deep}")],
    );
}

#[test]
fn aliases_do_not_amplify() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..20 {
        let items = vec![format!("*a{}", level - 1); 9].join(", ");
        let _ = writeln!(bomb, "a{level}: &a{level} [{items}]");
    }
    check(
        &bomb,
        &["6:15 malformed-document: aliases expand to more than 200,000 values"],
    );
}

#[test]
fn large_documents_are_read() {
    // One string of 10 MB, and a list of 20,000 objects.
    let text = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\ndata: {{x: \"{}\"}}\n",
        "x".repeat(10_000_000)
    );
    check(&text, &[]);
    let item = "- {apiVersion: v1, kind: Namespace, metadata: {name: NAME}}\n";
    let items: String = (0..20_000)
        .map(|n| item.replace("NAME", &format!("n{n}")))
        .collect();
    let text = format!("kind: List\nitems:\n{items}");
    let loaded = load([("big.yaml", &*text)], &Settings::default());
    assert_eq!(loaded.snapshot.namespaces.len(), 20_000);
    assert!(loaded.ledger.iter().all(|entry| entry.fate == Fate::Used));
}
