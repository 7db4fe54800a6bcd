// SPDX-License-Identifier: Apache-2.0
//! Who may reach a workload, from anywhere, and through what? `exposure`.

mod output;

use std::collections::{BTreeMap, BTreeSet};

use policy_compiler::{
    exposure::{Analysis, Exposure, Passage, Reach, Way, Ways},
    model::PodKey,
    verdict::Endpoint,
};

use crate::{
    Io,
    answer::Word,
    args::{ExposureArgs, Tabular},
    exit::{ExitStatus, UsageError},
    flow::{is_all, is_nothing, parse_target, resolve},
    load::World,
};

/// A workload and who may reach it.
struct Subject {
    /// As the user would write it.
    name: String,
    exposure: Exposure,
    /// How somebody from outside gets there; `None` if there is no way.
    way: Option<Way>,
}

/// Runs `exposure`.
pub fn run(io: &Io<'_>, args: &ExposureArgs) -> anyhow::Result<ExitStatus> {
    let format: Tabular = io.format()?;
    let Some(world) = io.load()? else {
        return Ok(ExitStatus::Usage);
    };
    let subjects = match &args.workload {
        Some(text) => BTreeMap::from([pods_of(&world, text)?]),
        None => every_workload(&world),
    };
    let mut controllers = Vec::new();
    for text in &args.controller {
        controllers.extend(pods_of(&world, text)?.1);
    }
    let evaluator = world.evaluator();
    let analysis = Analysis::new(&evaluator, &world.loaded.entrances, &controllers);
    let ways = Ways::of(&analysis);
    let subjects: Vec<Subject> = subjects
        .into_iter()
        .map(|(name, pods)| Subject {
            exposure: analysis.exposure(&pods),
            way: ways.to(&pods),
            name,
        })
        .collect();
    output::write(io, &world, &evaluator, &subjects, format)?;
    let known = if world.lacks_entrances() || subjects.iter().any(Subject::has_unknown) {
        ExitStatus::Incomplete
    } else {
        ExitStatus::Success
    };
    Ok(known.max(world.status()))
}

/// The pods that a target stands for, and what it is called.
fn pods_of(world: &World, text: &str) -> anyhow::Result<(String, Vec<PodKey>)> {
    let (target, port) = parse_target(text)?;
    if port.is_some() {
        return Err(UsageError::new("exposure is about every port").into());
    }
    let resolved = resolve(&target, &world.loaded.snapshot, &world.namespace)?;
    let mut pods = BTreeSet::new();
    for group in &resolved.groups {
        match &group.endpoint {
            Endpoint::Pod(key) => pods.insert(key.clone()),
            Endpoint::Node(_) | Endpoint::Address(_) => {
                let message = format!("`{}` is not made of pods", resolved.name);
                return Err(UsageError::new(message)
                    .help("ns/pod, ns/kind/name, ns/svc/name, ns?label=value")
                    .into());
            }
        };
    }
    Ok((resolved.name, pods.into_iter().collect()))
}

/// The pods that are not finished, by workload.
fn every_workload(world: &World) -> BTreeMap<String, Vec<PodKey>> {
    let mut workloads: BTreeMap<String, Vec<PodKey>> = BTreeMap::new();
    for pod in world.loaded.snapshot.pods.values() {
        if pod.phase.is_finished() {
            continue;
        }
        let end = Endpoint::Pod(pod.key.clone());
        let name = super::matrix::workload_of(world, &end);
        workloads.entry(name).or_default().push(pod.key.clone());
    }
    workloads
}

impl Subject {
    fn has_unknown(&self) -> bool {
        let exposure = &self.exposure;
        let unknown = |reach: &Reach| !is_nothing(&reach.unknown);
        let doors = exposure.doors.iter();
        let mut doors = doors.filter(|door| door.barred.is_none());
        exposure.world.iter().any(|them| unknown(&them.reach))
            || exposure.nodes.iter().any(|them| unknown(&them.reach))
            || exposure.cluster.iter().any(|them| unknown(&them.reach))
            || match &exposure.future {
                Ok(future) => future.iter().any(|them| unknown(&them.reach)),
                Err(_) => true,
            }
            || doors.any(|door| matches!(door.passage, Passage::Unknown(_)))
    }
}

/// The verdict of one audience.
fn word(reach: &Reach) -> Word {
    if !is_nothing(&reach.unknown) {
        Word::Unknown
    } else if is_all(&reach.always) {
        Word::Allowed
    } else if is_nothing(&reach.certain()) {
        Word::Denied
    } else {
        Word::Partial
    }
}
