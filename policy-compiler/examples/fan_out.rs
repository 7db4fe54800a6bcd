// SPDX-License-Identifier: Apache-2.0
//! How much do an API server and its nodes have to do so that every node knows the pods it needs?
//!
//! Three ways, on a made-up cluster that is the same in every run: every node watches every pod; every
//! node watches the pods of the namespaces that policies of its own pods refer to; a controller
//! publishes the members of every selector in slices, and nodes watch those of their own pods'
//! policies. What the numbers stand for is in docs/fan-out.md.

#![expect(clippy::print_stdout, reason = "an example prints")]

use std::{collections::BTreeMap, sync::Arc};

use fixedbitset::FixedBitSet;
use policy_compiler::{
    Snapshot,
    model::{
        AdminPeer, AdminPolicy, NetworkPeer, NetworkPolicy, Pod, Selection, Selector, Subject,
    },
    synthetic::{Kind, Shape, cluster},
};

/// A pod as an API server sends it, in bytes: kubelets, controllers and field managers write most of it.
const POD: usize = 6 * 1024;
/// What an API server sends of a pod from creation to deletion: created, bound, addressed, started,
/// ready, told to end, ended, gone.
const EVENTS: usize = 8;
/// Those of [`EVENTS`] after which a pod's addresses are others.
const ADDRESSED: usize = 2;
/// What an agent keeps of a pod, in bytes, as its types and their allocations add up.
const KEPT_POD: usize = 900;
/// An entry of a slice as JSON: an address of each family and the quotes.
const ENTRY: usize = 40;
/// What a slice is besides its entries.
const SLICE: usize = 600;
/// Entries of a slice at most: large slices, and small ones.
const ENTRIES: [usize; 2] = [1000, 50];
/// What an agent keeps of an entry.
const KEPT_ENTRY: usize = 48;
/// Seconds that a pod lives: a day.
const LIFE: f64 = 86_400.0;

fn main() {
    println!(
        "| nodes | pods | way | first reading | all nodes | deliveries/s | MB/s | kept by a node |"
    );
    println!("|---:|---:|---|---:|---:|---:|---:|---:|");
    for (nodes, pods) in [(200, 6_000), (1_000, 30_000), (5_000, 150_000)] {
        let world = World::new(nodes, pods);
        let mut ways = vec![everything(&world), namespaces(&world)];
        ways.extend(ENTRIES.map(|entries| slices(&world, entries)));
        for way in ways {
            println!(
                "| {nodes} | {pods} | {} | {} MB | {} GB | {} | {:.2} | {} MB |",
                way.name,
                round(way.first / 1e6),
                round(way.first * as_float(nodes) / 1e9),
                round(way.deliveries),
                way.bytes / 1e6,
                round(way.kept / 1e6),
            );
        }
    }
}

/// What one way costs.
struct Way {
    name: String,
    /// Bytes that an average node reads when it starts.
    first: f64,
    /// Events per second that all nodes together are sent.
    deliveries: f64,
    /// Bytes per second of those.
    bytes: f64,
    /// Bytes that an average node keeps.
    kept: f64,
}

/// A cluster, with who refers to whom.
struct World {
    nodes: usize,
    pods: usize,
    /// Pods of each namespace.
    namespaces: Vec<usize>,
    /// Members of every distinct selector of a peer.
    members: Vec<FixedBitSet>,
    /// Namespaces that the selector looks into.
    reach: Vec<FixedBitSet>,
    /// Selectors that the policies of each node's pods refer to.
    wanted: Vec<FixedBitSet>,
}

