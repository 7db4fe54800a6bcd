// SPDX-License-Identifier: Apache-2.0
//! Where does the demo keep what must not outlive it?

use std::{
    ffi::CStr,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    fs::{FlockOperation, flock},
    mount::{MountFlags, UnmountFlags, mount, unmount},
};

use crate::net::Netns;

/// Folders with one namespace file each.
const NAMESPACES: [&str; 3] = [Root::PODS, Root::NODES, Root::OUTSIDE];

/// A folder that one demo at a time owns. Everything the demo makes is mounted below it, so whatever
/// a killed predecessor left can be found and removed.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    /// Held while something is made, and for good once the folder is closed.
    making: Mutex<()>,
    _lock: File,
}

impl Root {
    /// Namespaces of pods, named by [`crate::folder::pod_file`].
    pub const PODS: &'static str = "pods";
    /// Namespaces of nodes.
    pub const NODES: &'static str = "nodes";
    /// Namespaces of the network between nodes and of the world.
    pub const OUTSIDE: &'static str = "outside";
    /// BPF file systems of nodes.
    const BPF: &'static str = "bpf";
    /// What agents of nodes write down.
    const STATE: &'static str = "state";

    /// Takes possession of `path` and removes what is left there.
    pub fn claim(path: &Path) -> Result<Self> {
        fs::create_dir_all(path)
            .with_context(|| format!("cannot make the folder `{}`", path.display()))?;
        let lock = File::create(path.join("lock"))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!("another demo uses the folder `{}`", path.display());
        }
        let root = Self {
            path: path.to_owned(),
            making: Mutex::new(()),
            _lock: lock,
        };
        root.clear()
            .with_context(|| format!("cannot clear the folder `{}`", path.display()))?;
        Ok(root)
    }

    /// The folder of the namespaces of one kind.
    pub fn dir(&self, kind: &str) -> PathBuf {
        self.path.join(kind)
    }

    /// Makes a namespace.
    pub fn namespace(&self, kind: &str, name: &str) -> Result<Netns> {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        Netns::create(&self.dir(kind), name)
            .with_context(|| format!("cannot make network namespace `{kind}/{name}`"))
    }

    /// Mounts a BPF file system for the maps of one node: unmounting it frees them.
    pub fn bpf(&self, node: &str) -> Result<PathBuf> {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.path.join(Self::BPF).join(node);
        fs::create_dir_all(&path)?;
        mount("netpol", &path, "bpf", MountFlags::empty(), None::<&CStr>)
            .with_context(|| format!("cannot mount a BPF file system at `{}`", path.display()))?;
        Ok(path)
    }

    /// Where the agent of a node keeps what it writes down.
    pub fn state(&self, node: &str) -> PathBuf {
        self.path.join(Self::STATE).join(node)
    }

    /// Removes everything and lets nothing new be made; for signal handling. Whoever is about to make
    /// something waits for the end of the process.
    pub fn close(&self) -> io::Result<()> {
        let making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::forget(making);
        self.clear()
    }

    fn clear(&self) -> io::Result<()> {
        for kind in NAMESPACES {
            let dir = self.dir(kind);
            for name in entries(&dir)? {
                Netns::remove(&dir, &name)?;
            }
            remove_dir(&dir)?;
        }
        let dir = self.path.join(Self::BPF);
        for name in entries(&dir)? {
            let path = dir.join(name);
            let _ = unmount(&path, UnmountFlags::DETACH);
            remove_dir(&path)?;
        }
        remove_dir(&dir)?;
        match fs::remove_dir_all(self.path.join(Self::STATE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            tracing::warn!(folder = %self.path.display(), %error, "cannot remove what the demo made");
        }
        let _ = fs::remove_file(self.path.join("lock"));
        let _ = fs::remove_dir(&self.path);
    }
}

fn entries(dir: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
