// SPDX-License-Identifier: Apache-2.0
//! What traffic changes between two sets of policies? `diff`.

mod git;
mod output;

use std::collections::{BTreeMap, BTreeSet};

use policy_compiler::{
    Snapshot,
    model::{Direction, PortRange, Protocol},
    partial::Evaluator,
    portmap::PortSet,
    verdict::Endpoint,
};

use super::matrix::Matrix;
use crate::{
    Io,
    answer::{Cell, Inquiry, ask},
    args::{DiffArgs, Format, InputArgs},
    exit::{ExitStatus, UsageError},
    flow::{Group, PortQuery, internet, is_nothing},
    load::{Config, World},
};

/// Runs `diff`.
pub fn run(io: &Io<'_>, args: &DiffArgs) -> anyhow::Result<ExitStatus> {
    let format = io.format(&[
        Format::Text,
        Format::Wide,
        Format::Json,
        Format::Yaml,
        Format::Csv,
        Format::Md,
    ])?;
    let (old, new) = worlds(io.input, args)?;
    let (Some(old), Some(new)) = (io.accept(old), io.accept(new)) else {
        return Ok(ExitStatus::Usage);
    };
    let changes = Changes::between(&old, &new);
    output::write(io, &changes, &new, format)?;
    let unknown = changes
        .list
        .iter()
        .any(|change| change.kind == Kind::Unknown);
    let known = if unknown {
        ExitStatus::Incomplete
    } else {
        ExitStatus::Success
    };
    let same = ExitStatus::of(!args.exit_code || changes.list.is_empty());
    Ok(same.max(known).max(old.status()).max(new.status()))
}

fn worlds(input: &InputArgs, args: &DiffArgs) -> anyhow::Result<(World, World)> {
    if let (Some(old), Some(new)) = (&args.old, &args.new) {
        let read = |path: &String| World::load_paths(input, std::slice::from_ref(path));
        return Ok((read(old)?, read(new)?));
    }
    if let Some(reference) = &args.base {
        let config = Config::find(input)?;
        let paths = if input.files.is_empty() {
            config.files.clone()
        } else {
            input.files.clone()
        };
        let old = git::read(reference, &paths)?;
        return Ok((
            World::assemble(input, config, old, Vec::new()),
            World::load(input)?,
        ));
    }
    if input.live {
        // What the cluster would look like with the manifests applied.
        let without = InputArgs {
            files: Vec::new(),
            overlay: Vec::new(),
            ..input.clone()
        };
        let with = InputArgs {
            files: Vec::new(),
            overlay: input.overlay.iter().chain(&input.files).cloned().collect(),
            ..input.clone()
        };
        return Ok((World::load(&without)?, World::load(&with)?));
    }
    Err(UsageError::new("there is nothing to compare")
        .help("diff OLD NEW, diff --base GITREF -f PATH, or diff --live -f PATH")
        .into())
}

/// Which way traffic changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It was not admitted and is now.
    Allowed,
    /// It was admitted and is no longer.
    Denied,
    /// Missing facts decide before or after.
    Unknown,
}

/// One change, for all members of two groups.
#[derive(Debug)]
pub struct Change {
    /// Which way.
    pub kind: Kind,
    /// Who opens the connections.
    pub src: Vec<String>,
    /// Who they are opened to.
    pub dst: Vec<String>,
    /// The protocols and ports that change.
    pub ports: PortSet,
    /// One flow that changes, with the answers before and after.
    pub witness: Witness,
}

/// A flow that changes.
#[derive(Debug)]
pub struct Witness {
    /// Source.
    pub src: String,
    /// Destination.
    pub dst: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Port.
    pub port: u16,
    /// What decided before.
    pub before: String,
    /// What decides now.
    pub after: String,
}

/// Everything that changes.
#[derive(Debug)]
pub struct Changes {
    /// Newly allowed first.
    pub list: Vec<Change>,
    /// Endpoints only the new state has.
    pub added: Vec<String>,
    /// Endpoints only the old state has.
    pub removed: Vec<String>,
}

