// SPDX-License-Identifier: Apache-2.0
//! What happens between an event and its being in force?

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use policy_compiler::{
    Snapshot,
    model::{Pod, PolicyKind},
};
use tokio::{
    runtime::Builder,
    sync::{mpsc, oneshot, watch},
    time::sleep_until,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{Config, Update, bypass, debug as debugging, heap, measure, report, saving::Keeper};
use crate::{
    admin::{Health, Question},
    cni::{
        claims::{Claims, Hold},
        server::Server,
    },
    coalesce::Coalescer,
    engine::{Age, ApplyError, Datapath, Engine, Interfaces, PodState},
    event,
    index::{Effect, Index, Kind},
    metrics::{KindLabel, Metrics, ReasonLabel},
    names::Names,
    net::{Gate, HostLinks, Link, LinkEvent, Netns},
    pods,
    status::{findings::Survey, report::digest, writer::View},
    watch::{Arrival, Event, chain},
};

/// What the enforcer listens to.
pub(super) struct Inbox {
    pub(super) watched: mpsc::Receiver<Arrival>,
    pub(super) asked: mpsc::Receiver<Question>,
    pub(super) updated: mpsc::Receiver<Update>,
    pub(super) surveyed: mpsc::Receiver<oneshot::Sender<Survey>>,
    pub(super) stop: CancellationToken,
}

/// Changes of the node's interfaces.
pub(super) struct Links {
    events: mpsc::UnboundedReceiver<LinkEvent>,
    /// Network plugins that wait for one.
    holds: mpsc::UnboundedReceiver<Hold>,
    _gate: Gate,
    _plugins: Option<Server>,
}

/// Turns events into tables.
pub(super) struct Enforcer<D> {
    config: Config,
    host: Netns,
    index: Index,
    engine: Engine<D>,
    coalescer: Coalescer,
    interfaces: Interfaces,
    claims: Claims,
    /// When to look for interfaces next, and the pause after that.
    look: Option<(Instant, Duration)>,
    keeper: Option<Keeper>,
    /// The engine has the cluster that the index holds, but for what changed since.
    has_cluster: bool,
    /// How often the index has changed.
    revision: u64,
    /// When to check the datapath next.
    turn: Instant,
    /// When to ask for the kernel's events next.
    packets: Instant,
    /// The policies that take the most room in the newest tables, if those do not fit.
    crowding: Vec<Arc<str>>,
    /// [`digest`] of the policies in force, once they come from the API server.
    digest: Option<String>,
    names: Names,
    meter: measure::Meter,
    /// Why policies may not hold on this node.
    bypass: Option<String>,
    /// Why what was kept for this start cannot be used.
    lost: Option<String>,
    publish: watch::Sender<Arc<View>>,
    health: Health,
    metrics: Metrics,
}

/// How many events are taken at once before looking at the clock again.
const BATCH: usize = 512;
/// A pause between attempts to find whose an interface is; it doubles up to `LOOK_MAX`.
const LOOK_MIN: Duration = Duration::from_millis(20);
/// See [`LOOK_MIN`]; also how often interfaces are looked for without a reason.
const LOOK_MAX: Duration = Duration::from_secs(30);
/// How often the datapath is checked, and the loop turns at least.
const TURN: Duration = Duration::from_secs(5);

impl<D: Datapath> Enforcer<D> {
    /// An enforcer that has put the last known policies in force, if any are known.
    pub(super) fn new(
        config: Config,
        host: Netns,
        mut engine: Engine<D>,
        publish: watch::Sender<Arc<View>>,
        health: Health,
        metrics: Metrics,
    ) -> Result<(Self, Links)> {
        let (send, events) = mpsc::unbounded_channel();
        let closer = || engine.datapath_mut().closer();
        let gate = Gate::start(&host, closer, move |event| {
            // Nobody listens only when the agent ends.
            let _ = send.send(event);
        })
        .context("cannot watch the node's interfaces")?;
        let (send, holds) = mpsc::unbounded_channel();
        let socket = config.cni_socket.as_deref();
        let plugins = socket.map(|socket| {
            let gate = engine.datapath_mut().closer()?;
            Server::start(socket, &host, gate, move |hold| send.send(hold).is_ok())
        });
        let links = Links {
            events,
            holds,
            _gate: gate,
            _plugins: plugins.transpose().unwrap_or_else(|error| {
                error!(error = %format!("{error:#}"), "network plugins wait in vain");
                None
            }),
        };
        let mut enforcer = Self {
            index: Index::new(&config.node, config.options.clone()),
            keeper: (config.bundle.as_deref()).map(|folder| Keeper::new(folder, &config.node)),
            config,
            host,
            engine,
            coalescer: Coalescer::default(),
            interfaces: Interfaces::default(),
            claims: Claims::default(),
            look: None,
            has_cluster: false,
            revision: 0,
            turn: Instant::now() + TURN,
            packets: Instant::now() + PACKETS,
            crowding: Vec::new(),
            digest: None,
            names: Names::default(),
            meter: measure::Meter::default(),
            bypass: None,
            lost: None,
            publish,
            health,
            metrics,
        };
        enforcer.meter = measure::Meter::start(&mut enforcer.engine);
        enforcer.restore();
        enforcer.look_for_bypass();
        enforcer.look_for_interfaces();
        Ok((enforcer, links))
    }

    /// Follows events until told to stop.
    pub(super) fn run(mut self, mut inbox: Inbox, mut links: Links) {
        let runtime = match Builder::new_current_thread().enable_time().build() {
            Ok(runtime) => runtime,
            Err(error) => return error!(%error, "cannot start the enforcing loop"),
        };
        // Only the waiting is asynchronous. The work happens outside of the runtime, because it blocks.
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            self.health.turned();
            let due = self.next_due();
            match runtime.block_on(next(due, &mut inbox, &mut links, &mut batch)) {
                Next::Link(event) => self.link(&event),
                Next::Hold(hold) => {
                    let more = std::iter::from_fn(|| links.holds.try_recv().ok());
                    self.hold(std::iter::once(hold).chain(more));
                }
                Next::Update(update) => self.update(update),
                Next::Question(question) => {
                    let document = debugging::document(&question.path, &self.index, &self.engine);
                    // The one who asked may have gone.
                    let _ = question.answer.send(document);
                }
                Next::Survey(answer) => {
                    // The one who asked may have gone.
                    let _ = answer.send(self.survey());
                }
                Next::Due => self.act(),
                Next::Watched => self.watched(batch.drain(..)),
                Next::Stop => break,
            }
            self.claims.answer(&self.engine, self.is_deaf());
        }
        if let Some(keeper) = &mut self.keeper {
            keeper.finish(newest(&self.engine));
        }
    }

    fn survey(&self) -> Survey {
        let records = self.index.records().iter();
        Survey {
            revision: self.revision,
            snapshot: self.index.snapshot().clone(),
            uids: records
                .filter(|(policy, _)| policy.kind == PolicyKind::NetworkPolicy)
                .map(|(policy, record)| (policy.clone(), record.uid.clone()))
                .collect(),
        }
    }

    fn next_due(&self) -> Instant {
        let look = self.look.map(|(at, _)| at);
        let save = self.keeper.as_ref().and_then(Keeper::due);
        let others = [self.coalescer.deadline(), look, save];
        let regular = self.turn.min(self.packets);
        others.into_iter().flatten().fold(regular, Instant::min)
    }

    fn watched(&mut self, arrivals: impl Iterator<Item = Arrival>) {
        // Before everything has been read, how far it has come is worth telling.
        let mut is_news = !self.index.is_synced();
        for Arrival { at, event } in arrivals {
            if let Event::Trouble(kind, _) = &event {
                let label = KindLabel { kind: kind.name() };
                self.metrics.watch_errors.get_or_create(&label).inc();
            }
            is_news |= matches!(event, Event::Trouble(..) | Event::Recovered(_));
            let effect = self.index.handle(event);
            self.note(effect, at);
            is_news |= effect.records;
        }
        if is_news {
            self.tell();
        }
    }

    /// Takes note of what an event did that came at `arrived`.
    fn note(&mut self, effect: Effect, arrived: Instant) {
        if effect.changed || effect.records {
            self.revision += 1;
        }
        if effect.changed {
            let now = Instant::now();
            self.coalescer.changed(arrived, now, effect.urgent);
        }
        if effect.urgent {
            self.look_soon();
        }
    }

    fn update(&mut self, update: Update) {
        let Update::Options(options) = update;
        let effect = self.index.set_options(options);
        self.note(effect, Instant::now());
    }

    fn link(&mut self, event: &LinkEvent) {
        match event {
            LinkEvent::Closed(link) => {
                // What a look has found before it was closed is closed nevertheless, until the next.
                self.interfaces.uplinks.remove(&link.index);
                self.close(link);
                self.look_soon();
            }
            // What is known to be no pod's stays open through its changes.
            LinkEvent::Changed(link) if !self.interfaces.uplinks.contains(&link.index) => {
                self.close(link);
            }
            LinkEvent::Changed(_) => {}
            LinkEvent::Gone(link) => {
                // The kernel has taken the programs off with the interface. Its number may come back for
                // another pod's, which must not be taken for this one.
                self.engine.forget(link.index);
                self.claims.forget(link.index);
                let was_uplink = self.interfaces.uplinks.remove(&link.index);
                self.interfaces.bridges.remove(&link.index);
                if self.interfaces.pods.remove(&link.index).is_some() || was_uplink {
                    self.set_interfaces();
                }
            }
            LinkEvent::Lost => self.look_soon(),
        }
    }

    /// Believes runtimes whose interfaces are, at once: somebody waits.
    fn hold(&mut self, holds: impl Iterator<Item = Hold>) {
        let pods = self.local_pods();
        let pods: Vec<&Pod> = pods
            .iter()
            .map(|p| &**p)
            .filter(|p| p.is_policed())
            .collect();
        for hold in holds {
            let pods = pods.iter().copied();
            self.claims.note(hold, &mut self.interfaces, pods);
        }
        self.set_interfaces();
    }

    /// Whether there may be pods that the API server does not come to tell of.
    fn is_deaf(&self) -> bool {
        let mut kinds = self.index.kinds();
        let is_troubled = kinds.any(|kind| kind.kind == Kind::Pod && kind.trouble.is_some());
        is_troubled || !self.index.is_synced()
    }

    /// Makes an interface that leads to somebody an endpoint that is in quarantine, unless it is one.
    fn close(&mut self, link: &Link) {
        if link.is_pair
            && link.peer_nsid.is_some()
            && !self.interfaces.pods.contains_key(&link.index)
        {
            let started = Instant::now();
            self.engine.quarantine(link.index, Age::New);
            self.metrics.attach.observe(started.elapsed().as_secs_f64());
            self.interfaces.pods.insert(link.index, None);
            self.look_soon();
        }
    }

    fn look_soon(&mut self) {
        self.look = Some((Instant::now(), LOOK_MIN));
    }

    fn act(&mut self) {
        let now = Instant::now();
        if let Some(since) = self.coalescer.take_due(now)
            && self.index.is_synced()
        {
            self.apply(since);
        }
        if self.look.is_some_and(|(at, _)| at <= now) {
            self.look_for_interfaces();
        }
        if let Some(keeper) = &mut self.keeper {
            keeper.save_due(newest(&self.engine));
        }
        if self.packets <= now {
            self.packets = now + PACKETS;
            self.report_packets();
        }
        if self.turn <= now {
            self.turn = now + TURN;
            self.maintain();
            self.tell();
        }
    }

    /// Compiles and publishes what the index holds. If that fails, the tables in force stay.
    fn apply(&mut self, since: Instant) {
        let changes = self.index.take_changes();
        // What was in force before the agent started is no cluster that changes could be told from.
        let result = if std::mem::replace(&mut self.has_cluster, true) {
            self.engine.follow(changes)
        } else {
            drop(changes);
            let result = self.engine.apply(self.index.snapshot().clone());
            heap::give_back();
            result
        };
        self.crowding = match &result {
            Err(ApplyError::TooLarge { source, .. }) => source.policies().to_vec(),
            Err(ApplyError::Refused { .. }) | Ok(()) => Vec::new(),
        };
        match result {
            Ok(()) => {
                self.measure_publication();
                self.digest = Some(digest(self.index.records().values()));
                self.metrics
                    .policy_lag
                    .observe(since.elapsed().as_secs_f64());
                if let Some(keeper) = &mut self.keeper {
                    keeper.changed();
                }
                debug!(
                    generation = self.engine.report().generation,
                    "tables published"
                );
            }
            Err(error) => {
                let reason = report::failure(&self.index, Some(&chain(&error)))
                    .map_or_else(String::new, |failure| failure.reason);
                let label = ReasonLabel { reason };
                self.metrics.publish_failures.get_or_create(&label).inc();
                error!(error = chain(&error), "the tables in force stay");
            }
        }
        self.keep_names();
        self.tell();
    }

    fn measure_publication(&self) {
        let took = self.engine.took();
        self.metrics.compile.observe(took.compile.as_secs_f64());
        if !took.publish.is_zero() {
            self.metrics.apply.observe(took.publish.as_secs_f64());
            measure::fill(&self.engine, &self.metrics);
        }
    }

    /// Finds out whose the node's interfaces are, and tells the engine if anything is new.
    fn look_for_interfaces(&mut self) {
        let local: Vec<Arc<Pod>> = self.local_pods();
        let (places, addresses) = (&self.config.places, self.addresses());
        match pods::find(places, &self.host, &addresses, &local, &self.claims) {
            Ok(found) => {
                let unattached = self.engine.report().pods.values();
                let retry = unattached
                    .filter(|state| matches!(state, PodState::Unreachable(_)))
                    .count()
                    > found.unreachable.len();
                // The first look says what was there before the agent, even if that is nothing.
                if found != self.interfaces || retry || self.look.is_none() {
                    for (index, pod) in &found.pods {
                        if let Some(pod) = pod
                            && self.interfaces.pods.get(index) != Some(&Some(pod.clone()))
                        {
                            info!(%pod, ifindex = index, "interface found");
                        }
                    }
                    self.interfaces = found.clone();
                    if let Err(error) = self.engine.set_interfaces(found) {
                        error!(
                            error = chain(&error),
                            "cannot publish whose interfaces are whose"
                        );
                    }
                    self.keep_names();
                    self.tell();
                }
            }
            Err(error) => warn!(error = chain(&error), "cannot read the node's interfaces"),
        }
        // Nothing tells when a process enters a namespace, so ask again while somebody is missing.
        let is_missing = self.interfaces.pods.values().any(Option::is_none)
            || self
                .engine
                .report()
                .pods
                .values()
                .any(|state| *state == PodState::Waiting);
        let pause = match self.look {
            Some((_, pause)) if is_missing => (pause * 2).min(LOOK_MAX),
            _ if is_missing => LOOK_MIN,
            _ => LOOK_MAX,
        };
        self.look = Some((Instant::now() + pause, pause));
    }

    /// Keeps what events and tables need to be understood, for the log and for other processes.
    fn keep_names(&mut self) {
        let decisions = self.engine.reasons().iter();
        let pods = self.engine.interfaces().pods.iter();
        let names = Names {
            node: self.config.node.as_str().into(),
            pods: pods
                .filter_map(|(ifindex, pod)| Some((*ifindex, pod.clone()?)))
                .collect(),
            decisions: decisions
                .map(|(id, decision)| (id, decision.clone()))
                .collect(),
        };
        if names != self.names {
            self.names = names;
            if let Some(folder) = &self.config.names
                && let Err(error) = self.names.write(folder)
            {
                warn!(error = %format!("{error:#}"), "cannot keep names");
            }
        }
    }

    /// Logs what the kernel says of packets.
    fn report_packets(&mut self) {
        for event in self.engine.datapath_mut().events() {
            self.metrics.events_lost.inc_by(u64::from(event.suppressed));
            event::Report::new(&event, &self.names).log();
        }
    }

    fn set_interfaces(&mut self) {
        if let Err(error) = self.engine.set_interfaces(self.interfaces.clone()) {
            error!(
                error = chain(&error),
                "cannot publish whose interfaces are whose"
            );
        }
        self.keep_names();
        self.tell();
    }

    /// Finds out whether packets get past the programs.
    fn look_for_bypass(&mut self) {
        let found = match HostLinks::read(&self.host) {
            Ok(links) => bypass::find(links.links(), self.engine.datapath().ahead()),
            Err(error) => {
                return warn!(error = chain(&error), "cannot read the node's interfaces");
            }
        };
        if found != self.bypass {
            if let Some(why) = &found {
                error!(why, "policies may not hold on this node");
            } else {
                info!("nothing lets packets past the programs any more");
            }
            self.bypass = found;
        }
    }

    /// Repairs what others broke.
    fn maintain(&mut self) {
        match self.engine.datapath_mut().maintain() {
            Ok(repairs) => {
                for repair in repairs {
                    self.metrics.drift_repairs.inc();
                    warn!(repair, "the datapath was not as it should be");
                }
            }
            Err(error) => warn!(error = %format!("{error:#}"), "cannot check the datapath"),
        }
        self.look_for_bypass();
        if let Err(error) = self.meter.read(&mut self.engine, &self.metrics) {
            warn!(error = %format!("{error:#}"), "cannot read the kernel's counters");
        }
    }

    /// This node's addresses, as it was told and as the API server has them or had them the last time.
    fn addresses(&self) -> BTreeSet<IpAddr> {
        let published = self.engine.published();
        let last = published.map(|published| &published.snapshot);
        let nodes = [Some(self.index.snapshot()), last].into_iter().flatten();
        nodes
            .filter_map(|snapshot| snapshot.nodes.get(&*self.config.node))
            .flat_map(|node| node.addresses.iter().copied())
            .chain(self.config.addresses.iter().copied())
            .collect()
    }

    /// The pods of this node, from the API server or, while it has not answered, from the last time.
    fn local_pods(&self) -> Vec<Arc<Pod>> {
        if self.index.is_synced() {
            return self.index.local_pods().cloned().collect();
        }
        let published = self.engine.published();
        let known = published
            .iter()
            .flat_map(|published| published.snapshot.pods.values());
        known
            .filter(|pod| pod.node.as_deref() == Some(&*self.config.node))
            .chain(self.index.local_pods())
            .cloned()
            .collect()
    }

    /// Puts the policies in force that were in force before the agent started.
    fn restore(&mut self) {
        let Some(keeper) = &self.keeper else { return };
        let snapshot = match keeper.load(|pod| self.index.share(pod)) {
            Ok(Some(snapshot)) => snapshot,
            Ok(None) => return,
            Err(error) => {
                let error = chain(&error);
                error!(error, "the last known policies are lost");
                self.lost = Some(format!("the last known policies are lost: {error}"));
                return;
            }
        };
        self.index.remember(&snapshot);
        match self.engine.apply(snapshot) {
            Ok(()) => {
                heap::give_back();
                self.measure_publication();
                info!("the last known policies are in force until the API server answers");
            }
            Err(error) => error!(
                error = chain(&error),
                "cannot enforce the last known policies"
            ),
        }
    }

    /// Brings everybody up to date who wants to know.
    fn tell(&self) {
        let engine = self.engine.report();
        let mut unready = report::unready(&self.index, engine);
        unready.extend(self.bypass.clone());
        if !self.index.is_synced() {
            unready.extend(self.lost.clone());
        }
        self.metrics.ready.set(i64::from(unready.is_empty()));
        self.health.set_unready(unready);
        measure::tally(&self.index, &self.engine, &self.metrics);

        let failure = report::failure(&self.index, engine.error.as_deref());
        let failure = failure.or_else(|| report::bypassed(self.bypass.as_deref()));
        let is_known = self.digest.is_some() || failure.is_some();
        let digest = self.digest.as_deref().unwrap_or_default();
        let records = self.index.records().values();
        let nodes = self.index.snapshot().nodes.values();
        let view = View {
            policies: records
                .filter(|record| record.policy.namespace.is_none() || !record.problems.is_empty())
                .cloned()
                .collect(),
            nodes: nodes
                .filter(|node| node.labels.get(OS).is_none_or(|os| os == "linux"))
                .map(|node| node.name.clone())
                .collect(),
            report: is_known
                .then(|| report::report(&self.index, engine, failure, &self.crowding, digest)),
        };
        self.publish.send_if_modified(|published| {
            let same = **published == view;
            if !same {
                *published = Arc::new(view);
            }
            !same
        });
    }
}

