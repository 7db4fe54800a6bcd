// SPDX-License-Identifier: Apache-2.0
//! What rows say of Services, whose addresses are still on packets when they leave a pod.
//!
//! Policy speaks of the endpoint a connection ends up at. Where a ruleset has the same verdict for every
//! endpoint of a Service port, that is the verdict of the Service's address and port; where it has not,
//! the datapath judges the packet again behind address translation. A denial that is only audited is a
//! verdict of its own: it passes, but not unreported.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::{
    ClassId, DecisionId, PortSetId, RowId, Tables, hash::FastMap, host_ports, peers::Peers,
    subjects::id,
};
use crate::{
    Snapshot, Verdict,
    model::{Protocol, Service, ServicePort},
    portmap::PortMap,
};

/// Adds a column for every distinct vector of Service verdicts, and the Services that have it.
pub(super) fn add(snapshot: &Snapshot, node: &Arc<str>, peers: &Peers, tables: &mut Tables) {
    debug_assert_eq!(peers.class_count(), tables.classes);
    let own_addresses: &[IpAddr] = snapshot.nodes.get(node).map_or(&[], |node| &node.addresses);
    let mut egress_rows: Vec<RowId> = tables.pods.values().filter_map(|pod| pod.egress).collect();
    egress_rows.sort_unstable();
    egress_rows.dedup();
    let local = local(tables);
    let mut columns: BTreeMap<Vec<PortSetId>, ClassId> = BTreeMap::new();
    let mut uniform: FastMap<DecisionId, PortSetId> = FastMap::default();
    let host_ports = host_ports::services(snapshot, node, own_addresses);
    let services = snapshot.services.values().map(|service| &**service);
    for service in services.chain(&host_ports) {
        for port in &service.ports {
            let ends = ends(tables, port, own_addresses, &local);
            let verdicts: Vec<_> = egress_rows
                .iter()
                .map(|row| verdict(tables, *row, port.protocol, &ends))
                .collect();
            let column: Vec<PortSetId> = verdicts
                .into_iter()
                .map(|decision| match decision {
                    None => PortSetId::DEFER,
                    Some(decision) => *uniform.entry(decision).or_insert_with(|| {
                        let map = PortMap::uniform(decision);
                        let known = tables.port_sets.iter().position(|known| *known == map);
                        PortSetId(id(known.unwrap_or_else(|| {
                            tables.port_sets.push(map);
                            tables.port_sets.len() - 1
                        })))
                    }),
                })
                .collect();
            let next = ClassId(tables.classes);
            let class = *columns.entry(column).or_insert(next);
            if class == next {
                tables.classes += 1;
            }
            for key in keys(service, port, own_addresses) {
                // A node port is refused where it is somebody's host port, so there is one of each.
                tables.services.entry(key).or_insert(class);
            }
        }
    }
    let mut by_class: Vec<(ClassId, Vec<PortSetId>)> = columns
        .into_iter()
        .map(|(column, class)| (class, column))
        .collect();
    by_class.sort_unstable();
    for (index, row) in egress_rows.iter().enumerate() {
        if let Some(row) = tables.rows.get_mut(row.0 as usize) {
            // New classes are greater than all before, so the row stays sorted.
            let column =
                |(class, column): &(ClassId, Vec<PortSetId>)| Some((*class, *column.get(index)?));
            row.classes.extend(by_class.iter().filter_map(column));
        }
    }
}

/// The addresses, protocol and port at which pods of this node meet the Service port.
pub(super) fn keys(
    service: &Service,
    port: &ServicePort,
    own_addresses: &[IpAddr],
) -> Vec<(IpAddr, Protocol, u16)> {
    let cluster = service
        .addresses
        .iter()
        .map(|address| (*address, port.protocol, port.port));
    let node_port = own_addresses
        .iter()
        .map(|address| (*address, port.protocol, port.node_port));
    cluster
        .chain(node_port.filter(|_| port.node_port != 0))
        .collect()
}

/// Pods of this node as endpoints, by address: the row that they send by, and what it says of their
/// traffic to themselves.
pub(super) type Local = FastMap<IpAddr, (RowId, PortSetId)>;

/// The pods in scope as endpoints.
pub(super) fn local(tables: &Tables) -> Local {
    let mut local = Local::default();
    for pod in tables.pods.values() {
        for address in &pod.addresses {
            let (_, own) = pod.own[usize::from(address.is_ipv6())];
            local.extend(pod.egress.map(|row| (*address, (row, own))));
        }
    }
    local
}

/// What verdicts see of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) class: ClassId,
    port: u16,
    /// The endpoint is this node itself.
    is_node: bool,
    own: Option<(RowId, PortSetId)>,
}

/// The endpoints of a Service port that verdicts can tell apart, in order.
pub(super) fn ends(
    tables: &Tables,
    port: &ServicePort,
    own_addresses: &[IpAddr],
    local: &Local,
) -> Vec<End> {
    let mut ends: Vec<End> = Vec::new();
    for backend in &port.backends {
        let end = End {
            class: tables.addresses.class_of(backend.address),
            port: backend.port,
            is_node: own_addresses.contains(&backend.address),
            own: local.get(&backend.address).copied(),
        };
        if !ends.contains(&end) {
            ends.push(end);
        }
    }
    ends
}

/// The decision that all endpoints share, or `None` to judge after translation.
pub(super) fn verdict(
    tables: &Tables,
    row: RowId,
    protocol: Protocol,
    ends: &[End],
) -> Option<DecisionId> {
    let decide = |port_set: PortSetId, to: u16| {
        let set = tables.port_sets.get(port_set.0 as usize);
        set.map_or(DecisionId::NONE, |set| *set.at(protocol, to))
    };
    let mode = |id: DecisionId| match tables.decisions.get(id.0 as usize) {
        Some(decision) if decision.audited.is_some() => Mode::Audit,
        Some(decision) if decision.verdict == Verdict::Allow => Mode::Allow,
        _ => Mode::Deny,
    };
    let mut all: Vec<(DecisionId, bool)> = Vec::new();
    for end in ends {
        let decision = decide(tables.port_set(row, end.class), end.port);
        all.push((decision, end.is_node));
        if let Some((_, own)) = end.own.filter(|(own_row, _)| *own_row == row) {
            all.push((decide(own, end.port), false));
        }
    }
    // A connection to an endpoint on this node itself passes no hook behind translation: if it were
    // denied, the whole Service has to be. It is reported for the whole Service if nothing of it is
    // denied; if something is, that matters more.
    let own = |wanted| {
        let own = all.iter().filter(|(_, is_node)| *is_node);
        own.map(|(decision, _)| *decision)
            .find(|decision| mode(*decision) == wanted)
    };
    if let Some(denial) = own(Mode::Deny) {
        return Some(denial);
    }
    let passes = |d: DecisionId| d != DecisionId::DEFER && mode(d) != Mode::Deny;
    if all.iter().all(|(decision, _)| passes(*decision))
        && let Some(audited) = own(Mode::Audit)
    {
        return Some(audited);
    }
    // Endpoints that nobody lists yet are left to the hooks behind translation, as are differing ones.
    let (first, _) = all.first()?;
    let alike = |d: DecisionId| d != DecisionId::DEFER && mode(d) == mode(*first);
    let same = all.iter().all(|(decision, _)| alike(*decision));
    same.then_some(*first)
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Allow,
    /// It passes and is reported.
    Audit,
    Deny,
}
