// SPDX-License-Identifier: Apache-2.0
//! What became of every document.

use std::{fmt, sync::Arc};

use crate::diagnostic::Location;

/// One document and its fate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerEntry {
    /// Where the document starts.
    pub at: Location,
    /// `apiVersion`; empty if unknown.
    pub api_version: Arc<str>,
    /// `kind`; empty if unknown.
    pub kind: Arc<str>,
    /// The namespace as written, or the default for kinds that have one.
    pub namespace: Option<Arc<str>>,
    /// `metadata.name`; empty if unknown.
    pub name: Arc<str>,
    /// What became of it.
    pub fate: Fate,
}

impl LedgerEntry {
    /// Whether the document is, or was meant to be, a policy of one of the four APIs.
    pub fn is_policy(&self) -> bool {
        let kinds = [
            "NetworkPolicy",
            "AdminNetworkPolicy",
            "BaselineAdminNetworkPolicy",
            "ClusterNetworkPolicy",
        ];
        let group = self.api_version.split_once('/').map(|(group, _)| group);
        kinds
            .iter()
            .any(|kind| kind.eq_ignore_ascii_case(&self.kind))
            || group == Some("policy.networking.k8s.io")
    }

    /// Whether verdicts may differ from what a cluster with the document as written would do: a policy
    /// was refused, or holds something that was not understood.
    pub fn makes_incomplete(&self) -> bool {
        self.is_policy()
            && match self.fate {
                Fate::Used | Fate::Ignored => false,
                Fate::UsedWithProblems | Fate::Rejected { .. } => true,
            }
            || self.is_unknown() && matches!(self.fate, Fate::Rejected { .. })
    }

    /// Whether nobody can tell what the document was meant to be.
    fn is_unknown(&self) -> bool {
        let group = self.api_version.split_once('/').map(|(group, _)| group);
        self.kind.is_empty() || group == Some("networking.k8s.io")
    }
}

/// What became of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is part of the snapshot as written.
    Used,
    /// It is part of the snapshot; an API server would take it, but part of it is not what is written.
    UsedWithProblems,
    /// Its kind decides nothing about traffic, or it repeats another document.
    Ignored,
    /// An API server would refuse it, or it cannot be read at all.
    Rejected {
        /// What can be interpreted of it is part of the snapshot.
        used: bool,
    },
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Used => "used",
            Self::UsedWithProblems => "used with problems",
            Self::Ignored => "ignored",
            Self::Rejected { used: true } => "rejected, used as far as it can be interpreted",
            Self::Rejected { used: false } => "rejected",
        })
    }
}
