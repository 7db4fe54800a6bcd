// SPDX-License-Identifier: Apache-2.0
//! An image read by the datapath's own code, on the host.

use policy_ebpf_common::{
    abi::{CLASS_HOST, Cell, HostBucket, PortSet, RowEntry, ServiceKey, TrieNode, port_key},
    lookup::{Bank, Tables, cell_of_entry, entry_of_class, word_of},
    parse::Address,
};

use super::{EndpointImage, Image};
use crate::{
    model::{Direction, Family, Protocol},
    portmap::key_of,
};

/// Who a pod talks to, as the datapath knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImagePeer {
    /// An address on the wire.
    Address(std::net::IpAddr),
    /// A class, of a pod of the same node.
    Class(u16),
    /// The node's own stack.
    Host,
    /// The pod itself, through a Service.
    Own(Family),
}

impl Image {
    /// What the image says of a packet; `None` if nothing is enforced in that direction.
    pub fn cell(
        &self,
        endpoint: &EndpointImage,
        direction: Direction,
        peer: ImagePeer,
        protocol: Protocol,
        port: u16,
    ) -> Option<Cell> {
        let half = |pair: u32| {
            let [low, high] = [pair & 0xffff, pair >> 16];
            let half = match direction {
                Direction::Ingress => low,
                Direction::Egress => high,
            };
            u16::try_from(half).unwrap_or_default()
        };
        let row = half(endpoint.rows);
        if row == 0 {
            return None;
        }
        let bank = self.bank();
        let of_class = |class| entry_of_class(self, &bank, row, class);
        let entry = match peer {
            ImagePeer::Address(std::net::IpAddr::V4(v4)) => {
                of_class(word_of(self, &bank, &Address::v4(v4.octets()), false).class())
            }
            ImagePeer::Address(std::net::IpAddr::V6(v6)) => {
                of_class(word_of(self, &bank, &Address::v6(v6.octets()), true).class())
            }
            ImagePeer::Class(class) => of_class(class),
            ImagePeer::Host => of_class(CLASS_HOST),
            ImagePeer::Own(Family::V4) => RowEntry(half(endpoint.own4)),
            ImagePeer::Own(Family::V6) => RowEntry(half(endpoint.own6)),
        };
        let key = key_of(protocol, port);
        debug_assert_eq!(
            key,
            port_key(key >> 16, u16::try_from(key & 0xffff).unwrap_or_default())
        );
        Some(cell_of_entry(self, &bank, entry, key))
    }

    /// The image as the only bank.
    pub fn bank(&self) -> Bank {
        Bank {
            number: 0,
            row_chunks: self.row_chunks,
            hosts6_mask: u32::try_from(self.hosts6.len().saturating_sub(1)).unwrap_or(u32::MAX),
            generation: 0,
        }
    }
}

impl Tables for Image {
    fn trie4(&self, _bank: u32, node: u32, word: u32) -> Option<u32> {
        word_at(&self.trie4, node, word)
    }

    fn trie6(&self, _bank: u32, node: u32, word: u32) -> Option<u32> {
        word_at(&self.trie6, node, word)
    }

    fn host6(&self, _bank: u32, bucket: u32) -> Option<&HostBucket> {
        self.hosts6.get(bucket as usize)
    }

    fn row(&self, _bank: u32, chunk: u32, entry: u32) -> Option<u16> {
        self.rows
            .get(chunk as usize)?
            .entries
            .get(entry as usize)
            .copied()
    }

    fn uniform(&self, _bank: u32, index: u32) -> Option<u32> {
        self.uniform.get(index as usize).copied()
    }

    fn port_set(&self, _bank: u32, index: u32) -> Option<&PortSet> {
        self.port_sets.get(index as usize)
    }

    fn service(&self, key: &ServiceKey) -> Option<u32> {
        self.services.get(&ServiceKey { bank: 0, ..*key }).copied()
    }
}

fn word_at(nodes: &[TrieNode], node: u32, word: u32) -> Option<u32> {
    nodes.get(node as usize)?.words.get(word as usize).copied()
}
