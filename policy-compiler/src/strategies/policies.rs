// SPDX-License-Identifier: Apache-2.0
//! Random policies of all four kinds.

use std::{ops::RangeInclusive, sync::Arc};

use ipnet::IpNet;
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::{Settings, cluster::protocol, pools};
use crate::model::{
    Action, AdminKind, AdminPeer, AdminPolicy, AdminPort, AdminRule, Direction, DomainPattern,
    FailClosed, IpBlock, NetworkPeer, NetworkPolicy, NetworkPort, NetworkRule, Operator, PortRange,
    Priority, Requirement, Selection, Selector, Subject, Tier,
};

/// A NetworkPolicy; it isolates in at least one direction.
pub fn network_policy(settings: Settings) -> impl Strategy<Value = NetworkPolicy> {
    let namespaces = settings.namespaces.clamp(1, Settings::MAX_NAMESPACES);
    let rules = move || vec(network_rule(settings), 0..=settings.rules);
    let selection = prop_oneof![
        19 => selector(&pools::POD_LABELS).prop_map(Selection::Matching),
        u32::from(settings.broken) => Just(Selection::Nothing),
    ];
    (
        select(&pools::NAMESPACES[..namespaces]),
        select(&pools::POLICY_NAMES[..]),
        selection,
        option::weighted(0.7, rules()),
        option::weighted(0.5, rules()),
        audited(settings),
    )
        .prop_map(
            |(namespace, name, pod_selector, ingress, egress, audited)| {
                let isolates = ingress.is_some() || egress.is_some();
                NetworkPolicy {
                    namespace: namespace.into(),
                    name: name.into(),
                    pod_selector,
                    ingress: ingress.or((!isolates).then(Vec::new)),
                    egress,
                    audited,
                    generation: 0,
                    at: None,
                }
            },
        )
}

/// One policy in four, where policies may be audited at all.
fn audited(settings: Settings) -> impl Strategy<Value = bool> {
    prop::bool::weighted(if settings.audited { 0.25 } else { 0.0 })
}

/// A rule of a NetworkPolicy.
pub fn network_rule(settings: Settings) -> impl Strategy<Value = NetworkRule> {
    (
        option::weighted(0.8, vec(network_peer(settings), 1..=settings.peers.max(1))),
        option::weighted(0.5, vec(network_port(settings), 1..=settings.ports.max(1))),
    )
        .prop_map(|(peers, ports)| NetworkRule {
            peers,
            ports,
            at: None,
        })
}

/// An AdminNetworkPolicy.
pub fn admin_policy(settings: Settings) -> impl Strategy<Value = AdminPolicy> {
    policy(settings, AdminKind::Admin)
}

/// A ClusterNetworkPolicy of either tier.
pub fn cluster_policy(settings: Settings) -> impl Strategy<Value = AdminPolicy> {
    policy(settings, AdminKind::Cluster)
}

/// The BaselineAdminNetworkPolicy.
pub fn baseline_policy(settings: Settings) -> impl Strategy<Value = AdminPolicy> {
    policy(settings, AdminKind::Baseline)
}

/// A rule of a cluster-scoped policy of `kind`.
pub fn admin_rule(
    settings: Settings,
    kind: AdminKind,
    direction: Direction,
) -> impl Strategy<Value = AdminRule> {
    let pass = match kind {
        AdminKind::Cluster | AdminKind::Admin => 2,
        AdminKind::Baseline => 0,
    };
    let action = prop_oneof![
        3 => Just(Action::Allow),
        3 => Just(Action::Deny),
        pass => Just(Action::Pass),
    ];
    let closed = Just(FailClosed {
        path: "from[0]".into(),
        why: "unknown peer".into(),
    });
    let closed = prop_oneof![
        23 => Just(None),
        2 * u32::from(settings.broken) => closed.prop_map(Some),
    ];
    let domains = settings.domains && kind != AdminKind::Baseline;
    (
        option::of(select(&pools::RULE_NAMES[..])),
        action,
        closed,
        vec(
            admin_peer(settings, direction, domains),
            1..=settings.peers.max(1),
        ),
        option::weighted(0.5, vec(admin_port(), 1..=settings.ports.max(1))),
    )
        .prop_map(|(name, action, closed, peers, ports)| {
            let mut rule = AdminRule {
                name: name.map(Into::into),
                action,
                closed,
                peers,
                ports,
                at: None,
            };
            // What parsing says of domain names outside Allow rules.
            if rule.closed.is_none() && action != Action::Allow && rule.has_domain_names() {
                rule.closed = Some(FailClosed {
                    path: "to[0].domainNames".into(),
                    why: "domain names in a rule that does not allow".into(),
                });
            }
            rule
        })
}

fn policy(settings: Settings, kind: AdminKind) -> impl Strategy<Value = AdminPolicy> {
    let names = match kind {
        AdminKind::Cluster | AdminKind::Admin => &pools::POLICY_NAMES[..],
        AdminKind::Baseline => &["default"][..],
    };
    let tier = match kind {
        AdminKind::Cluster => select(vec![Tier::Admin, Tier::Baseline]),
        AdminKind::Admin => select(vec![Tier::Admin]),
        AdminKind::Baseline => select(vec![Tier::Baseline]),
    };
    let priority = match kind {
        AdminKind::Cluster | AdminKind::Admin => prop_oneof![
            9 => (0..4).prop_map(Priority),
            1 => Just(Priority(1000)),
        ]
        .boxed(),
        AdminKind::Baseline => Just(AdminPolicy::BASELINE_PRIORITY).boxed(),
    };
    let subject = prop_oneof![
        30 => pods().prop_map(|(namespaces, pods)| Subject::Pods { namespaces, pods }),
        u32::from(settings.broken) => Just(Subject::Nothing),
    ];
    let rules = move |direction| vec(admin_rule(settings, kind, direction), 0..=settings.rules);
    (
        select(names),
        tier,
        priority,
        subject,
        rules(Direction::Ingress),
        rules(Direction::Egress),
        audited(settings),
    )
        .prop_map(
            move |(name, tier, priority, subject, ingress, egress, audited)| AdminPolicy {
                kind,
                name: name.into(),
                tier,
                priority,
                subject,
                ingress,
                egress,
                audited,
                generation: 0,
                at: None,
            },
        )
}

