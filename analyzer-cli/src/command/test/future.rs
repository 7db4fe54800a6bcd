// SPDX-License-Identifier: Apache-2.0
//! Does a promise hold for namespaces that do not exist yet? One namespace for every way in which policies
//! could treat it, and in each, as in those that exist, one pod for every way.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use policy_compiler::{
    Snapshot,
    model::{
        AdminPort, ContainerPort, Direction, Labels, Namespace, NetworkPort, PodKey, PortRange,
        Protocol, Selector,
    },
    partial::{Evaluator, Party},
    portmap::PortSet,
    snapshot::NAMESPACE_NAME_LABEL,
    symbolic::{Symbols, selectors_of_label},
    verdict::Endpoint,
};

use super::{super::matrix::alike, Counterexample, Outcome, spec::ForAll};
use crate::{
    answer::families,
    flow::{PortQuery, is_nothing},
    load::World,
    render::change::spell_decision,
};

/// No pod of a namespace with one value of the label reaches a pod of a namespace with another.
pub fn judge(world: &World, for_all: &ForAll, asked: &PortQuery) -> Outcome {
    let key = for_all.a.namespace_label.as_str();
    let existing = &world.loaded.snapshot;
    let is_open = |namespace: &&Arc<Namespace>| {
        existing.gaps.namespaces.contains(&namespace.name) && namespace.labels.get(key).is_none()
    };
    if let Some(open) = existing.namespaces.values().find(is_open) {
        let why = format!("the labels of namespace {} are not known", open.name);
        return Outcome::Unknown(Counterexample::about_all(&why));
    }
    let also = selectors_of_label(&[existing], key);
    let symbols = match Symbols::of(&[existing], &also, MOST_SYMBOLS) {
        Ok(symbols) => symbols,
        Err(error) => return Outcome::Unknown(Counterexample::about_all(&error.to_string())),
    };
    let ports = Ports::of(existing);
    if ports.names.len() > MOST_NAMES {
        let why = format!(
            "policies know {} names of ports, too many to combine",
            ports.names.len()
        );
        return Outcome::Unknown(Counterexample::about_all(&why));
    }
    let snapshot = symbols.join(existing);
    let question = Question {
        evaluator: &world.evaluator_of(&snapshot),
        symbols: &symbols,
        key,
        values: named(existing, key),
        names: named(existing, NAMESPACE_NAME_LABEL),
        asked,
        ports: &ports,
    };
    let live = snapshot.pods.values().filter(|pod| pod.is_policed());
    let labelled: Vec<(&PodKey, &Labels)> = live
        .filter_map(|pod| {
            let namespace = snapshot.namespaces.get(&pod.key.namespace)?;
            namespace.labels.get(key)?;
            Some((&pod.key, &namespace.labels))
        })
        .collect();
    let groups = question.groups(&labelled);
    let (mut pairs, mut doubt): (usize, Option<Counterexample>) = (0, None);
    // The first members come in the order of all pods, and the first counterexample is one of theirs.
    for (src, sources) in &groups {
        for (dst, destinations) in &groups {
            if !question.may_differ(src, dst) {
                continue;
            }
            pairs += sources * destinations;
            match question.ask(src.0, dst.0) {
                Some(Outcome::Unknown(found)) => {
                    doubt.get_or_insert(found);
                }
                Some(outcome) => return outcome,
                None => {}
            }
        }
    }
    match doubt {
        Some(doubt) => Outcome::Unknown(doubt),
        None => Outcome::Pass(pairs),
    }
}

/// The values of a namespace label that policies name.
fn named(snapshot: &Snapshot, key: &str) -> BTreeSet<Arc<str>> {
    let selectors = selectors_of_label(&[snapshot], key);
    let requirements = selectors.iter().flat_map(Selector::requirements);
    requirements
        .flat_map(|it| it.values.iter().cloned())
        .collect()
}

impl Counterexample {
    /// That no packet shows.
    pub fn about_all(why: &str) -> Self {
        Self {
            src: "any".to_owned(),
            dst: "any".to_owned(),
            protocol: Protocol::Other,
            port: 0,
            why: why.to_owned(),
        }
    }
}

struct Question<'q> {
    evaluator: &'q Evaluator<'q>,
    symbols: &'q Symbols,
    key: &'q str,
    /// The values of the label that policies name.
    values: BTreeSet<Arc<str>>,
    /// The names of namespaces that policies name.
    names: BTreeSet<Arc<str>>,
    asked: &'q PortQuery,
    ports: &'q Ports,
}

