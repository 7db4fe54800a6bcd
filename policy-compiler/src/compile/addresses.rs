// SPDX-License-Identifier: Apache-2.0
//! Which class an address belongs to, by longest prefix.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::ClassId;

/// Classes of all addresses of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressClasses {
    /// Sorted by address, then length; `0.0.0.0/0` and `::/0` are always there.
    prefixes: Vec<(IpNet, ClassId)>,
    /// The same as disjoint ranges, by family: each starts here and ends where the next starts.
    ranges: [Vec<(u128, ClassId)>; 2],
}

impl AddressClasses {
    /// Class of each prefix, for all addresses that no longer prefix holds.
    pub fn prefixes(&self) -> &[(IpNet, ClassId)] {
        &self.prefixes
    }

    /// The class of `address`.
    pub fn class_of(&self, address: IpAddr) -> ClassId {
        let line = if address.is_ipv4() { V4 } else { V6 };
        let ranges = &self.ranges[usize::from(line.index)];
        let bits = line.bits_of(address).unwrap_or_default();
        let after = ranges.partition_point(|(start, _)| *start <= bits);
        let range = after.checked_sub(1).and_then(|index| ranges.get(index));
        range.map_or(ClassId::default(), |(_, class)| *class)
    }

    /// Adds the prefixes of one family, sorted by address, then length.
    pub(super) fn extend(
        &mut self,
        line: Line,
        prefixes: impl Iterator<Item = (u128, u8, ClassId)>,
    ) {
        let ranges = &mut self.ranges[usize::from(line.index)];
        // Prefixes around the current address, outermost first, with their last addresses.
        let mut around: Vec<(u128, ClassId)> = Vec::new();
        let close = |around: &mut Vec<(u128, ClassId)>,
                     ranges: &mut Vec<(u128, ClassId)>,
                     before: u128| {
            while let Some((last, _)) = around.last().copied().filter(|(last, _)| *last < before) {
                around.pop();
                if let Some((_, class)) = around.last() {
                    // INVARIANT: `last` is below another address, so it has a successor.
                    push(ranges, last + 1, *class);
                }
            }
        };
        for (start, length, class) in prefixes {
            close(&mut around, ranges, start);
            push(ranges, start, class);
            around.push((line.last(start, length), class));
            self.prefixes
                .extend(line.prefix(start, length).map(|prefix| (prefix, class)));
        }
        close(&mut around, ranges, line.last(0, 0));
    }
}

/// Starts a range, replacing one that starts at the same address and merging with an equal one before.
fn push(ranges: &mut Vec<(u128, ClassId)>, start: u128, class: ClassId) {
    if ranges.last().is_some_and(|(last, _)| *last == start) {
        ranges.pop();
    }
    if ranges.last().is_none_or(|(_, last)| *last != class) {
        ranges.push((start, class));
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
