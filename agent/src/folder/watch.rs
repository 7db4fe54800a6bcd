// SPDX-License-Identifier: Apache-2.0
//! What wakes the agent up?

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::mpsc,
};

use anyhow::{Context as _, Result};
use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};

use super::Options;
use crate::{
    cni::claims::Hold,
    net::{Close, Gate, LinkEvent, Netns},
};

/// Something changed.
#[derive(Debug)]
pub(super) enum Event {
    /// Manifests.
    Files,
    /// Files that name network namespaces.
    Namespaces,
    /// Interfaces of the node.
    Link(LinkEvent),
    /// A network plugin waits for an interface.
    Hold(Hold),
    /// Nobody wants to know any more.
    Stop,
}

/// Everything that wakes the agent up, until dropped.
#[derive(Debug)]
pub(super) struct Watches {
    _links: Gate,
    _files: RecommendedWatcher,
    namespaces: RecommendedWatcher,
    /// Folders that `namespaces` watches.
    followed: BTreeSet<PathBuf>,
}

impl Watches {
    pub(super) fn start(
        host: &Netns,
        options: &Options,
        closer: impl FnMut() -> Result<Box<dyn Close>>,
        events: mpsc::Sender<Event>,
    ) -> Result<Self> {
        let outbox = events.clone();
        let links = Gate::start(host, closer, move |event| {
            let _ = outbox.send(Event::Link(event));
        })
        .context("cannot watch the node's interfaces")?;

        let outbox = events.clone();
        let mut files = watcher(move || {
            let _ = outbox.send(Event::Files);
        })?;
        files
            .watch(&options.dir, RecursiveMode::Recursive)
            .with_context(|| format!("cannot watch the folder `{}`", options.dir.display()))?;
        // `ip netns` makes the folder when it makes the first namespace.
        fs::create_dir_all(&options.netns_dir)
            .with_context(|| format!("cannot make the folder `{}`", options.netns_dir.display()))?;
        let mut watches = Self {
            _links: links,
            _files: files,
            namespaces: watcher(move || {
                let _ = events.send(Event::Namespaces);
            })?,
            followed: BTreeSet::new(),
        };
        watches.follow_dir(&options.netns_dir)?;
        Ok(watches)
    }

    /// Watches the folders of these namespace files, too.
    pub(super) fn follow<'a>(&mut self, files: impl Iterator<Item = &'a PathBuf>) -> Result<()> {
        files
            .filter_map(|file| file.parent())
            .filter(|dir| dir.is_dir())
            .try_for_each(|dir| self.follow_dir(dir))
    }

    fn follow_dir(&mut self, dir: &Path) -> Result<()> {
        if self.followed.insert(dir.to_owned()) {
            self.namespaces
                .watch(dir, RecursiveMode::NonRecursive)
                .with_context(|| format!("cannot watch the folder `{}`", dir.display()))?;
        }
        Ok(())
    }
}

/// Calls `on_change` when something in the folders that it is given changes, or may have.
pub(crate) fn watcher(on_change: impl Fn() + Send + 'static) -> Result<RecommendedWatcher> {
    let watcher = notify::recommended_watcher(move |change: notify::Result<notify::Event>| {
        // Reading files is an event, too, and the agent reads them. An error means lost events.
        let matters = change.map_or(true, |change| match change.kind {
            EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
            EventKind::Any
            | EventKind::Create(_)
            | EventKind::Modify(_)
            | EventKind::Remove(_)
            | EventKind::Other => true,
        });
        if matters {
            on_change();
        }
    });
    watcher.context("cannot watch files")
}
