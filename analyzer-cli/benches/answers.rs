// SPDX-License-Identifier: Apache-2.0
//! What do answers about large clusters cost, from the start of the program to its end?
//!
//! Commands take turns in every round. Reading the same input, which each of them does first, is the
//! baseline of each; asking about every pair of pods one by one is that of the matrix, and is estimated
//! from a sample.
//! Prints a line per result and writes them to `target/bench/analyzer.jsonl` as
//! `{"suite", "name", "unit", "value", "baseline", "ratio", "rounds", "baseline_rounds"}`; `ratio` is our
//! value by the baseline's.
//! `NETPOL_BENCH_SIZE=small|medium|large` bounds the clusters (default `medium`: 1,000 pods), and
//! `NETPOL_BENCH_ROUNDS` says how often each command runs (default 5).

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark reports and stops"
)]

use std::{
    env, fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use policy_compiler::{
    manifest, parse,
    partial::{Assumptions, Evaluator},
    verdict::Endpoint,
};
use serde_json::json;

/// A cluster, and what is asked about it.
struct Shape {
    /// From this `NETPOL_BENCH_SIZE` on.
    size: &'static str,
    workloads: usize,
    replicas: usize,
    policies: usize,
    commands: &'static [&'static str],
}

const SHAPES: [Shape; 4] = [
    Shape {
        size: "small",
        workloads: 100,
        replicas: 1,
        policies: 40,
        commands: &ALL,
    },
    Shape {
        size: "medium",
        workloads: 1_000,
        replicas: 1,
        policies: 400,
        commands: &ALL,
    },
    Shape {
        size: "large",
        workloads: 1_000,
        replicas: 10,
        policies: 2_000,
        commands: &["read", "why", "matrix", "html", "diff", "lint", "exposure"],
    },
    Shape {
        size: "large",
        workloads: 1_000,
        replicas: 10,
        policies: 10_000,
        commands: &["read", "why", "lint"],
    },
];

/// Every command, reading first: the others are compared with it.
const ALL: [&str; 9] = [
    "read", "why", "matrix", "expanded", "html", "diff", "lint", "exposure", "migrate",
];

/// What one run took.
#[derive(Clone, Copy)]
struct Cost {
    milliseconds: f64,
    /// Of a processor's time.
    busy: f64,
    /// At the peak.
    megabytes: f64,
    /// Of output.
    kilobytes: f64,
}

fn main() {
    // Who runs every target of the project asks for no measurement.
    if !env::args().any(|argument| argument == "--bench") {
        return;
    }
    let size = env::var("NETPOL_BENCH_SIZE").unwrap_or_else(|_| "medium".to_owned());
    let last = SHAPES.iter().rposition(|shape| shape.size == size);
    let shapes = &SHAPES[..=last.expect("NETPOL_BENCH_SIZE is small, medium or large")];
    let rounds = env::var("NETPOL_BENCH_ROUNDS").map_or(5, |rounds| {
        rounds.parse().expect("NETPOL_BENCH_ROUNDS is a number")
    });
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")),
        PathBuf::from,
    );
    let folder = target.join("bench");
    fs::create_dir_all(&folder).expect("the target folder can be written");
    let mut lines = Vec::new();
    for shape in shapes {
        measure(&folder, shape, rounds, &mut lines);
    }
    fs::write(folder.join("analyzer.jsonl"), lines.concat()).expect("results can be written");
}

