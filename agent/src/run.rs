// SPDX-License-Identifier: Apache-2.0
//! How does each command start and end?

use std::process::ExitCode;

use crate::{
    args::{Args, Command},
    telemetry,
};

/// Runs the command and reports how it went.
pub fn run(args: &Args) -> ExitCode {
    telemetry::init(args.log_format, &args.log);
    match args.command {
        Command::Version => {
            anstream::println!("netpol-agent {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
    }
}
