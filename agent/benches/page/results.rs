// SPDX-License-Identifier: Apache-2.0
//! What did the benchmarks write?

use std::{collections::BTreeMap, fs, io, path::Path};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::record::{Record, median};

/// Suites, in the order of the page.
pub(crate) const SUITES: [&str; 5] = ["wire", "verdict", "latency", "compiler", "analyzer"];

/// Everything a page is made of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    /// By suite and name.
    records: BTreeMap<(String, String), Record>,
}

/// Where and when the numbers were taken, a line each: what, and what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine(pub(crate) Vec<(String, String)>);

impl Results {
    /// The files of a folder; a suite that did not run has none.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let text = |name: &str| {
            let path = folder.join(name);
            match fs::read_to_string(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
                read => read.with_context(|| format!("cannot read `{}`", path.display())),
            }
        };
        let mut suites = Vec::new();
        for suite in SUITES {
            suites.push(text(&format!("{suite}.jsonl"))?);
        }
        Self::parse(&text("machine.json")?, suites.iter().map(String::as_str))
    }

    /// The same of their contents.
    pub(crate) fn parse<'t>(
        machine: &str,
        suites: impl IntoIterator<Item = &'t str>,
    ) -> Result<Self> {
        let mut results = Self::default();
        if !machine.is_empty() {
            results.machine =
                serde_json::from_str(machine).context("this is no description of a machine")?;
        }
        for line in suites.into_iter().flat_map(str::lines) {
            let record: Record =
                serde_json::from_str(line).with_context(|| format!("this is no result: {line}"))?;
            let key = (record.suite.clone(), record.name.clone());
            results.records.insert(key, record);
        }
        Ok(results)
    }

    /// A quantity as it was measured.
    pub(crate) fn value(&self, suite: &str, name: &str) -> Option<f64> {
        Some(self.record(suite, name)?.value)
    }

    /// What a quantity has on top of its baseline.
    pub(crate) fn added(&self, suite: &str, name: &str) -> Option<f64> {
        added(self.record(suite, name)?)
    }

    /// A time in milliseconds.
    pub(crate) fn milliseconds(&self, suite: &str, name: &str) -> Option<f64> {
        self.record(suite, name)?.milliseconds()
    }

    /// One record.
    pub(crate) fn record(&self, suite: &str, name: &str) -> Option<&Record> {
        self.records.get(&(suite.to_owned(), name.to_owned()))
    }

    /// The records of a suite, by name.
    pub(crate) fn suite(&self, suite: &str) -> impl Iterator<Item = &Record> {
        let suite = suite.to_owned();
        self.records
            .values()
            .filter(move |record| record.suite == suite)
    }
}

/// Median of what each round has on top of its own baseline: what the machine does to both alike
/// cancels out.
pub(crate) fn added(record: &Record) -> Option<f64> {
    if record.rounds.len() != record.baseline_rounds.len() {
        return Some(record.value - record.baseline?);
    }
    let pairs = record.rounds.iter().zip(&record.baseline_rounds);
    let added: Vec<f64> = pairs.map(|(round, baseline)| round - baseline).collect();
    median(&added)
}
