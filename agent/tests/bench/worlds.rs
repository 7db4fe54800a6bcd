// SPDX-License-Identifier: Apache-2.0
//! Does every configuration of the wire benchmark let through and hold back what it claims?

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use agent::demo::Root;

use super::wire::{
    configuration::{CONFIGURATIONS, Configuration, Size},
    load::Measure,
    ours::Scale,
    programs,
    world::World,
};

/// Large enough to have other pods' rules in the way.
const SMALL: Size = Size {
    cluster: Scale {
        pods: 300,
        policies: 30,
    },
    elements: 1_000,
};

fn world() -> World {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = PathBuf::from(format!("/run/netpol-wire-{}-{number}", std::process::id()));
    World::new(&Arc::new(Root::claim(&path).unwrap())).unwrap()
}

fn cpu() -> usize {
    thread::available_parallelism().unwrap().get() - 1
}

#[track_caller]
fn check(configurations: impl Fn(&Configuration) -> bool) {
    let mut outcomes = BTreeSet::new();
    for configuration in CONFIGURATIONS.iter().filter(|c| configurations(c)) {
        let world = world();
        world.check(false).unwrap();
        let in_force = configuration.apply(&world, &SMALL, cpu()).unwrap();
        world
            .check(configuration.enforces)
            .unwrap_or_else(|error| panic!("{}: {error:#}", configuration.name));
        drop(in_force);
        outcomes.insert(configuration.enforces);
    }
    assert!(outcomes.contains(&true), "nothing was enforced");
}

#[test]
fn our_configurations_do_what_they_claim() {
    check(|configuration| {
        configuration.name.starts_with("ours") || configuration.name == "empty-tcx"
    });
}

#[test]
fn netfilters_configurations_do_what_they_claim() {
    check(|configuration| {
        // The shapes with a hundred policies are those with ten, only longer.
        let is_long = configuration.name.ends_with("-100");
        !configuration.name.starts_with("ours") && !is_long
    });
}

#[test]
fn a_wrong_claim_is_noticed() {
    let find = |name: &str| CONFIGURATIONS.iter().find(|c| c.name == name).unwrap();
    for configuration in [find("none"), find("ours-tcx")] {
        let world = world();
        let _in_force = configuration.apply(&world, &SMALL, cpu()).unwrap();
        assert!(
            world.check(!configuration.enforces).is_err(),
            "{} was believed to be the opposite",
            configuration.name
        );
    }
}

#[test]
fn every_quantity_can_be_measured() {
    let world = world();
    let configuration = CONFIGURATIONS.iter().find(|c| c.name == "ours-tcx");
    let configuration = configuration.unwrap();
    let _in_force = configuration.apply(&world, &SMALL, cpu()).unwrap();
    let mut names = BTreeSet::new();
    for measure in Measure::ALL {
        assert!(configuration.bears(measure));
        for (name, _, value) in measure
            .take(&world, cpu(), Duration::from_millis(5))
            .unwrap()
        {
            assert!(value > 0.0, "{name}: {value}");
            names.insert(name);
        }
    }
    let all = [
        "connections",
        "flood",
        "tcp_crr",
        "tcp_rr",
        "tcp_stream",
        "udp_answered",
        "udp_new",
    ];
    assert_eq!(names, BTreeSet::from(all));
}

#[test]
fn the_kernel_says_how_long_programs_run() {
    let world = world();
    let configuration = CONFIGURATIONS.iter().find(|c| c.name == "ours-tcx");
    let known = programs::loaded();
    let _in_force = configuration.unwrap().apply(&world, &SMALL, cpu()).unwrap();
    let time = Duration::from_millis(5);
    let transactions = || Measure::TcpRr.take(&world, cpu(), time).map(drop);
    let mean = programs::mean(&known, transactions).unwrap();
    assert!(mean.is_some_and(|run| run > 0.0), "{mean:?}");
}
