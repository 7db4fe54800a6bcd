// SPDX-License-Identifier: Apache-2.0
//! The matrix in every format. Documents are written piece by piece: a matrix can be larger than memory
//! should be.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, BufWriter, Write},
};

use anyhow::Context;
use policy_compiler::{partial::Evaluator, portmap::PortSet};
use serde::Serialize;

use super::{
    Matrix,
    classes::{CellIds, Class},
};
use crate::{
    Io,
    answer::{Inquiry, PairJson, PortsJson, ask, ports_json},
    args::Format,
    flow::{Group, PortQuery, is_nothing, spell_ports},
    load::World,
    render::table,
};

/// Classes and a cell per pair of classes.
pub fn grouped(io: &Io<'_>, world: &World, matrix: &Matrix, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Json => grouped_json(io, matrix),
        Format::Yaml => {
            let mut buffer = Vec::new();
            write_json(&mut buffer, matrix)?;
            let value: serde_json::Value = serde_json::from_slice(&buffer)?;
            io.yaml(&value)
        }
        Format::Jsonl => {
            let mut out = sink(io)?;
            let json = Json::new(matrix);
            for (from, to, cell) in matrix.cells() {
                writeln!(out, "{}", json.cell(from, to, cell))?;
            }
            Ok(out.flush()?)
        }
        Format::Csv => io.answer(&table::csv(&rows(matrix, false))),
        Format::Md => io.answer(&table::markdown(&rows(matrix, true))),
        Format::Text
        | Format::Wide
        | Format::Dot
        | Format::Svg
        | Format::Html
        | Format::Mermaid
        | Format::Sarif
        | Format::Junit
        | Format::Github => {
            io.answer(&(text(matrix, format == Format::Wide) + &io.scope(world)))?;
            Ok(())
        }
    }
}

/// A cell per pair of endpoints, with what decided it.
pub fn expanded(
    io: &Io<'_>,
    evaluator: &Evaluator<'_>,
    matrix: &Matrix,
    port: &PortQuery,
    format: Format,
) -> anyhow::Result<()> {
    if matches!(
        format,
        Format::Text | Format::Wide | Format::Csv | Format::Md
    ) {
        return expanded_names(io, matrix, format);
    }
    let mut out = sink(io)?;
    let mut first = true;
    if format != Format::Jsonl {
        write!(
            out,
            "{{\"apiVersion\":\"netpol-analyze/v1\",\"kind\":\"Matrix\",\"cells\":["
        )?;
    }
    let inquiry = Inquiry {
        ports: port,
        family: None,
        via_service: false,
        explain: false,
    };
    // Members of two classes all get the same answer, except from a pod to itself.
    for source in &matrix.classes {
        for destination in &matrix.classes {
            if source.external && destination.external {
                continue;
            }
            let mut shared: Option<String> = None;
            for (src, src_name) in members(source) {
                for (dst, dst_name) in members(destination) {
                    let itself = src_name == dst_name;
                    let body = match shared.take() {
                        Some(body) if !itself => body,
                        other => {
                            shared = other;
                            body(evaluator, &src, &dst, &inquiry)?
                        }
                    };
                    if format != Format::Jsonl && !first {
                        write!(out, ",")?;
                    }
                    first = false;
                    let (src, dst) = (quoted(&src_name)?, quoted(&dst_name)?);
                    write!(out, "{{\"src\":{src},\"dst\":{dst},{body}")?;
                    if format == Format::Jsonl {
                        writeln!(out)?;
                    }
                    if !itself {
                        shared = Some(body);
                    }
                }
            }
        }
    }
    if format != Format::Jsonl {
        writeln!(out, "]}}")?;
    }
    out.flush()?;
    Ok(())
}

