// SPDX-License-Identifier: Apache-2.0
//! Network namespaces, veth pairs and who leads where, against the real kernel. Needs root.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{path::PathBuf, sync::mpsc, time::Duration};

use agent::net::{HostLinks, LinkEvent, LinkWatch, Netlink, Netns};

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
    }
    // A pair that leads to another pod has no end on the node.
    Netlink::open(&pods[0])
        .unwrap()
        .add_veth("side", "side", &pods[1])
        .unwrap();
    let interfaces = links.interfaces_of(&pods[0]).unwrap();
    let side = interfaces.iter().find(|i| i.inside.name == "side").unwrap();
    assert_eq!(side.outside, None);
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
