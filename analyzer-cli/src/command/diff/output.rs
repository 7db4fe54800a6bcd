// SPDX-License-Identifier: Apache-2.0
//! Changes for people, for programs and for pull-request comments.

use std::fmt::Write as _;

use policy_compiler::{
    difference::{Change, Kind},
    symbolic::Symbols,
};
use serde::Serialize;

use super::{Changes, Format};
use crate::{
    API_VERSION, Io,
    load::World,
    render::{
        change::{self, ChangeJson, because, ends, packet, ports},
        plain, table,
    },
};

/// Writes the changes.
pub(super) fn write(
    io: &Io<'_>,
    changes: &Changes,
    new: &World,
    format: Format,
) -> anyhow::Result<()> {
    match format {
        Format::Json => io.json(&ChangesJson::of(changes)),
        Format::Yaml => io.yaml(&ChangesJson::of(changes)),
        Format::Csv => io.answer(&table::csv(&table_of(changes))),
        Format::Md => io.prose(&markdown(changes)),
        Format::Wide => io.prose(&(text(changes, all_of) + &io.scope(new))),
        Format::Text => io.prose(&(text(changes, few_of) + &io.scope(new))),
    }
}

#[derive(Serialize)]
struct ChangesJson<'c> {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    #[serde(rename = "changes")]
    list: Vec<ChangeJson>,
    added: &'c [String],
    removed: &'c [String],
}

impl<'c> ChangesJson<'c> {
    fn of(changes: &'c Changes) -> Self {
        let symbols = Symbols::default();
        let list = changes.list.iter();
        Self {
            api_version: API_VERSION,
            kind: "Diff",
            list: list
                .map(|change| ChangeJson::of(change, &symbols))
                .collect(),
            added: &changes.added,
            removed: &changes.removed,
        }
    }
}

fn text(changes: &Changes, list: fn(&[String]) -> String) -> String {
    let symbols = Symbols::default();
    let lines = changes.list.iter();
    let mut text: String = lines.map(|it| change::text(it, &symbols, list)).collect();
    if changes.list.is_empty() {
        text.push_str("no traffic changes\n");
    }
    for (word, names) in [("added", &changes.added), ("removed", &changes.removed)] {
        if !names.is_empty() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{word}: {}", plain::line(&list(names)));
        }
    }
    text
}

/// Counts, and as many changes as a comment holds.
fn markdown(changes: &Changes) -> String {
    let mut text = format!(
        "### Network policy changes\n\n{}\n\n",
        counts(&changes.list)
    );
    let mut ends = String::new();
    for (word, names) in [("Added", &changes.added), ("Removed", &changes.removed)] {
        if !names.is_empty() {
            let names = plain::line(&few_of(names)).into_owned();
            let _ = writeln!(ends, "\n{word}: {}", brief(&names));
        }
    }
    let mut shown = 0;
    if !changes.list.is_empty() {
        text.push_str(&table::markdown(&[head()]));
        for change in changes.list.iter().take(MOST_ROWS) {
            let cells = row(change, few_of).iter().map(|cell| brief(cell)).collect();
            let line = table::markdown_rows(&[cells]);
            if text.len() + line.len() + ends.len() > MOST_BYTES {
                break;
            }
            text.push_str(&line);
            shown += 1;
        }
    }
    let left = changes.list.get(shown..).unwrap_or_default();
    if !left.is_empty() {
        let _ = writeln!(text, "\n... and {} more: {}", left.len(), counts(left));
    }
    text + &ends
}

fn counts(changes: &[Change]) -> String {
    let count = |kind| changes.iter().filter(|change| change.kind == kind).count();
    format!(
        "{} newly allowed, {} newly denied, {} unknown",
        count(Kind::Gained),
        count(Kind::Lost),
        count(Kind::Unclear)
    )
}

fn table_of(changes: &Changes) -> Vec<Vec<String>> {
    let rows = changes.list.iter().map(|change| row(change, some_of));
    std::iter::once(head()).chain(rows).collect()
}

fn head() -> Vec<String> {
    let head = ["change", "src", "dst", "ports", "witness", "because"];
    head.map(str::to_owned).to_vec()
}

fn row(change: &Change, list: fn(&[String]) -> String) -> Vec<String> {
    let symbols = Symbols::default();
    let (before, after) = (&change.witness.before, &change.witness.after);
    vec![
        change::name(change.kind).to_owned(),
        list(&ends(&change.sources, &symbols)),
        list(&ends(&change.destinations, &symbols)),
        ports(change),
        packet(change, &symbols),
        match change.kind {
            Kind::Gained | Kind::Lost => because(after),
            Kind::Unclear | Kind::Undecided => format!("{} / {}", because(before), because(after)),
        },
    ]
}

fn all_of(names: &[String]) -> String {
    names.join(", ")
}

/// As [`some_of`]; of addresses that are alike only the first block.
fn few_of(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| table::brief(name)).collect();
    some_of(&names)
}

fn some_of(names: &[String]) -> String {
    match names {
        [a, b, c, rest @ ..] if rest.len() > 1 => format!("{a}, {b}, {c} and {} more", rest.len()),
        names => names.join(", "),
    }
}

/// A cell that one long list does not fill the page with.
fn brief(cell: &str) -> String {
    let short: String = cell.chars().take(MOST_CHARACTERS).collect();
    if short == cell {
        short
    } else {
        format!("{short} ...")
    }
}

/// Rows that somebody still reads in a comment on a pull request.
const MOST_ROWS: usize = 50;

/// What fits into such a comment: GitHub takes 65,536 characters, and an action may add a few.
const MOST_BYTES: usize = 60_000;

/// Of one cell.
const MOST_CHARACTERS: usize = 400;
