// SPDX-License-Identifier: Apache-2.0
//! Can one end reach another, and why? `reach` and `why`.

use std::fmt::Write as _;

use policy_compiler::{
    Decision, Reason, RuleRef, Verdict,
    model::{Direction, Family, PodKey, Subject},
    portmap::PortSet,
};

use crate::{
    Io,
    answer::{APART, AnswerJson, Cell, Inquiry, Word, ask},
    args::{Asserted, FlowArgs, Tabular},
    exit::{ExitStatus, UsageError},
    flow::{PortQuery, Resolved, is_all, is_nothing, parse_target, resolve, spell_ports},
    load::World,
    render::{
        change::reasons,
        plain,
        table::{self, brief},
    },
};

/// Runs `reach`, or `why` if `explain`.
pub fn run(io: &Io<'_>, args: &FlowArgs, explain: bool) -> anyhow::Result<ExitStatus> {
    let format: Tabular = io.format()?;
    let (source, source_port) = parse_target(&args.src)?;
    let (destination, port) = parse_target(&args.dst)?;
    if source_port.is_some() {
        return Err(UsageError::new("the source of a flow has no port that policies see").into());
    }
    let port = match (&args.port, &port) {
        (Some(_), Some(_)) => {
            return Err(UsageError::new("the port is given twice")
                .help("either DST:PORT or --port")
                .into());
        }
        (Some(port), None) | (None, Some(port)) => port.parse::<PortQuery>()?,
        (None, None) => PortQuery::All,
    };
    let Some(world) = io.load()? else {
        return Ok(ExitStatus::Usage);
    };
    let snapshot = &world.loaded.snapshot;
    let source = resolve(&source, snapshot, &world.namespace)?;
    let destination = resolve(&destination, snapshot, &world.namespace)?;
    if source.via_service {
        return Err(UsageError::new("a Service opens no connections: it can only be DST").into());
    }
    let evaluator = world.evaluator();
    let inquiry = Inquiry {
        ports: &port,
        family: args.family,
        via_service: destination.via_service,
        explain,
    };
    let mut cells = Vec::new();
    for src in &source.groups {
        for dst in &destination.groups {
            if source.groups.len() > 1
                && src.endpoint == dst.endpoint
                && source.name == destination.name
            {
                continue;
            }
            cells.extend(ask(&evaluator, src, dst, &inquiry));
        }
    }
    if cells.iter().all(|cell| is_nothing(&cell.asked)) {
        return Err(UsageError::new(format!("`{}` has no such port", destination.name)).into());
    }
    cells.retain(|cell| !is_nothing(&cell.asked));
    let service = destination.via_service.then_some(destination.name.as_str());
    let json = || AnswerJson::new(&evaluator, &source.name, &destination.name, service, &cells);
    match format {
        Tabular::Json | Tabular::Jsonl => io.json(&json())?,
        Tabular::Yaml => io.yaml(&json())?,
        Tabular::Csv => io.answer(&table::csv(&rows(&cells)))?,
        Tabular::Md => io.answer(&table::markdown(&rows(&cells)))?,
        Tabular::Text | Tabular::Wide => {
            let mut text = text(&world, &source, &destination, &cells, &port, explain);
            text.push_str(&io.scope(&world));
            io.prose(&text)?;
        }
    }
    Ok(status(&world, &cells, args.assert))
}

fn status(world: &World, cells: &[Cell], assert: Option<Asserted>) -> ExitStatus {
    let word = Word::of_all(cells.iter().map(Cell::word));
    let held = match assert {
        None => ExitStatus::Success,
        Some(_) if word == Word::Unknown => ExitStatus::Incomplete,
        Some(Asserted::Allowed) => ExitStatus::of(word == Word::Allowed),
        Some(Asserted::Denied) => ExitStatus::of(word == Word::Denied),
    };
    let known = if word == Word::Unknown {
        ExitStatus::Incomplete
    } else {
        ExitStatus::Success
    };
    // A verdict that is not the asserted one is the stronger news, unless input is missing.
    held.max(known).max(world.status())
}

fn rows(cells: &[Cell]) -> Vec<Vec<String>> {
    let head = ["src", "dst", "verdict", "allowed", "unknown", "because"]
        .map(str::to_owned)
        .to_vec();
    let cells = cells.iter().map(|cell| {
        vec![
            cell.src.clone(),
            cell.dst.clone(),
            cell.word().as_str().to_owned(),
            spell_ports(&cell.allowed),
            spell_ports(&cell.unknown),
            reasons(cell),
        ]
    });
    std::iter::once(head).chain(cells).collect()
}

