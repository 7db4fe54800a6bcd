// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! How is a packet judged without the verifier following every way through every function?
//!
//! The functions exported here take and return numbers, so the verifier checks each once, by itself,
//! knowing nothing of the caller; without them it would follow the product of their paths. The packet
//! itself waits in the scratch map.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_ANY},
    maps::LruHashMap,
};
use policy_ebpf_common::{
    abi::{Cell, FlowState, TrieWord},
    decide::{self, Court, Inquiry, Judgement, Outcome, Ruling, Standing},
    flow::{Direction, Source, key4, key6},
    lookup::{self, Bank},
    parse::{Address, Frame, Kind, Packet, parse, parse_quoted},
};

use crate::{
    maps::{CONFIG, CT4, CT6, ENDPOINTS, Kernel, Scratch, recent, scratch},
    packet::Skb,
};

/// What is to be judged, beside the packet in the scratch map.
pub(crate) struct Case {
    /// Slot of the endpoint that judges.
    pub(crate) slot: u32,
    /// The bank that judges.
    pub(crate) bank: u32,
    /// Where the packet is.
    pub(crate) stage: Stage,
    /// What the frame is.
    pub(crate) content: Content,
    /// How the sender of a packet to the pod is known.
    pub(crate) source: Source,
}

/// What a frame turned out to be.
#[derive(Clone, Copy)]
pub(crate) struct Content {
    /// Whether there is a packet in it, which then is in the scratch map.
    pub(crate) frame: Frame,
    /// The scratch map also holds the packet that this one quotes.
    pub(crate) quoted: bool,
}

impl Content {
    /// A packet that quotes none.
    const PACKET: Self = Self {
        frame: Frame::Ip,
        quoted: false,
    };

    /// Parses a frame of any shape into the scratch map.
    #[inline(always)]
    pub(crate) fn of(skb: &Skb) -> Self {
        Self::unpack(inspect(skb.raw).into())
    }

    const IP: u64 = 0;
    const ARP: u64 = 1 << 22;
    const OTHER: u64 = 2 << 22;
    const MALFORMED: u64 = 3 << 22;
    const FRAME: u64 = 3 << 22;
    const QUOTED: u64 = 1 << 24;

    // In bits that `Case::pack` leaves free.
    #[inline(always)]
    fn pack(self) -> u64 {
        let frame = match self.frame {
            Frame::Ip => Self::IP,
            Frame::Arp => Self::ARP,
            Frame::Other => Self::OTHER,
            Frame::Malformed => Self::MALFORMED,
        };
        frame | if self.quoted { Self::QUOTED } else { 0 }
    }

    #[inline(always)]
    fn unpack(packed: u64) -> Self {
        Self {
            frame: match packed & Self::FRAME {
                Self::IP => Frame::Ip,
                Self::ARP => Frame::Arp,
                Self::OTHER => Frame::Other,
                _ => Frame::Malformed,
            },
            quoted: packed & Self::QUOTED != 0,
        }
    }
}

/// Parses a frame into the scratch map.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn inspect(skb: *mut __sk_buff) -> u32 {
    let skb = Skb { raw: skb };
    let mut content = Content {
        frame: Frame::Malformed,
        quoted: false,
    };
    if let Some(Scratch { packet, quoted, .. }) = scratch() {
        content.frame = parse(&skb, skb.ether_type(), packet);
        content.quoted = matches!(content.frame, Frame::Ip)
            && matches!(packet.kind, Kind::Error | Kind::TooBig)
            && parse_quoted(&skb, packet, quoted);
    }
    content.pack() as u32
}

/// Where a packet is judged.
#[derive(Clone, Copy)]
pub(crate) enum Stage {
    FromPod,
    ToPod,
    Deferred,
}

impl Stage {
    /// Which way the packet goes, seen from the pod that judges it.
    #[inline(always)]
    const fn direction(self) -> Direction {
        match self {
            Self::ToPod => Direction::Ingress,
            Self::FromPod | Self::Deferred => Direction::Egress,
        }
    }
}

