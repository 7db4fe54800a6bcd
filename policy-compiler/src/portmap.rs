// SPDX-License-Identifier: Apache-2.0
//! What holds for every protocol and destination port: a total partition of them.

use std::fmt;

use policy_ebpf_common::abi::{PORT_PROTOCOL_OTHER, port_key};
use serde::{Deserialize, Serialize};

use crate::model::{PortRange, Protocol};

/// A value for every (protocol, destination port), as maximal runs of equal values.
///
/// Keys are laid out as in the datapath ([`policy_ebpf_common::abi::port_key`]): TCP, UDP and SCTP with
/// 65,536 ports each, then one key for every other protocol.
///
/// **Invariant:** starts are strictly increasing, the first is 0, and neighbours differ.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortMap<T> {
    runs: Vec<(u32, T)>,
}

/// One run of equal values within one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment<T> {
    /// The protocol.
    pub protocol: Protocol,
    /// The ports; 0 to 0 for [`Protocol::Other`].
    pub ports: PortRange,
    /// The value of all of them.
    pub value: T,
}

/// One past the greatest key.
pub const KEY_END: u32 = port_key(PORT_PROTOCOL_OTHER, 0) + 1;

/// The key of a packet.
pub const fn key_of(protocol: Protocol, port: u16) -> u32 {
    match protocol {
        Protocol::Other => port_key(PORT_PROTOCOL_OTHER, 0),
        Protocol::Tcp | Protocol::Udp | Protocol::Sctp => port_key(protocol as u32, port),
    }
}

/// The half-open key interval of a port range.
pub const fn keys_of(protocol: Protocol, ports: PortRange) -> (u32, u32) {
    (
        key_of(protocol, ports.start),
        key_of(protocol, ports.end) + 1,
    )
}

impl<T> PortMap<T> {
    /// The same value everywhere.
    pub fn uniform(value: T) -> Self {
        Self {
            runs: vec![(0, value)],
        }
    }

    /// The value of a packet.
    pub fn at(&self, protocol: Protocol, port: u16) -> &T {
        self.at_key(key_of(protocol, port))
    }

    /// The value at a key below [`KEY_END`].
    pub fn at_key(&self, key: u32) -> &T {
        let run = self
            .runs
            .partition_point(|(start, _)| *start <= key)
            .saturating_sub(1);
        &self.runs[run].1
    }

    /// The value, if it is the same everywhere.
    pub fn as_uniform(&self) -> Option<&T> {
        match self.runs.as_slice() {
            [(_, value)] => Some(value),
            _ => None,
        }
    }

    /// Runs as (first key, value).
    pub fn runs(&self) -> &[(u32, T)] {
        &self.runs
    }

    /// Runs cut at protocol boundaries, in key order.
    pub fn segments(&self) -> impl Iterator<Item = Segment<&T>> + '_ {
        let ends = self
            .runs
            .iter()
            .skip(1)
            .map(|(start, _)| *start)
            .chain([KEY_END]);
        self.runs
            .iter()
            .zip(ends)
            .flat_map(|((start, value), end)| {
                Protocol::ALL.into_iter().filter_map(move |protocol| {
                    let (low, high) = match protocol {
                        Protocol::Other => (key_of(protocol, 0), KEY_END),
                        Protocol::Tcp | Protocol::Udp | Protocol::Sctp => {
                            keys_of(protocol, PortRange::ALL)
                        }
                    };
                    let (from, to) = (low.max(*start), high.min(end));
                    (from < to).then(|| Segment {
                        protocol,
                        ports: PortRange {
                            start: port_of(from - low),
                            end: port_of(to - 1 - low),
                        },
                        value,
                    })
                })
            })
    }
}

impl<T: PartialEq> PortMap<T> {
    /// Builds from runs sorted by start, the first at 0, merging equal neighbours.
    pub fn from_runs(runs: impl IntoIterator<Item = (u32, T)>) -> Self {
        let mut merged: Vec<(u32, T)> = Vec::new();
        for (start, value) in runs {
            if merged.last().is_none_or(|(_, last)| *last != value) {
                merged.push((start, value));
            }
        }
        debug_assert!(merged.first().is_some_and(|(start, _)| *start == 0));
        Self { runs: merged }
    }

