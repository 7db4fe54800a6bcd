// SPDX-License-Identifier: Apache-2.0
//! A pod does not begin before the agent vouches for its interface, by the plugin at the end of the chain.

use std::{fs, thread, time::Duration};

use agent::{
    args::DatapathArgs,
    bundle::Bundle,
    engine::Settings,
    folder::{self, Options, Running},
    net::Netns,
    run::kernel,
};
use serde_json::{Value, json};

use crate::{
    container,
    node::{Node, address_in, answers, comes_to_answer},
};

/// A runtime should come again (CNI).
const TRY_AGAIN: u64 = 11;
/// The plugin cannot serve at the moment (CNI).
const UNAVAILABLE: u64 = 50;
/// The interface has no end on the node (the plugin's own).
const NO_HOST_INTERFACE: u64 = 100;

/// How the datapath of a node's agent is opened.
pub(crate) fn datapath(node: &Node) -> DatapathArgs {
    DatapathArgs {
        bpffs: node.bpffs(),
        events_per_second: 0,
        ..DatapathArgs::default()
    }
}

/// The node's agent, which enforces the folder `manifests` and listens for plugins.
pub(crate) fn agent(node: &Node, manifests: &tempfile::TempDir, how: &DatapathArgs) -> Running {
    let options = Options {
        dir: manifests.path().to_owned(),
        node: "n1".to_owned(),
        netns_dir: node.netns_dir(),
        local_node_egress: false,
        service_cidrs: Vec::new(),
        settings: Settings::default(),
        state_dir: None,
        cni_socket: Some(node.socket()),
    };
    folder::start(&node.netns, options, kernel(how)).unwrap()
}

/// Pods of the node without addresses, as they are before their interface is made.
pub(crate) fn pods(names: &[&str]) -> String {
    let pods = names.iter().map(|name| {
        format!(
            "apiVersion: v1\nkind: Pod\n\
             metadata: {{namespace: shop, name: {name}, labels: {{app: {name}}}}}\n\
             spec: {{nodeName: n1, containers: [{{name: c, image: x}}]}}\n---\n"
        )
    });
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\n";
    namespace.to_owned() + &pods.collect::<String>()
}

fn folder_of_pods(names: &[&str]) -> tempfile::TempDir {
    let manifests = tempfile::tempdir().unwrap();
    fs::write(manifests.path().join("pods.yaml"), pods(names)).unwrap();
    manifests
}

fn ptp(node: &Node, block: &str) -> Value {
    json!({"type": "ptp", "ipMasq": false, "ipam": node.ipam(block)})
}

#[track_caller]
fn refused(result: Result<Value, Value>, code: u64) -> String {
    let error = result.unwrap_err();
    assert_eq!(error["code"], code, "{error}");
    assert_eq!(error["cniVersion"], "0.4.0", "{error}");
    error["msg"].as_str().unwrap().to_owned()
}

#[test]
fn an_agent_that_is_away_lets_no_pod_begin() {
    let Some(node) = Node::new("away") else {
        return;
    };
    let ptp = ptp(&node, "10.46.1.0/24");
    let hold = node.plugin(&json!({"timeoutSeconds": 1}));
    let chain = [ptp.clone(), hold.clone()];
    node.sandbox("web");
    let why = refused(node.chain("web", &chain), TRY_AGAIN);
    assert!(why.contains("does not answer"), "{why}");
    refused(node.call("STATUS", "web", &hold), UNAVAILABLE);
    // What a runtime does before it tries again.
    let remove = |name: &str| {
        for plugin in chain.iter().rev() {
            node.call("DEL", name, plugin).unwrap();
        }
    };
    remove("web");

    let manifests = folder_of_pods(&["web", "api"]);
    let running = agent(&node, &manifests, &datapath(&node));
    let result = node.chain("web", &chain).unwrap();
    assert_eq!(node.call("STATUS", "web", &hold), Ok(Value::Null));
    let mut check = hold.clone();
    check["prevResult"] = result.clone();
    assert_eq!(node.call("CHECK", "web", &check), Ok(Value::Null));
    // What the plugins before it have made is handed on as it is.
    assert_eq!(result["interfaces"].as_array().unwrap().len(), 2);

    drop(running);
    assert!(!node.socket().exists());
    node.sandbox("api");
    refused(node.chain("api", &chain), TRY_AGAIN);
    remove("api");
    // An agent that comes while the plugin waits is soon enough.
    let patient = [ptp, node.plugin(&json!({"timeoutSeconds": 30}))];
    thread::scope(|scope| {
        let adding = scope.spawn(|| node.chain("api", &patient));
        thread::sleep(Duration::from_millis(300));
        let _running = agent(&node, &manifests, &datapath(&node));
        adding.join().unwrap().unwrap();
    });
    remove("web");
    remove("web");
}

