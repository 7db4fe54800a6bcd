// SPDX-License-Identifier: Apache-2.0
//! Which connections get another verdict from one set of policies than from another, exactly?
//!
//! Every end that both snapshots have is compared with every other: pods and nodes, ranges of addresses
//! outside the cluster, and [`crate::symbolic`] pods that do not exist yet; over all protocols and ports.
//! Where a verdict depends on a missing fact, every completion of that fact is compared. So an empty
//! [`Difference`] proves that the two sets of policies are equivalent.

mod grouped;
mod variants;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    compile::hash::FastMap,
    model::{Direction, Family, PortRange, Protocol, family_of},
    partial::{Alike, Evaluator, Grid, Party},
    portmap::PortSet,
    ranges::{self, Range},
    symbolic::Symbols,
    verdict::{Decision, Endpoint},
};

use grouped::{Grouped, Merged, What};
use variants::Comparer;

/// Which way traffic changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// It was not admitted and is now.
    Gained,
    /// It was admitted and is no longer.
    Lost,
    /// Missing facts decide before or after.
    Unclear,
    /// Missing facts decide before and after.
    Undecided,
}

/// One end of a change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// A pod or node. A pod may be one that does not exist yet.
    Endpoint(Endpoint),
    /// Addresses outside the cluster, as the fewest blocks.
    Range(Vec<IpNet>),
}

/// One change, for all members of two groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which way.
    pub kind: Kind,
    /// Who opens the connections, sorted.
    pub sources: Vec<End>,
    /// Who they are opened to, sorted.
    pub destinations: Vec<End>,
    /// The protocols and ports that change. Toward a pod that does not exist yet some may change only
    /// under the conditions of the witness.
    pub ports: PortSet,
    /// The family in which they change; `None` if in each.
    pub family: Option<Family>,
    /// Only what a pod opens to itself through a Service changes.
    pub through_service: bool,
    /// One flow that changes.
    pub witness: Witness,
}

/// A flow that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// Source.
    pub source: Endpoint,
    /// Destination.
    pub destination: Endpoint,
    /// Protocol.
    pub protocol: Protocol,
    /// Destination port; 0 for [`Protocol::Other`].
    pub port: u16,
    /// What has to hold besides.
    pub conditions: Vec<Condition>,
    /// What decided before: egress, ingress.
    pub before: [Said; 2],
    /// What decides after.
    pub after: [Said; 2],
}

/// What decided one direction, or else the facts that are missing, in words.
pub type Said = Result<Decision, Vec<String>>;

/// What has to hold for a witness besides the two snapshots.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Condition {
    /// A pod whose address is unknown has this one.
    Address(Role, IpAddr),
    /// A pod whose node is unknown runs on this one.
    RunsOn(Role, Arc<str>),
    /// The destination calls the port by these names, and by no other that matters.
    PortNames(Vec<Arc<str>>),
    /// Policies know this many names of ports here, too many to combine: nothing was compared.
    TooManyPortNames(usize),
}

/// An end of a witness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Who opens the connection.
    Source,
    /// Who it is opened to.
    Destination,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Destination => "destination",
        })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(role, address) => write!(f, "the {role} has the address {address}"),
            Self::RunsOn(role, node) => write!(f, "the {role} runs on {node}"),
            Self::PortNames(names) => {
                let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
                write!(f, "the port is called {}", names.join(" and "))
            }
            Self::TooManyPortNames(count) => {
                write!(f, "{count} names of ports are too many to combine")
            }
        }
    }
}

/// What differs between two snapshots, and what was compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// In the order of [`Kind`], each sorted by its ends.
    pub changes: Vec<Change>,
    /// How many pods and nodes were compared.
    pub endpoints: usize,
    /// How many kinds of pods that do not exist yet.
    pub symbols: usize,
    /// How many ranges of addresses outside the cluster.
    pub ranges: usize,
}

