// SPDX-License-Identifier: Apache-2.0
//! How do verdict tables get into the kernel, and packets to them?
//!
//! One [`Datapath`] per node, that is, per network namespace whose interfaces it attaches to: call
//! [`Datapath::add`], [`Datapath::remove`], [`Datapath::cover`], [`Datapath::uncover`] and
//! [`Datapath::maintain`] on a thread in that namespace. Everything is synchronous; [`Datapath`] is
//! `Send`.
//!
//! ```text
//! new interface:  Closer::close(ifindex)  on threads of their own: nothing passes from here on
//! link event:     add(ifindex, origin)    the interface is in quarantine, as an endpoint
//! pod known:      bind(ifindex, pod)      takes effect with the next publish(), or at once if the
//!                                         published tables know the pod already
//! tables change:  publish(&image)         all endpoints switch to the new tables in one store
//! no pod's:       remove(ifindex)         the interface is open
//! link gone:      Closer::forget(ifindex), forget(ifindex)
//! every 10 s:     maintain()              drift repair, conntrack garbage collection
//! ```
//!
//! **Nothing is undone on drop.** Maps, programs and links are pinned, so the kernel goes on
//! enforcing without the agent. The next [`Datapath::open`] adopts them: [`Datapath::endpoints`]
//! lists the interfaces it found, which keep their tables until the first [`Datapath::publish`];
//! before that, every adopted interface has to be bound again or removed. [`cleanup`] removes all.
//!
//! Events come from [`Datapath::events`]; [`Pinned`] reads the maps without a running agent.

mod attach;
mod conntrack;
mod dump;
mod endpoints;
mod error;
mod events;
mod gate;
mod load;
mod mapping;
mod maps;
mod pod;
mod tables;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use policy_compiler::{
    lower::{Capacity, EndpointImage, Image},
    model::PodKey,
};
use policy_ebpf_common::{
    abi::{
        CONFIG_ALLOW_EVENTS, CONFIG_AUDIT, CONFIG_KEEP_ESTABLISHED, CONFIG_STRICT_TCP, Config,
        Counter, ENDPOINT_AUDIT, ENDPOINT_CHECK_SOURCE, ENDPOINT_PICKUP, ENDPOINT_QUARANTINE,
        Endpoint, Event,
    },
    decide::Outcome,
    flow::Direction,
};
use rustix::time::{ClockId, clock_getres};

pub use attach::{Attachment, Hook};
pub use conntrack::TrackedFlow;
pub use dump::Pinned;
pub use error::DatapathError;
pub use events::Events;
pub use gate::Closer;
pub use pod::Abi;

use endpoints::Endpoints;
use maps::Pins;
use tables::Tables;

/// Seconds in which flows older than an endpoint's programs are picked up by the table alone.
const PICKUP: Duration = Duration::from_secs(30);

/// Where the datapath lives and how big it is.
#[derive(Clone, Debug)]
pub struct Options {
    /// The bpffs folder under which `netpol/v<ABI>/` is made.
    pub root: PathBuf,
    /// Sizes of the verdict tables; maps that are pinned already keep theirs.
    pub capacity: Capacity,
    /// Entries of each of the two connection tracking maps.
    pub flows: u32,
    /// What holds the programs; TCX where the kernel has it unless set.
    pub attachment: Option<Attachment>,
    /// Node-wide switches.
    pub switches: Switches,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            root: "/sys/fs/bpf".into(),
            capacity: Capacity::default(),
            flows: 131_072,
            attachment: None,
            switches: Switches::default(),
        }
    }
}

/// Node-wide switches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches, as in Config::flags"
)]
pub struct Switches {
    /// Count and report would-be drops of every pod, but let the packets pass.
    pub audit: bool,
    /// Report admitted new flows, too.
    pub allow_events: bool,
    /// Believe a TCP reply only if the connection was seen opening.
    pub strict_tcp: bool,
    /// Flows stay admitted after the policy that admitted them is gone.
    pub keep_established: bool,
    /// Events per second and pod; 0 for none.
    pub events_per_second: u32,
    /// How long flows are remembered.
    pub timeouts: Timeouts,
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            audit: false,
            allow_events: false,
            strict_tcp: false,
            keep_established: false,
            events_per_second: 50,
            timeouts: Timeouts::default(),
        }
    }
}