impl Changes {
    fn between(old: &World, new: &World) -> Self {
        let (before, after) = (old.evaluator(), new.evaluator());
        let outside = internet(&merged(&old.loaded.snapshot, &new.loaded.snapshot));
        let matrices = [
            Matrix::with(&before, &PortQuery::All, &outside),
            Matrix::with(&after, &PortQuery::All, &outside),
        ];
        let [was, is] = &matrices;
        let (in_old, in_new) = (places(was), places(is));
        let mut joint: BTreeMap<(usize, usize), Vec<(String, Endpoint)>> = BTreeMap::new();
        for (name, (from, endpoint)) in &in_old {
            if let Some((to, _)) = in_new.get(name) {
                joint
                    .entry((*from, *to))
                    .or_default()
                    .push((name.clone(), endpoint.clone()));
            }
        }
        let only = |a: &BTreeMap<String, (usize, Endpoint)>,
                    b: &BTreeMap<String, (usize, Endpoint)>| {
            a.keys()
                .filter(|name| !b.contains_key(*name))
                .cloned()
                .collect::<Vec<_>>()
        };
        let external = |class: usize| was.classes.get(class).is_some_and(|class| class.external);
        let mut changes = Vec::new();
        for ((a, b), sources) in &joint {
            for ((c, d), destinations) in &joint {
                let itself = (a, b) == (c, d);
                if (external(*a) && external(*c)) || (itself && sources.len() < 2) {
                    continue;
                }
                let (Some(was_cell), Some(is_cell)) = (was.cell(*a, *c), is.cell(*b, *d)) else {
                    continue;
                };
                let (was_allowed, is_allowed) =
                    (was.set(was_cell.allowed), is.set(is_cell.allowed));
                let (was_some, is_some) = (was.set(was_cell.sometimes), is.set(is_cell.sometimes));
                let unknown = was.set(was_cell.unknown).union(&is.set(is_cell.unknown));
                let gained = is_allowed
                    .union(&is_some)
                    .minus(&was_allowed)
                    .minus(&was_some)
                    .minus(&unknown);
                let lost = was_allowed
                    .union(&was_some)
                    .minus(&is_allowed)
                    .minus(&is_some)
                    .minus(&unknown);
                let unclear = if was.set(was_cell.unknown) == is.set(is_cell.unknown) {
                    PortSet::uniform(false)
                } else {
                    unknown
                };
                for (kind, ports) in [
                    (Kind::Allowed, gained),
                    (Kind::Denied, lost),
                    (Kind::Unknown, unclear),
                ] {
                    if is_nothing(&ports) {
                        continue;
                    }
                    let (Some(src), Some(dst)) =
                        (sources.first(), destinations.get(usize::from(itself)))
                    else {
                        continue;
                    };
                    let witness = witness(&before, &after, src, dst, &ports);
                    changes.push(Change {
                        kind,
                        src: sources.iter().map(|(name, _)| name.clone()).collect(),
                        dst: destinations.iter().map(|(name, _)| name.clone()).collect(),
                        ports,
                        witness,
                    });
                }
            }
        }
        changes.sort_by(|a, b| (a.kind, &a.src, &a.dst).cmp(&(b.kind, &b.src, &b.dst)));
        Self {
            list: changes,
            added: only(&in_new, &in_old),
            removed: only(&in_old, &in_new),
        }
    }
}

/// Both states' policies side by side, so that addresses are cut wherever either names a block.
fn merged(old: &Snapshot, new: &Snapshot) -> Snapshot {
    let mut merged = old.clone();
    for policy in new.network_policies.values() {
        let mut policy = policy_compiler::model::NetworkPolicy::clone(policy);
        policy.name = format!("{} (new)", policy.name).into();
        merged.insert_network_policy(policy);
    }
    for policy in new.admin_policies.values() {
        let mut policy = policy_compiler::model::AdminPolicy::clone(policy);
        policy.name = format!("{} (new)", policy.name).into();
        merged.insert_admin_policy(policy);
    }
    for pod in new.pods.values() {
        merged.insert_pod(policy_compiler::model::Pod::clone(pod));
    }
    for node in new.nodes.values() {
        merged.insert_node(policy_compiler::model::Node::clone(node));
    }
    merged
}

/// The class of every name, and the endpoint that stands for it.
fn places(matrix: &Matrix) -> BTreeMap<String, (usize, Endpoint)> {
    let mut places = BTreeMap::new();
    for (index, class) in matrix.classes.iter().enumerate() {
        if class.external {
            let asked = class.parties().next().map(|(_, party)| party.asked.clone());
            places.extend(asked.map(|endpoint| (class.members.join(","), (index, endpoint))));
        }
        for (name, endpoint) in class.members.iter().zip(&class.endpoints) {
            places.insert(name.clone(), (index, endpoint.clone()));
        }
    }
    places
}

fn witness(
    before: &Evaluator<'_>,
    after: &Evaluator<'_>,
    src: &(String, Endpoint),
    dst: &(String, Endpoint),
    ports: &PortSet,
) -> Witness {
    let declared = match &dst.1 {
        Endpoint::Pod(key) => after.snapshot().pods.get(key),
        Endpoint::Node(_) | Endpoint::Address(_) => None,
    };
    let declared = declared.into_iter().flat_map(|pod| &pod.ports);
    let declared =
        PortSet::of(declared.map(|port| (port.protocol, PortRange::single(port.number))));
    let likely = ports.intersection(&declared).example();
    let (protocol, port) = likely
        .or_else(|| ports.example())
        .unwrap_or((Protocol::Other, 0));
    let query = PortQuery::Ports(
        protocol,
        if protocol == Protocol::Other {
            PortRange::ALL
        } else {
            PortRange::single(port)
        },
    );
    let inquiry = Inquiry {
        ports: &query,
        family: None,
        via_service: false,
        explain: false,
    };
    let because = |evaluator: &Evaluator<'_>| {
        let group = |(name, endpoint): &(String, Endpoint)| Group {
            name: name.clone(),
            endpoint: endpoint.clone(),
            ranges: Vec::new(),
            legs: Vec::new(),
        };
        let cells = ask(evaluator, &group(src), &group(dst), &inquiry);
        cells.first().map(reasons).unwrap_or_default()
    };
    let (before, after) = (because(before), because(after));
    let name = |(name, endpoint): &(String, Endpoint)| match endpoint {
        Endpoint::Address(address) => address.to_string(),
        Endpoint::Pod(_) | Endpoint::Node(_) => name.clone(),
    };
    Witness {
        src: name(src),
        dst: name(dst),
        protocol,
        port,
        before,
        after,
    }
}

/// What decided a cell, in a few words: the denying sides, or else both.
pub fn reasons(cell: &Cell) -> String {
    let mut words: BTreeSet<String> = BTreeSet::new();
    for direction in Direction::BOTH {
        let side = cell.side(direction);
        for (_, decision) in &side.parts {
            words.insert(crate::render::change::spell_decision(direction, decision));
        }
        words.extend(
            side.unknown
                .iter()
                .map(|(_, facts)| format!("{direction} unknown: {}", facts.join("; "))),
        );
    }
    words.into_iter().collect::<Vec<_>>().join(", ")
}
