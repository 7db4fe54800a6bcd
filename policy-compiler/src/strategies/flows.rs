// SPDX-License-Identifier: Apache-2.0
//! Random flows, and the ports and addresses where verdicts may change.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use proptest::{prelude::*, sample::Index};

use super::pools;
use crate::{
    model::{
        AdminPeer, AdminPort, Direction, Family, NetworkPeer, NetworkPort, Protocol, family_of,
    },
    snapshot::Snapshot,
    verdict::{Endpoint, Flow},
};

/// A flow that has not met its cluster yet: shrinking the cluster leaves the probe as it is.
#[derive(Clone, Debug)]
pub struct Probe {
    source: End,
    destination: End,
    family: Family,
    port: Index,
    via_service: bool,
}

#[derive(Clone, Debug)]
enum End {
    Pod(Index),
    Node(Index),
    Address(Index),
    /// The other end again.
    Same,
}

/// Flows of `snapshot`.
pub fn flow(snapshot: &Snapshot) -> impl Strategy<Value = Flow> + use<> {
    let addresses = interesting_addresses(snapshot);
    let ports = interesting_ports(snapshot);
    let snapshot = snapshot.clone();
    probe().prop_map(move |probe| probe.place(&snapshot, &addresses, &ports))
}

/// Flows of a cluster still to be chosen.
pub fn probe() -> impl Strategy<Value = Probe> {
    let end = |same| {
        prop_oneof![
            14 => any::<Index>().prop_map(End::Pod),
            1 => any::<Index>().prop_map(End::Node),
            4 => any::<Index>().prop_map(End::Address),
            same => Just(End::Same),
        ]
    };
    (
        end(0),
        end(1),
        prop_oneof![3 => Just(Family::V4), 1 => Just(Family::V6)],
        any::<Index>(),
        prop::bool::weighted(0.3),
    )
        .prop_map(|(source, destination, family, port, via_service)| Probe {
            source,
            destination,
            family,
            port,
            via_service,
        })
}

impl Probe {
    /// The probe's flow in `snapshot`, whose interesting addresses and ports these are.
    pub fn place(
        &self,
        snapshot: &Snapshot,
        addresses: &[IpAddr],
        ports: &[(Protocol, u16)],
    ) -> Flow {
        let addresses: Vec<_> = addresses
            .iter()
            .copied()
            .filter(|address| family_of(*address) == self.family)
            .collect();
        let outside = || match self.family {
            Family::V4 => Endpoint::Address(Ipv4Addr::new(203, 0, 113, 9).into()),
            Family::V6 => Endpoint::Address(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9).into()),
        };
        let place = |end: &End| match end {
            End::Pod(index) => pick(*index, snapshot.pods.keys())
                .cloned()
                .map(Endpoint::Pod),
            End::Node(index) => pick(*index, snapshot.nodes.keys())
                .cloned()
                .map(Endpoint::Node),
            End::Address(index) => pick(*index, addresses.iter().copied()).map(Endpoint::Address),
            End::Same => None,
        };
        let source = place(&self.source).unwrap_or_else(outside);
        let destination = match &self.destination {
            End::Same => source.clone(),
            end @ (End::Pod(_) | End::Node(_) | End::Address(_)) => {
                place(end).unwrap_or_else(outside)
            }
        };
        let (protocol, port) =
            pick(self.port, ports.iter().copied()).unwrap_or((Protocol::Other, 0));
        Flow {
            source,
            destination,
            protocol,
            port,
            family: self.family,
            via_service: self.via_service,
        }
    }
}

fn pick<T>(index: Index, from: impl ExactSizeIterator<Item = T>) -> Option<T> {
    let mut from = from;
    match from.len() {
        0 => None,
        length => from.nth(index.index(length)),
    }
}

