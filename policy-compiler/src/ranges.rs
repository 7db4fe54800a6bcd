// SPDX-License-Identifier: Apache-2.0
//! Which addresses do policies tell apart? All of them, in ranges whose members are alike.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use crate::{
    model::{AdminPeer, Direction, NetworkPeer},
    snapshot::Snapshot,
};

/// Addresses that every block of every policy contains or leaves out together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// One of them.
    pub example: IpAddr,
    /// All of them, as the fewest blocks.
    pub networks: Vec<IpNet>,
}

/// Every address that is no pod, Service or node of any of `snapshots`, in ranges that none of their
/// policies tells apart.
pub fn outside(snapshots: &[&Snapshot]) -> Vec<Range> {
    let everything = ["0.0.0.0/0", "::/0"].map(str::parse::<IpNet>);
    let everything: Vec<IpNet> = everything.into_iter().flatten().collect();
    cut(snapshots, &everything, true)
}

/// The addresses of `networks`, in ranges that no policy tells apart; what a pod, Service or node owns is
/// a range of its own.
pub fn within(snapshot: &Snapshot, networks: &[IpNet]) -> Vec<Range> {
    cut(&[snapshot], networks, false)
}

/// Cuts `networks` at every block that a policy names and every address that something owns.
fn cut(snapshots: &[&Snapshot], networks: &[IpNet], outside_only: bool) -> Vec<Range> {
    let owned: BTreeSet<IpAddr> = snapshots.iter().flat_map(|it| owned(it)).collect();
    let service_cidrs: BTreeSet<IpNet> = snapshots
        .iter()
        .flat_map(|snapshot| snapshot.options.service_cidrs.iter().copied())
        .collect();
    let mut told_apart: BTreeSet<IpNet> = snapshots.iter().flat_map(|it| blocks(it)).collect();
    if !outside_only {
        told_apart.extend(owned.iter().map(|address| IpNet::from(*address)));
    }
    let mut cuts = told_apart.clone();
    if outside_only {
        cuts.extend(owned.iter().map(|address| IpNet::from(*address)));
        cuts.extend(service_cidrs.iter().copied());
    }
    let inside = |address: IpAddr| {
        outside_only
            && (owned.contains(&address)
                || service_cidrs.iter().any(|cidr| cidr.contains(&address)))
    };
    let mut ranges = Vec::new();
    for network in networks {
        let mut starts = BTreeSet::from([network.network()]);
        for cut in cuts
            .iter()
            .filter(|cut| network.contains(&cut.network()) && *cut != network)
        {
            starts.insert(cut.network());
            starts.extend(next(cut.broadcast()).filter(|after| network.contains(after)));
        }
        let starts: Vec<IpAddr> = starts.into_iter().collect();
        let mut pieces: Vec<(Vec<bool>, IpAddr, Vec<IpNet>)> = Vec::new();
        for (position, start) in starts.iter().enumerate() {
            if inside(*start) {
                continue;
            }
            let end = starts
                .get(position + 1)
                .and_then(|next| previous(*next))
                .unwrap_or_else(|| network.broadcast());
            let piece = subnets(*start, end);
            // What contains a range, and who owns it, is all that policies can see of it.
            let look: Vec<bool> = told_apart.iter().map(|cut| cut.contains(start)).collect();
            match pieces.iter_mut().find(|(known, ..)| *known == look) {
                Some((_, _, known)) => known.extend(piece),
                None => pieces.push((look, *start, piece)),
            }
        }
        ranges.extend(pieces.into_iter().map(|(_, example, networks)| Range {
            example,
            networks: IpNet::aggregate(&networks),
        }));
    }
    ranges
}

/// Every block of addresses that some rule names.
fn blocks(snapshot: &Snapshot) -> BTreeSet<IpNet> {
    let mut blocks = BTreeSet::new();
    for policy in snapshot.network_policies.values() {
        for rule in Direction::BOTH
            .iter()
            .flat_map(|way| policy.rules(*way).unwrap_or_default())
        {
            for peer in rule.peers.iter().flatten() {
                if let NetworkPeer::IpBlock(block) = peer {
                    blocks.insert(block.cidr);
                    blocks.extend(block.except.iter().copied());
                }
            }
        }
    }
    for policy in snapshot.admin_policies.values() {
        for rule in Direction::BOTH.iter().flat_map(|way| policy.rules(*way)) {
            for peer in &rule.peers {
                if let AdminPeer::Networks(networks) = peer {
                    blocks.extend(networks.iter().copied());
                }
            }
        }
    }
    let learned = snapshot
        .domains
        .iter()
        .flatten()
        .flat_map(|(_, addresses)| addresses);
    blocks.extend(learned.map(|address| IpNet::from(*address)));
    blocks.into_iter().map(|block| block.trunc()).collect()
}

/// Every address of a pod, Service or node.
fn owned(snapshot: &Snapshot) -> BTreeSet<IpAddr> {
    let pods = snapshot
        .pods
        .values()
        .filter(|pod| !pod.phase.is_finished());
    let pods = pods.flat_map(|pod| pod.addresses.iter().copied());
    let nodes = snapshot
        .nodes
        .values()
        .flat_map(|node| node.own_addresses());
    let services = snapshot
        .services
        .values()
        .flat_map(|service| service.addresses.iter().copied());
    pods.chain(nodes).chain(services).collect()
}

/// The address after this one.
pub(crate) fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => u32::from(v4)
            .checked_add(1)
            .map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(v6) => u128::from(v6)
            .checked_add(1)
            .map(|bits| IpAddr::V6(bits.into())),
    }
}

/// The address before this one.
pub(crate) fn previous(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => u32::from(v4)
            .checked_sub(1)
            .map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(v6) => u128::from(v6)
            .checked_sub(1)
            .map(|bits| IpAddr::V6(bits.into())),
    }
}

/// The fewest blocks that make up a range of addresses.
pub(crate) fn subnets(start: IpAddr, end: IpAddr) -> Vec<IpNet> {
    match (start, end) {
        (IpAddr::V4(start), IpAddr::V4(end)) => ipnet::Ipv4Subnets::new(start, end, 0)
            .map(IpNet::V4)
            .collect(),
        (IpAddr::V6(start), IpAddr::V6(end)) => ipnet::Ipv6Subnets::new(start, end, 0)
            .map(IpNet::V6)
            .collect(),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => Vec::new(),
    }
}
