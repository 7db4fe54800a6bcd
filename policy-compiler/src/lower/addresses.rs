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

use super::Capacity;
use crate::compile::{ClassId, Tables};

/// The lowered addresses of some tables.
#[derive(Clone, Debug)]
pub(super) struct Addresses {
    pub(super) trie4: Trie,
    pub(super) trie6: Trie,
    pub(super) hosts6: Vec<HostBucket>,
    /// Addresses in `hosts6`, or in the trie because their buckets are full.
    known6: usize,
    /// Those in the trie.
    crowded_out: BTreeSet<Ipv6Addr>,
    /// What free places of `hosts6` say.
    unspecified: TrieWord,
    /// Ports of Services by address.
    services: BTreeMap<IpAddr, u32>,
}

pub(super) fn lower(tables: &Tables) -> Addresses {
    let mut services: BTreeMap<IpAddr, u32> = BTreeMap::new();
    for (address, ..) in tables.services.keys() {
        *services.entry(*address).or_default() += 1;
    }
    let mut trie4 = Trie::new(TRIE4_ROOT_NODES as usize, 16);
    let mut trie6 = Trie::new(1, 4);
    let mut hosts: BTreeMap<Ipv6Addr, TrieWord> = BTreeMap::new();
    for (prefix, class) in tables.addresses.blocks() {
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
    let pods = tables.addresses.hosts();
    let pods = pods.map(|(address, class)| (address, leaf(class, false)));
    let services_words = services.keys().map(|address| {
        let class = tables.addresses.class_of(*address);
        (*address, leaf(class, true))
    });
    for (address, word) in pods.chain(services_words) {
        match address {
            IpAddr::V4(v4) => trie4.set(left_aligned4(v4.to_bits()), 32, word),
            IpAddr::V6(v6) => {
                if word == surroundings(tables, address) && !tables.addresses.is_block(address) {
                    continue;
                }
                hosts.insert(v6, word);
            }
        }
    }
    let unspecified = leaf(
        tables.addresses.class_of(Ipv6Addr::UNSPECIFIED.into()),
        false,
    );
    let mut lowered = Addresses {
        trie4,
        trie6,
        hosts6: buckets(hosts.len(), unspecified),
        known6: 0,
        crowded_out: BTreeSet::new(),
        unspecified,
        services,
    };
    for (address, word) in hosts {
        lowered.set6(address, word);
    }
    lowered
}

impl Addresses {
    /// Whether free places of `hosts6` say what they should.
    pub(super) fn is_padded_for(&self, tables: &Tables) -> bool {
        let class = tables.addresses.class_of(Ipv6Addr::UNSPECIFIED.into());
        self.unspecified == leaf(class, false)
    }

    /// Follows a port of a Service at `address`, that came (`by` 1) or went.
    pub(super) fn count_service(&mut self, address: IpAddr, by: i32) {
        let count = self.services.entry(address).or_default();
        *count = count.saturating_add_signed(by);
        if *count == 0 {
            self.services.remove(&address);
        }
    }

    /// Whether so many addresses more than now are sure to find a place.
    pub(super) fn has_room(&self, v4: usize, v6: usize, capacity: &Capacity) -> bool {
        let v6_known = self.known6 + v6;
        // Nodes below the root that one address may need.
        self.trie4.room(capacity.trie4) >= 4 * v4
            && self.trie6.room(capacity.trie6) >= 31 * v6
            && bucket_count(v6_known) <= self.hosts6.len()
    }

    /// Follows the class of one address.
    pub(super) fn follow(&mut self, address: IpAddr, tables: &Tables) {
        let class = tables.addresses.class_of(address);
        let word = leaf(class, self.services.contains_key(&address));
        match address {
            IpAddr::V4(v4) => self.trie4.set(left_aligned4(v4.to_bits()), 32, word),
            IpAddr::V6(v6) => {
                let around = surroundings(tables, address);
                if word == around && !tables.addresses.is_block(address) {
                    self.clear6(v6, around);
                } else {
                    self.set6(v6, word);
                }
            }
        }
    }

    /// Gives an address a word of its own.
    fn set6(&mut self, address: Ipv6Addr, word: TrieWord) {
        // A free place has the key of `::`, so all of them hold that address's word.
        if address.is_unspecified() {
            return;
        }
        if let Some((bucket, place)) = self.find6(address) {
            self.hosts6[bucket].words[place] = word.0;
            return;
        }
        if self.crowded_out.contains(&address) {
            return self.trie6.set(address.to_bits(), 128, word);
        }
        self.known6 += 1;
        let key = key_of(address);
        let used = |index: usize| {
            let bucket = self.hosts6.get(index)?;
            bucket.keys.iter().position(|key| *key == [0; 4])
        };
        let [a, b] = self.buckets_of(key);
        // Places fill from the front: the position of the first free one is the number of used ones.
        let place = match (used(a), used(b)) {
            (Some(in_a), Some(in_b)) if in_b < in_a => Some((b, in_b)),
            (Some(in_a), _) => Some((a, in_a)),
            (None, in_b) => in_b.map(|in_b| (b, in_b)),
        };
        if let Some((index, place)) = place {
            self.hosts6[index].keys[place] = key;
            self.hosts6[index].words[place] = word.0;
        } else {
            self.crowded_out.insert(address);
            self.trie6.set(address.to_bits(), 128, word);
        }
    }

    /// Forgets an address, which is like those around it.
    fn clear6(&mut self, address: Ipv6Addr, around: TrieWord) {
        if let Some((bucket, place)) = self.find6(address) {
            self.known6 -= 1;
            let bucket = &mut self.hosts6[bucket];
            let used = bucket.keys.iter().take_while(|key| **key != [0; 4]).count();
            let last = used.saturating_sub(1);
            bucket.keys[place] = bucket.keys[last];
            bucket.words[place] = bucket.words[last];
            bucket.keys[last] = [0; 4];
            bucket.words[last] = self.unspecified.0;
        } else if self.crowded_out.remove(&address) {
            self.known6 -= 1;
            self.trie6.set(address.to_bits(), 128, around);
        }
    }

    fn find6(&self, address: Ipv6Addr) -> Option<(usize, usize)> {
        let key = key_of(address);
        self.buckets_of(key).into_iter().find_map(|index| {
            let bucket = self.hosts6.get(index)?;
            let place = bucket.keys.iter().position(|known| *known == key)?;
            Some((index, place))
        })
    }

    fn buckets_of(&self, key: [u32; 4]) -> [usize; 2] {
        let mask = u32::try_from(self.hosts6.len() - 1).unwrap_or(u32::MAX);
        host_buckets(key).map(|hash| (hash & mask) as usize)
    }
}

/// What an address says that neither a pod nor a Service owns.
fn surroundings(tables: &Tables, address: IpAddr) -> TrieWord {
    leaf(tables.addresses.block_class_of(address), false)
}

/// A multibit trie whose root consumes `root_bits` and whose inner nodes consume four bits each.
#[derive(Clone, Debug)]
pub(super) struct Trie {
    pub(super) nodes: Vec<TrieNode>,
    root_bits: u8,
    /// Nodes that nothing leads to.
    free: Vec<u32>,
}

impl Trie {
    fn new(root_nodes: usize, root_bits: u8) -> Self {
        Self {
            nodes: vec![TrieNode::default(); root_nodes],
            root_bits,
            free: Vec::new(),
        }
    }

    /// How many more nodes fit.
    fn room(&self, capacity: u32) -> usize {
        (capacity as usize + self.free.len()).saturating_sub(self.nodes.len())
    }

    /// Gives one address a word, given left-aligned, and takes away nodes that tell nothing apart.
    fn set(&mut self, bits: u128, length: u8, word: TrieWord) {
        let mut path: Vec<usize> = Vec::with_capacity(32);
        let mut first = 0;
        let mut consumed = 0;
        let mut width = self.root_bits;
        loop {
            let index = (bits << consumed) >> (128 - width);
            let index = first * TRIE_FANOUT + usize::try_from(index).unwrap_or_default();
            if consumed + width >= length {
                if let Some(to) = self.word(index) {
                    *to = word.0;
                }
                break;
            }
            if self.word(index).is_some_and(|known| *known == word.0) {
                // The word is that of all addresses here.
                break;
            }
            consumed += width;
            width = 4;
            first = self.child(index);
            path.push(index);
        }
        while let Some(parent) = path.pop() {
            let Some(node) = self.nodes.get(first) else {
                return;
            };
            let [word, ..] = node.words;
            if TrieWord(word).as_child().is_some() || node.words.iter().any(|other| *other != word)
            {
                return;
            }
            self.free.extend(u32::try_from(first));
            if let Some(to) = self.word(parent) {
                *to = word;
            }
            first = parent / TRIE_FANOUT;
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
        let Some(word) = self.word(index).copied() else {
            return 0;
        };
        if let Some(child) = TrieWord(word).as_child() {
            return child as usize;
        }
        let copies = TrieNode {
            words: [word; TRIE_FANOUT],
        };
        let free = self.free.pop().map(|free| free as usize);
        let next = free.unwrap_or(self.nodes.len());
        match self.nodes.get_mut(next) {
            Some(node) => *node = copies,
            None => self.nodes.push(copies),
        }
        if let Some(to) = self.word(index) {
            *to = TrieWord::child(u32::try_from(next).unwrap_or(u32::MAX >> 1)).0;
        }
        next
    }

    fn word(&mut self, index: usize) -> Option<&mut u32> {
        self.nodes
            .get_mut(index / TRIE_FANOUT)?
            .words
            .get_mut(index % TRIE_FANOUT)
    }
}

/// How many buckets so many addresses take: they are loaded to three quarters at most.
fn bucket_count(addresses: usize) -> usize {
    (addresses * 4 / 9).next_power_of_two()
}

/// Buckets for so many addresses. A free place has the key of `::`, so it holds that address's word.
fn buckets(addresses: usize, unspecified: TrieWord) -> Vec<HostBucket> {
    let empty = HostBucket {
        words: [unspecified.0; 3],
        ..HostBucket::default()
    };
    vec![empty; bucket_count(addresses)]
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