/// Every port a policy or pod of `snapshot` names and its neighbours, in every protocol; the ends of
/// the range; and what has no ports. Sorted.
pub fn interesting_ports(snapshot: &Snapshot) -> Vec<(Protocol, u16)> {
    let mut numbers = BTreeSet::from([0, 1, 80, u16::MAX]);
    let mut around =
        |port: u16| numbers.extend([port.saturating_sub(1), port, port.saturating_add(1)]);
    for pod in snapshot.pods.values() {
        pod.ports.iter().for_each(|port| around(port.number));
    }
    for policy in snapshot.network_policies.values() {
        let rules = Direction::BOTH.iter().filter_map(|d| policy.rules(*d));
        for port in rules.flatten().flat_map(|rule| rule.ports.iter().flatten()) {
            match port {
                NetworkPort::Range(_, range) => [range.start, range.end].map(&mut around),
                NetworkPort::Named(..) | NetworkPort::Nothing => continue,
            };
        }
    }
    for policy in snapshot.admin_policies.values() {
        let rules = Direction::BOTH.iter().flat_map(|d| policy.rules(*d));
        for port in rules.flat_map(|rule| rule.ports.iter().flatten()) {
            match port {
                AdminPort::Range(_, range) => [*range.start(), *range.end()].map(&mut around),
                AdminPort::Named(_) => continue,
            };
        }
    }
    Protocol::WITH_PORTS
        .into_iter()
        .flat_map(|protocol| numbers.iter().map(move |number| (protocol, *number)))
        .chain([(Protocol::Other, 0)])
        .collect()
}

/// Every address of a pod or node, every end of every block and its neighbours, everything DNS
/// answered, and two addresses nobody knows. Sorted.
pub fn interesting_addresses(snapshot: &Snapshot) -> Vec<IpAddr> {
    let mut addresses: BTreeSet<_> = pools::OUTSIDE.into();
    for pod in snapshot.pods.values() {
        addresses.extend(&pod.addresses);
    }
    for node in snapshot.nodes.values() {
        addresses.extend(&node.addresses);
        node.pod_cidrs
            .iter()
            .for_each(|cidr| edges(*cidr, &mut addresses));
    }
    addresses.extend(
        snapshot
            .domains
            .iter()
            .flat_map(|names| names.values().flatten()),
    );
    for policy in snapshot.network_policies.values() {
        let rules = Direction::BOTH.iter().filter_map(|d| policy.rules(*d));
        for peer in rules.flatten().flat_map(|rule| rule.peers.iter().flatten()) {
            match peer {
                NetworkPeer::IpBlock(block) => {
                    edges(block.cidr, &mut addresses);
                    block
                        .except
                        .iter()
                        .for_each(|except| edges(*except, &mut addresses));
                }
                NetworkPeer::Pods { .. } | NetworkPeer::Nothing => {}
            }
        }
    }
    for policy in snapshot.admin_policies.values() {
        for peer in policy.egress.iter().flat_map(|rule| &rule.peers) {
            match peer {
                AdminPeer::Networks(blocks) => {
                    for block in blocks {
                        edges(*block, &mut addresses);
                    }
                }
                AdminPeer::Pods { .. } | AdminPeer::Nodes(_) | AdminPeer::DomainNames(_) => {}
            }
        }
    }
    addresses.into_iter().collect()
}

/// The first and last address of `block`, and their neighbours outside.
fn edges(block: IpNet, addresses: &mut BTreeSet<IpAddr>) {
    match (block.network(), block.broadcast()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            let (first, last) = (u32::from(first), u32::from(last));
            let edges = [first.saturating_sub(1), first, last, last.saturating_add(1)];
            addresses.extend(edges.map(|edge| IpAddr::V4(edge.into())));
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            let (first, last) = (u128::from(first), u128::from(last));
            let edges = [first.saturating_sub(1), first, last, last.saturating_add(1)];
            addresses.extend(edges.map(|edge| IpAddr::V6(edge.into())));
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {}
    }
}
