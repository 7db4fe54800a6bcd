// SPDX-License-Identifier: Apache-2.0
//! How does a pod not begin before its interface is closed?
//!
//! ```text
//! runtime ─▶ bridge, ptp, ... ─▶ netpol-cni ─▶ socket ─▶ agent: whose is it, is it closed, does it judge?
//!                                    ╰─ returns when the agent says so, and the runtime starts the pod
//! ```
//!
//! A plugin of the container network interface (CNI), to be last in the cluster's own chain. It changes
//! nothing by itself. It hands the agent the pod's network namespace, the name of the interface in it and
//! the name of the pod, and waits.

pub mod claims;
pub mod install;
pub mod plugin;
pub mod server;
pub mod spec;
mod wire;

/// The file name under which the agent is a plugin without being told.
pub const PLUGIN: &str = "netpol-cni";

/// Where the agent listens unless it is told otherwise.
pub const SOCKET: &str = "/run/netpol/cni.sock";
