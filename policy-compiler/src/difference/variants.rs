// SPDX-License-Identifier: Apache-2.0
//! Do two groups get the same verdicts, however the facts that are missing turn out?

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::{Condition, Group, Kind, Role, Said, Witness, likely};
use crate::{
    Verdict,
    model::{ContainerPort, Direction, Family, PortRange, Protocol},
    partial::{Evaluator, Fact, Outcome, Party, Tri},
    portmap::{PortMap, PortSet, key_of},
    symbolic::Symbols,
    verdict::Endpoint,
};

/// Two evaluators, and the family in which they are compared.
pub(super) struct Comparer<'a, 's> {
    pub(super) before: &'a Evaluator<'s>,
    pub(super) after: &'a Evaluator<'s>,
    pub(super) symbols: &'a Symbols,
    pub(super) family: Option<Family>,
    /// An address of every range that policies tell apart, for pods whose address is unknown.
    pub(super) addresses: Vec<IpAddr>,
}

/// How the verdicts for two groups differ.
pub(super) struct Comparison {
    pub(super) kind: Kind,
    pub(super) ports: PortSet,
    pub(super) through_service: bool,
    pub(super) witness: Witness,
}

/// Names of ports that are combined with each other; beyond that the answer is unclear.
const MOST_NAMES: usize = 6;

/// An end before and after.
type Pair = [Party; 2];

/// What one direction says before and after, if the missing facts turn out as `conditions` say.
struct Variant {
    outcomes: [PortMap<Outcome>; 2],
    conditions: Vec<Condition>,
}

impl Comparer<'_, '_> {
    /// Groups what neither side tells apart, leaving out ends that have no address of the family.
    pub(super) fn groups(&self, ends: &[Endpoint]) -> Vec<Group> {
        let mut keys: BTreeMap<Endpoint, [usize; 2]> = BTreeMap::new();
        for (side, evaluator) in self.sides().into_iter().enumerate() {
            let classes = evaluator.classes(ends, self.family);
            for (number, class) in classes.into_iter().enumerate() {
                for member in class.members {
                    if let Some(slot) = keys.entry(member).or_default().get_mut(side) {
                        *slot = number;
                    }
                }
            }
        }
        let mut groups: BTreeMap<(bool, [usize; 2]), Vec<Endpoint>> = BTreeMap::new();
        for (end, key) in keys {
            // Who exists and who does not is worth telling apart, even if policies do not.
            let key = (self.is_symbol(&end), key);
            groups.entry(key).or_default().push(end);
        }
        let groups = groups.into_values().filter_map(|members| {
            let party = self.parties(members.first()?);
            if party.iter().all(|party| !party.has_family()) {
                return None;
            }
            let other = members.get(1).map(|other| self.parties(other));
            Some(Group {
                members,
                party,
                other,
            })
        });
        let mut groups: Vec<Group> = groups.collect();
        groups.sort_by(|a, b| a.members.cmp(&b.members));
        groups
    }

    /// How the verdicts from one group to another, or inside one, differ.
    pub(super) fn compare(&self, source: &Group, destination: &Group) -> Vec<Comparison> {
        let is_pod = |group: &Group| group.party.iter().any(|party| party.pod().is_some());
        if !is_pod(source) && !is_pod(destination) {
            return Vec::new();
        }
        if !std::ptr::eq(source, destination) {
            return self.pair(&source.party, &destination.party, false);
        }
        let itself = self.pair(&source.party, &source.party, true);
        let end = &source.party[0].asked;
        let several = match &source.other {
            Some(other) => Some(other.clone()),
            None if self.is_symbol(end) || is_collective(end) => {
                Some([source.party[0].sibling(), source.party[1].sibling()])
            }
            None => None,
        };
        let others = several.map(|other| self.pair(&source.party, &other, false));
        let others = others.unwrap_or_default();
        itself.into_iter().chain(others).collect()
    }

