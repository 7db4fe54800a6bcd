// SPDX-License-Identifier: Apache-2.0
//! Which class an address belongs to, by longest prefix.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::ClassId;

/// Classes of all addresses of both families: those of pods one by one, all others by block.
///
/// Pods come and go all the time and blocks hardly ever, so they are kept apart: one pod more is one
/// entry more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressClasses {
    /// Sorted by address, then length; `0.0.0.0/0` and `::/0` are always there.
    blocks: Vec<(IpNet, ClassId)>,
    /// The same as disjoint ranges, by family: each starts here and ends where the next starts.
    ranges: [Vec<(u128, ClassId)>; 2],
    /// Addresses that pods own, by family; they stand out of any block.
    hosts: [BTreeMap<u128, ClassId>; 2],
}

impl AddressClasses {
    /// Class of each block, for all addresses that no smaller block holds and no pod owns.
    pub fn blocks(&self) -> &[(IpNet, ClassId)] {
        &self.blocks
    }

    /// Class of each address that a pod owns; where it is that of the block around, it may be missing.
    pub fn hosts(&self) -> impl Iterator<Item = (IpAddr, ClassId)> {
        let of = |line: Line| {
            let hosts = self.hosts[usize::from(line.index)].iter();
            hosts.filter_map(move |(bits, class)| Some((line.address(*bits)?, *class)))
        };
        of(V4).chain(of(V6))
    }

    /// The class of the pod that owns `address`, where the pod has an entry.
    pub fn host(&self, address: IpAddr) -> Option<ClassId> {
        let (line, bits) = Line::of(address);
        self.hosts[usize::from(line.index)].get(&bits).copied()
    }

    /// The pods' addresses from `first` to `last`, both of one family, with their classes.
    pub fn hosts_between(
        &self,
        first: IpAddr,
        last: IpAddr,
    ) -> impl Iterator<Item = (IpAddr, ClassId)> {
        let (line, from) = Line::of(first);
        let (_, to) = Line::of(last);
        let hosts = &self.hosts[usize::from(line.index)];
        let hosts = (from <= to).then(|| hosts.range(from..=to));
        let hosts = hosts.into_iter().flatten();
        hosts.filter_map(move |(bits, class)| Some((line.address(*bits)?, *class)))
    }

    /// The class of `address`.
    pub fn class_of(&self, address: IpAddr) -> ClassId {
        self.host(address)
            .unwrap_or_else(|| self.block_class_of(address))
    }

    /// The addresses from `first` to `last`, both of one family, as stretches (first and last address) in
    /// which all that no pod owns are of one class.
    pub fn blocks_between(
        &self,
        first: IpAddr,
        last: IpAddr,
    ) -> impl Iterator<Item = (IpAddr, IpAddr, ClassId)> {
        let (line, from) = Line::of(first);
        let (_, to) = Line::of(last);
        let ranges = &self.ranges[usize::from(line.index)];
        let begin = ranges.partition_point(|(start, _)| *start <= from);
        let ranges = ranges.get(begin.saturating_sub(1)..).unwrap_or_default();
        let ends = ranges.iter().skip(1).map(|(next, _)| next - 1);
        let ends = ends.chain([line.last(0, 0)]);
        let ranges = ranges.iter().zip(ends);
        let ranges = ranges.take_while(move |((start, _), _)| *start <= to);
        ranges.filter_map(move |((start, class), end)| {
            let first = line.address(from.max(*start))?;
            Some((first, line.address(to.min(end))?, *class))
        })
    }

    /// The IPv6 addresses from `first` to `last` that are blocks of their own.
    pub fn single_blocks6(
        &self,
        first: Ipv6Addr,
        last: Ipv6Addr,
    ) -> impl Iterator<Item = Ipv6Addr> {
        let begin = self
            .blocks
            .partition_point(|(net, _)| net.network() < IpAddr::V6(first));
        let blocks = self.blocks.get(begin..).unwrap_or_default().iter();
        let blocks = blocks.take_while(move |(net, _)| net.network() <= IpAddr::V6(last));
        blocks.filter_map(|(net, _)| match net {
            IpNet::V6(net) if net.prefix_len() == 128 => Some(net.network()),
            _ => None,
        })
    }

    /// Whether the address is a block of its own.
    pub fn is_block(&self, address: IpAddr) -> bool {
        let key = |net: IpNet| (net.network(), net.prefix_len());
        let wanted = key(IpNet::from(address));
        let found = self
            .blocks
            .binary_search_by_key(&wanted, |(net, _)| key(*net));
        found.is_ok()
    }

    /// The class that `address` has unless a pod owns it.
    pub fn block_class_of(&self, address: IpAddr) -> ClassId {
        let (line, bits) = Line::of(address);
        let ranges = &self.ranges[usize::from(line.index)];
        let after = ranges.partition_point(|(start, _)| *start <= bits);
        let range = after.checked_sub(1).and_then(|index| ranges.get(index));
        range.map_or(ClassId::default(), |(_, class)| *class)
    }

