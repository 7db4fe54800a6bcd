// SPDX-License-Identifier: Apache-2.0
//! Which ends are alike? Endpoints that no policy of the snapshot can tell apart.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use fixedbitset::FixedBitSet;

use super::{
    index::Evaluator,
    party::{Address, Identity, Party, Side},
};
use crate::{
    model::{ContainerPort, Direction, Family, Labels, Protocol, UnknownLabels},
    verdict::Endpoint,
};

/// Endpoints with the same verdicts toward and from everybody, except toward themselves.
#[derive(Debug)]
pub struct Class {
    /// Sorted.
    pub members: Vec<Endpoint>,
    /// Stands for every member.
    pub party: Party,
    /// A second member, for flows inside the class.
    pub other: Option<Party>,
}

impl Evaluator<'_> {
    /// Groups `endpoints`, in order of the first member of each class. Finished pods do not belong there:
    /// they stand for an address that may be another endpoint's.
    pub fn classes(&self, endpoints: &[Endpoint], family: Option<Family>) -> Vec<Class> {
        // A node reaches its own pods, so pods of a node that is asked about are not alike with others.
        let asked: BTreeSet<&str> = endpoints
            .iter()
            .filter_map(|endpoint| match endpoint {
                Endpoint::Node(node) => Some(&**node),
                Endpoint::Pod(_) | Endpoint::Address(_) => None,
            })
            .collect();
        let mut alike: BTreeMap<Look<'_>, Vec<Endpoint>> = BTreeMap::new();
        let mut loose: Vec<Endpoint> = Vec::new();
        for endpoint in endpoints {
            match self.look(endpoint, family, &asked) {
                Some(look) => alike.entry(look).or_default().push(endpoint.clone()),
                None => loose.push(endpoint.clone()),
            }
        }
        let mut classes: BTreeMap<Key, Class> = BTreeMap::new();
        let groups = alike
            .into_values()
            .chain(loose.into_iter().map(|end| vec![end]));
        for members in groups {
            let Some(first) = members.first() else {
                continue;
            };
            let party = self.party(first, family);
            let key = self.key(&party, &asked);
            classes
                .entry(key)
                .or_insert_with(|| Class {
                    members: Vec::new(),
                    party,
                    other: None,
                })
                .members
                .extend(members);
        }
        let mut classes: Vec<Class> = classes.into_values().collect();
        for class in &mut classes {
            class.members.sort();
            class.members.dedup();
            let mut members = class.members.iter();
            if let Some(first) = members.next() {
                class.party = self.party(first, family);
            }
            class.other = members.next().map(|other| self.party(other, family));
        }
        classes.sort_by(|a, b| a.members.cmp(&b.members));
        classes
    }

    /// What tells pods apart before any selector is looked at: cheap to compare, so that large sets of
    /// replicas are matched once.
    fn look<'s>(
        &'s self,
        endpoint: &'s Endpoint,
        family: Option<Family>,
        asked: &BTreeSet<&str>,
    ) -> Option<Look<'s>> {
        let Endpoint::Pod(key) = endpoint else {
            return None;
        };
        let pod = self.snapshot.pods.get(key)?;
        let standing = self.snapshot.gaps.standing.contains(key);
        pod.is_policed().then(|| Look {
            namespace: &key.namespace,
            labels: &pod.labels,
            unknown: self.snapshot.gaps.labels.get(key),
            open: [self.snapshot.gaps.ports.contains(key), standing],
            ports: &pod.ports,
            node: Place::of(
                pod.node.as_ref(),
                standing || self.node_matters(pod.node.as_ref(), asked),
            ),
            families: pod
                .addresses
                .iter()
                .map(std::net::IpAddr::is_ipv4)
                .collect(),
            blocks: self.blocks(endpoint, family),
        })
    }

    /// The terms about addresses that match an end, and whether they surely do.
    fn blocks(&self, endpoint: &Endpoint, family: Option<Family>) -> Vec<(usize, bool)> {
        if self.terms_by.address.is_empty() {
            return Vec::new();
        }
        let mut party = self.unmatched(endpoint, family);
        self.match_terms(&mut party, &self.terms_by.address, self.assumptions);
        let surely = party.matches.ones().map(|term| (term, true));
        let perhaps = party.may_match.ones().map(|term| (term, false));
        surely.chain(perhaps).collect()
    }

    /// Whether some pod stands for `node` or it is among the `asked`, so that it matters that a pod runs
    /// there.
    fn node_matters(&self, node: Option<&Arc<str>>, asked: &BTreeSet<&str>) -> bool {
        match node {
            Some(node) => {
                self.impersonated.contains(node)
                    || self.impersonated.contains("")
                    || asked.contains(&**node)
            }
            None => !self.impersonated.is_empty() || !asked.is_empty(),
        }
    }

    fn key(&self, party: &Party, asked: &BTreeSet<&str>) -> Key {
        let (pod, node) = match &party.identity {
            Identity::Pod(pod) => {
                let isolated = Direction::BOTH
                    .iter()
                    .any(|way| party.side(*way).may_be_selected());
                let matters = isolated && self.node_matters(pod.node.as_ref(), asked);
                // What may be on its node's network may be its node.
                let matters = matters || party.unknown.standing;
                (Some(pod), Place::of(pod.node.clone(), matters))
            }
            Identity::Node(node) => (None, Place::of(node.clone(), true)),
            Identity::External => (None, Place::Irrelevant),
        };
        let mut ports: Vec<ContainerPort> = pod
            .iter()
            .flat_map(|pod| pod.ports.iter())
            .filter(|port| self.is_used_name(port))
            .cloned()
            .collect();
        ports.sort();
        ports.dedup();
        Key {
            kind: party.kind(),
            known: match party.address {
                Address::Known(_) => 0,
                Address::Unknown(_) => 1,
                Address::Missing => 2,
            },
            node,
            ports: ports
                .into_iter()
                .map(|port| (port.name, port.protocol, port.number))
                .collect(),
            more_ports: party.unknown.ports,
            matches: party.matches.clone(),
            may_match: party.may_match.clone(),
            ingress: party.ingress.clone(),
            egress: party.egress.clone(),
        }
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Look<'s> {
    namespace: &'s str,
    labels: &'s Labels,
    unknown: Option<&'s UnknownLabels>,
    /// Whether there may be more container ports, and whether it is no pod to policies.
    open: [bool; 2],
    ports: &'s [ContainerPort],
    node: Place<&'s Arc<str>>,
    families: Vec<bool>,
    blocks: Vec<(usize, bool)>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    kind: u8,
    known: u8,
    node: Place<Arc<str>>,
    ports: Vec<(Option<Arc<str>>, Protocol, u16)>,
    more_ports: bool,
    matches: FixedBitSet,
    may_match: FixedBitSet,
    ingress: Side,
    egress: Side,
}

/// The node of an end, where it can make a difference.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Place<T> {
    Irrelevant,
    Unknown,
    On(T),
}

impl<T> Place<T> {
    fn of(node: Option<T>, matters: bool) -> Self {
        match node {
            _ if !matters => Self::Irrelevant,
            None => Self::Unknown,
            Some(node) => Self::On(node),
        }
    }
}
