// SPDX-License-Identifier: Apache-2.0
//! What does the folder say?

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use policy_compiler::{
    Snapshot,
    diagnostic::{Diagnostic, Severity},
    manifest::{self, Document},
    model::PodKey,
};

/// A folder that can be enforced.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// What it says.
    pub snapshot: Snapshot,
    /// Network namespaces of pods that say where theirs is (annotation `netpol.dev/netns`).
    pub namespaces: BTreeMap<PodKey, PathBuf>,
    /// What is surprising, one `file:line:col: message` each.
    pub warnings: Vec<String>,
}

/// A folder that cannot be enforced as it is.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", problems.join("\n"))]
pub struct Broken {
    /// One `file:line:col: message` each.
    pub problems: Vec<String>,
}

/// The pod annotation that names the file of its network namespace.
const NETNS_ANNOTATION: &str = "netpol.dev/netns";

/// Reads every manifest below `dir`.
///
/// An error anywhere refuses the whole folder: half an edit is nobody's intention. What an API server
/// would take with a warning is taken with a warning.
pub fn load(dir: &Path) -> Result<Loaded, Broken> {
    let unreadable = |path: &Path, error: &io::Error| Broken {
        problems: vec![format!("{}: {error}", path.display())],
    };
    let mut files = Vec::new();
    manifests(dir, &mut files).map_err(|error| unreadable(dir, &error))?;
    files.sort();

    let mut documents = Vec::new();
    let mut diagnostics = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).map_err(|error| unreadable(&file, &error))?;
        let (read, problems) = manifest::read(&file.to_string_lossy(), &text);
        documents.extend(read);
        diagnostics.extend(problems);
    }
    let mut loaded = Loaded {
        namespaces: named_namespaces(&documents),
        ..Loaded::default()
    };
    let (snapshot, problems) = assemble(&documents);
    loaded.snapshot = snapshot;
    diagnostics.extend(problems);
    let (errors, others): (Vec<_>, Vec<_>) = diagnostics
        .iter()
        .partition(|diagnostic| diagnostic.severity == Severity::Error);
    if !errors.is_empty() {
        return Err(Broken {
            problems: errors.into_iter().map(render).collect(),
        });
    }
    loaded.warnings = others
        .into_iter()
        .filter(|diagnostic| diagnostic.severity == Severity::Warning)
        .map(render)
        .collect();
    Ok(loaded)
}

/// Manifest files below `dir`. Hidden files are editors' and file systems' business.
fn manifests(dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
        {
            continue;
        }
        if path.is_dir() {
            manifests(&path, files)?;
        } else if let Some("yaml" | "yml" | "json") = path.extension().and_then(|e| e.to_str()) {
            files.push(path);
        }
    }
    Ok(())
}

/// Pods that say where their network namespace is.
fn named_namespaces(documents: &[Document]) -> BTreeMap<PodKey, PathBuf> {
    let pods = documents.iter().filter(|document| &*document.kind == "Pod");
    pods.filter_map(|pod| {
        let annotations = pod.node.get("metadata")?.get("annotations")?;
        let path = annotations.get(NETNS_ANNOTATION)?.as_str()?;
        let namespace = pod.namespace.as_deref().unwrap_or("default");
        Some((PodKey::new(namespace, pod.name.as_deref()?), path.into()))
    })
    .collect()
}

/// `file:line:col: message (path), help`.
fn render(diagnostic: &Diagnostic) -> String {
    let mut text = String::new();
    if let Some(at) = &diagnostic.at {
        text = format!("{at}: ");
    }
    text.push_str(&diagnostic.message);
    if let Some(object) = &diagnostic.object {
        text = format!("{text} in {object}");
    }
    if !diagnostic.path.is_empty() {
        text = format!("{text} at `{}`", diagnostic.path);
    }
    if let Some(help) = &diagnostic.help {
        text = format!("{text}; {help}");
    }
    text
}

fn assemble(documents: &[Document]) -> (Snapshot, Vec<Diagnostic>) {
    use policy_compiler::parse;
    let settings = parse::Settings::default();
    let mut snapshot = Snapshot::default();
    let mut diagnostics = Vec::new();
    for document in documents {
        let value = document.value();
        let at = document.locator();
        macro_rules! take {
            ($parsed:expr, $insert:expr) => {{
                let parsed = $parsed;
                diagnostics.extend(parsed.diagnostics);
                if let Some(object) = parsed.object {
                    $insert(object);
                }
            }};
        }
        match &*document.kind {
            "Pod" => take!(parse::pod(&value, &at, &settings), |o| snapshot
                .insert_pod(o)),
            "Node" => take!(parse::node(&value, &at), |o| snapshot.insert_node(o)),
            "Namespace" => take!(
                parse::namespace(&value, &at),
                |o: policy_compiler::model::Namespace| snapshot.insert_namespace(&o.name, o.labels)
            ),
            "NetworkPolicy" => take!(parse::network_policy(&value, &at, &settings), |o| snapshot
                .insert_network_policy(o)),
            "AdminNetworkPolicy" => {
                take!(parse::admin_network_policy(&value, &at, &settings), |o| {
                    snapshot.insert_admin_policy(o)
                })
            }
            "BaselineAdminNetworkPolicy" => take!(
                parse::baseline_admin_network_policy(&value, &at, &settings),
                |o| snapshot.insert_admin_policy(o)
            ),
            "ClusterNetworkPolicy" => {
                take!(parse::cluster_network_policy(&value, &at, &settings), |o| {
                    snapshot.insert_admin_policy(o)
                })
            }
            _ => {}
        }
    }
    (snapshot, diagnostics)
}
