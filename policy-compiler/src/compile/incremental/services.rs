// SPDX-License-Identifier: Apache-2.0
//! Which verdicts of Service ports does a change reach?

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::IpAddr,
    sync::Arc,
};

use super::{Compiler, interned::Interner, rows::set_cell};
use crate::{
    compile::{
        ClassId, PortSetId, RowId, host_ports,
        services::{End, ends, keys, local, verdict},
    },
    model::{Pod, PodKey, Protocol, Service, ServicePort},
    portmap::PortMap,
};

/// Where Service ports come from; the first that claims an address and port has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// A Service, by namespace and name.
    Service((Arc<str>, Arc<str>)),
    /// A pod of the node, for its host ports.
    Pod(PodKey),
}

/// A port of a Service, or a host port of a pod, by its position.
type PortName = (Source, usize);

/// What rows of outgoing traffic say of a Service port.
type Column = Vec<(RowId, PortSetId)>;

/// An address, protocol and port at which a Service is met.
type Key = (IpAddr, Protocol, u16);

/// The classes and columns that ports had.
type Former = BTreeMap<PortName, (ClassId, Column)>;

/// The Service ports and what follows from what.
#[derive(Debug, Default)]
pub(super) struct Services {
    /// Services and pods to look at again.
    pub(super) changed: BTreeSet<Source>,
    /// Everything is to be looked at again.
    pub(super) all: bool,
    ports: BTreeMap<PortName, Port>,
    by_backend: BTreeMap<IpAddr, BTreeSet<PortName>>,
    /// The ports that claim a key; the first one has it.
    claims: BTreeMap<Key, BTreeSet<PortName>>,
    columns: BTreeMap<Column, ClassId>,
    /// The ports of each class.
    members: BTreeMap<ClassId, BTreeSet<PortName>>,
}

impl Services {
    /// Finds out which ports are met at all after what happened to these keys. A port that no longer is
    /// goes out of its class, one that is again needs a column.
    fn meet(&mut self, keys: &BTreeSet<Key>, gone: &mut Former, dirty: &mut BTreeSet<PortName>) {
        let claiming = keys.iter().filter_map(|key| self.claims.get(key));
        let claiming: BTreeSet<PortName> = claiming.flatten().cloned().collect();
        for name in claiming {
            let Some(port) = self.ports.get_mut(&name) else {
                continue;
            };
            let has = |key| self.claims.get(key).and_then(BTreeSet::first) == Some(&name);
            let is_met = port.keys.iter().any(has);
            let was_met = mem::replace(&mut port.is_met, is_met);
            if is_met && !was_met {
                dirty.insert(name);
            } else if !is_met && let Some(class) = port.class.take() {
                gone.insert(name, (class, mem::take(&mut port.column)));
            }
        }
    }
}

#[derive(Debug)]
struct Port {
    spec: ServicePort,
    keys: Vec<Key>,
    ends: Vec<End>,
    column: Column,
    class: Option<ClassId>,
    /// Somewhere it is met, no other port comes first.
    is_met: bool,
}

impl Compiler {
    /// Brings what rows say of Services up to date, after everything else.
    pub(super) fn follow_services(&mut self) {
        if mem::take(&mut self.services.all) {
            let services = self.snapshot.services.keys().cloned().map(Source::Service);
            self.services.changed.extend(services);
            let pods = self.subjects.pods.keys().cloned().map(Source::Pod);
            self.services.changed.extend(pods);
        }
        let mut dirty = BTreeSet::new();
        let mut keys = BTreeSet::new();
        let mut gone = Former::new();
        for name in mem::take(&mut self.services.changed) {
            let mut former = self.remove_ports(&name, &mut keys);
            self.insert_ports(&name, &mut former, &mut dirty, &mut keys);
            gone.extend(former);
        }
        if self.services.ports.is_empty() && keys.is_empty() {
            return;
        }
        self.services.meet(&keys, &mut gone, &mut dirty);
        if self.delta.blocks.is_empty() {
            let pods = self
                .delta
                .pods
                .iter()
                .filter_map(|pod| self.tables.pods.get(pod));
            let pods = pods.flat_map(|pod| &pod.addresses);
            for address in self.hosts_before.keys().chain(pods) {
                dirty.extend(
                    self.services
                        .by_backend
                        .get(address)
                        .into_iter()
                        .flatten()
                        .cloned(),
                );
            }
        } else {
            dirty.extend(self.services.ports.keys().cloned());
        }
        let moved = self.columns(&dirty);
        self.assign(moved, &mut keys);
        for (name, (class, _)) in gone {
            self.leave_services(class, &name);
        }
        self.fill_rows();
        for key in keys {
            let owner = self.services.claims.get(&key).and_then(BTreeSet::first);
            let class = owner.and_then(|owner| self.services.ports.get(owner)?.class);
            let before = match class {
                Some(class) => self.tables.services.insert(key, class),
                None => self.tables.services.remove(&key),
            };
            if before != class {
                self.delta.services.insert(key);
            }
        }
    }

