// SPDX-License-Identifier: Apache-2.0
//! What does following one change cost, next to compiling everything again?
//!
//! Prints a line per result and writes them to `target/bench/changes.jsonl` as
//! `{"suite", "name", "unit", "value", "baseline", "ratio"}`; `ratio` is the baseline's value by ours.
//! `NETPOL_BENCH_SIZE=small|medium|large` bounds the clusters (default `medium`: 10,000 pods).

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark reports and stops"
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    env, fs,
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use policy_compiler::{
    Snapshot,
    change::Change,
    compile::{Applied, Compiler, Delta, Scope, compile},
    lower::{Capacity, Lowered, Reasons},
    model::{Labels, NetworkPolicy, Pod, PodKey},
    synthetic::{Kind, Shape, cluster, grid, matches_one_by_one, node_name},
};
use serde_json::json;

/// Counts what is allocated.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static LIVE: AtomicU64 = AtomicU64::new(0);
static PEAK: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        let size = layout.size() as u64;
        let live = LIVE.fetch_add(size, Relaxed) + size;
        PEAK.fetch_max(live, Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as u64, Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Results so far, as lines of JSON.
#[derive(Default)]
struct Report(Vec<String>);

impl Report {
    fn add(&mut self, name: &str, unit: &str, value: f64, baseline: Option<(&str, f64)>) {
        let (baseline, ratio) = baseline.map(|(name, of)| (name, of / value)).unzip();
        let line = json!({
            "suite": "compiler",
            "name": name,
            "unit": unit,
            "value": value,
            "baseline": baseline,
            "ratio": ratio,
        });
        println!("{line}");
        self.0.push(line.to_string());
    }

    /// The middle and the 99th of a hundred, and allocations per run.
    fn percentiles(&mut self, name: &str, mut runs: Vec<f64>, allocations: f64, scratch: f64) {
        runs.sort_by(f64::total_cmp);
        let at = |part: usize| runs[(runs.len() * part / 100).min(runs.len() - 1)];
        self.add(
            &format!("{name}, p50"),
            "ns",
            at(50),
            Some(("scratch", scratch)),
        );
        self.add(
            &format!("{name}, p99"),
            "ns",
            at(99),
            Some(("scratch", scratch)),
        );
        self.add(&format!("{name}, allocations"), "count", allocations, None);
    }
}

fn main() {
    let largest = match env::var("NETPOL_BENCH_SIZE").as_deref() {
        Ok("small") => 1_000,
        Ok("large") => 100_000,
        _ => 10_000,
    };
    let mut report = Report::default();
    for (name, shape) in grid(largest) {
        measure(&name, &shape, &mut report);
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    fs::create_dir_all(&folder).expect("the target folder can be written");
    fs::write(folder.join("changes.jsonl"), report.0.join("\n") + "\n")
        .expect("results can be written");
}

fn measure(name: &str, shape: &Shape, report: &mut Report) {
    let snapshot = cluster(shape);
    let node = node_name(0);
    let scope = Scope::Node(node.clone());
    let cold = median(5, || {
        black_box(compile(&snapshot, &scope));
    });
    // The time of the naive way grows with both; beyond this it is minutes.
    let naive = (shape.kind == Kind::Realistic && shape.pods <= 10_000).then(|| {
        median(1, || {
            black_box(matches_one_by_one(&snapshot));
        })
    });
    let naive = naive.map(|naive| ("naive", naive));
    report.add(&format!("{name}: one node, cold"), "ns", cold, naive);
    if shape.kind == Kind::Realistic {
        let whole = median(1, || {
            black_box(compile(&snapshot, &Scope::Cluster));
        });
        report.add(&format!("{name}: whole cluster, cold"), "ns", whole, naive);
    }

    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let started = Instant::now();
    let mut follower = Follower::new(&node, snapshot);
    let built = elapsed(started);
    let bytes = |counter: &AtomicU64| as_f64(counter.load(Relaxed).saturating_sub(before));
    report.add(
        &format!("{name}: compiler and image, cold"),
        "ns",
        built,
        naive,
    );
    report.add(
        &format!("{name}: compiler and image, state"),
        "bytes",
        bytes(&LIVE),
        None,
    );
    report.add(
        &format!("{name}: compiler and image, peak"),
        "bytes",
        bytes(&PEAK),
        None,
    );
    let tables = follower.compiler.tables();
    report.add(
        &format!("{name}: classes"),
        "count",
        f64::from(tables.classes),
        None,
    );
    report.add(
        &format!("{name}: rows"),
        "count",
        as_f64(tables.rows.len() as u64),
        None,
    );
    for (change, make) in CHANGES {
        let made = make(follower.compiler.snapshot(), &node);
        let (mut runs, mut outcomes) = (Vec::with_capacity(made.len()), [0; 4]);
        let allocated = ALLOCATIONS.load(Relaxed);
        for change in &made {
            let change = change.clone();
            let started = Instant::now();
            let outcome = follower.apply(change);
            runs.push(elapsed(started));
            outcomes[outcome as usize] += 1;
        }
        let allocations = as_f64(ALLOCATIONS.load(Relaxed) - allocated) / as_f64(made.len() as u64);
        println!("{name}: {change}: unchanged, followed, laid out, rebuilt: {outcomes:?}");
        report.percentiles(&format!("{name}: {change}"), runs, allocations, built);
    }
}

struct Follower {
    compiler: Compiler,
    lowered: Option<Lowered>,
    reasons: Reasons,
}

#[derive(Clone, Copy)]
enum Outcome {
    Unchanged,
    Followed,
    LaidOut,
    Rebuilt,
}

impl Follower {
    fn new(node: &Arc<str>, snapshot: Snapshot) -> Self {
        let compiler = Compiler::new(node, snapshot);
        let mut this = Self {
            compiler,
            lowered: None,
            reasons: Reasons::default(),
        };
        this.lay_out();
        this
    }

    /// Adversarial clusters need not fit the maps.
    fn lay_out(&mut self) {
        let tables = self.compiler.tables();
        self.lowered = Lowered::new(tables, &Capacity::default(), &mut self.reasons).ok();
    }

    fn apply(&mut self, change: Change) -> Outcome {
        let outcome = match self.compiler.apply(change) {
            Applied::Unchanged => return Outcome::Unchanged,
            Applied::Delta(delta) if self.follow(&delta) => return Outcome::Followed,
            Applied::Delta(_) => Outcome::LaidOut,
            Applied::Rebuilt => Outcome::Rebuilt,
        };
        self.lay_out();
        outcome
    }

    fn follow(&mut self, delta: &Delta) -> bool {
        let tables = self.compiler.tables();
        let (capacity, reasons) = (Capacity::default(), &mut self.reasons);
        let lowered = self.lowered.take();
        self.lowered =
            lowered.and_then(|lowered| lowered.follow(tables, delta, &capacity, reasons));
        self.lowered.is_some()
    }
}

/// Makes some changes of one sort.
type Make = fn(&Snapshot, &Arc<str>) -> Vec<Change>;

const CHANGES: [(&str, Make); 7] = [
    ("pod added, labels known", |snapshot, _| {
        add_pods(snapshot, |labels, _| labels)
    }),
    ("pod added, labels new", |snapshot, _| {
        add_pods(snapshot, |mut labels, index| {
            labels.insert("app".into(), format!("new-{index}").into());
            labels
        })
    }),
    ("pod gone", |snapshot, _| {
        let pods = spread(snapshot.pods.keys().cloned().collect());
        pods.into_iter().map(|key| Change::Pod(key, None)).collect()
    }),
    ("label of a pod changed", |snapshot, _| {
        let pods = spread(snapshot.pods.values().cloned().collect());
        let change = |pod: Arc<Pod>| {
            let mut pod = (*pod).clone();
            pod.labels.insert("tier".into(), "other".into());
            Change::Pod(pod.key.clone(), Some(Arc::new(pod)))
        };
        pods.into_iter().map(change).collect()
    }),
    ("any policy changed", |snapshot, _| {
        let policies = spread(snapshot.network_policies.values().cloned().collect());
        policies.iter().map(swap_rules).collect()
    }),
    ("policy of a pod of the node changed", |snapshot, node| {
        let selects = |policy: &&Arc<NetworkPolicy>| {
            let local = snapshot
                .pods
                .values()
                .filter(|pod| pod.node.as_ref() == Some(node));
            local.into_iter().any(|pod| {
                pod.key.namespace == policy.namespace && policy.pod_selector.matches(&pod.labels)
            })
        };
        let policies: Vec<_> = snapshot
            .network_policies
            .values()
            .filter(selects)
            .cloned()
            .collect();
        spread(policies).iter().map(swap_rules).collect()
    }),
    ("label of a namespace changed", |snapshot, _| {
        let namespaces = spread(snapshot.namespaces.values().cloned().collect());
        let change = |namespace: Arc<policy_compiler::model::Namespace>| {
            let mut labels = namespace.labels.clone();
            labels.insert("team".into(), "team-7".into());
            Change::Namespace(namespace.name.clone(), Some(labels))
        };
        namespaces.into_iter().map(change).collect()
    }),
];

/// Two hundred of them at most, evenly spread.
fn spread<T>(all: Vec<T>) -> Vec<T> {
    let step = all.len().div_ceil(200).max(1);
    all.into_iter().step_by(step).collect()
}

fn add_pods(snapshot: &Snapshot, labels: impl Fn(Labels, u32) -> Labels) -> Vec<Change> {
    let pods = spread(snapshot.pods.values().collect());
    let add = |(index, like): (u32, &Arc<Pod>)| {
        let mut pod = (**like).clone();
        let name = format!("added-{}-{index}", labels(Labels::default(), index).0.len());
        pod.key = PodKey::new(&like.key.namespace, &name);
        pod.labels = labels(pod.labels, index);
        pod.node = Some("elsewhere".into());
        let [.., high, low] = index.to_be_bytes();
        pod.addresses = vec![IpAddr::V4(Ipv4Addr::new(10, 250, high, low))];
        Change::Pod(pod.key.clone(), Some(Arc::new(pod)))
    };
    (0..).zip(pods).map(add).collect()
}

/// The policy with its first ingress rule last.
fn swap_rules(policy: &Arc<NetworkPolicy>) -> Change {
    let mut policy = NetworkPolicy::clone(policy);
    for rules in [&mut policy.ingress, &mut policy.egress]
        .into_iter()
        .flatten()
    {
        rules.reverse();
        for peers in rules.iter_mut().filter_map(|rule| rule.peers.as_mut()) {
            peers.truncate(1);
        }
    }
    let key = (policy.namespace.clone(), policy.name.clone());
    Change::NetworkPolicy(key, Some(Arc::new(policy)))
}

fn median(runs: usize, mut run: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..runs)
        .map(|_| {
            let started = Instant::now();
            run();
            elapsed(started)
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn elapsed(started: Instant) -> f64 {
    started.elapsed().as_secs_f64() * 1e9
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn as_f64(count: u64) -> f64 {
    count as f64
}
