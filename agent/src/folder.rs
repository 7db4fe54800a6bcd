// SPDX-License-Identifier: Apache-2.0
//! How is a folder of YAML enforced on this machine's pods?
//!
//! A thread of its own waits for changes of files, namespaces and interfaces and tells the engine. Bad
//! edits are reported and change nothing.

mod load;
mod pods;
mod watch;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use ipnet::IpNet;
use policy_compiler::model::PodKey;
use tracing::{error, info, warn};

pub(crate) use self::watch::watcher;
pub use self::{
    load::{Broken, Loaded, load},
    pods::pod_file,
};
use self::{
    pods::{interfaces, local},
    watch::{Event, Watches},
};
use crate::{
    cni::{
        claims::{Claims, Hold},
        server::Server,
    },
    engine::{Datapath, Engine, Interfaces, PodState, Report, Settings},
    event,
    names::Names,
    net::{LinkEvent, Netns},
};

/// Changes that come within this time of each other are one change.
const IDLE: Duration = Duration::from_millis(20);
/// How long a stream of changes may hold the first one up.
const LATEST: Duration = Duration::from_millis(200);
/// How often reported packets are fetched.
const EVENTS: Duration = Duration::from_millis(250);
/// How often the datapath is looked after.
const UPKEEP: Duration = Duration::from_secs(10);

/// What to enforce, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder of manifests.
    pub dir: PathBuf,
    /// The node whose pods this machine runs.
    pub node: String,
    /// Where the pods' network namespaces are, as files named by [`pod_file`].
    pub netns_dir: PathBuf,
    /// NetworkPolicies admit traffic of a pod to its own node.
    pub local_node_egress: bool,
    /// Where Services have their addresses: those of which nothing is known (yet) are told from unknown
    /// hosts.
    pub service_cidrs: Vec<IpNet>,
    /// For the engine.
    pub settings: Settings,
    /// Where to keep what the numbers in the kernel's tables mean.
    pub state_dir: Option<PathBuf>,
    /// Where the network plugin finds the agent.
    pub cni_socket: Option<PathBuf>,
}

/// What became of the newest edit and of the pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Counts the times the folder was read.
    pub reads: u64,
    /// What is wrong with the folder, one `file:line:col: message` each; empty if it is in force.
    pub problems: Vec<String>,
    /// The engine's report.
    pub engine: Report,
}

impl Status {
    /// Whether the folder as it was last read is in force for every pod of the node.
    pub fn is_settled(&self) -> bool {
        self.problems.is_empty()
            && self.engine.generation > 0
            && self.engine.error.is_none()
            && self
                .engine
                .pods
                .values()
                .all(|state| !matches!(state, PodState::Waiting | PodState::Quarantined))
    }
}

/// A folder being enforced; dropping it stops that and leaves the kernel as it is.
#[derive(Debug)]
pub struct Running {
    events: mpsc::Sender<Event>,
    status: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    status: Mutex<(Status, bool)>,
    changed: Condvar,
}

impl Shared {
    fn set(&self, status: Status) {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).0 = status;
        self.changed.notify_all();
    }

    fn finish(&self) {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.changed.notify_all();
    }
}

