// SPDX-License-Identifier: Apache-2.0
//! How is a program run on packets of many flows?

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use agent::datapath::{Datapath, Hook};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, ProgramArray, lpm_trie::Key, lpm_trie::LpmTrie},
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use policy_ebpf_common::decide::Outcome;
use rustix::time::{ClockId, clock_gettime};

use crate::{
    cluster::{HTTP, SERVER, Size, addresses},
    traffic::{Packet, Shape},
};

/// Interface that packets from elsewhere came into the node by.
const UPLINK: u32 = 1;
const TCP: u32 = 6;

/// A program that `spread` continues with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    /// One of ours.
    Ours(Hook),
    /// One of `policy-ebpf/src/bin/reference.rs`.
    Reference(&'static str),
}

/// The reference programs and their tables.
pub(crate) struct Rig {
    ebpf: Ebpf,
    targets: ProgramArray<MapData>,
    current: Option<Target>,
}

impl Rig {
    /// Loads the reference programs.
    pub(crate) fn load() -> Self {
        // None where NETPOL_BPF_OBJECT names a prebuilt object.
        let Some(path) = option_env!("NETPOL_BPF_REFERENCE") else {
            panic!("the reference programs come only with an object that was built from source");
        };
        let object = fs::read(path).expect("the object is where the build put it");
        let mut ebpf = EbpfLoader::new().load(&object).expect("load");
        for name in [
            "spread", "empty", "parsed", "tracked", "inserted", "prefixes",
        ] {
            program(&mut ebpf, name).load().expect(name);
        }
        let targets = ebpf.take_map("TARGET").expect("TARGET");
        Self {
            targets: ProgramArray::try_from(targets).expect("TARGET"),
            ebpf,
            current: None,
        }
    }

    /// Makes `count` flows, a power of two, between the pods and peers that `size` admits.
    pub(crate) fn flows(&mut self, size: Size, ipv6: bool, count: u32) {
        let mut flows = array::<[u32; 5]>(&mut self.ebpf, "FLOWS");
        for number in 0..count {
            let (peer, port) = flow(size, number);
            let (four, six) = addresses(peer);
            let mut words = if ipv6 {
                words6(six)
            } else {
                [word(four), 0, 0, 0]
            }
            .to_vec();
            words.push(u32::from(port.to_be()));
            let words: [u32; 5] = words.try_into().expect("five words");
            flows.set(number, words, 0).expect("FLOWS");
        }
    }

    /// Fills the tables of the reference programs for the flows and pods of `size`.
    pub(crate) fn fill(&mut self, size: Size, count: u32) {
        let map = self.ebpf.map_mut("CONNECTIONS").expect("CONNECTIONS");
        let mut connections = HashMap::<_, [u32; 4], u64>::try_from(map).expect("CONNECTIONS");
        for number in 0..count {
            let (peer, port) = flow(size, number);
            let ports = u32::from_ne_bytes(both(port, HTTP));
            let key = [word(addresses(peer).0), word(SERVER.0), ports, TCP];
            connections.insert(key, 1, 0).expect("CONNECTIONS");
        }
        let map = self.ebpf.map_mut("IDENTITIES").expect("IDENTITIES");
        let mut identities = LpmTrie::<_, u32, u32>::try_from(map).expect("IDENTITIES");
        for pod in 0..size.peers {
            let key = Key::new(32, word(addresses(pod).0));
            identities
                .insert(&key, Size::identity(pod), 0)
                .expect("IDENTITIES");
        }
        let map = self.ebpf.map_mut("VERDICTS").expect("VERDICTS");
        let mut verdicts = LpmTrie::<_, [u32; 2], u32>::try_from(map).expect("VERDICTS");
        let port = u32::from_ne_bytes(both(0, HTTP)) >> 16 << 16 | TCP << 8;
        for pod in (0..size.peers).filter(|pod| pod % 100 < 10) {
            let key = Key::new(64, [Size::identity(pod), port]);
            verdicts.insert(&key, 1, 0).expect("VERDICTS");
        }
    }

    /// Makes `spread` continue with `target` on packets like `packet` of `count` flows.
    pub(crate) fn aim(
        &mut self,
        datapath: &mut Datapath,
        target: Target,
        packet: Packet,
        count: u32,
    ) {
        let bits = packet.plan();
        self.plan(datapath, target, bits, count);
    }

    fn plan(&mut self, datapath: &mut Datapath, target: Target, bits: u32, count: u32) {
        array::<[u32; 2]>(&mut self.ebpf, "PLAN")
            .set(0, [count - 1, bits], 0)
            .expect("PLAN");
        if self.current == Some(target) {
            return;
        }
        let program = match target {
            Target::Ours(hook) => datapath.program(hook).expect("our program"),
            Target::Reference(name) => program(&mut self.ebpf, name),
        };
        let program = program.fd().expect("the program is loaded");
        self.targets.set(0, program, 0).expect("TARGET");
        self.current = Some(target);
    }

