// SPDX-License-Identifier: Apache-2.0
//! From the rules that match a peer, in order of precedence, to one outcome per protocol and port.

use std::{borrow::Borrow, iter::Peekable};

use crate::{
    Decision, Reason, Verdict,
    compile::rules::{Effect, Isolating, PortMatch, Rule},
    model::{ContainerPort, PortRange, Protocol, Tier},
    portmap::{KEY_END, PortMap, keys_of},
};

/// What is known of a subject and a peer before ports are looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Situation {
    /// Whether NetworkPolicies isolate the subject in this direction.
    pub(crate) isolation: Isolation,
    /// Traffic that the NetworkPolicy tier admits whatever its rules say.
    pub(crate) exempt: Option<Exempt>,
}

/// What becomes of traffic that no rule of the NetworkPolicy tier mentions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// No NetworkPolicy isolates: the Baseline tier is asked.
    None,
    /// Only audited ones do: it is noted, and the Baseline tier asked (D9).
    Audited,
    /// It is denied.
    Enforced,
}

impl Isolation {
    pub(crate) fn by(isolating: Option<&Isolating>) -> Self {
        match isolating {
            None => Self::None,
            Some(policies) if policies.audited => Self::Audited,
            Some(_) => Self::Enforced,
        }
    }
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
    /// The first denial of audited policies that was passed over; only of what is admitted (D10).
    pub(crate) audited: Option<By>,
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
///
/// Denials of audited policies are passed over, so what is found is what is enforced. The first of them
/// is what would have decided if they were enforced too: before it nothing is different.
fn decide(candidates: &[Candidate<'_>], situation: Situation, key: u32) -> Outcome {
    let mut passed = [None, None];
    let mut audited = None;
    let [by_admin, by_baseline] = &mut passed;
    let mut matching = candidates.iter().filter(|c| c.covers(key)).peekable();
    let (by, verdict) = first_of(Tier::Admin, &mut matching, by_admin, &mut audited)
        .or_else(|| isolated(situation, &mut matching, &mut audited))
        .or_else(|| first_of(Tier::Baseline, &mut matching, by_baseline, &mut audited))
        .unwrap_or((By::Default, Verdict::Allow));
    Outcome {
        by,
        passed,
        audited: audited.filter(|_| verdict == Verdict::Allow),
    }
}

/// What the first match of an ordered tier decides; `None` if there is none, or it is a Pass.
fn first_of<'a, 'r: 'a>(
    tier: Tier,
    matching: &mut Peekable<impl Iterator<Item = &'a Candidate<'r>>>,
    passed: &mut Option<u32>,
    audited: &mut Option<By>,
) -> Option<(By, Verdict)> {
    while let Some(first) = next_of(matching, tier) {
        let by = By::Rule(first.index);
        match first.rule.effect {
            Effect::Pass => {
                *passed = Some(first.index);
                return None;
            }
            Effect::Allow => return Some((by, Verdict::Allow)),
            Effect::Deny | Effect::Closed if first.rule.audited => {
                audited.get_or_insert(by);
            }
            Effect::Deny | Effect::Closed => return Some((by, Verdict::Deny)),
        }
    }
    None
}

/// What the NetworkPolicy tier decides; `None` if it leaves it to the Baseline tier.
fn isolated<'a, 'r: 'a>(
    situation: Situation,
    matching: &mut Peekable<impl Iterator<Item = &'a Candidate<'r>>>,
    audited: &mut Option<By>,
) -> Option<(By, Verdict)> {
    if situation.isolation == Isolation::None {
        return None;
    }
    if let Some(exempt) = situation.exempt {
        return Some((By::Exempt(exempt), Verdict::Allow));
    }
    if let Some(first) = next_of(matching, Tier::NetworkPolicy) {
        return Some((By::Rule(first.index), Verdict::Allow));
    }
    if situation.isolation == Isolation::Audited {
        audited.get_or_insert(By::Isolated);
        return None;
    }
    Some((By::Isolated, Verdict::Deny))
}

/// The first remaining candidate of `tier`, skipping those of earlier tiers.
fn next_of<'a, 'r: 'a>(
    matching: &mut Peekable<impl Iterator<Item = &'a Candidate<'r>>>,
    tier: Tier,
) -> Option<&'a Candidate<'r>> {
    while matching.next_if(|c| c.rule.tier() < tier).is_some() {}
    matching.next_if(|c| c.rule.tier() == tier)
}

/// Spells an outcome out.
pub(crate) fn explain<R: Borrow<Rule>>(
    outcome: Outcome,
    rules: &[R],
    isolating: Option<&Isolating>,
) -> Decision {
    let mut decision = spell(outcome.by, outcome.passed, rules, isolating);
    decision.audited = outcome.audited.map(|by| {
        let mut denial = spell(by, outcome.passed, rules, isolating);
        // What was passed later was met only because the denial was passed over.
        let tier = denial.tier;
        denial.passed.retain(|rule| rule.tier < tier);
        Box::new(denial)
    });
    decision
}

fn spell<R: Borrow<Rule>>(
    by: By,
    passed: [Option<u32>; 2],
    rules: &[R],
    isolating: Option<&Isolating>,
) -> Decision {
    let reference = |index: u32| {
        rules
            .get(index as usize)
            .map(|rule| (*rule.borrow().reference).clone())
    };
    let passed = passed.into_iter().flatten().filter_map(reference).collect();
    let (verdict, tier, reason) = match by {
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
        By::Isolated => {
            let policies = isolating.map_or_else(Vec::new, |isolating| isolating.policies.clone());
            (
                Verdict::Deny,
                Tier::NetworkPolicy,
                Reason::Isolated(policies),
            )
        }
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
        audited: None,
    }
}
