// SPDX-License-Identifier: Apache-2.0
//! What does this node enforce, and what became of each change?
//!
//! The engine is synchronous and knows neither files nor API servers nor BPF: snapshots and pod
//! interfaces go in, calls of [`Datapath`] come out. Folder mode and Kubernetes mode share it.

mod recording;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use policy_compiler::{
    Snapshot,
    change::Change,
    compile::{Applied, Compiler, Delta},
    lower::{Capacity, Image, Lowered, Reasons, TooLarge},
    model::{MODE_AUDIT, MODE_LABEL, Pod, PodKey},
};
use policy_ebpf_common::{abi::Event, decide::Outcome, flow::Direction};
use tracing::{info_span, instrument, warn};

use crate::net::Close;

pub use self::recording::{Call, Recording};

/// What the engine asks of the kernel.
///
/// Every call describes the desired state as a whole and may be repeated; none changes what other
/// programs on the same interfaces do.
pub trait Datapath {
    /// Puts the programs on a pod interface of this node. Until [`Datapath::publish`] names its pod,
    /// only ARP and neighbour discovery pass it.
    fn attach(&mut self, ifindex: u32, age: Age) -> anyhow::Result<()>;

    /// Takes the programs off an interface that is no pod's. A late call about an interface that no longer
    /// exists is no error.
    fn detach(&mut self, ifindex: u32) -> anyhow::Result<()>;

    /// Forgets an interface that is gone, and leaves alone what may have its number by now.
    fn forget(&mut self, ifindex: u32) -> anyhow::Result<()> {
        self.detach(ifindex)
    }

    /// Makes `desired` what every packet is judged by, all at once. On an error the tables published
    /// before stay in force, whole.
    fn publish(&mut self, desired: &Desired<'_>) -> anyhow::Result<()>;

    /// What closes new interfaces, on whatever thread, until [`Datapath::attach`] or
    /// [`Datapath::release`] name them.
    fn closer(&mut self) -> anyhow::Result<Box<dyn Close>> {
        Ok(Box::new(()))
    }

    /// Opens interfaces that lead to no pod: takes off what an earlier agent or a gate left there.
    fn release(&mut self, _uplinks: &BTreeSet<u32>) -> anyhow::Result<()> {
        Ok(())
    }

    /// Repairs what others broke and forgets what is over; to be called every few seconds. Returns what
    /// had to be repaired or could not be, one line each.
    fn maintain(&mut self) -> anyhow::Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Programs of others that see what a pod sends before ours does, with the interface; as of the last
    /// maintenance.
    fn ahead(&self) -> &[(u32, String)] {
        &[]
    }

    /// Whether the tables in force decide what passes an attached interface as that of `pod`.
    fn judges(&self, _ifindex: u32, _pod: &PodKey) -> bool {
        true
    }

    /// What the kernel has counted and holds, for the reasons numbered below `reasons`.
    fn sample(&mut self, _reasons: u32) -> anyhow::Result<Sample> {
        Ok(Sample::default())
    }

    /// The packets reported since the last call.
    fn events(&mut self) -> Vec<Event> {
        Vec::new()
    }
}

/// What the kernel has counted since its maps were made, and how many flows it tracks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Packets by direction and what became of them.
    pub outcomes: Vec<(Direction, Outcome, u64)>,
    /// Packets by the number of the reason that decided, from number 1.
    pub decided: Vec<u64>,
    /// Tracked flows at the last maintenance.
    pub flows: u64,
    /// Flows and fragments that this process forgot because they were idle.
    pub forgotten: u64,
}

/// How long the last change took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Took {
    /// From snapshot to tables.
    pub compile: Duration,
    /// From tables to maps; zero if the tables were in force already.
    pub publish: Duration,
}

/// How long the pod behind an interface has been running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// The interface has just appeared: there are no flows to be careful with.
    New,
    /// It may have open flows, whose replies must not be lost.
    Running,
}

/// The label by which a namespace asks that would-be drops of its pods are only counted and reported.
pub const AUDIT_LABEL: (&str, &str) = (MODE_LABEL, MODE_AUDIT);

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
    /// Those of `uplinks` that are bridges with pods behind them.
    pub bridges: &'a BTreeSet<u32>,
    /// Pods whose would-be drops are only counted and reported.
    pub audited: &'a BTreeSet<PodKey>,
}

