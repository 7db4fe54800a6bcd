// SPDX-License-Identifier: Apache-2.0
//! How is an interface closed that nobody has said anything about yet?
//!
//! By programs that know no tables, in the place of those that do: [`super::Datapath::add`] replaces them
//! at once, without a moment in which there is none. Gate and datapath share nothing but the pins, so
//! closing an interface never waits for tables to be written. When both make a link at the same time, the
//! one that pins it first wins, and the other's program goes into that link.

use std::{fs, io, path::PathBuf};

use aya::programs::SchedClassifier;

use super::{
    attach::{self, Attachment, Hook},
    error::DatapathError,
    load::{make_directories, remove},
    maps::Pins,
};
use crate::net::Guard;

/// The hooks of a pod's interface, and what closes them.
const PROGRAMS: [(Hook, &str); 2] = [
    (Hook::FromPod, "gate_from_pod"),
    (Hook::ToPod, "gate_to_pod"),
];

/// How often closing is tried.
const ATTEMPTS: usize = 3;

/// Closes interfaces of the calling thread's network namespace, apart from everything else.
#[derive(Debug)]
pub struct Closer {
    pins: Pins,
    attachment: Attachment,
    programs: Vec<(Hook, SchedClassifier)>,
}

impl Closer {
    pub(super) fn new(pins: &Pins, attachment: Attachment) -> Result<Self, DatapathError> {
        let programs = PROGRAMS.map(|(hook, name)| {
            let program = SchedClassifier::from_pin(pins.program(name));
            Ok((hook, program.map_err(DatapathError::program(name))?))
        });
        Ok(Self {
            pins: pins.clone(),
            attachment,
            programs: programs.into_iter().collect::<Result<_, _>>()?,
        })
    }

    /// Lets nothing but address resolution pass a hook of interface `ifindex` until
    /// [`super::Datapath::add`] or [`super::Datapath::remove`]. Unless `again`, a program that the datapath
    /// has put there stays. Returns whether there is such an interface.
    pub fn close(&mut self, ifindex: u32, hook: Hook, again: bool) -> Result<bool, DatapathError> {
        let Some((_, program)) = self.programs.iter_mut().find(|(known, _)| *known == hook) else {
            return Ok(true);
        };
        if self.attachment == Attachment::Clsact {
            mark(&self.pins, ifindex)?;
        }
        let mut attempt = 1;
        loop {
            let (pins, attachment) = (&self.pins, self.attachment);
            match attach::close(pins, program, attachment, hook, ifindex, again) {
                Ok(()) => return Ok(true),
                Err(_) if !attach::exists(ifindex) => return Ok(false),
                // Somebody may have given the interface another name meanwhile, or removed the pins.
                Err(_) if attempt < ATTEMPTS => {
                    attempt += 1;
                    make_directories(&self.pins)?;
                }
                Err(source) => {
                    return Err(DatapathError::Attach {
                        action: "close",
                        hook: hook.name(),
                        ifindex,
                        source,
                    });
                }
            }
        }
    }

    /// What is on a hook of interface `ifindex`, as the kernel has it; `None` if nothing is.
    pub fn guard(&self, ifindex: u32, hook: Hook) -> Option<Guard> {
        attach::guard(self.attachment, hook, ifindex)
    }

    /// Forgets an interface that is gone: its number may come back. The kernel has taken the programs off
    /// with it.
    pub fn forget(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        for (hook, _) in PROGRAMS {
            remove(&attach::link_path(&self.pins, hook, ifindex))?;
        }
        for folder in [
            path(&self.pins, ifindex),
            attach::qdisc_path(&self.pins, ifindex),
        ] {
            remove_folder(folder)?;
        }
        Ok(())
    }
}

/// Whether a program of this name is a gate's.
pub(super) fn is_program(name: &str) -> bool {
    PROGRAMS.iter().any(|(_, program)| *program == name)
}

/// Whether a filter of a gate may be on the interface.
pub(super) fn is_marked(pins: &Pins, ifindex: u32) -> bool {
    path(pins, ifindex).exists()
}

/// No filter of a gate is on the interface any more.
pub(super) fn unmark(pins: &Pins, ifindex: u32) -> Result<(), DatapathError> {
    remove_folder(path(pins, ifindex))
}

/// The interfaces that gates put filters on.
pub(super) fn marked(pins: &Pins) -> Result<Vec<u32>, DatapathError> {
    let folder = pins.gate();
    let failed = |source| DatapathError::PinDirectory {
        path: pins.gate(),
        source,
    };
    let entries = match fs::read_dir(folder) {
        // Somebody removed the pins.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut marked = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        marked.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    marked.sort_unstable();
    Ok(marked)
}

/// Notes that the interface is about to be closed by a filter, which nothing else tells from the
/// datapath's own.
fn mark(pins: &Pins, ifindex: u32) -> Result<(), DatapathError> {
    let path = path(pins, ifindex);
    fs::create_dir_all(&path).map_err(|source| DatapathError::PinDirectory { path, source })
}

fn remove_folder(path: PathBuf) -> Result<(), DatapathError> {
    match fs::remove_dir(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(DatapathError::PinDirectory { path, source })
        }
        _ => Ok(()),
    }
}

fn path(pins: &Pins, ifindex: u32) -> PathBuf {
    pins.gate().join(ifindex.to_string())
}
