// SPDX-License-Identifier: Apache-2.0 OR MIT OR GPL-2.0-only
#![expect(clippy::expect_used, reason = "tests")]
//! Does the short way for plain packets lead where the long one does?

use std::{
    cell::{Cell as Counter, RefCell},
    collections::BTreeMap,
};

use etherparse::PacketBuilder;
use policy_ebpf_common::{
    abi::{
        Cell, Config, Endpoint, FlowState, FragmentState, HostBucket, PORT_SET_BOUNDARIES, PortSet,
        ServiceKey, TrieWord,
    },
    decide::{Court, Judgement, Outcome, Ruling, Standing, State},
    flow::{Direction, Source},
    lookup::{Bank, Tables},
    parse::{ETHER_IPV4, ETHER_IPV6, Frame, Head, Kind, Packet, opens_nothing, parse, parse_plain},
};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config as Runs, TestRunner},
};
use zerocopy::FromZeros as _;

const ETHERNET: usize = 14;

/// A frame that fails the test when something is read that was not asked for.
struct Strict<'a> {
    frame: &'a [u8],
    known: Counter<u32>,
}

impl Strict<'_> {
    fn bytes<const N: usize>(&self, offset: u32) -> [u8; N] {
        let end = offset as usize + N;
        assert!(end <= self.known.get() as usize, "nobody asked for {end}");
        self.frame[offset as usize..end]
            .try_into()
            .expect("as long as asked")
    }
}

impl Head for Strict<'_> {
    fn holds(&self, length: u32) -> bool {
        let holds = length as usize <= self.frame.len();
        if holds {
            self.known.set(self.known.get().max(length));
        }
        holds
    }

    fn byte(&self, offset: u32) -> u8 {
        let [byte] = self.bytes(offset);
        byte
    }

    fn half(&self, offset: u32) -> u16 {
        u16::from_ne_bytes(self.bytes(offset))
    }

    fn word(&self, offset: u32) -> u32 {
        u32::from_ne_bytes(self.bytes(offset))
    }
}

/// The packet that the short way sees, if it takes the frame. Memory holds another packet before.
fn short(frame: &[u8], ether_type: u16) -> Option<Packet> {
    let head = Strict {
        frame,
        known: Counter::new(0),
    };
    let mut packet = Packet {
        hop_limit: 9,
        identification: [9; 4],
        ..Packet::default()
    };
    parse_plain(&head, ether_type, &mut packet).then_some(packet)
}

/// Whether the frame is told to open nothing.
fn shortest(frame: &[u8], ether_type: u16) -> bool {
    let head = Strict {
        frame,
        known: Counter::new(0),
    };
    opens_nothing(&head, ether_type)
}

/// Whether the shortest way takes the frame.
fn passed_by(court: &Court<'_, World>, direction: Direction, frame: &[u8]) -> bool {
    let head = Strict {
        frame,
        known: Counter::new(0),
    };
    court.passes_by(direction, &head, ether_type(frame))
}

fn long(frame: &[u8], ether_type: u16) -> (Frame, Packet) {
    let mut packet = Packet::default();
    let bytes = frame.get(ETHERNET..).unwrap_or_default();
    (parse(&bytes, ether_type, &mut packet), packet)
}

/// The Ethernet protocol in the frame.
fn ether_type(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[12], frame[13]])
}

prop_compose! {
    /// A whole TCP segment or UDP datagram right behind the IP header.
    fn plain()(
        ipv6: bool,
        tcp: bool,
        near in address(),
        far in address(),
        ports in (port(), port()),
        flags in 0_u8..64,
        payload in vec(any::<u8>(), 0..30),
    ) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let builder = if ipv6 {
            builder.ipv6(near, far, 64)
        } else {
            let four = |[a, b, c, d, ..]: [u8; 16]| [a, b, c, d];
            builder.ipv4(four(near), four(far), 64)
        };
        let mut frame = Vec::new();
        if tcp {
            let mut builder = builder.tcp(ports.0, ports.1, 1, 1000);
            if flags & 1 != 0 { builder = builder.syn(); }
            if flags & 2 != 0 { builder = builder.ack(1); }
            if flags & 4 != 0 { builder = builder.fin(); }
            if flags & 8 != 0 { builder = builder.rst(); }
            builder.write(&mut frame, &payload).expect("a vector takes all");
        } else {
            builder.udp(ports.0, ports.1).write(&mut frame, &payload).expect("a vector takes all");
        }
        frame
    }
}

