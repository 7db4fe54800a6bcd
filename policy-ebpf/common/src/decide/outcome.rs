// SPDX-License-Identifier: Apache-2.0 OR MIT OR GPL-2.0-only
//! What can become of a packet?

use crate::abi::Cell;

/// What became of a packet. The codes are part of the map ABI: counters and events carry them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Outcome {
    /// No policy concerns the pod in this direction.
    Unenforced = 0,
    /// A rule admits the packet.
    Allowed = 1,
    /// The packet goes to a Service whose backends differ: judged again after address translation.
    Deferred = 2,
    /// The packet answers what the opposite direction admits.
    Reply = 3,
    /// The packet belongs to a tracked flow.
    Established = 4,
    /// An ICMP error about traffic that is admitted.
    Related = 5,
    /// Address resolution, neighbour discovery, multicast listener discovery.
    Infrastructure = 6,
    /// The first fragment of the datagram passed.
    FragmentOfAllowed = 7,
    /// A rule, or isolation, denies the packet.
    Denied = 16,
    /// The pod is not known yet.
    Quarantined = 17,
    /// The programs run on an interface that is no endpoint.
    UnknownInterface = 18,
    /// Neither IP nor ARP.
    NotIp = 19,
    /// IP that does not parse.
    Malformed = 20,
    /// The source address is not the pod's.
    Spoofed = 21,
    /// The first fragment of the datagram was dropped.
    FragmentOfDenied = 22,
    /// A fragment whose first one was not seen, under a table that tells ports apart.
    FragmentWithoutFirst = 23,
    /// An ICMPv4 redirect.
    Redirect = 24,
    /// Egress denied after address translation had shown the backend.
    BackendDenied = 25,
}

/// Codes of [`Outcome`] are below this.
pub const OUTCOMES: u32 = 32;

impl Outcome {
    /// Every outcome, by code.
    pub const ALL: [Self; 18] = [
        Self::Unenforced,
        Self::Allowed,
        Self::Deferred,
        Self::Reply,
        Self::Established,
        Self::Related,
        Self::Infrastructure,
        Self::FragmentOfAllowed,
        Self::Denied,
        Self::Quarantined,
        Self::UnknownInterface,
        Self::NotIp,
        Self::Malformed,
        Self::Spoofed,
        Self::FragmentOfDenied,
        Self::FragmentWithoutFirst,
        Self::Redirect,
        Self::BackendDenied,
    ];

    /// The outcome with this code.
    #[inline(always)]
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Unenforced,
            1 => Self::Allowed,
            2 => Self::Deferred,
            3 => Self::Reply,
            4 => Self::Established,
            5 => Self::Related,
            6 => Self::Infrastructure,
            7 => Self::FragmentOfAllowed,
            16 => Self::Denied,
            17 => Self::Quarantined,
            18 => Self::UnknownInterface,
            19 => Self::NotIp,
            20 => Self::Malformed,
            21 => Self::Spoofed,
            22 => Self::FragmentOfDenied,
            23 => Self::FragmentWithoutFirst,
            24 => Self::Redirect,
            25 => Self::BackendDenied,
            _ => return None,
        })
    }

    /// Whether the packet is to be dropped, audit mode aside.
    #[inline(always)]
    pub const fn is_drop(self) -> bool {
        self as u8 >= Self::Denied as u8
    }
}

/// What became of a packet, and the cell that decided if one did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What became of the packet.
    pub outcome: Outcome,
    /// The deciding cell, or zero.
    pub cell: Cell,
}

impl Judgement {
    /// A judgement that no cell decided.
    #[inline(always)]
    pub const fn of(outcome: Outcome) -> Self {
        Self {
            outcome,
            cell: Cell(0),
        }
    }

    /// The judgement as a number, to pass between functions that the verifier checks apart from each
    /// other.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        self.outcome as u64 | (self.cell.0 as u64) << 32
    }

    /// The inverse of [`Self::pack`]; a number that is no judgement drops.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the halves are wanted")]
    pub const fn unpack(packed: u64) -> Self {
        Self {
            outcome: match Outcome::from_code(packed as u8) {
                Some(outcome) => outcome,
                None => Outcome::Malformed,
            },
            cell: Cell((packed >> 32) as u32),
        }
    }

    /// Whether the packet goes on its way.
    #[inline(always)]
    pub const fn passes(self) -> bool {
        !self.outcome.is_drop() || self.is_audited()
    }

    /// Whether the packet passes only because its denial is audited.
    #[inline(always)]
    pub const fn is_audited(self) -> bool {
        self.outcome.is_drop() && self.cell.audit()
    }
}
