// SPDX-License-Identifier: Apache-2.0
//! The matrix in every format. Documents are written piece by piece: a matrix can be larger than memory
//! should be.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    io::{self, Write},
    rc::Rc,
};

use policy_compiler::{partial::Evaluator, portmap::PortSet, verdict::Endpoint};
use serde::Serialize;

use super::{
    Matrix,
    classes::{CellIds, Class},
};
use crate::{
    API_VERSION, Io,
    answer::{Cell, Inquiry, Kind, Many, PairJson, PortsJson, ask, ports_json},
    args::Tabular,
    flow::{Group, PortQuery, is_nothing, spell_ports},
    load::World,
    render::{plain, table},
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
            let mut out = io.sink()?;
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
            let mut out = io.sink()?;
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
        let to_itself = to_itself(evaluator, matrix, port);
        return expanded_names(io, matrix, &to_itself, format);
    }
    let classes: Vec<Vec<Group>> = matrix.classes.iter().map(members).collect();
    let names = classes
        .iter()
        .map(|members| quoted_all(members.iter().map(|it| &it.name)));
    let names = names.collect::<Result<Vec<_>, _>>()?;
    let mut bodies = Bodies {
        evaluator,
        many: Many::new(evaluator, &classes, port),
        inquiry: Inquiry {
            ports: port,
            family: None,
            via_service: false,
            explain: false,
        },
        known: HashMap::new(),
    };
    let mut cells = Cells::begin(io.sink()?, format)?;
    let external = matrix.classes.iter().map(|class| class.external);
    let classes = || classes.iter().zip(&names).zip(external.clone()).enumerate();
    for (from, ((sources, source_names), leaves)) in classes() {
        for (to, ((destinations, destination_names), arrives)) in classes() {
            if leaves && arrives {
                continue;
            }
            let shared = bodies.between(from, to)?;
            for (src, src_name) in sources.iter().zip(source_names) {
                for (dst, dst_name) in destinations.iter().zip(destination_names) {
                    let own;
                    let body = match &shared {
                        Some(shared) if src_name != dst_name => shared,
                        Some(_) | None => {
                            own = bodies.of(src, dst)?;
                            &own
                        }
                    };
                    cells.cell(src_name, dst_name, body)?;
                }
            }
        }
    }
    cells.end()
}

/// What cells say beside the names of their ends.
struct Bodies<'a, 's> {
    evaluator: &'a Evaluator<'s>,
    many: Many<'a, 's>,
    inquiry: Inquiry<'a>,
    known: HashMap<Kind, Rc<str>>,
}

impl Bodies<'_, '_> {
    /// From any member of one class to any other of another; `None` if the words differ.
    fn between(&mut self, from: usize, to: usize) -> anyhow::Result<Option<Rc<str>>> {
        let Some(kind) = self.many.kind(from, to) else {
            return Ok(None);
        };
        if let Some(known) = self.known.get(&kind) {
            return Ok(Some(known.clone()));
        }
        let body = body(self.evaluator, &self.many.cells(from, to))?;
        if self.known.len() == MOST_BODIES {
            self.known.clear();
        }
        self.known.insert(kind, body.clone());
        Ok(Some(body))
    }

    /// From one end to another.
    fn of(&self, src: &Group, dst: &Group) -> anyhow::Result<Rc<str>> {
        let cells = ask(self.evaluator, src, dst, &self.inquiry);
        body(self.evaluator, &cells)
    }
}

/// How many answers are kept for pairs of the same kind: about a hundred megabytes.
const MOST_BODIES: usize = 100_000;

/// Verdict, what is allowed and what is unknown.
type Words = [String; 3];

/// What each end is told of its traffic with itself, which others of its class are not.
fn to_itself(
    evaluator: &Evaluator<'_>,
    matrix: &Matrix,
    port: &PortQuery,
) -> BTreeMap<String, Words> {
    let inquiry = Inquiry {
        ports: port,
        family: None,
        via_service: false,
        explain: false,
    };
    let classes = matrix.classes.iter().filter(|class| !class.external);
    let ends = classes.flat_map(members);
    ends.filter_map(|end| {
        let cell = ask(evaluator, &end, &end, &inquiry).into_iter().next()?;
        let verdict = cell.word().as_str().to_owned();
        let words = [verdict, spell_ports(&cell.allowed), some(&cell.unknown)];
        Some((end.name, words))
    })
    .collect()
}

/// A set in words; nothing in none.
fn some(set: &PortSet) -> String {
    if is_nothing(set) {
        String::new()
    } else {
        spell_ports(set)
    }
}

