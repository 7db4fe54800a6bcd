// SPDX-License-Identifier: Apache-2.0
//! What is the input? Everything the command line names, read, assembled and accounted for.

mod config;
mod files;
mod lines;
mod listing;
mod tools;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

use policy_compiler::{
    diagnostic::{Diagnostic, Location},
    manifest::{self, Document, Fate, Loaded},
    parse::{Channel, Settings},
    partial::{Assumptions, Doubt, Evaluator},
};

use crate::{
    args::{Assume, Cni, InputArgs, LocalNodeEgress, YesNo},
    exit::{ExitStatus, UnknownError, UsageError},
};

use lines::Lines;

pub use config::Config;
pub use files::Source;
pub use listing::Listing;
#[cfg(feature = "live")]
pub use listing::Unlisted;
pub use tools::run as run_tool;

/// The input of a command.
#[derive(Debug)]
pub struct World {
    /// Cluster, policies, diagnostics and ledger.
    pub loaded: Loaded,
    /// The text of every file, for excerpts and suppressions.
    pub texts: BTreeMap<Arc<str>, String>,
    lines: BTreeMap<Arc<str>, Lines>,
    /// The repository's configuration.
    pub config: Config,
    /// Namespace of names that have none.
    pub namespace: String,
    assumptions: Assumptions,
    doubts: Vec<Doubt>,
    listing: Listing,
    allow_incomplete: bool,
    /// Objects of the base that the overlay has, too.
    pub replaced: Vec<Replaced>,
    /// Files and folders without any object.
    pub empty: Vec<String>,
    /// The place of each source among those that were read.
    order: BTreeMap<Arc<str>, usize>,
}

/// An object that nothing is asked about, because the overlay has another of its name.
#[derive(Debug)]
pub struct Replaced {
    /// Where it is written.
    pub at: Location,
    /// `kind`.
    pub kind: Arc<str>,
    /// The namespace as written.
    pub namespace: Option<Arc<str>>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl World {
    /// Reads what `args` name.
    pub fn load(args: &InputArgs) -> anyhow::Result<Self> {
        let config = Config::find(args)?;
        let sources = sources(args, &config)?;
        Self::assemble(args, config, sources.base, sources.overlay).answerable()
    }

    /// Reads other files under the same switches.
    pub fn load_paths(args: &InputArgs, paths: &[String]) -> anyhow::Result<Self> {
        let config = Config::find(args)?;
        let base = files::read(paths, io::stdin())?;
        Self::assemble(args, config, base, Vec::new()).answerable()
    }

    /// Assembles texts that were read already.
    pub fn assemble(
        args: &InputArgs,
        config: Config,
        base: Vec<Source>,
        overlay: Vec<Source>,
    ) -> Self {
        let given = args.namespace.clone().or_else(|| config.namespace.clone());
        let namespace = given.unwrap_or_else(|| "default".to_owned());
        let settings = Settings {
            default_namespace: namespace.as_str().into(),
            channel: Channel::Either,
        };
        let mut empty = Vec::new();
        let (documents, mut diagnostics) = read_all(&base, &mut empty);
        let (replacing, problems) = read_all(&overlay, &mut empty);
        let replaced: BTreeSet<_> = replacing
            .iter()
            .map(|document| identity(document, &namespace))
            .collect();
        let (replaced, mut documents): (Vec<_>, Vec<_>) = documents
            .into_iter()
            .partition(|it| it.name.is_some() && replaced.contains(&identity(it, &namespace)));
        let replaced = replaced.into_iter().map(Replaced::from).collect();
        documents.extend(replacing);
        diagnostics.extend(problems);
        let listing = Listing::take(&mut documents, &mut diagnostics);
        diagnostics.extend(listing.diagnostics());
        let mut loaded = manifest::assemble(documents, diagnostics, &settings);
        let mut assumptions = Assumptions::default();
        for assume in config.assume.iter().chain(&args.assume) {
            apply(*assume, &mut assumptions, &mut loaded);
        }
        // No switch turns what nobody could list into nothing.
        let mut doubts = listing.doubts(&loaded.snapshot);
        if !args.allow_incomplete {
            let refused = std::mem::take(&mut loaded.refused);
            loaded.snapshot.gaps.extend(refused);
            doubts.extend(Doubt::from_diagnostics(&loaded.diagnostics, &namespace));
        }
        let sources: Vec<Source> = base.into_iter().chain(overlay).collect();
        let names = sources.iter().map(|it| it.name.as_str().into());
        let order = names.zip(0..).collect();
        let texts: BTreeMap<Arc<str>, String> = sources
            .into_iter()
            .map(|source| (source.name.as_str().into(), source.text))
            .collect();
        let lines = texts
            .iter()
            .map(|(file, text)| (file.clone(), Lines::new(text)))
            .collect();
        Self {
            loaded,
            texts,
            lines,
            config,
            namespace,
            assumptions,
            doubts,
            listing,
            allow_incomplete: args.allow_incomplete,
            replaced,
            empty,
            order,
        }
    }

