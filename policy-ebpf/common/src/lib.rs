// SPDX-License-Identifier: Apache-2.0 OR MIT OR GPL-2.0-only
//! What the two halves of the datapath share: map layouts (`abi`), packet parsing (`parse`), the
//! verdict decision (`decide`), connection tracking keys and rules (`flow`), copies of what was tracked
//! (`recent`) and events (`event`).
//!
//! The same source runs in the kernel (through `policy-ebpf`) and on the host (in tests, in
//! `netpol-agent explain` and in the property tests of `policy-compiler`).
//!
//! **Invariant: zeroed tables deny.** Every word of every table is chosen so that memory nobody
//! wrote reads as "deny, no reason".

#![no_std]
#![forbid(unsafe_code)]

pub mod abi;
pub mod decide;
pub mod event;
pub mod flow;
pub mod lookup;
pub mod parse;
pub mod recent;
