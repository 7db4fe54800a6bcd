// SPDX-License-Identifier: Apache-2.0
//! What does the kernel hold, whether or not an agent runs?

use std::{collections::BTreeMap, ops::Range, path::Path};

use policy_compiler::lower::Capacity;
use policy_ebpf_common::{
    abi::{
        Config, Counter, Endpoint, FlowState, HostBucket, PortSet, RowChunk, ServiceKey, TrieNode,
    },
    decide::Outcome,
    flow::Direction,
    lookup::{Bank, Tables},
    parse::Packet,
};
use zerocopy::FromZeros as _;

use super::{
    attach::{self, Hook},
    conntrack::{self, TrackedFlow},
    error::DatapathError,
    mapping::Mapping,
    maps::Pins,
    pod::Abi,
};

/// The pinned maps, read-only. Also [`Tables`], so that the decision code answers questions about
/// what is loaded.
#[derive(Debug)]
pub struct Pinned {
    pins: Pins,
    capacity: Capacity,
    config: Mapping<Config>,
    endpoints: Mapping<Endpoint>,
    trie4: Mapping<TrieNode>,
    trie6: Mapping<TrieNode>,
    rows: Mapping<RowChunk>,
    uniform: Mapping<u32>,
    port_sets: Vec<PortSet>,
    buckets: Vec<HostBucket>,
    services: BTreeMap<ServiceKey, u32>,
}

impl Pinned {
    /// Opens the maps pinned under the bpffs folder `root`.
    pub fn open(root: &Path) -> Result<Self, DatapathError> {
        let pins = Pins::new(root);
        let Some(capacity) = pins.capacity()? else {
            return Err(DatapathError::NotRunning {
                path: pins.directory().to_path_buf(),
            });
        };
        let port_sets: Mapping<PortSet> = pins.mapping("PORT_SETS", false)?;
        let hosts6: Mapping<HostBucket> = pins.mapping("HOSTS6", false)?;
        let services = pins
            .hash::<Abi<ServiceKey>, u32>("SERVICES")?
            .iter()
            .map(|entry| entry.map(|(Abi(key), class)| (key, class)))
            .collect::<Result<_, _>>()
            .map_err(DatapathError::map("SERVICES"))?;
        Ok(Self {
            capacity,
            config: pins.mapping("CONFIG", false)?,
            endpoints: pins.mapping("ENDPOINTS", false)?,
            trie4: pins.mapping("TRIE4", false)?,
            trie6: pins.mapping("TRIE6", false)?,
            rows: pins.mapping("ROWS", false)?,
            uniform: pins.mapping("UNIFORM", false)?,
            port_sets: (0..port_sets.entries())
                .filter_map(|index| port_sets.get(index))
                .collect(),
            buckets: (0..hosts6.entries())
                .filter_map(|index| hosts6.get(index))
                .collect(),
            services,
            pins,
        })
    }

    /// Entries per bank.
    pub fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    /// The switches, and which bank is active.
    pub fn config(&self) -> Config {
        self.config.get(0).unwrap_or_else(Config::new_zeroed)
    }

    /// The bank that judges packets now.
    pub fn bank(&self) -> Bank {
        Bank::active(&self.config())
    }

    /// Endpoints in use, by slot.
    pub fn endpoints(&self) -> BTreeMap<u32, Endpoint> {
        (0..self.endpoints.entries())
            .filter_map(|slot| Some((slot, self.endpoints.get(slot)?)))
            .filter(|(_, endpoint)| endpoint.ifindex != 0)
            .collect()
    }

    /// Services of a bank, with [`ServiceKey::bank`] as it is in the map.
    pub fn services(&self, bank: u32) -> impl Iterator<Item = (&ServiceKey, u32)> {
        self.services
            .iter()
            .filter(move |(key, _)| u32::from(key.bank) == bank)
            .map(|(key, class)| (key, *class))
    }

    /// Tracked flows.
    pub fn flows(&self) -> Result<Vec<TrackedFlow>, DatapathError> {
        conntrack::flows(&self.pins, &self.config())
    }

    /// What is remembered of a packet's flow at the endpoint with this id.
    pub fn flow(
        &self,
        id: u32,
        direction: Direction,
        packet: &Packet,
    ) -> Result<Option<FlowState>, DatapathError> {
        conntrack::flow(&self.pins, id, direction, packet)
    }

