// SPDX-License-Identifier: Apache-2.0
//! How are the interfaces, addresses and routes of a namespace read and changed?

use std::{
    collections::BTreeSet,
    fmt,
    future::Future,
    io,
    net::{IpAddr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd as _},
};

use futures::{StreamExt as _, TryStreamExt as _};
use ipnet::IpNet;
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressFlags, AddressHeaderFlags},
        link::{InfoData, InfoVeth},
        nsid::{NsidAttribute, NsidMessage},
        route::{RouteAttribute, RouteMessage, RouteScope, RouteType},
        tc::{TcAttribute, TcHandle},
    },
};
use tokio::runtime::{Builder, Runtime};

use super::{Link, Netns};

/// A netlink request failed.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct NetError {
    what: String,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl NetError {
    fn new(
        what: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            what: what.into(),
            source: source.into(),
        }
    }
}

/// Where packets to a block go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination block.
    pub to: IpNet,
    /// Next hop; `None` if the destination itself is on the link.
    pub via: Option<IpAddr>,
    /// Interface index.
    pub device: u32,
    /// Source address of packets the namespace itself sends there.
    pub source: Option<IpAddr>,
}

/// A filter of a clsact qdisc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// On what leaves the interface; otherwise on what comes in.
    pub egress: bool,
    /// Lower ones run first.
    pub priority: u16,
    /// Its number among those of one priority.
    pub handle: u32,
    /// The classifier: `bpf`, `matchall`, ...
    pub kind: String,
}

/// A connection to the routing netlink of one namespace. Blocking: not for use inside async code.
pub struct Netlink {
    runtime: Runtime,
    handle: Handle,
}

impl fmt::Debug for Netlink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Netlink").finish_non_exhaustive()
    }
}

impl Netlink {
    /// Connects to the kernel inside `namespace`.
    pub fn open(namespace: &Netns) -> Result<Self, NetError> {
        let error = |source: io::Error| NetError::new("cannot open a netlink socket", source);
        let runtime = Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(error)?;
        // A socket belongs to the namespace of the thread that makes it, wherever it is used.
        let (connection, handle, _) = namespace
            .run(|| {
                let _guard = runtime.enter();
                rtnetlink::new_connection()
            })
            .map_err(error)?;
        runtime.spawn(connection);
        Ok(Self { runtime, handle })
    }

    /// All interfaces.
    pub fn links(&self) -> Result<Vec<Link>, NetError> {
        let links = self.handle.link().get().execute();
        self.wait(
            "cannot list interfaces",
            links.map_ok(Link::from).try_collect(),
        )
    }

    /// The interface with index `index`, if there is one.
    pub fn link(&self, index: u32) -> Result<Option<Link>, NetError> {
        let link = self.handle.link().get().match_index(index).execute();
        let link = link.map_ok(Link::from).try_collect::<Vec<_>>();
        match self.runtime.block_on(link) {
            Err(rtnetlink::Error::NetlinkError(refusal)) if refusal.raw_code() == -libc::ENODEV => {
                Ok(None)
            }
            Err(error) => Err(NetError::new("cannot read an interface", error)),
            Ok(links) => Ok(links.into_iter().next()),
        }
    }

    /// The interface called `name`, if there is one.
    pub fn link_named(&self, name: &str) -> Result<Option<Link>, NetError> {
        Ok(self.links()?.into_iter().find(|link| link.name == name))
    }

    /// The addresses of interface `index`, link-local ones included.
    pub fn addresses(&self, index: u32) -> Result<Vec<IpNet>, NetError> {
        let messages = self.handle.address().get().set_link_index_filter(index);
        let messages: Vec<_> = self.wait(
            &format!("cannot list the addresses of interface {index}"),
            messages.execute().try_collect(),
        )?;
        let mut addresses = Vec::new();
        for message in messages {
            // Point-to-point IPv4 interfaces carry their own address as IFA_LOCAL.
            let of = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| {
                message.attributes.iter().find_map(wanted)
            };
            let address = of(|a| match a {
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            })
            .or_else(|| {
                of(|a| match a {
                    AddressAttribute::Address(address) => Some(*address),
                    _ => None,
                })
            });
            if let Some(address) = address
                && let Ok(net) = IpNet::new(address, message.header.prefix_len)
            {
                addresses.push(net);
            }
        }
        Ok(addresses)
    }

