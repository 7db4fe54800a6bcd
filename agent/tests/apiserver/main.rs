// SPDX-License-Identifier: Apache-2.0
//! Does the agent follow a real API server?
//!
//! Every test runs its own kube-apiserver and etcd. They are looked for in `KUBEBUILDER_ASSETS`, then
//! where `.ci/setup controlplane` puts them; without them the tests say so and end.

#![expect(
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests"
)]

mod cluster;
mod control_plane;
mod manifests;
mod node;
mod overlays;
mod proxy;
mod shop;

mod enforcement;
mod faults;
mod plugin;
mod reload;
mod rights;
mod scale;
mod status;
mod watches;
