// SPDX-License-Identifier: Apache-2.0
//! What does the input not tell of the objects it names?

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::Snapshot;
use crate::model::{Namespace, NetworkPolicy, Pod, PodKey, Selector, UnknownLabels};

/// Facts about objects of a [`Snapshot`] that the snapshot holds wrongly or not at all, because no input
/// tells them: the values of labels that only a controller knows, and what stands in a part of a manifest
/// that no API server takes. Empty for what a running cluster tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Labels of pods.
    pub labels: BTreeMap<PodKey, UnknownLabels>,
    /// Pods with container ports besides those they are known to have.
    pub ports: BTreeSet<PodKey>,
    /// Pods that may be none to policies, because they may use the host's network or have finished.
    pub standing: BTreeSet<PodKey>,
    /// Namespaces with labels besides those they are known to have.
    pub namespaces: BTreeSet<Arc<str>>,
    /// Nodes with labels besides those they are known to have.
    pub nodes: BTreeSet<Arc<str>>,
}

impl Gaps {
    /// Adds what else is not known.
    pub fn extend(&mut self, other: Self) {
        for (key, unknown) in other.labels {
            self.lose_labels(key, &unknown);
        }
        self.ports.extend(other.ports);
        self.standing.extend(other.standing);
        self.namespaces.extend(other.namespaces);
        self.nodes.extend(other.nodes);
    }

    /// Adds labels of a pod that are not known.
    pub fn lose_labels(&mut self, key: PodKey, unknown: &UnknownLabels) {
        let known = self.labels.entry(key).or_default();
        *known = known.and(unknown);
    }
}

impl Snapshot {
    /// Whether `selector` matches the labels of `pod`; `None` if labels that are not known decide.
    pub fn pod_matches(&self, selector: &Selector, pod: &Pod) -> Option<bool> {
        match self.gaps.labels.get(&pod.key) {
            Some(unknown) => selector.matches_partly(&pod.labels, unknown),
            None => Some(selector.matches(&pod.labels)),
        }
    }

    /// Whether `selector` matches the labels of `namespace`; `None` if labels that are not known decide.
    pub fn namespace_matches(&self, selector: &Selector, namespace: &Namespace) -> Option<bool> {
        if self.gaps.namespaces.contains(&namespace.name) {
            selector.matches_partly(&namespace.labels, &UnknownLabels::others())
        } else {
            Some(selector.matches(&namespace.labels))
        }
    }

    /// Whether `policy`, which is of the pod's namespace, selects `pod` by its labels; `None` if labels that
    /// are not known decide.
    pub fn pod_selected(&self, policy: &NetworkPolicy, pod: &Pod) -> Option<bool> {
        match self.gaps.labels.get(&pod.key) {
            Some(unknown) => policy.pod_selector.matches_partly(&pod.labels, unknown),
            None => Some(policy.pod_selector.matches(&pod.labels)),
        }
    }

    /// Whether `namespaces` may match the labels of the pod's namespace, and `pods` its own.
    pub fn may_match(&self, namespaces: &Selector, pods: &Selector, pod: &Pod) -> bool {
        let namespace = self.namespaces.get(&pod.key.namespace);
        namespace.is_some_and(|it| self.namespace_matches(namespaces, it) != Some(false))
            && self.pod_matches(pods, pod) != Some(false)
    }
}
