// SPDX-License-Identifier: Apache-2.0
//! How is a change of traffic said, for people and for programs?

use std::{collections::BTreeSet, fmt::Write as _};

use policy_compiler::{
    Decision, Reason,
    difference::{Change, End, Kind, Said},
    model::{Direction, Family, Protocol},
    symbolic::Symbols,
};
use serde::Serialize;

use super::plain;
use crate::{
    answer::{APART, Cell, PortsJson, ports_json, reason_name, verdict_name},
    flow::spell_ports,
};

/// A change as JSON.
#[derive(Debug, Serialize)]
pub struct ChangeJson {
    change: &'static str,
    src: Vec<String>,
    dst: Vec<String>,
    ports: PortsJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    family: Option<u8>,
    #[serde(rename = "throughService", skip_serializing_if = "std::ops::Not::not")]
    through_service: bool,
    witness: WitnessJson,
}

#[derive(Debug, Serialize)]
struct WitnessJson {
    src: String,
    dst: String,
    protocol: Protocol,
    port: u16,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    conditions: Vec<String>,
    before: String,
    after: String,
}

impl ChangeJson {
    /// The change, with pods that do not exist yet in words.
    pub fn of(change: &Change, symbols: &Symbols) -> Self {
        let witness = &change.witness;
        Self {
            change: name(change.kind),
            src: each_end(&change.sources, symbols),
            dst: each_end(&change.destinations, symbols),
            ports: ports_json(&change.ports),
            family: change.family.map(number),
            through_service: change.through_service,
            witness: WitnessJson {
                src: symbols.name(&witness.source),
                dst: symbols.name(&witness.destination),
                protocol: witness.protocol,
                port: witness.port,
                conditions: conditions(change),
                before: because(&witness.before),
                after: because(&witness.after),
            },
        }
    }
}

/// The change in lines: what, a packet that shows it, and what decided that before and after. `list`
/// spells the names of many ends.
pub fn text(change: &Change, symbols: &Symbols, list: impl Fn(&[String]) -> String) -> String {
    let (mark, words) = match change.kind {
        Kind::Gained => ('+', "newly allowed"),
        Kind::Lost => ('-', "newly denied"),
        Kind::Unclear | Kind::Undecided => ('?', "unknown"),
    };
    format!(
        "{mark} {words}  {} -> {}  {}\n    {}\n      before  {}\n      after   {}\n",
        plain::line(&list(&ends(&change.sources, symbols))),
        plain::line(&list(&ends(&change.destinations, symbols))),
        ports(change),
        plain::line(&packet(change, symbols)),
        plain::line(&because(&change.witness.before)),
        plain::line(&because(&change.witness.after))
    )
}

/// What changes: `tcp/80 over IPv4`.
pub fn ports(change: &Change) -> String {
    let mut text = spell_ports(&change.ports);
    if let Some(family) = change.family {
        // Writing to a String cannot fail.
        let _ = write!(text, " over IPv{}", number(family));
    }
    if change.through_service {
        text.push_str(", of each to itself through a Service");
    }
    text
}

/// The packet that shows a change: `t/d -> t/s tcp/80, where the source runs on n1`.
pub fn packet(change: &Change, symbols: &Symbols) -> String {
    let witness = &change.witness;
    let port = match witness.protocol {
        Protocol::Other => "icmp".to_owned(),
        Protocol::Tcp | Protocol::Udp | Protocol::Sctp => {
            let protocol = witness.protocol.to_string().to_lowercase();
            format!("{protocol}/{}", witness.port)
        }
    };
    let (source, destination) = (&witness.source, &witness.destination);
    let mut text = format!(
        "{} -> {} {port}",
        symbols.name(source),
        symbols.name(destination)
    );
    for condition in conditions(change) {
        let _ = write!(text, ", where {condition}");
    }
    text
}

/// What a change is called in JSON.
pub fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Gained => "newly-allowed",
        Kind::Lost => "newly-denied",
        Kind::Unclear | Kind::Undecided => "unknown",
    }
}

/// One decision in a few words: `ingress denied: isolated by NetworkPolicy t/in`, and what would have
/// been decided if audited policies were enforced.
pub fn spell_decision(direction: Direction, decision: &Decision) -> String {
    let reason = spell_reason(direction, decision);
    let would_be = match &decision.audited {
        Some(denial) => format!(
            "; would be denied: {} (audit)",
            spell_reason(direction, denial)
        ),
        None => String::new(),
    };
    format!(
        "{direction} {}: {reason}{would_be}",
        verdict_name(decision.verdict)
    )
}

fn spell_reason(direction: Direction, decision: &Decision) -> String {
    match &decision.reason {
        Reason::Rule(rule) | Reason::FailClosed(rule) => {
            let at = rule.at.as_ref();
            let at = at.map(|at| format!(" ({at})")).unwrap_or_default();
            format!("{} {direction}[{}]{at}", rule.policy, rule.index)
        }
        Reason::Isolated(policies) => {
            let names: Vec<String> = policies.iter().map(ToString::to_string).collect();
            format!("isolated by {}", names.join(", "))
        }
        other @ (Reason::LocalNode
        | Reason::SelfTraffic
        | Reason::NotASubject
        | Reason::Default) => reason_name(other).unwrap_or_default().to_owned(),
    }
}

/// What decided a cell, in a few words.
pub fn reasons(cell: &Cell) -> String {
    if cell.is_apart {
        return APART.to_owned();
    }
    let mut words: BTreeSet<String> = BTreeSet::new();
    for direction in Direction::BOTH {
        let side = cell.side(direction);
        for (_, decision) in &side.parts {
            words.insert(spell_decision(direction, decision));
        }
        let unknown = side.unknown.iter();
        words.extend(unknown.map(|(_, facts)| spell_unknown(direction, facts)));
    }
    words.into_iter().collect::<Vec<_>>().join(", ")
}

/// What decided a witness, in a few words.
pub fn because(said: &[Said; 2]) -> String {
    let words = Direction::BOTH.iter().zip(said);
    let words: Vec<String> = words
        .map(|(direction, said)| match said {
            Ok(decision) => spell_decision(*direction, decision),
            Err(facts) => spell_unknown(*direction, facts),
        })
        .collect();
    words.join(", ")
}

fn spell_unknown(direction: Direction, facts: &[String]) -> String {
    match facts {
        [] => format!("{direction} unknown"),
        facts => format!("{direction} unknown: {}", facts.join("; ")),
    }
}

/// Names of the ends of a change, every block of addresses by itself.
fn each_end(ends: &[End], symbols: &Symbols) -> Vec<String> {
    let spell = |end: &End| match end {
        End::Endpoint(end) => vec![symbols.name(end)],
        End::Range(networks) => networks.iter().map(ToString::to_string).collect(),
    };
    ends.iter().flat_map(spell).collect()
}

/// Names of the ends of a change; addresses that are alike are one.
pub fn ends(ends: &[End], symbols: &Symbols) -> Vec<String> {
    let spell = |end: &End| match end {
        End::Endpoint(end) => symbols.name(end),
        End::Range(networks) => {
            let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
            networks.join(",")
        }
    };
    ends.iter().map(spell).collect()
}

fn conditions(change: &Change) -> Vec<String> {
    let conditions = change.witness.conditions.iter();
    conditions.map(ToString::to_string).collect()
}

fn number(family: Family) -> u8 {
    match family {
        Family::V4 => 4,
        Family::V6 => 6,
    }
}
