// SPDX-License-Identifier: Apache-2.0
//! How is a set of AdminNetworkPolicies written as ClusterNetworkPolicies that decide the same?
//!
//! ```text
//! migrate(documents, snapshot, settings) -> Migration
//! Migration::documents    the ClusterNetworkPolicies to apply, new ones and those with a new priority
//! Migration::snapshot     the snapshot with them instead of what they replace
//! ```
//!
//! Documents are rewritten as trees, so whatever survives keeps the place where it was written. What has
//! no counterpart is reported, and the policy that holds it stays as it is. Whether the result decides the
//! same is not assumed here: [`crate::difference`] proves it.

mod numbering;
mod rules;

use std::{collections::BTreeSet, sync::Arc};

use serde_json::Number;

use crate::{
    diagnostic::{Diagnostic, Severity},
    manifest::{Content, Document, Entry, Node},
    model::{AdminKind, AdminPolicy, PolicyRef, Subject, Tier},
    parse::{self, Settings},
    snapshot::Snapshot,
};

use numbering::Slot;

/// What to apply, what to delete afterwards, and what could not be done.
#[derive(Clone, Debug, Default)]
pub struct Migration {
    /// The ClusterNetworkPolicies to apply, in order of precedence.
    pub documents: Vec<Document>,
    /// The policies they replace, in order of precedence.
    pub replaced: Vec<PolicyRef>,
    /// Policies whose priority changed, with the priority before (none for the
    /// BaselineAdminNetworkPolicy) and after.
    pub renumbered: Vec<(PolicyRef, Option<i32>, i32)>,
    /// Policies that stay as they are because something in them has no counterpart.
    pub kept: Vec<PolicyRef>,
    /// What has no counterpart (errors) and what is worth knowing (warnings).
    pub diagnostics: Vec<Diagnostic>,
    /// The snapshot afterwards.
    pub snapshot: Snapshot,
}

/// The annotation that names where a policy came from, if its name does not say.
pub const ORIGIN: &str = "netpol.dev/migrated-from";

/// Most rules per direction of a ClusterNetworkPolicy (C5).
const MOST_RULES: usize = 25;

/// Rewrites the AdminNetworkPolicies and the BaselineAdminNetworkPolicy among `documents` (other documents
/// are passed over), which `snapshot` was assembled from.
pub fn migrate(documents: &[Document], snapshot: &Snapshot, settings: &Settings) -> Migration {
    let mut migration = Migration {
        snapshot: snapshot.clone(),
        ..Migration::default()
    };
    let mut policies: Vec<Candidate<'_>> = Vec::new();
    for document in documents {
        let Some(kind) = kind_of(document) else {
            continue;
        };
        let name = document.name.clone().unwrap_or_default();
        // The first of several documents about one object counts; one that nobody can place counts not.
        let known = policies
            .iter()
            .any(|known| known.policy.kind == kind && known.policy.name == name);
        if let Some(policy) = snapshot
            .admin_policies
            .get(&(kind, name))
            .filter(|_| !known)
        {
            policies.push(Candidate {
                document,
                policy,
                parts: Vec::new(),
                stays: kind == AdminKind::Cluster,
            });
        }
    }
    for candidate in &mut policies {
        if candidate.stays {
            continue;
        }
        let problems = obstacles(candidate);
        if problems.is_empty() {
            candidate.parts = rules::parts(candidate.document, candidate.policy, &mut migration);
        } else {
            candidate.stays = true;
            migration.kept.push(candidate.policy.policy_ref());
            migration.diagnostics.extend(problems);
        }
    }
    policies.sort_by(|a, b| {
        let order = |it: &Candidate<'_>| it.policy.tier;
        (order(a), a.policy.precedence()).cmp(&(order(b), b.policy.precedence()))
    });
    let names = names(&policies);
    let mut made = Vec::new();
    for tier in [Tier::Admin, Tier::Baseline] {
        let of_tier = || {
            let all = policies.iter().zip(&names);
            all.filter(move |(candidate, _)| candidate.policy.tier == tier)
        };
        let slots: Vec<Slot> = of_tier().flat_map(|(it, names)| it.slots(names)).collect();
        let Some(numbers) = numbering::number(&slots) else {
            let message = format!(
                "the policies of tier {tier} need more priorities than 0 to 1000 leave free"
            );
            let report = Diagnostic::new(NO_PRIORITY, Severity::Error, &message, None);
            return Migration {
                diagnostics: vec![report],
                snapshot: snapshot.clone(),
                kept: policies
                    .iter()
                    .filter(|it| it.policy.kind != AdminKind::Cluster)
                    .map(|it| it.policy.policy_ref())
                    .collect(),
                ..Migration::default()
            };
        };
        let mut numbers = numbers.into_iter();
        for (candidate, names) in of_tier() {
            let own: Vec<i32> = numbers.by_ref().take(names.len()).collect();
            made.extend(candidate.write(names, &own, &mut migration));
        }
    }
    for document in made {
        let parsed =
            parse::cluster_network_policy(&document.value(), &document.locator(), settings);
        if let Some(policy) = parsed.object {
            migration.snapshot.insert_admin_policy(policy);
        }
        migration.diagnostics.extend(parsed.diagnostics);
        migration.documents.push(document);
    }
    migration
}

