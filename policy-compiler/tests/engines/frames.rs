// SPDX-License-Identifier: Apache-2.0
//! What does the datapath's own code make of the first packet of a flow, from the bytes of its frame
//! on?

use std::net::IpAddr;

use policy_compiler::{
    lower::{EndpointImage, Image, ImagePeer},
    model::{self, Family, Protocol},
};
use policy_ebpf_common::{
    abi::{Cell, Config, Endpoint, FlowState, FragmentState, HostBucket, PortSet, ServiceKey},
    decide::{Court, Outcome, Ruling, State},
    flow::{Direction, Source},
    lookup::Tables,
    parse::{ETHER_IPV4, ETHER_IPV6, Frame, Packet, SCTP, TCP, UDP, parse, parse_plain},
};

/// A protocol without ports: GRE.
const OTHER: u8 = 47;
const POD_SLOT: u32 = 0;
const PEER_SLOT: u32 = 1;

/// What an image says of the first packet of a flow; `None` if nothing is enforced. An error says why
/// the packet cannot be made.
pub(crate) fn cell(
    image: &Image,
    endpoint: &EndpointImage,
    direction: model::Direction,
    peer: ImagePeer,
    (family, protocol, port): (Family, Protocol, u16),
) -> Result<Option<Cell>, &'static str> {
    let (direction, egress) = match direction {
        model::Direction::Ingress => (Direction::Ingress, false),
        model::Direction::Egress => (Direction::Egress, true),
    };
    let source = match peer {
        ImagePeer::Address(_) => Source::Address,
        ImagePeer::Class(0) => return Err("a peer without class is met by its address only"),
        ImagePeer::Class(_) => Source::Slot(PEER_SLOT),
        ImagePeer::Host => Source::Host,
        ImagePeer::Own(_) => Source::Own,
    };
    let remote = match (peer, family) {
        (ImagePeer::Address(address), _) => address,
        (_, Family::V4) => IpAddr::from([192, 0, 2, 1]),
        (_, Family::V6) => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
    };
    let ipv6 = remote.is_ipv6();
    let local = if ipv6 {
        IpAddr::from(endpoint.ipv6.map_or([0; 16], |address| address.octets()))
    } else {
        IpAddr::from(endpoint.ipv4.map_or([0; 4], |address| address.octets()))
    };
    let (from, to) = if egress {
        (local, remote)
    } else {
        (remote, local)
    };
    let bytes = frame(from, to, protocol, port);
    let packet = read(&bytes, ipv6);

    let world = Host {
        image,
        peer: Endpoint {
            ifindex: 2,
            classes: match peer {
                ImagePeer::Class(class) => [u32::from(class) << 16 | u32::from(class); 2],
                _ => [0; 2],
            },
            ..Endpoint::default()
        },
    };
    let pod = Endpoint {
        ifindex: 1,
        id: 1,
        rows: [endpoint.rows; 2],
        own4: [endpoint.own4; 2],
        own6: [endpoint.own6; 2],
        classes: [endpoint.classes; 2],
        ..Endpoint::default()
    };
    let court = Court {
        world: &world,
        config: &Config::default(),
        bank: image.bank(),
        endpoint: &pod,
        slot: POD_SLOT,
    };
    let judgement = court.judge(direction, Frame::Ip, source, &packet, None);
    if let Some(ruling) = court.rule_plain(direction, source, &packet)
        && packet.has_ports()
        && packet.protocol != SCTP
    {
        let short = match ruling {
            Ruling::Final(judgement) => judgement,
            Ruling::Open(cell) => court.settle(direction, source, &packet, cell),
        };
        assert_eq!(short, judgement, "both ways say the same");
    }
    match judgement.outcome {
        Outcome::Unenforced => Ok(None),
        Outcome::Allowed => {
            assert_eq!(judgement.cell.action(), Cell::ALLOW);
            Ok(Some(judgement.cell))
        }
        Outcome::Denied => {
            assert_eq!(judgement.cell.action(), Cell::DENY);
            Ok(Some(judgement.cell))
        }
        outcome => panic!("a first packet of a flow is {outcome:?}"),
    }
}

