// SPDX-License-Identifier: Apache-2.0
//! Compiles Kubernetes network policies into verdict tables, and says why for every verdict.
//!
//! ```text
//! text ──manifest──▶ objects ──parse──▶ model (Snapshot) ──compile──▶ Tables ──lower──▶ map images
//!                                          │                             │
//!                                          └──reference (the oracle)     └──explain, diff, lint, graph
//! ```
//!
//! The crate is pure: it does no I/O, reads no clock, spawns no thread and never panics on input.
//! Every stage after text takes values that an earlier stage validated; what could not be validated
//! is a [`diagnostic::Diagnostic`] beside the result, never a missing result.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod api;
#[cfg(feature = "strategies")]
pub mod cases;
pub mod change;
pub mod compile;
pub mod diagnostic;
pub mod difference;
pub mod explain;
pub mod exposure;
pub mod graph;
pub mod lint;
pub mod lower;
pub mod manifest;
pub mod migrate;
pub mod model;
pub mod parse;
pub mod partial;
pub mod portmap;
pub mod ranges;
pub mod reach;
pub mod reference;
pub mod snapshot;
#[cfg(feature = "strategies")]
pub mod strategies;
pub mod symbolic;
pub mod synthetic;
pub mod verdict;

pub use snapshot::Snapshot;
pub use verdict::{Decision, Flow, Reason, RuleRef, Trace, Verdict};
