// SPDX-License-Identifier: Apache-2.0
//! How can a snapshot be shown to others without its names? Every name and label becomes a hash, the
//! same one wherever it occurs, so that every verdict stays the same.
//!
//! The hash is keyed anew by every run: names cannot be guessed from it, and two redacted snapshots
//! cannot be compared with each other. Addresses, ports, protocols and the structure stay.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
};

use ipnet::IpNet;
use policy_compiler::model::MODE_LABEL;
use serde_json::{Map, Value, json};

/// Hashes names.
#[derive(Debug)]
pub struct Redactor {
    key: RandomState,
    /// Cluster-scoped policies of equal priority are told apart by name, so their order is kept.
    ranks: BTreeMap<String, usize>,
}

impl Redactor {
    /// Hashes the names of `objects`, which are all there are.
    pub fn new(objects: &[Value]) -> Self {
        let ranked = objects.iter().filter(|object| {
            let kind = object["kind"].as_str();
            kind.is_some_and(|kind| ["AdminNetworkPolicy", "ClusterNetworkPolicy"].contains(&kind))
        });
        let names: BTreeSet<String> = ranked
            .filter_map(|object| object.pointer("/metadata/name")?.as_str())
            .map(str::to_owned)
            .collect();
        Self {
            key: RandomState::new(),
            ranks: names.into_iter().zip(0..).collect(),
        }
    }

    /// The object without its names; `default_namespace` is that of objects that name none.
    pub fn object(&self, object: &Value, default_namespace: &str) -> Value {
        let kind = object["kind"].as_str().unwrap_or_default();
        if kind == "Listing" {
            return self.listing(object);
        }
        let mut redacted = self.value(object, &["", ""]);
        let Some(metadata) = redacted.get_mut("metadata").and_then(Value::as_object_mut) else {
            return redacted;
        };
        metadata.remove("annotations");
        let name = object.pointer("/metadata/name").and_then(Value::as_str);
        if let Some(name) = name {
            metadata.insert("name".to_owned(), self.object_name(kind, name).into());
        }
        if !CLUSTER_SCOPED.contains(&kind) {
            let written = object.pointer("/metadata/namespace");
            let namespace = written.and_then(Value::as_str).unwrap_or(default_namespace);
            let namespace = self.object_name("Namespace", namespace);
            metadata.insert("namespace".to_owned(), namespace.into());
        }
        redacted
    }

    /// The hash of a name or of the value of a label, which may be a name. Ordinals stay readable,
    /// because controllers append them.
    pub fn name(&self, name: &str) -> String {
        if name.is_empty() {
            return String::new();
        }
        match name.rsplit_once('-') {
            Some((stem, ordinal))
                if !stem.is_empty()
                    && !ordinal.is_empty()
                    && ordinal.bytes().all(|byte| byte.is_ascii_digit()) =>
            {
                format!("{}-{ordinal}", self.hash(stem))
            }
            _ => self.hash(name),
        }
    }

    fn object_name(&self, kind: &str, name: &str) -> String {
        match kind {
            // What is no name stays none, and the object stays refused.
            _ if !is_name(name) => name.to_owned(),
            // There is only one, and it has to be called so.
            "BaselineAdminNetworkPolicy" => name.to_owned(),
            "AdminNetworkPolicy" | "ClusterNetworkPolicy" => {
                let rank = self.ranks.get(name).copied().unwrap_or_default();
                format!("p{rank:06}-{}", self.hash(name))
            }
            _ => self.name(name),
        }
    }

    /// Thirteen characters, which is short enough for the name of a port and starts with a letter.
    fn hash(&self, text: &str) -> String {
        format!("x{:012x}", self.key.hash_one(text) >> 16)
    }

    /// What `trail`, the last two keys on the way, leads to.
    fn value(&self, value: &Value, trail: &[&str; 2]) -> Value {
        match value {
            Value::Object(object) => Value::Object(self.fields(object, trail)),
            Value::Array(items) => {
                Value::Array(items.iter().map(|item| self.value(item, trail)).collect())
            }
            Value::String(text) => self.text(text, trail).into(),
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        }
    }

    fn fields(&self, object: &Map<String, Value>, trail: &[&str; 2]) -> Map<String, Value> {
        let fields = object.iter().map(|(key, value)| {
            let redacted = match (key.as_str(), value) {
                ("labels" | "matchLabels" | "nodeSelector", Value::Object(labels)) => {
                    self.labels(labels)
                }
                ("selector", Value::Object(labels)) if labels.values().all(Value::is_string) => {
                    self.labels(labels)
                }
                ("matchExpressions", Value::Array(expressions)) => {
                    expressions.iter().map(|one| self.expression(one)).collect()
                }
                _ => self.value(value, &[trail[1], key]),
            };
            (key.clone(), redacted)
        });
        fields.collect()
    }

