// SPDX-License-Identifier: Apache-2.0
//! Who may reach a workload, from anywhere, and through what? `exposure`.

mod output;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
};

use policy_compiler::{
    exposure::{Analysis, Exposure, Members, Passage, Reach, Seen, Way, Ways},
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

/// Workloads of which the same is true, and who may reach them.
struct Subject {
    /// As the user would write them, sorted.
    names: Vec<String>,
    /// The pods of the first.
    pods: Vec<PodKey>,
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
    let workloads = match &args.workload {
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
    // Lines are complete in themselves.
    let alone = args.expand || format == Tabular::Jsonl;
    let subjects = subjects(&analysis, &ways, workloads, alone);
    let answer = output::Answer {
        evaluator: &evaluator,
        analysis: &analysis,
        subjects: &subjects,
        expand: alone || args.workload.is_some(),
    };
    answer.write(io, &world, format)?;
    let known = if world.lacks_entrances() || subjects.iter().any(Subject::has_unknown) {
        ExitStatus::Incomplete
    } else {
        ExitStatus::Success
    };
    Ok(known.max(world.status()))
}

/// Who may reach each workload; those of which the same is true together, unless each stands `alone`.
fn subjects(
    analysis: &Analysis<'_>,
    ways: &Ways<'_>,
    workloads: BTreeMap<String, Vec<PodKey>>,
    alone: bool,
) -> Vec<Subject> {
    let mut subjects: Vec<Subject> = Vec::new();
    let mut alike: HashMap<*const Seen, Vec<usize>> = HashMap::new();
    for (name, pods) in workloads {
        let exposure = analysis.exposure(&pods);
        let way = ways.to(&pods);
        let alike = alike.entry(Rc::as_ptr(&exposure.seen)).or_default();
        let same = alike.iter().copied().find(|number| {
            let known = subjects.get(*number);
            known.is_some_and(|known| !alone && known.exposure == exposure && known.way == way)
        });
        if let Some(known) = same.and_then(|number| subjects.get_mut(number)) {
            known.names.push(name);
            continue;
        }
        alike.push(subjects.len());
        subjects.push(Subject {
            names: vec![name],
            pods,
            exposure,
            way,
        });
    }
    subjects
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
        let (exposure, seen) = (&self.exposure, &self.exposure.seen);
        let unknown = |reach: &Reach| !is_nothing(&reach.unknown);
        let doors = exposure.doors.iter();
        let mut doors = doors.filter(|door| door.barred.is_none());
        seen.world.iter().any(|them| unknown(&them.reach))
            || exposure.nodes.iter().any(|them| unknown(&them.reach))
            || seen.cluster.iter().any(|them| unknown(&them.reach))
            || match &seen.future {
                Ok(future) => future.iter().any(|them| unknown(&them.reach)),
                Err(_) => true,
            }
            || doors.any(|door| matches!(door.passage, Passage::Unknown(_)))
    }

    /// The pods that `members` stands for, as far as they are the same for all of the workloads.
    fn pods<'a>(
        &'a self,
        analysis: &'a Analysis<'_>,
        members: Members,
    ) -> impl Iterator<Item = &'a PodKey> {
        let (own, shown) = match members {
            Members::All(_) => (&[][..], true),
            Members::Others(_) => (self.pods.as_slice(), !self.is_several()),
        };
        let pods = analysis.members(members.class()).iter();
        pods.filter(move |key| shown && !own.contains(key))
    }

    /// Whether this stands for several workloads.
    fn is_several(&self) -> bool {
        self.names.len() > 1
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
