// SPDX-License-Identifier: Apache-2.0
//! Status: what it says, who writes it, and how rarely.

use agent::kubernetes::Running;
use k8s_openapi::api::events::v1::Event;
use kube::{Api, api::ListParams};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, deny_from, eventually, network_policy},
    control_plane::ControlPlane,
    node::{Node, ready},
};

/// The condition `name` of an object: status, reason, message.
async fn condition(
    cluster: &Cluster,
    object: &Value,
    name: &str,
) -> Option<(String, String, String)> {
    let object = cluster.get(object).await?;
    let wanted = format!("netpol.internal/{name}");
    let mut conditions = object["status"]["conditions"].as_array()?.iter();
    let found = conditions.find(|condition| condition["type"] == *wanted)?;
    if found["observedGeneration"] != object["metadata"]["generation"] {
        return None;
    }
    let text = |field: &str| found[field].as_str().unwrap().to_owned();
    Some((text("status"), text("reason"), text("message")))
}

async fn programmed(cluster: &Cluster, object: &Value, reason: &str) {
    eventually(&format!("programmed: {reason}"), async || {
        let (_, found, _) = condition(cluster, object, "Programmed").await?;
        (found == reason).then_some(())
    })
    .await;
}

/// Waits until `Programmed` has exactly this message.
async fn says(cluster: &Cluster, object: &Value, message: &str) {
    eventually(message, async || {
        let (_, _, found) = condition(cluster, object, "Programmed").await?;
        (found == message).then_some(())
    })
    .await;
}

