// SPDX-License-Identifier: Apache-2.0
//! How do objects get from the API server into the index?
//!
//! One task per kind turns a watch into [`Event`]s. A task never gives up: errors are reported and
//! retried with growing pauses while the index keeps what it has. Kinds that a CustomResourceDefinition
//! brings are read as soon as they appear, and given up when they disappear.

mod definition;

use std::{
    hash::{BuildHasher, RandomState},
    pin::pin,
    time::{Duration, Instant},
};

use futures::StreamExt;
use kube::{
    Api, Client, ResourceExt,
    runtime::watcher::{self, watcher},
};
use serde_json::Value;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tracing::{Instrument, info_span};

use crate::index::{Kind, ObjectKey, Watched};

/// What a watch tells the index.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// All objects of the kind follow; those that do not are gone.
    Resync(Kind),
    /// The object is new or has changed.
    Apply(Kind, Value),
    /// The object is gone.
    Delete(Kind, ObjectKey),
    /// All objects of the kind have been told.
    Synced(Kind),
    /// The API server does not serve the kind.
    Absent(Kind),
    /// The kind cannot be read at the moment; what was told before stands.
    Trouble(Kind, Trouble),
    /// The kind can be read again, and nothing was missed.
    Recovered(Kind),
}

/// An event, and when it came.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// When the agent read it from its connection; it may have waited since.
    pub at: Instant,
    /// The event.
    pub event: Event,
}

/// Why a kind cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The API server refuses: RBAC does not allow to list and watch the kind.
    Denied(String),
    /// The API server cannot be reached, or fails.
    Failing(String),
}

/// How to watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Ask for the initial objects as part of the watch (streaming lists), where the server can.
    pub streaming: bool,
    /// How often to look for kinds the cluster lacks, where their definitions cannot be watched.
    pub discovery: Duration,
    /// How long a server keeps a quiet watch open; also bounds how long a dead connection goes
    /// unnoticed.
    pub timeout: Duration,
    /// How long a watch has to go without an error after one to be believed in again. Longer than it takes
    /// a client to give up on a connection, because a watch that works may have nothing to tell.
    pub calm: Duration,
    /// The pause after the first failure; it doubles up to `backoff_max`.
    pub backoff_min: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            streaming: true,
            discovery: Duration::from_secs(30),
            timeout: Duration::from_mins(2),
            calm: Duration::from_secs(15),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(20),
        }
    }
}

/// Watches `kind` until `events` is closed.
pub async fn watch(kind: Kind, client: Client, settings: Settings, events: mpsc::Sender<Arrival>) {
    let span = info_span!("watch", %kind);
    let source = Source {
        kind,
        client,
        settings,
        events,
    };
    let watching = async {
        let closed = match kind {
            Kind::Namespace => source.run::<{ Kind::Namespace as usize }>().await,
            Kind::Node => source.run::<{ Kind::Node as usize }>().await,
            Kind::Pod => source.run::<{ Kind::Pod as usize }>().await,
            Kind::Service => source.run::<{ Kind::Service as usize }>().await,
            Kind::EndpointSlice => source.run::<{ Kind::EndpointSlice as usize }>().await,
            Kind::NetworkPolicy => source.run::<{ Kind::NetworkPolicy as usize }>().await,
            Kind::AdminNetworkPolicy => source.run::<{ Kind::AdminNetworkPolicy as usize }>().await,
            Kind::BaselineAdminNetworkPolicy => {
                source
                    .run::<{ Kind::BaselineAdminNetworkPolicy as usize }>()
                    .await
            }
            Kind::ClusterNetworkPolicy => {
                source
                    .run::<{ Kind::ClusterNetworkPolicy as usize }>()
                    .await
            }
        };
        tracing::debug!(?closed, "watch ends");
    };
    watching.instrument(span).await;
}

/// The receiver of the events is gone.
#[derive(Debug)]
struct Closed;

struct Source {
    kind: Kind,
    client: Client,
    settings: Settings,
    events: mpsc::Sender<Arrival>,
}

