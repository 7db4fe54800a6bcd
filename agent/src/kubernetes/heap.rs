// SPDX-License-Identifier: Apache-2.0
//! How does memory that was only needed for a while go back to the node?

/// Gives freed memory back.
///
/// glibc keeps what was freed in between for the next time, in an arena per thread. Reading a large
/// cluster and surveying it take much that is not needed again soon. Takes milliseconds where there is much
/// to give; other allocators keep little, or give it back by themselves.
#[cfg(target_env = "gnu")]
pub(super) fn give_back() {
    // SAFETY: `malloc_trim` only releases pages that hold no allocation, under the allocator's own locks.
    let released = unsafe { libc::malloc_trim(0) };
    tracing::debug!(released = released == 1, "freed memory was given back");
}

/// See above.
#[cfg(not(target_env = "gnu"))]
pub(super) fn give_back() {}
