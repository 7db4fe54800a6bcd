// SPDX-License-Identifier: Apache-2.0
//! Does the index hold what the watches told, whatever the order?

use std::sync::Arc;

use agent::{
    index::{Effect, Index, Kind, ObjectKey, SyncState},
    watch::{Event, Trouble},
};
use policy_compiler::{
    Snapshot,
    model::{AdminKind, PodKey},
    snapshot::Options,
};
use serde_json::{Value, json};

const CHANGED: Effect = Effect {
    changed: true,
    urgent: false,
    records: false,
};
const NOTHING: Effect = Effect {
    changed: false,
    urgent: false,
    records: false,
};

fn index() -> Index {
    Index::new("n1", Options::default())
}

fn namespace(name: &str, team: &str) -> Value {
    json!({"metadata": {"name": name, "uid": "u", "labels": {"team": team}}})
}

fn pod(name: &str, node: &str, address: &str) -> Value {
    json!({
        "metadata": {"namespace": "shop", "name": name, "uid": name, "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 80}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": address}]},
    })
}

fn network_policy(name: &str, generation: i64) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": name, "uid": name, "generation": generation},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    })
}

fn admin_policy(name: &str, peer: &Value) -> Value {
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha1", "kind": "AdminNetworkPolicy",
        "metadata": {"name": name, "uid": name, "generation": 2, "resourceVersion": "1"},
        "spec": {
            "priority": 10, "subject": {"namespaces": {}},
            "ingress": [{"name": "r", "action": "Deny", "from": [peer]}],
        },
    })
}

fn shop(index: &mut Index) {
    index.apply(Kind::Namespace, &namespace("shop", "a"));
}

#[test]
fn pods_of_a_workload_hold_what_they_have_in_common_once() {
    let mut index = index();
    shop(&mut index);
    for (name, address) in [("web-1", "10.0.0.1"), ("web-2", "10.0.0.2")] {
        let mut pod = pod(name, "n2", address);
        pod["metadata"]["labels"] = json!({"app": "web", "tier": "front"});
        pod["spec"]["containers"] = json!([{"ports": [{"name": "http", "containerPort": 80}]}]);
        index.apply(Kind::Pod, &pod);
    }
    let key = |name| PodKey::new("shop", name);
    let pods = &index.snapshot().pods;
    let (a, b) = (&pods[&key("web-1")], &pods[&key("web-2")]);
    assert_eq!(a.ports.len(), 1);
    assert!(Arc::ptr_eq(&a.labels.0, &b.labels.0));
    assert!(Arc::ptr_eq(&a.ports, &b.ports));
}

#[test]
fn what_was_known_before_is_held_once_and_taken_for_nothing() {
    let mut before = index();
    shop(&mut before);
    before.apply(Kind::Pod, &pod("same", "n2", "10.0.0.1"));
    before.apply(Kind::Pod, &pod("moved", "n2", "10.0.0.2"));
    before.apply(Kind::Pod, &pod("gone", "n2", "10.0.0.3"));
    before.apply(Kind::NetworkPolicy, &network_policy("p", 1));

    let mut index = index();
    let mut known = before.snapshot().clone();
    known.pods.edit(|pod| index.share(pod));
    index.remember(&known);
    assert_eq!(&known, before.snapshot());
    assert_eq!(index.snapshot(), &Snapshot::default());
    shop(&mut index);
    index.apply(Kind::Pod, &pod("same", "n2", "10.0.0.1"));
    index.apply(Kind::Pod, &pod("moved", "n2", "10.0.0.9"));
    index.apply(Kind::NetworkPolicy, &network_policy("p", 1));
    let now = index.snapshot();
    let key = |name| PodKey::new("shop", name);
    assert!(Arc::ptr_eq(
        &now.pods[&key("same")],
        &known.pods[&key("same")]
    ));
    assert_ne!(now.pods[&key("moved")], known.pods[&key("moved")]);
    assert_eq!(now.pods.len(), 2);
    let key = ("shop".into(), "p".into());
    let [one, other] = [now, &known].map(|snapshot| &snapshot.network_policies[&key]);
    assert!(Arc::ptr_eq(one, other));
}

