// SPDX-License-Identifier: Apache-2.0
//! Do the types of the API have exactly the fields of the upstream CRDs?
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests"
)]

use std::{collections::BTreeSet, path::Path};

use k8s_openapi::{Metadata, Resource};
use policy_compiler::{
    api::{
        v1alpha1::{AdminNetworkPolicy, BaselineAdminNetworkPolicy},
        v1alpha2::ClusterNetworkPolicy,
    },
    manifest::Locator,
    parse::{self, Channel, Settings},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

#[test]
fn admin_network_policy() {
    check::<AdminNetworkPolicy>("adminnetworkpolicies", "v0.1.8");
}

#[test]
fn baseline_admin_network_policy() {
    check::<BaselineAdminNetworkPolicy>("baselineadminnetworkpolicies", "v0.1.8");
}

#[test]
fn cluster_network_policy() {
    check::<ClusterNetworkPolicy>("clusternetworkpolicies", "v0.2.0");
}

#[track_caller]
fn check<T: Resource + Metadata + Serialize + DeserializeOwned>(plural: &str, bundle: &str) {
    let Some(experimental) = schema(plural, "experimental", bundle) else {
        println!("skipped: the upstream CRDs are not there");
        return;
    };
    let standard = schema(plural, "standard", bundle).unwrap();
    assert_eq!(T::URL_PATH_SEGMENT, plural);

    // An object with every field of the schema goes through the type without loss.
    let mut object = sample(&experimental);
    object["apiVersion"] = T::API_VERSION.into();
    object["kind"] = T::KIND.into();
    let typed: T = serde_json::from_value(object.clone()).unwrap();
    let written = serde_json::to_value(&typed).unwrap();
    let fields = |value: &Value| {
        let mut paths = BTreeSet::new();
        collect(value, "", &mut paths);
        paths
    };
    assert_eq!(fields(&written), fields(&object));

    // The reader knows the same fields, in either channel.
    for (schema, channel) in [
        (&experimental, Channel::Experimental),
        (&standard, Channel::Standard),
    ] {
        let settings = Settings {
            channel,
            ..Settings::default()
        };
        let object = sample(schema);
        let (known, _) = unknown_fields::<T>(&object, &settings);
        assert_eq!(known, [""; 0]);
    }
    // What only the experimental channel has is unknown in the other one, and nothing else is.
    let settings = Settings {
        channel: Channel::Standard,
        ..Settings::default()
    };
    let (unknown, _) = unknown_fields::<T>(&sample(&experimental), &settings);
    let unknown: BTreeSet<String> = unknown
        .into_iter()
        .map(|path| path.replace("[0]", ""))
        .collect();
    let mut extra = BTreeSet::new();
    let standard_fields = fields(&sample(&standard));
    for path in fields(&sample(&experimental)).difference(&standard_fields) {
        extra.insert(path.clone());
    }
    for path in &unknown {
        assert!(extra.contains(path), "{path} is not experimental");
    }
    for path in &extra {
        assert!(
            unknown.iter().any(|known| path.starts_with(known.as_str())),
            "{path} is read in the standard channel"
        );
    }
}

fn unknown_fields<T: Resource>(object: &Value, settings: &Settings) -> (Vec<String>, bool) {
    let read = match T::KIND {
        "AdminNetworkPolicy" => parse::admin_network_policy,
        "BaselineAdminNetworkPolicy" => parse::baseline_admin_network_policy,
        _ => parse::cluster_network_policy,
    };
    let parsed = read(object, &Locator::none(), settings);
    let unknown = parsed
        .diagnostics
        .into_iter()
        .filter(|found| found.id == "unknown-field");
    (unknown.map(|found| found.path).collect(), parsed.rejected)
}

fn schema(plural: &str, channel: &str, bundle: &str) -> Option<Value> {
    let file = format!(
        "{}/../../shared/crds/{plural}.{channel}.{bundle}.yaml",
        env!("CARGO_MANIFEST_DIR")
    );
    if !Path::new(&file).exists() {
        return None;
    }
    let text = std::fs::read_to_string(file).unwrap();
    let crd: Value = serde_saphyr::from_str(&text).unwrap();
    Some(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone())
}

/// An object with every field that `schema` has, one item in every list.
fn sample(schema: &Value) -> Value {
    if let Some(variants) = schema["enum"].as_array() {
        return variants[0].clone();
    }
    match schema["type"].as_str().unwrap() {
        "object" if schema["properties"].is_object() => schema["properties"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, schema)| (name.clone(), sample(schema)))
            .collect(),
        "object" if schema["additionalProperties"].is_object() => json!({"key": "value"}),
        "object" => json!({"name": "default"}),
        "array" => json!([sample(&schema["items"])]),
        "integer" => json!(7),
        "string" if schema["format"] == "date-time" => json!("2026-01-01T00:00:00Z"),
        "string" => json!("value"),
        other => panic!("no sample of {other}"),
    }
}

fn collect(value: &Value, path: &str, paths: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                collect(value, &path, paths);
                paths.insert(path);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, path, paths)),
        _ => {}
    }
}
