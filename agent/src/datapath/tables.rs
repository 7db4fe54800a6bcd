// SPDX-License-Identifier: Apache-2.0
//! How do compiled tables reach the kernel, all at once?
//!
//! The inactive bank is brought up to date (only what differs is written), then published by one
//! store. Before a bank is written again, every program that may still read it has ended.

use std::{
    collections::BTreeMap,
    fs, io,
    mem::offset_of,
    sync::atomic::{Ordering, fence},
    thread::{self, JoinHandle},
};

use aya::maps::{HashMap, MapData};
use policy_compiler::lower::{Capacity, Image};
use policy_ebpf_common::abi::{
    ABI_VERSION, BANKS, Config, HostBucket, PortSet, RowChunk, ServiceKey, TrieNode,
};
use rustix::thread::{CpuSet, MembarrierCommand, membarrier, sched_setaffinity};
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes};

use super::{
    error::DatapathError,
    mapping::Mapping,
    maps::{Pins, is_missing},
    pod::Abi,
};

/// The maps of the verdict tables.
#[derive(Debug)]
pub(super) struct Tables {
    config: Mapping<Config>,
    trie4: Banked<TrieNode>,
    trie6: Banked<TrieNode>,
    hosts6: Banked<HostBucket>,
    rows: Banked<RowChunk>,
    uniform: Banked<u32>,
    port_sets: Banked<PortSet>,
    services: HashMap<MapData, Abi<ServiceKey>, u32>,
    services_capacity: u32,
    /// What `services` holds, per bank, with [`ServiceKey::bank`] zero.
    service_keys: [BTreeMap<ServiceKey, u32>; BANKS as usize],
    grace: Grace,
}

/// Whether a program may still read the inactive bank.
#[derive(Debug)]
enum Grace {
    /// Nobody has waited since the banks were switched.
    Due,
    /// A thread waits.
    Running(JoinHandle<io::Result<()>>),
}

impl Tables {
    /// Opens the pinned maps.
    pub(super) fn open(pins: &Pins, capacity: &Capacity) -> Result<Self, DatapathError> {
        let services: HashMap<MapData, Abi<ServiceKey>, u32> = pins.hash("SERVICES")?;
        let mut service_keys = [BTreeMap::new(), BTreeMap::new()];
        for entry in &services {
            let (Abi(key), class) = entry.map_err(DatapathError::map("SERVICES"))?;
            let bank = usize::from(key.bank & 1);
            service_keys[bank].insert(ServiceKey { bank: 0, ..key }, class);
        }
        let config: Mapping<Config> = pins.mapping("CONFIG", true)?;
        if let Some(word) = config.word(0, offset_of!(Config, abi_version)) {
            match word.load(Ordering::Relaxed) {
                ABI_VERSION => {}
                0 => word.store(ABI_VERSION, Ordering::Relaxed),
                found => {
                    return Err(DatapathError::Version {
                        found,
                        expected: ABI_VERSION,
                    });
                }
            }
        }
        Ok(Self {
            config,
            trie4: Banked::open(pins, "TRIE4", capacity.trie4)?,
            trie6: Banked::open(pins, "TRIE6", capacity.trie6)?,
            hosts6: Banked::open(pins, "HOSTS6", capacity.hosts6)?,
            rows: Banked::open(pins, "ROWS", capacity.rows)?,
            uniform: Banked::open(pins, "UNIFORM", capacity.uniform)?,
            port_sets: Banked::open(pins, "PORT_SETS", capacity.port_sets)?,
            services,
            services_capacity: capacity.services,
            service_keys,
            grace: Grace::Due,
        })
    }

    pub(super) fn config(&self) -> Config {
        self.config.get(0).unwrap_or_else(Config::new_zeroed)
    }

    /// Changes switches of [`Config`]; the fields that publishing owns stay as they are.
    pub(super) fn configure(&self, change: impl FnOnce(&mut Config)) {
        let before = self.config();
        let mut after = before;
        change(&mut after);
        after.abi_version = before.abi_version;
        after.active = before.active;
        after.row_chunks = before.row_chunks;
        after.generation = before.generation;
        after.hosts6_mask = before.hosts6_mask;
        self.config.set(0, &after);
    }

    /// The bank that programs read.
    pub(super) fn active(&self) -> usize {
        self.config().active as usize & 1
    }

    /// Writes the inactive bank and returns its number. Nothing is published.
    pub(super) fn prepare(&mut self, image: &Image) -> Result<usize, DatapathError> {
        self.trie4.check(image.trie4.len())?;
        self.trie6.check(image.trie6.len())?;
        self.hosts6.check(image.hosts6.len())?;
        self.rows.check(image.rows.len())?;
        self.uniform.check(image.uniform.len())?;
        self.port_sets.check(image.port_sets.len())?;
        if image.services.len() > self.services_capacity as usize {
            return Err(DatapathError::TooLarge {
                map: "SERVICES",
                needed: image.services.len(),
                capacity: self.services_capacity,
            });
        }
        self.wait()?;

        let bank = 1 - self.active();
        self.trie4.write(bank, &image.trie4);
        self.trie6.write(bank, &image.trie6);
        self.hosts6.write(bank, &image.hosts6);
        self.rows.write(bank, &image.rows);
        self.uniform.write(bank, &image.uniform);
        self.port_sets.write(bank, &image.port_sets);
        self.write_services(bank, &image.services)?;

        let mut config = self.config();
        config.row_chunks[bank] = image.row_chunks;
        config.hosts6_mask[bank] = u32::try_from(image.hosts6.len())
            .unwrap_or_default()
            .saturating_sub(1);
        config.generation[bank] = config.generation[1 - bank].wrapping_add(1);
        self.config.set(0, &config);
        Ok(bank)
    }

