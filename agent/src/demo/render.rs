// SPDX-License-Identifier: Apache-2.0
//! How is the matrix shown?

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
};

use policy_compiler::{Decision, Verdict, verdict::Endpoint};
use serde_json::{Value, json};

use super::{
    matrix::{Cell, Count, Matrix, family, protocol},
    plan::Transport,
    probe::Measured,
};
use crate::reason;

/// Differing cells that are listed without being asked for.
const FEW: usize = 40;

/// The overview: who reaches whom, what is open and thanks to which rule, counts, and every cell that
/// differs. With `verbose` every cell is listed.
pub fn text(matrix: &Matrix, verbose: bool) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_text(&mut out, matrix, verbose);
    out
}

fn write_text(out: &mut String, matrix: &Matrix, verbose: bool) -> fmt::Result {
    overview(out, matrix)?;
    open(out, matrix)?;
    if verbose {
        writeln!(out, "\nevery cell\n")?;
        for cell in &matrix.cells {
            writeln!(out, "  {}", line(matrix, cell))?;
        }
    }
    counts(out, matrix)?;
    let differing: Vec<_> = matrix.differing().collect();
    if !differing.is_empty() {
        writeln!(out, "\ncells in which prediction and measurement differ\n")?;
        let shown = if verbose { differing.len() } else { FEW };
        for cell in differing.iter().take(shown) {
            writeln!(out, "! {}", line(matrix, cell))?;
        }
        if differing.len() > shown {
            writeln!(out, "! and {} more: see --verbose", differing.len() - shown)?;
        }
    }
    writeln!(
        out,
        "\n{} cells measured, {} differ from the prediction",
        matrix.cells.len(),
        differing.len()
    )?;
    if matrix.asked_again > 0 {
        writeln!(
            out,
            "{} cells were asked a second time: their first answer did not come in time",
            matrix.asked_again
        )?;
    }
    Ok(())
}

/// Senders down, receivers across, one character per pair.
fn overview(out: &mut String, matrix: &Matrix) -> fmt::Result {
    writeln!(
        out,
        "who reaches whom: # everything, + some ports, . nothing, ! not as predicted\n"
    )?;
    let mut pairs: BTreeMap<(usize, usize), Vec<&Cell>> = BTreeMap::new();
    for cell in &matrix.cells {
        let probe = &cell.probe;
        pairs
            .entry((probe.source, probe.destination))
            .or_default()
            .push(cell);
    }
    let names: Vec<String> = matrix
        .parties
        .iter()
        .map(|party| party.endpoint.to_string())
        .collect();
    let width = names.iter().map(String::len).max().unwrap_or_default();
    let group = |party: usize| match &matrix.parties[party].endpoint {
        Endpoint::Pod(pod) => pod.namespace.to_string(),
        Endpoint::Node(_) => "node".to_owned(),
        Endpoint::Address(_) => "outside".to_owned(),
    };
    for (row, name) in names.iter().enumerate() {
        if row > 0 && group(row) != group(row - 1) {
            writeln!(out)?;
        }
        write!(out, "  {name:width$} {:>2} ", row + 1)?;
        for column in 0..names.len() {
            if column > 0 && group(column) != group(column - 1) {
                write!(out, " ")?;
            }
            let symbol = match pairs.get(&(row, column)) {
                None => ' ',
                Some(cells) if cells.iter().any(|cell| cell.differs()) => '!',
                Some(cells) => {
                    let allowed = |cell: &&Cell| cell.measured == Measured::Allow;
                    match (cells.iter().any(allowed), cells.iter().all(allowed)) {
                        (_, true) => '#',
                        (true, false) => '+',
                        (false, false) => '.',
                    }
                }
            };
            write!(out, " {symbol:>2}")?;
        }
        writeln!(out)?;
    }
    write!(out, "\n  {:width$}    ", "")?;
    for column in 0..names.len() {
        if column > 0 && group(column) != group(column - 1) {
            write!(out, " ")?;
        }
        write!(out, " {:>2}", column + 1)?;
    }
    writeln!(out)
}