/// Few addresses, so that packets have to do with each other and with the pod.
fn address() -> impl Strategy<Value = [u8; 16]> {
    prop_oneof![
        Just(POD),
        (1..5_u8).prop_map(|last| [10, 0, 0, last, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]),
        any::<[u8; 16]>(),
    ]
}

const POD: [u8; 16] = [10, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![80..84_u16, any::<u16>()]
}

/// Any bytes behind a protocol that is looked at, and plain frames with a few bytes changed and
/// the end cut off.
fn odd() -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((0..80_usize, any::<u8>()), 0..4);
    let mangled = (plain(), changes, 0..90_usize).prop_map(|(mut frame, changes, length)| {
        for (at, byte) in changes {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        frame.truncate(length.max(ETHERNET));
        frame
    });
    let random = (vec(any::<u8>(), 0..90), any::<bool>()).prop_map(|(bytes, ipv6)| {
        let ether_type = if ipv6 { ETHER_IPV6 } else { ETHER_IPV4 };
        [&[0; 12][..], &ether_type.to_be_bytes(), &bytes].concat()
    });
    prop_oneof![mangled, random]
}

proptest! {
    #[test]
    fn plain_frames_are_recognised(frame in plain()) {
        let packet = short(&frame, ether_type(&frame));
        prop_assert_eq!(packet.map(|packet| (Frame::Ip, packet)), Some(long(&frame, ether_type(&frame))));
    }

    #[test]
    fn what_is_recognised_is_read_the_same_way(frame in odd()) {
        if let Some(packet) = short(&frame, ether_type(&frame)) {
            prop_assert_eq!((Frame::Ip, packet), long(&frame, ether_type(&frame)));
        }
    }

    #[test]
    fn the_stack_has_to_see_the_same_protocol(frame in plain(), seen: u16) {
        prop_assume!(seen != ether_type(&frame));
        prop_assert_eq!(short(&frame, seen), None);
    }
}

proptest! {
    #[test]
    fn what_opens_nothing_is_told_apart(frame in plain()) {
        let packet = short(&frame, ether_type(&frame)).expect("the frame is plain");
        let opens = matches!(packet.kind, Kind::Opening);
        prop_assert_eq!(shortest(&frame, ether_type(&frame)), !opens);
    }

    #[test]
    fn what_is_known_of_a_flow_passes_as_a_number(egress: bool, cell: u32) {
        let opener = if egress { Direction::Egress } else { Direction::Ingress };
        for known in [None, Some(Standing { opener, cell: Cell(cell) })] {
            prop_assert_eq!(Standing::unpack(Standing::pack(known)), known);
        }
    }
}

/// Tables and state of random content: what is asked for again is answered the same.
#[derive(Debug)]
struct World {
    seed: u64,
    set: PortSet,
    bucket: HostBucket,
    others: [Endpoint; 2],
    flow: Option<FlowState>,
    /// What was remembered and forgotten.
    notes: RefCell<Vec<(Direction, Option<FlowState>)>>,
}

const NOW: u32 = 100_000;

