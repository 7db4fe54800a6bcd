// SPDX-License-Identifier: Apache-2.0
//! Who reaches whom? `matrix`: classes of endpoints that no policy tells apart, and a cell per pair.

mod classes;
mod output;
mod pairs;

use std::collections::{BTreeMap, BTreeSet};

use policy_compiler::{
    model::Direction,
    partial::{Connection, Evaluator, Outcome, Party},
    portmap::PortSet,
    verdict::Endpoint,
};

use crate::{
    Io,
    args::{By, MatrixArgs, Tabular},
    exit::ExitStatus,
    flow::{PortQuery, is_nothing},
};

pub use classes::{Matrix, alike, namespace_of, workload_of};

/// Runs `matrix`.
pub fn run(io: &Io<'_>, args: &MatrixArgs) -> anyhow::Result<ExitStatus> {
    let format: Tabular = io.format()?;
    let port = match &args.port {
        Some(text) => text.parse::<PortQuery>()?,
        None => PortQuery::All,
    };
    let Some(world) = io.load()? else {
        return Ok(ExitStatus::Usage);
    };
    let evaluator = world.evaluator();
    let matrix = Matrix::new(&evaluator, &port, args.to_internet);
    let matrix = match args.by {
        By::Pod => matrix,
        By::Workload => matrix.merged(|endpoint| classes::workload_of(&world, endpoint)),
        By::Namespace => matrix.merged(classes::namespace_of),
    };
    if args.expand && args.by == By::Pod {
        output::expanded(io, &evaluator, &matrix, &port, format)?;
    } else if args.expand {
        output::expanded_names(io, &matrix, &BTreeMap::new(), format)?;
    } else {
        output::grouped(io, &world, &matrix, format)?;
    }
    let kinds: BTreeSet<usize> = matrix.numbered().map(|(_, _, kind)| kind).collect();
    let known = kinds
        .iter()
        .filter_map(|kind| matrix.kinds().get(*kind))
        .all(|cell| is_nothing(&matrix.set(cell.unknown)));
    let known = if known {
        ExitStatus::Success
    } else {
        ExitStatus::Incomplete
    };
    Ok(known.max(world.status()))
}

/// What gets through from one party to another, and what missing facts decide.
pub fn through(
    evaluator: &Evaluator<'_>,
    source: &Party,
    destination: &Party,
    asked: Option<&PortSet>,
) -> (PortSet, PortSet) {
    let egress = evaluator.direction(Direction::Egress, source, destination, false);
    let ingress = evaluator.direction(Direction::Ingress, destination, source, false);
    let uniform = |outcome: Option<&Outcome>| outcome.and_then(Outcome::verdict);
    if asked.is_none()
        && let (Some(egress), Some(ingress)) =
            (uniform(egress.as_uniform()), uniform(ingress.as_uniform()))
    {
        let allowed = egress.max(ingress) == policy_compiler::Verdict::Allow;
        return (PortSet::uniform(allowed), PortSet::uniform(false));
    }
    let connection = Connection { egress, ingress };
    let (allowed, unknown) = (connection.allowed(), connection.unknown());
    match asked {
        None => (allowed, unknown),
        Some(asked) => (allowed.intersection(asked), unknown.intersection(asked)),
    }
}

/// The endpoints of a matrix: live pods.
pub fn endpoints(evaluator: &Evaluator<'_>) -> Vec<Endpoint> {
    let pods = evaluator.snapshot().pods.values();
    let live = pods.filter(|pod| !pod.phase.is_finished());
    live.map(|pod| Endpoint::Pod(pod.key.clone())).collect()
}
