// SPDX-License-Identifier: Apache-2.0 OR MIT OR GPL-2.0-only
//! What is remembered of a flow, and for how long?
//!
//! A flow has one entry per endpoint that takes part in it; both directions find it under the same
//! key. The key carries [`Endpoint::id`](crate::abi::Endpoint::id), so no pod can reach an entry of
//! another pod, and ids are not reused, so no pod inherits one.

use crate::{
    abi::{
        Config, FLOW_CLOSING, FLOW_EGRESS, FLOW_PEER_HOST, FLOW_PEER_OWN, FLOW_PEER_SLOT,
        FLOW_REPLIED, FlowKey4, FlowKey6, FlowState, FragmentKey,
    },
    parse::{Address, Kind, Packet, TCP, UDP},
};

/// Seconds a first fragment's verdict holds for the other fragments (`ipfrag_time` of the kernel).
pub const FRAGMENT_SECONDS: u32 = 30;

/// Which way a packet goes, seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Direction {
    /// To the pod.
    Ingress = 0,
    /// From the pod.
    Egress = 1,
}

impl Direction {
    /// The other direction.
    #[inline(always)]
    #[must_use]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Ingress => Self::Egress,
            Self::Egress => Self::Ingress,
        }
    }
}

/// How the other end of a flow is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// By the address in the packet.
    Address,
    /// The node's own network stack.
    Host,
    /// The pod itself, through a Service.
    Own,
    /// The pod in this slot, by the mark it left on the packet.
    Slot(u32),
}

/// The pod's address and that of its peer.
#[inline(always)]
const fn addresses(direction: Direction, packet: &Packet) -> (&Address, &Address) {
    match direction {
        Direction::Ingress => (&packet.destination, &packet.source),
        Direction::Egress => (&packet.source, &packet.destination),
    }
}

/// The pod's port and that of its peer.
#[inline(always)]
const fn ports(direction: Direction, packet: &Packet) -> (u16, u16) {
    match (packet.kind, direction) {
        // Requests of the two directions are flows of their own: that the pod asks a peer does not
        // let the peer ask the pod.
        (Kind::EchoRequest, Direction::Egress) | (Kind::EchoReply, Direction::Ingress) => {
            (packet.source_port, 0)
        }
        (Kind::EchoRequest, Direction::Ingress) | (Kind::EchoReply, Direction::Egress) => {
            (packet.source_port, 1)
        }
        _ => ports_of_plain(direction, packet),
    }
}

/// As [`ports`], of a packet that is no ICMP message.
#[inline(always)]
const fn ports_of_plain(direction: Direction, packet: &Packet) -> (u16, u16) {
    match direction {
        Direction::Ingress => (packet.destination_port, packet.source_port),
        Direction::Egress => (packet.source_port, packet.destination_port),
    }
}

/// Key of an IPv4 packet's flow.
#[inline(always)]
pub const fn key4(endpoint: u32, direction: Direction, packet: &Packet) -> FlowKey4 {
    of_ports4(endpoint, direction, packet, ports(direction, packet))
}

/// Key of an IPv6 packet's flow.
#[inline(always)]
pub const fn key6(endpoint: u32, direction: Direction, packet: &Packet) -> FlowKey6 {
    of_ports6(endpoint, direction, packet, ports(direction, packet))
}

/// [`key4`] of a packet that is no ICMP message.
#[inline(always)]
pub const fn key4_of_plain(endpoint: u32, direction: Direction, packet: &Packet) -> FlowKey4 {
    of_ports4(
        endpoint,
        direction,
        packet,
        ports_of_plain(direction, packet),
    )
}

/// [`key6`] of a packet that is no ICMP message.
#[inline(always)]
pub const fn key6_of_plain(endpoint: u32, direction: Direction, packet: &Packet) -> FlowKey6 {
    of_ports6(
        endpoint,
        direction,
        packet,
        ports_of_plain(direction, packet),
    )
}

// Keys are made of words because the compiler for BPF makes words of bytes one at a time, and fills
// padding by calling a function.

#[inline(always)]
const fn of_ports4(
    endpoint: u32,
    direction: Direction,
    packet: &Packet,
    ports: (u16, u16),
) -> FlowKey4 {
    let (Address([.., local]), Address([.., remote])) = addresses(direction, packet);
    let [ports, protocol] = last_words(ports, packet.protocol);
    zerocopy::transmute!([endpoint, *local, *remote, ports, protocol])
}

#[inline(always)]
const fn of_ports6(
    endpoint: u32,
    direction: Direction,
    packet: &Packet,
    ports: (u16, u16),
) -> FlowKey6 {
    let (local, remote) = addresses(direction, packet);
    let (Address([l0, l1, l2, l3]), Address([r0, r1, r2, r3])) = (*local, *remote);
    let [ports, protocol] = last_words(ports, packet.protocol);
    zerocopy::transmute!([endpoint, l0, l1, l2, l3, r0, r1, r2, r3, ports, protocol])
}

