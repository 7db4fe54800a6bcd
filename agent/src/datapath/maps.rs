// SPDX-License-Identifier: Apache-2.0
//! Where are the pinned maps, and how big are they?

use std::path::{Path, PathBuf};

use aya::{
    Pod,
    maps::{HashMap, Map, MapData, MapError, PerCpuArray, RingBuf},
};
use policy_compiler::lower::Capacity;
use policy_ebpf_common::abi::{ABI_VERSION, BANKS};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{error::DatapathError, mapping::Mapping};

/// A map of two banks, the program's constant for the size of a bank, and that size.
pub(super) type Banked = (&'static str, &'static str, fn(&Capacity) -> u32);

/// The maps of two banks.
pub(super) const BANKED: [Banked; 6] = [
    ("TRIE4", "TRIE4_CAPACITY", |capacity| capacity.trie4),
    ("TRIE6", "TRIE6_CAPACITY", |capacity| capacity.trie6),
    ("HOSTS6", "HOSTS6_CAPACITY", |capacity| capacity.hosts6),
    ("ROWS", "ROWS_CAPACITY", |capacity| capacity.rows),
    ("UNIFORM", "UNIFORM_CAPACITY", |capacity| capacity.uniform),
    ("PORT_SETS", "PORT_SETS_CAPACITY", |capacity| {
        capacity.port_sets
    }),
];

/// The folder of one layout's pins.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    directory: PathBuf,
}

impl Pins {
    /// The pins of this program's layout under the bpffs folder `root`.
    pub(super) fn new(root: &Path) -> Self {
        Self {
            directory: root.join("netpol").join(format!("v{ABI_VERSION}")),
        }
    }

    /// The pins of other layouts beside these.
    pub(super) fn others(&self) -> std::io::Result<Vec<Self>> {
        let mut others = Vec::new();
        for entry in std::fs::read_dir(self.directory.parent().unwrap_or(&self.directory))? {
            let directory = entry?.path();
            if directory != self.directory {
                others.push(Self { directory });
            }
        }
        others.sort_by(|a, b| a.directory.cmp(&b.directory));
        Ok(others)
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(super) fn links(&self) -> PathBuf {
        self.directory.join("links")
    }

    /// One folder per interface that a gate has closed with filters.
    pub(super) fn gate(&self) -> PathBuf {
        self.directory.join("gate")
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.directory.join("programs").join(name)
    }

    pub(super) fn open(&self, name: &'static str) -> Result<MapData, DatapathError> {
        MapData::from_pin(self.map(name)).map_err(DatapathError::map(name))
    }

    /// Entries of a pinned map.
    pub(super) fn entries(&self, name: &'static str) -> Result<u32, DatapathError> {
        let info = self.open(name)?.info().map_err(DatapathError::map(name))?;
        Ok(info.max_entries())
    }

    /// A pinned array, mapped into memory.
    pub(super) fn mapping<T: FromBytes + IntoBytes + Immutable + Copy>(
        &self,
        name: &'static str,
        writable: bool,
    ) -> Result<Mapping<T>, DatapathError> {
        let data = self.open(name)?;
        let entries = self.entries(name)?;
        Mapping::new(data.fd(), entries, writable)
            .map_err(|source| DatapathError::Mapping { name, source })
    }

    pub(super) fn hash<K: Pod, V: Pod>(
        &self,
        name: &'static str,
    ) -> Result<HashMap<MapData, K, V>, DatapathError> {
        HashMap::try_from(Map::HashMap(self.open(name)?)).map_err(DatapathError::map(name))
    }

    pub(super) fn lru_hash<K: Pod, V: Pod>(
        &self,
        name: &'static str,
    ) -> Result<HashMap<MapData, K, V>, DatapathError> {
        HashMap::try_from(Map::LruHashMap(self.open(name)?)).map_err(DatapathError::map(name))
    }

    pub(super) fn per_cpu<V: Pod>(
        &self,
        name: &'static str,
    ) -> Result<PerCpuArray<MapData, V>, DatapathError> {
        PerCpuArray::try_from(Map::PerCpuArray(self.open(name)?)).map_err(DatapathError::map(name))
    }

    pub(super) fn ring(&self, name: &'static str) -> Result<RingBuf<MapData>, DatapathError> {
        RingBuf::try_from(Map::RingBuf(self.open(name)?)).map_err(DatapathError::map(name))
    }

    /// What the pinned maps hold, if there are any.
    pub(super) fn capacity(&self) -> Result<Option<Capacity>, DatapathError> {
        if !self.map("CONFIG").exists() {
            return Ok(None);
        }
        Ok(Some(Capacity {
            trie4: self.entries("TRIE4")? / BANKS,
            trie6: self.entries("TRIE6")? / BANKS,
            hosts6: self.entries("HOSTS6")? / BANKS,
            rows: self.entries("ROWS")? / BANKS,
            uniform: self.entries("UNIFORM")? / BANKS,
            port_sets: self.entries("PORT_SETS")? / BANKS,
            services: self.entries("SERVICES")? / BANKS,
            reasons: self.entries("RULE_COUNTERS")?,
        }))
    }
}

/// Whether a map operation failed because there is no such key.
pub(super) fn is_missing(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::ENOENT),
        _ => false,
    }
}
