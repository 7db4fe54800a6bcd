// SPDX-License-Identifier: Apache-2.0 OR MIT OR GPL-2.0-only
//! The map ABI: every key and value that crosses the boundary between user space and the kernel.
//!
//! Layout of the tables (all node-wide; sizes in entries are defaults the loader may raise):
//!
//! | map | type | entry | read as |
//! |---|---|---|---|
//! | `CONFIG` | array, mmap | [`Config`] | one entry; names the active bank |
//! | `ENDPOINTS` | array, mmap | [`Endpoint`] | slot → pod interface |
//! | `ENDPOINT_SLOTS` | hash | `u32` → `u32` | ifindex → slot, only for colliding slots |
//! | `TRIE4`, `TRIE6` | array, mmap, banked | [`TrieNode`] | address → [`TrieWord`] |
//! | `HOSTS6` | array, mmap, banked | [`HostBucket`] | exact IPv6 address → [`TrieWord`] |
//! | `ROWS` | array, mmap, banked | [`RowChunk`] | (row, class) → [`RowEntry`] |
//! | `UNIFORM` | array, mmap, banked | `u32` | [`RowEntry`] → [`Cell`] |
//! | `PORT_SETS` | array, mmap, banked | [`PortSet`] | (port set, protocol, port) → [`Cell`] |
//! | `SERVICES` | hash | [`ServiceKey`] → `u32` | (bank, address, protocol, port) → class |
//! | `CT4`, `CT6` | LRU hash | [`FlowKey4`]/[`FlowKey6`] → [`FlowState`] | |
//! | `FRAGMENTS` | LRU hash | [`FragmentKey`] → [`FragmentState`] | first fragment's verdict |
//! | `RULE_COUNTERS` | per-CPU array | [`Counter`] | reason id → packets, bytes |
//! | `OUTCOME_COUNTERS` | per-CPU array | [`Counter`] | direction × outcome code |
//! | `EVENT_BUDGETS` | array | [`EventBudget`] | slot → token bucket, and one for unknown interfaces |
//! | `EVENTS` | ring buffer | [`Event`] | |
//!
//! Banked maps hold two complete tables: entry `i` of bank `b` is at `b * capacity + i`, where the
//! capacity is half the map. User space writes the inactive bank, waits until no program can still
//! read it, and publishes it with the single aligned store to [`Config::active`]. A packet reads
//! `active` once, so it is judged by one table as a whole, never by a mixture.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bumped on every change of any layout or meaning in this file; part of the pin path, so that
/// programs never meet maps of another layout.
pub const ABI_VERSION: u32 = 1;

/// Number of banks of every banked map.
pub const BANKS: u32 = 2;
/// Slots in `ENDPOINTS`: `ifindex & (ENDPOINT_SLOTS - 1)` is the preferred slot. Must stay below
/// 2^14, the width of the slot in the source tag.
pub const ENDPOINT_SLOTS: u32 = 4096;
/// Words in a trie node: one per nibble.
pub const TRIE_FANOUT: usize = 16;
/// Nodes at the start of `TRIE4` that together form its root, indexed by the top 16 address bits.
pub const TRIE4_ROOT_NODES: u32 = 4096;
/// Row entries in a chunk (one cache line).
pub const ROW_CHUNK: usize = 32;
/// Boundaries in a port set; the search takes five steps.
pub const PORT_SET_BOUNDARIES: usize = 31;
/// Levels of nested port sets ([`Cell::DESCEND`]) that the datapath follows.
pub const PORT_SET_DEPTH: u32 = 4;

/// How a table is published and which global switches are on.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Config {
    /// [`ABI_VERSION`] of the writer.
    pub abi_version: u32,
    /// The bank programs read, 0 or 1.
    pub active: u32,
    /// Per bank: [`RowChunk`]s per row.
    pub row_chunks: [u32; 2],
    /// Per bank: number of this publication. A tracked flow whose generation differs is judged again.
    pub generation: [u32; 2],
    /// `CONFIG_*` bits.
    pub flags: u32,
    /// Events per second and endpoint; 0 switches events off.
    pub events_per_second: u32,
    /// Idle time after which an unreplied and a replied UDP flow are forgotten, in jiffies.
    pub udp_timeout: [u32; 2],
    /// Idle time after which other tracked protocols are forgotten, in jiffies.
    pub other_timeout: u32,
    /// Kernel ticks per second.
    pub hz: u32,
    /// Per bank: number of buckets of `HOSTS6` in use minus one; the number is a power of two.
    pub hosts6_mask: [u32; 2],
    /// Idle time after which a TCP connection that was not closed is forgotten, in jiffies.
    pub tcp_timeout: u32,
    /// The highest [`Endpoint::id`] given out.
    pub last_endpoint_id: u32,
}
const _: () = assert!(size_of::<Config>() == 64 && align_of::<Config>() == 4);

