// SPDX-License-Identifier: Apache-2.0
//! Changes for people, for programs and for pull-request comments.

use std::fmt::Write as _;

use serde::Serialize;

use super::{Change, Changes, Kind};
use crate::{
    Io,
    answer::{PortsJson, ports_json},
    args::Format,
    flow::spell_ports,
    load::World,
    render::table,
};

/// Writes the changes.
pub fn write(io: &Io<'_>, changes: &Changes, new: &World, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Json => io.json(&ChangesJson::of(changes)),
        Format::Yaml => io.yaml(&ChangesJson::of(changes)),
        Format::Csv => io.answer(&table::csv(&rows(changes))),
        Format::Md => io.answer(&markdown(changes)),
        Format::Text
        | Format::Wide
        | Format::Jsonl
        | Format::Dot
        | Format::Svg
        | Format::Html
        | Format::Mermaid
        | Format::Sarif
        | Format::Junit
        | Format::Github => io.answer(&(text(changes) + &io.scope(new))),
    }
}

#[derive(Serialize)]
struct ChangesJson<'c> {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    #[serde(rename = "changes")]
    list: Vec<ChangeJson<'c>>,
    added: &'c [String],
    removed: &'c [String],
}

#[derive(Serialize)]
struct ChangeJson<'c> {
    change: &'static str,
    src: &'c [String],
    dst: &'c [String],
    ports: PortsJson,
    witness: WitnessJson<'c>,
}

#[derive(Serialize)]
struct WitnessJson<'c> {
    src: &'c str,
    dst: &'c str,
    protocol: policy_compiler::model::Protocol,
    port: u16,
    before: &'c str,
    after: &'c str,
}

impl<'c> ChangesJson<'c> {
    fn of(changes: &'c Changes) -> Self {
        let change = |change: &'c Change| ChangeJson {
            change: name(change.kind),
            src: &change.src,
            dst: &change.dst,
            ports: ports_json(&change.ports),
            witness: WitnessJson {
                src: &change.witness.src,
                dst: &change.witness.dst,
                protocol: change.witness.protocol,
                port: change.witness.port,
                before: &change.witness.before,
                after: &change.witness.after,
            },
        };
        Self {
            api_version: "netpol-analyze/v1",
            kind: "Diff",
            list: changes.list.iter().map(change).collect(),
            added: &changes.added,
            removed: &changes.removed,
        }
    }
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Allowed => "newly-allowed",
        Kind::Denied => "newly-denied",
        Kind::Unknown => "unknown",
    }
}

fn text(changes: &Changes) -> String {
    let mut text = String::new();
    for change in &changes.list {
        let sign = match change.kind {
            Kind::Allowed => "+ newly allowed",
            Kind::Denied => "- newly denied",
            Kind::Unknown => "? unknown",
        };
        let (src, dst) = (some_of(&change.src), some_of(&change.dst));
        let _ = writeln!(
            text,
            "{sign}  {src} -> {dst}  {}",
            spell_ports(&change.ports)
        );
        let witness = &change.witness;
        let _ = writeln!(
            text,
            "    {} -> {} {}",
            witness.src,
            witness.dst,
            packet(change)
        );
        let _ = writeln!(text, "      before  {}", witness.before);
        let _ = writeln!(text, "      after   {}", witness.after);
    }
    if changes.list.is_empty() {
        text.push_str("no traffic changes\n");
    }
    for (word, names) in [("added", &changes.added), ("removed", &changes.removed)] {
        if !names.is_empty() {
            let _ = writeln!(text, "{word}: {}", some_of(names));
        }
    }
    text
}

fn markdown(changes: &Changes) -> String {
    let count = |kind| {
        changes
            .list
            .iter()
            .filter(|change| change.kind == kind)
            .count()
    };
    let mut text = format!(
        "### Network policy changes\n\n{} newly allowed, {} newly denied, {} unknown\n\n",
        count(Kind::Allowed),
        count(Kind::Denied),
        count(Kind::Unknown)
    );
    if !changes.list.is_empty() {
        let mut rows = rows(changes);
        let left = rows.len().saturating_sub(MOST_ROWS + 1);
        rows.truncate(MOST_ROWS + 1);
        text.push_str(&table::markdown(&rows));
        if left > 0 {
            let _ = writeln!(text, "\n... and {left} more");
        }
    }
    for (word, names) in [("Added", &changes.added), ("Removed", &changes.removed)] {
        if !names.is_empty() {
            let _ = writeln!(text, "\n{word}: {}", some_of(names));
        }
    }
    text
}

fn rows(changes: &Changes) -> Vec<Vec<String>> {
    let head = ["change", "src", "dst", "ports", "witness", "because"];
    let rows = changes.list.iter().map(|change| {
        let witness = &change.witness;
        vec![
            name(change.kind).to_owned(),
            some_of(&change.src),
            some_of(&change.dst),
            spell_ports(&change.ports),
            format!("{} -> {} {}", witness.src, witness.dst, packet(change)),
            match change.kind {
                Kind::Denied | Kind::Allowed => witness.after.clone(),
                Kind::Unknown => format!("{} / {}", witness.before, witness.after),
            },
        ]
    });
    std::iter::once(head.map(str::to_owned).to_vec())
        .chain(rows)
        .collect()
}

fn packet(change: &Change) -> String {
    use policy_compiler::model::Protocol;
    let protocol = change.witness.protocol.to_string().to_lowercase();
    match change.witness.protocol {
        Protocol::Other => "icmp".to_owned(),
        Protocol::Tcp | Protocol::Udp | Protocol::Sctp => {
            format!("{protocol}/{}", change.witness.port)
        }
    }
}

fn some_of(names: &[String]) -> String {
    match names {
        [a, b, c, rest @ ..] if rest.len() > 1 => format!("{a}, {b}, {c} and {} more", rest.len()),
        names => names.join(", "),
    }
}

/// Rows that a comment on a pull request can hold.
const MOST_ROWS: usize = 50;
