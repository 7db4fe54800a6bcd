// SPDX-License-Identifier: Apache-2.0
//! The cluster that a set of documents describes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::Value;

use super::{
    Document, Fate, LedgerEntry, backends, document,
    document::UNREADABLE,
    kind::Kind,
    pods::{self, Made, WorkloadId},
    refused,
};
use crate::{
    Snapshot,
    diagnostic::{Diagnostic, Location, ObjectRef, Severity, with_article},
    model::{Entrances, Pod, PodKey, UnknownLabels},
    parse::{self, EndpointSlice, Parsed, Settings, Workload, WorkloadKind, attach_endpoints},
    snapshot::Gaps,
};

/// A cluster read from documents.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The cluster and its policies.
    pub snapshot: Snapshot,
    /// Everything wrong or surprising, document by document, then what concerns several.
    pub diagnostics: Vec<Diagnostic>,
    /// The fate of every document: those that could not be read, then the others in the order read.
    pub ledger: Vec<LedgerEntry>,
    /// The workloads, by namespace, kind and name, and the pods each has: those given, else those that
    /// its controller would make.
    pub workloads: BTreeMap<(Arc<str>, WorkloadKind, Arc<str>), WorkloadPods>,
    /// What leads traffic from outside to Services.
    pub entrances: Entrances,
    /// Annotations of pods that begin with `netpol.dev/`.
    pub annotations: BTreeMap<PodKey, BTreeMap<Arc<str>, Arc<str>>>,
    /// The documents whose kinds decide nothing here, for who knows more about them.
    pub ignored: Vec<Document>,
    /// The documents of the cluster-scoped policies of the snapshot.
    pub cluster_policies: Vec<Document>,
    /// What documents leave open of the snapshot's objects that no API server would take. The snapshot's
    /// own gaps are those that correct documents leave, too.
    pub refused: Gaps,
}

/// A workload and its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadPods {
    /// The workload.
    pub workload: Workload,
    /// Its pods.
    pub pods: BTreeSet<PodKey>,
}

/// Reads files, each a name and its text, and assembles what they hold.
pub fn load<'t>(
    files: impl IntoIterator<Item = (&'t str, &'t str)>,
    settings: &Settings,
) -> Loaded {
    let mut documents = Vec::new();
    let mut diagnostics = Vec::new();
    for (file, text) in files {
        let (more, problems) = document::read(file, text);
        documents.extend(more);
        diagnostics.extend(problems);
    }
    assemble(documents, diagnostics, settings)
}

/// Assembles documents; `diagnostics` are those of reading them. The first of several documents about
/// one object counts.
pub fn assemble(
    documents: Vec<Document>,
    diagnostics: Vec<Diagnostic>,
    settings: &Settings,
) -> Loaded {
    let mut assembly = Assembly {
        settings,
        loaded: Loaded::default(),
        seen: BTreeMap::new(),
        mentioned: BTreeMap::new(),
        pods: Vec::new(),
        workloads: BTreeMap::new(),
        slices: Vec::new(),
    };
    assembly.unreadable(diagnostics);
    for document in documents {
        assembly.document(document);
    }
    assembly.finish()
}

struct Assembly<'s> {
    settings: &'s Settings,
    loaded: Loaded,
    /// The place and content of every object.
    seen: BTreeMap<ObjectRef, (Location, Value)>,
    /// Namespaces that objects live in, and the first such object.
    mentioned: BTreeMap<Arc<str>, Location>,
    pods: Vec<Pod>,
    workloads: BTreeMap<WorkloadId, Workload>,
    slices: Vec<EndpointSlice>,
}