/// Count and report would-be drops of every endpoint, but let the packets pass.
pub const CONFIG_AUDIT: u32 = 1 << 0;
/// Report allowed new flows, too (within the same budget as drops).
pub const CONFIG_ALLOW_EVENTS: u32 = 1 << 1;
/// Admit a TCP packet that only a reply could explain only if its connection was seen opening.
pub const CONFIG_STRICT_TCP: u32 = 1 << 2;
/// Flows stay admitted after the policy that admitted them is gone.
pub const CONFIG_KEEP_ESTABLISHED: u32 = 1 << 3;

/// A pod interface: the host side of its veth pair.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Endpoint {
    /// Interface index of the host side; 0 marks a free slot.
    pub ifindex: u32,
    /// Never reused while the maps live, so state of a former owner of the ifindex cannot match.
    pub id: u32,
    /// `ENDPOINT_*` bits.
    pub flags: u32,
    /// Per bank: row for ingress in the low half, for egress in the high half; row 0 means that no
    /// policy of any tier concerns the pod in that direction.
    pub rows: [u32; 2],
    /// Per bank: [`RowEntry`] for IPv4 traffic of the pod to itself through a Service, ingress in the
    /// low half, egress in the high half.
    pub own4: [u32; 2],
    /// As `own4`, for IPv6.
    pub own6: [u32; 2],
    /// Per bank: class of the pod as a peer, by its IPv4 address in the low half, by its IPv6
    /// address in the high half.
    pub classes: [u32; 2],
    /// The pod's IPv4 address in network order, or zero.
    pub ipv4: [u8; 4],
    /// The pod's IPv6 address in network order, or zero.
    pub ipv6: [u8; 16],
}
const _: () = assert!(size_of::<Endpoint>() == 64 && align_of::<Endpoint>() == 4);

/// Nothing is known of the pod yet: pass neighbour discovery and ARP, drop the rest.
pub const ENDPOINT_QUARANTINE: u32 = 1 << 0;
/// Packets from the pod must carry one of its addresses as source.
pub const ENDPOINT_CHECK_SOURCE: u32 = 1 << 1;
/// Count and report would-be drops of this endpoint, but let the packets pass.
pub const ENDPOINT_AUDIT: u32 = 1 << 2;
/// The programs were attached moments ago, so flows may be older than their knowledge: a packet of
/// any protocol passes as a reply if the opposite direction admits what it would reply to.
pub const ENDPOINT_PICKUP: u32 = 1 << 3;

/// A row that denies everything: where a direction is enforced but its table is not known.
pub const ROW_DENY: u16 = u16::MAX;

/// A node of a multibit trie: one word per nibble.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct TrieNode {
    /// [`TrieWord`]s.
    pub words: [u32; TRIE_FANOUT],
}
const _: () = assert!(size_of::<TrieNode>() == 64);

/// A word of a trie: a child node or the class of the addresses below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrieWord(pub u32);

impl TrieWord {
    /// The low bits are the index of the child node.
    pub const CHILD: u32 = 1 << 31;
    /// The address has Service ports: look `SERVICES` up before falling back to the class.
    pub const SERVICE: u32 = 1 << 30;
    const CLASS: u32 = 0xffff;

    /// A leaf for addresses of `class`.
    #[inline(always)]
    pub const fn leaf(class: u16, service: bool) -> Self {
        Self(class as u32 | if service { Self::SERVICE } else { 0 })
    }
    /// An inner word that leads to node `index`.
    #[inline(always)]
    pub const fn child(index: u32) -> Self {
        Self(Self::CHILD | index)
    }
    /// Index of the child node, if the word leads to one.
    #[inline(always)]
    pub const fn as_child(self) -> Option<u32> {
        if self.0 & Self::CHILD != 0 {
            Some(self.0 & !Self::CHILD)
        } else {
            None
        }
    }
    /// Class of the addresses below a leaf.
    #[inline(always)]
    pub const fn class(self) -> u16 {
        (self.0 & Self::CLASS) as u16
    }
    /// Whether the address has Service ports.
    #[inline(always)]
    pub const fn is_service(self) -> bool {
        self.0 & Self::SERVICE != 0
    }
}

