// SPDX-License-Identifier: Apache-2.0
//! How long does a policy take from the API server to the wire, and what does an agent take for it?
//!
//! A real kube-apiserver, two pods made of network namespaces, a datagram between them every fraction
//! of a millisecond, and an agent with programs in the kernel. A change is timed from the moment its
//! request is sent to the first datagram that meets another verdict. For memory and processor time the
//! agent is a process of its own.
//!
//! Needs root and a kube-apiserver (`.ci/setup controlplane`). `NETPOL_BENCH_QUICK=1` measures little;
//! else `NETPOL_BENCH_CHANGES` (default 200), `NETPOL_BENCH_PODS` and `NETPOL_BENCH_POLICIES` (default
//! 20,000 and 2,000, for memory) say how much; `changes` or `load` as an argument measures only that.
//! Writes `bench/latency.jsonl` in the target folder.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark reports and stops"
)]

mod background;
mod load;
mod report;
mod stream;

#[expect(dead_code, reason = "tests write more kinds of objects")]
#[path = "../../tests/apiserver/cluster.rs"]
mod cluster;
#[expect(dead_code, reason = "tests do more to a control plane")]
#[path = "../../tests/apiserver/control_plane.rs"]
mod control_plane;
#[expect(dead_code, reason = "tests look at what a datapath is told")]
#[path = "../../tests/apiserver/node.rs"]
mod node;
#[expect(dead_code, reason = "tests probe with a connection of their own")]
#[path = "../../tests/apiserver/shop.rs"]
mod shop;

use std::{
    env,
    net::IpAddr,
    time::{Duration, Instant},
};

use agent::{
    demo::Root,
    kubernetes::Running,
    net::{Netlink, Netns, Route},
};
use ipnet::IpNet;
use policy_compiler::model::PodKey;
use serde_json::json;

use cluster::{Cluster, eventually, network_policy};
use control_plane::ControlPlane;
use node::{Node, blocking, ready};
use report::Report;
use shop::{API, Shop, WEB};
use stream::Stream;

/// How much to measure.
struct Extent {
    changes: usize,
    starts: usize,
    /// Other pods, ascending; a tenth as many policies.
    background: &'static [usize],
    pods: usize,
    policies: usize,
    /// How long the agent is watched, at rest and under changes.
    watched: Duration,
}

impl Extent {
    fn from_env() -> Self {
        let number = |name: &str, default| {
            let given = env::var(name).ok();
            given.map_or(default, |text| text.parse().expect("a number"))
        };
        if env::var("NETPOL_BENCH_QUICK").is_ok_and(|value| value != "0") {
            return Self {
                changes: 20,
                starts: 4,
                background: &[0, 1_000],
                pods: 2_000,
                policies: 200,
                watched: Duration::from_secs(5),
            };
        }
        Self {
            changes: number("NETPOL_BENCH_CHANGES", 200),
            starts: 20,
            background: &[0, 1_000, 10_000],
            pods: number("NETPOL_BENCH_PODS", 20_000),
            policies: number("NETPOL_BENCH_POLICIES", 2_000),
            watched: Duration::from_secs(20),
        }
    }
}