fn measure(folder: &Path, shape: &Shape, rounds: usize, lines: &mut Vec<String>) {
    let Shape {
        workloads,
        replicas,
        policies,
        ..
    } = shape;
    let generated = program()
        .arg("generate")
        .arg(format!("--workloads={workloads}"))
        .arg(format!("--replicas={replicas}"))
        .arg(format!("--policies={policies}"))
        .output()
        .expect("the program runs");
    let text = String::from_utf8(generated.stdout).expect("manifests are text");
    let cluster = file(folder, "cluster.yaml", &text);
    let changed = file(folder, "changed.yaml", &edited(&text));
    let guards = file(folder, "guards.yaml", &guards());
    let arguments = |command: &str| match command {
        "read" => vec!["-f", &cluster, "names", "--namespaces"],
        "why" => vec!["-f", &cluster, "why", "ns-0/w0-0", "ns-1/w1-0", "-o=json"],
        "matrix" => vec!["-f", &cluster, "matrix", "-o=json"],
        "expanded" => vec!["-f", &cluster, "matrix", "--expand", "-o=json"],
        "html" => vec!["-f", &cluster, "graph", "-o=html"],
        "diff" => vec!["diff", &cluster, &changed, "-o=json"],
        "lint" => vec!["-f", &cluster, "lint", "--fail-on=never", "-o=json"],
        "exposure" => vec!["-f", &cluster, "exposure", "-o=json"],
        "migrate" => vec!["-f", &cluster, "-f", &guards, "migrate", "-o=json"],
        other => unreachable!("{other} is no command to measure"),
    };
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); shape.commands.len()];
    for _ in 0..rounds {
        for (command, costs) in shape.commands.iter().zip(&mut costs) {
            costs.push(run(&arguments(command)));
        }
    }

    let size = format!("{}x{policies}", workloads * replicas);
    let mut add = |name: String, unit: &str, rounds: &[f64], baseline: Option<&[f64]>| {
        lines.push(line(&name, unit, rounds, baseline));
    };
    let of = |costs: &[Cost], quantity: fn(&Cost) -> f64| -> Vec<f64> {
        costs.iter().map(quantity).collect()
    };
    let reading = &costs[0];
    for (command, costs) in shape.commands.iter().zip(&costs) {
        for (what, quantity) in [
            ("time", (|cost| cost.milliseconds) as fn(&Cost) -> f64),
            ("processor", |cost| cost.busy),
        ] {
            let baseline = (*command != "read").then(|| of(reading, quantity));
            let times = of(costs, quantity);
            add(
                format!("{command}/{size}/{what}"),
                "ms",
                &times,
                baseline.as_deref(),
            );
        }
        let memory = of(costs, |cost| cost.megabytes);
        add(format!("{command}/{size}/memory"), "MB", &memory, None);
        let output = of(costs, |cost| cost.kilobytes);
        add(format!("{command}/{size}/output"), "kB", &output, None);
    }
    if let Some(matrix) = shape.commands.iter().position(|name| *name == "matrix") {
        // Both without reading: what the sample would take for all pairs is nothing but their evaluation.
        let rounds: Vec<f64> = costs[matrix]
            .iter()
            .zip(reading)
            .map(|(matrix, reading)| matrix.busy - reading.busy)
            .collect();
        add(
            format!("matrix/{size}/beside every pair of pods"),
            "ms",
            &rounds,
            Some(&[one_by_one(&text)]),
        );
    }
}

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_netpol-analyze"))
}

fn file(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, text).expect("the cluster can be written");
    path.display().to_string()
}

/// The cluster with every tenth policy about another port.
fn edited(text: &str) -> String {
    let objects = text.split("---\n").enumerate();
    let edited = objects.map(|(number, object)| match number % 10 {
        0 if object.contains("NetworkPolicy") => object.replace("port: 8001", "port: 8002"),
        _ => object.to_owned(),
    });
    edited.collect::<Vec<_>>().join("---\n")
}

/// AdminNetworkPolicies between the teams of the cluster, for `migrate` to replace.
fn guards() -> String {
    let guard = |team: usize| {
        let peer = |by: usize| {
            format!(
                "namespaces: {{matchLabels: {{team: t{}}}}}",
                (team + by) % 8
            )
        };
        format!(
            "---\napiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\n\
             metadata: {{name: guard-{team}}}\nspec:\n  priority: {team}\n  subject: {{{}}}\n  ingress:\n  \
             - {{action: Allow, from: [{{{}}}], ports: [{{portNumber: {{protocol: TCP, port: 8001}}}}]}}\n  \
             - {{action: Pass, from: [{{{}}}]}}\n  \
             - {{action: Deny, from: [{{{}}}]}}\n",
            peer(0),
            peer(1),
            peer(2),
            peer(3),
        )
    };
    (0..8).map(guard).collect()
}

