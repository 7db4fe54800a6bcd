// SPDX-License-Identifier: Apache-2.0
//! How are array maps written without system calls?

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU32, Ordering},
};

use zerocopy::{FromBytes, Immutable, IntoBytes};

const WORD: usize = size_of::<u32>();

/// An array map's memory, shared with the kernel.
///
/// Entries are read and written word by word, each word atomically: programs may look at any time.
#[derive(Debug)]
pub(super) struct Mapping<T> {
    base: NonNull<AtomicU32>,
    /// Words from one entry to the next.
    stride: usize,
    entries: u32,
    length: usize,
    entry: PhantomData<T>,
}

// SAFETY: the memory belongs to the map, not to a thread, and is only accessed atomically.
unsafe impl<T> Send for Mapping<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Mapping<T> {}

impl<T: FromBytes + IntoBytes + Immutable + Copy> Mapping<T> {
    const WORDS: usize = {
        assert!(size_of::<T>().is_multiple_of(WORD) && size_of::<T>() > 0);
        size_of::<T>() / WORD
    };

    /// Maps a `BPF_F_MMAPABLE` array of `entries` entries.
    pub(super) fn new(map: impl AsFd, entries: u32, writable: bool) -> io::Result<Self> {
        // The kernel rounds entries up to eight bytes.
        let stride = size_of::<T>().next_multiple_of(8) / WORD;
        let length = stride * WORD * entries as usize;
        let protection = if writable {
            libc::PROT_READ | libc::PROT_WRITE
        } else {
            libc::PROT_READ
        };
        // SAFETY: a fresh shared mapping at an address of the kernel's choice; the result is checked.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                protection,
                libc::MAP_SHARED,
                map.as_fd().as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            base: NonNull::new(base.cast())
                .ok_or_else(|| io::Error::other("the map was mapped at address zero"))?,
            stride,
            entries,
            length,
            entry: PhantomData,
        })
    }

    /// Number of entries.
    pub(super) fn entries(&self) -> u32 {
        self.entries
    }

    /// Reads entry `index`, if there is one.
    pub(super) fn get(&self, index: u32) -> Option<T> {
        let words = self.words(index)?;
        let mut value = T::new_zeroed();
        for (bytes, word) in value.as_mut_bytes().chunks_exact_mut(WORD).zip(words) {
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        Some(value)
    }

    /// Writes the words of entry `index` that differ from `value`; returns whether any did. Entries
    /// beyond the end are left out.
    pub(super) fn set(&self, index: u32, value: &T) -> bool {
        let mut changed = false;
        for (bytes, word) in value
            .as_bytes()
            .chunks_exact(WORD)
            .zip(self.words(index).unwrap_or_default())
        {
            let wanted = bytes.try_into().map_or(0, u32::from_ne_bytes);
            if word.load(Ordering::Relaxed) != wanted {
                word.store(wanted, Ordering::Relaxed);
                changed = true;
            }
        }
        changed
    }

    /// The word at `offset` bytes into entry `index`, if there is one.
    pub(super) fn word(&self, index: u32, offset: usize) -> Option<&AtomicU32> {
        self.words(index)?.get(offset / WORD)
    }

    fn words(&self, index: u32) -> Option<&[AtomicU32]> {
        if index >= self.entries {
            return None;
        }
        // SAFETY: the entry lies within the mapping, whose memory stays until `self` is dropped.
        Some(unsafe {
            std::slice::from_raw_parts(
                self.base.add(index as usize * self.stride).as_ptr(),
                Self::WORDS,
            )
        })
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: unmaps what `new` mapped; no reference into it outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.length) };
    }
}