/// A cell per pair of names, without what decided it; those of a name with itself in tables are
/// `to_itself`, where it has them.
pub fn expanded_names(
    io: &Io<'_>,
    matrix: &Matrix,
    to_itself: &BTreeMap<String, Words>,
    format: Tabular,
) -> anyhow::Result<()> {
    let members = matrix.classes.iter().map(|class| class.members.clone());
    let members: Vec<Vec<String>> = members.collect();
    let head = ["src", "dst", "verdict", "allowed", "unknown"]
        .map(str::to_owned)
        .to_vec();
    match format {
        Tabular::Json | Tabular::Jsonl | Tabular::Yaml => {
            let mut cells = Cells::begin(io.sink()?, format)?;
            let json = Json::new(matrix);
            let names = members.iter().map(quoted_all);
            let names = names.collect::<Result<Vec<_>, _>>()?;
            for (src, dst, kind) in pairs(matrix, &names) {
                cells.cell(src, dst, json.body(kind))?;
            }
            cells.end()
        }
        Tabular::Text | Tabular::Wide => {
            named_rows(io, (matrix, &members), to_itself, &[], |rows| {
                let line = |row: &Vec<String>| {
                    let row = row.join("  ");
                    format!("{}\n", plain::line(row.trim_end()))
                };
                rows.iter().map(line).collect()
            })
        }
        Tabular::Csv => named_rows(io, (matrix, &members), to_itself, &[head], table::csv),
        Tabular::Md => {
            let rule = vec!["---".to_owned(); head.len()];
            named_rows(
                io,
                (matrix, &members),
                to_itself,
                &[head, rule],
                table::markdown_rows,
            )
        }
    }
}

/// Two members and the number of what gets through between their classes.
fn pairs<'m>(
    matrix: &'m Matrix,
    members: &'m [Vec<String>],
) -> impl Iterator<Item = (&'m String, &'m String, usize)> {
    let of = |class: usize| members.get(class).map_or(&[][..], Vec::as_slice);
    matrix.numbered().flat_map(move |(from, to, kind)| {
        let from = of(from).iter();
        from.flat_map(move |src| of(to).iter().map(move |dst| (src, dst, kind)))
    })
}

/// The head, and a row per pair of members.
fn named_rows(
    io: &Io<'_>,
    (matrix, members): (&Matrix, &[Vec<String>]),
    to_itself: &BTreeMap<String, Words>,
    head: &[Vec<String>],
    spell: impl Fn(&[Vec<String>]) -> String,
) -> anyhow::Result<()> {
    let mut out = io.sink()?;
    write!(out, "{}", spell(head))?;
    let spelt: Vec<Words> = matrix
        .kinds()
        .iter()
        .map(|cell| {
            let allowed = spell_ports(&matrix.set(cell.allowed));
            let unknown = some(&matrix.set(cell.unknown));
            [word(matrix, *cell).to_owned(), allowed, unknown]
        })
        .collect();
    for (src, dst, kind) in pairs(matrix, members) {
        let own = to_itself.get(src).filter(|_| src == dst);
        let words = own.or(spelt.get(kind)).into_iter().flatten();
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

    /// Adds a cell; the names are JSON, and `body` is what it says beside them.
    fn cell(&mut self, src: &str, dst: &str, body: &str) -> io::Result<()> {
        let separator = if self.lines || self.count == 0 {
            ""
        } else {
            ","
        };
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
    let mut out = io.sink()?;
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
fn body(evaluator: &Evaluator<'_>, cells: &[Cell]) -> anyhow::Result<Rc<str>> {
    let (src, dst) = cells
        .first()
        .map_or(("", ""), |cell| (&cell.src, &cell.dst));
    let pair = PairJson::new(evaluator, src, dst, cells);
    let names = format!("\"src\":{},\"dst\":{},", quoted(src)?, quoted(dst)?);
    let json = serde_json::to_string(&pair)?.replace(&names, "");
    let body = json.strip_prefix('{').and_then(|it| it.strip_suffix('}'));
    Ok(body.unwrap_or_default().into())
}

fn members(class: &Class) -> Vec<Group> {
    let group = |endpoint: &Endpoint, name: &str| Group {
        name: name.to_owned(),
        endpoint: endpoint.clone(),
        ranges: Vec::new(),
        legs: Vec::new(),
    };
    if class.external {
        // Every range is an end of its own; one address stands for all of them.
        let party = class.parties().next().map(|(_, party)| &party.asked);
        let names = class.members.iter();
        return names.filter_map(|name| Some(group(party?, name))).collect();
    }
    let ends = class.endpoints.iter().zip(&class.members);
    ends.map(|(end, name)| group(end, name)).collect()
}

fn word(matrix: &Matrix, cell: CellIds) -> &'static str {
    let (allowed, unknown) = (matrix.set(cell.allowed), matrix.set(cell.unknown));
    let sometimes = matrix.set(cell.sometimes);
    if !is_nothing(&unknown) {
        "unknown"
    } else if cell.whole {
        "allowed"
    } else if is_nothing(&allowed) && is_nothing(&sometimes) {
        "denied"
    } else {
        "partial"
    }
}

fn text(out: &mut impl Write, matrix: &Matrix, wide: bool) -> io::Result<()> {
    for (id, class) in matrix.classes.iter().enumerate() {
        let members = some_of(&class.members, wide);
        writeln!(out, "class {id}: {}", plain::line(&members))?;
    }
    writeln!(out)?;
    let names: Vec<String> = matrix
        .classes
        .iter()
        .map(|class| plain::line(&brief(&class.members)).into_owned())
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
    let mut out = io.sink()?;
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

fn quoted_all<'t>(texts: impl IntoIterator<Item = &'t String>) -> serde_json::Result<Vec<String>> {
    texts.into_iter().map(|text| quoted(text)).collect()
}

fn quoted(text: &str) -> serde_json::Result<String> {
    serde_json::to_string(text)
}
