// SPDX-License-Identifier: Apache-2.0
//! The rights in the manifests: enough for everything the agent does, and for nothing else.

use std::fs;

use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    events::v1::Event,
};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, deny_from, eventually},
    control_plane::ControlPlane,
    node::{Node, ready},
};

/// The objects of the manifests that an installation consists of.
fn manifests() -> Vec<Value> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests");
    let files = [
        "crds/nodeenforcements.yaml",
        "base/namespace.yaml",
        "base/serviceaccount.yaml",
        "base/rbac.yaml",
        "base/configmap.yaml",
        "base/daemonset.yaml",
    ];
    let mut objects = Vec::new();
    for file in files {
        let text = fs::read_to_string(format!("{folder}/{file}")).unwrap();
        for document in serde_yaml::Deserializer::from_str(&text) {
            objects.push(Value::deserialize(document).unwrap());
        }
    }
    objects
}

async fn may(client: &Client, group: &str, resource: &str, verb: &str) -> bool {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                group: Some(group.to_owned()),
                resource: Some(resource.to_owned()),
                subresource: Some(subresource.to_owned()),
                verb: Some(verb.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let answer = api.create(&PostParams::default(), &review).await.unwrap();
    answer.status.unwrap().allowed
}

#[tokio::test]
async fn the_service_account_can_do_its_work_and_nothing_else() {
    let Some(plane) = ControlPlane::start().await else {
        return;
    };
    let cluster = Cluster::new(plane.client());
    if !cluster.install_policy_crds("experimental").await {
        return;
    }
    // The API server accepts every manifest.
    for object in manifests() {
        cluster.apply(&object).await;
    }
    cluster.namespace("shop", &json!({})).await;
    cluster.node("n1", "192.0.2.1").await;
    let guard = deny_from("guard", 10, "evil");
    cluster.apply(&guard).await;
    // Older API servers stored what today's refuse.
    let odd = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {
            "namespace": "shop", "name": "odd", "uid": "odd", "generation": 1,
            "creationTimestamp": "2020-01-01T00:00:00Z",
        },
        "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{
            "to": [{"ipBlock": {"cidr": "10.0.0.1/8"}}],
        }]},
    });
    let key = "/registry/networkpolicies/shop/odd".to_owned();
    plane.store(std::iter::once((key, odd)));

    let agent = plane.client_of("agent");
    let node = Node::new("n1");
    let (running, _) = node.start(&agent);
    ready(&running).await;
    eventually("conditions", async || {
        let object = cluster.get(&guard).await?;
        (object["status"]["conditions"].as_array()?.len() == 2).then_some(())
    })
    .await;
    eventually("report", async || {
        let report = json!({
            "apiVersion": "netpol.internal/v1alpha1", "kind": "NodeEnforcement", "metadata": {"name": "n1"},
        });
        cluster.get(&report).await.map(|_| ())
    })
    .await;
    let events: Api<Event> = Api::namespaced(plane.client(), "shop");
    let event = eventually("event", async || {
        let list = events.list(&ListParams::default()).await.unwrap();
        list.items.into_iter().next()
    })
    .await;
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    assert_eq!(event.regarding.unwrap().name.as_deref(), Some("odd"));
    let text = running.metrics.encode().unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.find(|line| line.contains(r#"result="failed""#)), None);
    running.stop().await;

    for (group, resource, verb) in [
        ("", "pods", "create"),
        ("", "pods", "delete"),
        ("", "pods/exec", "create"),
        ("", "secrets", "get"),
        ("", "configmaps", "list"),
        ("", "nodes", "patch"),
        ("networking.k8s.io", "networkpolicies", "delete"),
        ("policy.networking.k8s.io", "adminnetworkpolicies", "patch"),
        ("policy.networking.k8s.io", "adminnetworkpolicies", "delete"),
        ("netpol.internal", "nodeenforcements", "delete"),
        ("rbac.authorization.k8s.io", "clusterroles", "escalate"),
        ("coordination.k8s.io", "leases", "update"),
    ] {
        assert!(
            !may(&agent, group, resource, verb).await,
            "{verb} {resource}"
        );
    }
    assert!(may(&agent, "", "pods", "watch").await);
}