impl World {
    fn new(nodes: usize, pods: usize) -> Self {
        let snapshot = cluster(&Shape {
            pods: u32::try_from(pods).unwrap_or(u32::MAX),
            policies: u32::try_from(pods / 10).unwrap_or(u32::MAX),
            admin_policies: 10,
            kind: Kind::Realistic,
            seed: 1,
        });
        let all: Vec<&Arc<Pod>> = snapshot.pods.values().collect();
        let names: Vec<&Arc<str>> = snapshot.namespaces.keys().collect();
        let mut homes: Vec<Vec<usize>> = vec![Vec::new(); names.len()];
        for (index, pod) in all.iter().enumerate() {
            if let Ok(home) = names.binary_search(&&pod.key.namespace) {
                homes[home].push(index);
            }
        }
        let mut atoms = Atoms {
            snapshot: &snapshot,
            all: &all,
            names: &names,
            homes: &homes,
            known: BTreeMap::new(),
            members: Vec::new(),
            reach: Vec::new(),
        };
        // The selectors that rules about each pod refer to.
        let mut wanted_by_pod: Vec<Vec<usize>> = vec![Vec::new(); all.len()];
        for policy in snapshot.network_policies.values() {
            let wanted = atoms.of_network_policy(policy);
            let Ok(home) = names.binary_search(&&policy.namespace) else {
                continue;
            };
            let Selection::Matching(selector) = &policy.pod_selector else {
                continue;
            };
            for pod in &homes[home] {
                if selector.matches(&all[*pod].labels) {
                    wanted_by_pod[*pod].extend(&wanted);
                }
            }
        }
        for policy in snapshot.admin_policies.values() {
            let wanted = atoms.of_admin_policy(policy);
            let Subject::Pods { namespaces, pods } = &policy.subject else {
                continue;
            };
            let subject = atoms.atom(None, namespaces, pods);
            for pod in atoms.members[subject].ones() {
                wanted_by_pod[pod].extend(&wanted);
            }
        }
        // Pods of a namespace spread over the nodes.
        let mut wanted = vec![FixedBitSet::with_capacity(atoms.members.len()); nodes];
        for (pod, atoms) in wanted_by_pod.iter().enumerate() {
            let node = pod.wrapping_mul(2_654_435_761) % nodes;
            wanted[node].extend(atoms.iter().copied());
        }
        Self {
            nodes,
            pods,
            namespaces: homes.iter().map(Vec::len).collect(),
            members: atoms.members,
            reach: atoms.reach,
            wanted,
        }
    }

    /// Pods that are replaced by others per second.
    fn churn(&self) -> f64 {
        as_float(self.pods) / LIFE
    }

    /// The mean over all nodes.
    fn per_node(&self, of: impl Fn(&FixedBitSet) -> usize) -> f64 {
        as_float(self.wanted.iter().map(of).sum()) / as_float(self.nodes)
    }

    fn local(&self) -> f64 {
        as_float(self.pods) / as_float(self.nodes)
    }
}

/// The distinct selectors of peers.
struct Atoms<'a> {
    snapshot: &'a Snapshot,
    all: &'a [&'a Arc<Pod>],
    names: &'a [&'a Arc<str>],
    homes: &'a [Vec<usize>],
    known: BTreeMap<(Option<Arc<str>>, Selector, Selector), usize>,
    members: Vec<FixedBitSet>,
    reach: Vec<FixedBitSet>,
}

impl Atoms<'_> {
    fn of_network_policy(&mut self, policy: &NetworkPolicy) -> Vec<usize> {
        let rules = policy.ingress.iter().chain(&policy.egress).flatten();
        let peers = rules.flat_map(|rule| rule.peers.iter().flatten());
        let mut atoms = Vec::new();
        for peer in peers {
            if let NetworkPeer::Pods { namespaces, pods } = peer {
                atoms.push(match namespaces {
                    Some(namespaces) => self.atom(None, namespaces, pods),
                    None => self.atom(Some(&policy.namespace), &Selector::default(), pods),
                });
            }
        }
        atoms
    }

    fn of_admin_policy(&mut self, policy: &AdminPolicy) -> Vec<usize> {
        let rules = policy.ingress.iter().chain(&policy.egress);
        let peers = rules.flat_map(|rule| &rule.peers);
        let mut atoms = Vec::new();
        for peer in peers {
            if let AdminPeer::Pods { namespaces, pods } = peer {
                atoms.push(self.atom(None, namespaces, pods));
            }
        }
        atoms
    }

    fn atom(&mut self, within: Option<&Arc<str>>, namespaces: &Selector, pods: &Selector) -> usize {
        let key = (within.cloned(), namespaces.clone(), pods.clone());
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        let mut members = FixedBitSet::with_capacity(self.all.len());
        let mut reach = FixedBitSet::with_capacity(self.names.len());
        for (home, name) in self.names.iter().enumerate() {
            let here = match within {
                Some(within) => within == *name,
                None => namespaces.matches(&self.snapshot.namespaces[*name].labels),
            };
            if here {
                reach.insert(home);
                let pods = self.homes[home]
                    .iter()
                    .copied()
                    .filter(|pod| pods.matches(&self.all[*pod].labels));
                members.extend(pods);
            }
        }
        let id = self.members.len();
        self.members.push(members);
        self.reach.push(reach);
        self.known.insert(key, id);
        id
    }
}