/// A cluster-scoped policy of the input.
struct Candidate<'a> {
    document: &'a Document,
    policy: &'a Arc<AdminPolicy>,
    /// The specs of the ClusterNetworkPolicies it becomes, without priority and tier.
    parts: Vec<Node>,
    /// It is one already, or cannot become one.
    stays: bool,
}

impl Candidate<'_> {
    /// What of the order of precedence the policy takes up.
    fn slots(&self, names: &[Arc<str>]) -> Vec<Slot> {
        let slot = |(part, name): (usize, &Arc<str>)| Slot {
            priority: match self.policy.kind {
                AdminKind::Baseline => LAST_PRIORITY,
                AdminKind::Admin | AdminKind::Cluster => self.policy.priority.0,
            },
            fixed: self.stays && self.policy.kind != AdminKind::Cluster,
            kind: if self.stays {
                self.policy.kind
            } else {
                AdminKind::Cluster
            },
            name: name.clone(),
            original: self.policy.priority,
            continues: part > 0,
        };
        names.iter().enumerate().map(slot).collect()
    }

    /// The documents to apply for this policy, if any.
    fn write(
        &self,
        names: &[Arc<str>],
        numbers: &[i32],
        migration: &mut Migration,
    ) -> Vec<Document> {
        let before =
            Some(self.policy.priority.0).filter(|_| self.policy.kind != AdminKind::Baseline);
        let first = numbers.first().copied().unwrap_or_default();
        if self.stays {
            if before.is_none_or(|before| before == first) || self.policy.kind != AdminKind::Cluster
            {
                return Vec::new();
            }
            let reference = self.policy.policy_ref();
            migration.renumbered.push((reference, before, first));
            let mut document = self.document.clone();
            if let Some(spec) = entry_mut(&mut document.node, "spec") {
                set(&mut spec.value, "priority", number(first));
            }
            return vec![document];
        }
        let kind = self.policy.kind;
        let key = (kind, self.policy.name.clone());
        migration.snapshot.admin_policies.remove(&key);
        migration.replaced.push(self.policy.policy_ref());
        if before != Some(first) {
            let reference = self.policy.policy_ref();
            migration.renumbered.push((reference, before, first));
        }
        let parts = self.parts.iter().zip(names).zip(numbers);
        let documents =
            parts.map(|((spec, name), priority)| self.document_of(spec, name, *priority));
        documents.collect()
    }

    fn document_of(&self, spec: &Node, name: &Arc<str>, priority: i32) -> Document {
        let mut document = self.document.clone();
        document.api_version = API_VERSION.into();
        document.kind = "ClusterNetworkPolicy".into();
        document.name = Some(name.clone());
        let node = &mut document.node;
        set(node, "apiVersion", text(API_VERSION));
        set(node, "kind", text("ClusterNetworkPolicy"));
        remove(node, &["status"]);
        if let Some(metadata) = entry_mut(node, "metadata") {
            let metadata = &mut metadata.value;
            remove(metadata, &OWNED_BY_SERVER);
            set(metadata, "name", text(name));
            if let Some(annotations) = entry_mut(metadata, "annotations") {
                remove(&mut annotations.value, &[LAST_APPLIED]);
                if matches!(&annotations.value.content, Content::Map(entries) if entries.is_empty())
                {
                    remove(metadata, &["annotations"]);
                }
            }
            if *name != self.policy.name {
                let origin = self.policy.policy_ref();
                let origin = text(&format!("{}/{}", origin.kind, origin.name));
                if metadata.get("annotations").is_none() {
                    set(metadata, "annotations", map(Vec::new()));
                }
                if let Some(annotations) = entry_mut(metadata, "annotations") {
                    set(&mut annotations.value, ORIGIN, origin);
                }
            }
        }
        let mut spec = spec.clone();
        let tier = text(&self.policy.tier.to_string());
        if let Content::Map(entries) = &mut spec.content {
            let written = entries.iter().position(|entry| entry.key == "priority");
            let place = written.unwrap_or_default();
            entries.insert(place, new_entry("tier", tier));
            if written.is_none() {
                entries.insert(place + 1, new_entry("priority", number(priority)));
            }
        }
        set(&mut spec, "priority", number(priority));
        if let Some(own) = entry_mut(node, "spec") {
            own.value = spec;
        }
        document
    }
}

