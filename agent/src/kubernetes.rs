// SPDX-License-Identifier: Apache-2.0
//! How is a cluster's API enforced on this node's pods?
//!
//! ```text
//! watches ─┐                          ┌─▶ Engine ─▶ datapath
//! links ───┼─▶ Enforcer (own thread) ─┤
//! debug ───┘                          └─▶ View ─▶ report of this node, status by the lease holder
//! ```
//!
//! Everything that knows the cluster lives on one thread, in the node's network namespace; everything
//! that talks to the API server lives on the caller's runtime. Stopping leaves the kernel as it is.

pub mod args;
mod bypass;
pub mod command;
mod debug;
mod enforcer;
mod heap;
mod leader;
mod measure;
mod report;
mod saving;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, mpsc as std_mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use kube::Client;
use policy_compiler::snapshot::Options;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use self::enforcer::{Enforcer, Inbox};
use crate::{
    admin::{self, Health},
    engine::{self, Datapath, Engine},
    index::Kind,
    metrics::Metrics,
    net::Netns,
    pods::Places,
    status::writer::{self, Pace, View},
    watch as source,
};

/// What an agent on Kubernetes is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// `metadata.name` of this node.
    pub node: String,
    /// Addresses of this node, as far as they are known before the API server answers.
    pub addresses: Vec<IpAddr>,
    /// Namespace of the Lease.
    pub namespace: String,
    /// Where the last snapshot is kept; `None` keeps none.
    pub bundle: Option<PathBuf>,
    /// Where the names behind the numbers in the kernel's maps are kept; `None` keeps none.
    pub names: Option<PathBuf>,
    /// Where `/livez`, `/readyz` and `/metrics` are served.
    pub listen: Option<SocketAddr>,
    /// Where `/debug` is served.
    pub debug_socket: Option<PathBuf>,
    /// Where the network plugin finds the agent.
    pub cni_socket: Option<PathBuf>,
    /// Where pods' network namespaces are looked for.
    pub places: Places,
    /// How to watch.
    pub watch: source::Settings,
    /// For the compiler.
    pub options: Options,
    /// For the engine.
    pub settings: engine::Settings,
    /// How often status is written.
    pub pace: Pace,
    /// How long the Lease of the status writer lasts.
    pub lease: Duration,
}

/// Name of the Lease that elects the agent which writes status.
pub const LEASE: &str = "netpol-status-writer";

/// How many events of watches may wait for the enforcer. Objects take kilobytes until they are read, and
/// what waits at once during the first reading leaves holes in the heap that nothing fills later.
const BACKLOG: usize = 512;

/// A running agent. Dropping it stops the agent and leaves the kernel as it is.
#[derive(Debug)]
pub struct Running {
    /// What probes are told.
    pub health: Health,
    /// What is measured.
    pub metrics: Metrics,
    view: watch::Receiver<Arc<View>>,
    updates: mpsc::Sender<Update>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    thread: Option<thread::JoinHandle<()>>,
}

/// What may change while the agent runs.
#[derive(Clone, Debug)]
pub enum Update {
    /// For the compiler.
    Options(Options),
}

