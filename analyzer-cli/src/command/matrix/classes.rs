// SPDX-License-Identifier: Apache-2.0
//! Which endpoints are alike in every family, and what gets through between any two groups of them?

use std::collections::{BTreeMap, BTreeSet, HashMap};

use policy_compiler::{
    model::{Family, family_of},
    partial::{Evaluator, Party},
    portmap::PortSet,
    verdict::Endpoint,
};

use super::{endpoints, pairs::Pairs, through};
use crate::{
    answer::families_of,
    flow::{Group, PortQuery, is_all, is_nothing},
    load::World,
};

/// Endpoints alike.
#[derive(Debug)]
pub struct Class {
    /// Names, sorted.
    pub members: Vec<String>,
    /// The endpoints; empty if the class stands for ranges of addresses.
    pub endpoints: Vec<Endpoint>,
    /// The class stands for addresses outside the cluster.
    pub external: bool,
    parties: Vec<Representative>,
}

/// One member, and another for flows inside the class, as one family sees them.
#[derive(Debug)]
struct Representative {
    family: Option<Family>,
    party: Party,
    other: Option<Party>,
}

/// What gets through from one class to another: numbers of sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CellIds {
    /// Certainly, in every family.
    pub allowed: u32,
    /// Depending on missing facts.
    pub unknown: u32,
    /// Allowed only in some family, or only for some members.
    pub sometimes: u32,
    /// Everything that is asked about is certainly allowed.
    pub whole: bool,
}

/// Every class to every class.
#[derive(Debug)]
pub struct Matrix {
    /// In order of their first member.
    pub classes: Vec<Class>,
    /// Row by row, numbers of [`Self::kinds`].
    cells: Vec<u32>,
    kinds: Kinds,
    sets: Sets,
}

/// Every different cell, once.
#[derive(Debug, Default)]
pub struct Kinds {
    list: Vec<CellIds>,
    numbers: HashMap<CellIds, u32>,
}

impl Kinds {
    /// The number of a cell.
    pub fn number(&mut self, cell: CellIds) -> u32 {
        let next = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        let number = *self.numbers.entry(cell).or_insert(next);
        if number == next {
            self.list.push(cell);
        }
        number
    }
}

/// Every different set of ports, once.
#[derive(Debug, Default)]
pub struct Sets {
    sets: Vec<PortSet>,
    ids: HashMap<PortSet, u32>,
}

impl Sets {
    fn id(&mut self, set: PortSet) -> u32 {
        if let Some(id) = self.ids.get(&set) {
            return *id;
        }
        let id = u32::try_from(self.sets.len()).unwrap_or(u32::MAX);
        self.sets.push(set.clone());
        self.ids.insert(set, id);
        id
    }

    fn get(&self, id: u32) -> PortSet {
        self.sets
            .get(id as usize)
            .cloned()
            .unwrap_or_else(|| PortSet::uniform(false))
    }
}

impl Matrix {
    /// Groups every endpoint and asks about every pair of groups.
    pub fn new(evaluator: &Evaluator<'_>, port: &PortQuery, to_internet: bool) -> Self {
        let outside = if to_internet {
            crate::flow::internet(evaluator.snapshot())
        } else {
            Vec::new()
        };
        Self::with(evaluator, port, &outside)
    }

    /// Groups every endpoint, adds these ranges of addresses, and asks about every pair.
    pub fn with(evaluator: &Evaluator<'_>, port: &PortQuery, outside: &[Group]) -> Self {
        let families = Families::of(evaluator, outside);
        let mut classes = classes(evaluator, port, &families);
        let ranges = outside.iter();
        classes.extend(ranges.map(|group| external(evaluator, group, &families)));
        let mut sets = Sets::default();
        let mut kinds = Kinds::default();
        let asked = |class: &Class| class.asked(evaluator, port);
        let mut pairs = Pairs::new(evaluator, &classes, &families, &asked);
        let mut cells = Vec::with_capacity(classes.len() * classes.len());
        for (from, source) in classes.iter().enumerate() {
            for to in 0..classes.len() {
                cells.push(if from == to {
                    let asked = asked(source);
                    let parties = source.parties.iter().take(families.inside.len());
                    kinds.number(inside(evaluator, &mut sets, parties, asked.as_ref()))
                } else {
                    pairs.between(from, to, &mut sets, &mut kinds)
                });
            }
        }
        Self {
            classes,
            cells,
            kinds,
            sets,
        }
    }

