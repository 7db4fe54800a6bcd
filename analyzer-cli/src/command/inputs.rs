// SPDX-License-Identifier: Apache-2.0
//! Which documents were read, and what became of each? `inputs`.

use serde::Serialize;

use policy_compiler::{diagnostic::Severity, manifest::Fate};

use crate::{
    API_VERSION, Io,
    answer::At,
    args::Tabular,
    exit::ExitStatus,
    load::World,
    render::{diagnostics, table},
};

/// Runs `inputs`.
pub fn run(io: &Io<'_>) -> anyhow::Result<ExitStatus> {
    let format: Tabular = io.format()?;
    let world = World::load(io.input)?;
    diagnostics::input_problems(&world, io.output.quiet);
    let documents = documents(&world);
    match format {
        Tabular::Json => io.json(&Ledger::of(documents))?,
        Tabular::Yaml => io.yaml(&Ledger::of(documents))?,
        Tabular::Jsonl => io.jsonl(&documents)?,
        Tabular::Csv => io.answer(&table::csv(&rows(&documents, true)))?,
        Tabular::Md => io.answer(&table::markdown(&rows(&documents, true)))?,
        Tabular::Text | Tabular::Wide => {
            let scope = io.scope(&world);
            io.answer(&(table::columns(&rows(&documents, false), "") + &scope))?;
        }
    }
    Ok(if world.is_unusable() {
        ExitStatus::Usage
    } else {
        world.status()
    })
}

#[derive(Serialize)]
struct Ledger {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    documents: Vec<DocumentJson>,
}

impl Ledger {
    fn of(documents: Vec<DocumentJson>) -> Self {
        Self {
            api_version: API_VERSION,
            kind: "Inputs",
            documents,
        }
    }
}

#[derive(Serialize)]
struct DocumentJson {
    at: At,
    kind: String,
    namespace: Option<String>,
    name: String,
    fate: &'static str,
    problems: Vec<Problem>,
}

#[derive(Serialize)]
struct Problem {
    code: &'static str,
    name: &'static str,
    severity: Severity,
    message: String,
    path: String,
    at: Option<At>,
}

fn documents(world: &World) -> Vec<DocumentJson> {
    let entries = world.loaded.ledger.iter();
    let read = entries.map(|entry| {
        let here = |diagnostic: &&policy_compiler::diagnostic::Diagnostic| {
            let same_object = diagnostic.object.as_ref().is_some_and(|object| {
                object.kind == entry.kind
                    && object.name == entry.name
                    && (object.namespace.is_none() || object.namespace == entry.namespace)
            });
            let same_place = diagnostic.at.as_ref() == Some(&entry.at);
            let same_file = diagnostic
                .at
                .as_ref()
                .is_none_or(|at| at.file == entry.at.file);
            same_place || same_object && same_file
        };
        let document = DocumentJson {
            at: At::from(&entry.at),
            kind: entry.kind.to_string(),
            namespace: entry.namespace.as_ref().map(ToString::to_string),
            name: entry.name.to_string(),
            fate: match entry.fate {
                Fate::Used => "used",
                Fate::UsedWithProblems => "used-with-problems",
                Fate::Ignored => "ignored",
                Fate::Rejected { .. } => "rejected",
            },
            problems: world
                .loaded
                .diagnostics
                .iter()
                .filter(here)
                .map(|diagnostic| {
                    let (code, name) = super::rule::code_of(diagnostic.id);
                    Problem {
                        code,
                        name,
                        severity: diagnostic.severity,
                        message: diagnostic.message.clone(),
                        path: diagnostic.path.clone(),
                        at: diagnostic.at.as_ref().map(At::from),
                    }
                })
                .collect(),
        };
        (world.place(&entry.at), document)
    });
    let replaced = world.replaced.iter().map(|object| {
        let document = DocumentJson {
            at: At::from(&object.at),
            kind: object.kind.to_string(),
            namespace: object.namespace.as_ref().map(ToString::to_string),
            name: object.name.to_string(),
            fate: "replaced",
            problems: Vec::new(),
        };
        (world.place(&object.at), document)
    });
    let mut documents: Vec<_> = read.collect();
    for (place, document) in replaced {
        let before = documents.iter().rposition(|(other, _)| *other < place);
        documents.insert(before.map_or(0, |it| it + 1), (place, document));
    }
    let documents = documents.into_iter();
    documents.map(|(_, document)| document).collect()
}

fn rows(documents: &[DocumentJson], head: bool) -> Vec<Vec<String>> {
    let names = ["at", "fate", "object", "problems"]
        .map(str::to_owned)
        .to_vec();
    let rows = documents.iter().map(|document| {
        let name = match &document.namespace {
            Some(namespace) => format!("{namespace}/{}", document.name),
            None => document.name.clone(),
        };
        let kind = if document.kind.is_empty() {
            "no object"
        } else {
            &document.kind
        };
        let problems: Vec<&str> = document
            .problems
            .iter()
            .map(|problem| problem.name)
            .collect();
        vec![
            format!(
                "{}:{}:{}",
                document.at.file, document.at.line, document.at.column
            ),
            document.fate.to_owned(),
            format!("{kind} {name}").trim_end().to_owned(),
            problems.join(", "),
        ]
    });
    head.then_some(names).into_iter().chain(rows).collect()
}