impl World {
    /// A number below `bound` that depends on what is asked.
    fn draw(&self, bound: u32, about: [u32; 3]) -> u32 {
        let mut hash = self.seed;
        for word in about {
            hash = (hash ^ u64::from(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash ^= hash >> 32;
        }
        u32::try_from(hash % u64::from(bound)).expect("below a word")
    }

    fn trie(&self, node: u32, word: u32) -> Option<u32> {
        let class = u16::try_from(self.draw(40, [0, node, word])).expect("small");
        Some(match self.draw(8, [1, node, word]) {
            0 => return None,
            1 | 2 => TrieWord::child(node % 7 + 1).0,
            3 => TrieWord::leaf(class, true).0,
            _ => TrieWord::leaf(class, false).0,
        })
    }

    fn cell(&self, about: [u32; 2]) -> u32 {
        let [a, b] = about;
        let action = [
            Cell::DENY,
            Cell::DENY,
            Cell::ALLOW,
            Cell::ALLOW,
            Cell::DEFER,
        ][self.draw(5, [2, a, b]) as usize];
        let audit = self.draw(4, [3, a, b]) == 0;
        Cell::new(action, 1, audit, self.draw(9, [4, a, b])).0
    }
}

impl Tables for World {
    fn trie4(&self, _bank: u32, node: u32, word: u32) -> Option<u32> {
        self.trie(node, word)
    }

    fn trie6(&self, _bank: u32, node: u32, word: u32) -> Option<u32> {
        self.trie(node, word)
    }

    fn host6(&self, _bank: u32, bucket: u32) -> Option<&HostBucket> {
        (self.draw(2, [5, bucket, 0]) == 0).then_some(&self.bucket)
    }

    fn row(&self, _bank: u32, chunk: u32, entry: u32) -> Option<u16> {
        let number = self.draw(6, [6, chunk, entry]);
        let uniform = if self.draw(2, [7, chunk, entry]) == 0 {
            1 << 15
        } else {
            0
        };
        u16::try_from(number | uniform).ok()
    }

    fn uniform(&self, _bank: u32, index: u32) -> Option<u32> {
        Some(self.cell([8, index]))
    }

    fn port_set(&self, _bank: u32, index: u32) -> Option<&PortSet> {
        (index < 5).then_some(&self.set)
    }

    fn service(&self, key: &ServiceKey) -> Option<u32> {
        let [.., last] = key.address;
        (last % 2 == 0).then(|| self.draw(40, [9, last.into(), key.port[1].into()]))
    }
}

impl State for World {
    fn now(&self) -> u32 {
        NOW
    }

    fn endpoint(&self, slot: u32) -> Option<&Endpoint> {
        self.others.get(slot as usize)
    }

    fn flow(&self, _id: u32, _direction: Direction, _packet: &Packet) -> Option<FlowState> {
        self.flow
    }

    fn store_flow(&self, _id: u32, direction: Direction, _packet: &Packet, state: &FlowState) {
        self.notes.borrow_mut().push((direction, Some(*state)));
    }

    fn forget_flow(&self, _id: u32, direction: Direction, _packet: &Packet) {
        self.notes.borrow_mut().push((direction, None));
    }

    fn fragment(&self, _stage: u8, _id: u32, _packet: &Packet) -> Option<FragmentState> {
        None
    }

    fn store_fragment(&self, _stage: u8, _id: u32, _packet: &Packet, _state: &FragmentState) {
        unreachable!("a plain packet is no fragment");
    }
}

prop_compose! {
    fn flow_state()(age in 0..400_u32, generation in 0..3_u32, cell: u32, flags in 0..64_u32) -> FlowState {
        FlowState { last_seen: NOW - age, generation, cell, flags }
    }
}

prop_compose! {
    fn port_set()(mut boundaries in vec(0..0x4_0000_u32, 4), cells in vec(any::<u32>(), 5)) -> PortSet {
        boundaries.sort_unstable();
        let mut set = PortSet::new_zeroed();
        set.boundaries = [u32::MAX; PORT_SET_BOUNDARIES];
        for (place, boundary) in set.boundaries.iter_mut().zip(boundaries) {
            *place = boundary;
        }
        // DESCEND to one of the sets, which all are this one.
        let small = |cell: u32| if cell >> 30 == Cell::DESCEND { 3 << 30 | cell & 3 } else { cell };
        for (place, cell) in set.cells.iter_mut().zip(cells) {
            *place = small(cell);
        }
        set
    }
}

prop_compose! {
    fn world()(
        seed: u64,
        set in port_set(),
        word in 0..40_u32,
        classes in vec(0..3_u32, 2),
        flow in proptest::option::weighted(0.7, flow_state()),
    ) -> World {
        let mut bucket = HostBucket::new_zeroed();
        bucket.keys[0] = policy_ebpf_common::parse::Address::v6(POD).0;
        bucket.words[0] = word;
        let other = |classes| Endpoint { ifindex: 7, classes: [classes; 2], ..Endpoint::new_zeroed() };
        World { seed, set, bucket, others: [other(classes[0]), other(classes[1] << 16)], flow, notes: RefCell::default() }
    }
}

prop_compose! {
    /// The pod and the node's switches. Most have nothing that stands in the short way.
    fn pod()(
        rows in [0..3_u32, 0..3_u32],
        own: u32,
        flags in prop_oneof![3 => Just(0_u32), 1 => 0..16_u32],
        switches in prop_oneof![2 => Just(0_u32), 1 => 0..16_u32],
    ) -> (Endpoint, Config) {
        let endpoint = Endpoint {
            ifindex: 5,
            id: 6,
            flags,
            rows: [rows[0] | rows[1] << 16; 2],
            own4: [own; 2],
            own6: [own; 2],
            ipv4: [10, 0, 0, 9],
            ipv6: POD,
            ..Endpoint::new_zeroed()
        };
        let config = Config {
            row_chunks: [2; 2],
            generation: [1, 2],
            flags: switches,
            udp_timeout: [30, 120],
            other_timeout: 60,
            tcp_timeout: 300,
            hz: 100,
            ..Config::new_zeroed()
        };
        (endpoint, config)
    }
}

/// A direction, and the source that packets of it may have.
fn side() -> impl Strategy<Value = (Direction, Source)> {
    let source = prop_oneof![
        4 => Just(Source::Address),
        1 => Just(Source::Host),
        1 => Just(Source::Own),
        2 => (0..3_u32).prop_map(Source::Slot),
    ];
    (source, any::<bool>()).prop_map(|(source, ingress)| {
        if ingress {
            (Direction::Ingress, source)
        } else {
            (Direction::Egress, Source::Address)
        }
    })
}

#[test]
fn the_short_way_judges_and_remembers_as_the_long_one_does() {
    let finals = RefCell::new(BTreeMap::<Outcome, u32>::new());
    let settled = RefCell::new(BTreeMap::<Outcome, u32>::new());
    let given = (plain(), world(), pod(), side(), 0..2_u32);
    let runs = Runs::default();
    let enough = runs.cases >= 256;
    let mut runner = TestRunner::new(Runs {
        cases: runs.cases * 20,
        ..runs
    });
    let result = runner.run(
        &given,
        |(frame, world, (endpoint, config), (direction, source), bank)| {
            let packet = short(&frame, ether_type(&frame)).expect("the frame is plain");
            let court = Court {
                world: &world,
                config: &config,
                bank: Bank::of(&config, bank),
                endpoint: &endpoint,
                slot: 2,
            };
            let expected = court.judge(direction, Frame::Ip, source, &packet, None);
            let notes = world.notes.take();
            let ruling = court.rule_plain(direction, source, &packet);
            prop_assert!(world.notes.borrow().is_empty(), "a ruling writes nothing");
            let Some(ruling) = ruling else { return Ok(()) };
            prop_assert_eq!(Ruling::unpack(ruling.pack()), ruling);
            let (judgement, count): (Judgement, _) = match ruling {
                Ruling::Final(judgement) => (judgement, &finals),
                Ruling::Open(cell) => {
                    let judgement = court.settle(direction, source, &packet, cell);
                    if matches!(packet.kind, Kind::Opening) {
                        let settled = world.notes.take();
                        let opened = court.settle_opening(direction, source, &packet, cell);
                        prop_assert_eq!((opened, &*world.notes.borrow()), (judgement, &settled));
                    }
                    (judgement, &settled)
                }
            };
            prop_assert_eq!(judgement, expected);
            prop_assert_eq!(world.notes.take(), notes);
            *count.borrow_mut().entry(judgement.outcome).or_default() += 1;
            Ok(())
        },
    );
    result.expect("the two ways agree");
    if enough {
        use Outcome::{Allowed, Deferred, Denied, Established, Reply, Unenforced};

        let seen = |counts: RefCell<BTreeMap<Outcome, u32>>| -> Vec<_> {
            counts.into_inner().into_keys().collect()
        };
        assert_eq!(
            seen(finals),
            [Unenforced, Allowed, Deferred, Established, Denied]
        );
        assert_eq!(
            seen(settled),
            [Unenforced, Allowed, Deferred, Reply, Established, Denied]
        );
    }
}

#[test]
fn of_what_opens_nothing_a_pod_without_policies_knows_nothing() {
    let passed = Counter::new(0);
    let frame = prop_oneof![plain(), odd()];
    let given = (frame, world(), pod(), side(), 0..2_u32);
    let runs = Runs::default();
    let enough = runs.cases >= 256;
    let mut runner = TestRunner::new(Runs {
        cases: runs.cases * 10,
        ..runs
    });
    let result = runner.run(
        &given,
        |(frame, world, (endpoint, config), (direction, source), bank)| {
            // The tables of one bank concern the pod, those of the other one may.
            let mut rows = [1; 2];
            if endpoint.own4[0] % 8 != 0 {
                rows[bank as usize] = 0;
            }
            let endpoint = Endpoint { rows, ..endpoint };
            let court = Court {
                world: &world,
                config: &config,
                bank: Bank::of(&config, bank),
                endpoint: &endpoint,
                slot: 2,
            };
            if !passed_by(&court, direction, &frame) {
                return Ok(());
            }
            let (frame, packet) = long(&frame, ether_type(&frame));
            let judgement = court.judge(direction, frame, source, &packet, None);
            prop_assert_eq!(judgement, Judgement::of(Outcome::Unenforced));
            prop_assert_eq!(world.notes.take(), []);
            passed.set(passed.get() + 1);
            Ok(())
        },
    );
    result.expect("nothing is known of them");
    if enough {
        assert!(passed.get() > 300, "{} were passed by", passed.get());
    }
}
