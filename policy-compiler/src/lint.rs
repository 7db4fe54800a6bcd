// SPDX-License-Identifier: Apache-2.0
//! What is wrong or surprising with policies that are well formed? One module per lint.
//!
//! A lint only says what it can prove over the given snapshot; what is shadowed or redundant is decided
//! by the same evaluation that answers questions about flows.

mod input;

use std::sync::Arc;

use crate::{
    diagnostic::{Diagnostic, Location, ObjectRef, Severity},
    model::PolicyRef,
};

/// A kind of finding, with what there is to know about it.
#[derive(Clone, Copy, Debug)]
pub struct Lint {
    /// Stable code, `NPA012`.
    pub code: &'static str,
    /// Stable name, `unknown-field`.
    pub name: &'static str,
    /// How much a finding matters, unless the finding says otherwise.
    pub severity: Severity,
    /// What it does.
    pub what: &'static str,
    /// Why it matters.
    pub why: &'static str,
    /// A manifest, or part of one, that has the problem.
    pub example: &'static str,
    /// What to write instead.
    pub instead: &'static str,
}

/// Every lint, in order of codes.
pub fn all() -> Vec<&'static Lint> {
    let mut lints: Vec<&Lint> = input::LINTS.iter().collect();
    lints.sort_by_key(|lint| lint.code);
    lints
}

/// The lint with this code or name.
pub fn find(code_or_name: &str) -> Option<&'static Lint> {
    all()
        .into_iter()
        .find(|lint| lint.code.eq_ignore_ascii_case(code_or_name) || lint.name == code_or_name)
}

impl Lint {
    /// A finding of this lint.
    pub(crate) fn at(
        &self,
        message: String,
        policy: &PolicyRef,
        path: String,
        at: Option<Location>,
    ) -> Diagnostic {
        Diagnostic {
            id: self.name,
            severity: self.severity,
            message,
            object: Some(ObjectRef {
                kind: Arc::from(policy.kind.to_string()),
                namespace: policy.namespace.clone(),
                name: policy.name.clone(),
            }),
            path,
            at,
            help: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_unique_and_documented() {
        let lints = all();
        for pair in lints.windows(2) {
            assert!(
                pair[0].code < pair[1].code,
                "{} {}",
                pair[0].code,
                pair[1].code
            );
        }
        for lint in &lints {
            assert_eq!(find(lint.name).map(|found| found.code), Some(lint.code));
            for text in [lint.what, lint.why, lint.example, lint.instead] {
                assert!(!text.trim().is_empty(), "{}", lint.name);
            }
        }
        assert_eq!(find("NPA012").map(|lint| lint.name), Some("unknown-field"));
    }
}
