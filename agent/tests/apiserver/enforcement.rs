// SPDX-License-Identifier: Apache-2.0
//! From an object in the API to a packet on the wire.

use serde_json::json;

use crate::{
    cluster::{Cluster, deny_from, network_policy},
    control_plane::ControlPlane,
    node::{Node, blocking, ready},
    shop::{API, Shop, WEB},
};

#[tokio::test]
async fn objects_decide_what_happens_to_packets() {
    let Some(mut plane) = ControlPlane::start().await else {
        return;
    };
    let cluster = Cluster::new(plane.client());
    cluster.namespace("shop", &json!({})).await;
    cluster.node("n1", "192.0.2.41").await;
    cluster.pod("shop", "web", "n1", WEB).await;
    cluster.pod("shop", "api", "n1", API).await;
    let shop = blocking(Shop::build);
    shop.becomes(true, "before any agent").await;

    let keeper = Node::new("n1");
    let running = shop.start(&keeper, &plane);
    ready(&running).await;
    shop.becomes(true, "no policy").await;
    cluster.apply(&network_policy("shop", "api", &[])).await;
    shop.becomes(false, "api is isolated").await;
    cluster
        .apply(&network_policy("shop", "api", &["web"]))
        .await;
    shop.becomes(true, "web is admitted").await;
    if cluster.install_policy_crds("experimental").await {
        let guard = deny_from("guard", 10, "web");
        cluster.apply(&guard).await;
        shop.becomes(false, "an administrator denies").await;
        cluster.delete(&guard).await;
        shop.becomes(true, "the denial is gone").await;
    }

    // Without agent and API server the kernel goes on, and the next agent takes over as it is.
    cluster.apply(&network_policy("shop", "api", &[])).await;
    shop.becomes(false, "api is isolated again").await;
    running.stop().await;
    assert!(!shop.passes(), "the agent is gone");
    plane.stop_apiserver();
    let running = shop.start(&keeper, &plane);
    assert!(!shop.passes(), "the API server is gone, too");
    plane.start_apiserver().await;
    ready(&running).await;
    assert!(!shop.passes(), "everybody is back");
    cluster.delete(&network_policy("shop", "api", &[])).await;
    shop.becomes(true, "no policy again").await;
    running.stop().await;
}
