// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! Where do packets enter?
//!
//! `from_pod` and `to_pod` sit on the host side of every pod's veth pair, `to_bridge` and `to_any` on
//! the devices behind which packets go once their destination address is final.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    macros::classifier,
    programs::TcContext,
};
use policy_ebpf_common::{
    abi::{Config, ENDPOINT_SLOTS, Endpoint, SourceTag},
    decide::{Judgement, Outcome, State as _},
    flow::{Direction, Source},
    lookup::Bank,
    parse::{Frame, Kind, Packet, parse, parse_quoted},
};

use crate::{
    case::{Case, Stage},
    emit::{Account, account},
    maps::{CONFIG, Kernel, scratch},
    packet::Skb,
};

/// Leaves the packet to the programs behind this one; "OK" would skip them.
const PASS: i32 = TC_ACT_UNSPEC;
const DROP: i32 = TC_ACT_SHOT;
const NO_TAG: SourceTag = SourceTag(0);

/// Ingress of a pod's host interface: what the pod sends.
#[classifier]
pub(crate) fn from_pod(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    let (Some((config, bank)), Some((packet, quoted))) = (published(), scratch()) else {
        return DROP;
    };
    let frame = parse(&skb, skb.ether_type(), packet);
    let Some((slot, endpoint)) = Kernel::endpoint_of(skb.ifindex()) else {
        skb.set_tag(NO_TAG);
        return unknown(&skb, config, &bank, Direction::Egress, frame, packet);
    };
    let judgement = Case {
        slot,
        bank: bank.number,
        stage: Stage::FromPod,
        frame,
        quoted: quotes(&skb, frame, packet, quoted),
        source: Source::Address,
    }
    .judge();
    let deferred = matches!(judgement.outcome, Outcome::Deferred);
    skb.set_tag(SourceTag::new(slot, deferred));
    let to = account_of(&skb, config, slot, endpoint, Direction::Egress, &bank);
    conclude(&to, packet, judgement)
}

/// Egress of a pod's host interface: what the pod receives.
#[classifier]
pub(crate) fn to_pod(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    let (Some((config, bank)), Some((packet, quoted))) = (published(), scratch()) else {
        return DROP;
    };
    let tag = skb.tag();
    let frame = parse(&skb, skb.ether_type(), packet);
    let Some((slot, endpoint)) = Kernel::endpoint_of(skb.ifindex()) else {
        return unknown(&skb, config, &bank, Direction::Ingress, frame, packet);
    };
    let source = match tag.slot() {
        Some(sender) if sender == slot => Source::Own,
        Some(sender) => Source::Slot(sender),
        None if skb.ingress_ifindex() == 0 => Source::Host,
        None => Source::Address,
    };
    if tag.is_deferred() {
        let own = matches!(source, Source::Own);
        let verdict = deferred(&skb, config, &bank, tag, own, frame, packet);
        if verdict == DROP {
            return DROP;
        }
    }
    // The mark has served; a tunnel would copy it to the outer packet.
    skb.set_tag(NO_TAG);
    let judgement = Case {
        slot,
        bank: bank.number,
        stage: Stage::ToPod,
        frame,
        quoted: quotes(&skb, frame, packet, quoted),
        source,
    }
    .judge();
    let to = account_of(&skb, config, slot, endpoint, Direction::Ingress, &bank);
    conclude(&to, packet, judgement)
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
    let (Some((config, bank)), Some((packet, _))) = (published(), scratch()) else {
        return DROP;
    };
    let frame = parse(skb, skb.ether_type(), packet);
    deferred(skb, config, &bank, tag, false, frame, packet)
}

/// Takes the egress verdict that `from_pod` left open.
#[inline(always)]
fn deferred(
    skb: &Skb,
    config: &Config,
    bank: &Bank,
    tag: SourceTag,
    own: bool,
    frame: Frame,
    packet: &Packet,
) -> i32 {
    let slot = tag.slot().unwrap_or_default();
    let Some(endpoint) = Kernel.endpoint(slot) else {
        return DROP;
    };
    let judgement = Case {
        slot,
        bank: bank.number,
        stage: Stage::Deferred,
        frame,
        quoted: false,
        source: if own { Source::Own } else { Source::Address },
    }
    .judge();
    if !judgement.outcome.is_drop() {
        // Counted when it was deferred.
        return PASS;
    }
    let to = account_of(skb, config, slot, endpoint, Direction::Egress, bank);
    conclude(&to, packet, judgement)
}

/// An interface that user space has not told anything about: as if in quarantine.
#[inline(always)]
fn unknown(
    skb: &Skb,
    config: &Config,
    bank: &Bank,
    direction: Direction,
    frame: Frame,
    packet: &Packet,
) -> i32 {
    let outcome = match frame {
        Frame::Arp => Outcome::Infrastructure,
        Frame::Ip if matches!(packet.kind, Kind::Neighbour) => Outcome::Infrastructure,
        Frame::Ip | Frame::Malformed | Frame::Other => Outcome::UnknownInterface,
    };
    let to = Account {
        skb,
        config,
        slot: ENDPOINT_SLOTS,
        endpoint: 0,
        direction,
        bank: bank.number,
    };
    conclude(&to, packet, Judgement::of(outcome))
}

#[inline(always)]
fn conclude(to: &Account<'_>, packet: &Packet, judgement: Judgement) -> i32 {
    account(to, packet, judgement);
    if judgement.passes() { PASS } else { DROP }
}

#[inline(always)]
const fn account_of<'a>(
    skb: &'a Skb,
    config: &'a Config,
    slot: u32,
    endpoint: &Endpoint,
    direction: Direction,
    bank: &Bank,
) -> Account<'a> {
    Account {
        skb,
        config,
        slot,
        endpoint: endpoint.id,
        direction,
        bank: bank.number,
    }
}

/// Whether the packet is an ICMP error whose subject could be read into `quoted`.
#[inline(always)]
fn quotes(skb: &Skb, frame: Frame, packet: &Packet, quoted: &mut Packet) -> bool {
    matches!(frame, Frame::Ip)
        && matches!(packet.kind, Kind::Error | Kind::TooBig)
        && parse_quoted(skb, packet, quoted)
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
