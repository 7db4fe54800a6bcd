// SPDX-License-Identifier: Apache-2.0
//! Do the policies do what they are meant to? `test`.

mod alike;
mod future;
mod output;
mod spec;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Arc,
};

use clap::ValueEnum;
use policy_compiler::{
    Snapshot,
    model::{Operator, Pod, PodKey, PortRange, Protocol, Requirement, Selector},
    partial::Evaluator,
    portmap::PortSet,
    verdict::Endpoint,
};

use crate::{
    Io,
    answer::{Cell, Inquiry, ask},
    args::TestArgs,
    exit::{ExitStatus, UsageError},
    flow::{Group, PortQuery, internet, is_nothing, parse_target, resolve},
    load::World,
    render::plain,
};

use alike::Alike;
use spec::{End, File, Selected, Test};

/// Runs `test`.
pub fn run(io: &Io<'_>, args: &TestArgs) -> anyhow::Result<ExitStatus> {
    let format: Format = io.format()?;
    let mut tests = Vec::new();
    for path in &args.tests {
        let text = fs::read_to_string(path)
            .map_err(|error| UsageError::new(format!("cannot read tests `{path}`: {error}")))?;
        let file: Option<File> = crate::yaml::from_str(&text)
            .map_err(|error| UsageError::new(format!("`{path}`: {error}")))?;
        let file = file.ok_or_else(|| UsageError::new(format!("`{path}` holds no tests")))?;
        tests.extend(file.checked(path)?);
    }
    let Some(world) = io.load()? else {
        return Ok(ExitStatus::Usage);
    };
    let mut results = Vec::with_capacity(tests.len());
    for test in &tests {
        results.push(TestResult {
            name: test.name.clone(),
            outcome: judge(&world, test)?,
        });
    }
    output::write(io, &world, &results, format)?;
    let any = |wanted: fn(&Outcome) -> bool| results.iter().any(|result| wanted(&result.outcome));
    let failed = any(|outcome| matches!(outcome, Outcome::Fail(_)));
    let unknown = any(|outcome| matches!(outcome, Outcome::Unknown(_)));
    Ok(if unknown {
        ExitStatus::Incomplete
    } else {
        ExitStatus::of(!failed)
    }
    .max(world.status()))
}

/// The formats of test results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Wide,
    Json,
    Yaml,
    Junit,
}

/// One test and how it came out.
#[derive(Debug)]
pub struct TestResult {
    name: String,
    outcome: Outcome,
}

/// How a test came out.
#[derive(Debug)]
pub enum Outcome {
    /// It holds for so many pairs.
    Pass(usize),
    /// It does not; a packet that shows it.
    Fail(Counterexample),
    /// Missing facts decide.
    Unknown(Counterexample),
}

/// A packet that contradicts a test.
#[derive(Debug)]
pub struct Counterexample {
    src: String,
    dst: String,
    protocol: Protocol,
    port: u16,
    why: String,
}