/// Idle times after which flows are forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A TCP connection that was not closed.
    pub tcp: Duration,
    /// A UDP flow without reply.
    pub udp: Duration,
    /// A UDP flow with packets in both directions.
    pub udp_replied: Duration,
    /// Everything else, closed TCP connections included.
    pub other: Duration,
}

impl Default for Timeouts {
    /// The defaults of the kernel's connection tracking (`nf_conntrack_*_timeout*`).
    fn default() -> Self {
        Self {
            tcp: Duration::from_hours(120),
            udp: Duration::from_secs(30),
            udp_replied: Duration::from_mins(2),
            other: Duration::from_mins(2),
        }
    }
}

/// How old the pod behind an interface is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The interface has just appeared: there are no flows yet.
    New,
    /// The pod was running before its interface got programs: for half a minute a packet of any
    /// protocol passes as a reply if the opposite direction's table admits what it would reply to.
    Running,
}

/// An interface with programs, or waiting for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointState {
    /// The host-side interface.
    pub ifindex: u32,
    /// Where it is in the map.
    pub slot: u32,
    /// The pod it was bound to by this process.
    pub pod: Option<PodKey>,
    /// What the kernel has.
    pub entry: Endpoint,
}

impl EndpointState {
    /// Whether only address resolution passes.
    pub fn is_quarantined(&self) -> bool {
        self.entry.flags & ENDPOINT_QUARANTINE != 0
    }
}

/// What [`Datapath::maintain`] found to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Maintenance {
    /// Hooks that had lost their program.
    pub repaired: Vec<(Hook, u32)>,
    /// Hooks that could not be repaired, and why.
    pub failed: Vec<String>,
    /// Flows and fragments forgotten.
    pub forgotten: usize,
    /// Flows that are still tracked.
    pub flows: usize,
    /// Programs of others that see what a pod sends (with clsact, also what is sent to it) before ours
    /// do, by interface.
    pub ahead: Vec<(u32, String)>,
}

/// The kernel's side of the agent.
#[derive(Debug)]
pub struct Datapath {
    pins: Pins,
    ebpf: Ebpf,
    capacity: Capacity,
    attachment: Attachment,
    tables: Tables,
    endpoints: Endpoints,
    /// What the active bank says of the node's pods; `None` before this process published.
    published: Option<BTreeMap<PodKey, EndpointImage>>,
    /// Hooks that should have a program.
    hooks: Vec<(Hook, u32)>,
    /// The maps were made by this process: programs found on interfaces know others.
    is_new: bool,
    /// Hooks whose predecessors go on until tables are published that know the interface.
    postponed: Vec<(Hook, u32)>,
    /// Endpoints that pick up old flows, and since when.
    pickups: Vec<(u32, Instant)>,
}

impl Datapath {
    /// Loads the programs, creates the maps or adopts those of an earlier agent, and puts the
    /// programs in the place of the earlier agent's.
    pub fn open(options: &Options) -> Result<Self, DatapathError> {
        let pins = Pins::new(&options.root);
        let is_new = !pins.map("CONFIG").exists();
        let (ebpf, capacity) = load::load(&pins, &options.capacity, options.flows)?;
        let tables = Tables::open(&pins, &capacity)?;
        let endpoints = Endpoints::open(&pins)?;
        let mut datapath = Self {
            attachment: options.attachment.unwrap_or_else(Attachment::best),
            pins,
            ebpf,
            capacity,
            tables,
            endpoints,
            published: None,
            hooks: Vec::new(),
            is_new,
            postponed: Vec::new(),
            pickups: Vec::new(),
        };
        datapath.configure(&options.switches);
        datapath.adopt()?;
        Ok(datapath)
    }

