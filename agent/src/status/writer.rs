// SPDX-License-Identifier: Apache-2.0
//! How does status reach the API server, and only when it has changed?

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::Node,
    apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference},
};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    runtime::{WatchStreamExt as _, watcher::watch_object},
};
use policy_compiler::model::{PolicyKind, PolicyRef};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    FIELD_MANAGER,
    conditions::{self, Fleet},
    events::Announcer,
    report::{self, NodeEnforcement, NodeEnforcementSpec},
    ties::can_disagree,
};
use crate::{
    index::{Kind, PolicyRecord},
    metrics::{Metrics, WriteLabels},
    watch::chain,
};

/// What the agent knows, as far as status is concerned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Every policy.
    pub policies: Vec<PolicyRecord>,
    /// Nodes that should enforce policies.
    pub nodes: Vec<Arc<str>>,
    /// What this node enforces; `None` until it is known.
    pub report: Option<NodeEnforcementSpec>,
}

/// How often status may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Pause between two writes of a node's report.
    pub report: Duration,
    /// Pause between two rounds over all policies.
    pub conditions: Duration,
    /// Pause between two looks for policies that never match. What is found twice in a row is told.
    pub survey: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            report: Duration::from_secs(1),
            conditions: Duration::from_secs(5),
            survey: Duration::from_mins(1),
        }
    }
}

/// How long a single request may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Keeps the [`NodeEnforcement`] of `node` as `view` has it, until the sender of `view` is gone.
pub async fn report_node(
    client: Client,
    node: String,
    pace: Pace,
    metrics: Metrics,
    mut view: watch::Receiver<Arc<View>>,
) {
    let api: Api<NodeEnforcement> = Api::all(client.clone());
    let nodes: Api<Node> = Api::all(client);
    let (publish, mut stored) = watch::channel(Held::Unknown);
    let following = follow_report(&api, &node, &metrics, &publish);
    let writing = async {
        // A restarted agent finds its own report, mostly up to date.
        let mut expected: Option<(Held, Held)> = None;
        let mut trouble = String::new();
        loop {
            let report = view.borrow_and_update().report.clone();
            let known = stored.borrow_and_update().clone();
            let mut pause = Duration::ZERO;
            if let Some(report) = report.filter(|_| known != Held::Unknown) {
                let desired = Held::Report(Box::new(report.clone()));
                // What was written last is there, or will be told soon.
                let is_underway = expected
                    .as_ref()
                    .is_some_and(|(before, written)| *before == known && *written == desired);
                if known == desired {
                    if expected.is_none() {
                        count(&metrics, "report", "unchanged");
                    }
                    expected = Some((known, desired));
                } else if !is_underway {
                    let write = write_report(&api, &nodes, &node, &report);
                    match within_patience(write).await {
                        Ok(()) => {
                            count(&metrics, "report", "written");
                            expected = Some((known, desired));
                            trouble.clear();
                            pause = pace.report;
                        }
                        Err(why) => {
                            count(&metrics, "report", "failed");
                            if why != trouble {
                                tracing::warn!(%why, "report of this node not written");
                                trouble = why;
                            }
                            pause = pace.conditions;
                            // Nothing may change for long; the next attempt must not wait for it.
                            view.mark_changed();
                        }
                    }
                }
            }
            sleep(pause).await;
            tokio::select! {
                changed = view.changed() => if changed.is_err() { return },
                changed = stored.changed() => if changed.is_err() { return },
            }
        }
    };
    tokio::select! {
        () = following => {}
        () = writing => {}
    }
}

/// What the API server holds as the report of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Held {
    /// It has not said so far.
    Unknown,
    Nothing,
    Report(Box<NodeEnforcementSpec>),
}

/// Publishes what the API server holds as the report of `node`: somebody may remove or alter it, and it
/// goes with a Node that is replaced by another one of the same name.
async fn follow_report(
    api: &Api<NodeEnforcement>,
    node: &str,
    metrics: &Metrics,
    publish: &watch::Sender<Held>,
) {
    let mut stream = watch_object(api.clone(), node).default_backoff().boxed();
    while let Some(event) = stream.next().await {
        match event {
            Ok(report) => {
                publish.send_replace(
                    report.map_or(Held::Nothing, |report| Held::Report(Box::new(report.spec))),
                );
            }
            Err(error) => {
                count(metrics, "report", "failed");
                tracing::warn!(error = chain(&error), "cannot read the report of this node");
            }
        }
    }
}

