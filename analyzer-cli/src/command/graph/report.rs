// SPDX-License-Identifier: Apache-2.0
//! How is connectivity shown to people who do not run programs? One page, without anything from
//! elsewhere: the picture, a matrix whose cells tell their reason, and what each rule decides.

use std::collections::{BTreeSet, HashMap};

use policy_compiler::{model::Direction, partial::Evaluator};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::super::matrix::Matrix;
use crate::{
    answer::{Cell, Kind, Many, PairJson},
    flow::{Group, PortQuery, internet},
    load::World,
    render::table::{brief, escape_xml},
};

/// The page; `picture` is SVG.
pub fn page(world: &World, evaluator: &Evaluator<'_>, picture: &str) -> serde_json::Result<String> {
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
         <div class=\"scroll\"><table id=\"matrix\"><thead></thead><tbody></tbody></table></div>\n\
         <section id=\"reason\" aria-live=\"polite\"><p class=\"hint\">Choose a cell to see why.</p></section>\n\
         <h2>Policies</h2>\n<p class=\"hint\">Choose a rule to mark the cells it decides. A rule with none decides nothing here.</p>\n\
         <div class=\"scroll\"><table id=\"policies\"><thead><tr><th>rule</th><th>verdict</th><th>cells</th><th class=\"at\">written at</th></tr></thead><tbody></tbody></table></div>\n\
         <h2>Picture</h2>\n<div class=\"scroll\">{}</div>\n\
         <script type=\"application/json\" id=\"data\">{text}</script>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        escape_xml(&world.scope()),
        data.groups.len(),
        picture.replacen("<svg ", "<svg class=\"picture\" ", 1),
    ))
}

/// What the page's script shows.
struct Data {
    groups: Vec<Value>,
    /// Source, destination and the number of an answer.
    cells: Vec<(usize, usize, usize)>,
    answers: Vec<Value>,
    /// Reasons are shared by many cells.
    reasons: Vec<Value>,
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
        let mut answers = Answers {
            evaluator,
            known: HashMap::new(),
            numbers: HashMap::new(),
            list: Vec::new(),
            reasons: Vec::new(),
        };
        let mut cells = Vec::new();
        let inside = matrix.classes.len();
        for from in 0..ends.len() {
            for to in 0..ends.len() {
                // Between two ranges of addresses there is nothing to say.
                if from < inside || to < inside {
                    cells.push((from, to, answers.number(&mut many, from, to)?));
                }
            }
        }
        Ok(Self {
            groups,
            cells,
            answers: answers.list,
            reasons: answers.reasons,
        })
    }

    fn json(&self, snapshot: &policy_compiler::Snapshot) -> serde_json::Result<String> {
        #[derive(Serialize)]
        struct Page<'d> {
            groups: &'d [Value],
            cells: Cells<'d>,
            reasons: &'d [Value],
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
        serde_json::to_string(&Page {
            groups: &self.groups,
            cells: Cells(self),
            reasons: &self.reasons,
            rules,
        })
    }
}

/// The answers by `source destination`.
struct Cells<'d>(&'d Data);

impl Serialize for Cells<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let cells = self.0.cells.iter().filter_map(|(from, to, answer)| {
            Some((format!("{from} {to}"), self.0.answers.get(*answer)?))
        });
        serializer.collect_map(cells)
    }
}

/// Answers and reasons so far, each once.
struct Answers<'a, 's> {
    evaluator: &'a Evaluator<'s>,
    known: HashMap<Kind, usize>,
    numbers: HashMap<String, usize>,
    list: Vec<Value>,
    reasons: Vec<Value>,
}

impl Answers<'_, '_> {
    /// The number of the answer for a member of one class and a member of another.
    fn number(
        &mut self,
        many: &mut Many<'_, '_>,
        from: usize,
        to: usize,
    ) -> serde_json::Result<usize> {
        let kind = many.kind(from, to);
        if let Some(known) = kind.and_then(|kind| self.known.get(&kind)) {
            return Ok(*known);
        }
        let answer = self.answer(&many.cells(from, to))?;
        let number = self.list.len();
        self.list.push(answer);
        self.known.extend(kind.map(|kind| (kind, number)));
        Ok(number)
    }

    fn answer(&mut self, cells: &[Cell]) -> serde_json::Result<Value> {
        let (src, dst) = cells
            .first()
            .map_or(("", ""), |cell| (&cell.src, &cell.dst));
        let pair = PairJson::new(self.evaluator, src, dst, cells);
        let mut pair = serde_json::to_value(pair)?;
        let mut used = Vec::new();
        for decided in pair["decided_by"].as_array().into_iter().flatten() {
            let number = self.numbers.entry(decided.to_string()).or_insert_with(|| {
                self.reasons.push(decided.clone());
                self.reasons.len() - 1
            });
            used.push(*number);
        }
        let unknown: BTreeSet<String> = pair["unknown"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|part| part["missing"].as_array())
            .flatten()
            .filter_map(|fact| fact.as_str().map(str::to_owned))
            .collect();
        Ok(json!({
            "verdict": pair["verdict"].take(), "allowed": pair["allowed"].take(),
            "reasons": used, "unknown": unknown,
        }))
    }
}

const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");