impl Source {
    async fn run<const KIND: usize>(&self) -> Closed {
        let mut streaming = self.settings.streaming;
        let mut backoff = Backoff::new(self.settings.backoff_min, self.settings.backoff_max);
        loop {
            let ended = if self.kind.is_optional() {
                match timeout(DISCOVERY_PATIENCE, self.is_served()).await {
                    Ok(Ok(true)) => self.follow::<KIND>(&mut backoff, streaming).await,
                    Ok(Ok(false)) => self.absent(&mut backoff).await,
                    Ok(Err(error)) => {
                        let pause = self.pause(&error, api_code(&error), &mut backoff);
                        pause.await.map(|()| Ended::Again)
                    }
                    Err(late) => {
                        let pause = self.pause(&late, None, &mut backoff);
                        pause.await.map(|()| Ended::Again)
                    }
                }
            } else {
                self.follow::<KIND>(&mut backoff, streaming).await
            };
            match ended {
                Ok(Ended::Again) => {}
                Ok(Ended::NoStreaming) => streaming = false,
                Err(closed) => return closed,
            }
        }
    }

    /// Passes the events of one watcher on, which resumes by itself, until something fundamental changes.
    async fn follow<const KIND: usize>(
        &self,
        backoff: &mut Backoff,
        streaming: bool,
    ) -> Result<Ended, Closed> {
        let api: Api<Watched<KIND>> = Api::all(self.client.clone());
        let mut config = watcher::Config {
            timeout: u32::try_from(self.settings.timeout.as_secs()).ok(),
            ..watcher::Config::default()
        };
        if streaming {
            config = config.streaming_lists();
        }
        let mut stream = pin!(watcher(api, config));
        // How far the objects of a first reading have come.
        let (mut begun, mut syncing) = (false, true);
        let mut doubted = false;
        loop {
            let event = tokio::select! {
                event = stream.next() => event,
                () = sleep(self.settings.calm), if doubted && !syncing => {
                    doubted = false;
                    self.send(Event::Recovered(self.kind)).await?;
                    continue;
                }
                () = self.events.closed() => return Err(Closed),
            };
            let Some(event) = event else {
                return Ok(Ended::Again);
            };
            let error = match event {
                Ok(watcher::Event::Init) => {
                    // A stream ends when its time is up, however much of it is still to come.
                    if begun && syncing && streaming {
                        tracing::info!("the stream of objects ended early, listing instead");
                        return Ok(Ended::NoStreaming);
                    }
                    (begun, syncing) = (true, true);
                    self.send(Event::Resync(self.kind)).await?;
                    continue;
                }
                Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => {
                    backoff.reset();
                    doubted = false;
                    self.send(Event::Apply(self.kind, object.value)).await?;
                    continue;
                }
                Ok(watcher::Event::Delete(object)) => {
                    backoff.reset();
                    doubted = false;
                    let key = ObjectKey::new(object.namespace().as_deref(), &object.name_any());
                    self.send(Event::Delete(self.kind, key)).await?;
                    continue;
                }
                Ok(watcher::Event::InitDone) => {
                    backoff.reset();
                    (syncing, doubted) = (false, false);
                    self.send(Event::Synced(self.kind)).await?;
                    continue;
                }
                Err(error) => error,
            };
            match code(&error) {
                Some(404) if self.kind.is_optional() => return Ok(Ended::Again),
                // A server that cannot stream lists says that the request is bad or the parameter
                // forbidden, which no ordinary list is answered with.
                Some(400 | 422) if streaming && syncing => {
                    tracing::info!(%error, "server does not stream lists, listing instead");
                    return Ok(Ended::NoStreaming);
                }
                // The watcher starts over by itself: history is gone, not the server.
                Some(410) => tracing::debug!(%error, "watch expired, reading everything again"),
                code => {
                    doubted = true;
                    self.pause(&error, code, backoff).await?;
                }
            }
        }
    }

