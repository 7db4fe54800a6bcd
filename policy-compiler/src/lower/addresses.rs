// SPDX-License-Identifier: Apache-2.0
//! Classes of addresses as multibit tries and buckets of exact addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, IpSubnets, Ipv4Subnets, Ipv6Subnets};
use policy_ebpf_common::abi::{HostBucket, TRIE4_ROOT_NODES, TrieWord, host_buckets};

use super::{Capacity, trie::Trie};
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
    /// Addresses that are blocks of their own.
    blocks6: BTreeSet<Ipv6Addr>,
}

pub(super) fn lower(tables: &Tables) -> Addresses {
    let mut services: BTreeMap<IpAddr, u32> = BTreeMap::new();
    for (address, ..) in tables.services.keys() {
        *services.entry(*address).or_default() += 1;
    }
    let mut trie4 = Trie::new(TRIE4_ROOT_NODES as usize, 16);
    let mut trie6 = Trie::new(1, 4);
    let mut hosts: BTreeMap<Ipv6Addr, TrieWord> = BTreeMap::new();
    let mut blocks6 = BTreeSet::new();
    for (prefix, class) in tables.addresses.blocks() {
        match prefix {
            IpNet::V4(net) => {
                trie4.set(
                    left_aligned(net.network().into()),
                    net.prefix_len(),
                    leaf(*class, false),
                );
            }
            IpNet::V6(net) if net.prefix_len() == 128 => {
                hosts.insert(net.network(), leaf(*class, false));
                blocks6.insert(net.network());
            }
            IpNet::V6(net) => trie6.set(
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
            IpAddr::V4(_) => trie4.set(left_aligned(address), 32, word),
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
        blocks6,
    };
    for (address, word) in hosts {
        lowered.set6(address, word);
    }
    lowered
}

impl Addresses {
    /// Follows blocks whose classes changed: `ranges` of addresses, first and last. False if they may not
    /// find a place, which leaves an unknown part of them as it was.
    pub(super) fn follow_blocks(
        &mut self,
        ranges: &BTreeSet<(IpAddr, IpAddr)>,
        tables: &Tables,
    ) -> bool {
        let mut touched: Vec<IpAddr> = Vec::new();
        for (first, last) in ranges {
            let (first, last) = widen(*first, *last);
            for (first, last, class) in pieces(tables, first, last) {
                let trie = if first.is_ipv4() {
                    &mut self.trie4
                } else {
                    &mut self.trie6
                };
                for prefix in prefixes(first, last) {
                    let bits = left_aligned(prefix.network());
                    trie.set(bits, prefix.prefix_len(), leaf(class, false));
                }
            }
            // What stands out of its block, and may have been covered by it.
            let services = self.services.range(first..=last);
            touched.extend(services.map(|(address, _)| *address));
            let hosts = tables.addresses.hosts_between(first, last);
            touched.extend(hosts.map(|(address, _)| address));
            if let (IpAddr::V6(first), IpAddr::V6(last)) = (first, last) {
                let own = tables.addresses.single_blocks6(first, last);
                let own: Vec<Ipv6Addr> = own.collect();
                let former = self.blocks6.range(first..=last).copied();
                let crowded_out = self.crowded_out.range(first..=last).copied();
                let known = former.chain(crowded_out).chain(own.iter().copied());
                touched.extend(known.map(IpAddr::V6));
                self.blocks6
                    .retain(|address| *address < first || last < *address);
                self.blocks6.extend(own);
            }
        }
        self.pad(tables);
        if !self.have_buckets_for(touched.iter()) {
            return false;
        }
        for address in touched {
            self.follow(address, tables);
        }
        true
    }

    /// Makes free places of `hosts6` say what they should.
    fn pad(&mut self, tables: &Tables) {
        let class = tables.addresses.class_of(Ipv6Addr::UNSPECIFIED.into());
        let word = leaf(class, false);
        if word == self.unspecified {
            return;
        }
        self.unspecified = word;
        for bucket in &mut self.hosts6 {
            for (key, to) in bucket.keys.iter().zip(&mut bucket.words) {
                if *key == [0; 4] {
                    *to = word.0;
                }
            }
        }
    }

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

    /// Whether `hosts6` has enough buckets if all of these addresses need a place.
    pub(super) fn have_buckets_for<'a>(&self, addresses: impl Iterator<Item = &'a IpAddr>) -> bool {
        let new = addresses.filter(|address| match address {
            IpAddr::V4(_) => false,
            IpAddr::V6(v6) => self.find6(*v6).is_none() && !self.crowded_out.contains(v6),
        });
        bucket_count(self.known6 + new.count()) <= self.hosts6.len()
    }

    /// Whether the tries are as small as they have to be.
    pub(super) fn are_within(&self, capacity: &Capacity) -> bool {
        self.trie4.nodes.len() <= capacity.trie4 as usize
            && self.trie6.nodes.len() <= capacity.trie6 as usize
    }

    /// Follows the class of one address.
    pub(super) fn follow(&mut self, address: IpAddr, tables: &Tables) {
        let class = tables.addresses.class_of(address);
        let word = leaf(class, self.services.contains_key(&address));
        match address {
            IpAddr::V4(_) => self.trie4.set(left_aligned(address), 32, word),
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

/// The least range around some addresses in which the trie of IPv6 need not end between blocks of a single
/// address, which are none of its business.
fn widen(first: IpAddr, last: IpAddr) -> (IpAddr, IpAddr) {
    match (first, last) {
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            let first = Ipv6Addr::from_bits(first.to_bits() & !0xff);
            (
                first.into(),
                Ipv6Addr::from_bits(last.to_bits() | 0xff).into(),
            )
        }
        other => other,
    }
}

/// The tables' blocks between two addresses, first and last of each. Where IPv6 has a block of a single
/// address, the trie says what the addresses before it are, or else those behind it.
fn pieces(tables: &Tables, first: IpAddr, last: IpAddr) -> Vec<(IpAddr, IpAddr, ClassId)> {
    let mut pieces: Vec<(IpAddr, IpAddr, ClassId)> = Vec::new();
    for (from, to, class) in tables.addresses.blocks_between(first, last) {
        let is_single = from == to && from.is_ipv6() && tables.addresses.is_block(from);
        match pieces.last_mut() {
            Some((_, end, known)) if is_single || *known == class => *end = to,
            None if is_single => {}
            None => pieces.push((first, to, class)),
            Some(_) => pieces.push((from, to, class)),
        }
    }
    pieces
}

/// The fewest prefixes that make up the addresses from `first` to `last`, both of one family.
fn prefixes(first: IpAddr, last: IpAddr) -> IpSubnets {
    match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => Ipv4Subnets::new(first, last, 0).into(),
        (IpAddr::V6(first), IpAddr::V6(last)) => Ipv6Subnets::new(first, last, 0).into(),
        // INVARIANT: blocks are of one family. No prefix is between others.
        _ => Ipv4Subnets::new(Ipv4Addr::BROADCAST, Ipv4Addr::UNSPECIFIED, 0).into(),
    }
}

/// What an address says that neither a pod nor a Service owns.
fn surroundings(tables: &Tables, address: IpAddr) -> TrieWord {
    leaf(tables.addresses.block_class_of(address), false)
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

fn left_aligned(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Classes beyond 16 bits are refused by the capacity check before.
fn leaf(class: ClassId, service: bool) -> TrieWord {
    TrieWord::leaf(u16::try_from(class.0).unwrap_or_default(), service)
}
