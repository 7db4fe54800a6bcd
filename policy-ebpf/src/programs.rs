// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! Where do packets enter?
//!
//! `from_pod` and `to_pod` sit on the host side of every pod's veth pair, `to_bridge` and `to_any` on
//! the devices behind which packets go once their destination address is final. `gate_from_pod` and
//! `gate_to_pod` are on interfaces of which nobody has said yet whose they are.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    macros::classifier,
    programs::TcContext,
};
use policy_ebpf_common::{
    abi::{Config, ENDPOINT_SLOTS, Endpoint, SourceTag},
    decide::{Court, Judgement, Outcome, Ruling, State as _},
    flow::{Direction, Source},
    lookup::Bank,
    parse::{Frame, Kind, parse_plain},
};

use crate::{
    case::{Case, Content, Stage},
    emit::{Account, account},
    maps::{CONFIG, Kernel, Scratch, scratch},
    packet::Skb,
};

/// Leaves the packet to the programs behind this one; "OK" would skip them.
const PASS: i32 = TC_ACT_UNSPEC;
const DROP: i32 = TC_ACT_SHOT;
const NO_TAG: SourceTag = SourceTag(0);

/// Ingress of a pod's host interface: what the pod sends.
#[classifier]
pub(crate) fn from_pod(context: TcContext) -> i32 {
    const EGRESS: Direction = Direction::Egress;
    let skb = Skb::new(&context);
    let Some((config, bank)) = published() else {
        return DROP;
    };
    let Some((slot, endpoint)) = Kernel::endpoint_of(skb.ifindex()) else {
        skb.set_tag(NO_TAG);
        return unknown(&skb, config, &bank, EGRESS);
    };
    let court = court(config, bank, slot, endpoint);
    let judgement = judge(&skb, &court, EGRESS, Source::Address);
    let deferred = matches!(judgement.outcome, Outcome::Deferred);
    skb.set_tag(SourceTag::new(slot, deferred));
    conclude(&account_of(&skb, &court, EGRESS), judgement)
}

/// Egress of a pod's host interface: what the pod receives.
#[classifier]
pub(crate) fn to_pod(context: TcContext) -> i32 {
    const INGRESS: Direction = Direction::Ingress;
    let skb = Skb::new(&context);
    let Some((config, bank)) = published() else {
        return DROP;
    };
    let tag = skb.tag();
    let Some((slot, endpoint)) = Kernel::endpoint_of(skb.ifindex()) else {
        return unknown(&skb, config, &bank, INGRESS);
    };
    let source = match tag.slot() {
        Some(sender) if sender == slot => Source::Own,
        Some(sender) => Source::Slot(sender),
        None if skb.ingress_ifindex() == 0 => Source::Host,
        None => Source::Address,
    };
    if tag.is_deferred() && deferred(&skb, config, &bank, tag, Some(slot)) == DROP {
        return DROP;
    }
    // The mark has served; a tunnel would copy it to the outer packet.
    skb.set_tag(NO_TAG);
    let court = court(config, bank, slot, endpoint);
    let judgement = judge(&skb, &court, INGRESS, source);
    conclude(&account_of(&skb, &court, INGRESS), judgement)
}

/// Ingress of an interface that has just appeared: closed, whatever the tables say of its number.
#[classifier]
pub(crate) fn gate_from_pod(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    skb.set_tag(NO_TAG);
    closed(&skb, Direction::Egress)
}

/// Egress of an interface that has just appeared.
#[classifier]
pub(crate) fn gate_to_pod(context: TcContext) -> i32 {
    closed(&Skb::new(&context), Direction::Ingress)
}

/// Egress of every other device that packets leave the node by: judges deferred packets and removes
/// the mark.
#[classifier]
pub(crate) fn to_any(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    let tag = skb.tag();
    if tag.slot().is_none() {
        return PASS;
    }
    skb.set_tag(NO_TAG);
    behind_translation(&skb, tag)
}

/// Egress of a bridge, behind which another pod may be: as `to_any`, but the mark goes on to tell
/// that pod's program who sent the packet.
#[classifier]
pub(crate) fn to_bridge(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    let tag = skb.tag();
    let Some(slot) = tag.slot() else {
        return PASS;
    };
    skb.set_tag(SourceTag::new(slot, false));
    behind_translation(&skb, tag)
}

/// Attached nowhere: tells user space, which has no other way to know, the time flows are stamped
/// with.
#[classifier]
pub(crate) fn clock(_context: TcContext) -> i32 {
    Kernel.now().cast_signed()
}