    fn labels(&self, labels: &Map<String, Value>) -> Value {
        let labels = labels.iter().map(|(key, value)| {
            let value = match value {
                Value::String(text) => self.label_value(key, text).into(),
                Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::Array(_)
                | Value::Object(_) => value.clone(),
            };
            (self.label_key(key), value)
        });
        Value::Object(labels.collect())
    }

    fn expression(&self, expression: &Value) -> Value {
        let mut redacted = expression.clone();
        let Some(key) = expression["key"].as_str() else {
            return redacted;
        };
        redacted["key"] = self.label_key(key).into();
        if let Some(values) = redacted.get_mut("values").and_then(Value::as_array_mut) {
            for value in values {
                if let Some(text) = value.as_str() {
                    *value = self.label_value(key, text).into();
                }
            }
        }
        redacted
    }

    /// Keys that Kubernetes or this engine gives a meaning stay, and so does what is no key.
    fn label_key(&self, key: &str) -> String {
        let prefix = key.split_once('/').map(|(prefix, _)| prefix);
        let known = prefix
            .is_some_and(|prefix| prefix.ends_with("kubernetes.io") || prefix.ends_with("k8s.io"));
        let (name, valid) = match key.split_once('/') {
            Some((prefix, name)) => (name, is_name(prefix)),
            None => (key, true),
        };
        if known || key == MODE_LABEL || CONTROLLER_KEYS.contains(&key) || !valid || !is_label(name)
        {
            key.to_owned()
        } else {
            self.hash(key)
        }
    }

    fn label_value(&self, key: &str, value: &str) -> String {
        if GENERATED_VALUES.contains(&key) || key == MODE_LABEL || !is_label(value) {
            value.to_owned()
        } else {
            self.name(value)
        }
    }

    /// A string that stands in the field `trail` leads to.
    fn text(&self, text: &str, trail: &[&str; 2]) -> String {
        let [parent, field] = trail;
        let is_address = text.parse::<IpAddr>().is_ok() || text.parse::<IpNet>().is_ok();
        if is_address || text.is_empty() || KEPT.contains(field) {
            return text.to_owned();
        }
        let names_port = ["port", "ports"].contains(parent) && *field == "name"
            || ["port", "targetPort", "namedPort", "destinationNamedPort"].contains(field);
        match *field {
            // What is no name of a port stays none.
            _ if names_port && !is_port_name(text) => text.to_owned(),
            _ if names_port => self.hash(text),
            "cidr" | "except" | "networks" => {
                // Old API servers take forms that are no longer read; a block that is none stays none.
                let is_block = |byte: u8| byte.is_ascii_hexdigit() || b":./".contains(&byte);
                let said = if text.bytes().all(is_block) {
                    text
                } else {
                    "none"
                };
                said.to_owned()
            }
            "domainNames" | "host" | "hostname" | "hostnames" => {
                let labels = text.split('.').map(|label| match label {
                    "*" | "" => label.to_owned(),
                    label => self.hash(label),
                });
                labels.collect::<Vec<_>>().join(".")
            }
            _ => self.name(text),
        }
    }

    fn listing(&self, object: &Value) -> Value {
        let mut listing = object.clone();
        if let Some(namespace) = object.pointer("/spec/namespace").and_then(Value::as_str) {
            listing["spec"]["namespace"] = self.name(namespace).into();
        }
        let unlisted = listing.pointer_mut("/spec/unlisted");
        for unlisted in unlisted.and_then(Value::as_array_mut).into_iter().flatten() {
            // What the API server said names the user.
            unlisted["reason"] = json!("redacted");
        }
        listing
    }
}

fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    text.len() <= 63
        && bytes.iter().all(|byte| inner(*byte))
        && ends(bytes.first())
        && ends(bytes.last())
}

fn is_name(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|part| {
            is_label(part)
                && !part.contains('_')
                && !part.bytes().any(|byte| byte.is_ascii_uppercase())
        })
}

fn is_port_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    text.len() <= 15
        && bytes.iter().any(u8::is_ascii_lowercase)
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--")
}

const CLUSTER_SCOPED: [&str; 5] = [
    "Namespace",
    "Node",
    "AdminNetworkPolicy",
    "BaselineAdminNetworkPolicy",
    "ClusterNetworkPolicy",
];

/// Keys of labels that controllers add and that have no prefix.
const CONTROLLER_KEYS: [&str; 8] = [
    "deployment",
    "deploymentconfig",
    "rollouts-pod-template-hash",
    "pod-template-hash",
    "controller-revision-hash",
    "pod-template-generation",
    "job-name",
    "controller-uid",
];

/// Labels whose values are no names.
const GENERATED_VALUES: [&str; 6] = [
    "rollouts-pod-template-hash",
    "pod-template-hash",
    "controller-revision-hash",
    "pod-template-generation",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/job-completion-index",
];