    fn pair(&self, source: &Pair, destination: &Pair, through_service: bool) -> Vec<Comparison> {
        let mut found = Found::default();
        let new = |pair: &Pair| self.is_symbol(&pair[0].asked);
        let names = if new(destination) {
            self.names(source, destination)
        } else {
            Names::default()
        };
        if names.names.len() > MOST_NAMES {
            return vec![Comparison {
                kind: Kind::Unclear,
                ports: PortSet::uniform(true),
                through_service,
                witness: Witness {
                    source: source[0].asked.clone(),
                    destination: destination[0].asked.clone(),
                    protocol: Protocol::Tcp,
                    port: 1,
                    conditions: vec![Condition::TooManyPortNames(names.names.len())],
                    before: [Err(Vec::new()), Err(Vec::new())],
                    after: [Err(Vec::new()), Err(Vec::new())],
                },
            }];
        }
        for subset in 0..1_u32 << names.names.len() {
            let target = names.declared_by(destination, subset);
            let named = names.called(subset);
            let egress = self.variants(Direction::Egress, source, &target, through_service);
            let ingress = self.variants(Direction::Ingress, &target, source, through_service);
            for egress in &egress {
                for ingress in &ingress {
                    found.add(self, source, &target, egress, ingress, &named);
                }
            }
        }
        let decide = |port| self.decisions(source, destination, through_service, port);
        found.finish(new(source) || new(destination), through_service, decide)
    }

    /// Whether one direction certainly says the same before and after, whatever facts are missing and
    /// whatever ports of a pod to come are called.
    pub(super) fn is_constant(&self, direction: Direction, subject: &Pair, peer: &Pair) -> bool {
        let destination = match direction {
            Direction::Egress => peer,
            Direction::Ingress => subject,
        };
        let names = if self.is_symbol(&destination[0].asked) {
            let mut names = Collected::default();
            self.collect(direction, subject, peer, destination, &mut names);
            names.into()
        } else {
            Names::default()
        };
        if names.names.len() > MOST_NAMES {
            return false;
        }
        (0..1_u32 << names.names.len()).all(|subset| {
            let target = names.declared_by(destination, subset);
            let (subject, peer) = match direction {
                Direction::Egress => (subject, &target),
                Direction::Ingress => (&target, peer),
            };
            let variants = self.variants(direction, subject, peer, false);
            variants.iter().all(|variant| {
                let verdicts = variant
                    .outcomes
                    .each_ref()
                    .map(|it| it.map(Outcome::verdict));
                let [before, after] = &verdicts;
                before == after && before.runs().iter().all(|(_, verdict)| verdict.is_some())
            })
        })
    }

    /// What decides at a port before and after, as far as that is known.
    fn decisions(
        &self,
        source: &Pair,
        destination: &Pair,
        through_service: bool,
        (protocol, port): (Protocol, u16),
    ) -> [[Said; 2]; 2] {
        let key = key_of(protocol, port);
        [0, 1].map(|side: usize| {
            let ask = |direction, subject: &Pair, peer: &Pair| {
                let (subject, peer) = (&subject[side], &peer[side]);
                let evaluator = self.sides()[side];
                evaluator.direction(direction, subject, peer, through_service)
            };
            let outcomes = [
                ask(Direction::Egress, source, destination),
                ask(Direction::Ingress, destination, source),
            ];
            self.said(
                side,
                source,
                destination,
                outcomes.each_ref().map(|it| it.at_key(key)),
            )
        })
    }

    /// Both directions of one side in words.
    fn said(
        &self,
        side: usize,
        source: &Pair,
        destination: &Pair,
        [egress, ingress]: [&Outcome; 2],
    ) -> [Said; 2] {
        let evaluator = self.sides()[side];
        let say = |direction, subject: &Party, peer: &Party, outcome: &Outcome| match outcome {
            Outcome::Unknown(facts) => {
                let facts = facts.iter();
                Err(facts
                    .map(|fact| evaluator.describe(*fact, subject, peer))
                    .collect())
            }
            Outcome::Decided { .. } => {
                let decision = evaluator.decision(direction, subject, outcome);
                decision.ok_or_else(Vec::new)
            }
        };
        let (source, destination) = (&source[side], &destination[side]);
        [
            say(Direction::Egress, source, destination, egress),
            say(Direction::Ingress, destination, source, ingress),
        ]
    }

