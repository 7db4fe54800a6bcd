// SPDX-License-Identifier: Apache-2.0
//! What did criterion measure?

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::record::Record;

/// `benchmark.json`: what was measured.
#[derive(Deserialize)]
struct Benchmark {
    full_id: String,
}

/// `sample.json`: how often it ran, and how many nanoseconds that took.
#[derive(Deserialize)]
struct Sample {
    iters: Vec<f64>,
    times: Vec<f64>,
}

/// Every benchmark below criterion's folder, in milliseconds, by name. What has a naive counterpart
/// (`node/compile/x` and `node/naive/x`) is compared with it.
pub(crate) fn read(folder: &Path) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for path in newest(folder)? {
        let benchmark: Benchmark = json(&path.join("benchmark.json"))?;
        let sample: Sample = json(&path.join("sample.json"))?;
        let pairs = sample.times.iter().zip(&sample.iters);
        let rounds = pairs.map(|(time, iterations)| thousandths(time / iterations / 1e6));
        records.extend(Record::new(
            "compiler",
            &benchmark.full_id,
            "ms",
            rounds.collect(),
        ));
    }
    records.sort_by(|a, b| a.name.cmp(&b.name));
    let naive: Vec<Record> = records
        .iter()
        .filter(|record| record.name.contains("/naive/"))
        .cloned()
        .collect();
    for record in &mut records {
        let counterpart = record.name.replace("/compile/", "/naive/");
        let counterpart = naive.iter().find(|naive| naive.name == counterpart);
        if let Some(naive) = counterpart.filter(|naive| naive.name != record.name) {
            record.baseline = Some(naive.value);
            record.ratio = Some(record.value / naive.value);
        }
    }
    Ok(records)
}

/// The folders of the newest run.
fn newest(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.with_context(|| format!("cannot read `{}`", folder.display()))?,
        };
        for entry in entries {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                continue;
            }
            if entry.file_name() == "new" {
                found.push(entry.path());
            } else {
                folders.push(entry.path());
            }
        }
    }
    Ok(found)
}

fn json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("cannot understand `{}`", path.display()))
}

/// Microseconds are as much as a millisecond's benchmark can tell.
fn thousandths(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