    /// Takes the ports of a Service or pod out, but leaves them in their classes.
    fn remove_ports(&mut self, name: &Source, keys: &mut BTreeSet<Key>) -> Former {
        let services = &mut self.services;
        let ports = services
            .ports
            .range((name.clone(), 0)..=(name.clone(), usize::MAX));
        let ports: Vec<PortName> = ports.map(|(port, _)| port.clone()).collect();
        let mut former = Former::new();
        for name in ports {
            let Some(port) = services.ports.remove(&name) else {
                continue;
            };
            for backend in &port.spec.backends {
                take(&mut services.by_backend, &backend.address, &name);
            }
            for key in port.keys {
                take(&mut services.claims, &key, &name);
                keys.insert(key);
            }
            former.extend(port.class.map(|class| (name, (class, port.column))));
        }
        former
    }

    fn insert_ports(
        &mut self,
        name: &Source,
        former: &mut Former,
        dirty: &mut BTreeSet<PortName>,
        met_at: &mut BTreeSet<Key>,
    ) {
        let node = self.snapshot.nodes.get(&self.node);
        let own_addresses = node.map_or(&[][..], |node| &node.addresses);
        let of_pod = |pod: Arc<Pod>| host_ports::of_pod(&pod, own_addresses);
        let sources: Vec<Service> = match name {
            Source::Service(name) => {
                let service = self.snapshot.services.get(name);
                service
                    .into_iter()
                    .map(|service| (**service).clone())
                    .collect()
            }
            Source::Pod(key) => self.local(key).map_or_else(Vec::new, of_pod),
        };
        let services = &mut self.services;
        let specs = sources
            .iter()
            .flat_map(|service| service.ports.iter().map(move |port| (service, port)));
        for (index, (service, spec)) in specs.enumerate() {
            let name = (name.clone(), index);
            let keys = keys(service, spec, own_addresses);
            // A port that is met nowhere needs no verdict.
            if keys.is_empty() {
                continue;
            }
            for key in &keys {
                services
                    .claims
                    .entry(*key)
                    .or_default()
                    .insert(name.clone());
                met_at.insert(*key);
            }
            for backend in &spec.backends {
                let of_backend = services.by_backend.entry(backend.address).or_default();
                of_backend.insert(name.clone());
            }
            let (class, column) = former.remove(&name).unzip();
            let port = Port {
                spec: spec.clone(),
                keys,
                ends: Vec::new(),
                column: column.unwrap_or_default(),
                class,
                is_met: false,
            };
            services.ports.insert(name.clone(), port);
            dirty.insert(name);
        }
    }

    /// The ports whose column is to be another one.
    fn columns(&mut self, dirty: &BTreeSet<PortName>) -> Vec<(PortName, Column)> {
        let mut changed_rows: BTreeSet<RowId> =
            self.rows.built.union(&self.rows.gone).copied().collect();
        changed_rows.extend(&self.delta.rows);
        let mut cells: BTreeMap<RowId, BTreeSet<ClassId>> = BTreeMap::new();
        for (row, class) in &self.delta.cells {
            cells.entry(*row).or_default().insert(*class);
        }
        if dirty.is_empty() && changed_rows.is_empty() && cells.is_empty() {
            return Vec::new();
        }
        let egress = self.rows.egress();
        let node = self.snapshot.nodes.get(&self.node);
        let own_addresses = node.map_or(&[][..], |node| &node.addresses);
        let Self {
            services,
            interned,
            tables,
            delta,
            ..
        } = self;
        let local = local(tables);
        let mut interner = Interner {
            known: interned,
            tables,
            delta,
        };
        let mut moved = Vec::new();
        for (name, port) in &mut services.ports {
            if !port.is_met {
                continue;
            }
            let is_dirty = dirty.contains(name);
            if is_dirty {
                port.ends = ends(interner.tables, &port.spec, own_addresses, &local);
            }
            let mut column = Column::with_capacity(egress.len());
            for row in &egress {
                let of_row = cells.get(row);
                let sees = |end: &End| of_row.is_some_and(|classes| classes.contains(&end.class));
                let known = port.column.binary_search_by_key(row, |(row, _)| *row);
                let known = known.ok().and_then(|at| port.column.get(at));
                let holds = !is_dirty && !changed_rows.contains(row) && !port.ends.iter().any(sees);
                let port_set = match known.filter(|_| holds) {
                    Some((_, port_set)) => *port_set,
                    None => match verdict(interner.tables, *row, port.spec.protocol, &port.ends) {
                        Some(decision) => interner.port_set(PortMap::uniform(decision)),
                        None => PortSetId::DEFER,
                    },
                };
                column.push((*row, port_set));
            }
            if port.class.is_none() || column != port.column {
                moved.push((name.clone(), column));
            }
        }
        moved
    }