fn judge(world: &World, test: &Test) -> anyhow::Result<Outcome> {
    if let Some(for_all) = &test.for_all {
        return Ok(future::judge(world, for_all, &test.asked()?));
    }
    let snapshot = &world.loaded.snapshot;
    if let Some(pod) = perhaps_meant(snapshot, test) {
        let why = format!("whether the test is about {pod} depends on labels that are not known");
        return Ok(Outcome::Unknown(Counterexample::about_all(&why)));
    }
    let evaluator = world.evaluator();
    let everybody = || {
        let live = snapshot
            .pods
            .values()
            .filter(|pod| !pod.phase.is_finished());
        let pods = live.map(|pod| group(&Endpoint::Pod(pod.key.clone())));
        pods.chain(internet(snapshot)).collect::<Vec<_>>()
    };
    let ends = |end: &Option<End>| match end {
        None => Ok(everybody()),
        Some(end) => members(world, end),
    };
    let (sources, destinations) = (ends(&test.from)?, ends(&test.to)?);
    for (word, members) in [("from", &sources), ("to", &destinations)] {
        if members.is_empty() {
            let name = plain::line(&test.name);
            let message = format!("test `{name}` is about nothing: no pod is `{word}`");
            return Err(UsageError::new(message).into());
        }
    }
    let exempt = |ends: &Option<Vec<End>>| -> anyhow::Result<BTreeSet<Endpoint>> {
        let mut exempt = BTreeSet::new();
        for end in ends.iter().flatten() {
            exempt.extend(members(world, end)?.into_iter().map(|group| group.endpoint));
        }
        Ok(exempt)
    };
    let (only_from, only_to) = (exempt(&test.only_from)?, exempt(&test.only_to)?);
    let asked = test.asked()?;
    let mut only_ports = PortSet::uniform(false);
    for port in test.only_ports.iter().flatten() {
        only_ports = only_ports.union(&port.parse::<PortQuery>()?.toward(&[]));
    }
    let bounded = test.only_from.is_some() || test.only_to.is_some() || test.only_ports.is_some();
    let mut pairs = 0;
    let mut doubt = None;
    let mut alike = Alike::of(&evaluator, [&sources, &destinations], &asked);
    let listed_of = |ends: &[Group], listed: &BTreeSet<Endpoint>| -> Vec<bool> {
        ends.iter()
            .map(|end| listed.contains(&end.endpoint))
            .collect()
    };
    let listed_from = listed_of(&sources, &only_from);
    let listed_to = listed_of(&destinations, &only_to);
    for (from, (src, src_listed)) in sources.iter().zip(listed_from).enumerate() {
        for (to, (dst, dst_listed)) in destinations.iter().zip(&listed_to).enumerate() {
            if src.endpoint == dst.endpoint {
                continue;
            }
            if (src_listed || *dst_listed) && test.expect.is_none() {
                continue;
            }
            pairs += 1;
            if !alike.is_first(from, to) {
                continue;
            }
            for cell in cells(&evaluator, src, dst, &asked) {
                let (wrong, why) = if bounded || test.never {
                    (cell.allowed.minus(&only_ports), "it is allowed")
                } else if test.expect.is_some_and(spec::Expected::is_allowed) {
                    (
                        cell.asked.minus(&cell.allowed).minus(&cell.unknown),
                        "it is not allowed",
                    )
                } else {
                    (cell.allowed.clone(), "it is allowed")
                };
                if !is_nothing(&wrong) {
                    return Ok(Outcome::Fail(counterexample(
                        &evaluator,
                        &cell,
                        (src, dst),
                        &wrong,
                        why,
                    )));
                }
                let unknown = cell.unknown.minus(&only_ports);
                if !is_nothing(&unknown) && doubt.is_none() {
                    doubt = Some(counterexample(
                        &evaluator,
                        &cell,
                        (src, dst),
                        &unknown,
                        "missing facts decide",
                    ));
                }
            }
        }
    }
    if pairs == 0 {
        // What says nothing of anybody holds of nothing that anybody wants.
        let why = "the test is about no pair: every end is listed, or both are one pod";
        return Ok(Outcome::Fail(Counterexample::about_all(why)));
    }
    Ok(match doubt {
        Some(doubt) => Outcome::Unknown(doubt),
        None => Outcome::Pass(pairs),
    })
}

fn cells(evaluator: &Evaluator<'_>, src: &Group, dst: &Group, asked: &PortQuery) -> Vec<Cell> {
    let inquiry = Inquiry {
        ports: asked,
        family: None,
        via_service: false,
        explain: false,
    };
    ask(evaluator, src, dst, &inquiry)
}