/// The pod interfaces of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interfaces {
    /// By interface index: the pod behind it, or `None` if that is not known (yet), in which case the
    /// interface is quarantined.
    pub pods: BTreeMap<u32, Option<PodKey>>,
    /// Interfaces of the node that lead to no pod of its own.
    pub uplinks: BTreeSet<u32>,
    /// Those of `uplinks` that are bridges with pods behind them.
    pub bridges: BTreeSet<u32>,
    /// Pods of this node that cannot be policed, and why.
    pub unreachable: BTreeMap<PodKey, Arc<str>>,
}

/// How a pod of this node fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodState {
    /// Every packet is judged by the published tables.
    Enforced,
    /// The interface is closed, because the tables that would open it are not published.
    Quarantined,
    /// No interface of this node leads to the pod yet.
    Waiting,
    /// Nothing on this node can police the pod.
    Unreachable(Arc<str>),
}

/// What the engine does at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Counts publications; 0 before the first.
    pub generation: u64,
    /// Why the newest snapshot is not in force; the one before it still is.
    pub error: Option<Arc<str>>,
    /// Every policed pod of this node.
    pub pods: BTreeMap<PodKey, PodState>,
}

/// Decisions of the node's operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// What the tables may take.
    pub capacity: Capacity,
    /// Count and report would-be drops of every pod instead of dropping.
    pub audit: bool,
    /// Nobody talked before the engine came: interfaces found at the start are as good as new.
    pub fresh: bool,
}

/// The tables in force.
#[derive(Clone, Debug)]
pub struct Published {
    /// What they were compiled from.
    pub snapshot: Snapshot,
    /// As the kernel has them.
    pub image: Image,
}

/// What the newest snapshot has that the published one has not.
#[derive(Debug)]
enum Ahead {
    /// These changes.
    Changes(Vec<Change>),
    /// So much that the snapshot is better copied.
    Everything,
}

/// More changes than this at once are compiled from scratch.
const MANY: usize = 2_000;

/// Keeps a node's datapath equal to the newest snapshot that could be compiled.
#[derive(Debug)]
pub struct Engine<D> {
    node: Arc<str>,
    settings: Settings,
    datapath: D,
    /// The newest snapshot, and its tables.
    compiler: Option<Compiler>,
    /// The image of those tables, unless they do not fit.
    lowered: Option<Lowered>,
    /// The newest tables are not the ones in force.
    is_behind: bool,
    ahead: Ahead,
    published: Option<Published>,
    /// The policed pods of this node in the published snapshot.
    local: BTreeSet<PodKey>,
    reasons: Reasons,
    interfaces: Interfaces,
    attached: BTreeSet<u32>,
    /// The interfaces that were there before the engine are known.
    has_looked: bool,
    took: Took,
    report: Report,
}

/// A snapshot is not in force.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The tables do not fit into the kernel's maps.
    #[error("the tables of node `{node}` do not fit")]
    TooLarge {
        /// The node.
        node: Arc<str>,
        /// Which map, how much it holds and how much it would need.
        source: TooLarge,
    },
    /// The kernel refused the tables.
    #[error("cannot publish the tables of node `{node}`")]
    Refused {
        /// The node.
        node: Arc<str>,
        /// What the kernel said.
        source: anyhow::Error,
    },
}

impl<D: Datapath> Engine<D> {
    /// An engine for the pods of `node`, with nothing published.
    pub fn new(node: &str, settings: Settings, datapath: D) -> Self {
        Self {
            node: node.into(),
            settings,
            datapath,
            compiler: None,
            lowered: None,
            is_behind: true,
            ahead: Ahead::Everything,
            published: None,
            local: BTreeSet::new(),
            reasons: Reasons::default(),
            interfaces: Interfaces::default(),
            attached: BTreeSet::new(),
            has_looked: false,
            took: Took::default(),
            report: Report::default(),
        }
    }