    /// Applies `f` to every value.
    pub fn map<U: PartialEq>(&self, mut f: impl FnMut(&T) -> U) -> PortMap<U> {
        PortMap::from_runs(self.runs.iter().map(|(start, value)| (*start, f(value))))
    }

    /// Combines two maps point by point.
    pub fn zip<U, V: PartialEq>(
        &self,
        other: &PortMap<U>,
        mut f: impl FnMut(&T, &U) -> V,
    ) -> PortMap<V> {
        let mut starts: Vec<u32> = self.runs.iter().map(|(s, _)| *s).collect();
        starts.extend(other.runs.iter().map(|(s, _)| *s));
        starts.sort_unstable();
        starts.dedup();
        let (mut left, mut right) = (0, 0);
        PortMap::from_runs(starts.into_iter().map(|start| {
            while self.runs.get(left + 1).is_some_and(|(s, _)| *s <= start) {
                left += 1;
            }
            while other.runs.get(right + 1).is_some_and(|(s, _)| *s <= start) {
                right += 1;
            }
            (start, f(&self.runs[left].1, &other.runs[right].1))
        }))
    }
}

/// A set of (protocol, destination port).
pub type PortSet = PortMap<bool>;

impl PortMap<bool> {
    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.as_uniform() == Some(&false)
    }

    /// Whether everything is in the set.
    pub fn is_full(&self) -> bool {
        self.as_uniform() == Some(&true)
    }

    /// The set of these ranges.
    pub fn of(ranges: impl IntoIterator<Item = (Protocol, PortRange)>) -> Self {
        let mut spans: Vec<(u32, u32)> = ranges
            .into_iter()
            .filter(|(_, ports)| ports.start <= ports.end)
            .map(|(protocol, ports)| keys_of(protocol, ports))
            .collect();
        spans.sort_unstable();
        let mut runs = vec![(0, false)];
        let mut covered = 0;
        for (start, end) in spans {
            if start > covered {
                runs.extend([(covered, false), (start, true)]);
            } else if covered == 0 {
                runs.push((0, true));
            }
            covered = covered.max(end);
        }
        runs.push((covered, false));
        let mut last_at: Vec<(u32, bool)> = Vec::with_capacity(runs.len());
        for run in runs.into_iter().filter(|(start, _)| *start < KEY_END) {
            last_at.pop_if(|(start, _)| *start == run.0);
            last_at.push(run);
        }
        Self::from_runs(last_at)
    }

    /// What is in either set.
    #[must_use]
    pub fn union(&self, that: &Self) -> Self {
        self.zip(that, |a, b| *a || *b)
    }

    /// What is in both sets.
    #[must_use]
    pub fn intersection(&self, that: &Self) -> Self {
        self.zip(that, |a, b| *a && *b)
    }

    /// What is in this set and not in `that`.
    #[must_use]
    pub fn minus(&self, that: &Self) -> Self {
        self.zip(that, |a, b| *a && !*b)
    }

    /// Whether `that` has nothing that this set lacks.
    pub fn covers(&self, that: &Self) -> bool {
        that.minus(self).is_empty()
    }

    /// Some element, if there is one: the lowest port other than 0 of the first protocol.
    pub fn example(&self) -> Option<(Protocol, u16)> {
        self.ranges()
            .find(|(protocol, ports)| *protocol == Protocol::Other || ports.end > 0)
            .map(|(protocol, ports)| match protocol {
                Protocol::Other => (protocol, 0),
                Protocol::Tcp | Protocol::Udp | Protocol::Sctp => (protocol, ports.start.max(1)),
            })
    }

    /// The ranges in the set.
    pub fn ranges(&self) -> impl Iterator<Item = (Protocol, PortRange)> + '_ {
        self.segments()
            .filter(|s| *s.value)
            .map(|s| (s.protocol, s.ports))
    }
}

