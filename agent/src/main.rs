// SPDX-License-Identifier: Apache-2.0
//! `netpol-agent`: enforces network policies on one node.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let line: Vec<_> = std::env::args_os().collect();
    if agent::cni::plugin::is_meant(&line) {
        return agent::cni::plugin::run();
    }
    match agent::config_file::complete(line) {
        Ok(line) => agent::run::run(&agent::args::Args::parse_from(line)),
        Err(error) => agent::run::refuse(&error),
    }
}
