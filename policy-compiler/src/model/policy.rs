// SPDX-License-Identifier: Apache-2.0
//! Policies of all four kinds, with their rules and where they were written.

use std::{fmt, ops::RangeInclusive, sync::Arc};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{IpBlock, PortRange, Protocol, Selection, Selector};
use crate::diagnostic::Location;

/// Which way traffic crosses the boundary of the subject pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Into the pod.
    Ingress,
    /// Out of the pod.
    Egress,
}

impl Direction {
    /// Both directions, egress first: the order in which a connection meets them.
    pub const BOTH: [Self; 2] = [Self::Egress, Self::Ingress];
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// Stages of evaluation, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tier {
    /// AdminNetworkPolicy and ClusterNetworkPolicy of tier Admin.
    Admin,
    /// NetworkPolicy.
    NetworkPolicy,
    /// ClusterNetworkPolicy of tier Baseline and BaselineAdminNetworkPolicy.
    Baseline,
    /// No policy had an opinion.
    Default,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The kinds of policy objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PolicyKind {
    /// policy.networking.k8s.io/v1alpha2
    ClusterNetworkPolicy,
    /// policy.networking.k8s.io/v1alpha1
    AdminNetworkPolicy,
    /// policy.networking.k8s.io/v1alpha1
    BaselineAdminNetworkPolicy,
    /// networking.k8s.io/v1
    NetworkPolicy,
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The kinds of cluster-scoped policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AdminKind {
    /// ClusterNetworkPolicy. Sorts before [`AdminKind::Admin`] at equal priority.
    Cluster,
    /// AdminNetworkPolicy.
    Admin,
    /// BaselineAdminNetworkPolicy.
    Baseline,
}

impl From<AdminKind> for PolicyKind {
    fn from(kind: AdminKind) -> Self {
        match kind {
            AdminKind::Cluster => Self::ClusterNetworkPolicy,
            AdminKind::Admin => Self::AdminNetworkPolicy,
            AdminKind::Baseline => Self::BaselineAdminNetworkPolicy,
        }
    }
}

/// The identity of a policy object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PolicyRef {
    /// Kind of the object.
    pub kind: PolicyKind,
    /// Only NetworkPolicies have one.
    pub namespace: Option<Arc<str>>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl fmt::Display for PolicyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {}/{}", self.kind, namespace, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// The label that says whether a policy, or what the pods of a namespace lose, is enforced or audited.
pub const MODE_LABEL: &str = "netpol.dev/mode";

/// The value of [`MODE_LABEL`] that asks for reports instead of enforcement.
pub const MODE_AUDIT: &str = "audit";

/// A NetworkPolicy, defaulted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPolicy {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `spec.podSelector`, within `namespace`.
    pub pod_selector: Selection,
    /// Ingress rules; `None` if the policy does not isolate for ingress (`policyTypes`).
    pub ingress: Option<Vec<NetworkRule>>,
    /// Egress rules; `None` if the policy does not isolate for egress.
    pub egress: Option<Vec<NetworkRule>>,
    /// [`MODE_LABEL`] is `audit`: that the policy isolates is reported and not enforced (D9).
    #[serde(default)]
    pub audited: bool,
    /// `metadata.generation`, 0 offline.
    pub generation: i64,
    /// Where the object is written.
    pub at: Option<Location>,
}

impl NetworkPolicy {
    /// The rules of `direction`, or `None` if the policy does not isolate in it.
    pub fn rules(&self, direction: Direction) -> Option<&[NetworkRule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }

    /// The object's identity.
    pub fn policy_ref(&self) -> PolicyRef {
        PolicyRef {
            kind: PolicyKind::NetworkPolicy,
            namespace: Some(self.namespace.clone()),
            name: self.name.clone(),
        }
    }
}

/// A rule of a NetworkPolicy: some peer and some port match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRule {
    /// `None` (empty, null or absent in the object) matches every peer.
    pub peers: Option<Vec<NetworkPeer>>,
    /// `None` matches every protocol and port.
    pub ports: Option<Vec<NetworkPort>>,
    /// Where the rule is written.
    pub at: Option<Location>,
}

/// A peer of a NetworkPolicy rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkPeer {
    /// Pods, by the labels of their namespace and their own. `namespaces: None` is the policy's own
    /// namespace.
    Pods {
        /// `namespaceSelector`.
        namespaces: Option<Selector>,
        /// `podSelector`; everything if absent.
        pods: Selector,
    },
    /// Addresses, whoever owns them.
    IpBlock(IpBlock),
    /// An invalid peer: matches nothing.
    Nothing,
}

/// A port of a NetworkPolicy rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkPort {
    /// Destination ports in a range ([`PortRange::ALL`] if the entry has no port).
    Range(Protocol, PortRange),
    /// Container ports of the destination pod with this protocol and name.
    Named(Protocol, Arc<str>),
    /// An invalid entry: matches nothing.
    Nothing,
}

/// `spec.priority`, 0 (first) to 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Priority(pub i32);

