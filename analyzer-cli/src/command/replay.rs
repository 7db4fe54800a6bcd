// SPDX-License-Identifier: Apache-2.0
//! What would the policies have said of flows that were seen? `replay`.

mod record;

use std::{fs, io::Read, str::FromStr};

use anyhow::Context;
use clap::ValueEnum;
use policy_compiler::{
    Decision, Reason, Verdict,
    model::{Direction, Family, Protocol, family_of},
    partial::{Evaluator, Outcome, Party},
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    API_VERSION, Io,
    answer::{APART, families, policy_name, reason_name},
    args::ReplayArgs,
    exit::{ExitStatus, UsageError},
    flow::{Group, PortQuery, Target, parse_target, resolve},
    load::World,
    render::{diagnostics, table},
};

use record::Record;

/// Runs `replay`.
pub fn run(io: &Io<'_>, args: &ReplayArgs) -> anyhow::Result<ExitStatus> {
    let format: Format = io.format()?;
    let text = if args.flows == "-" {
        let mut bytes = Vec::new();
        std::io::stdin()
            .read_to_end(&mut bytes)
            .context("cannot read standard input")?;
        String::from_utf8_lossy(&bytes).into_owned()
    } else {
        let bytes = fs::read(&args.flows).map_err(|error| {
            UsageError::new(format!("cannot read flows `{}`: {error}", args.flows))
        })?;
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let Some(world) = io.load()? else {
        return Ok(ExitStatus::Usage);
    };
    let evaluator = world.evaluator();
    let lines: Vec<Line> = text
        .trim_start_matches('\u{feff}')
        .lines()
        .zip(1..)
        .filter(|(line, _)| !line.trim().is_empty())
        .map(|(line, number)| judge(&world, &evaluator, line, number))
        .collect();
    match format {
        Format::Jsonl => io.jsonl(&lines)?,
        Format::Json => io.json(&Summary::of(&lines))?,
        Format::Csv => io.answer(&table::csv(&rows(&lines, true)))?,
        Format::Text | Format::Wide => {
            let mut out = table::columns(&rows(&lines, false), "");
            out.push_str(&Summary::of(&lines).to_string());
            out.push_str(&io.scope(&world));
            io.answer(&out)?;
        }
    }
    let count = |wanted: &str| {
        lines
            .iter()
            .filter(|line| line.verdict == Some(wanted))
            .count()
    };
    let malformed = lines.iter().filter(|line| line.error.is_some()).count();
    if malformed > 0 && !matches!(format, Format::Text | Format::Wide) {
        diagnostics::note(&format!("error: {malformed} lines cannot be read as flows"));
    }
    let status = if malformed > 0 {
        ExitStatus::Usage
    } else if count("unknown") > 0 {
        ExitStatus::Incomplete
    } else {
        ExitStatus::Success
    };
    Ok(status.max(world.status()))
}

/// The formats of verdicts on flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Wide,
    Jsonl,
    Json,
    Csv,
}

/// The verdict of one line.
#[derive(Debug, Default, Serialize)]
struct Line {
    id: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(rename = "line")]
    number: Option<u32>,
    src: Value,
    dst: Value,
    protocol: Value,
    port: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    egress: Option<SideJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ingress: Option<SideJson>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unknown: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    observed: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What one direction says.
#[derive(Debug, Serialize)]
struct SideJson {
    verdict: &'static str,
    tier: Option<String>,
    policy: Option<String>,
    rule: Option<u32>,
    reason: Option<&'static str>,
    /// What would deny the flow if audited policies were enforced.
    #[serde(skip_serializing_if = "Option::is_none")]
    audited: Option<Box<SideJson>>,
}

fn judge(world: &World, evaluator: &Evaluator<'_>, text: &str, number: u32) -> Line {
    let value: Value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(error) => {
            return Line {
                number: Some(number),
                error: Some(format!("line {number}: not JSON: {error}")),
                ..Line::default()
            };
        }
    };
    let echo = Line {
        id: value.get("id").cloned().unwrap_or_default(),
        src: value.get("src").cloned().unwrap_or_default(),
        dst: value.get("dst").cloned().unwrap_or_default(),
        protocol: value.get("protocol").cloned().unwrap_or_default(),
        port: value.get("port").cloned().unwrap_or_default(),
        ..Line::default()
    };
    let record = match Record::read(&value) {
        Ok(record) => record,
        Err(why) => {
            return Line {
                number: Some(number),
                error: Some(format!("line {number}: {why}")),
                ..echo
            };
        }
    };
    match decide(world, evaluator, &record) {
        Ok(line) => Line {
            id: if echo.id.is_null() {
                record.id.clone().unwrap_or_default()
            } else {
                echo.id
            },
            ..line
        },
        Err(why) => Line {
            number: Some(number),
            error: Some(match why.hint() {
                Some(hint) => format!("line {number}: {why} ({hint})"),
                None => format!("line {number}: {why}"),
            }),
            ..echo
        },
    }
}