/// What the pairs marked `+` may do, and thanks to whom.
fn open(out: &mut String, matrix: &Matrix) -> fmt::Result {
    writeln!(out, "\nwhat is open where not everything is\n")?;
    let mut pairs: BTreeMap<(usize, usize), Vec<&Cell>> = BTreeMap::new();
    for cell in &matrix.cells {
        let probe = &cell.probe;
        pairs
            .entry((probe.source, probe.destination))
            .or_default()
            .push(cell);
    }
    let mut rows = Vec::new();
    for ((source, destination), cells) in pairs {
        if cells.iter().all(|cell| cell.measured == Measured::Allow) {
            continue;
        }
        // By deciding rule: the ports, and the families they are open in.
        let mut rules: BTreeMap<(String, String), BTreeMap<Transport, BTreeSet<&str>>> =
            BTreeMap::new();
        for cell in cells.iter().filter(|cell| cell.measured == Measured::Allow) {
            let decision = cell.decision();
            let at = cell
                .at
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default();
            rules
                .entry((reason::describe(decision), at))
                .or_default()
                .entry(cell.probe.transport)
                .or_default()
                .insert(family(cell.probe.family()));
        }
        for ((rule, at), transports) in rules {
            let ports: Vec<String> = transports
                .into_iter()
                .map(|(transport, families)| {
                    let families: Vec<_> = families.into_iter().collect();
                    match families.as_slice() {
                        [only] => format!("{}({only})", name(transport)),
                        _ => name(transport),
                    }
                })
                .collect();
            rows.push([
                format!(
                    "{} -> {}",
                    matrix.parties[source].endpoint, matrix.parties[destination].endpoint
                ),
                ports.join(" "),
                rule,
                at,
            ]);
        }
    }
    let widths: Vec<usize> = (0..3)
        .map(|column| {
            rows.iter()
                .map(|row| row[column].len())
                .max()
                .unwrap_or_default()
                .min(48)
        })
        .collect();
    for [pair, ports, rule, at] in &rows {
        let line = format!(
            "  {pair:0$}  {ports:1$}  {rule:2$}  {at}",
            widths[0], widths[1], widths[2]
        );
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn counts(out: &mut String, matrix: &Matrix) -> fmt::Result {
    writeln!(
        out,
        "\n  {:28} {:>8} {:>8} {:>8}",
        "decided by", "allowed", "denied", "differ"
    )?;
    for (i, group) in [
        matrix.by_decider(),
        matrix.by_protocol(),
        matrix.by_family(),
        matrix.by_ends(),
    ]
    .into_iter()
    .enumerate()
    {
        if i > 0 {
            writeln!(out)?;
        }
        for (name, count) in group {
            let Count {
                allowed,
                denied,
                differing,
            } = count;
            writeln!(out, "  {name:28} {allowed:>8} {denied:>8} {differing:>8}")?;
        }
    }
    Ok(())
}

/// `shop/web -> shop/api IPv4 tcp/8080  predicted allow  measured allow  by ...`.
fn line(matrix: &Matrix, cell: &Cell) -> String {
    let decision = cell.decision();
    let at = cell
        .at
        .as_ref()
        .map(|at| format!("  {at}"))
        .unwrap_or_default();
    format!(
        "{} -> {} {} {}  predicted {}, measured {}  {}{at}",
        matrix.parties[cell.probe.source].endpoint,
        matrix.parties[cell.probe.destination].endpoint,
        family(cell.probe.family()),
        name(cell.probe.transport),
        reason::verdict(cell.predicted.verdict),
        measured(&cell.measured),
        reason::describe(decision),
    )
}

fn measured(measured: &Measured) -> String {
    match measured {
        Measured::Allow => reason::verdict(Verdict::Allow).to_owned(),
        Measured::Deny => reason::verdict(Verdict::Deny).to_owned(),
        Measured::Broken(why) => format!("nothing ({why})"),
    }
}

/// `tcp/80`, `icmp`.
fn name(transport: Transport) -> String {
    match transport {
        Transport::Tcp(port) => format!("tcp/{port}"),
        Transport::Udp(port) => format!("udp/{port}"),
        Transport::Sctp(port) => format!("sctp/{port}"),
        Transport::Icmp => "icmp".to_owned(),
    }
}

/// Every cell as data.
pub fn json(matrix: &Matrix) -> Value {
    let cells: Vec<Value> = matrix
        .cells
        .iter()
        .map(|cell| cell_json(matrix, cell))
        .collect();
    json!({
        "apiVersion": "netpol-agent/v1",
        "kind": "DemoMatrix",
        "cells": cells,
        "decidedBy": group_json(matrix.by_decider()),
        "protocols": group_json(matrix.by_protocol()),
        "families": group_json(matrix.by_family()),
        "ends": group_json(matrix.by_ends()),
        "differing": matrix.differing().count(),
        "askedAgain": matrix.asked_again,
    })
}

fn group_json(group: BTreeMap<&'static str, Count>) -> Value {
    group
        .into_iter()
        .map(|(name, count)| {
            let count = json!({
                "allowed": count.allowed,
                "denied": count.denied,
                "differing": count.differing,
            });
            (name.to_owned(), count)
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn cell_json(matrix: &Matrix, cell: &Cell) -> Value {
    let port = match cell.probe.transport {
        Transport::Tcp(port) | Transport::Udp(port) | Transport::Sctp(port) => Some(port),
        Transport::Icmp => None,
    };
    json!({
        "src": matrix.parties[cell.probe.source].endpoint.to_string(),
        "dst": matrix.parties[cell.probe.destination].endpoint.to_string(),
        "srcAddress": cell.probe.from,
        "dstAddress": cell.probe.to,
        "protocol": protocol(cell.probe.transport),
        "port": port,
        "predicted": reason::verdict(cell.predicted.verdict),
        "measured": measured(&cell.measured),
        "differs": cell.differs(),
        "at": cell.at,
        "egress": decision_json(&cell.predicted.egress),
        "ingress": decision_json(&cell.predicted.ingress),
    })
}

fn decision_json(decision: &Decision) -> Value {
    let mut json = json!({
        "verdict": reason::verdict(decision.verdict),
        "tier": decision.tier.to_string(),
        "because": reason::describe(decision),
        "at": reason::location(decision),
    });
    if let Some(denial) = &decision.audited {
        json["audited"] = decision_json(denial);
    }
    json
}
