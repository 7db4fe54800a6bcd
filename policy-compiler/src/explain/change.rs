// SPDX-License-Identifier: Apache-2.0
//! Edits of policies that admit a flow, small enough to say in a sentence and to apply.

use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::words::spell_selector;
use crate::{
    diagnostic::Location,
    model::{
        Action, AdminPeer, AdminPolicy, AdminPort, AdminRule, Direction, IpBlock, Labels,
        NetworkPeer, NetworkPolicy, NetworkPort, NetworkRule, Operator, PolicyRef, PortRange,
        Protocol, Requirement, Selector,
    },
    partial::Party,
    snapshot::{NAMESPACE_NAME_LABEL, Snapshot},
    verdict::RuleRef,
};

/// An edit of one policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// One more port in a rule of a NetworkPolicy.
    AddPort {
        /// The rule.
        rule: RuleRef,
        /// Protocol.
        protocol: Protocol,
        /// Port.
        port: u16,
    },
    /// One more peer in a rule of a NetworkPolicy.
    AddPeer {
        /// The rule.
        rule: RuleRef,
        /// The peer.
        peer: ChangePeer,
    },
    /// One more rule in a NetworkPolicy.
    AddRule {
        /// The policy.
        policy: PolicyRef,
        /// Which list.
        direction: Direction,
        /// The rule's peer.
        peer: ChangePeer,
        /// The rule's port; all if absent.
        port: Option<(Protocol, u16)>,
        /// Where the policy is written.
        at: Option<Location>,
    },
    /// An Allow rule in front of a rule of a cluster-scoped policy.
    AllowBefore {
        /// The rule that denies.
        rule: RuleRef,
        /// The new rule's peer.
        peer: ChangePeer,
        /// The new rule's port; all if absent.
        port: Option<(Protocol, u16)>,
    },
}

/// A peer as a change names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangePeer {
    /// Pods of one namespace with all these labels.
    Pods {
        /// Namespace.
        namespace: Arc<str>,
        /// Labels.
        labels: Labels,
    },
    /// One address.
    Address(IpAddr),
}

impl ChangePeer {
    pub(super) fn of(party: &Party) -> Option<Self> {
        match (party.pod(), party.address()) {
            (Some(pod), _) => {
                let mut labels = pod.labels.clone();
                // Nobody should select by what the next rollout changes.
                Arc::make_mut(&mut labels.0).retain(|key, _| !Labels::VOLATILE.contains(&&**key));
                Some(Self::Pods {
                    namespace: pod.key.namespace.clone(),
                    labels,
                })
            }
            (None, Some(address)) => Some(Self::Address(address)),
            (None, None) => None,
        }
    }

    fn selectors(namespace: &Arc<str>, labels: &Labels) -> (Selector, Selector) {
        let is = |key: Arc<str>, value: &Arc<str>| Requirement {
            key,
            operator: Operator::In,
            values: vec![value.clone()],
        };
        let pods = labels.0.iter().map(|(key, value)| is(key.clone(), value));
        (
            Selector::new(vec![is(NAMESPACE_NAME_LABEL.into(), namespace)]),
            Selector::new(pods.collect()),
        )
    }

    fn network_peer(&self) -> NetworkPeer {
        match self {
            Self::Pods { namespace, labels } => {
                let (namespaces, pods) = Self::selectors(namespace, labels);
                NetworkPeer::Pods {
                    namespaces: Some(namespaces),
                    pods,
                }
            }
            Self::Address(address) => NetworkPeer::IpBlock(IpBlock {
                cidr: IpNet::from(*address),
                except: Vec::new(),
            }),
        }
    }

    fn admin_peer(&self) -> AdminPeer {
        match self {
            Self::Pods { namespace, labels } => {
                let (namespaces, pods) = Self::selectors(namespace, labels);
                AdminPeer::Pods { namespaces, pods }
            }
            Self::Address(address) => AdminPeer::Networks(vec![IpNet::from(*address)]),
        }
    }
}

impl Change {
    /// An Allow rule in front of `rule`; `None` for ingress from an address, which no rule can name.
    pub(super) fn allow_before(
        rule: &RuleRef,
        peer: ChangePeer,
        port: Option<(Protocol, u16)>,
    ) -> Option<Self> {
        match (&peer, rule.direction) {
            (ChangePeer::Address(_), Direction::Ingress) => None,
            // A rule with ports cannot speak of protocols that have none.
            _ => Some(Self::AllowBefore {
                rule: rule.clone(),
                peer,
                port: port.filter(|(protocol, _)| *protocol != Protocol::Other),
            }),
        }
    }

    /// What kind of edit it is, without the port: for questions about all of them.
    pub fn in_general(&self) -> String {
        match self {
            Self::AddPort { rule, .. } => {
                format!(
                    "ports in {} {}[{}]",
                    rule.policy, rule.direction, rule.index
                )
            }
            Self::AddPeer { rule, peer } => format!(
                "a peer {peer} in {} {}[{}]",
                rule.policy, rule.direction, rule.index
            ),
            Self::AddRule {
                policy,
                direction,
                peer,
                ..
            } => format!("an {direction} rule for {peer} in {policy}"),
            Self::AllowBefore { rule, peer, .. } => format!(
                "an Allow rule for {peer} before {} {}[{}]",
                rule.policy, rule.direction, rule.index
            ),
        }
    }