#[test]
fn pods_come_and_go() {
    let mut index = index();
    shop(&mut index);
    assert_eq!(
        index.apply(Kind::Pod, &pod("web", "n2", "10.0.0.1")),
        CHANGED
    );
    let key = PodKey::new("shop", "web");
    let held = &index.snapshot().pods[&key];
    assert_eq!(
        held.addresses,
        ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]
    );
    assert_eq!(held.labels.get("app"), Some("web"));

    // Telling the same again, as every resync does, is no change.
    assert_eq!(
        index.apply(Kind::Pod, &pod("web", "n2", "10.0.0.1")),
        NOTHING
    );
    assert_eq!(
        index.apply(Kind::Pod, &pod("web", "n2", "10.0.0.2")),
        CHANGED
    );
    assert_eq!(
        index.delete(Kind::Pod, &ObjectKey::new(Some("shop"), "web")),
        CHANGED
    );
    assert!(index.snapshot().pods.is_empty());
    assert_eq!(
        index.delete(Kind::Pod, &ObjectKey::new(Some("shop"), "web")),
        NOTHING
    );
}

#[test]
fn a_pod_of_this_node_is_urgent() {
    let mut index = index();
    shop(&mut index);
    let effect = index.apply(Kind::Pod, &pod("web", "n1", "10.0.0.1"));
    assert!(effect.changed && effect.urgent);
    assert_eq!(index.local_pods().count(), 1);
    assert!(!index.apply(Kind::Pod, &pod("api", "n2", "10.0.0.2")).urgent);
    assert_eq!(index.local_pods().count(), 1);
    index.delete(Kind::Pod, &ObjectKey::new(Some("shop"), "web"));
    assert_eq!(index.local_pods().count(), 0);
}

#[test]
fn a_pod_waits_for_the_labels_of_its_namespace() {
    let mut index = index();
    assert_eq!(
        index.apply(Kind::Pod, &pod("web", "n1", "10.0.0.1")),
        NOTHING
    );
    assert!(index.snapshot().pods.is_empty());
    let effect = index.apply(Kind::Namespace, &namespace("shop", "a"));
    assert!(effect.changed && effect.urgent);
    assert_eq!(index.snapshot().pods.len(), 1);
    assert_eq!(
        index.snapshot().namespaces["shop"].labels.get("team"),
        Some("a")
    );

    // A pod that went before its namespace was told does not come back.
    index.apply(
        Kind::Pod,
        &json!({"metadata": {"namespace": "late", "name": "p"}}),
    );
    index.delete(Kind::Pod, &ObjectKey::new(Some("late"), "p"));
    index.apply(Kind::Namespace, &namespace("late", "a"));
    assert_eq!(index.snapshot().pods.len(), 1);
}

#[test]
fn a_namespace_keeps_its_labels_while_it_has_pods() {
    let mut index = index();
    shop(&mut index);
    index.apply(Kind::Pod, &pod("web", "n1", "10.0.0.1"));
    index.delete(Kind::Namespace, &ObjectKey::new(None, "shop"));
    assert_eq!(
        index.snapshot().namespaces["shop"].labels.get("team"),
        Some("a")
    );
    assert_eq!(
        index.apply(Kind::Namespace, &namespace("shop", "b")),
        CHANGED
    );
    assert_eq!(
        index.snapshot().namespaces["shop"].labels.get("team"),
        Some("b")
    );
}

