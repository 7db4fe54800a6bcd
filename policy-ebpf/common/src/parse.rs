// SPDX-License-Identifier: Apache-2.0 OR MIT OR GPL-2.0-only
//! What is in a packet, as far as policies can tell?
//!
//! The parser reads what the receiving stack would read and refuses what the stack would see
//! differently: header lengths are honoured, nothing beyond the length in the IP header is read, a
//! transport header split over fragments is an error.

mod plain;

use crate::abi::{PORT_PROTOCOL_OTHER, PORT_PROTOCOL_SCTP, PORT_PROTOCOL_TCP, PORT_PROTOCOL_UDP};

pub use self::plain::{Head, comes_from, opens_nothing, parse_plain};

/// `ETH_P_IP` of `linux/if_ether.h`.
pub const ETHER_IPV4: u16 = 0x0800;
/// `ETH_P_ARP`.
pub const ETHER_ARP: u16 = 0x0806;
/// `ETH_P_IPV6`.
pub const ETHER_IPV6: u16 = 0x86dd;

/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;
/// IP protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;
/// IP protocol number of SCTP.
pub const SCTP: u8 = 132;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const SYN_ACK: u8 = 0x12;

/// Extension headers followed before an IPv6 packet counts as malformed.
pub const EXTENSION_HEADERS: usize = 8;

/// Where a packet's bytes come from. Offsets count from the network header.
pub trait Bytes {
    /// The `N` bytes at `offset`, if the packet has them.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
}

impl Bytes for &[u8] {
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let start = usize::try_from(offset).ok()?;
        self.get(start..start.checked_add(N)?)?.try_into().ok()
    }
}

/// An address of either family: IPv4 as `::ffff:a.b.c.d`, as native-endian words of the bytes in
/// network order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Address(pub [u32; 4]);

impl Address {
    const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

    /// An IPv4 address in network order.
    #[inline(always)]
    pub const fn v4(octets: [u8; 4]) -> Self {
        Self::of_word4(u32::from_ne_bytes(octets))
    }

    /// An IPv4 address as the native-endian word of its bytes in network order.
    #[inline(always)]
    const fn of_word4(word: u32) -> Self {
        Self([0, 0, Self::MAPPED, word])
    }

    /// An IPv6 address in network order.
    #[inline(always)]
    pub const fn v6(octets: [u8; 16]) -> Self {
        Self(zerocopy::transmute!(octets))
    }

    /// The last four octets: all of an IPv4 address.
    #[inline(always)]
    pub const fn octets4(&self) -> [u8; 4] {
        self.0[3].to_ne_bytes()
    }

    /// The address in network order.
    #[inline(always)]
    pub const fn octets(&self) -> [u8; 16] {
        zerocopy::transmute!(self.0)
    }
}

/// What a packet is to connection tracking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A TCP segment that can open a connection: SYN without ACK.
    Opening,
    /// Any other TCP segment.
    Stream,
    /// UDP, SCTP, and protocols without ports.
    #[default]
    Datagram,
    /// An ICMP echo request; both ports hold the identifier.
    EchoRequest,
    /// An ICMP echo reply; both ports hold the identifier.
    EchoReply,
    /// An ICMP error; it quotes the packet it is about.
    Error,
    /// As `Error`: a smaller packet would get through (IPv4 "fragmentation needed", IPv6 "packet too
    /// big").
    TooBig,
    /// An ICMPv4 redirect.
    Redirect,
    /// IPv6 neighbour discovery or multicast listener discovery, which cannot come from beyond the
    /// link.
    Neighbour,
    /// Any other ICMP message.
    Message,
}

/// Which part of a fragmented datagram a packet is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Fragment {
    /// The packet is a whole datagram.
    #[default]
    None,
    /// The fragment with the transport header.
    First,
    /// A fragment without transport header: [`Kind::Datagram`] with ports 0.
    Later,
}

/// A packet. Its transport fields are zero where it has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// Who it claims to come from.
    pub source: Address,
    /// Who it goes to.
    pub destination: Address,
    /// Identification of a fragmented datagram, in network order.
    pub identification: [u8; 4],
    /// Where the transport header starts.
    pub transport: u32,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// IP protocol number; for a later IPv6 fragment the type of the header it would start with.
    pub protocol: u8,
    /// What the packet is to connection tracking.
    pub kind: Kind,
    /// Which part of a datagram the packet is.
    pub fragment: Fragment,
    /// The packet is IPv6.
    pub ipv6: bool,
    /// The TCP segment ends its connection: FIN or RST.
    pub closing: bool,
    /// IPv6 hop limit.
    pub hop_limit: u8,
}

