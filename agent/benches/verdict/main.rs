// SPDX-License-Identifier: Apache-2.0
//! What does a verdict cost, beside the lookups that others build on?
//!
//! Every program runs inside one process on the same packets, by `BPF_PROG_TEST_RUN`; rounds are
//! interleaved, so that what disturbs one disturbs all. Times are in the kernel, so the profile that
//! the benchmark is built with makes no difference to them. From every time the one of an empty
//! program on the same packets is subtracted: the loop, and the making of the packet.
//!
//! Needs root. `NETPOL_BENCH_SIZE=small|medium|large` bounds the clusters (default `large`: 10,000
//! rules about one pod, 100,000 peers), `NETPOL_BENCH_ROUNDS` the rounds (default 60). Writes
//! `bench/verdict.jsonl` in the target folder.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark reports and stops"
)]

mod cluster;
mod elsewhere;
mod report;
mod rig;
mod traffic;

use std::{env, fs, thread};

use agent::{
    datapath::{Datapath, Hook, Options, Origin, cleanup},
    net::{Netlink, Netns},
};
use policy_compiler::model::PodKey;
use rustix::thread::{CpuSet, UnshareFlags, sched_setaffinity, unshare_unsafe};

use cluster::{Size, capacity, free, image, server};
use elsewhere::Elsewhere;
use report::{Report, Samples};
use rig::{REFERENCE, Rig, Target};
use traffic::{Packet, Shape};

/// Flows that packets belong to, one after the other.
const FLOWS: [(&str, u32); 3] = [
    ("1-flows", 1),
    ("1k-flows", 1 << 10),
    ("64k-flows", 1 << 16),
];
/// One flow whose packets are so far apart that caches hold something else by then.
const COLD: &str = "cold";
/// Runs of a program in a round: about a millisecond.
const REPEAT: u32 = 1 << 14;
/// A quarter of as many where something else is done between two: about a millisecond, too.
const COLD_QUARTER: u8 = 8;
/// References of a round: nothing, reading headers, a hit in a connection table, identities and
/// prefixes.
const REFERENCES: [&str; 4] = ["empty", "parsed", "tracked", "prefixes"];

