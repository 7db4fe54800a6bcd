// SPDX-License-Identifier: Apache-2.0
//! What does `--live` read of a real API server, and what does it say of what it may not read?

use std::path::Path;

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::{Run, control_plane::ControlPlane, program, run};

#[tokio::test]
async fn live_clusters_answer_as_far_as_they_may_be_read() {
    let Some(plane) = ControlPlane::start().await else {
        return;
    };
    let client = plane.client();
    fill(&client).await;
    let admin = plane.kubeconfig("admin");
    let stranger = plane.kubeconfig("stranger");
    let live = |config: &Path, arguments: &[&str]| {
        let mut command = program();
        command
            .arg("--live")
            .arg("--kubeconfig")
            .arg(config)
            .args(arguments);
        run(command, b"")
    };

    // Everything, and kinds that are not installed are none.
    let all = live(&admin, &["reach", "shop/web", "shop/api", "-o", "json"]);
    assert_eq!(all.code, 0, "{}", all.err);
    assert_eq!(all.json()["verdict"], "denied");
    assert_eq!(
        verdict(&live(
            &admin,
            &["reach", "shop/web", "infra/dns", "-o", "json"]
        )),
        "allowed"
    );

    // One namespace only.
    let restricted = live(&admin, &["-n", "shop", "matrix", "--expand", "-o", "json"]);
    assert_eq!(restricted.code, 0, "{}", restricted.err);
    assert!(!restricted.out.contains("infra/dns"), "{}", restricted.out);
    assert!(
        restricted.err.contains("only namespace `shop` is listed"),
        "{}",
        restricted.err
    );
    let everywhere = live(
        &admin,
        &[
            "-A",
            "-n",
            "shop",
            "reach",
            "web",
            "infra/dns",
            "-o",
            "json",
        ],
    );
    assert_eq!(verdict(&everywhere), "allowed");

    // Nothing may be listed: nothing is answered.
    let nothing = live(&stranger, &["reach", "shop/web", "shop/api"]);
    assert_eq!(nothing.code, 3, "{}", nothing.err);
    assert!(nothing.out.is_empty(), "{}", nothing.out);

    // All but NetworkPolicies: no verdict is definite, and a snapshot says so, too.
    let most = ["namespaces", "nodes", "pods", "services", "endpointslices"];
    grant(&client, "most", &most).await;
    let unknown = live(&stranger, &["reach", "shop/web", "shop/api", "-o", "json"]);
    assert_eq!(unknown.code, 3, "{}", unknown.err);
    assert_eq!(verdict(&unknown), "unknown");
    assert!(
        unknown
            .err
            .contains("NetworkPolicy objects cannot be listed"),
        "{}",
        unknown.err
    );
    let incomplete = live(
        &stranger,
        &[
            "--allow-incomplete",
            "reach",
            "shop/web",
            "shop/api",
            "-o",
            "json",
        ],
    );
    assert_eq!(verdict(&incomplete), "unknown");
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("part.json").display().to_string();
    assert_eq!(live(&stranger, &["snapshot", "-o", &part]).code, 3);
    let later = from(&part, &["reach", "shop/web", "shop/api", "-o", "json"]);
    assert_eq!((later.code, verdict(&later).as_str()), (3, "unknown"));

    // With NetworkPolicies, but without Namespaces: what asks for their labels is unknown.
    grant(
        &client,
        "policies",
        &[
            "networkpolicies",
            "pods",
            "nodes",
            "services",
            "endpointslices",
        ],
    )
    .await;
    revoke(&client, "most").await;
    assert_eq!(
        verdict(&live(
            &stranger,
            &["reach", "shop/web", "shop/api", "-o", "json"]
        )),
        "denied"
    );
    assert_eq!(
        verdict(&live(
            &stranger,
            &["reach", "infra/dns", "shop/web", "-o", "json"]
        )),
        "unknown"
    );

    // A snapshot, plain and without names, answers as the cluster does; nothing differs between them.
    let whole = folder.path().join("whole.json").display().to_string();
    assert_eq!(live(&admin, &["snapshot", "-o", &whole]).code, 0);
    let answer = from(&whole, &["reach", "shop/web", "shop/api", "-o", "json"]);
    assert_eq!(verdict(&answer), "denied");
    // What the cluster would do with other manifests: nothing else differs, and nothing is applied.
    let opened = folder.path().join("opened.yaml");
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "keep-api", "namespace": "shop"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "api"}}, "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}],
        },
    });
    std::fs::write(&opened, policy.to_string()).unwrap();
    let opened = opened.display().to_string();
    let diff = live(
        &admin,
        &["diff", "-f", &opened, "-o", "json", "--exit-code"],
    );
    assert_eq!(diff.code, 1, "{}", diff.err);
    let json = diff.json();
    let changes = json["changes"].as_array().unwrap();
    let ends: Vec<_> = changes
        .iter()
        .map(|it| (&it["change"], &it["src"], &it["dst"]))
        .collect();
    assert_eq!(
        ends,
        [(
            &json!("newly-allowed"),
            &json!(["shop/web"]),
            &json!(["shop/api"])
        )]
    );
    let same = live(&admin, &["diff", "--exit-code"]);
    assert_eq!(
        (same.code, same.out.lines().next()),
        (0, Some("no traffic changes"))
    );

    let hidden = folder.path().join("hidden.json").display().to_string();
    assert_eq!(
        live(&admin, &["snapshot", "--redact", "-o", &hidden]).code,
        0
    );
    let text = std::fs::read_to_string(&hidden).unwrap();
    for name in ["shop", "infra", "\"web\"", "keep-api"] {
        assert!(!text.contains(name), "{name}");
    }
    let open = |run: Run| {
        let cells = run.json()["cells"].as_array().unwrap().clone();
        let open = cells.iter().filter(|cell| cell["allowed"] == "all").count();
        (cells.len(), open)
    };
    assert_eq!(
        open(from(&hidden, &["matrix", "--expand", "-o", "json"])),
        open(from(&whole, &["matrix", "--expand", "-o", "json"]))
    );
}

