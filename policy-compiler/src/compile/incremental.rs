// SPDX-License-Identifier: Apache-2.0
//! The tables of one node, kept up to date change by change.
//!
//! What a change touches is found by what was kept of the compilation:
//!
//! ```text
//! policies ─uses─▶ atoms ─┬─▶ kinds of pods ───┐
//!    │                    └─▶ bases of blocks ─┴─▶ classes ─▶ cells
//!    └─select─▶ pods in scope ─▶ rulesets ─▶ rows ──────────────┘
//! ```
//!
//! A class is a kind of pods on a base of addresses. Atoms on pods make kinds, atoms on addresses make
//! bases, so a pod that comes or goes is one address in a class, a new atom on pods splits kinds without
//! a look at blocks, and the other way round. A class that no longer has members is gone, and two that
//! nothing tells apart any more are one, so there are never more than a compilation from scratch makes.
//!
//! **Invariant:** after every change the tables decide as those that [`super::compile`] makes of
//! [`Compiler::snapshot`]; only numbers may differ.

mod atoms;
mod blocks;
mod classes;
mod delta;
mod follow;
mod groups;
mod interned;
mod parts;
mod rows;
mod services;
mod slab;
mod subjects;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    mem,
    net::IpAddr,
    sync::Arc,
};

pub use self::delta::{Applied, Delta};
use self::{
    atoms::Atoms,
    blocks::Blocks,
    classes::{BaseId, Classes},
    groups::{GroupId, Groups, KindId},
    interned::Interned,
    rows::{Rows, set_cell},
    services::Services,
    subjects::Subjects,
};
use super::{
    ClassId, DecisionId, Row, Tables,
    hash::FastMap,
    peers::Signature,
    rules::{AtomId, admin_policies_in_order},
};
use crate::{
    Decision, Reason, Snapshot, Verdict,
    change::Change,
    model::{AdminPolicy, Phase, Pod, PodKey, Tier},
    portmap::PortMap,
};

/// Compiles the tables of one node and follows changes of the cluster.
#[derive(Debug)]
pub struct Compiler {
    node: Arc<str>,
    snapshot: Snapshot,
    /// The cluster-scoped policies in order of precedence.
    admin: Vec<Arc<AdminPolicy>>,
    tables: Tables,
    atoms: Atoms,
    groups: Groups,
    classes: Classes,
    /// Of IPv4 and of IPv6.
    blocks: [Blocks; 2],
    /// The pod that each address belongs to.
    owners: FastMap<IpAddr, Arc<Pod>>,
    /// All pods that claim an address, where there are several.
    contested: BTreeMap<IpAddr, Vec<Arc<Pod>>>,
    rows: Rows,
    interned: Interned,
    subjects: Subjects,
    services: Services,
    /// What is different since the change began.
    delta: Delta,
    /// The classes that pods' addresses had when the change began.
    hosts_before: BTreeMap<IpAddr, Option<ClassId>>,
}

impl Compiler {
    /// Compiles the tables of `node`.
    pub fn new(node: &Arc<str>, snapshot: Snapshot) -> Self {
        let mut this = Self {
            node: node.clone(),
            admin: admin_policies_in_order(&snapshot)
                .into_iter()
                .cloned()
                .collect(),
            snapshot,
            tables: Tables {
                rows: vec![Row::default()],
                port_sets: vec![
                    PortMap::uniform(DecisionId::NONE),
                    PortMap::uniform(DecisionId::DEFER),
                ],
                decisions: vec![nothing(Verdict::Deny), nothing(Verdict::Allow)],
                classes: ClassId::FIRST.0,
                ..Tables::default()
            },
            atoms: Atoms::default(),
            groups: Groups::default(),
            classes: Classes::default(),
            blocks: [Blocks::default(), Blocks::default()],
            owners: FastMap::default(),
            contested: BTreeMap::new(),
            rows: Rows::default(),
            interned: Interned::default(),
            subjects: Subjects::default(),
            services: Services::default(),
            delta: Delta::default(),
            hosts_before: BTreeMap::new(),
        };
        this.build();
        this
    }

