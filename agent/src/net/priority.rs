// SPDX-License-Identifier: Apache-2.0
//! How does a thread get to run before others?

use rustix::process::setpriority_process;

/// The lowest of the real-time priorities: before everything ordinary, behind what the node's
/// administrator runs in real time.
const REAL_TIME: i32 = 1;
/// The most that can be had of ordinary scheduling.
const NICEST: i32 = -20;

/// Lets the calling thread run before ordinary ones, as far as the process may (`CAP_SYS_NICE`). Threads
/// that it starts are ordinary.
pub(super) fn raise() {
    let parameter = libc::sched_param {
        sched_priority: REAL_TIME,
    };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the kernel reads the parameter; 0 is the calling thread.
    let raised = unsafe { libc::sched_setscheduler(0, policy, &raw const parameter) };
    if raised != 0
        && let Err(error) = setpriority_process(None, NICEST)
    {
        tracing::debug!(%error, "new interfaces are closed at ordinary priority");
    }
}
