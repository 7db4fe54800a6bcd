// SPDX-License-Identifier: Apache-2.0
//! From text to a cluster: which documents files hold, where everything in them is written, and what
//! becomes of each.
//!
//! ```text
//! load(files, &Settings) -> Loaded                        files (name, text) to a snapshot, all in one
//! read(file, text) -> (Vec<Document>, Vec<Diagnostic>)    YAML or JSON to documents, Lists taken apart
//! assemble(documents, diagnostics, &Settings) -> Loaded   snapshot, diagnostics, ledger, workloads
//! Document::{value, locator}                              the object as JSON; places of its fields
//! Locator::at("spec.ingress[0]") -> Option<Location>      for crate::parse and for messages
//! ```

mod assemble;
mod backends;
mod document;
mod kind;
mod ledger;
mod locator;
mod node;
mod pods;
mod refused;
mod text;

pub use assemble::{Loaded, WorkloadPods, assemble, load};
pub use document::{Document, UNREADABLE, read};
pub use ledger::{Fate, LedgerEntry};
pub use locator::{Locator, Step, spell};
pub use node::{Content, Entry, Node};
