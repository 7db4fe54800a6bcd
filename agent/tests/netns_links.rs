// SPDX-License-Identifier: Apache-2.0
//! Network namespaces, veth pairs and who leads where, against the real kernel. Needs root.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use agent::net::{
    Close, Gate, Guard, HostLinks, LinkEvent, LinkWatch, Netlink, Netns, Why, outside_of,
};
use policy_ebpf_common::flow::Direction;

/// Namespaces that go away with the test.
struct Namespaces {
    dir: PathBuf,
    names: Vec<String>,
}

impl Namespaces {
    fn new() -> Self {
        Self {
            dir: PathBuf::from("/run/netns"),
            names: Vec::new(),
        }
    }

    fn create(&mut self, name: &str) -> Netns {
        let name = format!("npl-{}-{name}", std::process::id());
        let namespace = Netns::create(&self.dir, &name).unwrap();
        self.names.push(name);
        namespace
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.names {
            Netns::remove(&self.dir, name).unwrap();
        }
    }
}

#[test]
fn pairs_are_matched_by_index_and_namespace() {
    let mut namespaces = Namespaces::new();
    let host = namespaces.create("host");
    let pods = [namespaces.create("a"), namespaces.create("b")];
    let host_netlink = Netlink::open(&host).unwrap();
    for (i, pod) in pods.iter().enumerate() {
        host_netlink
            .add_veth(&format!("v{i}"), "eth0", pod)
            .unwrap();
        let inside = Netlink::open(pod).unwrap();
        let eth0 = inside.link_named("eth0").unwrap().unwrap();
        inside
            .add_address(eth0.index, format!("10.9.{i}.1/32").parse().unwrap())
            .unwrap();
        inside
            .add_address(eth0.index, format!("fd00:9::{i}/128").parse().unwrap())
            .unwrap();
    }
    let links = HostLinks::read(&host).unwrap();
    // Both pods' eth0 have the same number, so the number alone cannot tell them apart.
    for (i, pod) in pods.iter().enumerate() {
        let interfaces = links.interfaces_of(pod).unwrap();
        assert_eq!(interfaces.len(), 1);
        let outside = interfaces[0].outside.as_ref().unwrap();
        assert_eq!(outside.name, format!("v{i}"));
        assert_eq!(
            interfaces[0].addresses,
            [
                format!("10.9.{i}.1").parse::<std::net::IpAddr>().unwrap(),
                format!("fd00:9::{i}").parse().unwrap()
            ]
        );
        let named = |name| outside_of(&host, pod, name).unwrap();
        assert_eq!(named("eth0").as_ref(), Some(outside));
        assert_eq!(named("eth1"), None);
        assert_eq!(named("lo"), None);
    }
    // A pair that leads to another pod has no end on the node.
    Netlink::open(&pods[0])
        .unwrap()
        .add_veth("side", "side", &pods[1])
        .unwrap();
    let interfaces = links.interfaces_of(&pods[0]).unwrap();
    let side = interfaces.iter().find(|i| i.inside.name == "side").unwrap();
    assert_eq!(side.outside, None);
    assert_eq!(outside_of(&host, &pods[0], "side").unwrap(), None);
    assert_eq!(interfaces.iter().filter(|i| i.outside.is_some()).count(), 1);
}

#[test]
fn new_interfaces_are_announced() {
    let mut namespaces = Namespaces::new();
    let host = namespaces.create("watched");
    let pod = namespaces.create("newcomer");
    let (sender, events) = mpsc::channel();
    let watch = LinkWatch::start(&host, move |event| {
        let _ = sender.send(event);
    })
    .unwrap();
    let netlink = Netlink::open(&host).unwrap();
    netlink.add_veth("fresh", "eth0", &pod).unwrap();
    let next = |wanted: &dyn Fn(&LinkEvent) -> bool| {
        loop {
            let event = events.recv_timeout(Duration::from_secs(10)).unwrap();
            if wanted(&event) {
                return event;
            }
        }
    };
    let event = next(
        &|event| matches!(event, LinkEvent::Changed(link) if link.name == "fresh" && link.peer_nsid.is_some()),
    );
    let LinkEvent::Changed(link) = event else {
        panic!("not a change: {event:?}");
    };
    assert!(link.is_pair);
    netlink.delete_link(link.index).unwrap();
    next(&|event| matches!(event, LinkEvent::Gone(gone) if gone.index == link.index));
    drop(watch);
}

/// Notes what it is told to close.
#[derive(Clone, Default)]
struct Noted(Arc<Mutex<Vec<(u32, Direction, Why)>>>);

impl Close for Noted {
    fn close(&mut self, ifindex: u32, direction: Direction, why: Why) -> anyhow::Result<bool> {
        self.0.lock().unwrap().push((ifindex, direction, why));
        Ok(true)
    }

    fn forget(&mut self, _: u32) -> anyhow::Result<()> {
        Ok(())
    }

    fn guard(&self, ifindex: u32, direction: Direction) -> anyhow::Result<Option<Guard>> {
        let noted = self.0.lock().unwrap();
        let mut noted = noted.iter();
        let is_closed = noted.any(|(index, of, _)| (*index, *of) == (ifindex, direction));
        Ok(is_closed.then_some(Guard::Gate))
    }
}

