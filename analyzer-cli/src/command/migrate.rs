// SPDX-License-Identifier: Apache-2.0
//! What do AdminNetworkPolicies look like as ClusterNetworkPolicies, and do those decide the same? `migrate`.

mod yaml;

use std::fmt::Write as _;

use clap::ValueEnum;
use policy_compiler::{
    Snapshot,
    difference::{self, Difference, Kind},
    manifest::Document,
    migrate::{Migration, migrate},
    model::PolicyRef,
    parse::Settings,
    symbolic::{Symbols, TooMany},
};
use serde::Serialize;

use crate::{
    API_VERSION, Io,
    exit::ExitStatus,
    load::World,
    render::{
        change::{ChangeJson, text},
        diagnostics, plain,
    },
};

/// Runs `migrate`.
pub fn run(io: &Io<'_>) -> anyhow::Result<ExitStatus> {
    let format: Format = io.format()?;
    let Some(world) = io.load()? else {
        return Ok(ExitStatus::Usage);
    };
    let before = &world.loaded.snapshot;
    let settings = Settings {
        default_namespace: world.namespace.as_str().into(),
        ..Settings::default()
    };
    let migration = migrate(&world.loaded.cluster_policies, before, &settings);
    for diagnostic in &migration.diagnostics {
        diagnostics::note(&diagnostics::one(diagnostic, &world));
    }
    let mut meanwhile = migration.snapshot.clone();
    for policy in before.admin_policies.values() {
        if migration.replaced.contains(&policy.policy_ref()) {
            meanwhile.insert_admin_policy(policy_compiler::model::AdminPolicy::clone(policy));
        }
    }
    let after = Proof::of(&world, before, &migration.snapshot);
    let meanwhile = Proof::of(&world, before, &meanwhile);
    match format {
        Format::Json => io.json(&MigrationJson::of(&migration, &after, &meanwhile))?,
        Format::Text | Format::Yaml => {
            let mut text = heading(&migration, &after, &meanwhile);
            for document in &migration.documents {
                text.push_str("---\n");
                text.push_str(&yaml::document(document, &world.texts));
            }
            io.answer(&text)?;
        }
    }
    let done = ExitStatus::of(migration.kept.is_empty());
    Ok(done.max(after.status()).max(world.status()))
}

/// The formats of a migration: text is YAML, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Yaml,
    Json,
}

/// Whether two sets of policies decide the same.
struct Proof {
    /// The pods that do not exist yet; empty if there are too many kinds.
    symbols: Symbols,
    difference: Difference,
    too_many: Option<TooMany>,
    /// Both are the same set: there is nothing to compare.
    unchanged: bool,
}

impl Proof {
    fn of(world: &World, before: &Snapshot, after: &Snapshot) -> Self {
        // Nothing else is ever migrated.
        if before.admin_policies == after.admin_policies {
            return Self {
                symbols: Symbols::default(),
                difference: Difference::default(),
                too_many: None,
                unchanged: true,
            };
        }
        let symbols = Symbols::of(&[before, after], &[], MOST_SYMBOLS);
        let (symbols, too_many) = match symbols {
            Ok(symbols) => (symbols, None),
            Err(error) => (Symbols::default(), Some(error)),
        };
        let (before, after) = (symbols.join(before), symbols.join(after));
        let difference = difference::between(
            &world.as_enforced(&before),
            &world.as_enforced(&after),
            &symbols,
        );
        Self {
            symbols,
            difference,
            too_many,
            unchanged: false,
        }
    }

    fn status(&self) -> ExitStatus {
        match self.word() {
            "equal" => ExitStatus::Success,
            "different" => ExitStatus::Failure,
            _ => ExitStatus::Incomplete,
        }
    }

