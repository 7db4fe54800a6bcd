// SPDX-License-Identifier: Apache-2.0
//! Which verdicts are possible? First match over three-valued rules, per segment of ports.

use std::borrow::Cow;

use super::{
    Cause, Connection, Fact, Outcome, Tri,
    index::{Evaluator, RuleId, RuleInfo},
    party::{Entry, Identity, Party, Unread},
};
use crate::{
    model::{Action, Direction, Tier},
    portmap::{PortMap, PortSet},
    verdict::Verdict,
};

impl Evaluator<'_> {
    /// Decides both directions of a connection. `via_service` matters only for a pod that connects to
    /// itself.
    pub fn connection(&self, source: &Party, destination: &Party, via_service: bool) -> Connection {
        Connection {
            egress: self.direction(Direction::Egress, source, destination, via_service),
            ingress: self.direction(Direction::Ingress, destination, source, via_service),
        }
    }

    /// Decides one direction for every protocol and port.
    pub fn direction(
        &self,
        direction: Direction,
        subject: &Party,
        peer: &Party,
        via_service: bool,
    ) -> PortMap<Outcome> {
        let Identity::Pod(pod) = &subject.identity else {
            return PortMap::uniform(certain(Cause::NotASubject));
        };
        let itself = peer.pod().is_some_and(|peer| peer.key == pod.key);
        if itself && !via_service {
            return PortMap::uniform(certain(Cause::SelfTraffic));
        }
        let destination = match direction {
            Direction::Egress => peer,
            Direction::Ingress => subject,
        };
        let side = subject.side(direction);
        if side.is_empty() {
            return PortMap::uniform(certain(Cause::Default));
        }
        let ends = Ends {
            peer,
            destination,
            ports: match direction {
                Direction::Egress => Fact::PeerPorts,
                Direction::Ingress => Fact::SubjectPorts,
            },
        };
        let question = Question {
            admin: self.matched_entries(&side.admin, ends),
            selected: side.is_selected(),
            isolated: !side.isolating.is_empty(),
            local: match direction {
                Direction::Ingress => is_own_node(subject, peer),
                Direction::Egress if self.snapshot.options.local_node_egress => {
                    is_own_node(subject, peer)
                }
                Direction::Egress => Tri::No,
            },
            itself,
            network: self.matched_rules(&side.network, ends),
            perhaps: side
                .perhaps
                .iter()
                .map(|id| {
                    let policy = self.policy(*id);
                    let rules = policy.rules(direction).unwrap_or_default();
                    Perhaps {
                        audited: policy.audited,
                        steps: self.matched_rules(rules, ends),
                    }
                })
                .collect(),
            network_doubts: &side.network_doubts,
            baseline: self.matched_entries(&side.baseline, ends),
        };
        let answer = question.answer();
        if subject.unknown.standing {
            // What is no pod is denied nothing.
            answer.map(|outcome| outcome.or_allowed(Fact::SubjectStanding))
        } else {
            answer
        }
    }

    /// Whether a rule's peers match, and which ports it is about.
    pub(crate) fn conditions(
        &self,
        id: RuleId,
        peer: &Party,
        destination: &Party,
    ) -> (Tri, PortSet) {
        let rule = self.rule(id);
        let ports = rule.ports.toward(destination);
        (
            self.peers_match(rule, peer),
            ports.unwrap_or_else(|| rule.ports.fixed.clone()),
        )
    }

    fn peers_match(&self, rule: &RuleInfo, peer: &Party) -> Tri {
        match &rule.peers {
            None => Tri::Yes,
            Some(peers) => peers
                .iter()
                .map(|term| peer.term(*term, self.term(*term)))
                .max()
                .unwrap_or(Tri::No),
        }
    }

    fn matched_entries<'e>(&'e self, entries: &[Entry], ends: Ends<'_>) -> Vec<Step<'e>> {
        let mut steps = Vec::new();
        for entry in entries {
            match entry {
                Entry::Rule(rule) => self.match_rule(*rule, ends, &mut steps),
                Entry::Perhaps(rule) => {
                    let before = steps.len();
                    self.match_rule(*rule, ends, &mut steps);
                    for step in steps.iter_mut().skip(before) {
                        step.holds = step.holds.min(Tri::Maybe(Fact::SubjectLabels));
                    }
                }
                Entry::Doubt(doubt) => steps.push(Step::anything(*doubt)),
            }
        }
        steps
    }

    fn matched_rules<'e>(&'e self, rules: &[RuleId], ends: Ends<'_>) -> Vec<Step<'e>> {
        let mut steps = Vec::with_capacity(rules.len());
        for rule in rules {
            self.match_rule(*rule, ends, &mut steps);
        }
        steps
    }

    /// Adds what a rule does to `steps`, if it may match.
    fn match_rule<'e>(&'e self, id: RuleId, ends: Ends<'_>, steps: &mut Vec<Step<'e>>) {
        let rule = self.rule(id);
        let audited = rule.audited;
        if let Some(doubt) = rule.doubt {
            steps.push(match rule.reference.tier {
                // A rule of a NetworkPolicy can only admit.
                Tier::NetworkPolicy => Step {
                    ports: None,
                    holds: Tri::Maybe(Fact::Doubt(doubt)),
                    act: Act::Rule(id, Action::Allow),
                },
                Tier::Admin | Tier::Baseline | Tier::Default => {
                    Step::anything(Unread { doubt, audited })
                }
            });
            return;
        }
        if rule.closed {
            match rule.action {
                Action::Allow => {}
                Action::Deny | Action::Pass => steps.push(Step {
                    ports: None,
                    holds: Tri::Yes,
                    act: Act::deny(Cause::FailClosed(id), audited),
                }),
            }
            return;
        }
        let holds = self.peers_match(rule, ends.peer);
        if holds == Tri::No {
            return;
        }
        let act = match rule.action {
            Action::Deny => Act::deny(Cause::Rule(id), audited),
            Action::Allow | Action::Pass => Act::Rule(id, rule.action),
        };
        let ports = match rule.ports.toward(ends.destination) {
            Some(ports) => Cow::Owned(ports),
            None => Cow::Borrowed(&rule.ports.fixed),
        };
        steps.push(Step {
            ports: (!ports.is_full()).then_some(ports),
            holds,
            act,
        });
        if let Some(ports) = rule.ports.perhaps_toward(ends.destination) {
            steps.push(Step {
                ports: Some(Cow::Owned(ports)),
                holds: holds.min(Tri::Maybe(ends.ports)),
                act,
            });
        }
    }
}