fn text(
    world: &World,
    source: &Resolved,
    destination: &Resolved,
    cells: &[Cell],
    port: &PortQuery,
    explain: bool,
) -> String {
    let mut text = String::new();
    if cells.len() > 1 {
        let word = Word::of_all(cells.iter().map(Cell::word))
            .as_str()
            .to_uppercase();
        let count = cells.len();
        let (src, dst) = (plain::line(&source.name), plain::line(&destination.name));
        let _ = writeln!(text, "{src} -> {dst}   {word}   {count} pairs");
    }
    let through = if destination.via_service {
        format!(" through {}", plain::line(&destination.name))
    } else {
        String::new()
    };
    for cell in cells {
        let family = match cell.family {
            None => "",
            Some(Family::V4) => " (IPv4)",
            Some(Family::V6) => " (IPv6)",
        };
        let word = cell.word().as_str().to_uppercase();
        let summary = summary(world, cell, port);
        let (src, dst) = (brief(&cell.src), brief(&cell.dst));
        let (src, dst) = (plain::line(&src), plain::line(&dst));
        let _ = writeln!(
            text,
            "{src} -> {dst}{through}{family}   {word}   {}",
            plain::line(&summary)
        );
        text.push_str(&table::columns(&sides(world, cell), "  "));
        if explain {
            text.push_str(&misses(cell));
        }
        if let Some(rest) = rest(cell, port) {
            let _ = writeln!(text, "  {rest}");
        }
        if !cell.assumptions.is_empty() && explain {
            let _ = writeln!(text, "  assuming {}", cell.assumptions.join(", "));
        }
    }
    text
}

/// `allowed tcp/8080 (named "web"); nothing else`
fn summary(world: &World, cell: &Cell, port: &PortQuery) -> String {
    match cell.word() {
        Word::Allowed => match port {
            PortQuery::All => "allowed on every protocol and port".to_owned(),
            PortQuery::Ports(..) | PortQuery::Named(..) => {
                format!("allowed {}", named(world, cell, &cell.allowed))
            }
        },
        Word::Denied if cell.is_apart => format!("not allowed: {APART}"),
        Word::Denied => "not allowed".to_owned(),
        Word::Partial => format!(
            "allowed {}; nothing else",
            named(world, cell, &cell.allowed)
        ),
        Word::Unknown => {
            let mut text = format!("unknown {}", named(world, cell, &cell.unknown));
            if !is_nothing(&cell.allowed) {
                let _ = write!(text, "; allowed {}", named(world, cell, &cell.allowed));
            }
            text
        }
    }
}

/// Ports, with the name that the destination gives a single one.
fn named(world: &World, cell: &Cell, ports: &PortSet) -> String {
    let words = spell_ports(ports);
    let mut ranges = ports.ranges();
    let (Some((protocol, range)), None) = (ranges.next(), ranges.next()) else {
        return words;
    };
    let name = (range.start == range.end)
        .then(|| {
            let (namespace, name) = cell.dst.split_once('/')?;
            let pod = world
                .loaded
                .snapshot
                .pods
                .get(&PodKey::new(namespace, name))?;
            let mut ports = pod.ports.iter();
            let port =
                ports.find(|port| port.protocol == protocol && port.number == range.start)?;
            port.name.clone()
        })
        .flatten();
    match name {
        Some(name) => format!("{words} (named \"{name}\")"),
        None => words,
    }
}

fn sides(world: &World, cell: &Cell) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for direction in Direction::BOTH {
        let side = cell.side(direction);
        let subject = match direction {
            Direction::Egress => &cell.src,
            Direction::Ingress => &cell.dst,
        };
        let whole = side.parts.len() + side.unknown.len() == 1;
        for (part, decision) in &side.parts {
            // What is left over on this side is told once, below.
            if !whole && matches!(decision.reason, Reason::Isolated(_)) {
                continue;
            }
            let ports = if whole && is_all(&cell.asked) {
                "all".to_owned()
            } else {
                spell_ports(part)
            };
            let words = match decision.verdict {
                Verdict::Allow => format!("allowed {ports}"),
                Verdict::Deny => format!("not allowed {ports}"),
            };
            let (words_of_reason, at) = decided(world, direction, subject, decision);
            rows.push(vec![
                direction.to_string(),
                brief(subject),
                words,
                words_of_reason,
                at,
            ]);
            if let Some(denial) = &decision.audited {
                let (words_of_reason, at) = decided(world, direction, subject, denial);
                rows.push(vec![
                    String::new(),
                    String::new(),
                    "would be denied".to_owned(),
                    format!("{words_of_reason} (audit)"),
                    at,
                ]);
            }
        }
        for (part, missing) in &side.unknown {
            rows.push(vec![
                direction.to_string(),
                brief(subject),
                format!("unknown {}", spell_ports(part)),
                format!("because of {}", missing.join("; ")),
                String::new(),
            ]);
        }
    }
    rows
}

/// What decided, after the rules that passed it on, and where it is written.
fn decided(
    world: &World,
    direction: Direction,
    subject: &str,
    decision: &Decision,
) -> (String, String) {
    let (mut reason, at) = reason(world, direction, subject, &decision.reason);
    if decision.audited.is_some() && decision.reason == Reason::Default {
        "no policy that is enforced decides it".clone_into(&mut reason);
    }
    let passed = decision.passed.iter().map(|rule| {
        let RuleRef { policy, index, .. } = rule;
        format!(", passed by {policy} {}[{index}]", rule.direction)
    });
    (format!("{reason}{}", passed.collect::<String>()), at)
}

