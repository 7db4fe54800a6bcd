// SPDX-License-Identifier: Apache-2.0
//! How are our own YAML files read, and answers written as YAML?

use policy_compiler::manifest::Node;
use serde::{Serialize, de::DeserializeOwned};

/// Reads the first document of `text`, by the reader that manifests go through.
pub fn from_str<T: DeserializeOwned>(text: &str) -> Result<Option<T>, String> {
    let node = serde_saphyr::from_str::<Option<Node>>(text).map_err(|error| error.to_string())?;
    let Some(node) = node else { return Ok(None) };
    let value = node.to_value();
    if value.is_null() {
        return Ok(None);
    }
    serde_json::from_value(value)
        .map(Some)
        .map_err(|error| error.to_string())
}

/// Writes `value` as one document.
pub fn to_string(value: &impl Serialize) -> anyhow::Result<String> {
    Ok(serde_yaml::to_string(value)?)
}
