// SPDX-License-Identifier: Apache-2.0
//! Others on the same interfaces, other versions, lost pins: scenarios 11, 12, 13 and 61.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr, UdpSocket},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use agent::{
    args::{Attach, DatapathArgs},
    net::{HostLinks, Netlink, Netns},
};
use aya::programs::{SchedClassifier, TcAttachType};

use crate::world::{Icmp, LIMIT, Plan, Tcp, Udp, World, policy};

/// `TC_ACT_SHOT`.
const DROP: u8 = 2;

/// Web in, nothing out.
const WEB: &str = "{podSelector: {matchLabels: {app: a}}, policyTypes: [Ingress, Egress], ingress: [{ports: [{port: 80}, {port: 80, protocol: UDP}]}]}";

/// The node's end of a pod's interface: index and name.
fn outside(world: &World, pod: &str) -> (u32, String) {
    let links = HostLinks::read(world.namespace("node:n1")).unwrap();
    let inside = links.interfaces_of(world.namespace(pod)).unwrap();
    let link = inside.into_iter().find_map(|i| i.outside).unwrap();
    (link.index, link.name)
}

/// Programs on both sides of an interface of node n1.
fn programs(world: &World, interface: &str) -> [usize; 2] {
    [TcAttachType::Ingress, TcAttachType::Egress].map(|side| {
        let count = world.namespace("node:n1").run(|| {
            let (_, programs) =
                SchedClassifier::query_tcx(interface, side).map_err(io::Error::other)?;
            Ok(programs.len())
        });
        count.unwrap()
    })
}

#[track_caller]
fn tc(namespace: &Netns, arguments: &str) -> String {
    // The program of a filter is one argument.
    let (arguments, program) = arguments
        .split_once(" bytecode ")
        .unwrap_or((arguments, ""));
    let mut arguments: Vec<_> = arguments.split_whitespace().collect();
    if !program.is_empty() {
        arguments.extend(["bytecode", program]);
    }
    let output = namespace.run(|| Command::new("tc").args(&arguments).output());
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Asks and waits for the answer until told to stop; returns how many answers came, and how many did
/// not.
fn ask(from: &Netns, to: SocketAddr, patience: Duration, stop: &AtomicBool) -> (usize, usize) {
    let asked = from.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(patience))?;
        let (mut answered, mut lost) = (0, 0);
        while !stop.load(Ordering::Relaxed) {
            socket.send(b"ping")?;
            match socket.recv(&mut [0; 8]) {
                Ok(_) => answered += 1,
                Err(_) => lost += 1,
            }
        }
        Ok((answered, lost))
    });
    asked.unwrap()
}

#[test]
fn s11_another_layout_takes_over_without_a_gap() {
    for attach in [Attach::Tcx, Attach::Clsact] {
        let mut world = World::with(Plan {
            policies: policy("web", WEB),
            datapath: DatapathArgs {
                attach,
                ..Plan::default().datapath
            },
            fresh: false,
            ..Plan::default()
        });
        let (_, interface) = outside(&world, "x/a");
        let stop = AtomicBool::new(false);
        let [asker, intruder] = ["y/b", "x/b"].map(|pod| world.namespace(pod).clone());
        let to = |port| SocketAddr::from(([10, 40, 1, 10], port));
        thread::scope(|scope| {
            let allowed = scope.spawn(|| ask(&asker, to(80), LIMIT, &stop));
            let denied = scope.spawn(|| ask(&intruder, to(81), Duration::from_millis(1), &stop));
            // An agent whose maps have another layout: what it finds is none of its own.
            world.stop();
            for bpffs in world.bpffs.values() {
                fs::rename(bpffs.join("netpol/v1"), bpffs.join("netpol/v0")).unwrap();
            }
            world.start();
            world.allows("y/b", "x/a", &[Tcp(80), Udp(80)]);
            world.denies("x/b", "x/a", &[Tcp(81), Udp(81), Icmp]);
            stop.store(true, Ordering::Relaxed);
            let (answered, lost) = allowed.join().unwrap();
            assert!(answered > 0);
            assert_eq!(lost, 0, "{attach:?}");
            let (leaked, kept) = denied.join().unwrap();
            assert_eq!(leaked, 0, "{attach:?}");
            assert!(kept > 0);
        });
        for bpffs in world.bpffs.values() {
            assert!(!bpffs.join("netpol/v0").exists());
        }
        if attach == Attach::Tcx {
            assert_eq!(programs(&world, &interface), [1, 1]);
        } else {
            let (index, _) = outside(&world, "x/a");
            let node = Netlink::open(world.namespace("node:n1")).unwrap();
            let filters = node.filters(index).unwrap();
            let sides: Vec<bool> = filters.iter().map(|filter| filter.egress).collect();
            assert_eq!(sides, [false, true]);
        }
    }
}

#[test]
fn s12_pins_that_somebody_removed() {
    let mut world = World::new(&policy("web", WEB));
    let (_, interface) = outside(&world, "x/a");
    for bpffs in world.bpffs.values() {
        fs::remove_dir_all(bpffs.join("netpol")).unwrap();
    }
    world.stop();
    world.start();
    assert_eq!(programs(&world, &interface), [1, 1]);
    world.allows("y/b", "x/a", &[Tcp(80), Udp(80)]);
    world.denies("y/b", "x/a", &[Tcp(81), Udp(81), Icmp]);
    world.denies("x/a", "y/b", &[Tcp(80), Udp(80), Icmp]);
}

