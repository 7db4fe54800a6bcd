// SPDX-License-Identifier: Apache-2.0
//! What can `netpol-agent` be asked to do?

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

use crate::{
    cni::{self, install::Folders},
    kubernetes::args::KubernetesArgs,
    telemetry::LogFormat,
};

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
    /// Which log lines to write, as `RUST_LOG` would say it; `info` by default, `warn` for the demo.
    #[arg(long, global = true, env = "NETPOL_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `netpol-agent` does.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Enforce the policies of a cluster, or of a folder of manifests, on this machine's pods.
    Run(Box<RunArgs>),
    /// Build the cluster of a folder out of network namespaces, enforce its policies, send real packets
    /// and compare with the analyzer. Exits with 1 if any packet fared otherwise than predicted.
    Demo(DemoArgs),
    /// Be the network plugin that lets no pod begin before its interface is closed; container runtimes
    /// call it, as `netpol-cni`.
    Cni,
    /// Take all programs, maps and names off this machine, and the network plugin out of the chain:
    /// nothing is enforced any more.
    Cleanup(CleanupArgs),
    /// List what is loaded in the kernel; no agent has to run.
    Dump(DumpArgs),
    /// Say what the programs do with a flow, and by which rule; no agent has to run.
    Explain(ExplainArgs),
    /// As explain, with everything that the programs read on the way.
    Trace(ExplainArgs),
    /// Print the version.
    Version,
}

/// What to enforce, where.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct RunArgs {
    /// Folder of YAML and JSON manifests to enforce instead of a cluster; edits take effect without a
    /// restart.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Enforce the pods of this node.
    #[arg(long, value_name = "NAME", env = "NETPOL_NODE")]
    pub node: String,
    /// Where the pods' network namespaces are. With a folder: files named `namespace_pod`, unless a pod's
    /// annotation `netpol.dev/netns` names another. In a cluster any names do.
    #[arg(long, value_name = "DIR", default_value = "/run/netns")]
    pub netns_dir: PathBuf,
    /// How to enforce.
    #[command(flatten)]
    pub datapath: DatapathArgs,
    /// How pods are kept from beginning too early.
    #[command(flatten)]
    pub cni: CniArgs,
    /// How to follow a cluster.
    #[command(flatten)]
    pub kubernetes: KubernetesArgs,
}

/// How the network plugin finds the agent.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct CniArgs {
    /// Where the network plugin finds the agent, a Unix socket that only root can open.
    #[arg(long, value_name = "FILE", default_value = cni::SOCKET)]
    pub cni_socket: PathBuf,
    /// Install the network plugin at the end of the cluster's chain, and keep it there: no pod begins
    /// then before its policies are in force, or while the agent is away. `cleanup` takes it out.
    #[arg(long)]
    pub cni_install: bool,
    /// Where.
    #[command(flatten)]
    pub folders: Folders,
}

/// How the kernel enforces.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct DatapathArgs {
    /// Where maps and programs are pinned, on a BPF file system.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
    /// Where the names behind the numbers in those maps are kept.
    #[arg(long, value_name = "DIR", default_value = "/run/netpol")]
    pub state_dir: PathBuf,
    /// How programs are attached to interfaces.
    #[arg(long, value_name = "HOW", default_value = "auto")]
    pub attach: Attach,
    /// What becomes of open connections when a policy no longer allows them.
    #[arg(long, value_name = "WHAT", default_value = "reevaluate")]
    pub established: Established,
    /// Believe that a TCP packet is a reply only if its connection was seen opening. Connections that are
    /// older than the programs do not survive this.
    #[arg(long)]
    pub strict_tcp: bool,
    /// Whether NetworkPolicies admit traffic of a pod to its own node.
    #[arg(long, value_name = "WHAT", default_value = "enforce")]
    pub local_node_egress: LocalNodeEgress,
    /// Where Services have their addresses, so that one that is not known yet can be told from a host;
    /// may be given for each family.
    #[arg(long, value_name = "CIDR")]
    pub service_cidr: Vec<IpNet>,
    /// Count and report what would be dropped, but drop nothing.
    #[arg(long)]
    pub audit: bool,
    /// Report allowed connections, too, not only drops.
    #[arg(long)]
    pub allow_events: bool,
    /// Events per second and pod interface; 0 switches events off.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub events_per_second: u32,
}

