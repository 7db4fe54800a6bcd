// SPDX-License-Identifier: Apache-2.0 OR MIT OR GPL-2.0-only
//! What does a processor still know of a flow that it has just looked up?
//!
//! A lookup in the table of flows costs more than the rest of a verdict. Each processor keeps copies
//! of what it found, for moments: long enough that a busy flow is seldom looked up, short enough that
//! the table learns which flows are in use. A copy stands for the entry only while the tables do that
//! admitted the flow, and not for a packet that changes the entry. A processor that changes an entry forgets its own copy; what
//! others hold is worth nothing within moments.

use crate::{
    abi::{FLOW_EGRESS, FLOW_REPLIED, FlowState},
    flow::{Direction, key4_of_plain, key6_of_plain},
    parse::{Address, Packet, UDP},
};

/// Copies that a processor keeps: a power of two.
pub const RECENT_FLOWS: u32 = 4096;

/// Parts of a second that a copy stands for the entry.
const PARTS: u32 = 8;

/// Words of a [`crate::abi::FlowKey4`].
const WORDS4: usize = 5;
/// Words of a [`crate::abi::FlowKey6`].
const WORDS6: usize = 11;

/// A copy of an entry with a [`crate::abi::FlowKey4`].
const IPV4: u32 = 4;
/// A copy of an entry with a [`crate::abi::FlowKey6`].
const IPV6: u32 = 6;

/// A copy of a flow's entry, in one cache line. All zero when unused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Recent {
    /// The key, as many words as it has.
    key: [u32; WORDS6],
    /// [`IPV4`], [`IPV6`] or nothing.
    family: u32,
    /// Jiffies of the lookup.
    looked_up: u32,
    generation: u32,
    cell: u32,
    flags: u32,
}
const _: () = assert!(size_of::<Recent>() == 64);

/// When a packet is judged.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Low 32 bits of jiffies.
    pub now: u32,
    /// Number of the tables that judge.
    pub generation: u32,
    /// Jiffies per second.
    pub hz: u32,
}

/// Which copy is that of a plain packet's flow; below [`RECENT_FLOWS`].
#[inline(always)]
#[must_use]
pub const fn recent_index(id: u32, direction: Direction, packet: &Packet) -> u32 {
    const BITS: u32 = RECENT_FLOWS.trailing_zeros();
    let (remote, local_port, remote_port) = match direction {
        Direction::Ingress => (&packet.source, packet.destination_port, packet.source_port),
        Direction::Egress => (
            &packet.destination,
            packet.source_port,
            packet.destination_port,
        ),
    };
    let Address([_, first, second, third]) = *remote;
    let ports = (local_port as u32) << 16 | remote_port as u32;
    let end = (third ^ second ^ first ^ id).wrapping_mul(0x9e37_79b1);
    let both = end.wrapping_add(ports);
    // The high bits of a product depend on all bits of its factors.
    (both ^ both >> 15).wrapping_mul(0x85eb_ca77) >> (u32::BITS - BITS)
}

impl Recent {
    #[inline(always)]
    const fn is_fresh(&self, moment: Moment) -> bool {
        moment.now.wrapping_sub(self.looked_up) < moment.hz / PARTS
    }

    /// Nothing if this is a copy of the entry of a plain packet's flow.
    #[inline(always)]
    const fn difference(&self, id: u32, direction: Direction, packet: &Packet) -> u32 {
        // Gathered before anything branches: the verifier would follow every combination of several.
        let mut difference;
        let mut word = 0;
        if packet.ipv6 {
            let key: [u32; WORDS6] = zerocopy::transmute!(key6_of_plain(id, direction, packet));
            difference = self.family ^ IPV6;
            while word < WORDS6 {
                difference |= self.key[word] ^ key[word];
                word += 1;
            }
        } else {
            let key: [u32; WORDS4] = zerocopy::transmute!(key4_of_plain(id, direction, packet));
            difference = self.family ^ IPV4;
            while word < WORDS4 {
                difference |= self.key[word] ^ key[word];
                word += 1;
            }
        }
        difference
    }