    /// Gives ports the class of their column. Where all ports of a class go the same way, the class does.
    fn assign(&mut self, moved: Vec<(PortName, Column)>, keys: &mut BTreeSet<Key>) {
        let mut ways: BTreeMap<Option<ClassId>, BTreeMap<Column, Vec<PortName>>> = BTreeMap::new();
        for (name, column) in moved {
            let class = self.services.ports.get(&name).and_then(|port| port.class);
            let ways = ways.entry(class).or_default();
            ways.entry(column).or_default().push(name);
        }
        for (from, ways) in ways {
            let leaving: usize = ways.values().map(Vec::len).sum();
            let mut all_leave = from
                .and_then(|from| self.services.members.get(&from))
                .is_some_and(|members| members.len() == leaving);
            for (column, names) in ways {
                let known = self.services.columns.get(&column).copied();
                let class = match (known, from) {
                    (Some(known), _) => known,
                    (None, Some(from)) if all_leave => {
                        all_leave = false;
                        self.services.columns.retain(|_, class| *class != from);
                        self.services.columns.insert(column.clone(), from);
                        self.fill_services(from, &column);
                        from
                    }
                    (None, _) => {
                        let class = self.classes.insert_services();
                        self.tables.classes = self.tables.classes.max(class.0 + 1);
                        self.services.columns.insert(column.clone(), class);
                        self.fill_services(class, &column);
                        class
                    }
                };
                for name in names {
                    if let Some(port) = self.services.ports.get_mut(&name) {
                        port.column.clone_from(&column);
                        if port.class != Some(class) {
                            port.class = Some(class);
                            keys.extend(&port.keys);
                        }
                    }
                    let members = self.services.members.entry(class).or_default();
                    members.insert(name.clone());
                    if let Some(from) = from.filter(|from| *from != class) {
                        self.leave_services(from, &name);
                    }
                }
            }
        }
    }

    /// Takes a port out of a class, and the class away if it was the last.
    fn leave_services(&mut self, class: ClassId, name: &PortName) {
        take(&mut self.services.members, &class, name);
        if !self.services.members.contains_key(&class) {
            self.services.columns.retain(|_, known| *known != class);
            self.classes.remove_services(class);
            self.clear_column(class);
        }
    }

    /// What a new row says of all classes that are not listed may be what it said of one that was.
    fn fill_rows(&mut self) {
        let (tables, delta) = (&mut self.tables, &mut self.delta);
        for row in &self.rows.built {
            for (column, class) in &self.services.columns {
                let at = column.binary_search_by_key(row, |(row, _)| *row);
                if let Some((_, port_set)) = at.ok().and_then(|at| column.get(at)) {
                    set_cell(tables, delta, *row, *class, Some(*port_set));
                }
            }
        }
    }

    fn fill_services(&mut self, class: ClassId, column: &Column) {
        for (row, port_set) in column {
            set_cell(
                &mut self.tables,
                &mut self.delta,
                *row,
                class,
                Some(*port_set),
            );
        }
    }
}

/// Takes `value` out of the set of `key`, and the set out of the map if it was the last.
fn take<K: Ord, V: Ord>(map: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(values) = map.get_mut(key) {
        values.remove(value);
        if values.is_empty() {
            map.remove(key);
        }
    }
}
