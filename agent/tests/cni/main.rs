// SPDX-License-Identifier: Apache-2.0
//! The standard network plugins, run for real: whose are the interfaces they make, and are their packets
//! judged? Needs root and Debian's containernetworking-plugins, or `CNI_PATH`.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests"
)]

mod bypass;
mod container;
mod hold;
mod measures;
mod node;
mod plugins;
mod start;
