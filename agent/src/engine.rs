// SPDX-License-Identifier: Apache-2.0
//! What does this node enforce, and what became of each change?
//!
//! The engine is synchronous and knows neither files nor API servers nor BPF: snapshots and pod
//! interfaces go in, calls of [`Datapath`] come out. Folder mode and Kubernetes mode share it.

use std::collections::{BTreeMap, BTreeSet};

use policy_compiler::{lower::Image, model::PodKey};

/// What the engine asks of the kernel.
///
/// Every call describes the desired state as a whole and may be repeated; none changes what other
/// programs on the same interfaces do.
pub trait Datapath {
    /// Puts the programs on a pod interface of this node. Until [`Datapath::publish`] names its pod,
    /// only ARP and neighbour discovery pass it.
    fn attach(&mut self, ifindex: u32) -> anyhow::Result<()>;

    /// Takes the programs off an interface, or forgets one that is gone. A late call about an interface
    /// that no longer exists is no error.
    fn detach(&mut self, ifindex: u32) -> anyhow::Result<()>;

    /// Makes `desired` what every packet is judged by, all at once. On an error the tables published
    /// before stay in force, whole.
    fn publish(&mut self, desired: &Desired<'_>) -> anyhow::Result<()>;
}

/// What is to be enforced.
#[derive(Clone, Copy, Debug)]
pub struct Desired<'a> {
    /// The tables.
    pub image: &'a Image,
    /// The pod behind each attached interface, by interface index. Interfaces that are attached but not
    /// listed stay in quarantine.
    pub pods: &'a BTreeMap<u32, PodKey>,
    /// Interfaces of the node that lead to no pod of its own: where a deferred verdict is taken when the
    /// destination is elsewhere.
    pub uplinks: &'a BTreeSet<u32>,
    /// Pods whose would-be drops are only counted and reported.
    pub audited: &'a BTreeSet<PodKey>,
}
