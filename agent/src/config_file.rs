// SPDX-License-Identifier: Apache-2.0
//! How do settings in a file become settings on the command line?
//!
//! The file named by `--config` holds one `flag: value` line for each flag of `run`, without the dashes.
//! It is turned into flags before the command line is read, so names, values, defaults and errors are
//! the same in both places. What the command line itself says comes first.

use std::{collections::BTreeMap, ffi::OsString, fs, path::Path};

use anyhow::{Context as _, Result, bail};
use clap::{ArgAction, CommandFactory as _};
use serde_yaml::Value;

use crate::args::Args;

/// `line` with the flags of the file it names, if it names one.
///
/// # Errors
///
/// The file cannot be read, is no map of settings, or sets what is no flag of `run`.
pub fn complete(line: Vec<OsString>) -> Result<Vec<OsString>> {
    let Some(file) = value_of(&line, "config") else {
        return Ok(line);
    };
    let path = Path::new(&file);
    let text = fs::read_to_string(path);
    let flags = text.map_err(Into::into).and_then(|text| flags(&text));
    let flags = flags.with_context(|| format!("cannot use `{}`", path.display()))?;
    let missing = flags.into_iter().filter(|(name, _)| !is_given(&line, name));
    let missing: Vec<OsString> = missing
        .map(|(name, value)| match value {
            Some(value) => format!("--{name}={value}").into(),
            None => format!("--{name}").into(),
        })
        .collect();
    Ok(line.into_iter().chain(missing).collect())
}

/// The settings of a file: a flag with its value for each, `None` for a switch that is on.
fn flags(text: &str) -> Result<Vec<(String, Option<String>)>> {
    let known = known_flags();
    let settings = match serde_yaml::from_str(text)? {
        // An empty file and one that has only comments set nothing.
        Value::Null => return Ok(Vec::new()),
        Value::Mapping(settings) => settings,
        _ => bail!("a file of `flag: value` lines is expected"),
    };
    let mut flags = Vec::new();
    for (name, value) in settings {
        let Some(name) = name.as_str() else {
            bail!("the name of a flag is text");
        };
        let Some(is_switch) = known.get(name) else {
            bail!("there is no flag named `{name}`");
        };
        let values = match value {
            Value::Sequence(values) => values,
            single => vec![single],
        };
        for value in values {
            let value = match value {
                Value::Bool(true) if *is_switch => None,
                Value::Bool(false) if *is_switch => continue,
                Value::Bool(value) => Some(value.to_string()),
                Value::Number(value) => Some(value.to_string()),
                Value::String(value) => Some(value),
                Value::Null | Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_) => {
                    bail!("`{name}` has no value that a flag could have");
                }
            };
            flags.push((name.to_owned(), value));
        }
    }
    Ok(flags)
}

/// The flags that a file may set, and whether each is a switch.
fn known_flags() -> BTreeMap<String, bool> {
    let command = Args::command();
    let run = command.find_subcommand("run");
    let own = run.into_iter().flat_map(clap::Command::get_arguments);
    own.chain(command.get_arguments())
        .filter_map(|flag| {
            let name = flag.get_long().filter(|name| *name != "config")?;
            let is_switch = matches!(flag.get_action(), ArgAction::SetTrue);
            Some((name.to_owned(), is_switch))
        })
        .collect()
}

fn value_of(line: &[OsString], name: &str) -> Option<OsString> {
    let (flag, prefix) = (format!("--{name}"), format!("--{name}="));
    line.iter().enumerate().find_map(|(index, word)| {
        let text = word.to_str()?;
        match text.strip_prefix(&prefix) {
            Some(value) => Some(value.into()),
            None if text == flag => line.get(index + 1).cloned(),
            None => None,
        }
    })
}

fn is_given(line: &[OsString], name: &str) -> bool {
    let (flag, prefix) = (format!("--{name}"), format!("--{name}="));
    let mut words = line.iter().filter_map(|word| word.to_str());
    words.any(|word| word == flag || word.starts_with(&prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(file: &str, line: &str, expected: &str) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        fs::write(&path, file).unwrap();
        let path = path.to_str().unwrap();
        let words = |text: &str| -> Vec<OsString> {
            let text = text.replace("FILE", path);
            text.split(' ').map(OsString::from).collect()
        };
        let expected = words(expected);
        assert_eq!(complete(words(line)).unwrap(), expected);
    }

    #[test]
    fn settings_become_flags() {
        check(
            "# a comment\nlog: debug\nnode: n1\nevents-per-second: 5\naudit: true\nallow-events: false\nstreaming-lists: false\n",
            "netpol-agent run --config FILE",
            "netpol-agent run --config FILE --log=debug --node=n1 --events-per-second=5 --audit --streaming-lists=false",
        );
        check(
            "",
            "netpol-agent run --config=FILE",
            "netpol-agent run --config=FILE",
        );
        check("node: n1", "netpol-agent run", "netpol-agent run");
    }

    #[test]
    fn the_command_line_comes_first() {
        check(
            "node: n1\nattach: tcx\n",
            "netpol-agent run --node n2 --config FILE --attach=clsact",
            "netpol-agent run --node n2 --config FILE --attach=clsact",
        );
    }

    #[test]
    fn what_is_no_setting_is_named() {
        for (file, expected) in [
            ("nod: n1", "there is no flag named `nod`"),
            ("config: other", "there is no flag named `config`"),
            (
                "node: {name: n1}",
                "`node` has no value that a flag could have",
            ),
            ("- node", "a file of `flag: value` lines is expected"),
        ] {
            let error = flags(file).unwrap_err().to_string();
            assert_eq!(error, expected, "{file}");
        }
    }
}