    /// Source, destination and what gets through, in order.
    pub fn cells(&self) -> impl Iterator<Item = (usize, usize, CellIds)> + '_ {
        self.numbered()
            .filter_map(|(from, to, kind)| Some((from, to, *self.kinds.list.get(kind)?)))
    }

    /// Source, destination and the number of what gets through, in order.
    pub fn numbered(&self) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
        let count = self.classes.len().max(1);
        let external = |class: usize| self.classes.get(class).is_some_and(|class| class.external);
        self.cells
            .iter()
            .enumerate()
            .map(move |(index, kind)| (index / count, index % count, *kind as usize))
            .filter(move |(from, to, _)| !(external(*from) && external(*to)))
    }

    /// Every different cell, by its number.
    pub fn kinds(&self) -> &[CellIds] {
        &self.kinds.list
    }

    /// The cell of a pair.
    pub fn cell(&self, from: usize, to: usize) -> Option<CellIds> {
        let kind = self.cells.get(from * self.classes.len() + to)?;
        self.kinds.list.get(*kind as usize).copied()
    }

    /// A set by its number.
    pub fn set(&self, id: u32) -> PortSet {
        self.sets.get(id)
    }

    /// Merges endpoints that `name` calls the same; what some of them may is no longer certain for all.
    pub fn merged(mut self, name: impl Fn(&Endpoint) -> String) -> Self {
        let mut parts: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
        for (index, class) in self.classes.iter().enumerate() {
            if class.external {
                parts
                    .entry(class.members.join(","))
                    .or_default()
                    .insert(index);
            }
            for endpoint in &class.endpoints {
                parts.entry(name(endpoint)).or_default().insert(index);
            }
        }
        let mut groups: BTreeMap<BTreeSet<usize>, Vec<String>> = BTreeMap::new();
        for (name, classes) in parts {
            groups.entry(classes).or_default().push(name);
        }
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by(|a, b| a.1.cmp(&b.1));
        let mut kinds = Kinds::default();
        let mut cells = Vec::with_capacity(groups.len() * groups.len());
        for (from, _) in &groups {
            for (to, _) in &groups {
                let pairs = from
                    .iter()
                    .flat_map(|from| to.iter().map(move |to| (*from, *to)));
                let ids: BTreeSet<CellIds> =
                    pairs.filter_map(|(from, to)| self.cell(from, to)).collect();
                cells.push(kinds.number(self.merge(&ids)));
            }
        }
        let external = |classes: &BTreeSet<usize>| {
            classes
                .iter()
                .all(|class| self.classes.get(*class).is_some_and(|class| class.external))
        };
        let classes = groups
            .iter()
            .map(|(classes, members)| Class {
                members: members.clone(),
                endpoints: Vec::new(),
                external: external(classes),
                parties: Vec::new(),
            })
            .collect();
        self.classes = classes;
        self.cells = cells;
        self.kinds = kinds;
        self
    }

    fn merge(&mut self, ids: &BTreeSet<CellIds>) -> CellIds {
        if let (1, Some(only)) = (ids.len(), ids.first()) {
            return *only;
        }
        let mut allowed = PortSet::uniform(true);
        let mut any = PortSet::uniform(false);
        let mut unknown = PortSet::uniform(false);
        let whole = ids.iter().all(|cell| cell.whole);
        for cell in ids {
            allowed = allowed.intersection(&self.set(cell.allowed));
            any = any
                .union(&self.set(cell.allowed))
                .union(&self.set(cell.sometimes));
            unknown = unknown.union(&self.set(cell.unknown));
        }
        let sometimes = any.minus(&allowed);
        CellIds {
            allowed: self.sets.id(allowed),
            unknown: self.sets.id(unknown),
            sometimes: self.sets.id(sometimes),
            whole,
        }
    }
}

