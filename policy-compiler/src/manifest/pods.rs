// SPDX-License-Identifier: Apache-2.0
//! The pods that controllers would make of workloads, with the labels they would add.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

use crate::{
    model::{Labels, Node, Phase, Pod, PodKey, UnknownLabels},
    parse::{Template, Workload, WorkloadKind},
};

/// Pods of one StatefulSet that are made at most; they differ in nothing but their number.
pub(super) const MOST_ORDINALS: u32 = 1_000;

/// What stands for the value of a label that only the controller knows, a hash or a uid.
const PLACEHOLDER: &str = "unknown";

/// A pod that a controller would make.
pub(super) struct Made {
    pub(super) pod: Pod,
    /// The labels whose values only the controller knows.
    pub(super) unknown: UnknownLabels,
}

/// The pods of `workload`, none if it has no replicas.
///
/// Replicas that no policy can tell apart are one pod, called `deployment/web`, which no real pod can
/// be. Pods of a StatefulSet have names and labels of their own and are all made; a DaemonSet has one pod
/// for every known node that its node selector selects, or one if no node is known.
pub(super) fn of(workload: &Workload, nodes: &BTreeMap<Arc<str>, Arc<Node>>) -> Vec<Made> {
    if workload.replicas == 0 {
        return Vec::new();
    }
    let template = &workload.template;
    let collective = format!(
        "{}/{}",
        workload.kind.name().to_ascii_lowercase(),
        workload.name
    );
    match workload.kind {
        WorkloadKind::StatefulSet => (0..workload.replicas.min(MOST_ORDINALS))
            .map(|offset| {
                let ordinal = workload.first_ordinal.saturating_add(offset);
                let name = format!("{}-{ordinal}", workload.name);
                let labels = [
                    ("apps.kubernetes.io/pod-index", Some(ordinal.to_string())),
                    ("controller-revision-hash", None),
                    ("statefulset.kubernetes.io/pod-name", Some(name.clone())),
                ];
                pod(workload, &name, template.node.clone(), labels)
            })
            .collect(),
        WorkloadKind::DaemonSet => {
            let labels = || {
                [
                    ("controller-revision-hash", None),
                    ("pod-template-generation", None),
                ]
            };
            if nodes.is_empty() {
                return vec![pod(workload, &collective, template.node.clone(), labels())];
            }
            nodes
                .values()
                .filter(|node| runs_on(template, node))
                .map(|node| {
                    let name = format!("{collective}@{}", node.name);
                    pod(workload, &name, Some(node.name.clone()), labels())
                })
                .collect()
        }
        WorkloadKind::Deployment => {
            let labels = [("pod-template-hash", None)];
            vec![pod(workload, &collective, template.node.clone(), labels)]
        }
        WorkloadKind::DeploymentConfig => {
            let labels = [
                ("deployment", None),
                ("deploymentconfig", Some(workload.name.to_string())),
            ];
            vec![pod(workload, &collective, template.node.clone(), labels)]
        }
        WorkloadKind::Rollout => {
            let labels = [("rollouts-pod-template-hash", None)];
            vec![pod(workload, &collective, template.node.clone(), labels)]
        }
        WorkloadKind::Job | WorkloadKind::CronJob => {
            let is_job = workload.kind == WorkloadKind::Job;
            let job = is_job.then(|| workload.name.to_string());
            let labels = [
                ("batch.kubernetes.io/controller-uid", None),
                ("batch.kubernetes.io/job-name", job.clone()),
                ("controller-uid", None),
                ("job-name", job),
            ];
            vec![pod(workload, &collective, template.node.clone(), labels)]
        }
        WorkloadKind::ReplicaSet | WorkloadKind::ReplicationController => {
            vec![pod(workload, &collective, template.node.clone(), [])]
        }
    }
}

fn runs_on(template: &Template, node: &Node) -> bool {
    let named = template.node.as_ref().is_none_or(|name| *name == node.name);
    let mut wanted = template.node_selector.0.iter();
    named && wanted.all(|(key, value)| node.labels.get(key) == Some(&**value))
}

