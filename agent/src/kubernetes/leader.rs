// SPDX-License-Identifier: Apache-2.0
//! What does the one agent do that writes status for the whole cluster?

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::StreamExt as _;
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{WatchStreamExt as _, watcher},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::spawn_blocking,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{Config, LEASE, heap};
use crate::{
    index::PolicyRecord,
    metrics::Metrics,
    status::{
        findings::{self, Survey},
        lease::{Election, campaign},
        report::{NodeEnforcement, NodeEnforcementSpec},
        writer::{View, Writer},
    },
    watch::{chain, shortened},
};

type Reports = BTreeMap<Arc<str>, NodeEnforcementSpec>;

/// Takes part in the election, and writes status while elected.
pub(super) async fn lead(
    client: Client,
    config: Config,
    metrics: Metrics,
    view: watch::Receiver<Arc<View>>,
    surveys: mpsc::Sender<oneshot::Sender<Survey>>,
    stop: CancellationToken,
) {
    let (leading, mut elected) = watch::channel(false);
    let election = Election::new(config.node.clone(), config.lease);
    let campaign = campaign(
        client.clone(),
        &config.namespace,
        LEASE,
        election,
        leading,
        stop,
    );
    let writing = async {
        loop {
            if elected.wait_for(|leads| *leads).await.is_err() {
                return;
            }
            metrics.leader.set(1);
            tracing::info!("this agent writes the status of policies");
            let mut lost = elected.clone();
            tokio::select! {
                () = write(&client, &config, &metrics, view.clone(), &surveys) => {}
                ended = lost.wait_for(|leads| !leads) => {
                    if ended.is_err() {
                        return;
                    }
                }
            }
            metrics.leader.set(0);
            tracing::info!("another agent writes the status of policies");
        }
    };
    tokio::join!(campaign, writing);
    metrics.leader.set(0);
}

/// Writes until the view ends.
async fn write(
    client: &Client,
    config: &Config,
    metrics: &Metrics,
    mut view: watch::Receiver<Arc<View>>,
    surveys: &mpsc::Sender<oneshot::Sender<Survey>>,
) {
    let (publish, mut reports) = watch::channel(None);
    let follow = follow_reports(client.clone(), config.watch.timeout, &publish);
    let (tell, mut findings) = watch::channel(Arc::default());
    let looking = look(config.pace.survey, surveys, reports.clone(), &tell);
    let writing = async {
        // Without the reports every node would seem to lag.
        if reports.wait_for(Option::is_some).await.is_err() {
            return;
        }
        let mut writer = Writer::new(client.clone(), metrics.clone(), &config.node);
        loop {
            let known = view.borrow_and_update().clone();
            let told = reports.borrow_and_update().clone().unwrap_or_default();
            let found = findings.borrow_and_update().clone();
            let complete = known.report.is_none() || writer.round(&known, &told, &found).await;
            sleep(shortened(config.pace.conditions, 0.2)).await;
            if complete {
                tokio::select! {
                    changed = view.changed() => if changed.is_err() { return },
                    changed = reports.changed() => if changed.is_err() { return },
                    changed = findings.changed() => if changed.is_err() { return },
                }
            }
        }
    };
    tokio::select! {
        () = follow => {}
        () = looking => {}
        () = writing => {}
    }
}

/// Looks for NetworkPolicies that never match or are nowhere in force, now and then.
async fn look(
    pause: Duration,
    surveys: &mpsc::Sender<oneshot::Sender<Survey>>,
    reports: watch::Receiver<Option<Arc<Reports>>>,
    tell: &watch::Sender<Arc<Vec<PolicyRecord>>>,
) {
    let (mut before, mut looked_at) = (Vec::new(), None);
    loop {
        sleep(shortened(pause, 0.2)).await;
        let (answer, survey) = oneshot::channel();
        if surveys.send(answer).await.is_err() {
            return;
        }
        let Ok(survey) = survey.await else { return };
        let reports = reports.borrow().clone().unwrap_or_default();
        let is_same = looked_at.replace(survey.revision) == Some(survey.revision);
        let known = is_same.then(|| before.clone());
        // A large cluster takes a while.
        let looked = spawn_blocking(move || {
            let now = known.unwrap_or_else(|| findings::findings(&survey));
            let failures = findings::failures(reports.iter(), &survey);
            drop(survey);
            heap::give_back();
            (now, failures)
        });
        let Ok((now, failures)) = looked.await else {
            return;
        };
        let mut found = findings::lasting(&before, &now);
        found.extend(failures);
        before = now;
        tell.send_if_modified(|told| {
            let same = **told == found;
            if !same {
                *told = Arc::new(found);
            }
            !same
        });
    }
}

/// Keeps the reports of all nodes.
async fn follow_reports(
    client: Client,
    timeout: Duration,
    publish: &watch::Sender<Option<Arc<Reports>>>,
) {
    let api: Api<NodeEnforcement> = Api::all(client);
    let timeout = u32::try_from(timeout.as_secs()).ok();
    let config = watcher::Config {
        timeout,
        ..watcher::Config::default()
    };
    let mut stream = watcher(api, config).default_backoff().boxed();
    let mut reports = Reports::new();
    let mut listed = None;
    while let Some(event) = stream.next().await {
        match event {
            Ok(watcher::Event::Init) => listed = Some(Reports::new()),
            Ok(watcher::Event::InitApply(report)) => {
                let listed = listed.get_or_insert_default();
                listed.insert(report.name_any().into(), report.spec);
            }
            Ok(watcher::Event::InitDone) => reports = listed.take().unwrap_or_default(),
            Ok(watcher::Event::Apply(report)) => {
                reports.insert(report.name_any().into(), report.spec);
            }
            Ok(watcher::Event::Delete(report)) => {
                reports.remove(&*report.name_any());
            }
            Err(error) => tracing::warn!(error = chain(&error), "cannot read the nodes' reports"),
        }
        if listed.is_none() {
            publish.send_if_modified(|published| {
                let same = published.as_deref() == Some(&reports);
                if !same {
                    *published = Some(Arc::new(reports.clone()));
                }
                !same
            });
        }
    }
}
