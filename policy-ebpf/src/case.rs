// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! How is a packet judged without the verifier following every way through every function?
//!
//! The functions exported here take and return numbers, so the verifier checks each once, by itself,
//! knowing nothing of the caller; without them it would follow the product of their paths. The packet
//! itself waits in the scratch map.

use policy_ebpf_common::{
    abi::Cell,
    decide::{Court, Inquiry, Judgement, Outcome},
    flow::{Direction, Source},
    lookup::Bank,
    parse::{Frame, Packet},
};

use crate::maps::{CONFIG, ENDPOINTS, Kernel, scratch};

/// What is to be judged, beside the packet in the scratch map.
pub(crate) struct Case {
    /// Slot of the endpoint that judges.
    pub(crate) slot: u32,
    /// The bank that judges.
    pub(crate) bank: u32,
    /// Where the packet is.
    pub(crate) stage: Stage,
    /// What the frame is.
    pub(crate) frame: Frame,
    /// The scratch map holds the packet that this one quotes.
    pub(crate) quoted: bool,
    /// How the sender of a packet to the pod is known.
    pub(crate) source: Source,
}

/// Where a packet is judged.
#[derive(Clone, Copy)]
pub(crate) enum Stage {
    FromPod,
    ToPod,
    Deferred,
}

impl Case {
    const FROM_POD: u64 = 0;
    const TO_POD: u64 = 1 << 20;
    const DEFERRED: u64 = 2 << 20;
    const STAGE: u64 = 3 << 20;
    const IP: u64 = 0;
    const ARP: u64 = 1 << 22;
    const OTHER: u64 = 2 << 22;
    const MALFORMED: u64 = 3 << 22;
    const FRAME: u64 = 3 << 22;
    const QUOTED: u64 = 1 << 24;
    const BANK: u64 = 1 << 25;
    const ADDRESS: u64 = 0;
    const HOST: u64 = 1 << 26;
    const OWN: u64 = 2 << 26;
    const SLOT: u64 = 3 << 26;
    const SOURCE: u64 = 3 << 26;

    #[inline(always)]
    pub(crate) fn judge(&self) -> Judgement {
        Judgement::unpack(judge(self.pack()))
    }

    #[inline(always)]
    fn pack(&self) -> u64 {
        let mut packed = u64::from(self.slot & 0xffff);
        packed |= match self.stage {
            Stage::FromPod => Self::FROM_POD,
            Stage::ToPod => Self::TO_POD,
            Stage::Deferred => Self::DEFERRED,
        };
        packed |= match self.frame {
            Frame::Ip => Self::IP,
            Frame::Arp => Self::ARP,
            Frame::Other => Self::OTHER,
            Frame::Malformed => Self::MALFORMED,
        };
        packed |= match self.source {
            Source::Address => Self::ADDRESS,
            Source::Host => Self::HOST,
            Source::Own => Self::OWN,
            Source::Slot(slot) => Self::SLOT | u64::from(slot) << 32,
        };
        if self.quoted {
            packed |= Self::QUOTED;
        }
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
            frame: match packed & Self::FRAME {
                Self::IP => Frame::Ip,
                Self::ARP => Frame::Arp,
                Self::OTHER => Frame::Other,
                _ => Frame::Malformed,
            },
            quoted: packed & Self::QUOTED != 0,
            source: match packed & Self::SOURCE {
                Self::ADDRESS => Source::Address,
                Self::HOST => Source::Host,
                Self::OWN => Source::Own,
                _ => Source::Slot((packed >> 32) as u32),
            },
        }
    }
}

/// Judges the packet in the scratch map.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn judge(case: u64) -> u64 {
    let case = Case::unpack(case);
    let Some((court, packet, quoted)) = convene(case.slot, case.bank) else {
        return Judgement::of(Outcome::Malformed).pack();
    };
    let quoted = case.quoted.then_some(quoted);
    let direction = match case.stage {
        Stage::ToPod => Direction::Ingress,
        Stage::FromPod => Direction::Egress,
        Stage::Deferred => {
            let own = matches!(case.source, Source::Own);
            return court.deferred(case.frame, own, packet).pack();
        }
    };
    court
        .judge(direction, case.frame, case.source, packet, quoted)
        .pack()
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

/// A court, and the two packets of the scratch map.
#[inline(always)]
fn convene(
    slot: u32,
    bank: u32,
) -> Option<(Court<'static, Kernel>, &'static Packet, &'static Packet)> {
    let (packet, quoted) = scratch()?;
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