impl Case {
    /// A packet that is what it says.
    #[inline(always)]
    pub(crate) fn plain(court: &Court<'_, Kernel>, direction: Direction, source: Source) -> Self {
        Self {
            slot: court.slot,
            bank: court.bank.number,
            stage: match direction {
                Direction::Ingress => Stage::ToPod,
                Direction::Egress => Stage::FromPod,
            },
            content: Content::PACKET,
            source,
        }
    }

    /// Rules on the packet in the scratch map.
    #[inline(always)]
    pub(crate) fn rule(&self) -> Ruling {
        Ruling::unpack(rule(self.pack()))
    }

    /// Settles what a ruling on the packet in the scratch map left open.
    #[inline(always)]
    pub(crate) fn settle(&self, cell: Cell) -> Judgement {
        Judgement::unpack(settle(self.pack(), cell.0.into()))
    }

    const FROM_POD: u64 = 0;
    const TO_POD: u64 = 1 << 20;
    const DEFERRED: u64 = 2 << 20;
    const STAGE: u64 = 3 << 20;
    const BANK: u64 = 1 << 25;
    const ADDRESS: u64 = 0;
    const HOST: u64 = 1 << 26;
    const OWN: u64 = 2 << 26;
    const SLOT: u64 = 3 << 26;
    const SOURCE: u64 = 3 << 26;

    #[inline(always)]
    fn pack(&self) -> u64 {
        let mut packed = u64::from(self.slot & 0xffff);
        packed |= match self.stage {
            Stage::FromPod => Self::FROM_POD,
            Stage::ToPod => Self::TO_POD,
            Stage::Deferred => Self::DEFERRED,
        };
        packed |= self.content.pack();
        packed |= match self.source {
            Source::Address => Self::ADDRESS,
            Source::Host => Self::HOST,
            Source::Own => Self::OWN,
            Source::Slot(slot) => Self::SLOT | u64::from(slot) << 32,
        };
        if self.bank != 0 {
            packed |= Self::BANK;
        }
        packed
    }

    #[inline(always)]
    fn unpack(packed: u64) -> Self {
        Self {
            slot: packed as u32 & 0xffff,
            bank: u32::from(packed & Self::BANK != 0),
            stage: match packed & Self::STAGE {
                Self::FROM_POD => Stage::FromPod,
                Self::TO_POD => Stage::ToPod,
                _ => Stage::Deferred,
            },
            content: Content::unpack(packed),
            source: match packed & Self::SOURCE {
                Self::ADDRESS => Source::Address,
                Self::HOST => Source::Host,
                Self::OWN => Source::Own,
                _ => Source::Slot((packed >> 32) as u32),
            },
        }
    }
}

/// Rules on the packet in the scratch map.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn rule(case: u64) -> u64 {
    let case = Case::unpack(case);
    let Some((court, packet, quoted)) = convene(case.slot, case.bank) else {
        return Judgement::of(Outcome::Malformed).pack();
    };
    let quoted = case.content.quoted.then_some(quoted);
    if matches!(case.stage, Stage::Deferred) {
        let own = matches!(case.source, Source::Own);
        return court.deferred(case.content.frame, own, packet).pack();
    }
    court
        .rule(
            case.stage.direction(),
            case.content.frame,
            case.source,
            packet,
            quoted,
        )
        .pack()
}

/// Settles what a ruling on the packet in the scratch map left open.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn settle(case: u64, cell: u64) -> u64 {
    let case = Case::unpack(case);
    let Some((court, packet, _)) = convene(case.slot, case.bank) else {
        return Judgement::of(Outcome::Malformed).pack();
    };
    court
        .settle(
            case.stage.direction(),
            case.source,
            packet,
            Cell(cell as u32),
        )
        .pack()
}