    /// The cluster that the tables are made from.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The tables of the node. Numbers that are out of use in between stand for nothing.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// How many classes are in use.
    pub fn class_count(&self) -> usize {
        self.classes.len()
    }

    /// How many rows are in use.
    pub fn row_count(&self) -> usize {
        self.rows.len()
    }

    /// Makes `change` true of the snapshot and the tables.
    ///
    /// What DNS answered and the operator's decisions change how all rules are read, so they compile
    /// everything again; everything else costs what it touches.
    pub fn apply(&mut self, change: Change) -> Applied {
        self.collect_garbage();
        match change {
            Change::Options(_) | Change::Domains(_) => return self.rebuild(change),
            Change::Namespace(name, labels) => self.change_namespace(&name, labels),
            Change::Node(name, node) => self.change_node(name, node),
            Change::Pod(key, pod) => self.change_pod(key, pod),
            Change::Service(key, service) => self.change_service(key, service),
            Change::NetworkPolicy(key, policy) => self.change_network_policy(&key, policy),
            Change::AdminPolicy(key, policy) => self.change_admin_policy(key, policy),
        }
        self.finish();
        if self.delta.is_empty() {
            // What only went out of use is told with the next difference.
            Applied::Unchanged
        } else {
            Applied::Delta(mem::take(&mut self.delta))
        }
    }

    /// Compiles everything again, so that no number is out of use. Tables that followed many changes may
    /// be sparse.
    pub fn compact(&mut self) {
        let snapshot = mem::take(&mut self.snapshot);
        *self = Self::new(&self.node, snapshot);
    }

    fn rebuild(&mut self, change: Change) -> Applied {
        let known = match &change {
            Change::Options(options) => self.snapshot.options == *options,
            Change::Domains(domains) => self.snapshot.domains == *domains,
            _ => false,
        };
        if known {
            return Applied::Unchanged;
        }
        self.snapshot.apply(change);
        self.compact();
        Applied::Rebuilt
    }

    /// Compiles everything: what rules there are, then whom they see, then what they say.
    fn build(&mut self) {
        // The first class is that of addresses nobody knows anything about, and it stays.
        self.join_class(BaseId::NONE, KindId::NONE);
        for name in self.snapshot.namespaces.keys() {
            self.groups.namespaces.enter(name);
        }
        let pods: Vec<Arc<Pod>> = self.snapshot.pods.values().cloned().collect();
        let local: BTreeSet<PodKey> = pods
            .iter()
            .filter(|pod| self.local(&pod.key).is_some())
            .map(|pod| pod.key.clone())
            .collect();
        self.rebase();
        for pod in pods.iter().filter(|pod| local.contains(&pod.key)) {
            self.rulesets(pod);
        }
        self.settle();
        for pod in pods.iter().filter(|pod| pod.is_policed()) {
            self.add_peer(pod);
        }
        self.select(&local);
        self.services.all = true;
        self.finish();
        self.delta = Delta::default();
    }

    fn add_peer(&mut self, pod: &Arc<Pod>) {
        let group = self.groups.insert(pod, &mut self.atoms);
        self.claim(pod, group);
    }

    /// Enters a pod among those that claim its addresses.
    fn claim(&mut self, pod: &Arc<Pod>, group: GroupId) {
        let kind = self.groups.slab.get(group.0).map(|group| group.kind);
        for address in &pod.addresses {
            if let Some(owner) = self.owners.get(address) {
                let first = owner.clone();
                let claims = self
                    .contested
                    .entry(*address)
                    .or_insert_with(|| vec![first]);
                claims.push(pod.clone());
                self.elect(*address);
                self.place(*address);
            } else {
                self.owners.insert(*address, pod.clone());
                self.place_as(*address, kind);
            }
        }
    }

    fn remove_peer(&mut self, pod: &Arc<Pod>) {
        self.groups.remove(pod);
        for address in &pod.addresses {
            if let Some(claims) = self.contested.get_mut(address) {
                claims.retain(|claim| claim.key != pod.key);
                self.elect(*address);
            } else {
                self.owners.remove(address);
            }
            self.place(*address);
        }
    }

