// SPDX-License-Identifier: Apache-2.0
//! From text to objects: which documents a file holds, and where everything in them is written.
//!
//! ```text
//! read(file, text) -> (Vec<Document>, Vec<Diagnostic>)    YAML or JSON to documents, Lists taken apart
//! Document::{value, locator}                              the object as JSON; places of its fields
//! Locator::at("spec.ingress[0]") -> Option<Location>      for crate::parse and for messages
//! ```

mod document;
mod locator;
mod node;
mod text;

pub use document::{Document, read};
pub use locator::{Locator, Step, spell};
pub use node::{Content, Entry, Node};
