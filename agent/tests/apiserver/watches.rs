// SPDX-License-Identifier: Apache-2.0
//! Watches: the first reading, changes, late kinds, restarts, refusals.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, deny_from, eventually, network_policy, pod},
    control_plane::ControlPlane,
    manifests::objects,
    node::{Node, knows, ready},
};

#[tokio::test]
async fn objects_become_tables() {
    let Some(plane) = ControlPlane::start().await else {
        return;
    };
    let cluster = Cluster::new(plane.client());
    cluster.namespace("shop", &json!({})).await;
    cluster.node("n1", "192.0.2.1").await;
    let node = Node::new("n1");
    node.add_pod("sandbox-1", "10.1.0.1/32");
    cluster.pod("shop", "web", "n1", "10.1.0.1").await;
    cluster.pod("shop", "remote", "n2", "10.1.0.2").await;

    let (running, told) = node.start(&plane.client());
    ready(&running).await;
    assert_eq!(told.pods(), ["shop/web"]);
    assert_eq!(told.bound(), ["shop/web"]);
    let open = told.image().unwrap();

    // A policy changes the tables, and taking it away brings the old ones back.
    let policy = network_policy("shop", "web", &["remote"]);
    cluster.apply(&policy).await;
    eventually("isolated", async || {
        (told.image() != Some(open.clone())).then_some(())
    })
    .await;
    cluster.delete(&policy).await;
    eventually("open again", async || {
        (told.image().unwrap().endpoints == open.endpoints).then_some(())
    })
    .await;

    // A pod that goes takes its interface along.
    cluster.delete(&pod("shop", "web", "n1")).await;
    node.remove_pod("sandbox-1");
    eventually("gone", async || told.pods().is_empty().then_some(())).await;
    eventually("detached", async || {
        told.attached().is_empty().then_some(())
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn a_new_interface_is_closed_before_its_pod_is_known() {
    let Some(plane) = ControlPlane::start().await else {
        return;
    };
    let cluster = Cluster::new(plane.client());
    cluster.namespace("shop", &json!({})).await;
    cluster.node("n1", "192.0.2.1").await;
    let node = Node::new("n1");
    let (running, told) = node.start(&plane.client());
    ready(&running).await;

    node.add_pod("sandbox-1", "10.1.0.1/32");
    eventually("attached", async || {
        (told.attached().len() == 1).then_some(())
    })
    .await;
    assert!(told.bound().is_empty());
    cluster.pod("shop", "web", "n1", "10.1.0.1").await;
    eventually("bound", async || {
        (told.bound() == ["shop/web"]).then_some(())
    })
    .await;

    // The same pod name with another interface: the old one does not linger.
    node.remove_pod("sandbox-1");
    cluster.delete(&pod("shop", "web", "n1")).await;
    node.add_pod("sandbox-2", "10.1.0.9/32");
    cluster.pod("shop", "web", "n1", "10.1.0.9").await;
    eventually("bound again", async || {
        (told.bound() == ["shop/web"] && told.attached().len() == 1).then_some(())
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn kinds_count_from_when_they_are_installed() {
    let Some(plane) = ControlPlane::start().await else {
        return;
    };
    let cluster = Cluster::new(plane.client());
    install_rights(&cluster, |_| true).await;
    let node = Node::new("n1");
    let mut config = node.config();
    // Nobody comes upon them by chance.
    config.watch.discovery = Duration::from_hours(24);
    let (running, _told) = node.start_with(&config, &plane.client_of("agent"));
    ready(&running).await;
    for _ in 0..2 {
        if !cluster.install_policy_crds("experimental").await {
            return;
        }
        cluster.apply(&deny_from("guard", 10, "evil")).await;
        knows(&running, 1).await;
        cluster.remove_policy_crds("experimental").await;
        knows(&running, 0).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn kinds_whose_definitions_may_not_be_read_are_looked_for() {
    let Some(plane) = ControlPlane::start().await else {
        return;
    };
    let cluster = Cluster::new(plane.client());
    let is_about_others = |rule: &Value| rule["resources"] != json!(["customresourcedefinitions"]);
    install_rights(&cluster, is_about_others).await;
    let node = Node::new("n1");
    let (running, _told) = node.start(&plane.client_of("agent"));
    ready(&running).await;
    if !cluster.install_policy_crds("experimental").await {
        return;
    }
    cluster.apply(&deny_from("guard", 10, "evil")).await;
    knows(&running, 1).await;
    running.stop().await;
}

/// Gives the agent the rights in the manifests, as far as `keep` has their rules.
async fn install_rights(cluster: &Cluster, keep: impl Fn(&Value) -> bool) {
    cluster.namespace("netpol-system", &json!({})).await;
    for mut object in objects("manifests/base") {
        let group = object["apiVersion"].as_str().unwrap();
        if !group.starts_with("rbac.authorization.k8s.io/") {
            continue;
        }
        if object["kind"] == "ClusterRole" {
            object["rules"].as_array_mut().unwrap().retain(&keep);
        }
        cluster.apply(&object).await;
    }
}

#[tokio::test]
async fn a_restarted_server_finds_the_agent_up_to_date() {
    let Some(mut plane) = ControlPlane::start().await else {
        return;
    };
    let cluster = Cluster::new(plane.client());
    cluster.namespace("shop", &json!({})).await;
    cluster.node("n1", "192.0.2.1").await;
    cluster.pod("shop", "web", "n1", "10.1.0.1").await;
    cluster.pod("shop", "api", "n1", "10.1.0.2").await;
    let policies = usize::from(cluster.install_policy_crds("experimental").await);
    if policies == 1 {
        cluster.apply(&deny_from("guard", 10, "evil")).await;
    }
    let node = Node::new("n1");
    node.add_pod("s1", "10.1.0.1/32");
    node.add_pod("s2", "10.1.0.2/32");
    let (running, told) = node.start(&plane.client());
    ready(&running).await;
    let publications = told.publications();
    let mut view = running.view();
    view.wait_for(|view| view.policies.len() == policies)
        .await
        .unwrap();
    let fewest = tokio::spawn(async move {
        let mut fewest = policies;
        while view.changed().await.is_ok() {
            fewest = fewest.min(view.borrow_and_update().policies.len());
        }
        fewest
    });

    plane.stop_apiserver();
    let errors = || {
        let text = running.metrics.encode().unwrap();
        text.contains(r#"netpol_watch_errors_total{kind="Pod"}"#)
    };
    eventually("noticed", async || errors().then_some(())).await;
    // Nothing changes without a server: the last good tables stay, and the agent stays ready.
    assert_eq!(told.publications(), publications);
    assert!(running.health.unready().is_empty());

    // What went meanwhile was never announced: the watch resumes at a version nobody remembers.
    plane.erase_history("/registry/pods/shop/web");
    plane.start_apiserver().await;
    eventually("noticed", async || {
        (told.pods() == ["shop/api"]).then_some(())
    })
    .await;
    // A server that has only just begun to serve a kind does not make its policies disappear.
    eventually("recovered", async || {
        let text = running.metrics.encode().unwrap();
        let well = |kind: &str| text.contains(&format!("netpol_watch_synced{{kind=\"{kind}\"}} 1"));
        (well("AdminNetworkPolicy") && well("Pod")).then_some(())
    })
    .await;
    running.stop().await;
    assert_eq!(fewest.await.unwrap(), policies);
}

#[tokio::test]
async fn without_a_server_the_last_policies_are_enforced() {
    let Some(mut plane) = ControlPlane::start().await else {
        return;
    };
    let cluster = Cluster::new(plane.client());
    cluster.namespace("shop", &json!({})).await;
    cluster.node("n1", "192.0.2.1").await;
    cluster.pod("shop", "web", "n1", "10.1.0.1").await;
    cluster.apply(&network_policy("shop", "web", &[])).await;
    let node = Node::new("n1");
    node.add_pod("s1", "10.1.0.1/32");
    let (running, told) = node.start(&plane.client());
    ready(&running).await;
    let before = told.image().unwrap();
    running.stop().await;
    plane.stop_apiserver();

    let (running, told) = node.start(&plane.client());
    eventually("enforced", async || {
        (told.bound() == ["shop/web"]).then_some(())
    })
    .await;
    assert_eq!(told.image().unwrap(), before);
    let reasons = running.health.unready();
    assert!(
        reasons.iter().any(|reason| reason.contains("not read")),
        "{reasons:?}"
    );
    plane.start_apiserver().await;
    ready(&running).await;
    assert_eq!(told.image().unwrap(), before);
    running.stop().await;
}

#[tokio::test]
async fn a_refused_kind_keeps_the_agent_from_being_ready() {
    let Some(plane) = ControlPlane::start().await else {
        return;
    };
    let cluster = Cluster::new(plane.client());
    let kinds = json!(["pods", "namespaces", "nodes", "services"]);
    let mut rules = json!([
        {"apiGroups": [""], "resources": kinds, "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]);
    let role = |rules: &serde_json::Value| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": "some"}, "rules": rules,
        })
    };
    cluster.apply(&role(&rules)).await;
    cluster
        .apply(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": "some"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "some"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "stranger"}],
        }))
        .await;
    let node = Node::new("n1");
    let (running, told) = node.start(&plane.client_of("stranger"));
    eventually("refused", async || {
        let reasons = running.health.unready();
        let refused = reasons.iter().any(|reason| {
            reason.contains("NetworkPolicy not read: ") && reason.contains("forbidden")
        });
        // What may be read is read.
        let others = !reasons.iter().any(|reason| reason.contains("Pod not read"));
        (refused && others).then_some(())
    })
    .await;
    // Tables without the policies nobody may read would let everything through.
    assert_eq!(told.publications(), 0);

    let policies = json!({"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["list", "watch"]});
    rules.as_array_mut().unwrap().push(policies);
    cluster.apply(&role(&rules)).await;
    ready(&running).await;
    running.stop().await;
}