fn reason(world: &World, direction: Direction, subject: &str, reason: &Reason) -> (String, String) {
    match reason {
        Reason::Rule(rule) | Reason::FailClosed(rule) => {
            let name = rule
                .name
                .as_ref()
                .map(|name| format!(" \"{name}\""))
                .unwrap_or_default();
            let closed = match reason {
                Reason::FailClosed(_) => " (cannot be read, so it denies everything)",
                Reason::Rule(_)
                | Reason::Isolated(_)
                | Reason::LocalNode
                | Reason::SelfTraffic
                | Reason::NotASubject
                | Reason::Default => "",
            };
            let at = rule
                .at
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default();
            let words = format!("{} {direction}[{}]{name}{closed}", rule.policy, rule.index);
            (words, at)
        }
        Reason::Isolated(policies) => {
            let names: Vec<String> = policies.iter().map(ToString::to_string).collect();
            let mut known = world.loaded.snapshot.network_policies.values();
            let at = known
                .find(|known| policies.first() == Some(&known.policy_ref()))
                .and_then(|policy| policy.at.as_ref().map(ToString::to_string));
            (
                format!(
                    "isolated by {}, which admit nothing of the kind",
                    names.join(", ")
                )
                .replace(
                    "which admit",
                    if names.len() == 1 {
                        "which admits"
                    } else {
                        "which admit"
                    },
                ),
                at.unwrap_or_default(),
            )
        }
        Reason::LocalNode => ("traffic of the pod's own node".to_owned(), String::new()),
        Reason::SelfTraffic => ("a pod always reaches itself".to_owned(), String::new()),
        Reason::NotASubject => ("no pod that policies can select".to_owned(), String::new()),
        Reason::Default if is_selected(world, subject, direction) => {
            let words = "no rule of the policies that select it matches";
            (words.to_owned(), String::new())
        }
        Reason::Default => ("no policy selects it".to_owned(), String::new()),
    }
}

/// Whether a cluster-scoped policy with rules for this direction selects a pod: a NetworkPolicy that does
/// leaves nothing to the default.
fn is_selected(world: &World, pod: &str, direction: Direction) -> bool {
    let snapshot = &world.loaded.snapshot;
    let key = pod.split_once('/');
    let pod = key.and_then(|(namespace, name)| snapshot.pods.get(&PodKey::new(namespace, name)));
    let Some(pod) = pod else { return false };
    let namespace = snapshot.namespaces.get(&pod.key.namespace);
    snapshot.admin_policies.values().any(|policy| {
        let Subject::Pods { namespaces, pods } = &policy.subject else {
            return false;
        };
        !policy.rules(direction).is_empty()
            && namespace.is_some_and(|namespace| namespaces.matches(&namespace.labels))
            && pods.matches(&pod.labels)
    })
}

fn misses(cell: &Cell) -> String {
    let mut rows = Vec::new();
    for direction in Direction::BOTH {
        let Some(denial) = &cell.side(direction).denial else {
            continue;
        };
        for miss in &denial.misses {
            rows.push(vec![
                format!("{} {direction}[{}]", miss.rule.policy, miss.rule.index),
                format!("wants {}", miss.wants),
                miss.rule
                    .at
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
            ]);
        }
    }
    table::columns(&rows, "    ")
}

/// `rest  admitted by neither side; smallest change: ...`
fn rest(cell: &Cell, port: &PortQuery) -> Option<String> {
    let rest = cell.asked.minus(&cell.allowed).minus(&cell.unknown);
    if is_nothing(&rest) {
        return None;
    }
    let denies = |direction: Direction| {
        cell.side(direction).parts.iter().any(|(part, decision)| {
            decision.verdict == Verdict::Deny && !is_nothing(&part.intersection(&rest))
        })
    };
    let who = match (denies(Direction::Egress), denies(Direction::Ingress)) {
        (true, true) => "admitted by neither side",
        (true, false) => "not admitted by the source's side",
        (false, true) => "not admitted by the destination's side",
        (false, false) => return None,
    };
    let what = if is_nothing(&cell.allowed) {
        spell_ports(&rest)
    } else {
        "rest".to_owned()
    };
    let changes: Vec<String> = Direction::BOTH
        .iter()
        .filter_map(|direction| cell.side(*direction).denial.as_ref()?.change.as_ref())
        .map(|change| match port {
            PortQuery::All => change.in_general(),
            PortQuery::Ports(..) | PortQuery::Named(..) => change.to_string(),
        })
        .collect();
    let change = if changes.is_empty() {
        String::new()
    } else {
        format!("; smallest change: {}", changes.join(" and "))
    };
    Some(format!("{what}   {who}{}", plain::line(&change)))
}
