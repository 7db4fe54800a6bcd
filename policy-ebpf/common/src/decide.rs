// SPDX-License-Identifier: Apache-2.0 OR MIT OR GPL-2.0-only
//! What happens to a packet?
//!
//! The verdict table comes first, for every packet of the direction, so that a change of policy acts
//! on the next packet of open connections. What a packet may be beyond a new flow (a reply, an ICMP
//! error about a flow, a later fragment) is only asked once its own direction denies it:
//!
//! * A tracked flow passes if the end that opened it may still open it. UDP and the like are tracked
//!   where the opposite direction is enforced, TCP by its initial SYN.
//! * TCP that nobody saw opening (the programs came later, the entry was evicted): anything but an
//!   initial SYN is a reply if the opposite direction's table admits what it replies to.

mod inquiry;
mod outcome;
mod ruling;

use crate::{
    abi::{
        CLASS_HOST, CLASS_NONE, CONFIG_AUDIT, CONFIG_KEEP_ESTABLISHED, CONFIG_STRICT_TCP, Cell,
        Config, ENDPOINT_AUDIT, ENDPOINT_CHECK_SOURCE, ENDPOINT_PICKUP, ENDPOINT_QUARANTINE,
        Endpoint, FRAGMENT_ALLOWED, FRAGMENT_DEFERRED, FRAGMENT_DENIED, FlowState, FragmentState,
        RowEntry,
    },
    flow::{Direction, FRAGMENT_SECONDS, Source},
    lookup::{self, Bank, Peer, Port, Question, Tables},
    parse::{Address, Fragment, Frame, Kind, Packet},
    recent::Moment,
};

pub use self::{
    inquiry::Inquiry,
    outcome::{Judgement, OUTCOMES, Outcome},
    ruling::{Ruling, Standing, look_up},
};

/// What the datapath knows beside the tables. A flow is named by an endpoint's id and a packet of
/// the flow.
pub trait State {
    /// Low 32 bits of jiffies.
    fn now(&self) -> u32;
    /// Has the tables answer an inquiry of a court about `packet`. A hook, so that the kernel can put
    /// a function in between that the verifier checks by itself.
    fn consult(&self, court: &Court<'_, Self>, packet: &Packet, inquiry: &Inquiry) -> Cell
    where
        Self: Tables + Sized,
    {
        court.consult(packet, inquiry)
    }
    /// The endpoint in a slot.
    fn endpoint(&self, slot: u32) -> Option<&Endpoint>;
    /// The flow of a packet.
    fn flow(&self, id: u32, direction: Direction, packet: &Packet) -> Option<FlowState>;
    /// [`look_up`]. A hook as [`Self::consult`] is.
    fn look_up(
        &self,
        config: &Config,
        generation: u32,
        id: u32,
        direction: Direction,
        packet: &Packet,
    ) -> Option<Standing>
    where
        Self: Sized,
    {
        look_up(self, config, generation, id, direction, packet)
    }
    /// As [`Self::flow`], of a packet that [`crate::parse::parse_plain`] recognised. A hook, so that
    /// the kernel can do without a function call.
    fn flow_of_plain(&self, id: u32, direction: Direction, packet: &Packet) -> Option<FlowState> {
        self.flow(id, direction, packet)
    }
    /// What this processor still knows of the flow of such a packet. A hook for the kernel, where
    /// looking a flow up costs more than the rest of a verdict.
    fn recent_flow(
        &self,
        _id: u32,
        _direction: Direction,
        _packet: &Packet,
        _moment: Moment,
    ) -> Option<FlowState> {
        None
    }
    /// Keeps what [`Self::flow_of_plain`] found for [`Self::recent_flow`].
    fn note_flow(
        &self,
        _id: u32,
        _direction: Direction,
        _packet: &Packet,
        _moment: Moment,
        _state: &FlowState,
    ) {
    }
    /// Remembers the flow of a packet.
    fn store_flow(&self, id: u32, direction: Direction, packet: &Packet, state: &FlowState);
    /// Forgets the flow of a packet.
    fn forget_flow(&self, id: u32, direction: Direction, packet: &Packet);
    /// The verdict of a first fragment; `stage` is [`crate::abi::FragmentKey::direction`].
    fn fragment(&self, stage: u8, id: u32, packet: &Packet) -> Option<FragmentState>;
    /// Remembers the verdict of a first fragment.
    fn store_fragment(&self, stage: u8, id: u32, packet: &Packet, state: &FragmentState);
}

/// The tables, the configuration and the pod that judge a packet.
#[derive(Debug)]
pub struct Court<'a, W> {
    /// Tables and state.
    pub world: &'a W,
    /// Node-wide switches.
    pub config: &'a Config,
    /// The published bank.
    pub bank: Bank,
    /// The pod.
    pub endpoint: &'a Endpoint,
    /// Its slot.
    pub slot: u32,
}

