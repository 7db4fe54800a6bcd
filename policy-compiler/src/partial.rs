// SPDX-License-Identifier: Apache-2.0
//! What can be said about a flow when facts are missing? Verdicts of three values, with the facts
//! that would settle the third.
//!
//! Manifests that never met a cluster do not say which addresses pods have or which node they run
//! on, and a policy may hold something no engine can read. An [`Outcome`] is definite only if every
//! way of supplying what is missing gives the same verdict.

mod classes;
mod decide;
mod grid;
mod index;
mod matching;
mod party;

use std::fmt;

use crate::{
    diagnostic::{Diagnostic, Location},
    model::{Direction, PolicyKind, PolicyRef, Tier},
    portmap::{PortMap, PortSet},
    snapshot::Snapshot,
    verdict::{Decision, Reason, RuleRef, Verdict},
};

pub use classes::Class;
pub(crate) use grid::both;
pub use grid::{Alike, Grid, Verdicts};
pub use index::{Evaluator, PolicyId, RuleId};
pub use party::{Leaning, Party};

/// Whether something holds, as far as the facts go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tri {
    /// It does not hold, whatever is missing.
    No,
    /// Missing facts decide.
    Maybe(Fact),
    /// It holds, whatever is missing.
    Yes,
}

/// A fact that would settle a verdict, relative to the two ends of a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fact {
    /// The address of the peer.
    PeerAddress,
    /// The name, labels or addresses of the peer, which is a node.
    PeerNode,
    /// The labels of the peer or of its namespace.
    PeerLabels,
    /// The container ports of the peer.
    PeerPorts,
    /// Whether the peer is a pod to policies.
    PeerStanding,
    /// The node of the subject or of the peer.
    SubjectNode,
    /// The labels of the subject or of its namespace.
    SubjectLabels,
    /// The container ports of the subject.
    SubjectPorts,
    /// Whether the subject is a pod to policies.
    SubjectStanding,
    /// What a policy says that cannot be read; an index into [`Evaluator::doubts`].
    Doubt(u32),
}

/// Switches for what cluster networks do differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assumptions {
    /// `ipBlock` and `networks` match pods by their addresses.
    pub blocks_match_pods: bool,
}

impl Default for Assumptions {
    fn default() -> Self {
        Self {
            blocks_match_pods: true,
        }
    }
}

/// A policy, or a rule of one, whose meaning is unknown because it cannot be read as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// The object.
    pub policy: PolicyRef,
    /// How far the doubt reaches.
    pub extent: Extent,
    /// What is wrong.
    pub why: String,
    /// Where it is written.
    pub at: Option<Location>,
}

/// How much of a policy cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Everything: it may select any pod and do anything, at any priority.
    Whole,
    /// Which pods it selects.
    Subject,
    /// One direction: the pods it selects are known, what it does to them is not.
    Direction(Direction),
    /// One rule.
    Rule(Direction, u32),
    /// Nothing of what it says, but whether it exists: an API server refuses it.
    Existence,
}

impl Doubt {
    /// The doubts that the errors among `diagnostics` cast on policies; NetworkPolicies without a
    /// namespace belong to `default_namespace`.
    pub fn from_diagnostics(diagnostics: &[Diagnostic], default_namespace: &str) -> Vec<Self> {
        let mut doubts = Self::of_errors(diagnostics, default_namespace);
        let refused = diagnostics.iter().filter(|error| error.is_refused);
        let refused: Vec<Diagnostic> = refused.cloned().collect();
        for mut doubt in Self::of_errors(&refused, default_namespace) {
            doubt.extent = Extent::Existence;
            doubts.push(doubt);
        }
        doubts
    }

    fn of_errors(diagnostics: &[Diagnostic], default_namespace: &str) -> Vec<Self> {
        diagnostics
            .iter()
            .filter(|diagnostic| diagnostic.is_doubt())
            .filter_map(|diagnostic| {
                let object = diagnostic.object.as_ref()?;
                let kind = match &*object.kind {
                    "NetworkPolicy" => PolicyKind::NetworkPolicy,
                    "AdminNetworkPolicy" => PolicyKind::AdminNetworkPolicy,
                    "BaselineAdminNetworkPolicy" => PolicyKind::BaselineAdminNetworkPolicy,
                    "ClusterNetworkPolicy" => PolicyKind::ClusterNetworkPolicy,
                    _ => return None,
                };
                let namespaced = kind == PolicyKind::NetworkPolicy;
                Some(Self {
                    policy: PolicyRef {
                        kind,
                        namespace: namespaced.then(|| {
                            object
                                .namespace
                                .clone()
                                .unwrap_or_else(|| default_namespace.into())
                        }),
                        name: object.name.clone(),
                    },
                    extent: Extent::of(&diagnostic.path),
                    why: diagnostic.message.clone(),
                    at: diagnostic.at.clone(),
                })
            })
            .collect()
    }
}

