// SPDX-License-Identifier: Apache-2.0
//! Does a run end as its answer says, also if nobody reads the answer to its end?

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use super::{cluster, network_policy, program, run};

/// A stream that nobody reads any more.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

fn files(folder: &Path) {
    let ingress = |port: u16| {
        let spec = format!(
            "{{podSelector: {{matchLabels: {{app: b}}}}, ingress: [{{ports: [{{port: {port}}}]}}]}}"
        );
        cluster(&network_policy("p", &spec))
    };
    let tests = "apiVersion: netpol-analyze/v1\nkind: PolicyTest\ntests:\n\
                 - {name: closed, from: t/a, to: t/b, never: true}\n";
    let unknown = cluster(&network_policy("p", "{podSelectors: {}}"));
    for (name, text) in [
        ("old.yaml", ingress(80)),
        ("new.yaml", ingress(81)),
        ("unknown.yaml", unknown),
        ("tests.yaml", tests.to_owned()),
    ] {
        fs::write(folder.join(name), text).unwrap();
    }
}

#[test]
fn who_reads_does_not_change_how_a_run_ends() {
    let folder = tempfile::tempdir().unwrap();
    files(folder.path());
    let command = |line: &str| {
        let mut command = program();
        command.current_dir(folder.path());
        command.args(line.split(' '));
        command
    };
    let code = |mut command: Command| command.stdin(Stdio::null()).status().unwrap().code();
    for (line, wanted) in [
        ("-f old.yaml reach t/a t/b --assert denied", 1),
        ("-f old.yaml why t/a t/b --assert allowed", 1),
        ("-f old.yaml reach t/a t/b", 0),
        ("-f old.yaml lint --fail-on info", 1),
        ("-f old.yaml test tests.yaml", 1),
        ("-f old.yaml matrix --expand -o json", 0),
        ("-f unknown.yaml matrix", 3),
        ("-f unknown.yaml inputs", 3),
        ("diff old.yaml new.yaml --exit-code", 1),
        ("-f nowhere.yaml matrix", 2),
        ("-f old.yaml reach t/a t/b --family=abc", 2),
        ("rule NPA000", 2),
        ("--help", 0),
        ("completions bash", 0),
    ] {
        let read = run(command(line), b"");
        assert_eq!(read.code, wanted, "{line}: {}", read.err);
        let mut quiet = command(line);
        quiet.stdout(closed());
        let quiet = quiet.stderr(Stdio::piped()).output().unwrap();
        assert_eq!(quiet.status.code(), Some(wanted), "{line}");
        // Nothing is said about the pipe.
        assert_eq!(String::from_utf8(quiet.stderr).unwrap(), read.err, "{line}");
        let mut blind = command(line);
        blind.stdout(Stdio::null()).stderr(closed());
        assert_eq!(code(blind), Some(wanted), "{line}");
        let mut alone = command(line);
        alone.stdout(closed()).stderr(closed());
        assert_eq!(code(alone), Some(wanted), "{line}");
    }
}
