// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The kernel half of the datapath: entry points and their maps.
//!
//! What is decided is in `policy-ebpf-common`, which is also built and tested on the host. Here is
//! only what the host cannot have: the context, the maps, the ring buffer.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod case;
#[cfg(target_arch = "bpf")]
mod emit;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod programs;

/// On the host there is nothing to run; the agent carries the object built for the BPF target.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
