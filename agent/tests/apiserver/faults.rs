// SPDX-License-Identifier: Apache-2.0
//! Networks, servers, rights and objects that are not as they should be.

use std::{
    collections::BTreeSet, ffi::OsString, fs, path::PathBuf, process::Command, time::Duration,
};

use agent::kubernetes::{Config, LEASE, Running};
use policy_compiler::model::PodKey;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    cluster::{Cluster, deny_from, eventually, network_policy, pod},
    control_plane::ControlPlane,
    node::{Node, Told, knows, ready},
    proxy::{self, Weather},
};

/// The pods of `shop`, on one node.
const PODS: [(&str, &str); 3] = [("web", "10.1.0.1"), ("api", "10.1.0.2"), ("db", "10.1.0.3")];

/// A cluster with [`PODS`] on a node of its own.
async fn shop(plane: &ControlPlane) -> (Cluster, Node) {
    let cluster = Cluster::new(plane.client());
    cluster.namespace("shop", &json!({})).await;
    cluster.namespace("netpol-system", &json!({})).await;
    cluster.node("n1", "192.0.2.1").await;
    let node = Node::new("n1");
    for (name, address) in PODS {
        node.add_pod(name, &format!("{address}/32"));
        cluster.pod("shop", name, "n1", address).await;
    }
    (cluster, node)
}

/// How to watch where watches should end soon.
fn impatient(node: &Node) -> Config {
    let mut config = node.config();
    config.watch.timeout = Duration::from_secs(1);
    config.watch.calm = Duration::from_millis(500);
    config
}

async fn enforces(told: &Told, pods: &[&str]) {
    let names: Vec<String> = pods.iter().map(|pod| format!("shop/{pod}")).collect();
    eventually(&format!("{pods:?}"), async || {
        (told.pods() == names).then_some(())
    })
    .await;
}

fn leads(running: &Running) -> bool {
    running.metrics.leader.get() == 1
}

#[tokio::test]
async fn a_cut_network_delays_and_loses_nothing() {
    // Without a cache the server itself forgets what etcd forgets.
    let Some(plane) = ControlPlane::start_with(&["--watch-cache=false"]).await else {
        return;
    };
    let (cluster, node) = shop(&plane).await;
    let config = impatient(&node);
    let (network, client) = proxy::client(&plane, Weather::Fair, config.watch.timeout).await;
    let (running, told) = node.start_with(&config, &client);
    ready(&running).await;
    enforces(&told, &["api", "db", "web"]).await;
    eventually("leads", async || leads(&running).then_some(())).await;

    // Nobody is told that connections are dead. The one who cannot renew the Lease steps down.
    network.set(Weather::Cut);
    cluster.delete(&pod("shop", "web", "n1")).await;
    eventually("steps down", async || (!leads(&running)).then_some(())).await;
    enforces(&told, &["api", "db", "web"]).await;
    network.set(Weather::Fair);
    enforces(&told, &["api", "db"]).await;
    eventually("leads again", async || leads(&running).then_some(())).await;

    // What happened meanwhile can no longer be told one by one.
    network.set(Weather::Cut);
    cluster.delete(&pod("shop", "api", "n1")).await;
    plane.compact();
    network.set(Weather::Fair);
    enforces(&told, &["db"]).await;

    // Looking for kinds that the cluster lacks goes on, too.
    if cluster.install_policy_crds("experimental").await {
        cluster.apply(&deny_from("guard", 10, "evil")).await;
        knows(&running, 1).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn a_slow_server_is_waited_for() {
    let Some(plane) = ControlPlane::start().await else {
        return;
    };
    let (cluster, node) = shop(&plane).await;
    cluster.apply(&network_policy("shop", "web", &[])).await;
    // Policies are the last to arrive: nothing may be open before.
    let padding = "x".repeat(1000);
    let policies = (0..4000).map(|number| {
        let name = format!("policy-{number:04}");
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {
                "namespace": "shop", "name": name, "uid": name, "generation": 1,
                "creationTimestamp": "2025-01-01T00:00:00Z", "annotations": {"a": padding},
            },
            "spec": {"podSelector": {"matchLabels": {"app": name}}, "policyTypes": ["Ingress"]},
        });
        (format!("/registry/networkpolicies/shop/{name}"), policy)
    });
    plane.store(policies);
    // Reading takes longer than a watch may last.
    let config = impatient(&node);
    let slow = Weather::Slow(4096, Duration::from_millis(2));
    let (network, client) = proxy::client(&plane, slow, Duration::from_secs(30)).await;
    let (running, told) = node.start_with(&config, &client);
    ready(&running).await;
    enforces(&told, &["api", "db", "web"]).await;
    let first = told.images().swap_remove(0);
    assert_eq!(first.endpoints, told.image().unwrap().endpoints);
    network.set(Weather::Fair);
    cluster.delete(&pod("shop", "web", "n1")).await;
    enforces(&told, &["api", "db"]).await;
    running.stop().await;
}

