// SPDX-License-Identifier: Apache-2.0
//! What did the files look like at another revision?

use std::process::Command;

use crate::{
    exit::UsageError,
    load::{Source, run_tool},
};

/// Reads the manifests under `paths` as they are at `reference`.
pub fn read(reference: &str, paths: &[String]) -> anyhow::Result<Vec<Source>> {
    if paths.is_empty() {
        return Err(UsageError::new("no input is named").help("-f PATH").into());
    }
    if reference.starts_with('-') {
        return Err(UsageError::new(format!("`{reference}` is no revision")).into());
    }
    let mut list = Command::new("git");
    list.args(["ls-tree", "-r", "-z", "--name-only", reference, "--"])
        .args(paths);
    let names = git(&mut list)?;
    let mut sources = Vec::new();
    for name in names.split('\0').filter(|name| is_manifest(name)) {
        let mut show = Command::new("git");
        show.arg("show").arg(format!("{reference}:./{name}"));
        sources.push(Source {
            name: format!("{reference}:{name}"),
            text: git(&mut show)?,
        });
    }
    Ok(sources)
}

fn git(command: &mut Command) -> anyhow::Result<String> {
    match run_tool(command)? {
        Some(text) => Ok(text),
        None => Err(UsageError::new("`--base` needs `git`, which is not installed").into()),
    }
}

fn is_manifest(name: &str) -> bool {
    let extension = name
        .rsplit_once('.')
        .map(|(_, extension)| extension.to_ascii_lowercase());
    extension.is_some_and(|extension| ["yaml", "yml", "json"].contains(&extension.as_str()))
}
