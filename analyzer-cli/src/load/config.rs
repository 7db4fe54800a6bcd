// SPDX-License-Identifier: Apache-2.0
//! What does the repository say about itself? `.netpol-analyze.yaml`.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use policy_compiler::diagnostic::Severity;
use serde::Deserialize;

use crate::{
    args::{Assume, InputArgs},
    exit::UsageError,
};

/// The configuration of a repository.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Input when the command line names none, relative to the file.
    pub files: Vec<String>,
    /// Namespace of objects that have none.
    pub namespace: Option<String>,
    /// Switches, before those of the command line.
    pub assume: Vec<Assume>,
    /// Codes and names of findings that are not reported.
    pub ignore: Vec<String>,
    /// Severities that differ from the built-in ones, by code or name.
    pub severity: BTreeMap<String, Severity>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
#[derive(Default)]
struct File {
    files: Vec<String>,
    namespace: Option<String>,
    assume: Vec<String>,
    ignore: Vec<String>,
    severity: BTreeMap<String, Severity>,
}

impl Config {
    /// Reads the file that `args` name, or the one of this folder or a parent of it, up to the root of
    /// the repository.
    pub fn find(args: &InputArgs) -> anyhow::Result<Self> {
        if let Some(path) = &args.config {
            return Self::read(path);
        }
        let Ok(mut folder) = env::current_dir() else {
            return Ok(Self::default());
        };
        loop {
            let path = folder.join(NAME);
            if path.is_file() {
                return Self::read(&path);
            }
            if folder.join(".git").exists() || !folder.pop() {
                return Ok(Self::default());
            }
        }
    }

    fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let text = fs::read_to_string(path).with_context(|| format!("cannot read `{shown}`"))?;
        let file: Option<File> = crate::yaml::from_str(&text)
            .map_err(|error| UsageError::new(format!("`{shown}`: {error}")))?;
        let file = file.unwrap_or_default();
        let assume = file
            .assume
            .iter()
            .map(|text| {
                let parsed = text.parse::<Assume>();
                parsed.map_err(|error| {
                    UsageError::new(format!("`{shown}`: assume `{text}`: {error}"))
                })
            })
            .collect::<Result<_, _>>()?;
        let base = path.parent().map(PathBuf::from).unwrap_or_default();
        let files = file
            .files
            .iter()
            .map(|path| base.join(path).display().to_string());
        Ok(Self {
            files: files.collect(),
            namespace: file.namespace,
            assume,
            ignore: file.ignore,
            severity: file.severity,
        })
    }
}

const NAME: &str = ".netpol-analyze.yaml";
