// SPDX-License-Identifier: Apache-2.0
//! How do settings in a file become settings on the command line?
//!
//! The file named by `--config` holds one `flag: value` line for each flag of `run`, without the dashes.
//! It is turned into flags before the command line is read, so names, values and defaults are the same in
//! both places; what is wrong with a value is told with its place in the file. What the command line itself
//! says comes first.

use std::{collections::BTreeMap, ffi::OsString, fs, path::Path};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{
    ArgAction, ArgMatches, CommandFactory as _,
    error::{ContextKind, ContextValue},
};
use policy_compiler::manifest;
use serde_yaml::Value;

use crate::args::Args;

/// One flag as a file sets it.
#[derive(Debug)]
struct Setting {
    name: String,
    /// A value for each time that the flag is given, `None` for a switch that is on.
    values: Vec<Option<String>>,
    /// `file:line`, where the flag is set.
    place: String,
}

/// `line` with the flags of the file it names, if it names one.
///
/// # Errors
///
/// The file cannot be read, is no map of settings, sets what is no flag of `run`, or sets a flag to what it
/// does not take; with the place in the file, where there is one. Other mistakes are left to whoever reads
/// the line.
pub fn complete(line: Vec<OsString>) -> Result<Vec<OsString>> {
    let Some(file) = value_of(&line, "config") else {
        return Ok(line);
    };
    let path = Path::new(&file);
    let shown = path.display().to_string();
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{shown}`"))?;
    let mut settings = settings(&shown, &text)?;
    settings.retain(|setting| !is_given(&line, &setting.name));
    let words = settings.iter().flat_map(Setting::words);
    let line: Vec<OsString> = line.iter().cloned().chain(words).collect();
    match Args::command().try_get_matches_from(&line) {
        Err(error) => match settings.iter().find(|setting| setting.is_meant(&error)) {
            Some(setting) => bail!("{}: `{}`: {}", setting.place, setting.name, gist(&error)),
            None => Ok(line),
        },
        Ok(_) => Ok(line),
    }
}

/// The flags of `run` that have other values in one command line than in the other.
///
/// # Errors
///
/// One of them is no command line of `run`.
pub fn changed(before: &[OsString], after: &[OsString]) -> Result<Vec<String>> {
    let (before, after) = (run_matches(before)?, run_matches(after)?);
    let command = Args::command();
    let run = command.find_subcommand("run").into_iter();
    let flags = run.flat_map(clap::Command::get_arguments);
    Ok(flags
        .chain(command.get_arguments())
        .filter(|flag| raw(&before, flag) != raw(&after, flag))
        .filter_map(|flag| flag.get_long().map(str::to_owned))
        .collect())
}

fn run_matches(line: &[OsString]) -> Result<ArgMatches> {
    let matches = Args::command().try_get_matches_from(line)?;
    let run = matches.subcommand_matches("run").cloned();
    run.ok_or_else(|| anyhow!("the configuration is another command's"))
}

/// What a flag was given, or has by default.
fn raw(matches: &ArgMatches, flag: &clap::Arg) -> Vec<OsString> {
    let values = matches.try_get_raw(flag.get_id().as_str());
    let values = values.ok().flatten().into_iter().flatten();
    values.map(Into::into).collect()
}

impl Setting {
    fn words(&self) -> impl Iterator<Item = OsString> {
        let name = &self.name;
        self.values.iter().map(move |value| match value {
            Some(value) => format!("--{name}={value}").into(),
            None => format!("--{name}").into(),
        })
    }

    /// Whether `error` is about this flag.
    fn is_meant(&self, error: &clap::Error) -> bool {
        let flag = format!("--{}", self.name);
        match error.get(ContextKind::InvalidArg) {
            // The flag as usage shows it: `--attach <HOW>`.
            Some(ContextValue::String(shown)) => shown.split(' ').next() == Some(&*flag),
            _ => false,
        }
    }
}

/// What is wrong, on one line and without advice on how to use the command line.
fn gist(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().take_while(|line| !line.is_empty());
    let words: Vec<&str> = lines.map(str::trim).collect();
    let text = words.join(" ");
    text.strip_prefix("error: ").unwrap_or(&text).to_owned()
}

/// The settings of `file`, which holds `text`.
fn settings(file: &str, text: &str) -> Result<Vec<Setting>> {
    let known = known_flags();
    let settings = match serde_yaml::from_str(text).map_err(|error| malformed(file, &error))? {
        // An empty file and one that has only comments set nothing.
        Value::Null => return Ok(Vec::new()),
        Value::Mapping(settings) => settings,
        _ => bail!("{file}:1: a file of `flag: value` lines is expected"),
    };
    let (documents, _) = manifest::read(file, text);
    let place = |name: &str| {
        let mut entries = documents
            .iter()
            .filter_map(|document| document.node.entry(name));
        let line = entries.next().map_or(1, |entry| entry.line);
        format!("{file}:{line}")
    };
    let mut read = Vec::new();
    for (name, value) in settings {
        let Some(name) = name.as_str() else {
            bail!("{file}:1: the name of a flag is text");
        };
        let place = place(name);
        let Some(is_switch) = known.get(name) else {
            bail!("{place}: there is no flag named `{name}`");
        };
        let values = match value {
            Value::Sequence(values) => values,
            single => vec![single],
        };
        let mut taken = Vec::new();
        for value in values {
            taken.push(match value {
                Value::Bool(true) if *is_switch => None,
                Value::Bool(false) if *is_switch => continue,
                Value::Bool(value) => Some(value.to_string()),
                Value::Number(value) => Some(value.to_string()),
                Value::String(value) => Some(value),
                Value::Null | Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_) => {
                    bail!("{place}: `{name}` has no value that a flag could have");
                }
            });
        }
        read.push(Setting {
            name: name.to_owned(),
            values: taken,
            place,
        });
    }
    Ok(read)
}

/// What makes the text no YAML, with its place in front.
fn malformed(file: &str, error: &serde_yaml::Error) -> anyhow::Error {
    let text = error.to_string();
    let Some(at) = error.location() else {
        return anyhow!("{file}: {text}");
    };
    let (line, column) = (at.line(), at.column());
    let what = text.replacen(&format!(" at line {line} column {column}"), "", 1);
    anyhow!("{file}:{line}:{column}: {what}")
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
            ("nod: n1", "FILE:1: there is no flag named `nod`"),
            (
                "node: n1\nconfig: other",
                "FILE:2: there is no flag named `config`",
            ),
            (
                "# a comment\nnode: {name: n1}",
                "FILE:2: `node` has no value that a flag could have",
            ),
            (
                "- node",
                "FILE:1: a file of `flag: value` lines is expected",
            ),
            (
                "node: n1\nlocal-node-egress: perhaps",
                "FILE:2: `local-node-egress`: invalid value 'perhaps' for \
                 '--local-node-egress <WHAT>' [possible values: allow, enforce]",
            ),
            (
                "node: n1\nservice-cidr:\n- 10.0.0.0/8\n- 10.0.0.0/99",
                "FILE:2: `service-cidr`: invalid value '10.0.0.0/99' for \
                 '--service-cidr <CIDR>': invalid IP address syntax",
            ),
            (
                "node: n1\nlog: [debug",
                "FILE:3:1: did not find expected ',' or ']', while parsing a flow sequence at line 2 column 6",
            ),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("config.yaml");
            fs::write(&path, file).unwrap();
            let line = ["netpol-agent", "run", "--config", path.to_str().unwrap()];
            let error = complete(line.map(Into::into).into()).unwrap_err();
            let error = error.to_string().replace(path.to_str().unwrap(), "FILE");
            assert_eq!(error, expected, "{file}");
        }
    }

    #[test]
    fn changed_settings_are_named() {
        let line = |rest: &str| -> Vec<OsString> {
            let line = format!("netpol-agent run --node n1 {rest}");
            line.split_whitespace().map(OsString::from).collect()
        };
        let changed = |before, after| changed(&line(before), &line(after)).unwrap();
        assert_eq!(changed("--log info", "--log=info"), [""; 0]);
        assert_eq!(changed("", "--attach auto"), [""; 0]);
        assert_eq!(
            changed("--audit --service-cidr 10.96.0.0/12", "--log debug"),
            ["service-cidr", "audit", "log"]
        );
    }
}
