// SPDX-License-Identifier: Apache-2.0
//! What is enforced when an agent starts and no API server answers?
//!
//! The last snapshot that was put in force lies in the state folder of the node: one line of JSON for
//! every object, so that neither writing nor reading holds the cluster a second time. The first line says
//! whose it is, the last one how many there are and what their checksum is. The file is replaced as a whole,
//! so that a crash leaves either the old or the new one; one that is damaged nevertheless is not used, for a
//! part of the policies may admit what all of them do not.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufRead as _, BufReader, BufWriter, Write as _},
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
    #[error("cannot use line {line} of `{path}`")]
    Content {
        /// The file.
        path: PathBuf,
        /// Where, counted from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Not all of the file is there.
    #[error("`{path}` ends early, after {lines} lines")]
    Short {
        /// The file.
        path: PathBuf,
        /// How many there are.
        lines: usize,
    },
    /// The file is not what was written.
    #[error("`{path}` was altered or damaged: its checksum is another")]
    Damaged {
        /// The file.
        path: PathBuf,
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
const FORMAT: u32 = 2;

/// What every format begins with.
#[derive(Deserialize)]
struct AnyHead {
    format: u32,
}

/// The first line.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Head {
    format: u32,
    node: String,
    options: Options,
    domains: Option<BTreeMap<Arc<str>, BTreeSet<IpAddr>>>,
}

/// Any other line.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Line {
    Namespace(Arc<Namespace>),
    Node(Arc<Node>),
    Pod(Arc<Pod>),
    Service(Arc<Service>),
    NetworkPolicy(Arc<NetworkPolicy>),
    AdminPolicy(Arc<AdminPolicy>),
    /// The last one.
    End(End),
}

/// What the lines before it have to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct End {
    lines: usize,
    checksum: u64,
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
        let head = Head {
            format: FORMAT,
            node: node.to_owned(),
            options: snapshot.options.clone(),
            domains: snapshot.domains.clone(),
        };
        let network_policies = snapshot.network_policies.values();
        let admin_policies = snapshot.admin_policies.values();
        let lines = (snapshot.namespaces.values().cloned().map(Line::Namespace))
            .chain(snapshot.nodes.values().cloned().map(Line::Node))
            .chain(snapshot.pods.values().cloned().map(Line::Pod))
            .chain(snapshot.services.values().cloned().map(Line::Service))
            .chain(network_policies.cloned().map(Line::NetworkPolicy))
            .chain(admin_policies.cloned().map(Line::AdminPolicy));
        Draft {
            bundle: self.clone(),
            head,
            lines: lines.collect(),
        }
    }

    /// What was kept for `node`, if anything was. `share` makes a pod hold what it has in common with
    /// others, before the next one is read.
    pub fn load(
        &self,
        node: &str,
        mut share: impl FnMut(&mut Pod),
    ) -> Result<Option<Snapshot>, BundleError> {
        let file = match File::open(self.path()) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.inaccessible(source)),
        };
        let mut reader = Reader::new(self, file);
        reader.next()?;
        let AnyHead { format } = reader.parse()?;
        if format != FORMAT {
            return Err(BundleError::Format {
                path: self.path(),
                found: format,
            });
        }
        let head: Head = reader.parse()?;
        if head.node != node {
            return Ok(None);
        }
        let mut snapshot = Snapshot {
            options: head.options,
            domains: head.domains,
            ..Snapshot::default()
        };
        // In order, which makes a denser set than one after the other does.
        let mut pods = Vec::new();
        loop {
            let before = reader.next()?;
            match reader.parse()? {
                Line::Namespace(namespace) => {
                    let name = namespace.name.clone();
                    snapshot.namespaces.insert(name, namespace);
                }
                Line::Node(node) => {
                    snapshot.nodes.insert(node.name.clone(), node);
                }
                Line::Pod(mut pod) => {
                    share(Arc::make_mut(&mut pod));
                    pods.push(pod);
                }
                Line::Service(service) => {
                    let key = (service.namespace.clone(), service.name.clone());
                    snapshot.services.insert(key, service);
                }
                Line::NetworkPolicy(policy) => {
                    let key = (policy.namespace.clone(), policy.name.clone());
                    snapshot.network_policies.insert(key, policy);
                }
                Line::AdminPolicy(policy) => {
                    let key = (policy.kind, policy.name.clone());
                    snapshot.admin_policies.insert(key, policy);
                }
                Line::End(end) if end != before => {
                    return Err(BundleError::Damaged { path: self.path() });
                }
                Line::End(_) => {
                    snapshot.pods = pods.into_iter().collect();
                    return Ok(Some(snapshot));
                }
            }
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.join("bundle.json")
    }

    fn inaccessible(&self, source: io::Error) -> BundleError {
        BundleError::Io {
            path: self.path(),
            source,
        }
    }
}

/// A snapshot that is not on the disk yet.
#[derive(Debug)]
pub struct Draft {
    bundle: Bundle,
    head: Head,
    lines: Vec<Line>,
}

impl Draft {
    /// Replaces what is kept, which takes as long as the disk takes.
    pub fn write(self) -> Result<(), BundleError> {
        let written = self.try_write();
        written.map_err(|source| self.bundle.inaccessible(source))
    }

    fn try_write(&self) -> io::Result<()> {
        let folder = &self.bundle.folder;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        let unfinished = folder.join("bundle.json.new");
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)?;
        let mut writer = Writer::new(file);
        writer.line(&self.head)?;
        for line in &self.lines {
            writer.line(line)?;
        }
        writer.line(&Line::End(writer.sum.0))?;
        writer.file.flush()?;
        writer.file.get_ref().sync_all()?;
        fs::rename(unfinished, self.bundle.path())
    }
}