    /// The snapshot with the change made; unchanged if the policy is not in it.
    pub fn apply(&self, snapshot: &Snapshot) -> Snapshot {
        let mut changed = snapshot.clone();
        match self {
            Self::AddPort {
                rule,
                protocol,
                port,
            } => edit_rule(&mut changed, rule, |rule| {
                let added = NetworkPort::Range(*protocol, PortRange::single(*port));
                rule.ports.get_or_insert_default().push(added);
            }),
            Self::AddPeer { rule, peer } => edit_rule(&mut changed, rule, |rule| {
                rule.peers.get_or_insert_default().push(peer.network_peer());
            }),
            Self::AddRule {
                policy,
                direction,
                peer,
                port,
                ..
            } => edit(&mut changed, policy, |policy| {
                let ports = port.filter(|(protocol, _)| *protocol != Protocol::Other);
                let added = NetworkRule {
                    peers: Some(vec![peer.network_peer()]),
                    ports: ports.map(|(protocol, port)| {
                        vec![NetworkPort::Range(protocol, PortRange::single(port))]
                    }),
                    at: None,
                };
                rules_of(policy, *direction)
                    .get_or_insert_default()
                    .push(added);
            }),
            Self::AllowBefore { rule, peer, port } => {
                let added = AdminRule {
                    name: None,
                    action: Action::Allow,
                    closed: None,
                    peers: vec![peer.admin_peer()],
                    ports: port
                        .map(|(protocol, port)| vec![AdminPort::Range(protocol, port..=port)]),
                    at: None,
                };
                insert_before(&mut changed, rule, added);
            }
        }
        changed
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = |port: &Option<(Protocol, u16)>| match port {
            Some((Protocol::Other, _)) | None => String::new(),
            Some((protocol, port)) => {
                format!(" on {}/{port}", protocol.to_string().to_lowercase())
            }
        };
        match self {
            Self::AddPort {
                rule,
                protocol,
                port,
            } => write!(
                f,
                "add port {}/{port} to {} {}[{}]",
                protocol.to_string().to_lowercase(),
                rule.policy,
                rule.direction,
                rule.index
            ),
            Self::AddPeer { rule, peer } => write!(
                f,
                "add peer {peer} to {} {}[{}]",
                rule.policy, rule.direction, rule.index
            ),
            Self::AddRule {
                policy,
                direction,
                peer,
                port,
                ..
            } => write!(
                f,
                "add an {direction} rule for {peer}{} to {policy}",
                on(port)
            ),
            Self::AllowBefore { rule, peer, port } => write!(
                f,
                "allow {peer}{} before {} {}[{}]",
                on(port),
                rule.policy,
                rule.direction,
                rule.index
            ),
        }
    }
}

impl fmt::Display for ChangePeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pods { namespace, labels } => {
                let (_, pods) = Self::selectors(namespace, labels);
                write!(f, "pods {} of namespace {namespace}", spell_selector(&pods))
            }
            Self::Address(address) => write!(f, "{}", IpNet::from(*address)),
        }
    }
}

fn edit(snapshot: &mut Snapshot, policy: &PolicyRef, edit: impl FnOnce(&mut NetworkPolicy)) {
    let key = (
        policy.namespace.clone().unwrap_or_default(),
        policy.name.clone(),
    );
    if let Some(known) = snapshot.network_policies.get_mut(&key) {
        edit(Arc::make_mut(known));
    }
}

fn edit_rule(snapshot: &mut Snapshot, rule: &RuleRef, change: impl FnOnce(&mut NetworkRule)) {
    edit(snapshot, &rule.policy, |policy| {
        let rules = rules_of(policy, rule.direction).as_mut();
        if let Some(rule) = rules.and_then(|rules| rules.get_mut(rule.index as usize)) {
            change(rule);
        }
    });
}

fn rules_of(policy: &mut NetworkPolicy, direction: Direction) -> &mut Option<Vec<NetworkRule>> {
    match direction {
        Direction::Ingress => &mut policy.ingress,
        Direction::Egress => &mut policy.egress,
    }
}

fn insert_before(snapshot: &mut Snapshot, rule: &RuleRef, added: AdminRule) {
    let mut policies = snapshot.admin_policies.values_mut();
    let Some(policy) = policies.find(|policy| policy.policy_ref() == rule.policy) else {
        return;
    };
    let policy: &mut AdminPolicy = Arc::make_mut(policy);
    let rules = match rule.direction {
        Direction::Ingress => &mut policy.ingress,
        Direction::Egress => &mut policy.egress,
    };
    let index = (rule.index as usize).min(rules.len());
    rules.insert(index, added);
}