fn counterexample(
    evaluator: &Evaluator<'_>,
    cell: &Cell,
    (src, dst): (&Group, &Group),
    wrong: &PortSet,
    why: &str,
) -> Counterexample {
    let pod = match &dst.endpoint {
        Endpoint::Pod(key) => evaluator.snapshot().pods.get(key),
        Endpoint::Node(_) | Endpoint::Address(_) => None,
    };
    let declared = pod.into_iter().flat_map(|pod| pod.ports.iter());
    let declared =
        PortSet::of(declared.map(|port| (port.protocol, PortRange::single(port.number))));
    let likely = wrong
        .intersection(&declared)
        .example()
        .or_else(|| wrong.example());
    let (protocol, port) = likely.unwrap_or((Protocol::Other, 0));
    Counterexample {
        src: packet_end(src),
        dst: packet_end(dst),
        protocol,
        port,
        why: format!("{why}: {}", crate::render::change::reasons(cell)),
    }
}

/// Where a packet comes from or goes to: one address, also if every address of some ranges would do.
fn packet_end(end: &Group) -> String {
    if end.ranges.is_empty() {
        end.name.clone()
    } else {
        end.endpoint.to_string()
    }
}

/// The endpoints an end of a test stands for.
fn members(world: &World, end: &End) -> anyhow::Result<Vec<Group>> {
    let snapshot = &world.loaded.snapshot;
    match end {
        End::Target(text) => {
            let (target, _) = parse_target(text)?;
            Ok(resolve(&target, snapshot, &world.namespace)?.groups)
        }
        End::Selected(selected) => {
            let live = snapshot
                .pods
                .values()
                .filter(|pod| !pod.phase.is_finished());
            Ok(live
                .filter(|pod| selects(snapshot, selected, pod) == Some(true))
                .map(|pod| group(&Endpoint::Pod(pod.key.clone())))
                .collect())
        }
    }
}

/// A live pod of which labels that are not known decide whether some end of the test means it.
fn perhaps_meant<'s>(snapshot: &'s Snapshot, test: &Test) -> Option<&'s PodKey> {
    let lists = [&test.only_from, &test.only_to];
    let listed = lists.into_iter().flatten().flatten();
    let ends = test.from.iter().chain(&test.to).chain(listed);
    let selections = ends.filter_map(|end| match end {
        End::Selected(selected) => Some(selected),
        End::Target(_) => None,
    });
    let mut live = snapshot
        .pods
        .values()
        .filter(|pod| !pod.phase.is_finished());
    let selections: Vec<&Selected> = selections.collect();
    let is_open = |pod: &&Arc<Pod>| {
        let mut selections = selections.iter();
        selections.any(|selected| selects(snapshot, selected, pod).is_none())
    };
    live.find(is_open).map(|pod| &pod.key)
}

/// Whether a pod is selected; `None` if labels that are not known decide.
fn selects(snapshot: &Snapshot, selected: &Selected, pod: &Pod) -> Option<bool> {
    let name = selected.namespace.as_deref();
    let namespace = snapshot
        .namespaces
        .get(&pod.key.namespace)
        .filter(|namespace| name.is_none_or(|name| *name == *namespace.name));
    let Some(namespace) = namespace else {
        return Some(false);
    };
    let both = [
        snapshot.pod_matches(&with_labels(&selected.labels), pod),
        snapshot.namespace_matches(&with_labels(&selected.namespace_labels), namespace),
    ];
    if both.contains(&Some(false)) {
        Some(false)
    } else {
        both.iter().all(Option::is_some).then_some(true)
    }
}

/// What selects by these labels and no others.
fn with_labels(labels: &BTreeMap<String, String>) -> Selector {
    let requirements = labels.iter().map(|(key, value)| Requirement {
        key: key.as_str().into(),
        operator: Operator::In,
        values: vec![value.as_str().into()],
    });
    Selector::new(requirements.collect())
}

fn group(endpoint: &Endpoint) -> Group {
    Group {
        name: endpoint.to_string(),
        endpoint: endpoint.clone(),
        ranges: Vec::new(),
        legs: Vec::new(),
    }
}
