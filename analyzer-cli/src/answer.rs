// SPDX-License-Identifier: Apache-2.0
//! What is the answer for one pair of ends? Verdict, exact ports, and what decided each side.

mod json;
mod many;
mod told;

use std::{collections::BTreeSet, net::IpAddr};

use policy_compiler::{
    Decision, Verdict,
    explain::Denial,
    model::{Direction, Family, PortRange, Protocol, family_of},
    partial::{Evaluator, Party},
    portmap::PortSet,
    verdict::Endpoint,
};

use crate::flow::{Group, PortQuery, is_nothing};

pub use json::{
    AnswerJson, At, Decided, PairJson, PortsJson, policy_name, ports_json, reason_name,
    verdict_name,
};
pub use many::{Kind, Many};
use told::Told;

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
    /// The ends have addresses of no common family, so that no flow between them exists.
    pub is_apart: bool,
}

/// Why nothing gets through between ends without addresses of a common family, whatever policies say.
pub const APART: &str = "no common address family";

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

    /// From what each direction says of the two ends, and what certainly gets through and what missing
    /// facts decide, whether it was asked about or not.
    fn of(
        evaluator: &Evaluator<'_>,
        [src, dst]: [&Group; 2],
        [source, destination]: [&Party; 2],
        family: Option<Family>,
        asked: &PortSet,
        (allowed, unknown): (PortSet, PortSet),
        [egress, ingress]: [&Told; 2],
    ) -> Self {
        let mut assumptions = [egress.assumptions(), ingress.assumptions()].concat();
        assumptions.sort_unstable();
        assumptions.dedup();
        Self {
            src: src.name.clone(),
            dst: dst.name.clone(),
            family,
            asked: asked.clone(),
            allowed: allowed.intersection(asked),
            unknown: unknown.intersection(asked),
            egress: egress.side(evaluator, source, destination),
            ingress: ingress.side(evaluator, destination, source),
            assumptions,
            is_apart: false,
        }
    }

    /// Of two ends without addresses of a common family.
    fn apart(src: &Group, dst: &Group, family: Option<Family>, asked: &PortSet) -> Self {
        Self {
            src: src.name.clone(),
            dst: dst.name.clone(),
            family,
            asked: asked.clone(),
            allowed: PortSet::uniform(false),
            unknown: PortSet::uniform(false),
            egress: Side::default(),
            ingress: Side::default(),
            assumptions: Vec::new(),
            is_apart: true,
        }
    }

    /// A port that was asked about and that a direction does not admit; of `likely` ones, if it can be.
    fn example_of_denial(&self, direction: Direction, likely: &PortSet) -> Option<(Protocol, u16)> {
        let rest = self.asked.minus(&self.allowed).minus(&self.unknown);
        let parts = self.side(direction).parts.iter();
        parts
            .filter(|(_, decision)| decision.verdict == Verdict::Deny)
            .map(|(part, _)| part.intersection(&rest))
            .find_map(|part| {
                part.intersection(likely)
                    .example()
                    .or_else(|| part.example())
            })
    }

    fn same_answer(&self, that: &Self) -> bool {
        self.allowed == that.allowed
            && self.unknown == that.unknown
            && self.egress.parts == that.egress.parts
            && self.ingress.parts == that.ingress.parts
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
    let families = families(evaluator, &src.endpoint, &dst.endpoint, inquiry.family);
    if families.is_empty() {
        let asked = dst.asked(evaluator.snapshot(), inquiry.ports);
        return vec![Cell::apart(src, dst, inquiry.family, &asked)];
    }
    let families = families.into_iter();
    let cells = families.map(|family| cell(evaluator, src, dst, family, inquiry));
    told_apart(cells.collect(), inquiry.family)
}

/// One cell, if all families have the same answer and none was asked for.
fn told_apart(mut cells: Vec<Cell>, wanted: Option<Family>) -> Vec<Cell> {
    if let [first, second] = cells.as_slice()
        && first.same_answer(second)
    {
        cells.truncate(1);
    }
    if let [only] = cells.as_mut_slice()
        && wanted.is_none()
    {
        only.family = None;
    }
    cells
}

