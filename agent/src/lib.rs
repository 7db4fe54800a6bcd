// SPDX-License-Identifier: Apache-2.0
//! The node agent: what keeps the tables in the kernel equal to what the policies say.
//!
//! ```text
//! folder of YAML ──┐
//!                  ├─▶ index ──▶ compile ──▶ datapath ──▶ maps and programs
//! API server ──────┘                └──▶ status
//! ```