/// Class 0 is never assigned: its column is zero, hence denies.
pub const CLASS_NONE: u16 = 0;
/// The node's own network stack as a source, told by where the packet was generated.
pub const CLASS_HOST: u16 = 1;

/// Exact IPv6 addresses, three to a cache line. An address is in one of two buckets.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct HostBucket {
    /// Addresses as native-endian words of their network-order bytes; all zero when unused.
    pub keys: [[u32; 4]; 3],
    /// [`TrieWord`] leaves of the addresses.
    pub words: [u32; 3],
    /// Zero.
    pub _pad: u32,
}
const _: () = assert!(size_of::<HostBucket>() == 64);

/// The two buckets an address may be in, before masking with [`Config::hosts6_mask`].
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "each half of the hash is one bucket"
)]
pub const fn host_buckets(key: [u32; 4]) -> [u32; 2] {
    // Multiply-and-fold: enough to spread addresses that differ in few bits, cheap in BPF.
    let low = (key[0] as u64) << 32 | key[1] as u64;
    let high = (key[2] as u64) << 32 | key[3] as u64;
    let mut hash =
        low.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ high.wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
    hash ^= hash >> 29;
    hash = hash.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    [(hash >> 32) as u32, hash as u32]
}

/// Thirty-two [`RowEntry`]s. Row `r` starts at chunk `r * Config::row_chunks`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct RowChunk {
    /// Entries of 32 consecutive classes.
    pub entries: [u16; ROW_CHUNK],
}
const _: () = assert!(size_of::<RowChunk>() == 64);

/// What a row says of a class: one cell for every packet, or a port set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowEntry(pub u16);

impl RowEntry {
    const UNIFORM: u16 = 1 << 15;

    /// Every packet gets cell `index` of `UNIFORM`.
    #[inline(always)]
    pub const fn uniform(index: u16) -> Self {
        Self(Self::UNIFORM | index)
    }
    /// The packet's protocol and port select a cell of port set `index`.
    #[inline(always)]
    pub const fn port_set(index: u16) -> Self {
        Self(index)
    }
    /// Index into `UNIFORM`, if the entry is uniform.
    #[inline(always)]
    pub const fn as_uniform(self) -> Option<u16> {
        if self.0 & Self::UNIFORM != 0 {
            Some(self.0 & !Self::UNIFORM)
        } else {
            None
        }
    }
}

/// A partition of (protocol, destination port) into at most 32 intervals.
///
/// A packet's [`port_key`] is compared with the sorted boundaries: the number of boundaries that are
/// not greater selects the cell. Unused boundaries are [`u32::MAX`].
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct PortSet {
    /// Sorted lower ends of intervals 1 to 31 (interval 0 starts at 0).
    pub boundaries: [u32; PORT_SET_BOUNDARIES],
    /// Zero; keeps the boundaries one power of two long.
    pub _pad: u32,
    /// [`Cell`]s, one per interval.
    pub cells: [u32; PORT_SET_BOUNDARIES + 1],
}
const _: () = assert!(size_of::<PortSet>() == 256);

/// Protocol numbers of [`port_key`]: the three protocols with ports, and everything else.
pub const PORT_PROTOCOL_TCP: u32 = 0;
/// See [`PORT_PROTOCOL_TCP`].
pub const PORT_PROTOCOL_UDP: u32 = 1;
/// See [`PORT_PROTOCOL_TCP`].
pub const PORT_PROTOCOL_SCTP: u32 = 2;
/// See [`PORT_PROTOCOL_TCP`]; the port is 0.
pub const PORT_PROTOCOL_OTHER: u32 = 3;

/// The position of a packet in a [`PortSet`].
#[inline(always)]
pub const fn port_key(protocol: u32, port: u16) -> u32 {
    (protocol << 16) | port as u32
}

/// A verdict with its reason, in one word: action (2 bits), tier (2), audit (1), reason id (27).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell(pub u32);

impl Cell {
    /// Drop the packet.
    pub const DENY: u32 = 0;
    /// Let the packet pass.
    pub const ALLOW: u32 = 1;
    /// The destination is a Service whose endpoints differ: judge after address translation.
    pub const DEFER: u32 = 2;
    /// Not a verdict: the low bits are the port set to search next.
    pub const DESCEND: u32 = 3;
    /// Reason ids are below this.
    pub const REASONS: u32 = 1 << 27;

    const ACTION_SHIFT: u32 = 30;
    const TIER_SHIFT: u32 = 28;
    const AUDIT: u32 = 1 << 27;

