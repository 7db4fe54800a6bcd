// SPDX-License-Identifier: Apache-2.0
//! How do ABI types cross into aya's maps?

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A type of the map ABI as aya wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Abi<T>(pub T);

// SAFETY: zerocopy's derives have proved that `T` has no padding (`IntoBytes`), that every bit
// pattern is a value (`FromBytes`) and that it has no interior mutability (`Immutable`), and the
// wrapper has the same layout.
unsafe impl<T: FromBytes + IntoBytes + Immutable + Copy + 'static> aya::Pod for Abi<T> {}
