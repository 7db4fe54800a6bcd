// SPDX-License-Identifier: Apache-2.0
//! How is connectivity shown to people who do not run programs? One page, without anything from
//! elsewhere: the picture, a matrix whose cells tell their reason, and what each rule decides.
//!
//! What cells have in common is written once: answers, reasons, and stretches of neighbouring cells that
//! are alike. A script in the page puts the cells together again.

use std::collections::{BTreeSet, HashMap};

use policy_compiler::{model::Direction, partial::Evaluator};
use serde::Serialize;
use serde_json::{Value, json};

use super::super::matrix::Matrix;
use crate::{
    answer::{Cell, Kind, Many, PairJson},
    flow::{Group, PortQuery, internet},
    load::World,
    render::table::{brief, escape_xml},
};

/// The picture of the page.
pub struct Shown {
    /// The picture itself.
    pub svg: String,
    /// Of namespaces, instead of workloads.
    pub by_namespace: bool,
}

/// The page; without `picture` it says that there are too many arrows.
pub fn page(
    world: &World,
    evaluator: &Evaluator<'_>,
    picture: Option<Shown>,
) -> serde_json::Result<String> {
    let data = Data::of(evaluator)?;
    let snapshot = &world.loaded.snapshot;
    // `</script>` in a name would end the data.
    let text = data.json(snapshot)?.replace('<', "\\u003c");
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:\">\n\
         <title>Network policies: who reaches whom</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <h1>Who reaches whom</h1>\n<p>{}</p>\n\
         <p>Endpoints that no policy tells apart are one group: {} groups.</p>\n\
         <label>Filter by namespace, workload or policy <input id=\"filter\" type=\"search\" placeholder=\"shop/web\"></label>\n\
         <h2>Matrix</h2>\n<p class=\"key\"><span class=\"allowed\">✓ everything gets through</span><span class=\"partial\">◐ some of it does</span><span>– nothing does</span><span class=\"unknown\">? missing facts decide</span></p>\n\
         <div id=\"pages\" hidden></div>\n<div class=\"scroll\"><table id=\"matrix\"><thead></thead><tbody></tbody></table></div>\n\
         <section id=\"reason\" aria-live=\"polite\"><p class=\"hint\">Choose a cell to see why.</p></section>\n\
         <h2>Policies</h2>\n<p class=\"hint\">Choose a rule to mark the cells it decides. A rule with none decides nothing here.</p>\n\
         <div class=\"scroll\"><table id=\"policies\"><thead><tr><th>rule</th><th>verdict</th><th>cells</th><th class=\"at\">written at</th></tr></thead><tbody></tbody></table></div>\n\
         <h2>Picture</h2>\n{}\n\
         <script type=\"application/json\" id=\"data\">{text}</script>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        escape_xml(&world.scope()),
        data.groups.len(),
        match picture {
            Some(Shown { svg, by_namespace }) => format!(
                "{}<div class=\"scroll\">{}</div>",
                if by_namespace {
                    "<p class=\"hint\">By namespace: workloads have too many arrows for one picture.</p>\n"
                } else {
                    ""
                },
                svg.replacen("<svg ", "<svg class=\"picture\" ", 1)
            ),
            None => "<p class=\"hint\">There are too many arrows for one picture.</p>".to_owned(),
        },
    ))
}

/// What the page's script shows.
struct Data {
    groups: Vec<Value>,
    /// By source and destination, row by row: the number of what is said; `None` between two ranges of
    /// addresses, of which there is nothing to say.
    cells: Vec<Option<usize>>,
    answers: Answers,
}

impl Data {
    fn of(evaluator: &Evaluator<'_>) -> serde_json::Result<Self> {
        let matrix = Matrix::new(evaluator, &PortQuery::All, false);
        let mut groups = Vec::new();
        let mut ends: Vec<Vec<Group>> = Vec::new();
        for class in &matrix.classes {
            let name = match class.members.as_slice() {
                [first, _, ..] => format!("{first} and {} more", class.members.len() - 1),
                members => members.concat(),
            };
            groups.push(json!({"name": name, "members": class.members}));
            let two = class.endpoints.iter().take(2);
            ends.push(two.cloned().map(Group::of).collect());
        }
        for outside in internet(evaluator.snapshot()) {
            groups.push(json!({"name": brief(&outside.name), "members": [outside.name]}));
            ends.push(vec![outside]);
        }
        let mut many = Many::new(evaluator, &ends, &PortQuery::All);
        let mut answers = Answers::default();
        let mut known: HashMap<Kind, usize> = HashMap::new();
        let mut cells = Vec::with_capacity(ends.len() * ends.len());
        let inside = matrix.classes.len();
        for from in 0..ends.len() {
            for to in 0..ends.len() {
                if from >= inside && to >= inside {
                    cells.push(None);
                    continue;
                }
                let kind = many.kind(from, to);
                let number = match kind.and_then(|kind| known.get(&kind)) {
                    Some(number) => *number,
                    None => answers.number(evaluator, &many.cells(from, to))?,
                };
                known.extend(kind.map(|kind| (kind, number)));
                cells.push(Some(number));
            }
        }
        Ok(Self {
            groups,
            cells,
            answers,
        })
    }