    /// Entries per bank of the maps: what [`policy_compiler::lower`] may fill.
    pub fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    /// What holds the programs.
    pub fn attachment(&self) -> Attachment {
        self.attachment
    }

    /// Sets the node-wide switches.
    pub fn configure(&mut self, switches: &Switches) {
        let hz = ticks_per_second();
        let ticks = |time: Duration| {
            u32::try_from(time.as_secs().saturating_mul(u64::from(hz))).unwrap_or(u32::MAX)
        };
        let flag = |on: bool, bit: u32| if on { bit } else { 0 };
        self.tables.configure(|config| {
            config.flags = flag(switches.audit, CONFIG_AUDIT)
                | flag(switches.allow_events, CONFIG_ALLOW_EVENTS)
                | flag(switches.strict_tcp, CONFIG_STRICT_TCP)
                | flag(switches.keep_established, CONFIG_KEEP_ESTABLISHED);
            config.events_per_second = switches.events_per_second;
            config.hz = hz;
            config.tcp_timeout = ticks(switches.timeouts.tcp);
            config.udp_timeout = [
                ticks(switches.timeouts.udp),
                ticks(switches.timeouts.udp_replied),
            ];
            config.other_timeout = ticks(switches.timeouts.other);
        });
    }

    /// The configuration programs see.
    pub fn config(&self) -> Config {
        self.tables.config()
    }

    /// Every endpoint, by interface index.
    pub fn endpoints(&self) -> Vec<EndpointState> {
        self.endpoints
            .iter()
            .map(|(ifindex, entry, endpoint)| EndpointState {
                ifindex,
                slot: entry.slot,
                pod: entry.pod.clone(),
                entry: endpoint,
            })
            .collect()
    }

    /// The endpoint of an interface.
    pub fn endpoint(&self, ifindex: u32) -> Option<EndpointState> {
        let (entry, endpoint) = self.endpoints.get(ifindex)?;
        Some(EndpointState {
            ifindex,
            slot: entry.slot,
            pod: entry.pod.clone(),
            entry: endpoint,
        })
    }

    /// Makes the interface an endpoint: quarantined until it is bound to a pod that the published
    /// tables know. An endpoint already is left as it is, with its programs brought up to date.
    pub fn add(&mut self, ifindex: u32, origin: Origin) -> Result<(), DatapathError> {
        let id = self.config().last_endpoint_id.wrapping_add(1);
        if self.endpoints.add(ifindex, id)? {
            self.tables.configure(|config| config.last_endpoint_id = id);
            if origin == Origin::Running
                && let Some((entry, _)) = self.endpoints.get(ifindex)
            {
                self.endpoints.set_flags(entry.slot, ENDPOINT_PICKUP, 0);
                self.pickups.push((ifindex, Instant::now()));
            }
        }
        for hook in [Hook::FromPod, Hook::ToPod] {
            self.cover(hook, ifindex)?;
        }
        gate::unmark(&self.pins, ifindex)
    }

    /// What closes interfaces before they are added.
    pub fn closer(&self) -> Result<Closer, DatapathError> {
        Closer::new(&self.pins, self.attachment)
    }

    /// The interfaces that have programs as a pod's have: endpoints, and what a [`Closer`] has closed.
    pub fn held(&self) -> Result<BTreeSet<u32>, DatapathError> {
        let pinned = attach::pinned(&self.pins).map_err(|source| DatapathError::PinDirectory {
            path: self.pins.links(),
            source,
        })?;
        let pinned = pinned.into_iter();
        let pinned = pinned.filter(|(hook, _)| matches!(hook, Hook::FromPod | Hook::ToPod));
        let endpoints = self.endpoints.iter().map(|(ifindex, ..)| ifindex);
        let marked = gate::marked(&self.pins)?;
        Ok(pinned
            .map(|(_, ifindex)| ifindex)
            .chain(endpoints)
            .chain(marked)
            .collect())
    }

