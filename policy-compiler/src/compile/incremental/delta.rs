// SPDX-License-Identifier: Apache-2.0
//! What a change made of the tables.

use std::{collections::BTreeSet, net::IpAddr};

use crate::{
    compile::{ClassId, PortSetId, RowId},
    model::{PodKey, Protocol},
};

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The tables are what they were.
    Unchanged,
    /// These parts of the tables are new.
    Delta(Delta),
    /// The tables were compiled from scratch; numbers of classes, rows and port sets mean something new.
    Rebuilt,
}

/// The parts of [`super::Tables`] that differ from before. What is named and no longer there is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Addresses of pods whose class changed, or that a pod owns now or no longer.
    pub hosts: BTreeSet<IpAddr>,
    /// First and last address of blocks whose class changed.
    pub blocks: BTreeSet<(IpAddr, IpAddr)>,
    /// Rows of which anything may have changed.
    pub rows: BTreeSet<RowId>,
    /// Cells of other rows.
    pub cells: BTreeSet<(RowId, ClassId)>,
    /// Pods in scope whose rows, classes, addresses or own port sets changed.
    pub pods: BTreeSet<PodKey>,
    /// Port sets that came into use.
    pub port_sets: BTreeSet<PortSetId>,
    /// Port sets that went out of use; where they are in `port_sets`, too, they went first.
    pub unused_port_sets: BTreeSet<PortSetId>,
    /// Service addresses, protocols and ports whose class changed.
    pub services: BTreeSet<(IpAddr, Protocol, u16)>,
}

impl Delta {
    /// Whether nothing differs. Port sets that only went out of use make no difference.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
            && self.blocks.is_empty()
            && self.rows.is_empty()
            && self.cells.is_empty()
            && self.pods.is_empty()
            && self.port_sets.is_empty()
            && self.services.is_empty()
    }

    /// Adds what a later change made of the same tables.
    pub fn extend(&mut self, later: Self) {
        self.hosts.extend(later.hosts);
        self.blocks.extend(later.blocks);
        self.rows.extend(later.rows);
        self.cells.extend(later.cells);
        self.pods.extend(later.pods);
        self.port_sets.extend(later.port_sets);
        self.unused_port_sets.extend(later.unused_port_sets);
        self.services.extend(later.services);
    }
}
