// SPDX-License-Identifier: Apache-2.0
//! What does the shell need to know? `completions` and `man`, from the definitions of the arguments.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{
    Io,
    args::{Cli, CompletionsArgs, TextOnly},
    exit::ExitStatus,
};

/// Runs `completions`.
pub fn completions(io: &Io<'_>, args: &CompletionsArgs) -> anyhow::Result<ExitStatus> {
    io.format::<TextOnly>()?;
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut Cli::command(),
        "netpol-analyze",
        &mut script,
    );
    let script = String::from_utf8_lossy(&script);
    io.answer(&match args.shell {
        Shell::Bash => bash(&script),
        Shell::Zsh => zsh(&script),
        Shell::Fish => script.into_owned() + include_str!("shell/names.fish"),
        // Words of the command line only.
        _ => script.into_owned(),
    })?;
    Ok(ExitStatus::Success)
}

/// Adds names to what bash completes.
fn bash(script: &str) -> String {
    // The generator takes the hyphen of the program's name for the start of a subcommand in one of two
    // places, after which no subcommand is ever found.
    let script = script.replace("netpol__subcmd__analyze", "netpol__analyze");
    let main = script.split("()").next().unwrap_or_default();
    let names = include_str!("shell/names.bash").replace("WORDS_OF_THE_COMMAND_LINE", main);
    script.clone() + &names
}

/// Adds names to what zsh completes: where an argument is one, a function takes the place of files.
fn zsh(script: &str) -> String {
    const ENDS: [&str; 3] = ["':src --", "':dst --", "'::workload --"];
    let completed = script.lines().map(|line| {
        let line = line.replace(":NS:_default'", ":NS:_netpol-analyze_namespaces'");
        let line = line.replace(":PODS:_default'", ":PODS:_netpol-analyze_ends'");
        let names = ENDS.iter().any(|end| line.starts_with(end));
        let line = match line.strip_suffix(":_default' \\").filter(|_| names) {
            Some(end) => format!("{end}:_netpol-analyze_ends' \\"),
            None => line,
        };
        line + "\n"
    });
    let script: String = completed.collect();
    // Before anything runs: a script that the shell loads by itself completes at its end.
    let start = "autoload -U is-at-least\n";
    let names = include_str!("shell/names.zsh");
    script.replacen(start, &format!("{start}{names}"), 1)
}

/// Runs `man`: the page of the program, then one per command.
pub fn man(io: &Io<'_>) -> anyhow::Result<ExitStatus> {
    io.format::<TextOnly>()?;
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