    /// Makes `snapshot` the newest and publishes its tables, if they differ from those in force. On an
    /// error the tables in force stay.
    #[instrument(skip_all, fields(node = %self.node))]
    pub fn apply(&mut self, snapshot: Snapshot) -> Result<(), ApplyError> {
        if let Some(compiler) = &self.compiler {
            let changes = compiler.snapshot().changes_to(&snapshot);
            if changes.len() <= MANY {
                return self.follow(changes);
            }
        }
        let started = Instant::now();
        let compile = info_span!("compile", node = %self.node);
        self.compiler = Some(compile.in_scope(|| Compiler::new(&self.node, snapshot)));
        self.lowered = None;
        self.is_behind = true;
        self.ahead = Ahead::Everything;
        self.update(started, None)
    }

    /// Makes `changes` true of the newest snapshot, in order, and publishes its tables if they differ from
    /// those in force. On an error the tables in force stay. The first snapshot comes whole
    /// ([`Self::apply`]); before it, changes are of the empty cluster.
    #[instrument(skip_all, fields(node = %self.node, changes = changes.len()))]
    pub fn follow(&mut self, changes: Vec<Change>) -> Result<(), ApplyError> {
        let started = Instant::now();
        let node = &self.node;
        let compiler = self
            .compiler
            .get_or_insert_with(|| Compiler::new(node, Snapshot::default()));
        let mut delta = Delta::default();
        let mut is_rebuilt = false;
        let compile = info_span!("compile", %node).entered();
        for change in changes {
            match &mut self.ahead {
                Ahead::Changes(ahead) if ahead.len() < MANY => ahead.push(change.clone()),
                ahead => *ahead = Ahead::Everything,
            }
            // Labels of namespaces say which pods are only audited.
            self.is_behind |= matches!(change, Change::Namespace(..));
            match compiler.apply(change) {
                Applied::Unchanged => {}
                Applied::Delta(more) => delta.extend(more),
                Applied::Rebuilt => is_rebuilt = true,
            }
        }
        drop(compile);
        if is_rebuilt {
            self.lowered = None;
        }
        self.is_behind |= is_rebuilt || !delta.is_empty();
        self.update(started, Some(&delta))
    }

    fn update(&mut self, started: Instant, delta: Option<&Delta>) -> Result<(), ApplyError> {
        let result = self.try_update(started, delta);
        self.report.error = result.as_ref().err().map(|error| describe(error).into());
        self.refresh();
        result
    }

    /// Attaches to new pod interfaces, forgets those that are gone and publishes whose they are.
    ///
    /// New interfaces are closed before anything else happens. An interface that cannot be attached to
    /// is reported and tried again with the next call.
    pub fn set_interfaces(&mut self, interfaces: Interfaces) -> Result<(), ApplyError> {
        for gone in self.attached.clone() {
            if !interfaces.pods.contains_key(&gone) {
                if interfaces.uplinks.contains(&gone) {
                    if let Err(error) = self.datapath.detach(gone) {
                        warn!(ifindex = gone, error = %format!("{error:#}"), "cannot detach");
                    }
                    self.attached.remove(&gone);
                } else {
                    self.forget(gone);
                }
            }
        }
        if let Err(error) = self.datapath.release(&interfaces.uplinks) {
            warn!(error = %format!("{error:#}"), "cannot release an uplink");
        }
        // Only what was there before the engine may have flows whose beginning nobody saw. Taking a new
        // pod's first datagrams for replies would let them pass against its policies.
        let age = if self.settings.fresh || self.has_looked {
            Age::New
        } else {
            Age::Running
        };
        self.has_looked = true;
        for ifindex in interfaces.pods.keys() {
            self.quarantine(*ifindex, age);
        }
        self.interfaces = interfaces;
        let result = match self.published.take() {
            Some(published) => {
                let result = self.publish(&published.image, &published.snapshot);
                self.published = Some(published);
                result
            }
            None => Ok(()),
        };
        self.refresh();
        result
    }

