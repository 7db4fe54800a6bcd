// SPDX-License-Identifier: Apache-2.0
//! Which interface is which pod's, and what does the kernel know of it?

use std::{
    collections::BTreeMap,
    mem::offset_of,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use aya::maps::{HashMap, MapData};
use policy_compiler::{lower::EndpointImage, model::PodKey};
use policy_ebpf_common::abi::{
    ENDPOINT_PICKUP, ENDPOINT_QUARANTINE, ENDPOINT_SLOTS, Endpoint, ROW_DENY,
};
use zerocopy::FromZeros as _;

use super::{
    error::DatapathError,
    mapping::Mapping,
    maps::{Pins, is_missing},
};

/// The rows of an endpoint whose tables are not known: everything is denied.
const DENY_BOTH: u32 = (ROW_DENY as u32) << 16 | ROW_DENY as u32;

/// The interfaces that are, or will be, a pod's.
#[derive(Debug)]
pub(super) struct Endpoints {
    map: Mapping<Endpoint>,
    slots: HashMap<MapData, u32, u32>,
    by_ifindex: BTreeMap<u32, Entry>,
    /// Slots that somebody left, and when.
    left: BTreeMap<u32, Instant>,
}

/// How long a slot stays empty: packets on their way, and programs that run, still name who left it.
const REST: Duration = Duration::from_mins(1);

/// What the agent knows of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) slot: u32,
    pub(super) pod: Option<PodKey>,
}

/// An endpoint that nothing is known of, so nothing passes: also what a slot holds that somebody left,
/// for programs that have found it just before.
fn closed() -> Endpoint {
    Endpoint {
        flags: ENDPOINT_QUARANTINE,
        rows: [DENY_BOTH; 2],
        ..Endpoint::new_zeroed()
    }
}

