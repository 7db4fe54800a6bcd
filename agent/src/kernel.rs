// SPDX-License-Identifier: Apache-2.0
//! How does the engine's wish become BPF?

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use policy_compiler::{lower::Image, model::PodKey};
use policy_ebpf_common::{
    abi::{Cell, Event},
    flow::Direction,
};
use tracing::info_span;

use crate::{
    datapath::{Closer, Datapath as Bpf, Events, Hook, Options, Origin},
    engine::{Age, Datapath, Desired, Sample},
    net::{Close, Guard, Why},
};

/// The datapath of this thread's network namespace.
#[derive(Debug)]
pub struct Kernel {
    bpf: Bpf,
    events: Events,
    /// What runs on the node's own devices, for Services whose backends fare differently.
    covered: BTreeSet<(Hook, u32)>,
    /// Tracked flows at the last maintenance.
    flows: u64,
    /// Flows forgotten so far.
    forgotten: u64,
    /// Programs ahead of ours at the last maintenance.
    ahead: Vec<(u32, String)>,
}

impl Kernel {
    /// Loads the programs, or adopts those of an earlier agent.
    ///
    /// Interfaces that an earlier agent left attached keep its tables until the first publication.
    pub fn open(options: &Options) -> Result<Self> {
        let bpf = Bpf::open(options)?;
        Ok(Self {
            events: bpf.events()?,
            bpf,
            covered: BTreeSet::new(),
            flows: 0,
            forgotten: 0,
            ahead: Vec::new(),
        })
    }

    /// The maps and programs.
    pub fn bpf(&mut self) -> &mut Bpf {
        &mut self.bpf
    }

    /// Tells whose each interface is. An interface whose pod changes is closed in between.
    fn bind(&mut self, pods: &BTreeMap<u32, PodKey>, audited: &BTreeSet<PodKey>) -> Result<()> {
        let mut interfaces: BTreeMap<&PodKey, usize> = BTreeMap::new();
        for pod in pods.values() {
            *interfaces.entry(pod).or_default() += 1;
        }
        for endpoint in self.bpf.endpoints() {
            let ifindex = endpoint.ifindex;
            match pods.get(&ifindex) {
                Some(pod) => {
                    if endpoint.pod.as_ref() != Some(pod) {
                        let _span = info_span!("pod", %pod, ifindex).entered();
                        if endpoint.pod.is_some() {
                            self.bpf.unbind(ifindex)?;
                        }
                        self.bpf.bind(ifindex, pod)?;
                    }
                    // The tables know one address of each family: those of a second interface are
                    // not among them.
                    let is_only = interfaces.get(pod) == Some(&1);
                    self.bpf
                        .set_flags(ifindex, audited.contains(pod), is_only)?;
                }
                None => self.bpf.unbind(ifindex)?,
            }
        }
        Ok(())
    }

    /// Where deferred verdicts have to be taken: on every device by which packets leave.
    fn wanted(desired: &Desired<'_>) -> BTreeSet<(Hook, u32)> {
        let uplinks = desired.uplinks.iter().map(|uplink| {
            let is_bridge = desired.bridges.contains(uplink);
            let hook = if is_bridge {
                Hook::ToBridge
            } else {
                Hook::ToAny
            };
            (hook, *uplink)
        });
        if defers(desired.image) {
            uplinks.collect()
        } else {
            BTreeSet::new()
        }
    }
}

impl Datapath for Kernel {
    fn attach(&mut self, ifindex: u32, age: Age) -> Result<()> {
        let origin = match age {
            Age::New => Origin::New,
            Age::Running => Origin::Running,
        };
        Ok(self.bpf.add(ifindex, origin)?)
    }

    fn detach(&mut self, ifindex: u32) -> Result<()> {
        Ok(self.bpf.remove(ifindex)?)
    }

    fn forget(&mut self, ifindex: u32) -> Result<()> {
        Ok(self.bpf.forget(ifindex)?)
    }

    fn closer(&mut self) -> Result<Box<dyn Close>> {
        Ok(Box::new(self.bpf.closer()?))
    }

    fn release(&mut self, uplinks: &BTreeSet<u32>) -> Result<()> {
        for ifindex in self.bpf.held()?.intersection(uplinks) {
            self.bpf.remove(*ifindex)?;
        }
        Ok(())
    }

    fn publish(&mut self, desired: &Desired<'_>) -> Result<()> {
        self.bind(desired.pods, desired.audited)?;
        // As long as any table in force defers, its verdicts have to be taken.
        let wanted = Self::wanted(desired);
        for (hook, ifindex) in wanted.difference(&self.covered) {
            self.bpf.cover(*hook, *ifindex)?;
        }
        self.covered.extend(&wanted);
        self.bpf.publish(desired.image)?;
        for (hook, ifindex) in self.covered.difference(&wanted) {
            self.bpf.uncover(*hook, *ifindex)?;
        }
        self.covered = wanted;
        Ok(())
    }

    fn maintain(&mut self) -> Result<Vec<String>> {
        let done = self.bpf.maintain()?;
        self.flows = done.flows as u64;
        self.forgotten += done.forgotten as u64;
        self.ahead = done.ahead;
        let repaired = done.repaired.into_iter().map(|(hook, ifindex)| {
            format!("program {} was gone from interface {ifindex}", hook.name())
        });
        Ok(repaired.chain(done.failed).collect())
    }

    fn ahead(&self) -> &[(u32, String)] {
        &self.ahead
    }

    fn judges(&self, ifindex: u32, pod: &PodKey) -> bool {
        let endpoint = self.bpf.endpoint(ifindex);
        endpoint.is_some_and(|endpoint| {
            endpoint.pod.as_ref() == Some(pod) && !endpoint.is_quarantined()
        })
    }

    fn sample(&mut self, reasons: u32) -> Result<Sample> {
        let outcomes = self.bpf.outcome_counters()?.into_iter();
        let decided = self.bpf.rule_counters(reasons)?.into_iter();
        Ok(Sample {
            outcomes: outcomes
                .map(|(direction, outcome, counter)| (direction, outcome, counter.packets))
                .collect(),
            decided: decided.map(|counter| counter.packets).collect(),
            flows: self.flows,
            forgotten: self.forgotten,
        })
    }

    fn events(&mut self) -> Vec<Event> {
        self.events.by_ref().collect()
    }
}

impl Close for Closer {
    fn close(&mut self, ifindex: u32, direction: Direction, why: Why) -> Result<bool> {
        Ok(Self::close(
            self,
            ifindex,
            hook(direction),
            why == Why::Moved,
        )?)
    }

    fn forget(&mut self, ifindex: u32) -> Result<()> {
        Ok(Self::forget(self, ifindex)?)
    }

    fn guard(&self, ifindex: u32, direction: Direction) -> Result<Option<Guard>> {
        Ok(Self::guard(self, ifindex, hook(direction)))
    }
}

/// Where a pod's packets of one direction are judged.
const fn hook(direction: Direction) -> Hook {
    match direction {
        Direction::Egress => Hook::FromPod,
        Direction::Ingress => Hook::ToPod,
    }
}

/// Whether any table defers a verdict until a Service's backend is known.
fn defers(image: &Image) -> bool {
    let cells = image.port_sets.iter().flat_map(|set| &set.cells);
    let mut cells = image.uniform.iter().chain(cells);
    cells.any(|cell| Cell(*cell).action() == Cell::DEFER)
}