fn network_peer(settings: Settings) -> impl Strategy<Value = NetworkPeer> {
    let pods = (
        option::of(selector(&pools::NAMESPACE_LABELS)),
        selector(&pools::POD_LABELS),
    );
    prop_oneof![
        12 => pods.prop_map(|(namespaces, pods)| NetworkPeer::Pods { namespaces, pods }),
        8 => ip_block(settings).prop_map(NetworkPeer::IpBlock),
        u32::from(settings.broken) => Just(NetworkPeer::Nothing),
    ]
}

/// A block and exceptions strictly inside it.
fn ip_block(settings: Settings) -> impl Strategy<Value = IpBlock> {
    let blocks = pools::blocks(settings.dual_stack);
    let picks = vec(any::<prop::sample::Index>(), 0..=3);
    (select(blocks.clone()), picks).prop_map(move |(cidr, picks)| {
        let inside = |block: &&IpNet| cidr.contains(*block) && **block != cidr;
        let inside: Vec<_> = blocks.iter().filter(inside).collect();
        let picks = picks.iter().filter(|_| !inside.is_empty());
        IpBlock {
            cidr,
            except: picks.map(|pick| **pick.get(&inside)).collect(),
        }
    })
}

fn network_port(settings: Settings) -> impl Strategy<Value = NetworkPort> {
    prop_oneof![
        6 => (protocol(), port_range()).prop_map(|(protocol, range)| {
            let (start, end) = range.into_inner();
            let range = PortRange { start: start.min(end), end: start.max(end) };
            NetworkPort::Range(protocol, range)
        }),
        2 => protocol().prop_map(|protocol| NetworkPort::Range(protocol, PortRange::ALL)),
        3 => (protocol(), port_name()).prop_map(|(p, name)| NetworkPort::Named(p, name)),
        u32::from(settings.broken) => Just(NetworkPort::Nothing),
    ]
}

fn admin_peer(
    settings: Settings,
    direction: Direction,
    domains: bool,
) -> impl Strategy<Value = AdminPeer> {
    let egress = u32::from(direction == Direction::Egress);
    let networks = vec(select(pools::blocks(settings.dual_stack)), 1..=2);
    let pattern = select(&pools::DOMAIN_PATTERNS[..]);
    let pattern = pattern.prop_map(|pattern| DomainPattern(pattern.into()));
    prop_oneof![
        8 => pods().prop_map(|(namespaces, pods)| AdminPeer::Pods { namespaces, pods }),
        6 * egress => networks.prop_map(AdminPeer::Networks),
        2 * egress => selector(&pools::NODE_LABELS).prop_map(AdminPeer::Nodes),
        egress * u32::from(domains) => vec(pattern, 1..=2).prop_map(AdminPeer::DomainNames),
    ]
}

fn admin_port() -> impl Strategy<Value = AdminPort> {
    prop_oneof![
        // Ranges may be inverted: v1alpha1 accepts them.
        7 => (protocol(), port_range()).prop_map(|(protocol, range)| AdminPort::Range(protocol, range)),
        1 => protocol().prop_map(|protocol| AdminPort::Range(protocol, 1..=65535)),
        3 => port_name().prop_map(AdminPort::Named),
    ]
}

/// One port, or a range between two of the pool, in any order.
fn port_range() -> impl Strategy<Value = RangeInclusive<u16>> {
    (
        select(&pools::PORTS[..]),
        option::of(select(&pools::PORTS[..])),
    )
        .prop_map(|(start, end)| start..=end.unwrap_or(start))
}

fn port_name() -> impl Strategy<Value = Arc<str>> {
    select(&pools::PORT_NAMES[..]).prop_map(Arc::from)
}

fn pods() -> impl Strategy<Value = (Selector, Selector)> {
    let everything = || Just(Selector::default());
    (
        prop_oneof![selector(&pools::NAMESPACE_LABELS), everything()],
        prop_oneof![selector(&pools::POD_LABELS), everything()],
    )
}

fn selector(pool: &'static [(&str, &[&str])]) -> impl Strategy<Value = Selector> {
    let requirement = select(pool).prop_flat_map(|(key, values)| {
        let values = vec(select(values), 1..=2);
        let operator = prop_oneof![
            5 => Just(Operator::In),
            2 => Just(Operator::NotIn),
            1 => Just(Operator::Exists),
            1 => Just(Operator::DoesNotExist),
        ];
        (operator, values).prop_map(move |(operator, values)| {
            let values = match operator {
                Operator::In | Operator::NotIn => values,
                Operator::Exists | Operator::DoesNotExist => Vec::new(),
            };
            Requirement {
                key: key.into(),
                operator,
                values: values.into_iter().map(Arc::from).collect(),
            }
        })
    });
    prop_oneof![
        4 => Just(Vec::new()),
        4 => vec(requirement.clone(), 1),
        1 => vec(requirement, 2),
    ]
    .prop_map(Selector::new)
}
