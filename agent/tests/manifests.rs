// SPDX-License-Identifier: Apache-2.0
//! Do the ways to deploy the agent deploy the same thing?
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use agent::{
    args::{Args, Command},
    cni::install::Folders,
    config_file,
    metrics::{
        DropLabels, KindLabel, MapLabel, Metrics, ReasonLabel, StateLabel, VerdictLabels,
        WriteLabels,
    },
};
use clap::Parser as _;
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
fn the_chart_with_the_plugin_is_the_overlay() {
    let mut values: Value = serde_yaml::from_str(&read("chart/netpol/values.yaml")).unwrap();
    values["cni"]["enabled"] = true.into();
    let template = read("chart/netpol/templates/daemonset.yaml");
    let rendered = documents("daemonset.yaml", &render(&template, &values)).remove(0);
    let mut patched: Value = serde_yaml::from_str(&read("base/daemonset.yaml")).unwrap();
    let overlay: Value =
        serde_yaml::from_str(&read("overlays/cni-plugin/kustomization.yaml")).unwrap();
    let patch = overlay["patches"][0]["patch"].as_str().unwrap();
    let operations: Vec<Value> = serde_yaml::from_str(patch).unwrap();
    assert!(operations.len() > 4, "{operations:?}");
    for operation in operations {
        assert_eq!(operation["op"], "add");
        let path = operation["path"].as_str().unwrap();
        let list = path.trim_start_matches('/').strip_suffix("/-").unwrap();
        let list = list
            .split('/')
            .fold(&mut patched, |value, key| match key.parse::<usize>() {
                Ok(index) => &mut value[index],
                Err(_) => &mut value[key],
            });
        let list = list.as_sequence_mut().unwrap();
        list.push(operation["value"].clone());
    }
    assert_eq!(rendered, patched);
    // What the agent is told to write is what is mounted.
    let container = &patched["spec"]["template"]["spec"]["containers"][0];
    let words = container["args"].as_sequence().unwrap().iter();
    let words = words.map(|word| word.as_str().unwrap());
    let words = words.filter(|word| !["--config", "/etc/netpol/config.yaml"].contains(word));
    let line = ["netpol-agent"]
        .into_iter()
        .chain(words)
        .chain(["--node=n1"]);
    let Command::Run(run) = Args::try_parse_from(line).unwrap().command else {
        panic!("the DaemonSet does not run the agent");
    };
    assert!(run.cni.cni_install);
    let mounted = container["volumeMounts"].as_sequence().unwrap().iter();
    let mounted: BTreeSet<&str> = mounted.filter_map(|m| m["mountPath"].as_str()).collect();
    let Folders {
        cni_bin_dir,
        cni_conf_dir,
    } = run.cni.folders;
    for folder in [cni_bin_dir, cni_conf_dir] {
        assert!(mounted.contains(folder.to_str().unwrap()), "{folder:?}");
    }
}

#[test]
fn the_agent_takes_its_arguments_and_its_configuration() {
    let daemonset: Value = serde_yaml::from_str(&read("base/daemonset.yaml")).unwrap();
    let configmap: Value = serde_yaml::from_str(&read("base/configmap.yaml")).unwrap();
    let pod = &daemonset["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let config = configmap["data"]["config.yaml"].as_str().unwrap();
    file.write_all(config.as_bytes()).unwrap();
    // The node's name comes from the environment, which is not a test's to change.
    let mut line: Vec<OsString> = ["netpol-agent", "--", "--node=n1"].map(Into::into).into();
    let arguments = container["args"].as_sequence().unwrap();
    line.splice(
        1..2,
        arguments.iter().map(|word| match word.as_str().unwrap() {
            "/etc/netpol/config.yaml" => file.path().into(),
            word => word.into(),
        }),
    );
    let line = config_file::complete(line).unwrap();
    let Command::Run(run) = Args::try_parse_from(line).unwrap().command else {
        panic!("the DaemonSet does not run the agent");
    };
    assert_eq!(
        u64::from(run.kubernetes.listen.port()),
        container["ports"][0]["containerPort"].as_u64().unwrap()
    );
    let mounted: Vec<&str> = container["volumeMounts"]
        .as_sequence()
        .unwrap()
        .iter()
        .map(|mount| mount["mountPath"].as_str().unwrap())
        .collect();
    let needed = [
        &run.datapath.bpffs,
        &run.datapath.state_dir,
        &run.netns_dir,
        &run.kubernetes.bundle_dir,
    ];
    for folder in needed {
        let folder = folder.to_str().unwrap();
        assert!(mounted.contains(&folder), "{folder} is not mounted");
    }
}

#[test]
fn every_capability_is_accounted_for() {
    let daemonset: Value = serde_yaml::from_str(&read("base/daemonset.yaml")).unwrap();
    let container = &daemonset["spec"]["template"]["spec"]["containers"][0];
    let capabilities = &container["securityContext"]["capabilities"];
    assert_eq!(capabilities["drop"], Value::from(vec!["ALL"]));
    let readme = read("README.md");
    let (_, told) = readme.split_once("\nCapabilities ").unwrap();
    let (told, _) = told.split_once(", the host").unwrap();
    let told: BTreeSet<&str> = told
        .split(", ")
        .flat_map(|names| names.split(" and "))
        .collect();
    let added = capabilities["add"].as_sequence().unwrap();
    let added: BTreeSet<&str> = added.iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(told, added);
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
        ("crds/nodeenforcements.yaml", "crds/nodeenforcements.yaml"),
    ] {
        assert!(
            read(&format!("chart/netpol/{chart}")) == read(original),
            "manifests/chart/netpol/{chart} differs from manifests/{original}: copy it"
        );
    }
}