    /// What a direction says, once for every completion that makes a difference.
    fn variants(
        &self,
        direction: Direction,
        subject: &Pair,
        peer: &Pair,
        through_service: bool,
    ) -> Vec<Variant> {
        let ask = |subject: &Pair, peer: &Pair| {
            [0, 1].map(|side| {
                self.sides()[side].direction(
                    direction,
                    &subject[side],
                    &peer[side],
                    through_service,
                )
            })
        };
        let outcomes = ask(subject, peer);
        let facts: BTreeSet<Fact> = outcomes
            .iter()
            .flat_map(PortMap::runs)
            .filter_map(|(_, outcome)| match outcome {
                Outcome::Unknown(facts) => Some(facts),
                Outcome::Decided { .. } => None,
            })
            .flatten()
            .copied()
            .collect();
        let plain = |outcomes| Variant {
            outcomes,
            conditions: Vec::new(),
        };
        let mut nodes: Vec<Option<Arc<str>>> = vec![None];
        if let (true, Some(node)) = (facts.contains(&Fact::SubjectNode), peer[0].node()) {
            nodes = vec![Some(node.clone()), Some("".into())];
        }
        let mut addresses: Vec<Option<IpAddr>> = vec![None];
        let is_pod = peer.iter().any(|party| party.pod().is_some());
        if facts.contains(&Fact::PeerAddress) && is_pod {
            addresses = self.addresses.iter().copied().map(Some).collect();
        }
        if nodes.len() == 1 && addresses.iter().all(Option::is_none) {
            return vec![plain(outcomes)];
        }
        let (own, other) = match direction {
            Direction::Egress => (Role::Source, Role::Destination),
            Direction::Ingress => (Role::Destination, Role::Source),
        };
        let mut seen: BTreeSet<[PortMap<Option<Verdict>>; 2]> = BTreeSet::new();
        let mut variants = Vec::new();
        for node in &nodes {
            for address in &addresses {
                let mut conditions = Vec::new();
                let mut subject = subject.clone();
                if let Some(node) = node {
                    subject = subject.map(|party| party.on_node(node));
                    if !node.is_empty() {
                        conditions.push(Condition::RunsOn(own, node.clone()));
                    }
                }
                let mut peer = peer.clone();
                if let Some(address) = address {
                    conditions.push(Condition::Address(other, *address));
                    for (party, evaluator) in peer.iter_mut().zip(self.sides()) {
                        *party = evaluator.at(party, *address);
                    }
                }
                let outcomes = ask(&subject, &peer);
                if seen.insert(outcomes.each_ref().map(|map| map.map(Outcome::verdict))) {
                    variants.push(Variant {
                        outcomes,
                        conditions,
                    });
                }
            }
        }
        variants
    }

    /// The names that rules between two ends give to ports, and where ports are cut by number.
    fn names(&self, source: &Pair, destination: &Pair) -> Names {
        let mut names = Collected::default();
        let mut of = |direction, subject, peer| {
            self.collect(direction, subject, peer, destination, &mut names);
        };
        of(Direction::Egress, source, destination);
        of(Direction::Ingress, destination, source);
        names.into()
    }

    /// Those of one direction.
    fn collect(
        &self,
        direction: Direction,
        subject: &Pair,
        peer: &Pair,
        destination: &Pair,
        found: &mut Collected,
    ) {
        for (side, evaluator) in self.sides().into_iter().enumerate() {
            for rule in subject[side].rules(direction) {
                let holds = evaluator
                    .conditions(rule, &peer[side], &destination[side])
                    .0;
                if holds == Tri::No {
                    continue;
                }
                let ports = &evaluator.rule(rule).ports;
                let names = ports.names.iter().map(|(_, name)| name.clone());
                found.names.extend(names);
                let cuts = ports.fixed.segments();
                let cuts = cuts.map(|segment| (segment.protocol, segment.ports.start));
                found.keys.extend(cuts);
            }
        }
    }

    pub(super) fn sides(&self) -> [&Evaluator<'_>; 2] {
        [self.before, self.after]
    }

    fn parties(&self, end: &Endpoint) -> Pair {
        self.sides().map(|it| it.party(end, self.family))
    }

    /// Whether a group stands for pods that do not exist yet.
    pub(super) fn is_open(&self, group: &Group) -> bool {
        group.members.first().is_some_and(|end| self.is_symbol(end))
    }

    fn is_symbol(&self, end: &Endpoint) -> bool {
        match end {
            Endpoint::Pod(key) => self.symbols.contains(key),
            Endpoint::Node(_) | Endpoint::Address(_) => false,
        }
    }
}

/// Names of ports, and where ports are cut, as rules name them.
#[derive(Default)]
struct Collected {
    names: BTreeSet<Arc<str>>,
    keys: BTreeSet<(Protocol, u16)>,
}

