// SPDX-License-Identifier: Apache-2.0
//! What else is there in a cluster? Pods and policies that have nothing to do with the measured ones.

use serde_json::{Value, json};

use crate::control_plane::ControlPlane;

/// Stores objects one after the other, as they come where somebody watches.
pub(crate) fn put(plane: &ControlPlane, objects: impl Iterator<Item = (String, Value)>) {
    for object in objects {
        plane.store(std::iter::once(object));
    }
}

/// Pods of a namespace; a tenth as many workloads.
pub(crate) const NAMESPACE: usize = 100;

/// The namespaces that the pods `..pods` live in.
pub(crate) fn namespaces(pods: usize) -> impl Iterator<Item = String> {
    (0..pods.div_ceil(NAMESPACE)).map(|number| format!("ns-{number:04}"))
}

/// Pod number `number` as API servers store it, about 3 KiB; `version` tells versions of it apart.
pub(crate) fn pod(number: usize, version: usize) -> (String, Value) {
    let namespace = format!("ns-{:04}", number / NAMESPACE);
    let (app, replica) = (number % 10, number % NAMESPACE / 10);
    let hash = format!("{:08x}", (number / NAMESPACE) * 31 + app);
    let name = format!("app-{app}-{hash}-{replica:05}");
    let address = format!(
        "10.{}.{}.{}",
        128 + number / 62_500,
        number / 250 % 250,
        1 + number % 250
    );
    let tier = ["web", "api", "db"][app % 3];
    let kinds = ["Initialized", "Ready", "ContainersReady", "PodScheduled"];
    let conditions = kinds.map(|kind| {
        json!({
            "type": kind, "status": "True", "lastTransitionTime": "2025-01-01T00:00:00Z",
        })
    });
    let settings: Vec<Value> = (0..5)
        .map(|number| json!({"name": format!("SETTING_{number}"), "value": "some value"}))
        .collect();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": namespace, "name": name, "uid": format!("00000000-0000-4000-8000-{number:012}"),
            "creationTimestamp": "2025-01-01T00:00:00Z",
            "labels": {
                "app": format!("app-{app}"), "tier": tier,
                "version": format!("v{version}"), "app.kubernetes.io/managed-by": "helm",
                "pod-template-hash": hash,
            },
            "annotations": {"checksum/config": "0123456789abcdef".repeat(4)},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("app-{app}-{hash}"),
                "uid": format!("00000000-0000-4000-9000-{:012}", number / 10), "controller": true,
            }],
            "managedFields": [{
                "manager": "kubelet", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
                "subresource": "status", "time": "2025-01-01T00:00:00Z",
                "fieldsV1": {"f:status": {"f:conditions": {"f:note": "x".repeat(600)}}},
            }],
        },
        "spec": {
            "nodeName": format!("node-{:04}", number % 1000), "serviceAccountName": "default",
            "containers": [{
                "name": "main", "image": "registry.example.com/team/app:v1.2.3",
                "ports": [{"name": "http", "containerPort": 8080 + app, "protocol": "TCP"}],
                "env": settings,
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
            }],
        },
        "status": {
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "hostIP": "192.0.2.1", "startTime": "2025-01-01T00:00:00Z",
            "conditions": conditions,
        },
    });
    (format!("/registry/pods/{namespace}/{name}"), pod)
}

/// NetworkPolicy number `number` of a cluster with `pods` pods.
pub(crate) fn policy(number: usize, pods: usize) -> (String, Value) {
    let namespace = format!("ns-{:04}", number % pods.div_ceil(NAMESPACE).max(1));
    let name = format!("policy-{number:05}");
    let app = |number: usize| json!({"matchLabels": {"app": format!("app-{}", number % 10)}});
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {
            "namespace": namespace, "name": name, "uid": format!("00000000-0000-4000-a000-{number:012}"),
            "generation": 1, "creationTimestamp": "2025-01-01T00:00:00Z",
        },
        "spec": {
            "podSelector": app(number), "policyTypes": ["Ingress"],
            "ingress": [{
                "from": [
                    {"podSelector": app(number + 1)},
                    {"podSelector": app(number + 2), "namespaceSelector": {
                        "matchLabels": {"kubernetes.io/metadata.name": namespace},
                    }},
                ],
                "ports": [{"port": 8080 + number % 10, "protocol": "TCP"}],
            }],
        },
    });
    (
        format!("/registry/networkpolicies/{namespace}/{name}"),
        policy,
    )
}
