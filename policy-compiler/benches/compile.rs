// SPDX-License-Identifier: Apache-2.0
//! How long does a compilation take, next to evaluating every selector on every pod?
//!
//! `NETPOL_BENCH_SIZE=small|medium|large` bounds the grid (default `medium`: 10,000 pods).

#![expect(clippy::print_stderr, reason = "a benchmark reports and stops")]

use std::{env, hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use policy_compiler::{
    compile::{Scope, compile},
    lower::{Capacity, Reasons, lower},
    synthetic::{Kind, Shape, cluster, grid, matches_one_by_one, node_name},
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
                bencher.iter(|| matches_one_by_one(black_box(&snapshot)));
            });
        }
        group.finish();
    }
}

fn whole_cluster(criterion: &mut Criterion) {
    for (name, shape) in shapes().filter(|(_, shape)| shape.kind == Kind::Realistic) {
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

fn shapes() -> impl Iterator<Item = (String, Shape)> {
    grid(match env::var("NETPOL_BENCH_SIZE").as_deref() {
        Ok("small") => 1_000,
        Ok("large") => 100_000,
        _ => 10_000,
    })
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
        tables.addresses.blocks().len() + tables.addresses.hosts().count(),
    );
}