impl Assembly<'_> {
    /// Documents that could not be read have only their diagnostic.
    fn unreadable(&mut self, diagnostics: Vec<Diagnostic>) {
        for diagnostic in &diagnostics {
            let (true, Some(at)) = (UNREADABLE.contains(&diagnostic.id), &diagnostic.at) else {
                continue;
            };
            let object = diagnostic.object.as_ref();
            self.loaded.ledger.push(LedgerEntry {
                at: at.clone(),
                api_version: "".into(),
                kind: object.map(|object| object.kind.clone()).unwrap_or_default(),
                namespace: object.and_then(|object| object.namespace.clone()),
                name: object.map(|object| object.name.clone()).unwrap_or_default(),
                fate: Fate::Rejected { used: false },
            });
        }
        self.loaded.diagnostics = diagnostics;
    }

    fn document(&mut self, document: Document) {
        let settings = self.settings;
        let value = document.value();
        let locator = document.locator();
        let kind = Kind::of(&document.api_version, &document.kind);
        let namespaced = matches!(
            kind,
            Kind::NetworkPolicy
                | Kind::EndpointSlice
                | Kind::Gateway
                | Kind::Pod
                | Kind::ReferenceGrant
                | Kind::Route(_)
                | Kind::Service
                | Kind::Workload(_)
        );
        let namespace = namespaced.then(|| {
            let written = document.namespace.clone();
            written.unwrap_or_else(|| settings.default_namespace.clone())
        });
        let fate = match kind {
            Kind::None | Kind::Other => {
                self.passed_over(&document, &value);
                Fate::Ignored
            }
            Kind::ForeignEntrance => {
                let message = format!(
                    "where {} of {} leads is not read",
                    with_article(&document.kind),
                    document.api_version
                );
                let help = Some("no verdict depends on it, `exposure` does".to_owned());
                let id = "foreign-entrance";
                self.report(&document, id, Severity::Warning, &message, help);
                Fate::Ignored
            }
            Kind::ForeignPolicy => {
                self.report(
                    &document,
                    "foreign-policy",
                    Severity::Warning,
                    &format!(
                        "{} of {} is not evaluated",
                        with_article(&document.kind),
                        document.api_version
                    ),
                    Some("a cluster that enforces it may decide differently".to_owned()),
                );
                Fate::Ignored
            }
            Kind::Unknown(meant) => {
                self.report(
                    &document,
                    "unknown-api-version",
                    Severity::Error,
                    &format!(
                        "there is no {} of `{}`",
                        document.kind, document.api_version
                    ),
                    meant.map(|(version, kind)| {
                        format!("there is {} of `{version}`", with_article(kind))
                    }),
                );
                Fate::Rejected { used: false }
            }
            Kind::AdminNetworkPolicy
            | Kind::BaselineAdminNetworkPolicy
            | Kind::ClusterNetworkPolicy
            | Kind::EndpointSlice
            | Kind::Gateway
            | Kind::Namespace
            | Kind::NetworkPolicy
            | Kind::Node
            | Kind::Pod
            | Kind::ReferenceGrant
            | Kind::Route(_)
            | Kind::Service
            | Kind::Workload(_) => {
                let object = ObjectRef {
                    kind: document.kind.clone(),
                    namespace: namespace.clone(),
                    name: document.name.clone().unwrap_or_default(),
                };
                if let Some(fate) = self.repeats(&document, &object, &value) {
                    fate
                } else {
                    let fate = self.object(kind, &value, &locator);
                    if !object.name.is_empty() {
                        self.seen.insert(object, (document.location.clone(), value));
                    }
                    fate
                }
            }
        };
        // What only leads traffic to a namespace says nothing about it.
        let lives_there = !matches!(kind, Kind::Gateway | Kind::ReferenceGrant | Kind::Route(_));
        if let (
            true,
            Some(namespace),
            Fate::Used | Fate::UsedWithProblems | Fate::Rejected { used: true },
        ) = (lives_there, &namespace, fate)
        {
            let at = document.location.clone();
            self.mentioned.entry(namespace.clone()).or_insert(at);
        }
        self.loaded.ledger.push(LedgerEntry {
            at: document.location.clone(),
            api_version: document.api_version.clone(),
            kind: document.kind.clone(),
            namespace: namespace.or_else(|| document.namespace.clone()),
            name: document.name.clone().unwrap_or_default(),
            fate,
        });
        match (kind, fate) {
            (Kind::Other | Kind::ForeignEntrance | Kind::ForeignPolicy, _) => {
                self.loaded.ignored.push(document);
            }
            (
                Kind::AdminNetworkPolicy
                | Kind::BaselineAdminNetworkPolicy
                | Kind::ClusterNetworkPolicy,
                Fate::Used | Fate::UsedWithProblems | Fate::Rejected { used: true },
            ) => self.loaded.cluster_policies.push(document),
            _ => {}
        }
    }

    /// Says of a document that decides nothing if it is no object, or one that makes pods.
    fn passed_over(&mut self, document: &Document, value: &Value) {
        if document.api_version.starts_with("netpol-analyze/") {
            return;
        }
        let metadata = value.get("metadata");
        let named = ["name", "generateName"]
            .iter()
            .any(|key| metadata.is_some_and(|metadata| metadata.get(key).is_some()));
        let missing = match (document.kind.is_empty(), document.api_version.is_empty()) {
            (true, _) => Some("`apiVersion`, `kind` and `metadata` are missing"),
            (false, true) => Some("`apiVersion` is missing"),
            (false, false) if !named => Some("`metadata.name` is missing"),
            (false, false) => None,
        };
        if let Some(missing) = missing {
            let message = format!("this is no Kubernetes object: {missing}");
            // Repositories hold other files, too; one that says what objects say was meant to be one.
            let severity = if OF_OBJECTS.iter().any(|key| value.get(key).is_some()) {
                Severity::Warning
            } else {
                Severity::Info
            };
            self.report(document, "no-object", severity, &message, None);
        } else if *document.kind != *"PodTemplate" && pods::has_template(value) {
            let message = format!(
                "the pods of {} of {} are not considered",
                with_article(&document.kind),
                document.api_version
            );
            let help = "add the pods, or the workloads it makes, as the cluster has them";
            let id = "unread-workload";
            self.report(
                document,
                id,
                Severity::Warning,
                &message,
                Some(help.to_owned()),
            );
        }
    }

    /// The fate of a document about an object that an earlier one is about.
    fn repeats(&mut self, document: &Document, object: &ObjectRef, value: &Value) -> Option<Fate> {
        let (first, content) = self.seen.get(object)?;
        let same = content == value;
        let message = if same {
            format!("the same object is written at {first}")
        } else {
            format!("another object of this kind and name is written at {first}; that one counts")
        };
        if same {
            self.report(
                document,
                "duplicate-object",
                Severity::Warning,
                &message,
                None,
            );
            Some(Fate::Ignored)
        } else {
            self.report(
                document,
                "conflicting-object",
                Severity::Error,
                &message,
                None,
            );
            Some(Fate::Rejected { used: false })
        }
    }

    fn object(&mut self, kind: Kind, value: &Value, locator: &super::Locator<'_>) -> Fate {
        let settings = self.settings;
        match kind {
            Kind::AdminNetworkPolicy => {
                let parsed = parse::admin_network_policy(value, locator, settings);
                self.take(parsed, |it, policy| {
                    it.loaded.snapshot.insert_admin_policy(policy);
                })
            }
            Kind::BaselineAdminNetworkPolicy => {
                let parsed = parse::baseline_admin_network_policy(value, locator, settings);
                self.take(parsed, |it, policy| {
                    it.loaded.snapshot.insert_admin_policy(policy);
                })
            }
            Kind::ClusterNetworkPolicy => {
                let parsed = parse::cluster_network_policy(value, locator, settings);
                self.take(parsed, |it, policy| {
                    it.loaded.snapshot.insert_admin_policy(policy);
                })
            }
            Kind::NetworkPolicy => {
                let parsed = parse::network_policy(value, locator, settings);
                self.take(parsed, |it, policy| {
                    it.loaded.snapshot.insert_network_policy(policy);
                })
            }
            Kind::Namespace => {
                let parsed = parse::namespace(value, locator);
                self.take(parsed, |it, namespace| {
                    it.loaded
                        .snapshot
                        .insert_namespace(&namespace.name, namespace.labels);
                })
            }
            Kind::Node => {
                let parsed = parse::node(value, locator);
                self.take(parsed, |it, node| it.loaded.snapshot.insert_node(node))
            }
            Kind::Service => {
                let parsed = parse::service(value, locator, settings);
                self.take(parsed, |it, service| {
                    it.loaded.snapshot.insert_service(service);
                })
            }
            Kind::EndpointSlice => {
                let parsed = parse::endpoint_slice(value, locator, settings);
                self.take(parsed, |it, slice| it.slices.push(slice))
            }
            Kind::Pod => {
                let parsed = parse::pod(value, locator, settings);
                self.take(parsed, |it, pod| {
                    let annotations = own_annotations(value);
                    if !annotations.is_empty() {
                        it.loaded.annotations.insert(pod.key.clone(), annotations);
                    }
                    it.pods.push(pod);
                })
            }
            Kind::Route(kind) => {
                let parsed = parse::route(kind, value, locator, settings);
                self.take(parsed, |it, route| it.loaded.entrances.routes.push(route))
            }
            Kind::Gateway => {
                let parsed = parse::gateway(value, locator, settings);
                self.take(parsed, |it, gateway| {
                    let id = (gateway.namespace.clone(), gateway.name.clone());
                    it.loaded.entrances.gateways.insert(id, gateway);
                })
            }
            Kind::ReferenceGrant => {
                let parsed = parse::grant(value, locator, settings);
                self.take(parsed, |it, grant| it.loaded.entrances.grants.push(grant))
            }
            Kind::Workload(kind) => {
                let parsed = parse::workload(kind, value, locator, settings);
                self.take(parsed, |it, workload| {
                    let key = (workload.namespace.clone(), kind, workload.name.clone());
                    it.workloads.insert(key, workload);
                })
            }
            Kind::None
            | Kind::Other
            | Kind::ForeignEntrance
            | Kind::ForeignPolicy
            | Kind::Unknown(_) => Fate::Ignored,
        }
    }

    fn take<T>(&mut self, parsed: Parsed<T>, keep: impl FnOnce(&mut Self, T)) -> Fate {
        let used = parsed.object.is_some();
        let errors = parsed.diagnostics.iter().any(Diagnostic::is_doubt);
        self.loaded.diagnostics.extend(parsed.diagnostics);
        if let Some(object) = parsed.object {
            keep(self, object);
        }
        match (parsed.rejected, errors) {
            (true, _) => Fate::Rejected { used },
            (false, true) => Fate::UsedWithProblems,
            (false, false) => Fate::Used,
        }
    }

    fn finish(mut self) -> Loaded {
        let mut by_workload: BTreeMap<WorkloadId, BTreeSet<PodKey>> = BTreeMap::new();
        for mut pod in std::mem::take(&mut self.pods) {
            pods::adopt(&mut pod, &self.workloads);
            let owner = pod.owner.as_ref().and_then(|(kind, name)| {
                let kind = WorkloadKind::named(kind)?;
                Some((pod.key.namespace.clone(), kind, name.clone()))
            });
            if let Some(owner) = owner {
                by_workload
                    .entry(owner)
                    .or_default()
                    .insert(pod.key.clone());
            }
            self.loaded.snapshot.insert_pod(pod);
        }
        let mut workloads = std::mem::take(&mut self.workloads);
        for workload in pods::resolve_templates(&mut workloads) {
            self.unknown_template(&workload);
        }
        let mut made: BTreeMap<WorkloadId, Vec<PodKey>> = BTreeMap::new();
        for (id, workload) in &workloads {
            let mut pods = by_workload.remove(id).unwrap_or_default();
            if pods.is_empty() && !is_made_by_another(workload, &workloads) {
                if workload.kind == WorkloadKind::StatefulSet
                    && workload.replicas > pods::MOST_ORDINALS
                {
                    self.many_replicas(workload);
                }
                for Made { pod, unknown } in pods::of(workload, &self.loaded.snapshot.nodes) {
                    let snapshot = &mut self.loaded.snapshot;
                    if !snapshot.pods.contains_key(&pod.key) {
                        pods.insert(pod.key.clone());
                        made.entry(id.clone()).or_default().push(pod.key.clone());
                        if unknown != UnknownLabels::default() {
                            snapshot.gaps.lose_labels(pod.key.clone(), &unknown);
                        }
                        snapshot.insert_pod(pod);
                    }
                }
            }
            let entry = WorkloadPods {
                workload: workload.clone(),
                pods,
            };
            self.loaded.workloads.insert(id.clone(), entry);
        }
        self.loaded.refused = refused::gaps(&self.loaded.diagnostics, &made);
        self.attach_backends();
        self.undeclared_namespaces();
        self.loaded
    }

    fn attach_backends(&mut self) {
        let mut slices: BTreeMap<(Arc<str>, Arc<str>), Vec<EndpointSlice>> = BTreeMap::new();
        for slice in std::mem::take(&mut self.slices) {
            if let Some(service) = slice.service.clone() {
                slices
                    .entry((slice.namespace.clone(), service))
                    .or_default()
                    .push(slice);
            }
        }
        let mut without = Vec::new();
        for (id, service) in &mut self.loaded.snapshot.services {
            match slices.get(id) {
                Some(slices) => attach_endpoints(Arc::make_mut(service), slices),
                None => without.push(id.clone()),
            }
        }
        backends::select(&mut self.loaded.snapshot, &without);
    }

    fn undeclared_namespaces(&mut self) {
        for (namespace, at) in std::mem::take(&mut self.mentioned) {
            let object = ObjectRef {
                kind: "Namespace".into(),
                namespace: None,
                name: namespace.clone(),
            };
            if self.seen.contains_key(&object) {
                continue;
            }
            self.loaded.snapshot.ensure_namespace(&namespace);
            if BUILT_IN.contains(&&*namespace) {
                continue;
            }
            let message =
                format!("namespace `{namespace}` is not declared: it has only its name label");
            self.loaded.diagnostics.push(Diagnostic {
                object: Some(object),
                help: Some("add the Namespace with the labels it has in the cluster".to_owned()),
                ..Diagnostic::new(
                    "undeclared-namespace",
                    Severity::Warning,
                    &message,
                    Some(at),
                )
            });
        }
    }

    fn unknown_template(&mut self, workload: &Workload) {
        let Some((kind, name)) = &workload.template_of else {
            return;
        };
        let message = format!(
            "its pods are not considered: they are made as {kind} `{name}` says, which is not there"
        );
        self.about(workload, "unread-workload", "spec.workloadRef", &message);
    }

    fn many_replicas(&mut self, workload: &Workload) {
        let message = format!(
            "only the first {} of {} pods are considered",
            pods::MOST_ORDINALS,
            workload.replicas
        );
        self.about(workload, "many-replicas", "spec.replicas", &message);
    }

    fn about(&mut self, workload: &Workload, id: &'static str, path: &str, message: &str) {
        let at = workload.at.clone();
        self.loaded.diagnostics.push(Diagnostic {
            object: Some(ObjectRef {
                kind: workload.kind.name().into(),
                namespace: Some(workload.namespace.clone()),
                name: workload.name.clone(),
            }),
            path: path.to_owned(),
            ..Diagnostic::new(id, Severity::Warning, message, at)
        });
    }

    fn report(
        &mut self,
        document: &Document,
        id: &'static str,
        severity: Severity,
        message: &str,
        help: Option<String>,
    ) {
        let at = Some(document.location.clone());
        self.loaded.diagnostics.push(Diagnostic {
            object: Some(document.object_ref()).filter(|object| !object.kind.is_empty()),
            help,
            ..Diagnostic::new(id, severity, message, at)
        });
    }
}

/// Whether the pods of `workload` are those of another workload that is given, too.
fn is_made_by_another(workload: &Workload, workloads: &BTreeMap<WorkloadId, Workload>) -> bool {
    let owner = workload.owner.as_ref().and_then(|(kind, name)| {
        let kind = WorkloadKind::named(kind)?;
        Some((workload.namespace.clone(), kind, name.clone()))
    });
    owner.is_some_and(|owner| workloads.contains_key(&owner))
}

/// Fields that hardly anything but a policy or what makes pods has at the top of its specification.
const OF_OBJECTS: [&str; 8] = [
    "containers",
    "egress",
    "ingress",
    "podSelector",
    "policyTypes",
    "spec",
    "subject",
    "template",
];

/// Namespaces that every cluster has, without labels of their own.
const BUILT_IN: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

fn own_annotations(value: &Value) -> BTreeMap<Arc<str>, Arc<str>> {
    let annotations = value
        .get("metadata")
        .and_then(|metadata| metadata.get("annotations"))
        .and_then(Value::as_object);
    annotations
        .into_iter()
        .flatten()
        .filter(|(key, _)| key.starts_with("netpol.dev/"))
        .filter_map(|(key, value)| Some((key.as_str().into(), value.as_str()?.into())))
        .collect()
}
