// SPDX-License-Identifier: Apache-2.0
//! Where do manifests come from, and what is assumed about the cluster?

use std::{path::PathBuf, str::FromStr};

use clap::Args;

/// Where manifests come from. Accepted before and after the command.
#[derive(Args, Clone, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches of a command line"
)]
pub struct InputArgs {
    /// Manifests: a file, a folder (recursively), a glob, or `-` for standard input
    #[arg(
        long = "file",
        short = 'f',
        value_name = "PATH",
        global = true,
        help_heading = "Input"
    )]
    pub files: Vec<String>,
    /// A kustomization, built with `kustomize` or `kubectl`
    #[arg(
        long,
        short = 'k',
        value_name = "DIR",
        global = true,
        help_heading = "Input"
    )]
    pub kustomize: Vec<PathBuf>,
    /// A chart, rendered with `helm`
    #[arg(long, value_name = "CHART", global = true, help_heading = "Input")]
    pub helm: Vec<String>,
    /// Values for the chart
    #[arg(long, value_name = "FILE", global = true, help_heading = "Input")]
    pub values: Vec<PathBuf>,
    /// A snapshot taken with `netpol-analyze --live snapshot`
    #[arg(
        long = "snapshot",
        id = "snapshot_file",
        value_name = "FILE",
        global = true,
        help_heading = "Input"
    )]
    pub snapshot: Option<String>,
    /// The cluster that kubectl talks to
    #[arg(long, global = true, help_heading = "Input")]
    pub live: bool,
    /// Context of the kubeconfig
    #[arg(long, global = true, help_heading = "Input")]
    pub context: Option<String>,
    /// The kubeconfig
    #[arg(long, value_name = "FILE", global = true, help_heading = "Input")]
    pub kubeconfig: Option<PathBuf>,
    /// All namespaces of the cluster, also if -n says where names without a namespace belong
    #[arg(long, short = 'A', global = true, help_heading = "Input")]
    pub all_namespaces: bool,
    /// Namespace of objects and names that have none (default: `default`); with --live and without
    /// -A, the only namespace that is listed
    #[arg(
        long,
        short = 'n',
        value_name = "NS",
        global = true,
        help_heading = "Input"
    )]
    pub namespace: Option<String>,
    /// Manifests that replace or join those of any other source
    #[arg(long, value_name = "DIR", global = true, help_heading = "Input")]
    pub overlay: Vec<String>,
    /// Judge what cannot be read as the agent would, fail-closed, instead of answering `unknown`
    #[arg(long, global = true, help_heading = "Input")]
    pub allow_incomplete: bool,
    /// What the cluster's network does: ipblock-matches-pods=yes|no (`networks` of cluster-scoped
    /// policies, too), local-node-egress=allow|enforce, cni=netpol|calico|cilium|ovn
    #[arg(long, value_name = "WHAT=HOW", global = true, help_heading = "Input")]
    pub assume: Vec<Assume>,
    /// Also lists what leads traffic to Services in a live cluster; set by commands that ask about it.
    #[arg(skip)]
    pub entrances: bool,
    /// Configuration (default: `.netpol-analyze.yaml` here or in a parent directory of the repository)
    #[arg(long, value_name = "FILE", global = true, help_heading = "Input")]
    pub config: Option<PathBuf>,
}

impl InputArgs {
    /// Whether the command line names a source.
    pub fn has_source(&self) -> bool {
        !self.files.is_empty()
            || !self.kustomize.is_empty()
            || !self.helm.is_empty()
            || self.snapshot.is_some()
            || self.live
    }
}

/// One `--assume`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assume {
    /// `ipblock-matches-pods`
    BlocksMatchPods(YesNo),
    /// `local-node-egress`
    LocalNodeEgress(LocalNodeEgress),
    /// `cni`: all of them together.
    Cni(Cni),
}

/// A switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum YesNo {
    /// On.
    Yes,
    /// Off.
    No,
}

/// Whether NetworkPolicies are enforced on traffic of a pod to its own node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalNodeEgress {
    /// They are not.
    Allow,
    /// They are.
    Enforce,
}

/// Network implementations whose corners are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cni {
    /// This project's agent.
    Netpol,
    /// Calico.
    Calico,
    /// Cilium, which selects pods by identity and never by address.
    Cilium,
    /// OVN-Kubernetes.
    Ovn,
}

impl FromStr for Assume {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((what, how)) = text.split_once('=') else {
            return Err("expected WHAT=HOW".to_owned());
        };
        match (what, how) {
            ("ipblock-matches-pods", "yes") => Ok(Self::BlocksMatchPods(YesNo::Yes)),
            ("ipblock-matches-pods", "no") => Ok(Self::BlocksMatchPods(YesNo::No)),
            ("ipblock-matches-pods", _) => Err("expected `yes` or `no`".to_owned()),
            ("local-node-egress", "allow") => Ok(Self::LocalNodeEgress(LocalNodeEgress::Allow)),
            ("local-node-egress", "enforce") => Ok(Self::LocalNodeEgress(LocalNodeEgress::Enforce)),
            ("local-node-egress", _) => Err("expected `allow` or `enforce`".to_owned()),
            ("cni", "netpol") => Ok(Self::Cni(Cni::Netpol)),
            ("cni", "calico") => Ok(Self::Cni(Cni::Calico)),
            ("cni", "cilium") => Ok(Self::Cni(Cni::Cilium)),
            ("cni", "ovn") => Ok(Self::Cni(Cni::Ovn)),
            ("cni", _) => Err("expected `netpol`, `calico`, `cilium` or `ovn`".to_owned()),
            _ => Err("expected `ipblock-matches-pods`, `local-node-egress` or `cni`".to_owned()),
        }
    }
}
