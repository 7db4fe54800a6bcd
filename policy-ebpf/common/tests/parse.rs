// SPDX-License-Identifier: Apache-2.0 OR MIT OR GPL-2.0-only
#![expect(clippy::expect_used, reason = "tests")]
//! Does the parser read what others read, and survive what nobody would write?

use etherparse::{
    IpFragOffset, Ipv4Header, Ipv4Options, Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader,
    NetHeaders, PacketHeaders, TcpHeader, TransportHeader, UdpHeader,
};
use policy_ebpf_common::parse::{
    Address, ETHER_IPV4, ETHER_IPV6, Fragment, Frame, ICMP, ICMPV6, Kind, Packet, TCP, UDP, parse,
    parse_quoted,
};
use proptest::{collection::vec, prelude::*, sample::select};

/// An IP packet written by etherparse, and what was meant by it.
#[derive(Clone, Debug)]
struct Written {
    bytes: Vec<u8>,
    ipv6: bool,
}

fn ether_type(ipv6: bool) -> u16 {
    if ipv6 { ETHER_IPV6 } else { ETHER_IPV4 }
}

fn read(bytes: &[u8], ipv6: bool) -> (Frame, Packet) {
    let mut packet = Packet::default();
    let frame = parse(&bytes, ether_type(ipv6), &mut packet);
    (frame, packet)
}

prop_compose! {
    fn tcp()(source: u16, destination: u16, syn: bool, ack: bool, fin: bool, rst: bool) -> Vec<u8> {
        let mut header = TcpHeader::new(source, destination, 1, 1000);
        header.syn = syn;
        header.ack = ack;
        header.fin = fin;
        header.rst = rst;
        header.to_bytes().to_vec()
    }
}

prop_compose! {
    fn udp()(source: u16, destination: u16, payload in vec(any::<u8>(), 0..40)) -> Vec<u8> {
        let header = UdpHeader::without_ipv4_checksum(source, destination, payload.len()).expect("short");
        [header.to_bytes().to_vec(), payload].concat()
    }
}

fn transport() -> impl Strategy<Value = (u8, Vec<u8>)> {
    prop_oneof![
        tcp().prop_map(|bytes| (TCP, bytes)),
        udp().prop_map(|bytes| (UDP, bytes)),
        vec(any::<u8>(), 0..40).prop_map(|bytes| (253, bytes)),
    ]
}

prop_compose! {
    fn ipv4()(
        (protocol, payload) in transport(),
        source: [u8; 4],
        destination: [u8; 4],
        options in (0_usize..=10).prop_flat_map(|words| vec(any::<u8>(), words * 4)),
        padding in vec(any::<u8>(), 0..8),
    ) -> Written {
        let length = u16::try_from(payload.len()).expect("short");
        let mut header = Ipv4Header::new(length, 64, protocol.into(), source, destination).expect("short");
        header.options = Ipv4Options::try_from(options.as_slice()).expect("aligned");
        let total = header.header_len() + payload.len();
        header.total_len = u16::try_from(total).expect("short");
        Written {
            // Behind a short packet Ethernet leaves padding.
            bytes: [header.to_bytes().to_vec(), payload, padding].concat(),
            ipv6: false,
        }
    }
}

