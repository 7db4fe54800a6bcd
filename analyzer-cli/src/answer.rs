// SPDX-License-Identifier: Apache-2.0
//! What is the answer for one pair of ends? Verdict, exact ports, and what decided each side.

mod json;

use std::collections::BTreeSet;

use policy_compiler::{
    Decision, Verdict,
    explain::Denial,
    model::{Direction, Family, PortRange, family_of},
    partial::{Connection, Evaluator, Outcome, Party},
    portmap::PortSet,
    verdict::Endpoint,
};

use crate::flow::{Group, PortQuery, is_nothing};

pub use json::{
    AnswerJson, At, Decided, PairJson, PortsJson, policy_name, ports_json, reason_name,
    verdict_name,
};

/// The four verdicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Word {
    /// Everything asked about gets through.
    Allowed,
    /// Nothing does.
    Denied,
    /// Some does: it differs by port, address or replica.
    Partial,
    /// Missing facts decide.
    Unknown,
}

impl Word {
    /// As in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Partial => "partial",
            Self::Unknown => "unknown",
        }
    }

    /// The verdict of several answers together.
    pub fn of_all(words: impl IntoIterator<Item = Self>) -> Self {
        let words: BTreeSet<Self> = words.into_iter().collect();
        match words.into_iter().collect::<Vec<_>>().as_slice() {
            [only] => *only,
            words if words.contains(&Self::Unknown) => Self::Unknown,
            _ => Self::Partial,
        }
    }
}

/// The answer for one pair of ends, of one family if both ends have addresses of two and it matters.
#[derive(Debug)]
pub struct Cell {
    /// Who opens the connection.
    pub src: String,
    /// Who it is opened to.
    pub dst: String,
    /// The family, where the other one has another answer.
    pub family: Option<Family>,
    /// The protocols and ports asked about.
    pub asked: PortSet,
    /// Those that get through.
    pub allowed: PortSet,
    /// Those that missing facts decide.
    pub unknown: PortSet,
    /// The source's side.
    pub egress: Side,
    /// The destination's side.
    pub ingress: Side,
    /// Switches the answer leaned on.
    pub assumptions: Vec<&'static str>,
}

/// What decided one direction.
#[derive(Debug, Default)]
pub struct Side {
    /// Parts of what was asked, each with its reason, in order of their first port.
    pub parts: Vec<(PortSet, Decision)>,
    /// Parts that missing facts decide.
    pub unknown: Vec<(PortSet, Vec<String>)>,
    /// Why something asked about is not admitted; filled in for `why`.
    pub denial: Option<Denial>,
}

impl Cell {
    /// The verdict of the protocols and ports asked about.
    pub fn word(&self) -> Word {
        if !is_nothing(&self.unknown) {
            Word::Unknown
        } else if is_nothing(&self.allowed) {
            Word::Denied
        } else if is_nothing(&self.asked.minus(&self.allowed)) {
            Word::Allowed
        } else {
            Word::Partial
        }
    }

    /// The side of a direction.
    pub fn side(&self, direction: Direction) -> &Side {
        match direction {
            Direction::Egress => &self.egress,
            Direction::Ingress => &self.ingress,
        }
    }

    fn same_answer(&self, that: &Self) -> bool {
        let parts = |side: &Side| side.parts.clone();
        self.allowed == that.allowed
            && self.unknown == that.unknown
            && parts(&self.egress) == parts(&that.egress)
            && parts(&self.ingress) == parts(&that.ingress)
    }
}

/// How pairs are asked about.
#[derive(Clone, Debug)]
pub struct Inquiry<'q> {
    /// Ports.
    pub ports: &'q PortQuery,
    /// Only this family.
    pub family: Option<Family>,
    /// The destination is behind a Service.
    pub via_service: bool,
    /// Say why something is not admitted.
    pub explain: bool,
}

/// Answers for one pair: one cell, or one per family if they differ.
pub fn ask(
    evaluator: &Evaluator<'_>,
    src: &Group,
    dst: &Group,
    inquiry: &Inquiry<'_>,
) -> Vec<Cell> {
    let mut cells = Vec::new();
    for family in families(evaluator, &src.endpoint, &dst.endpoint, inquiry.family) {
        cells.push(cell(evaluator, src, dst, family, inquiry));
    }
    if let [first, second] = cells.as_slice()
        && first.same_answer(second)
    {
        cells.truncate(1);
    }
    if let [only] = cells.as_mut_slice()
        && inquiry.family.is_none()
    {
        only.family = None;
    }
    cells
}

/// The families in which the two ends can meet; `None` if nothing is known of either's addresses.
pub fn families(
    evaluator: &Evaluator<'_>,
    src: &Endpoint,
    dst: &Endpoint,
    wanted: Option<Family>,
) -> Vec<Option<Family>> {
    if wanted.is_some() {
        return vec![wanted];
    }
    let of = |endpoint| families_of(evaluator, endpoint);
    match (of(src), of(dst)) {
        (None, None) => vec![None],
        (Some(known), None) | (None, Some(known)) => known.into_iter().map(Some).collect(),
        (Some(src), Some(dst)) => {
            let both: Vec<_> = src.intersection(&dst).copied().map(Some).collect();
            // Ends that cannot meet still have policies; say what those say of the source's family.
            if both.is_empty() {
                src.into_iter().map(Some).take(1).collect()
            } else {
                both
            }
        }
    }
}

