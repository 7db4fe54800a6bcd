// SPDX-License-Identifier: Apache-2.0
//! What cluster do manifests describe?

use policy_compiler::{
    diagnostic::Severity,
    manifest::{Fate, Loaded, load},
    model::{NetworkPeer, Phase, PodKey, Protocol, ServiceBackend},
    parse::{Settings, WorkloadKind},
};

fn one(text: &str) -> Loaded {
    load([("m.yaml", text)], &Settings::default())
}

#[track_caller]
fn problems(loaded: &Loaded) -> Vec<String> {
    loaded
        .diagnostics
        .iter()
        .filter(|diagnostic| diagnostic.id != "undeclared-namespace")
        .map(|diagnostic| {
            let at = diagnostic.at.as_ref().map(ToString::to_string);
            format!("{} {}", at.unwrap_or_default(), diagnostic.id)
        })
        .collect()
}

fn pods(loaded: &Loaded) -> Vec<String> {
    loaded
        .snapshot
        .pods
        .keys()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn policy_knows_its_lines() {
    let loaded = one("
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: shop}
spec:
  podSelector: {}
  ingress:
    - from:
      - podSelector: {matchLabels: {app: web}}
    - ports: [{port: 80}]
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: red, kubernetes.io/metadata.name: wrong}}
");
    assert_eq!(problems(&loaded), [""; 0]);
    let policy = loaded.snapshot.network_policies.values().next().unwrap();
    let rules = policy.ingress.as_ref().unwrap();
    let places: Vec<String> = rules
        .iter()
        .map(|rule| rule.at.as_ref().unwrap().to_string())
        .collect();
    assert_eq!(places, ["m.yaml:8:7", "m.yaml:10:7"]);
    assert_eq!(policy.at.as_ref().unwrap().to_string(), "m.yaml:2:1");
    assert!(policy.egress.is_none());
    let shop = &loaded.snapshot.namespaces["shop"];
    assert_eq!(shop.labels.get("kubernetes.io/metadata.name"), Some("shop"));
    assert_eq!(shop.labels.get("team"), Some("red"));
}

#[test]
fn real_pods_replace_those_of_their_deployment() {
    let deployment = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]
";
    let loaded = one(deployment);
    assert_eq!(pods(&loaded), ["shop/deployment/web"]);
    let pod = &loaded.snapshot.pods[&PodKey::new("shop", "deployment/web")];
    assert!(pod.labels.get("pod-template-hash").is_some());
    assert_eq!(
        pod.ports_named("http").collect::<Vec<_>>(),
        [(Protocol::Tcp, 8080)]
    );

    let loaded = one(&format!(
        "{deployment}---
apiVersion: v1
kind: Pod
metadata:
  name: web-5d4f-x
  namespace: shop
  labels: {{app: web, pod-template-hash: 5d4f}}
  ownerReferences: [{{kind: ReplicaSet, name: web-5d4f, controller: true}}]
"
    ));
    assert_eq!(pods(&loaded), ["shop/web-5d4f-x"]);
    let id = ("shop".into(), WorkloadKind::Deployment, "web".into());
    let owned = &loaded.workloads[&id].pods;
    assert_eq!(
        owned.iter().map(|key| &*key.name).collect::<Vec<_>>(),
        ["web-5d4f-x"]
    );

    let loaded = one(&deployment.replace("replicas: 3", "replicas: 0"));
    assert_eq!(pods(&loaded), [""; 0]);
    assert_eq!(loaded.workloads[&id].workload.replicas, 0);
}