#[test]
fn the_definition_is_the_types() {
    assert!(
        read("crds/nodeenforcements.yaml") == agent::status::report::definition().unwrap(),
        "`cargo run -p agent --bin crdgen` gives another manifests/crds/nodeenforcements.yaml"
    );
}

#[test]
fn dashboards_alerts_and_documents_know_the_metrics() {
    let published = published();
    let documented = metrics_in(&read("../docs/metrics.md"));
    assert_eq!(documented, published, "docs/metrics.md");
    for file in ["dashboards/netpol.json", "components/prometheus/rules.yaml"] {
        let used: BTreeSet<String> = metrics_in(&read(file))
            .into_iter()
            .map(|name| name.trim_end_matches("_bucket").to_owned())
            .collect();
        let unknown: Vec<&String> = used.difference(&published).collect();
        assert!(used.len() > 5 && unknown.is_empty(), "{file}: {unknown:?}");
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

/// The agent's metrics by the names they are queried by.
fn published() -> BTreeSet<String> {
    let metrics = Metrics::new();
    // What has no labels yet is not published.
    let (dir, reason) = ("ingress", "Denied".to_owned());
    let (tier, action) = ("admin", "deny");
    let verdict = VerdictLabels { dir, tier, action };
    metrics.verdicts.get_or_create(&verdict).inc();
    let drop = DropLabels { dir, reason };
    metrics.drops.get_or_create(&drop).inc();
    let state = StateLabel { state: "enforced" };
    metrics.endpoints.get_or_create(&state).inc();
    let map = MapLabel { map: "ROWS" };
    metrics.map_entries.get_or_create(&map).inc();
    metrics.map_capacity.get_or_create(&map).inc();
    let kind = KindLabel { kind: "Pod" };
    metrics.objects.get_or_create(&kind).inc();
    metrics.objects_rejected.get_or_create(&kind).inc();
    metrics.watch_synced.get_or_create(&kind).inc();
    metrics.watch_errors.get_or_create(&kind).inc();
    let reason = ReasonLabel {
        reason: "TableOverflow".to_owned(),
    };
    metrics.publish_failures.get_or_create(&reason).inc();
    let (object, result) = ("report", "written");
    let write = WriteLabels { object, result };
    metrics.status_writes.get_or_create(&write).inc();
    let text = metrics.encode().unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| match line.split_once(' ').unwrap() {
            (name, "counter") => format!("{name}_total"),
            (name, "info") => format!("{name}_info"),
            (name, _) => name.to_owned(),
        })
        .collect()
}

/// Every word in `text` that is a metric of ours.
fn metrics_in(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("netpol_"))
        .map(str::to_owned)
        .collect()
}

/// Fills in the only constructs that the templates use: `{{ .Values.a.b }}`, `{{ toJson .Values.a }}`,
/// `{{ .Release.Namespace }}`, and `{{ if .Values.a }}` up to the next `{{ end }}`.
fn render(template: &str, values: &Value) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{ ") {
        let (expression, after) = after.split_once(" }}").unwrap();
        text.push_str(before);
        if let Some(path) = expression.strip_prefix("if .Values.") {
            let (held, after) = after.split_once("{{ end }}").unwrap();
            let is_on = path.split('.').fold(values, |value, key| &value[key]);
            if is_on.as_bool().unwrap() {
                text.push_str(&render(held, values));
            }
            rest = after;
            continue;
        }
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