fn families_of(evaluator: &Evaluator<'_>, endpoint: &Endpoint) -> Option<BTreeSet<Family>> {
    let snapshot = evaluator.snapshot();
    let addresses = match endpoint {
        Endpoint::Address(address) => return Some(BTreeSet::from([family_of(*address)])),
        Endpoint::Node(name) => snapshot.nodes.get(name).map(|node| node.addresses.clone()),
        Endpoint::Pod(key) => snapshot.pods.get(key).map(|pod| {
            let node = pod.node.as_ref().filter(|_| pod.host_network);
            let node = node.and_then(|name| snapshot.nodes.get(name));
            let of_node = node.map_or(&[][..], |node| &node.addresses);
            pod.addresses.iter().chain(of_node).copied().collect()
        }),
    };
    let families: BTreeSet<Family> = addresses?.into_iter().map(family_of).collect();
    (!families.is_empty()).then_some(families)
}

fn cell(
    evaluator: &Evaluator<'_>,
    src: &Group,
    dst: &Group,
    family: Option<Family>,
    inquiry: &Inquiry<'_>,
) -> Cell {
    let source = evaluator.party(&src.endpoint, family);
    let destination = other_replica(evaluator.party(&dst.endpoint, family), &src.endpoint);
    let connection = evaluator.connection(&source, &destination, inquiry.via_service);
    let asked = dst.asked(evaluator.snapshot(), inquiry.ports);
    from_connection(
        evaluator,
        (src.name.clone(), &source),
        (dst.name.clone(), &destination),
        &connection,
        Cell {
            src: String::new(),
            dst: String::new(),
            family,
            asked,
            allowed: PortSet::uniform(false),
            unknown: PortSet::uniform(false),
            egress: Side::default(),
            ingress: Side::default(),
            assumptions: Vec::new(),
        },
        inquiry,
    )
}

/// The pods of a workload without Pods are one endpoint; it talks to another of its replicas, because
/// every pod reaches itself.
pub fn other_replica(destination: Party, source: &Endpoint) -> Party {
    let collective = |endpoint: &Endpoint| match endpoint {
        Endpoint::Pod(key) => key.name.contains('/'),
        Endpoint::Node(_) | Endpoint::Address(_) => false,
    };
    if destination.asked == *source && collective(source) {
        destination.sibling()
    } else {
        destination
    }
}

fn from_connection(
    evaluator: &Evaluator<'_>,
    (src, source): (String, &Party),
    (dst, destination): (String, &Party),
    connection: &Connection,
    empty: Cell,
    inquiry: &Inquiry<'_>,
) -> Cell {
    let asked = &empty.asked;
    let allowed = connection.allowed().intersection(asked);
    let unknown = connection.unknown().intersection(asked);
    let rest = asked.minus(&allowed).minus(&unknown);
    let mut assumptions = Vec::new();
    let mut side = |direction| {
        let (subject, peer) = match direction {
            Direction::Egress => (source, destination),
            Direction::Ingress => (destination, source),
        };
        let leaning = evaluator.leans_on(direction, subject, peer);
        if leaning.blocks_match_pods {
            let otherwise = evaluator.party_otherwise(&peer.asked, empty.family);
            let otherwise =
                evaluator.direction(direction, subject, &otherwise, inquiry.via_service);
            if otherwise != *connection.side(direction) {
                assumptions.push("ipblock-matches-pods");
            }
        }
        if leaning.local_node_egress {
            assumptions.push("local-node-egress");
        }
        let mut side = Side::default();
        for (part, outcome) in grouped(connection, direction, asked) {
            match outcome {
                Outcome::Unknown(facts) => {
                    let words = facts
                        .iter()
                        .map(|fact| evaluator.describe(*fact, subject, peer));
                    side.unknown.push((part, words.collect()));
                }
                Outcome::Decided { .. } => {
                    let decision = evaluator.decision(direction, subject, &outcome);
                    side.parts.extend(decision.map(|decision| (part, decision)));
                }
            }
        }
        side.parts.sort_by_key(|(_, decision)| decision.verdict);
        let own = own_ports(destination);
        let denied = side
            .parts
            .iter()
            .filter(|(_, decision)| decision.verdict == Verdict::Deny)
            .map(|(part, _)| part.intersection(&rest))
            .find_map(|part| part.intersection(&own).example().or_else(|| part.example()));
        if let Some(at) = denied.filter(|_| inquiry.explain) {
            side.denial = evaluator.denial(direction, subject, peer, inquiry.via_service, at);
        }
        side
    };
    let (egress, ingress) = (side(Direction::Egress), side(Direction::Ingress));
    assumptions.sort_unstable();
    assumptions.dedup();
    Cell {
        src,
        dst,
        allowed,
        unknown,
        egress,
        ingress,
        assumptions,
        ..empty
    }
}

/// The ports that a destination's containers declare: what is likely to be wanted.
fn own_ports(destination: &Party) -> PortSet {
    let ports = destination
        .pod()
        .into_iter()
        .flat_map(|pod| pod.ports.iter());
    PortSet::of(ports.map(|port| (port.protocol, PortRange::single(port.number))))
}

/// The distinct outcomes of a direction within what is asked, in order of their first port.
fn grouped(
    connection: &Connection,
    direction: Direction,
    asked: &PortSet,
) -> Vec<(PortSet, Outcome)> {
    let map = connection.side(direction);
    let mut outcomes: Vec<&Outcome> = Vec::new();
    for (_, outcome) in map.runs() {
        if !outcomes.contains(&outcome) {
            outcomes.push(outcome);
        }
    }
    outcomes
        .into_iter()
        .map(|outcome| {
            let part = map.map(|at| at == outcome).intersection(asked);
            (part, outcome.clone())
        })
        .filter(|(part, _)| !is_nothing(part))
        .collect()
}
