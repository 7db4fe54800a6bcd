// SPDX-License-Identifier: Apache-2.0
//! How do answers look? One module per form that more than one command has.

pub mod change;
pub mod diagnostics;
pub mod github;
pub mod plain;
pub mod sarif;
pub mod table;
