// SPDX-License-Identifier: Apache-2.0
//! How do the measurements reach a reader?

use std::{collections::BTreeMap, env, fs, io::Write as _, path::PathBuf};

use aya::programs::ProgramInfo;
use serde_json::{Value, json};

use crate::cluster::Size;

/// Nanoseconds by name, one of each round.
#[derive(Default)]
pub(crate) struct Samples(BTreeMap<String, Vec<f64>>);

impl Samples {
    pub(crate) fn push(&mut self, name: &str, nanoseconds: f64) {
        self.0.entry(name.to_owned()).or_default().push(nanoseconds);
    }

    /// Lower quartile and median, less what an empty program takes.
    fn net(&self, name: &str) -> Option<(f64, f64)> {
        let family = &name[name.len() - 2..];
        let empty = self.quartiles(&format!("reference/empty/{family}"))?;
        let (lower, median) = self.quartiles(name)?;
        Some((lower - empty.0, median - empty.1))
    }

    fn quartiles(&self, name: &str) -> Option<(f64, f64)> {
        let mut times = self.0.get(name)?.clone();
        times.sort_by(f64::total_cmp);
        Some((*times.get(times.len() / 4)?, *times.get(times.len() / 2)?))
    }
}

/// What was measured, a line each.
#[derive(Default)]
pub(crate) struct Report {
    lines: Vec<Value>,
}

impl Report {
    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Records what the kernel says of a program, which is the same in every run.
    pub(crate) fn program(&mut self, name: &str, info: &ProgramInfo) {
        let size = info.size_translated().map(|bytes| u64::from(bytes / 8));
        let verified = info.verified_instruction_count().map(u64::from);
        for (what, count) in [("instructions", size), ("verified", verified)] {
            let Some(count) = count else { continue };
            println!("{name}: {count} {what}");
            self.lines.push(json!({
                "suite": "verdict", "name": format!("{name}/{what}"), "unit": "insns",
                "value": count, "baseline": null, "ratio": null,
            }));
        }
    }

    /// Records the times of a cluster and a number of flows, each beside a hit in a connection table.
    pub(crate) fn add(&mut self, size: Size, flows: &str, samples: &Samples) {
        let Size { rules, peers } = size;
        println!("{rules} rules, {peers} peers, {flows}: ns net of an empty program");
        let baseline = samples.net("reference/tracked/v4");
        for name in samples.0.keys() {
            let Some((lower, median)) = samples.net(name) else {
                continue;
            };
            if name.starts_with("reference/empty") {
                continue;
            }
            let tracked = baseline.map(|(lower, _)| lower);
            let ratio = tracked.map(|tracked| lower / tracked);
            let beside = ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
            println!("  {name:<28} {lower:>8.1} {median:>8.1} {beside:>7}");
            self.lines.push(json!({
                "suite": "verdict", "name": format!("{name}/{rules}-rules/{peers}-peers/{flows}"),
                "unit": "ns", "value": round(lower), "median": round(median),
                "baseline": tracked.map(round), "ratio": ratio.map(round),
            }));
        }
    }

    /// Writes the lines where the report page looks for them.
    pub(crate) fn write(&self) {
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(
            || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")),
            PathBuf::from,
        );
        let folder = target.join("bench");
        fs::create_dir_all(&folder).expect("the target folder is writable");
        let mut text = Vec::new();
        for line in &self.lines {
            writeln!(text, "{line}").expect("a vector takes all");
        }
        fs::write(folder.join("verdict.jsonl"), text).expect("the target folder is writable");
    }
}

fn round(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}
