// SPDX-License-Identifier: Apache-2.0
//! What would the programs do with a packet, and what do they read on the way?
//!
//! The programs' own decision code runs here, over the pinned maps: there is nothing in this file that
//! decides. What it would write is noted and not written.

use std::{cell::RefCell, collections::BTreeMap, fmt, net::Ipv6Addr};

use policy_ebpf_common::{
    abi::{Cell, Endpoint, FlowState, FragmentState, HostBucket, PortSet, ServiceKey, TrieWord},
    decide::{Court, Judgement, Outcome, State},
    flow::{Direction, Source},
    lookup::Tables,
    parse::{Frame, Packet},
};

use crate::datapath::{DatapathError, Pinned};

/// A packet at a pod's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The pod's slot.
    pub slot: u32,
    /// Which way the packet crosses the interface.
    pub direction: Direction,
    /// How the programs know who the other end is.
    pub source: Source,
    /// The packet.
    pub packet: Packet,
}

/// A step on the way to the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The map that was read, or would be written.
    pub map: &'static str,
    /// What was found, where.
    pub found: String,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:10} {}", self.map, self.found)
    }
}

/// The answer, with the way there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Every step, in order.
    pub steps: Vec<Step>,
    /// What becomes of the packet.
    pub judgement: Judgement,
}

impl Verdict {
    /// `allow`, `deny`, `would drop` if only audit mode lets the packet pass, or `defer` for a Service
    /// whose backends differ.
    pub const fn word(&self) -> &'static str {
        if self.judgement.is_audited() {
            return "would drop";
        }
        match self.judgement.outcome {
            Outcome::Deferred => "defer",
            outcome if outcome.is_drop() => "deny",
            _ => "allow",
        }
    }
}

/// Has the programs' decision code judge a packet; `None` if no endpoint is in the slot.
pub fn explain(tables: &Pinned, question: &Question) -> Result<Option<Verdict>, DatapathError> {
    let Question {
        slot,
        direction,
        source,
        ref packet,
    } = *question;
    let endpoints = tables.endpoints();
    let Some(endpoint) = endpoints.get(&slot).copied() else {
        return Ok(None);
    };
    let config = tables.config();
    let bank = tables.bank();
    let flow = tables.flow(endpoint.id, direction, packet)?;
    let watched = Watched {
        tables,
        endpoints,
        now: tables.now()?,
        flow,
        steps: RefCell::default(),
    };
    watched.step(
        "CONFIG",
        format!("bank {}, generation {}", bank.number, bank.generation),
    );
    let [ingress, egress] = halves(endpoint.rows[bank.number as usize & 1]);
    watched.step(
        "ENDPOINTS",
        format!(
            "slot {slot}: interface {}, id {}, rows {ingress} in, {egress} out",
            endpoint.ifindex, endpoint.id
        ),
    );
    let court = Court {
        world: &watched,
        config: &config,
        bank,
        endpoint: &endpoint,
        slot,
    };
    let judgement = court.judge(direction, Frame::Ip, source, packet, None);
    if judgement.cell.0 != 0 {
        let counter = tables.rule_counter(judgement.cell.reason())?;
        watched.step(
            "COUNTERS",
            format!(
                "reason {} decided {} packets so far",
                judgement.cell.reason(),
                counter.packets
            ),
        );
    }
    Ok(Some(Verdict {
        steps: watched.steps.into_inner(),
        judgement,
    }))
}

/// The pinned maps, and what was read of them.
#[derive(Debug)]
struct Watched<'a> {
    tables: &'a Pinned,
    endpoints: BTreeMap<u32, Endpoint>,
    now: u32,
    flow: Option<FlowState>,
    steps: RefCell<Vec<Step>>,
}

impl Watched<'_> {
    fn step(&self, map: &'static str, found: String) {
        self.steps.borrow_mut().push(Step { map, found });
    }

    fn word(&self, map: &'static str, node: u32, word: u32, found: Option<u32>) {
        let found = match found.map(|word| (TrieWord(word), TrieWord(word).as_child())) {
            None => "nothing".to_owned(),
            Some((_, Some(child))) => format!("node {child}"),
            Some((leaf, None)) if leaf.is_service() => format!("class {}, Services", leaf.class()),
            Some((leaf, None)) => format!("class {}", leaf.class()),
        };
        self.step(map, format!("node {node}, nibble {word:x}: {found}"));
    }
}

