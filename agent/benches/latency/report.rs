// SPDX-License-Identifier: Apache-2.0
//! How do the measurements reach a reader?

use std::{env, fs, io::Write as _, path::PathBuf};

use serde_json::{Value, json};

/// What was measured, a line each.
#[derive(Default)]
pub(crate) struct Report(Vec<Value>);

impl Report {
    /// Records one number, and what it was made of if it was made of several.
    pub(crate) fn add(&mut self, name: &str, unit: &str, value: f64, rounds: &[f64]) {
        println!("{name:<44} {value:>10.2} {unit}");
        let rounds: Vec<f64> = rounds.iter().copied().map(rounded).collect();
        self.0.push(json!({
            "suite": "latency", "name": name, "unit": unit, "value": rounded(value),
            "baseline": null, "ratio": null, "rounds": rounds,
        }));
    }

    /// Records the middle, the far end and the end of some times in milliseconds.
    pub(crate) fn distribution(&mut self, name: &str, times: &mut [f64]) {
        times.sort_by(f64::total_cmp);
        let at = |share: usize| times.get((times.len() * share).div_ceil(100).saturating_sub(1));
        for (what, share) in [("p50", 50), ("p90", 90), ("p99", 99), ("max", 100)] {
            if let Some(value) = at(share) {
                let rounds: &[f64] = if share == 50 { times } else { &[] };
                self.add(&format!("{name}/{what}"), "ms", *value, rounds);
            }
        }
    }

    /// Writes the lines to `bench/latency.jsonl` in the target folder.
    pub(crate) fn write(&self) {
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(
            || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")),
            PathBuf::from,
        );
        let folder = target.join("bench");
        fs::create_dir_all(&folder).expect("the target folder is writable");
        let mut lines = Vec::new();
        for line in &self.0 {
            writeln!(lines, "{line}").expect("a vector takes all");
        }
        fs::write(folder.join("latency.jsonl"), lines).expect("the target folder is writable");
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