    /// Nanoseconds that `packet` takes on interface `ifindex`, the average of `repeat` runs.
    pub(crate) fn time(&mut self, packet: Packet, ifindex: u32, repeat: u32) -> f64 {
        let frame = packet.frame();
        let context = context(ifindex);
        let spread = program(&mut self.ebpf, "spread");
        let options = TestRunOptions {
            data_in: Some(&frame),
            ctx_in: Some(&context),
            repeat,
            ..TestRunOptions::default()
        };
        let begun = processor_time();
        spread.test_run(options).expect("test run");
        (processor_time() - begun) / f64::from(repeat)
    }

    /// Nanoseconds that `packet` takes on interface `ifindex` this once, by the kernel's clock.
    pub(crate) fn once(&mut self, packet: Packet, ifindex: u32) -> f64 {
        let (frame, context) = (packet.frame(), context(ifindex));
        let options = TestRunOptions {
            data_in: Some(&frame),
            ctx_in: Some(&context),
            repeat: 1,
            ..TestRunOptions::default()
        };
        let spread = program(&mut self.ebpf, "spread");
        let result = spread.test_run(options).expect("test run");
        result.duration.as_secs_f64() * 1e9
    }

    /// Opens the `count` flows that `packet` belongs to.
    pub(crate) fn open(
        &mut self,
        datapath: &mut Datapath,
        packet: Packet,
        ifindex: u32,
        count: u32,
    ) {
        const FRESH: u32 = 1 << 2;
        if let Some(opener) = packet.opener() {
            let target = Target::Ours(opener.hook());
            self.plan(datapath, target, opener.plan() & !FRESH, count);
            self.time(opener, ifindex, count);
        }
    }

    /// Fails unless our program makes of a packet what is expected.
    pub(crate) fn check(
        &mut self,
        datapath: &mut Datapath,
        packet: Packet,
        ifindex: u32,
        count: u32,
    ) {
        self.aim(datapath, Target::Ours(packet.hook()), packet, count);
        let before = outcomes(datapath);
        self.time(packet, ifindex, count);
        let changed: BTreeMap<_, _> = outcomes(datapath)
            .into_iter()
            .map(|(outcome, packets)| (outcome, packets - before[&outcome]))
            .filter(|(_, packets)| *packets != 0)
            .collect();
        let expected = [(packet.outcome(), u64::from(count))].into();
        assert_eq!(changed, expected, "{}", packet.name());
    }
}

/// The packets that the reference programs are measured on.
pub(crate) const REFERENCE: Packet = Packet {
    shape: Shape::Forward,
    ipv6: false,
};

/// Nanoseconds that this thread has run, which does not count those it waited for others. What the
/// kernel itself says of a test run is rounded to whole nanoseconds.
fn processor_time() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(now).expect("not negative").as_secs_f64() * 1e9
}

fn outcomes(datapath: &Datapath) -> BTreeMap<Outcome, u64> {
    let mut sums = BTreeMap::new();
    for (_, outcome, counter) in datapath.outcome_counters().expect("counters") {
        *sums.entry(outcome).or_default() += counter.packets;
    }
    sums
}

/// Peer and its port of the `number`th flow.
fn flow(size: Size, number: u32) -> (u32, u16) {
    // Above every port that a rule is about.
    let port = 12_000 + number % 50_000;
    (size.peer(number), u16::try_from(port).expect("below 62000"))
}

fn word(address: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(address.octets())
}

fn words6(address: Ipv6Addr) -> [u32; 4] {
    let octets = address.octets();
    let (words, _) = octets.as_chunks::<4>();
    let words: Vec<u32> = words.iter().map(|word| u32::from_ne_bytes(*word)).collect();
    words.try_into().expect("four words")
}

fn both(source: u16, destination: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (source.to_be_bytes(), destination.to_be_bytes());
    [a, b, c, d]
}

/// The fields of `struct __sk_buff` that the kernel accepts; all others must be zero.
fn context(ifindex: u32) -> [u8; 192] {
    let mut context = [0; 192];
    context[36..40].copy_from_slice(&UPLINK.to_ne_bytes());
    context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
    context
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    let program = ebpf
        .program_mut(name)
        .expect("the program is in the object");
    program.try_into().expect("all are classifiers")
}

fn array<'a, T: aya::Pod>(ebpf: &'a mut Ebpf, name: &str) -> Array<&'a mut MapData, T> {
    let map: &mut Map = ebpf.map_mut(name).expect("the map is in the object");
    Array::try_from(map).expect("an array")
}