    /// The clock that flows are stamped with: low 32 bits of jiffies.
    pub fn now(&self) -> Result<u32, DatapathError> {
        conntrack::Clock::open(&self.pins)?.now()
    }

    /// Hooks and interfaces with a pinned TCX link.
    pub fn links(&self) -> Result<Vec<(Hook, u32)>, DatapathError> {
        attach::pinned(&self.pins).map_err(|source| DatapathError::PinDirectory {
            path: self.pins.links(),
            source,
        })
    }

    /// Packets and bytes a reason decided.
    pub fn rule_counter(&self, reason: u32) -> Result<Counter, DatapathError> {
        rule_counter(&self.pins, reason)
    }

    /// Packets and bytes by direction and outcome.
    pub fn outcome_counters(&self) -> Result<Vec<(Direction, Outcome, Counter)>, DatapathError> {
        outcome_counters(&self.pins)
    }

    fn index(bank: u32, capacity: u32, index: u32) -> Option<u32> {
        (index < capacity).then_some(bank * capacity + index)
    }
}

impl Tables for Pinned {
    fn trie4(&self, bank: u32, node: u32, word: u32) -> Option<u32> {
        let node = self
            .trie4
            .get(Self::index(bank, self.capacity.trie4, node)?)?;
        node.words.get(word as usize).copied()
    }

    fn trie6(&self, bank: u32, node: u32, word: u32) -> Option<u32> {
        let node = self
            .trie6
            .get(Self::index(bank, self.capacity.trie6, node)?)?;
        node.words.get(word as usize).copied()
    }

    fn host6(&self, bank: u32, bucket: u32) -> Option<&HostBucket> {
        let index = Self::index(bank, self.capacity.hosts6, bucket)?;
        self.buckets.get(index as usize)
    }

    fn row(&self, bank: u32, chunk: u32, entry: u32) -> Option<u16> {
        let chunk = self
            .rows
            .get(Self::index(bank, self.capacity.rows, chunk)?)?;
        chunk.entries.get(entry as usize).copied()
    }

    fn uniform(&self, bank: u32, index: u32) -> Option<u32> {
        self.uniform
            .get(Self::index(bank, self.capacity.uniform, index)?)
    }

    fn port_set(&self, bank: u32, index: u32) -> Option<&PortSet> {
        let index = Self::index(bank, self.capacity.port_sets, index)?;
        self.port_sets.get(index as usize)
    }

    fn service(&self, key: &ServiceKey) -> Option<u32> {
        self.services.get(key).copied()
    }
}

pub(super) fn rule_counter(pins: &Pins, reason: u32) -> Result<Counter, DatapathError> {
    let counters = rule_counters(pins, reason..reason.saturating_add(1))?;
    Ok(counters.into_iter().next().unwrap_or_default())
}

pub(super) fn rule_counters(
    pins: &Pins,
    reasons: Range<u32>,
) -> Result<Vec<Counter>, DatapathError> {
    const NAME: &str = "RULE_COUNTERS";
    let map = pins.per_cpu::<Abi<Counter>>(NAME)?;
    reasons
        .map(|reason| {
            let counts = map.get(&reason, 0).map_err(DatapathError::map(NAME))?;
            Ok(sum(&counts))
        })
        .collect()
}

pub(super) fn outcome_counters(
    pins: &Pins,
) -> Result<Vec<(Direction, Outcome, Counter)>, DatapathError> {
    const NAME: &str = "OUTCOME_COUNTERS";
    let map = pins.per_cpu::<Abi<Counter>>(NAME)?;
    let mut counters = Vec::new();
    for direction in [Direction::Ingress, Direction::Egress] {
        for outcome in Outcome::ALL {
            let index =
                direction as u32 * policy_ebpf_common::decide::OUTCOMES + u32::from(outcome as u8);
            let counts = map.get(&index, 0).map_err(DatapathError::map(NAME))?;
            counters.push((direction, outcome, sum(&counts)));
        }
    }
    Ok(counters)
}

fn sum(counts: &[Abi<Counter>]) -> Counter {
    let mut total = Counter::default();
    for Abi(count) in counts {
        total.packets = total.packets.wrapping_add(count.packets);
        total.bytes = total.bytes.wrapping_add(count.bytes);
    }
    total
}