fn decide(world: &World, evaluator: &Evaluator<'_>, record: &Record) -> Result<Line, UsageError> {
    let snapshot = &world.loaded.snapshot;
    let end = |text: &str| {
        let (target, port) = parse_target(text)?;
        let resolved = resolve(&target, snapshot, &world.namespace)?;
        Ok::<_, UsageError>((target, resolved, port))
    };
    let (source_target, source, source_port) = end(&record.src)?;
    let (target, destination, port) = end(&record.dst)?;
    if source_port.is_some() || source.via_service {
        return Err(UsageError::new(
            "the source of a flow is no Service and has no port",
        ));
    }
    if let (Target::Address(src), Target::Address(dst)) = (&source_target, &target)
        && family_of(*src) != family_of(*dst)
    {
        return Err(UsageError::new(format!("`{src}` and `{dst}` have {APART}")));
    }
    let port = match (&port, record.port) {
        (Some(port), None) => PortQuery::from_str(port)?,
        (_, port) => match (record.protocol, port) {
            (Protocol::Other, _) => {
                PortQuery::Ports(Protocol::Other, policy_compiler::model::PortRange::ALL)
            }
            (protocol, Some(port)) => {
                PortQuery::Ports(protocol, policy_compiler::model::PortRange::single(port))
            }
            (_, None) => match &record.port_name {
                Some(name) => PortQuery::Named(Some(record.protocol), name.as_str().into()),
                None => return Err(UsageError::new("`port` is missing")),
            },
        },
    };
    let via_service = record.via_service || destination.via_service;
    let mut answers = Vec::new();
    for src in &source.groups {
        for dst in &destination.groups {
            answers.extend(pair(evaluator, src, dst, &port, record.family, via_service));
        }
    }
    let mut answers = answers.into_iter();
    let Some(first) = answers.next() else {
        return Err(UsageError::new(format!(
            "`{}` has no such port",
            record.dst
        )));
    };
    // Replicas and addresses that differ leave no single verdict.
    let mut rest = answers;
    let differs = rest.any(|answer| answer.verdict != first.verdict);
    let verdict = if differs { "unknown" } else { first.verdict };
    let mut unknown = first.unknown;
    if differs {
        unknown.push("which member of the set is meant: they differ".to_owned());
    }
    Ok(Line {
        src: Value::String(record.src.clone()),
        dst: Value::String(record.dst.clone()),
        protocol: Value::String(record.protocol_name.clone()),
        port: record.port_value(),
        verdict: Some(verdict),
        egress: Some(first.egress),
        ingress: Some(first.ingress),
        unknown,
        observed: record.observed,
        ..Line::default()
    })
}

struct Answer {
    verdict: &'static str,
    egress: SideJson,
    ingress: SideJson,
    unknown: Vec<String>,
}

fn pair(
    evaluator: &Evaluator<'_>,
    src: &Group,
    dst: &Group,
    port: &PortQuery,
    family: Option<Family>,
    via_service: bool,
) -> Option<Answer> {
    // Without a family the flow is of the first one that both ends have.
    let families = families(evaluator, &src.endpoint, &dst.endpoint, family);
    let Some(family) = families.into_iter().next() else {
        return Some(Answer {
            verdict: "denied",
            egress: SideJson::apart(),
            ingress: SideJson::apart(),
            unknown: Vec::new(),
        });
    };
    let source = evaluator.party(&src.endpoint, family);
    let destination = evaluator.party(&dst.endpoint, family);
    let destination = crate::answer::other_replica(destination, &src.endpoint);
    let connection = evaluator.connection(&source, &destination, via_service);
    let (protocol, number) = dst.asked(evaluator.snapshot(), port).example()?;
    let mut unknown = Vec::new();
    let mut side = |direction: Direction, subject: &Party, peer: &Party| {
        let outcome = connection.side(direction).at(protocol, number);
        if let Outcome::Unknown(facts) = outcome {
            unknown.extend(
                facts
                    .iter()
                    .map(|fact| evaluator.describe(*fact, subject, peer)),
            );
        }
        SideJson::of(evaluator.decision(direction, subject, outcome).as_ref())
    };
    let egress = side(Direction::Egress, &source, &destination);
    let ingress = side(Direction::Ingress, &destination, &source);
    let verdict = match connection.verdicts().at(protocol, number) {
        Some(Verdict::Allow) => "allowed",
        Some(Verdict::Deny) => "denied",
        None => "unknown",
    };
    if verdict != "unknown" {
        unknown.clear();
    }
    Some(Answer {
        verdict,
        egress,
        ingress,
        unknown,
    })
}