    /// Publishes the bank that [`Self::prepare`] wrote.
    pub(super) fn publish(&mut self, bank: usize) {
        // Everything written before is visible to whoever sees the new bank.
        fence(Ordering::SeqCst);
        if let Some(active) = self.config.word(0, offset_of!(Config, active)) {
            active.store(u32::from(bank != 0), Ordering::SeqCst);
        }
        // Waiting takes milliseconds, and until the next publication nobody needs to.
        self.grace = Grace::Running(thread::spawn(grace_period));
    }

    /// Returns once no program reads the inactive bank.
    fn wait(&mut self) -> Result<(), DatapathError> {
        let passed = match std::mem::replace(&mut self.grace, Grace::Due) {
            Grace::Running(thread) => thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the waiting thread ended early"))),
            Grace::Due => grace_period(),
        };
        passed.map_err(DatapathError::GracePeriod)
    }

    fn write_services(
        &mut self,
        bank: usize,
        wanted: &BTreeMap<ServiceKey, u32>,
    ) -> Result<(), DatapathError> {
        let in_bank = |key: &ServiceKey| {
            Abi(ServiceKey {
                bank: u8::from(bank != 0),
                ..*key
            })
        };
        let present = &mut self.service_keys[bank];
        let gone: Vec<_> = present
            .keys()
            .filter(|key| !wanted.contains_key(key))
            .copied()
            .collect();
        for key in gone {
            match self.services.remove(&in_bank(&key)) {
                Err(error) if !is_missing(&error) => {
                    return Err(DatapathError::map("SERVICES")(error));
                }
                _ => present.remove(&key),
            };
        }
        for (key, class) in wanted {
            if present.get(key) != Some(class) {
                self.services
                    .insert(in_bank(key), class, 0)
                    .map_err(DatapathError::map("SERVICES"))?;
                present.insert(*key, *class);
            }
        }
        Ok(())
    }
}

/// An array map of two banks.
#[derive(Debug)]
struct Banked<T> {
    name: &'static str,
    map: Mapping<T>,
    capacity: u32,
    /// Per bank, how many entries may be other than zero.
    used: [u32; BANKS as usize],
}

impl<T: FromBytes + IntoBytes + Immutable + Copy> Banked<T> {
    fn open(pins: &Pins, name: &'static str, capacity: u32) -> Result<Self, DatapathError> {
        Ok(Self {
            name,
            map: pins.mapping(name, true)?,
            capacity,
            used: [capacity; BANKS as usize],
        })
    }

    fn check(&self, needed: usize) -> Result<(), DatapathError> {
        if needed > self.capacity as usize {
            return Err(DatapathError::TooLarge {
                map: self.name,
                needed,
                capacity: self.capacity,
            });
        }
        Ok(())
    }

    /// Makes the bank hold `entries` and zeros behind them, which deny.
    fn write(&mut self, bank: usize, entries: &[T]) {
        let base = if bank == 0 { 0 } else { self.capacity };
        let mut at = 0;
        for entry in entries {
            self.map.set(base + at, entry);
            at += 1;
        }
        let zero = T::new_zeroed();
        for stale in at..self.used[bank] {
            self.map.set(base + stale, &zero);
        }
        self.used[bank] = at;
    }
}

/// Returns once every program that runs now has ended.
///
/// `membarrier(2)` with `MEMBARRIER_CMD_GLOBAL` waits for an RCU grace period, and TC programs run
/// inside an RCU read-side section. Where that is not to be had (a seccomp filter, `nohz_full`), being
/// on each processor once serves: TC programs run with preemption off.
fn grace_period() -> io::Result<()> {
    grace_period_by(|| membarrier(MembarrierCommand::Global).map_err(Into::into))
}

fn grace_period_by(barrier: impl Fn() -> io::Result<()>) -> io::Result<()> {
    barrier().or_else(|_| {
        thread::spawn(visit_processors)
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the visiting thread ended early")))
    })
}

/// Runs on every online processor in turn; an error if the thread may not.
fn visit_processors() -> io::Result<()> {
    for processor in online(&fs::read_to_string("/sys/devices/system/cpu/online")?)? {
        let mut only = CpuSet::new();
        only.set(processor);
        // Returns on that processor.
        sched_setaffinity(None, &only)?;
    }
    Ok(())
}

/// The numbers in a list like `0-3,6`.
fn online(list: &str) -> io::Result<Vec<usize>> {
    let number = |text: &str| text.parse::<usize>().map_err(io::Error::other);
    let mut all = Vec::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        all.extend(number(first)?..=number(last)?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_barrier_every_processor_is_visited() {
        grace_period_by(|| Err(io::Error::from_raw_os_error(libc::EPERM))).unwrap();
    }

    #[test]
    fn lists_of_processors_are_read_as_the_kernel_writes_them() {
        assert_eq!(online("0\n").unwrap(), [0]);
        assert_eq!(online("0-2,5\n").unwrap(), [0, 1, 2, 5]);
        assert!(online("").is_err());
    }
}
