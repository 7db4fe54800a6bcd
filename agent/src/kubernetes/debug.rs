// SPDX-License-Identifier: Apache-2.0
//! What does the debug socket show?

use serde_json::{Value, json};

use crate::{
    engine::{Datapath, Engine, PodState},
    index::Index,
};

/// What can be asked for below `/debug/`.
pub(super) const PATHS: &[&str] = &["watches", "rejected", "policies", "pods"];

/// The document at `path`.
pub(super) fn document<D: Datapath>(
    path: &str,
    index: &Index,
    engine: &Engine<D>,
) -> Option<Value> {
    match path {
        "watches" => Some(watches(index)),
        "rejected" => Some(rejected(index)),
        "policies" => Some(policies(index)),
        "pods" => Some(pods(engine)),
        _ => None,
    }
}

fn watches(index: &Index) -> Value {
    let kinds = index.kinds().map(|kind| {
        json!({
            "kind": kind.kind.name(),
            "apiVersion": kind.kind.api_version(),
            "state": format!("{:?}", kind.sync),
            "trouble": kind.trouble.map(|trouble| format!("{trouble:?}")),
            "objects": kind.objects,
            "rejected": kind.rejected,
        })
    });
    Value::Array(kinds.collect())
}

fn rejected(index: &Index) -> Value {
    let objects = index
        .rejected()
        .map(|(object, why)| json!({"object": object.to_string(), "why": why}));
    Value::Array(objects.collect())
}

fn policies(index: &Index) -> Value {
    let policies = index.records().values().map(|record| {
        let problems: Vec<&str> = record.problems.iter().map(|p| &*p.message).collect();
        json!({
            "policy": record.policy.to_string(),
            "generation": record.generation,
            "rejected": record.rejected,
            "audited": record.audited,
            "unsupported": record.unsupported,
            "problems": problems,
        })
    });
    Value::Array(policies.collect())
}

fn pods<D: Datapath>(engine: &Engine<D>) -> Value {
    let report = engine.report();
    let pods = report.pods.iter().map(|(pod, state)| {
        let (state, why) = match state {
            PodState::Enforced => ("enforced", None),
            PodState::Quarantined => ("quarantined", None),
            PodState::Waiting => ("waiting", None),
            PodState::Unreachable(why) => ("unreachable", Some(&**why)),
        };
        json!({"pod": pod.to_string(), "state": state, "why": why})
    });
    json!({
        "generation": report.generation,
        "error": report.error,
        "pods": pods.collect::<Vec<_>>(),
    })
}