/// The ends that rules of one direction are matched with.
#[derive(Clone, Copy)]
struct Ends<'p> {
    peer: &'p Party,
    destination: &'p Party,
    /// The fact that the destination's container ports are.
    ports: Fact,
}

/// A NetworkPolicy that isolates the subject if its labels are as the policy wants.
struct Perhaps<'e> {
    audited: bool,
    /// Its rules.
    steps: Vec<Step<'e>>,
}

/// One direction of one pair of ends, reduced to what can match.
struct Question<'e> {
    admin: Vec<Step<'e>>,
    /// Some NetworkPolicy certainly isolates.
    selected: bool,
    /// One of them is enforced.
    isolated: bool,
    local: Tri,
    itself: bool,
    network: Vec<Step<'e>>,
    perhaps: Vec<Perhaps<'e>>,
    network_doubts: &'e [Unread],
    baseline: Vec<Step<'e>>,
}

/// A rule that the peer matches, or may match.
struct Step<'e> {
    /// `None` is every protocol and port.
    ports: Option<Cow<'e, PortSet>>,
    holds: Tri,
    act: Act,
}

#[derive(Clone, Copy)]
enum Act {
    /// Allow or Pass.
    Rule(RuleId, Action),
    Deny(Cause),
    /// A denial that is noted and passed over.
    Audited(Cause),
    /// Allow, Deny or Pass, nobody knows.
    Anything,
    /// Allow, Pass or a denial that is passed over, nobody knows.
    AnythingAudited,
}

impl Act {
    fn deny(cause: Cause, audited: bool) -> Self {
        if audited {
            Self::Audited(cause)
        } else {
            Self::Deny(cause)
        }
    }
}

