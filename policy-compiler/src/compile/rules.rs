// SPDX-License-Identifier: Apache-2.0
//! Which rules concern a pod, in order of precedence, and which peers and ports they name.

use std::{hash::BuildHasherDefault, sync::Arc};

use indexmap::IndexSet;

use super::hash::WordHasher;
use crate::{
    Snapshot,
    model::{
        Action, AdminPeer, AdminPolicy, AdminPort, AdminRule, Direction, DomainPattern, IpBlock,
        Labels, NetworkPeer, NetworkPolicy, NetworkPort, NetworkRule, PolicyRef, PortRange,
        Protocol, Selector, Subject, Tier,
    },
    verdict::RuleRef,
};

/// A predicate on peers. Rules share atoms, so each is evaluated once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Atom {
    /// Pods of one namespace.
    PodsIn { namespace: Arc<str>, pods: Selector },
    /// Pods of all namespaces that match.
    Pods {
        namespaces: Selector,
        pods: Selector,
    },
    /// Addresses.
    Block(IpBlock),
    /// Addresses of nodes.
    Nodes(Selector),
    /// Addresses learned from DNS.
    Domains(Vec<DomainPattern>),
}

/// Index into [`Atoms`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct AtomId(pub(crate) u32);

/// The distinct predicates in use.
#[derive(Clone, Debug, Default)]
pub(crate) struct Atoms(pub(crate) IndexSet<Atom, BuildHasherDefault<WordHasher>>);

impl Atoms {
    pub(crate) fn intern(&mut self, atom: Atom) -> AtomId {
        AtomId(u32::try_from(self.0.insert_full(atom).0).unwrap_or(u32::MAX))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (AtomId, &Atom)> {
        (0..).map(AtomId).zip(&self.0)
    }
}

/// What a matching rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Effect {
    Allow,
    Deny,
    /// A rule that fails closed: it denies every peer and port.
    Closed,
    Pass,
}

/// The peers of a rule.
#[derive(Clone, Debug)]
pub(crate) enum Peers {
    All,
    Any(Vec<AtomId>),
}

/// One entry of a rule's ports.
#[derive(Clone, Debug)]
pub(crate) enum PortMatch {
    Range(Protocol, PortRange),
    /// A container port's name; with a protocol for NetworkPolicies.
    Named(Option<Protocol>, Arc<str>),
}

/// A rule, independent of the kind of its policy.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) reference: Arc<RuleRef>,
    pub(crate) effect: Effect,
    /// The policy is audited: a denial is noted, and the next rule asked.
    pub(crate) audited: bool,
    pub(crate) peers: Peers,
    /// `None` matches every protocol and port.
    pub(crate) ports: Option<Vec<PortMatch>>,
}

impl Rule {
    pub(crate) fn tier(&self) -> Tier {
        self.reference.tier
    }

    /// Names of container ports the rule depends on.
    pub(crate) fn port_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.ports.iter().flatten().filter_map(|port| match port {
            PortMatch::Named(_, name) => Some(name),
            PortMatch::Range(..) => None,
        })
    }
}

/// Compiles a rule of a NetworkPolicy.
pub(crate) fn network_rule(
    policy: &NetworkPolicy,
    direction: Direction,
    index: usize,
    rule: &NetworkRule,
    atoms: &mut Atoms,
) -> Rule {
    let peers = match &rule.peers {
        None => Peers::All,
        Some(peers) => Peers::Any(
            peers
                .iter()
                .filter_map(|peer| network_atom(policy, peer, atoms))
                .collect(),
        ),
    };
    let ports = rule.ports.as_ref().map(|ports| {
        let matches = ports.iter().filter_map(|port| match port {
            NetworkPort::Range(protocol, range) => Some(PortMatch::Range(*protocol, *range)),
            NetworkPort::Named(protocol, name) => {
                Some(PortMatch::Named(Some(*protocol), name.clone()))
            }
            NetworkPort::Nothing => None,
        });
        matches.collect()
    });
    Rule {
        reference: Arc::new(RuleRef {
            policy: policy.policy_ref(),
            tier: Tier::NetworkPolicy,
            direction,
            index: u32::try_from(index).unwrap_or(u32::MAX),
            name: None,
            at: rule.at.clone(),
        }),
        effect: Effect::Allow,
        audited: policy.audited,
        peers,
        ports,
    }
}

/// Compiles a rule of a cluster-scoped policy; `None` if it fails closed by matching nothing.
pub(crate) fn admin_rule(
    policy: &AdminPolicy,
    direction: Direction,
    index: usize,
    rule: &AdminRule,
    learns_domains: bool,
    atoms: &mut Atoms,
) -> Option<Rule> {
    let closed = rule.closed.is_some()
        || rule.has_domain_names() && (!learns_domains || rule.action != Action::Allow);
    let effect = match (rule.action, closed) {
        (Action::Allow, true) => return None,
        (Action::Deny | Action::Pass, true) => Effect::Closed,
        (Action::Allow, false) => Effect::Allow,
        (Action::Deny, false) => Effect::Deny,
        (Action::Pass, false) => Effect::Pass,
    };
    let (peers, ports) = if closed {
        (Peers::All, None)
    } else {
        let peers = rule
            .peers
            .iter()
            .flat_map(admin_atoms)
            .map(|atom| atoms.intern(atom))
            .collect();
        let ports = rule
            .ports
            .as_ref()
            .map(|ports| ports.iter().filter_map(admin_port).collect());
        (Peers::Any(peers), ports)
    };
    Some(Rule {
        reference: Arc::new(RuleRef {
            policy: policy.policy_ref(),
            tier: policy.tier,
            direction,
            index: u32::try_from(index).unwrap_or(u32::MAX),
            name: rule.name.clone(),
            at: rule.at.clone(),
        }),
        effect,
        audited: policy.audited,
        peers,
        ports,
    })
}