impl From<Collected> for Names {
    fn from(found: Collected) -> Self {
        let mut keys = found.keys;
        keys.retain(|(protocol, _)| *protocol != Protocol::Other);
        Self {
            names: found.names.into_iter().collect(),
            keys: keys.into_iter().collect(),
        }
    }
}

/// Names of ports that matter for a pair of ends.
#[derive(Default)]
struct Names {
    names: Vec<Arc<str>>,
    /// Where the stretches begin that no rule cuts by number, sorted.
    keys: Vec<(Protocol, u16)>,
}

impl Names {
    /// The destination, if its ports carry this subset of the names. A verdict depends on which names a
    /// port carries and on the stretch it lies in, so one port in each will do.
    fn declared_by(&self, destination: &Pair, subset: u32) -> Pair {
        if subset == 0 {
            return destination.clone();
        }
        let declared = |name: &Arc<str>| {
            let name = name.clone();
            self.keys
                .iter()
                .map(move |(protocol, start)| ContainerPort {
                    name: Some(name.clone()),
                    protocol: *protocol,
                    number: first(*start),
                    host_port: 0,
                    host_address: None,
                })
        };
        let ports: Vec<ContainerPort> = self.chosen(subset).flat_map(declared).collect();
        destination
            .each_ref()
            .map(|it| it.with_ports(ports.clone()))
    }

    /// What holds of a port that carries this subset of the names.
    fn called(&self, subset: u32) -> Called<'_> {
        Called {
            names: self,
            condition: (subset != 0)
                .then(|| Condition::PortNames(self.chosen(subset).cloned().collect())),
        }
    }

    fn chosen(&self, subset: u32) -> impl Iterator<Item = &Arc<str>> {
        let numbered = (0..).zip(&self.names);
        numbered
            .filter(move |(bit, _)| subset >> bit & 1 == 1)
            .map(|(_, name)| name)
    }
}

/// The names of the port in question.
struct Called<'n> {
    names: &'n Names,
    /// `None` if it has no name that matters.
    condition: Option<Condition>,
}

impl Called<'_> {
    /// The ports that change if they have these names: every port of a stretch may have them.
    fn spread(&self, ports: PortSet) -> PortSet {
        if self.condition.is_none() {
            return ports;
        }
        let keys = &self.names.keys;
        let stretches = keys.iter().enumerate().map(|(index, (protocol, start))| {
            let next = keys.get(index + 1).filter(|(next, _)| next == protocol);
            let end = next.map_or(u16::MAX, |(_, next)| next.saturating_sub(1));
            (*protocol, PortRange { start: *start, end })
        });
        let changed =
            |(protocol, range): &(Protocol, PortRange)| *ports.at(*protocol, first(range.start));
        PortSet::of(stretches.filter(changed))
    }
}

/// The first port of a stretch that packets can carry.
fn first(start: u16) -> u16 {
    start.max(1)
}

/// What was found for a pair of ends over all completions.
#[derive(Default)]
struct Found {
    /// Ports that change in some completion, by kind, and a witness of each.
    ever: BTreeMap<Kind, (PortSet, Witness)>,
    /// Ports that change in every completion so far.
    always: Option<[PortSet; 2]>,
}

