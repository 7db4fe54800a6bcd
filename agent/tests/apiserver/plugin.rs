// SPDX-License-Identifier: Apache-2.0
//! A runtime tells whose an interface is, before the API server could.

use std::{
    io::Write as _,
    os::unix::fs::symlink,
    process::{Command, Stdio},
};

use agent::{cni::PLUGIN, kubernetes::Config};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, eventually},
    control_plane::ControlPlane,
    node::{Node, blocking, ready},
};

/// A runtime should come again (CNI).
const TRY_AGAIN: u64 = 11;

/// What the plugin says of the pod `shop/NAME` that is to be in a sandbox: the number of its error, if any.
fn add(node: &Node, sandbox: &str, name: &str, uid: &str, seconds: u64) -> Result<(), u64> {
    let config = json!({
        "cniVersion": "1.0.0", "name": "pods", "type": PLUGIN, "prevResult": {},
        "socket": node.file("cni.sock"), "timeoutSeconds": seconds,
    });
    let names = format!("K8S_POD_NAMESPACE=shop;K8S_POD_NAME={name};K8S_POD_UID={uid}");
    let mut plugin = Command::new(node.file(PLUGIN))
        .env("CNI_COMMAND", "ADD")
        .env("CNI_CONTAINERID", sandbox)
        .env("CNI_NETNS", node.pods().join(sandbox))
        .env("CNI_IFNAME", "eth0")
        .env("CNI_ARGS", names)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = plugin.stdin.take().unwrap();
    input.write_all(config.to_string().as_bytes()).unwrap();
    drop(input);
    let output = plugin.wait_with_output().unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    if output.status.success() {
        Ok(())
    } else {
        Err(said["code"].as_u64().unwrap())
    }
}

#[tokio::test]
async fn a_runtime_tells_whose_an_interface_is() {
    let Some(mut plane) = ControlPlane::start().await else {
        return;
    };
    let cluster = Cluster::new(plane.client());
    cluster.namespace("shop", &json!({})).await;
    cluster.node("n1", "192.0.2.41").await;
    let node = Node::new("n1");
    symlink(env!("CARGO_BIN_EXE_netpol-agent"), node.file(PLUGIN)).unwrap();
    let config = Config {
        cni_socket: Some(node.file("cni.sock")),
        ..node.config()
    };
    let (running, told) = node.start_with(&config, &plane.client());
    ready(&running).await;

    // The address in the sandbox is not the one that the API server has, and no process is in it.
    let uid = cluster.pod("shop", "web", "n1", "10.1.0.9").await;
    eventually("the pod is known", async || {
        told.pods().contains(&"shop/web".to_owned()).then_some(())
    })
    .await;
    node.add_pod("sandbox1", "10.1.0.5/32");
    let namesake = "00000000-0000-4000-8000-000000000000";
    let refused = blocking(|| add(&node, "sandbox1", "web", namesake, 1));
    assert_eq!(refused, Err(TRY_AGAIN), "another pod of that name");
    assert_eq!(told.bound(), [""; 0]);
    blocking(|| add(&node, "sandbox1", "web", &uid, 30)).unwrap();
    assert_eq!(told.bound(), ["shop/web"]);

    // As long as the API server answers, a pod that it does not know is waited for.
    node.add_pod("sandbox2", "10.1.0.6/32");
    let stranger = || blocking(|| add(&node, "sandbox2", "stranger", namesake, 1));
    assert_eq!(stranger(), Err(TRY_AGAIN));
    plane.stop_apiserver();
    eventually("closed is enough", async || stranger().ok()).await;
    assert_eq!(told.bound(), ["shop/web"]);
    running.stop().await;
}