/// What of a policy has no counterpart.
fn obstacles(candidate: &Candidate<'_>) -> Vec<Diagnostic> {
    let (document, policy) = (candidate.document, candidate.policy);
    let locator = document.locator();
    let report = |path: &str, message: &str, help: Option<&str>| Diagnostic {
        object: Some(document.object_ref()),
        path: path.to_owned(),
        help: help.map(str::to_owned),
        ..Diagnostic::new(UNMAPPABLE, Severity::Error, message, locator.at(path))
    };
    let mut found = Vec::new();
    if policy.subject == Subject::Nothing {
        found.push(report(
            "spec.subject",
            "this subject selects nothing that can be read; the policy stays as it is",
            None,
        ));
    }
    for direction in crate::model::Direction::BOTH {
        for (index, rule) in policy.rules(direction).iter().enumerate() {
            let Some(closed) = &rule.closed else { continue };
            let path = if closed.path.is_empty() {
                format!("spec.{direction}[{index}]")
            } else {
                format!("spec.{direction}[{index}].{}", closed.path)
            };
            let help = if closed.why.contains("v0.1.3") {
                "the cluster may have stored it as all namespaces: write what is meant, then migrate"
            } else {
                "mend the rule, then migrate"
            };
            let message = format!(
                "{} has no counterpart; the policy stays as it is",
                closed.why
            );
            found.push(report(&path, &message, Some(help)));
        }
    }
    // A spec that is not as the API has it may lose something on the way.
    let value = document.value();
    let spec = value.get("spec").and_then(serde_json::Value::as_object);
    for field in spec.into_iter().flatten().map(|(key, _)| key) {
        if !SPEC_FIELDS.contains(&field.as_str()) {
            let path = format!("spec.{field}");
            let message = format!("`{field}` has no counterpart; the policy stays as it is");
            found.push(report(&path, &message, None));
        }
    }
    found
}

