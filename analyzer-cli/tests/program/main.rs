// SPDX-License-Identifier: Apache-2.0
//! What does the program do, run as people run it?
#![expect(
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests fail loudly"
)]

mod broken;
mod completions;
#[path = "../../../agent/tests/apiserver/control_plane.rs"]
#[expect(dead_code, reason = "other suites include it, too")]
mod control_plane;
mod diff;
mod families;
mod fix;
mod forging;
mod live;
mod mistakes;
mod pipes;
mod report;
mod tools;
mod unknowns;

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::Value;

/// How a run ended.
struct Run {
    code: i32,
    out: String,
    err: String,
}

impl Run {
    /// The answer as JSON.
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("{}\n{}", self.out, self.err))
    }
}

/// Runs the program without anything that is this machine's own.
fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netpol-analyze"));
    command
        .env_remove("KUBECONFIG")
        .env("HOME", "/nonexistent")
        .env("NO_COLOR", "1");
    command
}

/// Runs the program with `manifests` on its standard input.
fn analyze(arguments: &[&str], manifests: &str) -> Run {
    let mut command = program();
    command.args(["-f", "-"]).args(arguments);
    run(command, manifests.as_bytes())
}

fn run(mut command: Command, input: &[u8]) -> Run {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // Written beside, so that neither side waits for the other; who does not read closes the pipe.
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join().unwrap();
    Run {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A Pod of namespace `t` that runs at an address.
fn pod(name: &str, address: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: t, labels: {{app: {name}}}}}\n\
         spec: {{nodeName: n1, containers: [{{name: c, ports: [{{name: web, containerPort: 8080}}]}}]}}\n\
         status: {{phase: Running, podIPs: [{{ip: \"{address}\"}}]}}\n"
    )
}

/// Namespace `t`, pods `a` and `b`, and `rest`.
fn cluster(rest: &str) -> String {
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: t}\n";
    format!(
        "{namespace}{}{}---\n{rest}",
        pod("a", "10.0.0.1"),
        pod("b", "10.0.0.2")
    )
}

/// A NetworkPolicy of namespace `t`.
fn network_policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: t}}\nspec: {spec}\n"
    )
}
