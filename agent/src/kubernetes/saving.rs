// SPDX-License-Identifier: Apache-2.0
//! How are policies kept for the next start without anybody waiting for the disk?

use std::{
    io,
    path::Path,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use policy_compiler::{Snapshot, model::Pod};
use tracing::{error, warn};

use crate::{
    bundle::{Bundle, BundleError, Draft},
    watch::chain,
};

/// How long changes may stay unsaved, where saving takes no time.
const DELAY: Duration = Duration::from_secs(10);
/// So many times as long as saving takes may changes stay unsaved: the bundle of a large cluster that
/// changes all the time must not become what the agent is busy with.
const SHARE: u32 = 100;

/// Keeps the newest snapshot in force, on a thread of its own: a disk may take long, and enforcement may
/// not.
#[derive(Debug)]
pub(super) struct Keeper {
    bundle: Bundle,
    node: String,
    /// The newest snapshot is not kept; since when.
    unsaved: Option<Instant>,
    /// One snapshot is being written.
    writing: Option<JoinHandle<Duration>>,
    /// How long writing took the last time.
    took: Duration,
}

impl Keeper {
    pub(super) fn new(folder: &Path, node: &str) -> Self {
        Self {
            bundle: Bundle::new(folder),
            node: node.to_owned(),
            unsaved: None,
            writing: None,
            took: Duration::ZERO,
        }
    }

    /// What was kept, if anything was; see [`Bundle::load`].
    pub(super) fn load(
        &self,
        share: impl FnMut(&mut Pod),
    ) -> Result<Option<Snapshot>, BundleError> {
        self.bundle.load(&self.node, share)
    }

    /// Another snapshot is in force.
    pub(super) fn changed(&mut self) {
        self.unsaved.get_or_insert_with(Instant::now);
    }

    /// When to ask whether to save next.
    pub(super) fn due(&self) -> Option<Instant> {
        let delay = DELAY.max(self.took * SHARE);
        self.unsaved.map(|since| since + delay)
    }

    /// Begins to save what is due. While the disk is busy with the last time, there is no next.
    pub(super) fn save_due(&mut self, newest: Option<&Snapshot>) {
        let now = Instant::now();
        if self.due().is_none_or(|due| due > now) {
            return;
        }
        if self
            .writing
            .as_ref()
            .is_some_and(|writing| !writing.is_finished())
        {
            self.unsaved = Some(now);
            return;
        }
        self.begin(newest);
    }

    /// Saves what is unsaved, and waits until it is.
    pub(super) fn finish(&mut self, newest: Option<&Snapshot>) {
        if self.unsaved.is_some() {
            self.begin(newest);
        }
        self.join();
    }

    fn begin(&mut self, newest: Option<&Snapshot>) {
        self.join();
        self.unsaved = None;
        let Some(newest) = newest else { return };
        let draft = self.bundle.draft(&self.node, newest);
        match write(draft) {
            Ok(writing) => self.writing = Some(writing),
            Err(error) => error!(%error, "cannot keep the policies for the next start"),
        }
    }

    /// Waits for the snapshot that is being written.
    fn join(&mut self) {
        let took = self.writing.take().map(JoinHandle::join);
        if let Some(Ok(took)) = took {
            self.took = took;
        }
    }
}

/// Returns how long it takes.
fn write(draft: Draft) -> io::Result<JoinHandle<Duration>> {
    thread::Builder::new().name("bundle".into()).spawn(move || {
        let started = Instant::now();
        if let Err(error) = draft.write() {
            warn!(
                error = chain(&error),
                "cannot keep the policies for the next start"
            );
        }
        started.elapsed()
    })
}
