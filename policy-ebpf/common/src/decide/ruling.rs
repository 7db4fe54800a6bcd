// SPDX-License-Identifier: Apache-2.0 OR MIT OR GPL-2.0-only
//! What do the headers and the tables say of a packet, before anything is asked of its flow?
//!
//! A court rules, and settles what is left open. For a plain packet there is a short way to the
//! ruling; it leaves open only what state can change.

use super::{Court, Inquiry, Judgement, Outcome, State, judged, of_bank};
use crate::{
    abi::{
        CONFIG_KEEP_ESTABLISHED, Cell, Config, ENDPOINT_CHECK_SOURCE, ENDPOINT_QUARANTINE,
        FlowState,
    },
    flow::{Direction, Source},
    lookup::Tables,
    parse::{Fragment, Frame, Head, Kind, Packet, comes_from, opens_nothing},
    recent::Moment,
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

/// What a packet has to know of its flow where the flow stands on the tables of today.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Direction of the packets of the end that opened the flow.
    pub opener: Direction,
    /// The cell that admitted it.
    pub cell: Cell,
}

impl Standing {
    const OPENED_BY_POD: u64 = 1 << 0;
    const IS: u64 = 1 << 1;

    #[inline(always)]
    const fn of(state: &FlowState) -> Self {
        Self {
            opener: state.initiator(),
            cell: Cell(state.cell),
        }
    }

    /// What is known as a number, to pass between functions that the verifier checks apart from each
    /// other.
    #[inline(always)]
    pub const fn pack(known: Option<Self>) -> u64 {
        let Some(Self { opener, cell }) = known else {
            return 0;
        };
        let opener = match opener {
            Direction::Ingress => 0,
            Direction::Egress => Self::OPENED_BY_POD,
        };
        (cell.0 as u64) << 32 | Self::IS | opener
    }

    /// The inverse of [`Self::pack`].
    #[inline(always)]
    pub const fn unpack(packed: u64) -> Option<Self> {
        if packed & Self::IS == 0 {
            return None;
        }
        Some(Self {
            opener: if packed & Self::OPENED_BY_POD == 0 {
                Direction::Ingress
            } else {
                Direction::Egress
            },
            cell: Cell((packed >> 32) as u32),
        })
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

    /// Whether nothing has to be known of a frame of Ethernet protocol `ether_type`, and nothing is to
    /// be remembered of it: no policy concerns the pod, in neither direction, and the frame opens no
    /// connection and carries the source that it has to. What else may be wrong with the frame makes
    /// no difference then, its outcome is [`Outcome::Unenforced`].
    #[inline(always)]
    pub fn passes_by<H: Head>(&self, direction: Direction, head: &H, ether_type: u16) -> bool {
        let checked = matches!(direction, Direction::Egress)
            && self.endpoint.flags & ENDPOINT_CHECK_SOURCE != 0;
        of_bank(&self.endpoint.rows, &self.bank) == 0
            && self.endpoint.flags & ENDPOINT_QUARANTINE == 0
            && self.config.flags & CONFIG_KEEP_ESTABLISHED == 0
            && opens_nothing(head, ether_type)
            && (!checked || comes_from(head, ether_type, self.endpoint.ipv4, self.endpoint.ipv6))
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
            Some(Standing { opener, cell }) if opener as u8 != direction as u8 => {
                Ruling::Final(Judgement {
                    outcome: Outcome::Established,
                    cell,
                })
            }
            _ => Ruling::Open(cell),
        })
    }

    /// The flow of a plain packet, if it stands on the tables of today and the packet is not worth a
    /// note.
    #[inline(always)]
    fn unchanged(&self, direction: Direction, packet: &Packet) -> Option<Standing> {
        // A segment that ends a connection nearly always is.
        if packet.closing {
            return None;
        }
        let Self {
            world,
            config,
            endpoint,
            ..
        } = self;
        let (id, generation) = (endpoint.id, self.bank.generation);
        let moment = moment(*world, config, generation);
        match world.recent_flow(id, direction, packet, moment) {
            Some(state) => Some(Standing::of(&state)),
            None => world.look_up(config, generation, id, direction, packet),
        }
    }
}

/// The flow of a plain packet of endpoint `id`, if it stands on the tables of `generation` and the
/// packet is not worth a note. Leaves the processor a copy.
#[inline(always)]
pub fn look_up<W: State>(
    world: &W,
    config: &Config,
    generation: u32,
    id: u32,
    direction: Direction,
    packet: &Packet,
) -> Option<Standing> {
    let moment = moment(world, config, generation);
    let Moment { now, hz, .. } = moment;
    let state = world.flow_of_plain(id, direction, packet)?;
    let unchanged = !state.is_expired(config, packet.protocol, now)
        && state.seen(direction, packet, generation, now, hz).is_none();
    if !unchanged {
        return None;
    }
    world.note_flow(id, direction, packet, moment, &state);
    Some(Standing::of(&state))
}

#[inline(always)]
fn moment<W: State>(world: &W, config: &Config, generation: u32) -> Moment {
    Moment {
        now: world.now(),
        generation,
        hz: config.hz,
    }
}
