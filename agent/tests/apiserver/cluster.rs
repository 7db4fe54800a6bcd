// SPDX-License-Identifier: Apache-2.0
//! Objects in a cluster, as users, schedulers and kubelets write them.

use std::{fs, path::PathBuf, time::Duration};

use kube::{
    Api, Client,
    api::{
        ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams,
        ValidationDirective,
    },
};
use serde_json::{Value, json};

/// Writes objects with server-side apply, so that a test can say the same twice.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: Client,
}

impl Cluster {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Applies one object.
    pub(crate) async fn apply(&self, object: &Value) -> Value {
        let params = PatchParams::apply("test").force();
        let name = object["metadata"]["name"].as_str().unwrap();
        let api = self.api(object);
        let applied = api.patch(name, &params, &Patch::Apply(object)).await;
        let applied = applied.unwrap_or_else(|error| panic!("cannot apply {object}: {error}"));
        serde_json::to_value(applied).unwrap()
    }

    /// Whether an API server would take the object. It is not kept, and unknown fields are errors.
    pub(crate) async fn check(&self, object: &Value) -> Result<(), String> {
        let params = PatchParams {
            dry_run: true,
            field_validation: Some(ValidationDirective::Strict),
            ..PatchParams::apply("test").force()
        };
        let name = object["metadata"]["name"].as_str().unwrap();
        let api = self.api(object);
        match api.patch(name, &params, &Patch::Apply(object)).await {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{} {name}: {error}", object["kind"])),
        }
    }

    /// Applies the status of an object.
    pub(crate) async fn apply_status(&self, object: &Value) {
        let params = PatchParams::apply("test-status").force();
        let name = object["metadata"]["name"].as_str().unwrap();
        let api = self.api(object);
        let applied = api.patch_status(name, &params, &Patch::Apply(object)).await;
        applied.unwrap_or_else(|error| panic!("cannot apply the status of {object}: {error}"));
    }

    /// Reads an object; `None` if it is not there.
    pub(crate) async fn get(&self, object: &Value) -> Option<Value> {
        let name = object["metadata"]["name"].as_str().unwrap();
        let got = self.api(object).get_opt(name).await.unwrap();
        got.map(|got| serde_json::to_value(got).unwrap())
    }

    /// Deletes an object at once.
    pub(crate) async fn delete(&self, object: &Value) {
        let name = object["metadata"]["name"].as_str().unwrap();
        let params = DeleteParams::default().grace_period(0);
        self.api(object).delete(name, &params).await.unwrap();
    }

    /// Deletes every object of the kind and namespace of `object`.
    pub(crate) async fn delete_all(&self, object: &Value) {
        let api = self.api(object);
        let (how, which) = (DeleteParams::default(), ListParams::default());
        api.delete_collection(&how, &which).await.unwrap();
    }

