// SPDX-License-Identifier: Apache-2.0
//! What does policy cost a packet on the wire, next to other ways to enforce the same policy?
//!
//! Every reading takes a world of its own and measures it twice: without policy, and with the
//! configuration. What is reported is what the second has on top of the first. Rounds go through the
//! configurations in another order each. A reading whose configuration does not let through and hold
//! back what it should is thrown away.
//!
//! Of configurations with programs of BPF the kernel also says what a run of one takes amid the packets
//! of a connection.
//!
//! Everything is made inside network namespaces and goes with them, also after a signal or a crash.
//! Needs root.
//!
//! | variable | what it sets | default |
//! |---|---|---|
//! | `NETPOL_BENCH_QUICK=1` | short readings, fewer rounds | |
//! | `NETPOL_BENCH_ROUNDS` | rounds | 9, quick 5 |
//! | `NETPOL_BENCH_SEED` | order of the configurations | 1 |
//! | `NETPOL_BENCH_ONLY` | configurations, comma-separated | all |
//!
//! Writes `bench/wire.jsonl` in the target folder.

#![expect(clippy::print_stderr, reason = "a benchmark says what it does")]

pub(crate) mod configuration;
mod hook;
pub(crate) mod load;
mod netfilter;
pub(crate) mod ours;
pub(crate) mod programs;
mod queue;
pub(crate) mod world;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, mpsc},
    thread,
    time::Duration,
};

use agent::demo::Root;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use configuration::{CONFIGURATIONS, Configuration, Size};
use load::{Measure, Quantity};
use ours::Scale;
use world::World;

/// Where worlds are kept.
const PLACE: &str = "/run/netpol-bench";
/// Ended by a signal, as shells report it.
const INTERRUPTED: i32 = 130;
/// Longer than any reading takes, on any machine: a reading that does is stuck.
const STUCK: Duration = Duration::from_mins(2);

/// What is rebuilt for every reading at full size.
const FULL: Size = Size {
    cluster: Scale {
        pods: 10_000,
        policies: 1_000,
    },
    elements: 100_000,
};

fn main() -> ExitCode {
    // Who runs every target of the project asks for no measurement.
    if !env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let plan = Plan::from_environment()?;
    let here = Place::watched()?;
    let is_realtime =
        thread::scope(|scope| scope.spawn(|| load::pin(plan.cpu)).join()).unwrap_or_default();
    eprintln!(
        "wire: {} configurations, {} rounds, seed {}, CPU {}, real-time priority {}",
        plan.configurations.len(),
        plan.rounds,
        plan.seed,
        plan.cpu,
        if is_realtime { "granted" } else { "refused" }
    );

    let mut results = Results::default();
    let mut random = plan.seed;
    for round in 0..plan.rounds {
        let mut order = plan.configurations.clone();
        shuffle(&mut order, &mut random);
        for configuration in order {
            match read(&here, &plan, &configuration) {
                Ok(readings) => results.add(configuration.name, readings),
                Err(error) => {
                    eprintln!("round {round}, {}: left out: {error:#}", configuration.name);
                }
            }
        }
        eprintln!("round {} of {} done", round + 1, plan.rounds);
    }
    let lines = results.lines();
    ensure!(!lines.is_empty(), "nothing could be measured");
    let text: Vec<String> = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::create_dir_all(&plan.dir)?;
    let path = plan.dir.join("wire.jsonl");
    fs::write(&path, text.concat())
        .with_context(|| format!("cannot write `{}`", path.display()))?;
    eprintln!("{} results in {}", lines.len(), path.display());
    Ok(())
}

/// A quantity without and with the configuration.
type Reading = (Quantity, Quantity);

/// Measures one configuration in a world of its own.
fn read(here: &Place, plan: &Plan, configuration: &Configuration) -> Result<Vec<Reading>> {
    let root = here.claim()?;
    let world = World::new(&root)?;
    world.check(false).context("without policy")?;
    let wanted: Vec<Measure> = Measure::ALL
        .into_iter()
        .filter(|measure| configuration.bears(*measure))
        .collect();
    let take = || -> Result<Vec<Quantity>> {
        let mut quantities = Vec::new();
        for measure in &wanted {
            let taken = measure.take(&world, plan.cpu, plan.time);
            quantities.extend(taken.with_context(|| format!("cannot measure {measure:?}"))?);
        }
        Ok(quantities)
    };
    let before = take()?;
    let known = programs::loaded();
    let in_force = configuration.apply(&world, &plan.size, plan.cpu)?;
    world.check(configuration.enforces)?;
    let after = take()?;
    let transactions = || Measure::TcpRr.take(&world, plan.cpu, plan.time).map(drop);
    let run = programs::mean(&known, transactions)?;
    drop(in_force);
    let mut readings: Vec<Reading> = before.into_iter().zip(after).collect();
    // Without the configuration there are no programs.
    let quantity = |nanoseconds| ("tcp_rr_program", "ns", nanoseconds);
    readings.extend(run.map(|run| (quantity(0.0), quantity(run))));
    Ok(readings)
}

/// What the environment asks for.
struct Plan {
    configurations: Vec<Configuration>,
    rounds: u32,
    seed: u64,
    /// The CPU on which everything happens.
    cpu: usize,
    /// How long each quantity is measured.
    time: Duration,
    size: Size,
    dir: PathBuf,
}