    /// Closes an interface of which nothing is known yet. Interfaces that are attached already keep
    /// what they have.
    pub fn quarantine(&mut self, ifindex: u32, age: Age) {
        if self.attached.contains(&ifindex) {
            return;
        }
        let _span = info_span!("attach", node = %self.node, ifindex).entered();
        match self.datapath.attach(ifindex, age) {
            Ok(()) => {
                self.attached.insert(ifindex);
            }
            Err(error) => warn!(ifindex, error = %format!("{error:#}"), "cannot attach"),
        }
    }

    /// The interface is gone. Its number may be another one's already, which has to be attached to anew.
    pub fn forget(&mut self, ifindex: u32) {
        if self.attached.remove(&ifindex)
            && let Err(error) = self.datapath.forget(ifindex)
        {
            warn!(ifindex, error = %format!("{error:#}"), "cannot forget an interface");
        }
    }

    /// What the engine does at the moment.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The interfaces as they were last told.
    pub fn interfaces(&self) -> &Interfaces {
        &self.interfaces
    }

    /// Whether the interface has programs: it is closed at least.
    pub fn holds(&self, ifindex: u32) -> bool {
        self.attached.contains(&ifindex) && self.interfaces.pods.contains_key(&ifindex)
    }

    /// Whether the interface is that of a pod for which `is_meant` holds and the pod's tables, as they were
    /// compiled from this very pod, decide what passes.
    pub fn judges(&self, ifindex: u32, is_meant: impl Fn(&Pod) -> bool) -> bool {
        let (Some(published), Some(Some(pod))) =
            (&self.published, self.interfaces.pods.get(&ifindex))
        else {
            return false;
        };
        let known = published.snapshot.pods.get(pod);
        known.is_some_and(|pod| is_meant(pod))
            && published.image.endpoints.contains_key(pod)
            && self.attached.contains(&ifindex)
            && self.datapath.judges(ifindex, pod)
    }

    /// The tables in force.
    pub fn published(&self) -> Option<&Published> {
        self.published.as_ref()
    }

    /// How long the last change of the snapshot took.
    pub fn took(&self) -> Took {
        self.took
    }

    /// How much one bank of each map holds.
    pub fn capacity(&self) -> &Capacity {
        &self.settings.capacity
    }

    /// What the reason numbers in tables, counters and events mean.
    pub fn reasons(&self) -> &Reasons {
        &self.reasons
    }

    /// The kernel's side.
    pub fn datapath(&self) -> &D {
        &self.datapath
    }

    /// The kernel's side.
    pub fn datapath_mut(&mut self) -> &mut D {
        &mut self.datapath
    }

    /// Publishes the newest tables, unless they are in force. `delta` is what is new in them since they
    /// were last lowered; `None` is everything.
    fn try_update(&mut self, started: Instant, delta: Option<&Delta>) -> Result<(), ApplyError> {
        let Some(mut compiler) = self.compiler.take() else {
            return Ok(());
        };
        let result = self.publish_newest(started, delta, &mut compiler);
        self.compiler = Some(compiler);
        self.catch_up(result?);
        Ok(())
    }

    /// Puts the newest tables in force, unless they are. Returns their image if they were not.
    fn publish_newest(
        &mut self,
        started: Instant,
        delta: Option<&Delta>,
        compiler: &mut Compiler,
    ) -> Result<Option<Image>, ApplyError> {
        if self.is_behind {
            let lower = info_span!("lower", node = %self.node).entered();
            let capacity = &self.settings.capacity;
            let known = self.lowered.take().zip(delta);
            let followed = known.and_then(|(lowered, delta)| {
                lowered.follow(compiler.tables(), delta, capacity, &mut self.reasons)
            });
            let reasons = &mut self.reasons;
            let lowered = followed.map_or_else(
                || {
                    // Tables that followed many changes may only be too sparse.
                    Lowered::new(compiler.tables(), capacity, reasons).or_else(|_| {
                        compiler.compact();
                        Lowered::new(compiler.tables(), capacity, reasons)
                    })
                },
                Ok,
            );
            let lowered = lowered.map_err(|source| ApplyError::TooLarge {
                node: self.node.clone(),
                source,
            })?;
            drop(lower);
            let compile = started.elapsed();
            let result = self.publish(lowered.image(), compiler.snapshot());
            let image = lowered.image().clone();
            self.lowered = Some(lowered);
            result?;
            self.took = Took {
                compile,
                publish: started.elapsed().saturating_sub(compile),
            };
            self.is_behind = false;
            self.report.generation += 1;
            Ok(Some(image))
        } else {
            // The tables are the same, but what they were compiled from is not.
            self.took = Took {
                compile: started.elapsed(),
                publish: Duration::ZERO,
            };
            Ok(None)
        }
    }

