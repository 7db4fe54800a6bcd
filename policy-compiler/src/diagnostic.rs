// SPDX-License-Identifier: Apache-2.0
//! What is wrong or surprising with the input, as data. Rendering lives in the programs.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// A place in a file the user wrote. Lines and columns count from 1; columns count characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Location {
    /// Path as the user named it, or the name of another source (`-`, `live`).
    pub file: Arc<str>,
    /// Line of the first character.
    pub line: u32,
    /// Column of the first character.
    pub column: u32,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// The object a diagnostic is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectRef {
    /// `NetworkPolicy`, `Pod`, ...
    pub kind: Arc<str>,
    /// Absent for cluster-scoped objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Arc<str>>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {}/{}", self.kind, namespace, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// How much a diagnostic matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Legal, but probably not what was meant.
    Warning,
    /// An API server would reject the object, or part of it cannot be judged as written.
    Error,
}

/// One problem of one object or document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Stable kebab-case identifier of the kind of problem, `unknown-field`.
    pub id: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// One sentence, lower case, no final period, user input in backticks.
    pub message: String,
    /// The object, where one could be made out.
    pub object: Option<ObjectRef>,
    /// Field path inside the object, `spec.ingress[0].from[0]`; empty for the whole object.
    pub path: String,
    /// Where in the text.
    pub at: Option<Location>,
    /// What to do about it.
    pub help: Option<String>,
}