/// How often the kernel's events are asked for.
const PACKETS: Duration = Duration::from_millis(250);

/// What the tables in force were compiled from.
fn newest<D: Datapath>(engine: &Engine<D>) -> Option<&Snapshot> {
    engine.published().map(|published| &published.snapshot)
}

/// What the loop does next.
enum Next {
    Link(LinkEvent),
    Hold(Hold),
    Update(Update),
    Question(Question),
    Survey(oneshot::Sender<Survey>),
    Due,
    /// Events of watches are in the batch.
    Watched,
    Stop,
}

async fn next(
    due: Instant,
    inbox: &mut Inbox,
    links: &mut Links,
    batch: &mut Vec<Arrival>,
) -> Next {
    tokio::select! {
        biased;
        () = inbox.stop.cancelled() => Next::Stop,
        // A new interface has to be closed before anything else is done.
        Some(event) = links.events.recv() => Next::Link(event),
        Some(hold) = links.holds.recv() => Next::Hold(hold),
        Some(update) = inbox.updated.recv() => Next::Update(update),
        Some(question) = inbox.asked.recv() => Next::Question(question),
        Some(answer) = inbox.surveyed.recv() => Next::Survey(answer),
        () = sleep_until(due.into()) => Next::Due,
        taken = inbox.watched.recv_many(batch, BATCH) => match taken {
            0 => Next::Stop,
            _ => Next::Watched,
        },
    }
}

/// Nodes of other operating systems run no agent.
const OS: &str = "kubernetes.io/os";