#[test]
fn every_workload_kind_has_pods() {
    let template = "template: {metadata: {labels: {app: a}}, spec: {hostNetwork: false}}";
    let text = format!("
apiVersion: v1
kind: List
items:
- {{apiVersion: apps/v1, kind: StatefulSet, metadata: {{name: db}}, spec: {{replicas: 2, ordinals: {{start: 1}}, {template}}}}}
- {{apiVersion: apps/v1, kind: DaemonSet, metadata: {{name: agent}}, spec: {{{template}}}}}
- {{apiVersion: apps/v1, kind: ReplicaSet, metadata: {{name: rs}}, spec: {{{template}}}}}
- {{apiVersion: v1, kind: ReplicationController, metadata: {{name: rc}}, spec: {{{template}}}}}
- {{apiVersion: batch/v1, kind: Job, metadata: {{name: once}}, spec: {{{template}}}}}
- {{apiVersion: batch/v1, kind: CronJob, metadata: {{name: often}}, spec: {{jobTemplate: {{spec: {{{template}}}}}}}}}
- {{apiVersion: v1, kind: Node, metadata: {{name: n1}}, status: {{addresses: [{{type: Hostname, address: n1}}, {{type: InternalIP, address: 192.168.0.1}}]}}}}
- {{apiVersion: v1, kind: Node, metadata: {{name: n2}}}}
");
    let loaded = one(&text);
    assert_eq!(problems(&loaded), [""; 0]);
    assert_eq!(
        pods(&loaded),
        [
            "default/cronjob/often",
            "default/daemonset/agent@n1",
            "default/daemonset/agent@n2",
            "default/db-1",
            "default/db-2",
            "default/job/once",
            "default/replicaset/rs",
            "default/replicationcontroller/rc",
        ]
    );
    let labels = |name: &str, key: &str| {
        let pod = &loaded.snapshot.pods[&PodKey::new("default", name)];
        pod.labels.get(key).map(str::to_owned)
    };
    assert_eq!(
        labels("db-2", "apps.kubernetes.io/pod-index").as_deref(),
        Some("2")
    );
    assert_eq!(labels("db-2", "app").as_deref(), Some("a"));
    assert_eq!(
        labels("job/once", "batch.kubernetes.io/job-name").as_deref(),
        Some("once")
    );
    assert_eq!(
        loaded.snapshot.nodes["n1"].addresses,
        ["192.168.0.1".parse::<std::net::IpAddr>().unwrap()]
    );
}

#[test]
fn services_find_their_backends() {
    let pod = "
apiVersion: v1
kind: Pod
metadata:
  name: a
  labels: {app: a}
  annotations: {netpol.dev/netns: shop-a, other: x}
  creationTimestamp: '1970-01-01T00:01:00Z'
spec:
  nodeName: n1
  containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]
  initContainers:
  - {name: i, ports: [{containerPort: 1}]}
  - {name: s, restartPolicy: Always, ports: [{containerPort: 2, protocol: UDP}]}
status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}
---
apiVersion: v1
kind: Service
metadata: {name: s}
spec: {selector: {app: a}, clusterIP: 10.96.0.1, ports: [{port: 80, targetPort: http}]}
";
    let loaded = one(pod);
    assert_eq!(problems(&loaded), [""; 0]);
    let key = PodKey::new("default", "a");
    let read = &loaded.snapshot.pods[&key];
    assert_eq!(read.phase, Phase::Running);
    assert_eq!(read.created, Some(60));
    assert_eq!(read.node.as_deref(), Some("n1"));
    assert_eq!(read.ports.len(), 2);
    assert_eq!(loaded.annotations[&key].len(), 1);
    let backends = |loaded: &Loaded| {
        let service = loaded.snapshot.services.values().next().unwrap();
        service.ports[0].backends.clone()
    };
    let backend = |address: &str, port| ServiceBackend {
        address: address.parse().unwrap(),
        port,
    };
    assert_eq!(
        backends(&loaded),
        [backend("10.0.0.1", 8080), backend("fd00::1", 8080)]
    );

    let loaded = one(&format!(
        "{pod}---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: s-1, labels: {{kubernetes.io/service-name: s}}}}
addressType: IPv4
endpoints: [{{addresses: [10.0.0.7]}}]
ports: [{{name: '', port: 81}}]
"
    ));
    assert_eq!(problems(&loaded), [""; 0]);
    assert_eq!(backends(&loaded), [backend("10.0.0.7", 81)]);
}

#[test]
fn repeated_objects_are_reported() {
    let policy = |selector: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p}}\nspec: {{podSelector: {selector}}}\n"
        )
    };
    let (same, other) = (policy("{}"), policy("{matchLabels: {a: b}}"));
    let files = [
        ("a.yaml", same.as_str()),
        ("b.yaml", &same),
        ("c.yaml", &other),
    ];
    let loaded = load(files, &Settings::default());
    assert_eq!(
        problems(&loaded),
        [
            "b.yaml:1:1 duplicate-object",
            "c.yaml:1:1 conflicting-object"
        ]
    );
    let fates: Vec<Fate> = loaded.ledger.iter().map(|entry| entry.fate).collect();
    assert_eq!(
        fates,
        [Fate::Used, Fate::Ignored, Fate::Rejected { used: false }]
    );
    assert!(loaded.diagnostics[1].message.contains("a.yaml:1:1"));
}