#[test]
fn s13_filters_behind_ours_still_run() {
    for attach in [Attach::Tcx, Attach::Clsact] {
        let world = World::with(Plan {
            policies: policy("web", WEB),
            datapath: DatapathArgs {
                attach,
                ..Plan::default().datapath
            },
            ..Plan::default()
        });
        let (_, interface) = outside(&world, "x/a");
        let node = world.namespace("node:n1");
        if attach == Attach::Tcx {
            tc(node, &format!("qdisc add dev {interface} clsact"));
        }
        world.allows("y/b", "x/a", &[Tcp(80), Udp(80)]);
        // What comes behind ours decides about what ours let pass.
        for side in ["ingress", "egress"] {
            let filter = format!("dev {interface} {side} prio 9");
            tc(
                node,
                &format!("filter add {filter} bpf da bytecode 1,6 0 0 {DROP}"),
            );
            world.denied("y/b", "x/a", &[Tcp(80), Udp(80)]);
            tc(node, &format!("filter del {filter}"));
            world.allows("y/b", "x/a", &[Tcp(80), Udp(80)]);
        }
        world.denies("y/b", "x/a", &[Tcp(81)]);
    }
}

/// Loads a program that writes `tag` to `tc_index` of every packet, and puts it on what leaves `eth0` of
/// this thread's namespace.
fn forge(ifindex: u32, tag: u32) -> io::Result<()> {
    const PROG_LOAD: libc::c_long = 5;
    const PROG_ATTACH: libc::c_long = 8;
    const SCHED_CLS: u32 = 3;
    const TCX_EGRESS: u32 = 47;
    /// Offset of `tc_index` in `struct __sk_buff`.
    const TC_INDEX: u64 = 44;
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: *const u64,
        license: *const libc::c_char,
        rest: [u64; 8],
    }
    #[repr(C)]
    struct Attach {
        ifindex: u32,
        program: u32,
        side: u32,
        flags: u32,
        rest: [u64; 2],
    }
    let number = |value: i32| u64::from(value.cast_unsigned()) << 32;
    // r2 = tag; r1->tc_index = r2; r0 = -1; exit
    let program = [
        0xb7 | 2 << 8 | number(tag.cast_signed()),
        0x63 | 1 << 8 | 2 << 12 | TC_INDEX << 16,
        0xb7 | number(-1),
        0x95_u64,
    ];
    let load = Load {
        kind: SCHED_CLS,
        count: u32::try_from(program.len()).unwrap(),
        instructions: program.as_ptr(),
        license: c"GPL".as_ptr(),
        rest: [0; 8],
    };
    // SAFETY: the kernel reads the attributes, the instructions and the licence, which live until the
    // call returns.
    let loaded =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<Load>()) };
    let program = u32::try_from(loaded).map_err(|_| io::Error::last_os_error())?;
    let attach = Attach {
        ifindex,
        program,
        side: TCX_EGRESS,
        flags: 0,
        rest: [0; 2],
    };
    // SAFETY: the kernel reads the attributes.
    let attached = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_ATTACH,
            &raw const attach,
            size_of::<Attach>(),
        )
    };
    if attached == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[test]
fn s61_a_pod_cannot_forge_the_mark_of_another() {
    // y/a may talk to x/a, x/b may not.
    let world = World::new(&policy(
        "team",
        "{podSelector: {matchLabels: {app: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: 'y'}}}]}]}",
    ));
    world.allows("y/a", "x/a", &[Tcp(80), Udp(80), Icmp]);
    world.denies("x/b", "x/a", &[Tcp(80), Udp(80), Icmp]);
    let pod = world.namespace("x/b");
    let inside = Netlink::open(pod).unwrap();
    let eth0 = inside.link_named("eth0").unwrap().unwrap().index;
    // The slot of a pod on a small node is the number of its interface.
    let (slot, _) = outside(&world, "y/a");
    pod.run(|| forge(eth0, 0x8000 | slot)).unwrap();
    world.denies("x/b", "x/a", &[Tcp(80), Udp(80), Icmp]);
    world.allows("x/b", "y/a", &[Tcp(80), Udp(80), Icmp]);
    world.allows("y/a", "x/a", &[Tcp(80), Udp(80), Icmp]);
}

/// Marks do not cross from one node to another: there the numbers stand for other pods.
#[test]
fn s61_a_mark_means_nothing_on_another_node() {
    let world = World::new(&policy(
        "one",
        "{podSelector: {matchLabels: {app: a}}, ingress: [{from: [{podSelector: {matchLabels: {app: b}}}]}]}",
    ));
    let slots = |node: &str| {
        let pinned = agent::datapath::Pinned::open(&world.bpffs[node]).unwrap();
        pinned.endpoints().into_keys().collect::<Vec<u32>>()
    };
    let (near, far) = (slots("n1"), slots("n2"));
    assert!(far.iter().all(|slot| near.contains(slot)));
    let address: IpAddr = "10.40.1.10".parse().unwrap();
    for stranger in ["x/c", "y/b"] {
        world.denies(stranger, &address.to_string(), &[Tcp(80), Udp(80), Icmp]);
        world.denies(stranger, "x/a", &[Tcp(80), Udp(80), Icmp]);
    }
    world.allows("x/b", "x/a", &[Tcp(80), Udp(80), Icmp]);
}