impl fmt::Display for PortMap<bool> {
    /// `tcp/80`, `udp/53, udp/8000-9000`, `all`, `nothing`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_full() {
            return f.write_str("all");
        }
        if self.is_empty() {
            return f.write_str("nothing");
        }
        for (i, (protocol, ports)) in self.ranges().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            let name = protocol.to_string().to_lowercase();
            match protocol {
                Protocol::Other => f.write_str("other protocols")?,
                Protocol::Tcp | Protocol::Udp | Protocol::Sctp if ports == PortRange::ALL => {
                    write!(f, "{name}/*")?;
                }
                Protocol::Tcp | Protocol::Udp | Protocol::Sctp if ports.start == ports.end => {
                    write!(f, "{name}/{}", ports.start)?;
                }
                Protocol::Tcp | Protocol::Udp | Protocol::Sctp => {
                    write!(f, "{name}/{}-{}", ports.start, ports.end)?;
                }
            }
        }
        Ok(())
    }
}

/// Serialised form of a segment, for programs that print partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRun {
    /// The protocol.
    pub protocol: Protocol,
    /// First and last port.
    pub ports: (u16, u16),
}

fn port_of(offset: u32) -> u16 {
    u16::try_from(offset).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranges() -> impl Strategy<Value = Vec<(Protocol, PortRange)>> {
        let span = (0u16..40, 0u16..10).prop_map(|(start, len)| PortRange {
            start,
            end: start + len,
        });
        let range = prop_oneof![6 => span, 1 => Just(PortRange::ALL)];
        let protocol = prop::sample::select(Protocol::ALL.to_vec());
        prop::collection::vec((protocol, range), 0..6)
    }

    proptest! {
        #[test]
        fn algebra_agrees_with_membership(of_a in ranges(), of_b in ranges()) {
            let (a, b) = (PortSet::of(of_a.clone()), PortSet::of(of_b));
            let (union, minus, both) = (a.union(&b), a.minus(&b), a.intersection(&b));
            for protocol in Protocol::ALL {
                for port in (0..60).chain([u16::MAX]) {
                    let (in_a, in_b) = (*a.at(protocol, port), *b.at(protocol, port));
                    let listed = of_a.iter().any(|(listed, range)| {
                        *listed == protocol && (protocol == Protocol::Other || range.contains(port))
                    });
                    prop_assert_eq!(in_a, listed);
                    prop_assert_eq!(*union.at(protocol, port), in_a || in_b);
                    prop_assert_eq!(*minus.at(protocol, port), in_a && !in_b);
                    prop_assert_eq!(*both.at(protocol, port), in_a && in_b);
                }
            }
            prop_assert!(union.covers(&a));
            prop_assert!(a.covers(&minus));
            prop_assert_eq!(minus.union(&both), a);
        }
    }

    #[test]
    fn segments_cut_runs_at_protocols() {
        let map = PortMap::from_runs([
            (0, false),
            (key_of(Protocol::Tcp, 80), true),
            (key_of(Protocol::Tcp, 81), false),
            (key_of(Protocol::Other, 0), true),
        ]);
        let ranges: Vec<_> = map.ranges().collect();
        assert_eq!(
            ranges,
            [
                (Protocol::Tcp, PortRange::single(80)),
                (Protocol::Other, PortRange { start: 0, end: 0 })
            ]
        );
        let all: Vec<_> = map
            .segments()
            .map(|s| (s.protocol, s.ports.start, s.ports.end, *s.value))
            .collect();
        assert_eq!(
            all,
            [
                (Protocol::Tcp, 0, 79, false),
                (Protocol::Tcp, 80, 80, true),
                (Protocol::Tcp, 81, 65535, false),
                (Protocol::Udp, 0, 65535, false),
                (Protocol::Sctp, 0, 65535, false),
                (Protocol::Other, 0, 0, true),
            ]
        );
        assert_eq!(map.to_string(), "tcp/80, other protocols");
    }

    #[test]
    fn zip_is_pointwise() {
        let a = PortMap::from_runs([(0, 1), (10, 2), (20, 3)]);
        let b = PortMap::from_runs([(0, 10), (15, 20)]);
        let sum = a.zip(&b, |x, y| x + y);
        for key in [0u16, 9, 10, 14, 15, 19, 20, 99] {
            assert_eq!(
                sum.at(Protocol::Tcp, key),
                &(a.at(Protocol::Tcp, key) + b.at(Protocol::Tcp, key))
            );
        }
    }
}
