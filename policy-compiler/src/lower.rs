// SPDX-License-Identifier: Apache-2.0
//! Verdict tables as the bytes of the datapath's maps.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use policy_ebpf_common::abi::{HostBucket, PortSet, RowChunk, ServiceKey, TrieNode};

use crate::model::PodKey;

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
    /// Enough for a node of a cluster of 100,000 pods and 10,000 policies; 22 MiB of kernel memory in
    /// two banks.
    fn default() -> Self {
        Self {
            trie4: 32_768,
            trie6: 16_384,
            hosts6: 32_768,
            rows: 65_536,
            uniform: 32_768,
            port_sets: 8_192,
            services: 65_536,
            reasons: 16_384,
        }
    }
}