/// `ns/kind/name` of the workload that made a pod, or the pod.
pub fn workload_of(world: &World, endpoint: &Endpoint) -> String {
    let Endpoint::Pod(key) = endpoint else {
        return endpoint.to_string();
    };
    let owner = world
        .loaded
        .snapshot
        .pods
        .get(key)
        .and_then(|pod| pod.owner.as_ref());
    match owner {
        Some((kind, name)) => format!("{}/{}/{name}", key.namespace, kind.to_ascii_lowercase()),
        None => key.to_string(),
    }
}

/// The namespace of a pod.
pub fn namespace_of(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Pod(key) => key.namespace.to_string(),
        Endpoint::Node(_) | Endpoint::Address(_) => endpoint.to_string(),
    }
}

/// What gets through from one member of a class to another, as each family sees it.
fn inside<'c>(
    evaluator: &Evaluator<'_>,
    sets: &mut Sets,
    parties: impl Iterator<Item = &'c Representative>,
    asked: Option<&PortSet>,
) -> CellIds {
    let mut answers: Vec<(PortSet, PortSet)> = Vec::with_capacity(2);
    for seen in parties.filter(|seen| seen.party.has_family()) {
        let sibling;
        let target = if let Some(other) = &seen.other {
            other
        } else {
            // A workload without Pods stands for all of its replicas.
            sibling = crate::answer::other_replica(seen.party.clone(), &seen.party.asked);
            &sibling
        };
        answers.push(through(evaluator, &seen.party, target, asked));
    }
    merge_families(sets, answers, asked)
}

/// What the families say of what is `asked` about, each of what gets through and what is unknown, as one
/// cell; `None` is everything.
pub fn merge_families(
    sets: &mut Sets,
    mut answers: Vec<(PortSet, PortSet)>,
    asked: Option<&PortSet>,
) -> CellIds {
    let nothing = || PortSet::uniform(false);
    let is_whole = |(allowed, _): &(PortSet, PortSet)| match asked {
        None => is_all(allowed),
        Some(asked) => !is_nothing(asked) && is_nothing(&asked.minus(allowed)),
    };
    let whole = !answers.is_empty() && answers.iter().all(is_whole);
    answers.dedup();
    if answers.len() < 2 {
        let (allowed, unknown) = answers.pop().unwrap_or_else(|| (nothing(), nothing()));
        return CellIds {
            allowed: sets.id(allowed),
            unknown: sets.id(unknown),
            sometimes: sets.id(nothing()),
            whole,
        };
    }
    let mut all = PortSet::uniform(true);
    let (mut any, mut unknown) = (nothing(), nothing());
    for (allowed, missing) in &answers {
        all = all.intersection(allowed);
        any = any.union(allowed);
        unknown = unknown.union(missing);
    }
    CellIds {
        sometimes: sets.id(any.minus(&all)),
        allowed: sets.id(all),
        unknown: sets.id(unknown),
        whole,
    }
}

/// The classes of all live pods, if a port is asked about.
fn classes(evaluator: &Evaluator<'_>, port: &PortQuery, families: &Families) -> Vec<Class> {
    let groups = alike(evaluator, &endpoints(evaluator), port);
    let mut classes: Vec<Class> = groups
        .into_iter()
        .map(|members| Class {
            members: members.iter().map(ToString::to_string).collect(),
            parties: families
                .all()
                .filter_map(|family| {
                    let party = evaluator.party(members.first()?, family);
                    let other = members.get(1).map(|other| evaluator.party(other, family));
                    Some(Representative {
                        family,
                        party,
                        other,
                    })
                })
                .collect(),
            endpoints: members,
            external: false,
        })
        .collect();
    classes.sort_by(|a, b| a.endpoints.cmp(&b.endpoints));
    classes
}

