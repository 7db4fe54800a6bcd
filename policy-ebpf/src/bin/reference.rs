// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! What do the lookups that others build on cost? Programs to measure ours against; they are no part
//! of the agent.
//!
//! `spread` makes every run of `BPF_PROG_TEST_RUN` a packet of another flow, then continues with the
//! program in `TARGET`: ours, or one of the others here.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]

/// On the host there is nothing to run; the benchmark loads the object built for the BPF target.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{
        bindings::{BPF_ANY, BPF_F_NO_PREALLOC, TC_ACT_SHOT, TC_ACT_UNSPEC},
        macros::{classifier, map},
        maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, lpm_trie::Key},
        programs::TcContext,
    };

    /// Peers: the words of an address (IPv4 in the first) and a port, in network order.
    #[map]
    static FLOWS: Array<[u32; 5]> = Array::with_max_entries(65_536, 0);
    /// Flows minus one (a power of two), and the bits below.
    #[map]
    static PLAN: Array<[u32; 2]> = Array::with_max_entries(1, 0);
    /// Packets made so far.
    #[map]
    static TURN: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);
    #[map]
    static TARGET: ProgramArray = ProgramArray::with_max_entries(1, 0);

    /// The peer is the destination; else it is the source.
    const TO_PEER: u32 = 1 << 0;
    /// The packet is IPv6.
    const IPV6: u32 = 1 << 1;
    /// Every round through the flows takes other ports.
    const FRESH: u32 = 1 << 2;
    /// The port is that of the other end.
    const OWN_PORT: u32 = 1 << 3;

    /// Connections by addresses and ports.
    #[map]
    static CONNECTIONS: HashMap<[u32; 4], u64> = HashMap::with_max_entries(262_144, 0);
    #[map]
    static RECENT: LruHashMap<[u32; 4], u64> = LruHashMap::with_max_entries(262_144, 0);
    /// Identity of an address.
    #[map]
    static IDENTITIES: LpmTrie<u32, u32> = LpmTrie::with_max_entries(262_144, BPF_F_NO_PREALLOC);
    /// Verdict by identity (0 for all), then direction, protocol and port.
    #[map]
    static VERDICTS: LpmTrie<[u32; 2], u32> = LpmTrie::with_max_entries(262_144, BPF_F_NO_PREALLOC);

    const PASS: i32 = TC_ACT_UNSPEC;
    const DROP: i32 = TC_ACT_SHOT;

    /// Writes the next flow into the packet.
    #[classifier]
    fn spread(context: TcContext) -> i32 {
        let (Some([mask, bits]), Some(turn)) = (PLAN.get(0), TURN.get_ptr_mut(0)) else {
            return DROP;
        };
        // SAFETY: the slot is this processor's, and the program does not preempt itself.
        let turn = unsafe {
            let now = *turn;
            *turn = now.wrapping_add(1);
            now
        };
        let Some(flow) = FLOWS.get(turn & mask) else {
            return DROP;
        };
        let mut port = flow[4] as u16;
        if bits & FRESH != 0 {
            port = port.wrapping_add((turn / mask.wrapping_add(1).max(1)) as u16);
        }
        let to_peer = bits & TO_PEER != 0;
        let port_of_destination = to_peer != (bits & OWN_PORT != 0);
        let (address, transport) = match (bits & IPV6 != 0, to_peer) {
            (false, false) => (26, 34),
            (false, true) => (30, 34),
            (true, false) => (22, 54),
            (true, true) => (38, 54),
        };
        let ports = transport + if port_of_destination { 2 } else { 0 };
        let (start, end) = (context.data(), context.data_end());
        let words = if bits & IPV6 != 0 { 4 } else { 1 };
        for (word, value) in flow.iter().enumerate().take(words) {
            let at = start + address + 4 * word;
            if at + 4 > end {
                return DROP;
            }
            // SAFETY: within the packet; BPF stores words at any address.
            unsafe { *(at as *mut u32) = *value };
        }
        if start + ports + 2 > end {
            return DROP;
        }
        // SAFETY: as above.
        unsafe { *((start + ports) as *mut u16) = port };
        // SAFETY: nothing here has to be dropped.
        unsafe { TARGET.tail_call(&context, 0) };
        DROP
    }

    /// The loop of `BPF_PROG_TEST_RUN` and nothing else.
    #[classifier]
    fn empty(_context: TcContext) -> i32 {
        PASS
    }

    /// Reads what the others read.
    #[classifier]
    fn parsed(context: TcContext) -> i32 {
        match key(&context) {
            Some([source, destination, ports, _]) if source ^ destination ^ ports != 0 => PASS,
            _ => DROP,
        }
    }

    /// A hit in a connection table: what an engine that asks its table first pays for every packet
    /// of an open connection.
    #[classifier]
    fn tracked(context: TcContext) -> i32 {
        let Some(key) = key(&context) else {
            return DROP;
        };
        // SAFETY: nobody writes while the benchmark runs.
        if unsafe { CONNECTIONS.get(&key) }.is_some() {
            PASS
        } else {
            DROP
        }
    }

    /// A new entry in a connection table.
    #[classifier]
    fn inserted(context: TcContext) -> i32 {
        let Some(key) = key(&context) else {
            return DROP;
        };
        match RECENT.insert(&key, 1, u64::from(BPF_ANY)) {
            Ok(()) => PASS,
            Err(_) => DROP,
        }
    }

    /// Identity by longest prefix, then the policy of the identity and that of everybody: what an
    /// engine with identities and prefix tables looks up for a packet towards its pod.
    #[classifier]
    fn prefixes(context: TcContext) -> i32 {
        let Some([source, _, ports, _]) = key(&context) else {
            return DROP;
        };
        let identity = IDENTITIES.get(Key::new(32, source)).copied().unwrap_or(2);
        // Direction and protocol above the port.
        let port = ports >> 16 << 16 | 6 << 8;
        let own = VERDICTS.get(Key::new(64, [identity, port]));
        let all = VERDICTS.get(Key::new(64, [0, port]));
        let Some(verdict) = own.or(all) else {
            return DROP;
        };
        if *verdict == 1 { PASS } else { DROP }
    }

    /// Source, destination, both ports and the protocol of an IPv4 packet without options.
    #[inline(always)]
    fn key(context: &TcContext) -> Option<[u32; 4]> {
        let (start, end) = (context.data(), context.data_end());
        if start + 14 + 20 + 8 > end {
            return None;
        }
        // SAFETY: within the packet; BPF loads words from any address.
        let word = |at: usize| unsafe { *((start + 14 + at) as *const u32) };
        let protocol = word(8) >> 8 & 0xff;
        Some([word(12), word(16), word(20), protocol])
    }

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }

    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
}
