// SPDX-License-Identifier: Apache-2.0
//! Does an API server take what the project ships, the manifests and the shop, and are the agent's rights
//! the right ones?

use std::{fs, path::Path};

use agent::kubernetes::LEASE;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, api::ListParams};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, deny_from, eventually, network_policy},
    control_plane::ControlPlane,
    node::{Node, ready},
};

#[tokio::test]
async fn an_api_server_takes_the_manifests() {
    let Some(plane) = ControlPlane::start().await else {
        return;
    };
    let cluster = Cluster::new(plane.client());
    let mut objects = objects("manifests/crds");
    objects.extend(self::objects("manifests/base"));
    assert!(objects.len() > 8, "{objects:?}");
    check(&cluster, &objects).await;
}

#[tokio::test]
async fn an_api_server_takes_the_shop() {
    let Some(plane) = ControlPlane::start().await else {
        return;
    };
    let cluster = Cluster::new(plane.client());
    let with_policies = cluster.install_policy_crds("experimental").await;
    let mut objects = objects("testdata/demo");
    objects.retain(|object| {
        let group = object["apiVersion"].as_str().unwrap();
        with_policies || !group.starts_with("policy.networking.k8s.io/")
    });
    for object in &mut objects {
        // Server-side apply takes addresses of one type to be one address, which a dual-stack node's
        // are not; kubelets write them by another verb.
        if object["kind"] == "Node" {
            object.as_object_mut().unwrap().remove("status");
        }
    }
    assert!(objects.len() > 40, "only {} objects", objects.len());
    check(&cluster, &objects).await;
}

#[tokio::test]
async fn the_rights_suffice_and_are_no_more_than_needed() {
    let Some(plane) = ControlPlane::start().await else {
        return;
    };
    let cluster = Cluster::new(plane.client());
    if !cluster.install_policy_crds("experimental").await {
        return;
    }
    cluster.install_report_crd().await;
    let mut base = objects("manifests/base");
    base.sort_by_key(|object| object["kind"] != "Namespace");
    for object in base {
        cluster.apply(&object).await;
    }
    cluster.node("n1", "192.0.2.1").await;
    let guard = deny_from("guard", 10, "evil");
    cluster.apply(&guard).await;

    let node = Node::new("n1");
    let (running, _) = node.start(&plane.client_of("agent"));
    ready(&running).await;
    eventually("the policy's status", async || {
        let guard = cluster.get(&guard).await?;
        let conditions = guard["status"]["conditions"].as_array()?;
        conditions
            .iter()
            .any(|condition| condition["message"] == "1/1 nodes")
            .then_some(())
    })
    .await;
    for made in [
        json!({"apiVersion": "netpol.internal/v1alpha1", "kind": "NodeEnforcement", "metadata": {"name": "n1"}}),
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
               "metadata": {"namespace": "netpol-system", "name": LEASE}}),
    ] {
        assert!(cluster.get(&made).await.is_some(), "{made}");
    }

    let agent = Cluster::new(plane.client_of("agent"));
    for forbidden in [
        deny_from("guard", 10, "good"),
        network_policy("default", "mine", &[]),
        json!({"apiVersion": "v1", "kind": "Secret",
               "metadata": {"namespace": "netpol-system", "name": "mine"}}),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": {"a": "b"}}}),
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
               "metadata": {"namespace": "kube-system", "name": LEASE}}),
    ] {
        let answer = agent.check(&forbidden).await;
        let refused = answer.is_err_and(|problem| problem.contains("is forbidden"));
        assert!(refused, "the agent may write {forbidden}");
    }
    let definitions: Api<CustomResourceDefinition> = Api::all(plane.client_of("agent"));
    for fields in ["", "metadata.name=nodeenforcements.netpol.internal"] {
        let which = ListParams::default().fields(fields);
        let refused = matches!(definitions.list(&which).await, Err(kube::Error::Api(status)) if status.code == 403);
        assert!(refused, "the agent may read definitions with `{fields}`");
    }
}

/// Has every object checked, with the namespaces among them in place.
async fn check(cluster: &Cluster, objects: &[Value]) {
    let mut problems = Vec::new();
    for object in objects {
        if object["kind"] == "Namespace" {
            cluster.apply(object).await;
        }
    }
    for object in objects {
        if let Err(problem) = cluster.check(object).await {
            problems.push(problem);
        }
    }
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

/// The objects in the YAML files of a folder.
pub(crate) fn objects(folder: &str) -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(folder);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    files.sort();
    files
        .iter()
        .map(|file| fs::read_to_string(file).unwrap())
        .flat_map(|text| text.split("\n---\n").map(str::to_owned).collect::<Vec<_>>())
        .map(|document| serde_yaml::from_str::<Value>(&document).unwrap())
        .filter(|object| object["kind"] != "Kustomization")
        .collect()
}
