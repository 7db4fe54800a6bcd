// SPDX-License-Identifier: Apache-2.0
//! Which addresses rules can tell apart: the classes of peers.

use std::{cmp::Reverse, collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::{
    ClassId, Scope,
    addresses::{AddressClasses, Line, V4, V6},
    groups::Groups,
    hash::FastMap,
    rules::{Atom, AtomId},
    subjects::{Subjects, id},
};
use crate::{
    Snapshot,
    model::{ContainerPort, Phase},
};

/// What rules in scope can see of an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Signature {
    /// Atoms that hold, sorted.
    pub(super) atoms: Vec<AtomId>,
    /// Container ports that egress rules name.
    pub(super) ports: Vec<ContainerPort>,
    /// An address of a node, where NetworkPolicies exempt traffic to the pod's own node.
    pub(super) node: Option<Arc<str>>,
    /// An address in a Service range.
    pub(super) in_service_range: bool,
}

/// The classes of all addresses and pods.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// Signature of each class from [`ClassId::FIRST`] on.
    pub(super) signatures: Vec<Signature>,
    /// As [`super::Tables::addresses`].
    pub(super) addresses: AddressClasses,
    /// Classes of each pod in scope, in the order of the subjects, by family.
    pub(super) subjects: Vec<[ClassId; 2]>,
    interned: FastMap<Signature, ClassId>,
}

impl Peers {
    pub(super) fn class_count(&self) -> u32 {
        ClassId::FIRST.0 + id(self.signatures.len())
    }

    fn intern(&mut self, signature: Signature) -> ClassId {
        let signatures = &mut self.signatures;
        *self
            .interned
            .entry(signature)
            .or_insert_with_key(|signature| {
                signatures.push(signature.clone());
                ClassId(ClassId::FIRST.0 + id(signatures.len() - 1))
            })
    }

    /// The signature of `class`, if it is one of addresses.
    pub(super) fn signature(&self, class: ClassId) -> Option<&Signature> {
        self.signatures
            .get(class.0.checked_sub(ClassId::FIRST.0)? as usize)
    }
}

/// Splits all addresses by the atoms, port names and options that the subjects' rules use.
pub(super) fn classify(snapshot: &Snapshot, scope: &Scope, subjects: &Subjects<'_>) -> Peers {
    let groups = Groups::new(snapshot, subjects);
    let mut peers = Peers::default();
    // INVARIANT: the first class is that of addresses nobody knows anything about.
    peers.intern(Signature::default());
    let mut hosts = [FastMap::default(), FastMap::default()];
    for family in [V4, V6] {
        let events = events(snapshot, scope, subjects, &groups, family);
        hosts[usize::from(family.index)] = walk(family, &events, &groups, &mut peers);
    }
    peers.subjects = subjects
        .pods
        .iter()
        .map(|subject| {
            [V4, V6].map(|family| {
                let address = subject
                    .pod
                    .addresses
                    .iter()
                    .find_map(|a| family.bits_of(*a));
                let host = address.zip(groups.of(subject.pod));
                match host.and_then(|host| hosts[usize::from(family.index)].get(&host)) {
                    Some(class) => *class,
                    // Without an address only selectors and names see the pod.
                    None => peers.intern(groups.signature_of(subject.pod)),
                }
            })
        })
        .collect();
    peers
}

