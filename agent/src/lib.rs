// SPDX-License-Identifier: Apache-2.0
//! The node agent: finds this node's pods, compiles their policies and keeps the kernel's tables so.
//!
//! ```text
//! folder of YAML ─▶ folder ──┐                            ┌─▶ datapath ─▶ BPF maps and programs
//! Kubernetes API ─▶ index  ──┴▶ Snapshot ─▶ engine ───────┤
//! network namespaces ─▶ net ─▶ pod interfaces ─▶ engine ──┘
//! ```

pub mod admin;
pub mod args;
pub mod bundle;
pub mod cni;
pub mod coalesce;
pub mod config_file;
pub mod datapath;
pub mod demo;
pub mod engine;
pub mod event;
pub mod folder;
pub mod index;
pub mod inspect;
pub mod kernel;
pub mod kubernetes;
pub mod metrics;
pub mod names;
pub mod net;
pub mod pods;
pub mod reason;
pub mod run;
pub mod status;
pub mod telemetry;
pub mod watch;