/// A cell per pair of names, without what decided it.
pub fn expanded_names(io: &Io<'_>, matrix: &Matrix, format: Format) -> anyhow::Result<()> {
    let pairs = || {
        matrix.cells().flat_map(move |(from, to, cell)| {
            let of = |class: usize| {
                matrix
                    .classes
                    .get(class)
                    .map_or(&[][..], |class| &class.members)
            };
            of(from).iter().flat_map(move |src| {
                of(to)
                    .iter()
                    .map(move |dst| (src.clone(), dst.clone(), cell))
            })
        })
    };
    match format {
        Format::Json | Format::Jsonl | Format::Yaml => {
            let mut out = sink(io)?;
            let json = Json::new(matrix);
            let lines = format == Format::Jsonl;
            if !lines {
                write!(
                    out,
                    "{{\"apiVersion\":\"netpol-analyze/v1\",\"kind\":\"Matrix\",\"cells\":["
                )?;
            }
            for (index, (src, dst, cell)) in pairs().enumerate() {
                if !lines && index > 0 {
                    write!(out, ",")?;
                }
                let (src, dst) = (quoted(&src)?, quoted(&dst)?);
                write!(out, "{{\"src\":{src},\"dst\":{dst},{}}}", json.body(cell))?;
                if lines {
                    writeln!(out)?;
                }
            }
            if !lines {
                writeln!(out, "]}}")?;
            }
            Ok(out.flush()?)
        }
        Format::Text
        | Format::Wide
        | Format::Csv
        | Format::Md
        | Format::Dot
        | Format::Svg
        | Format::Html
        | Format::Mermaid
        | Format::Sarif
        | Format::Junit
        | Format::Github => {
            let mut out = sink(io)?;
            let head = ["src", "dst", "verdict", "allowed", "unknown"]
                .map(str::to_owned)
                .to_vec();
            let row = |row: Vec<String>| match format {
                Format::Csv => table::csv(&[row]),
                Format::Md => format!("| {} |\n", row.join(" | ")),
                _ => format!("{}\n", row.join("  ").trim_end()),
            };
            if matches!(format, Format::Csv | Format::Md) {
                write!(out, "{}", row(head))?;
            }
            if format == Format::Md {
                write!(out, "{}", row(vec!["---".to_owned(); 5]))?;
            }
            for (src, dst, cell) in pairs() {
                let (allowed, unknown) = (matrix.set(cell.allowed), matrix.set(cell.unknown));
                let word = word(matrix, cell);
                let unknown = if is_nothing(&unknown) {
                    String::new()
                } else {
                    spell_ports(&unknown)
                };
                write!(
                    out,
                    "{}",
                    row(vec![
                        src,
                        dst,
                        word.to_owned(),
                        spell_ports(&allowed),
                        unknown
                    ])
                )?;
            }
            Ok(out.flush()?)
        }
    }
}

fn grouped_json(io: &Io<'_>, matrix: &Matrix) -> anyhow::Result<()> {
    let mut out = sink(io)?;
    write_json(&mut out, matrix)?;
    writeln!(out)?;
    Ok(out.flush()?)
}

fn write_json(out: &mut impl Write, matrix: &Matrix) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct ClassJson<'m> {
        id: usize,
        members: &'m [String],
    }
    write!(
        out,
        "{{\"apiVersion\":\"netpol-analyze/v1\",\"kind\":\"Matrix\",\"classes\":"
    )?;
    let classes: Vec<ClassJson<'_>> = matrix
        .classes
        .iter()
        .enumerate()
        .map(|(id, class)| ClassJson {
            id,
            members: &class.members,
        })
        .collect();
    serde_json::to_writer(&mut *out, &classes)?;
    write!(out, ",\"cells\":[")?;
    let json = Json::new(matrix);
    for (index, (from, to, cell)) in matrix.cells().enumerate() {
        if index > 0 {
            write!(out, ",")?;
        }
        write!(out, "{}", json.cell(from, to, cell))?;
    }
    write!(out, "]}}")?;
    Ok(())
}

/// Every set, spelt once.
struct Json {
    sets: Vec<String>,
    empty: Vec<bool>,
}

impl Json {
    fn new(matrix: &Matrix) -> Self {
        let ids = 0..u32::try_from(matrix.set_count()).unwrap_or(u32::MAX);
        let sets: Vec<PortSet> = ids.map(|id| matrix.set(id)).collect();
        let spell = |set: &PortSet| {
            let json: PortsJson = ports_json(set);
            serde_json::to_string(&json).unwrap_or_default()
        };
        Self {
            empty: sets.iter().map(is_nothing).collect(),
            sets: sets.iter().map(spell).collect(),
        }
    }

    fn cell(&self, from: usize, to: usize, cell: CellIds) -> String {
        format!("{{\"src\":{from},\"dst\":{to},{}}}", self.body(cell))
    }

    fn body(&self, cell: CellIds) -> String {
        let set = |id: u32| self.sets.get(id as usize).map_or("[]", String::as_str);
        let has = |id: u32| self.empty.get(id as usize) == Some(&false);
        let mut body = format!("\"allowed\":{}", set(cell.allowed));
        if has(cell.sometimes) {
            let _ = write!(body, ",\"sometimes\":{}", set(cell.sometimes));
        }
        if has(cell.unknown) {
            let _ = write!(body, ",\"unknown\":{}", set(cell.unknown));
        }
        body
    }
}