    /// Sets the class of a pod's address, or forgets it. Returns the class it had.
    pub(super) fn set_host(&mut self, address: IpAddr, class: Option<ClassId>) -> Option<ClassId> {
        let (line, bits) = Line::of(address);
        let hosts = &mut self.hosts[usize::from(line.index)];
        match class {
            Some(class) => hosts.insert(bits, class),
            None => hosts.remove(&bits),
        }
    }

    /// Replaces the pods' addresses of one family.
    pub(super) fn set_hosts(&mut self, line: Line, hosts: BTreeMap<u128, ClassId>) {
        self.hosts[usize::from(line.index)] = hosts;
    }

    /// Forgets all blocks.
    pub(super) fn clear_blocks(&mut self) {
        self.blocks.clear();
        self.ranges = [Vec::new(), Vec::new()];
    }

    /// Adds the blocks of one family, sorted by address, then length.
    pub(super) fn extend(&mut self, line: Line, blocks: Vec<(u128, u8, ClassId)>) {
        self.blocks.extend(
            blocks
                .iter()
                .filter_map(|(start, length, class)| Some((line.prefix(*start, *length)?, *class))),
        );
        self.ranges[usize::from(line.index)] = flatten(line, blocks);
    }
}

/// Nested prefixes, sorted by address, then length, as disjoint ranges: each starts here and ends where
/// the next starts. Neighbours differ.
pub(super) fn flatten<T: Copy + PartialEq>(
    line: Line,
    prefixes: Vec<(u128, u8, T)>,
) -> Vec<(u128, T)> {
    let mut ranges: Vec<(u128, T)> = Vec::with_capacity(prefixes.len());
    // Prefixes around the current address, outermost first, with their last addresses.
    let mut around: Vec<(u128, T)> = Vec::new();
    let close = |around: &mut Vec<(u128, T)>, ranges: &mut Vec<(u128, T)>, before: u128| {
        while let Some((last, _)) = around.last().copied().filter(|(last, _)| *last < before) {
            around.pop();
            if let Some((_, value)) = around.last() {
                // INVARIANT: `last` is below another address, so it has a successor.
                push(ranges, last + 1, *value);
            }
        }
    };
    for (start, length, value) in prefixes {
        close(&mut around, &mut ranges, start);
        push(&mut ranges, start, value);
        around.push((line.last(start, length), value));
    }
    close(&mut around, &mut ranges, line.last(0, 0));
    ranges
}

/// Starts a range, replacing one that starts at the same address and merging with an equal one before.
fn push<T: PartialEq>(ranges: &mut Vec<(u128, T)>, start: u128, value: T) {
    if ranges.last().is_some_and(|(last, _)| *last == start) {
        ranges.pop();
    }
    if ranges.last().is_none_or(|(_, last)| *last != value) {
        ranges.push((start, value));
    }
}

/// An address family as a number line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) index: u8,
    pub(super) bits: u8,
}

pub(super) const V4: Line = Line { index: 0, bits: 32 };
pub(super) const V6: Line = Line {
    index: 1,
    bits: 128,
};

impl Line {
    /// Where `address` is.
    pub(super) fn of(address: IpAddr) -> (Self, u128) {
        match address {
            IpAddr::V4(v4) => (V4, u128::from(v4.to_bits())),
            IpAddr::V6(v6) => (V6, v6.to_bits()),
        }
    }

    /// The address at `bits`; `None` beyond the end of the line.
    pub(super) fn address(self, bits: u128) -> Option<IpAddr> {
        if self.index == 0 {
            let bits = u32::try_from(bits).ok()?;
            Some(IpAddr::V4(Ipv4Addr::from_bits(bits)))
        } else {
            Some(IpAddr::V6(Ipv6Addr::from_bits(bits)))
        }
    }

    pub(super) fn bits_of(self, address: IpAddr) -> Option<u128> {
        match (address, self.index) {
            (IpAddr::V4(v4), 0) => Some(u128::from(v4.to_bits())),
            (IpAddr::V6(v6), 1) => Some(v6.to_bits()),
            _ => None,
        }
    }

    pub(super) fn prefix(self, start: u128, length: u8) -> Option<IpNet> {
        if self.index == 0 {
            let address = Ipv4Addr::from_bits(u32::try_from(start).ok()?);
            Ipv4Net::new(address, length).ok().map(IpNet::V4)
        } else {
            Ipv6Net::new(Ipv6Addr::from_bits(start), length)
                .ok()
                .map(IpNet::V6)
        }
    }

    /// One past the last address, as an offset that never overflows: all ones for the whole line.
    pub(super) fn last(self, start: u128, length: u8) -> u128 {
        let host_bits = u32::from(self.bits - length);
        let mask = if host_bits >= 128 {
            u128::MAX
        } else {
            (1 << host_bits) - 1
        };
        start | mask
    }
}