async fn write_report(
    api: &Api<NodeEnforcement>,
    nodes: &Api<Node>,
    node: &str,
    report: &NodeEnforcementSpec,
) -> kube::Result<()> {
    let owner = nodes.get_metadata(node).await?;
    let mut object = NodeEnforcement::new(node, report.clone());
    object.metadata.owner_references = owner.metadata.uid.map(|uid| {
        vec![OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: node.to_owned(),
            uid,
            ..OwnerReference::default()
        }]
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(node, &params, &Patch::Apply(&object)).await?;
    Ok(())
}

/// Writes conditions and Events on behalf of the whole cluster. It lives as long as this agent leads.
pub struct Writer {
    client: Client,
    metrics: Metrics,
    announcer: Announcer,
    /// What was written and has not been seen to arrive, with what was there before.
    underway: BTreeMap<PolicyRef, (Vec<Condition>, Vec<Condition>)>,
}

impl Writer {
    /// A writer that has written nothing so far; `instance` names it in Events.
    pub fn new(client: Client, metrics: Metrics, instance: &str) -> Self {
        Self {
            announcer: Announcer::new(client.clone(), metrics.clone(), instance),
            client,
            metrics,
            underway: BTreeMap::new(),
        }
    }

    /// Writes what differs from what `view` says is there, and tells what was found of NetworkPolicies;
    /// says whether everything was written.
    pub async fn round(
        &mut self,
        view: &View,
        reports: &BTreeMap<Arc<str>, NodeEnforcementSpec>,
        found: &[PolicyRecord],
    ) -> bool {
        let fleet: Fleet = view
            .nodes
            .iter()
            .map(|node| (node.clone(), reports.get(node).cloned()))
            .collect();
        let digest = report::digest(&view.policies);
        let mut complete = true;
        for record in &view.policies {
            if record.policy.kind == PolicyKind::NetworkPolicy {
                continue;
            }
            let ties = ties(record, &view.policies);
            let desired = conditions::desired(record, &ties, &fleet, &digest, Timestamp::now());
            complete &= self.write(record, desired).await;
        }
        let records: Vec<&PolicyRecord> = view
            .policies
            .iter()
            .filter(|record| record.policy.kind == PolicyKind::NetworkPolicy)
            .chain(found)
            .collect();
        for record in &records {
            complete &= self.announcer.announce(record).await;
        }
        self.announcer.forget_all_but(&records);
        self.underway
            .retain(|policy, _| view.policies.iter().any(|record| record.policy == *policy));
        complete
    }

    async fn write(&mut self, record: &PolicyRecord, desired: Vec<Condition>) -> bool {
        if conditions::same(&desired, &record.conditions) {
            self.underway.remove(&record.policy);
            return true;
        }
        let underway = self.underway.get(&record.policy);
        if underway.is_some_and(|(written, before)| {
            conditions::same(&desired, written) && *before == record.conditions
        }) {
            return true;
        }
        match within_patience(patch(&self.client, record, &desired)).await {
            Ok(()) => {
                count(&self.metrics, "condition", "written");
                let entry = (desired, record.conditions.clone());
                self.underway.insert(record.policy.clone(), entry);
                true
            }
            Err(why) => {
                count(&self.metrics, "condition", "failed");
                tracing::warn!(policy = %record.policy, %why, "status not written");
                false
            }
        }
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

async fn patch(
    client: &Client,
    record: &PolicyRecord,
    conditions: &[Condition],
) -> kube::Result<()> {
    let kind = kind_of(record.policy.kind);
    let resource = ApiResource {
        group: kind.group().to_owned(),
        version: kind.version().to_owned(),
        api_version: kind.api_version(),
        kind: kind.name().to_owned(),
        plural: kind.plural().to_owned(),
    };
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let patch = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        // The UID keeps the status of a deleted policy from its namesake.
        "metadata": {"name": record.policy.name, "uid": record.uid},
        "status": {"conditions": conditions},
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    match api
        .patch_status(&record.policy.name, &params, &Patch::Apply(&patch))
        .await
    {
        Ok(_) => Ok(()),
        // The policy is gone, or is another one: its watch will say so.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Other policies of the same tier and priority that can disagree with it.
fn ties<'a>(record: &PolicyRecord, policies: &'a [PolicyRecord]) -> Vec<&'a PolicyRecord> {
    let Some(order) = record.order else {
        return Vec::new();
    };
    policies
        .iter()
        .filter(|other| other.order == Some(order) && other.policy != record.policy)
        .filter(|other| match (&record.meaning, &other.meaning) {
            (Some(mine), Some(theirs)) => can_disagree(mine, theirs),
            (None, _) | (_, None) => false,
        })
        .collect()
}

fn kind_of(kind: PolicyKind) -> Kind {
    match kind {
        PolicyKind::NetworkPolicy => Kind::NetworkPolicy,
        PolicyKind::AdminNetworkPolicy => Kind::AdminNetworkPolicy,
        PolicyKind::BaselineAdminNetworkPolicy => Kind::BaselineAdminNetworkPolicy,
        PolicyKind::ClusterNetworkPolicy => Kind::ClusterNetworkPolicy,
    }
}

/// Waits for a request, but not for ever.
pub(super) async fn within_patience<T>(
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, String> {
    within(PATIENCE, request).await
}

/// Waits for a request as long as `limit`.
pub(super) async fn within<T>(
    limit: Duration,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, String> {
    match timeout(limit, request).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err(format!("no answer within {} s", limit.as_secs())),
    }
}

pub(super) fn count(metrics: &Metrics, object: &'static str, result: &'static str) {
    let labels = WriteLabels { object, result };
    metrics.status_writes.get_or_create(&labels).inc();
}
