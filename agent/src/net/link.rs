// SPDX-License-Identifier: Apache-2.0
//! What does the kernel say of an interface?

use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};

/// A network interface as RTM_NEWLINK describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index, unique within its namespace.
    pub index: u32,
    /// For people only: names say nothing about identity.
    pub name: String,
    /// Interface index of the other end (`IFLA_LINK`), in the namespace `peer_nsid`.
    pub peer: Option<u32>,
    /// The namespace of the other end (`IFLA_LINK_NETNSID`); `None` if it is the link's own.
    pub peer_nsid: Option<i32>,
    /// Whether this is one end of a pair: veth or netkit.
    pub is_pair: bool,
    /// Whether this is the loopback interface.
    pub is_loopback: bool,
    /// `IFF_UP`.
    pub is_up: bool,
    /// Index of the bridge (or bond, ...) the interface is a port of.
    pub controller: Option<u32>,
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            peer: None,
            peer_nsid: None,
            is_pair: false,
            is_loopback: message.header.link_layer_type == LinkLayerType::Loopback,
            is_up: message.header.flags.contains(LinkFlags::Up),
            controller: None,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Link(peer) => link.peer = Some(peer),
                LinkAttribute::LinkNetNsId(id) => link.peer_nsid = Some(id),
                LinkAttribute::Controller(index) => link.controller = Some(index),
                LinkAttribute::LinkInfo(infos) => {
                    link.is_pair = infos.iter().any(|info| {
                        matches!(info, LinkInfo::Kind(InfoKind::Veth | InfoKind::Netkit))
                    });
                }
                _ => {}
            }
        }
        link
    }
}
