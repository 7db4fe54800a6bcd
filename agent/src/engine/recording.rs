// SPDX-License-Identifier: Apache-2.0
//! What would the kernel have been told?

use std::collections::{BTreeMap, BTreeSet};

use anyhow::bail;
use policy_compiler::{lower::Image, model::PodKey};

use super::{Age, Datapath, Desired};

/// A call of [`Datapath`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// [`Datapath::attach`].
    Attach(u32, Age),
    /// [`Datapath::detach`].
    Detach(u32),
    /// [`Datapath::publish`].
    Publish {
        /// The tables.
        image: Box<Image>,
        /// The pod behind each interface.
        pods: BTreeMap<u32, PodKey>,
        /// Interfaces that lead to no pod.
        uplinks: BTreeSet<u32>,
    },
}

/// A datapath without a kernel: remembers what it was told, and fails on demand.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// Successful calls, in order.
    pub calls: Vec<Call>,
    /// Interfaces on which attaching fails.
    pub broken: BTreeSet<u32>,
    /// Whether publishing fails.
    pub refuse: bool,
}

impl Datapath for Recording {
    fn attach(&mut self, ifindex: u32, age: Age) -> anyhow::Result<()> {
        if self.broken.contains(&ifindex) {
            bail!("no such interface: {ifindex}");
        }
        self.calls.push(Call::Attach(ifindex, age));
        Ok(())
    }

    fn detach(&mut self, ifindex: u32) -> anyhow::Result<()> {
        self.calls.push(Call::Detach(ifindex));
        Ok(())
    }

    fn publish(&mut self, desired: &Desired<'_>) -> anyhow::Result<()> {
        if self.refuse {
            bail!("publishing was refused");
        }
        self.calls.push(Call::Publish {
            image: Box::new(desired.image.clone()),
            pods: desired.pods.clone(),
            uplinks: desired.uplinks.clone(),
        });
        Ok(())
    }
}
