// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! What is counted and reported of a packet?

use aya_ebpf::{bindings::BPF_RB_NO_WAKEUP, helpers::bpf_ktime_get_ns};
use policy_ebpf_common::{
    abi::{CONFIG_ALLOW_EVENTS, Config, Counter, Event},
    decide::{Judgement, OUTCOMES, Outcome, State as _},
    flow::Direction,
    parse::{Kind, Packet},
};

use crate::{
    maps::{EVENT_BUDGETS, EVENTS, Kernel, OUTCOME_COUNTERS, RULE_COUNTERS},
    packet::Skb,
};

/// Who a packet is counted for.
pub(crate) struct Account<'a> {
    /// The packet.
    pub(crate) skb: &'a Skb,
    /// Node-wide switches.
    pub(crate) config: &'a Config,
    /// Index of the event budget.
    pub(crate) slot: u32,
    /// The endpoint's id, or zero.
    pub(crate) endpoint: u32,
    /// Which way the packet goes, seen from the endpoint.
    pub(crate) direction: Direction,
    /// The bank that judged.
    pub(crate) bank: u32,
}

/// Counts a judged packet and reports it if it is worth an event.
#[inline(always)]
pub(crate) fn account(account: &Account<'_>, packet: &Packet, judgement: Judgement) {
    let Account { skb, config, .. } = account;
    let code = account.direction as u32 * OUTCOMES + judgement.outcome as u32;
    count(OUTCOME_COUNTERS.get_ptr_mut(code), skb);
    // Cell 0 was never written; no rule decided.
    if judgement.cell.0 != 0 {
        count(RULE_COUNTERS.get_ptr_mut(judgement.cell.reason()), skb);
    }
    if judgement.outcome.is_drop() {
        emit(account, packet, &judgement, 0);
    } else if config.flags & CONFIG_ALLOW_EVENTS != 0
        && matches!(judgement.outcome, Outcome::Allowed | Outcome::Deferred)
        && !matches!(packet.kind, Kind::Stream)
    {
        // Half of the budget is left to drops.
        let reserve = config.events_per_second / 2;
        emit(account, packet, &judgement, reserve);
    }
}

#[inline(always)]
fn count(counter: Option<*mut Counter>, skb: &Skb) {
    if let Some(counter) = counter {
        // SAFETY: the slot belongs to this processor and programs of one hook do not preempt each
        // other's increments beyond a lost count.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += u64::from(skb.len());
        }
    }
}

#[inline(never)]
fn emit(account: &Account<'_>, packet: &Packet, judgement: &Judgement, reserve: u32) {
    let Account { skb, config, .. } = account;
    let Some(budget) = EVENT_BUDGETS.get_ptr_mut(account.slot) else {
        return;
    };
    // SAFETY: other processors may spend from the budget at the same time; its bound is soft.
    let budget = unsafe { &mut *budget };
    if !budget.take(config, Kernel.now(), reserve) {
        return;
    }
    let Some(mut record) = EVENTS.reserve::<Event>(0) else {
        budget.suppressed = budget.suppressed.wrapping_add(1);
        return;
    };
    record.write(Event {
        // SAFETY: the helper has no preconditions.
        time: unsafe { bpf_ktime_get_ns() },
        endpoint: account.endpoint,
        ifindex: skb.ifindex(),
        cell: judgement.cell.0,
        bank: account.bank,
        length: skb.len(),
        suppressed: budget.suppressed,
        source: packet.source.octets(),
        destination: packet.destination.octets(),
        source_port: packet.source_port.to_be_bytes(),
        destination_port: packet.destination_port.to_be_bytes(),
        ether_type: skb.ether_type().to_be_bytes(),
        protocol: packet.protocol,
        direction: account.direction as u8,
        outcome: judgement.outcome as u8,
        audited: u8::from(judgement.is_audited()),
        _pad: [0; 6],
    });
    budget.suppressed = 0;
    // A wake-up costs microseconds in the packet's path; the reader looks often enough.
    record.submit(u64::from(BPF_RB_NO_WAKEUP));
}