/// Looks up the flow of the plain packet in the scratch map.
#[inline(always)]
pub(crate) fn look_up(id: u32, direction: Direction, generation: u32) -> Option<Standing> {
    let whose = flow(id, direction, Tracking::Look);
    Standing::unpack(revisit(whose, generation))
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn revisit(whose: u64, generation: u32) -> u64 {
    let (Some(config), Some(Scratch { packet, .. })) = (CONFIG.get(0), scratch()) else {
        return 0;
    };
    let (id, direction) = (whose as u32, direction_of(whose));
    Standing::pack(decide::look_up(
        &Kernel, config, generation, id, direction, packet,
    ))
}

/// Has the tables answer an inquiry about the packet in the scratch map or the one it quotes.
#[inline(always)]
pub(crate) fn consult(court: &Court<'_, Kernel>, inquiry: &Inquiry) -> Cell {
    let bank = if court.bank.number == 0 { 0 } else { ASK_BANK };
    let slot = u64::from(court.slot & 0xffff) << ASK_SLOT;
    Cell(ask(inquiry.pack() | bank | slot))
}

// In the bits that `Inquiry::pack` leaves free.
const ASK_BANK: u64 = 1 << 8;
const ASK_SLOT: u32 = 16;

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn ask(packed: u64) -> u32 {
    let slot = (packed >> ASK_SLOT) as u32 & 0xffff;
    let bank = u32::from(packed & ASK_BANK != 0);
    let Some((court, packet, quoted)) = convene(slot, bank) else {
        return 0;
    };
    let inquiry = Inquiry::unpack(packed);
    let packet = if inquiry.quoted { quoted } else { packet };
    court.consult(packet, &inquiry).0
}

/// The word of `TRIE6` that covers an address.
#[inline(always)]
pub(crate) fn prefix6(bank: u32, address: &Address) -> TrieWord {
    let [high, low] = halves(address);
    TrieWord(walk(bank, high, low))
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn walk(bank: u32, high: u64, low: u64) -> u32 {
    lookup::prefix6(&Kernel, bank, &whole(high, low)).0
}

/// The class of a Service's address and port.
#[inline(always)]
pub(crate) fn class_of_service(
    bank: u32,
    address: &Address,
    protocol: u8,
    port: u16,
) -> Option<u16> {
    let [high, low] = halves(address);
    let what = bank << 24 | u32::from(protocol) << 16 | u32::from(port);
    u16::try_from(service(what, high, low)).ok()
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn service(what: u32, high: u64, low: u64) -> u32 {
    let address = whole(high, low);
    lookup::class_of_service(
        &Kernel,
        what >> 24,
        &address,
        (what >> 16) as u8,
        what as u16,
    )
    .map_or(u32::MAX, u32::from)
}

#[inline(always)]
const fn halves(address: &Address) -> [u64; 2] {
    let Address([first, second, third, fourth]) = *address;
    [
        (first as u64) << 32 | second as u64,
        (third as u64) << 32 | fourth as u64,
    ]
}

/// The inverse of [`halves`].
#[inline(always)]
const fn whole(high: u64, low: u64) -> Address {
    Address([
        (high >> 32) as u32,
        high as u32,
        (low >> 32) as u32,
        low as u32,
    ])
}

/// What a port set that another one leads to says of a port.
#[inline(always)]
pub(crate) fn nested_set(bank: u32, index: u32, key: u32) -> Cell {
    Cell(descend(bank, index, key))
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn descend(bank: u32, index: u32, key: u32) -> u32 {
    lookup::cell_of_set(&Kernel, bank, index, key).0
}

/// What is to be done with the flow of the packet in the scratch map.
#[derive(Clone, Copy)]
enum Tracking {
    Look,
    Store,
    Forget,
}

const FLOW_DIRECTION: u32 = 32;
const FLOW_TRACKING: u32 = 33;

#[inline(always)]
const fn flow(id: u32, direction: Direction, tracking: Tracking) -> u64 {
    id as u64 | (direction as u64) << FLOW_DIRECTION | (tracking as u64) << FLOW_TRACKING
}

#[inline(always)]
const fn direction_of(flow: u64) -> Direction {
    if flow >> FLOW_DIRECTION & 1 == 0 {
        Direction::Ingress
    } else {
        Direction::Egress
    }
}

/// The flow of the packet in the scratch map.
#[inline(always)]
pub(crate) fn flow_of(id: u32, direction: Direction) -> Option<FlowState> {
    let found = track(flow(id, direction, Tracking::Look), 0, 0) != 0;
    found.then(|| scratch().map(|scratch| scratch.state))?
}

/// Remembers the flow of the packet in the scratch map.
#[inline(always)]
pub(crate) fn store_flow(id: u32, direction: Direction, state: &FlowState) {
    let times = u64::from(state.last_seen) << 32 | u64::from(state.generation);
    let what = u64::from(state.cell) << 32 | u64::from(state.flags);
    // An LRU map makes room; where it cannot at once, the flow's next packet tries again.
    let _stored = track(flow(id, direction, Tracking::Store), times, what);
}

/// Forgets the flow of the packet in the scratch map.
#[inline(always)]
pub(crate) fn forget_flow(id: u32, direction: Direction) {
    // An entry that is gone already is as good as one removed.
    let _removed = track(flow(id, direction, Tracking::Forget), 0, 0);
}

/// Does something with the flow of the packet in the scratch map; returns whether it could. One
/// function for everything, because most of it is to make the key.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn track(flow: u64, times: u64, what: u64) -> u32 {
    let Some(scratch) = scratch() else {
        return 0;
    };
    let (id, direction) = (flow as u32, direction_of(flow));
    let tracking = match flow >> FLOW_TRACKING {
        0 => Tracking::Look,
        1 => Tracking::Store,
        _ => Tracking::Forget,
    };
    if !matches!(tracking, Tracking::Look) {
        if let Some(recent) = recent(id, direction, &scratch.packet) {
            recent.clear();
        }
        scratch.state = FlowState {
            last_seen: (times >> 32) as u32,
            generation: times as u32,
            cell: (what >> 32) as u32,
            flags: what as u32,
        };
    }
    let done = if scratch.packet.ipv6 {
        scratch.key6 = key6(id, direction, &scratch.packet);
        apply(&CT6, tracking, &scratch.key6, &mut scratch.state)
    } else {
        scratch.key4 = key4(id, direction, &scratch.packet);
        apply(&CT4, tracking, &scratch.key4, &mut scratch.state)
    };
    u32::from(done)
}

#[inline(always)]
fn apply<K>(
    map: &LruHashMap<K, FlowState>,
    tracking: Tracking,
    key: &K,
    state: &mut FlowState,
) -> bool {
    match tracking {
        Tracking::Look => {
            // SAFETY: another processor may write the entry meanwhile. Its words are independent:
            // each read word is one that was true a moment ago.
            let found = unsafe { map.get(key) };
            if let Some(found) = found {
                *state = *found;
            }
            found.is_some()
        }
        Tracking::Store => map.insert(key, &*state, u64::from(BPF_ANY)).is_ok(),
        Tracking::Forget => map.remove(key).is_ok(),
    }
}

/// A court, and the two packets of the scratch map.
#[inline(always)]
fn convene(
    slot: u32,
    bank: u32,
) -> Option<(Court<'static, Kernel>, &'static Packet, &'static Packet)> {
    let Scratch { packet, quoted, .. } = scratch()?;
    let config = CONFIG.get(0)?;
    let court = Court {
        world: &Kernel,
        config,
        bank: Bank::of(config, bank),
        endpoint: ENDPOINTS.get(slot)?,
        slot,
    };
    Some((court, packet, quoted))
}
