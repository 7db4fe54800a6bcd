// SPDX-License-Identifier: Apache-2.0
//! The parts every object has: `metadata` and the frame around `spec`.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::{
    reader::{Fields, Reader},
    syntax,
};
use crate::{
    diagnostic::{ObjectRef, with_article},
    manifest::Step,
    model::{Labels, MODE_AUDIT, MODE_LABEL},
};

/// What is read of `metadata`.
pub(super) struct Meta {
    /// Empty if absent, which is reported.
    pub(super) name: Arc<str>,
    /// Defaulted for namespaced kinds, empty for the others.
    pub(super) namespace: Arc<str>,
    pub(super) uid: Arc<str>,
    pub(super) labels: Labels,
    pub(super) generation: i64,
    /// Seconds since the epoch.
    pub(super) created: Option<i64>,
    /// Kind and name of the controlling owner, else of the first.
    pub(super) owner: Option<(Arc<str>, Arc<str>)>,
}

impl Meta {
    /// Whether the labels say that a policy is audited. Any other word enforces (D8).
    pub(super) fn is_audited(&self, r: &mut Reader<'_>) -> bool {
        match self.labels.get(MODE_LABEL) {
            None | Some("enforce") => false,
            Some(MODE_AUDIT) => true,
            Some(other) => {
                let message =
                    format!("`{other}` is neither audit nor enforce: the policy is enforced");
                r.within(Step::Field("metadata"), |r| {
                    r.within(Step::Field("labels"), |r| {
                        r.within(Step::Key(MODE_LABEL), |r| {
                            r.warn("unknown-mode", message);
                        });
                    });
                });
                false
            }
        }
    }
}

/// What the reader of a kind needs to know of it.
pub(super) struct Frame<'s> {
    pub(super) kind: &'static str,
    /// The namespace of objects that name none; `None` for cluster-scoped kinds.
    pub(super) default_namespace: Option<&'s Arc<str>>,
    /// How objects of the kind may be called.
    pub(super) name: fn(&str) -> Result<(), &'static str>,
    /// Report every field outside the schema, not only those that are almost one that is read.
    pub(super) closed: bool,
}

impl Frame<'_> {
    /// Reads `metadata` and names the object in diagnostics from here on; also hands out the fields of
    /// the object.
    pub(super) fn open<'a>(
        &self,
        r: &mut Reader<'a>,
        value: &'a Value,
    ) -> (Option<Fields<'a>>, Meta) {
        let fields = if self.closed {
            r.object(value, &["apiVersion", "kind", "metadata", "spec", "status"])
        } else {
            r.open_object(value, &["apiVersion", "kind", "metadata", "spec", "status"])
        };
        let metadata = fields
            .and_then(|fields| r.field(&fields, "metadata", |r, value| self.metadata(r, value)));
        let meta = metadata.unwrap_or_else(|| {
            r.within(Step::Field("metadata"), |r| {
                r.reject_at("name", "a name is required");
            });
            Meta {
                name: "".into(),
                namespace: self.default_namespace.cloned().unwrap_or_default(),
                uid: "".into(),
                labels: Labels::default(),
                generation: 0,
                created: None,
                owner: None,
            }
        });
        r.identify(ObjectRef {
            kind: self.kind.into(),
            namespace: self.default_namespace.map(|_| meta.namespace.clone()),
            name: meta.name.clone(),
        });
        (fields, meta)
    }

    fn metadata<'a>(&self, r: &mut Reader<'a>, value: &'a Value) -> Meta {
        let fields = r.object(value, METADATA);
        let mut text = |name: &'static str| -> Option<&'a str> {
            let fields = fields?;
            r.field(&fields, name, Reader::string).flatten()
        };
        let name = text("name");
        let prefix = text("generateName");
        let namespace = text("namespace");
        let uid = text("uid").unwrap_or_default();
        let created = text("creationTimestamp").and_then(|text| text.parse::<Timestamp>().ok());

        let written = fields.is_none_or(|fields| fields.has("name"));
        r.within(Step::Field("name"), |r| match (name, prefix) {
            (Some(name), _) => {
                if let Err(why) = (self.name)(name) {
                    r.reject(format!("`{name}` is {why}"));
                }
            }
            (None, Some(_)) => {}
            (None, None) if written => {}
            (None, None) => {
                r.reject("a name is required");
            }
        });
        if let Some(namespace) = namespace {
            r.within(Step::Field("namespace"), |r| {
                if self.default_namespace.is_none() {
                    r.warn(
                        "unused-namespace",
                        format!("{} has no namespace", with_article(self.kind)),
                    );
                } else if let Err(why) = syntax::dns_label(namespace) {
                    r.reject(format!("`{namespace}` is {why}"));
                }
            });
        }
        let labels = fields.and_then(|fields| r.field(&fields, "labels", labels));
        let generation = fields.and_then(|fields| r.field(&fields, "generation", Reader::integer));
        let owner = fields.and_then(|fields| r.field(&fields, "ownerReferences", owner).flatten());
        Meta {
            name: name.or(prefix).unwrap_or_default().into(),
            namespace: match self.default_namespace {
                Some(default) => namespace.map_or_else(|| default.clone(), Arc::from),
                None => "".into(),
            },
            uid: uid.into(),
            labels: labels.unwrap_or_default(),
            generation: generation.flatten().unwrap_or_default(),
            created: created.map(Timestamp::as_second),
            owner,
        }
    }
}

/// A map of labels. An entry that is no label is left out.
pub(super) fn labels<'a>(r: &mut Reader<'a>, value: &'a Value) -> Labels {
    let mut map = string_map(r, value);
    map.retain(|key, value| {
        let mut is_label = true;
        if let Err(why) = syntax::label_key(key) {
            r.reject_key(key, format!("`{key}` is {why}"));
            is_label = false;
        }
        if let Err(why) = syntax::label_value(value) {
            r.reject_key(key, format!("`{value}` is {why}"));
            is_label = false;
        }
        is_label
    });
    Labels(Arc::new(map))
}

/// A `map[string]string`; a `null` value is the empty string, as Go decodes it.
pub(super) fn string_map<'a>(r: &mut Reader<'a>, value: &'a Value) -> BTreeMap<Arc<str>, Arc<str>> {
    let mut map = BTreeMap::new();
    let Value::Object(entries) = value else {
        r.wrong_type("an object", value);
        return map;
    };
    for (key, value) in entries {
        let text = match value {
            Value::Null => Some(""),
            value => r.within(Step::Key(key), |r| r.string(value)),
        };
        if let Some(text) = text {
            map.insert(Arc::from(key.as_str()), Arc::from(text));
        }
    }
    map
}

fn owner<'a>(r: &mut Reader<'a>, value: &'a Value) -> Option<(Arc<str>, Arc<str>)> {
    let owners: Vec<&Value> = r.list(value)?.iter().collect();
    let controls = |owner: &&&Value| owner.get("controller").and_then(Value::as_bool) == Some(true);
    let owner = owners.iter().find(controls).or_else(|| owners.first())?;
    let text = |key| owner.get(key).and_then(Value::as_str).map(Arc::from);
    Some((text("kind")?, text("name")?))
}

/// The fields of `ObjectMeta`.
const METADATA: &[&str] = &[
    "annotations",
    "clusterName",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];