impl Noted {
    /// Why interface `ifindex` was closed, in order; every time to what comes out first.
    #[track_caller]
    fn whys(&self, ifindex: u32) -> Vec<Why> {
        let noted = self.0.lock().unwrap();
        let noted: Vec<_> = noted
            .iter()
            .filter(|(index, ..)| *index == ifindex)
            .collect();
        let whys = noted.chunks(2).map(|pair| {
            let [(_, first, why), (_, second, same)] = pair else {
                panic!("closed to one side: {noted:?}");
            };
            assert_eq!((*first, *second), (Direction::Egress, Direction::Ingress));
            assert_eq!(why, same);
            *why
        });
        whys.collect()
    }
}

/// Waits for an event about an interface, past all others.
#[track_caller]
fn await_event(events: &mpsc::Receiver<LinkEvent>, wanted: impl Fn(&LinkEvent) -> bool) {
    while !wanted(&events.recv_timeout(Duration::from_secs(10)).unwrap()) {}
}

#[track_caller]
fn ip(namespaces: &Namespaces, inside: usize, arguments: &str) {
    let name = &namespaces.names[inside];
    let mut command = Command::new("ip");
    let output = command
        .args(["-n", name])
        .args(arguments.split(' '))
        .output();
    let output = output.unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}

#[test]
fn a_gate_closes_what_is_new_and_what_leads_elsewhere() {
    let mut namespaces = Namespaces::new();
    let host = namespaces.create("gated");
    let pod = namespaces.create("behind");
    let other = namespaces.create("beyond");
    let netlink = Netlink::open(&host).unwrap();
    netlink.add_veth("before", "eth9", &pod).unwrap();
    let index = |name: &str| netlink.link_named(name).unwrap().unwrap().index;

    let noted = Noted::default();
    let (sender, events) = mpsc::channel();
    let closer = || Ok(Box::new(noted.clone()) as Box<dyn Close>);
    let gate = Gate::start(&host, closer, move |event| {
        let _ = sender.send(event);
    });
    let gate = gate.unwrap();
    let is_closed = |event: &LinkEvent, wanted: u32| matches!(event, LinkEvent::Closed(link) if link.index == wanted);

    netlink.add_veth("fresh", "eth0", &pod).unwrap();
    let fresh = index("fresh");
    await_event(&events, |event| is_closed(event, fresh));
    assert_eq!(noted.whys(fresh), [Why::New]);
    // That it is up, or has another name, is nothing new.
    netlink.set_up(fresh).unwrap();
    ip(&namespaces, 0, "link set fresh alias other");

    // Both ends on the node, until one moves away.
    netlink.add_veth("near", "far", &host).unwrap();
    let near = index("near");
    await_event(&events, |event| is_closed(event, near));
    ip(
        &namespaces,
        0,
        &format!("link set far netns {}", namespaces.names[1]),
    );
    await_event(&events, |event| is_closed(event, near));
    assert_eq!(noted.whys(near), [Why::New, Why::Moved]);
    netlink.set_up(near).unwrap();
    ip(
        &namespaces,
        1,
        &format!("link set far netns {}", namespaces.names[2]),
    );
    ip(&namespaces, 2, "link set far up");
    await_event(
        &events,
        |event| matches!(event, LinkEvent::Gone(link) if link.index == near),
    );
    await_event(&events, |event| is_closed(event, near));
    assert_eq!(noted.whys(near), [Why::New, Why::Moved, Why::Moved]);

    // Neither what was there before nor what leads to nobody.
    netlink.add_bridge("br0").unwrap();
    let bridge = index("br0");
    await_event(
        &events,
        |event| matches!(event, LinkEvent::Changed(link) if link.index == bridge),
    );
    for quiet in [index("before"), bridge] {
        assert_eq!(noted.whys(quiet), []);
    }
    assert_eq!(noted.whys(fresh), [Why::New]);
    drop((gate, other));
}

#[test]
fn a_port_that_leaves_its_bridge_is_not_gone() {
    let mut namespaces = Namespaces::new();
    let host = namespaces.create("bridged");
    let pod = namespaces.create("port");
    let netlink = Netlink::open(&host).unwrap();
    netlink.add_bridge("br0").unwrap();
    netlink.add_veth("port", "eth0", &pod).unwrap();
    let [bridge, port] =
        ["br0", "port"].map(|name| netlink.link_named(name).unwrap().unwrap().index);
    netlink.set_controller(port, bridge).unwrap();
    let (sender, events) = mpsc::channel();
    let watch = LinkWatch::start(&host, move |event| {
        let _ = sender.send(event);
    });
    let watch = watch.unwrap();
    ip(&namespaces, 0, "link set port nomaster");
    netlink.delete_link(bridge).unwrap();
    let gone = loop {
        let event = events.recv_timeout(Duration::from_secs(10)).unwrap();
        if let LinkEvent::Gone(link) = event {
            break link.index;
        }
    };
    assert_eq!(gone, bridge);
    drop(watch);
}

#[test]
fn the_callers_namespace_stays() {
    let mut namespaces = Namespaces::new();
    let before = Netns::current().unwrap().inode().unwrap();
    let other = namespaces.create("other");
    let inside = other.run(|| Netns::current()?.inode()).unwrap();
    assert_ne!(inside, before);
    assert_eq!(inside, other.inode().unwrap());
    assert_eq!(Netns::current().unwrap().inode().unwrap(), before);
    other.set_sysctl("ipv4/ip_forward", "1").unwrap();
    let here = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    let there = other
        .run(|| std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward"))
        .unwrap();
    assert_eq!((here.trim(), there.trim()), ("0", "1"));
}
