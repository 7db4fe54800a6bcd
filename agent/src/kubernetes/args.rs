// SPDX-License-Identifier: Apache-2.0
//! What is an agent on Kubernetes told on its command line?

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

/// How to follow a cluster; without a folder of manifests.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct KubernetesArgs {
    /// File of `flag: value` lines in YAML, named as the flags; flags on the command line come first.
    /// On SIGHUP it is read again: `local-node-egress` and `service-cidr` take effect at once, anything
    /// else at the next start. A file with a mistake changes nothing.
    #[arg(long, value_name = "FILE", conflicts_with = "dir")]
    pub config: Option<PathBuf>,
    /// How to reach the API server; by default as the pod's ServiceAccount or as `KUBECONFIG` says.
    #[arg(long, value_name = "FILE", conflicts_with = "dir")]
    pub kubeconfig: Option<PathBuf>,
    /// Addresses of this node, so that its own way to the API server is not taken for a pod's where the
    /// node is itself a container; beside those in the Node's status.
    #[arg(
        long,
        value_name = "IP",
        env = "NETPOL_NODE_ADDRESS",
        value_delimiter = ','
    )]
    pub node_address: Vec<IpAddr>,
    /// Namespace of the Lease that elects the agent which writes status.
    #[arg(
        long,
        value_name = "NAME",
        env = "NETPOL_NAMESPACE",
        default_value = "netpol-system"
    )]
    pub namespace: String,
    /// Where `/livez`, `/readyz` and `/metrics` are served.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9469")]
    pub listen: SocketAddr,
    /// Where `/debug` is served, a Unix socket that only root can open.
    #[arg(long, value_name = "FILE", default_value = "/run/netpol/debug.sock")]
    pub debug_socket: PathBuf,
    /// Where the last known policies are kept, for a start without an API server.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/netpol")]
    pub bundle_dir: PathBuf,
    /// Ask for the initial objects as part of a watch; servers that cannot are listed anyway.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub streaming_lists: bool,
    /// Seconds between two looks for kinds that the cluster lacks, where their definitions may not be
    /// watched.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub discovery_interval: u64,
    /// Seconds between two rounds of status writes.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub status_interval: u64,
    /// Seconds for which the Lease of the status writer is held.
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(3..))]
    pub lease_duration: u64,
}

impl KubernetesArgs {
    /// [`KubernetesArgs::discovery_interval`].
    pub const fn discovery(&self) -> Duration {
        Duration::from_secs(self.discovery_interval)
    }

    /// [`KubernetesArgs::status_interval`].
    pub const fn status(&self) -> Duration {
        Duration::from_secs(self.status_interval)
    }

    /// [`KubernetesArgs::lease_duration`].
    pub const fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_duration)
    }
}
