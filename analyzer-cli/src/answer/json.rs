// SPDX-License-Identifier: Apache-2.0
//! Answers as JSON, the form that other programs parse.

use policy_compiler::{
    Decision, Reason, Verdict,
    diagnostic::Location,
    explain::{Change, Failed},
    model::{Direction, Family, PolicyRef, Protocol},
    partial::Evaluator,
    portmap::PortSet,
};
use serde::Serialize;

use super::{APART, Cell, Word};
use crate::{
    API_VERSION,
    flow::{is_all, is_nothing},
};

/// A set of protocols and ports: `"all"`, or ranges by protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum PortsJson {
    /// Everything.
    All(&'static str),
    /// Ranges, in order; empty for nothing.
    Ranges(Vec<ProtocolPorts>),
}

/// The ports of one protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProtocolPorts {
    protocol: Protocol,
    #[serde(skip_serializing_if = "Option::is_none")]
    ports: Option<Vec<(u16, u16)>>,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct At {
    /// File.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
}

impl From<&Location> for At {
    fn from(at: &Location) -> Self {
        Self {
            file: at.file.to_string(),
            line: at.line,
            column: at.column,
        }
    }
}

/// What decided a part of one direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decided {
    direction: Direction,
    /// Where another family has another answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    family: Option<u8>,
    verdict: &'static str,
    tier: String,
    kind: Option<String>,
    policy: Option<String>,
    rule: Option<u32>,
    rule_name: Option<String>,
    at: Option<At>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    policies: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    passed: Vec<String>,
    r#for: PortsJson,
    /// What would deny this part if audited policies were enforced.
    #[serde(skip_serializing_if = "Option::is_none")]
    audited: Option<Box<Decided>>,
}

/// A part that missing facts decide.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnknownJson {
    direction: Direction,
    r#for: PortsJson,
    missing: Vec<String>,
}

/// Why a direction does not admit what it could.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DenialJson {
    direction: Direction,
    selecting: Vec<String>,
    rules: Vec<MissJson>,
    smallest_change: Option<ChangeJson>,
}

/// A rule and its failing condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MissJson {
    policy: String,
    rule: u32,
    at: Option<At>,
    failed: &'static str,
    wants: String,
}

/// An edit that admits the flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChangeJson {
    description: String,
    at: Option<At>,
}

/// The answer for one pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CellJson {
    src: String,
    dst: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    family: Option<u8>,
    verdict: &'static str,
    allowed: PortsJson,
    decided_by: Vec<Decided>,
    unknown: Vec<UnknownJson>,
    assumptions: Vec<&'static str>,
    /// Why there is no flow that a policy could decide.
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    denials: Vec<DenialJson>,
}

/// The answer of `reach` and `why`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AnswerJson {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    #[serde(flatten)]
    pair: PairJson,
    /// The Service that the destination is reached through.
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
}

impl AnswerJson {
    /// Serialises `cells`, the answers for all members of `src` and `dst`, which is reached through
    /// `service`.
    pub fn new(
        evaluator: &Evaluator<'_>,
        src: &str,
        dst: &str,
        service: Option<&str>,
        cells: &[Cell],
    ) -> Self {
        Self {
            api_version: API_VERSION,
            kind: "Answer",
            pair: PairJson::new(evaluator, src, dst, cells),
            service: service.map(str::to_owned),
        }
    }
}

/// One cell, or what several have in common followed by each of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PairJson {
    #[serde(flatten)]
    cell: CellJson,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cells: Vec<CellJson>,
}

