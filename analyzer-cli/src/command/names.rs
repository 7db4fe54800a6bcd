// SPDX-License-Identifier: Apache-2.0
//! What can SRC and DST be called, of the given input? `names`, which shell completions ask.

use std::collections::BTreeSet;

use policy_compiler::verdict::Endpoint;

use crate::{
    Io,
    args::{NamesArgs, TextOnly},
    exit::ExitStatus,
    load::World,
    render::plain,
};

/// Runs `names`: one a line. What is wrong with the input is nobody's business here.
pub fn run(io: &Io<'_>, args: &NamesArgs) -> anyhow::Result<ExitStatus> {
    io.format::<TextOnly>()?;
    let world = World::load(io.input)?;
    let names = if args.namespaces {
        namespaces(&world)
    } else {
        ends(&world)
    };
    let mut text = String::new();
    for name in names {
        text.push_str(&plain::line(&name));
        text.push('\n');
    }
    io.answer(&text)?;
    Ok(ExitStatus::Success)
}

fn namespaces(world: &World) -> BTreeSet<String> {
    let namespaces = world.loaded.snapshot.namespaces.keys();
    namespaces.map(ToString::to_string).collect()
}

/// Workloads, pods that have a name of their own, Services, nodes, and what needs no input.
fn ends(world: &World) -> BTreeSet<String> {
    let snapshot = &world.loaded.snapshot;
    let mut names: BTreeSet<String> = ["any", "internet"].map(str::to_owned).into();
    for pod in snapshot.pods.values() {
        if pod.phase.is_finished() {
            continue;
        }
        if !pod.key.name.contains('/') {
            names.insert(pod.key.to_string());
        }
        names.insert(super::matrix::workload_of(
            world,
            &Endpoint::Pod(pod.key.clone()),
        ));
    }
    let services = snapshot.services.keys();
    names.extend(services.map(|(namespace, name)| format!("{namespace}/svc/{name}")));
    names.extend(snapshot.nodes.keys().map(|name| format!("node:{name}")));
    names
}
