// SPDX-License-Identifier: Apache-2.0
//! What is one line of a benchmark's result?

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// One quantity, measured several times. Written as one line of JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Which benchmark: `analyzer`, `compiler`, `latency`, `verdict` or `wire`.
    pub(crate) suite: String,
    /// What was measured, and of what: `tcp_rr/ours-tcx`.
    pub(crate) name: String,
    /// Unit of `value`, `baseline` and both kinds of rounds.
    pub(crate) unit: String,
    /// Median of the rounds, or what else the name says.
    pub(crate) value: f64,
    /// Median of what it is compared with, measured in the same run, in the same unit.
    #[serde(default, deserialize_with = "number_or_none")]
    pub(crate) baseline: Option<f64>,
    /// `value` divided by `baseline`, for other readers than the page.
    #[serde(default)]
    pub(crate) ratio: Option<f64>,
    /// What each round measured, in the order of the rounds.
    #[serde(default)]
    pub(crate) rounds: Vec<f64>,
    /// What the same rounds measured of the baseline; empty if the baseline has no rounds of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) baseline_rounds: Vec<f64>,
}

impl Record {
    /// A time in milliseconds; `None` if it is none.
    pub(crate) fn milliseconds(&self) -> Option<f64> {
        let divisor = match self.unit.as_str() {
            "ms" => 1.0,
            "us" => 1e3,
            "ns" => 1e6,
            _ => return None,
        };
        Some(self.value / divisor)
    }

    /// A quantity without baseline; `None` without rounds.
    pub(crate) fn new(suite: &str, name: &str, unit: &str, rounds: Vec<f64>) -> Option<Self> {
        Some(Self {
            suite: suite.to_owned(),
            name: name.to_owned(),
            unit: unit.to_owned(),
            value: median(&rounds)?,
            baseline: None,
            ratio: None,
            rounds,
            baseline_rounds: Vec::new(),
        })
    }
}

/// A benchmark may name what it compares with where it has no number.
fn number_or_none<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
    Ok(Value::deserialize(from)?.as_f64())
}

/// The middle one, or the mean of the middle two; `None` of nothing.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => sorted.get(middle).copied(),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}
