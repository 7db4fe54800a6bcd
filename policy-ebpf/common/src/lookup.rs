// SPDX-License-Identifier: Apache-2.0 OR MIT OR GPL-2.0-only
//! What does a verdict table say of a peer and a port?
//!
//! A constant number of steps whatever the number of policies: address → class (array trie, exact
//! IPv6 addresses by a two-choice hash), (row, class) → entry, entry → cell (a five-step search in a
//! port set). Every step that finds nothing denies.

use core::hint::black_box;

use crate::{
    abi::{
        CLASS_NONE, Cell, Config, HostBucket, PORT_SET_DEPTH, PortSet, ROW_CHUNK, ROW_DENY,
        RowEntry, ServiceKey, TrieWord, host_buckets, port_key,
    },
    parse::{Address, port_protocol},
};

/// The verdict tables, as one of the two banks of maps. Indices are those within the bank.
pub trait Tables {
    /// Word `word` of node `node` of `TRIE4`.
    fn trie4(&self, bank: u32, node: u32, word: u32) -> Option<u32>;
    /// Word `word` of node `node` of `TRIE6`.
    fn trie6(&self, bank: u32, node: u32, word: u32) -> Option<u32>;
    /// A bucket of `HOSTS6`.
    fn host6(&self, bank: u32, bucket: u32) -> Option<&HostBucket>;
    /// Entry `entry` of chunk `chunk` of `ROWS`.
    fn row(&self, bank: u32, chunk: u32, entry: u32) -> Option<u16>;
    /// A cell of `UNIFORM`.
    fn uniform(&self, bank: u32, index: u32) -> Option<u32>;
    /// A port set.
    fn port_set(&self, bank: u32, index: u32) -> Option<&PortSet>;
    /// The class of a Service's address and port.
    fn service(&self, key: &ServiceKey) -> Option<u32>;
    /// [`prefix6`]. A hook, so that the kernel can put a function in between that the verifier checks
    /// by itself.
    fn prefix6(&self, bank: u32, address: &Address) -> TrieWord
    where
        Self: Sized,
    {
        prefix6(self, bank, address)
    }
    /// [`class_of_service`]. A hook as [`Self::prefix6`] is.
    fn class_of_service(&self, bank: u32, address: &Address, protocol: u8, port: u16) -> Option<u16>
    where
        Self: Sized,
    {
        class_of_service(self, bank, address, protocol, port)
    }
    /// [`cell_of_set`], for a port set that another one leads to. A hook as [`Self::prefix6`] is.
    fn nested_set(&self, bank: u32, index: u32, key: u32) -> Cell
    where
        Self: Sized,
    {
        cell_of_set(self, bank, index, key)
    }
}

/// [`ROW_CHUNK`] as the type of an index.
const ENTRIES: u32 = 32;
const _: () = assert!(ENTRIES as usize == ROW_CHUNK);

/// The bank that judges a packet, with what [`Config`] says of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bank {
    /// 0 or 1.
    pub number: u32,
    /// Chunks per row.
    pub row_chunks: u32,
    /// Buckets of `HOSTS6` minus one.
    pub hosts6_mask: u32,
    /// Number of the publication.
    pub generation: u32,
}

impl Bank {
    /// The published bank.
    #[inline(always)]
    pub fn active(config: &Config) -> Self {
        Self::of(config, config.active)
    }

    /// The bank that the lowest bit of `number` names.
    #[inline(always)]
    pub const fn of(config: &Config, number: u32) -> Self {
        let number = number & 1;
        let place = number as usize;
        Self {
            number,
            row_chunks: config.row_chunks[place],
            hosts6_mask: config.hosts6_mask[place],
            generation: config.generation[place],
        }
    }
}

/// The entry of a row for a class. Anything unknown is port set 0, which denies.
#[inline(always)]
pub fn entry_of_class<T: Tables>(tables: &T, bank: &Bank, row: u16, class: u16) -> RowEntry {
    let chunk = u32::from(class) / ENTRIES;
    if row == ROW_DENY || chunk >= bank.row_chunks {
        return RowEntry::port_set(0);
    }
    let index = u32::from(row) * bank.row_chunks + chunk;
    let entry = tables.row(bank.number, index, u32::from(class) % ENTRIES);
    RowEntry(entry.unwrap_or(0))
}

