// SPDX-License-Identifier: Apache-2.0
//! Where on the address lines do rules on addresses, nodes and Service ranges draw boundaries?

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use indexmap::IndexSet;

use super::{Compiler, classes::BaseId, groups::KindId};
use crate::compile::{
    ClassId,
    addresses::{Line, V4, V6, flatten},
    peers::{Signature, block_events},
};

/// The blocks of one address line.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// Disjoint ranges, each up to the next: the base of the addresses, and that of pods' among them.
    ranges: Vec<(u128, BaseId, BaseId)>,
    /// The classes of addresses that no pod owns; a member of each.
    classes: Vec<ClassId>,
}

/// A stretch of an address line that was of one base and is of one base.
struct Segment {
    first: u128,
    last: u128,
    /// Base of the addresses, and of pods' among them.
    before: (BaseId, BaseId),
    /// Index into the new signatures.
    now: usize,
}

impl Blocks {
    fn base_under(&self, bits: u128) -> BaseId {
        let after = self.ranges.partition_point(|(start, ..)| *start <= bits);
        let range = after
            .checked_sub(1)
            .and_then(|index| self.ranges.get(index));
        range.map_or(BaseId::NONE, |(.., under_pods)| *under_pods)
    }
}

impl Compiler {
    /// The base that a pod's address stands on.
    pub(super) fn base_under(&self, address: IpAddr) -> BaseId {
        let (line, bits) = Line::of(address);
        self.blocks[usize::from(line.index)].base_under(bits)
    }

    /// Draws all blocks again, and moves the addresses that are in another base now.
    pub(super) fn rebase(&mut self) {
        let drawn = [V4, V6].map(|line| (line, self.draw(line)));
        let mut blocks = Vec::new();
        for (line, (prefixes, signatures)) in drawn {
            blocks.push((line, self.rebase_line(line, &prefixes, &signatures)));
        }
        self.tables.addresses.clear_blocks();
        for (line, classes) in blocks {
            self.tables.addresses.extend(line, classes);
        }
    }

    /// The prefixes of a line, each with the index of its signature, sorted by address, then length.
    fn draw(&self, line: Line) -> (Vec<(u128, u8, usize)>, IndexSet<Signature>) {
        let mut events = block_events(&self.snapshot, true, self.atoms.of_addresses(), line);
        events.sort_unstable();
        let mut signatures = IndexSet::new();
        signatures.insert(Signature::default());
        let mut prefixes = vec![(0, 0, 0)];
        let mut around = vec![(line.last(0, 0), 0)];
        for at in events.chunk_by(|a, b| (a.start, a.length) == (b.start, b.length)) {
            let Some(event) = at.first() else {
                continue;
            };
            while around.len() > 1 && around.last().is_some_and(|(last, _)| *last < event.start) {
                around.pop();
            }
            let outer = around.last().map_or(0, |(_, outer)| *outer);
            let mut signature = signatures.get_index(outer).cloned().unwrap_or_default();
            signature.follow(at);
            let (index, _) = signatures.insert_full(signature);
            match prefixes.last_mut() {
                Some(last) if (last.0, last.1) == (event.start, event.length) => last.2 = index,
                _ if index != outer => prefixes.push((event.start, event.length, index)),
                _ => {}
            }
            around.push((line.last(event.start, event.length), index));
        }
        (prefixes, signatures)
    }

