// SPDX-License-Identifier: Apache-2.0
//! Which flows are remembered, and when are they forgotten?

use std::net::IpAddr;

use aya::{
    Pod,
    maps::{HashMap, MapData},
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use policy_ebpf_common::{
    abi::{Config, FlowKey4, FlowKey6, FlowState},
    flow::{Direction, FRAGMENT_SECONDS, key4, key6},
    parse::Packet,
};

use super::{
    error::DatapathError,
    maps::{Pins, is_missing},
    pod::Abi,
};

/// A tracked flow of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackedFlow {
    /// [`policy_ebpf_common::abi::Endpoint::id`].
    pub endpoint: u32,
    /// Address on the pod's side.
    pub local: IpAddr,
    /// Address on the peer's side.
    pub remote: IpAddr,
    /// Port on the pod's side.
    pub local_port: u16,
    /// Port on the peer's side.
    pub remote_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// What is remembered.
    pub state: FlowState,
    /// Seconds since a packet was seen.
    pub idle_seconds: u32,
    /// Whether the flow is past its timeout.
    pub expired: bool,
}

/// The clock flows are stamped with: low 32 bits of jiffies.
#[derive(Debug)]
pub(super) struct Clock {
    program: SchedClassifier,
}

impl Clock {
    pub(super) fn open(pins: &Pins) -> Result<Self, DatapathError> {
        let program = SchedClassifier::from_pin(pins.program("clock"))
            .map_err(DatapathError::program("clock"))?;
        Ok(Self { program })
    }

    pub(super) fn now(&self) -> Result<u32, DatapathError> {
        // The kernel insists on an Ethernet header to run a program on.
        let frame = [0; 14];
        let result = self
            .program
            .test_run(TestRunOptions {
                data_in: Some(&frame),
                ..TestRunOptions::default()
            })
            .map_err(DatapathError::program("clock"))?;
        Ok(result.return_value)
    }
}

/// Every tracked flow.
pub(super) fn flows(pins: &Pins, config: &Config) -> Result<Vec<TrackedFlow>, DatapathError> {
    let now = Clock::open(pins)?.now()?;
    let age = |state: &FlowState| now.wrapping_sub(state.last_seen) / config.hz.max(1);
    let mut flows = Vec::new();
    let four: HashMap<_, Abi<FlowKey4>, Abi<FlowState>> = pins.lru_hash("CT4")?;
    for entry in &four {
        // An entry evicted while the map is walked ends or restarts the walk: best effort.
        let Ok((Abi(key), Abi(state))) = entry else {
            continue;
        };
        flows.push(TrackedFlow {
            endpoint: key.endpoint,
            local: key.local.into(),
            remote: key.remote.into(),
            local_port: u16::from_be_bytes(key.local_port),
            remote_port: u16::from_be_bytes(key.remote_port),
            protocol: key.protocol,
            state,
            idle_seconds: age(&state),
            expired: state.is_expired(config, key.protocol, now),
        });
    }
    let six: HashMap<_, Abi<FlowKey6>, Abi<FlowState>> = pins.lru_hash("CT6")?;
    for entry in &six {
        let Ok((Abi(key), Abi(state))) = entry else {
            continue;
        };
        flows.push(TrackedFlow {
            endpoint: key.endpoint,
            local: key.local.into(),
            remote: key.remote.into(),
            local_port: u16::from_be_bytes(key.local_port),
            remote_port: u16::from_be_bytes(key.remote_port),
            protocol: key.protocol,
            state,
            idle_seconds: age(&state),
            expired: state.is_expired(config, key.protocol, now),
        });
    }
    Ok(flows)
}

/// The flow of a packet at the endpoint with this id.
pub(super) fn flow(
    pins: &Pins,
    id: u32,
    direction: Direction,
    packet: &Packet,
) -> Result<Option<FlowState>, DatapathError> {
    const NO_FLAGS: u64 = 0;
    let (name, found) = if packet.ipv6 {
        let flows: HashMap<_, Abi<FlowKey6>, Abi<FlowState>> = pins.lru_hash("CT6")?;
        let key = Abi(key6(id, direction, packet));
        ("CT6", flows.get(&key, NO_FLAGS))
    } else {
        let flows: HashMap<_, Abi<FlowKey4>, Abi<FlowState>> = pins.lru_hash("CT4")?;
        let key = Abi(key4(id, direction, packet));
        ("CT4", flows.get(&key, NO_FLAGS))
    };
    match found {
        Ok(Abi(state)) => Ok(Some(state)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(DatapathError::map(name)(error)),
    }
}

/// What a sweep found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Swept {
    /// Entries removed.
    pub(super) removed: usize,
    /// Entries that stay.
    pub(super) kept: usize,
}

/// Forgets flows past their timeout, and old fragments, which do not count as kept.
pub(super) fn collect(pins: &Pins, config: &Config) -> Result<Swept, DatapathError> {
    let clock = Clock::open(pins)?;
    let now = clock.now()?;
    let mut four: HashMap<_, Abi<FlowKey4>, Abi<FlowState>> = pins.lru_hash("CT4")?;
    let mut six: HashMap<_, Abi<FlowKey6>, Abi<FlowState>> = pins.lru_hash("CT6")?;
    let mut fragments: HashMap<
        _,
        Abi<policy_ebpf_common::abi::FragmentKey>,
        Abi<policy_ebpf_common::abi::FragmentState>,
    > = pins.lru_hash("FRAGMENTS")?;
    let horizon = FRAGMENT_SECONDS * config.hz;
    let four = sweep(&mut four, |key, state| {
        state.0.is_expired(config, key.0.protocol, now)
    })?;
    let six = sweep(&mut six, |key, state| {
        state.0.is_expired(config, key.0.protocol, now)
    })?;
    let fragments = sweep(&mut fragments, |_, state| {
        now.wrapping_sub(state.0.seen) > horizon
    })?;
    Ok(Swept {
        removed: four.removed + six.removed + fragments.removed,
        kept: four.kept + six.kept,
    })
}

/// Removes the entries that are `stale`. An entry is looked at again right before it is removed: a
/// packet may have revived it since the walk read it.
fn sweep<K: Pod, V: Pod>(
    map: &mut HashMap<MapData, K, V>,
    stale: impl Fn(&K, &V) -> bool,
) -> Result<Swept, DatapathError> {
    let mut swept = Swept::default();
    let candidates: Vec<K> = map
        .iter()
        .filter_map(Result::ok)
        .inspect(|_| swept.kept += 1)
        .filter(|(key, value)| stale(key, value))
        .map(|(key, _)| key)
        .collect();
    for key in candidates {
        if !map.get(&key, 0).is_ok_and(|value| stale(&key, &value)) {
            continue;
        }
        match map.remove(&key) {
            Ok(()) => {
                swept.removed += 1;
                swept.kept = swept.kept.saturating_sub(1);
            }
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(DatapathError::map("CT4, CT6 or FRAGMENTS")(error)),
        }
    }
    Ok(swept)
}
