// SPDX-License-Identifier: Apache-2.0 OR MIT OR GPL-2.0-only
//! What do the headers and the tables say of a packet, before anything is asked of its flow?
//!
//! A court rules, and settles what is left open. For a plain packet there is a short way to the
//! ruling; it leaves open only what state can change.

use super::{Court, Inquiry, Judgement, Outcome, State, judged};
use crate::{
    abi::{Cell, ENDPOINT_QUARANTINE},
    flow::{Direction, Source},
    lookup::Tables,
    parse::{Fragment, Frame, Kind, Packet},
};

/// What is known of a packet without its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// All there is to say.
    Final(Judgement),
    /// What the table says; the packet's flow may say something else, or has to be remembered.
    Open(Cell),
}

impl Ruling {
    /// No [`Outcome`] has this code.
    const OPEN: u64 = 0xff;

    /// The ruling as a number, to pass between functions that the verifier checks apart from each
    /// other.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        match self {
            Self::Final(judgement) => judgement.pack(),
            Self::Open(cell) => Self::OPEN | (cell.0 as u64) << 32,
        }
    }

    /// The inverse of [`Self::pack`]; a number that is no ruling drops.
    #[inline(always)]
    pub const fn unpack(packed: u64) -> Self {
        if packed & 0xff == Self::OPEN {
            Self::Open(Cell((packed >> 32) as u32))
        } else {
            Self::Final(Judgement::unpack(packed))
        }
    }
}

impl<W: Tables + State> Court<'_, W> {
    /// Rules on a frame from the pod or to it. `source` is not [`Source::Address`] where the sender of
    /// a packet to the pod is known better. `quoted` is the packet that an ICMP error is about.
    #[inline(always)]
    pub fn rule(
        &self,
        direction: Direction,
        frame: Frame,
        source: Source,
        packet: &Packet,
        quoted: Option<&Packet>,
    ) -> Ruling {
        if let Some(judgement) = self.frame(direction, frame, packet) {
            return Ruling::Final(self.audited(judgement));
        }
        if matches!(direction, Direction::Egress) && self.is_spoofed(packet) {
            return Ruling::Final(self.audited(Judgement::of(Outcome::Spoofed)));
        }
        if self.row(direction) != 0 {
            let judgement = if matches!(packet.fragment, Fragment::Later) {
                Some(self.later_fragment(direction as u8, direction, source, packet))
            } else if matches!(packet.kind, Kind::Redirect) {
                Some(Judgement::of(Outcome::Redirect))
            } else if let Some(quoted) = quoted
                && self.is_related(direction, packet, quoted)
            {
                Some(Judgement::of(Outcome::Related))
            } else {
                None
            };
            if let Some(judgement) = judgement {
                return Ruling::Final(self.audited(judgement));
            }
        }
        let inquiry = Inquiry::of_new_flow(direction, source, packet);
        Ruling::Open(self.world.consult(self, packet, &inquiry))
    }

    /// Rules on a packet that [`crate::parse::parse_plain`] recognised, or leaves it to
    /// [`Self::rule`]. Reads the packet's flow where it may matter, and writes nothing: what a flow
    /// has to be told is left to [`Self::settle`], or of an initial SYN to [`Self::settle_opening`].
    #[inline(always)]
    pub fn rule_plain(
        &self,
        direction: Direction,
        source: Source,
        packet: &Packet,
    ) -> Option<Ruling> {
        // Traffic of a pod with itself is rare.
        if self.endpoint.flags & ENDPOINT_QUARANTINE != 0
            || matches!(source, Source::Own)
            || (matches!(direction, Direction::Egress) && self.is_spoofed(packet))
        {
            return None;
        }
        let cell = self.consult(packet, &Inquiry::of_new_flow(direction, source, packet));
        let denied = cell.action() == Cell::DENY;
        let judgement = self.audited(judged(cell));
        let opening = matches!(packet.kind, Kind::Opening);
        // An initial SYN answers nothing. In audit mode it passes and is remembered.
        let concerns_flow = if denied {
            !opening || cell.audit()
        } else {
            self.remembers(direction, source, packet)
        };
        if !concerns_flow {
            return Some(Ruling::Final(judgement));
        }
        if opening {
            return Some(Ruling::Open(cell));
        }
        Some(match self.unchanged(direction, packet) {
            Some(_) if !denied => Ruling::Final(judgement),
            Some(state) if state.initiator() as u8 != direction as u8 => Ruling::Final(Judgement {
                outcome: Outcome::Established,
                cell: Cell(state.cell),
            }),
            _ => Ruling::Open(cell),
        })
    }
}