    /// Refuses an input that can say nothing about anybody.
    fn answerable(self) -> anyhow::Result<Self> {
        if self.listing.lacks("Pod") {
            for diagnostic in self.listing.diagnostics() {
                crate::render::diagnostics::note(&crate::render::diagnostics::one(
                    &diagnostic,
                    &self,
                ));
            }
            return Err(UnknownError("without the pods every answer is unknown").into());
        }
        Ok(self)
    }

    /// Answers questions about the input.
    pub fn evaluator(&self) -> Evaluator<'_> {
        Evaluator::new(&self.loaded.snapshot, self.assumptions, self.doubts.clone())
    }

    /// Answers questions about another snapshot under the same switches.
    pub fn evaluator_of<'s>(&self, snapshot: &'s policy_compiler::Snapshot) -> Evaluator<'s> {
        Evaluator::new(snapshot, self.assumptions, self.doubts.clone())
    }

    /// Answers questions about another snapshot as the agent would enforce it: what cannot be read is
    /// judged fail-closed.
    pub fn as_enforced<'s>(&self, snapshot: &'s policy_compiler::Snapshot) -> Evaluator<'s> {
        Evaluator::new(snapshot, self.assumptions, Vec::new())
    }

    /// Documents that hold no object anybody could read.
    pub fn unreadable(&self) -> impl Iterator<Item = &Diagnostic> {
        self.loaded
            .diagnostics
            .iter()
            .filter(|diagnostic| manifest::UNREADABLE.contains(&diagnostic.id))
    }

    /// How a run ends that answered as far as the input goes: incomplete if something was refused or
    /// not understood, unless it was accepted to be judged as the agent would.
    pub fn status(&self) -> ExitStatus {
        let refused = |entry: &manifest::LedgerEntry| {
            entry.makes_incomplete() || matches!(entry.fate, Fate::Rejected { .. })
        };
        if self.unreadable().next().is_some()
            || self.listing.hides_verdicts()
            || (!self.allow_incomplete && self.loaded.ledger.iter().any(refused))
        {
            ExitStatus::Incomplete
        } else {
            ExitStatus::Success
        }
    }

    /// Whether a live cluster did not let anybody see what leads traffic to Services.
    pub fn lacks_entrances(&self) -> bool {
        self.listing.hides_entrances()
    }

    /// Whether nothing may be answered because documents cannot be read at all.
    pub fn is_unusable(&self) -> bool {
        !self.allow_incomplete && self.unreadable().next().is_some()
    }

    /// `scope: 2 policies, 2 pods, 0 ignored documents; pod IPs unknown`.
    pub fn scope(&self) -> String {
        let snapshot = &self.loaded.snapshot;
        let count = |number: usize, one: &str, many: &str| match number {
            1 => format!("1 {one}"),
            _ => format!("{number} {many}"),
        };
        let policies = snapshot.network_policies.len() + snapshot.admin_policies.len();
        let fate = |wanted: fn(&Fate) -> bool| {
            self.loaded
                .ledger
                .iter()
                .filter(|entry| wanted(&entry.fate))
                .count()
        };
        let ignored = fate(|fate| matches!(fate, Fate::Ignored));
        let rejected = fate(|fate| matches!(fate, Fate::Rejected { .. }));
        let mut scope = format!(
            "scope: {}, {}, {}",
            count(policies, "policy", "policies"),
            count(snapshot.pods.len(), "pod", "pods"),
            count(ignored, "ignored document", "ignored documents"),
        );
        if !self.replaced.is_empty() {
            scope.push_str(", ");
            let replaced = self.replaced.len();
            scope.push_str(&count(replaced, "replaced document", "replaced documents"));
        }
        if rejected > 0 {
            scope.push_str(", ");
            scope.push_str(&count(rejected, "rejected document", "rejected documents"));
        }
        let live = || snapshot.pods.values().filter(|pod| pod.is_policed());
        let without = live().filter(|pod| pod.addresses.is_empty()).count();
        if without > 0 && without == live().count() {
            scope.push_str("; pod IPs unknown");
        } else if without > 0 {
            scope.push_str("; IPs unknown of ");
            scope.push_str(&count(without, "pod", "pods"));
        }
        if self.allow_incomplete {
            scope.push_str("; what cannot be read is judged fail-closed");
        }
        scope
    }

    /// Sorts by file, in the order in which files were read, and place.
    pub fn place(&self, at: &Location) -> (usize, u32, u32) {
        let file = self.order.get(&at.file).copied();
        (file.unwrap_or(usize::MAX), at.line, at.column)
    }

    /// A line of a file that was read, counted from 1, without its end.
    pub fn line(&self, file: &str, number: u32) -> Option<&str> {
        self.lines.get(file)?.get(self.texts.get(file)?, number)
    }

    /// Whether a finding is silenced on its own line or the line above, or by the configuration.
    pub fn is_silenced(
        &self,
        code: &str,
        name: &str,
        at: Option<&policy_compiler::diagnostic::Location>,
    ) -> bool {
        let named = |word: &str| word == "all" || word.eq_ignore_ascii_case(code) || word == name;
        if self.config.ignore.iter().any(|word| named(word)) {
            return true;
        }
        let Some(at) = at else { return false };
        let line = |number: u32| self.line(&at.file, number);
        let marked = |line: &str| {
            let Some((_, words)) = line.split_once("# netpol-analyze: ignore") else {
                return false;
            };
            let mut words = words
                .split([' ', ','])
                .filter(|word| !word.is_empty())
                .peekable();
            words.peek().is_none() || words.any(named)
        };
        let above =
            line(at.line.saturating_sub(1)).filter(|line| line.trim_start().starts_with('#'));
        line(at.line).is_some_and(marked) || above.is_some_and(marked)
    }
}

