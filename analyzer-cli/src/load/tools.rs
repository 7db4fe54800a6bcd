// SPDX-License-Identifier: Apache-2.0
//! What do kustomize and helm make of their input?

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;

use super::Source;
use crate::exit::UsageError;

/// Builds a kustomization with `kustomize`, or else with `kubectl`.
pub fn kustomize(dir: &Path) -> anyhow::Result<Source> {
    let name = format!("kustomize:{}", dir.display());
    let mut build = Command::new("kustomize");
    build.arg("build").arg(dir);
    if let Some(text) = run(&mut build)? {
        return Ok(Source { name, text });
    }
    let mut build = Command::new("kubectl");
    build.arg("kustomize").arg(dir);
    match run(&mut build)? {
        Some(text) => Ok(Source { name, text }),
        None => Err(UsageError::new(
            "`-k` needs `kustomize` or `kubectl`, and neither is installed",
        )
        .into()),
    }
}

/// Renders a chart with `helm`.
pub fn helm(chart: &str, values: &[PathBuf]) -> anyhow::Result<Source> {
    let mut render = Command::new("helm");
    render.arg("template").arg(chart);
    for file in values {
        render.arg("--values").arg(file);
    }
    match run(&mut render)? {
        Some(text) => Ok(Source {
            name: format!("helm:{chart}"),
            text,
        }),
        None => Err(UsageError::new("`--helm` needs `helm`, which is not installed").into()),
    }
}

/// What a program prints; `None` if it is not installed.
pub fn run(command: &mut Command) -> anyhow::Result<Option<String>> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot run `{program}`")),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(UsageError::new(format!("`{program}` failed: {}", said.trim())).into());
    }
    Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
}