    /// Returns the prefixes of the line with their classes.
    fn rebase_line(
        &mut self,
        line: Line,
        prefixes: &[(u128, u8, usize)],
        signatures: &IndexSet<Signature>,
    ) -> Vec<(u128, u8, ClassId)> {
        let ranges = flatten(line, prefixes.to_vec());
        let index = usize::from(line.index);
        let before = std::mem::take(&mut self.blocks[index]);
        let segments = segments(line, &before.ranges, &ranges);
        self.relabel_bases(&segments, &ranges, signatures);

        let used: BTreeSet<usize> = prefixes.iter().map(|(.., signature)| *signature).collect();
        let mut bases: BTreeMap<usize, (BaseId, BaseId, ClassId)> = BTreeMap::new();
        for used in used {
            if let Some(signature) = signatures.get_index(used) {
                let base = self.classes.intern_base(signature.clone(), &mut self.atoms);
                let under_pods = signature.around_pod();
                let under_pods = self.classes.intern_base(under_pods, &mut self.atoms);
                bases.insert(
                    used,
                    (base, under_pods, self.join_class(base, KindId::NONE)),
                );
            }
        }
        let base_of = |signature: usize| {
            let none = (BaseId::NONE, BaseId::NONE, ClassId::FIRST);
            bases.get(&signature).copied().unwrap_or(none)
        };
        let ranges = ranges.iter().map(|(start, signature)| {
            let (base, under_pods, _) = base_of(*signature);
            (*start, base, under_pods)
        });
        let now = Blocks {
            ranges: ranges.collect(),
            classes: bases.values().map(|(.., class)| *class).collect(),
        };
        for (_, base, under_pods) in &now.ranges {
            self.classes.count_base(*base, 1);
            self.classes.count_base(*under_pods, 1);
        }
        self.blocks[index] = now;
        for segment in &segments {
            let (base, under_pods, _) = base_of(segment.now);
            let (Some(first), Some(last)) =
                (line.address(segment.first), line.address(segment.last))
            else {
                continue;
            };
            if base != segment.before.0 {
                self.delta.blocks.insert((first, last));
            }
            if under_pods != segment.before.1 {
                let hosts = self.tables.addresses.hosts_between(first, last);
                let hosts: Vec<IpAddr> = hosts.map(|(address, _)| address).collect();
                for address in hosts {
                    self.place(address);
                }
                let of_subjects = self.subjects.pods.iter().filter(|(_, subject)| {
                    let mut addresses = subject.pod.addresses.iter();
                    addresses.any(|address| first <= *address && *address <= last)
                });
                let of_subjects: Vec<_> = of_subjects.map(|(key, _)| key.clone()).collect();
                for key in of_subjects {
                    self.place_subject(&key);
                }
            }
        }
        for (_, base, under_pods) in before.ranges {
            self.classes.count_base(base, -1);
            self.classes.count_base(under_pods, -1);
        }
        for class in before.classes {
            self.classes.release(class);
        }
        let classes = prefixes.iter().map(|(start, length, signature)| {
            let (.., class) = base_of(*signature);
            (*start, *length, class)
        });
        classes.collect()
    }

    /// Where all addresses of a base go the same way, it is the base that changes, not the addresses.
    fn relabel_bases(
        &mut self,
        segments: &[Segment],
        ranges: &[(u128, usize)],
        signatures: &IndexSet<Signature>,
    ) {
        let wanted: BTreeSet<usize> = ranges.iter().map(|(_, signature)| *signature).collect();
        let mut done = BTreeSet::from([BaseId::NONE]);
        for segment in segments {
            let base = segment.before.0;
            // Addresses that are told apart by more than rules are rare, and simply move.
            if base != segment.before.1 || !done.insert(base) {
                continue;
            }
            let known = self.classes.bases.signature(base);
            let stays = known.and_then(|known| signatures.get_index_of(known));
            let Some(signature) = signatures.get_index(segment.now) else {
                continue;
            };
            if stays.is_some_and(|index| wanted.contains(&index))
                || signature.around_pod() != *signature
                || self.classes.bases.known(signature).is_some()
                || self.is_on_other_line(base)
            {
                continue;
            }
            let changed = self
                .classes
                .bases
                .relabel(base, signature.clone(), &mut self.atoms);
            let has_users = |id| {
                self.atoms
                    .get(id)
                    .is_some_and(|atom| !atom.users.is_empty())
            };
            if changed.into_iter().any(has_users) {
                let of_base = self.classes.bases.get(base).into_iter();
                let of_base: Vec<ClassId> = of_base
                    .flat_map(|base| base.classes.values())
                    .copied()
                    .collect();
                self.refill(&of_base);
            }
        }
    }

    /// Whether the base is also that of addresses on the other line. The line in work has no blocks.
    fn is_on_other_line(&self, base: BaseId) -> bool {
        let mut ranges = self.blocks.iter().flat_map(|blocks| &blocks.ranges);
        ranges.any(|(_, of, under_pods)| *of == base || *under_pods == base)
    }
}

fn segments(line: Line, before: &[(u128, BaseId, BaseId)], now: &[(u128, usize)]) -> Vec<Segment> {
    let mut starts: Vec<u128> = before.iter().map(|(start, ..)| *start).collect();
    starts.extend(now.iter().map(|(start, _)| *start));
    starts.sort_unstable();
    starts.dedup();
    let ends = starts.iter().skip(1).map(|next| next - 1);
    let ends = ends.chain([line.last(0, 0)]);
    let (mut old, mut new) = (0, 0);
    let mut segments: Vec<Segment> = Vec::with_capacity(starts.len());
    for (first, last) in starts.iter().copied().zip(ends) {
        while before
            .get(old + 1)
            .is_some_and(|(start, ..)| *start <= first)
        {
            old += 1;
        }
        while now.get(new + 1).is_some_and(|(start, _)| *start <= first) {
            new += 1;
        }
        let none = (0, BaseId::NONE, BaseId::NONE);
        let (_, base, under_pods) = before.get(old).copied().unwrap_or(none);
        let (_, now) = now.get(new).copied().unwrap_or_default();
        segments.push(Segment {
            first,
            last,
            before: (base, under_pods),
            now,
        });
    }
    segments
}
