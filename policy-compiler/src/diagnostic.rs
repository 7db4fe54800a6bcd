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
    /// An API server does not take the object because of it.
    pub is_refused: bool,
}

impl Diagnostic {
    /// A diagnostic about nothing in particular yet. What the input put into `message` is made fit for one
    /// line of a terminal.
    pub fn new(id: &'static str, severity: Severity, message: &str, at: Option<Location>) -> Self {
        Self {
            id,
            severity,
            message: one_line(message),
            object: None,
            path: String::new(),
            at,
            help: None,
            is_refused: false,
        }
    }
}

impl Diagnostic {
    /// Whether it says that what is written cannot be judged as it is written. Of some errors it is clear
    /// all the same: an API server takes the object, and the API says what it means.
    pub fn is_doubt(&self) -> bool {
        self.severity == Severity::Error && self.id != "inverted-port-range"
    }
}

/// `text` with control characters escaped, so that it cannot steer a terminal, and cut to a length
/// somebody would read.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(LONGEST_LINE));
    for c in text.chars() {
        if line.len() >= LONGEST_LINE {
            line.push('…');
            break;
        }
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// The name of a kind or protocol behind its indefinite article, as it is said aloud: `an HTTPRoute`,
/// `a UDPRoute`.
pub(crate) fn with_article(name: &str) -> String {
    let mut letters = name.chars();
    let (first, second) = (letters.next(), letters.next());
    let vowel = match (first, second) {
        // Spelt out, letter by letter.
        (Some(first), Some(second)) if first.is_uppercase() && second.is_uppercase() => {
            "AEFHILMNORSX".contains(first)
        }
        (Some('U' | 'u'), Some('n' | 's')) => !["ni", "se"].contains(&name.get(1..3).unwrap_or("")),
        (first, _) => first.is_some_and(|first| "AEIOUaeiou".contains(first)),
    };
    format!("{} {name}", if vowel { "an" } else { "a" })
}

/// Bytes of a message.
const LONGEST_LINE: usize = 400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_line() {
        assert_eq!(one_line("a\nb\u{1b}[31mé"), "a\\nb\\u{1b}[31mé");
        let long = one_line(&"é".repeat(10_000));
        assert_eq!(long.chars().count(), LONGEST_LINE / 2 + 1);
    }

    #[test]
    fn articles_are_as_said_aloud() {
        let said = [
            ("AdminNetworkPolicy", "an"),
            ("NetworkPolicy", "a"),
            ("HTTPRoute", "an"),
            ("GRPCRoute", "a"),
            ("UDPRoute", "a"),
            ("SCTP", "an"),
            ("IPPool", "an"),
            ("Ingress", "an"),
            ("Unit", "a"),
            ("User", "a"),
            ("Upgrade", "an"),
            ("é", "a"),
            ("", "a"),
        ];
        for (name, article) in said {
            assert_eq!(with_article(name), format!("{article} {name}"));
        }
    }
}
