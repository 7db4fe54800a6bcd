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
    manifest,
    model::PodKey,
    parse::Settings,
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

    let mut texts = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).map_err(|error| unreadable(&file, &error))?;
        texts.push((file.to_string_lossy().into_owned(), text));
    }
    let texts = texts
        .iter()
        .map(|(file, text)| (file.as_str(), text.as_str()));
    let loaded = manifest::load(texts, &Settings::default());
    let (errors, others): (Vec<_>, Vec<_>) = loaded
        .diagnostics
        .iter()
        .partition(|diagnostic| diagnostic.severity == Severity::Error);
    if !errors.is_empty() {
        return Err(Broken {
            problems: errors.into_iter().map(render).collect(),
        });
    }
    let warnings = others
        .into_iter()
        .filter(|diagnostic| diagnostic.severity == Severity::Warning);
    let namespaces = loaded.annotations.iter().filter_map(|(pod, annotations)| {
        let path = annotations.get(NETNS_ANNOTATION)?;
        Some((pod.clone(), PathBuf::from(&**path)))
    });
    Ok(Loaded {
        namespaces: namespaces.collect(),
        warnings: warnings.map(render).collect(),
        snapshot: loaded.snapshot,
    })
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
