// SPDX-License-Identifier: Apache-2.0
//! How does a thread get to run before others?

use rustix::process::{Resource, getrlimit, setpriority_process, setrlimit};

/// The lowest of the real-time priorities: before everything ordinary, behind what the node's
/// administrator runs in real time.
const REAL_TIME: i32 = 1;
/// Microseconds that a real-time thread may compute without a pause. One that does so for longer is
/// broken, and takes from the node what it will not give back: the kernel ends the agent then, which leaves
/// what is enforced as it is.
const PATIENCE: u64 = 1_000_000;
/// The most that can be had of ordinary scheduling.
const NICEST: i32 = -20;

/// Lets the calling thread run before ordinary ones, as far as the process may (`CAP_SYS_NICE`). Threads
/// that it starts are ordinary.
pub(super) fn raise() {
    bound();
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

/// Bounds what the real-time threads of the process take.
fn bound() {
    let mut limit = getrlimit(Resource::Rttime);
    if limit.current.is_none_or(|current| current > PATIENCE) {
        limit.current = Some(PATIENCE);
        if let Err(error) = setrlimit(Resource::Rttime, limit) {
            tracing::debug!(%error, "real-time threads are not bounded");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_that_runs_before_others_is_bounded() {
        let policy = thread::spawn(|| {
            raise();
            // SAFETY: 0 is the calling thread.
            unsafe { libc::sched_getscheduler(0) }
        });
        // The kernel of a container may refuse, and never gives more than was asked for.
        let ordinary = libc::SCHED_OTHER;
        let raised = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
        assert!([ordinary, raised].contains(&policy.join().unwrap()));
        let bound = getrlimit(Resource::Rttime).current;
        assert!(bound.is_some_and(|bound| bound <= PATIENCE), "{bound:?}");
        // SAFETY: 0 is the calling thread.
        assert_eq!(unsafe { libc::sched_getscheduler(0) }, ordinary);
    }
}
