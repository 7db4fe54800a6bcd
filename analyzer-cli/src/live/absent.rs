// SPDX-License-Identifier: Apache-2.0
//! What does a build without a network say to `--live`?

use crate::{args::InputArgs, exit::UsageError, load::Source};

/// Says that this build cannot read a cluster.
pub fn read(_: &InputArgs) -> anyhow::Result<Vec<Source>> {
    Err(
        UsageError::new("this build of netpol-analyze cannot read a cluster")
            .help("take a snapshot with a build that can: `netpol-analyze --live snapshot -o FILE`")
            .into(),
    )
}
