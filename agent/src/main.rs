// SPDX-License-Identifier: Apache-2.0
//! `netpol-agent`: enforces network policies on one node.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    agent::run::run(&agent::args::Args::parse())
}