impl PairJson {
    /// Serialises `cells`, the answers for all members of `src` and `dst`.
    pub fn new(evaluator: &Evaluator<'_>, src: &str, dst: &str, cells: &[Cell]) -> Self {
        let mut json: Vec<CellJson> = cells
            .iter()
            .map(|cell| CellJson::new(evaluator, cell))
            .collect();
        let (cell, cells) = if let ([_], Some(cell)) = (cells, json.first().cloned()) {
            (cell, Vec::new())
        } else {
            let everything = PortSet::uniform(true);
            let common = cells
                .iter()
                .fold(everything, |set, cell| set.intersection(&cell.allowed));
            let mut assumptions: Vec<_> = cells
                .iter()
                .flat_map(|cell| &cell.assumptions)
                .copied()
                .collect();
            assumptions.sort_unstable();
            assumptions.dedup();
            let mut unknown: Vec<UnknownJson> = Vec::new();
            for part in json.iter().flat_map(|cell| &cell.unknown) {
                if !unknown.contains(part) {
                    unknown.push(part.clone());
                }
            }
            let cell = CellJson {
                src: src.to_owned(),
                dst: dst.to_owned(),
                family: None,
                verdict: Word::of_all(cells.iter().map(Cell::word)).as_str(),
                allowed: ports_json(&common),
                decided_by: Self::by_family(&json),
                unknown,
                assumptions,
                because: cells.iter().all(|cell| cell.is_apart).then_some(APART),
                denials: Vec::new(),
            };
            (cell, std::mem::take(&mut json))
        };
        Self { cell, cells }
    }

    /// What decided the cells of one pair of ends, if they differ by family and nothing else.
    fn by_family(cells: &[CellJson]) -> Vec<Decided> {
        let one_pair = cells
            .windows(2)
            .all(|pair| matches!(pair, [a, b] if (&a.src, &a.dst) == (&b.src, &b.dst)));
        if !one_pair {
            return Vec::new();
        }
        let labelled = |cell: &CellJson| {
            let family = cell.family;
            let parts = cell.decided_by.clone().into_iter();
            parts.map(move |part| Decided { family, ..part })
        };
        cells.iter().flat_map(labelled).collect()
    }
}

impl CellJson {
    /// Serialises one cell.
    pub fn new(evaluator: &Evaluator<'_>, cell: &Cell) -> Self {
        let mut decided_by = Vec::new();
        let mut unknown = Vec::new();
        let mut denials = Vec::new();
        for direction in Direction::BOTH {
            let side = cell.side(direction);
            for (part, decision) in &side.parts {
                decided_by.push(Decided::new(evaluator, direction, part, decision));
            }
            for (part, missing) in &side.unknown {
                unknown.push(UnknownJson {
                    direction,
                    r#for: ports_json(part),
                    missing: missing.clone(),
                });
            }
            if let Some(denial) = &side.denial {
                denials.push(DenialJson {
                    direction,
                    selecting: denial.selecting.iter().map(policy_name).collect(),
                    rules: denial
                        .misses
                        .iter()
                        .map(|miss| MissJson {
                            policy: policy_name(&miss.rule.policy),
                            rule: miss.rule.index,
                            at: miss.rule.at.as_ref().map(At::from),
                            failed: match miss.failed {
                                Failed::Ports => "ports",
                                Failed::Peers => "peers",
                                Failed::Both => "peers and ports",
                            },
                            wants: miss.wants.clone(),
                        })
                        .collect(),
                    smallest_change: denial.change.as_ref().map(|change| ChangeJson {
                        description: change.to_string(),
                        at: match change {
                            Change::AddPort { rule, .. }
                            | Change::AddPeer { rule, .. }
                            | Change::AllowBefore { rule, .. } => rule.at.as_ref().map(At::from),
                            Change::AddRule { at, .. } => at.as_ref().map(At::from),
                        },
                    }),
                });
            }
        }
        Self {
            src: cell.src.clone(),
            dst: cell.dst.clone(),
            family: cell.family.map(|family| match family {
                Family::V4 => 4,
                Family::V6 => 6,
            }),
            verdict: cell.word().as_str(),
            allowed: ports_json(&cell.allowed),
            decided_by,
            unknown,
            assumptions: cell.assumptions.clone(),
            because: cell.is_apart.then_some(APART),
            denials,
        }
    }
}