#[test]
fn a_resync_removes_what_is_not_told_again() {
    let mut index = index();
    for event in [
        Event::Resync(Kind::Namespace),
        Event::Apply(Kind::Namespace, namespace("shop", "a")),
        Event::Synced(Kind::Namespace),
        Event::Resync(Kind::Pod),
        Event::Apply(Kind::Pod, pod("web", "n2", "10.0.0.1")),
        Event::Apply(Kind::Pod, pod("api", "n2", "10.0.0.2")),
        Event::Synced(Kind::Pod),
    ] {
        index.handle(event);
    }
    index.handle(Event::Resync(Kind::Pod));
    // Until the resync ends, nothing disappears: the last good state stands.
    assert_eq!(
        index.handle(Event::Apply(Kind::Pod, pod("api", "n2", "10.0.0.2"))),
        NOTHING
    );
    assert_eq!(index.snapshot().pods.len(), 2);
    assert!(index.handle(Event::Synced(Kind::Pod)).changed);
    let left: Vec<String> = index
        .snapshot()
        .pods
        .keys()
        .map(ToString::to_string)
        .collect();
    assert_eq!(left, ["shop/api"]);
}

#[test]
fn a_resync_that_begins_anew_forgets_the_first_one() {
    let mut index = index();
    shop(&mut index);
    index.apply(Kind::Pod, &pod("web", "n2", "10.0.0.1"));
    index.resync(Kind::Pod);
    index.apply(Kind::Pod, &pod("web", "n2", "10.0.0.1"));
    index.resync(Kind::Pod);
    index.synced(Kind::Pod);
    assert!(index.snapshot().pods.is_empty());
}

#[test]
fn synced_needs_every_kind() {
    let mut index = index();
    for kind in Kind::ALL {
        assert!(!index.is_synced(), "before {kind}");
        let event = if kind.is_optional() {
            Event::Absent(kind)
        } else {
            Event::Synced(kind)
        };
        assert!(index.handle(event).changed);
    }
    assert!(index.is_synced());
}

#[test]
fn trouble_changes_nothing_but_the_report() {
    let mut index = index();
    shop(&mut index);
    index.handle(Event::Synced(Kind::Namespace));
    let trouble = Trouble::Denied("forbidden".into());
    assert_eq!(
        index.handle(Event::Trouble(Kind::Namespace, trouble.clone())),
        NOTHING
    );
    let state = |index: &Index| {
        let mut kinds = index.kinds();
        let state = kinds.find(|state| state.kind == Kind::Namespace).unwrap();
        (state.sync.clone(), state.trouble.cloned())
    };
    assert_eq!(state(&index), (SyncState::Synced, Some(trouble)));
    assert!(index.snapshot().namespaces.contains_key("shop"));
    index.apply(Kind::Namespace, &namespace("shop", "a"));
    assert_eq!(state(&index), (SyncState::Synced, None));
}

#[test]
fn kinds_appear_and_disappear() {
    let mut index = index();
    let peer = json!({"namespaces": {}});
    index.handle(Event::Absent(Kind::AdminNetworkPolicy));
    index.handle(Event::Resync(Kind::AdminNetworkPolicy));
    let applied = Event::Apply(Kind::AdminNetworkPolicy, admin_policy("guard", &peer));
    assert!(index.handle(applied).changed);
    index.handle(Event::Synced(Kind::AdminNetworkPolicy));
    assert_eq!(index.snapshot().admin_policies.len(), 1);
    assert_eq!(index.records().len(), 1);

    let effect = index.handle(Event::Absent(Kind::AdminNetworkPolicy));
    assert!(effect.changed && effect.records);
    assert!(index.snapshot().admin_policies.is_empty());
    assert!(index.records().is_empty());
}

#[test]
fn an_undecodable_object_is_kept_out_and_named() {
    let mut index = index();
    shop(&mut index);
    index.apply(Kind::Pod, &pod("web", "n2", "10.0.0.1"));
    index.apply(Kind::Pod, &json!({"metadata": "none"}));
    index.apply(Kind::Pod, &json!(7));
    assert_eq!(index.snapshot().pods.len(), 1);
    let rejected: Vec<String> = index
        .rejected()
        .map(|(object, _)| object.to_string())
        .collect();
    assert_eq!(rejected, ["Pod "]);
}

