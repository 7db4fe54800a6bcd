// SPDX-License-Identifier: Apache-2.0
//! What do programs cost that do nothing?
//!
//! Two instructions at the four places where the agent's programs would be: what is left is the price
//! of being called at all.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};

use super::world::World;

/// `mov64 r0, -1; exit`: "leave it to the next program", as the agent's programs answer.
const INSTRUCTIONS: [u64; 2] = [0xffff_ffff_0000_00b7, 0x0000_0000_0000_0095];

// From linux/bpf.h.
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;

/// The part of `union bpf_attr` that BPF_PROG_LOAD reads.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// The part of `union bpf_attr` that BPF_LINK_CREATE reads.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative_id: u64,
    expected_revision: u64,
}

/// Puts the program on both sides of both of the router's interfaces; it stays as long as the links.
pub(crate) fn attach(world: &World) -> Result<Vec<OwnedFd>> {
    world
        .router
        .run(|| links(&world.interfaces))
        .context("cannot attach the empty program")
}

fn links(interfaces: &[u32]) -> io::Result<Vec<OwnedFd>> {
    let program = load()?;
    let prog_fd = u32::try_from(program.as_raw_fd()).map_err(io::Error::other)?;
    let sides = [BPF_TCX_INGRESS, BPF_TCX_EGRESS];
    let places = interfaces.iter().flat_map(|i| sides.map(|side| (*i, side)));
    places
        .map(|(target_ifindex, attach_type)| {
            let attributes = LinkCreate {
                prog_fd,
                target_ifindex,
                attach_type,
                flags: 0,
                relative_id: 0,
                expected_revision: 0,
            };
            // SAFETY: LinkCreate is laid out as the command's part of `union bpf_attr` and holds no
            // pointers.
            unsafe { bpf(BPF_LINK_CREATE, &attributes) }
        })
        .collect()
}

fn load() -> io::Result<OwnedFd> {
    let license = c"Dual MIT/GPL";
    let attributes = ProgLoad {
        prog_type: BPF_PROG_TYPE_SCHED_CLS,
        insn_cnt: 2,
        insns: INSTRUCTIONS.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    // SAFETY: ProgLoad is laid out as the command's part of `union bpf_attr`; the instructions and the
    // licence outlive the call.
    unsafe { bpf(BPF_PROG_LOAD, &attributes) }
}

/// The bpf system call, for commands that return a descriptor.
///
/// # Safety
///
/// `T` is laid out as the part of `union bpf_attr` that `command` reads, and what it points to is
/// valid for the time of the call.
unsafe fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller vouches for the content, the reference for address and size.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    match i32::try_from(fd) {
        // SAFETY: the descriptor is new, so nobody else owns it.
        Ok(fd @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