/// Compares two snapshots, both joined with `symbols`.
pub fn between(before: &Evaluator<'_>, after: &Evaluator<'_>, symbols: &Symbols) -> Difference {
    let snapshots = [before.snapshot(), after.snapshot()];
    let outside = ranges::outside(&snapshots);
    let mut ends: BTreeSet<Endpoint> = live(before);
    let of_after = live(after);
    ends.retain(|end| of_after.contains(end));
    let is_symbol = |end: &Endpoint| match end {
        Endpoint::Pod(key) => symbols.contains(key),
        Endpoint::Node(_) | Endpoint::Address(_) => false,
    };
    let new = ends.iter().filter(|end| is_symbol(end)).count();
    let mut difference = Difference {
        changes: Vec::new(),
        endpoints: ends.len() - new,
        symbols: new,
        ranges: outside.len(),
    };
    let mut names: BTreeMap<Vec<End>, usize> = BTreeMap::new();
    let mut grouped = Grouped::default();
    let families: Vec<OneFamily<'_, '_>> = families(&snapshots)
        .into_iter()
        .map(|family| {
            OneFamily::of(
                [before, after],
                symbols,
                family,
                &ends,
                &outside,
                &mut names,
            )
        })
        .collect();
    for (number, family) in families.iter().enumerate() {
        family.compare(number, &mut grouped);
    }
    let names: BTreeMap<usize, Vec<End>> = names.into_iter().map(|(a, b)| (b, a)).collect();
    let name = |groups: &[usize]| -> Vec<End> {
        let mut ends: Vec<End> = groups.iter().flat_map(|it| &names[it]).cloned().collect();
        ends.sort();
        ends
    };
    let changes = grouped.finish(families.len()).into_iter().filter_map(|it| {
        let seen = families.get(it.family.unwrap_or_default())?;
        let witness = seen.witness(&it)?;
        Some(Change {
            kind: it.what.kind,
            sources: name(&it.sources),
            destinations: name(&it.destinations),
            ports: it.what.ports,
            family: it.family.and(seen.comparer.family),
            through_service: it.what.through_service,
            witness,
        })
    });
    difference.changes = changes.collect();
    difference.changes.sort_by(|a, b| a.rank().cmp(&b.rank()));
    difference
}

impl Change {
    /// What comes first.
    fn rank(&self) -> impl Ord + '_ {
        let ends = (&self.sources, &self.destinations);
        (
            self.kind,
            ends,
            self.through_service,
            &self.ports,
            self.family,
        )
    }
}

/// Every two groups as one family sees them.
struct OneFamily<'a, 's> {
    comparer: Comparer<'a, 's>,
    groups: Vec<Group>,
    /// The number of each group, equal for groups of the same members in every family.
    numbers: Vec<usize>,
}

impl<'a, 's> OneFamily<'a, 's> {
    fn of(
        [before, after]: [&'a Evaluator<'s>; 2],
        symbols: &'a Symbols,
        family: Option<Family>,
        ends: &BTreeSet<Endpoint>,
        outside: &[Range],
        names: &mut BTreeMap<Vec<End>, usize>,
    ) -> Self {
        let mut ends: Vec<Endpoint> = ends.iter().cloned().collect();
        let of_family =
            |range: &&Range| family.is_none_or(|family| family == family_of(range.example));
        let ranges: Vec<&Range> = outside.iter().filter(of_family).collect();
        ends.extend(ranges.iter().map(|range| Endpoint::Address(range.example)));
        let comparer = Comparer {
            before,
            after,
            symbols,
            family,
            addresses: ranges.iter().map(|range| range.example).collect(),
        };
        let groups = comparer.groups(&ends);
        let networks: BTreeMap<Endpoint, &Vec<IpNet>> = ranges
            .iter()
            .map(|range| (Endpoint::Address(range.example), &range.networks))
            .collect();
        let name = |group: &Group| {
            let end = |member: &Endpoint| match networks.get(member) {
                Some(networks) => End::Range((*networks).clone()),
                None => End::Endpoint(member.clone()),
            };
            let next = names.len();
            *names
                .entry(group.members.iter().map(end).collect())
                .or_insert(next)
        };
        Self {
            numbers: groups.iter().map(name).collect(),
            comparer,
            groups,
        }
    }

    fn compare(&self, family: usize, grouped: &mut Grouped) {
        let grids = [0, 1].map(|side| {
            let parties: Vec<&Party> = self.groups.iter().map(|it| &it.party[side]).collect();
            self.comparer.sides()[side].grid(&parties)
        });
        let egress = Constant::of(self, Direction::Egress, &grids);
        let ingress = Constant::of(self, Direction::Ingress, &grids);
        let [before, after] = &grids;
        let mut known: FastMap<Seen, Vec<What>> = FastMap::default();
        let numbered = || self.groups.iter().zip(&self.numbers).enumerate();
        for (to, (destination, to_number)) in numbered() {
            for (from, (source, from_number)) in numbered() {
                let compare = || {
                    let found = self.comparer.compare(source, destination);
                    found.iter().map(What::of).collect::<Vec<What>>()
                };
                let inside;
                let found = if from == to {
                    inside = compare();
                    &inside
                } else if egress.holds(from, to) && ingress.holds(to, from) {
                    continue;
                } else {
                    let seen = Seen {
                        alike: [before.alike(from, to), after.alike(from, to)],
                        open: [source, destination].map(|group| self.comparer.is_open(group)),
                    };
                    &*known.entry(seen).or_insert_with(compare)
                };
                for what in found {
                    grouped.add(what.clone(), *from_number, *to_number, family);
                }
            }
        }
    }