#[test]
fn status_writes_do_not_change_the_snapshot() {
    let mut index = index();
    let mut policy = admin_policy("guard", &json!({"namespaces": {}}));
    let effect = index.apply(Kind::AdminNetworkPolicy, &policy);
    assert!(effect.changed && effect.records);
    policy["metadata"]["resourceVersion"] = json!("2");
    policy["status"] = json!({"conditions": [
        {"type": "netpol.internal/Accepted", "status": "True", "reason": "Valid", "message": "",
         "lastTransitionTime": "2025-01-01T00:00:00Z"},
        {"type": "Other", "status": "True", "reason": "X", "message": "",
         "lastTransitionTime": "2025-01-01T00:00:00Z"},
    ]});
    let effect = index.apply(Kind::AdminNetworkPolicy, &policy);
    assert!(!effect.changed && effect.records);
    let record = index.records().values().next().unwrap();
    assert_eq!(record.conditions.len(), 1);
    assert_eq!((record.generation, &*record.uid), (2, "guard"));
}

#[test]
fn what_fails_closed_is_in_the_record() {
    let mut index = index();
    let policy = admin_policy("guard", &json!({"services": {}}));
    assert!(index.apply(Kind::AdminNetworkPolicy, &policy).changed);
    let key = (AdminKind::Admin, "guard".into());
    assert!(
        index.snapshot().admin_policies[&key].ingress[0]
            .closed
            .is_some()
    );
    let record = index.records().values().next().unwrap();
    assert_eq!(record.unsupported.len(), 1, "{record:?}");
    let text = &record.unsupported[0];
    assert!(text.starts_with("ingress[0].from[0]: "), "{text}");
    assert!(text.ends_with("so the rule denies everything"), "{text}");
    let named = record
        .problems
        .iter()
        .any(|problem| problem.message.contains("services"));
    assert!(named, "{record:?}");
}

#[test]
fn a_valid_network_policy_has_no_problems() {
    let mut index = index();
    shop(&mut index);
    let effect = index.apply(Kind::NetworkPolicy, &network_policy("deny", 1));
    assert!(effect.changed && effect.records);
    let record = index.records().values().next().unwrap();
    assert_eq!(record.problems, []);
    assert_eq!(record.rejected, None);
    let effect = index.delete(Kind::NetworkPolicy, &ObjectKey::new(Some("shop"), "deny"));
    assert!(effect.changed && effect.records);
    assert!(index.snapshot().network_policies.is_empty());
}