/// Fields whose strings are words of the API.
const KEPT: [&str; 24] = [
    "action",
    "addressType",
    "apiVersion",
    "clusterIP",
    "clusterIPs",
    "completionMode",
    "creationTimestamp",
    "deletionTimestamp",
    "externalTrafficPolicy",
    "from",
    "internalTrafficPolicy",
    "ipFamilies",
    "ipFamilyPolicy",
    "kind",
    "operator",
    "pathType",
    "phase",
    "policyTypes",
    "protocol",
    "protocols",
    "restartPolicy",
    "schedule",
    "tier",
    "type",
];

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use policy_compiler::verdict::Endpoint;

    use super::*;
    use crate::{
        answer::{self, Inquiry},
        args::InputArgs,
        command::snapshot::objects,
        flow::{Group, PortQuery},
        load::{Config, Source, World},
    };

    fn world(name: &str, text: &str) -> World {
        let source = Source {
            name: name.to_owned(),
            text: text.to_owned(),
        };
        let args = InputArgs::default();
        World::assemble(&args, Config::default(), vec![source], Vec::new())
    }

    fn group(endpoint: Endpoint) -> Group {
        Group {
            name: endpoint.to_string(),
            endpoint,
            ranges: Vec::new(),
            legs: Vec::new(),
        }
    }

    fn cases(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                cases(&path, found);
            } else {
                found.push(path);
            }
        }
    }

    /// Every answer about every pair of pods and some addresses is the same, with and without names.
    #[test]
    fn no_verdict_depends_on_a_name() {
        let mut files = Vec::new();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/cases");
        cases(&root, &mut files);
        files.sort();
        let (mut asked, mut open, mut closed, mut unknown) = (0, 0, 0, 0);
        for file in files {
            let name = file.display().to_string();
            let plain = world(&name, &fs::read_to_string(&file).unwrap());
            let whole = objects(&plain);
            let redactor = Redactor::new(&whole);
            let items: Vec<Value> = whole
                .iter()
                .map(|object| redactor.object(object, &plain.namespace))
                .collect();
            let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
            let hidden = world("redacted", &list.to_string());
            let mut pairs = Vec::new();
            for pod in plain.loaded.snapshot.pods.keys() {
                let mut other = pod.clone();
                other.namespace = redactor.name(&pod.namespace).into();
                other.name = redactor.name(&pod.name).into();
                if !hidden.loaded.snapshot.pods.contains_key(&other) {
                    // Pods of a workload are called after it, with slashes and hashes between.
                    continue;
                }
                pairs.push((Endpoint::Pod(pod.clone()), Endpoint::Pod(other)));
            }
            for address in ["10.0.0.1", "192.0.2.1", "2001:db8::1"] {
                let address = Endpoint::Address(address.parse().unwrap());
                pairs.push((address.clone(), address));
            }
            let (before, after) = (plain.evaluator(), hidden.evaluator());
            let inquiry = Inquiry {
                ports: &PortQuery::All,
                family: None,
                via_service: false,
                explain: false,
            };
            for (src, src_hidden) in &pairs {
                for (dst, dst_hidden) in &pairs {
                    let cells =
                        answer::ask(&before, &group(src.clone()), &group(dst.clone()), &inquiry);
                    let same = answer::ask(
                        &after,
                        &group(src_hidden.clone()),
                        &group(dst_hidden.clone()),
                        &inquiry,
                    );
                    assert_eq!(cells.len(), same.len(), "{name}: {src} -> {dst}");
                    for (cell, same) in cells.iter().zip(&same) {
                        assert_eq!(cell.allowed, same.allowed, "{name}: {src} -> {dst}");
                        assert_eq!(cell.unknown, same.unknown, "{name}: {src} -> {dst}");
                        asked += 1;
                        match cell.word() {
                            answer::Word::Allowed => open += 1,
                            answer::Word::Denied => closed += 1,
                            answer::Word::Partial => {}
                            answer::Word::Unknown => unknown += 1,
                        }
                    }
                }
            }
        }
        assert!(asked > 2_000, "only {asked} answers");
        assert!(
            open > 200 && closed > 200 && unknown > 5,
            "{open} {closed} {unknown}"
        );
    }

    #[test]
    fn names_are_gone_and_words_of_the_api_stay() {
        let redactor = Redactor::new(&[]);
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "secret", "namespace": "hidden", "annotations": {"note": "covert"}},
            "spec": {
                "podSelector": {"matchLabels": {"team": "ghosts", "app.kubernetes.io/name": "ghosts"}},
                "ingress": [{
                    "from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}, {"podSelector": {"matchlabels": {"team": "spooks"}}}],
                    "ports": [{"protocol": "TCP", "port": "phantom"}],
                }],
            },
        });
        let text = redactor.object(&policy, "default").to_string();
        for gone in ["secret", "hidden", "covert", "ghosts", "spooks", "phantom"] {
            assert!(!text.contains(gone), "{gone}: {text}");
        }
        for kept in [
            "networking.k8s.io/v1",
            "NetworkPolicy",
            "10.0.0.0/8",
            "TCP",
            "app.kubernetes.io/name",
        ] {
            assert!(text.contains(kept), "{kept}: {text}");
        }
        assert_eq!(
            redactor.name("web-3"),
            format!("{}-3", redactor.name("web"))
        );
    }
}
