// SPDX-License-Identifier: Apache-2.0
//! Does this machine load BPF programs? Compiled by itself, before anything else is built.
//!
//! Loads the two instructions `r0 = 0; exit` as a TC classifier and says in words what the kernel
//! answered.

use std::{
    ffi::{c_int, c_long, c_uint},
    io::Error,
    process::ExitCode,
};

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

#[cfg(target_arch = "x86_64")]
const SYS_BPF: c_long = 321;
#[cfg(target_arch = "aarch64")]
const SYS_BPF: c_long = 280;

const BPF_PROG_LOAD: c_int = 5;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;

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

fn main() -> ExitCode {
    // mov64 r0, 0; exit
    let instructions: [u64; 2] = [0x0000_0000_0000_00b7, 0x0000_0000_0000_0095];
    let license = c"Dual MIT/GPL";
    let attributes = ProgLoad {
        prog_type: BPF_PROG_TYPE_SCHED_CLS,
        insn_cnt: 2,
        insns: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    // SAFETY: the kernel reads `size_of::<ProgLoad>()` bytes at the pointer, and through it the
    // instructions and the licence; all three live until the call returns.
    let fd = unsafe {
        syscall(
            SYS_BPF,
            BPF_PROG_LOAD,
            &raw const attributes,
            size_of::<ProgLoad>() as c_uint,
        )
    };
    if fd >= 0 {
        println!("BPF programs load on this machine");
        return ExitCode::SUCCESS;
    }
    let error = Error::last_os_error();
    let hint = match error.raw_os_error() {
        Some(1) => "run as root, or with CAP_BPF and CAP_NET_ADMIN; kernel lockdown forbids it too",
        Some(38) => "this kernel is built without CONFIG_BPF_SYSCALL",
        _ => "see bpf(2)",
    };
    eprintln!("BPF programs do NOT load on this machine: {error} ({hint})");
    ExitCode::FAILURE
}
