// SPDX-License-Identifier: Apache-2.0
//! Which ways to enforce the same policy are compared?

use std::any::Any;

use agent::datapath::Attachment;
use anyhow::{Context as _, Result};

use super::{
    hook,
    load::Measure,
    netfilter,
    ours::{self, ELSEWHERE, ISOLATED, Scale},
    queue::Queue,
    world::{FORBIDDEN, World},
};

/// The queue that asks user space.
const QUEUE: u16 = 7;

/// A way to enforce the benchmark's policy, or not to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Configuration {
    /// In results and in `NETPOL_BENCH_ONLY`.
    pub(crate) name: &'static str,
    /// Whether the forbidden port is closed.
    pub(crate) enforces: bool,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Nothing,
    EmptyHooks,
    Ours(Attachment, &'static str),
    Tracked,
    OursTracked,
    Iptables(u32),
    Nftables(u32),
    IdealSet,
    Queue,
}

/// All of them. The first is compared with itself: what comes out is the noise.
pub(crate) const CONFIGURATIONS: [Configuration; 13] = [
    of("none", false, What::Nothing),
    of("empty-tcx", false, What::EmptyHooks),
    of("ours-tcx", true, What::Ours(Attachment::Tcx, ISOLATED)),
    of(
        "ours-clsact",
        true,
        What::Ours(Attachment::Clsact, ISOLATED),
    ),
    of(
        "ours-unselected",
        false,
        What::Ours(Attachment::Tcx, ELSEWHERE),
    ),
    of("conntrack", false, What::Tracked),
    of("ours-conntrack", true, What::OursTracked),
    of("kube-router-iptables-10", true, What::Iptables(10)),
    of("kube-router-iptables-100", true, What::Iptables(100)),
    of("kube-router-nftables-10", true, What::Nftables(10)),
    of("kube-router-nftables-100", true, What::Nftables(100)),
    of("nftables-ideal-set", true, What::IdealSet),
    of("nfqueue", true, What::Queue),
];

const fn of(name: &'static str, enforces: bool, what: What) -> Configuration {
    Configuration {
        name,
        enforces,
        what,
    }
}

/// How large everything is that grows with a cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// The cluster that our tables are compiled from.
    pub(crate) cluster: Scale,
    /// Elements of the ideal set.
    pub(crate) elements: u32,
}

impl Configuration {
    /// Whether the quantity says something about the configuration. Where nothing is enforced nothing is
    /// denied; and a program in user space that shares its CPU with a flood never gets to see it.
    pub(crate) fn bears(&self, measure: Measure) -> bool {
        let is_queue = matches!(self.what, What::Queue);
        match measure {
            Measure::TcpRr | Measure::TcpCrr | Measure::TcpStream | Measure::UdpAnswered => true,
            Measure::UdpNew => !is_queue,
            Measure::DeniedFlood => self.enforces && !is_queue,
        }
    }

    /// Puts the configuration in force between the client and the server, for as long as the world and
    /// what is returned are there. `cpu` is where programs in user space take part.
    pub(crate) fn apply(&self, world: &World, size: &Size, cpu: usize) -> Result<Box<dyn Any>> {
        let router = &world.router;
        match self.what {
            What::Nothing => {}
            What::EmptyHooks => return Ok(Box::new(hook::attach(world)?)),
            What::Ours(attachment, policies) => {
                ours::enforce(world, attachment, policies, size.cluster)?;
            }
            What::Tracked => netfilter::tracked(router)?,
            What::OursTracked => {
                netfilter::tracked(router)?;
                ours::enforce(world, Attachment::Tcx, ISOLATED, size.cluster)?;
            }
            What::Iptables(policies) => netfilter::kube_router_iptables(router, policies)?,
            What::Nftables(policies) => netfilter::kube_router_nftables(router, policies)?,
            What::IdealSet => netfilter::ideal(router, size.elements)?,
            What::Queue => {
                let queue = Queue::start(router, QUEUE, FORBIDDEN, cpu)
                    .context("cannot consume netfilter's queue")?;
                netfilter::queued(router, QUEUE)?;
                return Ok(Box::new(queue));
            }
        }
        Ok(Box::new(()))
    }
}