/// What an entry says of a [`port_key`].
#[inline(always)]
pub fn cell_of_entry<T: Tables>(tables: &T, bank: &Bank, entry: RowEntry, key: u32) -> Cell {
    if let Some(index) = entry.as_uniform() {
        return Cell(
            tables
                .uniform(bank.number, u32::from(index))
                .unwrap_or_default(),
        );
    }
    let Some(set) = tables.port_set(bank.number, u32::from(entry.0)) else {
        return Cell(0);
    };
    let cell = Cell(set.cells[interval(set, key)]);
    if cell.action() == Cell::DESCEND {
        tables.nested_set(bank.number, cell.reason(), key)
    } else {
        cell
    }
}

/// What a port set below the first says of a [`port_key`].
#[inline(always)]
pub fn cell_of_set<T: Tables>(tables: &T, bank: u32, index: u32, key: u32) -> Cell {
    let mut index = index;
    for _ in 1..PORT_SET_DEPTH {
        let Some(set) = tables.port_set(bank, index) else {
            break;
        };
        let cell = Cell(set.cells[interval_steady(set, key)]);
        if cell.action() != Cell::DESCEND {
            return cell;
        }
        index = cell.reason();
    }
    Cell(0)
}

/// What an entry says of all ports of a protocol, or [`DIFFERS`].
#[inline(always)]
pub fn cell_of_protocol<T: Tables>(
    tables: &T,
    bank: &Bank,
    entry: RowEntry,
    protocol: u32,
) -> Cell {
    if let Some(index) = entry.as_uniform() {
        let cell = tables.uniform(bank.number, u32::from(index));
        return Cell(cell.unwrap_or_default());
    }
    let Some(set) = tables.port_set(bank.number, u32::from(entry.0)) else {
        return Cell(0);
    };
    let first = interval_steady(set, port_key(protocol, 0));
    let last = interval_steady(set, port_key(protocol, u16::MAX));
    let cell = Cell(set.cells[first]);
    if first == last && cell.action() != Cell::DESCEND {
        cell
    } else {
        DIFFERS
    }
}

/// Number of boundaries of `set` that are not greater than `key`.
#[inline(always)]
fn interval(set: &PortSet, key: u32) -> usize {
    search(set, |boundary| u32::from(boundary <= key))
}

/// As [`interval`], by arithmetic: where several searches follow each other, the verifier would
/// follow every combination of their branches. A packet's way has one search, and branches that are
/// foreseen are faster.
#[inline(always)]
fn interval_steady(set: &PortSet, key: u32) -> usize {
    // A compiler that knew how small keys are would make branches of the arithmetic.
    let key = black_box(key);
    // The sign of the difference is 1 where the key lies below the boundary. Boundaries are below the
    // highest bit, but for the unused ones, which have all bits.
    search(set, |boundary| {
        (key.wrapping_sub(boundary & (u32::MAX >> 1)) >> 31) ^ 1
    })
}

/// Number of boundaries of `set` that are `reached` (1, else 0), which are the first ones.
#[inline(always)]
fn search(set: &PortSet, reached: impl Fn(u32) -> u32) -> usize {
    let mut count = 0;
    let mut step = 16;
    while step > 0 {
        count += step * reached(set.boundaries[(count + step - 1) & 31]) as usize;
        step /= 2;
    }
    count & 31
}

/// How the other end of a flow is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// By its address. As a destination it may be a Service's.
    Address,
    /// By its class.
    Class(u16),
    /// Not at all: the entry is known.
    Entry(RowEntry),
}

/// What is asked of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The row, which is not 0.
    pub row: u16,
    /// The other end.
    pub peer: Peer,
    /// Its address.
    pub address: Address,
    /// The address is IPv6.
    pub ipv6: bool,
    /// The other end is the destination of the flow.
    pub egress: bool,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port of the flow.
    pub port: Port,
}

/// The port of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// It is known; 0 if the protocol has none.
    Known(u16),
    /// It is not, so the answer has to be the same for all ports: [`DIFFERS`] if it is not.
    Unknown,
}

/// The answer to a question about an unknown port whose port matters.
pub const DIFFERS: Cell = Cell::new(Cell::DESCEND, 0, false, 0);