    fn word(&self) -> &'static str {
        let changes = &self.difference.changes;
        if changes
            .iter()
            .any(|change| matches!(change.kind, Kind::Gained | Kind::Lost))
        {
            "different"
        } else if changes.is_empty() && self.too_many.is_none() {
            "equal"
        } else {
            "unknown"
        }
    }

    /// The result in lines.
    fn lines(&self) -> Vec<String> {
        if self.unchanged {
            return vec!["no verdict changes: no policy does".to_owned()];
        }
        let Difference {
            endpoints,
            symbols,
            ranges,
            changes,
        } = &self.difference;
        let count = |number: &usize, one: &str, many: &str| match number {
            1 => format!("1 {one}"),
            _ => format!("{number} {many}"),
        };
        let scope = format!(
            "{}, {}, {}; every protocol and port",
            count(endpoints, "pod or node", "pods and nodes"),
            count(
                ranges,
                "range of outside addresses",
                "ranges of outside addresses"
            ),
            count(
                symbols,
                "kind of pod that does not exist yet",
                "kinds of pods that do not exist yet"
            ),
        );
        let mut lines = vec![match self.word() {
            "equal" => format!("no verdict changes ({scope})"),
            "different" => format!("VERDICTS CHANGE ({scope})"),
            _ => format!("unknown whether verdicts change ({scope})"),
        }];
        lines.extend(self.too_many.map(|error| error.to_string()));
        for change in changes.iter().take(MOST_CHANGES) {
            let text = text(change, &self.symbols, |names| names.join(", "));
            lines.extend(text.lines().map(str::to_owned));
        }
        if changes.len() > MOST_CHANGES {
            lines.push(format!("... and {} more", changes.len() - MOST_CHANGES));
        }
        lines
    }
}

/// What a reader has to know before applying, as comments.
fn heading(migration: &Migration, after: &Proof, meanwhile: &Proof) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let mut say = |line: &str| {
        let _ = writeln!(text, "# {}", plain::line(line));
    };
    let list = |policies: &[PolicyRef]| {
        let names: Vec<String> = policies.iter().map(ToString::to_string).collect();
        names.join(", ")
    };
    if migration.documents.is_empty() && migration.kept.is_empty() {
        say("there is nothing to migrate");
    }
    for line in after.lines() {
        say(&line);
    }
    if !migration.replaced.is_empty() {
        say(&format!(
            "apply these, then delete: {}",
            list(&migration.replaced)
        ));
        match meanwhile.word() {
            "equal" => say("no verdict changes in between either"),
            _ => say("in between, with both installed:"),
        }
        if meanwhile.word() != "equal" {
            for line in meanwhile.lines() {
                say(&line);
            }
        }
    }
    for (policy, before, after) in &migration.renumbered {
        match before {
            Some(before) => say(&format!("{policy}: priority {before} becomes {after}")),
            None => say(&format!(
                "{policy}: priority {after}, behind every other of its tier"
            )),
        }
    }
    if !migration.kept.is_empty() {
        say(&format!("not migrated: {}", list(&migration.kept)));
    }
    text
}

#[derive(Serialize)]
struct MigrationJson<'m> {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    policies: Vec<serde_json::Value>,
    replaced: Vec<String>,
    renumbered: Vec<RenumberedJson>,
    kept: Vec<String>,
    problems: &'m [policy_compiler::diagnostic::Diagnostic],
    proof: ProofJson,
    meanwhile: ProofJson,
}

#[derive(Serialize)]
struct RenumberedJson {
    policy: String,
    before: Option<i32>,
    after: i32,
}

#[derive(Serialize)]
struct ProofJson {
    verdict: &'static str,
    endpoints: usize,
    ranges: usize,
    symbols: usize,
    unknown: Option<String>,
    changes: Vec<ChangeJson>,
}

impl<'m> MigrationJson<'m> {
    fn of(migration: &'m Migration, after: &Proof, meanwhile: &Proof) -> Self {
        let names =
            |policies: &[PolicyRef]| policies.iter().map(ToString::to_string).collect::<Vec<_>>();
        let renumbered = migration.renumbered.iter();
        Self {
            api_version: API_VERSION,
            kind: "Migration",
            policies: migration.documents.iter().map(Document::value).collect(),
            replaced: names(&migration.replaced),
            renumbered: renumbered
                .map(|(policy, before, after)| RenumberedJson {
                    policy: policy.to_string(),
                    before: *before,
                    after: *after,
                })
                .collect(),
            kept: names(&migration.kept),
            problems: &migration.diagnostics,
            proof: ProofJson::of(after),
            meanwhile: ProofJson::of(meanwhile),
        }
    }
}

impl ProofJson {
    fn of(proof: &Proof) -> Self {
        let changes = proof.difference.changes.iter();
        Self {
            verdict: proof.word(),
            endpoints: proof.difference.endpoints,
            ranges: proof.difference.ranges,
            symbols: proof.difference.symbols,
            unknown: proof.too_many.map(|error| error.to_string()),
            changes: changes
                .map(|change| ChangeJson::of(change, &proof.symbols))
                .collect(),
        }
    }
}

/// Kinds of pods that do not exist yet which are compared at most.
const MOST_SYMBOLS: usize = 5000;
/// Changes that are spelt out before the policies.
const MOST_CHANGES: usize = 20;
