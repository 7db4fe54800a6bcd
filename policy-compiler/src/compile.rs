// SPDX-License-Identifier: Apache-2.0
//! From a snapshot to the verdict tables of one node or of the whole cluster.

mod hash;
pub(crate) mod reduce;
pub(crate) mod rules;
