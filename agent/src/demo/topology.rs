// SPDX-License-Identifier: Apache-2.0
//! What does a cluster look like as network namespaces?
//!
//! ```text
//!  pod eth0 ──veth── node ──veth── fabric ──veth── outside
//!  pod eth0 ──veth──┘               │
//!  pod eth0 ──veth── node ──veth────┘
//! ```
//!
//! Every node is a namespace that routes to its pods, each on a link of its own with a /32 or /128
//! address, as the ptp plugin of CNI does. The fabric routes between nodes and to what is outside the
//! cluster. Nothing is made in the namespace of the caller but bind mounts below one folder.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use policy_compiler::{
    Snapshot,
    model::{AdminPeer, NetworkPeer, PodKey, family_of},
};

use super::root::Root;
use crate::{
    folder::pod_file,
    net::{Netlink, Netns, Route},
};

/// The next hop of pods. Nodes own it, so their own next hop must be another.
const NODE4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
/// The next hop of nodes.
const FABRIC4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 0, 1));
/// The next hop of either, on each link.
const GATEWAY6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
/// What the fabric calls a node, on its link.
const NODE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2));

/// A cluster of network namespaces. They live as long as their [`Root`].
#[derive(Debug)]
pub struct Topology {
    /// By name.
    pub nodes: BTreeMap<Arc<str>, Netns>,
    /// Pods that run, are not on the host's network and have a node and an address.
    pub pods: BTreeMap<PodKey, Netns>,
    /// Owns every address outside the cluster.
    pub outside: Netns,
    /// Addresses of `outside`.
    pub outside_addresses: Vec<IpAddr>,
}

impl Topology {
    /// Builds the cluster of `snapshot` below `root`, with `outside` as the addresses of everybody else.
    pub fn build(root: &Root, snapshot: &Snapshot, outside: &BTreeSet<IpAddr>) -> Result<Self> {
        let fabric = namespace(root, Root::OUTSIDE, "fabric")?;
        let internet = namespace(root, Root::OUTSIDE, "internet")?;
        let mut topology = Self {
            nodes: BTreeMap::new(),
            pods: BTreeMap::new(),
            outside: internet.clone(),
            outside_addresses: outside.iter().copied().collect(),
        };
        forward(&fabric)?;
        let fabric_links = Netlink::open(&fabric)?;
        connect(
            &Side::fabric(&fabric_links, "internet"),
            &internet,
            "eth0",
            &topology.outside_addresses,
            &[],
        )?;

        for (i, node) in snapshot.nodes.values().enumerate() {
            let namespace = namespace(root, Root::NODES, &node.name)?;
            forward(&namespace)?;
            let pods: Vec<_> = snapshot
                .pods
                .values()
                .filter(|pod| pod.is_policed() && pod.node.as_ref() == Some(&node.name))
                .filter(|pod| !pod.addresses.is_empty())
                .collect();
            let behind: Vec<IpAddr> = pods.iter().flat_map(|pod| pod.addresses.clone()).collect();
            connect(
                &Side::fabric(&fabric_links, &format!("node{i}")),
                &namespace,
                "uplink",
                &node.addresses,
                &behind,
            )
            .with_context(|| format!("cannot connect node `{}`", node.name))?;

            let node_links = Netlink::open(&namespace)?;
            for (j, pod) in pods.into_iter().enumerate() {
                let pod_namespace = self::namespace(root, Root::PODS, &pod_file(&pod.key))?;
                let side = Side {
                    links: &node_links,
                    // Interface names carry no meaning on purpose: nothing may rely on them.
                    name: format!("veth{j:x}{i:x}"),
                    gateway4: NODE4,
                    sources: &node.addresses,
                };
                connect(&side, &pod_namespace, "eth0", &pod.addresses, &[])
                    .with_context(|| format!("cannot connect pod `{}`", pod.key))?;
                topology.pods.insert(pod.key.clone(), pod_namespace);
            }
            topology.nodes.insert(node.name.clone(), namespace);
        }
        Ok(topology)
    }
}

/// Addresses that stand for the world: two documentation addresses, and one inside each block that a
/// policy names and no pod or node lives in, so that `except` and family borders are probed, too.
pub fn outside_addresses(snapshot: &Snapshot) -> BTreeSet<IpAddr> {
    let mut addresses = BTreeSet::from([
        IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10)),
    ]);
    let mut owned: Vec<IpAddr> = Vec::new();
    owned.extend(snapshot.pods.values().flat_map(|pod| &pod.addresses));
    owned.extend(snapshot.nodes.values().flat_map(|node| &node.addresses));
    let ours: Vec<IpNet> = snapshot
        .nodes
        .values()
        .flat_map(|node| node.pod_cidrs.clone())
        .chain(snapshot.options.service_cidrs.clone())
        .collect();
    for block in policy_blocks(snapshot) {
        let in_cluster = owned.iter().any(|address| block.contains(address))
            || ours.iter().any(|cidr| cidr.contains(&block));
        if !in_cluster {
            addresses.extend(tenth(block));
        }
    }
    addresses
}