#[test]
fn what_is_not_evaluated_is_accounted_for() {
    let loaded = one("
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: g}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: c}
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: ClusterNetworkPolicy
metadata: {name: x}
---
replicaCount: 3
");
    let fates: Vec<(String, Fate)> = loaded
        .ledger
        .iter()
        .map(|entry| (entry.kind.to_string(), entry.fate))
        .collect();
    let expected = [
        ("GlobalNetworkPolicy", Fate::Ignored),
        ("ConfigMap", Fate::Ignored),
        ("ClusterNetworkPolicy", Fate::Rejected { used: false }),
        ("", Fate::Ignored),
    ];
    assert_eq!(fates, expected.map(|(kind, fate)| (kind.to_owned(), fate)));
    assert_eq!(
        problems(&loaded),
        [
            "m.yaml:2:1 foreign-policy",
            "m.yaml:10:1 unknown-api-version",
            "m.yaml:14:1 no-object"
        ]
    );
    assert_eq!(loaded.ignored.len(), 2);
    assert!(loaded.ledger[2].makes_incomplete());
}

#[test]
fn unknown_fields_of_peers_close_them() {
    let loaded = one("
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p}
spec:
  podSelector: {}
  ingress:
  - from:
    - namespaceSelector: {}
      PodSelector: {matchLabels: {a: b}}
");
    assert_eq!(problems(&loaded), ["m.yaml:10:7 unknown-field"]);
    let diagnostic = &loaded.diagnostics[0];
    assert_eq!(diagnostic.path, "spec.ingress[0].from[0].PodSelector");
    assert_eq!(diagnostic.severity, Severity::Error);
    assert_eq!(
        diagnostic.help.as_deref(),
        Some("there is a field named `podSelector`")
    );
    let policy = loaded.snapshot.network_policies.values().next().unwrap();
    let peers = policy.ingress.as_ref().unwrap()[0].peers.clone();
    assert_eq!(peers, Some(vec![NetworkPeer::Nothing]));
    assert_eq!(loaded.ledger[0].fate, Fate::UsedWithProblems);
}

#[test]
fn the_letters_y_and_n_are_names() {
    let loaded = one("
apiVersion: v1
kind: Pod
metadata: {namespace: y, name: n, labels: {y: N, a: 'y', yes: \"no\"}}
spec:
  hostNetwork: yes
  containers: []
");
    let pod = &loaded.snapshot.pods[&PodKey::new("y", "n")];
    assert_eq!(pod.labels.get("y"), Some("N"));
    assert_eq!(pod.labels.get("a"), Some("y"));
    assert!(pod.host_network);
    let letters = [
        "m.yaml:4:23",
        "m.yaml:4:32",
        "m.yaml:4:44",
        "m.yaml:4:47",
        "m.yaml:4:58",
    ];
    let mut expected = letters.map(|at| format!("{at} yaml-boolean-name"));
    expected.sort();
    let mut found = problems(&loaded);
    found.retain(|problem| problem.ends_with("yaml-boolean-name"));
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn streams_of_json_are_read() {
    let loaded = one(
        "{\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\"metadata\":{\"name\":\"a\"}}\n\
         {\"apiVersion\":\"v1\",\n \"kind\":\"Namespace\",\"metadata\":{\"name\":\"b\",\"labels\":{\"x\":\"}\\\"{\"}}}\n\n\
         {\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\"metadata\":{\"name\":\"C\"}}\n",
    );
    let names: Vec<&str> = loaded
        .snapshot
        .namespaces
        .keys()
        .map(|name| &**name)
        .collect();
    assert_eq!(names, ["C", "a", "b"]);
    let expected = ["m.yaml:3:54 invalid-object", "m.yaml:5:58 invalid-object"];
    assert_eq!(problems(&loaded), expected);
}

#[test]
fn other_files_of_a_repository_do_no_harm() {
    let loaded = one("
name: workflow
on: [push]
jobs: {a: {runs-on: y}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: flux}
---
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata: {name: rules}
spec: {groups: [{rules: [{labels: {summary: '{{ $labels.pod }}'}}]}]}
");
    assert_eq!(problems(&loaded), ["m.yaml:2:1 no-object"]);
    assert_eq!(loaded.diagnostics[0].severity, Severity::Info);
    let fates: Vec<Fate> = loaded.ledger.iter().map(|entry| entry.fate).collect();
    assert_eq!(fates, [Fate::Ignored; 3]);
}