impl SideJson {
    /// Of ends without addresses of a common family.
    fn apart() -> Self {
        Self {
            verdict: "denied",
            tier: None,
            policy: None,
            rule: None,
            reason: Some(APART),
            audited: None,
        }
    }

    fn of(decision: Option<&Decision>) -> Self {
        let Some(decision) = decision else {
            return Self {
                verdict: "unknown",
                tier: None,
                policy: None,
                rule: None,
                reason: None,
                audited: None,
            };
        };
        let (policy, rule) = match &decision.reason {
            Reason::Rule(rule) | Reason::FailClosed(rule) => {
                (Some(policy_name(&rule.policy)), Some(rule.index))
            }
            Reason::Isolated(policies) => (policies.first().map(policy_name), None),
            Reason::LocalNode | Reason::SelfTraffic | Reason::NotASubject | Reason::Default => {
                (None, None)
            }
        };
        Self {
            verdict: match decision.verdict {
                Verdict::Allow => "allowed",
                Verdict::Deny => "denied",
            },
            tier: Some(decision.tier.to_string()),
            policy,
            rule,
            reason: reason_name(&decision.reason),
            audited: decision
                .audited
                .as_ref()
                .map(|denial| Box::new(Self::of(Some(denial)))),
        }
    }

    /// `t/in ingress[0]`, `t/in isolated`.
    fn words(&self, name: &str) -> String {
        let rule = self
            .rule
            .map(|rule| format!(" {name}[{rule}]"))
            .unwrap_or_default();
        let policy = self.policy.clone().unwrap_or_default();
        let reason = self.reason.unwrap_or_default();
        format!("{policy}{rule} {reason}").trim().to_owned()
    }
}

fn rows(lines: &[Line], head: bool) -> Vec<Vec<String>> {
    let names = ["src", "dst", "port", "verdict", "because"]
        .map(str::to_owned)
        .to_vec();
    let rows = lines.iter().map(|line| {
        let word = |value: &Value| match value {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        let because = match (&line.error, line.verdict) {
            (Some(error), _) => error.clone(),
            (None, Some("unknown")) => line.unknown.join("; "),
            (None, _) => [("egress", &line.egress), ("ingress", &line.ingress)]
                .into_iter()
                .filter_map(|(name, side)| {
                    let side = side.as_ref()?;
                    let would_be = match &side.audited {
                        Some(denial) => {
                            format!("; would be denied: {} (audit)", denial.words(name))
                        }
                        None => String::new(),
                    };
                    let words = side.words(name);
                    Some(format!("{name} {}: {words}{would_be}", side.verdict))
                })
                .collect::<Vec<_>>()
                .join(", "),
        };
        let port = match line.port {
            Value::Null => word(&line.protocol),
            _ => format!("{}/{}", word(&line.protocol), word(&line.port)),
        };
        vec![
            word(&line.src),
            word(&line.dst),
            port.to_lowercase(),
            line.verdict.unwrap_or("error").to_owned(),
            because,
        ]
    });
    head.then_some(names).into_iter().chain(rows).collect()
}

/// How many flows came out how, and what changed against what was observed.
#[derive(Debug, Serialize)]
struct Summary {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    allowed: usize,
    denied: usize,
    unknown: usize,
    malformed: usize,
    now_denied: usize,
    newly_allowed: usize,
}

impl Summary {
    fn of(lines: &[Line]) -> Self {
        let count = |wanted: &str| {
            lines
                .iter()
                .filter(|line| line.verdict == Some(wanted))
                .count()
        };
        let changed = |observed: &str, verdict: &str| {
            lines
                .iter()
                .filter(|line| line.observed == Some(observed) && line.verdict == Some(verdict))
                .count()
        };
        Self {
            api_version: API_VERSION,
            kind: "Replay",
            allowed: count("allowed"),
            denied: count("denied"),
            unknown: count("unknown"),
            malformed: lines.iter().filter(|line| line.error.is_some()).count(),
            now_denied: changed("allowed", "denied"),
            newly_allowed: changed("denied", "allowed"),
        }
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{} allowed, {} denied, {} unknown, {} malformed",
            self.allowed, self.denied, self.unknown, self.malformed
        )?;
        if self.now_denied + self.newly_allowed > 0 {
            writeln!(
                f,
                "{} observed flows would now be dropped, {} dropped ones are newly allowed",
                self.now_denied, self.newly_allowed
            )?;
        }
        Ok(())
    }
}
