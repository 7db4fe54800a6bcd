// SPDX-License-Identifier: Apache-2.0
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "tests"
)]
//! The datapath in the kernel. Needs root and a bpffs.

mod corpus;
mod crowd;
mod evasion;
mod frames;
mod gate;
mod lab;
mod state;
mod updates;
mod verdicts;
mod wire;