/// Local and remote port and the protocol as the words of a key's memory.
#[inline(always)]
const fn last_words((local, remote): (u16, u16), protocol: u8) -> [u32; 2] {
    let ports = (local as u32) << 16 | remote as u32;
    [ports.to_be(), (protocol as u32).to_le()]
}

/// Key of a fragmented datagram; `stage` is [`FragmentKey::direction`].
#[inline(always)]
pub const fn fragment_key(endpoint: u32, stage: u8, packet: &Packet) -> FragmentKey {
    FragmentKey {
        endpoint,
        source: packet.source.octets(),
        destination: packet.destination.octets(),
        identification: packet.identification,
        // Only the first fragment of an IPv6 datagram knows what is behind its extension headers.
        protocol: if packet.ipv6 { 0 } else { packet.protocol },
        direction: stage,
        _pad: [0; 2],
    }
}

impl FlowState {
    /// A flow that a packet of `direction` opens.
    #[inline(always)]
    pub const fn opened(
        direction: Direction,
        peer: Source,
        now: u32,
        generation: u32,
        cell: u32,
    ) -> Self {
        let opener = match direction {
            Direction::Ingress => 0,
            Direction::Egress => FLOW_EGRESS,
        };
        let peer = match peer {
            Source::Address => 0,
            Source::Host => FLOW_PEER_HOST,
            Source::Own => FLOW_PEER_OWN,
            Source::Slot(slot) => FLOW_PEER_SLOT | slot << 16,
        };
        Self {
            last_seen: now,
            generation,
            cell,
            flags: opener | peer,
        }
    }

    /// Direction of the packets of the end that opened the flow.
    #[inline(always)]
    pub const fn initiator(&self) -> Direction {
        if self.flags & FLOW_EGRESS == 0 {
            Direction::Ingress
        } else {
            Direction::Egress
        }
    }

    /// How the peer was known when the flow was opened.
    #[inline(always)]
    pub const fn peer(&self) -> Source {
        if self.flags & FLOW_PEER_HOST != 0 {
            Source::Host
        } else if self.flags & FLOW_PEER_OWN != 0 {
            Source::Own
        } else if self.flags & FLOW_PEER_SLOT != 0 {
            Source::Slot(self.flags >> 16)
        } else {
            Source::Address
        }
    }

    /// Idle time in jiffies after which a flow of `protocol` in this state is forgotten.
    #[inline(always)]
    pub const fn timeout(&self, config: &Config, protocol: u8) -> u32 {
        match protocol {
            TCP if self.flags & FLOW_CLOSING == 0 => config.tcp_timeout,
            UDP if self.flags & FLOW_REPLIED == 0 => config.udp_timeout[0],
            UDP => config.udp_timeout[1],
            _ => config.other_timeout,
        }
    }

    /// Whether the flow was idle for longer than its timeout.
    #[inline(always)]
    pub const fn is_expired(&self, config: &Config, protocol: u8, now: u32) -> bool {
        now.wrapping_sub(self.last_seen) > self.timeout(config, protocol)
    }