    /// Nothing unless the packet is the first that answers a datagram, which the entry has to know of.
    #[inline(always)]
    const fn first_answer(&self, direction: Direction, packet: &Packet) -> u32 {
        const { assert!(FLOW_EGRESS == Direction::Egress as u32) }
        let answers = (self.flags ^ direction as u32) & FLOW_EGRESS;
        if packet.protocol == UDP && self.flags & FLOW_REPLIED == 0 {
            answers
        } else {
            0
        }
    }

    /// The flow of a plain packet, if this is a copy of its entry that still stands for it.
    #[inline(always)]
    #[must_use]
    pub const fn find(
        &self,
        id: u32,
        direction: Direction,
        packet: &Packet,
        moment: Moment,
    ) -> Option<FlowState> {
        let difference = self.difference(id, direction, packet)
            | (self.generation ^ moment.generation)
            | self.first_answer(direction, packet);
        if difference != 0 || !self.is_fresh(moment) {
            return None;
        }
        Some(FlowState {
            last_seen: self.looked_up,
            generation: self.generation,
            cell: self.cell,
            flags: self.flags,
        })
    }

    /// Forgets whose copy this is: an entry whose copy has its place here is about to change. Not to
    /// compare keys is shorter, and another flow is just looked up once more.
    #[inline(always)]
    pub const fn clear(&mut self) {
        self.family = 0;
    }

    /// Takes a copy of the entry of a plain packet's flow, which the packet leaves as it is.
    #[inline(always)]
    pub const fn note(
        &mut self,
        id: u32,
        direction: Direction,
        packet: &Packet,
        moment: Moment,
        state: &FlowState,
    ) {
        // Flows that share a place do not take turns: the first one keeps it for its time.
        if self.family != 0 && self.generation == moment.generation && self.is_fresh(moment) {
            return;
        }
        if packet.ipv6 {
            self.key = zerocopy::transmute!(key6_of_plain(id, direction, packet));
            self.family = IPV6;
        } else {
            let key: [u32; WORDS4] = zerocopy::transmute!(key4_of_plain(id, direction, packet));
            let mut word = 0;
            while word < WORDS4 {
                self.key[word] = key[word];
                word += 1;
            }
            self.family = IPV4;
        }
        self.looked_up = moment.now;
        self.generation = state.generation;
        self.cell = state.cell;
        self.flags = state.flags;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        abi::FLOW_EGRESS,
        parse::{Kind, TCP},
    };

    const MOMENT: Moment = Moment {
        now: 10_000,
        generation: 3,
        hz: 800,
    };
    const STATE: FlowState = FlowState {
        last_seen: 9_700,
        generation: 3,
        cell: 77,
        flags: FLOW_EGRESS,
    };

    fn packet(protocol: u8, ipv6: bool) -> Packet {
        let address = |last| {
            if ipv6 {
                Address::v6([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last])
            } else {
                Address::v4([10, 0, 0, last])
            }
        };
        Packet {
            source: address(1),
            destination: address(2),
            source_port: 40_000,
            destination_port: 53,
            protocol,
            kind: if protocol == TCP {
                Kind::Stream
            } else {
                Kind::Datagram
            },
            ipv6,
            ..Packet::default()
        }
    }

    fn noted(packet: &Packet, state: &FlowState) -> Recent {
        let mut recent = Recent::default();
        recent.note(7, Direction::Egress, packet, MOMENT, state);
        recent
    }

    #[test]
    fn both_directions_find_what_one_noted() {
        for ipv6 in [false, true] {
            let packet = packet(TCP, ipv6);
            let reply = Packet {
                source: packet.destination,
                destination: packet.source,
                source_port: packet.destination_port,
                destination_port: packet.source_port,
                ..packet
            };
            let recent = noted(&packet, &STATE);
            let found = FlowState {
                last_seen: MOMENT.now,
                ..STATE
            };
            for (direction, packet) in [(Direction::Egress, &packet), (Direction::Ingress, &reply)]
            {
                assert_eq!(recent.find(7, direction, packet, MOMENT), Some(found));
                let index = recent_index(7, direction, packet);
                assert_eq!(
                    index,
                    recent_index(7, Direction::Egress, &self::packet(TCP, ipv6))
                );
                assert!(index < RECENT_FLOWS);
            }
        }
    }