#[inline(always)]
fn behind_translation(skb: &Skb, tag: SourceTag) -> i32 {
    if !tag.is_deferred() {
        return PASS;
    }
    let Some((config, bank)) = published() else {
        return DROP;
    };
    deferred(skb, config, &bank, tag, None)
}

/// Judges a packet of an endpoint, and leaves it in the scratch map.
#[inline(always)]
fn judge(skb: &Skb, court: &Court<'_, Kernel>, direction: Direction, source: Source) -> Judgement {
    if court.passes_by(direction, &skb.head(), skb.ether_type()) {
        return Judgement::of(Outcome::Unenforced);
    }
    let Some(Scratch { packet, .. }) = scratch() else {
        return Judgement::of(Outcome::Malformed);
    };
    let mut case = Case::plain(court, direction, source);
    let plain = if parse_plain(&skb.head(), skb.ether_type(), packet) {
        court.rule_plain(direction, source, packet)
    } else {
        None
    };
    let ruling = match plain {
        Some(Ruling::Open(cell)) if matches!(packet.kind, Kind::Opening) => {
            return court.settle_opening(direction, source, packet, cell);
        }
        Some(ruling) => ruling,
        None => {
            case.content = Content::of(skb);
            case.rule()
        }
    };
    match ruling {
        Ruling::Final(judgement) => judgement,
        Ruling::Open(cell) => case.settle(cell),
    }
}

/// Takes the egress verdict that `from_pod` left open. `receiver` is the slot of the pod that the
/// packet goes to, if it is known.
#[inline(always)]
fn deferred(skb: &Skb, config: &Config, bank: &Bank, tag: SourceTag, receiver: Option<u32>) -> i32 {
    let slot = tag.slot().unwrap_or_default();
    if Kernel.endpoint(slot).is_none() {
        return DROP;
    }
    let ruling = Case {
        slot,
        bank: bank.number,
        stage: Stage::Deferred,
        content: Content::of(skb),
        source: if receiver == Some(slot) {
            Source::Own
        } else {
            Source::Address
        },
    }
    .rule();
    let judgement = match ruling {
        // Counted when it was deferred.
        Ruling::Final(judgement) if !judgement.outcome.is_drop() => return PASS,
        Ruling::Final(judgement) => judgement,
        // A deferred packet's flow was settled when it was deferred.
        Ruling::Open(_) => return DROP,
    };
    let to = Account {
        skb,
        config,
        slot,
        direction: Direction::Egress,
        bank: bank.number,
    };
    conclude(&to, judgement)
}

#[inline(always)]
fn closed(skb: &Skb, direction: Direction) -> i32 {
    match published() {
        Some((config, bank)) => unknown(skb, config, &bank, direction),
        None => DROP,
    }
}

/// An interface that user space has not told anything about: as if in quarantine.
#[inline(always)]
fn unknown(skb: &Skb, config: &Config, bank: &Bank, direction: Direction) -> i32 {
    let Some(Scratch { packet, .. }) = scratch() else {
        return DROP;
    };
    let outcome = match Content::of(skb).frame {
        Frame::Arp => Outcome::Infrastructure,
        Frame::Ip if matches!(packet.kind, Kind::Neighbour) => Outcome::Infrastructure,
        Frame::Ip | Frame::Malformed | Frame::Other => Outcome::UnknownInterface,
    };
    let to = Account {
        skb,
        config,
        slot: ENDPOINT_SLOTS,
        direction,
        bank: bank.number,
    };
    conclude(&to, Judgement::of(outcome))
}

#[inline(always)]
fn conclude(to: &Account<'_>, judgement: Judgement) -> i32 {
    account(to, judgement);
    if judgement.passes() { PASS } else { DROP }
}

#[inline(always)]
const fn account_of<'a>(
    skb: &'a Skb,
    court: &Court<'a, Kernel>,
    direction: Direction,
) -> Account<'a> {
    Account {
        skb,
        config: court.config,
        slot: court.slot,
        direction,
        bank: court.bank.number,
    }
}

#[inline(always)]
const fn court<'a>(
    config: &'a Config,
    bank: Bank,
    slot: u32,
    endpoint: &'a Endpoint,
) -> Court<'a, Kernel> {
    Court {
        world: &Kernel,
        config,
        bank,
        endpoint,
        slot,
    }
}

/// The configuration and the bank it names. Read once per packet: user space may switch banks at any
/// time, and the other bank is complete, too.
#[inline(always)]
fn published() -> Option<(&'static Config, Bank)> {
    let config = CONFIG.get(0)?;
    // SAFETY: the reference is valid; volatile because user space writes the word.
    let active = unsafe { core::ptr::read_volatile(&raw const config.active) };
    Some((config, Bank::of(config, active)))
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
