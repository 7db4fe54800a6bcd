// SPDX-License-Identifier: Apache-2.0
//! Do the ways to deploy the agent deploy the same thing?

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_yaml::Value;

#[test]
fn the_chart_with_its_defaults_is_the_base() {
    let values: Value = serde_yaml::from_str(&read("chart/netpol/values.yaml")).unwrap();
    for file in [
        "serviceaccount.yaml",
        "rbac.yaml",
        "configmap.yaml",
        "daemonset.yaml",
    ] {
        let template = read(&format!("chart/netpol/templates/{file}"));
        let rendered = documents(file, &render(&template, &values));
        let base = documents(file, &read(&format!("base/{file}")));
        assert_eq!(rendered, base, "{file}");
    }
}

#[test]
fn the_chart_carries_the_same_files() {
    for (chart, original) in [
        (
            "files/podmonitor.yaml",
            "components/prometheus/podmonitor.yaml",
        ),
        ("files/rules.yaml", "components/prometheus/rules.yaml"),
        ("files/netpol.json", "dashboards/netpol.json"),
    ] {
        assert!(
            read(&format!("chart/netpol/{chart}")) == read(original),
            "manifests/chart/netpol/{chart} differs from manifests/{original}: copy it"
        );
    }
}

#[test]
fn kustomizations_name_what_exists() {
    let mut seen = 0;
    for folder in folders(&manifests()) {
        let file = folder.join("kustomization.yaml");
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        seen += 1;
        let kustomization: Value = serde_yaml::from_str(&text).unwrap();
        for list in ["resources", "components"] {
            for entry in kustomization[list].as_sequence().into_iter().flatten() {
                let target = folder.join(entry.as_str().unwrap());
                let target = if target.is_dir() {
                    target.join("kustomization.yaml")
                } else {
                    target
                };
                assert!(target.exists(), "{}: {}", file.display(), target.display());
            }
        }
    }
    assert!(seen > 1, "no kustomizations were found");
}

/// Fills in the only constructs that the templates use: `{{ .Values.a.b }}`, `{{ toJson .Values.a }}`
/// and `{{ .Release.Namespace }}`.
fn render(template: &str, values: &Value) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{ ") {
        let (expression, after) = after.split_once(" }}").unwrap();
        text.push_str(before);
        let (json, path) = match expression.strip_prefix("toJson ") {
            Some(path) => (true, path),
            None => (false, expression),
        };
        if path == ".Release.Namespace" {
            text.push_str("netpol-system");
        } else {
            let path = path
                .strip_prefix(".Values.")
                .unwrap_or_else(|| panic!("what is `{expression}`?"));
            let value = path.split('.').fold(values, |value, key| &value[key]);
            assert!(!value.is_null(), "values.yaml has no `{path}`");
            if json {
                text.push_str(&serde_json::to_string(value).unwrap());
            } else {
                text.push_str(serde_yaml::to_string(value).unwrap().trim_end());
            }
        }
        rest = after;
    }
    text.push_str(rest);
    text
}

fn documents(name: &str, text: &str) -> Vec<Value> {
    text.split("\n---\n")
        .map(|document| {
            serde_yaml::from_str(document).unwrap_or_else(|error| panic!("{name}: {error}"))
        })
        .collect()
}

fn folders(root: &Path) -> Vec<PathBuf> {
    let mut found = vec![root.to_path_buf()];
    let mut next = 0;
    while next < found.len() {
        for entry in fs::read_dir(&found[next]).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.push(path);
            }
        }
        next += 1;
    }
    found
}

fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests")
}

fn read(path: &str) -> String {
    fs::read_to_string(manifests().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
