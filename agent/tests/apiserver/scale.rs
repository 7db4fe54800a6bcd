// SPDX-License-Identifier: Apache-2.0
//! Many objects: the first reading, and a storm of deletions.

use serde_json::json;

use crate::{
    cluster::{Cluster, eventually, network_policy},
    control_plane::ControlPlane,
    node::{Node, ready},
};

const PODS: usize = 10_000;
const POLICIES: usize = 1_000;
const DELETED: usize = 1_000;

fn count(text: &str, kind: &str) -> Option<usize> {
    let wanted = format!(r#"netpol_objects{{kind="{kind}"}} "#);
    text.lines()
        .find_map(|line| line.strip_prefix(&wanted)?.parse().ok())
}

#[tokio::test]
async fn ten_thousand_pods_and_a_thousand_policies() {
    let Some(plane) = ControlPlane::start().await else {
        return;
    };
    let cluster = Cluster::new(plane.client());
    cluster.namespace("shop", &json!({})).await;
    cluster.node("n1", "192.0.2.1").await;
    let created = "2025-01-01T00:00:00Z";
    let pods = (0..PODS).map(|number| {
        let name = format!("pod-{number:05}");
        let node = format!("n{}", number / 30 + 2);
        let address = format!(
            "10.{}.{}.{}",
            number / 65_025,
            number / 255 % 255,
            number % 255
        );
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "namespace": "shop", "name": name, "uid": name, "creationTimestamp": created,
                "labels": {"app": format!("app-{}", number % 200), "hash": name},
            },
            "spec": {"nodeName": node, "containers": [{"name": "main", "image": "none"}]},
            "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
        });
        (format!("/registry/pods/shop/{name}"), pod)
    });
    plane.store(pods);
    let policies = (0..POLICIES).map(|number| {
        let name = format!("policy-{number:04}");
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {
                "namespace": "shop", "name": name, "uid": name, "generation": 1,
                "creationTimestamp": created,
            },
            "spec": {
                "podSelector": {"matchLabels": {"app": format!("app-{}", number % 200)}},
                "policyTypes": ["Ingress"],
                "ingress": [{"from": [
                    {"podSelector": {"matchLabels": {"app": format!("app-{}", number % 199)}}},
                ]}],
            },
        });
        (format!("/registry/networkpolicies/shop/{name}"), policy)
    });
    plane.store(policies);
    let last = [
        format!("/registry/pods/shop/pod-{:05}", PODS - 1),
        format!("/registry/networkpolicies/shop/policy-{:04}", POLICIES - 1),
    ];
    for key in &last {
        plane.has_read(key).await;
    }
    let node = Node::new("n1");
    node.add_pod("s1", "10.200.0.1/32");
    cluster.pod("shop", "local", "n1", "10.200.0.1").await;

    let (running, told) = node.start(&plane.client());
    ready(&running).await;
    // The API server itself may still be reading what was put into its store.
    eventually("all", async || {
        let text = running.metrics.encode().unwrap();
        let counts = (count(&text, "Pod"), count(&text, "NetworkPolicy"));
        (counts == (Some(PODS + 1), Some(POLICIES))).then_some(())
    })
    .await;
    assert_eq!(told.bound(), ["shop/local"]);

    // Many go at once, and the one pod of this node stays what it is.
    let before = told.publications();
    for number in 0..DELETED {
        plane.erase(&format!("/registry/pods/shop/pod-{number:05}"));
    }
    eventually("deleted", async || {
        let text = running.metrics.encode().unwrap();
        (count(&text, "Pod") == Some(PODS + 1 - DELETED)).then_some(())
    })
    .await;
    // Fewer compilations than pods, however slowly they go.
    assert!(told.publications() - before < DELETED);
    assert_eq!(told.bound(), ["shop/local"]);

    // Policies, too, go as a namespace that is deleted takes them along.
    let before = told.publications();
    let isolating = network_policy("shop", "local", &[]);
    cluster.delete_all(&isolating).await;
    eventually("no policy left", async || {
        let text = running.metrics.encode().unwrap();
        (count(&text, "NetworkPolicy") == Some(0)).then_some(())
    })
    .await;
    assert!(told.publications() - before < POLICIES);
    assert_eq!(told.bound(), ["shop/local"]);
    running.stop().await;
}