/// The frame as the kernel's programs read it; both parsers see the same where both see it.
fn read(bytes: &[u8], ipv6: bool) -> Packet {
    let ether_type = if ipv6 { ETHER_IPV6 } else { ETHER_IPV4 };
    let mut packet = Packet::default();
    let found = parse(&&bytes[14..], ether_type, &mut packet);
    assert_eq!(found, Frame::Ip);
    let mut plain = Packet::default();
    if parse_plain(&bytes, ether_type, &mut plain) {
        assert_eq!(plain, packet);
    } else {
        assert!(matches!(packet.protocol, SCTP | OTHER), "it is plain");
    }
    packet
}

/// The first frame of a flow.
fn frame(from: IpAddr, to: IpAddr, protocol: Protocol, port: u16) -> Vec<u8> {
    const SYN: u8 = 2;
    let ports = [30_000_u16.to_be_bytes(), port.to_be_bytes()].concat();
    let (number, rest) = match protocol {
        Protocol::Tcp => (
            TCP,
            vec![0, 0, 0, 1, 0, 0, 0, 0, 0x50, SYN, 0, 0, 0, 0, 0, 0],
        ),
        Protocol::Udp => (UDP, vec![0, 8, 0, 0]),
        Protocol::Sctp => (SCTP, vec![0; 8]),
        Protocol::Other => (OTHER, vec![0; 8]),
    };
    let transport = if number == OTHER {
        rest
    } else {
        [ports, rest].concat()
    };
    let length = u16::try_from(transport.len()).expect("short");
    let mut bytes = vec![2; 12];
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            bytes.extend(ETHER_IPV4.to_be_bytes());
            bytes.extend([0x45, 0]);
            bytes.extend((20 + length).to_be_bytes());
            bytes.extend([0, 0, 0x40, 0, 64, number, 0, 0]);
            bytes.extend(from.octets());
            bytes.extend(to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            bytes.extend(ETHER_IPV6.to_be_bytes());
            bytes.extend([0x60, 0, 0, 0]);
            bytes.extend(length.to_be_bytes());
            bytes.extend([number, 64]);
            bytes.extend(from.octets());
            bytes.extend(to.octets());
        }
        _ => panic!("both ends are of the peer's family"),
    }
    bytes.extend(transport);
    bytes
}

/// An image as a world without flows. Services are looked up by nobody: what a flow goes to is known
/// after translation.
struct Host<'a> {
    image: &'a Image,
    peer: Endpoint,
}

impl Tables for Host<'_> {
    fn trie4(&self, bank: u32, node: u32, word: u32) -> Option<u32> {
        self.image.trie4(bank, node, word)
    }

    fn trie6(&self, bank: u32, node: u32, word: u32) -> Option<u32> {
        self.image.trie6(bank, node, word)
    }

    fn host6(&self, bank: u32, bucket: u32) -> Option<&HostBucket> {
        self.image.host6(bank, bucket)
    }

    fn row(&self, bank: u32, chunk: u32, entry: u32) -> Option<u16> {
        self.image.row(bank, chunk, entry)
    }

    fn uniform(&self, bank: u32, index: u32) -> Option<u32> {
        self.image.uniform(bank, index)
    }

    fn port_set(&self, bank: u32, index: u32) -> Option<&PortSet> {
        self.image.port_set(bank, index)
    }

    fn service(&self, _key: &ServiceKey) -> Option<u32> {
        None
    }
}

impl State for Host<'_> {
    fn now(&self) -> u32 {
        1000
    }

    fn endpoint(&self, slot: u32) -> Option<&Endpoint> {
        (slot == PEER_SLOT).then_some(&self.peer)
    }

    fn flow(&self, _id: u32, _direction: Direction, _packet: &Packet) -> Option<FlowState> {
        None
    }

    fn store_flow(&self, _: u32, _: Direction, _: &Packet, _: &FlowState) {}

    fn forget_flow(&self, _: u32, _: Direction, _: &Packet) {}

    fn fragment(&self, _: u8, _: u32, _: &Packet) -> Option<FragmentState> {
        None
    }

    fn store_fragment(&self, _: u8, _: u32, _: &Packet, _: &FragmentState) {}
}
