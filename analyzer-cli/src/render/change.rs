// SPDX-License-Identifier: Apache-2.0
//! How is a change of traffic said, for people and for programs?

use std::fmt::Write as _;

use policy_compiler::{
    Decision, Reason,
    difference::{Change, End, Kind},
    model::{Direction, Family, Protocol},
    symbolic::Symbols,
};
use serde::Serialize;

use crate::{
    answer::{PortsJson, ports_json, reason_name, verdict_name},
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
            src: ends(&change.sources, symbols),
            dst: ends(&change.destinations, symbols),
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

/// The change in lines: what, a packet that shows it, and what decided that before and after.
pub fn text(change: &Change, symbols: &Symbols) -> String {
    let witness = &change.witness;
    let list = |list: &[End]| ends(list, symbols).join(", ");
    let mut text = String::new();
    let (mark, words) = match change.kind {
        Kind::Gained => ('+', "newly allowed"),
        Kind::Lost => ('-', "newly denied"),
        Kind::Unclear => ('?', "unknown"),
    };
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "{mark} {words}  {} -> {}  {}",
        list(&change.sources),
        list(&change.destinations),
        spell_ports(&change.ports)
    );
    if let Some(family) = change.family {
        let _ = write!(text, " over IPv{}", number(family));
    }
    if change.through_service {
        text.push_str(", of each to itself through a Service");
    }
    let port = match witness.protocol {
        Protocol::Other => "another protocol".to_owned(),
        Protocol::Tcp | Protocol::Udp | Protocol::Sctp => {
            let protocol = witness.protocol.to_string().to_lowercase();
            format!("{protocol}/{}", witness.port)
        }
    };
    let _ = write!(
        text,
        "\n    {} -> {} {port}",
        symbols.name(&witness.source),
        symbols.name(&witness.destination)
    );
    for condition in conditions(change) {
        let _ = write!(text, ", where {condition}");
    }
    let _ = write!(
        text,
        "\n      before  {}\n      after   {}\n",
        because(&witness.before),
        because(&witness.after)
    );
    text
}

/// What a change is called in JSON.
pub fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Gained => "newly-allowed",
        Kind::Lost => "newly-denied",
        Kind::Unclear => "unknown",
    }
}

/// One decision in a few words: `ingress denied: isolated by NetworkPolicy t/in`.
pub fn spell_decision(direction: Direction, decision: &Decision) -> String {
    let reason = match &decision.reason {
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
    };
    format!("{direction} {}: {reason}", verdict_name(decision.verdict))
}

fn because(decisions: &[Option<Decision>; 2]) -> String {
    let words = Direction::BOTH.iter().zip(decisions);
    let words: Vec<String> = words
        .map(|(direction, decision)| match decision {
            Some(decision) => spell_decision(*direction, decision),
            None => format!("{direction} unknown"),
        })
        .collect();
    words.join(", ")
}

fn ends(ends: &[End], symbols: &Symbols) -> Vec<String> {
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
