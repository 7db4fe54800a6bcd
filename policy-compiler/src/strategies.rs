// SPDX-License-Identifier: Apache-2.0
//! Random clusters, policies and flows, made so that they meet: what to generate, and how much of it.
//!
//! Everything is drawn from small pools, so that selectors select, blocks contain, ports collide and
//! names tie. Ports and addresses sit on and beside the boundaries that policies draw.
//!
//! ```text
//! Settings ──snapshot──▶ Snapshot ──┐
//!                                   ├──Probe::place──▶ Flow
//!            probe ─────────────────┘
//! ```

mod changes;
mod cluster;
mod flows;
mod policies;
mod pools;

use proptest::{collection::vec, option, prelude::*};

pub use changes::change;
pub use cluster::{domains, everybody, namespace_labels, node, options, outside, pod, service};
pub use flows::{Probe, flow, interesting_addresses, interesting_ports, probe};
pub use policies::{
    admin_policy, admin_rule, baseline_policy, cluster_policy, network_policy, network_rule,
};

use crate::{snapshot::Snapshot, verdict::Flow};

/// Upper bounds and switches of what is generated. Bounds are inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches of a generator"
)]
pub struct Settings {
    /// Namespaces that may have objects, at most [`Settings::MAX_NAMESPACES`].
    pub namespaces: usize,
    /// Nodes, at most [`Settings::MAX_NODES`].
    pub nodes: usize,
    /// Pods; fewer where names collide.
    pub pods: usize,
    /// Services.
    pub services: usize,
    /// NetworkPolicies.
    pub network_policies: usize,
    /// AdminNetworkPolicies and ClusterNetworkPolicies, each.
    pub admin_policies: usize,
    /// Rules per direction of a policy.
    pub rules: usize,
    /// Peers per rule.
    pub peers: usize,
    /// Ports per rule.
    pub ports: usize,
    /// IPv6 beside IPv4.
    pub dual_stack: bool,
    /// Rules that fail closed, invalid selectors and entries.
    pub broken: bool,
    /// Rules with domain names, and learned addresses.
    pub domains: bool,
    /// Pods that claim an address somebody else claims too.
    pub contested_addresses: bool,
    /// Policies that are audited.
    pub audited: bool,
}

impl Settings {
    /// How many namespaces the pools hold.
    pub const MAX_NAMESPACES: usize = pools::NAMESPACES.len();
    /// How many nodes the pools hold.
    pub const MAX_NODES: usize = pools::NODES.len();

    /// More of everything: more classes, deeper rulesets, longer chains of precedence.
    #[must_use]
    pub fn crowded() -> Self {
        Self {
            namespaces: 4,
            nodes: 3,
            pods: 14,
            services: 4,
            network_policies: 10,
            admin_policies: 6,
            rules: 4,
            peers: 3,
            ports: 3,
            ..Self::default()
        }
    }
}

impl Default for Settings {
    /// Worlds that compile in well under a millisecond and still let every part meet every other.
    fn default() -> Self {
        Self {
            namespaces: 3,
            nodes: 2,
            pods: 6,
            services: 2,
            network_policies: 4,
            admin_policies: 2,
            rules: 2,
            peers: 2,
            ports: 2,
            dual_stack: true,
            broken: true,
            domains: true,
            contested_addresses: true,
            audited: true,
        }
    }
}

/// A cluster with its policies.
pub fn snapshot(settings: Settings) -> impl Strategy<Value = Snapshot> {
    let cluster = (
        vec(
            option::weighted(0.8, namespace_labels()),
            settings.namespaces,
        ),
        vec(node(), 1..=settings.nodes.max(1)),
        vec(pod(settings), some(settings.pods.max(1))),
        vec(service(settings), 0..=settings.services),
        domains(settings),
        options(),
    );
    let policies = (
        vec(network_policy(settings), some(settings.network_policies)),
        vec(admin_policy(settings), 0..=settings.admin_policies),
        vec(cluster_policy(settings), 0..=settings.admin_policies),
        option::of(baseline_policy(settings)),
    );
    (cluster, policies).prop_map(|(cluster, policies)| {
        let (namespaces, nodes, pods, services, domains, options) = cluster;
        let (network, admin, cluster, baseline) = policies;
        let mut snapshot = Snapshot {
            domains,
            options,
            ..Snapshot::default()
        };
        for (name, labels) in pools::NAMESPACES.iter().zip(namespaces) {
            if let Some(labels) = labels {
                snapshot.insert_namespace(name, labels);
            }
        }
        for node in nodes {
            snapshot.insert_node(node);
        }
        for pod in pods {
            snapshot.insert_pod(pod);
        }
        for service in services {
            snapshot.insert_service(service);
        }
        for policy in network {
            snapshot.insert_network_policy(policy);
        }
        for policy in admin.into_iter().chain(cluster).chain(baseline) {
            snapshot.insert_admin_policy(policy);
        }
        snapshot
    })
}

