// SPDX-License-Identifier: Apache-2.0
//! Which of this node's interfaces lead into a pod's network namespace?

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Link, NetError, Netlink, Netns, netlink::is_link_local};

/// The end in `host` of the pair whose other end is called `name` in `pod`; `None` if there is no such
/// pair. As [`HostLinks::interfaces_of`], but reads this one interface of the node only.
pub fn outside_of(host: &Netns, pod: &Netns, name: &str) -> Result<Option<Link>, NetError> {
    let (near, far) = (Netlink::open(host)?, Netlink::open(pod)?);
    let Some(inside) = far.link_named(name)? else {
        return Ok(None);
    };
    let outside = inside.peer.map(|peer| near.link(peer)).transpose()?;
    let (host_in_pod, pod_in_host) = (far.nsid(host)?, near.nsid(pod)?);
    Ok(outside
        .flatten()
        .filter(|outside| is_pair(&inside, outside, host_in_pod, pod_in_host)))
}

/// Whether the two links are one pair: each names the other, and the namespace that the other is in.
fn is_pair(
    inside: &Link,
    outside: &Link,
    host_in_pod: Option<i32>,
    pod_in_host: Option<i32>,
) -> bool {
    inside.is_pair
        && outside.is_pair
        && outside.peer == Some(inside.index)
        && inside.peer_nsid.is_some()
        && inside.peer_nsid == host_in_pod
        && outside.peer_nsid.is_some()
        && outside.peer_nsid == pod_in_host
}

/// An interface inside a pod, and where it surfaces on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodInterface {
    /// The interface as the pod sees it.
    pub inside: Link,
    /// Addresses on it, without link-local ones.
    pub addresses: Vec<IpAddr>,
    /// The node's end of the pair; `None` if there is none (macvlan, ipvlan, SR-IOV, a pair that
    /// leads elsewhere), in which case nothing on this node can police the interface.
    pub outside: Option<Link>,
}

/// The node's interfaces at one moment, for finding those that lead to pods.
#[derive(Debug)]
pub struct HostLinks {
    namespace: Netns,
    netlink: Netlink,
    links: BTreeMap<u32, Link>,
}

impl HostLinks {
    /// Reads the interfaces of `namespace`.
    pub fn read(namespace: &Netns) -> Result<Self, NetError> {
        let netlink = Netlink::open(namespace)?;
        let links = netlink.links()?.into_iter();
        Ok(Self {
            namespace: namespace.clone(),
            links: links.map(|link| (link.index, link)).collect(),
            netlink,
        })
    }

    /// The interfaces, by index.
    pub fn links(&self) -> &BTreeMap<u32, Link> {
        &self.links
    }

    /// The interfaces by which the node itself reaches the world: a default route leads through them, or
    /// they carry one of `addresses`.
    pub fn uplinks(&self, addresses: &BTreeSet<IpAddr>) -> Result<BTreeSet<u32>, NetError> {
        let mut uplinks = self.netlink.default_route_devices()?;
        // Only pairs are ever mistaken for a pod's; a node may have many other interfaces.
        for index in self
            .links
            .values()
            .filter(|link| link.is_pair)
            .map(|link| link.index)
        {
            let carried = self.netlink.addresses(index)?;
            if carried
                .iter()
                .any(|carried| addresses.contains(&carried.addr()))
            {
                uplinks.insert(index);
            }
        }
        Ok(uplinks)
    }

    /// The id by which the node knows `other`, if any of its interfaces leads there.
    pub fn nsid(&self, other: &Netns) -> Result<Option<i32>, NetError> {
        self.netlink.nsid(other)
    }

    /// The interfaces of `pod` with their ends on the node, loopback left out.
    ///
    /// An interface index means nothing outside its namespace, so a pair counts only if both ends name
    /// each other by index and by namespace id: two pods whose interfaces have the same numbers are
    /// never confused.
    pub fn interfaces_of(&self, pod: &Netns) -> Result<Vec<PodInterface>, NetError> {
        let inside = Netlink::open(pod)?;
        // Listing interfaces is what assigns the ids that the next two requests ask for.
        let links = inside.links()?;
        let host_in_pod = inside.nsid(&self.namespace)?;
        let pod_in_host = self.nsid(pod)?;

        let mut interfaces = Vec::new();
        for link in links.into_iter().filter(|link| !link.is_loopback) {
            let outside = link.peer.and_then(|peer| self.links.get(&peer));
            let outside =
                outside.filter(|outside| is_pair(&link, outside, host_in_pod, pod_in_host));
            let addresses = inside
                .addresses(link.index)?
                .into_iter()
                .map(|net| net.addr())
                .filter(|address| !is_link_local(*address))
                .collect();
            interfaces.push(PodInterface {
                outside: outside.cloned(),
                addresses,
                inside: link,
            });
        }
        Ok(interfaces)
    }
}