/// Starts an agent for the pods of the node whose network namespace is `host`.
///
/// `datapath` is called inside that namespace. Must be called on a tokio runtime.
///
/// # Errors
///
/// The namespace cannot be entered, or the datapath cannot be set up. An API server that does not answer
/// is no error.
pub fn start<D: Datapath + 'static>(
    config: &Config,
    client: &Client,
    host: &Netns,
    datapath: impl FnOnce() -> Result<D> + Send + 'static,
) -> Result<Running> {
    let (health, metrics) = (Health::new(), Metrics::new());
    let stop = CancellationToken::new();
    let (events, watched) = mpsc::channel(BACKLOG);
    let (questions, asked) = mpsc::channel(1);
    let (updates, updated) = mpsc::channel(1);
    let (surveys, surveyed) = mpsc::channel(1);
    let (publish, view) = watch::channel(Arc::default());
    let inbox = Inbox {
        watched,
        asked,
        updated,
        surveyed,
        stop: stop.clone(),
    };
    let thread = spawn_enforcer(config, host, datapath, inbox, publish, &health, &metrics)?;

    let mut tasks = JoinSet::new();
    for kind in Kind::ALL {
        tasks.spawn(source::watch(
            kind,
            client.clone(),
            config.watch,
            events.clone(),
        ));
    }
    tasks.spawn(writer::report_node(
        client.clone(),
        config.node.clone(),
        config.pace,
        metrics.clone(),
        view.clone(),
    ));
    tasks.spawn(leader::lead(
        client.clone(),
        config.clone(),
        metrics.clone(),
        view.clone(),
        surveys,
        stop.clone(),
    ));
    if let Some(address) = config.listen {
        let (health, metrics, stop) = (health.clone(), metrics.clone(), stop.clone());
        tasks.spawn(async move {
            if let Err(error) = admin::serve(address, health, metrics, stop).await {
                tracing::error!(%address, %error, "cannot serve probes and metrics");
            }
        });
    }
    if let Some(path) = config.debug_socket.clone() {
        let stop = stop.clone();
        tasks.spawn(async move {
            let shown = path.display().to_string();
            if let Err(error) = admin::serve_debug(path, debug::PATHS, questions, stop).await {
                tracing::error!(path = shown, %error, "cannot serve the debug socket");
            }
        });
    }
    Ok(Running {
        health,
        metrics,
        view,
        updates,
        stop,
        tasks,
        thread: Some(thread),
    })
}

/// A client that gives up on connections which are dead without knowing: on a request that gets no
/// answer, and on a watch that is silent for longer than `quiet`, which servers never are.
///
/// # Errors
///
/// The configuration is not a client's.
pub fn client(mut config: kube::Config, quiet: Duration) -> Result<Client> {
    config.connect_timeout = Some(CONNECT_PATIENCE);
    config.read_timeout = Some(quiet + CONNECT_PATIENCE);
    // Else the silence of a connection at rest counts against the next request on it.
    config.reset_reader_on_write = true;
    Ok(Client::try_from(config)?)
}

/// How long the API server may take to accept a connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

fn spawn_enforcer<D: Datapath + 'static>(
    config: &Config,
    host: &Netns,
    datapath: impl FnOnce() -> Result<D> + Send + 'static,
    inbox: Inbox,
    publish: watch::Sender<Arc<View>>,
    health: &Health,
    metrics: &Metrics,
) -> Result<thread::JoinHandle<()>> {
    let (ready, started) = std_mpsc::channel();
    let (config, host) = (config.clone(), host.clone());
    let (health, metrics) = (health.clone(), metrics.clone());
    let thread = thread::Builder::new()
        .name("enforcer".to_owned())
        .spawn(move || {
            let enforcer = host
                .enter()
                .context("cannot enter the node's network namespace")
                .and_then(|()| {
                    let engine = Engine::new(&config.node, config.settings.clone(), datapath()?);
                    Enforcer::new(config, host, engine, publish, health, metrics)
                });
            match enforcer {
                Ok((enforcer, links)) => {
                    let _ = ready.send(Ok(()));
                    enforcer.run(inbox, links);
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            }
        })?;
    started
        .recv()
        .unwrap_or_else(|_| Err(anyhow!("the enforcing thread died")))?;
    Ok(thread)
}

impl Running {
    /// What the agent knows, as far as status is concerned; changes can be waited for.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Changes something while the agent runs.
    pub async fn update(&self, update: Update) {
        // Nobody listens only when the agent ends.
        let _ = self.updates.send(update).await;
    }

    /// Stops the agent, gives the Lease up if it holds it, and leaves the kernel as it is.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        // Watches end when the enforcer no longer listens.
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