/// A pod with the labels that its controller adds, of which `None` is a value that only that knows.
fn pod<const N: usize>(
    workload: &Workload,
    name: &str,
    node: Option<Arc<str>>,
    added: [(&str, Option<String>); N],
) -> Made {
    let mut labels: Labels = workload.template.labels.clone();
    let mut unknown: Vec<Arc<str>> = Vec::new();
    for (key, value) in added {
        if labels.get(key).is_some() {
            continue;
        }
        let key: Arc<str> = key.into();
        if value.is_none() {
            unknown.push(key.clone());
        }
        labels.insert(key, value.as_deref().unwrap_or(PLACEHOLDER).into());
    }
    let pod = Pod {
        key: PodKey::new(&workload.namespace, name),
        uid: "".into(),
        labels,
        node,
        addresses: Vec::new(),
        host_network: workload.template.host_network,
        phase: Phase::Pending,
        ports: workload.template.ports.as_slice().into(),
        created: None,
        owner: Some((workload.kind.name().into(), workload.name.clone())),
        at: workload.at.clone(),
    };
    Made {
        pod,
        unknown: UnknownLabels::values(unknown),
    }
}

/// Gives workloads that borrow the pod template of another one that template. Returns those whose lender
/// is not there; nothing is known of their pods, so none are made up.
pub(super) fn resolve_templates(workloads: &mut BTreeMap<WorkloadId, Workload>) -> Vec<Workload> {
    let borrowed: Vec<(WorkloadId, Template)> = workloads
        .iter()
        .filter_map(|(id, workload)| {
            let (kind, name) = workload.template_of.as_ref()?;
            let kind = WorkloadKind::named(kind)?;
            let lender = workloads.get(&(workload.namespace.clone(), kind, name.clone()))?;
            Some((id.clone(), lender.template.clone()))
        })
        .collect();
    for (id, template) in borrowed {
        if let Some(workload) = workloads.get_mut(&id) {
            workload.template = template;
            workload.template_of = None;
        }
    }
    let mut without = Vec::new();
    for workload in workloads.values_mut() {
        if workload.template_of.is_some() && workload.replicas > 0 {
            without.push(workload.clone());
            workload.replicas = 0;
        }
    }
    without
}

/// Whether an object of a kind that is not known seems to make pods: somewhere in it is a template with
/// containers.
pub(super) fn has_template(value: &Value) -> bool {
    let has_containers = |spec: &Value| {
        let containers = spec.get("containers").and_then(Value::as_array);
        containers.is_some_and(|containers| {
            let mut images = containers.iter().map(|container| container.get("image"));
            !containers.is_empty() && images.all(|image| image.is_none_or(Value::is_string))
        })
    };
    // INVARIANT: a document is nested no deeper than its reader allows.
    match value {
        Value::Object(fields) => {
            fields.get("spec").is_some_and(has_containers) || fields.values().any(has_template)
        }
        Value::Array(items) => items.iter().any(has_template),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Which workload made each real pod, as far as names and ReplicaSets or Jobs between the two tell:
/// sets [`Pod::owner`] to the outermost workload.
pub(super) fn adopt(pod: &mut Pod, workloads: &BTreeMap<WorkloadId, Workload>) {
    let Some((kind, name)) = pod.owner.clone() else {
        return;
    };
    let namespace = &pod.key.namespace;
    let between = WorkloadKind::named(&kind)
        .and_then(|kind| workloads.get(&(namespace.clone(), kind, name.clone())));
    if let Some(owner) = between.and_then(|workload| workload.owner.clone()) {
        pod.owner = Some(owner);
        return;
    }
    let outer = match &*kind {
        // A Deployment calls its ReplicaSets by its own name and the hash their pods carry; so does a
        // Rollout.
        "ReplicaSet" => [
            ("pod-template-hash", WorkloadKind::Deployment),
            ("rollouts-pod-template-hash", WorkloadKind::Rollout),
        ]
        .into_iter()
        .find_map(|(label, kind)| {
            let hash = pod.labels.get(label)?;
            let prefix = name.strip_suffix(hash)?.strip_suffix('-')?;
            Some((kind, prefix))
        }),
        "ReplicationController" => {
            let config = pod.labels.get("deploymentconfig");
            config.map(|config| (WorkloadKind::DeploymentConfig, config))
        }
        // A CronJob calls its Jobs by its own name and the minute.
        "Job" => {
            let split = name.rsplit_once('-').filter(|(prefix, minute)| {
                let key = (namespace.clone(), WorkloadKind::CronJob, Arc::from(*prefix));
                minute.bytes().all(|c| c.is_ascii_digit()) && workloads.contains_key(&key)
            });
            split.map(|(prefix, _)| (WorkloadKind::CronJob, prefix))
        }
        _ => None,
    };
    if let Some((kind, name)) = outer {
        pod.owner = Some((kind.name().into(), name.into()));
    }
}

/// Namespace, kind and name of a workload.
pub(super) type WorkloadId = (Arc<str>, WorkloadKind, Arc<str>);