/// Something that sets the addresses of a prefix apart from those around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mark<'a> {
    /// The atom holds from here on down.
    Holds(AtomId),
    /// The atom does not hold from here on down.
    Except(AtomId),
    /// A Service range.
    ServiceRange,
    /// An address of a node.
    Node(&'a Arc<str>),
    /// An address of a pod; the first in order owns it: running before not, newest first, by name.
    Pod(bool, Reverse<Option<i64>>, &'a crate::model::PodKey, u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Event<'a> {
    pub(super) start: u128,
    pub(super) length: u8,
    pub(super) mark: Mark<'a>,
}

impl Signature {
    /// Follows the marks of one prefix.
    pub(super) fn follow(&mut self, events: &[Event<'_>]) {
        for event in events {
            match event.mark {
                Mark::Holds(atom) => insert(&mut self.atoms, atom),
                Mark::Except(atom) => self.atoms.retain(|held| *held != atom),
                Mark::ServiceRange => self.in_service_range = true,
                Mark::Node(name) => self.node = Some(name.clone()),
                Mark::Pod(..) => {}
            }
        }
    }

    /// What is left of the signature of a block around a pod's address. Whoever owns an address in a
    /// Service range is not a Service.
    pub(super) fn around_pod(&self) -> Self {
        Self {
            atoms: self.atoms.clone(),
            ..Self::default()
        }
    }
}

/// What sets blocks of addresses apart, pods aside. In no order.
pub(super) fn block_events<'s, 'a>(
    snapshot: &'s Snapshot,
    has_services: bool,
    atoms: impl Iterator<Item = (AtomId, &'a Atom)>,
    line: Line,
) -> Vec<Event<'s>> {
    let mut events = Vec::new();
    let mut prefix = |net: &IpNet, mark| {
        let net = net.trunc();
        if let Some(start) = line.bits_of(net.addr()) {
            events.push(Event {
                start,
                length: net.prefix_len(),
                mark,
            });
        }
    };
    for (atom_id, atom) in atoms {
        match atom {
            Atom::Block(block) => {
                if !block
                    .except
                    .iter()
                    .any(|except| except.contains(&block.cidr))
                {
                    prefix(&block.cidr, Mark::Holds(atom_id));
                    block
                        .except
                        .iter()
                        .for_each(|except| prefix(except, Mark::Except(atom_id)));
                }
            }
            Atom::Nodes(selector) => {
                let nodes = snapshot
                    .nodes
                    .values()
                    .filter(|node| selector.matches(&node.labels));
                for address in nodes.flat_map(|node| &node.addresses) {
                    prefix(&IpNet::from(*address), Mark::Holds(atom_id));
                }
            }
            Atom::Domains(patterns) => {
                for (name, addresses) in snapshot.domains.iter().flatten() {
                    if patterns.iter().any(|pattern| pattern.matches(name)) {
                        for address in addresses {
                            prefix(&IpNet::from(*address), Mark::Holds(atom_id));
                        }
                    }
                }
            }
            Atom::PodsIn { .. } | Atom::Pods { .. } => {}
        }
    }
    if has_services {
        snapshot
            .options
            .service_cidrs
            .iter()
            .for_each(|cidr| prefix(cidr, Mark::ServiceRange));
    }
    if snapshot.options.local_node_egress {
        for (address, name) in node_addresses(snapshot) {
            prefix(&IpNet::from(address), Mark::Node(name));
        }
    }
    events
}

/// [`Snapshot::node_at`] of every address of a node.
fn node_addresses(snapshot: &Snapshot) -> BTreeMap<IpAddr, &Arc<str>> {
    let mut names = BTreeMap::new();
    for node in snapshot.nodes.values() {
        for address in node.own_addresses() {
            names.entry(address).or_insert(&node.name);
        }
    }
    for pod in snapshot.pods.values().filter(|pod| pod.host_network) {
        for (address, node) in pod.addresses.iter().zip(pod.node.iter().cycle()) {
            names.entry(*address).or_insert(node);
        }
    }
    names
}

fn events<'a>(
    snapshot: &'a Snapshot,
    scope: &Scope,
    subjects: &Subjects<'_>,
    groups: &Groups<'a>,
    line: Line,
) -> Vec<Event<'a>> {
    let has_services = matches!(scope, Scope::Node(_));
    let mut events = block_events(snapshot, has_services, subjects.atoms.iter(), line);
    for pod in snapshot.pods.values().filter(|pod| pod.is_policed()) {
        let Some(group) = groups.of(pod) else {
            continue;
        };
        let mark = Mark::Pod(
            pod.phase != Phase::Running,
            Reverse(pod.created),
            &pod.key,
            group,
        );
        for start in pod
            .addresses
            .iter()
            .filter_map(|address| line.bits_of(*address))
        {
            events.push(Event {
                start,
                length: line.bits,
                mark,
            });
        }
    }
    // A prefix starts before the longer ones inside it, so parents come before their children.
    events.sort_unstable();
    events
}

/// Walks the prefixes in order, each inheriting from the one around it. Emits those that change the
/// class, and returns the classes of pod addresses.
fn walk(
    line: Line,
    events: &[Event<'_>],
    groups: &Groups<'_>,
    peers: &mut Peers,
) -> FastMap<(u128, u32), ClassId> {
    let mut hosts = FastMap::default();
    let mut owned_by_pods: BTreeMap<u128, ClassId> = BTreeMap::new();
    let mut stack = vec![(line.last(0, 0), Signature::default(), ClassId::FIRST)];
    let mut memo: FastMap<(ClassId, u32), ClassId> = FastMap::default();
    let mut emitted = vec![(0, 0, ClassId::FIRST)];
    for at in events.chunk_by(|a, b| (a.start, a.length) == (b.start, b.length)) {
        let Some(&Event { start, length, .. }) = at.first() else {
            continue;
        };
        while stack.len() > 1 && stack.last().is_some_and(|(last, ..)| *last < start) {
            stack.pop();
        }
        let Some((_, around, outer)) = stack.last() else {
            continue;
        };
        let outer = *outer;
        if let [
            Event {
                mark: Mark::Pod(.., group),
                ..
            },
        ] = at
        {
            let class = if let Some(class) = memo.get(&(outer, *group)) {
                *class
            } else {
                let class = peers.intern(with_pod(around, groups, *group));
                memo.insert((outer, *group), class);
                class
            };
            hosts.insert((start, *group), class);
            if class != outer {
                owned_by_pods.insert(start, class);
            }
            continue;
        }
        let mut signature = around.clone();
        signature.follow(at);
        let class = peers.intern(signature.clone());
        // Pods that claim the address see each other as who they are; to others the first owns it.
        let owned = signature.around_pod();
        for event in at.iter().rev() {
            if let Mark::Pod(.., group) = event.mark {
                let class = peers.intern(with_pod(&owned, groups, group));
                hosts.insert((start, group), class);
                owned_by_pods.insert(start, class);
            }
        }
        if owned_by_pods.contains_key(&start) && length == line.bits {
            continue;
        }
        match emitted.last_mut() {
            Some(last) if (last.0, last.1) == (start, length) => last.2 = class,
            _ if class != outer => emitted.push((start, length, class)),
            _ => {}
        }
        stack.push((line.last(start, length), signature, class));
    }
    peers.addresses.extend(line, emitted);
    peers.addresses.set_hosts(line, owned_by_pods);
    hosts
}

fn with_pod(around: &Signature, groups: &Groups<'_>, group: u32) -> Signature {
    let mut signature = around.around_pod();
    if let Some(group) = groups.groups.get(group as usize) {
        signature.atoms.extend_from_slice(&group.signature.atoms);
        signature.atoms.sort_unstable();
        signature.ports.clone_from(&group.signature.ports);
    }
    signature
}

fn insert(atoms: &mut Vec<AtomId>, atom: AtomId) {
    if let Err(position) = atoms.binary_search(&atom) {
        atoms.insert(position, atom);
    }
}
