// SPDX-License-Identifier: Apache-2.0
//! What do the programs report?

use aya::maps::{MapData, RingBuf};
use policy_ebpf_common::abi::Event;

use super::{error::DatapathError, maps::Pins};

/// The ring buffer of events. Records are not announced by a wake-up, which would cost the packet
/// microseconds: look a few times a second. One reader at a time.
pub struct Events {
    ring: RingBuf<MapData>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    pub(super) fn open(pins: &Pins) -> Result<Self, DatapathError> {
        Ok(Self {
            ring: pins.ring("EVENTS")?,
        })
    }
}

/// The events that have arrived; `None` means "none now", and more may follow.
impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        loop {
            let record = self.ring.next()?;
            if let Some(event) = Event::decode(&record) {
                return Some(event);
            }
        }
    }
}
