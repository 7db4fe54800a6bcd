// SPDX-License-Identifier: Apache-2.0
//! Which files do paths, folders and globs stand for?

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read},
    path::{Component, Path, PathBuf},
};

use anyhow::Context;

use crate::exit::UsageError;

/// A text and what to call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The path as the user named it.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// Reads every file that `paths` stand for, once, folders in order of their names.
pub fn read(paths: &[String], mut stdin: impl Read) -> anyhow::Result<Vec<Source>> {
    let mut files: Vec<PathBuf> = Vec::new();
    let mut sources = Vec::new();
    for path in paths {
        if path == "-" {
            let mut bytes = Vec::new();
            stdin
                .read_to_end(&mut bytes)
                .context("cannot read standard input")?;
            sources.push(Source {
                name: "-".to_owned(),
                text: decode(&bytes),
            });
            continue;
        }
        let before = files.len();
        if Path::new(path).exists() {
            walk(Path::new(path), true, &mut BTreeSet::new(), &mut files)?;
            if files.len() == before {
                sources.push(Source {
                    name: path.clone(),
                    text: String::new(),
                });
            }
        } else if path.contains(['*', '?', '[']) {
            let matches = glob::glob(path)
                .map_err(|error| UsageError::new(format!("`{path}` is no pattern: {error}")))?;
            for found in matches {
                let found = found.context("cannot read a folder")?;
                if is_round_about(&found) {
                    continue;
                }
                walk(&found, true, &mut BTreeSet::new(), &mut files)?;
            }
            if files.len() == before {
                return Err(UsageError::new(format!("no file matches `{path}`")).into());
            }
        } else {
            return Err(UsageError::new(format!("there is no file or folder `{path}`")).into());
        }
    }
    let mut seen = BTreeSet::new();
    for file in files {
        if !seen.insert(file.clone()) {
            continue;
        }
        let name = file.display().to_string();
        let bytes = if is_special(&file) && !paths.contains(&name) {
            Vec::new()
        } else {
            fs::read(&file).with_context(|| format!("cannot read `{name}`"))?
        };
        sources.push(Source {
            name,
            text: decode(&bytes),
        });
    }
    Ok(sources)
}

/// Adds the files that `path` stands for. `above` are the folders on the way to it, so that a link back
/// to one of them ends there.
fn walk(
    path: &Path,
    named: bool,
    above: &mut BTreeSet<PathBuf>,
    files: &mut Vec<PathBuf>,
) -> anyhow::Result<()> {
    if !path.is_dir() {
        if named || is_manifest(path) {
            files.push(path.to_owned());
        }
        return Ok(());
    }
    let context = || format!("cannot read folder `{}`", path.display());
    let own = fs::canonicalize(path).with_context(context)?;
    if !above.insert(own.clone()) {
        return Ok(());
    }
    let mut entries: Vec<PathBuf> = fs::read_dir(path)
        .with_context(context)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()
        .with_context(context)?;
    entries.sort();
    // What builds manifests says what its folder is; the files beside it are its input, not ours.
    let builder = entries.iter().find(|entry| {
        let name = entry.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| BUILDERS.contains(&name))
    });
    if let Some(builder) = builder {
        files.push(builder.clone());
        above.remove(&own);
        return Ok(());
    }
    for entry in entries {
        let hidden = entry
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with('.'));
        if !hidden {
            walk(&entry, false, above, files)?;
        }
    }
    above.remove(&own);
    Ok(())
}

/// Whether the way to what a pattern matched passes a folder twice, through a link back to it.
fn is_round_about(found: &Path) -> bool {
    let last = if found.is_dir() {
        Some(found)
    } else {
        found.parent()
    };
    let mut way = PathBuf::from(".");
    let mut passed: BTreeSet<PathBuf> = fs::canonicalize(&way).into_iter().collect();
    for step in last.into_iter().flat_map(Path::components) {
        match step {
            Component::CurDir => continue,
            Component::Normal(_) => {}
            // Written so by the user: the way starts here.
            Component::Prefix(_) | Component::RootDir | Component::ParentDir => passed.clear(),
        }
        way.push(step);
        let Ok(folder) = fs::canonicalize(&way) else {
            return false;
        };
        if !passed.insert(folder) {
            return true;
        }
    }
    false
}

/// Whether it is neither folder nor file, such as a pipe, whose end may never come: only what is named
/// itself is read.
fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|it| !it.is_file() && !it.is_dir())
}

fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| {
        ["yaml", "yml", "json"]
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    })
}

/// Manifests are UTF-8, or UTF-16 with a mark that says so; anything else becomes characters that no
/// manifest may hold, and is reported as such by the reader.
fn decode(bytes: &[u8]) -> String {
    let wide = |join: fn([u8; 2]) -> u16| {
        let units = bytes.chunks(2).map(|unit| match unit {
            [first, second] => join([*first, *second]),
            _ => u16::from(b'\0'),
        });
        let units: Vec<u16> = units.skip(1).collect();
        String::from_utf16_lossy(&units)
    };
    match bytes {
        [0xff, 0xfe, ..] => wide(u16::from_le_bytes),
        [0xfe, 0xff, ..] => wide(u16::from_be_bytes),
        _ => match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => String::from_utf8_lossy(bytes).replace(char::REPLACEMENT_CHARACTER, "\0"),
        },
    }
}

const BUILDERS: [&str; 5] = [
    "kustomization.yaml",
    "kustomization.yml",
    "Kustomization",
    "Chart.yaml",
    "Chart.yml",
];
