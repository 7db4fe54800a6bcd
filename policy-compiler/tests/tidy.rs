// SPDX-License-Identifier: Apache-2.0
//! Does the project keep its own rules of form? What a reviewer would otherwise have to look for.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The version of the map ABI, and the digest of the code in `abi.rs` that belongs to it. When the
/// digest changes, what is pinned in the kernel no longer fits: raise `ABI_VERSION`, then both here.
const ABI: (&str, u64) = ("pub const ABI_VERSION: u32 = 1;", 0x29ca_6064_34d9_d18b);

/// Lines a Rust file may have at the most.
const FILE_CAP: usize = 700;

/// Module names that say nothing.
const EMPTY_NAMES: [&str; 7] = [
    "util.rs",
    "utils.rs",
    "helper.rs",
    "helpers.rs",
    "misc.rs",
    "common.rs",
    "shared.rs",
];

/// Endings of type names that say nothing.
const EMPTY_ENDINGS: [&str; 4] = ["Manager", "Handler", "Helper", "Util"];

/// What no text in the repository contains: unfinished work, and paths that exist on one machine.
/// In pieces, so that this file does not contain them either.
const FORBIDDEN: [(&str, &[&str]); 7] = [
    ("a test that does not run", &["#[", "ignore"]),
    ("a test that proves a panic", &["#[", "should_panic"]),
    ("unfinished work", &["FIX", "ME"]),
    ("unfinished work", &["XX", "X:"]),
    ("a lint switched off for good", &["#![", "allow("]),
    ("a path of one machine", &["/ro", "ot/"]),
    ("a path of one machine", &["/wo", "rk/"]),
];

/// Who may depend on whom: a crate of the workspace and the crates of the workspace it uses.
const ARROWS: [(&str, &[&str]); 5] = [
    ("policy-ebpf-common", &[]),
    ("policy-ebpf", &["policy-ebpf-common"]),
    (
        "policy-compiler",
        &["policy-compiler", "policy-ebpf-common"],
    ),
    ("agent", &["policy-compiler", "policy-ebpf-common"]),
    ("analyzer-cli", &["policy-compiler", "policy-ebpf-common"]),
];

/// What has no place in a crate that neither waits nor talks.
const IMPURE: [&str; 8] = [
    "tokio",
    "async-std",
    "mio",
    "hyper",
    "kube",
    "rand",
    "tracing",
    "log",
];

#[test]
fn files_are_short_licensed_and_say_what_they_answer() {
    let mut problems = Vec::new();
    for path in files("rs") {
        let text = read(&path);
        let lines = text.lines().count();
        if lines > FILE_CAP {
            problems.push(format!(
                "{}: {lines} lines, at most {FILE_CAP}",
                show(&path)
            ));
        }
        if !text.starts_with("// SPDX-License-Identifier: ") {
            problems.push(format!("{}: the first line is no SPDX line", show(&path)));
        }
        // Attributes of the crate may stand before it.
        if !text.lines().take(10).any(|line| line.starts_with("//! ")) {
            problems.push(format!("{}: no `//!` says what it answers", show(&path)));
        }
    }
    report(&problems);
}

#[test]
fn names_mean_something() {
    let mut problems = Vec::new();
    for path in files("rs") {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        // Test programs share modules through a folder; anywhere else `foo.rs` stands beside `foo/`.
        let shared_by_tests = path.components().any(|part| part.as_os_str() == "tests");
        if EMPTY_NAMES.contains(&name.as_str()) || (name == "mod.rs" && !shared_by_tests) {
            problems.push(format!("{}: a name that says nothing", show(&path)));
        }
        for (number, line) in read(&path).lines().enumerate() {
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            let declares = words.any(|word| ["struct", "enum", "trait"].contains(&word));
            let declared = words.next().unwrap_or_default();
            if declares && EMPTY_ENDINGS.iter().any(|end| declared.ends_with(end)) {
                problems.push(format!("{}:{}: `{declared}`", show(&path), number + 1));
            }
        }
    }
    report(&problems);
}

#[test]
fn nothing_unfinished_or_local_is_left() {
    let mut problems = Vec::new();
    for extension in ["rs", "md", "yaml", "toml", "sh", "go"] {
        for path in files(extension) {
            let text = read(&path);
            for (what, parts) in FORBIDDEN {
                let word = parts.concat();
                for (number, line) in text.lines().enumerate() {
                    if line.contains(&word) {
                        problems.push(format!("{}:{}: {what}", show(&path), number + 1));
                    }
                }
            }
        }
    }
    report(&problems);
}

#[test]
fn dependencies_point_inward() {
    let output = cargo(&[
        "metadata",
        "--format-version",
        "1",
        "--no-deps",
        "--offline",
    ]);
    let metadata: serde_json::Value = serde_json::from_str(&output).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let name = |value: &serde_json::Value| value["name"].as_str().unwrap().to_owned();
    let members: Vec<String> = packages.iter().map(name).collect();
    assert_eq!(
        members.len(),
        ARROWS.len(),
        "a crate without arrows: {members:?}"
    );
    let mut problems = Vec::new();
    for package in packages {
        let from = name(package);
        let (_, allowed) = ARROWS
            .iter()
            .find(|(of, _)| *of == from)
            .unwrap_or_else(|| panic!("no arrows are declared for {from}"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let to = name(dependency);
            if members.contains(&to) && !allowed.contains(&to.as_str()) {
                problems.push(format!("{from} depends on {to}"));
            }
        }
    }
    report(&problems);
}

#[test]
fn the_compiler_neither_waits_nor_talks() {
    let tree = cargo(&[
        "tree",
        "--package=policy-compiler",
        "--edges=normal",
        "--prefix=none",
        "--offline",
    ]);
    let names: Vec<&str> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(
        names.contains(&"ipnet"),
        "this is no dependency tree: {tree}"
    );
    let found: Vec<String> = IMPURE
        .iter()
        .filter(|name| names.contains(name))
        .map(|name| format!("policy-compiler depends on {name}"))
        .collect();
    report(&found);
}

#[test]
fn a_changed_abi_has_a_new_version() {
    let text = read(&root().join("policy-ebpf/common/src/abi.rs"));
    let (version, digest) = ABI;
    // Comments and layout of the text are no part of the layout of the maps.
    let code = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .flat_map(str::split_whitespace)
        .flat_map(str::bytes);
    let found = code.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    assert!(
        text.contains(version) && found == digest,
        "abi.rs changed: raise ABI_VERSION and record it in ABI with {found:#018x}"
    );
}

#[test]
fn links_in_documents_lead_somewhere() {
    let mut problems = Vec::new();
    for path in files("md") {
        let text = read(&path);
        for (number, line) in text.lines().enumerate() {
            for rest in line.split("](").skip(1) {
                let target = rest.split([')', '#', ' ']).next().unwrap_or_default();
                if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                    continue;
                }
                if !path.parent().unwrap().join(target).exists() {
                    problems.push(format!("{}:{}: `{target}`", show(&path), number + 1));
                }
            }
        }
    }
    report(&problems);
}

#[track_caller]
fn report(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "cargo {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The files of the repository with this extension, sorted.
fn files(extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type().unwrap().is_dir() {
                if !["target", ".git", ".build"].contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no files called *.{extension}");
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn show(path: &Path) -> String {
    path.strip_prefix(root())
        .unwrap_or(path)
        .display()
        .to_string()
}
