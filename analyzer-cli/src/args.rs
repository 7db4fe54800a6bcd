// SPDX-License-Identifier: Apache-2.0
//! What did the user type? The command line, not yet interpreted.

mod input;
mod output;

use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
};
use policy_compiler::model::Family;

pub use input::{Assume, Cni, InputArgs, LocalNodeEgress, YesNo};
pub use output::{Format, Output, OutputArgs, Tabular, TextOnly, value_name};

/// What network policies do, before they are applied.
///
/// Reads NetworkPolicy, AdminNetworkPolicy, BaselineAdminNetworkPolicy and ClusterNetworkPolicy
/// objects together with the Pods or workloads they are about, and answers exactly, over every
/// protocol, port and address of both families.
#[derive(Debug, Parser)]
#[command(name = "netpol-analyze", bin_name = "netpol-analyze", version, propagate_version = true,
    after_help = EXIT_CODES, arg_required_else_help = true)]
pub struct Cli {
    /// Where manifests come from.
    #[command(flatten)]
    pub input: InputArgs,
    /// How the answer looks.
    #[command(flatten)]
    pub output: OutputArgs,
    /// What is asked.
    #[command(subcommand)]
    pub command: Command,
}

/// What is asked.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Can SRC reach DST? The exact set of protocols and ports if no port is given
    #[command(after_help = ENDPOINTS)]
    Reach(FlowArgs),
    /// Why can, or cannot, SRC reach DST? The full chain of both directions
    #[command(alias = "explain", after_help = ENDPOINTS)]
    Why(FlowArgs),
    /// Every endpoint to every endpoint, grouped by equivalence class
    Matrix(MatrixArgs),
    /// What traffic changes between two sets of policies; newly allowed first
    Diff(DiffArgs),
    /// Who in the world, in the cluster and in namespaces to come may reach a workload, and through what
    #[command(after_help = EXPOSURE)]
    Exposure(ExposureArgs),
    /// What is wrong or surprising, with fixes
    Lint(LintArgs),
    /// Runs policy unit tests
    Test(TestArgs),
    /// The verdict of each observed flow
    Replay(ReplayArgs),
    /// ClusterNetworkPolicies instead of AdminNetworkPolicies, with a proof that no verdict changes
    #[command(after_help = MIGRATE)]
    Migrate,
    /// The connectivity picture: dot, mermaid, svg or html
    Graph,
    /// The part of a cluster that decides, for later commands: `snapshot -o FILE`
    Snapshot(SnapshotArgs),
    /// Every document read and what became of it
    Inputs,
    /// What a finding means
    Rule(RuleArgs),
    /// Shell completions; those of bash, zsh and fish complete namespaces and workloads, too, from -f
    Completions(CompletionsArgs),
    /// The manual page
    Man,
    /// What SRC and DST can be called, for shell completions
    #[command(hide = true)]
    Names(NamesArgs),
    /// A cluster for measurements
    #[command(hide = true)]
    Generate(GenerateArgs),
}

/// Arguments of `reach` and `why`.
#[derive(Args, Debug)]
pub struct FlowArgs {
    /// Who opens the connection
    pub src: String,
    /// Who it is opened to
    pub dst: String,
    /// `80`, `tcp/80`, `udp/53`, `tcp/8000-9000`, a port name, `icmp`
    #[arg(long, short)]
    pub port: Option<String>,
    /// Only this address family
    #[arg(long, value_parser = PossibleValuesParser::new(["4", "6"]).map(|it| family(&it)))]
    pub family: Option<Family>,
    /// Exit 1 unless the verdict is this one
    #[arg(long)]
    pub assert: Option<Asserted>,
}

/// What `4` and `6` stand for.
fn family(number: &str) -> Family {
    match number {
        "4" => Family::V4,
        _ => Family::V6,
    }
}

/// The verdict a script insists on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Asserted {
    /// Everything asked about gets through.
    Allowed,
    /// Nothing asked about gets through.
    Denied,
}

/// Arguments of `matrix`.
#[derive(Args, Debug)]
pub struct MatrixArgs {
    /// One cell per pair of endpoints
    #[arg(long)]
    pub expand: bool,
    /// Rows and columns
    #[arg(long, value_enum, default_value_t = By::Pod)]
    pub by: By,
    /// Also every range of external addresses that policies tell apart
    #[arg(long)]
    pub to_internet: bool,
    /// Only this protocol and port
    #[arg(long, short)]
    pub port: Option<String>,
}

/// What the matrix has rows and columns of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// Pods.
    Pod,
    /// Workloads, with replicas merged.
    Workload,
    /// Namespaces.
    Namespace,
}

/// Arguments of `diff`.
#[derive(Args, Debug)]
pub struct DiffArgs {
    /// The state before: a file, folder or snapshot
    pub old: Option<String>,
    /// The state after
    #[arg(requires = "old")]
    pub new: Option<String>,
    /// The state before is the input at this git revision
    #[arg(long, value_name = "GITREF", conflicts_with_all = ["old", "new"])]
    pub base: Option<String>,
    /// Exit 1 if anything differs
    #[arg(long)]
    pub exit_code: bool,
}

