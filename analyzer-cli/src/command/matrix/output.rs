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
    API_VERSION, Io,
    answer::{Inquiry, PairJson, PortsJson, ask, ports_json},
    args::Tabular,
    flow::{Group, PortQuery, is_nothing, spell_ports},
    load::World,
    render::table,
};

/// Classes and a cell per pair of classes.
pub fn grouped(io: &Io<'_>, world: &World, matrix: &Matrix, format: Tabular) -> anyhow::Result<()> {
    match format {
        Tabular::Json => grouped_json(io, matrix),
        Tabular::Yaml => {
            let mut buffer = Vec::new();
            write_json(&mut buffer, matrix)?;
            let value: serde_json::Value = serde_json::from_slice(&buffer)?;
            io.yaml(&value)
        }
        Tabular::Jsonl => {
            let mut out = sink(io)?;
            let json = Json::new(matrix);
            for (from, to, kind) in matrix.numbered() {
                json.cell(&mut out, from, to, kind)?;
                writeln!(out)?;
            }
            Ok(out.flush()?)
        }
        Tabular::Csv => rows(io, matrix, true, table::csv),
        Tabular::Md => rows(io, matrix, false, table::markdown_rows),
        Tabular::Text | Tabular::Wide => {
            let mut out = sink(io)?;
            text(&mut out, matrix, format == Tabular::Wide)?;
            write!(out, "{}", io.scope(world))?;
            Ok(out.flush()?)
        }
    }
}

/// A cell per pair of endpoints, with what decided it.
pub fn expanded(
    io: &Io<'_>,
    evaluator: &Evaluator<'_>,
    matrix: &Matrix,
    port: &PortQuery,
    format: Tabular,
) -> anyhow::Result<()> {
    if matches!(
        format,
        Tabular::Text | Tabular::Wide | Tabular::Csv | Tabular::Md
    ) {
        return expanded_names(io, matrix, format);
    }
    let mut cells = Cells::begin(sink(io)?, format)?;
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
                    cells.cell(&src_name, &dst_name, &body)?;
                    if !itself {
                        shared = Some(body);
                    }
                }
            }
        }
    }
    cells.end()
}

/// A cell per pair of names, without what decided it.
pub fn expanded_names(io: &Io<'_>, matrix: &Matrix, format: Tabular) -> anyhow::Result<()> {
    let pairs = || {
        matrix.numbered().flat_map(move |(from, to, kind)| {
            let of = |class: usize| {
                matrix
                    .classes
                    .get(class)
                    .map_or(&[][..], |class| &class.members)
            };
            of(from)
                .iter()
                .flat_map(move |src| of(to).iter().map(move |dst| (src, dst, kind)))
        })
    };
    let head = ["src", "dst", "verdict", "allowed", "unknown"]
        .map(str::to_owned)
        .to_vec();
    match format {
        Tabular::Json | Tabular::Jsonl | Tabular::Yaml => {
            let mut cells = Cells::begin(sink(io)?, format)?;
            let json = Json::new(matrix);
            for (src, dst, kind) in pairs() {
                cells.cell(src, dst, json.body(kind))?;
            }
            cells.end()
        }
        Tabular::Text | Tabular::Wide => named_rows(io, matrix, pairs(), &[], |rows| {
            let line = |row: &Vec<String>| format!("{}\n", row.join("  ").trim_end());
            rows.iter().map(line).collect()
        }),
        Tabular::Csv => named_rows(io, matrix, pairs(), &[head], table::csv),
        Tabular::Md => {
            let rule = vec!["---".to_owned(); head.len()];
            named_rows(io, matrix, pairs(), &[head, rule], table::markdown_rows)
        }
    }
}

/// The head, and a row per pair of names.
fn named_rows<'m>(
    io: &Io<'_>,
    matrix: &Matrix,
    pairs: impl Iterator<Item = (&'m String, &'m String, usize)>,
    head: &[Vec<String>],
    spell: impl Fn(&[Vec<String>]) -> String,
) -> anyhow::Result<()> {
    let mut out = sink(io)?;
    write!(out, "{}", spell(head))?;
    let spelt: Vec<[String; 3]> = matrix
        .kinds()
        .iter()
        .map(|cell| {
            let unknown = matrix.set(cell.unknown);
            let unknown = if is_nothing(&unknown) {
                String::new()
            } else {
                spell_ports(&unknown)
            };
            let allowed = spell_ports(&matrix.set(cell.allowed));
            [word(matrix, *cell).to_owned(), allowed, unknown]
        })
        .collect();
    for (src, dst, kind) in pairs {
        let words = spelt.get(kind).into_iter().flatten();
        let cells = [src, dst].into_iter().chain(words);
        write!(out, "{}", spell(&[cells.cloned().collect()]))?;
    }
    Ok(out.flush()?)
}

/// Cells that say the names of their ends: a document of all of them, or one a line.
struct Cells {
    out: Box<dyn Write>,
    lines: bool,
    count: usize,
}

impl Cells {
    fn begin(mut out: Box<dyn Write>, format: Tabular) -> io::Result<Self> {
        let lines = format == Tabular::Jsonl;
        if !lines {
            write!(
                out,
                "{{\"apiVersion\":\"{API_VERSION}\",\"kind\":\"Matrix\",\"cells\":["
            )?;
        }
        Ok(Self {
            out,
            lines,
            count: 0,
        })
    }