    /// Says whose interface it is. Takes effect at once if the published tables know the pod and
    /// the endpoint is in quarantine, else with the next [`Self::publish`].
    pub fn bind(&mut self, ifindex: u32, pod: &PodKey) -> Result<(), DatapathError> {
        self.endpoints.bind(ifindex, Some(pod))?;
        let Some((entry, endpoint)) = self.endpoints.get(ifindex) else {
            return Ok(());
        };
        if let Some(images) = &self.published
            && let Some(image) = images.get(pod)
            && endpoint.flags & ENDPOINT_QUARANTINE != 0
        {
            let active = self.tables.active();
            self.endpoints.write_one(entry.slot, active, Some(image));
            self.endpoints.release(images);
        }
        Ok(())
    }

    /// Takes the pod away from an interface: quarantined until it is bound again.
    pub fn unbind(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        self.endpoints.bind(ifindex, None)?;
        if let Some((entry, _)) = self.endpoints.get(ifindex) {
            self.endpoints.set_flags(entry.slot, ENDPOINT_QUARANTINE, 0);
        }
        Ok(())
    }

    /// Sets audit mode and the source check of one endpoint.
    pub fn set_flags(
        &mut self,
        ifindex: u32,
        audit: bool,
        check_source: bool,
    ) -> Result<(), DatapathError> {
        let (entry, _) = self
            .endpoints
            .get(ifindex)
            .ok_or(DatapathError::UnknownInterface { ifindex })?;
        let both = ENDPOINT_AUDIT | ENDPOINT_CHECK_SOURCE;
        let mut set = 0;
        if audit {
            set |= ENDPOINT_AUDIT;
        }
        if check_source {
            set |= ENDPOINT_CHECK_SOURCE;
        }
        self.endpoints.set_flags(entry.slot, set, both & !set);
        Ok(())
    }

    /// Forgets the interface and takes its programs off, a [`Closer`]'s too.
    pub fn remove(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        for hook in [Hook::FromPod, Hook::ToPod] {
            self.uncover(hook, ifindex)?;
        }
        gate::unmark(&self.pins, ifindex)?;
        self.forget(ifindex)
    }

    /// Forgets the interface, which is gone. Programs are left alone: by now the number may be that of
    /// another interface, which a [`Closer`] has closed.
    pub fn forget(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        let stays = |(hook, other): &(Hook, u32)| {
            *other != ifindex || !matches!(hook, Hook::FromPod | Hook::ToPod)
        };
        self.hooks.retain(stays);
        self.postponed.retain(stays);
        self.pickups.retain(|(other, _)| *other != ifindex);
        self.endpoints.remove(ifindex)
    }

    /// Puts a program on an interface. [`Self::add`] does it for pods; [`Hook::ToAny`] and
    /// [`Hook::ToBridge`] are for the node's other devices while a table defers Services.
    ///
    /// Where another version's program is, it goes on judging until the next [`Self::publish`].
    pub fn cover(&mut self, hook: Hook, ifindex: u32) -> Result<(), DatapathError> {
        if self.is_new
            && !self.hooks.contains(&(hook, ifindex))
            && attach::has_predecessor(&self.pins, self.attachment, hook, ifindex)
        {
            if !self.postponed.contains(&(hook, ifindex)) {
                self.postponed.push((hook, ifindex));
            }
            return Ok(());
        }
        self.attach(hook, ifindex)
    }

    fn attach(&mut self, hook: Hook, ifindex: u32) -> Result<(), DatapathError> {
        attach::attach(&self.pins, &mut self.ebpf, self.attachment, hook, ifindex)?;
        if !self.hooks.contains(&(hook, ifindex)) {
            self.hooks.push((hook, ifindex));
        }
        Ok(())
    }