/// Enforces a folder on the pods of the node whose network namespace is `host`.
///
/// `datapath` is called inside that namespace.
pub fn start<D: Datapath>(
    host: &Netns,
    options: Options,
    datapath: impl FnOnce() -> Result<D> + Send + 'static,
) -> Result<Running> {
    let (events, inbox) = mpsc::channel();
    let (ready, started) = mpsc::channel();
    let status = Arc::new(Shared::default());
    let shared = status.clone();
    let outbox = events.clone();
    let host = host.clone();
    let thread = thread::Builder::new()
        .name(format!("node-{}", options.node))
        .spawn(move || {
            let agent = host
                .enter()
                .context("cannot enter the node's network namespace")
                .and_then(|()| Agent::new(host, options, datapath()?, outbox, shared.clone()));
            let agent = agent.map(|mut agent| {
                agent.reload();
                agent
            });
            match agent {
                Ok(mut agent) => {
                    let _ = ready.send(Ok(()));
                    agent.follow(&inbox);
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            }
            shared.finish();
        })?;
    started
        .recv()
        .unwrap_or_else(|_| Err(anyhow!("the enforcing thread died")))?;
    Ok(Running {
        events,
        status,
        thread: Some(thread),
    })
}

impl Running {
    /// What became of the newest edit and of the pods.
    pub fn status(&self) -> Status {
        let status = self.status.status.lock();
        status.unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Waits until `wanted` holds and returns the status then; after `limit` or when enforcement ended,
    /// the status at that time as an error.
    pub fn wait(
        &self,
        limit: Duration,
        wanted: impl Fn(&Status) -> bool,
    ) -> Result<Status, Box<Status>> {
        let status = self
            .status
            .status
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (status, _) = self
            .status
            .changed
            .wait_timeout_while(status, limit, |(status, done)| !wanted(status) && !*done)
            .unwrap_or_else(PoisonError::into_inner);
        if wanted(&status.0) {
            Ok(status.0.clone())
        } else {
            Err(Box::new(status.0.clone()))
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.events.send(Event::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread's state.
struct Agent<D> {
    host: Netns,
    options: Options,
    engine: Engine<D>,
    /// Where the folder says that pods' namespaces are.
    named: BTreeMap<PodKey, PathBuf>,
    status: Status,
    shared: Arc<Shared>,
    watches: Watches,
    names: Names,
    claims: Claims,
    _plugins: Option<Server>,
}

/// What is to be done when things calm down.
#[derive(Default)]
struct Pending {
    files: bool,
    namespaces: bool,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Pending {
    fn note(&mut self, now: Instant) {
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    fn due(&self) -> Option<Instant> {
        Some((self.last? + IDLE).min(self.first? + LATEST))
    }
}

impl<D: Datapath> Agent<D> {
    fn new(
        host: Netns,
        options: Options,
        datapath: D,
        events: mpsc::Sender<Event>,
        shared: Arc<Shared>,
    ) -> Result<Self> {
        let mut engine = Engine::new(&options.node, options.settings.clone(), datapath);
        // Watch first, look afterwards: nothing falls between.
        let closer = || engine.datapath_mut().closer();
        let watches = Watches::start(&host, &options, closer, events.clone())?;
        let socket = options.cni_socket.as_deref();
        let plugins = socket.map(|socket| {
            let gate = engine.datapath_mut().closer()?;
            let hold = move |hold| events.send(Event::Hold(hold)).is_ok();
            Server::start(socket, &host, gate, hold)
        });
        Ok(Self {
            _plugins: plugins.transpose()?,
            claims: Claims::default(),
            host,
            options,
            engine,
            named: BTreeMap::new(),
            status: Status::default(),
            shared,
            watches,
            names: Names::default(),
        })
    }

    fn follow(&mut self, inbox: &mpsc::Receiver<Event>) {
        let mut pending = Pending::default();
        let mut upkeep = Instant::now();
        loop {
            let now = Instant::now();
            let wait = pending
                .due()
                .map_or(EVENTS, |due| due.saturating_duration_since(now).min(EVENTS));
            let event = inbox.recv_timeout(wait);
            self.report_packets();
            if upkeep.elapsed() >= UPKEEP {
                upkeep = Instant::now();
                self.maintain();
            }
            match event {
                Ok(Event::Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
                Ok(Event::Files) => {
                    pending.files = true;
                    pending.note(Instant::now());
                }
                Ok(Event::Namespaces) => {
                    pending.namespaces = true;
                    pending.note(Instant::now());
                }
                Ok(Event::Hold(hold)) => self.hold(hold),
                Ok(Event::Link(event)) => {
                    if let LinkEvent::Gone(link) = event {
                        self.engine.forget(link.index);
                        self.claims.forget(link.index);
                    }
                    pending.namespaces = true;
                    pending.note(Instant::now());
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            if pending.due().is_some_and(|due| due <= Instant::now()) {
                let Pending { files, .. } = std::mem::take(&mut pending);
                if files {
                    self.reload();
                } else {
                    self.rescan();
                }
            }
        }
    }

    /// Reads the folder and enforces it, unless something is wrong with it.
    fn reload(&mut self) {
        self.status.reads += 1;
        match load(&self.options.dir) {
            Ok(loaded) => {
                let Loaded {
                    mut snapshot,
                    namespaces,
                    warnings,
                } = loaded;
                for warning in warnings {
                    warn!("{warning}");
                }
                snapshot.options.local_node_egress |= self.options.local_node_egress;
                let cidrs = self.options.service_cidrs.iter().copied();
                snapshot.options.service_cidrs.extend(cidrs);
                if let Err(error) = self.watches.follow(namespaces.values()) {
                    warn!(error = %format!("{error:#}"), "cannot watch a namespace folder");
                }
                self.named = namespaces;
                self.status.problems.clear();
                let policies = snapshot.network_policies.len() + snapshot.admin_policies.len();
                let result = self.engine.apply(snapshot);
                match result {
                    Ok(()) => info!(
                        policies,
                        generation = self.engine.report().generation,
                        "tables published"
                    ),
                    Err(error) => {
                        let error = anyhow::Error::new(error);
                        error!("{error:#}; the tables in force stay");
                        self.status.problems.push(format!("{error:#}"));
                    }
                }
            }
            Err(Broken { problems }) => {
                for problem in &problems {
                    error!("{problem}");
                }
                error!(
                    problems = problems.len(),
                    "the folder is not enforced as it is; the tables in force stay"
                );
                self.status.problems = problems;
            }
        }
        self.rescan();
    }

    /// Finds the pods' interfaces and tells the engine.
    fn rescan(&mut self) {
        let found = interfaces(
            &self.host,
            &self.options,
            &self.named,
            self.engine.published().map(|published| &published.snapshot),
            &self.claims,
        );
        match found {
            Ok(found) => self.set_interfaces(found),
            Err(error) => warn!(error = %format!("{error:#}"), "cannot look for pod interfaces"),
        }
        self.tell();
    }

    /// Believes a runtime whose an interface is, at once: somebody waits.
    fn hold(&mut self, hold: Hold) {
        let mut interfaces = self.engine.interfaces().clone();
        let published = self.engine.published();
        let pods = local(published.map(|p| &p.snapshot), &self.options.node);
        self.claims.note(hold, &mut interfaces, pods);
        self.set_interfaces(interfaces);
        self.tell();
    }

    fn set_interfaces(&mut self, interfaces: Interfaces) {
        if let Err(error) = self.engine.set_interfaces(interfaces) {
            error!(error = %format!("{:#}", anyhow::Error::new(error)), "cannot publish");
        }
    }

    /// Says what became of the pods.
    fn tell(&mut self) {
        // A folder is always there: who is not in it yet is waited for.
        self.claims.answer(&self.engine, false);
        let before = std::mem::replace(&mut self.status.engine, self.engine.report().clone());
        for (pod, state) in &self.status.engine.pods {
            if before.pods.get(pod) != Some(state) {
                match state {
                    PodState::Enforced => info!(%pod, "enforced"),
                    PodState::Quarantined => warn!(%pod, "quarantined"),
                    PodState::Waiting => info!(%pod, "no interface yet"),
                    PodState::Unreachable(why) => warn!(%pod, %why, "not enforced"),
                }
            }
        }
        self.keep_names();
        self.shared.set(self.status.clone());
    }

    /// Keeps what events and tables need to be understood, for the log and for other processes.
    fn keep_names(&mut self) {
        let decisions = self.engine.reasons().iter();
        let pods = self.engine.interfaces().pods.iter();
        let names = Names {
            node: self.options.node.as_str().into(),
            pods: pods
                .filter_map(|(ifindex, pod)| Some((*ifindex, pod.clone()?)))
                .collect(),
            decisions: decisions.map(|(id, d)| (id, d.clone())).collect(),
        };
        if names != self.names {
            self.names = names;
            if let Some(dir) = &self.options.state_dir
                && let Err(error) = self.names.write(dir)
            {
                warn!(error = %format!("{error:#}"), "cannot keep names");
            }
        }
    }

    fn report_packets(&mut self) {
        for event in self.engine.datapath_mut().events() {
            event::Report::new(&event, &self.names).log();
        }
    }

    fn maintain(&mut self) {
        match self.engine.datapath_mut().maintain() {
            Ok(repairs) => {
                for repair in repairs {
                    warn!("{repair}");
                }
            }
            Err(error) => warn!(error = %format!("{error:#}"), "cannot look after the datapath"),
        }
    }
}