prop_compose! {
    fn ipv6()(
        (protocol, payload) in transport(),
        source: [u8; 16],
        destination: [u8; 16],
        extensions in vec((select(vec![0_u8, 43, 60]), 0_usize..4), 0..5),
        fragment in any::<Option<u32>>(),
    ) -> Written {
        let mut next = protocol;
        let mut body = payload;
        if let Some(identification) = fragment {
            // A fragment header over a whole datagram (RFC 6946).
            let header = Ipv6FragmentHeader::new(next.into(), IpFragOffset::ZERO, false, identification);
            body = [header.to_bytes().to_vec(), body].concat();
            next = 44;
        }
        for (kind, units) in extensions {
            let payload = vec![0; 6 + 8 * units];
            let header = Ipv6RawExtHeader::new_raw(next.into(), &payload).expect("aligned");
            body = [header.to_bytes().to_vec(), body].concat();
            next = kind;
        }
        let header = Ipv6Header {
            payload_length: u16::try_from(body.len()).expect("short"),
            next_header: next.into(),
            hop_limit: 64,
            source,
            destination,
            ..Ipv6Header::default()
        };
        Written {
            bytes: [header.to_bytes().to_vec(), body].concat(),
            ipv6: true,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_parser_agrees_with_etherparse(written in prop_oneof![ipv4(), ipv6()]) {
        let (frame, packet) = read(&written.bytes, written.ipv6);
        prop_assert_eq!(frame, Frame::Ip);
        // etherparse is strict about the order of extension headers; the kernel is not.
        let Ok(headers) = PacketHeaders::from_ip_slice(&written.bytes) else {
            return Ok(());
        };
        match headers.net {
            Some(NetHeaders::Ipv4(header, _)) => {
                prop_assert_eq!(packet.source, Address::v4(header.source));
                prop_assert_eq!(packet.destination, Address::v4(header.destination));
                prop_assert_eq!(packet.protocol, header.protocol.0);
            }
            Some(NetHeaders::Ipv6(header, _)) => {
                prop_assert_eq!(packet.source, Address::v6(header.source));
                prop_assert_eq!(packet.destination, Address::v6(header.destination));
                prop_assert_eq!(packet.source.octets(), header.source);
            }
            _ => prop_assert!(false, "an IP packet"),
        }
        match headers.transport {
            Some(TransportHeader::Tcp(tcp)) => {
                prop_assert_eq!(packet.protocol, TCP);
                prop_assert_eq!(packet.source_port, tcp.source_port);
                prop_assert_eq!(packet.destination_port, tcp.destination_port);
                let opening = tcp.syn && !tcp.ack;
                prop_assert_eq!(packet.kind == Kind::Opening, opening);
                prop_assert_eq!(packet.closing, tcp.fin || tcp.rst);
            }
            Some(TransportHeader::Udp(udp)) => {
                prop_assert_eq!(packet.protocol, UDP);
                prop_assert_eq!(packet.kind, Kind::Datagram);
                prop_assert_eq!(packet.source_port, udp.source_port);
                prop_assert_eq!(packet.destination_port, udp.destination_port);
            }
            // etherparse stops at an extension header out of order; the kernel goes on.
            None if packet.has_ports() => prop_assert!(written.ipv6),
            _ => {
                prop_assert_eq!((packet.source_port, packet.destination_port), (0, 0));
            }
        }
    }

    #[test]
    fn nothing_panics(bytes in vec(any::<u8>(), 0..200), ether_type: u16, ip in 0_u8..3) {
        let mut bytes = bytes;
        // Random first bytes would rarely be an IP header.
        if let Some(first) = bytes.first_mut() {
            *first = match ip {
                0 => 0x40 | *first & 0xf,
                1 => 0x60,
                _ => *first,
            };
        }
        let bytes = bytes.as_slice();
        for ether_type in [ether_type, ETHER_IPV4, ETHER_IPV6] {
            let mut packet = Packet::default();
            if parse(&bytes, ether_type, &mut packet) == Frame::Ip {
                let mut quoted = Packet::default();
                parse_quoted(&bytes, &packet, &mut quoted);
            }
        }
    }

    #[test]
    fn a_changed_byte_is_read_or_refused_but_never_reaches_beyond_the_packet(
        written in prop_oneof![ipv4(), ipv6()],
        at: proptest::sample::Index,
        value: u8,
        cut: proptest::sample::Index,
    ) {
        let mut bytes = written.bytes;
        let index = at.index(bytes.len());
        bytes[index] = value;
        bytes.truncate(cut.index(bytes.len() + 1));
        let (frame, packet) = read(&bytes, written.ipv6);
        if frame == Frame::Ip && packet.fragment != Fragment::Later {
            // Ports are only reported if their bytes are there.
            let end = packet.transport as usize + if packet.has_ports() { 8 } else { 0 };
            prop_assert!(end <= bytes.len() || !packet.has_ports());
        }
    }

    #[test]
    fn an_error_yields_what_it_quotes(written in prop_oneof![ipv4(), ipv6()], extra in 0_usize..64) {
        let (frame, inner) = read(&written.bytes, written.ipv6);
        prop_assert_eq!(frame, Frame::Ip);
        // RFC 792 promises eight bytes of the transport header; RFC 4443 more.
        let quoted_length = (inner.transport as usize + 8 + extra).min(written.bytes.len());
        let quoted_bytes = &written.bytes[..quoted_length];
        let (kind, code) = if written.ipv6 { (1, 4) } else { (3, 3) };
        let message = [&[kind, code, 0, 0, 0, 0, 0, 0][..], quoted_bytes].concat();
        let length = u16::try_from(message.len()).expect("short");
        let bytes = if written.ipv6 {
            let header = Ipv6Header {
                payload_length: length,
                next_header: ICMPV6.into(),
                hop_limit: 64,
                ..Ipv6Header::default()
            };
            [header.to_bytes().to_vec(), message].concat()
        } else {
            let header = Ipv4Header::new(length, 64, ICMP.into(), [1; 4], [2; 4]).expect("short");
            [header.to_bytes().to_vec(), message].concat()
        };
        let (frame, outer) = read(&bytes, written.ipv6);
        prop_assert_eq!((frame, outer.kind), (Frame::Ip, Kind::Error));
        let mut quoted = Packet::default();
        let read = parse_quoted(&bytes.as_slice(), &outer, &mut quoted);
        // A UDP datagram or an unknown protocol may be shorter than eight bytes of header.
        if quoted_length >= inner.transport as usize + 8 || !inner.has_ports() {
            prop_assert!(read);
            prop_assert_eq!((quoted.source, quoted.destination), (inner.source, inner.destination));
            prop_assert_eq!(quoted.protocol, inner.protocol);
            prop_assert_eq!(quoted.source_port, inner.source_port);
            prop_assert_eq!(quoted.destination_port, inner.destination_port);
        }
    }
}

#[test]
fn generated_packets_are_mostly_ones_etherparse_reads() {
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = prop_oneof![ipv4(), ipv6()];
    let readable = (0..500)
        .filter(|_| {
            let written = strategy.new_tree(&mut runner).expect("a packet").current();
            PacketHeaders::from_ip_slice(&written.bytes).is_ok()
        })
        .count();
    // The comparison would be inert if etherparse refused what is generated.
    assert!(readable > 300, "{readable} of 500");
}