    /// Takes a program off an interface.
    pub fn uncover(&mut self, hook: Hook, ifindex: u32) -> Result<(), DatapathError> {
        self.hooks.retain(|entry| *entry != (hook, ifindex));
        self.postponed.retain(|entry| *entry != (hook, ifindex));
        attach::detach(&self.pins, self.attachment, hook, ifindex)
    }

    /// Switches every endpoint to the tables of `image` at once. On an error the tables in force
    /// stay in force, as a whole. Endpoints bound to a pod the image does not know are denied
    /// everything.
    pub fn publish(&mut self, image: &Image) -> Result<(), DatapathError> {
        let bank = self.tables.prepare(image)?;
        self.endpoints.write(bank, &image.endpoints);
        self.tables.publish(bank);
        self.endpoints.release(&image.endpoints);
        self.published = Some(image.endpoints.clone());
        for (hook, ifindex) in std::mem::take(&mut self.postponed) {
            self.attach(hook, ifindex)?;
        }
        if self.is_new {
            self.forget_predecessors()?;
        }
        Ok(())
    }

    /// Removes what agents with maps of another layout left and nothing uses any more.
    fn forget_predecessors(&self) -> Result<(), DatapathError> {
        let failed = |path: &Path| {
            let path = path.to_path_buf();
            move |source| DatapathError::PinDirectory { path, source }
        };
        let others = self.pins.others().map_err(failed(self.pins.directory()))?;
        for other in others {
            let directory = other.directory();
            let links = attach::pinned(&other).map_err(failed(directory))?;
            let judges = |(hook, ifindex): &(Hook, u32)| {
                matches!(hook, Hook::FromPod | Hook::ToPod) && attach::exists(*ifindex)
            };
            if links.iter().any(judges) {
                continue;
            }
            fs::remove_dir_all(directory).map_err(failed(directory))?;
        }
        Ok(())
    }

    /// Puts programs back where somebody removed them, ends pick-ups, forgets idle flows.
    pub fn maintain(&mut self) -> Result<Maintenance, DatapathError> {
        let mut done = Maintenance::default();
        load::pin_again(&self.pins, &mut self.ebpf)?;
        let (ended, running) = std::mem::take(&mut self.pickups)
            .into_iter()
            .partition::<Vec<_>, _>(|(_, since)| since.elapsed() >= PICKUP);
        self.pickups = running;
        for (ifindex, _) in ended {
            self.endpoints.end_pickup(ifindex);
        }
        for (hook, ifindex) in self.hooks.clone() {
            let id = self.program_id(hook)?;
            // TCX has ours last on the way to the pod, so others ahead of it there are no news.
            let is_first = hook == Hook::FromPod
                || (hook == Hook::ToPod && self.attachment == Attachment::Clsact);
            if is_first {
                let others = attach::ahead(self.attachment, hook, ifindex, id);
                done.ahead
                    .extend(others.into_iter().map(|name| (ifindex, name)));
            }
            let found = attach::is_attached(&self.pins, self.attachment, hook, ifindex, id);
            // What a gate has closed is new, and will be added.
            let is_gated = || attach::is_gated(&self.pins, self.attachment, hook, ifindex);
            if found == Some(true) || is_gated() {
                continue;
            }
            match attach::attach(&self.pins, &mut self.ebpf, self.attachment, hook, ifindex) {
                Ok(()) if found == Some(false) => done.repaired.push((hook, ifindex)),
                Ok(()) => {}
                Err(error) => done.failed.push(error.to_string()),
            }
        }
        let swept = conntrack::collect(&self.pins, &self.config())?;
        (done.forgotten, done.flows) = (swept.removed, swept.kept);
        Ok(done)
    }

    /// Opens the ring buffer of events. One reader at a time.
    pub fn events(&self) -> Result<Events, DatapathError> {
        Events::open(&self.pins)
    }

    /// Tracked flows.
    pub fn flows(&self) -> Result<Vec<TrackedFlow>, DatapathError> {
        conntrack::flows(&self.pins, &self.config())
    }

    /// Packets and bytes that a reason decided.
    pub fn rule_counter(&self, reason: u32) -> Result<Counter, DatapathError> {
        dump::rule_counter(&self.pins, reason)
    }

