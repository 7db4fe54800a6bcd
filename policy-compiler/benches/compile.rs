// SPDX-License-Identifier: Apache-2.0
//! How long does a compilation take, next to evaluating every selector on every pod?
//!
//! `NETPOL_BENCH_SIZE=small|medium|large` bounds the grid (default `medium`: 10,000 pods).

#![expect(
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a benchmark reports and stops"
)]

use std::{collections::BTreeMap, env, hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use policy_compiler::{
    Snapshot,
    compile::{Scope, compile},
    lower::{Capacity, Reasons, lower},
    model::{NetworkPeer, NetworkPolicy, Selection},
    synthetic::{Kind, Shape, cluster, node_name},
};

criterion_group!(benches, node, whole_cluster);
criterion_main!(benches);

/// Cold compilation and lowering for one node, and the naive evaluation it stands against.
fn node(criterion: &mut Criterion) {
    for (name, shape) in shapes() {
        let snapshot = cluster(&shape);
        let scope = Scope::Node(node_name(0));
        let tables = compile(&snapshot, &scope);
        describe(&name, &tables);
        let mut group = criterion.benchmark_group("node");
        group
            .sample_size(10)
            .measurement_time(Duration::from_secs(3));
        group.bench_function(BenchmarkId::new("compile", &name), |bencher| {
            bencher.iter(|| compile(black_box(&snapshot), &scope));
        });
        group.bench_function(BenchmarkId::new("lower", &name), |bencher| {
            bencher.iter(|| {
                lower(
                    black_box(&tables),
                    &Capacity::default(),
                    &mut Reasons::default(),
                )
            });
        });
        if shape.pods <= 10_000 && shape.kind == Kind::Realistic {
            group.bench_function(BenchmarkId::new("naive", &name), |bencher| {
                bencher.iter(|| naive(black_box(&snapshot)));
            });
        }
        group.finish();
    }
}

fn whole_cluster(criterion: &mut Criterion) {
    for (name, shape) in shapes()
        .into_iter()
        .filter(|(_, shape)| shape.kind == Kind::Realistic)
    {
        let snapshot = cluster(&shape);
        let mut group = criterion.benchmark_group("cluster");
        group
            .sample_size(10)
            .measurement_time(Duration::from_secs(3));
        group.bench_function(BenchmarkId::new("compile", &name), |bencher| {
            bencher.iter(|| compile(black_box(&snapshot), &Scope::Cluster));
        });
        group.finish();
    }
}

fn shapes() -> Vec<(String, Shape)> {
    let largest = match env::var("NETPOL_BENCH_SIZE").as_deref() {
        Ok("small") => 1_000,
        Ok("large") => 100_000,
        _ => 10_000,
    };
    let sizes = [
        (1_000, 100),
        (10_000, 1_000),
        (10_000, 10_000),
        (100_000, 10_000),
    ];
    let kinds = [Kind::Realistic, Kind::DistinctLabels, Kind::DistinctBlocks];
    let sizes = sizes.into_iter().filter(|(pods, _)| *pods <= largest);
    sizes
        .flat_map(|(pods, policies)| kinds.map(|kind| (pods, policies, kind)))
        .map(|(pods, policies, kind)| {
            let shape = Shape {
                pods,
                policies,
                admin_policies: 20,
                kind,
                seed: 1,
            };
            (format!("{pods}x{policies} {kind:?}"), shape)
        })
        .collect()
}

fn describe(name: &str, tables: &policy_compiler::compile::Tables) {
    let image = lower(tables, &Capacity::default(), &mut Reasons::default());
    let bytes = image.map(|image| {
        64 * (image.trie4.len() + image.trie6.len() + image.hosts6.len() + image.rows.len())
            + 256 * image.port_sets.len()
            + 4 * image.uniform.len()
    });
    eprintln!(
        "{name}: {} classes, {} rows, {} port sets, {} prefixes, {bytes:?} bytes",
        tables.classes,
        tables.rows.len(),
        tables.port_sets.len(),
        tables.addresses.prefixes().len(),
    );
}

/// Every selector of every policy on every pod, as maps of strings: what an engine without classes
/// does before it can say anything.
fn naive(snapshot: &Snapshot) -> usize {
    let labels: Vec<(&str, BTreeMap<String, String>)> = snapshot
        .pods
        .values()
        .map(|pod| {
            let labels = pod
                .labels
                .0
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()));
            (&*pod.key.namespace, labels.collect())
        })
        .collect();
    let mut matches = 0;
    let selects = |selection: &policy_compiler::model::Selector,
                   labels: &BTreeMap<String, String>| {
        selection.requirements().iter().all(|requirement| {
            labels
                .get(&*requirement.key)
                .is_some_and(|value| requirement.values.iter().any(|v| **v == **value))
        })
    };
    for policy in snapshot.network_policies.values() {
        let policy: &NetworkPolicy = policy;
        let rules = policy.ingress.iter().chain(&policy.egress).flatten();
        let peers: Vec<_> = rules.flat_map(|rule| rule.peers.iter().flatten()).collect();
        for (namespace, labels) in &labels {
            if let Selection::Matching(selector) = &policy.pod_selector {
                matches +=
                    usize::from(*namespace == &*policy.namespace && selects(selector, labels));
            }
            for peer in &peers {
                let NetworkPeer::Pods { namespaces, pods } = peer else {
                    continue;
                };
                let namespace_matches = match namespaces {
                    None => *namespace == &*policy.namespace,
                    Some(selector) => {
                        let namespace = snapshot
                            .namespaces
                            .get(*namespace)
                            .expect("pods live in namespaces");
                        selector.matches(&namespace.labels)
                    }
                };
                matches += usize::from(namespace_matches && selects(pods, labels));
            }
        }
    }
    matches
}