impl Packet {
    /// Whether policies can tell the packet's ports.
    #[inline(always)]
    pub const fn has_ports(&self) -> bool {
        matches!(self.protocol, TCP | UDP | SCTP)
    }
}

/// An IP protocol number as [`crate::abi::port_key`] wants it.
#[inline(always)]
pub const fn port_protocol(protocol: u8) -> u32 {
    match protocol {
        TCP => PORT_PROTOCOL_TCP,
        UDP => PORT_PROTOCOL_UDP,
        SCTP => PORT_PROTOCOL_SCTP,
        _ => PORT_PROTOCOL_OTHER,
    }
}

/// What a frame turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Frame {
    /// An IP packet.
    Ip,
    /// Address resolution, which policies do not concern.
    Arp,
    /// Neither; also a VLAN tag the kernel left in the frame, which it would remove later and
    /// deliver what is behind.
    Other,
    /// IP that does not parse.
    Malformed,
}

/// Parses the frame of Ethernet protocol `ether_type` into `packet`, which is valid for
/// [`Frame::Ip`] only.
#[inline(always)]
pub fn parse<B: Bytes>(bytes: &B, ether_type: u16, packet: &mut Packet) -> Frame {
    *packet = Packet::default();
    match ether_type {
        ETHER_IPV4 | ETHER_IPV6 => {
            if parse_ip(bytes, 0, ether_type == ETHER_IPV6, packet) {
                Frame::Ip
            } else {
                Frame::Malformed
            }
        }
        ETHER_ARP => Frame::Arp,
        _ => Frame::Other,
    }
}

/// Parses the packet that the ICMP error `packet` is about. Its transport header may be cut off
/// behind the ports.
#[inline(always)]
pub fn parse_quoted<B: Bytes>(bytes: &B, packet: &Packet, quoted: &mut Packet) -> bool {
    *quoted = Packet::default();
    parse_ip(bytes, packet.transport + 8, packet.ipv6, quoted)
}

/// Parses the IP packet at `start`; behind 0 it is a quoted one.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn parse_ip<B: Bytes>(bytes: &B, start: u32, ipv6: bool, packet: &mut Packet) -> bool {
    let end = if ipv6 {
        parse_ipv6(bytes, start, packet)
    } else {
        parse_ipv4(bytes, start, packet)
    };
    let Some(end) = end else { return false };
    if matches!(packet.fragment, Fragment::Later) {
        return true;
    }
    // A quoted packet is cut off, so its length says nothing.
    let end = if start == 0 { end } else { u32::MAX };
    parse_transport(bytes, start != 0, end, packet).is_some()
}

/// Parses an IPv4 header (RFC 791) and returns where the packet ends.
#[inline(always)]
fn parse_ipv4<B: Bytes>(bytes: &B, start: u32, packet: &mut Packet) -> Option<u32> {
    const MORE_FRAGMENTS: u16 = 0x2000;
    const OFFSET: u16 = 0x1fff;

    let header: [u8; 20] = bytes.load(start)?;
    let [
        version_ihl,
        _,
        length0,
        length1,
        id0,
        id1,
        fragment0,
        fragment1,
        _,
        protocol,
        _,
        _,
        s0,
        s1,
        s2,
        s3,
        d0,
        d1,
        d2,
        d3,
    ] = header;
    if version_ihl >> 4 != 4 {
        return None;
    }
    let header_length = u32::from(version_ihl & 0xf) * 4;
    if header_length < 20 {
        return None;
    }
    let length = u32::from(u16::from_be_bytes([length0, length1]));
    // The length of a GSO packet above 64 KiB does not fit and is zero.
    if length != 0 && length < header_length {
        return None;
    }
    packet.ipv6 = false;
    packet.protocol = protocol;
    packet.source = Address::v4([s0, s1, s2, s3]);
    packet.destination = Address::v4([d0, d1, d2, d3]);
    packet.identification = [0, 0, id0, id1];
    packet.transport = start + header_length;
    let fragment = u16::from_be_bytes([fragment0, fragment1]);
    fragment_of(
        fragment & OFFSET,
        fragment & MORE_FRAGMENTS != 0,
        protocol,
        packet,
    )?;
    Some(if length == 0 {
        u32::MAX
    } else {
        start + length
    })
}

