// SPDX-License-Identifier: Apache-2.0
//! Pods that send from their very first instant: scenario 3. Needs root.
//!
//! Every new pod has a process that sends before the pod has an interface, and goes on as fast as it can
//! while the interface is made, brought up and addressed. Nothing may arrive anywhere. When the policy
//! goes, the same processes are heard everywhere: they did send, and to the right places.
//!
//! Whether a new interface is closed before it is up is a race with whoever makes it, and the kernel has no
//! way to decide it in advance. So the plugin of these pods waits until the interface is closed before it
//! brings it up; that it is closed from then on until the policy is in force, while the processes go on
//! sending, is what is held here. `NETPOL_NETNS_RACE=1` lets the plugin run as fast as it can: then a
//! packet that gets out means that the race was lost.
//!
//! On their own, because the kernel makes everybody who changes interfaces wait for each other.
//! `NETPOL_NETNS_PODS` is the number of pods, `NETPOL_NETNS_STARTERS` how many start at a time. For more than
//! about 300 pods the kernel's tables of neighbours are too small (`net.ipv4.neigh.default.gc_thresh3`, the
//! same for `ipv6`): packets then wait for a neighbour, and not all pods are heard in the end.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests"
)]

#[expect(dead_code, reason = "shared with other tests")]
#[path = "../netns/world.rs"]
mod world;

use std::{
    collections::BTreeSet,
    env, fs, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    process::Command,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use agent::{
    args::{Attach, DatapathArgs},
    demo::Root,
    folder::{Status, pod_file},
    net::{Netlink, Netns},
};
use aya::programs::{SchedClassifier, TcAttachType};
use ipnet::IpNet;
use policy_compiler::model::PodKey;

use crate::world::{LIMIT, Plan, QUICK, World, connect_pod, policy};

/// Where the receivers listen; nobody else does.
const PORT: u16 = 9999;

/// The tests of this file, one after the other.
static TURN: Mutex<()> = Mutex::new(());

/// How long a pod goes on at full speed once its interface is ready.
const EAGER: Duration = Duration::from_millis(20);

/// Receivers: on the pods' node, on another, the node itself.
const RECEIVERS: [&str; 3] = ["y/a", "y/b", "node:n1"];

/// Nothing in, nothing out.
const CLOSED: &str = "{podSelector: {}, policyTypes: [Ingress, Egress]}";

/// A pod that is about to start.
#[derive(Clone)]
struct Newcomer {
    number: u16,
    addresses: [IpNet; 2],
}

impl Newcomer {
    fn new(number: u16) -> Self {
        let [high, low] = number.to_be_bytes();
        Self {
            number,
            addresses: [
                IpNet::from(std::net::IpAddr::from([10, 50, high, low])),
                IpNet::from(std::net::IpAddr::from(Ipv6Addr::new(
                    0xfd00, 0x50, 0, 0, 0, 0, 0, number,
                ))),
            ],
        }
    }

    fn key(&self) -> PodKey {
        PodKey::new("x", &format!("new{}", self.number))
    }

    fn manifest(&self) -> String {
        let [v4, v6] = self.addresses.map(|address| address.addr());
        format!(
            "
apiVersion: v1
kind: Pod
metadata: {{namespace: x, name: new{}, labels: {{app: new}}}}
spec: {{nodeName: n1, containers: [{{name: c, image: i}}]}}
status: {{phase: Running, podIPs: [{{ip: {v4}}}, {{ip: '{v6}'}}]}}
---",
            self.number
        )
    }
}

/// What the processes in new pods are told.
#[derive(Default)]
struct Orders {
    stop: AtomicBool,
    /// Packets that left the pods.
    sent: AtomicU64,
}

/// Sends the pod's number everywhere: without a pause until `calm` is set, now and then afterwards.
fn send(
    namespace: &Netns,
    number: u16,
    to: &[SocketAddr],
    calm: &AtomicBool,
    pause: Duration,
    orders: &Orders,
) {
    namespace.enter().unwrap();
    let sockets = [
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap(),
        UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap(),
    ];
    for socket in &sockets {
        socket.set_nonblocking(true).unwrap();
    }
    while !orders.stop.load(Ordering::Relaxed) {
        for address in to {
            // Until there is an interface, and a route, this fails.
            let socket = &sockets[usize::from(address.is_ipv6())];
            if socket.send_to(&number.to_be_bytes(), address).is_ok() {
                orders.sent.fetch_add(1, Ordering::Relaxed);
            }
        }
        if calm.load(Ordering::Relaxed) {
            thread::sleep(pause);
        }
    }
}

/// Sockets that hear what gets through.
struct Ears(Vec<(&'static str, UdpSocket)>);

impl Ears {
    fn open(world: &World) -> Self {
        let open = |who: &&'static str| {
            let socket = world.namespace(who).run(|| {
                let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT))?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            });
            (*who, socket.unwrap())
        };
        Self(RECEIVERS.iter().map(open).collect())
    }

    /// Who heard which pod by which family since the last call.
    fn heard(&self) -> BTreeSet<(&'static str, u16, bool)> {
        let mut heard = BTreeSet::new();
        for (who, socket) in &self.0 {
            let mut number = [0; 2];
            while let Ok((_, from)) = socket.recv_from(&mut number) {
                let SocketAddr::V6(from) = from else {
                    continue;
                };
                let is_ipv4 = from.ip().to_ipv4_mapped().is_some();
                heard.insert((*who, u16::from_be_bytes(number), is_ipv4));
            }
        }
        heard
    }
}

