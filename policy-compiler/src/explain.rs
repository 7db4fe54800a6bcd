// SPDX-License-Identifier: Apache-2.0
//! Why is a flow not admitted, and what is the least that would admit it?

mod change;
mod words;

use crate::{
    model::{Direction, PolicyRef, Protocol},
    partial::{Cause, Evaluator, Outcome, Party, Tri},
    portmap::key_of,
    verdict::{RuleRef, Verdict},
};

pub use change::{Change, ChangePeer};
pub use words::{spell_selector, words_of_peers, words_of_ports};

/// Why one direction does not admit a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The NetworkPolicies that isolate the subject, by name; empty if another tier denied.
    pub selecting: Vec<PolicyRef>,
    /// Their rules, each with the condition that failed.
    pub misses: Vec<Miss>,
    /// The rule that denies, if one does.
    pub denied_by: Option<RuleRef>,
    /// The smallest change that admits the flow in this direction; `None` if there is none that names
    /// the peer.
    pub change: Option<Change>,
}

/// A rule that could have admitted the flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Miss {
    /// The rule.
    pub rule: RuleRef,
    /// What failed.
    pub failed: Failed,
    /// What the failing condition wants, in words.
    pub wants: String,
}

/// The condition of a rule that a flow does not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failed {
    /// A peer matches; no port does.
    Ports,
    /// A port matches; no peer does.
    Peers,
    /// Neither matches.
    Both,
}

impl Evaluator<'_> {
    /// Why `subject` does not admit a flow with `peer`; `None` if it does, or if that is unknown.
    pub fn denial(
        &self,
        direction: Direction,
        subject: &Party,
        peer: &Party,
        via_service: bool,
        (protocol, port): (Protocol, u16),
    ) -> Option<Denial> {
        let partition = self.direction(direction, subject, peer, via_service);
        let Outcome::Decided {
            verdict: Verdict::Deny,
            cause,
            ..
        } = partition.at(protocol, port)
        else {
            return None;
        };
        let allowed_peer = ChangePeer::of(peer);
        let allowed_port = Some((protocol, port));
        Some(match cause {
            Cause::Rule(id) | Cause::FailClosed(id) => {
                let rule = self.rule_reference(*id).clone();
                let change = allowed_peer
                    .and_then(|peer| Change::allow_before(&rule, peer, allowed_port))
                    .filter(|_| matches!(cause, Cause::Rule(_)));
                Denial {
                    selecting: Vec::new(),
                    misses: Vec::new(),
                    denied_by: Some(rule),
                    change,
                }
            }
            Cause::Isolated
            | Cause::LocalNode
            | Cause::SelfTraffic
            | Cause::NotASubject
            | Cause::Default => {
                let selecting = self.isolating(direction, subject);
                let misses = self.misses(direction, subject, peer, protocol, port);
                let change =
                    self.smallest(direction, &selecting, &misses, allowed_peer, allowed_port);
                Denial {
                    selecting,
                    misses,
                    denied_by: None,
                    change,
                }
            }
        })
    }

    fn misses(
        &self,
        direction: Direction,
        subject: &Party,
        peer: &Party,
        protocol: Protocol,
        port: u16,
    ) -> Vec<Miss> {
        let destination = match direction {
            Direction::Egress => peer,
            Direction::Ingress => subject,
        };
        let key = key_of(protocol, port);
        let mut misses = Vec::new();
        for id in subject.network_rules(direction).iter().copied() {
            let (peers, ports) = self.conditions(id, peer, destination);
            let failed = match (peers == Tri::Yes, *ports.at_key(key)) {
                (true, true) => continue,
                (true, false) => Failed::Ports,
                (false, true) => Failed::Peers,
                (false, false) => Failed::Both,
            };
            let rule = self.rule_reference(id).clone();
            let wants = self.wants(&rule, failed);
            misses.push(Miss {
                rule,
                failed,
                wants,
            });
        }
        misses
    }

    /// What a rule's failing condition wants.
    fn wants(&self, rule: &RuleRef, failed: Failed) -> String {
        let snapshot = self.snapshot();
        let key = (
            rule.policy.namespace.clone().unwrap_or_default(),
            rule.policy.name.clone(),
        );
        let found = snapshot
            .network_policies
            .get(&key)
            .and_then(|policy| policy.rules(rule.direction)?.get(rule.index as usize));
        let Some(found) = found else {
            return String::new();
        };
        let peers = || words_of_peers(found.peers.as_deref(), &key.0);
        let ports = || words_of_ports(found.ports.as_deref());
        match failed {
            Failed::Ports => ports(),
            Failed::Peers => peers(),
            Failed::Both => format!("{} and {}", peers(), ports()),
        }
    }

    /// A port beside a peer that matches is the least, then a peer beside a port that matches, then a
    /// rule of its own.
    fn smallest(
        &self,
        direction: Direction,
        selecting: &[PolicyRef],
        misses: &[Miss],
        peer: Option<ChangePeer>,
        port: Option<(Protocol, u16)>,
    ) -> Option<Change> {
        let with = |failed| misses.iter().find(|miss| miss.failed == failed);
        if let (Some(miss), Some((protocol, port))) = (with(Failed::Ports), port)
            && protocol != Protocol::Other
        {
            return Some(Change::AddPort {
                rule: miss.rule.clone(),
                protocol,
                port,
            });
        }
        let peer = peer?;
        if let Some(miss) = with(Failed::Peers) {
            return Some(Change::AddPeer {
                rule: miss.rule.clone(),
                peer,
            });
        }
        let policy = selecting.first()?;
        let mut policies = self.snapshot().network_policies.values();
        let at = policies.find(|known| known.policy_ref() == *policy);
        Some(Change::AddRule {
            policy: policy.clone(),
            direction,
            peer,
            port,
            at: at.and_then(|policy| policy.at.clone()),
        })
    }
}
