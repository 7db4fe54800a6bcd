// SPDX-License-Identifier: Apache-2.0
//! Can the shape of a packet fool the programs?

use policy_ebpf_common::decide::Outcome::{
    Allowed, Denied, FragmentOfAllowed, FragmentOfDenied, FragmentWithoutFirst, Malformed, NotIp,
    Related, Spoofed, Unenforced,
};

use super::{
    frames::{
        ACK, Ip, SYN, TCP, UDP, behind_extensions, error, icmp, ip, tagged, tcp,
        tcp_behind_options, tcp_header, udp, udp_header,
    },
    lab::{UPLINK, key, with_node},
};

const A: &str = "10.0.1.1";
const A6: &str = "fd00:1::1";
const PEER: &str = "203.0.113.9";
const PEER6: &str = "2001:db8::9";

/// TCP and UDP 80 to and from everybody, nothing else.
const PORT_80: &str = "
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: web, namespace: x}, spec: {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{ports: [{port: 80}, {port: 80, protocol: UDP}]}], egress: [{ports: [{port: 80}, {port: 80, protocol: UDP}]}]}}
";

/// Everything to one block, nothing to others.
const ALL_PORTS: &str = "
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: out, namespace: x}, spec: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 203.0.113.0/24}}]}]}}
";

#[test]
fn ports_are_read_behind_ipv4_options() {
    with_node(|node| {
        node.apply(PORT_80);
        // The options spell "port 80" where a parser with a fixed offset would read ports.
        let fake = [0, 80, 0, 80, 1, 1, 1, 0];
        let denied = tcp_behind_options(A, PEER, 81, &fake, SYN);
        assert_eq!(node.from("x/a", &denied), Denied);
        let allowed = tcp_behind_options(A, PEER, 80, &fake, SYN);
        assert_eq!(node.from("x/a", &allowed), Allowed);
        // A header shorter than a header.
        let mut short = tcp(A, 1, PEER, 80, SYN);
        short[14] = 0x44;
        assert_eq!(node.from("x/a", &short), Malformed);
        // Of another version than its Ethernet protocol says.
        let mut other = tcp(A, 1, PEER, 80, SYN);
        other[14] = 0x65;
        assert_eq!(node.from("x/a", &other), Malformed);
    });
}

#[test]
fn ports_are_read_behind_extension_headers() {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const DESTINATION: u8 = 60;
    with_node(|node| {
        node.apply(PORT_80);
        for extensions in [
            &[(HOP_BY_HOP, 0)][..],
            &[(DESTINATION, 3)],
            &[(HOP_BY_HOP, 0), (ROUTING, 2), (DESTINATION, 0)],
            &[(DESTINATION, 0); 7],
        ] {
            for (port, expected) in [(80, Allowed), (81, Denied)] {
                let header = tcp_header(1, port, SYN);
                let frame = behind_extensions(A6, PEER6, extensions, TCP, &header);
                assert_eq!(node.from("x/a", &frame), expected, "{extensions:?}");
            }
        }
        // More than anybody has a use for.
        let header = tcp_header(1, 80, SYN);
        let long = behind_extensions(A6, PEER6, &[(DESTINATION, 0); 9], TCP, &header);
        assert_eq!(node.from("x/a", &long), Malformed);
        // The chain ends in an unknown header: another protocol, which no rule with ports admits.
        let unknown = behind_extensions(A6, PEER6, &[(DESTINATION, 0)], 253, &header);
        assert_eq!(node.from("x/a", &unknown), Denied);
        // The last header is cut off.
        let mut cut = behind_extensions(A6, PEER6, &[(DESTINATION, 0)], TCP, &header);
        cut.truncate(14 + 40 + 4);
        assert_eq!(node.from("x/a", &cut), Malformed);
    });
}

#[test]
fn nothing_behind_the_end_of_the_packet_is_read() {
    with_node(|node| {
        node.apply(PORT_80);
        // The kernel cuts the frame to the length in the header, so the flags are not there.
        for (from, to) in [(A, PEER), (A6, PEER6)] {
            let short = Ip {
                short_by: 12,
                ..Ip::default()
            };
            let frame = ip(from, to, TCP, &tcp_header(80, 4000, ACK), short);
            assert_eq!(node.from("x/a", &frame), Malformed);
        }
        let mut cut = tcp(A, 1, PEER, 80, SYN);
        cut.truncate(14 + 20 + 8);
        assert_eq!(node.from("x/a", &cut), Malformed);
    });
}

#[test]
fn frames_with_tags_are_not_waved_through() {
    with_node(|node| {
        node.apply(PORT_80);
        let denied = tcp(A, 1, PEER, 81, SYN);
        for tags in [
            &[(0x8100, 0), (0x8100, 0)][..],
            &[(0x88a8, 0), (0x8100, 0)],
            &[(0x8100, 7)],
            &[(0x8100, 0)],
        ] {
            let frame = tagged(&denied, tags);
            assert_eq!(node.from("x/a", &frame), NotIp, "{tags:?}");
            assert_eq!(node.to("x/a", UPLINK, &frame), NotIp, "{tags:?}");
        }
    });
}

