// SPDX-License-Identifier: Apache-2.0
//! Which of this node's interfaces lead into a pod's network namespace?

use std::net::IpAddr;

use super::{Link, NetError, Netlink, Netns, netlink::is_link_local};

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

/// The interfaces of `pod` with their ends in `host`, loopback left out.
///
/// An interface index means nothing outside its namespace, so a pair counts only if both ends name
/// each other by index and by namespace id: two pods whose interfaces have the same numbers are
/// never confused.
pub fn pod_interfaces(host: &Netns, pod: &Netns) -> Result<Vec<PodInterface>, NetError> {
    let host_netlink = Netlink::open(host)?;
    let pod_netlink = Netlink::open(pod)?;
    // Listing the interfaces assigns the ids that the next two requests ask for.
    let host_links = host_netlink.links()?;
    let pod_links = pod_netlink.links()?;
    let host_in_pod = pod_netlink.nsid(host)?;
    let pod_in_host = host_netlink.nsid(pod)?;

    let mut interfaces = Vec::new();
    for inside in pod_links {
        if inside.is_loopback {
            continue;
        }
        let outside = host_links.iter().find(|outside| {
            inside.is_pair
                && outside.is_pair
                && inside.peer == Some(outside.index)
                && outside.peer == Some(inside.index)
                && inside.peer_nsid.is_some()
                && inside.peer_nsid == host_in_pod
                && outside.peer_nsid.is_some()
                && outside.peer_nsid == pod_in_host
        });
        let addresses = pod_netlink
            .addresses(inside.index)?
            .into_iter()
            .map(|net| net.addr())
            .filter(|address| !is_link_local(*address))
            .collect();
        interfaces.push(PodInterface {
            outside: outside.cloned(),
            addresses,
            inside,
        });
    }
    Ok(interfaces)
}
