// SPDX-License-Identifier: Apache-2.0
//! What is wrong or surprising? `lint`.

use std::{fs, path::Path};

use anyhow::Context;
use clap::ValueEnum;
use policy_compiler::{
    diagnostic::{Diagnostic, ObjectRef, Severity},
    lint,
    manifest::{self, Document},
};
use serde::Serialize;

use crate::{
    API_VERSION, Io,
    answer::At,
    args::{FailOn, LintArgs},
    exit::{ExitStatus, UsageError},
    load::World,
    render::{diagnostics, github, sarif, table},
};

/// Runs `lint`.
pub fn run(io: &Io<'_>, args: &LintArgs) -> anyhow::Result<ExitStatus> {
    let format: Format = io.format()?;
    for wanted in &args.only {
        if lint::find(wanted).is_none() {
            return Err(UsageError::new(format!("there is no rule `{wanted}`"))
                .help("`netpol-analyze rule` lists all of them")
                .into());
        }
    }
    let mut world = World::load(io.input)?;
    let mut findings = findings(&world, &args.only);
    if args.fix {
        let mut corrected = 0;
        // Each correction makes the input smaller or better; the bound is for what we did not think of.
        for _ in 0..MOST_ROUNDS {
            let round = correct(&world, &findings)?;
            if round == 0 {
                break;
            }
            corrected += round;
            world = World::load(io.input)?;
            findings = self::findings(&world, &args.only);
        }
        diagnostics::note(&format!("corrected: {corrected}"));
    }
    match format {
        Format::Json => io.json(&Findings::of(&findings))?,
        Format::Yaml => io.yaml(&Findings::of(&findings))?,
        Format::Jsonl => io.jsonl(findings.iter().map(FindingJson::of))?,
        Format::Csv => io.answer(&table::csv(&rows(&findings)))?,
        Format::Md => io.answer(&table::markdown(&rows(&findings)))?,
        Format::Sarif => io.json(&sarif::document(&findings))?,
        Format::Github => io.answer(&github::annotations(&findings))?,
        Format::Text | Format::Wide => {
            let mut text = String::new();
            let to_file = io.output.out.is_some();
            for finding in &findings {
                text.push_str(&diagnostics::in_answer(finding, &world, to_file));
                text.push('\n');
            }
            text.push_str(&summary(&findings));
            text.push_str(&io.scope(&world));
            io.answer(&text)?;
        }
    }
    let least = match args.fail_on {
        FailOn::Never => None,
        FailOn::Error => Some(Severity::Error),
        FailOn::Warning => Some(Severity::Warning),
        FailOn::Info => Some(Severity::Info),
    };
    if world.is_unusable() {
        return Ok(ExitStatus::Usage);
    }
    let fails = least.is_some_and(|least| findings.iter().any(|finding| finding.severity >= least));
    // Findings about an input that is not understood in full are still findings.
    Ok(if fails {
        ExitStatus::Failure
    } else {
        world.status()
    })
}

/// The formats of findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Wide,
    Json,
    Jsonl,
    Yaml,
    Csv,
    Md,
    Sarif,
    Github,
}

/// What reading the input and the lints found, less what is silenced, in order of place.
pub fn findings(world: &World, only: &[String]) -> Vec<Diagnostic> {
    let documents: Vec<Document> = world
        .texts
        .iter()
        .flat_map(|(file, text)| manifest::read(file, text).0)
        .collect();
    let evaluator = world.evaluator();
    let snapshot = &world.loaded.snapshot;
    let mut findings = world.loaded.diagnostics.clone();
    findings.extend(lint::run(snapshot, &evaluator, &documents));
    findings.retain_mut(|finding| {
        let (code, name) = super::rule::code_of(finding.id);
        let configured = &world.config.severity;
        if let Some(severity) = configured.get(code).or_else(|| configured.get(name)) {
            finding.severity = *severity;
        }
        let wanted = only.is_empty()
            || only
                .iter()
                .any(|only| only.eq_ignore_ascii_case(code) || only == name);
        wanted && !world.is_silenced(code, name, finding.at.as_ref())
    });
    findings.sort_by(|a, b| {
        (&a.at, a.id, &a.object, &a.path, &a.message)
            .cmp(&(&b.at, b.id, &b.object, &b.path, &b.message))
    });
    findings.dedup();
    findings
}

/// Corrects the files that findings are about; how many corrections there were.
fn correct(world: &World, findings: &[Diagnostic]) -> anyhow::Result<usize> {
    let mut corrections = 0;
    for (file, text) in &world.texts {
        let path = Path::new(&**file);
        // What a program printed, a cluster said or is no text cannot be written back.
        if !path.is_file() || fs::read(path).ok().as_deref() != Some(text.as_bytes()) {
            continue;
        }
        let (documents, _) = manifest::read(file, text);
        let edits = lint::fix::edits(file, text, &documents, findings);
        if edits.is_empty() {
            continue;
        }
        fs::write(path, lint::fix::apply(text, &edits))
            .with_context(|| format!("cannot write `{file}`"))?;
        corrections += edits.len();
    }
    Ok(corrections)
}

/// Rounds of corrections.
const MOST_ROUNDS: usize = 20;

#[derive(Serialize)]
struct Findings<'f> {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    #[serde(rename = "findings")]
    list: Vec<FindingJson<'f>>,
}

impl<'f> Findings<'f> {
    fn of(findings: &'f [Diagnostic]) -> Self {
        Self {
            api_version: API_VERSION,
            kind: "Lint",
            list: findings.iter().map(FindingJson::of).collect(),
        }
    }
}

#[derive(Serialize)]
struct FindingJson<'f> {
    code: &'static str,
    name: &'static str,
    severity: Severity,
    message: &'f str,
    at: Option<At>,
    object: Option<&'f ObjectRef>,
    path: &'f str,
    help: Option<&'f str>,
}

impl<'f> FindingJson<'f> {
    fn of(finding: &'f Diagnostic) -> Self {
        let (code, name) = super::rule::code_of(finding.id);
        Self {
            code,
            name,
            severity: finding.severity,
            message: &finding.message,
            at: finding.at.as_ref().map(At::from),
            object: finding.object.as_ref(),
            path: &finding.path,
            help: finding.help.as_deref(),
        }
    }
}

fn rows(findings: &[Diagnostic]) -> Vec<Vec<String>> {
    let head = [
        "at", "severity", "code", "name", "object", "path", "message",
    ];
    let rows = findings.iter().map(|finding| {
        let (code, name) = super::rule::code_of(finding.id);
        vec![
            finding
                .at
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            format!("{:?}", finding.severity).to_lowercase(),
            code.to_owned(),
            name.to_owned(),
            finding
                .object
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            finding.path.clone(),
            finding.message.clone(),
        ]
    });
    std::iter::once(head.map(str::to_owned).to_vec())
        .chain(rows)
        .collect()
}

fn summary(findings: &[Diagnostic]) -> String {
    let count = |severity, word: &str| {
        let number = findings
            .iter()
            .filter(|finding| finding.severity == severity)
            .count();
        format!("{number} {word}{}", if number == 1 { "" } else { "s" })
    };
    format!(
        "{}, {}, {}\n",
        count(Severity::Error, "error"),
        count(Severity::Warning, "warning"),
        count(Severity::Info, "note"),
    )
}