fn main() {
    // `cargo test` runs benchmarks, too, and wants them to end.
    if !env::args().any(|argument| argument == "--bench") {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    // On a thread of its own, because the network namespace goes with the thread.
    thread::spawn(|| {
        // SAFETY: only this thread's network namespace changes.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("unshare");
        pin();
        elsewhere::prepare();
        let mut report = Report::default();
        for size in sizes() {
            measure(size, &mut report);
        }
        report.write();
    })
    .join()
    .expect("the benchmark ran to its end");
}

/// Keeps the thread on one processor, whose counters and caches it then finds again.
fn pin() {
    let mut processors = CpuSet::new();
    let last = thread::available_parallelism().map_or(1, usize::from) - 1;
    processors.set(last);
    sched_setaffinity(None, &processors).expect("affinity");
}

/// Lets nothing else run on the processor meanwhile, or lets others run again.
fn hurry(alone: bool) {
    let (policy, sched_priority) = if alone {
        (libc::SCHED_FIFO, 1)
    } else {
        (libc::SCHED_OTHER, 0)
    };
    let parameters = libc::sched_param { sched_priority };
    // SAFETY: the kernel reads the structure during the call; 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) };
    assert_eq!(result, 0, "root may set priorities");
}

fn sizes() -> impl Iterator<Item = Size> {
    let largest = match env::var("NETPOL_BENCH_SIZE").as_deref() {
        Ok("small") => 1_000,
        Ok("medium") => 10_000,
        _ => 100_000,
    };
    [(10, 1_000), (1_000, 10_000), (10_000, 100_000)]
        .into_iter()
        .map(|(rules, peers)| Size { rules, peers })
        .filter(move |size| size.peers <= largest)
}

fn rounds() -> usize {
    let wanted = env::var("NETPOL_BENCH_ROUNDS").ok();
    wanted.and_then(|text| text.parse().ok()).unwrap_or(60)
}

/// A node with the tables of a cluster.
struct Node {
    root: std::path::PathBuf,
    datapath: Datapath,
    server: u32,
    free: u32,
}

impl Node {
    fn new(size: Size) -> Self {
        let image = image(size);
        let here = Netns::current().expect("namespace");
        let name = format!("netpol-bench-{}-{}", std::process::id(), size.rules);
        let options = Options {
            root: std::path::Path::new("/sys/fs/bpf").join(name),
            capacity: capacity(),
            flows: 262_144,
            ..Options::default()
        };
        let mut datapath = Datapath::open(&options).expect("open");
        let links = Netlink::open(&here).expect("netlink");
        let mut endpoint = |pod: &PodKey| {
            let name = format!("{}-{}", pod.name, size.rules);
            links
                .add_veth(&name, &format!("p-{name}"), &here)
                .expect("veth");
            let link = links.link_named(&name).expect("links").expect("the link");
            datapath.add(link.index, Origin::New).expect("add");
            datapath.bind(link.index, pod).expect("bind");
            link.index
        };
        let (server, free) = (endpoint(&server()), endpoint(&free()));
        datapath.publish(&image).expect("publish");
        Self {
            root: options.root,
            datapath,
            server,
            free,
        }
    }

    fn interface(&self, packet: Packet) -> u32 {
        if packet.shape == Shape::Unisolated {
            self.free
        } else {
            self.server
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        cleanup(&self.root).expect("cleanup");
        fs::remove_dir(&self.root).expect("the folder is empty");
    }
}

fn measure(size: Size, report: &mut Report) {
    let mut node = Node::new(size);
    if report.is_empty() {
        for hook in Hook::ALL {
            let program = node.datapath.program(hook).expect("our program");
            report.program(hook.name(), &program.info().expect("info"));
        }
    }
    let mut rig = Rig::load();
    let (_, most) = FLOWS[FLOWS.len() - 1];
    rig.fill(size, most);
    let open: Vec<_> = Packet::open().collect();
    let cold = Pace::Cold(Elsewhere::new());
    report.add(
        size,
        COLD,
        &sample(&mut node, &mut rig, size, 1, &open, cold),
    );
    for (name, count) in FLOWS {
        let times = sample(&mut node, &mut rig, size, count, &open, Pace::Warm);
        report.add(size, name, &times);
        // One flow is new once.
        if count > 1 {
            let new: Vec<_> = Packet::new().collect();
            let times = sample(&mut node, &mut rig, size, count, &new, Pace::Warm);
            report.add(size, name, &times);
        }
    }
}

/// What the processor does between two packets.
enum Pace {
    /// Nothing.
    Warm,
    /// What a node does.
    Cold(Elsewhere),
}

impl Pace {
    /// Nanoseconds that `packet` takes on interface `ifindex`.
    fn time(&mut self, rig: &mut Rig, packet: Packet, ifindex: u32) -> f64 {
        match self {
            Self::Warm => rig.time(packet, ifindex, REPEAT),
            Self::Cold(elsewhere) => {
                let mut once = || {
                    elsewhere.work();
                    rig.once(packet, ifindex)
                };
                let mut times: Vec<f64> = (0..4 * COLD_QUARTER).map(|_| once()).collect();
                times.sort_by(f64::total_cmp);
                // The kernel's clock counts in steps that are a large part of a verdict: the mean of
                // the middle half, not the median.
                let middle = times.iter().skip(COLD_QUARTER.into());
                let sum: f64 = middle.take(2 * usize::from(COLD_QUARTER)).sum();
                sum / f64::from(2 * COLD_QUARTER)
            }
        }
    }
}

/// Times of `packets` in interleaved rounds.
fn sample(
    node: &mut Node,
    rig: &mut Rig,
    size: Size,
    count: u32,
    packets: &[Packet],
    mut pace: Pace,
) -> Samples {
    let mut samples = Samples::default();
    hurry(true);
    for ipv6 in [false, true] {
        rig.flows(size, ipv6, count);
        let packets: Vec<_> = packets
            .iter()
            .filter(|packet| packet.ipv6 == ipv6)
            .collect();
        for packet in &packets {
            let ifindex = node.interface(**packet);
            rig.open(&mut node.datapath, **packet, ifindex, count);
            rig.check(&mut node.datapath, **packet, ifindex, count);
        }
        let base = Packet { ipv6, ..REFERENCE };
        for _ in 0..rounds() {
            for name in REFERENCES {
                if ipv6 && name != "empty" {
                    continue;
                }
                rig.aim(&mut node.datapath, Target::Reference(name), base, count);
                samples.push(&reference(name, ipv6), pace.time(rig, base, node.server));
            }
            for packet in &packets {
                let target = Target::Ours(packet.hook());
                rig.aim(&mut node.datapath, target, **packet, count);
                let time = pace.time(rig, **packet, node.interface(**packet));
                samples.push(&packet.name(), time);
            }
            if !ipv6 && packets.iter().any(|packet| packet.shape == Shape::Opening) {
                let opening = Packet {
                    shape: Shape::Opening,
                    ipv6,
                };
                let target = Target::Reference("inserted");
                rig.aim(&mut node.datapath, target, opening, count);
                let time = pace.time(rig, opening, node.server);
                samples.push(&reference("inserted", ipv6), time);
            }
        }
    }
    hurry(false);
    samples
}

fn reference(name: &str, ipv6: bool) -> String {
    let family = if ipv6 { "v6" } else { "v4" };
    format!("reference/{name}/{family}")
}
