// SPDX-License-Identifier: Apache-2.0 OR MIT OR GPL-2.0-only
#![expect(clippy::expect_used, reason = "tests")]
//! Does a processor that keeps copies of flows judge as one that looks every flow up?

use std::{
    cell::{Cell as Number, RefCell},
    collections::BTreeMap,
};

use policy_ebpf_common::{
    abi::{
        Cell, Config, Endpoint, FlowState, FragmentState, HostBucket, PortSet, RowEntry,
        ServiceKey, TrieWord,
    },
    decide::{Court, Judgement, Outcome, Ruling, State},
    flow::{Direction, Source, key4, key6},
    lookup::{Bank, Tables},
    parse::{Address, Kind, Packet, TCP, UDP},
    recent::{Moment, RECENT_FLOWS, Recent, recent_index},
};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config as Runs, TestRunner},
};
use zerocopy::{FromZeros as _, IntoBytes as _};

const HZ: u32 = 100;
/// Places of copies: fewer than flows.
const PLACES: u32 = 2;

/// One processor of a node, with or without copies.
struct World {
    copies: Option<RefCell<Vec<Recent>>>,
    flows: RefCell<BTreeMap<Vec<u8>, FlowState>>,
    now: Number<u32>,
    /// The cell of each direction and peer.
    cells: RefCell<[u32; 4]>,
    /// How often a copy answered.
    found: Number<u32>,
}

impl World {
    fn new(copies: bool, cells: [u32; 4]) -> Self {
        let empty = || RefCell::new(vec![Recent::default(); PLACES as usize]);
        Self {
            copies: copies.then(empty),
            flows: RefCell::default(),
            now: Number::new(1_000_000),
            cells: RefCell::new(cells),
            found: Number::new(0),
        }
    }

    fn key(id: u32, direction: Direction, packet: &Packet) -> Vec<u8> {
        if packet.ipv6 {
            key6(id, direction, packet).as_bytes().to_vec()
        } else {
            key4(id, direction, packet).as_bytes().to_vec()
        }
    }

    fn place(id: u32, direction: Direction, packet: &Packet) -> usize {
        let index = recent_index(id, direction, packet);
        assert!(index < RECENT_FLOWS, "{index}");
        (index % PLACES) as usize
    }

    /// What precedes a change of an entry.
    fn change(&self, id: u32, direction: Direction, packet: &Packet) {
        if let Some(copies) = &self.copies {
            let place = Self::place(id, direction, packet);
            copies.borrow_mut()[place].clear();
        }
    }

    /// What becomes of a packet of the pod.
    fn judge(&self, config: &Config, direction: Direction, packet: &Packet) -> Judgement {
        let endpoint = Endpoint {
            ifindex: 5,
            id: 6,
            rows: [1 | 2 << 16; 2],
            ..Endpoint::new_zeroed()
        };
        let court = Court {
            world: self,
            config,
            bank: Bank::of(config, config.active),
            endpoint: &endpoint,
            slot: 2,
        };
        let source = Source::Address;
        let ruling = court.rule_plain(direction, source, packet);
        match ruling.expect("nothing is special about the pod") {
            Ruling::Final(judgement) => judgement,
            Ruling::Open(cell) => court.settle(direction, source, packet, cell),
        }
    }
}

impl Tables for World {
    // The nibble behind the root of one trie and the first one of the other tell the peers apart.

    fn trie4(&self, _bank: u32, _node: u32, word: u32) -> Option<u32> {
        Some(TrieWord::leaf(1 + u16::from(word == 0), false).0)
    }

    fn trie6(&self, _bank: u32, _node: u32, word: u32) -> Option<u32> {
        Some(TrieWord::leaf(1 + u16::from(word == 0), false).0)
    }

    fn host6(&self, _bank: u32, _bucket: u32) -> Option<&HostBucket> {
        None
    }

    fn row(&self, _bank: u32, chunk: u32, entry: u32) -> Option<u16> {
        let index = (chunk - 1) * 2 + entry - 1;
        u16::try_from(index)
            .ok()
            .map(|index| RowEntry::uniform(index).0)
    }

    fn uniform(&self, _bank: u32, index: u32) -> Option<u32> {
        self.cells.borrow().get(index as usize).copied()
    }

    fn port_set(&self, _bank: u32, _index: u32) -> Option<&PortSet> {
        None
    }

    fn service(&self, _key: &ServiceKey) -> Option<u32> {
        None
    }
}

impl State for World {
    fn now(&self) -> u32 {
        self.now.get()
    }

    fn endpoint(&self, _slot: u32) -> Option<&Endpoint> {
        None
    }

    fn flow(&self, id: u32, direction: Direction, packet: &Packet) -> Option<FlowState> {
        let flows = self.flows.borrow();
        flows.get(&Self::key(id, direction, packet)).copied()
    }

    fn recent_flow(
        &self,
        id: u32,
        direction: Direction,
        packet: &Packet,
        moment: Moment,
    ) -> Option<FlowState> {
        let copies = self.copies.as_ref()?.borrow();
        let place = Self::place(id, direction, packet);
        let found = copies[place].find(id, direction, packet, moment)?;
        self.found.set(self.found.get() + 1);
        Some(found)
    }

    fn note_flow(
        &self,
        id: u32,
        direction: Direction,
        packet: &Packet,
        moment: Moment,
        state: &FlowState,
    ) {
        if let Some(copies) = &self.copies {
            let place = Self::place(id, direction, packet);
            copies.borrow_mut()[place].note(id, direction, packet, moment, state);
        }
    }

