// SPDX-License-Identifier: Apache-2.0
//! Do the benchmarks compare what they say they compare? Nothing is timed. Needs root.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "../../benches/page/main.rs"]
#[expect(dead_code, reason = "nobody collects results here")]
mod page;
mod pages;
#[path = "../../benches/wire/main.rs"]
#[expect(dead_code, reason = "nobody measures here")]
mod wire;
mod worlds;
