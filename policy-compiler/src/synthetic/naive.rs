// SPDX-License-Identifier: Apache-2.0
//! What would it take without classes?

use std::collections::BTreeMap;

use crate::{
    Snapshot,
    model::{NetworkPeer, NetworkPolicy, Selection, Selector},
};

/// Every selector of every policy on every pod, as maps of strings: what an engine without classes
/// does before it can say anything. Returns how many matches there are.
pub fn matches_one_by_one(snapshot: &Snapshot) -> usize {
    let labels: Vec<(&str, BTreeMap<String, String>)> = snapshot
        .pods
        .values()
        .map(|pod| {
            let labels = pod
                .labels
                .0
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()));
            (&*pod.key.namespace, labels.collect())
        })
        .collect();
    let mut matches = 0;
    let selects = |selection: &Selector, labels: &BTreeMap<String, String>| {
        selection.requirements().iter().all(|requirement| {
            labels
                .get(&*requirement.key)
                .is_some_and(|value| requirement.values.iter().any(|v| **v == **value))
        })
    };
    for policy in snapshot.network_policies.values() {
        let policy: &NetworkPolicy = policy;
        let rules = policy.ingress.iter().chain(&policy.egress).flatten();
        let peers: Vec<_> = rules.flat_map(|rule| rule.peers.iter().flatten()).collect();
        for (namespace, labels) in &labels {
            if let Selection::Matching(selector) = &policy.pod_selector {
                matches +=
                    usize::from(*namespace == &*policy.namespace && selects(selector, labels));
            }
            for peer in &peers {
                let NetworkPeer::Pods { namespaces, pods } = peer else {
                    continue;
                };
                let namespace_matches = match namespaces {
                    None => *namespace == &*policy.namespace,
                    Some(selector) => {
                        let namespace = snapshot.namespaces.get(*namespace);
                        namespace.is_some_and(|namespace| selector.matches(&namespace.labels))
                    }
                };
                matches += usize::from(namespace_matches && selects(pods, labels));
            }
        }
    }
    matches
}
