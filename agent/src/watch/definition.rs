// SPDX-License-Identifier: Apache-2.0
//! Is there news of the definition of a kind that the cluster lacks?
//!
//! Definitions are watched by name, one by one, and only their metadata: an agent then needs no right to
//! read those of others, and a cluster with hundreds of them sends it nothing.

use std::{future::pending, pin::pin, time::Duration};

use futures::StreamExt as _;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    core::PartialObjectMeta,
    runtime::watcher::{self, watcher},
};
use tokio::time::{Instant, sleep_until};

use super::{Backoff, chain, code};
use crate::index::Kind;

/// Returns when it is worth asking again whether the cluster has `kind`: its CustomResourceDefinition has
/// come or changed, or is there and the API server may serve it soon, for which `backoff` has the pauses.
///
/// Never returns where the agent may not watch definitions.
///
/// `quiet` is how long a server keeps a watch open that has nothing to tell.
pub(super) async fn news(client: &Client, kind: Kind, quiet: Duration, backoff: &mut Backoff) {
    let api: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(client.clone());
    let config = watcher::Config {
        timeout: u32::try_from(quiet.as_secs()).ok(),
        ..watcher::Config::default()
    };
    // Rights that are restricted to names admit requests that name the object, and no others.
    let config = config.fields(&format!("metadata.name={}", kind.definition()));
    let mut events = pin!(watcher(api, config));
    let mut is_there = false;
    let mut due = None;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => return,
        };
        match event {
            Some(Ok(watcher::Event::Init)) => is_there = false,
            Some(Ok(watcher::Event::InitApply(_))) => is_there = true,
            // Between the definition and its being served lie seconds, with several API servers.
            Some(Ok(watcher::Event::InitDone)) if is_there => {
                due = Some(Instant::now() + backoff.next());
            }
            Some(Ok(watcher::Event::InitDone)) => backoff.reset(),
            Some(Ok(watcher::Event::Apply(_) | watcher::Event::Delete(_))) | None => return,
            Some(Err(error)) => match code(&error) {
                Some(401 | 403 | 404) => {
                    tracing::debug!(error = chain(&error), "cannot watch the definition");
                    return pending().await;
                }
                _ => due = Some(Instant::now() + backoff.next()),
            },
        }
    }
}