    /// The state after `packet`, if it differs enough to be worth a write: times are kept to the
    /// second, and that there was a reply only where the timeout depends on it.
    #[inline(always)]
    pub const fn seen(
        &self,
        direction: Direction,
        packet: &Packet,
        generation: u32,
        now: u32,
        hz: u32,
    ) -> Option<Self> {
        let mut flags = self.flags;
        if packet.protocol == UDP && self.initiator() as u8 != direction as u8 {
            flags |= FLOW_REPLIED;
        }
        if packet.closing {
            flags |= FLOW_CLOSING;
        }
        let stale = now.wrapping_sub(self.last_seen) >= hz;
        if stale || flags != self.flags || generation != self.generation {
            Some(Self {
                last_seen: now,
                generation,
                flags,
                ..*self
            })
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: Config = Config {
        abi_version: 0,
        active: 0,
        row_chunks: [0; 2],
        generation: [0; 2],
        flags: 0,
        events_per_second: 0,
        udp_timeout: [30, 120],
        other_timeout: 60,
        hz: 1,
        hosts6_mask: [0; 2],
        tcp_timeout: 1000,
        last_endpoint_id: 0,
    };

    fn packet() -> Packet {
        Packet {
            source: Address::v4([10, 0, 0, 1]),
            destination: Address::v4([10, 0, 0, 2]),
            source_port: 1000,
            destination_port: 53,
            protocol: UDP,
            ..Packet::default()
        }
    }

    fn reply(packet: &Packet) -> Packet {
        Packet {
            source: packet.destination,
            destination: packet.source,
            source_port: packet.destination_port,
            destination_port: packet.source_port,
            ..*packet
        }
    }

    #[test]
    fn a_packet_and_its_reply_share_a_key() {
        let packet = packet();
        assert_eq!(
            key4(7, Direction::Egress, &packet),
            key4(7, Direction::Ingress, &reply(&packet))
        );
        assert_ne!(
            key4(7, Direction::Egress, &packet),
            key4(8, Direction::Ingress, &reply(&packet))
        );
        let six = Packet {
            ipv6: true,
            source: Address::v6([1; 16]),
            destination: Address::v6([2; 16]),
            ..packet
        };
        assert_eq!(
            key6(7, Direction::Ingress, &six),
            key6(7, Direction::Egress, &reply(&six))
        );
    }

    #[test]
    fn an_echo_request_is_no_reply_to_an_echo_request() {
        let request = Packet {
            kind: Kind::EchoRequest,
            protocol: crate::parse::ICMP,
            source_port: 9,
            destination_port: 9,
            ..packet()
        };
        let answer = Packet {
            kind: Kind::EchoReply,
            ..reply(&request)
        };
        let key = key4(1, Direction::Egress, &request);
        assert_eq!(key, key4(1, Direction::Ingress, &answer));
        assert_ne!(key, key4(1, Direction::Ingress, &reply(&request)));
    }

    #[test]
    fn the_opener_and_the_peer_survive_in_the_flags() {
        for direction in [Direction::Ingress, Direction::Egress] {
            for peer in [
                Source::Address,
                Source::Host,
                Source::Own,
                Source::Slot(0x3fff),
            ] {
                let state = FlowState::opened(direction, peer, 1, 2, 3);
                assert_eq!((state.initiator(), state.peer()), (direction, peer));
            }
        }
    }

    #[test]
    fn only_a_replied_flow_has_the_long_timeout() {
        let opened = FlowState::opened(Direction::Egress, Source::Address, 100, 1, 0);
        assert!(!opened.is_expired(&CONFIG, UDP, 130));
        assert!(opened.is_expired(&CONFIG, UDP, 131));
        let replied = opened.seen(Direction::Ingress, &packet(), 1, 110, 1);
        let replied = replied.expect("the reply changes the state");
        assert!(!replied.is_expired(&CONFIG, UDP, 230));
        assert!(replied.is_expired(&CONFIG, UDP, 231));
    }

    #[test]
    fn a_closing_connection_is_forgotten_early() {
        let opened = FlowState::opened(Direction::Egress, Source::Address, 0, 1, 0);
        assert!(!opened.is_expired(&CONFIG, TCP, 1000));
        let last = Packet {
            protocol: TCP,
            closing: true,
            ..packet()
        };
        let closing = opened.seen(Direction::Egress, &last, 1, 0, 1);
        assert!(
            closing
                .expect("the flag changes the state")
                .is_expired(&CONFIG, TCP, 61)
        );
    }

    #[test]
    fn time_may_wrap_around() {
        let opened = FlowState::opened(Direction::Egress, Source::Address, u32::MAX - 5, 1, 0);
        assert!(!opened.is_expired(&CONFIG, UDP, 20));
        assert!(opened.is_expired(&CONFIG, UDP, 30));
    }

    #[test]
    fn a_busy_flow_is_written_once_a_second() {
        let opened = FlowState::opened(Direction::Egress, Source::Address, 100, 1, 0);
        let seen = |generation, now| {
            let packet = packet();
            opened.seen(Direction::Egress, &packet, generation, now, 250)
        };
        assert_eq!(seen(1, 100), None);
        assert_eq!(seen(1, 349), None);
        assert!(seen(1, 350).is_some_and(|state| state.last_seen == 350));
        assert!(seen(2, 101).is_some_and(|state| state.generation == 2));
    }

    #[test]
    fn a_reply_is_worth_a_write_where_a_timeout_depends_on_it() {
        let opened = FlowState::opened(Direction::Egress, Source::Address, 100, 1, 0);
        let replied = |protocol| {
            let reply = Packet {
                protocol,
                ..reply(&packet())
            };
            opened.seen(Direction::Ingress, &reply, 1, 100, 250)
        };
        assert!(replied(UDP).is_some_and(|state| state.flags & FLOW_REPLIED != 0));
        assert_eq!(replied(TCP), None);
        assert_eq!(opened.timeout(&CONFIG, TCP), {
            let replied = FlowState {
                flags: opened.flags | FLOW_REPLIED,
                ..opened
            };
            replied.timeout(&CONFIG, TCP)
        });
    }
}