#[test]
fn services_collect_their_slices_in_any_order() {
    let service = json!({
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "selector": {"app": "web"},
                 "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]},
    });
    let slice = |name: &str, service: &str, address: &str| {
        json!({
            "metadata": {"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [address]}],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        })
    };
    let backends = |index: &Index| -> Vec<String> {
        let key = ("shop".into(), "web".into());
        let ports = &index.snapshot().services[&key].ports;
        let backends = ports.iter().flat_map(|port| &port.backends);
        backends
            .map(|backend| format!("{}:{}", backend.address, backend.port))
            .collect()
    };
    let mut index = index();
    let first = slice("web-1", "web", "10.0.0.1");
    assert_eq!(index.apply(Kind::EndpointSlice, &first), NOTHING);
    assert_eq!(index.apply(Kind::Service, &service), CHANGED);
    assert_eq!(backends(&index), ["10.0.0.1:8080"]);
    assert_eq!(
        index.apply(Kind::EndpointSlice, &slice("web-2", "web", "10.0.0.2")),
        CHANGED
    );
    assert_eq!(backends(&index), ["10.0.0.1:8080", "10.0.0.2:8080"]);
    // Another family is another slice; who may not be ready yet, or no longer, may still be chosen.
    let mut six = slice("web-6", "web", "fd00::1");
    six["addressType"] = json!("IPv6");
    six["endpoints"][0]["conditions"] =
        json!({"ready": false, "serving": true, "terminating": true});
    assert_eq!(index.apply(Kind::EndpointSlice, &six), CHANGED);
    assert_eq!(
        backends(&index),
        ["10.0.0.1:8080", "10.0.0.2:8080", "fd00::1:8080"]
    );
    index.delete(Kind::EndpointSlice, &ObjectKey::new(Some("shop"), "web-6"));
    // A slice can change hands.
    assert_eq!(
        index.apply(Kind::EndpointSlice, &slice("web-1", "api", "10.0.0.1")),
        CHANGED
    );
    assert_eq!(backends(&index), ["10.0.0.2:8080"]);
    assert_eq!(
        index.delete(Kind::EndpointSlice, &ObjectKey::new(Some("shop"), "web-2")),
        CHANGED
    );
    assert!(backends(&index).is_empty());
    assert_eq!(
        index.delete(Kind::Service, &ObjectKey::new(Some("shop"), "web")),
        CHANGED
    );
    assert!(index.snapshot().services.is_empty());
}

#[test]
fn nodes_are_known_by_uid() {
    let mut index = index();
    let node = json!({
        "metadata": {"name": "n1", "uid": "node-uid"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
    });
    assert!(index.apply(Kind::Node, &node).changed);
    assert_eq!(&*index.node_uids()["n1"], "node-uid");
    // A node that moves, or comes back as another one, is told about.
    let mut moved = node.clone();
    moved["status"]["addresses"][0]["address"] = json!("192.0.2.9");
    let effect = index.apply(Kind::Node, &moved);
    assert!(effect.changed && effect.records);
    assert!(index.snapshot().nodes["n1"].owns("192.0.2.9".parse().unwrap()));
    assert!(!index.snapshot().nodes["n1"].owns("192.0.2.1".parse().unwrap()));
    moved["metadata"]["uid"] = json!("another");
    moved["status"]["conditions"] =
        json!([{"type": "Ready", "lastHeartbeatTime": "2025-01-01T00:00:00Z"}]);
    assert!(!index.apply(Kind::Node, &moved).changed);
    assert_eq!(&*index.node_uids()["n1"], "another");
    assert!(
        index
            .delete(Kind::Node, &ObjectKey::new(None, "n1"))
            .changed
    );
    assert!(index.node_uids().is_empty());
}

#[test]
fn a_pod_that_terminates_is_policed_until_it_is_finished() {
    let mut index = index();
    shop(&mut index);
    let mut web = pod("web", "n1", "10.0.0.1");
    index.apply(Kind::Pod, &web);
    let key = PodKey::new("shop", "web");
    // A pod that has been told to end goes on talking for a while.
    web["metadata"]["deletionTimestamp"] = json!("2025-01-01T00:00:00Z");
    web["metadata"]["deletionGracePeriodSeconds"] = json!(30);
    assert_eq!(index.apply(Kind::Pod, &web), NOTHING);
    assert!(index.snapshot().pods[&key].is_policed());

    for phase in ["Succeeded", "Failed"] {
        web["status"]["phase"] = json!(phase);
        let effect = index.apply(Kind::Pod, &web);
        assert!(effect.changed && effect.urgent, "{phase}");
        assert!(!index.snapshot().pods[&key].is_policed(), "{phase}");
    }
    // Its address may be another pod's by now.
    index.apply(Kind::Pod, &pod("api", "n2", "10.0.0.1"));
    let owner = index.snapshot().pod_at("10.0.0.1".parse().unwrap());
    assert_eq!(owner.map(|pod| &*pod.key.name), Some("api"));

    // One whose node has stopped answering may still run.
    web["status"]["phase"] = json!("Unknown");
    assert!(index.apply(Kind::Pod, &web).changed);
    assert!(index.snapshot().pods[&key].is_policed());
}

#[test]
fn a_pod_of_the_same_name_is_another_pod() {
    let mut index = index();
    shop(&mut index);
    index.apply(Kind::Pod, &pod("web", "n1", "10.0.0.1"));
    // The deletion of the first was missed, as by a watch that was cut.
    let mut second = pod("web", "n2", "10.0.0.2");
    second["metadata"]["uid"] = json!("second");
    assert_eq!(index.apply(Kind::Pod, &second), CHANGED);
    assert_eq!(index.local_pods().count(), 0);
    let held = &index.snapshot().pods[&PodKey::new("shop", "web")];
    assert_eq!(&*held.uid, "second");
    assert_eq!(held.addresses.len(), 1);

    // A pod gets its addresses late, and of both families.
    let mut late = pod("late", "n2", "");
    late["status"] = json!({"phase": "Pending"});
    assert_eq!(index.apply(Kind::Pod, &late), CHANGED);
    late["status"] = json!({
        "phase": "Running", "podIP": "10.0.0.3", "podIPs": [{"ip": "10.0.0.3"}, {"ip": "fd00::3"}],
    });
    assert_eq!(index.apply(Kind::Pod, &late), CHANGED);
    assert_eq!(
        index.snapshot().pods[&PodKey::new("shop", "late")]
            .addresses
            .len(),
        2
    );
}

#[test]
fn a_namespace_that_terminates_takes_its_time() {
    let mut index = index();
    shop(&mut index);
    index.apply(Kind::Pod, &pod("web", "n2", "10.0.0.1"));
    index.apply(Kind::NetworkPolicy, &network_policy("deny", 1));
    let mut terminating = namespace("shop", "a");
    terminating["metadata"]["deletionTimestamp"] = json!("2025-01-01T00:00:00Z");
    terminating["status"] = json!({"phase": "Terminating"});
    assert_eq!(index.apply(Kind::Namespace, &terminating), NOTHING);

    // The watch of namespaces is ahead of the watch of pods.
    let gone = ObjectKey::new(None, "shop");
    assert_eq!(index.delete(Kind::Namespace, &gone), NOTHING);
    let effect = index.apply(Kind::Pod, &pod("web", "n2", "10.0.0.7"));
    assert_eq!(effect, CHANGED, "a known pod is followed to its end");
    let key = PodKey::new("shop", "web");
    let address = "10.0.0.7".parse::<std::net::IpAddr>().unwrap();
    assert_eq!(index.snapshot().pods[&key].addresses, [address]);
    let team = |index: &Index| {
        let namespace = index.snapshot().namespaces.get("shop")?;
        namespace.labels.get("team").map(str::to_owned)
    };
    assert_eq!(team(&index).as_deref(), Some("a"));

    // A namesake belongs to a namespace that has not been told yet.
    let mut namesake = pod("web", "n2", "10.0.0.8");
    namesake["metadata"]["uid"] = json!("namesake");
    assert_eq!(index.apply(Kind::Pod, &namesake), CHANGED);
    assert!(index.snapshot().pods.is_empty());
    index.delete(Kind::NetworkPolicy, &ObjectKey::new(Some("shop"), "deny"));
    assert_eq!(team(&index), None, "nothing is left of the first one");
    assert_eq!(
        index.apply(Kind::Namespace, &namespace("shop", "b")),
        CHANGED
    );
    assert_eq!(index.snapshot().pods[&key].addresses.len(), 1);
    assert_eq!(team(&index).as_deref(), Some("b"));
}

#[test]
fn a_name_for_somewhere_else_is_no_service_to_police() {
    let mut index = index();
    let mut service = json!({
        "metadata": {"namespace": "shop", "name": "db"},
        "spec": {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"],
                 "ports": [{"port": 80, "protocol": "TCP"}]},
    });
    index.apply(Kind::Service, &service);
    let key = ("shop".into(), "db".into());
    assert_eq!(index.snapshot().services[&key].addresses.len(), 1);
    service["spec"] = json!({"type": "ExternalName", "externalName": "db.example.com",
                             "ports": [{"port": 80, "protocol": "TCP"}]});
    assert_eq!(index.apply(Kind::Service, &service), CHANGED);
    let held = &index.snapshot().services[&key];
    assert!(
        held.addresses.is_empty() && held.ports.is_empty(),
        "{held:?}"
    );

    // Names among endpoints are none, and mirrored Endpoints are endpoints like any others.
    service["spec"] = json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80, "protocol": "TCP"}]});
    index.apply(Kind::Service, &service);
    let slice = |kind: &str, address: &str| {
        json!({
            "metadata": {"namespace": "shop", "name": kind.to_lowercase(), "labels": {
                "kubernetes.io/service-name": "db",
                "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io",
            }},
            "addressType": kind, "endpoints": [{"addresses": [address]}],
            "ports": [{"name": "", "port": 5432, "protocol": "TCP"}],
        })
    };
    assert_eq!(
        index.apply(Kind::EndpointSlice, &slice("FQDN", "db.example.com")),
        NOTHING
    );
    assert_eq!(index.rejected().count(), 0);
    assert_eq!(
        index.apply(Kind::EndpointSlice, &slice("IPv4", "203.0.113.7")),
        CHANGED
    );
    let backends = &index.snapshot().services[&key].ports[0].backends;
    assert_eq!(backends.len(), 1);
}