    /// What was compiled is in force; its image, if it is a new one.
    fn catch_up(&mut self, image: Option<Image>) {
        let Some(compiler) = &self.compiler else {
            return;
        };
        let ahead = std::mem::replace(&mut self.ahead, Ahead::Changes(Vec::new()));
        match (&mut self.published, ahead) {
            (Some(published), Ahead::Changes(changes)) => {
                for change in changes {
                    if let Change::Pod(key, pod) = &change {
                        match pod.as_deref().filter(|pod| is_local(pod, &self.node)) {
                            Some(_) => self.local.insert(key.clone()),
                            None => self.local.remove(key),
                        };
                    }
                    published.snapshot.apply(change);
                }
                if let Some(image) = image {
                    published.image = image;
                }
            }
            (published, _) => {
                let former = published.take().map(|published| published.image);
                let pods = compiler.snapshot().pods.values();
                let local = pods.filter(|pod| is_local(pod, &self.node));
                self.local = local.map(|pod| pod.key.clone()).collect();
                *published = Some(Published {
                    snapshot: compiler.snapshot().clone(),
                    image: image.or(former).unwrap_or_default(),
                });
            }
        }
    }

    #[instrument(skip_all, fields(node = %self.node))]
    fn publish(&mut self, image: &Image, snapshot: &Snapshot) -> Result<(), ApplyError> {
        let pods: BTreeMap<u32, PodKey> = self
            .interfaces
            .pods
            .iter()
            .filter(|(ifindex, _)| self.attached.contains(ifindex))
            .filter_map(|(ifindex, pod)| Some((*ifindex, pod.clone()?)))
            .filter(|(_, pod)| image.endpoints.contains_key(pod))
            .collect();
        let (key, value) = AUDIT_LABEL;
        let is_audited = |pod: &&PodKey| {
            let namespace = snapshot.namespaces.get(&pod.namespace);
            let mode = namespace.and_then(|namespace| namespace.labels.0.get(key));
            self.settings.audit || mode.is_some_and(|mode| &**mode == value)
        };
        let audited = pods.values().filter(is_audited).cloned().collect();
        self.datapath
            .publish(&Desired {
                image,
                pods: &pods,
                uplinks: &self.interfaces.uplinks,
                bridges: &self.interfaces.bridges,
                audited: &audited,
            })
            .map_err(|source| ApplyError::Refused {
                node: self.node.clone(),
                source,
            })
    }

    /// Brings the report up to date.
    fn refresh(&mut self) {
        let Some(published) = &self.published else {
            return;
        };
        let local = self.local.iter();
        self.report.pods = local
            .map(|pod| (pod.clone(), self.state_of(pod, &published.image)))
            .collect();
    }

    fn state_of(&self, pod: &PodKey, image: &Image) -> PodState {
        if let Some(why) = self.interfaces.unreachable.get(pod) {
            return PodState::Unreachable(why.clone());
        }
        let mut interfaces = self
            .interfaces
            .pods
            .iter()
            .filter(|(_, owner)| owner.as_ref() == Some(pod))
            .peekable();
        if interfaces.peek().is_none() {
            PodState::Waiting
        } else if let Some((ifindex, _)) = interfaces.find(|(i, _)| !self.attached.contains(i)) {
            PodState::Unreachable(format!("cannot attach to interface {ifindex}").into())
        } else if image.endpoints.contains_key(pod) {
            PodState::Enforced
        } else {
            PodState::Quarantined
        }
    }
}

fn is_local(pod: &Pod, node: &Arc<str>) -> bool {
    pod.is_policed() && pod.node.as_ref() == Some(node)
}

/// The error with its causes, in one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
