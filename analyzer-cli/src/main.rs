// SPDX-License-Identifier: Apache-2.0
//! netpol-analyze: what network policies do, before they are applied.

use std::process::ExitCode;

fn main() -> ExitCode {
    analyzer_cli::main().into()
}
