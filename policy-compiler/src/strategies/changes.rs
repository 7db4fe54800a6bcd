// SPDX-License-Identifier: Apache-2.0
//! Random changes of a cluster, drawn from the same pools as the cluster.

use std::sync::Arc;

use proptest::{option, prelude::*, sample::select};

use super::{
    Settings, admin_policy, baseline_policy, cluster_policy, domains, namespace_labels,
    network_policy, node, options, pod, pools, service,
};
use crate::{change::Change, model::AdminPolicy};

/// An object that appears, changes or goes. Changes make sense in any cluster; one that is about
/// nothing there, or says what is true already, changes nothing.
pub fn change(settings: Settings) -> impl Strategy<Value = Change> {
    let gone = prop::bool::weighted(0.25);
    let namespaces = settings.namespaces.clamp(1, Settings::MAX_NAMESPACES);
    let namespace = (
        select(&pools::NAMESPACES[..namespaces]),
        option::weighted(0.8, namespace_labels()),
    );
    let namespace = namespace.prop_map(|(name, labels)| Change::Namespace(name.into(), labels));
    let node = (node(), gone).prop_map(|(node, gone)| {
        let name = node.name.clone();
        Change::Node(name, (!gone).then(|| Arc::new(node)))
    });
    let pod = (pod(settings), gone).prop_map(|(pod, gone)| {
        let key = pod.key.clone();
        Change::Pod(key, (!gone).then(|| Arc::new(pod)))
    });
    let service = (service(settings), gone).prop_map(|(service, gone)| {
        let key = (service.namespace.clone(), service.name.clone());
        Change::Service(key, (!gone).then(|| Arc::new(service)))
    });
    let network = (network_policy(settings), gone).prop_map(|(policy, gone)| {
        let key = (policy.namespace.clone(), policy.name.clone());
        Change::NetworkPolicy(key, (!gone).then(|| Arc::new(policy)))
    });
    let admin = prop_oneof![
        admin_policy(settings),
        cluster_policy(settings),
        baseline_policy(settings),
    ];
    let admin = (admin, gone).prop_map(|(policy, gone)| admin_change(policy, gone));
    let domains = domains(settings).prop_map(Change::Domains);
    prop_oneof![
        10 => pod,
        8 => network,
        6 => admin,
        4 => service,
        3 => namespace,
        2 => node,
        1 => domains,
        1 => options().prop_map(Change::Options),
    ]
}

fn admin_change(policy: AdminPolicy, gone: bool) -> Change {
    let key = (policy.kind, policy.name.clone());
    Change::AdminPolicy(key, (!gone).then(|| Arc::new(policy)))
}