impl Decided {
    /// Serialises what decided `part` of one direction.
    pub fn new(
        evaluator: &Evaluator<'_>,
        direction: Direction,
        part: &PortSet,
        decision: &Decision,
    ) -> Self {
        let rule = match &decision.reason {
            Reason::Rule(rule) | Reason::FailClosed(rule) => Some(rule),
            Reason::Isolated(_)
            | Reason::LocalNode
            | Reason::SelfTraffic
            | Reason::NotASubject
            | Reason::Default => None,
        };
        let isolating: &[PolicyRef] = match &decision.reason {
            Reason::Isolated(policies) => policies,
            Reason::Rule(_)
            | Reason::FailClosed(_)
            | Reason::LocalNode
            | Reason::SelfTraffic
            | Reason::NotASubject
            | Reason::Default => &[],
        };
        let policy = rule.map(|rule| &rule.policy).or(isolating.first());
        let at = match rule {
            Some(rule) => rule.at.clone(),
            None => isolating.first().and_then(|policy| {
                let mut known = evaluator.snapshot().network_policies.values();
                known
                    .find(|known| known.policy_ref() == *policy)?
                    .at
                    .clone()
            }),
        };
        Self {
            direction,
            family: None,
            verdict: verdict_name(decision.verdict),
            tier: decision.tier.to_string(),
            kind: policy.map(|policy| policy.kind.to_string()),
            policy: policy.map(policy_name),
            rule: rule.map(|rule| rule.index),
            rule_name: rule.and_then(|rule| rule.name.as_ref().map(ToString::to_string)),
            at: at.as_ref().map(At::from),
            reason: reason_name(&decision.reason),
            policies: isolating.iter().map(policy_name).collect(),
            passed: decision
                .passed
                .iter()
                .map(|rule| format!("{} {}[{}]", rule.policy, rule.direction, rule.index))
                .collect(),
            r#for: ports_json(part),
            audited: decision.audited.as_ref().map(|denial| {
                let denial = Self::new(evaluator, direction, part, denial);
                Box::new(denial)
            }),
        }
    }
}

/// The reasons that are no rule, and the rule that fails closed.
pub fn reason_name(reason: &Reason) -> Option<&'static str> {
    match reason {
        Reason::Rule(_) => None,
        Reason::FailClosed(_) => Some("fail-closed"),
        Reason::Isolated(_) => Some("isolated"),
        Reason::LocalNode => Some("local-node"),
        Reason::SelfTraffic => Some("self"),
        Reason::NotASubject => Some("not-a-subject"),
        Reason::Default => Some("default"),
    }
}

/// `allowed` or `denied`.
pub fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allowed",
        Verdict::Deny => "denied",
    }
}

/// `ns/name`, or the name of a cluster-scoped policy.
pub fn policy_name(policy: &PolicyRef) -> String {
    match &policy.namespace {
        Some(namespace) => format!("{namespace}/{}", policy.name),
        None => policy.name.to_string(),
    }
}

/// A set as JSON.
pub fn ports_json(set: &PortSet) -> PortsJson {
    if is_all(set) {
        return PortsJson::All("all");
    }
    let mut by_protocol: Vec<ProtocolPorts> = Vec::new();
    if is_nothing(set) {
        return PortsJson::Ranges(by_protocol);
    }
    for (protocol, range) in set.ranges() {
        let ports = match protocol {
            Protocol::Other => None,
            Protocol::Tcp | Protocol::Udp | Protocol::Sctp if range.end == 0 => continue,
            Protocol::Tcp | Protocol::Udp | Protocol::Sctp => {
                Some(vec![(range.start.max(1), range.end)])
            }
        };
        match by_protocol.last_mut() {
            Some(last) if last.protocol == protocol => {
                last.ports
                    .get_or_insert_default()
                    .extend(ports.into_iter().flatten());
            }
            _ => by_protocol.push(ProtocolPorts { protocol, ports }),
        }
    }
    PortsJson::Ranges(by_protocol)
}
