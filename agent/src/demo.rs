// SPDX-License-Identifier: Apache-2.0
//! Do packets do what the policies of a folder say?

pub mod matrix;
pub mod plan;
pub mod probe;
pub mod render;
mod root;
mod sctp;
pub mod servers;
pub mod topology;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    thread,
};

use anyhow::{Context as _, Result};
use policy_compiler::{Snapshot, reach::Reach, verdict::Endpoint};

use self::{
    matrix::{Cell, Matrix},
    plan::{Party, Probe, Transport},
    probe::{Measured, PATIENCE, measure},
    servers::Servers,
    topology::Topology,
};
use crate::{net::Netns, reason};
pub use root::Root;

/// Builds the cluster of `snapshot` below `root`, lets `enforce` do what it does to it, probes every
/// flow worth a probe and compares.
///
/// What `enforce` returns lives until the last probe is back.
pub fn run<E>(
    root: &Root,
    snapshot: &Snapshot,
    enforce: impl FnOnce(&Topology) -> Result<E>,
) -> Result<Matrix> {
    let outside = topology::outside_addresses(snapshot);
    let topology = Topology::build(root, snapshot, &outside)?;
    let parties = plan::parties(snapshot, &topology.outside_addresses);
    let probes = plan::probes(snapshot, &parties);
    let _servers = serve(&topology, &parties, &probes)?;
    let enforcement = enforce(&topology).context("cannot enforce the policies")?;

    let reach = Reach::new(snapshot);
    let measured = measure_all(&topology, &parties, &probes)?;
    let mut cells: Vec<Cell> = probes
        .iter()
        .zip(measured)
        .map(|(probe, measured)| {
            let predicted = reach.decide(&probe.flow(&parties));
            Cell {
                probe: *probe,
                at: reason::place(matrix::settles(&predicted), snapshot),
                predicted,
                measured,
            }
        })
        .collect();

    // An answer that got lost on a busy machine is no difference: ask again, calmly. An answer that
    // came where none was due is: one packet that slips through is what the demo is there to find.
    let again: Vec<usize> = (0..cells.len())
        .filter(|cell| cells[*cell].lacks_an_answer())
        .collect();
    let repeated: Vec<Probe> = again.iter().map(|cell| cells[*cell].probe).collect();
    let second = measure_all(&topology, &parties, &repeated)?;
    let asked_again = again.len();
    for (cell, measured) in again.into_iter().zip(second) {
        cells[cell].measured = measured;
    }
    drop(enforcement);
    Ok(Matrix {
        parties,
        cells,
        asked_again,
    })
}

/// Sends the probes of all senders at the same time; one result per probe, in order.
fn measure_all(topology: &Topology, parties: &[Party], probes: &[Probe]) -> Result<Vec<Measured>> {
    let mut by_source: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (i, probe) in probes.iter().enumerate() {
        by_source.entry(probe.source).or_default().push(i);
    }
    let mut results: BTreeMap<usize, Measured> = BTreeMap::new();
    thread::scope(|scope| -> Result<()> {
        let mut senders = Vec::new();
        for (source, indices) in by_source {
            let namespace = namespace(topology, &parties[source])?;
            senders.push(scope.spawn(move || {
                let own: Vec<Probe> = indices.iter().map(|i| probes[*i]).collect();
                measure(namespace, &own, &PATIENCE)
                    .map(|measured| indices.into_iter().zip(measured))
            }));
        }
        for sender in senders {
            let measured = sender
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                .context("cannot send probes")?;
            results.extend(measured);
        }
        Ok(())
    })?;
    Ok(results.into_values().collect())
}

/// Serves everything that probes ask for.
fn serve(topology: &Topology, parties: &[Party], probes: &[Probe]) -> Result<Servers> {
    let servers = Servers::start()?;
    let mut wanted: BTreeMap<(usize, IpAddr), BTreeSet<Transport>> = BTreeMap::new();
    for probe in probes {
        wanted
            .entry((probe.destination, probe.to))
            .or_default()
            .insert(probe.transport);
    }
    for ((party, address), transports) in wanted {
        servers.add(namespace(topology, &parties[party])?, address, &transports)?;
    }
    Ok(servers)
}

fn namespace<'a>(topology: &'a Topology, party: &Party) -> Result<&'a Netns> {
    match &party.endpoint {
        Endpoint::Pod(pod) => topology.pods.get(pod),
        Endpoint::Node(node) => topology.nodes.get(node),
        Endpoint::Address(_) => Some(&topology.outside),
    }
    .with_context(|| format!("`{}` has no network namespace", party.endpoint))
}