    /// Whether the API server serves the kind in the version the agent reads.
    async fn is_served(&self) -> kube::Result<bool> {
        let version = self.kind.api_version();
        match self.client.list_api_group_resources(&version).await {
            Ok(list) => Ok(list
                .resources
                .iter()
                .any(|resource| resource.name == self.kind.plural())),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reports that the cluster lacks the kind, and waits until it may have it.
    async fn absent(&self, backoff: &mut Backoff) -> Result<Ended, Closed> {
        self.send(Event::Absent(self.kind)).await?;
        let (client, quiet) = (&self.client, self.settings.timeout);
        tokio::select! {
            () = definition::news(client, self.kind, quiet, backoff) => Ok(Ended::Again),
            () = sleep(shortened(self.settings.discovery, 0.2)) => Ok(Ended::Again),
            () = self.events.closed() => Err(Closed),
        }
    }

    /// Reports `error` and waits a while.
    async fn pause(
        &self,
        error: &(dyn std::error::Error + Sync + 'static),
        code: Option<u16>,
        backoff: &mut Backoff,
    ) -> Result<(), Closed> {
        let pause = backoff.next();
        let message = chain(error);
        tracing::warn!(error = message, ?pause, "cannot read, trying again");
        let trouble = match code {
            Some(401 | 403) => Trouble::Denied(message),
            _ => Trouble::Failing(message),
        };
        self.send(Event::Trouble(self.kind, trouble)).await?;
        self.sleep(pause).await
    }

    async fn send(&self, event: Event) -> Result<(), Closed> {
        let at = Instant::now();
        let arrival = Arrival { at, event };
        self.events.send(arrival).await.map_err(|_| Closed)
    }

    async fn sleep(&self, pause: Duration) -> Result<(), Closed> {
        tokio::select! {
            () = sleep(pause) => Ok(()),
            () = self.events.closed() => Err(Closed),
        }
    }
}

/// How long the API server may take to say which kinds it serves.
const DISCOVERY_PATIENCE: Duration = Duration::from_secs(10);

enum Ended {
    /// Discover, list and watch again.
    Again,
    /// Do so without streaming lists.
    NoStreaming,
}

/// Pauses that double, with jitter so that the agents of a cluster do not return all at once.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// Pauses from `min` to `max`.
    pub const fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max,
            failures: 0,
        }
    }

    /// Forgets past failures.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }

    /// The next pause.
    #[expect(
        clippy::should_implement_trait,
        reason = "an endless iterator would invite `for` loops that never end"
    )]
    pub fn next(&mut self) -> Duration {
        let pause = self.longest();
        self.failures = self.failures.saturating_add(1);
        shortened(pause, 0.5)
    }

    fn longest(&self) -> Duration {
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.min.saturating_mul(factor).min(self.max)
    }
}

/// `pause`, shortened at random by up to `share` of it, so that agents that started together do not stay
/// together.
pub(crate) fn shortened(pause: Duration, share: f64) -> Duration {
    // Every state of the hasher is random.
    let random = RandomState::new().hash_one(0_u8) >> 32;
    let fraction = f64::from(u32::try_from(random).unwrap_or(0)) / f64::from(u32::MAX);
    pause.mul_f64(1.0 - share * fraction)
}

/// The HTTP status in an error of a watcher.
fn code(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::WatchError(status) => Some(status.code),
        watcher::Error::InitialListFailed(_)
        | watcher::Error::WatchStartFailed(_)
        | watcher::Error::WatchFailed(_)
        | watcher::Error::NoResourceVersion => api_code(error),
    }
}

/// The HTTP status of the API server's answer, where the error or one of its causes is one.
fn api_code(error: &(dyn std::error::Error + 'static)) -> Option<u16> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(kube::Error::Api(status)) = error.downcast_ref() {
            return Some(status.code);
        }
        next = error.source();
    }
    None
}

/// The messages of an error and its causes, each once; of an API server's refusal only its own words.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(kube::Error::Api(status)) = error.downcast_ref() {
            return status.message.clone();
        }
        let message = error.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(1000));
        for longest in [100, 200, 400, 800, 1000, 1000] {
            let pause = backoff.next();
            assert!(
                pause <= ms(longest) && pause >= ms(longest / 2),
                "{pause:?}"
            );
        }
        for _ in 0..100 {
            assert!(backoff.next() <= ms(1000));
        }
        backoff.reset();
        assert!(backoff.next() <= ms(100));
    }

    #[test]
    fn the_answer_is_found_below_wrapping_errors() {
        let status = kube::core::Status::failure("no", "Forbidden").with_code(403);
        let error = watcher::Error::WatchStartFailed(kube::Error::Api(status.boxed()));
        assert_eq!(code(&error), Some(403));
        assert_eq!(chain(&error), "no");
        assert_eq!(code(&watcher::Error::NoResourceVersion), None);
    }
}
