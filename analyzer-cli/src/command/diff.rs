// SPDX-License-Identifier: Apache-2.0
//! What traffic changes between two sets of policies? `diff`.

mod git;
mod output;

use std::collections::BTreeSet;

use clap::ValueEnum;
use policy_compiler::{
    difference::{self, Change, Kind},
    symbolic::Symbols,
    verdict::Endpoint,
};

use crate::{
    Io,
    args::{DiffArgs, InputArgs},
    exit::{ExitStatus, UsageError},
    load::{Config, World},
};

/// Runs `diff`.
pub fn run(io: &Io<'_>, args: &DiffArgs) -> anyhow::Result<ExitStatus> {
    let format: Format = io.format()?;
    let (old, new) = worlds(io.input, args)?;
    let (Some(old), Some(new)) = (io.accept(old), io.accept(new)) else {
        return Ok(ExitStatus::Usage);
    };
    let changes = Changes::between(&old, &new);
    output::write(io, &changes, &new, format)?;
    let unknown = changes
        .list
        .iter()
        .any(|change| change.kind == Kind::Unclear);
    let known = if unknown {
        ExitStatus::Incomplete
    } else {
        ExitStatus::Success
    };
    let same = ExitStatus::of(!args.exit_code || changes.list.is_empty());
    Ok(same.max(known).max(old.status()).max(new.status()))
}

/// The formats of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Wide,
    Json,
    Yaml,
    Csv,
    Md,
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

/// Everything that changes.
#[derive(Debug)]
pub struct Changes {
    /// Newly allowed first.
    pub list: Vec<Change>,
    /// Pods and nodes only the new state has.
    pub added: Vec<String>,
    /// Pods and nodes only the old state has.
    pub removed: Vec<String>,
}

impl Changes {
    fn between(old: &World, new: &World) -> Self {
        // What exists is compared, not what might.
        let difference =
            difference::between(&old.evaluator(), &new.evaluator(), &Symbols::default());
        let (before, after) = (live(old), live(new));
        let only = |a: &BTreeSet<Endpoint>, b: &BTreeSet<Endpoint>| {
            a.difference(b).map(ToString::to_string).collect()
        };
        Self {
            // What was unknown and still is has not changed.
            list: difference
                .changes
                .into_iter()
                .filter(|change| change.kind != Kind::Undecided)
                .collect(),
            added: only(&after, &before),
            removed: only(&before, &after),
        }
    }
}

/// Pods that are not finished, and nodes.
fn live(world: &World) -> BTreeSet<Endpoint> {
    let snapshot = &world.loaded.snapshot;
    let is_live = |end: &Endpoint| match end {
        Endpoint::Pod(key) => snapshot
            .pods
            .get(key)
            .is_some_and(|pod| !pod.phase.is_finished()),
        Endpoint::Node(_) | Endpoint::Address(_) => true,
    };
    snapshot.endpoints().filter(is_live).collect()
}