impl Endpoints {
    /// Opens the pinned map and finds the endpoints of an earlier agent.
    pub(super) fn open(pins: &Pins) -> Result<Self, DatapathError> {
        let map: Mapping<Endpoint> = pins.mapping("ENDPOINTS", true)?;
        let by_ifindex = (0..map.entries())
            .filter_map(|slot| {
                let endpoint = map.get(slot)?;
                let entry = Entry { slot, pod: None };
                (endpoint.ifindex != 0).then_some((endpoint.ifindex, entry))
            })
            .collect();
        Ok(Self {
            map,
            slots: pins.hash("ENDPOINT_SLOTS")?,
            by_ifindex,
            left: BTreeMap::new(),
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Entry, Endpoint)> {
        self.by_ifindex.iter().filter_map(|(ifindex, entry)| {
            let endpoint = self.map.get(entry.slot)?;
            Some((*ifindex, entry, endpoint))
        })
    }

    pub(super) fn get(&self, ifindex: u32) -> Option<(&Entry, Endpoint)> {
        let entry = self.by_ifindex.get(&ifindex)?;
        Some((entry, self.map.get(entry.slot)?))
    }

    /// Makes the interface an endpoint in quarantine; returns false if it is one already.
    pub(super) fn add(&mut self, ifindex: u32, id: u32) -> Result<bool, DatapathError> {
        if self.by_ifindex.contains_key(&ifindex) {
            return Ok(false);
        }
        let preferred = ifindex & (ENDPOINT_SLOTS - 1);
        self.left.retain(|_, since| since.elapsed() < REST);
        let free = |slot: &u32| {
            self.map
                .get(*slot)
                .is_some_and(|endpoint| endpoint.ifindex == 0)
        };
        let rested = |slot: &u32| free(slot) && !self.left.contains_key(slot);
        let longest = || {
            let left = self.left.iter().filter(|(slot, _)| free(slot));
            left.min_by_key(|(_, since)| **since).map(|(slot, _)| *slot)
        };
        let slot = Some(preferred)
            .filter(rested)
            .or_else(|| (0..self.map.entries()).find(rested))
            .or_else(longest)
            .ok_or(DatapathError::NoSlot {
                capacity: self.map.entries(),
            })?;
        if slot != preferred {
            self.slots
                .insert(ifindex, slot, 0)
                .map_err(DatapathError::map("ENDPOINT_SLOTS"))?;
        }
        self.map.set(slot, &Endpoint { id, ..closed() });
        // Last: programs find the endpoint by it.
        self.store(slot, offset_of!(Endpoint, ifindex), ifindex);
        self.by_ifindex.insert(ifindex, Entry { slot, pod: None });
        Ok(true)
    }

    /// Says whose interface it is.
    pub(super) fn bind(&mut self, ifindex: u32, pod: Option<&PodKey>) -> Result<(), DatapathError> {
        let entry = self
            .by_ifindex
            .get_mut(&ifindex)
            .ok_or(DatapathError::UnknownInterface { ifindex })?;
        entry.pod = pod.cloned();
        Ok(())
    }

    /// Forgets the interface.
    pub(super) fn remove(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        let Some(entry) = self.by_ifindex.remove(&ifindex) else {
            return Ok(());
        };
        // First: programs stop finding the endpoint, and the slot's class is no longer believed.
        self.store(entry.slot, offset_of!(Endpoint, ifindex), 0);
        self.map.set(entry.slot, &closed());
        self.left.insert(entry.slot, Instant::now());
        match self.slots.remove(&ifindex) {
            Err(error) if !is_missing(&error) => Err(DatapathError::map("ENDPOINT_SLOTS")(error)),
            _ => Ok(()),
        }
    }

    /// Writes what the tables of `bank` say of every endpoint's pod. What they say nothing of is
    /// denied everything.
    pub(super) fn write(&self, bank: usize, images: &BTreeMap<PodKey, EndpointImage>) {
        for entry in self.by_ifindex.values() {
            let image = entry.pod.as_ref().and_then(|pod| images.get(pod));
            self.write_one(entry.slot, bank, image);
        }
    }

    /// Writes what the tables of `bank` say of one endpoint, which must be in quarantine if the bank
    /// is active.
    pub(super) fn write_one(&self, slot: u32, bank: usize, image: Option<&EndpointImage>) {
        let image = image.copied().unwrap_or(EndpointImage {
            rows: DENY_BOTH,
            ..EndpointImage::default()
        });
        let Some(mut endpoint) = self.map.get(slot) else {
            return;
        };
        endpoint.rows[bank] = image.rows;
        endpoint.own4[bank] = image.own4;
        endpoint.own6[bank] = image.own6;
        endpoint.classes[bank] = image.classes;
        self.map.set(slot, &endpoint);
    }

    /// Lets the endpoints out of quarantine that the tables know, and notes their addresses.
    pub(super) fn release(&self, images: &BTreeMap<PodKey, EndpointImage>) {
        for entry in self.by_ifindex.values() {
            let Some(image) = entry.pod.as_ref().and_then(|pod| images.get(pod)) else {
                continue;
            };
            let Some(mut endpoint) = self.map.get(entry.slot) else {
                continue;
            };
            endpoint.ipv4 = image.ipv4.map_or([0; 4], |address| address.octets());
            endpoint.ipv6 = image.ipv6.map_or([0; 16], |address| address.octets());
            self.map.set(entry.slot, &endpoint);
            self.set_flags(entry.slot, 0, ENDPOINT_QUARANTINE);
        }
    }

    /// Sets and clears `ENDPOINT_*` bits.
    pub(super) fn set_flags(&self, slot: u32, set: u32, clear: u32) {
        if let Some(flags) = self.map.word(slot, offset_of!(Endpoint, flags)) {
            let wanted = flags.load(Ordering::Relaxed) & !clear | set;
            // What was written of the endpoint before is seen by who sees the flags.
            flags.store(wanted, Ordering::Release);
        }
    }

    /// Ends the time in which flows older than the programs are believed.
    pub(super) fn end_pickup(&self, ifindex: u32) {
        if let Some(entry) = self.by_ifindex.get(&ifindex) {
            self.set_flags(entry.slot, 0, ENDPOINT_PICKUP);
        }
    }

    fn store(&self, slot: u32, offset: usize, value: u32) {
        if let Some(word) = self.map.word(slot, offset) {
            word.store(value, Ordering::Release);
        }
    }
}