    fn json(&self, snapshot: &policy_compiler::Snapshot) -> serde_json::Result<String> {
        #[derive(Serialize)]
        struct Page<'d> {
            groups: &'d [Value],
            answers: &'d [Value],
            reasons: &'d [Value],
            /// Numbers of reasons.
            sides: &'d [Value],
            /// By destination, the answers for each source.
            answer: Vec<Stretches>,
            /// By destination, what its own side says of each source.
            ingress: Vec<Stretches>,
            /// By source, what its own side says of each destination.
            egress: Vec<Stretches>,
            rules: Vec<String>,
        }
        let mut rules = Vec::new();
        for direction in Direction::BOTH {
            for policy in snapshot.network_policies.values() {
                let count = policy.rules(direction).map_or(0, <[_]>::len);
                let name = policy.policy_ref();
                rules.extend((0..count).map(|index| format!("{name} {direction}[{index}]")));
            }
            for policy in snapshot.admin_policies.values() {
                let name = policy.policy_ref();
                for (index, rule) in policy.rules(direction).iter().enumerate() {
                    let title = rule.name.as_ref().map(|title| format!(" \"{title}\""));
                    let title = title.unwrap_or_default();
                    rules.push(format!("{name} {direction}[{index}]{title}"));
                }
            }
        }
        let count = self.groups.len();
        let toward = |part: fn(&Said) -> usize| -> Vec<Stretches> {
            let columns = (0..count).map(|to| (0..count).map(move |from| (from, to)));
            columns.map(|column| self.stretches(column, part)).collect()
        };
        let rows = (0..count).map(|from| (0..count).map(move |to| (from, to)));
        serde_json::to_string(&Page {
            groups: &self.groups,
            answers: &self.answers.verdicts.list,
            reasons: &self.answers.reasons.list,
            sides: &self.answers.sides.list,
            answer: toward(|said| said.answer),
            ingress: toward(|said| said.ingress),
            egress: rows
                .map(|row| self.stretches(row, |said| said.egress))
                .collect(),
            rules,
        })
    }

    /// A part of what is said of some cells, one after the other.
    fn stretches(
        &self,
        cells: impl Iterator<Item = (usize, usize)>,
        part: fn(&Said) -> usize,
    ) -> Stretches {
        let mut stretches: Vec<(Option<usize>, usize)> = Vec::new();
        for (from, to) in cells {
            let cell = self.cells.get(from * self.groups.len() + to);
            let said = cell.and_then(|number| self.answers.said.get((*number)?));
            let number = said.map(part);
            match stretches.last_mut() {
                Some((last, length)) if *last == number => *length += 1,
                _ => stretches.push((number, 1)),
            }
        }
        let flat = stretches
            .into_iter()
            .flat_map(|(number, length)| [number, Some(length)]);
        flat.collect()
    }
}

/// A number and for how many neighbours it holds, by turns.
type Stretches = Vec<Option<usize>>;

/// What is said of cells: numbers of an answer and of what either side says.
struct Said {
    answer: usize,
    egress: usize,
    ingress: usize,
}

/// Everything that is said so far.
#[derive(Default)]
struct Answers {
    said: Vec<Said>,
    /// Verdicts, what gets through, and facts that are missing.
    verdicts: Numbered,
    /// Numbers of reasons.
    sides: Numbered,
    reasons: Numbered,
}

/// Values, each once.
#[derive(Default)]
struct Numbered {
    list: Vec<Value>,
    numbers: HashMap<String, usize>,
}

impl Numbered {
    fn number(&mut self, value: Value) -> usize {
        let next = self.list.len();
        let number = *self.numbers.entry(value.to_string()).or_insert(next);
        if number == next {
            self.list.push(value);
        }
        number
    }
}

impl Answers {
    /// The number of what is said of a member of one class and a member of another.
    fn number(&mut self, evaluator: &Evaluator<'_>, cells: &[Cell]) -> serde_json::Result<usize> {
        let (src, dst) = cells
            .first()
            .map_or(("", ""), |cell| (&cell.src, &cell.dst));
        let mut pair = serde_json::to_value(PairJson::new(evaluator, src, dst, cells))?;
        let mut sides = [Vec::new(), Vec::new()];
        for decided in pair["decided_by"].as_array().into_iter().flatten() {
            let [egress, ingress] = &mut sides;
            let side = if decided["direction"] == json!(Direction::Egress) {
                egress
            } else {
                ingress
            };
            side.push(self.reasons.number(decided.clone()));
        }
        let [egress, ingress] = sides.map(|side| self.sides.number(json!(side)));
        let unknown: BTreeSet<String> = pair["unknown"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|part| part["missing"].as_array())
            .flatten()
            .filter_map(|fact| fact.as_str().map(str::to_owned))
            .collect();
        let answer = self.verdicts.number(json!({
            "verdict": pair["verdict"].take(), "allowed": pair["allowed"].take(), "unknown": unknown,
        }));
        let said = Said {
            answer,
            egress,
            ingress,
        };
        self.said.push(said);
        Ok(self.said.len() - 1)
    }
}

const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");
