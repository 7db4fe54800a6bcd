// SPDX-License-Identifier: Apache-2.0 OR MIT OR GPL-2.0-only
//! What is in a packet that has nothing unusual?
//!
//! Nearly every packet is a whole TCP segment or UDP datagram right behind an IP header without
//! options or extension headers, in one piece. What is recognised here, [`super::parse`] reads in the
//! same way; everything else is left to it.

use super::{
    Address, ETHER_IPV4, ETHER_IPV6, FIN, Fragment, Kind, Packet, RST, SYN, SYN_ACK, TCP, UDP,
};

/// Length of the Ethernet header in front of the network header.
const ETHERNET: u32 = 14;
const IPV4: u32 = 20;
const IPV6: u32 = 40;
/// The flag "more fragments" and the offset of a fragment.
const FRAGMENTED: u16 = 0x3fff;

/// The start of a frame with Ethernet header, as far as it lies in one piece. Numbers are the bytes
/// in memory order.
pub trait Head {
    /// Whether the first `length` bytes lie there. Nothing is read beyond what this was true of.
    fn holds(&self, length: u32) -> bool;
    /// The byte at `offset`.
    fn byte(&self, offset: u32) -> u8;
    /// The two bytes at `offset`.
    fn half(&self, offset: u32) -> u16;
    /// The four bytes at `offset`.
    fn word(&self, offset: u32) -> u32;
}

impl Head for &[u8] {
    fn holds(&self, length: u32) -> bool {
        usize::try_from(length).is_ok_and(|length| length <= self.len())
    }

    fn byte(&self, offset: u32) -> u8 {
        let [byte] = bytes(self, offset);
        byte
    }

    fn half(&self, offset: u32) -> u16 {
        u16::from_ne_bytes(bytes(self, offset))
    }

    fn word(&self, offset: u32) -> u32 {
        u32::from_ne_bytes(bytes(self, offset))
    }
}

fn bytes<const N: usize>(frame: &[u8], offset: u32) -> [u8; N] {
    super::Bytes::load(&frame, offset).unwrap_or([0; N])
}

/// Parses the frame of Ethernet protocol `ether_type` into `packet`; returns whether it is a plain
/// one, without which `packet` is nothing.
#[inline(always)]
pub fn parse_plain<H: Head>(head: &H, ether_type: u16, packet: &mut Packet) -> bool {
    // The stack's protocol is that of the frame unless there are VLAN tags in it.
    if !head.holds(ETHERNET + IPV4 + 8) || head.half(12) != ether_type.to_be() {
        return false;
    }
    match ether_type {
        ETHER_IPV4 => plain4(head, packet),
        ETHER_IPV6 => plain6(head, packet),
        _ => false,
    }
}

/// Whether the frame of Ethernet protocol `ether_type` is a plain one that opens no TCP connection.
/// What else may be wrong with it is not looked at.
#[inline(always)]
pub fn opens_nothing<H: Head>(head: &H, ether_type: u16) -> bool {
    if !head.holds(ETHERNET + IPV4 + 8) || head.half(12) != ether_type.to_be() {
        return false;
    }
    let (start, protocol) = match ether_type {
        ETHER_IPV4
            if head.byte(ETHERNET) == 0x45
                && u16::from_be(head.half(ETHERNET + 6)) & FRAGMENTED == 0 =>
        {
            (IPV4, head.byte(ETHERNET + 9))
        }
        ETHER_IPV6 if head.byte(ETHERNET) >> 4 == 6 => (IPV6, head.byte(ETHERNET + 6)),
        _ => return false,
    };
    match protocol {
        TCP => {
            let at = ETHERNET + start;
            head.holds(at + 20) && head.byte(at + 13) & SYN_ACK != SYN
        }
        protocol => protocol == UDP,
    }
}

/// Whether a frame that [`opens_nothing`] is true of has this source, in network order.
#[inline(always)]
pub fn comes_from<H: Head>(head: &H, ether_type: u16, four: [u8; 4], six: [u8; 16]) -> bool {
    if ether_type == ETHER_IPV4 {
        return head.word(ETHERNET + 12) == u32::from_ne_bytes(four);
    }
    let Address([first, second, third, fourth]) = Address::v6(six);
    // In one comparison, of which the verifier follows two ways and not five.
    let at = ETHERNET + 8;
    let difference = (head.word(at) ^ first)
        | (head.word(at + 4) ^ second)
        | (head.word(at + 8) ^ third)
        | (head.word(at + 12) ^ fourth);
    difference == 0
}

#[inline(always)]
fn plain4<H: Head>(head: &H, packet: &mut Packet) -> bool {
    if head.byte(ETHERNET) != 0x45 || u16::from_be(head.half(ETHERNET + 6)) & FRAGMENTED != 0 {
        return false;
    }
    let [id0, id1] = head.half(ETHERNET + 4).to_ne_bytes();
    packet.source = Address::of_word4(head.word(ETHERNET + 12));
    packet.destination = Address::of_word4(head.word(ETHERNET + 16));
    packet.identification = [0, 0, id0, id1];
    packet.ipv6 = false;
    packet.hop_limit = 0;
    let length = u32::from(u16::from_be(head.half(ETHERNET + 2)));
    transport(head, IPV4, head.byte(ETHERNET + 9), length, packet)
}

#[inline(always)]
fn plain6<H: Head>(head: &H, packet: &mut Packet) -> bool {
    if !head.holds(ETHERNET + IPV6 + 8) || head.byte(ETHERNET) >> 4 != 6 {
        return false;
    }
    let address = |offset: u32| {
        let at = ETHERNET + offset;
        Address([
            head.word(at),
            head.word(at + 4),
            head.word(at + 8),
            head.word(at + 12),
        ])
    };
    packet.source = address(8);
    packet.destination = address(24);
    packet.identification = [0; 4];
    packet.ipv6 = true;
    packet.hop_limit = head.byte(ETHERNET + 7);
    let length = IPV6 + u32::from(u16::from_be(head.half(ETHERNET + 4)));
    transport(head, IPV6, head.byte(ETHERNET + 6), length, packet)
}

/// Reads the transport header behind `start` bytes of a packet of `length`.
#[inline(always)]
fn transport<H: Head>(
    head: &H,
    start: u32,
    protocol: u8,
    length: u32,
    packet: &mut Packet,
) -> bool {
    let at = ETHERNET + start;
    let (needed, kind, closing) = match protocol {
        TCP => {
            if !head.holds(at + 20) || head.byte(at + 12) >> 4 < 5 {
                return false;
            }
            let flags = head.byte(at + 13);
            let kind = if flags & SYN_ACK == SYN {
                Kind::Opening
            } else {
                Kind::Stream
            };
            (20, kind, flags & (FIN | RST) != 0)
        }
        UDP => (8, Kind::Datagram, false),
        _ => return false,
    };
    packet.transport = start;
    packet.source_port = u16::from_be(head.half(at));
    packet.destination_port = u16::from_be(head.half(at + 2));
    packet.protocol = protocol;
    packet.kind = kind;
    packet.fragment = Fragment::None;
    packet.closing = closing;
    start + needed <= length
}
