// SPDX-License-Identifier: Apache-2.0
//! What is enforced when an agent starts and no API server answers?
//!
//! The last snapshot that was put in force lies in the state folder of the node. It is replaced as a
//! whole, so that a crash leaves either the old or the new one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use policy_compiler::{
    Snapshot,
    model::{AdminPolicy, Namespace, NetworkPolicy, Node, Pod, Service},
    snapshot::Options,
};
use serde::{Deserialize, Serialize};

/// Where a node keeps its last snapshot.
#[derive(Clone, Debug)]
pub struct Bundle {
    folder: PathBuf,
}

/// Why a snapshot cannot be kept or used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The file cannot be read or written.
    #[error("cannot access `{path}`")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("cannot use `{path}`")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Another version of the agent wrote the file.
    #[error("`{path}` has format {found}, this agent reads {FORMAT}")]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
}

/// Bumped with every change of what the types below mean.
const FORMAT: u32 = 1;

#[derive(Deserialize)]
struct Head {
    format: u32,
}

/// A snapshot as lists, because JSON has no maps with structured keys.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    format: u32,
    node: String,
    options: Options,
    namespaces: Vec<Arc<Namespace>>,
    nodes: Vec<Arc<Node>>,
    pods: Vec<Arc<Pod>>,
    services: Vec<Arc<Service>>,
    network_policies: Vec<Arc<NetworkPolicy>>,
    admin_policies: Vec<Arc<AdminPolicy>>,
    domains: Option<BTreeMap<Arc<str>, BTreeSet<IpAddr>>>,
}

impl Bundle {
    /// The bundle in `folder`, which need not exist yet.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// Replaces what is kept.
    pub fn save(&self, node: &str, snapshot: &Snapshot) -> Result<(), BundleError> {
        self.draft(node, snapshot).write()
    }

    /// What is to be kept next, apart from the snapshot, which may change meanwhile.
    pub fn draft(&self, node: &str, snapshot: &Snapshot) -> Draft {
        let content = Content {
            format: FORMAT,
            node: node.to_owned(),
            options: snapshot.options.clone(),
            namespaces: snapshot.namespaces.values().cloned().collect(),
            nodes: snapshot.nodes.values().cloned().collect(),
            pods: snapshot.pods.values().cloned().collect(),
            services: snapshot.services.values().cloned().collect(),
            network_policies: snapshot.network_policies.values().cloned().collect(),
            admin_policies: snapshot.admin_policies.values().cloned().collect(),
            domains: snapshot.domains.clone(),
        };
        Draft {
            bundle: self.clone(),
            content,
        }
    }

    /// What was kept for `node`, if anything was.
    pub fn load(&self, node: &str) -> Result<Option<Snapshot>, BundleError> {
        let path = self.path();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(BundleError::Io { path, source }),
        };
        let wrong = |source| BundleError::Content {
            path: path.clone(),
            source,
        };
        let Head { format } = serde_json::from_slice(&text).map_err(wrong)?;
        if format != FORMAT {
            return Err(BundleError::Format {
                path,
                found: format,
            });
        }
        let content: Content = serde_json::from_slice(&text).map_err(wrong)?;
        Ok((content.node == node).then(|| content.into_snapshot()))
    }

    fn path(&self) -> PathBuf {
        self.folder.join("bundle.json")
    }

    fn write(&self, content: &Content) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)?;
        let unfinished = self.folder.join("bundle.json.new");
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)?;
        let mut writer = BufWriter::new(file);
        serde_json::to_writer(&mut writer, content)?;
        writer.flush()?;
        writer.get_ref().sync_all()?;
        fs::rename(unfinished, self.path())
    }
}

/// A snapshot that is not on the disk yet.
#[derive(Debug)]
pub struct Draft {
    bundle: Bundle,
    content: Content,
}

impl Draft {
    /// Replaces what is kept, which takes as long as the disk takes.
    pub fn write(self) -> Result<(), BundleError> {
        let Self { bundle, content } = self;
        bundle.write(&content).map_err(|source| BundleError::Io {
            path: bundle.path(),
            source,
        })
    }
}

impl Content {
    fn into_snapshot(self) -> Snapshot {
        let mut snapshot = Snapshot {
            options: self.options,
            domains: self.domains,
            ..Snapshot::default()
        };
        snapshot.namespaces = self
            .namespaces
            .into_iter()
            .map(|n| (n.name.clone(), n))
            .collect();
        snapshot.nodes = self
            .nodes
            .into_iter()
            .map(|n| (n.name.clone(), n))
            .collect();
        snapshot.pods = self.pods.into_iter().collect();
        let services = self.services.into_iter();
        snapshot.services = services
            .map(|s| ((s.namespace.clone(), s.name.clone()), s))
            .collect();
        let policies = self.network_policies.into_iter();
        snapshot.network_policies = policies
            .map(|p| ((p.namespace.clone(), p.name.clone()), p))
            .collect();
        let policies = self.admin_policies.into_iter();
        snapshot.admin_policies = policies.map(|p| ((p.kind, p.name.clone()), p)).collect();
        snapshot
    }
}

#[cfg(test)]
mod tests {
    use policy_compiler::strategies;
    use proptest::{
        strategy::{Strategy as _, ValueTree as _},
        test_runner::TestRunner,
    };

    use super::*;

    fn some_snapshot() -> Snapshot {
        let mut runner = TestRunner::deterministic();
        strategies::snapshot(strategies::Settings::default())
            .new_tree(&mut runner)
            .unwrap()
            .current()
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let bundle = Bundle::new(&folder.path().join("state"));
        assert!(bundle.load("n1").unwrap().is_none());
        let snapshot = some_snapshot();
        bundle.save("n1", &snapshot).unwrap();
        assert_eq!(bundle.load("n1").unwrap(), Some(snapshot));
        // A disk that moves to another machine does not take policies along.
        assert!(bundle.load("n2").unwrap().is_none());
    }

    #[test]
    fn an_unfinished_or_foreign_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let bundle = Bundle::new(folder.path());
        fs::write(bundle.path(), r#"{"format": 999}"#).unwrap();
        assert!(matches!(
            bundle.load("n1"),
            Err(BundleError::Format { found: 999, .. })
        ));
        fs::write(bundle.path(), r#"{"format": 1, "node"#).unwrap();
        assert!(matches!(
            bundle.load("n1"),
            Err(BundleError::Content { .. })
        ));
        bundle.save("n1", &some_snapshot()).unwrap();
        assert!(bundle.load("n1").unwrap().is_some());
    }
}
