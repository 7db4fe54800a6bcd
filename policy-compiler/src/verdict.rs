// SPDX-License-Identifier: Apache-2.0
//! Questions and answers: flows, verdicts, and the reason of every verdict.

use std::{fmt, net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    diagnostic::Location,
    model::{Direction, Family, PodKey, PolicyRef, Protocol, Tier},
};

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is let through.
    Allow,
    /// Its packets are dropped silently.
    Deny,
}

/// One end of a flow, after Service translation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Endpoint {
    /// A pod. A hostNetwork pod stands for its node, a finished pod for its address.
    Pod(PodKey),
    /// A node's own network stack.
    Node(Arc<str>),
    /// An address; it stands for the pod or node that owns it, if any.
    Address(IpAddr),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(key) => key.fmt(f),
            Self::Node(name) => write!(f, "node:{name}"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// One connection attempt.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Flow {
    /// Who opens the connection.
    pub source: Endpoint,
    /// Who it is opened to, after Service translation.
    pub destination: Endpoint,
    /// Protocol.
    pub protocol: Protocol,
    /// Destination port, after Service translation; ignored for [`Protocol::Other`].
    pub port: u16,
    /// Address family; matters where an end has addresses of both.
    pub family: Family,
    /// The source addressed a Service, which matters only for traffic of a pod to itself.
    pub via_service: bool,
}

/// A rule of a policy, or the policy as a whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RuleRef {
    /// The object.
    pub policy: PolicyRef,
    /// The tier the policy acts in.
    pub tier: Tier,
    /// Which list the rule is in.
    pub direction: Direction,
    /// Position in the list, from 0.
    pub index: u32,
    /// The rule's name, if it has one.
    pub name: Option<Arc<str>>,
    /// Where the rule is written.
    pub at: Option<Location>,
}

/// Why a direction was decided as it was.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// A rule matched.
    Rule(RuleRef),
    /// A rule that cannot be interpreted as written denies everything.
    FailClosed(RuleRef),
    /// NetworkPolicies select the pod and none of their rules admits the flow.
    Isolated(Vec<PolicyRef>),
    /// Traffic of the pod's own node is always admitted by the NetworkPolicy tier.
    LocalNode,
    /// A pod is not kept from itself.
    SelfTraffic,
    /// This end is no pod that policies can select.
    NotASubject,
    /// No policy had an opinion.
    Default,
}

/// The verdict of one direction, with its reason: what is enforced, and beside it what would be if
/// audited policies were.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Decision {
    /// Allow or Deny.
    pub verdict: Verdict,
    /// The tier that decided.
    pub tier: Tier,
    /// What decided.
    pub reason: Reason,
    /// The Pass rules met before, at most one per tier.
    pub passed: Vec<RuleRef>,
    /// What would deny if audited policies were enforced (D10); only beside an allowance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audited: Option<Box<Decision>>,
}

impl Decision {
    /// What decides if audited policies are enforced: the denial beside this decision, or else itself.
    pub fn with_all(&self) -> &Self {
        self.audited.as_deref().unwrap_or(self)
    }
}

/// The verdict of a flow: both directions, each decided without regard to the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// Allow if both directions allow.
    pub verdict: Verdict,
    /// The source's side.
    pub egress: Decision,
    /// The destination's side.
    pub ingress: Decision,
}

impl Trace {
    /// Combines the two directions.
    pub fn new(egress: Decision, ingress: Decision) -> Self {
        let verdict = egress.verdict.max(ingress.verdict);
        Self {
            verdict,
            egress,
            ingress,
        }
    }
}
