// SPDX-License-Identifier: Apache-2.0
//! What do the kernel's counters and the tables in force mean as metrics?

use policy_compiler::{
    lower::{Image, ImagePeer},
    model::{Direction, Protocol, Tier},
    verdict::{Decision, Reason, Verdict},
};
use policy_ebpf_common::{abi::Cell, flow};

use crate::{
    engine::{Datapath, Engine, PodState, Sample},
    index::{Index, SyncState},
    metrics::{DropLabels, KindLabel, MapLabel, Metrics, StateLabel, VerdictLabels, set_total},
};

/// Keeps metrics up to date with what a datapath counts.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// Packets by reason number, from 1, as they were last read.
    decided: Vec<u64>,
}

impl Meter {
    /// Takes what an earlier agent's reasons counted for read: its numbers meant something else.
    pub(super) fn start<D: Datapath>(engine: &mut Engine<D>) -> Self {
        let all = engine.capacity().reasons;
        let sample = engine.datapath_mut().sample(all).unwrap_or_default();
        Self {
            decided: sample.decided,
        }
    }

    /// Reads the kernel's counters.
    pub(super) fn read<D: Datapath>(
        &mut self,
        engine: &mut Engine<D>,
        metrics: &Metrics,
    ) -> anyhow::Result<()> {
        let end = engine.reasons().iter().last().map_or(1, |(id, _)| id + 1);
        let sample = engine.datapath_mut().sample(end)?;
        for (id, decision) in engine.reasons().iter() {
            let index = id as usize - 1;
            let Some(now) = sample.decided.get(index) else {
                continue;
            };
            if self.decided.len() <= index {
                self.decided.resize(index + 1, 0);
            }
            let before = std::mem::replace(&mut self.decided[index], *now);
            let counter = metrics.verdicts.get_or_create(&labels(decision));
            counter.inc_by(now.saturating_sub(before));
        }
        count(&sample, metrics);
        Ok(())
    }
}

/// Says how full the maps are that `image` fills.
pub(super) fn fill<D>(engine: &Engine<D>, metrics: &Metrics)
where
    D: Datapath,
{
    let Some(published) = engine.published() else {
        return;
    };
    let (image, capacity) = (&published.image, engine.capacity());
    for (map, entries, fits) in [
        ("TRIE4", image.trie4.len(), capacity.trie4),
        ("TRIE6", image.trie6.len(), capacity.trie6),
        ("HOSTS6", image.hosts6.len(), capacity.hosts6),
        ("ROWS", image.rows.len(), capacity.rows),
        ("UNIFORM", image.uniform.len(), capacity.uniform),
        ("PORT_SETS", image.port_sets.len(), capacity.port_sets),
        ("SERVICES", image.services.len(), capacity.services),
        (
            "RULE_COUNTERS",
            engine.reasons().iter().count(),
            capacity.reasons,
        ),
    ] {
        let label = MapLabel { map };
        metrics
            .map_entries
            .get_or_create(&label)
            .set(number(entries));
        metrics
            .map_capacity
            .get_or_create(&label)
            .set(i64::from(fits));
    }
    metrics.services_mixed.set(number(mixed_services(image)));
}

/// Addresses and ports of Services of which some pod of the node may reach some endpoints only.
fn mixed_services(image: &Image) -> usize {
    let is_mixed = |(key, class): &(&_, &u32)| {
        let key: &policy_ebpf_common::abi::ServiceKey = key;
        let (Ok(class), Some(protocol)) = (u16::try_from(**class), protocol(key.protocol)) else {
            return false;
        };
        let port = u16::from_be_bytes(key.port);
        let mut pods = image.endpoints.values();
        pods.any(|pod| {
            let peer = ImagePeer::Class(class);
            let cell = image.cell(pod, Direction::Egress, peer, protocol, port);
            cell.is_some_and(|cell| cell.action() == Cell::DEFER)
        })
    };
    image.services.iter().filter(is_mixed).count()
}

fn protocol(number: u8) -> Option<Protocol> {
    match number {
        6 => Some(Protocol::Tcp),
        17 => Some(Protocol::Udp),
        132 => Some(Protocol::Sctp),
        _ => None,
    }
}

fn count(sample: &Sample, metrics: &Metrics) {
    for (direction, outcome, packets) in &sample.outcomes {
        if !outcome.is_drop() {
            continue;
        }
        let dir = match direction {
            flow::Direction::Ingress => "ingress",
            flow::Direction::Egress => "egress",
        };
        let reason = format!("{outcome:?}");
        let counter = metrics.drops.get_or_create(&DropLabels { dir, reason });
        set_total(&counter, *packets);
    }
    metrics
        .ct_entries
        .set(i64::try_from(sample.flows).unwrap_or(i64::MAX));
    set_total(&metrics.ct_expired, sample.forgotten);
}

fn labels(decision: &Decision) -> VerdictLabels {
    let is_audited = decision.audited.is_some();
    let decision = decision.with_all();
    let dir = match &decision.reason {
        Reason::Rule(rule) | Reason::FailClosed(rule) => match rule.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        },
        Reason::LocalNode => "ingress",
        Reason::Isolated(_) | Reason::SelfTraffic | Reason::NotASubject | Reason::Default => {
            "either"
        }
    };
    let tier = match decision.tier {
        Tier::Admin => "admin",
        Tier::NetworkPolicy => "networkpolicy",
        Tier::Baseline => "baseline",
        Tier::Default => "default",
    };
    let action = match decision.verdict {
        Verdict::Deny if is_audited => "audit",
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
    };
    VerdictLabels { dir, tier, action }
}

fn number(entries: usize) -> i64 {
    i64::try_from(entries).unwrap_or(i64::MAX)
}

/// Counts what is watched and how the node's pods fare.
pub(super) fn tally<D: Datapath>(index: &Index, engine: &Engine<D>, metrics: &Metrics) {
    for kind in index.kinds() {
        let label = KindLabel {
            kind: kind.kind.name(),
        };
        metrics
            .objects
            .get_or_create(&label)
            .set(number(kind.objects));
        let rejected = metrics.objects_rejected.get_or_create(&label);
        rejected.set(number(kind.rejected));
        let synced = kind.trouble.is_none() && *kind.sync != SyncState::Never;
        metrics
            .watch_synced
            .get_or_create(&label)
            .set(i64::from(synced));
    }
    let (mut enforced, mut unisolated, mut quarantined, mut unsupported) = (0, 0, 0, 0);
    let published = engine.published();
    let is_isolated = |pod| {
        let image = published.and_then(|published| published.image.endpoints.get(pod));
        image.is_some_and(|endpoint| endpoint.rows != 0)
    };
    for (pod, state) in &engine.report().pods {
        match state {
            PodState::Enforced if is_isolated(pod) => enforced += 1,
            PodState::Enforced => unisolated += 1,
            PodState::Quarantined | PodState::Waiting => quarantined += 1,
            PodState::Unreachable(_) => unsupported += 1,
        }
    }
    for (state, pods) in [
        ("enforced", enforced),
        ("unisolated", unisolated),
        ("quarantined", quarantined),
        ("unsupported", unsupported),
    ] {
        metrics
            .endpoints
            .get_or_create(&StateLabel { state })
            .set(pods);
    }
}