    /// Finds out who owns an address that several pods claim.
    fn elect(&mut self, address: IpAddr) {
        let Some(claims) = self.contested.get(&address) else {
            return;
        };
        let owner = claims
            .iter()
            .min_by_key(|pod| (pod.phase != Phase::Running, Reverse(pod.created), &pod.key));
        if let Some(owner) = owner {
            self.owners.insert(address, owner.clone());
        }
        if claims.len() < 2 {
            self.contested.remove(&address);
        }
    }

    /// Puts an address into the class of its owner.
    fn place(&mut self, address: IpAddr) {
        let owner = self.owners.get(&address);
        let kind = owner.map(|owner| self.groups.kind_of(owner));
        self.place_as(address, kind);
    }

    /// Puts an address into the class of a pod's kind.
    fn place_as(&mut self, address: IpAddr, kind: Option<KindId>) {
        let class = kind.map(|kind| self.join_class(self.base_under(address), kind));
        let before = self.tables.addresses.set_host(address, class);
        self.hosts_before.entry(address).or_insert(before);
        if let Some(before) = before {
            self.classes.release(before);
        }
    }

    /// Adds a member to a class.
    fn join_class(&mut self, base: BaseId, kind: KindId) -> ClassId {
        let (class, is_new) = self.classes.acquire(base, kind, &mut self.groups);
        if is_new {
            self.tables.classes = self.tables.classes.max(class.0 + 1);
            self.fill_column(class);
        }
        class
    }

    /// Evaluates the atoms and port names that came into use or out of it.
    fn settle(&mut self) {
        let added = mem::take(&mut self.atoms.added);
        let dead = mem::take(&mut self.atoms.dead);
        let names = mem::take(&mut self.groups.changed_names);
        let mut affected: BTreeSet<GroupId> = BTreeSet::new();
        for atom in added.difference(&dead) {
            affected.extend(self.groups.matching(*atom, &self.atoms));
        }
        for atom in dead.iter().filter_map(|atom| self.atoms.get(*atom)) {
            let kinds = atom
                .kinds
                .iter()
                .filter_map(|kind| self.groups.kinds.get(*kind));
            affected.extend(kinds.flat_map(|kind| &kind.groups));
        }
        if !names.is_empty() {
            affected.extend(self.groups.with_ports(&names));
        }
        let mut changed = added.union(&dead);
        let blocks_change = changed.any(|atom| self.atoms.is_of_addresses(*atom));
        self.regroup(affected);
        if blocks_change {
            self.rebase();
        }
        // What they held of may be waiting to be forgotten.
        self.forget_idle();
        for atom in dead {
            self.atoms.remove(atom);
        }
    }

    /// Finds out what rules see of groups, and moves those that are of another kind now.
    fn regroup(&mut self, groups: BTreeSet<GroupId>) {
        let mut by_kind: BTreeMap<KindId, BTreeMap<Signature, Vec<GroupId>>> = BTreeMap::new();
        for id in groups {
            let Some(group) = self.groups.slab.get(id.0) else {
                continue;
            };
            let signature = self
                .groups
                .signature(&group.sample, group.namespace, &self.atoms);
            if self.groups.kinds.signature(group.kind) != Some(&signature) {
                let of_kind = by_kind.entry(group.kind).or_default();
                of_kind.entry(signature).or_default().push(id);
            }
        }
        for (kind, mut ways) in by_kind {
            let leaving: usize = ways.values().map(Vec::len).sum();
            let all = self.groups.kinds.get(kind).map(|known| known.groups.len());
            if kind != KindId::NONE && all == Some(leaving) {
                // All leave: most of them can stay if the kind itself changes.
                let unknown = ways
                    .iter()
                    .filter(|(way, _)| self.groups.kinds.known(way).is_none());
                let largest = unknown.max_by_key(|(_, groups)| groups.len());
                if let Some(largest) = largest.map(|(way, _)| way.clone()) {
                    ways.remove(&largest);
                    self.relabel_kind(kind, largest);
                }
            }
            for (way, groups) in ways {
                let (to, _) = self.groups.kinds.intern(way, &mut self.atoms);
                for group in groups {
                    self.transfer(group, to);
                }
            }
        }
    }