/// What is known of a flow. Not an `Option`, whose contents the compiler for BPF would copy where
/// there are none, which the verifier refuses.
#[derive(Default)]
struct Known {
    state: FlowState,
    /// The flow is known; else `state` is nothing.
    is: bool,
}

impl<W: Tables + State> Court<'_, W> {
    /// Judges a frame from the pod or to it. `source` is not [`Source::Address`] where the sender of
    /// a packet to the pod is known better. `quoted` is the packet that an ICMP error is about.
    #[inline(always)]
    pub fn judge(
        &self,
        direction: Direction,
        frame: Frame,
        source: Source,
        packet: &Packet,
        quoted: Option<&Packet>,
    ) -> Judgement {
        match self.rule(direction, frame, source, packet, quoted) {
            Ruling::Final(judgement) => judgement,
            Ruling::Open(cell) => self.settle(direction, source, packet, cell),
        }
    }

    /// Judges egress of a deferred packet once its real destination is known. `own` says that it
    /// goes back to the pod itself.
    #[inline(always)]
    pub fn deferred(&self, frame: Frame, own: bool, packet: &Packet) -> Judgement {
        const STAGE: u8 = 2;
        let source = if own { Source::Own } else { Source::Address };
        if !matches!(frame, Frame::Ip) {
            return self.audited(Judgement::of(Outcome::Malformed));
        }
        if matches!(packet.fragment, Fragment::Later) {
            let judgement = self.later_fragment(STAGE, Direction::Egress, source, packet);
            return self.audited(judgement);
        }
        let inquiry = Inquiry::of_new_flow(Direction::Egress, source, packet);
        let cell = self.world.consult(self, packet, &inquiry);
        // Still a Service whose backends differ: somebody else translates it, out of sight.
        let admitted = cell.action() == Cell::ALLOW || cell.audit();
        let judgement = Judgement {
            outcome: match cell.action() {
                Cell::ALLOW => Outcome::Allowed,
                _ => Outcome::BackendDenied,
            },
            cell,
        };
        if matches!(packet.fragment, Fragment::First) {
            let verdict = if admitted {
                FRAGMENT_ALLOWED
            } else {
                FRAGMENT_DENIED
            };
            self.remember_fragment(STAGE, verdict, packet);
        }
        self.audited(judgement)
    }

    /// Judges what needs no table: frames that are not IP, and pods that are not known.
    #[inline(always)]
    fn frame(&self, direction: Direction, frame: Frame, packet: &Packet) -> Option<Judgement> {
        let outcome = match frame {
            Frame::Arp => Outcome::Infrastructure,
            Frame::Ip if matches!(packet.kind, Kind::Neighbour) => Outcome::Infrastructure,
            _ if self.endpoint.flags & ENDPOINT_QUARANTINE != 0 => Outcome::Quarantined,
            Frame::Ip => return None,
            _ if self.row(direction) == 0 => Outcome::Unenforced,
            Frame::Other => Outcome::NotIp,
            Frame::Malformed => Outcome::Malformed,
        };
        Some(Judgement::of(outcome))
    }

    /// Settles what [`Self::rule`] left open about a packet of whose direction the table says
    /// `cell`: what that makes of it as a new flow, unless it is an answer.
    #[inline(always)]
    pub fn settle(
        &self,
        direction: Direction,
        source: Source,
        packet: &Packet,
        cell: Cell,
    ) -> Judgement {
        let now = self.world.now();
        let mut known = self.known(direction, packet, now);
        let answer = if cell.action() == Cell::DENY {
            self.answer(direction, packet, &mut known, now)
        } else {
            None
        };
        let judgement = if let Some(judgement) = answer {
            judgement
        } else {
            if admits(cell) && self.remembers(direction, source, packet) {
                self.remember(direction, source, packet, cell, &known, now);
            }
            self.audited(judged(cell))
        };
        if matches!(packet.fragment, Fragment::First) && self.row(direction) != 0 {
            let verdict = match judgement.outcome {
                Outcome::Deferred => FRAGMENT_DEFERRED,
                _ if judgement.passes() => FRAGMENT_ALLOWED,
                _ => FRAGMENT_DENIED,
            };
            self.remember_fragment(direction as u8, verdict, packet);
        }
        judgement
    }

    /// Whether an admitted packet's flow has to be tracked: replies could be denied otherwise, or a
    /// change of policy could take the reply for the opener.
    #[inline(always)]
    fn remembers(&self, direction: Direction, source: Source, packet: &Packet) -> bool {
        let tracked = match packet.kind {
            Kind::Opening | Kind::Stream | Kind::Datagram | Kind::EchoRequest | Kind::EchoReply => {
                !matches!(packet.fragment, Fragment::Later)
            }
            Kind::Error | Kind::TooBig | Kind::Redirect | Kind::Neighbour | Kind::Message => false,
        };
        if self.config.flags & CONFIG_KEEP_ESTABLISHED != 0 {
            return tracked && !matches!(packet.kind, Kind::Stream);
        }
        // Who opened a connection decides what a change of policy makes of it, and only its first
        // packet shows that.
        if matches!(packet.kind, Kind::Opening) {
            return tracked;
        }
        let enforced = self.row(direction) != 0;
        let enforced_back = self.row(direction.opposite()) != 0;
        match packet.kind {
            // The table finds replies by address, which is not how this peer was admitted. Where
            // everybody is admitted that makes no difference.
            Kind::Stream => {
                tracked && enforced && enforced_back && !matches!(source, Source::Address)
            }
            // Its first packet, not the reply, has to say who opened the flow.
            _ => tracked && (enforced || enforced_back),
        }
    }

    /// Settles the initial SYN of a connection that [`Self::rule_plain`] left open with `cell`, which
    /// admits it: nothing else can have been left open.
    #[inline(always)]
    pub fn settle_opening(
        &self,
        direction: Direction,
        source: Source,
        packet: &Packet,
        cell: Cell,
    ) -> Judgement {
        self.open(direction, source, packet, cell, self.world.now());
        self.audited(judged(cell))
    }

    /// Tracks a flow that an admitted packet opens.
    #[inline(always)]
    fn open(&self, direction: Direction, source: Source, packet: &Packet, cell: Cell, now: u32) {
        let state = FlowState::opened(direction, source, now, self.bank.generation, cell.0);
        self.world
            .store_flow(self.endpoint.id, direction, packet, &state);
    }

    /// What is known of a packet's flow: nothing that is worth anything unless the packet may belong
    /// to one that others have opened.
    #[inline(always)]
    fn known(&self, direction: Direction, packet: &Packet, now: u32) -> Known {
        let follows = matches!(
            packet.kind,
            Kind::Stream | Kind::Datagram | Kind::EchoRequest | Kind::EchoReply
        );
        if follows
            && let Some(state) = self.world.flow(self.endpoint.id, direction, packet)
            && !state.is_expired(self.config, packet.protocol, now)
        {
            return Known { state, is: true };
        }
        Known::default()
    }

    /// Tracks the flow of an admitted packet. `known` is what is known of the flow, unless the packet
    /// can be nothing but its first.
    #[inline(always)]
    fn remember(
        &self,
        direction: Direction,
        source: Source,
        packet: &Packet,
        cell: Cell,
        known: &Known,
        now: u32,
    ) {
        let generation = self.bank.generation;
        let state = &known.state;
        if known.is {
            let opened_here = state.initiator() as u8 == direction as u8;
            if opened_here || state.generation == generation {
                self.refresh(direction, packet, state, now);
                return;
            }
            // Who opened a TCP connection its SYN has shown: this is a reply, admitted as if it were
            // none. What today's tables say of the connection is up to the opener's next packet.
            if matches!(packet.kind, Kind::Stream) {
                return;
            }
            // Others were opened by the other end under tables that are gone: from now on the flow
            // stands on what admits this packet.
        }
        self.open(direction, source, packet, cell, now);
    }

    /// Notes a packet of a flow.
    #[inline(always)]
    fn refresh(&self, direction: Direction, packet: &Packet, state: &FlowState, now: u32) {
        let generation = self.bank.generation;
        if let Some(next) = state.seen(direction, packet, generation, now, self.config.hz) {
            self.world
                .store_flow(self.endpoint.id, direction, packet, &next);
        }
    }

    /// Judges a packet that its own direction denies as an answer to a flow in the other direction.
    /// Forgets what is `known` of the flow if nobody admits it any more.
    #[inline(always)]
    fn answer(
        &self,
        direction: Direction,
        packet: &Packet,
        known: &mut Known,
        now: u32,
    ) -> Option<Judgement> {
        match packet.kind {
            Kind::Stream | Kind::Datagram | Kind::EchoReply | Kind::EchoRequest => {}
            Kind::Opening
            | Kind::Error
            | Kind::TooBig
            | Kind::Redirect
            | Kind::Neighbour
            | Kind::Message => return None,
        }
        let keep = self.config.flags & CONFIG_KEEP_ESTABLISHED != 0;
        let state = known.state;
        let source = if known.is {
            if state.initiator() as u8 == direction as u8 && !keep {
                // A flow that this direction admitted once and denies now.
                return None;
            }
            state.peer()
        } else if self.picks_up(packet) {
            // Nobody saw it opened: it may be a reply to what the opposite direction admits.
            Source::Address
        } else {
            return None;
        };
        let current = known.is && (keep || state.generation == self.bank.generation);
        if !current {
            let inquiry = Inquiry {
                table: direction.opposite(),
                source,
                direction,
                port: Port::Known(packet.source_port),
                quoted: false,
            };
            let cell = self.world.consult(self, packet, &inquiry);
            if !admits(cell) {
                if known.is {
                    self.world.forget_flow(self.endpoint.id, direction, packet);
                    known.is = false;
                }
                return None;
            }
            if !known.is {
                return Some(Judgement {
                    outcome: Outcome::Reply,
                    cell,
                });
            }
        }
        self.refresh(direction, packet, &state, now);
        Some(Judgement {
            outcome: Outcome::Established,
            cell: Cell(state.cell),
        })
    }

    /// Whether a packet whose flow nobody saw opening may be taken for a reply.
    #[inline(always)]
    fn picks_up(&self, packet: &Packet) -> bool {
        match packet.kind {
            Kind::Stream => self.config.flags & CONFIG_STRICT_TCP == 0,
            Kind::Datagram | Kind::EchoReply => self.endpoint.flags & ENDPOINT_PICKUP != 0,
            Kind::EchoRequest
            | Kind::Opening
            | Kind::Error
            | Kind::TooBig
            | Kind::Redirect
            | Kind::Neighbour
            | Kind::Message => false,
        }
    }

    /// Whether an ICMP error is about traffic of the pod that the tables admit in one direction or
    /// the other, or that is tracked.
    #[inline(always)]
    fn is_related(&self, direction: Direction, packet: &Packet, quoted: &Packet) -> bool {
        let opposite = direction.opposite();
        // The quoted packet went the other way, so the pod is its other end.
        let about_pod = match direction {
            Direction::Ingress => quoted.source == packet.destination,
            Direction::Egress => quoted.destination == packet.source,
        };
        if !about_pod {
            return false;
        }
        // Losing one of these stalls a connection, and the kernel checks what they quote.
        if matches!(packet.kind, Kind::TooBig) {
            return true;
        }
        let admitted = |table, port| {
            let inquiry = Inquiry {
                table,
                source: Source::Address,
                direction: opposite,
                port: Port::Known(port),
                quoted: true,
            };
            admits(self.world.consult(self, quoted, &inquiry))
        };
        if admitted(opposite, quoted.destination_port) || admitted(direction, quoted.source_port) {
            return true;
        }
        let flow = self.world.flow(self.endpoint.id, opposite, quoted);
        flow.is_some()
    }

    /// Judges a fragment without transport header: as its first fragment, else by what the table
    /// says of all ports.
    #[inline(always)]
    fn later_fragment(
        &self,
        stage: u8,
        direction: Direction,
        source: Source,
        packet: &Packet,
    ) -> Judgement {
        if let Some(first) = self.world.fragment(stage, self.endpoint.id, packet)
            && self.world.now().wrapping_sub(first.seen) <= FRAGMENT_SECONDS * self.config.hz
        {
            return Judgement::of(match first.verdict {
                FRAGMENT_ALLOWED => Outcome::FragmentOfAllowed,
                FRAGMENT_DEFERRED => Outcome::Deferred,
                _ => Outcome::FragmentOfDenied,
            });
        }
        let inquiry = Inquiry {
            table: direction,
            source,
            direction,
            port: Port::Unknown,
            quoted: false,
        };
        let cell = self.world.consult(self, packet, &inquiry);
        let outcome = match cell.action() {
            Cell::ALLOW => Outcome::Allowed,
            Cell::DENY => Outcome::Denied,
            _ => return Judgement::of(Outcome::FragmentWithoutFirst),
        };
        Judgement { outcome, cell }
    }

    #[inline(always)]
    fn remember_fragment(&self, stage: u8, verdict: u32, packet: &Packet) {
        let state = FragmentState {
            seen: self.world.now(),
            verdict,
        };
        self.world
            .store_fragment(stage, self.endpoint.id, packet, &state);
    }

    /// What a table says of a flow with the other end of `packet`.
    #[inline(always)]
    pub fn consult(&self, packet: &Packet, inquiry: &Inquiry) -> Cell {
        let Inquiry {
            table,
            source,
            direction,
            port,
            ..
        } = *inquiry;
        let port = match port {
            Port::Known(_) if !packet.has_ports() => Port::Known(0),
            _ => port,
        };
        let row = self.row(table);
        if row == 0 {
            return UNENFORCED;
        }
        let peer = match source {
            Source::Address => Peer::Address,
            Source::Host => Peer::Class(CLASS_HOST),
            Source::Slot(slot) => self.peer_in_slot(slot, packet.ipv6),
            Source::Own => {
                let own = if packet.ipv6 {
                    &self.endpoint.own6
                } else {
                    &self.endpoint.own4
                };
                Peer::Entry(RowEntry(half(own, &self.bank, table)))
            }
        };
        let question = Question {
            row,
            peer,
            address: remote_of(direction, packet),
            ipv6: packet.ipv6,
            egress: matches!(table, Direction::Egress),
            protocol: packet.protocol,
            port,
        };
        self.mode(lookup::cell(self.world, &self.bank, &question))
    }

    /// The pod in a slot as a peer; by its address where the slot has nothing to say.
    #[inline(always)]
    fn peer_in_slot(&self, slot: u32, ipv6: bool) -> Peer {
        if let Some(endpoint) = self.world.endpoint(slot)
            && endpoint.ifindex != 0
        {
            let [class4, class6] = halves(of_bank(&endpoint.classes, &self.bank));
            let class = if ipv6 { class6 } else { class4 };
            if class != CLASS_NONE {
                return Peer::Class(class);
            }
        }
        Peer::Address
    }

    #[inline(always)]
    fn row(&self, direction: Direction) -> u16 {
        half(&self.endpoint.rows, &self.bank, direction)
    }

    #[inline(always)]
    fn is_spoofed(&self, packet: &Packet) -> bool {
        if self.endpoint.flags & ENDPOINT_CHECK_SOURCE == 0 {
            return false;
        }
        if packet.ipv6 {
            let [first, second, ..] = packet.source.octets();
            let link_local = first == 0xfe && second & 0xc0 == 0x80;
            !link_local && packet.source != Address::v6(self.endpoint.ipv6)
        } else {
            packet.source != Address::v4(self.endpoint.ipv4)
        }
    }

    #[inline(always)]
    fn is_auditing(&self) -> bool {
        self.config.flags & CONFIG_AUDIT != 0 || self.endpoint.flags & ENDPOINT_AUDIT != 0
    }

    /// The cell as audit mode of the node or the pod has it.
    #[inline(always)]
    fn mode(&self, cell: Cell) -> Cell {
        if cell.action() == Cell::DENY && self.is_auditing() {
            cell.with_audit()
        } else {
            cell
        }
    }

    /// The judgement as audit mode of the node or the pod has it.
    #[inline(always)]
    fn audited(&self, judgement: Judgement) -> Judgement {
        if judgement.outcome.is_drop() && self.is_auditing() {
            Judgement {
                cell: judgement.cell.with_audit(),
                ..judgement
            }
        } else {
            judgement
        }
    }
}