    /// Packets and bytes that each reason numbered from 1 and below `end` decided.
    pub fn rule_counters(&self, end: u32) -> Result<Vec<Counter>, DatapathError> {
        dump::rule_counters(&self.pins, 1..end)
    }

    /// Packets and bytes by direction and outcome.
    pub fn outcome_counters(&self) -> Result<Vec<(Direction, Outcome, Counter)>, DatapathError> {
        dump::outcome_counters(&self.pins)
    }

    /// Kernel id of a program.
    pub fn program_id(&mut self, hook: Hook) -> Result<u32, DatapathError> {
        let name = hook.name();
        let info = load::program(&mut self.ebpf, name)?
            .info()
            .map_err(DatapathError::program(name))?;
        Ok(info.id())
    }

    /// A program, for `BPF_PROG_TEST_RUN`.
    pub fn program(&mut self, hook: Hook) -> Result<&mut SchedClassifier, DatapathError> {
        load::program(&mut self.ebpf, hook.name())
    }

    /// Runs a program on a frame as if it came in (or went out) by interface `ifindex` of this
    /// network namespace; returns whether the frame passes. `ingress_ifindex` is the interface it
    /// came into the node by, 0 for the node itself.
    pub fn test_run(
        &mut self,
        hook: Hook,
        ifindex: u32,
        ingress_ifindex: u32,
        frame: &[u8],
    ) -> Result<bool, DatapathError> {
        // The fields of `struct __sk_buff` the kernel accepts; all others must be zero.
        const INGRESS_IFINDEX: usize = 36;
        const IFINDEX: usize = 40;
        const LENGTH: usize = 192;
        let mut context = [0; LENGTH];
        context[INGRESS_IFINDEX..INGRESS_IFINDEX + 4]
            .copy_from_slice(&ingress_ifindex.to_ne_bytes());
        context[IFINDEX..IFINDEX + 4].copy_from_slice(&ifindex.to_ne_bytes());
        let result = load::program(&mut self.ebpf, hook.name())?
            .test_run(TestRunOptions {
                data_in: Some(frame),
                ctx_in: Some(&context),
                ..TestRunOptions::default()
            })
            .map_err(DatapathError::program(hook.name()))?;
        Ok(result.return_value.cast_signed() == -1)
    }

    /// Takes over the hooks of an earlier agent.
    fn adopt(&mut self) -> Result<(), DatapathError> {
        let pinned = attach::pinned(&self.pins).map_err(|source| DatapathError::PinDirectory {
            path: self.pins.links(),
            source,
        })?;
        for (hook, ifindex) in pinned {
            // The interface may have gone while no agent ran; `remove` will say so.
            match self.cover(hook, ifindex) {
                Ok(()) => {}
                Err(DatapathError::Attach { .. }) => self.uncover(hook, ifindex)?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Removes everything pinned under the bpffs folder `root`, and with it every TCX link; clsact
/// filters of the interfaces in this network namespace, too.
pub fn cleanup(root: &Path) -> Result<(), DatapathError> {
    let pins = Pins::new(root);
    if pins.map("CONFIG").exists() {
        attach::detach_all_clsact(&pins)?;
    }
    let directory = root.join("netpol");
    match fs::remove_dir_all(&directory) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(DatapathError::PinDirectory {
                path: directory,
                source,
            })
        }
        _ => Ok(()),
    }
}

/// Reads what the programs report without a running agent. One reader at a time.
pub fn events(root: &Path) -> Result<impl Iterator<Item = Event>, DatapathError> {
    Events::open(&Pins::new(root))
}

/// Jiffies per second: the resolution of the coarse clocks is one jiffy.
fn ticks_per_second() -> u32 {
    let resolution = clock_getres(ClockId::MonotonicCoarse);
    u32::try_from(1_000_000_000 / resolution.tv_nsec.max(1)).unwrap_or(1000)
}