    fn relabel_kind(&mut self, kind: KindId, signature: Signature) {
        let changed = self.groups.kinds.relabel(kind, signature, &mut self.atoms);
        let classes = self.groups.kinds.get(kind).into_iter();
        let classes: Vec<ClassId> = classes
            .flat_map(|kind| kind.classes.values())
            .copied()
            .collect();
        for class in &classes {
            self.classes.classify(*class, &self.groups);
        }
        let has_users = |id: AtomId| {
            self.atoms
                .get(id)
                .is_some_and(|atom| !atom.users.is_empty())
        };
        if changed.into_iter().any(has_users) {
            self.refill(&classes);
        }
    }

    /// Computes again what all rows say of some classes.
    fn refill(&mut self, classes: &[ClassId]) {
        for class in classes {
            self.fill_column(*class);
        }
        let members = self.subjects.pods.iter().filter(|(_, subject)| {
            let mut own = subject.classes.iter().flatten();
            own.any(|class| classes.contains(class))
        });
        let members: Vec<PodKey> = members.map(|(key, _)| key.clone()).collect();
        self.subjects.stale.extend(members);
    }

    /// Moves a group, with its pods' addresses, to another kind.
    fn transfer(&mut self, group: GroupId, to: KindId) {
        self.groups.transfer(group, to);
        let pods = self
            .groups
            .slab
            .get(group.0)
            .map(|group| group.pods.clone());
        for pod in pods.into_iter().flatten() {
            for address in &pod.addresses {
                if self
                    .owners
                    .get(address)
                    .is_some_and(|owner| owner.key == pod.key)
                {
                    self.place_as(*address, Some(to));
                }
            }
            self.place_subject(&pod.key);
        }
    }

    /// Ends a change: what follows from everything else, and what is left over.
    fn finish(&mut self) {
        self.refresh_pods();
        self.follow_services();
        self.forget_idle();
        for row in mem::take(&mut self.rows.gone) {
            if let Some(known) = self.tables.rows.get_mut(row.0 as usize) {
                *known = Row::default();
                self.delta.rows.insert(row);
            }
        }
        while self.tables.rows.len() > 1 && self.rows.is_free(self.tables.rows.len() - 1) {
            self.tables.rows.pop();
        }
        self.rows.built.clear();
        self.delta
            .cells
            .retain(|(row, _)| !self.delta.rows.contains(row));
        let blocks_stay = self.delta.blocks.is_empty();
        for (address, before) in mem::take(&mut self.hosts_before) {
            let now = self.tables.addresses.host(address);
            let around = blocks_stay.then(|| self.tables.addresses.block_class_of(address));
            if now.or(around) != before.or(around) {
                self.delta.hosts.insert(address);
            }
        }
    }

    /// Forgets classes without members, and what they were made of.
    fn forget_idle(&mut self) {
        for class in mem::take(&mut self.classes.idle) {
            if self.classes.remove(class, &mut self.groups) {
                self.clear_column(class);
            }
        }
        for kind in mem::take(&mut self.groups.idle) {
            self.groups.kinds.remove(kind, &mut self.atoms);
        }
        for base in mem::take(&mut self.classes.idle_bases) {
            self.classes.bases.remove(base, &mut self.atoms);
        }
    }

    fn clear_column(&mut self, class: ClassId) {
        for row in self.rows.ids() {
            set_cell(&mut self.tables, &mut self.delta, row, class, None);
        }
        if class.0 + 1 == self.tables.classes {
            self.tables.classes = self.classes.end();
        }
    }
}

fn nothing(verdict: Verdict) -> Arc<Decision> {
    Arc::new(Decision {
        verdict,
        tier: Tier::Default,
        reason: Reason::Default,
        passed: Vec::new(),
        audited: None,
    })
}
