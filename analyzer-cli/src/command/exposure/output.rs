// SPDX-License-Identifier: Apache-2.0
//! Exposure for people and for programs.

mod json;

use std::fmt::Write as _;

use policy_compiler::{
    Reason, Verdict,
    exposure::{Audience, Because, Door, Newcomer, Passage, Reach, Way},
    model::Direction,
    partial::Evaluator,
};

use super::{Subject, word};
use crate::{
    Io,
    answer::Word,
    args::Tabular,
    flow::{is_nothing, spell_ports},
    load::World,
    render::{change::spell_decision, plain, table},
};

use json::{ExposureJson, SubjectJson};

/// Writes the answer.
pub(super) fn write(
    io: &Io<'_>,
    world: &World,
    evaluator: &Evaluator<'_>,
    subjects: &[Subject],
    format: Tabular,
) -> anyhow::Result<()> {
    match format {
        Tabular::Json => io.json(&ExposureJson::of(evaluator, subjects)),
        Tabular::Yaml => io.yaml(&ExposureJson::of(evaluator, subjects)),
        Tabular::Jsonl => {
            let subjects = subjects.iter();
            io.jsonl(subjects.map(|it| SubjectJson::of(evaluator, it)))
        }
        Tabular::Csv => io.answer(&table::csv(&rows(subjects))),
        Tabular::Md => io.answer(&table::markdown(&rows(subjects))),
        Tabular::Text | Tabular::Wide => {
            let wide = format == Tabular::Wide;
            let mut text = String::new();
            for subject in subjects {
                text.push_str(&page(subject, wide));
            }
            text.push_str(&io.scope(world));
            io.prose(&text)
        }
    }
}

/// What one line says of some who are alike.
struct Line {
    audience: &'static str,
    who: String,
    word: Word,
    ports: String,
    because: String,
}

impl Line {
    fn of<W>(audience: &'static str, them: &Audience<W>, who: String) -> Self {
        Self {
            audience,
            who,
            word: word(&them.reach),
            ports: spell(&them.reach),
            because: because(them),
        }
    }
}

/// The audiences of a workload, line by line; names in full if `wide`.
fn lines(subject: &Subject, wide: bool) -> Vec<Line> {
    let exposure = &subject.exposure;
    let mut lines = Vec::new();
    let everywhere = exposure.world.len() == 1;
    for them in &exposure.world {
        let nets: Vec<String> = them.who.iter().map(ToString::to_string).collect();
        let who = match nets.as_slice() {
            _ if everywhere => "every outside address".to_owned(),
            _ if wide => nets.join(","),
            _ => table::brief(&nets.join(",")),
        };
        lines.push(Line::of("world", them, who));
    }
    for them in &exposure.nodes {
        let names: Vec<String> = them.who.iter().map(|name| format!("node:{name}")).collect();
        lines.push(Line::of("nodes", them, some_of(&names, wide)));
    }
    for them in &exposure.cluster {
        let names: Vec<String> = them.who.iter().map(ToString::to_string).collect();
        lines.push(Line::of("cluster", them, some_of(&names, wide)));
    }
    match &exposure.future {
        Ok(future) => {
            let only = future.len() == 1;
            for them in future {
                lines.push(Line::of("future", them, newcomers(&them.who, only, wide)));
            }
        }
        Err(error) => lines.push(Line {
            audience: "future",
            who: "new pods".to_owned(),
            word: Word::Unknown,
            ports: "unknown".to_owned(),
            because: format!("because {error}"),
        }),
    }
    lines
}

fn newcomers(them: &[Newcomer], only: bool, wide: bool) -> String {
    if only {
        return "every new pod, also in new namespaces".to_owned();
    }
    let names: Vec<String> = them.iter().map(|one| one.words.clone()).collect();
    some_of(&names, wide)
}

fn some_of(names: &[String], wide: bool) -> String {
    match names {
        [a, b, rest @ ..] if rest.len() > 1 && !wide => {
            format!("{a}, {b} and {} more", rest.len())
        }
        names => names.join(", "),
    }
}

fn spell(reach: &Reach) -> String {
    let mut parts = Vec::new();
    if !is_nothing(&reach.always) {
        parts.push(format!("allowed {}", spell_ports(&reach.always)));
    }
    if !is_nothing(&reach.sometimes) {
        parts.push(format!("sometimes {}", spell_ports(&reach.sometimes)));
    }
    if !is_nothing(&reach.unknown) {
        parts.push(format!("unknown {}", spell_ports(&reach.unknown)));
    }
    if parts.is_empty() {
        parts.push("not allowed".to_owned());
    }
    parts.join("; ")
}

