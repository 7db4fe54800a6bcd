// SPDX-License-Identifier: Apache-2.0
//! Exposure for people and for programs.

mod json;

use std::{fmt::Write as _, rc::Rc};

use ipnet::IpNet;
use policy_compiler::{
    Reason, Verdict,
    exposure::{Analysis, Audience, Because, Door, Members, Newcomer, Passage, Reach, Way},
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

/// What was found out, and how to say it.
pub(super) struct Answer<'a> {
    pub(super) evaluator: &'a Evaluator<'a>,
    pub(super) analysis: &'a Analysis<'a>,
    pub(super) subjects: &'a [Subject],
    /// Whether programs are told everybody's name in every entry.
    pub(super) expand: bool,
}

impl Answer<'_> {
    /// Writes the answer, entry by entry where the format lets us.
    pub(super) fn write(&self, io: &Io<'_>, world: &World, format: Tabular) -> anyhow::Result<()> {
        let spell: fn(&[Vec<String>]) -> String = match format {
            Tabular::Json => return self.write_json(io),
            Tabular::Jsonl => return self.write_lines(io),
            Tabular::Yaml => return self.write_yaml(io),
            Tabular::Csv => table::csv,
            Tabular::Md => table::markdown_rows,
            Tabular::Text | Tabular::Wide => {
                let wide = format == Tabular::Wide;
                let mut out = io.sink()?;
                for subject in self.subjects {
                    let page = self.page(subject, wide);
                    out.write_all(plain::lines(&page).as_bytes())?;
                }
                out.write_all(plain::lines(&io.scope(world)).as_bytes())?;
                return Ok(out.flush()?);
            }
        };
        let mut out = io.sink()?;
        let head = ["workload", "audience", "who", "verdict", "ports", "because"];
        let mut head = vec![head.map(str::to_owned).to_vec()];
        if format == Tabular::Md {
            head.push(vec!["---".to_owned(); 6]);
        }
        out.write_all(spell(&head).as_bytes())?;
        for subject in self.subjects {
            out.write_all(spell(&self.rows(subject)).as_bytes())?;
        }
        Ok(out.flush()?)
    }

    /// The audiences of a workload, line by line; names in full if `wide`.
    fn lines(&self, subject: &Subject, wide: bool) -> Vec<Line> {
        let (exposure, seen) = (&subject.exposure, &subject.exposure.seen);
        let mut lines = Vec::new();
        let everywhere = seen.world.len() == 1;
        for them in &seen.world {
            let who = if everywhere {
                "every outside address".to_owned()
            } else {
                let nets: Vec<String> = self.networks(them).iter().map(IpNet::to_string).collect();
                let nets = nets.join(",");
                if wide { nets } else { table::brief(&nets) }
            };
            lines.push(Line::of("world", them, who));
        }
        for them in &exposure.nodes {
            let names = them.who.iter().map(|name| format!("node:{name}"));
            let who = some_of(names, them.who.len(), wide);
            lines.push(Line::of("nodes", them, who));
        }
        for them in &seen.cluster {
            let is_mutual = |members: &Members| match members {
                Members::All(_) => false,
                Members::Others(_) => subject.is_several(),
            };
            let mutual = them.who.iter().any(is_mutual);
            let mutual = mutual.then(|| "each other".to_owned());
            let pods = || {
                let who = them.who.iter();
                who.flat_map(|members| subject.pods(self.analysis, *members))
            };
            let count = pods().count() + usize::from(mutual.is_some());
            let names = mutual.into_iter().chain(pods().map(ToString::to_string));
            lines.push(Line::of("cluster", them, some_of(names, count, wide)));
        }
        match &seen.future {
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

    /// The addresses of some ranges, as the fewest blocks.
    fn networks(&self, them: &Audience<usize>) -> Vec<IpNet> {
        let ranges = them.who.iter();
        let ranges = ranges.filter_map(|range| self.analysis.ranges().nth(*range));
        let networks: Vec<IpNet> = ranges.flat_map(|range| &range.networks).copied().collect();
        IpNet::aggregate(&networks)
    }

    fn page(&self, subject: &Subject, wide: bool) -> String {
        let lines = self.lines(subject, wide);
        let mut words = Vec::new();
        for audience in ["world", "nodes", "cluster", "future"] {
            let own = lines.iter().filter(|line| line.audience == audience);
            let own: Vec<Word> = own.map(|line| line.word).collect();
            if !own.is_empty() {
                let word = Word::of_all(own).as_str().to_uppercase();
                words.push(format!("{audience} {word}"));
            }
        }
        let names = subject.names.iter().cloned();
        let name = some_of(names, subject.names.len(), wide);
        let name = plain::line(&name);
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
        let way = self.way_in(subject.way.as_ref(), wide);
        let _ = writeln!(text, "  way in   {}", plain::line(&way));
        text
    }

    fn way_in(&self, way: Option<&Way>, wide: bool) -> String {
        let Some(way) = way else {
            return "none from outside, not even through others".to_owned();
        };
        let called = |class: usize| {
            let pods = self.analysis.members(class);
            some_of(pods.iter().map(ToString::to_string), pods.len(), wide)
        };
        let mut text = "outside".to_owned();
        for hop in &way.hops {
            let _ = write!(text, " -> {} {}", called(hop.to), spell_ports(&hop.ports));
        }
        if !way.certain {
            text.push_str("; whether it is open is unknown");
        }
        for cut in &way.cut_points {
            let _ = write!(text, "; every way passes {}", called(*cut));
        }
        text
    }

    /// What tables say of an entry.
    fn rows(&self, subject: &Subject) -> Vec<Vec<String>> {
        let name = subject.names.join(", ");
        let mut rows = Vec::new();
        for line in self.lines(subject, true) {
            rows.push(vec![
                name.clone(),
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
                name.clone(),
                "through".to_owned(),
                route(door),
                json::passage_name(door).to_owned(),
                passage.to_owned(),
                why,
            ]);
        }
        rows
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

fn newcomers(them: &[Rc<Newcomer>], only: bool, wide: bool) -> String {
    if only {
        return "every new pod, also in new namespaces".to_owned();
    }
    let names = them.iter().map(|one| one.words.clone());
    some_of(names, them.len(), wide)
}

/// The names, all of them if `wide`.
fn some_of(mut names: impl Iterator<Item = String>, count: usize, wide: bool) -> String {
    if wide || count < 4 {
        return names.collect::<Vec<_>>().join(", ");
    }
    let first: Vec<String> = names.by_ref().take(2).collect();
    format!("{} and {} more", first.join(", "), count - first.len())
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
        let fits =
            |part: &&Rc<Because>| part.decision.verdict == wanted && !is_nothing(&part.ports);
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
