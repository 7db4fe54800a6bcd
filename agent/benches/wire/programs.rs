// SPDX-License-Identifier: Apache-2.0
//! How long do programs run amid everything else, as the kernel counts it?
//!
//! What a configuration adds to a transaction is a small difference of two large times, which other
//! work on the machine hides. The kernel can time each run of each program; its clock takes as long as
//! a short program does, and what empty programs seem to take says how long.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use anyhow::{Context as _, Result};
use aya::{
    programs::loaded_programs,
    sys::{Stats, enable_stats},
};

/// The programs that are loaded, by number.
pub(crate) fn loaded() -> BTreeSet<u32> {
    totals().into_keys().collect()
}

/// Nanoseconds that a run of the programs takes while `action` lasts, the mean of all that are not
/// among `known`; nothing if none of them runs. Programs that somebody else loads meanwhile are
/// counted, too.
pub(crate) fn mean(
    known: &BTreeSet<u32>,
    action: impl FnOnce() -> io::Result<()>,
) -> Result<Option<f64>> {
    let counting = enable_stats(Stats::RunTime).context("the kernel does not time programs")?;
    let before = totals();
    action()?;
    let after = totals();
    drop(counting);
    let (mut nanoseconds, mut runs) = (0, 0);
    for (id, (time, count)) in after {
        if let Some((time_before, count_before)) = before.get(&id)
            && !known.contains(&id)
        {
            nanoseconds += time.saturating_sub(*time_before);
            runs += count.saturating_sub(*count_before);
        }
    }
    let exact = |number: u64| u32::try_from(number).map(f64::from);
    // Beyond four seconds of programs the measurement is not one of transactions.
    let (nanoseconds, runs) = (exact(nanoseconds)?, exact(runs)?);
    Ok((runs > 0.0).then(|| nanoseconds / runs))
}

/// Nanoseconds and runs of every loaded program.
fn totals() -> BTreeMap<u32, (u64, u64)> {
    // One that is unloaded just now cannot be asked.
    let programs = loaded_programs().filter_map(Result::ok);
    programs
        .map(|program| {
            let time = u64::try_from(program.run_time().as_nanos()).unwrap_or(u64::MAX);
            (program.id(), (time, program.run_count()))
        })
        .collect()
}
