// SPDX-License-Identifier: Apache-2.0
//! How worlds are rewritten into others that should, or should not, differ.
#![expect(clippy::expect_used, reason = "tests fail loudly")]

use std::{net::IpAddr, sync::Arc};

use policy_compiler::{
    Decision, Reason, RuleRef, Snapshot, Trace,
    model::{
        Action, AdminPeer, AdminPolicy, AdminPort, AdminRule, Direction, NetworkPeer, Pod,
        Selector, Tier,
    },
    verdict::Endpoint,
};
use proptest::sample::Index;

pub(crate) fn policies(snapshot: &Snapshot, tier: Tier) -> impl Iterator<Item = &Arc<AdminPolicy>> {
    snapshot
        .admin_policies
        .values()
        .filter(move |policy| policy.tier == tier)
}

pub(crate) fn edit_admin(snapshot: &mut Snapshot, edit: impl FnMut(&mut AdminPolicy)) {
    snapshot
        .admin_policies
        .values_mut()
        .map(Arc::make_mut)
        .for_each(edit);
}

pub(crate) fn edit_rules(snapshot: &mut Snapshot, mut edit: impl FnMut(&mut AdminRule)) {
    edit_admin(snapshot, |policy| {
        policy.ingress.iter_mut().for_each(&mut edit);
        policy.egress.iter_mut().for_each(&mut edit);
    });
}

pub(crate) fn edit_pods(snapshot: &mut Snapshot, edit: impl FnMut(&mut Pod)) {
    snapshot.pods.edit(edit);
}

pub(crate) fn rules_mut(policy: &mut AdminPolicy, direction: Direction) -> &mut Vec<AdminRule> {
    match direction {
        Direction::Ingress => &mut policy.ingress,
        Direction::Egress => &mut policy.egress,
    }
}

pub(crate) fn rotate<T>(list: &mut [T], turn: Index) {
    if !list.is_empty() {
        list.rotate_left(turn.index(list.len()));
    }
}

/// The rule with one peer and one port at a time, in order. Rules with domain names stay whole: where
/// nobody learns names, one of them closes the rule for all its peers.
pub(crate) fn alternatives(rule: &AdminRule) -> Vec<AdminRule> {
    if rule.has_domain_names() {
        return vec![rule.clone()];
    }
    let ports: Vec<_> = match &rule.ports {
        None => vec![None],
        Some(ports) => ports.iter().map(|port| Some(vec![port.clone()])).collect(),
    };
    let pairs = rule
        .peers
        .iter()
        .flat_map(|peer| ports.iter().map(move |ports| (peer, ports)));
    let piece = |(peer, ports): (&AdminPeer, &Option<Vec<AdminPort>>)| AdminRule {
        peers: vec![peer.clone()],
        ports: ports.clone(),
        ..rule.clone()
    };
    pairs.map(piece).collect()
}

pub(crate) fn each_rule(trace: &mut Trace, mut edit: impl FnMut(&mut RuleRef)) {
    for decision in [&mut trace.egress, &mut trace.ingress] {
        edit_decision(decision, &mut edit);
        if let Some(denial) = &mut decision.audited {
            edit_decision(denial, &mut edit);
        }
    }
}

fn edit_decision(decision: &mut Decision, mut edit: impl FnMut(&mut RuleRef)) {
    decision.passed.iter_mut().for_each(&mut edit);
    match &mut decision.reason {
        Reason::Rule(rule) | Reason::FailClosed(rule) => edit(rule),
        Reason::Isolated(_)
        | Reason::LocalNode
        | Reason::SelfTraffic
        | Reason::NotASubject
        | Reason::Default => {}
    }
}

pub(crate) fn is_closed(rule: &AdminRule, learns_domains: bool) -> bool {
    rule.closed.is_some() || rule.has_domain_names() && !learns_domains
}

pub(crate) fn catch_all(direction: Direction, action: Action) -> AdminRule {
    let mut peers = vec![AdminPeer::Pods {
        namespaces: Selector::default(),
        pods: Selector::default(),
    }];
    if direction == Direction::Egress {
        let everywhere = ["0.0.0.0/0", "::/0"].map(|cidr| cidr.parse().expect("a block"));
        peers.push(AdminPeer::Networks(everywhere.into()));
    }
    AdminRule {
        name: None,
        action,
        closed: None,
        peers,
        ports: None,
        at: None,
    }
}

/// Leaves only peers that select pods.
pub(crate) fn forget_addresses(snapshot: &mut Snapshot) {
    for policy in snapshot.network_policies.values_mut().map(Arc::make_mut) {
        let lists = [&mut policy.ingress, &mut policy.egress];
        for peers in lists
            .into_iter()
            .flatten()
            .flatten()
            .flat_map(|rule| &mut rule.peers)
        {
            for peer in peers {
                if matches!(peer, NetworkPeer::IpBlock(_)) {
                    *peer = NetworkPeer::Nothing;
                }
            }
        }
    }
    edit_rules(snapshot, |rule| {
        rule.peers
            .retain(|peer| matches!(peer, AdminPeer::Pods { .. }));
    });
}

/// The live pod with its own network that `end` names.
pub(crate) fn policed<'a>(snapshot: &'a Snapshot, end: &Endpoint) -> Option<&'a Arc<Pod>> {
    match end {
        Endpoint::Pod(key) => snapshot.pods.get(key).filter(|pod| pod.is_policed()),
        Endpoint::Node(_) | Endpoint::Address(_) => None,
    }
}

/// Whether every block and every learned name of `snapshot` covers both addresses or neither.
pub(crate) fn seen_alike(snapshot: &Snapshot, a: IpAddr, b: IpAddr) -> bool {
    let network = snapshot.network_policies.values().all(|policy| {
        let rules = Direction::BOTH
            .iter()
            .filter_map(|d| policy.rules(*d))
            .flatten();
        rules
            .flat_map(|rule| rule.peers.iter().flatten())
            .all(|peer| match peer {
                NetworkPeer::IpBlock(block) => block.contains(a) == block.contains(b),
                NetworkPeer::Pods { .. } | NetworkPeer::Nothing => true,
            })
    });
    let admin = snapshot.admin_policies.values().all(|policy| {
        policy
            .egress
            .iter()
            .flat_map(|rule| &rule.peers)
            .all(|peer| match peer {
                AdminPeer::Networks(blocks) => {
                    blocks.iter().any(|n| n.contains(&a)) == blocks.iter().any(|n| n.contains(&b))
                }
                AdminPeer::DomainNames(names) => {
                    snapshot.resolves(names, a) == snapshot.resolves(names, b)
                }
                AdminPeer::Pods { .. } | AdminPeer::Nodes(_) => true,
            })
    });
    network && admin
}