/// The failure in the report of `n1`: reason and message.
async fn failure(cluster: &Cluster) -> Option<(String, String)> {
    let report = cluster.get(&report()).await?;
    let failure = &report["spec"]["failure"];
    let text = |field: &str| failure[field].as_str().map(str::to_owned);
    Some((text("reason")?, text("message")?))
}

fn report() -> Value {
    json!({
        "apiVersion": "netpol.internal/v1alpha1", "kind": "NodeEnforcement", "metadata": {"name": "n1"},
    })
}

#[tokio::test]
async fn rights_that_are_taken_away_leave_the_last_known_policies() {
    let Some(plane) = ControlPlane::start().await else {
        return;
    };
    let (cluster, node) = shop(&plane).await;
    cluster.install_report_crd().await;
    let role = |kinds: &[&str]| {
        let rules: Vec<Value> = [
            ("", "pods"),
            ("", "namespaces"),
            ("", "nodes"),
            ("", "services"),
            ("discovery.k8s.io", "endpointslices"),
            ("networking.k8s.io", "networkpolicies"),
            ("netpol.internal", "nodeenforcements"),
            ("coordination.k8s.io", "leases"),
        ]
        .iter()
        .filter(|(_, kind)| !kinds.contains(kind))
        .map(|(group, kind)| json!({"apiGroups": [group], "resources": [kind], "verbs": ["*"]}))
        .collect();
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": "some"}, "rules": rules,
        })
    };
    cluster.apply(&role(&[])).await;
    cluster
        .apply(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": "some"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "some"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "stranger"}],
        }))
        .await;
    cluster.apply(&network_policy("shop", "web", &[])).await;
    let (running, told) = node.start_with(&impatient(&node), &plane.client_of("stranger"));
    ready(&running).await;
    let rows = |name: &str| {
        let key = PodKey::new("shop", name);
        told.image().unwrap().endpoints[&key].rows
    };
    let is_isolated = || rows("web") != rows("api");
    assert!(is_isolated());

    cluster.apply(&role(&["networkpolicies"])).await;
    let (reason, message) = eventually("reported", async || failure(&cluster).await).await;
    assert_eq!(reason, "AccessDenied", "{message}");
    assert!(message.starts_with("NetworkPolicy: "), "{message}");
    assert!(!running.health.unready().is_empty());
    // The policies that were known stay in force, and everything else is followed.
    cluster.delete(&network_policy("shop", "web", &[])).await;
    cluster.delete(&pod("shop", "db", "n1")).await;
    enforces(&told, &["api", "web"]).await;
    assert!(is_isolated());

    cluster.apply(&role(&[])).await;
    eventually("open", async || (!is_isolated()).then_some(())).await;
    eventually("no longer reported", async || {
        failure(&cluster).await.is_none().then_some(())
    })
    .await;
    ready(&running).await;

    // Rights that come back say so even if nothing has changed meanwhile.
    cluster.apply(&role(&["services"])).await;
    eventually("reported again", async || {
        let (_, message) = failure(&cluster).await?;
        message.starts_with("Service: ").then_some(())
    })
    .await;
    cluster.apply(&role(&[])).await;
    eventually("all is well", async || {
        failure(&cluster).await.is_none().then_some(())
    })
    .await;
    running.stop().await;
}

/// Threads of this process that write what is kept for the next start.
fn savers() -> BTreeSet<OsString> {
    let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
    let is_saver = |thread: &fs::DirEntry| {
        let name = fs::read_to_string(thread.path().join("comm"));
        name.is_ok_and(|name| name.trim_end() == "bundle")
    };
    threads
        .filter(is_saver)
        .map(|thread| thread.file_name())
        .collect()
}

/// A pipe in the place of a file. Dropped, it takes what is written.
struct Disk(PathBuf);

