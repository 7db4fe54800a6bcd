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
    let mut script = String::from_utf8_lossy(&script).into_owned();
    if args.shell == clap_complete::Shell::Bash {
        // The generator takes the hyphen of the program's name for the start of a subcommand in one of
        // two places, after which no subcommand is ever found.
        script = script.replace("netpol__subcmd__analyze", "netpol__analyze");
        let main = script.split("()").next().unwrap_or_default().to_owned();
        script.push_str(&BASH_NAMES.replace("WORDS_OF_THE_COMMAND_LINE", &main));
    }
    io.answer(&script)?;
    Ok(ExitStatus::Success)
}

/// What bash adds to the words of the command line: names, from the input that it names so far. A
/// cluster is never asked.
const BASH_NAMES: &str = r#"
_netpol_analyze_names() {
    local -a input=()
    local i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "${COMP_WORDS[i]}" in
            -f|--file|-k|--kustomize|--helm|--values|--snapshot|--overlay)
                [[ $((i + 1)) -lt COMP_CWORD ]] && input+=("${COMP_WORDS[i]}" "${COMP_WORDS[i + 1]}")
                ;;
        esac
    done
    "${COMP_WORDS[0]}" "${input[@]}" names "$@" 2>/dev/null
}

_netpol_analyze_completed() {
    local current="${COMP_WORDS[COMP_CWORD]}" word
    case "${COMP_WORDS[COMP_CWORD - 1]}" in
        -n|--namespace)
            mapfile -t COMPREPLY < <(compgen -W "$(_netpol_analyze_names --namespaces)" -- "$current")
            return
            ;;
    esac
    WORDS_OF_THE_COMMAND_LINE "$@"
    [[ "$current" == -* ]] && return
    case "${COMP_WORDS[COMP_CWORD - 1]}" in
        --controller|[!-]*) ;;
        *) return ;;
    esac
    for word in "${COMP_WORDS[@]:1:COMP_CWORD - 1}"; do
        case "$word" in
            reach|why|explain|exposure)
                mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -W "$(_netpol_analyze_names)" -- "$current")
                return
                ;;
        esac
    done
}

complete -F _netpol_analyze_completed -o bashdefault -o default netpol-analyze
"#;

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
