// SPDX-License-Identifier: Apache-2.0
//! One module per command.

pub mod diff;
pub mod exposure;
pub mod generate;
pub mod graph;
pub mod inputs;
pub mod lint;
pub mod matrix;
pub mod migrate;
pub mod names;
pub mod reach;
pub mod replay;
pub mod rule;
pub mod shell;
pub mod snapshot;
pub mod test;