/// Writes of `object` that ended as `result`.
fn writes(running: &Running, object: &str, result: &str) -> u64 {
    let wanted = format!(r#"netpol_status_writes_total{{object="{object}",result="{result}"}} "#);
    let text = running.metrics.encode().unwrap();
    let found = text
        .lines()
        .find_map(|line| line.strip_prefix(&wanted)?.parse().ok());
    found.unwrap_or(0)
}

/// A cluster with all CRDs, the namespace of the Lease and two nodes.
async fn prepare() -> Option<(ControlPlane, Cluster)> {
    let plane = ControlPlane::start().await?;
    let cluster = Cluster::new(plane.client());
    if !cluster.install_policy_crds("experimental").await {
        return None;
    }
    cluster.install_report_crd().await;
    cluster.namespace("netpol-system", &json!({})).await;
    cluster.namespace("shop", &json!({})).await;
    cluster.node("n1", "192.0.2.1").await;
    cluster.node("n2", "192.0.2.2").await;
    Some((plane, cluster))
}

#[tokio::test]
async fn conditions_count_the_nodes() {
    let Some((plane, cluster)) = prepare().await else {
        return;
    };
    let guard = deny_from("guard", 10, "evil");
    cluster.apply(&guard).await;

    let (n1, n2) = (Node::new("n1"), Node::new("n2"));
    let (first, _) = n1.start(&plane.client());
    ready(&first).await;
    says(
        &cluster,
        &guard,
        "1/2 nodes; n2: NoReport (no agent has reported)",
    )
    .await;
    let accepted = condition(&cluster, &guard, "Accepted").await.unwrap();
    assert_eq!(accepted, ("True".into(), "Valid".into(), String::new()));

    let (second, _) = n2.start(&plane.client());
    says(&cluster, &guard, "2/2 nodes").await;

    // What other policies say makes no difference to this one. Conditions are written before Events, so
    // the Event shows that they were looked at again.
    let written = writes(&first, "condition", "written") + writes(&second, "condition", "written");
    let version = cluster.get(&guard).await.unwrap()["metadata"]["resourceVersion"].clone();
    cluster
        .apply(&network_policy("shop", "lonely", &["web"]))
        .await;
    cluster.pod("shop", "web", "n3", "10.1.0.1").await;
    eventually("told", async || warnings(&plane, "lonely").await.pop()).await;
    for running in [&first, &second] {
        ready(running).await;
    }
    assert_eq!(
        writes(&first, "condition", "written") + writes(&second, "condition", "written"),
        written
    );
    assert_eq!(
        cluster.get(&guard).await.unwrap()["metadata"]["resourceVersion"],
        version
    );

    // One field manager owns all of it, however many agents there are.
    let managers: Vec<Value> = cluster.get(&guard).await.unwrap()["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["subresource"] == "status")
        .map(|entry| entry["manager"].clone())
        .collect();
    assert_eq!(managers, ["netpol"]);

    // A node that is deleted is no longer counted.
    second.stop().await;
    cluster
        .delete(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n2"}}))
        .await;
    says(&cluster, &guard, "1/1 nodes").await;
    first.stop().await;
}

#[tokio::test]
async fn a_node_that_fails_is_named() {
    let Some((plane, cluster)) = prepare().await else {
        return;
    };
    let guard = deny_from("guard", 10, "evil");
    let (n1, n2) = (Node::new("n1"), Node::new("n2"));
    let (first, _) = n1.start(&plane.client());
    let (second, told) = n2.start(&plane.client());
    ready(&first).await;
    ready(&second).await;

    told.refuse(true);
    cluster.apply(&guard).await;
    // No pod of the nodes is under the policy: it is the namespace that makes them publish.
    cluster.namespace("shop", &json!({"team": "a"})).await;
    // Which of the two nodes reports first is open; the message ends up naming the one that failed.
    eventually("n2 is named", async || {
        let (_, reason, message) = condition(&cluster, &guard, "Programmed").await?;
        let named = message.starts_with("1/2 nodes; n2: PublishFailed (");
        (reason == "PublishFailed" && named).then_some(())
    })
    .await;
    assert!(!second.health.unready().is_empty());
    told.refuse(false);
    // The next change brings the node back.
    cluster.apply(&deny_from("guard", 11, "evil")).await;
    says(&cluster, &guard, "2/2 nodes").await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn s71_of_two_nodes_that_fail_one_is_deleted() {
    let Some((plane, cluster)) = prepare().await else {
        return;
    };
    let guard = deny_from("guard", 10, "evil");
    let (n1, n2) = (Node::new("n1"), Node::new("n2"));
    let (first, told) = n1.start(&plane.client());
    let (second, also_told) = n2.start(&plane.client());
    for (running, told) in [(&first, &told), (&second, &also_told)] {
        ready(running).await;
        told.refuse(true);
    }
    cluster.apply(&guard).await;
    // No pod of the nodes is under the policy: it is the namespace that makes them publish.
    cluster.namespace("shop", &json!({"team": "a"})).await;
    let failures = async |nodes: &str, count: usize| {
        eventually(nodes, async || {
            let (_, reason, message) = condition(&cluster, &guard, "Programmed").await?;
            let named = message.matches(": PublishFailed (").count();
            let same = message.starts_with(nodes) && reason == "PublishFailed";
            (same && named == count).then_some(())
        })
        .await;
    };
    failures("0/2 nodes; ", 2).await;

    second.stop().await;
    cluster
        .delete(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n2"}}))
        .await;
    failures("0/1 nodes; n1: ", 1).await;

    // One field manager owns all of it, whoever wrote it.
    let object = cluster.get(&guard).await.unwrap();
    let managers: Vec<&Value> = object["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["subresource"] == "status")
        .map(|entry| &entry["manager"])
        .collect();
    assert_eq!(managers, ["netpol"]);
    first.stop().await;
}

#[tokio::test]
async fn what_cannot_be_enforced_as_written_is_said() {
    let Some((plane, cluster)) = prepare().await else {
        return;
    };
    let mut closed = deny_from("closed", 5, "evil");
    closed["spec"]["egress"] = json!([{
        "name": "names", "action": "Allow", "to": [{"domainNames": ["example.com"]}],
    }]);
    cluster.apply(&closed).await;
    cluster.apply(&deny_from("one", 10, "evil")).await;
    // Equal priorities matter only where the policies can disagree.
    cluster.apply(&deny_from("agrees", 10, "evil")).await;
    let mut other = deny_from("other", 10, "evil");
    other["spec"]["ingress"][0]["action"] = json!("Allow");
    cluster.apply(&other).await;
    let mut elsewhere = other.clone();
    elsewhere["metadata"]["name"] = json!("elsewhere");
    elsewhere["spec"]["ingress"][0]["from"][0]["pods"]["podSelector"]["matchLabels"]["app"] =
        json!("good");
    cluster.apply(&elsewhere).await;
    let node = Node::new("n1");
    let (running, _) = node.start(&plane.client());
    ready(&running).await;

    let (status, reason, message) = eventually("closed", async || {
        condition(&cluster, &closed, "Accepted").await
    })
    .await;
    assert_eq!(
        (&*status, &*reason),
        ("False", "UnsupportedField"),
        "{message}"
    );
    assert!(
        message.contains("egress[0]") && message.contains("domain names"),
        "{message}"
    );
    let tie = eventually("tie", async || {
        let accepted = condition(&cluster, &deny_from("one", 10, ""), "Accepted").await?;
        (accepted.1 == "PriorityTie").then_some(accepted)
    })
    .await;
    assert_eq!(tie.0, "True");
    assert!(
        tie.2
            .starts_with("same priority as AdminNetworkPolicy other;"),
        "{}",
        tie.2
    );
    let alone = eventually("no tie", async || {
        condition(&cluster, &elsewhere, "Accepted").await
    })
    .await;
    assert_eq!(alone.1, "Valid", "{}", alone.2);
    running.stop().await;
}

#[tokio::test]
async fn somebody_else_s_conditions_survive_and_ours_are_repaired() {
    let Some((plane, cluster)) = prepare().await else {
        return;
    };
    let guard = deny_from("guard", 10, "evil");
    cluster.apply(&guard).await;
    let foreign = |kind: &str, status: &str| {
        json!({
            "apiVersion": guard["apiVersion"], "kind": guard["kind"], "metadata": {"name": "guard"},
            "status": {"conditions": [{
                "type": kind, "status": status, "reason": "Other", "message": "from another engine",
                "lastTransitionTime": "2025-01-01T00:00:00Z",
            }]},
        })
    };
    cluster
        .apply_status(&foreign("other.example/Ready", "True"))
        .await;
    let node = Node::new("n1");
    let (running, _) = node.start(&plane.client());
    programmed(&cluster, &guard, "Pending").await;
    let conditions = |object: Value| object["status"]["conditions"].as_array().unwrap().len();
    assert_eq!(conditions(cluster.get(&guard).await.unwrap()), 3);

    // Another manager that takes our condition over is corrected.
    cluster
        .apply_status(&foreign("netpol.internal/Accepted", "False"))
        .await;
    eventually("repaired", async || {
        let accepted = condition_unchecked(&cluster, &guard, "netpol.internal/Accepted").await?;
        (accepted == "True").then_some(())
    })
    .await;
    running.stop().await;
}

async fn condition_unchecked(cluster: &Cluster, object: &Value, kind: &str) -> Option<String> {
    let object = cluster.get(object).await?;
    let mut conditions = object["status"]["conditions"].as_array()?.iter();
    let found = conditions.find(|condition| condition["type"] == *kind)?;
    Some(found["status"].as_str()?.to_owned())
}

#[tokio::test]
async fn a_report_belongs_to_its_node() {
    let Some((plane, cluster)) = prepare().await else {
        return;
    };
    let node = Node::new("n1");
    node.add_pod("s1", "10.1.0.1/32");
    cluster.pod("shop", "web", "n1", "10.1.0.1").await;
    let (running, _) = node.start(&plane.client());
    let report = json!({
        "apiVersion": "netpol.internal/v1alpha1", "kind": "NodeEnforcement", "metadata": {"name": "n1"},
    });
    let found = eventually("report", async || {
        let found = cluster.get(&report).await?;
        (found["spec"]["pods"]["enforced"] == 1).then_some(found)
    })
    .await;
    let owner = &found["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["kind"], &owner["name"]),
        (&json!("Node"), &json!("n1"))
    );
    running.stop().await;

    // An agent that starts again and finds everything as it left it writes nothing.
    let version = found["metadata"]["resourceVersion"].clone();
    let (running, _) = node.start(&plane.client());
    ready(&running).await;
    eventually("compared", async || {
        (writes(&running, "report", "unchanged") == 1).then_some(())
    })
    .await;
    assert_eq!(
        cluster.get(&report).await.unwrap()["metadata"]["resourceVersion"],
        version
    );
    running.stop().await;
}

#[tokio::test]
async fn the_lease_changes_hands() {
    let Some((plane, cluster)) = prepare().await else {
        return;
    };
    let (n1, n2) = (Node::new("n1"), Node::new("n2"));
    let leads = |running: &Running| running.metrics.leader.get() == 1;
    let (first, _) = n1.start(&plane.client());
    eventually("leader", async || leads(&first).then_some(())).await;
    let (second, _) = n2.start(&plane.client());
    ready(&second).await;
    assert!(!leads(&second));

    eventually("report", async || {
        (writes(&first, "report", "written") > 0).then_some(())
    })
    .await;
    first.stop().await;
    eventually("successor", async || leads(&second).then_some(())).await;
    let guard = deny_from("guard", 10, "evil");
    cluster.apply(&guard).await;
    // The report of the first node still stands, and says that it has not seen the policy.
    says(&cluster, &guard, "1/2 nodes; n1: Pending").await;
    second.stop().await;
}

/// Reasons of the Warnings about NetworkPolicy `name` in `shop`, with their notes.
async fn warnings(plane: &ControlPlane, name: &str) -> Vec<(String, String)> {
    let api: Api<Event> = Api::namespaced(plane.client(), "shop");
    let events = api.list(&ListParams::default()).await.unwrap().items;
    let about = |event: &Event| {
        let regarding = event.regarding.as_ref();
        regarding.and_then(|object| object.name.as_deref()) == Some(name)
    };
    let mut found: Vec<(String, String)> = events
        .into_iter()
        .filter(|event| about(event) && event.type_.as_deref() == Some("Warning"))
        .map(|event| {
            (
                event.reason.unwrap_or_default(),
                event.note.unwrap_or_default(),
            )
        })
        .collect();
    found.sort();
    found
}

#[tokio::test]
async fn network_policies_that_cannot_work_are_warned_about_once() {
    let Some((plane, cluster)) = prepare().await else {
        return;
    };
    let node = Node::new("n1");
    node.add_pod("s1", "10.1.0.1/32");
    cluster.pod("shop", "web", "n1", "10.1.0.1").await;
    cluster.pod("shop", "api", "n2", "10.1.0.2").await;
    let good = network_policy("shop", "web", &["api"]);
    let mut unnamed = network_policy("shop", "api", &["web"]);
    unnamed["metadata"]["name"] = json!("unnamed");
    unnamed["spec"]["ingress"][0]["ports"] = json!([{"port": "htpp"}]);
    let lonely = network_policy("shop", "lonely", &["web"]);
    let mut unheard = network_policy("shop", "web", &["nobody"]);
    unheard["metadata"]["name"] = json!("unheard");
    for policy in [&good, &unnamed, &lonely, &unheard] {
        cluster.apply(policy).await;
    }
    // Older API servers stored what today's refuse.
    let closed = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {
            "namespace": "shop", "name": "closed", "uid": "closed", "generation": 1,
            "creationTimestamp": "2020-01-01T00:00:00Z",
        },
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{
            "from": [{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}],
        }]},
    });
    let key = "/registry/networkpolicies/shop/closed".to_owned();
    plane.store(std::iter::once((key, closed)));

    let mut config = node.config();
    config.settings.capacity.rows = 0;
    let (running, _) = node.start(&plane.client());
    ready(&running).await;
    for (name, reason, part) in [
        ("unnamed", "UnresolvedNamedPort", "htpp"),
        ("lonely", "NeverMatches", "spec.podSelector"),
        ("unheard", "NeverMatches", "spec.ingress[0].from[0]"),
        ("closed", "FailClosedRule", "spec.ingress[0].from[0]"),
    ] {
        let found = eventually(name, async || warnings(&plane, name).await.pop()).await;
        assert_eq!(found.0, reason, "{}", found.1);
        assert!(found.1.contains(part), "{}", found.1);
    }
    assert_eq!(warnings(&plane, "web").await, []);

    // The next one to write finds everything told.
    let told = writes(&running, "event", "written");
    running.stop().await;
    let (running, _) = node.start(&plane.client());
    eventually("told before", async || {
        (writes(&running, "event", "unchanged") == told).then_some(())
    })
    .await;
    assert_eq!(writes(&running, "event", "written"), 0);
    running.stop().await;

    // Tables that do not fit are the affair of the policies that take the most room.
    let (running, _) = node.start_with(&config, &plane.client());
    let overflows = async |name: &str| {
        let found = warnings(&plane, name).await;
        found
            .into_iter()
            .find(|(reason, _)| reason == "TableOverflow")
    };
    let (_, note) = eventually("overflow", async || overflows("web").await).await;
    assert!(
        note.starts_with("node n1: ") && note.contains("do not fit"),
        "{note}"
    );
    running.stop().await;
}