impl Tables for Watched<'_> {
    fn trie4(&self, bank: u32, node: u32, word: u32) -> Option<u32> {
        let found = self.tables.trie4(bank, node, word);
        self.word("TRIE4", node, word, found);
        found
    }

    fn trie6(&self, bank: u32, node: u32, word: u32) -> Option<u32> {
        let found = self.tables.trie6(bank, node, word);
        self.word("TRIE6", node, word, found);
        found
    }

    fn host6(&self, bank: u32, bucket: u32) -> Option<&HostBucket> {
        self.step("HOSTS6", format!("bucket {bucket}"));
        self.tables.host6(bank, bucket)
    }

    fn row(&self, bank: u32, chunk: u32, entry: u32) -> Option<u16> {
        let found = self.tables.row(bank, chunk, entry);
        let value = found.unwrap_or_default();
        self.step(
            "ROWS",
            format!("chunk {chunk}, entry {entry}: {value:#06x}"),
        );
        found
    }

    fn uniform(&self, bank: u32, index: u32) -> Option<u32> {
        let found = self.tables.uniform(bank, index);
        let cell = Cell(found.unwrap_or_default());
        let action = match cell.action() {
            _ if cell.audit() => "would drop",
            Cell::ALLOW => "allow",
            Cell::DEFER => "defer",
            _ => "deny",
        };
        self.step(
            "UNIFORM",
            format!(
                "cell {index}: {action}, tier {}, reason {}",
                cell.tier(),
                cell.reason()
            ),
        );
        found
    }

    fn port_set(&self, bank: u32, index: u32) -> Option<&PortSet> {
        self.step("PORT_SETS", format!("port set {index}"));
        self.tables.port_set(bank, index)
    }

    fn service(&self, key: &ServiceKey) -> Option<u32> {
        let found = self.tables.service(key);
        let class = found.map_or_else(|| "none".to_owned(), |class| format!("class {class}"));
        self.step(
            "SERVICES",
            format!(
                "{} port {}: {class}",
                Ipv6Addr::from(key.address).to_canonical(),
                u16::from_be_bytes(key.port)
            ),
        );
        found
    }
}

impl State for Watched<'_> {
    fn now(&self) -> u32 {
        self.now
    }

    fn endpoint(&self, slot: u32) -> Option<&Endpoint> {
        let endpoint = self.endpoints.get(&slot);
        let id = endpoint.map(|endpoint| endpoint.id);
        let of = id.map_or_else(|| "nothing".to_owned(), |id| format!("id {id}"));
        self.step("ENDPOINTS", format!("slot {slot}, the other end: {of}"));
        endpoint
    }

    fn flow(&self, _id: u32, _direction: Direction, packet: &Packet) -> Option<FlowState> {
        let found = match &self.flow {
            None => "no flow".to_owned(),
            Some(state) => {
                let opener = match state.initiator() {
                    Direction::Ingress => "the other end",
                    Direction::Egress => "the pod",
                };
                let age = self.now.wrapping_sub(state.last_seen);
                let hz = self.tables.config().hz.max(1);
                format!(
                    "a flow that {opener} opened, of generation {}, seen {} s ago",
                    state.generation,
                    age / hz
                )
            }
        };
        self.step(flows(packet), found);
        self.flow
    }

    fn store_flow(&self, _id: u32, _: Direction, packet: &Packet, _: &FlowState) {
        self.step(flows(packet), "the flow would be noted".to_owned());
    }

    fn forget_flow(&self, _id: u32, _: Direction, packet: &Packet) {
        self.step(flows(packet), "the flow would be forgotten".to_owned());
    }

    fn fragment(&self, _stage: u8, _id: u32, _packet: &Packet) -> Option<FragmentState> {
        None
    }

    fn store_fragment(&self, _: u8, _id: u32, _packet: &Packet, _: &FragmentState) {}
}

const fn flows(packet: &Packet) -> &'static str {
    if packet.ipv6 { "CT6" } else { "CT4" }
}

/// The low and the high half of a word.
pub fn halves(word: u32) -> [u16; 2] {
    let [a, b, c, d] = word.to_le_bytes();
    [u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])]
}
