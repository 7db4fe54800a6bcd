// SPDX-License-Identifier: Apache-2.0
//! Frames byte by byte, well-formed and otherwise. Checksums are zero: nobody on the way looks.

use std::net::IpAddr;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SCTP: u8 = 132;

pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

const ETHERNET: usize = 14;

/// Parts of an IP header that matter.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ip {
    /// Identification and, in units of eight bytes, offset; and whether more follow.
    pub(crate) fragment: Option<(u16, u16, bool)>,
    /// The length field says this much less than there is.
    pub(crate) short_by: u16,
    /// IPv6 hop limit; 64 if zero.
    pub(crate) hop_limit: u8,
}

/// A frame with an IP packet of the family of its addresses.
pub(crate) fn ip(from: &str, to: &str, protocol: u8, payload: &[u8], ip: Ip) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(packet(from, to, protocol, payload, ip));
    frame
}

/// As [`ip`], from the Ethernet protocol on.
fn packet(from: &str, to: &str, protocol: u8, payload: &[u8], ip: Ip) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap() - ip.short_by;
    match (from.parse().unwrap(), to.parse().unwrap()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let (id, offset, more) = ip.fragment.unwrap_or_default();
            let mut packet = vec![0x08, 0x00, 0x45, 0];
            packet.extend((20 + length).to_be_bytes());
            packet.extend(id.to_be_bytes());
            packet.extend((offset | u16::from(more) << 13).to_be_bytes());
            packet.extend([64, protocol, 0, 0]);
            packet.extend(from.octets());
            packet.extend(to.octets());
            packet.extend(payload);
            packet
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut packet = vec![0x86, 0xdd, 0x60, 0, 0, 0];
            let extension = if ip.fragment.is_some() { 8 } else { 0 };
            packet.extend((length + extension).to_be_bytes());
            let hops = if ip.hop_limit == 0 { 64 } else { ip.hop_limit };
            let first = if ip.fragment.is_some() { 44 } else { protocol };
            packet.extend([first, hops]);
            packet.extend(from.octets());
            packet.extend(to.octets());
            if let Some((id, offset, more)) = ip.fragment {
                packet.extend([protocol, 0]);
                packet.extend((offset << 3 | u16::from(more)).to_be_bytes());
                packet.extend([0, 0]);
                packet.extend(id.to_be_bytes());
            }
            packet.extend(payload);
            packet
        }
        _ => panic!("addresses of two families"),
    }
}

pub(crate) fn tcp(from: &str, from_port: u16, to: &str, to_port: u16, flags: u8) -> Vec<u8> {
    ip(
        from,
        to,
        TCP,
        &tcp_header(from_port, to_port, flags),
        Ip::default(),
    )
}

pub(crate) fn tcp_header(from_port: u16, to_port: u16, flags: u8) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(from_port.to_be_bytes());
    header.extend(to_port.to_be_bytes());
    header.extend([0; 8]);
    header.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
    header
}

pub(crate) fn udp(from: &str, from_port: u16, to: &str, to_port: u16) -> Vec<u8> {
    ip(
        from,
        to,
        UDP,
        &udp_header(from_port, to_port),
        Ip::default(),
    )
}

pub(crate) fn udp_header(from_port: u16, to_port: u16) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(from_port.to_be_bytes());
    header.extend(to_port.to_be_bytes());
    header.extend([0, 8, 0, 0]);
    header
}

/// An SCTP packet with an INIT chunk.
pub(crate) fn sctp(from: &str, from_port: u16, to: &str, to_port: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(from_port.to_be_bytes());
    packet.extend(to_port.to_be_bytes());
    packet.extend([0; 8]);
    packet.extend([1, 0, 0, 20]);
    packet.extend([0; 16]);
    ip(from, to, SCTP, &packet, Ip::default())
}

/// An ICMP message of the family of its addresses, with `rest` behind type, code and checksum.
pub(crate) fn icmp(from: &str, to: &str, kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let protocol = if from.contains(':') { 58 } else { 1 };
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest);
    let hop_limit = match kind {
        133..=137 if protocol == 58 => 255,
        130..=132 | 143 if protocol == 58 => 1,
        _ => 64,
    };
    ip(
        from,
        to,
        protocol,
        &message,
        Ip {
            hop_limit,
            ..Ip::default()
        },
    )
}

/// An echo request, or the reply to one.
pub(crate) fn echo(from: &str, to: &str, identifier: u16, reply: bool) -> Vec<u8> {
    let kind = match (from.contains(':'), reply) {
        (false, false) => 8,
        (false, true) => 0,
        (true, false) => 128,
        (true, true) => 129,
    };
    let mut rest = identifier.to_be_bytes().to_vec();
    rest.extend([0, 1]);
    icmp(from, to, kind, 0, &rest)
}

/// An ICMP error about `frame`.
pub(crate) fn error(from: &str, to: &str, kind: u8, code: u8, frame: &[u8]) -> Vec<u8> {
    let quoted = &frame[ETHERNET..];
    let header = if from.contains(':') { 40 } else { 20 };
    let mut rest = vec![0; 4];
    rest.extend(&quoted[..quoted.len().min(header + 8)]);
    icmp(from, to, kind, code, &rest)
}

/// A TCP segment behind IPv4 options.
pub(crate) fn tcp_behind_options(
    from: &str,
    to: &str,
    to_port: u16,
    options: &[u8],
    flags: u8,
) -> Vec<u8> {
    assert_eq!(options.len() % 4, 0);
    let mut payload = options.to_vec();
    payload.extend(tcp_header(40_000, to_port, flags));
    let mut frame = ip(from, to, TCP, &payload, Ip::default());
    frame[ETHERNET] = 0x45 + u8::try_from(options.len() / 4).unwrap();
    frame
}

/// An IPv6 packet whose payload lies behind extension headers `(type, units beyond the first)`.
pub(crate) fn behind_extensions(
    from: &str,
    to: &str,
    extensions: &[(u8, u8)],
    protocol: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (i, (_, units)) in extensions.iter().enumerate() {
        let next = extensions.get(i + 1).map_or(protocol, |(kind, _)| *kind);
        bytes.extend([next, *units]);
        // One PadN option fills the header.
        let room = (usize::from(*units) + 1) * 8 - 2;
        bytes.extend([1, u8::try_from(room - 2).unwrap()]);
        bytes.extend(vec![0; room - 2]);
    }
    bytes.extend(payload);
    let first = extensions.first().map_or(protocol, |(kind, _)| *kind);
    ip(from, to, first, &bytes, Ip::default())
}

/// The frame behind VLAN tags `(Ethernet protocol, VLAN)`.
pub(crate) fn tagged(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let mut bytes = frame[..12].to_vec();
    for (protocol, vlan) in tags {
        bytes.extend(protocol.to_be_bytes());
        bytes.extend(vlan.to_be_bytes());
    }
    bytes.extend(&frame[12..]);
    bytes
}

/// A frame that is not IP.
pub(crate) fn ethernet(protocol: u16) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(protocol.to_be_bytes());
    frame.extend([0; 46]);
    frame
}