/// A cluster-scoped policy: AdminNetworkPolicy, BaselineAdminNetworkPolicy or ClusterNetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminPolicy {
    /// Kind of the object.
    pub kind: AdminKind,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// [`Tier::Admin`] or [`Tier::Baseline`].
    pub tier: Tier,
    /// `spec.priority`; for the BaselineAdminNetworkPolicy greater than any other.
    pub priority: Priority,
    /// `spec.subject`.
    pub subject: Subject,
    /// `spec.ingress`, in order.
    pub ingress: Vec<AdminRule>,
    /// `spec.egress`, in order.
    pub egress: Vec<AdminRule>,
    /// [`MODE_LABEL`] is `audit`: what the policy denies is reported and not enforced (D8).
    #[serde(default)]
    pub audited: bool,
    /// `metadata.generation`, 0 offline.
    pub generation: i64,
    /// Where the object is written.
    pub at: Option<Location>,
}

impl AdminPolicy {
    /// The priority that places the BaselineAdminNetworkPolicy behind every ClusterNetworkPolicy.
    pub const BASELINE_PRIORITY: Priority = Priority(i32::MAX);

    /// The rules of `direction`.
    pub fn rules(&self, direction: Direction) -> &[AdminRule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// Sorts policies of one tier in order of precedence: priority, then ClusterNetworkPolicy before
    /// AdminNetworkPolicy, then name.
    pub fn precedence(&self) -> (Priority, AdminKind, &str) {
        (self.priority, self.kind, &self.name)
    }

    /// The object's identity.
    pub fn policy_ref(&self) -> PolicyRef {
        PolicyRef {
            kind: self.kind.into(),
            namespace: None,
            name: self.name.clone(),
        }
    }
}

/// `spec.subject`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Subject {
    /// Pods by the labels of their namespace and their own.
    Pods {
        /// `namespaces`, or `pods.namespaceSelector` (everything if absent in v1alpha2).
        namespaces: Selector,
        /// `pods.podSelector`; everything for `namespaces`.
        pods: Selector,
    },
    /// An invalid subject: selects nothing.
    Nothing,
}

/// A rule of a cluster-scoped policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminRule {
    /// `name`, if not empty.
    pub name: Option<Arc<str>>,
    /// `action`; an unknown one is [`Action::Deny`] and `closed`.
    pub action: Action,
    /// Why the rule fails closed: with [`Action::Allow`] it matches nothing, else it denies everything.
    pub closed: Option<FailClosed>,
    /// `from` or `to`.
    pub peers: Vec<AdminPeer>,
    /// `ports` or `protocols`; `None` matches every protocol and port.
    pub ports: Option<Vec<AdminPort>>,
    /// Where the rule is written.
    pub at: Option<Location>,
}

impl AdminRule {
    /// Whether the rule names peers by domain name, which needs addresses learned from DNS.
    pub fn has_domain_names(&self) -> bool {
        self.peers
            .iter()
            .any(|peer| matches!(peer, AdminPeer::DomainNames(_)))
    }
}

/// What a rule of a cluster-scoped policy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Action {
    /// `Allow` (v1alpha1) or `Accept` (v1alpha2).
    Allow,
    /// `Deny`.
    Deny,
    /// `Pass`: skip the rest of the tier.
    Pass,
}

/// The part of a rule that this engine cannot interpret as written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FailClosed {
    /// Field path from the rule, `from[0]`.
    pub path: Arc<str>,
    /// One phrase, `unknown field services`.
    pub why: Arc<str>,
}

/// A peer of a rule of a cluster-scoped policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminPeer {
    /// Pods by the labels of their namespace and their own.
    Pods {
        /// `namespaces`, or `pods.namespaceSelector`.
        namespaces: Selector,
        /// `pods.podSelector`; everything for `namespaces`.
        pods: Selector,
    },
    /// Addresses, whoever owns them. Egress only.
    Networks(Vec<IpNet>),
    /// Nodes by their labels, met at any of their addresses. Egress only.
    Nodes(Selector),
    /// Addresses that DNS answered for these names. Egress Allow only.
    DomainNames(Vec<DomainPattern>),
}

/// A fully qualified domain name, or `*.` and a suffix; lower case, no final dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DomainPattern(pub Arc<str>);

impl DomainPattern {
    /// Whether the pattern covers `name`: the wildcard stands for one or more whole labels.
    pub fn matches(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        match self.0.strip_prefix("*.") {
            Some(suffix) => name
                .strip_suffix(suffix)
                .and_then(|head| head.strip_suffix('.'))
                .is_some_and(|head| !head.is_empty()),
            None => *self.0 == *name,
        }
    }
}

/// A port of a rule of a cluster-scoped policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminPort {
    /// Destination ports; an inverted range matches nothing, as the v1alpha1 API accepts it.
    Range(Protocol, RangeInclusive<u16>),
    /// Container ports of the destination pod with this name, whatever their protocol.
    Named(Arc<str>),
}