/// Parses an IPv6 header and its extension headers (RFC 8200) and returns where the packet ends.
#[inline(always)]
fn parse_ipv6<B: Bytes>(bytes: &B, start: u32, packet: &mut Packet) -> Option<u32> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;

    let header: [u8; 8] = bytes.load(start)?;
    let [version, _, _, _, length0, length1, mut next, hop_limit] = header;
    if version >> 4 != 6 {
        return None;
    }
    packet.ipv6 = true;
    packet.source = Address::v6(bytes.load(start + 8)?);
    packet.destination = Address::v6(bytes.load(start + 24)?);
    packet.identification = [0; 4];
    packet.fragment = Fragment::None;
    packet.hop_limit = hop_limit;
    let length = u32::from(u16::from_be_bytes([length0, length1]));
    // A jumbo payload's length does not fit and is zero.
    let end = if length == 0 {
        u32::MAX
    } else {
        start + 40 + length
    };

    let mut at = start + 40;
    let mut left = EXTENSION_HEADERS;
    loop {
        match next {
            HOP_BY_HOP | ROUTING | DESTINATION => {
                let [following, units] = bytes.load(at)?;
                next = following;
                at += (u32::from(units) + 1) * 8;
            }
            FRAGMENT => {
                // A datagram is fragmented once; a second header would hide behind reassembly.
                if !matches!(packet.fragment, Fragment::None) {
                    return None;
                }
                let [following, _, offset0, offset1, i0, i1, i2, i3] = bytes.load(at)?;
                next = following;
                at += 8;
                packet.identification = [i0, i1, i2, i3];
                let offset = u16::from_be_bytes([offset0, offset1]);
                fragment_of(offset >> 3, offset & 1 != 0, next, packet)?;
                if matches!(packet.fragment, Fragment::Later) {
                    break;
                }
            }
            _ => break,
        }
        left -= 1;
        if left == 0 {
            return None;
        }
    }
    if at > end {
        return None;
    }
    packet.protocol = next;
    packet.transport = at;
    Some(end)
}

/// Sets the packet's part of its datagram; `offset` counts units of eight bytes.
#[inline(always)]
fn fragment_of(offset: u16, more: bool, protocol: u8, packet: &mut Packet) -> Option<()> {
    packet.fragment = match (offset, more) {
        (0, false) => Fragment::None,
        (0, true) => Fragment::First,
        // Would overwrite the flags of a TCP header that was already judged (RFC 3128).
        (1 | 2, _) if protocol == TCP => return None,
        _ => Fragment::Later,
    };
    packet.kind = Kind::Datagram;
    packet.source_port = 0;
    packet.destination_port = 0;
    Some(())
}

/// Parses the transport header at `packet.transport`.
#[inline(always)]
fn parse_transport<B: Bytes>(bytes: &B, quoted: bool, end: u32, packet: &mut Packet) -> Option<()> {
    let at = packet.transport;
    packet.kind = Kind::Datagram;
    packet.closing = false;
    packet.source_port = 0;
    packet.destination_port = 0;

    let needed = match packet.protocol {
        TCP if !quoted => 20,
        SCTP if !quoted => 12,
        TCP | UDP | SCTP => 8,
        ICMP if !packet.ipv6 => 8,
        ICMPV6 if packet.ipv6 => 8,
        _ => return Some(()),
    };
    if at.checked_add(needed)? > end {
        return None;
    }
    let [b0, b1, b2, b3, b4, b5, _, _]: [u8; 8] = bytes.load(at)?;
    let first = u16::from_be_bytes([b0, b1]);
    let second = u16::from_be_bytes([b2, b3]);
    let identifier = u16::from_be_bytes([b4, b5]);
    match packet.protocol {
        TCP => {
            packet.source_port = first;
            packet.destination_port = second;
            packet.kind = Kind::Stream;
            if !quoted {
                let [offset, flags]: [u8; 2] = bytes.load(at + 12)?;
                if offset >> 4 < 5 {
                    return None;
                }
                packet.closing = flags & (FIN | RST) != 0;
                if flags & SYN_ACK == SYN {
                    packet.kind = Kind::Opening;
                }
            }
        }
        UDP | SCTP => {
            packet.source_port = first;
            packet.destination_port = second;
        }
        ICMP => {
            packet.kind = match (b0, b1) {
                (0, _) => Kind::EchoReply,
                (3, 4) => Kind::TooBig,
                (3 | 11 | 12, _) => Kind::Error,
                (5, _) => Kind::Redirect,
                (8, _) => Kind::EchoRequest,
                _ => Kind::Message,
            };
        }
        _ => {
            packet.kind = match (b0, packet.hop_limit) {
                (2, _) => Kind::TooBig,
                (1..=4, _) => Kind::Error,
                (128, _) => Kind::EchoRequest,
                (129, _) => Kind::EchoReply,
                // Believed only with the hop limit that no router leaves (RFC 4861, section 6.1) or
                // forwards (RFC 3810, section 6.2).
                (133..=137, 255) | (130..=132 | 143, 1) => Kind::Neighbour,
                _ => Kind::Message,
            };
        }
    }
    if matches!(packet.kind, Kind::EchoRequest | Kind::EchoReply) {
        packet.source_port = identifier;
        packet.destination_port = identifier;
    }
    Some(())
}