type Labelled<'p> = (&'p PodKey, &'p Labels);
/// Namespace, class, whether the pod does not exist yet, and what is asked about toward it.
type Kind<'p> = (&'p Arc<str>, Option<usize>, bool, PortSet);

impl Question<'_> {
    /// The first of all pods of one namespace that nothing tells apart, and how many they are.
    fn groups<'p>(&self, pods: &[Labelled<'p>]) -> Vec<(Labelled<'p>, usize)> {
        let ends: Vec<Endpoint> = pods
            .iter()
            .map(|pod| Endpoint::Pod(pod.0.clone()))
            .collect();
        let classes = alike(self.evaluator, &ends, &PortQuery::All);
        let class_of: BTreeMap<&Endpoint, usize> = classes
            .iter()
            .enumerate()
            .flat_map(|(class, members)| members.iter().map(move |member| (member, class)))
            .collect();
        let mut known: BTreeMap<Kind<'_>, usize> = BTreeMap::new();
        let mut groups: Vec<(Labelled<'p>, usize)> = Vec::new();
        for (pod, end) in pods.iter().zip(&ends) {
            let declared = self.evaluator.snapshot().pods.get(pod.0);
            let asked = self
                .asked
                .toward(declared.map_or(&[][..], |pod| &pod.ports));
            let is_new = self.symbols.contains(pod.0);
            let key = (&pod.0.namespace, class_of.get(end).copied(), is_new, asked);
            let next = groups.len();
            let group = *known.entry(key).or_insert(next);
            match groups.get_mut(group) {
                Some((_, count)) => *count += 1,
                None => groups.push((*pod, 1)),
            }
        }
        groups
    }

    /// Whether the namespaces of two pods can have different values of the label.
    fn may_differ(&self, a: &(&PodKey, &Labels), b: &(&PodKey, &Labels)) -> bool {
        if a.1.get(self.key) != b.1.get(self.key) {
            return true;
        }
        // A namespace to come whose value no policy names may have any other value as well.
        let is_new = |key: &PodKey| self.symbols.is_in_new_namespace(key);
        let is_known = |key: &str, known: &BTreeSet<Arc<str>>| {
            a.1.get(key).is_some_and(|value| known.contains(value))
        };
        let same_name = a.1.get(NAMESPACE_NAME_LABEL) == b.1.get(NAMESPACE_NAME_LABEL);
        let one_namespace = same_name && is_known(NAMESPACE_NAME_LABEL, &self.names);
        (is_new(a.0) || is_new(b.0)) && !is_known(self.key, &self.values) && !one_namespace
    }

    /// What contradicts the promise between two pods, if anything.
    fn ask(&self, src: &PodKey, dst: &PodKey) -> Option<Outcome> {
        let (from, to) = (Endpoint::Pod(src.clone()), Endpoint::Pod(dst.clone()));
        let mut doubt = None;
        for family in families(self.evaluator, &from, &to, None) {
            let source = self.evaluator.party(&from, family);
            let destination = self.evaluator.party(&to, family);
            let is_new = self.symbols.contains(dst);
            let subsets = if is_new {
                1_u32 << self.ports.names.len()
            } else {
                1
            };
            for subset in 0..subsets {
                let target = if is_new {
                    destination.sibling().with_ports(self.ports.called(subset))
                } else {
                    destination.clone()
                };
                let declared = target.pod().map_or(&[][..], |pod| &pod.ports);
                let asked = self.asked.toward(declared);
                let connection = self.evaluator.connection(&source, &target, false);
                let allowed = connection.allowed().intersection(&asked);
                if !is_nothing(&allowed) {
                    let found = self.counterexample(&source, &target, &allowed, "it is allowed");
                    return Some(Outcome::Fail(found));
                }
                let unknown = connection.unknown().intersection(&asked);
                if !is_nothing(&unknown) && doubt.is_none() {
                    let why = "missing facts decide";
                    doubt = Some(self.counterexample(&source, &target, &unknown, why));
                }
            }
        }
        doubt.map(Outcome::Unknown)
    }

    /// What the destination is called. One kind of namespace stands for every value of the label that no
    /// policy names; the destination's is another than the source's.
    fn name_apart(&self, source: &Endpoint, destination: &Endpoint) -> String {
        const WHERE: &str = " in new namespace ";
        let name = self.symbols.name(destination);
        let value = |end: &Endpoint| match end {
            Endpoint::Pod(key) => self
                .symbols
                .namespace_labels(key)?
                .get(self.key)
                .map(str::to_owned),
            Endpoint::Node(_) | Endpoint::Address(_) => None,
        };
        match (name.split_once(WHERE), value(source), value(destination)) {
            (Some((pod, namespace)), Some(src), Some(dst)) if src == dst => {
                let mut another = format!("an{dst}");
                while self.values.contains(another.as_str()) {
                    another.push('2');
                }
                let (old, new) = (
                    format!("{}={dst}", self.key),
                    format!("{}={another}", self.key),
                );
                format!("{pod}{WHERE}{}", namespace.replace(&old, &new))
            }
            _ => name,
        }
    }

    fn counterexample(
        &self,
        source: &Party,
        destination: &Party,
        wrong: &PortSet,
        why: &str,
    ) -> Counterexample {
        let ports = destination.pod().map_or(&[][..], |pod| &pod.ports);
        let declared = ports
            .iter()
            .map(|port| (port.protocol, PortRange::single(port.number)));
        let likely = wrong.intersection(&PortSet::of(declared)).example();
        let (protocol, port) = likely
            .or_else(|| wrong.example())
            .unwrap_or((Protocol::Other, 0));
        let connection = self.evaluator.connection(source, destination, false);
        let sides = [
            (Direction::Egress, source),
            (Direction::Ingress, destination),
        ];
        let reasons: Vec<String> = sides
            .into_iter()
            .filter_map(|(direction, subject)| {
                let outcome = connection.side(direction).at(protocol, port);
                let decision = self.evaluator.decision(direction, subject, outcome)?;
                Some(spell_decision(direction, &decision))
            })
            .collect();
        Counterexample {
            src: self.symbols.name(&source.asked),
            dst: self.name_apart(&source.asked, &destination.asked),
            protocol,
            port,
            why: format!("{why}: {}", reasons.join(", ")),
        }
    }
}

