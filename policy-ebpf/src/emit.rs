// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! What is counted and reported of a packet?

use aya_ebpf::{bindings::BPF_RB_NO_WAKEUP, helpers::bpf_ktime_get_ns};
use policy_ebpf_common::{
    abi::{CONFIG_ALLOW_EVENTS, Config, Counter, Event},
    decide::{Judgement, OUTCOMES, Outcome, State as _},
    flow::Direction,
    parse::Kind,
};

use crate::{
    maps::{
        CONFIG, ENDPOINTS, EVENT_BUDGETS, EVENTS, Kernel, OUTCOME_COUNTERS, RULE_COUNTERS, Scratch,
        scratch,
    },
    packet::Skb,
};

/// Who a packet is counted for.
pub(crate) struct Account<'a> {
    /// The packet, which is also in the scratch map.
    pub(crate) skb: &'a Skb,
    /// Node-wide switches.
    pub(crate) config: &'a Config,
    /// Slot of the endpoint; behind the last one if there is none.
    pub(crate) slot: u32,
    /// Which way the packet goes, seen from the endpoint.
    pub(crate) direction: Direction,
    /// The bank that judged.
    pub(crate) bank: u32,
}

/// Counts a judged packet and reports it if it may be worth an event.
#[inline(always)]
pub(crate) fn account(account: &Account<'_>, judgement: Judgement) {
    let Account { skb, config, .. } = account;
    let length = skb.len();
    let code = account.direction as u32 * OUTCOMES + judgement.outcome as u32;
    count(OUTCOME_COUNTERS.get_ptr_mut(code), length);
    // Cell 0 was never written; no rule decided.
    if judgement.cell.0 != 0 {
        count(RULE_COUNTERS.get_ptr_mut(judgement.cell.reason()), length);
    }
    if judgement.outcome.is_drop() || config.flags & CONFIG_ALLOW_EVENTS != 0 {
        let place = u64::from(account.slot)
            | u64::from(account.direction as u8) << PLACE_DIRECTION
            | u64::from(account.bank) << PLACE_BANK
            | u64::from(skb.ifindex()) << PLACE_IFINDEX;
        let frame = u64::from(length) | u64::from(skb.ether_type()) << FRAME_TYPE;
        // Whether the event finds room is of no concern to the packet.
        let _sent = report(judgement.pack(), place, frame);
    }
}

#[inline(always)]
fn count(counter: Option<*mut Counter>, length: u32) {
    if let Some(counter) = counter {
        // SAFETY: the slot belongs to this processor and programs of one hook do not preempt each
        // other's increments beyond a lost count.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += u64::from(length);
        }
    }
}

const PLACE_DIRECTION: u32 = 16;
const PLACE_BANK: u32 = 24;
const PLACE_IFINDEX: u32 = 32;
const FRAME_TYPE: u32 = 32;

/// Reports the packet in the scratch map; returns whether it did.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn report(judgement: u64, place: u64, frame: u64) -> u32 {
    let judgement = Judgement::unpack(judgement);
    let (Some(config), Some(Scratch { packet, .. })) = (CONFIG.get(0), scratch()) else {
        return 0;
    };
    // Half of the budget is left to drops.
    let reserve = match judgement.outcome {
        outcome if outcome.is_drop() => 0,
        Outcome::Allowed | Outcome::Deferred if !matches!(packet.kind, Kind::Stream) => {
            config.events_per_second / 2
        }
        _ => return 0,
    };
    let slot = place as u32 & 0xffff;
    let Some(budget) = EVENT_BUDGETS.get_ptr_mut(slot) else {
        return 0;
    };
    // SAFETY: other processors may spend from the budget at the same time; its bound is soft.
    let budget = unsafe { &mut *budget };
    if !budget.take(config, Kernel.now(), reserve) {
        return 0;
    }
    let Some(mut record) = EVENTS.reserve::<Event>(0) else {
        budget.suppressed = budget.suppressed.wrapping_add(1);
        return 0;
    };
    record.write(Event {
        // SAFETY: the helper has no preconditions.
        time: unsafe { bpf_ktime_get_ns() },
        endpoint: ENDPOINTS.get(slot).map_or(0, |endpoint| endpoint.id),
        ifindex: (place >> PLACE_IFINDEX) as u32,
        cell: judgement.cell.0,
        bank: (place >> PLACE_BANK) as u32 & 1,
        length: frame as u32,
        suppressed: budget.suppressed,
        source: packet.source.octets(),
        destination: packet.destination.octets(),
        source_port: packet.source_port.to_be_bytes(),
        destination_port: packet.destination_port.to_be_bytes(),
        ether_type: ((frame >> FRAME_TYPE) as u16).to_be_bytes(),
        protocol: packet.protocol,
        direction: (place >> PLACE_DIRECTION) as u8 & 1,
        outcome: judgement.outcome as u8,
        audited: u8::from(judgement.is_audited()),
        _pad: [0; 6],
    });
    budget.suppressed = 0;
    // A wake-up costs microseconds in the packet's path; the reader looks often enough.
    record.submit(u64::from(BPF_RB_NO_WAKEUP));
    1
}
