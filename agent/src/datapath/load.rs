// SPDX-License-Identifier: Apache-2.0
//! How do programs and maps get into the kernel?
//!
//! Maps are pinned and outlive the agent. Programs are loaded afresh by every agent and put in the
//! place of its predecessor's.

use std::{fs, path::Path};

use aya::{
    Ebpf, EbpfLoader,
    programs::{ProgramError, SchedClassifier},
};
use policy_compiler::lower::Capacity;
use policy_ebpf_common::abi::BANKS;

use super::{
    error::DatapathError,
    maps::{BANKED, Pins},
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("NETPOL_BPF_EMBED"));

/// Names of the programs in the object.
const PROGRAMS: [&str; 7] = [
    "from_pod",
    "to_pod",
    "to_any",
    "to_bridge",
    "gate_from_pod",
    "gate_to_pod",
    "clock",
];

/// Those that others than the loader use.
const PINNED: [&str; 3] = ["gate_from_pod", "gate_to_pod", "clock"];

/// Maps without a pin: what they hold is of use to the programs of one load only.
const PRIVATE: [&str; 2] = ["SCRATCH", "RECENT"];

/// Creates the maps that are not pinned yet with the sizes asked for, and loads the programs.
/// Returns what the maps hold, which for maps that were there before is what they held.
pub(super) fn load(
    pins: &Pins,
    wanted: &Capacity,
    flows: u32,
) -> Result<(Ebpf, Capacity), DatapathError> {
    make_directories(pins)?;
    let capacity = pins.capacity()?.unwrap_or(*wanted);
    let sizes = BANKED.map(|(map, global, size)| (map, global, size(&capacity)));

    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(pins.directory());
    for (map, global, size) in &sizes {
        loader.map_max_entries(map, size * BANKS);
        loader.override_global(global, size, true);
    }
    loader.map_max_entries("SERVICES", capacity.services * BANKS);
    loader.map_max_entries("RULE_COUNTERS", capacity.reasons);
    loader.map_max_entries("CT4", flows);
    loader.map_max_entries("CT6", flows);
    let mut ebpf = loader
        .load(OBJECT)
        .map_err(|source| DatapathError::Load(Box::new(source)))?;
    for name in PROGRAMS {
        program(&mut ebpf, name)?
            .load()
            .map_err(DatapathError::program(name))?;
    }
    repin(pins, &mut ebpf)?;
    Ok((ebpf, capacity))
}

/// Pins again what somebody unpinned; the programs have held on to it.
pub(super) fn pin_again(pins: &Pins, ebpf: &mut Ebpf) -> Result<(), DatapathError> {
    if pins.map("CONFIG").exists() {
        return Ok(());
    }
    make_directories(pins)?;
    for (name, map) in ebpf.maps() {
        // Nor has what aya makes of variables.
        if name.starts_with('.') || PRIVATE.contains(&name) {
            continue;
        }
        let path = pins.map(name);
        map.pin(&path)
            .map_err(|error| DatapathError::PinDirectory {
                path,
                source: std::io::Error::other(error),
            })?;
    }
    repin(pins, ebpf)
}

/// Makes the folders of pins that are not there.
pub(super) fn make_directories(pins: &Pins) -> Result<(), DatapathError> {
    for directory in [
        pins.directory().to_path_buf(),
        pins.links(),
        pins.gate(),
        pins.directory().join("programs"),
    ] {
        fs::create_dir_all(&directory).map_err(|source| DatapathError::PinDirectory {
            path: directory,
            source,
        })?;
    }
    Ok(())
}

/// A loaded program.
pub(super) fn program<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, DatapathError> {
    ebpf.program_mut(name)
        .ok_or(ProgramError::NotLoaded)
        .and_then(TryInto::try_into)
        .map_err(DatapathError::program(name))
}

/// Pins the programs that others use in the place of a predecessor's.
fn repin(pins: &Pins, ebpf: &mut Ebpf) -> Result<(), DatapathError> {
    for name in PINNED {
        let path = pins.program(name);
        remove(&path)?;
        program(ebpf, name)?
            .pin(&path)
            .map_err(|error| DatapathError::PinDirectory {
                path,
                source: std::io::Error::other(error),
            })?;
    }
    Ok(())
}

/// Removes a pin; none there is fine.
pub(super) fn remove(path: &Path) -> Result<(), DatapathError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(DatapathError::PinDirectory {
                path: path.to_path_buf(),
                source,
            })
        }
        _ => Ok(()),
    }
}
