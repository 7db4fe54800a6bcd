// SPDX-License-Identifier: Apache-2.0
//! What is written in a file of tests?

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{API_VERSION, exit::UsageError, flow::PortQuery, render::plain};

/// A file of tests.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    tests: Vec<Test>,
}

/// One test: a bound on who may reach whom, or a plain expectation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Test {
    /// What the test says, in words.
    pub name: String,
    /// Sources; every pod and every address outside if absent. Nodes, which reach their own pods whatever
    /// policies say, are asked about only where they are named.
    pub from: Option<End>,
    /// Destinations; every pod and every address outside if absent.
    pub to: Option<End>,
    /// The port; every one if absent.
    pub port: Option<String>,
    /// No other pod and no other address outside may be a source.
    pub only_from: Option<Vec<End>>,
    /// No other pod and no other address outside may be a destination.
    pub only_to: Option<Vec<End>>,
    /// No other port may be reached.
    pub only_ports: Option<Vec<String>>,
    /// Every pair has this verdict.
    pub expect: Option<Expected>,
    /// Symbolic ends.
    pub for_all: Option<ForAll>,
    /// No traffic at all.
    #[serde(default)]
    pub never: bool,
}

/// An end: a target as on the command line, or pods by label.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum End {
    /// `internet`, `shop/web`, `10.0.0.0/8`.
    Target(String),
    /// Pods.
    Selected(Selected),
}

/// Pods by namespace and labels.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Selected {
    /// Namespace.
    pub namespace: Option<String>,
    /// Labels of the pod.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Labels of the namespace.
    #[serde(default)]
    pub namespace_labels: BTreeMap<String, String>,
}

/// The verdict every pair must have.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expected {
    /// Everything asked about gets through.
    Allowed,
    /// Nothing does.
    Denied,
}

impl Expected {
    /// Whether traffic has to get through.
    pub fn is_allowed(self) -> bool {
        matches!(self, Self::Allowed)
    }
}

/// Two sets of pods, told apart by the value of a label of their namespaces.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForAll {
    /// The source's namespace.
    pub a: Symbol,
    /// The destination's namespace.
    pub b: Symbol,
    /// `a != b`.
    pub r#where: String,
}

/// Namespaces that have a label, with whatever value.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Symbol {
    /// The label's key.
    pub namespace_label: String,
}

impl File {
    /// The tests, if the file is what it says.
    pub fn checked(self, path: &str) -> Result<Vec<Test>, UsageError> {
        if self.api_version != API_VERSION || self.kind != "PolicyTest" {
            return Err(UsageError::new(format!(
                "`{path}` is no PolicyTest of {API_VERSION}"
            )));
        }
        for test in &self.tests {
            let bounds = [
                test.only_from.is_some() || test.only_to.is_some() || test.only_ports.is_some(),
                test.expect.is_some(),
                test.never,
            ];
            let said = bounds.iter().filter(|said| **said).count();
            if said != 1 {
                return Err(UsageError::new(format!(
                    "`{path}`: test `{}` says {said} things",
                    plain::line(&test.name)
                ))
                .help("one of onlyFrom/onlyTo/onlyPorts, expect, never"));
            }
            if let Some(for_all) = &test.for_all {
                let same = for_all.a.namespace_label == for_all.b.namespace_label;
                if for_all.r#where.replace(' ', "") != "a!=b" || !same || !test.never {
                    return Err(UsageError::new(format!(
                        "`{path}`: test `{}`: forAll takes one label for a and b, `where: a != b` and `never: true`",
                        plain::line(&test.name)
                    )));
                }
            }
            test.asked()?;
        }
        Ok(self.tests)
    }
}

impl Test {
    /// The ports the test is about.
    pub fn asked(&self) -> Result<PortQuery, UsageError> {
        match &self.port {
            Some(port) => port.parse(),
            None => Ok(PortQuery::All),
        }
    }
}