impl Extent {
    fn of(path: &str) -> Self {
        if path.starts_with("spec.podSelector") || path.starts_with("spec.subject") {
            return Self::Subject;
        }
        for direction in Direction::BOTH {
            let Some(rest) = path
                .strip_prefix("spec.")
                .and_then(|rest| rest.strip_prefix(&direction.to_string()))
            else {
                continue;
            };
            let index = rest
                .strip_prefix('[')
                .and_then(|rest| rest.split(']').next())
                .and_then(|index| index.parse().ok());
            return match index {
                Some(index) => Self::Rule(direction, index),
                None if rest.is_empty() || rest.starts_with('.') => Self::Direction(direction),
                None => Self::Whole,
            };
        }
        Self::Whole
    }
}

/// Why a direction was decided, compactly; [`Evaluator::decision`] spells it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// A rule matched.
    Rule(RuleId),
    /// A rule that cannot be interpreted denies everything.
    FailClosed(RuleId),
    /// NetworkPolicies select the subject and admit nothing of the kind.
    Isolated,
    /// Traffic of the pod's own node.
    LocalNode,
    /// A pod is not kept from itself.
    SelfTraffic,
    /// The subject is no pod that policies can select.
    NotASubject,
    /// No policy had an opinion.
    Default,
}

/// The verdict of one direction for a set of ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Every completion of the facts gives this verdict.
    Decided {
        /// Allow or Deny.
        verdict: Verdict,
        /// The tier that decided.
        tier: Tier,
        /// What decided.
        cause: Cause,
        /// The Pass rules met before: Admin, Baseline.
        passed: [Option<RuleId>; 2],
        /// What would deny if audited policies were enforced; only beside an allowance.
        audited: Option<Cause>,
    },
    /// Completions disagree; the facts that would settle it, sorted.
    Unknown(Vec<Fact>),
}

impl Outcome {
    /// The verdict, if it is definite.
    pub fn verdict(&self) -> Option<Verdict> {
        match self {
            Self::Decided { verdict, .. } => Some(*verdict),
            Self::Unknown(_) => None,
        }
    }
}

/// Both directions of a connection, each a partition of all protocols and ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The source's side.
    pub egress: PortMap<Outcome>,
    /// The destination's side.
    pub ingress: PortMap<Outcome>,
}

impl Connection {
    /// The verdict of every protocol and port, where it is definite.
    pub fn verdicts(&self) -> Verdicts {
        self.egress.zip(&self.ingress, |egress, ingress| {
            grid::both(egress.verdict(), ingress.verdict())
        })
    }

    /// The protocols and ports that certainly get through.
    pub fn allowed(&self) -> PortSet {
        self.verdicts()
            .map(|verdict| *verdict == Some(Verdict::Allow))
    }

    /// The protocols and ports whose verdict depends on missing facts.
    pub fn unknown(&self) -> PortSet {
        self.verdicts().map(Option::is_none)
    }

    /// The partition of one direction.
    pub fn side(&self, direction: Direction) -> &PortMap<Outcome> {
        match direction {
            Direction::Egress => &self.egress,
            Direction::Ingress => &self.ingress,
        }
    }
}