struct Sources {
    base: Vec<Source>,
    overlay: Vec<Source>,
}

fn sources(args: &InputArgs, config: &Config) -> anyhow::Result<Sources> {
    let mut paths = args.files.clone();
    if !args.has_source() {
        paths.extend(config.files.iter().cloned());
    }
    if paths.is_empty() && !args.has_source() {
        return Err(UsageError::new("no input is named")
            .help("-f PATH, -k DIR, --helm CHART, --snapshot FILE or --live")
            .into());
    }
    let mut base = files::read(&paths, io::stdin())?;
    for dir in &args.kustomize {
        base.push(tools::kustomize(dir)?);
    }
    for chart in &args.helm {
        base.push(tools::helm(chart, &args.values)?);
    }
    if let Some(path) = &args.snapshot {
        base.extend(files::read(std::slice::from_ref(path), io::stdin())?);
    }
    if args.live {
        base.extend(crate::live::read(args)?);
    }
    let overlay = files::read(&args.overlay, io::stdin())?;
    Ok(Sources { base, overlay })
}

/// The documents of all sources, and what is wrong with their texts; names those without any to `empty`.
fn read_all(sources: &[Source], empty: &mut Vec<String>) -> (Vec<Document>, Vec<Diagnostic>) {
    let (mut documents, mut diagnostics) = (Vec::new(), Vec::new());
    for source in sources {
        let (more, problems) = manifest::read(&source.name, &source.text);
        if more.is_empty() && problems.is_empty() {
            empty.push(source.name.clone());
        }
        documents.extend(more);
        diagnostics.extend(problems);
    }
    (documents, diagnostics)
}

impl From<Document> for Replaced {
    fn from(document: Document) -> Self {
        Self {
            at: document.location,
            kind: document.kind,
            namespace: document.namespace,
            name: document.name.unwrap_or_default(),
        }
    }
}

/// Kind, namespace and name. Documents without a name are nobody else's.
fn identity(document: &Document, namespace: &str) -> (Arc<str>, Arc<str>, Arc<str>) {
    let own = document
        .namespace
        .clone()
        .unwrap_or_else(|| namespace.into());
    (
        document.kind.clone(),
        own,
        document.name.clone().unwrap_or_default(),
    )
}

fn apply(assume: Assume, assumptions: &mut Assumptions, loaded: &mut Loaded) {
    let (blocks, local) = match assume {
        Assume::BlocksMatchPods(yes) => (Some(yes == YesNo::Yes), None),
        Assume::LocalNodeEgress(how) => (None, Some(how == LocalNodeEgress::Allow)),
        Assume::Cni(Cni::Netpol) => (Some(true), Some(false)),
        // Both admit a pod's traffic to its own node before policies are asked.
        Assume::Cni(Cni::Calico | Cni::Ovn) => (Some(true), Some(true)),
        // Identities, not addresses, stand for pods.
        Assume::Cni(Cni::Cilium) => (Some(false), Some(true)),
    };
    if let Some(blocks) = blocks {
        assumptions.blocks_match_pods = blocks;
    }
    if let Some(local) = local {
        loaded.snapshot.options.local_node_egress = local;
    }
}
