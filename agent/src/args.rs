// SPDX-License-Identifier: Apache-2.0
//! What can `netpol-agent` be asked to do?

use clap::{Parser, Subcommand};

use crate::telemetry::LogFormat;

/// Enforces Kubernetes network policies on one node with eBPF.
#[derive(Clone, Debug, Parser)]
#[command(name = "netpol-agent", version, max_term_width = 100)]
pub struct Args {
    /// Shape of log lines on standard error.
    #[arg(
        long,
        global = true,
        env = "NETPOL_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub log_format: LogFormat,
    /// Which log lines to write, as `RUST_LOG` would say it.
    #[arg(
        long,
        global = true,
        env = "NETPOL_LOG",
        value_name = "FILTER",
        default_value = "info"
    )]
    pub log: String,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `netpol-agent` does.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Print the version.
    Version,
}