fn main() {
    if let Ok(url) = env::var(load::AGENT) {
        return runtime().block_on(load::agent(&url, &Extent::from_env()));
    }
    // `cargo test` runs benchmarks, too, and wants them to end.
    if !env::args().any(|argument| argument == "--bench") {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let extent = Extent::from_env();
    let mut report = Report::default();
    let asked = |part: &str| {
        let mut parts = env::args().skip(1).filter(|part| !part.starts_with('-'));
        let first = parts.next();
        first.is_none_or(|first| first == part) || parts.any(|other| other == part)
    };
    runtime().block_on(async {
        if asked("changes") {
            changes(&extent, &mut report).await;
        }
        if asked("load") {
            load::measure(&extent, &mut report).await;
        }
    });
    report.write();
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime")
}

/// Changes of a policy, and new pods, among more and more others.
async fn changes(extent: &Extent, report: &mut Report) {
    let Some(plane) = ControlPlane::start().await else {
        return;
    };
    let cluster = Cluster::new(plane.client());
    cluster.namespace("shop", &json!({})).await;
    cluster.node("n1", "192.0.2.41").await;
    cluster.pod("shop", "web", "n1", WEB).await;
    cluster.pod("shop", "api", "n1", API).await;
    let shop = blocking(Shop::build);
    let keeper = Node::new("n1");
    let running = shop.start(&keeper, &plane);
    ready(&running).await;
    let stream = Stream::start(end(&shop, "web", WEB), end(&shop, "api", API));

    let mut there = 0;
    for pods in extent.background {
        for namespace in background::namespaces(*pods) {
            cluster.namespace(&namespace, &json!({})).await;
        }
        background::put(
            &plane,
            (there..*pods).map(|number| background::pod(number, 0)),
        );
        let policies = there / 10..*pods / 10;
        background::put(
            &plane,
            policies.map(|number| background::policy(number, *pods)),
        );
        there = *pods;
        known(&running, "Pod", there + 2).await;
        let name = format!("policy-change/{pods}-pods");
        let mut times = flips(&cluster, &stream, extent.changes).await;
        report.distribution(&name, &mut times);
    }
    starts(extent, &cluster, &shop, report).await;
    drop(stream);
    running.stop().await;
}

/// Waits until the agent has so many objects of a kind.
async fn known(running: &Running, kind: &str, count: usize) {
    let wanted = format!(r#"netpol_objects{{kind="{kind}"}} {count}"#);
    eventually(&wanted, async || {
        let text = running.metrics.encode().unwrap();
        text.lines().any(|line| line == wanted).then_some(())
    })
    .await;
}

fn end<'a>(shop: &'a Shop, pod: &str, address: &str) -> (&'a Netns, IpAddr) {
    let namespace = &shop.topology.pods[&PodKey::new("shop", pod)];
    (namespace, address.parse().expect("an address"))
}

/// Milliseconds from the request to the wire, of changes that close `api` and open it again.
async fn flips(cluster: &Cluster, stream: &Stream, count: usize) -> Vec<f64> {
    let mut times = Vec::new();
    // The first ones find everything cold.
    for number in 0..count + 4 {
        let passes = number % 2 == 1;
        let from: &[&str] = if passes { &["web"] } else { &[] };
        let asked = Instant::now();
        cluster.apply(&network_policy("shop", "api", from)).await;
        let changed = eventually("the verdict changes", async || stream.since(passes)).await;
        if number >= 4 {
            times.push(milliseconds(changed.saturating_duration_since(asked)));
        }
        // Not in step with anything that happens regularly.
        let odd = u64::try_from(number * 7 % 40).unwrap_or_default();
        tokio::time::sleep(Duration::from_millis(30 + odd)).await;
    }
    times
}

/// New pods, in turn one that may be reached and one that may not, under fire before they have a link.
async fn starts(extent: &Extent, cluster: &Cluster, shop: &Shop, report: &mut Report) {
    cluster
        .apply(&network_policy("shop", "open", &["web"]))
        .await;
    cluster.apply(&network_policy("shop", "shut", &[])).await;
    let (mut times, mut windows, mut fired) = (Vec::new(), Vec::new(), 0);
    for number in 0..extent.starts {
        let app = if number % 2 == 0 { "shut" } else { "open" };
        let name = format!("{app}-{number}");
        let address = format!("10.41.1.{}", 100 + number);
        let born = Instant::now();
        let namespace = blocking(|| connect(shop, &name, address.parse().expect("an address")));
        let to = (&namespace, address.parse().expect("an address"));
        let stream = Stream::start(end(shop, "web", WEB), to);
        let mut pod = cluster::pod("shop", &name, "n1");
        pod["metadata"]["labels"] = json!({"app": app});
        cluster.apply(&pod).await;
        let status = cluster::running("shop", &name, &address);
        cluster.apply_status(&status).await;
        if app == "open" {
            let passed = eventually("it is reached", async || stream.since(true)).await;
            times.push(milliseconds(passed.saturating_duration_since(born)));
        } else {
            tokio::time::sleep(Duration::from_millis(500)).await;
            fired += stream.sent();
            let arrived = stream.arrived();
            let ends = (arrived.first(), arrived.last());
            if let (Some(first), Some(last)) = ends {
                let after = |sent: &Instant| milliseconds(sent.saturating_duration_since(born));
                println!(
                    "{name}: {} arrived, sent {:.1} to {:.1} ms after its link was asked for",
                    arrived.len(),
                    after(first),
                    after(last)
                );
                windows.push(milliseconds(last.saturating_duration_since(*first)));
            } else {
                windows.push(0.0);
            }
        }
        drop(stream);
        cluster.delete(&pod).await;
        blocking(|| disconnect(shop, &name));
    }
    report.distribution("pod-start", &mut times);
    println!("{fired} datagrams at new pods that may not be reached");
    let widest = windows.iter().copied().fold(0.0, f64::max);
    report.add("pod-start/window", "ms", widest, &windows);
}

/// Gives a pod a namespace and a link, as a network plugin does.
fn connect(shop: &Shop, name: &str, address: IpAddr) -> Netns {
    let gateway: IpAddr = "169.254.1.1".parse().expect("an address");
    let namespace = shop.root.namespace(Root::PODS, name).expect("a namespace");
    let near = Netlink::open(&shop.topology.nodes["n1"]).expect("netlink");
    near.add_veth(name, "eth0", &namespace).expect("a link");
    let far = Netlink::open(&namespace).expect("netlink");
    let index = |links: &Netlink, name: &str| links.link_named(name).unwrap().unwrap().index;
    let (outer, inner) = (index(&near, name), index(&far, "eth0"));
    near.add_address(outer, IpNet::from(gateway))
        .expect("an address");
    far.add_address(inner, IpNet::from(address))
        .expect("an address");
    near.set_up(outer).expect("a link");
    far.set_up(inner).expect("a link");
    let route = |to, via, device, source| Route {
        to,
        via,
        device,
        source,
    };
    let home = route(IpNet::from(address), None, outer, None);
    near.add_route(home).expect("a route");
    let everywhere = "0.0.0.0/0".parse().expect("a block");
    let away = route(everywhere, Some(gateway), inner, Some(address));
    far.add_route(away).expect("a route");
    namespace
}

fn disconnect(shop: &Shop, name: &str) {
    let near = Netlink::open(&shop.topology.nodes["n1"]).expect("netlink");
    if let Some(link) = near.link_named(name).unwrap() {
        near.delete_link(link.index).expect("a link");
    }
    Netns::remove(&shop.root.dir(Root::PODS), name).expect("a namespace");
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn as_float(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
