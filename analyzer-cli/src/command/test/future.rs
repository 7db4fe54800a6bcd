// SPDX-License-Identifier: Apache-2.0
//! Does a promise hold for namespaces that do not exist yet? Label values nobody uses, with every
//! combination of the other labels that is in use.

use std::{collections::BTreeSet, sync::Arc};

use policy_compiler::{
    Snapshot,
    model::{Labels, Pod, PodKey},
    verdict::Endpoint,
};

use super::{Counterexample, Outcome, cells, counterexample, group, spec::ForAll};
use crate::{
    flow::{PortQuery, is_nothing},
    load::World,
};

/// No pod of a namespace with one value of the label reaches a pod of a namespace with another.
pub fn judge(world: &World, for_all: &ForAll, asked: &PortQuery) -> Outcome {
    let key = for_all.a.namespace_label.as_str();
    let snapshot = extended(&world.loaded.snapshot, key);
    let evaluator = world.evaluator_of(&snapshot);
    let value = |pod: &Pod| {
        let namespace = snapshot.namespaces.get(&pod.key.namespace)?;
        namespace.labels.get(key).map(str::to_owned)
    };
    let live = snapshot.pods.values().filter(|pod| pod.is_policed());
    let labelled: Vec<(Endpoint, String)> = live
        .filter_map(|pod| Some((Endpoint::Pod(pod.key.clone()), value(pod)?)))
        .collect();
    let (mut pairs, mut doubt): (usize, Option<Counterexample>) = (0, None);
    for (src, of_src) in &labelled {
        for (dst, of_dst) in &labelled {
            if of_src == of_dst {
                continue;
            }
            pairs += 1;
            let dst = group(dst);
            for cell in cells(&evaluator, &group(src), &dst, asked) {
                if !is_nothing(&cell.allowed) {
                    let wrong = &cell.allowed;
                    return Outcome::Fail(counterexample(
                        &evaluator,
                        &cell,
                        &dst,
                        wrong,
                        "it is allowed",
                    ));
                }
                if !is_nothing(&cell.unknown) && doubt.is_none() {
                    let wrong = &cell.unknown;
                    doubt = Some(counterexample(
                        &evaluator,
                        &cell,
                        &dst,
                        wrong,
                        "missing facts decide",
                    ));
                }
            }
        }
    }
    match doubt {
        Some(doubt) => Outcome::Unknown(doubt),
        None => Outcome::Pass(pairs),
    }
}

/// The snapshot with two namespaces to come for every set of labels that namespaces have, and in each a
/// pod for every set of labels that pods have.
fn extended(snapshot: &Snapshot, key: &str) -> Snapshot {
    let mut extended = snapshot.clone();
    let mut namespaces: BTreeSet<Labels> = BTreeSet::from([Labels::default()]);
    for namespace in snapshot.namespaces.values() {
        let mut labels = namespace.labels.clone();
        labels.0.remove(key);
        labels
            .0
            .remove(policy_compiler::snapshot::NAMESPACE_NAME_LABEL);
        namespaces.insert(labels);
    }
    let mut pods: BTreeSet<Labels> = BTreeSet::from([Labels::default()]);
    pods.extend(snapshot.pods.values().map(|pod| pod.labels.clone()));
    for (number, labels) in namespaces.into_iter().enumerate().take(MOST) {
        for value in ["future-1", "future-2"] {
            let name = format!("{value}-{number}");
            let mut labels = labels.clone();
            labels.0.insert(key.into(), value.into());
            extended.insert_namespace(&name, labels);
            for (index, labels) in pods.iter().enumerate().take(MOST) {
                extended.insert_pod(Pod {
                    key: PodKey::new(&name, &format!("pod-{index}")),
                    uid: Arc::from(""),
                    labels: labels.clone(),
                    node: None,
                    addresses: Vec::new(),
                    host_network: false,
                    phase: policy_compiler::model::Phase::Pending,
                    ports: Vec::new(),
                    created: None,
                    owner: None,
                    at: None,
                });
            }
        }
    }
    extended
}

/// Sets of labels that are combined at most.
const MOST: usize = 50;
