// SPDX-License-Identifier: Apache-2.0
//! Pods of each plugin are found, told apart and judged.

use std::collections::BTreeSet;

use agent::net::{HostLinks, Netlink, Netns};
use serde_json::{Value, json};

use crate::{
    container::connect,
    node::{NODE, Node, answers, comes_to_answer, key},
};

const NOBODY_REACHES_API: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: api}
spec: {podSelector: {matchLabels: {app: api}}, policyTypes: [Ingress]}
";

const WEB_REACHES_80_OF_API: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: api}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 80}]}]
";

/// Three pods of `plugins`, from discovery to verdicts; the node itself reaches its pods throughout.
fn from_interface_to_verdict(node: &mut Node, plugins: &[Value]) {
    for name in ["web", "api", "other"] {
        node.add_pod(name, plugins);
    }
    let found = node.find(&[NODE]);
    // Each interface is the host's end of the pair that leads into the pod's namespace.
    let links = HostLinks::read(&node.netns).unwrap();
    for name in ["web", "api", "other"] {
        let inside = links.interfaces_of(node.pod(name)).unwrap();
        let outside = inside[0].outside.as_ref().unwrap().index;
        assert_eq!(found.pods[&outside], Some(key(name)));
        assert_eq!(inside[0].addresses, [node.address(name)]);
    }
    assert_eq!(found.pods.len(), 3, "{found:?}");
    assert!(found.unreachable.is_empty(), "{found:?}");

    let [web, other] = [node.pod("web").clone(), node.pod("other").clone()];
    let api = node.address("api");
    let reached = |from: &Netns, port| comes_to_answer(from, api, port);
    let refused = |from: &Netns, port| !answers(from, api, port);
    assert!(reached(&web, 80), "before any agent");
    node.enforce("");
    assert!(reached(&web, 80) && reached(&other, 80), "no policy");
    node.enforce(NOBODY_REACHES_API);
    assert!(refused(&web, 80) && refused(&other, 80), "isolated");
    assert!(
        reached(&node.netns, 80),
        "a pod's own node always reaches it"
    );
    node.enforce(WEB_REACHES_80_OF_API);
    assert!(reached(&web, 80), "admitted");
    assert!(refused(&web, 81), "another port");
    assert!(refused(&other, 80), "another pod");
    node.enforce("");
    assert!(reached(&other, 80), "no policy again");
}

#[test]
fn ptp() {
    let Some(mut node) = Node::new("ptp") else {
        return;
    };
    let plugin = json!({"type": "ptp", "ipMasq": false, "ipam": node.ipam("10.45.1.0/24")});
    from_interface_to_verdict(&mut node, &[plugin]);
    assert!(node.find(&[NODE]).bridges.is_empty());
}

#[test]
fn bridge() {
    let Some(mut node) = Node::new("bridge") else {
        return;
    };
    let ipam = node.ipam("10.45.2.0/24");
    let plugin = json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": ipam});
    from_interface_to_verdict(&mut node, &[plugin]);
    let links = Netlink::open(&node.netns).unwrap();
    let cni0 = links.link_named("cni0").unwrap().unwrap().index;
    assert_eq!(node.find(&[NODE]).bridges, BTreeSet::from([cni0]));
}

#[test]
fn an_address_that_is_given_again_is_the_new_pods() {
    let Some(mut node) = Node::new("again") else {
        return;
    };
    // A block with room for two pods: the plugin has to give the same addresses again.
    let plugin = json!({"type": "ptp", "ipMasq": false, "ipam": node.ipam("10.45.3.0/30")});
    node.add_pod("api", std::slice::from_ref(&plugin));
    let first = node.address("api");
    node.enforce(NOBODY_REACHES_API);
    assert!(comes_to_answer(&node.netns, first, 80), "its own node");
    node.remove_pod("api", &plugin);
    assert!(node.find(&[NODE]).pods.is_empty());
    node.add_pod("web", std::slice::from_ref(&plugin));
    assert_eq!(node.address("web"), first, "the block has no other address");
    let found = node.find(&[NODE]);
    let owners: Vec<_> = found.pods.values().cloned().collect();
    assert_eq!(owners, [Some(key("web"))]);
}

#[test]
fn host_ports_lead_to_the_pods_policies() {
    let Some(mut node) = Node::new("hostport") else {
        return;
    };
    let ptp = json!({"type": "ptp", "ipMasq": false, "ipam": node.ipam("10.45.4.0/24")});
    let portmap = json!({
        "type": "portmap",
        "capabilities": {"portMappings": true},
        "runtimeConfig": {
            "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
        },
    });
    node.add_pod("api", &[ptp.clone(), portmap]);
    node.add_pod("web", std::slice::from_ref(&ptp));
    node.add_pod("other", &[ptp]);
    let there = NODE.parse().unwrap();
    let [web, other] = [node.pod("web").clone(), node.pod("other").clone()];
    let reached = |from: &Netns| comes_to_answer(from, there, 8080);
    let refused = |from: &Netns| !answers(from, there, 8080);
    assert!(reached(&web), "before any agent");
    node.enforce(NOBODY_REACHES_API);
    assert!(refused(&web) && refused(&other), "isolated");
    node.enforce(WEB_REACHES_80_OF_API);
    assert!(reached(&web), "the policy is about the pod's port");
    assert!(refused(&other), "another pod");
}

#[test]
fn macvlan_has_no_end_to_police() {
    let Some(mut node) = Node::new("macvlan") else {
        return;
    };
    let (eth0, _world) = connect(&node);
    Netlink::open(&node.netns)
        .unwrap()
        .add_address(eth0, "192.0.2.42/24".parse().unwrap())
        .unwrap();
    let plugin = json!({"type": "macvlan", "master": "eth0", "ipam": node.ipam("10.45.5.0/24")});
    node.add_pod("api", &[plugin]);
    let found = node.find(&["192.0.2.42"]);
    assert!(found.pods.is_empty(), "{found:?}");
    let why: Vec<_> = found.unreachable.iter().collect();
    assert!(
        matches!(why[..], [(pod, _)] if *pod == key("api")),
        "{found:?}"
    );
}