/// The JSON of a pair of endpoints without the names, also in the cells of its families.
fn body(
    evaluator: &Evaluator<'_>,
    src: &Group,
    dst: &Group,
    inquiry: &Inquiry<'_>,
) -> anyhow::Result<String> {
    let cells = ask(evaluator, src, dst, inquiry);
    let pair = PairJson::new(evaluator, &src.name, &dst.name, &cells);
    let names = format!(
        "\"src\":{},\"dst\":{},",
        quoted(&src.name)?,
        quoted(&dst.name)?
    );
    let json = serde_json::to_string(&pair)?.replace(&names, "");
    Ok(json.trim_start_matches('{').to_owned())
}

fn members(class: &Class) -> Vec<(Group, String)> {
    let group = |endpoint: &policy_compiler::verdict::Endpoint, name: &str| Group {
        name: name.to_owned(),
        endpoint: endpoint.clone(),
        ranges: Vec::new(),
        legs: Vec::new(),
    };
    if class.external {
        let name = class.members.join(",");
        let party = class.parties().next().map(|(_, party)| party.asked.clone());
        return party
            .into_iter()
            .map(|endpoint| (group(&endpoint, &name), name.clone()))
            .collect();
    }
    class
        .endpoints
        .iter()
        .zip(&class.members)
        .map(|(endpoint, name)| (group(endpoint, name), name.clone()))
        .collect()
}

fn word(matrix: &Matrix, cell: CellIds) -> &'static str {
    let (allowed, unknown) = (matrix.set(cell.allowed), matrix.set(cell.unknown));
    let sometimes = matrix.set(cell.sometimes);
    if !is_nothing(&unknown) {
        "unknown"
    } else if crate::flow::is_all(&allowed) {
        "allowed"
    } else if is_nothing(&allowed) && is_nothing(&sometimes) {
        "denied"
    } else {
        "partial"
    }
}

fn text(matrix: &Matrix, wide: bool) -> String {
    let mut text = String::new();
    for (id, class) in matrix.classes.iter().enumerate() {
        let _ = writeln!(text, "class {id}: {}", some_of(&class.members, wide));
    }
    text.push('\n');
    let name = |class: usize| match matrix
        .classes
        .get(class)
        .map(|class| class.members.as_slice())
    {
        Some([only]) => only.clone(),
        Some([first, rest @ ..]) => format!("{first} (+{})", rest.len()),
        Some([]) | None => String::new(),
    };
    let mut rows = Vec::new();
    let mut denied = 0;
    for (from, to, cell) in matrix.cells() {
        let words = spell_cell(matrix, cell);
        if words == "nothing" {
            denied += 1;
            continue;
        }
        rows.push(vec![name(from), "->".to_owned(), name(to), words]);
    }
    text.push_str(&table::columns(&rows, ""));
    let _ = writeln!(text, "{denied} other pairs of classes: not allowed");
    text
}

fn spell_cell(matrix: &Matrix, cell: CellIds) -> String {
    let mut words = spell_ports(&matrix.set(cell.allowed));
    let sometimes = matrix.set(cell.sometimes);
    if !is_nothing(&sometimes) {
        let _ = write!(words, "; sometimes {}", spell_ports(&sometimes));
    }
    let unknown = matrix.set(cell.unknown);
    if !is_nothing(&unknown) {
        let _ = write!(words, "; unknown {}", spell_ports(&unknown));
    }
    words
}

fn rows(matrix: &Matrix, short: bool) -> Vec<Vec<String>> {
    let name = |class: usize| {
        let members = matrix
            .classes
            .get(class)
            .map(|class| class.members.as_slice());
        some_of(members.unwrap_or_default(), !short)
    };
    let head = ["src", "dst", "verdict", "allowed"]
        .map(str::to_owned)
        .to_vec();
    let cells = matrix.cells().map(|(from, to, cell)| {
        vec![
            name(from),
            name(to),
            word(matrix, cell).to_owned(),
            spell_cell(matrix, cell),
        ]
    });
    std::iter::once(head).chain(cells).collect()
}

fn some_of(members: &[String], all: bool) -> String {
    match members {
        _ if all => members.join(" "),
        [a, b, c, _, rest @ ..] if !rest.is_empty() => {
            format!("{a} {b} {c} and {} more", rest.len() + 1)
        }
        members => members.join(" "),
    }
}

fn quoted(text: &str) -> anyhow::Result<String> {
    Ok(serde_json::to_string(text)?)
}

fn sink(io: &Io<'_>) -> anyhow::Result<Box<dyn Write>> {
    Ok(match &io.output.out {
        Some(path) => {
            let file = File::create(path);
            Box::new(BufWriter::new(
                file.with_context(|| format!("cannot write `{}`", path.display()))?,
            ))
        }
        None => Box::new(BufWriter::new(io::stdout().lock())),
    })
}
