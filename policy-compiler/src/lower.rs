// SPDX-License-Identifier: Apache-2.0
//! Verdict tables as the bytes of the datapath's maps.
//!
//! Sizes are checked against [`Capacity`] before anything is returned: there is no partial image.

mod addresses;
mod image;
mod ports;
mod trie;
mod update;

use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use indexmap::IndexSet;
use policy_ebpf_common::abi::{
    HostBucket, PortSet, ROW_CHUNK, RowChunk, RowEntry, ServiceKey, TrieNode,
};

use crate::{
    Decision,
    compile::{ClassId, PortSetId, Row, Tables},
    model::PodKey,
};

pub use image::ImagePeer;
pub use update::Lowered;

/// One bank of every banked map, for one node. Entry `i` goes to index `i` of the bank.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// `TRIE4`; the first [`policy_ebpf_common::abi::TRIE4_ROOT_NODES`] form the root.
    pub trie4: Vec<TrieNode>,
    /// `TRIE6`; node 0 is the root.
    pub trie6: Vec<TrieNode>,
    /// `HOSTS6`; the length is a power of two and goes, minus one, to `Config::hosts6_mask`.
    pub hosts6: Vec<HostBucket>,
    /// `ROWS`.
    pub rows: Vec<RowChunk>,
    /// `Config::row_chunks`: chunks per row.
    pub row_chunks: u32,
    /// `UNIFORM`.
    pub uniform: Vec<u32>,
    /// `PORT_SETS`; number 0 denies everything.
    pub port_sets: Vec<PortSet>,
    /// `SERVICES`, with [`ServiceKey::bank`] zero: the class of each Service address and port.
    pub services: BTreeMap<ServiceKey, u32>,
    /// What the node's pods have in `ENDPOINTS`.
    pub endpoints: BTreeMap<PodKey, EndpointImage>,
}

/// The fields of [`policy_ebpf_common::abi::Endpoint`] that the tables determine, for one bank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointImage {
    /// [`policy_ebpf_common::abi::Endpoint::rows`].
    pub rows: u32,
    /// [`policy_ebpf_common::abi::Endpoint::own4`].
    pub own4: u32,
    /// [`policy_ebpf_common::abi::Endpoint::own6`].
    pub own6: u32,
    /// [`policy_ebpf_common::abi::Endpoint::classes`].
    pub classes: u32,
    /// The pod's IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// The pod's IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
}

/// How many entries one bank of each map holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Nodes of `TRIE4`, its root included.
    pub trie4: u32,
    /// Nodes of `TRIE6`.
    pub trie6: u32,
    /// Buckets of `HOSTS6`.
    pub hosts6: u32,
    /// Chunks of `ROWS`.
    pub rows: u32,
    /// Cells of `UNIFORM`, at most 32,768.
    pub uniform: u32,
    /// Port sets, at most 32,768.
    pub port_sets: u32,
    /// Entries of `SERVICES`.
    pub services: u32,
    /// Reason ids, which index `RULE_COUNTERS`.
    pub reasons: u32,
}

impl Default for Capacity {
    /// Enough for a node of a cluster of 100,000 pods and 10,000 policies; 21 MiB of kernel memory in
    /// two banks.
    fn default() -> Self {
        Self {
            trie4: 32_768,
            trie6: 8_192,
            hosts6: 65_536,
            rows: 32_768,
            uniform: 32_768,
            port_sets: 8_192,
            services: 65_536,
            reasons: 16_384,
        }
    }
}

/// Numbers decisions for the datapath. Numbers stay as long as the value lives, so that counters and
/// events of different publications speak of the same decision; number 0 is no decision.
#[derive(Clone, Debug, Default)]
pub struct Reasons {
    decisions: IndexSet<Arc<Decision>>,
}

impl Reasons {
    /// The decision that a cell's reason id stands for.
    pub fn get(&self, id: u32) -> Option<&Arc<Decision>> {
        self.decisions.get_index(id.checked_sub(1)? as usize)
    }

    /// All decisions with their ids.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Arc<Decision>)> {
        (1..).zip(&self.decisions)
    }

    fn number(&mut self, decision: &Arc<Decision>) -> u32 {
        let index = match self.decisions.get_index_of(decision) {
            Some(index) => index,
            None => self.decisions.insert_full(decision.clone()).0,
        };
        u32::try_from(index + 1).unwrap_or(u32::MAX)
    }
}

/// Tables that do not fit the datapath's maps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct TooLarge {
    map: &'static str,
    needed: usize,
    capacity: usize,
    policies: Vec<Arc<str>>,
}

impl TooLarge {
    /// The map that overflows.
    pub fn map(&self) -> &'static str {
        self.map
    }

    /// Entries needed in one bank.
    pub fn needed(&self) -> usize {
        self.needed
    }

    /// Entries that one bank holds.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The policies that take the most room, the largest first, five at most.
    pub fn policies(&self) -> &[Arc<str>] {
        &self.policies
    }
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            map,
            needed,
            capacity,
            policies,
        } = self;
        write!(
            f,
            "the tables need {needed} entries of {map}, which holds {capacity}"
        )?;
        for (i, policy) in policies.iter().enumerate() {
            f.write_str(if i == 0 {
                "; most room is taken by "
            } else {
                ", "
            })?;
            f.write_str(policy)?;
        }
        Ok(())
    }
}

/// Lays `tables` out for the maps. Reason ids are taken from `reasons`, which starts over if it is full
/// of decisions of the past.
pub fn lower(
    tables: &Tables,
    capacity: &Capacity,
    reasons: &mut Reasons,
) -> Result<Image, TooLarge> {
    Lowered::new(tables, capacity, reasons).map(|lowered| lowered.image)
}

/// A row spelled out, class by class. Row 0 and class 0 stay zero, which denies.
fn chunks(row: &Row, count: usize, entry: &impl Fn(PortSetId) -> u16) -> Vec<RowChunk> {
    let common = RowChunk {
        entries: [entry(row.common); ROW_CHUNK],
    };
    let mut chunks = vec![common; count];
    let mut set = |ClassId(class): ClassId, entry| {
        let chunk = chunks.get_mut(class as usize / ROW_CHUNK);
        if let Some(to) = chunk.and_then(|chunk| chunk.entries.get_mut(class as usize % ROW_CHUNK))
        {
            *to = entry;
        }
    };
    set(ClassId::default(), 0);
    set(ClassId::HOST, 0);
    for (class, port_set) in &row.classes {
        set(*class, entry(*port_set));
    }
    chunks
}

/// The policies whose rows have the most runs of ports.
fn largest(tables: &Tables) -> Vec<Arc<str>> {
    let mut weights: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
    for row in &tables.rows {
        let listed = row.classes.iter().map(|(_, port_set)| *port_set);
        let mut port_sets: Vec<_> = listed.chain([row.common]).collect();
        port_sets.sort_unstable();
        port_sets.dedup();
        let runs = |id: &PortSetId| {
            tables
                .port_sets
                .get(id.0 as usize)
                .map_or(0, |set| set.runs().len())
        };
        let weight: usize = port_sets.iter().map(runs).sum();
        for policy in &row.policies {
            *weights.entry(policy).or_default() += weight;
        }
    }
    let mut policies: Vec<_> = weights.into_iter().collect();
    policies.sort_by_key(|(name, weight)| (std::cmp::Reverse(*weight), *name));
    policies
        .into_iter()
        .take(5)
        .map(|(name, _)| name.clone())
        .collect()
}

/// What a row says of a class whose port set is number `index` of the image.
type Entries = Vec<RowEntry>;
