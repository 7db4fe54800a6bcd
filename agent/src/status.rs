// SPDX-License-Identifier: Apache-2.0
//! How does the cluster learn what became of its policies?
//!
//! Every agent keeps one small [`report::NodeEnforcement`] object, owned by its Node, and writes it only
//! when it changes. One agent, elected by a Lease, turns all reports into two conditions on every
//! cluster-scoped policy. NetworkPolicies have no status, so their problems become Events.
//!
//! ```text
//! agent on n1 ──▶ NodeEnforcement n1 ─┐
//! agent on n2 ──▶ NodeEnforcement n2 ─┼─▶ lease holder ──▶ conditions of ANP, BANP, CNP
//! agent on n3 ──▶ NodeEnforcement n3 ─┘         └────────▶ Events of NetworkPolicies
//! ```

pub mod conditions;
mod events;
pub mod findings;
pub mod lease;
pub mod report;
mod ties;
pub mod writer;

/// Prefix of everything the agent names in the API, so that another engine can work beside it.
pub const DOMAIN: &str = "netpol.internal";

/// The field manager of every server-side apply of every agent.
pub const FIELD_MANAGER: &str = "netpol";