/// The rules behind what is allowed, or else what stands in the way.
fn because<W>(them: &Audience<W>) -> String {
    if !them.reach.missing.is_empty() && !is_nothing(&them.reach.unknown) {
        return format!("because of {}", them.reach.missing.join("; "));
    }
    let wanted = if is_nothing(&them.reach.possible()) {
        Verdict::Deny
    } else {
        Verdict::Allow
    };
    let fitting = || {
        let fits = |part: &&Because| part.decision.verdict == wanted && !is_nothing(&part.ports);
        them.because.iter().filter(fits)
    };
    let telling = fitting()
        .filter(|part| !matches!(part.decision.reason, Reason::Default | Reason::NotASubject));
    let words: Vec<String> = telling
        .map(|part| spell_decision(part.direction, &part.decision))
        .collect();
    if !words.is_empty() {
        return words.join(", ");
    }
    if is_nothing(&them.reach.always) && !is_nothing(&them.reach.sometimes) {
        return "it depends on the address, its family or the replica".to_owned();
    }
    let mut own = fitting().filter(|part| part.direction == Direction::Ingress);
    match own.next().map(|part| &part.decision.reason) {
        Some(Reason::NotASubject) => "no pod that policies can select".to_owned(),
        Some(_) => "no policy selects it".to_owned(),
        None => String::new(),
    }
}

fn page(subject: &Subject, wide: bool) -> String {
    let lines = lines(subject, wide);
    let mut words = Vec::new();
    for audience in ["world", "nodes", "cluster", "future"] {
        let own = lines.iter().filter(|line| line.audience == audience);
        let own: Vec<Word> = own.map(|line| line.word).collect();
        if !own.is_empty() {
            let word = Word::of_all(own).as_str().to_uppercase();
            words.push(format!("{audience} {word}"));
        }
    }
    let name = plain::line(&subject.name);
    let mut text = format!("{name}   {}\n", words.join(", "));
    let mut rows: Vec<Vec<String>> = lines
        .into_iter()
        .map(|line| vec![line.audience.to_owned(), line.ports, line.who, line.because])
        .collect();
    for door in &subject.exposure.doors {
        let (passage, why) = passage(door);
        let place = door.at.as_ref().map(ToString::to_string);
        let place = place.unwrap_or_default();
        let why = [why, place];
        let why: Vec<&str> = why
            .iter()
            .map(String::as_str)
            .filter(|it| !it.is_empty())
            .collect();
        rows.push(vec![
            "through".to_owned(),
            passage.to_owned(),
            route(door),
            why.join("  "),
        ]);
    }
    text.push_str(&table::columns(&rows, "  "));
    let way = way_in(subject.way.as_ref(), wide);
    let _ = writeln!(text, "  way in   {}", plain::line(&way));
    text
}

/// `allowed`, `sometimes`, `not allowed`, `unknown`, and why.
fn passage(door: &Door) -> (&'static str, String) {
    if let Some(why) = &door.barred {
        return ("not allowed", why.clone());
    }
    match &door.passage {
        Passage::Open => ("allowed", String::new()),
        Passage::Partly => ("sometimes", String::new()),
        Passage::Closed => ("not allowed", String::new()),
        Passage::Unknown(facts) => ("unknown", format!("because of {}", facts.join("; "))),
    }
}

/// `LoadBalancer Service shop/web at 203.0.113.7, tcp/443 -> tcp/8080`
fn route(door: &Door) -> String {
    let name = |object: &policy_compiler::diagnostic::ObjectRef| match &object.namespace {
        Some(namespace) => format!("{} {namespace}/{}", object.kind, object.name),
        None => format!("{} {}", object.kind, object.name),
    };
    let kind = door.kind.name();
    let mut text = if kind == &*door.object.kind {
        name(&door.object)
    } else {
        format!("{kind} {}", name(&door.object))
    };
    if let Some(by) = &door.served_by {
        let _ = write!(text, " ({by})");
    }
    if !door.hosts.is_empty() {
        let _ = write!(text, " at {}", door.hosts.join(", "));
    }
    let protocol = door.protocol.to_string().to_lowercase();
    if let Some(port) = door.port {
        let _ = write!(text, ", {protocol}/{port}");
    }
    if let Some(service) = &door.service {
        let _ = write!(text, " -> {}", name(service));
    }
    if let Some(target) = door.target {
        let _ = write!(text, " -> {protocol}/{target}");
    }
    text
}

fn way_in(way: Option<&Way>, wide: bool) -> String {
    let Some(way) = way else {
        return "none from outside, not even through others".to_owned();
    };
    let called = |pods: &[policy_compiler::model::PodKey]| {
        let names: Vec<String> = pods.iter().map(ToString::to_string).collect();
        some_of(&names, wide)
    };
    let mut text = "outside".to_owned();
    for hop in &way.hops {
        let _ = write!(text, " -> {} {}", called(&hop.to), spell_ports(&hop.ports));
    }
    if !way.certain {
        text.push_str("; whether it is open is unknown");
    }
    for cut in &way.cut_points {
        let _ = write!(text, "; every way passes {}", called(cut));
    }
    text
}

fn rows(subjects: &[Subject]) -> Vec<Vec<String>> {
    let head = ["workload", "audience", "who", "verdict", "ports", "because"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for subject in subjects {
        for line in lines(subject, true) {
            rows.push(vec![
                subject.name.clone(),
                line.audience.to_owned(),
                line.who,
                line.word.as_str().to_owned(),
                line.ports,
                line.because,
            ]);
        }
        for door in &subject.exposure.doors {
            let (passage, why) = passage(door);
            rows.push(vec![
                subject.name.clone(),
                "through".to_owned(),
                route(door),
                json::passage_name(door).to_owned(),
                passage.to_owned(),
                why,
            ]);
        }
    }
    rows
}
