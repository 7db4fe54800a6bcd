// SPDX-License-Identifier: Apache-2.0
//! Which part of the input decides about traffic? `snapshot` writes it down for later commands.

mod redact;

use std::collections::BTreeMap;

use anyhow::Context;
use policy_compiler::manifest;
use serde_json::{Map, Value, json};

use crate::{
    Io,
    args::{Output, SnapshotArgs},
    exit::{ExitStatus, UsageError},
    load::{Listing, World},
};

use redact::Redactor;

/// Runs `snapshot`.
pub fn run(io: &Io<'_>, args: &SnapshotArgs) -> anyhow::Result<ExitStatus> {
    let Some(world) = io.load()? else {
        return Ok(ExitStatus::Usage);
    };
    let mut items = objects(&world);
    if args.redact {
        let redactor = Redactor::new(&items);
        for item in &mut items {
            *item = redactor.object(item, &world.namespace);
        }
    }
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    let mut text = serde_json::to_string_pretty(&list)?;
    text.push('\n');
    match &io.output.output {
        Output::File(path) if path.as_os_str() != "-" => {
            std::fs::write(path, text)
                .with_context(|| format!("cannot write `{}`", path.display()))?;
        }
        Output::File(_) => io.answer(&text)?,
        Output::Format(crate::args::Format::Json | crate::args::Format::Text) => {
            io.answer(&text)?;
        }
        Output::Format(_) => {
            return Err(UsageError::new("a snapshot is JSON")
                .help("snapshot -o FILE")
                .into());
        }
    }
    Ok(world.status())
}

/// What decides, as it was written, in order of files and lines.
pub(super) fn objects(world: &World) -> Vec<Value> {
    let mut items = Vec::new();
    for (file, text) in &world.texts {
        for document in manifest::read(file, text).0 {
            if Listing::is_document(&document) {
                items.push(document.value());
            } else {
                items.extend(trimmed(&document.value()));
            }
        }
    }
    items
}

/// The fields of an object that policies, or the workloads' controllers, can see; `None` for kinds that
/// decide nothing. Policies are kept whole, so that later commands judge them as they were written.
fn trimmed(value: &Value) -> Option<Value> {
    let kind = value.get("kind")?.as_str()?;
    let keep: &[&str] = match kind {
        "Namespace" => &[],
        "Node" => &["/spec/podCIDRs", "/spec/podCIDR", "/status/addresses"],
        "Pod" => &[
            "/spec/nodeName",
            "/spec/hostNetwork",
            "/spec/containers",
            "/spec/initContainers",
            "/status/phase",
            "/status/podIP",
            "/status/podIPs",
            "/status/hostIP",
            "/status/hostIPs",
        ],
        "Service" => &["/spec", "/status/loadBalancer"],
        "Gateway" => &["/spec", "/status/addresses"],
        "EndpointSlice" => &["/addressType", "/endpoints", "/ports"],
        "NetworkPolicy"
        | "AdminNetworkPolicy"
        | "BaselineAdminNetworkPolicy"
        | "ClusterNetworkPolicy"
        | "Deployment"
        | "DeploymentConfig"
        | "Rollout"
        | "ReplicaSet"
        | "ReplicationController"
        | "StatefulSet"
        | "DaemonSet"
        | "Job"
        | "CronJob"
        | "GRPCRoute"
        | "HTTPRoute"
        | "Ingress"
        | "ReferenceGrant"
        | "TCPRoute"
        | "TLSRoute"
        | "UDPRoute" => &["/spec"],
        _ => return None,
    };
    let mut object = Map::new();
    for key in ["apiVersion", "kind"] {
        object.insert(key.to_owned(), value.get(key)?.clone());
    }
    let metadata = value.get("metadata").and_then(Value::as_object);
    let kept: BTreeMap<&str, &Value> = [
        "name",
        "namespace",
        "labels",
        "uid",
        "creationTimestamp",
        "generation",
        "ownerReferences",
        "deletionTimestamp",
    ]
    .into_iter()
    .filter_map(|key| Some((key, metadata?.get(key)?)))
    .collect();
    object.insert("metadata".to_owned(), json!(kept));
    for pointer in keep {
        let Some(found) = value.pointer(pointer) else {
            continue;
        };
        let mut steps = pointer.trim_start_matches('/').split('/').peekable();
        let mut target = &mut object;
        while let Some(step) = steps.next() {
            if steps.peek().is_none() {
                let found = if step.ends_with("ontainers") {
                    containers(found)
                } else {
                    found.clone()
                };
                target.insert(step.to_owned(), found);
                break;
            }
            let next = target.entry(step).or_insert_with(|| json!({}));
            let Some(next) = next.as_object_mut() else {
                break;
            };
            target = next;
        }
    }
    Some(Value::Object(object))
}

/// Names, ports and restart policies: nothing of what runs inside.
fn containers(value: &Value) -> Value {
    let keep = |container: &Value| {
        let fields = ["name", "ports", "restartPolicy"].into_iter();
        let kept: Map<String, Value> = fields
            .filter_map(|key| Some((key.to_owned(), container.get(key)?.clone())))
            .collect();
        Value::Object(kept)
    };
    Value::Array(value.as_array().into_iter().flatten().map(keep).collect())
}
