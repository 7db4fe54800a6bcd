// SPDX-License-Identifier: Apache-2.0
//! From the rules that match a peer, in order of precedence, to one outcome per protocol and port.

use std::borrow::Borrow;

use crate::{
    Decision, Reason, Verdict,
    compile::rules::{Effect, PortMatch, Rule},
    model::{ContainerPort, PolicyRef, PortRange, Protocol, Tier},
    portmap::{KEY_END, PortMap, keys_of},
};

/// What is known of a subject and a peer before ports are looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Situation {
    /// Some NetworkPolicy isolates the subject in this direction.
    pub(crate) isolated: bool,
    /// Traffic that the NetworkPolicy tier admits whatever its rules say.
    pub(crate) exempt: Option<Exempt>,
}

/// Why the NetworkPolicy tier admits traffic that no rule mentions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Exempt {
    LocalNode,
    SelfTraffic,
}

/// A decision in terms of indices into a list of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Outcome {
    pub(crate) by: By,
    /// Pass rules met in the Admin and the Baseline tier.
    pub(crate) passed: [Option<u32>; 2],
}

/// What decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum By {
    Rule(u32),
    Isolated,
    Exempt(Exempt),
    Default,
}

/// A rule that matches the peer: its index in the list, and the key intervals of its ports.
#[derive(Clone, Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) index: u32,
    pub(crate) rule: &'a Rule,
    /// Half-open; `None` is everything.
    pub(crate) keys: Option<Vec<(u32, u32)>>,
}

impl<'a> Candidate<'a> {
    /// Resolves the rule's ports; names against the container ports of the destination pod, of which
    /// nodes and external addresses have none.
    pub(crate) fn new(index: u32, rule: &'a Rule, destination: &[ContainerPort]) -> Self {
        let keys = rule
            .ports
            .as_ref()
            .map(|ports| ports.iter().flat_map(|p| keys(p, destination)).collect());
        Self { index, rule, keys }
    }

    fn covers(&self, key: u32) -> bool {
        self.keys
            .as_ref()
            .is_none_or(|keys| keys.iter().any(|(from, to)| *from <= key && key < *to))
    }
}

fn keys(port: &PortMatch, destination: &[ContainerPort]) -> Vec<(u32, u32)> {
    match port {
        PortMatch::Range(protocol, range) => vec![keys_of(*protocol, *range)],
        PortMatch::Named(wanted, name) => destination
            .iter()
            .filter(|port| {
                port.name.as_ref() == Some(name) && wanted.is_none_or(|p| p == port.protocol)
            })
            .filter(|port| port.protocol != Protocol::Other)
            .map(|port| keys_of(port.protocol, PortRange::single(port.number)))
            .collect(),
    }
}

/// Decides every protocol and port. `candidates` are in order of precedence: Admin tier by policy and
/// position, then NetworkPolicies by name and position, then the Baseline tier.
pub(crate) fn reduce(candidates: &[Candidate<'_>], situation: Situation) -> PortMap<Outcome> {
    let mut starts = vec![0];
    for (from, to) in candidates.iter().filter_map(|c| c.keys.as_ref()).flatten() {
        starts.push(*from);
        if *to < KEY_END {
            starts.push(*to);
        }
    }
    starts.sort_unstable();
    starts.dedup();
    PortMap::from_runs(
        starts
            .into_iter()
            .map(|start| (start, decide(candidates, situation, start))),
    )
}

/// First match within each tier; a Pass goes on to the next tier.
fn decide(candidates: &[Candidate<'_>], situation: Situation, key: u32) -> Outcome {
    let mut passed = [None, None];
    let mut matching = candidates.iter().filter(|c| c.covers(key)).peekable();
    let first_of = |tier: Tier, matching: &mut std::iter::Peekable<_>| next_of(matching, tier);
    if let Some(first) = first_of(Tier::Admin, &mut matching) {
        match first.rule.effect {
            Effect::Pass => passed[0] = Some(first.index),
            Effect::Allow | Effect::Deny | Effect::Closed => {
                return Outcome {
                    by: By::Rule(first.index),
                    passed,
                };
            }
        }
    }
    if situation.isolated {
        if let Some(exempt) = situation.exempt {
            return Outcome {
                by: By::Exempt(exempt),
                passed,
            };
        }
        let by = first_of(Tier::NetworkPolicy, &mut matching)
            .map_or(By::Isolated, |c| By::Rule(c.index));
        return Outcome { by, passed };
    }
    if let Some(first) = first_of(Tier::Baseline, &mut matching) {
        match first.rule.effect {
            Effect::Pass => passed[1] = Some(first.index),
            Effect::Allow | Effect::Deny | Effect::Closed => {
                return Outcome {
                    by: By::Rule(first.index),
                    passed,
                };
            }
        }
    }
    Outcome {
        by: By::Default,
        passed,
    }
}

/// The first remaining candidate of `tier`, skipping those of earlier tiers.
fn next_of<'a, 'r: 'a>(
    matching: &mut std::iter::Peekable<impl Iterator<Item = &'a Candidate<'r>>>,
    tier: Tier,
) -> Option<&'a Candidate<'r>> {
    while matching.next_if(|c| c.rule.tier() < tier).is_some() {}
    matching.next_if(|c| c.rule.tier() == tier)
}

/// Spells an outcome out.
pub(crate) fn explain<R: Borrow<Rule>>(
    outcome: Outcome,
    rules: &[R],
    isolating: &[PolicyRef],
) -> Decision {
    let reference = |index: u32| {
        rules
            .get(index as usize)
            .map(|rule| (*rule.borrow().reference).clone())
    };
    let passed = outcome
        .passed
        .into_iter()
        .flatten()
        .filter_map(reference)
        .collect();
    let (verdict, tier, reason) = match outcome.by {
        By::Rule(index) => match rules.get(index as usize).map(Borrow::borrow) {
            Some(rule) => {
                let reference = (*rule.reference).clone();
                let tier = reference.tier;
                match rule.effect {
                    Effect::Allow | Effect::Pass => (Verdict::Allow, tier, Reason::Rule(reference)),
                    Effect::Deny => (Verdict::Deny, tier, Reason::Rule(reference)),
                    Effect::Closed => (Verdict::Deny, tier, Reason::FailClosed(reference)),
                }
            }
            // INVARIANT: outcomes index the list they were reduced from.
            None => (Verdict::Deny, Tier::Default, Reason::Default),
        },
        By::Isolated => (
            Verdict::Deny,
            Tier::NetworkPolicy,
            Reason::Isolated(isolating.to_vec()),
        ),
        By::Exempt(Exempt::LocalNode) => (Verdict::Allow, Tier::NetworkPolicy, Reason::LocalNode),
        By::Exempt(Exempt::SelfTraffic) => {
            (Verdict::Allow, Tier::NetworkPolicy, Reason::SelfTraffic)
        }
        By::Default => (Verdict::Allow, Tier::Default, Reason::Default),
    };
    Decision {
        verdict,
        tier,
        reason,
        passed,
    }
}
