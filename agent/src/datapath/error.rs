// SPDX-License-Identifier: Apache-2.0
//! What can go wrong between the agent and the kernel?

use std::{io, path::PathBuf};

use policy_compiler::model::PodKey;

/// Why the datapath refuses.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatapathError {
    /// The pin directory cannot be made or read.
    #[error("cannot use `{path}` for pinned maps: is a bpffs mounted there?")]
    PinDirectory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel refuses the programs or their maps.
    #[error("cannot load the BPF programs")]
    Load(#[source] Box<aya::EbpfError>),
    /// A program is refused, or the object lacks it.
    #[error("cannot load BPF program `{name}`")]
    Program {
        /// Its name.
        name: &'static str,
        /// Why.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// A map cannot be opened or used.
    #[error("cannot use BPF map `{name}`")]
    Map {
        /// Its name.
        name: &'static str,
        /// Why.
        #[source]
        source: Box<aya::maps::MapError>,
    },
    /// A map cannot be mapped into memory.
    #[error("cannot map BPF map `{name}` into memory")]
    Mapping {
        /// Its name.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A program cannot be attached or detached.
    #[error("cannot {action} the {hook} hook of interface {ifindex}")]
    Attach {
        /// `attach` or `detach`.
        action: &'static str,
        /// Name of the program.
        hook: &'static str,
        /// The interface.
        ifindex: u32,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The tables do not fit into the maps.
    #[error("the verdict tables need {needed} entries of `{map}`, which holds {capacity}")]
    TooLarge {
        /// The map.
        map: &'static str,
        /// Entries the tables need.
        needed: usize,
        /// Entries per bank.
        capacity: u32,
    },
    /// Every endpoint slot is taken.
    #[error("all {capacity} endpoint slots are taken")]
    NoSlot {
        /// Number of slots.
        capacity: u32,
    },
    /// The interface is not an endpoint.
    #[error("interface {ifindex} is not an endpoint")]
    UnknownInterface {
        /// The interface.
        ifindex: u32,
    },
    /// Another interface of the same pod has other tables.
    #[error("pod `{pod}` has no verdict tables")]
    UnknownPod {
        /// The pod.
        pod: PodKey,
    },
    /// The maps were written by another version.
    #[error("the pinned maps have layout {found}, this program has layout {expected}")]
    Version {
        /// Layout of the maps.
        found: u32,
        /// Layout of this program.
        expected: u32,
    },
    /// No agent has pinned maps here.
    #[error("there are no pinned maps in `{path}`")]
    NotRunning {
        /// The pin directory.
        path: PathBuf,
    },
    /// The kernel cannot say when all programs have finished with a bank.
    #[error("cannot wait for running programs")]
    GracePeriod(#[source] io::Error),
}

impl DatapathError {
    /// For `map_err`: names the map.
    pub(super) fn map<E: Into<aya::maps::MapError>>(name: &'static str) -> impl Fn(E) -> Self {
        move |source| Self::Map {
            name,
            source: Box::new(source.into()),
        }
    }

    /// For `map_err`: names the program.
    pub(super) fn program(name: &'static str) -> impl Fn(aya::programs::ProgramError) -> Self {
        move |source| Self::Program {
            name,
            source: Box::new(source),
        }
    }
}
