// SPDX-License-Identifier: Apache-2.0
//! Does an API server take what the project ships: the manifests, and the shop?

use std::{fs, path::Path};

use serde_json::Value;

use crate::{cluster::Cluster, control_plane::ControlPlane};

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
fn objects(folder: &str) -> Vec<Value> {
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
