// SPDX-License-Identifier: Apache-2.0
//! How do two raw sockets agree that SCTP gets through? (RFC 9260; kernels often lack SCTP sockets.)

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;

/// An INIT chunk from port `from` to port `to`.
pub(super) fn init(from: u16, to: u16) -> Vec<u8> {
    packet(INIT, from, to, 0)
}

/// The INIT ACK that answers `packet`, if that is an INIT.
pub(super) fn answer(packet: &[u8]) -> Option<Vec<u8>> {
    let (from, to, chunk) = header(packet)?;
    (chunk == INIT).then(|| self::packet(INIT_ACK, to, from, TAG))
}

/// Whether `packet` is the INIT ACK that answers [`init`] with the same ports.
pub(super) fn is_answer(packet: &[u8], from: u16, to: u16) -> bool {
    header(packet) == Some((to, from, INIT_ACK))
}

/// The SCTP packet in what a raw IPv4 socket receives; IPv6 ones leave the header out.
pub(super) fn behind_ipv4_header(packet: &[u8]) -> &[u8] {
    let length = packet
        .first()
        .map_or(0, |first| usize::from(first & 0xf) * 4);
    packet.get(length..).unwrap_or_default()
}

/// Initiate tag of every association: nobody continues one.
const TAG: u32 = 0x6e65_7470;

fn header(packet: &[u8]) -> Option<(u16, u16, u8)> {
    let [a, b, c, d, _, _, _, _, _, _, _, _, chunk, ..] = *packet else {
        return None;
    };
    Some((
        u16::from_be_bytes([a, b]),
        u16::from_be_bytes([c, d]),
        chunk,
    ))
}

fn packet(chunk: u8, from: u16, to: u16, tag: u32) -> Vec<u8> {
    let mut packet = Vec::with_capacity(32);
    packet.extend(from.to_be_bytes());
    packet.extend(to.to_be_bytes());
    packet.extend(tag.to_be_bytes());
    packet.extend([0; 4]); // checksum
    packet.extend([chunk, 0, 0, 20]);
    packet.extend(TAG.to_be_bytes());
    packet.extend(65_535_u32.to_be_bytes()); // receiver window
    packet.extend([0, 1, 0, 1]); // one stream each way
    packet.extend(1_u32.to_be_bytes()); // first TSN
    let checksum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&checksum);
    packet
}

/// CRC-32C, bit by bit (RFC 9260, appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let bit = crc & 1;
            crc = (crc >> 1) ^ (bit * 0x82f6_3b78);
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::{answer, crc32c, init, is_answer};

    #[test]
    fn check_value_of_the_polynomial() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn only_an_init_is_answered() {
        let request = init(4000, 9000);
        let reply = answer(&request).unwrap();
        assert!(is_answer(&reply, 4000, 9000));
        assert!(!is_answer(&reply, 4001, 9000));
        assert_eq!(answer(&reply), None);
        assert_eq!(answer(&[]), None);
    }
}
