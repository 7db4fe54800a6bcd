// SPDX-License-Identifier: Apache-2.0
//! Are kustomizations and charts rendered by what is installed, and is it said what is missing?

use std::{env, fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use super::{Run, cluster, program, run};

/// A program called `name` that prints its arguments to a file and `manifests`.
fn fake(folder: &Path, name: &str, manifests: &str) {
    fs::write(folder.join("manifests.yaml"), manifests).unwrap();
    let script = format!(
        "#!/bin/sh\necho \"$0 $@\" >>{0}/calls\nwhile read -r line; do echo \"$line\"; done <{0}/manifests.yaml\n",
        folder.display()
    );
    let path = folder.join(name);
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn with_path(path: &str, arguments: &[&str]) -> Run {
    let mut command = program();
    command.env("PATH", path).args(arguments);
    run(command, b"")
}

#[test]
fn kustomize_builds_what_k_names() {
    let folder = tempfile::tempdir().unwrap();
    fake(folder.path(), "kustomize", &cluster(""));
    let path = folder.path().display().to_string();
    let answer = with_path(&path, &["-k", "overlays/prod", "reach", "t/a", "t/b"]);
    assert_eq!(answer.code, 0, "{}", answer.err);
    assert!(answer.out.contains("ALLOWED"), "{}", answer.out);
    let calls = fs::read_to_string(folder.path().join("calls")).unwrap();
    assert!(
        calls.ends_with("kustomize build overlays/prod\n"),
        "{calls}"
    );
}

#[test]
fn kubectl_builds_it_where_kustomize_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    fake(folder.path(), "kubectl", &cluster(""));
    let path = folder.path().display().to_string();
    let answer = with_path(&path, &["reach", "t/a", "t/b", "-k", "overlays/prod"]);
    assert_eq!(answer.code, 0, "{}", answer.err);
    let calls = fs::read_to_string(folder.path().join("calls")).unwrap();
    assert!(
        calls.ends_with("kubectl kustomize overlays/prod\n"),
        "{calls}"
    );
}

#[test]
fn helm_renders_charts_with_their_values() {
    let folder = tempfile::tempdir().unwrap();
    fake(folder.path(), "helm", &cluster(""));
    let path = folder.path().display().to_string();
    let arguments = [
        "--helm",
        "charts/web",
        "--values",
        "prod.yaml",
        "reach",
        "t/a",
        "t/b",
    ];
    let answer = with_path(&path, &arguments);
    assert_eq!(answer.code, 0, "{}", answer.err);
    let calls = fs::read_to_string(folder.path().join("calls")).unwrap();
    assert!(
        calls.ends_with("helm template charts/web --values prod.yaml\n"),
        "{calls}"
    );
}

#[test]
fn what_is_not_installed_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    for (option, wanted) in [("-k", "kustomize"), ("--helm", "helm")] {
        let answer = with_path(&path, &[option, "x", "reach", "t/a", "t/b"]);
        assert_eq!(answer.code, 2, "{}", answer.err);
        assert!(
            answer.err.contains(wanted) && answer.err.contains("installed"),
            "{}",
            answer.err
        );
    }
}

/// The real kustomize, in kubectl, where there is one.
#[test]
fn a_real_kustomization_is_built() {
    let real = Command::new("kubectl")
        .args(["version", "--client"])
        .output();
    if !real.is_ok_and(|output| output.status.success()) {
        println!("skipped: no kubectl");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("all.yaml"), cluster("")).unwrap();
    fs::write(
        folder.path().join("kustomization.yaml"),
        "namePrefix: blue-\nresources: [all.yaml]\n",
    )
    .unwrap();
    let path = env::var("PATH").unwrap();
    let dir = folder.path().display().to_string();
    let answer = with_path(&path, &["-k", &dir, "reach", "t/blue-a", "t/blue-b"]);
    assert_eq!(answer.code, 0, "{}{}", answer.out, answer.err);
}