struct Writer {
    file: BufWriter<File>,
    sum: Sum,
    /// The line being written.
    text: Vec<u8>,
}

impl Writer {
    fn new(file: File) -> Self {
        Self {
            file: BufWriter::new(file),
            sum: Sum::default(),
            text: Vec::new(),
        }
    }

    fn line(&mut self, line: &impl Serialize) -> io::Result<()> {
        self.text.clear();
        serde_json::to_writer(&mut self.text, line)?;
        self.text.push(b'\n');
        self.sum.add(&self.text);
        self.file.write_all(&self.text)
    }
}

struct Reader<'b> {
    bundle: &'b Bundle,
    file: BufReader<File>,
    sum: Sum,
    /// The line that was read last.
    text: Vec<u8>,
}

impl<'b> Reader<'b> {
    fn new(bundle: &'b Bundle, file: File) -> Self {
        Self {
            bundle,
            file: BufReader::new(file),
            sum: Sum::default(),
            text: Vec::new(),
        }
    }

    /// Reads the next line; that there is none is an error. Returns what the lines before it are.
    fn next(&mut self) -> Result<End, BundleError> {
        self.text.clear();
        let read = self.file.read_until(b'\n', &mut self.text);
        read.map_err(|source| self.bundle.inaccessible(source))?;
        if self.text.last() != Some(&b'\n') {
            return Err(BundleError::Short {
                path: self.bundle.path(),
                lines: self.sum.0.lines,
            });
        }
        let before = self.sum.0;
        self.sum.add(&self.text);
        Ok(before)
    }

    /// What the line says.
    fn parse<'t, T: Deserialize<'t>>(&'t self) -> Result<T, BundleError> {
        serde_json::from_slice(&self.text).map_err(|source| BundleError::Content {
            path: self.bundle.path(),
            line: self.sum.0.lines,
            source,
        })
    }
}

/// FNV-1a with 64 bits, over whole lines: for what disks and crashes do, not for what somebody does on
/// purpose, who could write another checksum as well.
struct Sum(End);

impl Default for Sum {
    fn default() -> Self {
        Self(End {
            lines: 0,
            checksum: 0xcbf2_9ce4_8422_2325,
        })
    }
}

impl Sum {
    fn add(&mut self, line: &[u8]) {
        self.0.lines += 1;
        self.0.checksum = line.iter().fold(self.0.checksum, |sum, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
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

    fn load(bundle: &Bundle) -> Result<Option<Snapshot>, BundleError> {
        bundle.load("n1", |_| {})
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let bundle = Bundle::new(&folder.path().join("state"));
        assert!(load(&bundle).unwrap().is_none());
        let snapshot = some_snapshot();
        bundle.save("n1", &snapshot).unwrap();
        assert_eq!(load(&bundle).unwrap(), Some(snapshot));
        // A disk that moves to another machine does not take policies along.
        assert!(bundle.load("n2", |_| {}).unwrap().is_none());
    }

    #[test]
    fn pods_are_shared_as_they_come() {
        let folder = tempfile::tempdir().unwrap();
        let bundle = Bundle::new(folder.path());
        let snapshot = some_snapshot();
        bundle.save("n1", &snapshot).unwrap();
        let mut seen = Vec::new();
        bundle.load("n1", |pod| seen.push(pod.key.clone())).unwrap();
        let keys: Vec<_> = snapshot.pods.keys().cloned().collect();
        assert!(!keys.is_empty());
        assert_eq!(seen, keys);
    }

    #[test]
    fn an_unfinished_or_foreign_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let bundle = Bundle::new(folder.path());
        fs::write(bundle.path(), "{\"format\": 999}\n").unwrap();
        assert!(matches!(
            load(&bundle),
            Err(BundleError::Format { found: 999, .. })
        ));
        bundle.save("n1", &some_snapshot()).unwrap();
        let whole = fs::read_to_string(bundle.path()).unwrap();
        let lines: Vec<&str> = whole.split_inclusive('\n').collect();
        assert!(lines.len() > 5, "{whole}");

        // Wherever it ends, in the middle of a line or between two.
        let ends = (0..lines.len()).map(|count| lines[..count].concat());
        let cut = (1..whole.len()).step_by(97).map(|end| &whole[..end]);
        for text in ends.chain(cut.map(str::to_owned)) {
            fs::write(bundle.path(), &text).unwrap();
            let count = text.matches('\n').count();
            assert!(
                matches!(load(&bundle), Err(BundleError::Short { lines, .. }) if lines == count),
                "{text}"
            );
        }
        // A line that is lost, or says something else.
        for line in 1..lines.len() - 1 {
            let mut fewer = lines.clone();
            fewer.remove(line);
            fs::write(bundle.path(), fewer.concat()).unwrap();
            assert!(matches!(load(&bundle), Err(BundleError::Damaged { .. })));
        }
        fs::write(
            bundle.path(),
            whole.replacen("\"name\":\"", "\"name\":\"x", 1),
        )
        .unwrap();
        assert!(matches!(load(&bundle), Err(BundleError::Damaged { .. })));
        fs::write(
            bundle.path(),
            whole.replacen("{\"Namespace\"", "{\"Name", 1),
        )
        .unwrap();
        assert!(matches!(
            load(&bundle),
            Err(BundleError::Content { line: 2, .. })
        ));
        fs::write(bundle.path(), &whole).unwrap();
        assert!(load(&bundle).unwrap().is_some());
    }
}