/// Arguments of `exposure`.
#[derive(Args, Debug)]
pub struct ExposureArgs {
    /// The workload: anything that SRC of `reach` may be and that has pods; every workload if absent
    pub workload: Option<String>,
    /// Pods that serve Ingresses and Gateways, written as SRC of `reach`
    #[arg(long, value_name = "PODS")]
    pub controller: Vec<String>,
    /// An entry for every workload, naming everybody, instead of classes
    #[arg(long)]
    pub expand: bool,
}

/// Arguments of `lint`.
#[derive(Args, Debug)]
pub struct LintArgs {
    /// Exit 1 for findings at or above this severity
    #[arg(long, value_enum, default_value_t = FailOn::Warning)]
    pub fail_on: FailOn,
    /// Only these codes or names
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// Correct in the files what can be corrected mechanically, then report the rest
    #[arg(long)]
    pub fix: bool,
}

/// The least severity that fails a lint run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// Only errors.
    Error,
    /// Warnings and errors.
    Warning,
    /// Everything.
    Info,
    /// Nothing.
    Never,
}

/// Arguments of `test`.
#[derive(Args, Debug)]
pub struct TestArgs {
    /// Files with `kind: PolicyTest`
    #[arg(required = true, value_name = "TESTFILE")]
    pub tests: Vec<String>,
}

/// Arguments of `replay`.
#[derive(Args, Debug)]
pub struct ReplayArgs {
    /// JSON lines: flows, Hubble flows or the agent's events; `-` for standard input
    pub flows: String,
}

/// Arguments of `snapshot`.
#[derive(Args, Debug)]
pub struct SnapshotArgs {
    /// Hash names and labels, with a new key each time: every verdict stays the same
    #[arg(long)]
    pub redact: bool,
}

/// Arguments of `rule`.
#[derive(Args, Debug)]
pub struct RuleArgs {
    /// `NPA012` or `unknown-field`; all of them if absent
    pub code: Option<String>,
}

/// Arguments of `completions`.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// Arguments of `names`.
#[derive(Args, Debug)]
pub struct NamesArgs {
    /// Namespaces instead
    #[arg(long)]
    pub namespaces: bool,
}

/// Arguments of `generate`.
#[derive(Args, Debug)]
pub struct GenerateArgs {
    /// Workloads
    #[arg(long, default_value_t = 1000)]
    pub workloads: usize,
    /// Pods of each workload
    #[arg(long, default_value_t = 1)]
    pub replicas: usize,
    /// Policies
    #[arg(long, default_value_t = 400)]
    pub policies: usize,
    /// The same seed gives the same cluster
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  the answer was given and what was asked for holds
  1  it does not hold: findings, failed tests, differences, an --assert that is not met
  2  usage or input error
  3  the answer is incomplete or unknown
  4  internal error

Examples:
  netpol-analyze -f manifests/ reach shop/web shop/api
  netpol-analyze -f manifests/ why shop/web shop/deploy/api --port tcp/8080
  netpol-analyze diff --base origin/main -f manifests/ --exit-code -o md";

const MIGRATE: &str = "\
Writes the ClusterNetworkPolicies to apply. Comments are kept, rules and priorities are split and
renumbered where the newer API is narrower, and what has no counterpart is reported.

The proof compares every pod, node and outside address of the input, and pods and namespaces that do
not exist yet, over every protocol and port. Exit 1 if a verdict changes or a policy stays behind.

Examples:
  netpol-analyze -f manifests/ migrate --out cnp.yaml
  netpol-analyze --live migrate | kubectl apply -f -";

const EXPOSURE: &str = "\
What policies admit is said for every outside address, every node, every other pod, and for pods and
namespaces that do not exist yet. Then every Service, Ingress, Gateway route, node port, load balancer
and host port that leads to the workload, and whether policies let through who comes in by it; and how
somebody from outside could get there through other workloads.

Which pods serve an Ingress class is written in no manifest: unless everybody gets the same answer, or
--controller names them, what comes in that way is unknown (exit code 3).

Workloads of which the same is true are one entry. In JSON, audiences are numbers of the classes of pods,
ranges of addresses and kinds of pods to come that are listed once, and so are reasons; --expand names
everybody in every entry, as does -o jsonl, and an answer about one WORKLOAD.

Examples:
  netpol-analyze -f manifests/ exposure
  netpol-analyze -f manifests/ exposure shop/deploy/api
  netpol-analyze --live exposure 'shop?app=web' --controller 'ingress-nginx?app.kubernetes.io/component=controller'";

const ENDPOINTS: &str = "\
SRC and DST:
  ns/pod              a pod; `pod` alone is one of the -n namespace
  ns/deploy/name      the pods of a workload: deploy, sts, ds, rs, job, cj
  ns/svc/name[:port]  the pods behind a Service (DST)
  ns?app=web,tier!=x  the pods a selector matches; `?app=web` in every namespace
  192.0.2.1           an address; 192.0.2.0/24 a range of them
  node:NAME           a node's own network stack
  internet            every address that is no pod, Service or node
  any                 every pod, every node and every address";