#[test]
fn an_agent_that_is_away_lets_pods_begin_where_that_is_wanted() {
    let Some(node) = Node::new("lenient") else {
        return;
    };
    let hold = node.plugin(&json!({"timeoutSeconds": 0, "onFailure": "allow"}));
    node.sandbox("web");
    let result = node.chain("web", &[ptp(&node, "10.46.2.0/24"), hold.clone()]);
    assert!(address_in(&result.unwrap()).is_ipv4());
    assert_eq!(node.call("STATUS", "web", &hold), Ok(Value::Null));
}

#[test]
fn a_pod_that_nobody_knows_is_waited_for() {
    let Some(node) = Node::new("unknown") else {
        return;
    };
    let ptp = ptp(&node, "10.46.3.0/24");
    let chain = |options| [ptp.clone(), node.plugin(&options)];
    let manifests = folder_of_pods(&[]);
    let _running = agent(&node, &manifests, &datapath(&node));
    node.sandbox("ghost");
    let impatient = chain(json!({"timeoutSeconds": 1}));
    let why = refused(node.chain("ghost", &impatient), TRY_AGAIN);
    assert!(
        why.contains("no tables are in force for pod shop/ghost"),
        "{why}"
    );
    node.call("DEL", "ghost", &ptp).unwrap();
    // That its interface is closed can be had without knowing it.
    let closed = chain(json!({"timeoutSeconds": 30, "wait": "closed"}));
    node.chain("ghost", &closed).unwrap();

    node.sandbox("late");
    let patient = chain(json!({"timeoutSeconds": 30}));
    thread::scope(|scope| {
        let adding = scope.spawn(|| node.chain("late", &patient));
        thread::sleep(Duration::from_millis(300));
        assert!(!adding.is_finished(), "nothing was known of the pod");
        fs::write(manifests.path().join("pods.yaml"), pods(&["late"])).unwrap();
        adding.join().unwrap().unwrap();
    });
}

#[test]
fn without_an_api_server_closed_is_enough() {
    let Some(mut node) = Node::new("apiless") else {
        return;
    };
    let ptp = ptp(&node, "10.46.4.0/24");
    let chain = [ptp.clone(), node.plugin(&json!({"timeoutSeconds": 30}))];
    node.add_pod("known", std::slice::from_ref(&ptp));
    let bundle = Bundle::new(&node.bundle());
    bundle.save("n1", &node.snapshot("")).unwrap();
    let _agent = container::start(&node, &[], kernel(&datapath(&node)));
    // The agent knew this pod the last time: its tables are in force.
    let known = node.address("known");
    assert!(comes_to_answer(&node.netns, known, 80));
    // Of this one it cannot know.
    node.add_pod("stranger", &chain);
    let stranger = node.address("stranger");
    assert!(!answers(&node.netns, stranger, 80));
    assert!(!answers(node.pod("stranger"), known, 80));
}

#[test]
fn an_interface_without_an_end_on_the_node_is_refused() {
    let Some(node) = Node::new("endless") else {
        return;
    };
    container::connect(&node);
    let manifests = folder_of_pods(&["web"]);
    let _running = agent(&node, &manifests, &datapath(&node));
    let ipam = node.ipam("10.46.5.0/24");
    let macvlan = json!({"type": "macvlan", "master": "eth0", "ipam": ipam});
    node.sandbox("web");
    let chain = [macvlan, node.plugin(&json!({"timeoutSeconds": 30}))];
    let why = refused(node.chain("web", &chain), NO_HOST_INTERFACE);
    assert!(why.contains("`eth0` has no other end"), "{why}");
}

#[test]
fn the_socket_is_roots_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let Some(node) = Node::new("private") else {
        return;
    };
    let manifests = folder_of_pods(&[]);
    let _running = agent(&node, &manifests, &datapath(&node));
    let mode = fs::metadata(node.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Whoever claims the node's own network is not believed.
    let hold = node.plugin(&json!({"timeoutSeconds": 1, "prevResult": {}}));
    let own = Netns::create(&node.netns_dir(), "cni-empty").unwrap();
    assert_ne!(own.inode().unwrap(), node.netns.inode().unwrap());
    let why = refused(node.call("ADD", "empty", &hold), NO_HOST_INTERFACE);
    assert!(why.contains("`eth0` has no other end"), "{why}");
}