impl Found {
    fn add(
        &mut self,
        comparer: &Comparer<'_, '_>,
        source: &Pair,
        destination: &Pair,
        egress: &Variant,
        ingress: &Variant,
        called: &Called<'_>,
    ) {
        let verdicts = [0, 1].map(|side: usize| {
            egress.outcomes[side].zip(&ingress.outcomes[side], |egress, ingress| {
                match (egress.verdict(), ingress.verdict()) {
                    (Some(Verdict::Deny), _) | (_, Some(Verdict::Deny)) => Some(Verdict::Deny),
                    (Some(Verdict::Allow), Some(Verdict::Allow)) => Some(Verdict::Allow),
                    (None, _) | (_, None) => None,
                }
            })
        });
        let [was, is] = &verdicts;
        let changes = was.zip(is, |was, is| match (was, is) {
            (None, None) => Some(Kind::Undecided),
            (None, Some(_)) | (Some(_), None) => Some(Kind::Unclear),
            (Some(Verdict::Deny), Some(Verdict::Allow)) => Some(Kind::Gained),
            (Some(Verdict::Allow), Some(Verdict::Deny)) => Some(Kind::Lost),
            (Some(Verdict::Allow), Some(Verdict::Allow))
            | (Some(Verdict::Deny), Some(Verdict::Deny)) => None,
        });
        let of = |kind| called.spread(changes.map(|change| *change == Some(kind)));
        let certain = [of(Kind::Gained), of(Kind::Lost)];
        self.always = Some(match self.always.take() {
            None => certain,
            Some([gained, lost]) => [
                gained.intersection(&certain[0]),
                lost.intersection(&certain[1]),
            ],
        });
        for kind in [Kind::Gained, Kind::Lost, Kind::Unclear, Kind::Undecided] {
            let ports = of(kind);
            let example = match &called.condition {
                None => likely(&ports, &destination[0]),
                Some(_) => ports.example(),
            };
            // Port 0 is on no wire.
            let Some((protocol, port)) = example else {
                continue;
            };
            if let Some((known, _)) = self.ever.get_mut(&kind) {
                *known = known.union(&ports);
                continue;
            }
            let key = key_of(protocol, port);
            let decisions = |side: usize| {
                let outcomes = [egress, ingress].map(|it| it.outcomes[side].at_key(key));
                comparer.said(side, source, destination, outcomes)
            };
            let conditions = egress.conditions.iter().chain(&ingress.conditions);
            let witness = Witness {
                source: source[0].asked.clone(),
                destination: destination[0].asked.clone(),
                protocol,
                port,
                conditions: conditions.chain(&called.condition).cloned().collect(),
                before: decisions(0),
                after: decisions(1),
            };
            self.ever.insert(kind, (ports, witness));
        }
    }

    /// For ends that exist, what changes only if facts turn out a certain way is unclear; for pods to
    /// come they may turn out any way. `decide` says what decides whatever is missing.
    fn finish(
        self,
        any_way: bool,
        through_service: bool,
        decide: impl Fn((Protocol, u16)) -> [[Said; 2]; 2],
    ) -> Vec<Comparison> {
        let Some([gained, lost]) = self.always else {
            return Vec::new();
        };
        let nothing = || PortSet::uniform(false);
        let known = self.ever.iter();
        let known = known.filter(|(kind, _)| **kind != Kind::Undecided);
        let known = known.fold(nothing(), |all, (_, (ports, _))| all.union(ports));
        let mut unclear: Option<(PortSet, Witness)> = None;
        let mut comparisons = Vec::new();
        let comparison = |kind, ports, witness| Comparison {
            kind,
            ports,
            through_service,
            witness,
        };
        for (kind, (ports, witness)) in self.ever {
            let certain = match kind {
                _ if any_way => ports.clone(),
                Kind::Gained => gained.clone(),
                Kind::Lost => lost.clone(),
                Kind::Unclear => nothing(),
                Kind::Undecided => ports.minus(&known),
            };
            let rest = ports.minus(&certain);
            if let Some(other) = certain.example() {
                let own = *certain.at(witness.protocol, witness.port);
                let witness = if own && (any_way || witness.conditions.is_empty()) {
                    witness.clone()
                } else {
                    let port = if own {
                        (witness.protocol, witness.port)
                    } else {
                        other
                    };
                    let [before, after] = decide(port);
                    let is_known = before.iter().chain(&after).all(Result::is_ok);
                    if own && !is_known {
                        // What decides depends on the facts, and these are facts to show it with.
                        witness.clone()
                    } else {
                        Witness {
                            protocol: port.0,
                            port: port.1,
                            conditions: Vec::new(),
                            before,
                            after,
                            ..witness.clone()
                        }
                    }
                };
                comparisons.push(comparison(kind, certain, witness));
            }
            if rest.example().is_some() {
                unclear = Some(match unclear {
                    None => (rest, witness),
                    Some((known, first)) => (known.union(&rest), first),
                });
            }
        }
        comparisons
            .extend(unclear.map(|(ports, witness)| comparison(Kind::Unclear, ports, witness)));
        comparisons
    }
}

/// Whether an end stands for all replicas of a workload without Pods.
fn is_collective(end: &Endpoint) -> bool {
    match end {
        Endpoint::Pod(key) => key.name.contains('/'),
        Endpoint::Node(_) | Endpoint::Address(_) => false,
    }
}