/// The answer of a bank's tables.
#[inline(always)]
pub fn cell<T: Tables>(tables: &T, bank: &Bank, question: &Question) -> Cell {
    let entry = match question.peer {
        Peer::Entry(entry) => entry,
        Peer::Class(class) => entry_of_class(tables, bank, question.row, class),
        Peer::Address => {
            let word = word_of(tables, bank, &question.address, question.ipv6);
            let class = if question.egress && word.is_service() {
                let Port::Known(port) = question.port else {
                    // Which backend is behind the address only the port could tell.
                    return DIFFERS;
                };
                tables
                    .class_of_service(bank.number, &question.address, question.protocol, port)
                    .unwrap_or(word.class())
            } else {
                word.class()
            };
            entry_of_class(tables, bank, question.row, class)
        }
    };
    let protocol = port_protocol(question.protocol);
    match question.port {
        Port::Known(port) => cell_of_entry(tables, bank, entry, port_key(protocol, port)),
        Port::Unknown => cell_of_protocol(tables, bank, entry, protocol),
    }
}

/// The word of the trie (or of the exact addresses) that covers an address.
#[inline(always)]
pub fn word_of<T: Tables>(tables: &T, bank: &Bank, address: &Address, ipv6: bool) -> TrieWord {
    if ipv6 {
        word_of6(tables, bank, address)
    } else {
        word_of4(tables, bank, u32::from_be_bytes(address.octets4()))
    }
}

#[inline(always)]
fn word_of4<T: Tables>(tables: &T, bank: &Bank, address: u32) -> TrieWord {
    // The root spans the first four nibbles.
    let mut node = address >> 20;
    let mut shift = 16;
    loop {
        let word = tables.trie4(bank.number, node, address >> shift & 15);
        let word = TrieWord(word.unwrap_or_default());
        let Some(child) = word.as_child() else {
            return word;
        };
        if shift == 0 {
            return TrieWord(0);
        }
        node = child;
        shift -= 4;
    }
}

#[inline(always)]
fn word_of6<T: Tables>(tables: &T, bank: &Bank, address: &Address) -> TrieWord {
    let Address(key) = *address;
    for bucket in host_buckets(key) {
        if let Some(bucket) = tables.host6(bank.number, bucket & bank.hosts6_mask) {
            for (host, word) in bucket.keys.iter().zip(&bucket.words) {
                if same(host, &key) {
                    return TrieWord(*word);
                }
            }
        }
    }
    tables.prefix6(bank.number, address)
}

/// Whether two addresses are the same.
///
/// In one comparison: the verifier would follow every combination of several.
#[inline(always)]
const fn same(left: &[u32; 4], right: &[u32; 4]) -> bool {
    let difference =
        (left[0] ^ right[0]) | (left[1] ^ right[1]) | (left[2] ^ right[2]) | (left[3] ^ right[3]);
    difference == 0
}

/// The word of `TRIE6` that covers an address.
#[inline(always)]
pub fn prefix6<T: Tables>(tables: &T, bank: u32, address: &Address) -> TrieWord {
    const NIBBLES: u32 = 32;
    let Address([first, second, third, fourth]) = *address;
    let half = |high, low| u64::from(u32::from_be(high)) << 32 | u64::from(u32::from_be(low));
    let (mut high, mut low) = (half(first, second), half(third, fourth));
    let mut node = 0;
    for _ in 0..NIBBLES {
        let nibble = (high >> 60) as u32;
        let word = TrieWord(tables.trie6(bank, node, nibble).unwrap_or_default());
        let Some(child) = word.as_child() else {
            return word;
        };
        node = child;
        high = high << 4 | low >> 60;
        low <<= 4;
    }
    TrieWord(0)
}

/// The class of a Service's address and port.
#[inline(always)]
pub fn class_of_service<T: Tables>(
    tables: &T,
    bank: u32,
    address: &Address,
    protocol: u8,
    port: u16,
) -> Option<u16> {
    let key = ServiceKey {
        address: address.octets(),
        port: port.to_be_bytes(),
        protocol,
        bank: u8::from(bank != 0),
    };
    let class = tables.service(&key)?;
    Some(u16::try_from(class).unwrap_or(CLASS_NONE))
}