impl Drop for Disk {
    fn drop(&mut self) {
        // Opened both ways, it keeps nobody waiting; whoever writes is not told when it is closed.
        let pipe = fs::File::options().read(true).write(true).open(&self.0);
        std::mem::forget(pipe);
    }
}

#[tokio::test]
async fn a_disk_that_does_not_answer_holds_nothing_up() {
    let Some(plane) = ControlPlane::start().await else {
        return;
    };
    let (cluster, node) = shop(&plane).await;
    let state = node.config().bundle.unwrap();
    fs::create_dir_all(&state).unwrap();
    // Whoever opens it to write waits until somebody reads.
    let stuck = state.join("bundle.json.new");
    let made = Command::new("mkfifo").arg(&stuck).status().unwrap();
    assert!(made.success());
    let (running, told) = node.start(&plane.client());
    let disk = Disk(stuck.clone());
    ready(&running).await;
    enforces(&told, &["api", "db", "web"]).await;
    eventually("stuck", async || {
        let before = savers();
        sleep(Duration::from_millis(500)).await;
        before.intersection(&savers()).next().map(|_| ())
    })
    .await;

    cluster.delete(&pod("shop", "web", "n1")).await;
    enforces(&told, &["api", "db"]).await;

    // The disk is back; what was missed is saved in the end.
    drop(disk);
    fs::remove_file(&stuck).unwrap();
    running.stop().await;
    assert!(fs::metadata(state.join("bundle.json")).unwrap().is_file());
}

#[tokio::test]
async fn a_bundle_that_is_cut_short_is_missed_and_not_used() {
    let Some(mut plane) = ControlPlane::start().await else {
        return;
    };
    let (_, node) = shop(&plane).await;
    let (running, told) = node.start(&plane.client());
    ready(&running).await;
    enforces(&told, &["api", "db", "web"]).await;
    running.stop().await;
    plane.stop_apiserver();
    // The last line is gone, and every policy with it for all that anybody can tell.
    let file = node.config().bundle.unwrap().join("bundle.json");
    let text = fs::read_to_string(&file).unwrap();
    let (rest, _) = text.trim_end().rsplit_once('\n').unwrap();
    fs::write(&file, format!("{rest}\n")).unwrap();

    let (running, told) = node.start(&plane.client());
    let lost = || {
        let reasons = running.health.unready();
        reasons.iter().any(|reason| {
            reason.starts_with("the last known policies are lost: ")
                && reason.contains("ends early")
        })
    };
    eventually("told", async || lost().then_some(())).await;
    assert_eq!(told.publications(), 0);
    plane.start_apiserver().await;
    ready(&running).await;
    enforces(&told, &["api", "db", "web"]).await;
    assert!(!lost());
    running.stop().await;
}

#[tokio::test]
async fn a_report_that_is_lost_or_altered_comes_back() {
    let Some(plane) = ControlPlane::start().await else {
        return;
    };
    let (cluster, node) = shop(&plane).await;
    cluster.install_report_crd().await;
    let (running, _) = node.start(&plane.client());
    let enforced = async |pods: u64| {
        eventually("report", async || {
            let report = cluster.get(&self::report()).await?;
            (report["spec"]["pods"]["enforced"] == pods).then_some(report)
        })
        .await
    };
    let first = enforced(3).await;

    // Somebody else takes a field over.
    let mut altered = report();
    altered["spec"] = json!({
        "policies": "", "pods": {"enforced": 99, "quarantined": 0, "unsupported": 0},
    });
    cluster.apply(&altered).await;
    enforced(3).await;

    // The node is removed and comes back as another one, whose report is not the old one's.
    cluster
        .delete(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}))
        .await;
    cluster.delete(&report()).await;
    cluster.node("n1", "192.0.2.1").await;
    let second = eventually("new report", async || {
        let report = cluster.get(&self::report()).await?;
        let owner = &report["metadata"]["ownerReferences"][0]["uid"];
        (*owner != first["metadata"]["ownerReferences"][0]["uid"]).then_some(report)
    })
    .await;
    assert_eq!(second["spec"], first["spec"]);
    running.stop().await;
}