/// Starts `count` pods under a policy that lets nothing out, calls `calm`, waits until the pods are
/// enforced, then takes the policy away.
fn run(world: &World, count: usize, calm: impl FnOnce()) {
    let newcomers: Vec<Newcomer> = (1..=count)
        .map(|number| Newcomer::new(u16::try_from(number).unwrap()))
        .collect();
    let manifests: String = newcomers.iter().map(Newcomer::manifest).collect();
    fs::write(world.dir.path().join("newcomers.yaml"), manifests).unwrap();
    world.agents[0]
        .wait(LIMIT, |status| status.engine.pods.len() > count)
        .unwrap_or_else(|status| panic!("never read: {status:?}"));

    let ears = Ears::open(world);
    let to: Vec<SocketAddr> = RECEIVERS
        .iter()
        .flat_map(|who| world.addresses(who))
        .map(|address| SocketAddr::new(address, PORT))
        .collect();
    let orders = Arc::new(Orders::default());
    let next = AtomicUsize::new(0);
    let is_race = env::var_os("NETPOL_NETNS_RACE").is_some();
    // Together about a thousand rounds a second once the pods are there.
    let pause = Duration::from_millis(u64::try_from(count).unwrap());
    thread::scope(|scope| {
        let stop = StopOnDrop(&orders.stop);
        let start_some = || {
            let near = Netlink::open(&world.topology.nodes["n1"]).unwrap();
            while let Some(newcomer) = newcomers.get(next.fetch_add(1, Ordering::Relaxed)) {
                let dir = world.root.dir(Root::PODS);
                let namespace = Netns::create(&dir, &pod_file(&newcomer.key())).unwrap();
                for (key, value) in QUICK {
                    namespace.set_sysctl(key, value).unwrap();
                }
                let far = Netlink::open(&namespace).unwrap();
                let calm = Arc::new(AtomicBool::new(false));
                let number = newcomer.number;
                let (to, orders, calmed) = (&to, &orders, calm.clone());
                scope.spawn(move || send(&namespace, number, to, &calmed, pause, orders));
                let name = format!("new{number}");
                let dir = Netns::open(&dir.join(pod_file(&newcomer.key()))).unwrap();
                near.add_veth(&name, "eth0", &dir).unwrap();
                if !is_race {
                    await_closed(&world.topology.nodes["n1"], &name);
                }
                connect_pod(&near, &far, &name, &newcomer.addresses);
                thread::sleep(EAGER);
                calm.store(true, Ordering::Relaxed);
            }
        };
        let starters = number_from("NETPOL_NETNS_STARTERS", 1);
        let starters: Vec<_> = (0..starters).map(|_| scope.spawn(start_some)).collect();
        for starter in starters {
            starter.join().unwrap();
        }
        calm();
        let settled = world.agents[0].wait(LIMIT * 2, Status::is_settled);
        settled.unwrap_or_else(|status| panic!("never settled: {status:?}"));
        thread::sleep(pause * 2);
        let sent = orders.sent.load(Ordering::Relaxed);
        let leaked = ears.heard();
        let pods: BTreeSet<u16> = leaked.iter().map(|(_, pod, _)| *pod).collect();
        println!(
            "{count} pods sent {sent} packets, {} were heard",
            pods.len()
        );
        assert!(sent > 0);
        assert_eq!(leaked, BTreeSet::new(), "of {sent} packets");

        world.edit("");
        let mut heard = BTreeSet::new();
        let start = Instant::now();
        while heard.len() < count * RECEIVERS.len() * 2 {
            assert!(
                start.elapsed() < LIMIT * 2,
                "only {} were heard",
                heard.len()
            );
            heard.extend(ears.heard());
            thread::sleep(Duration::from_millis(10));
        }
        drop(stop);
    });
}

