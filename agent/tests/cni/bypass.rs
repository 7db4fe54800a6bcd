// SPDX-License-Identifier: Apache-2.0
//! An agent whose programs are passed by does not call itself ready.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use agent::{args::DatapathArgs, net::Netlink, run::kernel};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions};
use serde_json::json;

use crate::{container::start, node::Node};

#[test]
fn a_datapath_that_redirects() {
    let Some(node) = Node::new("cilium") else {
        return;
    };
    let links = Netlink::open(&node.netns).unwrap();
    links
        .add_veth("cilium_host", "cilium_net", &node.netns)
        .unwrap();
    let datapath = DatapathArgs {
        bpffs: node.bpffs(),
        ..DatapathArgs::default()
    };
    let agent = start(&node, &[], kernel(&datapath));
    let unready = agent.unready();
    assert!(
        unready.iter().any(|why| why.contains("Cilium")),
        "{unready:?}"
    );
    let host = links.link_named("cilium_host").unwrap().unwrap().index;
    links.delete_link(host).unwrap();
    eventually("ready again", || {
        !agent.unready().iter().any(|why| why.contains("Cilium"))
    });
}

#[test]
fn a_program_ahead_of_ours() {
    let Some(mut node) = Node::new("ahead") else {
        return;
    };
    let plugin = json!({"type": "ptp", "ipMasq": false, "ipam": node.ipam("10.45.7.0/24")});
    node.add_pod("api", &[plugin]);
    let datapath = DatapathArgs {
        bpffs: node.bpffs(),
        ..DatapathArgs::default()
    };
    let agent = start(&node, &[], kernel(&datapath));
    let names_it = || agent.unready().iter().any(|why| why.contains("`clock`"));
    assert!(!names_it());

    // Any program will do: this one is at hand.
    let pinned = find("clock", &node.bpffs()).unwrap();
    let ifindex = *node.find(&[]).pods.keys().next().unwrap();
    let links = Netlink::open(&node.netns).unwrap();
    let name = links.link(ifindex).unwrap().unwrap().name;
    let mut intruder = SchedClassifier::from_pin(pinned).unwrap();
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    let attach = || {
        let attached = intruder.attach_with_options(&name, TcAttachType::Ingress, order);
        Ok(attached.unwrap())
    };
    let link = node.netns.run(attach).unwrap();
    eventually("the intruder is noticed", names_it);
    intruder.detach(link).unwrap();
    eventually("the intruder is gone", || !names_it());
}

fn find(name: &str, folder: &Path) -> Option<PathBuf> {
    fs::read_dir(folder).unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return find(name, &path);
        }
        (path.file_name()? == name).then_some(path)
    })
}

#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(50));
    }
}