/// The names of the policies afterwards, one for each part: the old ones where they are free.
fn names(policies: &[Candidate<'_>]) -> Vec<Vec<Arc<str>>> {
    let mut taken: BTreeSet<Arc<str>> = policies
        .iter()
        .filter(|it| it.policy.kind == AdminKind::Cluster)
        .map(|it| it.policy.name.clone())
        .collect();
    let mut names = Vec::with_capacity(policies.len());
    for candidate in policies {
        let name = &candidate.policy.name;
        if candidate.stays {
            names.push(vec![name.clone()]);
            continue;
        }
        let suffix = match candidate.policy.tier {
            Tier::Admin => "admin",
            Tier::Baseline | Tier::NetworkPolicy | Tier::Default => "baseline",
        };
        let first = free(&mut taken, name, suffix);
        let count = candidate.parts.len();
        let more = (2..=count).map(|part| free(&mut taken, &format!("{first}-{part}"), suffix));
        let own: Vec<Arc<str>> = std::iter::once(first.clone())
            .chain(more.collect::<Vec<_>>())
            .collect();
        names.push(own);
    }
    names
}

/// Takes `wish`, or a name like it that is free.
fn free(taken: &mut BTreeSet<Arc<str>>, wish: &str, suffix: &str) -> Arc<str> {
    let short: String = wish.chars().take(LONGEST_NAME).collect();
    let short = short.trim_end_matches(['-', '.']);
    let mut name: Arc<str> = if short == wish {
        wish.into()
    } else {
        format!("{short}-{suffix}").into()
    };
    let mut number = 1;
    // INVARIANT: every round tries another name, and finitely many are taken.
    while taken.contains(&name) {
        name = if number == 1 {
            format!("{short}-{suffix}").into()
        } else {
            format!("{short}-{suffix}-{number}").into()
        };
        number += 1;
    }
    taken.insert(name.clone());
    name
}

fn kind_of(document: &Document) -> Option<AdminKind> {
    match (&*document.api_version, &*document.kind) {
        ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy") => Some(AdminKind::Admin),
        ("policy.networking.k8s.io/v1alpha1", "BaselineAdminNetworkPolicy") => {
            Some(AdminKind::Baseline)
        }
        (API_VERSION, "ClusterNetworkPolicy") => Some(AdminKind::Cluster),
        _ => None,
    }
}

/// Places that are written nowhere.
const NOWHERE: u32 = 0;

fn new_node(content: Content) -> Node {
    Node {
        content,
        line: NOWHERE,
        column: NOWHERE,
    }
}

fn text(text: &str) -> Node {
    new_node(Content::String(text.to_owned()))
}

fn number(number: impl Into<Number>) -> Node {
    new_node(Content::Number(number.into()))
}

fn map(entries: Vec<Entry>) -> Node {
    new_node(Content::Map(entries))
}

fn new_entry(key: &str, value: Node) -> Entry {
    Entry {
        key: key.to_owned(),
        boolean_key: false,
        line: NOWHERE,
        column: NOWHERE,
        value,
    }
}

fn entry_mut<'n>(node: &'n mut Node, key: &str) -> Option<&'n mut Entry> {
    match &mut node.content {
        Content::Map(entries) => entries.iter_mut().find(|entry| entry.key == key),
        Content::Null
        | Content::Bool(_)
        | Content::Number(_)
        | Content::String(_)
        | Content::List(_) => None,
    }
}

/// Gives `key` a value, where it is written or else at the end.
fn set(node: &mut Node, key: &str, value: Node) {
    if let Some(entry) = entry_mut(node, key) {
        entry.value.content = value.content;
    } else if let Content::Map(entries) = &mut node.content {
        entries.push(new_entry(key, value));
    }
}

fn remove(node: &mut Node, keys: &[&str]) {
    if let Content::Map(entries) = &mut node.content {
        entries.retain(|entry| !keys.contains(&&*entry.key));
    }
}

const API_VERSION: &str = "policy.networking.k8s.io/v1alpha2";
const UNMAPPABLE: &str = "migrate-unmappable";
const NO_PRIORITY: &str = "migrate-no-priority";
/// Behind every ClusterNetworkPolicy of tier Baseline, also those to come.
const LAST_PRIORITY: i32 = 1000;
/// Characters of a name that leave room for what tells parts apart.
const LONGEST_NAME: usize = 230;
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const SPEC_FIELDS: [&str; 4] = ["priority", "subject", "ingress", "egress"];
/// Fields of metadata that belong to the object that is replaced.
const OWNED_BY_SERVER: [&str; 8] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
];
