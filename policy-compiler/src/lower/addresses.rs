// SPDX-License-Identifier: Apache-2.0
//! Classes of addresses as multibit tries and buckets of exact addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

use ipnet::IpNet;
use policy_ebpf_common::abi::{
    HostBucket, TRIE_FANOUT, TRIE4_ROOT_NODES, TrieNode, TrieWord, host_buckets,
};

use crate::compile::{ClassId, Tables};

/// The lowered addresses of some tables.
pub(super) struct Addresses {
    pub(super) trie4: Vec<TrieNode>,
    pub(super) trie6: Vec<TrieNode>,
    pub(super) hosts6: Vec<HostBucket>,
}

pub(super) fn lower(tables: &Tables) -> Addresses {
    let services: BTreeSet<IpAddr> = tables
        .services
        .keys()
        .map(|(address, ..)| *address)
        .collect();
    let mut trie4 = Trie::new(TRIE4_ROOT_NODES as usize, 16);
    let mut trie6 = Trie::new(1, 4);
    let mut hosts: BTreeMap<Ipv6Addr, TrieWord> = BTreeMap::new();
    for (prefix, class) in tables.addresses.prefixes() {
        match prefix {
            IpNet::V4(net) => {
                trie4.insert(
                    left_aligned4(net.network().to_bits()),
                    net.prefix_len(),
                    leaf(*class, false),
                );
            }
            IpNet::V6(net) if net.prefix_len() == 128 => {
                hosts.insert(net.network(), leaf(*class, false));
            }
            IpNet::V6(net) => trie6.insert(
                net.network().to_bits(),
                net.prefix_len(),
                leaf(*class, false),
            ),
        }
    }
    for address in services {
        let word = leaf(tables.addresses.class_of(address), true);
        match address {
            IpAddr::V4(v4) => trie4.insert(left_aligned4(v4.to_bits()), 32, word),
            IpAddr::V6(v6) => {
                hosts.insert(v6, word);
            }
        }
    }
    let unspecified = leaf(
        tables.addresses.class_of(Ipv6Addr::UNSPECIFIED.into()),
        false,
    );
    let hosts6 = buckets(hosts, unspecified, &mut trie6);
    Addresses {
        trie4: trie4.nodes,
        trie6: trie6.nodes,
        hosts6,
    }
}

/// A multibit trie whose root consumes `root_bits` and whose inner nodes consume four bits each.
struct Trie {
    nodes: Vec<TrieNode>,
    root_bits: u8,
}

impl Trie {
    fn new(root_nodes: usize, root_bits: u8) -> Self {
        Self {
            nodes: vec![TrieNode::default(); root_nodes],
            root_bits,
        }
    }

    /// Covers a prefix, given left-aligned. Prefixes come with the enclosing ones first, so that each
    /// overwrites what it is carved out of.
    fn insert(&mut self, bits: u128, length: u8, word: TrieWord) {
        let mut first = 0;
        let mut consumed = 0;
        let mut width = self.root_bits;
        loop {
            // Words of this level below the node: `width` bits of the address select one.
            let index = (bits << consumed) >> (128 - width);
            let index = first * TRIE_FANOUT + usize::try_from(index).unwrap_or_default();
            if length <= consumed + width {
                let count = 1usize << (consumed + width - length);
                for index in index..index + count {
                    if let Some(to) = self.word(index) {
                        *to = word.0;
                    }
                }
                return;
            }
            consumed += width;
            width = 4;
            first = self.child(index);
        }
    }

    /// The node below a word, made of copies of the word if it was a leaf.
    fn child(&mut self, index: usize) -> usize {
        let next = self.nodes.len();
        let Some(word) = self.word(index) else {
            return 0;
        };
        if let Some(child) = TrieWord(*word).as_child() {
            return child as usize;
        }
        let copies = TrieNode {
            words: [*word; TRIE_FANOUT],
        };
        *word = TrieWord::child(u32::try_from(next).unwrap_or(u32::MAX >> 1)).0;
        self.nodes.push(copies);
        next
    }

    fn word(&mut self, index: usize) -> Option<&mut u32> {
        self.nodes
            .get_mut(index / TRIE_FANOUT)?
            .words
            .get_mut(index % TRIE_FANOUT)
    }
}

/// Loads buckets to three quarters at most. Places each address in the emptier of its two buckets; what
/// finds both full goes to the trie. A free place has the key of `::`, so it holds that address's word.
fn buckets(
    hosts: BTreeMap<Ipv6Addr, TrieWord>,
    unspecified: TrieWord,
    trie6: &mut Trie,
) -> Vec<HostBucket> {
    let empty = HostBucket {
        words: [unspecified.0; 3],
        ..HostBucket::default()
    };
    let mut buckets = vec![empty; (hosts.len() * 4 / 9).next_power_of_two()];
    let mask = u32::try_from(buckets.len() - 1).unwrap_or(u32::MAX);
    for (address, word) in hosts {
        if address.is_unspecified() {
            continue;
        }
        let key = key_of(address);
        let used = |index: usize| {
            let bucket = buckets.get(index)?;
            bucket.keys.iter().position(|key| *key == [0; 4])
        };
        let [a, b] = host_buckets(key).map(|hash| (hash & mask) as usize);
        // Places fill from the front: the position of the first free one is the number of used ones.
        let place = match (used(a), used(b)) {
            (Some(in_a), Some(in_b)) if in_b < in_a => Some((b, in_b)),
            (Some(in_a), _) => Some((a, in_a)),
            (None, in_b) => in_b.map(|in_b| (b, in_b)),
        };
        let bucket = place.and_then(|(index, place)| Some((buckets.get_mut(index)?, place)));
        match bucket {
            Some((bucket, place)) => {
                bucket.keys[place] = key;
                bucket.words[place] = word.0;
            }
            None => trie6.insert(address.to_bits(), 128, word),
        }
    }
    buckets
}

/// The address as the datapath loads it: four words of network-order bytes.
fn key_of(address: Ipv6Addr) -> [u32; 4] {
    let mut key = [0; 4];
    let octets = address.octets();
    for (word, bytes) in key.iter_mut().zip(octets.chunks_exact(4)) {
        *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    key
}

fn left_aligned4(bits: u32) -> u128 {
    u128::from(bits) << 96
}

/// Classes beyond 16 bits are refused by the capacity check before.
fn leaf(class: ClassId, service: bool) -> TrieWord {
    TrieWord::leaf(u16::try_from(class.0).unwrap_or_default(), service)
}