/// What policies say of ports: the names they know, and the numbers at which they cut.
struct Ports {
    names: Vec<Arc<str>>,
    cuts: BTreeSet<u16>,
}

impl Ports {
    fn of(snapshot: &Snapshot) -> Self {
        let mut names = BTreeSet::new();
        let mut cuts = BTreeSet::from([1]);
        let mut cut = |start: u16, end: u16| {
            cuts.insert(start.max(1));
            cuts.extend(end.checked_add(1));
        };
        for policy in snapshot.network_policies.values() {
            let rules = Direction::BOTH
                .iter()
                .flat_map(|way| policy.rules(*way).unwrap_or_default());
            for port in rules.flat_map(|rule| rule.ports.iter().flatten()) {
                match port {
                    NetworkPort::Range(_, range) => cut(range.start, range.end),
                    NetworkPort::Named(_, name) => {
                        names.insert(name.clone());
                    }
                    NetworkPort::Nothing => {}
                }
            }
        }
        for policy in snapshot.admin_policies.values() {
            let rules = Direction::BOTH.iter().flat_map(|way| policy.rules(*way));
            for port in rules.flat_map(|rule| rule.ports.iter().flatten()) {
                match port {
                    AdminPort::Range(_, range) => cut(*range.start(), *range.end()),
                    AdminPort::Named(name) => {
                        names.insert(name.clone());
                    }
                }
            }
        }
        Self {
            names: names.into_iter().collect(),
            cuts,
        }
    }

    /// The ports of a pod that calls one in every stretch between cuts by this subset of the names.
    fn called(&self, subset: u32) -> Vec<ContainerPort> {
        let chosen = (0..)
            .zip(&self.names)
            .filter(|(bit, _)| subset >> bit & 1 == 1);
        let one = |name: &Arc<str>, protocol: Protocol, number: u16| ContainerPort {
            name: Some(name.clone()),
            protocol,
            number,
            host_port: 0,
            host_address: None,
        };
        chosen
            .flat_map(|(_, name)| {
                Protocol::WITH_PORTS.into_iter().flat_map(move |protocol| {
                    let numbers = self.cuts.iter();
                    numbers.map(move |number| one(name, protocol, *number))
                })
            })
            .collect()
    }
}

/// Kinds of pods that do not exist yet which are asked about at most.
const MOST_SYMBOLS: usize = 1000;
/// Names of ports that are combined at most.
const MOST_NAMES: usize = 6;