    /// The interfaces through which a default route leads, of either family and in any routing table.
    pub fn default_route_devices(&self) -> Result<BTreeSet<u32>, NetError> {
        let mut devices = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessageBuilder::<IpAddr>::new().build();
            request.header.address_family = family;
            let routes = self.handle.route().get(request).execute();
            let routes: Vec<_> = self.wait("cannot list routes", routes.try_collect())?;
            let is_default = |route: &&RouteMessage| {
                route.header.destination_prefix_length == 0
                    && route.header.kind == RouteType::Unicast
            };
            for attribute in routes
                .iter()
                .filter(is_default)
                .flat_map(|route| &route.attributes)
            {
                match attribute {
                    RouteAttribute::Oif(device) => {
                        devices.insert(*device);
                    }
                    RouteAttribute::MultiPath(hops) => {
                        devices.extend(hops.iter().map(|hop| hop.interface_index));
                    }
                    _ => {}
                }
            }
        }
        Ok(devices)
    }

    /// The id by which this namespace knows `other`, if it has one (RTM_GETNSID).
    pub fn nsid(&self, other: &Netns) -> Result<Option<i32>, NetError> {
        let what = "cannot ask for the id of a network namespace";
        let mut message = NsidMessage::default();
        let fd = u32::try_from(other.as_fd().as_raw_fd()).unwrap_or(u32::MAX);
        message.attributes.push(NsidAttribute::Fd(fd));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(message));
        request.header.flags = NLM_F_REQUEST;
        let mut replies = self
            .handle
            .clone()
            .request(request)
            .map_err(|e| NetError::new(what, e))?;
        let mut id = None;
        while let Some(reply) = self.runtime.block_on(replies.next()) {
            match reply.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(reply)) => {
                    id = reply
                        .attributes
                        .iter()
                        .find_map(|attribute| match attribute {
                            // -1 (NETNSA_NSID_NOT_ASSIGNED) is no id.
                            NsidAttribute::Id(id) if *id >= 0 => Some(*id),
                            _ => None,
                        });
                }
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    return Err(NetError::new(what, error.to_io()));
                }
                _ => {}
            }
        }
        Ok(id)
    }

    /// Makes a veth pair: `name` here, `peer_name` in `peer`. Both ends are down.
    pub fn add_veth(&self, name: &str, peer_name: &str, peer: &Netns) -> Result<(), NetError> {
        let far = LinkMessageBuilder::<LinkUnspec>::new()
            .name(peer_name)
            .setns_by_fd(peer.as_fd().as_raw_fd())
            .build();
        let pair = LinkMessageBuilder::<LinkVeth>::new(name, peer_name)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far)))
            .build();
        let request = self.handle.link().add(pair).execute();
        self.wait(&format!("cannot make veth pair `{name}`"), request)
    }

    /// Makes a bridge.
    pub fn add_bridge(&self, name: &str) -> Result<(), NetError> {
        let request = self.handle.link().add(LinkBridge::new(name).build());
        self.wait(&format!("cannot make bridge `{name}`"), request.execute())
    }

    /// Makes interface `port` a port of `bridge`.
    pub fn set_controller(&self, port: u32, bridge: u32) -> Result<(), NetError> {
        let message = LinkUnspec::new_with_index(port).controller(bridge).build();
        let request = self.handle.link().change(message).execute();
        self.wait(&format!("cannot add interface {port} to a bridge"), request)
    }

    /// Deletes interface `index`, and with it the other end of a pair.
    pub fn delete_link(&self, index: u32) -> Result<(), NetError> {
        let request = self.handle.link().del(index).execute();
        self.wait(&format!("cannot delete interface {index}"), request)
    }

    /// Switches interface `index` on.
    pub fn set_up(&self, index: u32) -> Result<(), NetError> {
        let message = LinkUnspec::new_with_index(index).up().build();
        let request = self.handle.link().change(message).execute();
        self.wait(&format!("cannot switch interface {index} on"), request)
    }

    /// The filters of interface `index`'s clsact qdisc, in the order in which they run; none if it has no
    /// such qdisc.
    pub fn filters(&self, index: u32) -> Result<Vec<Filter>, NetError> {
        let what = format!("cannot list the filters of interface {index}");
        let signed = i32::try_from(index).map_err(|error| NetError::new(&*what, error))?;
        let mut filters = Vec::new();
        for egress in [false, true] {
            let request = self.handle.traffic_filter(signed).get();
            let request = if egress {
                request.egress()
            } else {
                request.ingress()
            };
            let messages: Vec<_> = self.wait(&what, request.execute().try_collect())?;
            filters.extend(messages.into_iter().filter_map(|message| {
                let TcHandle { major, minor } = message.header.handle;
                let kind = message.attributes.into_iter().find_map(|attribute| {
                    if let TcAttribute::Kind(kind) = attribute {
                        Some(kind)
                    } else {
                        None
                    }
                });
                let filter = Filter {
                    egress,
                    priority: u16::try_from(message.header.info >> 16).unwrap_or_default(),
                    handle: u32::from(major) << 16 | u32::from(minor),
                    kind: kind.unwrap_or_default(),
                };
                // Without a number it is the head of a list.
                (filter.handle != 0).then_some(filter)
            }));
        }
        filters.sort_by_key(|filter| (filter.egress, filter.priority, filter.handle));
        Ok(filters)
    }

    /// Deletes the clsact qdisc of interface `index` and every filter in it; none there is fine.
    pub fn delete_clsact(&self, index: u32) -> Result<(), NetError> {
        let what = format!("cannot delete the clsact qdisc of interface {index}");
        let signed = i32::try_from(index).map_err(|error| NetError::new(&*what, error))?;
        let mut request = self.handle.qdisc().del(signed);
        request.message_mut().header.parent = TcHandle {
            major: 0xffff,
            minor: 0xfff1, // TC_H_CLSACT
        };
        match self.runtime.block_on(request.execute()) {
            // No clsact qdisc, or no qdisc at all: the interface's number may mean another one by now.
            Err(rtnetlink::Error::NetlinkError(refusal))
                if [-libc::ENOENT, -libc::EINVAL].contains(&refusal.raw_code()) =>
            {
                Ok(())
            }
            Err(error) => Err(NetError::new(what, error)),
            Ok(()) => Ok(()),
        }
    }

    /// Gives interface `index` an address, usable at once (no duplicate address detection).
    pub fn add_address(&self, index: u32, address: IpNet) -> Result<(), NetError> {
        let mut request = self
            .handle
            .address()
            .add(index, address.addr(), address.prefix_len());
        if address.addr().is_ipv6() {
            let message = request.message_mut();
            message.header.flags |= AddressHeaderFlags::Nodad;
            message
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        self.wait(&format!("cannot add address {address}"), request.execute())
    }

    /// Adds or replaces a route.
    pub fn add_route(&self, route: Route) -> Result<(), NetError> {
        let what = format!("cannot add the route to {}", route.to);
        let invalid = |e: &dyn fmt::Display| NetError::new(what.clone(), e.to_string());
        let mut builder = RouteMessageBuilder::<IpAddr>::new()
            .output_interface(route.device)
            .destination_prefix(route.to.network(), route.to.prefix_len())
            .map_err(|e| invalid(&e))?;
        builder = match route.via {
            Some(via) => builder.gateway(via).map_err(|e| invalid(&e))?.onlink(),
            None if route.to.addr().is_ipv4() => builder.scope(RouteScope::Link),
            None => builder,
        };
        if let Some(source) = route.source {
            builder = builder.pref_source(source).map_err(|e| invalid(&e))?;
        }
        let request = self.handle.route().add(builder.build()).replace();
        self.wait(&what, request.execute())
    }

    fn wait<T, E>(
        &self,
        what: &str,
        request: impl Future<Output = Result<T, E>>,
    ) -> Result<T, NetError>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        self.runtime
            .block_on(request)
            .map_err(|source| NetError::new(what, source))
    }
}

/// Whether `address` only means something on its link (`fe80::/10`).
pub(super) fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => Ipv6Addr::is_unicast_link_local(&address),
    }
}