    fn store_flow(&self, id: u32, direction: Direction, packet: &Packet, state: &FlowState) {
        self.change(id, direction, packet);
        let key = Self::key(id, direction, packet);
        self.flows.borrow_mut().insert(key, *state);
    }

    fn forget_flow(&self, id: u32, direction: Direction, packet: &Packet) {
        self.change(id, direction, packet);
        self.flows
            .borrow_mut()
            .remove(&Self::key(id, direction, packet));
    }

    fn fragment(&self, _stage: u8, _id: u32, _packet: &Packet) -> Option<FragmentState> {
        None
    }

    fn store_fragment(&self, _stage: u8, _id: u32, _packet: &Packet, _state: &FragmentState) {
        unreachable!("no packet is a fragment");
    }
}

/// What happens on a node.
#[derive(Clone, Debug)]
enum Step {
    /// Packets to or from the pod, so many jiffies after what happened before.
    Packets(u32, usize, Direction, Packet),
    /// Other tables.
    Publish([u32; 4]),
}

fn cells() -> impl Strategy<Value = [u32; 4]> {
    proptest::array::uniform4(any::<bool>()).prop_map(|admitted| {
        let mut reason = 0;
        admitted.map(|admitted| {
            reason += 1;
            let action = if admitted { Cell::ALLOW } else { Cell::DENY };
            Cell::new(action, 1, false, reason).0
        })
    })
}

prop_compose! {
    /// Few flows, so that they meet.
    fn packet()(
        ingress: bool,
        ipv6: bool,
        tcp: bool,
        shape in 0..8_u32,
        peer in 0..2_u8,
        port in 0..2_u16,
    ) -> (Direction, Packet) {
        let address = |[a, b, c, d]: [u8; 4]| {
            if ipv6 {
                let mut octets = [0; 16];
                octets[..4].copy_from_slice(&[c, a, b, d]);
                Address::v6(octets)
            } else {
                Address::v4([a, b, c, d])
            }
        };
        let (pod, far) = (address([10, 0, 0, 9]), address([10, 0, peer << 4, 1]));
        let near_port = 80 + port;
        let kind = match (tcp, shape) {
            (true, 0) => Kind::Opening,
            (true, _) => Kind::Stream,
            (false, _) => Kind::Datagram,
        };
        let packet = Packet {
            source: far,
            destination: pod,
            source_port: 40_000,
            destination_port: near_port,
            protocol: if tcp { TCP } else { UDP },
            kind,
            closing: tcp && shape == 1,
            ipv6,
            ..Packet::default()
        };
        if ingress {
            return (Direction::Ingress, packet);
        }
        let packet = Packet {
            source: pod,
            destination: far,
            source_port: near_port,
            destination_port: 40_000,
            ..packet
        };
        (Direction::Egress, packet)
    }
}

fn step() -> impl Strategy<Value = Step> {
    // Packets come in bursts.
    let pause = prop_oneof![9 => 0..2_u32, 1 => 0..2 * HZ];
    prop_oneof![
        30 => (pause, 1..5_usize, packet())
            .prop_map(|(jiffies, count, (direction, packet))| Step::Packets(jiffies, count, direction, packet)),
        1 => cells().prop_map(Step::Publish),
    ]
}

#[test]
fn copies_change_no_judgement() {
    let outcomes = RefCell::new(BTreeMap::<Outcome, u32>::new());
    let found = Number::new(0);
    let runs = Runs::default();
    let enough = runs.cases >= 64;
    let given = (cells(), vec(step(), 1..200), 0..16_u32);
    let result = TestRunner::new(runs).run(&given, |(cells, steps, switches)| {
        let (with, without) = (World::new(true, cells), World::new(false, cells));
        let mut config = Config {
            row_chunks: [1; 2],
            generation: [1; 2],
            flags: switches,
            // Far beyond all steps: a time is noted up to an eighth of a second late.
            udp_timeout: [1 << 20; 2],
            other_timeout: 1 << 20,
            tcp_timeout: 1 << 20,
            hz: HZ,
            ..Config::new_zeroed()
        };
        for step in steps {
            match step {
                Step::Publish(cells) => {
                    config.generation = config.generation.map(|number| number + 1);
                    with.cells.replace(cells);
                    without.cells.replace(cells);
                }
                Step::Packets(jiffies, count, direction, packet) => {
                    for world in [&with, &without] {
                        world.now.set(world.now.get() + jiffies);
                    }
                    for _ in 0..count {
                        let judgement = with.judge(&config, direction, &packet);
                        let expected = without.judge(&config, direction, &packet);
                        prop_assert_eq!(judgement, expected, "{:?} {:?}", direction, packet);
                        *outcomes.borrow_mut().entry(judgement.outcome).or_default() += 1;
                    }
                }
            }
            let (with, without) = (with.flows.borrow(), without.flows.borrow());
            prop_assert_eq!(with.len(), without.len());
            for (key, flow) in with.iter() {
                let known = without.get(key).expect("the same flows are known");
                let times = [flow.last_seen, known.last_seen];
                prop_assert!(times[0].abs_diff(times[1]) <= HZ + HZ / 8, "{:?}", times);
                let same = FlowState {
                    last_seen: known.last_seen,
                    ..*flow
                };
                prop_assert_eq!(same, *known);
            }
        }
        found.set(found.get() + with.found.get());
        Ok(())
    });
    result.expect("both judge alike");
    if enough {
        use Outcome::{Allowed, Denied, Established, Reply};

        let seen: Vec<_> = outcomes.into_inner().into_keys().collect();
        assert_eq!(seen, [Allowed, Reply, Established, Denied]);
        assert!(found.get() > 1_000, "copies answered {} times", found.get());
    }
}
