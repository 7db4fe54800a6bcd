// SPDX-License-Identifier: Apache-2.0
//! How is connectivity shown to people who do not run programs? One page, without anything from
//! elsewhere: the picture, a matrix whose cells tell their reason, and what each rule decides.

use std::collections::{BTreeMap, BTreeSet};

use policy_compiler::{model::Direction, partial::Evaluator};
use serde_json::{Map, Value, json};

use super::super::matrix::Matrix;
use crate::{
    answer::{self, Inquiry, PairJson},
    flow::{Group, PortQuery, internet},
    load::World,
    render::table::{brief, escape_xml},
};

/// The page; `picture` is SVG.
pub fn page(world: &World, evaluator: &Evaluator<'_>, picture: &str) -> serde_json::Result<String> {
    let data = Data::of(evaluator)?;
    let snapshot = &world.loaded.snapshot;
    // `</script>` in a name would end the data.
    let text = serde_json::to_string(&data.json(snapshot))?.replace('<', "\\u003c");
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
    cells: Map<String, Value>,
    /// Reasons are shared by many cells.
    reasons: Vec<Value>,
}

impl Data {
    fn of(evaluator: &Evaluator<'_>) -> serde_json::Result<Self> {
        let matrix = Matrix::new(evaluator, &PortQuery::All, false);
        let mut groups: Vec<(Value, Vec<Group>)> = Vec::new();
        for class in &matrix.classes {
            let members = class.endpoints.iter().take(2).map(|endpoint| Group {
                name: endpoint.to_string(),
                endpoint: endpoint.clone(),
                ranges: Vec::new(),
                legs: Vec::new(),
            });
            let name = match class.members.as_slice() {
                [first, _, ..] => format!("{first} and {} more", class.members.len() - 1),
                members => members.concat(),
            };
            let about = json!({"name": name, "members": class.members});
            groups.push((about, members.collect()));
        }
        for outside in internet(evaluator.snapshot()) {
            let about = json!({"name": brief(&outside.name), "members": [outside.name]});
            groups.push((about, vec![outside]));
        }
        let inquiry = Inquiry {
            ports: &PortQuery::All,
            family: None,
            via_service: false,
            explain: false,
        };
        let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
        let (mut cells, mut reasons) = (Map::new(), Vec::new());
        for (from, (_, sources)) in groups.iter().enumerate() {
            for (to, (_, destinations)) in groups.iter().enumerate() {
                // Inside a group, from one member to another.
                let skip = usize::from(from == to && destinations.len() > 1);
                let (Some(src), Some(dst)) = (sources.first(), destinations.get(skip)) else {
                    continue;
                };
                if !src.ranges.is_empty() && !dst.ranges.is_empty() {
                    continue;
                }
                let answers = answer::ask(evaluator, src, dst, &inquiry);
                let pair = PairJson::new(evaluator, &src.name, &dst.name, &answers);
                let mut pair = serde_json::to_value(pair)?;
                let mut used = Vec::new();
                for decided in pair["decided_by"].as_array().into_iter().flatten() {
                    let number = numbers.entry(decided.to_string()).or_insert_with(|| {
                        reasons.push(decided.clone());
                        reasons.len() - 1
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
                let cell = json!({
                    "verdict": pair["verdict"].take(), "allowed": pair["allowed"].take(),
                    "reasons": used, "unknown": unknown,
                });
                cells.insert(format!("{from} {to}"), cell);
            }
        }
        Ok(Self {
            groups: groups.into_iter().map(|(about, _)| about).collect(),
            cells,
            reasons,
        })
    }

    fn json(&self, snapshot: &policy_compiler::Snapshot) -> Value {
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
        json!({"groups": self.groups, "cells": self.cells, "reasons": self.reasons, "rules": rules})
    }
}

const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");