    /// Builds a cell of `action` decided in `tier` (0 Admin, 1 NetworkPolicy, 2 Baseline, 3 Default).
    #[inline(always)]
    pub const fn new(action: u32, tier: u32, audit: bool, reason: u32) -> Self {
        Self(
            action << Self::ACTION_SHIFT
                | (tier & 3) << Self::TIER_SHIFT
                | if audit { Self::AUDIT } else { 0 }
                | (reason & (Self::REASONS - 1)),
        )
    }
    /// [`Cell::DENY`], [`Cell::ALLOW`], [`Cell::DEFER`] or [`Cell::DESCEND`].
    #[inline(always)]
    pub const fn action(self) -> u32 {
        self.0 >> Self::ACTION_SHIFT
    }
    /// 0 Admin, 1 NetworkPolicy, 2 Baseline, 3 Default.
    #[inline(always)]
    pub const fn tier(self) -> u32 {
        self.0 >> Self::TIER_SHIFT & 3
    }
    /// Report the denial, but let the packet pass.
    #[inline(always)]
    pub const fn audit(self) -> bool {
        self.0 & Self::AUDIT != 0
    }
    /// The same cell, reported but not enforced.
    #[inline(always)]
    #[must_use]
    pub const fn with_audit(self) -> Self {
        Self(self.0 | Self::AUDIT)
    }
    /// Index into user space's list of reasons; for [`Cell::DESCEND`] the next port set.
    #[inline(always)]
    pub const fn reason(self) -> u32 {
        self.0 & (Self::REASONS - 1)
    }
}

/// A Service's address and port in one bank.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct ServiceKey {
    /// IPv4 as `::ffff:a.b.c.d`, network order.
    pub address: [u8; 16],
    /// Network order.
    pub port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// 0 or 1.
    pub bank: u8,
}
const _: () = assert!(size_of::<ServiceKey>() == 20 && align_of::<ServiceKey>() == 1);

/// An IPv4 flow of one endpoint. Both directions have the same key.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct FlowKey4 {
    /// [`Endpoint::id`].
    pub endpoint: u32,
    /// Address on the pod's side, network order.
    pub local: [u8; 4],
    /// Address on the peer's side, network order.
    pub remote: [u8; 4],
    /// Port on the pod's side (ICMP echo: identifier), network order.
    pub local_port: [u8; 2],
    /// Port on the peer's side (ICMP echo: 0 if the pod asks, 1 if it is asked), network order.
    pub remote_port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub _pad: [u8; 3],
}
const _: () = assert!(size_of::<FlowKey4>() == 20 && align_of::<FlowKey4>() == 4);

/// An IPv6 flow of one endpoint; fields as [`FlowKey4`].
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct FlowKey6 {
    /// See [`FlowKey4::endpoint`].
    pub endpoint: u32,
    /// See [`FlowKey4::local`].
    pub local: [u8; 16],
    /// See [`FlowKey4::remote`].
    pub remote: [u8; 16],
    /// See [`FlowKey4::local_port`].
    pub local_port: [u8; 2],
    /// See [`FlowKey4::remote_port`].
    pub remote_port: [u8; 2],
    /// See [`FlowKey4::protocol`].
    pub protocol: u8,
    /// Zero.
    pub _pad: [u8; 3],
}
const _: () = assert!(size_of::<FlowKey6>() == 44 && align_of::<FlowKey6>() == 4);

/// What is remembered of a flow.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct FlowState {
    /// Low 32 bits of jiffies when a packet last passed; refreshed at most once a second.
    pub last_seen: u32,
    /// [`Config::generation`] of the tables that admitted the flow.
    pub generation: u32,
    /// The [`Cell`] that admitted the flow.
    pub cell: u32,
    /// `FLOW_*` bits.
    pub flags: u32,
}
const _: () = assert!(size_of::<FlowState>() == 16);

/// The pod opened the flow (egress); otherwise its peer did (ingress).
pub const FLOW_EGRESS: u32 = 1 << 0;
/// A packet in the other direction was seen; kept of UDP only, whose timeout depends on it.
pub const FLOW_REPLIED: u32 = 1 << 1;
/// A packet that ends a TCP connection was seen.
pub const FLOW_CLOSING: u32 = 1 << 2;
/// The peer that opened the flow is the node itself, whatever its address.
pub const FLOW_PEER_HOST: u32 = 1 << 3;
/// The peer that opened the flow is the pod itself.
pub const FLOW_PEER_OWN: u32 = 1 << 4;
/// The peer that opened the flow is the pod in the slot in the upper half of the flags, whatever its
/// address.
pub const FLOW_PEER_SLOT: u32 = 1 << 5;