    /// A flow from the first source to the first destination that shows a change.
    fn witness(&self, merged: &Merged) -> Option<Witness> {
        let group = |numbers: &[usize]| {
            let number = numbers.first()?;
            let index = self.numbers.iter().position(|it| it == number)?;
            self.groups.get(index)
        };
        let (source, destination) = (group(&merged.sources)?, group(&merged.destinations)?);
        let comparisons = self.comparer.compare(source, destination);
        let mut found = comparisons.into_iter();
        found
            .find(|it| What::of(it) == merged.what)
            .map(|it| it.witness)
    }
}

/// One direction: which subjects certainly say the same of which peers before and after, whatever facts
/// are missing. A connection between two ends that both do so gets the same verdict.
struct Constant {
    /// By subject.
    role_of: Vec<usize>,
    /// By role and peer.
    holds: Vec<Vec<bool>>,
}

impl Constant {
    /// Asks once for all subjects and peers that neither side tells apart.
    fn of(seen: &OneFamily<'_, '_>, direction: Direction, grids: &[Grid; 2]) -> Self {
        let groups = &seen.groups;
        let alike = |subject: usize, peer: usize| {
            let (from, to, way) = match direction {
                Direction::Egress => (subject, peer, 0),
                Direction::Ingress => (peer, subject, 1),
            };
            grids
                .each_ref()
                .map(|grid| grid.alike(from, to).get(way).copied().flatten())
        };
        let mut roles = FastMap::default();
        let mut constant = Self {
            role_of: Vec::with_capacity(groups.len()),
            holds: Vec::new(),
        };
        for (number, subject) in groups.iter().enumerate() {
            let role = alike(number, number).map(|side| side.map(|(role, _)| role));
            let next = constant.holds.len();
            let role = *roles
                .entry((role, seen.comparer.is_open(subject)))
                .or_insert(next);
            constant.role_of.push(role);
            if role < next {
                continue;
            }
            let mut known = FastMap::default();
            let holds = groups.iter().enumerate().map(|(place, peer)| {
                let look = (alike(number, place), seen.comparer.is_open(peer));
                *known.entry(look).or_insert_with(|| {
                    // Two replicas of one kind say of each other what they say of others of the kind.
                    let siblings =
                        (place == number).then(|| peer.party.each_ref().map(Party::sibling));
                    let peer = siblings.as_ref().unwrap_or(&peer.party);
                    seen.comparer.is_constant(direction, &subject.party, peer)
                })
            });
            let holds = holds.collect();
            constant.holds.push(holds);
        }
        constant
    }

    fn holds(&self, subject: usize, peer: usize) -> bool {
        let role = self.role_of.get(subject);
        let holds = role.and_then(|role| self.holds.get(*role)?.get(peer));
        holds.copied().unwrap_or(false)
    }
}

/// All that plays a part for a pair of groups; what differs for one differs for all that look the same.
#[derive(PartialEq, Eq, Hash)]
struct Seen {
    alike: [Alike; 2],
    /// Which of the two stand for pods that do not exist yet.
    open: [bool; 2],
}

/// Ends that neither snapshot's policies tell apart.
struct Group {
    /// Sorted.
    members: Vec<Endpoint>,
    /// The first member before and after.
    party: [Party; 2],
    /// A second member, for flows inside the group.
    other: Option<[Party; 2]>,
}

/// Pods whose address is still theirs, and nodes.
fn live(evaluator: &Evaluator<'_>) -> BTreeSet<Endpoint> {
    let snapshot = evaluator.snapshot();
    let is_live = |end: &Endpoint| match end {
        Endpoint::Pod(key) => snapshot
            .pods
            .get(key)
            .is_some_and(|pod| !pod.phase.is_finished()),
        Endpoint::Node(_) | Endpoint::Address(_) => true,
    };
    snapshot.endpoints().filter(is_live).collect()
}

/// The families that the cluster has, as far as is known.
fn families(snapshots: &[&crate::Snapshot]) -> Vec<Option<Family>> {
    let mut known: BTreeSet<Family> = BTreeSet::new();
    for snapshot in snapshots {
        let pods = snapshot.pods.values().flat_map(|pod| &pod.addresses);
        known.extend(pods.copied().map(family_of));
    }
    if known.is_empty() {
        vec![None]
    } else {
        known.into_iter().map(Some).collect()
    }
}

/// The port of a set that somebody would most likely try: one that the destination declares.
fn likely(ports: &PortSet, destination: &Party) -> Option<(Protocol, u16)> {
    let declared = destination
        .pod()
        .into_iter()
        .flat_map(|pod| pod.ports.iter());
    let declared = declared.map(|port| (port.protocol, PortRange::single(port.number)));
    ports
        .intersection(&PortSet::of(declared))
        .example()
        .or_else(|| ports.example())
}
