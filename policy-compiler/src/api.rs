// SPDX-License-Identifier: Apache-2.0
//! The objects of policy.networking.k8s.io as they are written to an API server or a file.
//!
//! For writing only: patches of status, and manifests that `migrate` makes. Objects are read by
//! [`crate::parse`], which sees what these types would drop.

mod status;
pub mod v1alpha1;
pub mod v1alpha2;

pub use status::PolicyStatus;
