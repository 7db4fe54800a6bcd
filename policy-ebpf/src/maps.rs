// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! Which maps do the programs read and write?

use aya_ebpf::{
    Global,
    bindings::{BPF_ANY, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    helpers::bpf_jiffies64,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use policy_ebpf_common::{
    abi::{
        BANKS, Cell, Config, Counter, ENDPOINT_SLOTS, Endpoint, EventBudget, FlowKey4, FlowKey6,
        FlowState, FragmentKey, FragmentState, HostBucket, PortSet, RowChunk, ServiceKey, TrieNode,
        TrieWord,
    },
    decide::{Court, Inquiry, OUTCOMES, Standing, State},
    flow::{Direction, fragment_key, key4_of_plain, key6_of_plain},
    lookup::Tables,
    parse::{Address, Packet},
    recent::{Moment, RECENT_FLOWS, Recent, recent_index},
};

use crate::case;

// Entries per bank; the loader replaces the numbers by half of what the maps hold.
#[unsafe(no_mangle)]
static TRIE4_CAPACITY: Global<u32> = Global::new(32_768);
#[unsafe(no_mangle)]
static TRIE6_CAPACITY: Global<u32> = Global::new(16_384);
#[unsafe(no_mangle)]
static HOSTS6_CAPACITY: Global<u32> = Global::new(32_768);
#[unsafe(no_mangle)]
static ROWS_CAPACITY: Global<u32> = Global::new(65_536);
#[unsafe(no_mangle)]
static UNIFORM_CAPACITY: Global<u32> = Global::new(32_768);
#[unsafe(no_mangle)]
static PORT_SETS_CAPACITY: Global<u32> = Global::new(8_192);

#[map]
pub(crate) static CONFIG: Array<Config> = Array::pinned(1, BPF_F_MMAPABLE);
#[map]
pub(crate) static ENDPOINTS: Array<Endpoint> = Array::pinned(ENDPOINT_SLOTS, BPF_F_MMAPABLE);
#[map(name = "ENDPOINT_SLOTS")]
static ENDPOINT_SLOTS_BY_IFINDEX: HashMap<u32, u32> = HashMap::pinned(ENDPOINT_SLOTS, 0);
#[map]
static TRIE4: Array<TrieNode> = Array::pinned(BANKS * 32_768, BPF_F_MMAPABLE);
#[map]
static TRIE6: Array<TrieNode> = Array::pinned(BANKS * 16_384, BPF_F_MMAPABLE);
#[map]
static HOSTS6: Array<HostBucket> = Array::pinned(BANKS * 32_768, BPF_F_MMAPABLE);
#[map]
static ROWS: Array<RowChunk> = Array::pinned(BANKS * 65_536, BPF_F_MMAPABLE);
#[map]
static UNIFORM: Array<u32> = Array::pinned(BANKS * 32_768, BPF_F_MMAPABLE);
#[map]
static PORT_SETS: Array<PortSet> = Array::pinned(BANKS * 8_192, BPF_F_MMAPABLE);
#[map]
static SERVICES: HashMap<ServiceKey, u32> = HashMap::pinned(BANKS * 65_536, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static CT4: LruHashMap<FlowKey4, FlowState> = LruHashMap::pinned(131_072, 0);
#[map]
pub(crate) static CT6: LruHashMap<FlowKey6, FlowState> = LruHashMap::pinned(131_072, 0);
#[map]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentState> = LruHashMap::pinned(8_192, 0);
#[map]
pub(crate) static RULE_COUNTERS: PerCpuArray<Counter> = PerCpuArray::pinned(16_384, 0);
#[map]
pub(crate) static OUTCOME_COUNTERS: PerCpuArray<Counter> = PerCpuArray::pinned(2 * OUTCOMES, 0);
#[map]
pub(crate) static EVENT_BUDGETS: Array<EventBudget> = Array::pinned(ENDPOINT_SLOTS + 1, 0);
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::pinned(1 << 20, 0);

/// Room for the packet at hand and what belongs to it.
///
/// Not on the stack: what the verifier knows of the stack multiplies the paths it follows, while of
/// a map it knows nothing. Programs run to their end on one processor.
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Copies in a row of [`RECENT`]: a page.
const RECENT_ROW: u32 = 64;

/// The flows that this processor has looked up lately. In rows, because every value of a per-CPU
/// array is found through a pointer of its own.
#[map]
static RECENT: PerCpuArray<[Recent; RECENT_ROW as usize]> =
    PerCpuArray::with_max_entries(RECENT_FLOWS / RECENT_ROW, 0);

/// What a packet is judged with.
// The packet, which most packets need alone, is in front.
#[repr(C)]
pub(crate) struct Scratch {
    /// The packet at hand.
    pub(crate) packet: Packet,
    /// The one it quotes.
    pub(crate) quoted: Packet,
    /// The state of a flow, between the function that reads or writes it and the one that wants it.
    pub(crate) state: FlowState,
    /// The key of a flow.
    pub(crate) key4: FlowKey4,
    /// See `key4`.
    pub(crate) key6: FlowKey6,
}

/// The tables and state that the kernel holds.
pub(crate) struct Kernel;

impl Kernel {
    /// The endpoint of an interface, and its slot.
    #[inline(always)]
    pub(crate) fn endpoint_of(ifindex: u32) -> Option<(u32, &'static Endpoint)> {
        let slot = ifindex & (ENDPOINT_SLOTS - 1);
        let endpoint = ENDPOINTS.get(slot)?;
        if endpoint.ifindex == ifindex {
            return Some((slot, endpoint));
        }
        // SAFETY: the value is one aligned word; a concurrent update is seen before or after it.
        let slot = unsafe { *ENDPOINT_SLOTS_BY_IFINDEX.get(&ifindex)? };
        let endpoint = ENDPOINTS.get(slot)?;
        (endpoint.ifindex == ifindex).then_some((slot, endpoint))
    }
}

/// This processor's [`SCRATCH`].
#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut Scratch> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: the slot is this processor's. A program holds the reference of one call of this
    // function while functions that it calls use those of others: the packets are read by all and
    // written by `judge` and `inspect` only, which hold no other; the rest is written and read within
    // `track`, `flow_of` and `flow_of_plain`. The kernel zeroes new maps, and zero is valid; later the
    // slot holds what was written by us.
    Some(unsafe { &mut *scratch })
}

/// The place of this processor's copy of a plain packet's flow.
#[inline(always)]
pub(crate) fn recent(
    id: u32,
    direction: Direction,
    packet: &Packet,
) -> Option<&'static mut Recent> {
    let index = recent_index(id, direction, packet);
    let row = RECENT.get_ptr_mut(index / RECENT_ROW)?;
    // SAFETY: as for the scratch map; nobody holds a reference for longer than one lookup or note.
    Some(unsafe { &mut (*row)[(index % RECENT_ROW) as usize] })
}

impl Tables for Kernel {
    #[inline(always)]
    fn trie4(&self, bank: u32, node: u32, word: u32) -> Option<u32> {
        let node = TRIE4.get(bank * TRIE4_CAPACITY.load() + node)?;
        Some(node.words[word as usize & 15])
    }

    #[inline(always)]
    fn trie6(&self, bank: u32, node: u32, word: u32) -> Option<u32> {
        let node = TRIE6.get(bank * TRIE6_CAPACITY.load() + node)?;
        Some(node.words[word as usize & 15])
    }

    #[inline(always)]
    fn host6(&self, bank: u32, bucket: u32) -> Option<&HostBucket> {
        HOSTS6.get(bank * HOSTS6_CAPACITY.load() + bucket)
    }

    #[inline(always)]
    fn row(&self, bank: u32, chunk: u32, entry: u32) -> Option<u16> {
        let chunk = ROWS.get(bank * ROWS_CAPACITY.load() + chunk)?;
        Some(chunk.entries[entry as usize & 31])
    }

    #[inline(always)]
    fn uniform(&self, bank: u32, index: u32) -> Option<u32> {
        UNIFORM.get(bank * UNIFORM_CAPACITY.load() + index).copied()
    }

    #[inline(always)]
    fn port_set(&self, bank: u32, index: u32) -> Option<&PortSet> {
        PORT_SETS.get(bank * PORT_SETS_CAPACITY.load() + index)
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<u32> {
        // SAFETY: the value is one aligned word; a concurrent update is seen before or after it.
        unsafe { SERVICES.get(key).copied() }
    }

    #[inline(always)]
    fn prefix6(&self, bank: u32, address: &Address) -> TrieWord {
        case::prefix6(bank, address)
    }

    #[inline(always)]
    fn class_of_service(
        &self,
        bank: u32,
        address: &Address,
        protocol: u8,
        port: u16,
    ) -> Option<u16> {
        case::class_of_service(bank, address, protocol, port)
    }

    #[inline(always)]
    fn nested_set(&self, bank: u32, index: u32, key: u32) -> Cell {
        case::nested_set(bank, index, key)
    }
}

impl State for Kernel {
    #[inline(always)]
    fn now(&self) -> u32 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_jiffies64() as u32 }
    }

    #[inline(always)]
    fn consult(&self, court: &Court<'_, Self>, _packet: &Packet, inquiry: &Inquiry) -> Cell {
        // The packet is the one in the scratch map that the inquiry says.
        case::consult(court, inquiry)
    }

    #[inline(always)]
    fn endpoint(&self, slot: u32) -> Option<&Endpoint> {
        ENDPOINTS.get(slot)
    }

    // Beyond the entry points the packet is the one in the scratch map.

    #[inline(always)]
    fn flow(&self, id: u32, direction: Direction, _packet: &Packet) -> Option<FlowState> {
        case::flow_of(id, direction)
    }

    #[inline(always)]
    fn look_up(
        &self,
        _config: &Config,
        generation: u32,
        id: u32,
        direction: Direction,
        _packet: &Packet,
    ) -> Option<Standing> {
        // The configuration is the one of all packets.
        case::look_up(id, direction, generation)
    }

    #[inline(always)]
    fn flow_of_plain(&self, id: u32, direction: Direction, packet: &Packet) -> Option<FlowState> {
        // Keys in the scratch map are none on the stack.
        let Scratch { key4, key6, .. } = scratch()?;
        // SAFETY: another processor may write the entry meanwhile. Its words are independent: each
        // read word is one that was true a moment ago.
        unsafe {
            if packet.ipv6 {
                *key6 = key6_of_plain(id, direction, packet);
                CT6.get(&*key6).copied()
            } else {
                *key4 = key4_of_plain(id, direction, packet);
                CT4.get(&*key4).copied()
            }
        }
    }

    #[inline(always)]
    fn recent_flow(
        &self,
        id: u32,
        direction: Direction,
        packet: &Packet,
        moment: Moment,
    ) -> Option<FlowState> {
        recent(id, direction, packet)?.find(id, direction, packet, moment)
    }

    #[inline(always)]
    fn note_flow(
        &self,
        id: u32,
        direction: Direction,
        packet: &Packet,
        moment: Moment,
        state: &FlowState,
    ) {
        if let Some(recent) = recent(id, direction, packet) {
            recent.note(id, direction, packet, moment, state);
        }
    }

    #[inline(always)]
    fn store_flow(&self, id: u32, direction: Direction, _packet: &Packet, state: &FlowState) {
        case::store_flow(id, direction, state);
    }

    #[inline(always)]
    fn forget_flow(&self, id: u32, direction: Direction, _packet: &Packet) {
        case::forget_flow(id, direction);
    }

    #[inline(always)]
    fn fragment(&self, stage: u8, id: u32, packet: &Packet) -> Option<FragmentState> {
        // SAFETY: as for flows.
        unsafe { FRAGMENTS.get(&fragment_key(id, stage, packet)).copied() }
    }

    // Its key would lie on the stack of who calls it: the functions of a call chain share 512 bytes.
    #[inline(never)]
    fn store_fragment(&self, stage: u8, id: u32, packet: &Packet, state: &FragmentState) {
        // Without the entry the later fragments are judged without their ports.
        let _stored = FRAGMENTS.insert(&fragment_key(id, stage, packet), state, u64::from(BPF_ANY));
    }
}