/// A fragmented datagram of one endpoint and direction.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct FragmentKey {
    /// [`Endpoint::id`].
    pub endpoint: u32,
    /// IPv4 as `::ffff:a.b.c.d`, network order.
    pub source: [u8; 16],
    /// As `source`.
    pub destination: [u8; 16],
    /// Identification field, zero-extended for IPv4, network order.
    pub identification: [u8; 4],
    /// IP protocol number of the datagram; zero for IPv6, where only its first fragment tells.
    pub protocol: u8,
    /// 0 ingress, 1 egress, 2 egress after address translation.
    pub direction: u8,
    /// Zero.
    pub _pad: [u8; 2],
}
const _: () = assert!(size_of::<FragmentKey>() == 44);

/// What the first fragment was judged.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct FragmentState {
    /// Low 32 bits of jiffies.
    pub seen: u32,
    /// `FRAGMENT_*`.
    pub verdict: u32,
}
const _: () = assert!(size_of::<FragmentState>() == 8);

/// The first fragment was dropped.
pub const FRAGMENT_DENIED: u32 = 0;
/// The first fragment passed.
pub const FRAGMENT_ALLOWED: u32 = 1;
/// The first fragment passed, to be judged after address translation.
pub const FRAGMENT_DEFERRED: u32 = 2;

/// Packets and bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Counter {
    /// Packets, GSO segments counted once.
    pub packets: u64,
    /// Bytes including the Ethernet header.
    pub bytes: u64,
}
const _: () = assert!(size_of::<Counter>() == 16);

/// Token bucket that bounds an endpoint's events.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct EventBudget {
    /// Low 32 bits of jiffies at the last refill.
    pub refilled: u32,
    /// Events that may be sent before the next refill.
    pub tokens: u32,
    /// Events suppressed since the last one sent.
    pub suppressed: u32,
    /// Zero.
    pub _pad: u32,
}
const _: () = assert!(size_of::<EventBudget>() == 16);

/// One judged packet, as sent through the ring buffer.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Event {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub time: u64,
    /// [`Endpoint::id`].
    pub endpoint: u32,
    /// Interface the program ran on.
    pub ifindex: u32,
    /// The deciding [`Cell`]; zero where no rule decided.
    pub cell: u32,
    /// Bank the cell was read from.
    pub bank: u32,
    /// Packet length in bytes.
    pub length: u32,
    /// Events of this endpoint that were suppressed before this one.
    pub suppressed: u32,
    /// IPv4 as `::ffff:a.b.c.d`, network order.
    pub source: [u8; 16],
    /// As `source`.
    pub destination: [u8; 16],
    /// Network order.
    pub source_port: [u8; 2],
    /// Network order.
    pub destination_port: [u8; 2],
    /// Ethernet protocol, network order.
    pub ether_type: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// 0 ingress, 1 egress.
    pub direction: u8,
    /// Outcome code, see `decide::Outcome`.
    pub outcome: u8,
    /// 1 if the packet passed only because of audit mode.
    pub audited: u8,
    /// Zero.
    pub _pad: [u8; 6],
}
const _: () = assert!(size_of::<Event>() == 80 && align_of::<Event>() == 8);

/// The mark that the from-pod program leaves in `skb->tc_index` for the hooks behind address
/// translation: valid bit, defer bit, and the slot of the pod that really sent the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceTag(pub u32);

impl SourceTag {
    const VALID: u32 = 0x8000;
    const DEFER: u32 = 0x4000;
    const SLOT: u32 = 0x3fff;

    /// The tag of a packet sent by the endpoint in `slot`.
    #[inline(always)]
    pub const fn new(slot: u32, defer: bool) -> Self {
        Self(Self::VALID | if defer { Self::DEFER } else { 0 } | slot & Self::SLOT)
    }
    /// The sender's slot, if the value is a tag at all.
    #[inline(always)]
    pub const fn slot(self) -> Option<u32> {
        if self.0 & Self::VALID != 0 {
            Some(self.0 & Self::SLOT)
        } else {
            None
        }
    }
    /// Whether the egress verdict still has to be taken.
    #[inline(always)]
    pub const fn is_deferred(self) -> bool {
        self.0 & Self::VALID != 0 && self.0 & Self::DEFER != 0
    }
}