/// Pods and nodes that are alike in every family that pods or they have addresses of, and that are asked
/// about the same ports: what a name stands for is every pod's own. Members are sorted.
pub fn alike(
    evaluator: &Evaluator<'_>,
    endpoints: &[Endpoint],
    port: &PortQuery,
) -> Vec<Vec<Endpoint>> {
    let mut keys: BTreeMap<Endpoint, Vec<usize>> = BTreeMap::new();
    let mut families: BTreeSet<Option<Family>> = known_families(evaluator).into_iter().collect();
    let own = endpoints
        .iter()
        .filter_map(|end| families_of(evaluator, end));
    families.extend(own.flatten().map(Some));
    let otherwise = evaluator.if_blocks_match_pods();
    for evaluator in std::iter::once(evaluator).chain(&otherwise) {
        for family in &families {
            let classes = evaluator.classes(endpoints, *family);
            for (index, class) in classes.into_iter().enumerate() {
                for member in class.members {
                    keys.entry(member).or_default().push(index);
                }
            }
        }
    }
    let mut questions: Vec<PortSet> = Vec::new();
    let mut groups: BTreeMap<(Vec<usize>, usize), Vec<Endpoint>> = BTreeMap::new();
    for (endpoint, key) in keys {
        let asked = Group::of(endpoint.clone()).asked(evaluator.snapshot(), port);
        let known = questions.iter().position(|known| *known == asked);
        let question = known.unwrap_or(questions.len());
        if question == questions.len() {
            questions.push(asked);
        }
        groups.entry((key, question)).or_default().push(endpoint);
    }
    groups.into_values().collect()
}

/// The families that pods, or the nodes whose network they use, have addresses of; `None` if nothing is
/// known of addresses.
fn known_families(evaluator: &Evaluator<'_>) -> Vec<Option<Family>> {
    let ends = endpoints(evaluator);
    let of_ends = ends.iter().filter_map(|end| families_of(evaluator, end));
    let known: BTreeSet<Family> = of_ends.flatten().collect();
    if known.is_empty() {
        return vec![None];
    }
    known.into_iter().map(Some).collect()
}

/// The families in which ends are asked about.
pub struct Families {
    /// Those of pods.
    pub inside: Vec<Option<Family>>,
    /// Others, of addresses outside the cluster: who names an address asks about its family.
    outside: Vec<Option<Family>>,
}

impl Families {
    fn of(evaluator: &Evaluator<'_>, outside: &[Group]) -> Self {
        let inside = known_families(evaluator);
        let others: BTreeSet<Option<Family>> = if inside == [None] {
            BTreeSet::new()
        } else {
            let ranges = outside.iter();
            let families = ranges.filter_map(|group| families_of(evaluator, &group.endpoint));
            families.flatten().map(Some).collect()
        };
        let outside = others.into_iter().filter(|it| !inside.contains(it));
        Self {
            outside: outside.collect(),
            inside,
        }
    }

    /// Every one.
    pub fn all(&self) -> impl Iterator<Item = Option<Family>> + '_ {
        self.inside.iter().chain(&self.outside).copied()
    }
}

fn external(evaluator: &Evaluator<'_>, group: &Group, families: &Families) -> Class {
    let members = group.ranges.iter().map(ToString::to_string).collect();
    let own = match &group.endpoint {
        Endpoint::Address(address) => Some(family_of(*address)),
        Endpoint::Pod(_) | Endpoint::Node(_) => None,
    };
    Class {
        members,
        endpoints: Vec::new(),
        external: true,
        parties: families
            .all()
            .map(|family| {
                let mut party = evaluator.party(&group.endpoint, family);
                if family.is_some() && family != own {
                    party = party.without_address();
                }
                Representative {
                    family,
                    party,
                    other: None,
                }
            })
            .collect(),
    }
}

impl Class {
    /// The ports asked about toward the class; `None` is all.
    fn asked(&self, evaluator: &Evaluator<'_>, port: &PortQuery) -> Option<PortSet> {
        match port {
            PortQuery::All => None,
            PortQuery::Ports(..) | PortQuery::Named(..) => Some(match self.endpoints.first() {
                Some(first) => Group::of(first.clone()).asked(evaluator.snapshot(), port),
                None => port.toward(&[]),
            }),
        }
    }

    /// The first member as the family of this number sees it.
    pub fn party(&self, family: usize) -> Option<&Party> {
        self.parties.get(family).map(|seen| &seen.party)
    }

    /// The first member as each family sees it.
    pub fn parties(&self) -> impl Iterator<Item = (Option<Family>, &Party)> {
        self.parties.iter().map(|seen| (seen.family, &seen.party))
    }
}
