// SPDX-License-Identifier: Apache-2.0
//! What do the numbers in the kernel's tables stand for, when no agent runs to say so?

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use policy_compiler::{Decision, model::PodKey};
use serde::{Deserialize, Serialize};

/// The names behind the numbers of one publication.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// The node.
    pub node: Arc<str>,
    /// The pod behind each interface index.
    pub pods: BTreeMap<u32, PodKey>,
    /// The decision behind each reason id.
    pub decisions: BTreeMap<u32, Arc<Decision>>,
}

impl Names {
    /// Replaces the names below `dir`, all at once.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = file(dir);
        let text = serde_json::to_vec(self)?;
        let next = path.with_extension("new");
        fs::create_dir_all(dir)
            .and_then(|()| fs::write(&next, text))
            .and_then(|()| fs::rename(&next, &path))
            .with_context(|| format!("cannot write `{}`", path.display()))
    }

    /// The names below `dir`.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = file(dir);
        let text = fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("`{}` was written by another version", path.display()))
    }

    /// The interfaces of `pod`.
    pub fn interfaces_of(&self, pod: &PodKey) -> impl Iterator<Item = u32> {
        let interfaces = self.pods.iter().filter(move |(_, owner)| *owner == pod);
        interfaces.map(|(ifindex, _)| *ifindex)
    }

    /// The pod behind an interface, or the interface itself.
    pub fn interface(&self, ifindex: u32) -> String {
        match self.pods.get(&ifindex) {
            Some(pod) => pod.to_string(),
            None => format!("interface {ifindex}"),
        }
    }
}

fn file(dir: &Path) -> PathBuf {
    dir.join("names.json")
}
