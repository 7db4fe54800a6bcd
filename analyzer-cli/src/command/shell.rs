// SPDX-License-Identifier: Apache-2.0
//! What does the shell need to know? `completions` and `man`, from the definitions of the arguments.

use clap::CommandFactory;

use crate::{
    Io,
    args::{Cli, CompletionsArgs},
    exit::ExitStatus,
};

/// Runs `completions`.
pub fn completions(io: &Io<'_>, args: &CompletionsArgs) -> anyhow::Result<ExitStatus> {
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut Cli::command(),
        "netpol-analyze",
        &mut script,
    );
    io.answer(&String::from_utf8_lossy(&script))?;
    Ok(ExitStatus::Success)
}

/// Runs `man`: the page of the program, then one per command.
pub fn man(io: &Io<'_>) -> anyhow::Result<ExitStatus> {
    let mut page = Vec::new();
    let mut command = Cli::command();
    command.build();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    for sub in command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set() && sub.get_name() != "help")
    {
        clap_mangen::Man::new(sub.clone()).render(&mut page)?;
    }
    io.answer(&String::from_utf8_lossy(&page))?;
    Ok(ExitStatus::Success)
}