#[test]
fn later_fragments_go_the_way_of_the_first() {
    with_node(|node| {
        node.apply(PORT_80);
        for (from, to) in [(A, PEER), (A6, PEER6)] {
            for (id, port, first, rest) in [
                (1, 80, Allowed, FragmentOfAllowed),
                (2, 81, Denied, FragmentOfDenied),
            ] {
                let fragment = |offset, more, payload: &[u8]| {
                    let header = Ip {
                        fragment: Some((id, offset, more)),
                        ..Ip::default()
                    };
                    ip(from, to, UDP, payload, header)
                };
                let head = fragment(0, true, &udp_header(1, port));
                let tail = fragment(1, false, &[0; 64]);
                assert_eq!(node.from("x/a", &tail), FragmentWithoutFirst);
                assert_eq!(node.from("x/a", &head), first);
                assert_eq!(node.from("x/a", &tail), rest);
                // The other direction has seen nothing of it.
                let back = ip(
                    to,
                    from,
                    UDP,
                    &[0; 64],
                    Ip {
                        fragment: Some((id, 1, false)),
                        ..Ip::default()
                    },
                );
                assert_eq!(node.to("x/a", UPLINK, &back), FragmentWithoutFirst);
            }
        }
    });
}

#[test]
fn a_fragment_without_its_first_passes_only_if_ports_do_not_matter() {
    with_node(|node| {
        node.apply(ALL_PORTS);
        let tail = |to| {
            let header = Ip {
                fragment: Some((9, 5, false)),
                ..Ip::default()
            };
            ip(A, to, UDP, &[0; 64], header)
        };
        assert_eq!(node.from("x/a", &tail(PEER)), Allowed);
        assert_eq!(node.from("x/a", &tail("198.51.100.1")), Denied);
        assert_eq!(node.from("y/a", &tail("198.51.100.1")), Unenforced);
    });
}

#[test]
fn a_transport_header_is_not_split_over_fragments() {
    with_node(|node| {
        node.apply(PORT_80);
        let fragment = |offset, more, payload: &[u8]| {
            let header = Ip {
                fragment: Some((3, offset, more)),
                ..Ip::default()
            };
            ip(A, PEER, TCP, payload, header)
        };
        let header = tcp_header(1, 80, ACK);
        assert_eq!(
            node.from("x/a", &fragment(0, true, &header[..8])),
            Malformed
        );
        assert_eq!(node.from("x/a", &fragment(0, true, &header)), Allowed);
        for offset in [1, 2] {
            let overlap = fragment(offset, false, &header[8..]);
            assert_eq!(node.from("x/a", &overlap), Malformed);
        }
    });
}

#[test]
fn errors_pass_if_what_they_quote_is_admitted() {
    with_node(|node| {
        node.apply(PORT_80);
        let sent = tcp(A, 4000, PEER, 80, ACK);
        let forbidden = tcp(A, 4000, PEER, 81, ACK);
        let anothers = tcp("10.0.2.1", 4000, PEER, 80, ACK);
        for (kind, code) in [(3, 1), (3, 3), (11, 0), (12, 0)] {
            let about = |frame| error(PEER, A, kind, code, frame);
            assert_eq!(node.to("x/a", UPLINK, &about(&sent)), Related);
            assert_eq!(node.to("x/a", UPLINK, &about(&forbidden)), Denied);
            assert_eq!(node.to("x/a", UPLINK, &about(&anothers)), Denied);
        }
        // About an answer of the pod's, and from the pod about what it got.
        let answer = tcp(A, 80, PEER, 4000, ACK);
        assert_eq!(
            node.to("x/a", UPLINK, &error(PEER, A, 3, 1, &answer)),
            Related
        );
        let got = udp(PEER, 4000, A, 80);
        assert_eq!(node.from("x/a", &error(A, PEER, 3, 3, &got)), Related);
        // Path MTU discovery may not stall, even for what is tracked in no way.
        assert_eq!(
            node.to("x/a", UPLINK, &error(PEER, A, 3, 4, &forbidden)),
            Related
        );
        assert_eq!(
            node.to("x/a", UPLINK, &error(PEER, A, 3, 4, &anothers)),
            Denied
        );
        // A redirect would change the pod's routes.
        assert!(
            node.to("x/a", UPLINK, &error(PEER, A, 5, 1, &sent))
                .is_drop()
        );

        let six = tcp(A6, 4000, PEER6, 80, ACK);
        for (kind, code) in [(1, 4), (2, 0), (3, 0), (4, 1)] {
            let about = error(PEER6, A6, kind, code, &six);
            assert_eq!(node.to("x/a", UPLINK, &about), Related);
        }
        let cut = icmp(PEER, A, 3, 1, &[0; 8]);
        assert_eq!(node.to("x/a", UPLINK, &cut), Denied);
    });
}

#[test]
fn a_checked_source_has_to_be_the_pods() {
    with_node(|node| {
        node.apply("");
        let index = node.ifindex[&key("x/a")];
        node.datapath.set_flags(index, false, true).unwrap();
        for (from, to, expected) in [
            (A, PEER, Unenforced),
            ("10.0.2.1", PEER, Spoofed),
            (A6, PEER6, Unenforced),
            ("fd00:2::1", PEER6, Spoofed),
            ("fe80::1", "fe80::2", Unenforced),
        ] {
            let frame = tcp(from, 1, to, 80, SYN);
            assert_eq!(node.from("x/a", &frame), expected, "{from}");
        }
    });
}