impl Plan {
    fn from_environment() -> Result<Self> {
        let is_quick = env::var("NETPOL_BENCH_QUICK").is_ok_and(|value| value != "0");
        let number = |name: &str, default: u32| match env::var(name) {
            Ok(text) => text
                .parse()
                .with_context(|| format!("`{name}` is no number: `{text}`")),
            Err(_) => Ok(default),
        };
        let only = env::var("NETPOL_BENCH_ONLY").ok();
        let wanted = |name: &str| {
            let mut names = only.iter().flat_map(|names| names.split(','));
            only.is_none() || names.any(|wanted| wanted == name)
        };
        let configurations: Vec<Configuration> = CONFIGURATIONS
            .into_iter()
            .filter(|configuration| wanted(configuration.name))
            .collect();
        ensure!(
            !configurations.is_empty(),
            "`NETPOL_BENCH_ONLY` names no configuration"
        );
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(
            || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")),
            PathBuf::from,
        );
        Ok(Self {
            configurations,
            rounds: number("NETPOL_BENCH_ROUNDS", if is_quick { 5 } else { 9 })?,
            seed: u64::from(number("NETPOL_BENCH_SEED", 1)?),
            // The last one: the first takes more than its share of interrupts.
            cpu: thread::available_parallelism()?.get() - 1,
            time: Duration::from_millis(if is_quick { 120 } else { 400 }),
            size: FULL,
            dir: target.join("bench"),
        })
    }
}

/// Rounds by quantity and configuration.
#[derive(Default)]
struct Results(BTreeMap<(&'static str, &'static str), Rounds>);

#[derive(Default)]
struct Rounds {
    unit: &'static str,
    baseline: Vec<f64>,
    values: Vec<f64>,
}

impl Results {
    fn add(&mut self, configuration: &'static str, readings: Vec<Reading>) {
        for ((name, unit, before), (_, _, after)) in readings {
            let rounds = self.0.entry((name, configuration)).or_default();
            rounds.unit = unit;
            rounds.baseline.push(thousandths(before));
            rounds.values.push(thousandths(after));
        }
    }

    /// Quantities by name, configurations in the order of their list.
    fn lines(self) -> Vec<Value> {
        let mut rows: Vec<_> = self.0.into_iter().collect();
        let place = |name: &str| CONFIGURATIONS.iter().position(|c| c.name == name);
        rows.sort_by_key(|((quantity, configuration), _)| (*quantity, place(configuration)));
        let lines = rows.into_iter().map(|((quantity, configuration), rounds)| {
            let (value, baseline) = (median(&rounds.values), median(&rounds.baseline));
            json!({
                "suite": "wire",
                "name": format!("{quantity}/{configuration}"),
                "unit": rounds.unit,
                "value": value,
                "baseline": baseline,
                "ratio": thousandths(value / baseline),
                "rounds": rounds.values,
                "baseline_rounds": rounds.baseline,
            })
        });
        lines.collect()
    }
}

/// The folder below which worlds are made, watched by a thread that removes the one that is there when
/// a signal comes or nothing moves any more.
struct Place {
    current: Arc<Mutex<Weak<Root>>>,
    beats: mpsc::Sender<()>,
}

impl Place {
    fn watched() -> Result<Self> {
        let current = Arc::new(Mutex::new(Weak::new()));
        let watched = current.clone();
        let (beats, beating) = mpsc::channel();
        let end = move |code: i32| -> ! {
            // Held until the process is gone: nothing new is made.
            let root: MutexGuard<'_, Weak<Root>> =
                watched.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(root) = root.upgrade()
                && root.close().is_ok()
            {
                let _ = fs::remove_file(Path::new(PLACE).join("lock"));
                let _ = fs::remove_dir(PLACE);
            }
            std::process::exit(code)
        };
        let end = Arc::new(end);
        let interrupted = end.clone();
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                if wait_for_signal().is_ok() {
                    interrupted(INTERRUPTED);
                }
            })?;
        thread::Builder::new()
            .name("watchdog".into())
            .spawn(move || {
                loop {
                    match beating.recv_timeout(STUCK) {
                        Ok(()) => {}
                        Err(mpsc::RecvTimeoutError::Disconnected) => return,
                        Err(mpsc::RecvTimeoutError::Timeout) => {
                            eprintln!("error: a reading is stuck");
                            end(1);
                        }
                    }
                }
            })?;
        Ok(Self { current, beats })
    }

    /// A folder for the next world. What an earlier run left there is removed.
    fn claim(&self) -> Result<Arc<Root>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let root = Arc::new(Root::claim(Path::new(PLACE))?);
        *current = Arc::downgrade(&root);
        let _ = self.beats.send(());
        Ok(root)
    }
}

fn wait_for_signal() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        Ok(())
    })
}

/// The middle one, the upper one of two. Rounds are never without a value.
fn median(rounds: &[f64]) -> f64 {
    let mut sorted = rounds.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Less than a thousandth of any unit is noise.
fn thousandths(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// Fisher and Yates, with numbers from a 64-bit linear congruential generator.
fn shuffle<T>(items: &mut [T], state: &mut u64) {
    for last in (1..items.len()).rev() {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let bound = last as u64 + 1;
        let chosen = usize::try_from((*state >> 33) % bound).unwrap_or_default();
        items.swap(last, chosen);
    }
}
