// SPDX-License-Identifier: Apache-2.0
//! What is loaded in the kernel, and what would it do with a packet?
//!
//! Everything here reads pinned maps and the names written beside them; no agent has to run.

mod answer;
mod dump;
mod listing;
mod lookup;
mod peers;

pub use answer::answer;
pub use dump::dump;
pub use listing::Listing;
pub use lookup::{Question, Step, Verdict, explain, halves};
pub use peers::peers;
