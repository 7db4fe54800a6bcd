// SPDX-License-Identifier: Apache-2.0
//! What does a finding mean? `rule`.

use policy_compiler::{
    diagnostic::Severity,
    lint::{self, Lint},
};
use serde::Serialize;

use crate::{
    API_VERSION, Io,
    args::{RuleArgs, Tabular},
    exit::{ExitStatus, UsageError},
    render::table,
    suggest::nearest,
};

/// Runs `rule`: the page of one rule, or a line for each of them.
pub fn run(io: &Io<'_>, args: &RuleArgs) -> anyhow::Result<ExitStatus> {
    let format: Tabular = io.format()?;
    let rules = match &args.code {
        Some(wanted) => vec![find(wanted)?],
        None => lint::all(),
    };
    match format {
        Tabular::Json => io.json(&Catalogue::of(&rules))?,
        Tabular::Yaml => io.yaml(&Catalogue::of(&rules))?,
        Tabular::Jsonl => io.jsonl(rules.iter().map(|lint| RuleJson::of(lint)))?,
        Tabular::Csv => io.answer(&table::csv(&rows(&rules, true)))?,
        Tabular::Md | Tabular::Text | Tabular::Wide => io.answer(&match (&args.code, &*rules) {
            // The page is Markdown that reads well as it is.
            (Some(_), [lint]) => page(lint),
            _ if format == Tabular::Md => table::markdown(&rows(&rules, true)),
            _ => table::columns(&rows(&rules, false), ""),
        })?,
    }
    Ok(ExitStatus::Success)
}

fn find(wanted: &str) -> Result<&'static Lint, UsageError> {
    lint::find(wanted).ok_or_else(|| {
        let known = lint::all()
            .into_iter()
            .flat_map(|lint| [lint.code, lint.name]);
        let error = UsageError::new(format!("there is no rule `{wanted}`"));
        match nearest(wanted, known.map(str::to_owned)) {
            Some(near) => error.help(format!("there is `{near}`")),
            None => error.help("`netpol-analyze rule` lists all of them"),
        }
    })
}

#[derive(Serialize)]
struct Catalogue {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    rules: Vec<RuleJson>,
}

impl Catalogue {
    fn of(rules: &[&Lint]) -> Self {
        Self {
            api_version: API_VERSION,
            kind: "Rules",
            rules: rules.iter().map(|lint| RuleJson::of(lint)).collect(),
        }
    }
}

#[derive(Serialize)]
struct RuleJson {
    code: &'static str,
    name: &'static str,
    severity: Severity,
    what: &'static str,
    why: &'static str,
    example: &'static str,
    instead: &'static str,
}

impl RuleJson {
    fn of(lint: &Lint) -> Self {
        Self {
            code: lint.code,
            name: lint.name,
            severity: lint.severity,
            what: lint.what,
            why: lint.why,
            example: lint.example,
            instead: lint.instead,
        }
    }
}

fn rows(rules: &[&Lint], head: bool) -> Vec<Vec<String>> {
    let names = ["code", "severity", "name", "what"].map(str::to_owned);
    let rows = rules.iter().map(|lint| {
        let severity = format!("{:?}", lint.severity).to_lowercase();
        vec![
            lint.code.to_owned(),
            severity,
            lint.name.to_owned(),
            lint.what.to_owned(),
        ]
    });
    head.then_some(names.to_vec())
        .into_iter()
        .chain(rows)
        .collect()
}

/// The code and name of a diagnostic; the code is empty if no rule is documented for it.
pub fn code_of(id: &'static str) -> (&'static str, &'static str) {
    match lint::find(id) {
        Some(lint) => (lint.code, lint.name),
        None => ("", id),
    }
}

fn page(lint: &Lint) -> String {
    let severity = format!("{:?}", lint.severity).to_lowercase();
    let indent = |text: &str| format!("    {}\n", text.trim_end().replace('\n', "\n    "));
    format!(
        "# {} {} ({severity})\n\n## What it does\n\n{}\n\n## Why it matters\n\n{}\n\n## Example\n\n{}\n## Use instead\n\n{}",
        lint.code,
        lint.name,
        lint.what,
        lint.why,
        indent(lint.example),
        indent(lint.instead),
    )
}