/// Runs the program to its end.
fn run(arguments: &[&str]) -> Cost {
    let started = Instant::now();
    let mut child = program()
        .args(arguments)
        .arg("-q")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let process = PathBuf::from(format!("/proc/{}", child.id()));
    let (peak, ended) = (AtomicU64::new(0), AtomicBool::new(false));
    let look = || peak.fetch_max(memory(&process).unwrap_or(0), Relaxed);
    let mut output = child.stdout.take().expect("the output is a pipe");
    let mut bytes = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Relaxed) {
                look();
                thread::sleep(Duration::from_millis(1));
            }
        });
        let mut chunk = vec![0; 1 << 16];
        loop {
            let read = output.read(&mut chunk).expect("the output can be read");
            // Who writes its answer is still there, and has needed most of what it ever does.
            look();
            bytes += read;
            if read == 0 {
                break;
            }
        }
        // Its account stays readable until somebody waits for it.
        while !is_over(&process) {
            thread::yield_now();
        }
        ended.store(true, Relaxed);
    });
    let milliseconds = started.elapsed().as_secs_f64() * 1e3;
    let busy = busy(&process).expect("the kernel accounts for processes");
    let status = child.wait().expect("the program can be waited for");
    assert!(status.success(), "{arguments:?} ended with {status}");
    Cost {
        milliseconds,
        busy,
        megabytes: count(peak.into_inner()) / 1024.0,
        kilobytes: count(bytes as u64) / 1000.0,
    }
}

/// The most that a process ever had resident, in units of 1024 bytes; `None` if it has ended.
fn memory(process: &Path) -> Option<u64> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    peak.split_whitespace().next()?.parse().ok()
}

/// Whether a process has ended, though nobody has waited for it.
fn is_over(process: &Path) -> bool {
    let stat = fs::read_to_string(process.join("stat")).expect("the process is ours to wait for");
    let (_, state) = stat.rsplit_once(") ").expect("the state follows the name");
    state.starts_with('Z')
}

/// Milliseconds on a processor. The program has one thread.
fn busy(process: &Path) -> Option<f64> {
    let text = fs::read_to_string(process.join("schedstat")).ok()?;
    let nanoseconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some(nanoseconds / 1e6)
}

/// Milliseconds for every pair of pods, from those that a few pods take.
fn one_by_one(text: &str) -> f64 {
    let loaded = manifest::load([("cluster.yaml", text)], &parse::Settings::default());
    let snapshot = &loaded.snapshot;
    let evaluator = Evaluator::new(snapshot, Assumptions::default(), Vec::new());
    let pods: Vec<Endpoint> = snapshot.pods.keys().cloned().map(Endpoint::Pod).collect();
    let some = pods.iter().step_by(pods.len().div_ceil(SAMPLE).max(1));
    let parties: Vec<_> = some.map(|pod| evaluator.party(pod, None)).collect();
    let started = Instant::now();
    let mut open = 0;
    for source in &parties {
        for destination in &parties {
            let connection = evaluator.connection(source, destination, false);
            open += usize::from(connection.allowed().ranges().next().is_some());
        }
    }
    let elapsed = started.elapsed().as_secs_f64() * 1e3;
    assert!(open > 0, "nobody reaches anybody");
    let share = count(pods.len() as u64) / count(parties.len() as u64);
    elapsed * share * share
}

/// Pods whose pairs are asked about one by one.
const SAMPLE: usize = 100;

fn line(name: &str, unit: &str, rounds: &[f64], baseline_rounds: Option<&[f64]>) -> String {
    let value = median(rounds);
    let baseline = baseline_rounds.map(median);
    let line = json!({
        "suite": "analyzer",
        "name": name,
        "unit": unit,
        "value": value,
        "baseline": baseline,
        "ratio": baseline.map(|baseline| value / baseline),
        "rounds": rounds,
        "baseline_rounds": baseline_rounds.unwrap_or_default(),
    });
    println!("{line}");
    format!("{line}\n")
}

fn median(rounds: &[f64]) -> f64 {
    let mut sorted = rounds.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

#[expect(
    clippy::cast_precision_loss,
    reason = "fewer than the integers that a float has"
)]
fn count(number: u64) -> f64 {
    number as f64
}
