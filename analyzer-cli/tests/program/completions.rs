// SPDX-License-Identifier: Apache-2.0
//! Does the shell complete what the input holds?

use std::{env, fs, path::Path, process::Command};

use super::{Run, cluster, program, run};

/// The shells that complete names, of those that this machine has.
fn shells() -> Vec<&'static str> {
    let mut shells = vec!["bash", "zsh", "fish"];
    shells.retain(|shell| {
        let found = Command::new(shell).arg("--version").output().is_ok();
        assert!(found || env::var_os("CI").is_none(), "there is no {shell}");
        if !found {
            println!("skipped: no {shell}");
        }
        found
    });
    shells
}

/// What a shell would offer for the last of `words`, sorted.
fn offered(shell: &str, words: &[&str], manifests: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    file("all.yaml", manifests);
    let mut completions = program();
    completions.args(["completions", shell]);
    let script = run(completions, b"").out;
    file("completions", &script);
    file("setup.zsh", ZSH_SETUP);
    let line = format!("netpol-analyze {}", words.join(" "));
    let mut command = Command::new(shell);
    let typed = match shell {
        "bash" => {
            command.args(["--norc", "-s"]);
            let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
            let (current, previous) = (&words[words.len() - 1], &words[words.len() - 2]);
            format!(
                ". ./completions\nCOMP_WORDS=(netpol-analyze {})\nCOMP_CWORD={}\n\
                 _netpol_analyze_completed netpol-analyze {current} {previous}\n\
                 printf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
                words.join(" "),
                words.len(),
            )
        }
        "zsh" => {
            command.args(["-f", "-s"]);
            ZSH.replace("LINE", &line)
        }
        _ => {
            command.args(["--no-config", "-c"]);
            command.arg(format!("source completions; complete -C '{line}'"));
            String::new()
        }
    };
    let binary = Path::new(env!("CARGO_BIN_EXE_netpol-analyze"));
    let path = env::var("PATH").unwrap();
    command
        .current_dir(folder.path())
        .env("HOME", folder.path())
        .env(
            "PATH",
            format!("{}:{path}", binary.parent().unwrap().display()),
        );
    let Run { code, out, err } = run(command, typed.as_bytes());
    assert_eq!((code, err.as_str()), (0, ""), "{shell}: {out}");
    // What follows a tab is a description.
    let names = out.lines().filter_map(|line| line.split('\t').next());
    let mut names: Vec<String> = names
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Types the line into an interactive zsh and presses tab.
const ZSH: &str = r#"
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell source ./setup.zsh
wait_for() {
    repeat 3000; do
        [[ -e $1 ]] && return
        zpty -r -t shell _
        sleep 0.02
    done
    print "no $1 for a minute"
}
wait_for ready
zpty -w -n shell 'LINE'$'\t'
wait_for completed
zpty -d shell
cat offered
"#;

/// Makes that zsh write down what it offers.
const ZSH_SETUP: &str = r#"
PROMPT=
autoload -U compinit
compinit -u -D
source ./completions
bindkey '^I' complete-word
zle-line-init() { : > ready }
zle -N zle-line-init
comppostfuncs=(note_the_end)
note_the_end() { : >> offered; : > completed }
compadd() {
    if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then
        builtin compadd "$@"
        return
    fi
    local -a hits
    builtin compadd -A hits "$@"
    print -rl -- $hits >> offered
    builtin compadd "$@"
}
"#;

fn manifests() -> String {
    cluster(
        "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: t}\nspec: {ports: [{port: 80}]}\n\
         ---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d, namespace: t}\nspec: {template: {spec: {containers: []}}}\n",
    )
}

#[test]
fn ends_of_flows_come_from_the_input() {
    for shell in shells() {
        let offered = |words: &[&str]| offered(shell, words, &manifests());
        let found = offered(&["-f", "all.yaml", "reach", "t/"]);
        assert_eq!(
            found,
            ["t/a", "t/b", "t/deployment/d", "t/svc/s"],
            "{shell}"
        );
        let found = offered(&["-f", "all.yaml", "why", "t/a", "t/d"]);
        assert_eq!(found, ["t/deployment/d"], "{shell}");
        let found = offered(&["-f", "all.yaml", "exposure", "t/dep"]);
        assert_eq!(found, ["t/deployment/d"], "{shell}");
        let found = offered(&["-f", "all.yaml", "exposure", "--controller", "t/dep"]);
        assert_eq!(found, ["t/deployment/d"], "{shell}");
    }
}

#[test]
fn namespaces_come_from_the_input() {
    for shell in shells() {
        let found = offered(shell, &["-f", "all.yaml", "reach", "-n", ""], &manifests());
        assert_eq!(found, ["t"], "{shell}");
    }
}

#[test]
fn flags_and_unreadable_input_are_left_to_the_rest() {
    for shell in shells() {
        let found = offered(shell, &["-f", "all.yaml", "reach", "--ass"], &manifests());
        assert!(found.contains(&"--assert".to_owned()), "{shell}: {found:?}");
        let found = offered(shell, &["-f", "nowhere.yaml", "reach", "t/"], &manifests());
        assert!(
            found.iter().all(|name| !name.starts_with("t/")),
            "{shell}: {found:?}"
        );
    }
}