#[tokio::test]
async fn a_lease_is_believed_whatever_its_holder_s_clock_says() {
    let Some(plane) = ControlPlane::start().await else {
        return;
    };
    let (cluster, node) = shop(&plane).await;
    let lease = |second: u32| {
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"namespace": "netpol-system", "name": LEASE},
            "spec": {
                "holderIdentity": "ghost", "leaseDurationSeconds": 3, "leaseTransitions": 7,
                "renewTime": format!("1970-01-01T00:00:{second:02}.000000Z"),
            },
        })
    };
    cluster.apply(&lease(0)).await;
    let (running, _) = node.start(&plane.client());
    ready(&running).await;
    // The holder's clock is decades behind, but it does renew: longer than the Lease lasts.
    for second in 1..10 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(!leads(&running), "the holder is alive");
        cluster.apply(&lease(second)).await;
    }
    // Then it is decades ahead, and silent.
    let mut ahead = lease(0);
    ahead["spec"]["renewTime"] = json!("2099-01-01T00:00:00.000000Z");
    cluster.apply(&ahead).await;
    eventually("taken over", async || leads(&running).then_some(())).await;
    let lease = cluster.get(&lease(0)).await.unwrap();
    assert_eq!(lease["spec"]["leaseTransitions"], 8);
    running.stop().await;
}

#[tokio::test]
async fn objects_of_unknown_shape_harm_no_others() {
    let Some(plane) = ControlPlane::start().await else {
        return;
    };
    let (cluster, node) = shop(&plane).await;
    cluster.install_report_crd().await;
    // As the upstream definition, but for the schema: anything goes, as in a version to come.
    let plural = "adminnetworkpolicies";
    cluster
        .install_crd(&json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {
                "name": format!("{plural}.policy.networking.k8s.io"),
                "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
            },
            "spec": {
                "group": "policy.networking.k8s.io", "scope": "Cluster",
                "names": {"kind": "AdminNetworkPolicy", "plural": plural},
                "versions": [{
                    "name": "v1alpha1", "served": true, "storage": true,
                    "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": {
                        "type": "object", "x-kubernetes-preserve-unknown-fields": true,
                    }},
                }],
            },
        }))
        .await;
    let with = |name: &str, spec: Value| {
        let mut policy = deny_from(name, 10, "evil");
        policy["spec"] = spec;
        policy
    };
    let future = with(
        "future",
        json!({
            "priority": 5, "subject": {"pods": {
                "namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "web"}},
            }},
            "ingress": [{"name": "new", "action": "Deny", "from": [{"services": {"name": "x"}}]}],
        }),
    );
    let shapeless = with("shapeless", json!(7));
    let headless = with("headless", json!({"ingress": "none", "priority": "high"}));
    for policy in [&future, &shapeless, &headless] {
        cluster.apply(policy).await;
    }
    let (running, told) = node.start(&plane.client());
    ready(&running).await;
    enforces(&told, &["api", "db", "web"]).await;
    let accepted = async |policy: &Value| {
        let policy = cluster.get(policy).await?;
        let conditions = policy["status"]["conditions"].as_array()?;
        let accepted = conditions
            .iter()
            .find(|condition| condition["type"] == "netpol.internal/Accepted")?;
        let text = |field: &str| accepted[field].as_str().map(str::to_owned);
        Some((text("reason")?, text("message")?))
    };
    for (policy, reason, part) in [
        (&future, "UnsupportedField", "denies everything"),
        (&shapeless, "InvalidSpec", "spec"),
        (&headless, "InvalidSpec", "spec"),
    ] {
        let (found, message) = eventually(reason, async || accepted(policy).await).await;
        assert_eq!(found, reason, "{message}");
        assert!(message.contains(part), "{message}");
    }
    // A rule nobody can read closes the pods it is about, and only those.
    let image = told.image().unwrap();
    let rows = |name: &str| image.endpoints[&PodKey::new("shop", name)].rows;
    assert_eq!(rows("api"), rows("db"));
    assert_ne!(rows("web"), rows("db"));

    // Other policies of the kind are followed, and so are corrections.
    let before = told.image();
    cluster.apply(&deny_from("guard", 20, "evil")).await;
    eventually("guard", async || (told.image() != before).then_some(())).await;
    cluster
        .apply(&with(
            "shapeless",
            deny_from("", 30, "evil")["spec"].clone(),
        ))
        .await;
    eventually("corrected", async || {
        let (reason, _) = accepted(&shapeless).await?;
        (reason == "Valid").then_some(())
    })
    .await;
    running.stop().await;
}
