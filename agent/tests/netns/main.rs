// SPDX-License-Identifier: Apache-2.0
//! Scenarios: real agents, real packets, network namespaces. Tests are named by the scenario's number.
//! Needs root.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod bridge;
mod company;
mod identity;
mod lifecycle;
mod policy;
mod property;
mod proxy;
mod services;
mod tunnel;
mod world;