impl Step<'_> {
    fn anything(Unread { doubt, audited }: Unread) -> Self {
        Step {
            ports: None,
            holds: Tri::Maybe(Fact::Doubt(doubt)),
            act: if audited {
                Act::AnythingAudited
            } else {
                Act::Anything
            },
        }
    }

    fn holds_at(&self, key: u32) -> Tri {
        match &self.ports {
            Some(ports) if !ports.at_key(key) => Tri::No,
            _ => self.holds,
        }
    }
}

/// The verdicts that remain possible, and what decides if nothing that may match does.
#[derive(Clone)]
struct Answers {
    allow: bool,
    deny: bool,
    tier: Tier,
    cause: Cause,
    passed: [Option<RuleId>; 2],
    /// The first denial that was passed over on the way.
    audited: Option<Cause>,
    facts: Vec<Fact>,
}

impl Question<'_> {
    /// Between two keys at which the ports of some rule start or end, the answer is the same.
    fn answer(&self) -> PortMap<Outcome> {
        let perhaps = self.perhaps.iter().flat_map(|policy| &policy.steps);
        let steps = self.admin.iter().chain(&self.network).chain(&self.baseline);
        let steps = steps.chain(perhaps);
        let mut keys = vec![0];
        for ports in steps.filter_map(|step| step.ports.as_ref()) {
            keys.extend(ports.runs().iter().map(|(key, _)| *key));
        }
        keys.sort_unstable();
        keys.dedup();
        PortMap::from_runs(keys.into_iter().map(|key| (key, self.decide(key))))
    }

    fn decide(&self, key: u32) -> Outcome {
        let network = || {
            let baseline = || Self::ordered(&self.baseline, 1, key, &Answers::default);
            self.network_tier(key, &baseline)
        };
        let answers = Self::ordered(&self.admin, 0, key, &network);
        answers.into_outcome()
    }

    /// First match through the rules of a tier; `next` is what follows it.
    fn ordered(steps: &[Step<'_>], tier: usize, key: u32, next: &dyn Fn() -> Answers) -> Answers {
        let mut before: Vec<(Answers, Fact)> = Vec::new();
        let mut decided = None;
        let mut audited = None;
        for step in steps {
            let holds = step.holds_at(key);
            if holds == Tri::No {
                continue;
            }
            let answers = match step.act {
                Act::Rule(id, Action::Pass) => {
                    let mut answers = next();
                    if let Some(passed) = answers.passed.get_mut(tier) {
                        *passed = Some(id);
                    }
                    answers
                }
                Act::Rule(id, _) => Answers::of(tier_of(tier), Cause::Rule(id), true),
                Act::Deny(cause) => Answers::of(tier_of(tier), cause, false),
                Act::Audited(cause) => {
                    if holds == Tri::Yes {
                        audited.get_or_insert(cause);
                    }
                    continue;
                }
                Act::Anything => Answers {
                    allow: true,
                    deny: true,
                    ..Answers::default()
                },
                Act::AnythingAudited => Answers {
                    allow: true,
                    ..next()
                },
            };
            match holds {
                Tri::Maybe(fact) => before.push((answers, fact)),
                Tri::Yes | Tri::No => {
                    decided = Some(answers);
                    break;
                }
            }
        }
        decided.unwrap_or_else(next).behind(audited).after(before)
    }

    fn network_tier(&self, key: u32, baseline: &dyn Fn() -> Answers) -> Answers {
        let allow = |cause| Answers::of(Tier::NetworkPolicy, cause, true);
        let mut before: Vec<(Answers, Fact)> = Vec::new();
        for Unread { doubt, audited } in self.network_doubts {
            before.push((allow(Cause::Isolated), Fact::Doubt(*doubt)));
            if !self.isolated && !audited {
                let deny = Answers::of(Tier::NetworkPolicy, Cause::Isolated, false);
                before.push((deny, Fact::Doubt(*doubt)));
            }
        }
        for policy in &self.perhaps {
            let fact = Fact::SubjectLabels;
            let admits = match policy.admits(key) {
                _ if self.itself => Tri::Yes,
                admits => admits.max(self.local),
            };
            if admits != Tri::No {
                before.push((allow(Cause::Isolated), fact));
            }
            if admits != Tri::Yes && !self.isolated && !policy.audited {
                let deny = Answers::of(Tier::NetworkPolicy, Cause::Isolated, false);
                before.push((deny, fact));
            }
        }
        if !self.selected {
            return baseline().after(before);
        }
        match self.local {
            Tri::Yes => return allow(Cause::LocalNode),
            Tri::Maybe(fact) => before.push((allow(Cause::LocalNode), fact)),
            Tri::No => {}
        }
        if self.itself {
            return allow(Cause::SelfTraffic);
        }
        for step in &self.network {
            let Act::Rule(id, _) = step.act else { continue };
            match step.holds_at(key) {
                Tri::Yes => return allow(Cause::Rule(id)),
                Tri::Maybe(fact) => before.push((allow(Cause::Rule(id)), fact)),
                Tri::No => {}
            }
        }
        if !self.isolated {
            return baseline().behind(Some(Cause::Isolated)).after(before);
        }
        Answers::of(Tier::NetworkPolicy, Cause::Isolated, false).after(before)
    }
}

