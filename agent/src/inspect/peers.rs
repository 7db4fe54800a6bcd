// SPDX-License-Identifier: Apache-2.0
//! Which addresses are in which class?

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use policy_ebpf_common::{
    abi::{CLASS_NONE, HostBucket, TRIE_FANOUT, TRIE4_ROOT_NODES, TrieWord},
    lookup::{Bank, Tables},
};

/// [`TRIE_FANOUT`] as the type of an index.
const NIBBLES: u32 = 16;
const _: () = assert!(NIBBLES as usize == TRIE_FANOUT);

/// The blocks of addresses that have a class, each with its word, in the order of addresses; blocks
/// that continue each other with the same word are one.
pub fn peers<T: Tables>(tables: &T, bank: &Bank) -> Vec<(IpNet, TrieWord)> {
    let mut found = Vec::new();
    for root in 0..TRIE4_ROOT_NODES {
        walk4(tables, bank, root, root << 20, 12, &mut found);
    }
    walk6(tables, bank, 0, 0, 0, &mut found);
    let mut hosts = Vec::new();
    for bucket in 0..=bank.hosts6_mask {
        let Some(HostBucket { keys, words, .. }) = tables.host6(bank.number, bucket) else {
            continue;
        };
        for (key, word) in keys.iter().zip(words) {
            if *key != [0; 4] {
                let mut octets = [0; 16];
                for (to, part) in octets.chunks_exact_mut(4).zip(key) {
                    to.copy_from_slice(&part.to_ne_bytes());
                }
                hosts.push((IpNet::from(IpAddr::from(octets)), TrieWord(*word)));
            }
        }
    }
    hosts.sort_by_key(|(net, _)| *net);
    found.extend(hosts);
    merge(found)
}

fn walk4<T: Tables>(
    tables: &T,
    bank: &Bank,
    node: u32,
    prefix: u32,
    depth: u8,
    found: &mut Vec<(IpNet, TrieWord)>,
) {
    for nibble in 0..NIBBLES {
        let word = TrieWord(tables.trie4(bank.number, node, nibble).unwrap_or_default());
        let length = depth + 4;
        let prefix = prefix | nibble << (32 - length);
        match word.as_child() {
            Some(child) if length < 32 => walk4(tables, bank, child, prefix, length, found),
            Some(_) => {}
            None if word.class() == CLASS_NONE => {}
            None => {
                if let Ok(net) = Ipv4Net::new(Ipv4Addr::from(prefix), length) {
                    found.push((net.into(), word));
                }
            }
        }
    }
}

fn walk6<T: Tables>(
    tables: &T,
    bank: &Bank,
    node: u32,
    prefix: u128,
    depth: u8,
    found: &mut Vec<(IpNet, TrieWord)>,
) {
    for nibble in 0..NIBBLES {
        let word = TrieWord(tables.trie6(bank.number, node, nibble).unwrap_or_default());
        let length = depth + 4;
        let prefix = prefix | u128::from(nibble) << (128 - u32::from(length));
        match word.as_child() {
            Some(child) if length < 128 => walk6(tables, bank, child, prefix, length, found),
            Some(_) => {}
            None if word.class() == CLASS_NONE => {}
            None => {
                if let Ok(net) = Ipv6Net::new(Ipv6Addr::from(prefix), length) {
                    found.push((net.into(), word));
                }
            }
        }
    }
}

/// Joins sibling blocks of the same word, bottom up.
fn merge(blocks: Vec<(IpNet, TrieWord)>) -> Vec<(IpNet, TrieWord)> {
    let mut merged: Vec<(IpNet, TrieWord)> = Vec::new();
    for (mut net, word) in blocks {
        while let Some((last, same)) = merged.last().copied()
            && same == word
            && last.prefix_len() == net.prefix_len()
            && let (Some(parent), Some(other)) = (last.supernet(), net.supernet())
            && parent == other
            && last != net
        {
            merged.pop();
            net = parent;
        }
        merged.push((net, word));
    }
    merged
}