#[test]
fn a_status_that_older_servers_wrote_is_no_problem() {
    let mut index = index();
    shop(&mut index);
    let mut policy = network_policy("deny", 1);
    policy["status"] = json!({"conditions": [{"type": "Feature", "status": "False"}]});
    assert!(index.apply(Kind::NetworkPolicy, &policy).changed);
    let record = index.records().values().next().unwrap();
    assert_eq!((&*record.problems, &record.rejected), (&[][..], &None));
    // Without it the policy is the same.
    let effect = index.apply(Kind::NetworkPolicy, &network_policy("deny", 1));
    assert_eq!(effect, NOTHING);
}

#[test]
fn a_refusal_is_over_when_the_watch_says_so() {
    let mut index = index();
    index.handle(Event::Resync(Kind::Pod));
    index.handle(Event::Synced(Kind::Pod));
    let refusal = Trouble::Denied("pods is forbidden".into());
    index.handle(Event::Trouble(Kind::Pod, refusal));
    let troubled = |index: &Index| index.kinds().filter(|kind| kind.trouble.is_some()).count();
    assert_eq!(troubled(&index), 1);
    assert_eq!(index.handle(Event::Recovered(Kind::Pod)), NOTHING);
    assert_eq!(troubled(&index), 0);
}

#[test]
fn changes_lead_from_one_snapshot_to_the_next() {
    let mut index = index();
    let mut followed = Snapshot::default();
    let mut follow = |index: &mut Index| {
        let changes = index.take_changes();
        let count = changes.len();
        for change in changes {
            followed.apply(change);
        }
        assert_eq!(&followed, index.snapshot());
        count
    };
    // A pod that waits for its namespace comes with it.
    index.apply(Kind::Pod, &pod("web", "n2", "10.0.0.1"));
    follow(&mut index);
    shop(&mut index);
    index.apply(Kind::Pod, &pod("db", "n1", "10.0.0.2"));
    index.apply(Kind::NetworkPolicy, &network_policy("closed", 1));
    index.apply(
        Kind::AdminNetworkPolicy,
        &admin_policy("guard", &json!({"namespaces": {}})),
    );
    index.apply(
        Kind::Node,
        &json!({"metadata": {"name": "n1", "uid": "n"}, "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]}}),
    );
    index.apply(
        Kind::Service,
        &json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": {"clusterIP": "172.16.0.1", "ports": [{"port": 80}]}}),
    );
    assert!(follow(&mut index) >= 6);
    assert_eq!(follow(&mut index), 0, "everything was taken");

    index.set_options(Options {
        local_node_egress: true,
        ..Options::default()
    });
    index.apply(Kind::Namespace, &namespace("shop", "b"));
    index.delete(Kind::Pod, &ObjectKey::new(Some("shop"), "db"));
    follow(&mut index);
    // The namespace goes with the last that is in it.
    index.delete(Kind::Namespace, &ObjectKey::new(None, "shop"));
    follow(&mut index);
    index.delete(Kind::Pod, &ObjectKey::new(Some("shop"), "web"));
    index.delete(Kind::NetworkPolicy, &ObjectKey::new(Some("shop"), "closed"));
    index.delete(Kind::AdminNetworkPolicy, &ObjectKey::new(None, "guard"));
    index.delete(Kind::Service, &ObjectKey::new(Some("shop"), "web"));
    index.delete(Kind::Node, &ObjectKey::new(None, "n1"));
    follow(&mut index);
    assert!(index.snapshot().namespaces.is_empty());
}