    pub(crate) async fn namespace(&self, name: &str, labels: &Value) {
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": labels},
        }))
        .await;
    }

    pub(crate) async fn node(&self, name: &str, address: &str) {
        let identity = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        self.apply(&identity).await;
        let mut status = identity;
        status["status"] = json!({"addresses": [{"type": "InternalIP", "address": address}]});
        self.apply_status(&status).await;
    }

    /// A pod that runs on `node`; returns its UID.
    pub(crate) async fn pod(
        &self,
        namespace: &str,
        name: &str,
        node: &str,
        address: &str,
    ) -> String {
        let pod = self.apply(&pod(namespace, name, node)).await;
        self.apply_status(&running(namespace, name, address)).await;
        pod["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    /// Installs the CRDs of policy.networking.k8s.io from the shared folder, and says whether that was
    /// possible.
    pub(crate) async fn install_policy_crds(&self, channel: &str) -> bool {
        let Some(crds) = policy_crds(channel) else {
            println!("skipped: the upstream CRDs are not beside the project");
            return false;
        };
        for crd in crds {
            self.install_crd(&crd).await;
        }
        true
    }

    /// Removes what [`Cluster::install_policy_crds`] has installed, and waits until it is gone.
    pub(crate) async fn remove_policy_crds(&self, channel: &str) {
        let crds = policy_crds(channel).unwrap();
        for crd in &crds {
            self.delete(crd).await;
        }
        for crd in &crds {
            eventually("removed", async || {
                self.get(crd).await.is_none().then_some(())
            })
            .await;
        }
    }

    /// Installs the CRD of the nodes' reports.
    pub(crate) async fn install_report_crd(&self) {
        let text = agent::status::report::definition().unwrap();
        self.install_crd(&serde_yaml::from_str(&text).unwrap())
            .await;
    }

    pub(crate) async fn install_crd(&self, crd: &Value) {
        self.apply(crd).await;
        let name = crd["metadata"]["name"].as_str().unwrap();
        eventually(name, async || {
            let crd = self.get(crd).await?;
            let conditions = crd["status"]["conditions"].as_array()?.iter();
            let mut established = conditions.filter(|condition| {
                condition["type"] == "Established" && condition["status"] == "True"
            });
            established.next().map(|_| ())
        })
        .await;
    }

    fn api(&self, object: &Value) -> Api<DynamicObject> {
        let api_version = object["apiVersion"].as_str().unwrap();
        let kind = object["kind"].as_str().unwrap();
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let plural = match kind {
            "NetworkPolicy"
            | "AdminNetworkPolicy"
            | "BaselineAdminNetworkPolicy"
            | "ClusterNetworkPolicy" => kind.to_lowercase().replace("policy", "policies"),
            _ => format!("{}s", kind.to_lowercase()),
        };
        let resource = ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            plural,
        };
        match object["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }
}

/// A pod bound to `node`, with the label `app`.
pub(crate) fn pod(namespace: &str, name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": {"app": name}},
        "spec": {
            "nodeName": node,
            "containers": [{"name": "main", "image": "none", "ports": [{"name": "http", "containerPort": 80}]}],
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
        },
    })
}

/// The status a kubelet writes.
pub(crate) fn running(namespace: &str, name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    })
}

/// A NetworkPolicy that isolates `app` for ingress, but for peers with the label `app: <from>`.
pub(crate) fn network_policy(namespace: &str, app: &str, from: &[&str]) -> Value {
    let peers: Vec<Value> = from
        .iter()
        .map(|from| json!({"podSelector": {"matchLabels": {"app": from}}}))
        .collect();
    let ingress = if peers.is_empty() {
        json!([])
    } else {
        json!([{"from": peers}])
    };
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": app},
        "spec": {
            "podSelector": {"matchLabels": {"app": app}},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    })
}

/// An AdminNetworkPolicy that denies ingress from the pods with the label `app: <from>` to all pods.
pub(crate) fn deny_from(name: &str, priority: i64, from: &str) -> Value {
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha1", "kind": "AdminNetworkPolicy",
        "metadata": {"name": name},
        "spec": {
            "priority": priority,
            "subject": {"namespaces": {}},
            "ingress": [{
                "name": "deny", "action": "Deny",
                "from": [{"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": from}}}}],
            }],
        },
    })
}

/// Asks until there is an answer, for a minute at most.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let limit = Duration::from_secs(90);
    let answer = tokio::time::timeout(limit, asking).await;
    answer.unwrap_or_else(|late| panic!("{what}: {late}"))
}

fn policy_crds(channel: &str) -> Option<Vec<Value>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/crds");
    let entries = fs::read_dir(folder).ok()?;
    let paths = entries.map(|entry| entry.unwrap().path());
    let wanted = format!(".{channel}.");
    let mut files: Vec<PathBuf> = paths
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().contains(&wanted))
        })
        .collect();
    files.sort();
    assert_eq!(files.len(), 3, "{files:?}");
    let texts = files.iter().map(|file| fs::read_to_string(file).unwrap());
    let crds = texts.map(|text| serde_yaml::from_str(&text).unwrap());
    Some(crds.collect())
}