/// The cell where no policy concerns the pod.
const UNENFORCED: Cell = Cell::new(Cell::ALLOW, 3, false, 0);

/// What a cell makes of a packet.
#[inline(always)]
const fn judged(cell: Cell) -> Judgement {
    if cell.0 == UNENFORCED.0 {
        return Judgement::of(Outcome::Unenforced);
    }
    let outcome = match cell.action() {
        Cell::ALLOW => Outcome::Allowed,
        Cell::DEFER => Outcome::Deferred,
        _ => Outcome::Denied,
    };
    Judgement { outcome, cell }
}

/// Whether a cell lets packets pass for now.
#[inline(always)]
const fn admits(cell: Cell) -> bool {
    matches!(cell.action(), Cell::ALLOW | Cell::DEFER) || cell.audit()
}

/// The end of a packet that is not the pod.
#[inline(always)]
const fn remote_of(direction: Direction, packet: &Packet) -> Address {
    match direction {
        Direction::Ingress => packet.source,
        Direction::Egress => packet.destination,
    }
}

#[inline(always)]
const fn halves(word: u32) -> [u16; 2] {
    [(word & 0xffff) as u16, (word >> 16) as u16]
}

/// The half of a per-bank word of [`Endpoint`] for a direction.
#[inline(always)]
const fn half(words: &[u32; 2], bank: &Bank, direction: Direction) -> u16 {
    let [ingress, egress] = halves(of_bank(words, bank));
    match direction {
        Direction::Ingress => ingress,
        Direction::Egress => egress,
    }
}

/// The word of a bank. Not by index: of a copy on the stack the verifier wants constant offsets.
#[inline(always)]
const fn of_bank(words: &[u32; 2], bank: &Bank) -> u32 {
    if bank.number == 0 { words[0] } else { words[1] }
}