/// Whether the policy's subject includes a pod with these labels in a namespace with those.
pub(crate) fn subject_selects(policy: &AdminPolicy, namespace: &Labels, pod: &Labels) -> bool {
    match &policy.subject {
        Subject::Pods { namespaces, pods } => namespaces.matches(namespace) && pods.matches(pod),
        Subject::Nothing => false,
    }
}

/// The cluster-scoped policies in order of precedence, Admin tier before Baseline tier.
pub(crate) fn admin_policies_in_order(snapshot: &Snapshot) -> Vec<&Arc<AdminPolicy>> {
    let mut policies: Vec<_> = snapshot.admin_policies.values().collect();
    policies.sort_by(|a, b| (a.tier, a.precedence()).cmp(&(b.tier, b.precedence())));
    policies
}

/// The NetworkPolicies of `namespace`, by name.
pub(crate) fn network_policies_in<'a>(
    snapshot: &'a Snapshot,
    namespace: &'a Arc<str>,
) -> impl Iterator<Item = &'a Arc<NetworkPolicy>> {
    snapshot
        .network_policies
        .range((namespace.clone(), Arc::from(""))..)
        .take_while(move |((ns, _), _)| ns == namespace)
        .map(|(_, policy)| policy)
}

/// The policies that select a pod, in order of precedence.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selecting<'a> {
    pub(crate) admin: Vec<&'a Arc<AdminPolicy>>,
    pub(crate) network: Vec<&'a Arc<NetworkPolicy>>,
}

impl<'a> Selecting<'a> {
    /// Finds the policies that select a pod with `labels` in `namespace`.
    pub(crate) fn find(
        snapshot: &'a Snapshot,
        admin: &[&'a Arc<AdminPolicy>],
        namespace: &'a Arc<str>,
        labels: &Labels,
    ) -> Self {
        let none = Labels::default();
        let namespace_labels = snapshot
            .namespaces
            .get(namespace)
            .map_or(&none, |ns| &ns.labels);
        Self {
            admin: admin
                .iter()
                .copied()
                .filter(|p| subject_selects(p, namespace_labels, labels))
                .collect(),
            network: network_policies_in(snapshot, namespace)
                .filter(|policy| policy.pod_selector.matches(labels))
                .collect(),
        }
    }

    /// The NetworkPolicies that isolate the pod in `direction`; `None` if none does.
    pub(crate) fn isolating(&self, direction: Direction) -> Option<Isolating> {
        let isolate = self.network.iter().filter(|p| p.rules(direction).is_some());
        Isolating::of(isolate.map(|policy| (policy.policy_ref(), policy.audited)))
    }
}

/// The NetworkPolicies that keep from a pod, in one direction, what no rule admits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Isolating {
    /// Those that are enforced or, where there is no such, those that are audited, by name.
    pub(crate) policies: Vec<PolicyRef>,
    /// All are audited: nothing is kept from the pod, but reported.
    pub(crate) audited: bool,
}

impl Isolating {
    /// Of the policies that isolate, by name, and whether each is audited; `None` if there are none.
    pub(crate) fn of(policies: impl Iterator<Item = (PolicyRef, bool)>) -> Option<Self> {
        let (audited, enforced): (Vec<_>, Vec<_>) = policies.partition(|(_, audited)| *audited);
        let is_audited = enforced.is_empty();
        let policies = if is_audited { audited } else { enforced };
        let policies: Vec<_> = policies.into_iter().map(|(policy, _)| policy).collect();
        (!policies.is_empty()).then_some(Self {
            policies,
            audited: is_audited,
        })
    }
}

fn network_atom(policy: &NetworkPolicy, peer: &NetworkPeer, atoms: &mut Atoms) -> Option<AtomId> {
    let atom = match peer {
        NetworkPeer::Pods {
            namespaces: None,
            pods,
        } => Atom::PodsIn {
            namespace: policy.namespace.clone(),
            pods: pods.clone(),
        },
        NetworkPeer::Pods {
            namespaces: Some(namespaces),
            pods,
        } => Atom::Pods {
            namespaces: namespaces.clone(),
            pods: pods.clone(),
        },
        NetworkPeer::IpBlock(block) => Atom::Block(block.clone()),
        NetworkPeer::Nothing => return None,
    };
    Some(atoms.intern(atom))
}

fn admin_atoms(peer: &AdminPeer) -> Vec<Atom> {
    match peer {
        AdminPeer::Pods { namespaces, pods } => {
            vec![Atom::Pods {
                namespaces: namespaces.clone(),
                pods: pods.clone(),
            }]
        }
        AdminPeer::Networks(networks) => networks
            .iter()
            .map(|cidr| {
                Atom::Block(IpBlock {
                    cidr: *cidr,
                    except: Vec::new(),
                })
            })
            .collect(),
        AdminPeer::Nodes(nodes) => vec![Atom::Nodes(nodes.clone())],
        AdminPeer::DomainNames(patterns) => vec![Atom::Domains(patterns.clone())],
    }
}

fn admin_port(port: &AdminPort) -> Option<PortMatch> {
    match port {
        AdminPort::Range(_, range) if range.is_empty() => None,
        AdminPort::Range(protocol, range) => Some(PortMatch::Range(
            *protocol,
            PortRange {
                start: *range.start(),
                end: *range.end(),
            },
        )),
        AdminPort::Named(name) => Some(PortMatch::Named(None, name.clone())),
    }
}