/// Ends the processes even where a check fails, or nobody would see it.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits until a program or filter judges what comes out of the interface.
fn await_closed(node: &Netns, name: &str) {
    let is_closed = || {
        let (_, programs) =
            SchedClassifier::query_tcx(name, TcAttachType::Ingress).map_err(io::Error::other)?;
        let filters = Command::new("tc")
            .args(["filter", "show", "dev", name, "ingress"])
            .output()?;
        Ok(!programs.is_empty() || !filters.stdout.is_empty())
    };
    let start = Instant::now();
    while !node.run(is_closed).unwrap() {
        assert!(start.elapsed() < LIMIT, "{name} is never closed");
    }
}

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The number in a variable of the environment.
fn number_from(variable: &str, default: usize) -> usize {
    let wanted = env::var(variable).ok();
    wanted.map_or(default, |wanted| wanted.parse().unwrap())
}

#[test]
fn s03_nothing_gets_out_before_the_policy_applies() {
    let _turn = turn();
    run(
        &World::new(&policy("closed", CLOSED)),
        number_from("NETPOL_NETNS_PODS", 60),
        || (),
    );
}

#[test]
fn s03_nothing_gets_out_with_clsact() {
    let _turn = turn();
    let world = World::with(Plan {
        policies: policy("closed", CLOSED),
        datapath: DatapathArgs {
            attach: Attach::Clsact,
            ..Plan::default().datapath
        },
        ..Plan::default()
    });
    run(&world, number_from("NETPOL_NETNS_PODS", 20), || ());
}

#[test]
fn s03_nothing_gets_out_while_the_agent_compiles() {
    let _turn = turn();
    let world = World::new(&policy("closed", CLOSED));
    let file = world.dir.path().join("busy.yaml");
    let stop = AtomicBool::new(false);
    let rewrite = || {
        let mut round = 0;
        while !stop.load(Ordering::Relaxed) {
            round += 1;
            fs::write(&file, crowd(round)).unwrap();
            thread::sleep(Duration::from_millis(100));
        }
        fs::remove_file(&file).unwrap();
    };
    thread::scope(|scope| {
        let stopped = StopOnDrop(&stop);
        let rewriting = scope.spawn(rewrite);
        run(&world, number_from("NETPOL_NETNS_PODS", 20), || {
            drop(stopped);
            rewriting.join().unwrap();
        });
    });
}

/// Pods of another node, whose labels are others in every round.
fn crowd(round: usize) -> String {
    let pods = (0..2_000).map(|number| {
        format!(
            "
apiVersion: v1
kind: Pod
metadata: {{namespace: 'y', name: crowd{number}, labels: {{number: '{}'}}}}
spec: {{nodeName: n2, containers: [{{name: c, image: i}}]}}
status: {{phase: Running, podIPs: [{{ip: 10.60.{}.{}}}]}}
---",
            number + round,
            number / 256,
            number % 256
        )
    });
    pods.collect()
}
