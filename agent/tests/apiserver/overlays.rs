// SPDX-License-Identifier: Apache-2.0
//! Does an API server hold what each overlay of the manifests says, once it is applied?

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, eventually},
    control_plane::ControlPlane,
};

#[tokio::test]
async fn every_overlay_is_applied_as_it_is_meant() {
    let Some(plane) = ControlPlane::start().await else {
        return;
    };
    let cluster = Cluster::new(plane.client());
    let overlays = manifests().join("overlays");
    let mut folders: Vec<PathBuf> = fs::read_dir(&overlays)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    folders.sort();
    assert!(folders.len() >= 4, "{folders:?}");
    let mut changes = 0;
    for folder in folders {
        let built = build(&folder);
        // What is applied in one command need not be there in its order, but a namespace has to be.
        for kind in ["Namespace", "CustomResourceDefinition"] {
            for object in built.objects.iter().filter(|object| object["kind"] == kind) {
                cluster.apply(object).await;
            }
        }
        for object in &built.objects {
            cluster.check(object).await.unwrap();
            cluster.apply(object).await;
        }
        for object in &built.objects {
            assert!(cluster.get(object).await.is_some(), "{object}");
        }
        for (object, path, value) in &built.changes {
            let held = cluster.get(object).await.unwrap();
            let shown = folder.display();
            assert_eq!(held.pointer(path), Some(value), "{shown}: {path}");
            changes += 1;
        }
        // The next overlay begins anew.
        for object in built
            .objects
            .iter()
            .filter(|object| object["kind"] == "DaemonSet")
        {
            cluster.delete(object).await;
            eventually("removed", async || {
                cluster.get(object).await.is_none().then_some(())
            })
            .await;
        }
    }
    assert!(changes > 1, "no overlay changes anything");
}

/// What a kustomization makes.
#[derive(Default)]
struct Built {
    objects: Vec<Value>,
    /// The object, the place in it, and what an overlay puts there.
    changes: Vec<(Value, String, Value)>,
}

/// Builds a folder as kustomize does, as far as the folders here ask for it.
fn build(folder: &Path) -> Built {
    let kustomization = documents(&folder.join("kustomization.yaml")).remove(0);
    for key in kustomization.as_object().unwrap().keys() {
        let known = ["apiVersion", "kind", "namespace", "patches", "resources"];
        assert!(known.contains(&key.as_str()), "{}: {key}", folder.display());
    }
    let mut built = Built::default();
    for resource in kustomization["resources"].as_array().unwrap() {
        let path = folder.join(resource.as_str().unwrap());
        if path.is_dir() {
            let other = build(&path);
            built.objects.extend(other.objects);
            built.changes.extend(other.changes);
        } else {
            built.objects.extend(documents(&path));
        }
    }
    if let Some(namespace) = kustomization["namespace"].as_str() {
        for object in &built.objects {
            let own = object["metadata"]["namespace"].as_str();
            assert!(own.is_none_or(|own| own == namespace), "{object}");
        }
    }
    for patch in kustomization["patches"].as_array().into_iter().flatten() {
        let target = &patch["target"];
        let object = built.objects.iter_mut().find(|object| {
            object["kind"] == target["kind"] && object["metadata"]["name"] == target["name"]
        });
        let object = object.unwrap_or_else(|| panic!("there is no {target}"));
        let operations: Vec<Value> =
            serde_yaml::from_str(patch["patch"].as_str().unwrap()).unwrap();
        for operation in operations {
            let path = operation["path"].as_str().unwrap();
            let (above, name) = path.rsplit_once('/').unwrap();
            let parent = object.pointer_mut(above);
            let parent = parent.unwrap_or_else(|| panic!("there is no {path}"));
            let mut path = path.to_owned();
            if name == "-" {
                assert_eq!(operation["op"], "add", "{operation}");
                let list = parent.as_array_mut().unwrap();
                path = format!("{above}/{}", list.len());
                list.push(operation["value"].clone());
            } else {
                let is_there = parent.get(name).is_some();
                assert_eq!(is_there, operation["op"] == "replace", "{operation}");
                parent[name] = operation["value"].clone();
            }
            let identity = json!({
                "apiVersion": object["apiVersion"], "kind": object["kind"],
                "metadata": {
                    "namespace": object["metadata"]["namespace"],
                    "name": object["metadata"]["name"],
                },
            });
            let value = operation["value"].clone();
            built.changes.push((identity, path, value));
        }
    }
    built
}

fn documents(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap();
    text.split("\n---\n")
        .map(|document| serde_yaml::from_str(document).unwrap())
        .collect()
}

fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests")
}