/// The families in which the two ends can meet, only the `wanted` one if one is; `None` if nothing is
/// known of either's addresses.
pub fn families(
    evaluator: &Evaluator<'_>,
    src: &Endpoint,
    dst: &Endpoint,
    wanted: Option<Family>,
) -> Vec<Option<Family>> {
    let (src, dst) = (Families::of(evaluator, src), Families::of(evaluator, dst));
    let both = src.in_common(&dst);
    match wanted {
        None => both,
        Some(_) if both.contains(&wanted) || both.contains(&None) => vec![wanted],
        Some(_) => Vec::new(),
    }
}

/// The families that an end can be met in.
enum Families {
    /// Those of the addresses that it has.
    Of(BTreeSet<Family>),
    /// Nothing is known of its addresses.
    Unknown,
    /// It is an address that nobody in the cluster has: who names it asks about its family.
    Named(Family),
}

impl Families {
    fn of(evaluator: &Evaluator<'_>, end: &Endpoint) -> Self {
        let snapshot = evaluator.snapshot();
        match (end, families_of(evaluator, end)) {
            (Endpoint::Address(address), _)
                if snapshot.pod_at(*address).is_none() && snapshot.node_at(*address).is_none() =>
            {
                Self::Named(family_of(*address))
            }
            (_, Some(families)) => Self::Of(families),
            (_, None) => Self::Unknown,
        }
    }

    /// Those in which two ends can meet; `None` is not known.
    fn in_common(&self, other: &Self) -> Vec<Option<Family>> {
        match (self, other) {
            (Self::Unknown, Self::Unknown) => vec![None],
            (Self::Named(one), Self::Named(other)) if one != other => Vec::new(),
            (Self::Named(family), _) | (_, Self::Named(family)) => vec![Some(*family)],
            (Self::Of(known), Self::Unknown) | (Self::Unknown, Self::Of(known)) => {
                known.iter().copied().map(Some).collect()
            }
            (Self::Of(one), Self::Of(other)) => {
                one.intersection(other).copied().map(Some).collect()
            }
        }
    }
}

/// The families that an end has addresses of; `None` if nothing is known of them.
pub fn families_of(evaluator: &Evaluator<'_>, endpoint: &Endpoint) -> Option<BTreeSet<Family>> {
    let addresses: Vec<IpAddr> = match endpoint {
        Endpoint::Address(address) => vec![*address],
        Endpoint::Node(name) => evaluator.addresses_of_node(name).collect(),
        Endpoint::Pod(key) => {
            let pod = evaluator.snapshot().pods.get(key)?;
            let node = pod.node.as_ref().filter(|_| pod.host_network);
            let of_node = node
                .into_iter()
                .flat_map(|name| evaluator.addresses_of_node(name));
            pod.addresses.iter().copied().chain(of_node).collect()
        }
    };
    let families: BTreeSet<Family> = addresses.into_iter().map(family_of).collect();
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
    let ends = |direction| match direction {
        Direction::Egress => (&source, &destination),
        Direction::Ingress => (&destination, &source),
    };
    let connection = evaluator.connection(&source, &destination, inquiry.via_service);
    let asked = dst.asked(evaluator.snapshot(), inquiry.ports);
    let side = |direction| {
        let (subject, peer) = ends(direction);
        let otherwise = || {
            let otherwise = evaluator.party_otherwise(&peer.asked, family);
            evaluator.direction(direction, subject, &otherwise, inquiry.via_service)
        };
        let outcomes = connection.side(direction);
        Told::new(
            evaluator, direction, subject, peer, outcomes, otherwise, &asked,
        )
    };
    let told = Direction::BOTH.map(side);
    let gets_through = (connection.allowed(), connection.unknown());
    let mut cell = Cell::of(
        evaluator,
        [src, dst],
        [&source, &destination],
        family,
        &asked,
        gets_through,
        told.each_ref(),
    );
    if inquiry.explain {
        let own = own_ports(&destination);
        for direction in Direction::BOTH {
            let (subject, peer) = ends(direction);
            let denied = cell.example_of_denial(direction, &own);
            let denial = denied
                .and_then(|at| evaluator.denial(direction, subject, peer, inquiry.via_service, at));
            match direction {
                Direction::Egress => cell.egress.denial = denial,
                Direction::Ingress => cell.ingress.denial = denial,
            }
        }
    }
    cell
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

/// The ports that a destination's containers declare: what is likely to be wanted.
fn own_ports(destination: &Party) -> PortSet {
    let ports = destination
        .pod()
        .into_iter()
        .flat_map(|pod| pod.ports.iter());
    PortSet::of(ports.map(|port| (port.protocol, PortRange::single(port.number))))
}