fn everything(world: &World) -> Way {
    let pods = as_float(world.pods);
    let deliveries = world.churn() * as_float(EVENTS * world.nodes);
    Way {
        name: "every pod".to_owned(),
        first: pods * as_float(POD),
        deliveries,
        bytes: deliveries * as_float(POD),
        kept: pods * as_float(KEPT_POD),
    }
}

fn namespaces(world: &World) -> Way {
    let pods = world.per_node(|wanted| {
        let mut reach = FixedBitSet::with_capacity(world.namespaces.len());
        for atom in wanted.ones() {
            reach.union_with(&world.reach[atom]);
        }
        reach.ones().map(|home| world.namespaces[home]).sum()
    });
    // Every pod goes to as many nodes as, on average, know it.
    let share = pods / as_float(world.pods);
    let deliveries = world.churn() * as_float(EVENTS * world.nodes) * share;
    Way {
        name: "pods of the namespaces referred to".to_owned(),
        first: (pods + world.local()) * as_float(POD),
        deliveries,
        bytes: deliveries * as_float(POD),
        kept: pods * as_float(KEPT_POD),
    }
}

fn slices(world: &World, limit: usize) -> Way {
    let size = |atom: usize| {
        let entries = world.members[atom].count_ones(..);
        (entries, entries.div_ceil(limit))
    };
    let bytes_of = |entries: usize, slices: usize| entries * ENTRY + slices * SLICE;
    let first = world.per_node(|wanted| {
        let sizes = wanted.ones().map(size);
        sizes
            .map(|(entries, slices)| bytes_of(entries, slices))
            .sum()
    });
    let entries = world.per_node(|wanted| wanted.ones().map(|atom| size(atom).0).sum());
    // A pod that comes or goes changes one slice of every selector that selects it. The slice is sent
    // whole to every node that watches it.
    let mut watching = vec![0_usize; world.members.len()];
    for wanted in &world.wanted {
        for atom in wanted.ones() {
            watching[atom] += 1;
        }
    }
    let (mut deliveries, mut bytes) = (0.0, 0.0);
    for (atom, watching) in watching.iter().enumerate() {
        let (entries, slices) = size(atom);
        // A pod in so many comes or goes so often.
        let changes = as_float(entries) / LIFE * as_float(ADDRESSED);
        let slice = bytes_of(entries.min(limit), slices.min(1));
        deliveries += changes * as_float(*watching);
        bytes += changes * as_float(*watching * slice);
    }
    Way {
        name: format!("slices of {limit}, of the selectors referred to"),
        first: first + world.local() * as_float(POD),
        deliveries,
        bytes,
        kept: entries * as_float(KEPT_ENTRY) + world.local() * as_float(KEPT_POD),
    }
}

/// Three digits.
fn round(number: f64) -> String {
    let decimals = if number >= 100.0 {
        0
    } else if number >= 10.0 {
        1
    } else {
        2
    };
    format!("{number:.decimals$}")
}

fn as_float(number: usize) -> f64 {
    let high = u32::try_from(number / 1_000_000).unwrap_or(u32::MAX);
    let low = u32::try_from(number % 1_000_000).unwrap_or(u32::MAX);
    f64::from(high) * 1e6 + f64::from(low)
}