    /// Adds a cell; `body` is what it says beside the names.
    fn cell(&mut self, src: &str, dst: &str, body: &str) -> anyhow::Result<()> {
        let separator = if self.lines || self.count == 0 {
            ""
        } else {
            ","
        };
        let (src, dst) = (quoted(src)?, quoted(dst)?);
        let end = if self.lines { "\n" } else { "" };
        write!(
            self.out,
            "{separator}{{\"src\":{src},\"dst\":{dst},{body}}}{end}"
        )?;
        self.count += 1;
        Ok(())
    }

    fn end(mut self) -> anyhow::Result<()> {
        if !self.lines {
            writeln!(self.out, "]}}")?;
        }
        Ok(self.out.flush()?)
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
        "{{\"apiVersion\":\"{API_VERSION}\",\"kind\":\"Matrix\",\"classes\":"
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
    for (index, (from, to, kind)) in matrix.numbered().enumerate() {
        if index > 0 {
            write!(out, ",")?;
        }
        json.cell(out, from, to, kind)?;
    }
    write!(out, "]}}")?;
    Ok(())
}

/// Every different cell without its ends, spelt once.
struct Json {
    bodies: Vec<String>,
}

impl Json {
    fn new(matrix: &Matrix) -> Self {
        let body = |cell: &CellIds| {
            let spell = |set: &PortSet| {
                let json: PortsJson = ports_json(set);
                serde_json::to_string(&json).unwrap_or_default()
            };
            let mut body = format!("\"allowed\":{}", spell(&matrix.set(cell.allowed)));
            for (name, id) in [("sometimes", cell.sometimes), ("unknown", cell.unknown)] {
                let set = matrix.set(id);
                if !is_nothing(&set) {
                    // Writing to a String cannot fail.
                    let _ = write!(body, ",\"{name}\":{}", spell(&set));
                }
            }
            body
        };
        Self {
            bodies: matrix.kinds().iter().map(body).collect(),
        }
    }

    fn cell(&self, out: &mut impl Write, from: usize, to: usize, kind: usize) -> io::Result<()> {
        write!(out, "{{\"src\":{from},\"dst\":{to},{}}}", self.body(kind))
    }

    fn body(&self, kind: usize) -> &str {
        self.bodies.get(kind).map_or("", String::as_str)
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
    let body = json.strip_prefix('{').and_then(|it| it.strip_suffix('}'));
    Ok(body.unwrap_or_default().to_owned())
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

fn text(out: &mut impl Write, matrix: &Matrix, wide: bool) -> io::Result<()> {
    for (id, class) in matrix.classes.iter().enumerate() {
        writeln!(out, "class {id}: {}", some_of(&class.members, wide))?;
    }
    writeln!(out)?;
    let names: Vec<String> = matrix
        .classes
        .iter()
        .map(|class| brief(&class.members))
        .collect();
    let words: Vec<String> = spelt(matrix);
    let admitted = || {
        matrix.numbered().filter_map(|(from, to, kind)| {
            let words = words.get(kind).filter(|words| *words != "nothing")?;
            Some((names.get(from)?, names.get(to)?, words))
        })
    };
    // Two passes over the cells, so that the lines need not be kept to be aligned.
    let (mut cells, mut widest) = (0, [0; 2]);
    for (from, to, _) in admitted() {
        cells += 1;
        widest = [widest[0].max(width(from)), widest[1].max(width(to))];
    }
    for (from, to, words) in admitted() {
        let [of_from, of_to] = [widest[0] - width(from), widest[1] - width(to)];
        writeln!(out, "{from}{:of_from$}  ->  {to}{:of_to$}  {words}", "", "")?;
    }
    let denied = matrix.numbered().count() - cells;
    writeln!(out, "{denied} other pairs of classes: not allowed")
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// A class in a few words.
fn brief(members: &[String]) -> String {
    match members {
        [only] => only.clone(),
        [first, rest @ ..] => format!("{first} (+{})", rest.len()),
        [] => String::new(),
    }
}

/// Every different cell in words.
fn spelt(matrix: &Matrix) -> Vec<String> {
    let kinds = matrix.kinds().iter();
    kinds.map(|cell| spell_cell(matrix, *cell)).collect()
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

/// A table with a head and a row per pair of classes.
fn rows(
    io: &Io<'_>,
    matrix: &Matrix,
    all: bool,
    spell: impl Fn(&[Vec<String>]) -> String,
) -> anyhow::Result<()> {
    let mut out = sink(io)?;
    let mut head = vec![
        ["src", "dst", "verdict", "allowed"]
            .map(str::to_owned)
            .to_vec(),
    ];
    if !all {
        head.push(vec!["---".to_owned(); 4]);
    }
    write!(out, "{}", spell(&head))?;
    let classes = matrix.classes.iter();
    let names: Vec<String> = classes.map(|class| some_of(&class.members, all)).collect();
    let verdicts = matrix.kinds().iter().map(|cell| word(matrix, *cell));
    let words: Vec<(&str, String)> = verdicts.zip(spelt(matrix)).collect();
    for (from, to, kind) in matrix.numbered() {
        let (Some(from), Some(to), Some((verdict, allowed))) =
            (names.get(from), names.get(to), words.get(kind))
        else {
            continue;
        };
        let row = vec![
            from.clone(),
            to.clone(),
            (*verdict).to_owned(),
            allowed.clone(),
        ];
        write!(out, "{}", spell(&[row]))?;
    }
    Ok(out.flush()?)
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