/// At least half as many as may be: small worlds come from shrinking.
fn some(most: usize) -> std::ops::RangeInclusive<usize> {
    most.div_ceil(2)..=most
}

/// A cluster and `flows` flows in it.
pub fn world(settings: Settings, flows: usize) -> impl Strategy<Value = (Snapshot, Vec<Flow>)> {
    (snapshot(settings), vec(probe(), flows)).prop_map(|(snapshot, probes)| {
        let ports = interesting_ports(&snapshot);
        let addresses = interesting_addresses(&snapshot);
        let flows = probes.iter();
        let flows = flows.map(|probe| probe.place(&snapshot, &addresses, &ports));
        let flows = flows.collect();
        (snapshot, flows)
    })
}

#[cfg(test)]
mod tests {
    use proptest::{strategy::ValueTree as _, test_runner::TestRunner};

    use super::*;
    use crate::model::{NetworkPeer, NetworkPort, Selection, Subject};

    /// Draws clusters, and says in how many of them there is `what`.
    fn having(settings: Settings, what: impl Fn(&Snapshot) -> bool) -> usize {
        let mut runner = TestRunner::deterministic();
        let clusters = snapshot(settings);
        let drawn = (0..64).map(|_| {
            let tree = clusters.new_tree(&mut runner);
            tree.is_ok_and(|tree| what(&tree.current()))
        });
        drawn.filter(|has| *has).count()
    }

    #[track_caller]
    fn check(off: Settings, what: impl Fn(&Snapshot) -> bool + Copy) {
        assert!(having(Settings::default(), what) > 0);
        assert_eq!(having(off, what), 0);
        // Drawing has not failed.
        assert_eq!(having(off, |_| true), 64);
    }

    #[test]
    fn nothing_is_broken_where_that_is_switched_off() {
        let off = Settings {
            broken: false,
            domains: false,
            ..Settings::default()
        };
        check(off, |snapshot| {
            let mut network = snapshot.network_policies.values();
            let is_broken = network.any(|policy| {
                let rules = policy.ingress.iter().chain(&policy.egress).flatten();
                policy.pod_selector == Selection::Nothing
                    || rules.into_iter().any(|rule| {
                        let peers = rule.peers.iter().flatten();
                        let ports = rule.ports.iter().flatten();
                        peers.into_iter().any(|peer| *peer == NetworkPeer::Nothing)
                            || ports.into_iter().any(|port| *port == NetworkPort::Nothing)
                    })
            });
            let mut admin = snapshot.admin_policies.values();
            is_broken
                || admin.any(|policy| {
                    let mut rules = policy.ingress.iter().chain(&policy.egress);
                    policy.subject == Subject::Nothing || rules.any(|rule| rule.closed.is_some())
                })
        });
    }

    #[test]
    fn nothing_is_audited_where_that_is_switched_off() {
        let off = Settings {
            audited: false,
            ..Settings::default()
        };
        for kind in [false, true] {
            check(off, |snapshot| {
                let mut network = snapshot.network_policies.values();
                let mut admin = snapshot.admin_policies.values();
                if kind {
                    network.any(|policy| policy.audited)
                } else {
                    admin.any(|policy| policy.audited)
                }
            });
        }
    }

    #[test]
    fn nobody_learns_names_where_that_is_switched_off() {
        let off = Settings {
            domains: false,
            ..Settings::default()
        };
        check(off, |snapshot| snapshot.domains.is_some());
    }
}