    #[test]
    fn nothing_else_is_taken_for_the_flow() {
        for ipv6 in [false, true] {
            let packet = packet(TCP, ipv6);
            let recent = noted(&packet, &STATE);
            let find = |id, direction, packet: &Packet| recent.find(id, direction, packet, MOMENT);
            let mut others = [packet; 6];
            others[0].source_port += 1;
            others[1].destination_port += 1;
            others[2].protocol = UDP;
            others[3].ipv6 = !ipv6;
            for (other, address) in [(4, true), (5, false)] {
                let Packet {
                    source,
                    destination,
                    ..
                } = &mut others[other];
                let Address(words) = if address { source } else { destination };
                words[3] ^= 1 << 31;
            }
            for other in &others {
                assert_eq!(find(7, Direction::Egress, other), None, "{other:?}");
            }
            assert_eq!(find(8, Direction::Egress, &packet), None);
            assert_eq!(find(7, Direction::Ingress, &packet), None);
        }
        // Where everything is zero, so is a copy that was never made.
        assert_eq!(
            Recent::default().find(
                0,
                Direction::Ingress,
                &Packet::default(),
                Moment {
                    now: 0,
                    generation: 0,
                    hz: 800
                }
            ),
            None
        );
    }

    #[test]
    fn a_copy_stands_for_its_time_and_its_tables() {
        let packet = packet(TCP, false);
        let recent = noted(&packet, &STATE);
        let find = |moment| recent.find(7, Direction::Egress, &packet, moment).is_some();
        let later = |jiffies| Moment {
            now: MOMENT.now + jiffies,
            ..MOMENT
        };
        assert!(find(later(99)));
        assert!(!find(later(100)));
        assert!(!find(Moment {
            generation: 4,
            ..MOMENT
        }));
    }

    #[test]
    fn a_place_is_kept_until_its_copy_is_worth_nothing() {
        let (packet, other) = (packet(TCP, false), packet(TCP, true));
        let mut recent = noted(&packet, &STATE);
        let taken = |recent: &mut Recent, moment, state| {
            recent.note(7, Direction::Egress, &other, moment, state);
            recent.find(7, Direction::Egress, &other, moment).is_some()
        };
        assert!(!taken(&mut recent, MOMENT, &STATE));
        let mut free = recent;
        free.clear();
        assert!(free.find(7, Direction::Egress, &packet, MOMENT).is_none());
        assert!(taken(&mut free, MOMENT, &STATE));
        assert!(recent.find(7, Direction::Egress, &packet, MOMENT).is_some());
        let next = Moment {
            generation: 4,
            ..MOMENT
        };
        let state = FlowState {
            generation: 4,
            ..STATE
        };
        assert!(taken(&mut recent, next, &state));
        let later = Moment {
            now: next.now + 100,
            ..next
        };
        recent.note(7, Direction::Egress, &packet, later, &state);
        assert!(recent.find(7, Direction::Egress, &packet, later).is_some());
    }

    #[test]
    fn the_first_answer_to_a_datagram_is_told_to_the_entry() {
        let packet = packet(UDP, false);
        let answer = Packet {
            source: packet.destination,
            destination: packet.source,
            source_port: packet.destination_port,
            destination_port: packet.source_port,
            ..packet
        };
        let find = |flags, direction, seen: &Packet| {
            let state = FlowState { flags, ..STATE };
            let found = noted(&packet, &state).find(7, direction, seen, MOMENT);
            found.is_some()
        };
        assert!(find(FLOW_EGRESS, Direction::Egress, &packet));
        assert!(!find(FLOW_EGRESS, Direction::Ingress, &answer));
        assert!(!find(0, Direction::Egress, &packet));
        assert!(find(0, Direction::Ingress, &answer));
        for opener in [0, FLOW_EGRESS] {
            assert!(find(opener | FLOW_REPLIED, Direction::Egress, &packet));
            assert!(find(opener | FLOW_REPLIED, Direction::Ingress, &answer));
        }
    }
}