impl<'a> Evaluator<'a> {
    /// Spells out a definite outcome for `subject`; `None` if it is unknown.
    pub fn decision(
        &self,
        direction: Direction,
        subject: &Party,
        outcome: &Outcome,
    ) -> Option<Decision> {
        let Outcome::Decided {
            verdict,
            tier,
            cause,
            passed,
            audited,
        } = outcome
        else {
            return None;
        };
        let passed: Vec<RuleRef> = passed
            .iter()
            .flatten()
            .map(|rule| self.rule_ref(*rule))
            .collect();
        let denial = |cause: &Cause| {
            let tier = match cause {
                Cause::Rule(rule) | Cause::FailClosed(rule) => self.rule(*rule).reference.tier,
                Cause::Isolated
                | Cause::LocalNode
                | Cause::SelfTraffic
                | Cause::NotASubject
                | Cause::Default => Tier::NetworkPolicy,
            };
            // What was passed later was met only because the denial was passed over.
            let passed = passed.iter().filter(|rule| rule.tier < tier);
            Box::new(Decision {
                verdict: Verdict::Deny,
                tier,
                reason: self.reason(direction, subject, *cause),
                passed: passed.cloned().collect(),
                audited: None,
            })
        };
        Some(Decision {
            verdict: *verdict,
            tier: *tier,
            reason: self.reason(direction, subject, *cause),
            audited: audited.as_ref().map(denial),
            passed,
        })
    }

    fn reason(&self, direction: Direction, subject: &Party, cause: Cause) -> Reason {
        match cause {
            Cause::Rule(rule) => Reason::Rule(self.rule_ref(rule)),
            Cause::FailClosed(rule) => Reason::FailClosed(self.rule_ref(rule)),
            Cause::Isolated => Reason::Isolated(self.isolating(direction, subject)),
            Cause::LocalNode => Reason::LocalNode,
            Cause::SelfTraffic => Reason::SelfTraffic,
            Cause::NotASubject => Reason::NotASubject,
            Cause::Default => Reason::Default,
        }
    }

    /// The NetworkPolicies that isolate `subject` in `direction`, by name: those that are enforced or,
    /// where there is no such, those that are audited.
    pub fn isolating(&self, direction: Direction, subject: &Party) -> Vec<PolicyRef> {
        let side = subject.side(direction);
        let policies = if side.isolating.is_empty() {
            &side.auditing
        } else {
            &side.isolating
        };
        let reference = |policy: &PolicyId| self.policy(*policy).reference.clone();
        policies.iter().map(reference).collect()
    }

    /// One missing fact in words.
    pub fn describe(&self, fact: Fact, subject: &Party, peer: &Party) -> String {
        match fact {
            Fact::PeerAddress => format!("the address of {peer}"),
            Fact::PeerNode => format!("name, labels and addresses of the node of {peer}"),
            Fact::PeerLabels => self.unknown_labels_of(peer),
            Fact::PeerPorts => format!("the container ports of {peer}"),
            Fact::PeerStanding => standing_of(peer),
            Fact::SubjectNode => format!("the node of {subject}"),
            Fact::SubjectLabels => self.unknown_labels_of(subject),
            Fact::SubjectPorts => format!("the container ports of {subject}"),
            Fact::SubjectStanding => standing_of(subject),
            Fact::Doubt(index) => match self.doubts().get(index as usize) {
                None => "a policy that cannot be read".to_owned(),
                Some(doubt) => match &doubt.at {
                    Some(at) => format!("what {} means ({at}: {})", doubt.policy, doubt.why),
                    None => format!("what {} means ({})", doubt.policy, doubt.why),
                },
            },
        }
    }

    /// Which labels are missing of an end or its namespace, in words.
    fn unknown_labels_of(&self, party: &Party) -> String {
        let mut words = Vec::new();
        if let Some(unknown) = &party.unknown.labels {
            let keys = unknown.keys().map(|keys| {
                let used = keys.iter().filter(|key| self.label_keys.contains(*key));
                used.map(|key| format!("`{key}`")).collect::<Vec<_>>()
            });
            words.push(match keys.as_deref() {
                None => format!("the labels of {party}"),
                Some([key]) => format!("the value of label {key} of {party}"),
                Some(keys) => format!("the values of labels {} of {party}", keys.join(", ")),
            });
        }
        if let (true, Some(pod)) = (party.unknown.namespace, party.pod()) {
            words.push(format!("the labels of namespace {}", pod.key.namespace));
        }
        words.join(" and ")
    }

    /// What is assumed of the cluster network.
    pub fn assumptions(&self) -> Assumptions {
        self.assumptions
    }

    /// The snapshot that is evaluated.
    pub fn snapshot(&self) -> &'a Snapshot {
        self.snapshot
    }

    fn rule_ref(&self, rule: RuleId) -> RuleRef {
        self.rule(rule).reference.clone()
    }
}

fn standing_of(party: &Party) -> String {
    format!("whether {party} is on the host network or has finished")
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.asked.fmt(f)
    }
}