impl Perhaps<'_> {
    /// Whether the policy would admit what goes to a port.
    fn admits(&self, key: u32) -> Tri {
        let steps = self.steps.iter().map(|step| step.holds_at(key));
        steps.max().unwrap_or(Tri::No)
    }
}

impl Outcome {
    /// The outcome if it may be that nothing is denied.
    fn or_allowed(&self, fact: Fact) -> Self {
        let mut facts = match self {
            Self::Decided {
                verdict: Verdict::Allow,
                ..
            } => return self.clone(),
            Self::Decided {
                verdict: Verdict::Deny,
                ..
            } => Vec::new(),
            Self::Unknown(facts) => facts.clone(),
        };
        facts.push(fact);
        facts.sort();
        facts.dedup();
        Self::Unknown(facts)
    }
}

impl Answers {
    fn of(tier: Tier, cause: Cause, allow: bool) -> Self {
        Self {
            allow,
            deny: !allow,
            tier,
            cause,
            passed: [None; 2],
            audited: None,
            facts: Vec::new(),
        }
    }

    /// Notes a denial that was passed over before.
    fn behind(mut self, audited: Option<Cause>) -> Self {
        self.audited = audited.or(self.audited);
        self
    }

    /// Adds what happens if rules before this point match after all.
    fn after(mut self, before: Vec<(Self, Fact)>) -> Self {
        for (answers, _) in &before {
            self.allow |= answers.allow;
            self.deny |= answers.deny;
        }
        if self.allow && self.deny {
            for (answers, fact) in before {
                self.facts.push(fact);
                self.facts.extend(answers.facts);
            }
        }
        self
    }

    fn into_outcome(mut self) -> Outcome {
        if self.allow && self.deny {
            self.facts.sort();
            self.facts.dedup();
            return Outcome::Unknown(self.facts);
        }
        Outcome::Decided {
            verdict: if self.allow {
                Verdict::Allow
            } else {
                Verdict::Deny
            },
            tier: self.tier,
            cause: self.cause,
            passed: self.passed,
            audited: self.audited.filter(|_| self.allow),
        }
    }
}

impl Default for Answers {
    fn default() -> Self {
        Self::of(Tier::Default, Cause::Default, true)
    }
}

fn certain(cause: Cause) -> Outcome {
    Outcome::Decided {
        verdict: Verdict::Allow,
        tier: Tier::Default,
        cause,
        passed: [None; 2],
        audited: None,
    }
}

fn tier_of(index: usize) -> Tier {
    if index == 0 {
        Tier::Admin
    } else {
        Tier::Baseline
    }
}

/// Whether `peer` is the node that `subject` runs on.
pub(super) fn is_own_node(subject: &Party, peer: &Party) -> Tri {
    if let (Some(subject), Some(peer), true) = (subject.pod(), peer.pod(), peer.unknown.standing) {
        return match (&subject.node, &peer.node) {
            (Some(own), Some(node)) if own != node => Tri::No,
            _ => Tri::Maybe(Fact::PeerStanding),
        };
    }
    let (Identity::Pod(pod), Identity::Node(node)) = (&subject.identity, &peer.identity) else {
        return Tri::No;
    };
    match (&pod.node, node) {
        (Some(own), Some(node)) if own == node => Tri::Yes,
        (Some(_), Some(_)) => Tri::No,
        (None, _) => Tri::Maybe(Fact::SubjectNode),
        (_, None) => Tri::Maybe(Fact::PeerNode),
    }
}