fn verdict(run: &Run) -> String {
    run.json()["verdict"].as_str().unwrap().to_owned()
}

fn from(snapshot: &str, arguments: &[&str]) -> Run {
    let mut command = program();
    command.args(["--snapshot", snapshot]).args(arguments);
    run(command, b"")
}

/// Pods `shop/web`, `shop/api` and `infra/dns`; nothing gets into `shop/api`, and into `shop/web` only
/// what comes from namespaces labelled `team: infra`.
async fn fill(client: &Client) {
    for (name, team) in [("shop", "sales"), ("infra", "infra")] {
        let namespace = json!({"metadata": {"name": name, "labels": {"team": team}}});
        create(client, "", "v1", "Namespace", None, namespace).await;
    }
    for (namespace, name, address) in [
        ("shop", "web", "10.0.0.1"),
        ("shop", "api", "10.0.0.2"),
        ("infra", "dns", "10.0.0.3"),
    ] {
        let pod = json!({
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"containers": [{"name": "c", "image": "none"}]},
        });
        create(client, "", "v1", "Pod", Some(namespace), pod).await;
        let status =
            json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}});
        let pods: Api<DynamicObject> = api(client, "", "v1", "Pod", Some(namespace));
        pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .unwrap();
    }
    for (name, app, ingress) in [
        ("keep-api", "api", json!([])),
        (
            "keep-web",
            "web",
            json!([{"from": [{"namespaceSelector": {"matchLabels": {"team": "infra"}}}]}]),
        ),
    ] {
        let policy = json!({
            "metadata": {"name": name},
            "spec": {
                "podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Ingress"], "ingress": ingress,
            },
        });
        create(
            client,
            "networking.k8s.io",
            "v1",
            "NetworkPolicy",
            Some("shop"),
            policy,
        )
        .await;
    }
}

/// Lets the stranger list kinds.
async fn grant(client: &Client, name: &str, resources: &[&str]) {
    let group = "rbac.authorization.k8s.io";
    let role = json!({
        "metadata": {"name": name},
        "rules": [{
            "apiGroups": ["", "discovery.k8s.io", "networking.k8s.io"],
            "resources": resources, "verbs": ["list"],
        }, {
            "apiGroups": ["policy.networking.k8s.io"], "resources": ["*"], "verbs": ["list"],
        }],
    });
    create(client, group, "v1", "ClusterRole", None, role).await;
    let binding = json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "User", "name": "stranger", "apiGroup": group}],
    });
    create(client, group, "v1", "ClusterRoleBinding", None, binding).await;
    permission(client, resources.last().unwrap(), true).await;
}

async fn revoke(client: &Client, name: &str) {
    let bindings: Api<DynamicObject> = api(
        client,
        "rbac.authorization.k8s.io",
        "v1",
        "ClusterRoleBinding",
        None,
    );
    bindings
        .delete(name, &kube::api::DeleteParams::default())
        .await
        .unwrap();
    permission(client, "namespaces", false).await;
}

/// Waits until the API server has taken notice of a change of rights.
async fn permission(client: &Client, resource: &str, allowed: bool) {
    let group = match resource {
        "endpointslices" => "discovery.k8s.io",
        "networkpolicies" => "networking.k8s.io",
        _ => "",
    };
    let review = json!({"metadata": {}, "spec": {
        "user": "stranger", "resourceAttributes": {"verb": "list", "resource": resource, "group": group},
    }});
    loop {
        let answer = create(
            client,
            "authorization.k8s.io",
            "v1",
            "SubjectAccessReview",
            None,
            review.clone(),
        )
        .await;
        if answer.data.pointer("/status/allowed") == Some(&json!(allowed)) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

async fn create(
    client: &Client,
    group: &str,
    version: &str,
    kind: &str,
    namespace: Option<&str>,
    mut object: Value,
) -> DynamicObject {
    let api_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    object["apiVersion"] = json!(api_version);
    object["kind"] = json!(kind);
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    api(client, group, version, kind, namespace)
        .create(&PostParams::default(), &object)
        .await
        .unwrap()
}

fn api(
    client: &Client,
    group: &str,
    version: &str,
    kind: &str,
    namespace: Option<&str>,
) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}