/// How programs are attached to interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Attach {
    /// TCX where the kernel has it (6.6), else clsact.
    Auto,
    /// A clsact qdisc with filters.
    Clsact,
    /// TCX links.
    Tcx,
}

/// What becomes of open connections when a policy no longer allows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Established {
    /// They stay open.
    Keep,
    /// Their next packet is judged by the new policies.
    Reevaluate,
}

/// Whether NetworkPolicies admit traffic of a pod to its own node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LocalNodeEgress {
    /// Always.
    Allow,
    /// As any other traffic.
    Enforce,
}

/// Where an agent keeps its things.
#[derive(Clone, Debug, clap::Args)]
pub struct PlaceArgs {
    /// Where maps and programs are pinned, on a BPF file system.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
    /// Where the names behind the numbers in those maps are kept.
    #[arg(long, value_name = "DIR", default_value = "/run/netpol")]
    pub state_dir: PathBuf,
}

/// What to remove.
#[derive(Clone, Debug, clap::Args)]
pub struct CleanupArgs {
    /// From where.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Where the network plugin may be installed.
    #[command(flatten)]
    pub folders: Folders,
}

/// What to list.
#[derive(Clone, Debug, clap::Args)]
pub struct DumpArgs {
    /// What to list.
    pub what: Dump,
    /// From where.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Form of the answer.
    #[arg(long, short, value_name = "FORM", default_value = "text")]
    pub output: Output,
}

/// What can be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dump {
    /// Tracked flows.
    Conntrack,
    /// Pod interfaces.
    Endpoints,
    /// Attached programs.
    Links,
    /// Classes of addresses.
    Peers,
    /// Service addresses and their classes.
    Services,
    /// Verdicts, by pod, direction and class, with what they decided so far.
    Table,
}

/// A flow.
#[derive(Clone, Debug, clap::Args)]
pub struct ExplainArgs {
    /// Who opens the connection: a pod of this node (`namespace/name`), an address, or `host`.
    pub source: String,
    /// To whom: a pod of this node, or an address.
    pub destination: String,
    /// Protocol and destination port: `tcp/80`, `udp/53`, `sctp/80`, `icmp`.
    #[arg(long, short, value_name = "PORT", default_value = "icmp")]
    pub port: String,
    /// Ask about a packet of an open flow, from this port, instead of one that opens a flow.
    #[arg(long, value_name = "PORT")]
    pub source_port: Option<u16>,
    /// From where.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// What to demonstrate.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// Folder of YAML and JSON manifests.
    #[arg(long, value_name = "DIR", default_value = "testdata/demo")]
    pub dir: PathBuf,
    /// Where namespaces and maps are mounted while the demo runs.
    #[arg(long, value_name = "DIR", default_value = "/run/netpol-demo")]
    pub root: PathBuf,
    /// How programs are attached to interfaces.
    #[arg(long, value_name = "HOW", default_value = "auto")]
    pub attach: Attach,
    /// List every cell.
    #[arg(long, short)]
    pub verbose: bool,
    /// Form of the answer.
    #[arg(long, short, value_name = "FORM", default_value = "text")]
    pub output: Output,
    /// Enforce nothing: shows that the comparison notices.
    #[arg(long)]
    pub no_enforcement: bool,
}

/// Form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For programs.
    Json,
    /// For people.
    Text,
}

impl Default for DatapathArgs {
    /// What the command line says by default.
    fn default() -> Self {
        Self {
            bpffs: "/sys/fs/bpf".into(),
            state_dir: "/run/netpol".into(),
            attach: Attach::Auto,
            established: Established::Reevaluate,
            strict_tcp: false,
            local_node_egress: LocalNodeEgress::Enforce,
            service_cidr: Vec::new(),
            audit: false,
            allow_events: false,
            events_per_second: 10,
        }
    }
}