/// Every block and every exception that a policy names.
fn policy_blocks(snapshot: &Snapshot) -> BTreeSet<IpNet> {
    let mut blocks = BTreeSet::new();
    for policy in snapshot.network_policies.values() {
        let rules = [&policy.ingress, &policy.egress]
            .into_iter()
            .flatten()
            .flatten();
        for peer in rules.flat_map(|rule| rule.peers.iter().flatten()) {
            if let NetworkPeer::IpBlock(block) = peer {
                blocks.insert(block.cidr);
                blocks.extend(&block.except);
            }
        }
    }
    for policy in snapshot.admin_policies.values() {
        for peer in policy.egress.iter().flat_map(|rule| &rule.peers) {
            if let AdminPeer::Networks(networks) = peer {
                blocks.extend(networks);
            }
        }
    }
    // Blocks that hold half the Internet hold the documentation addresses or the cluster, too.
    blocks.retain(|block| block.prefix_len() >= 8);
    blocks
}

/// The tenth address of a block, or the last one of a smaller block.
fn tenth(block: IpNet) -> Option<IpAddr> {
    let room = u32::from(block.max_prefix_len() - block.prefix_len());
    let step = if room >= 4 { 10 } else { (1 << room) - 1 };
    match block.network() {
        IpAddr::V4(network) => u32::from(network)
            .checked_add(step)
            .map(|a| IpAddr::V4(a.into())),
        IpAddr::V6(network) => u128::from(network)
            .checked_add(u128::from(step))
            .map(|a| IpAddr::V6(a.into())),
    }
}

/// The routing end of a link.
struct Side<'a> {
    links: &'a Netlink,
    name: String,
    gateway4: IpAddr,
    /// Addresses from which the router itself talks to the other end.
    sources: &'a [IpAddr],
}

impl<'a> Side<'a> {
    fn fabric(links: &'a Netlink, name: &str) -> Self {
        Self {
            links,
            name: name.to_owned(),
            gateway4: FABRIC4,
            sources: &[],
        }
    }
}

/// Joins `far` to a router: `addresses` live on the far end, `behind` are routed through it.
fn connect(
    near: &Side<'_>,
    far: &Netns,
    far_name: &str,
    addresses: &[IpAddr],
    behind: &[IpAddr],
) -> Result<()> {
    near.links.add_veth(&near.name, far_name, far)?;
    let far_links = Netlink::open(far)?;
    let index = |links: &Netlink, name: &str| -> Result<u32> {
        let link = links.link_named(name)?;
        Ok(link
            .with_context(|| format!("interface `{name}` is gone"))?
            .index)
    };
    let near_index = index(near.links, &near.name)?;
    let far_index = index(&far_links, far_name)?;

    near.links
        .add_address(near_index, IpNet::from(near.gateway4))?;
    near.links
        .add_address(near_index, IpNet::new(GATEWAY6, 64)?)?;
    far_links.add_address(far_index, IpNet::new(NODE6, 64)?)?;
    for address in addresses {
        far_links.add_address(far_index, IpNet::from(*address))?;
    }
    near.links.set_up(near_index)?;
    far_links.set_up(far_index)?;

    for address in addresses {
        near.links.add_route(Route {
            to: IpNet::from(*address),
            via: None,
            device: near_index,
            source: same_family(near.sources, *address),
        })?;
    }
    for address in behind {
        let via = match address {
            IpAddr::V4(_) => same_family(addresses, *address),
            IpAddr::V6(_) => Some(NODE6),
        };
        near.links.add_route(Route {
            to: IpNet::from(*address),
            via: Some(via.context("the node has no address of a pod's family")?),
            device: near_index,
            source: None,
        })?;
    }
    for (gateway, everything) in [(near.gateway4, "0.0.0.0/0"), (GATEWAY6, "::/0")] {
        if let Some(source) = same_family(addresses, gateway) {
            far_links.add_route(Route {
                to: everything.parse()?,
                via: Some(gateway),
                device: far_index,
                source: Some(source),
            })?;
        }
    }
    Ok(())
}

fn same_family(addresses: &[IpAddr], like: IpAddr) -> Option<IpAddr> {
    let mut addresses = addresses.iter().copied();
    addresses.find(|address| family_of(*address) == family_of(like))
}

/// Makes a namespace that answers at once and at any rate.
fn namespace(root: &Root, kind: &str, name: &str) -> Result<Netns> {
    let namespace = root.namespace(kind, name)?;
    for (key, value) in [
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv4/ping_group_range", "0 2147483647"),
        ("ipv4/icmp_ratelimit", "0"),
        ("ipv6/icmp/ratelimit", "0"),
    ] {
        namespace
            .set_sysctl(key, value)
            .with_context(|| format!("cannot set `{key}`"))?;
    }
    let links = Netlink::open(&namespace)?;
    if let Some(loopback) = links.links()?.into_iter().find(|link| link.is_loopback) {
        links.set_up(loopback.index)?;
    }
    Ok(namespace)
}

fn forward(namespace: &Netns) -> Result<()> {
    for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        namespace
            .set_sysctl(key, "1")
            .with_context(|| format!("cannot set `{key}`"))?;
    }
    Ok(())
}
