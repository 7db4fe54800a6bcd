// SPDX-License-Identifier: Apache-2.0
//! Does reading end well, whatever it is given?
#![expect(clippy::expect_used, reason = "tests")]

use policy_compiler::{
    diagnostic::Severity,
    manifest::{Fate, Loaded, Locator, load},
    model::RouteKind,
    parse::{self, Channel, Settings, WorkloadKind},
};
use proptest::prelude::*;
use serde_json::Value;

/// One of everything that is read, so that mutations reach every reader.
const SEED: &str = r#"# comment
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: shop, labels: {app: web}}
spec:
  podSelector: &sel {matchLabels: {app: web}, matchExpressions: [{key: tier, operator: In, values: [a, b]}]}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{podSelector: {}}, {namespaceSelector: *sel}, {ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]
    ports: [{protocol: UDP, port: 53}, {port: web}, {port: 80, endPort: 90}]
  egress:
  - {}
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: a}
spec:
  priority: 7
  subject: {pods: {namespaceSelector: {}, podSelector: {}}}
  ingress: [{name: i, action: Deny, from: [{namespaces: {}}], ports: [{portNumber: {port: 1}}, {portRange: {start: 1, end: 9}}, {namedPort: web}]}]
  egress: [{action: Pass, to: [{networks: [0.0.0.0/0, "::/0"]}, {nodes: {}}]}, {action: Allow, to: [{domainNames: ["*.example.org"]}]}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: c}
spec:
  tier: Baseline
  priority: 0
  subject: {namespaces: {matchExpressions: [{key: x, operator: Exists}]}}
  egress: [{action: Accept, to: [{pods: {podSelector: {}}}], protocols: [{tcp: {destinationPort: {number: 80}}}, {udp: {destinationPort: {range: {start: 1, end: 2}}}}]}]
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: q, namespace: shop, labels: {app: web}, annotations: {netpol.dev/netns: q}}
  spec: {nodeName: n1, containers: [{name: c, ports: [{name: web, containerPort: 80}]}]}
  status: {phase: Running, podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}
- apiVersion: v1
  kind: Service
  metadata: {name: s, namespace: shop}
  spec: {selector: {app: web}, clusterIPs: [10.96.0.1], ports: [{name: a, port: 80, targetPort: web}]}
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: {name: s-1, namespace: shop, labels: {kubernetes.io/service-name: s}}
  endpoints: [{addresses: [10.0.0.1]}]
  ports: [{name: a, port: 80}]
---
{"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
 "spec": {"replicas": 2, "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": []}}}}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: red}}
"#;

/// What mutations put in: syntax, words with a meaning, numbers at boundaries.
const TOKENS: [&str; 48] = [
    "{",
    "}",
    "[",
    "]",
    ":",
    ": ",
    "- ",
    ", ",
    "\n",
    "\r\n",
    "\t",
    "  ",
    "'",
    "\"",
    "#",
    "&x ",
    "*x",
    "*sel",
    "<<: *sel",
    "!!str ",
    "|\n",
    ">-\n",
    "---\n",
    "...\n",
    "%YAML 1.1\n",
    "\u{feff}",
    "\0",
    "é",
    "{{ .Values.x }}",
    "null",
    "~",
    "true",
    "on",
    "0",
    "-1",
    "65536",
    "4294967296",
    "1e400",
    ".nan",
    "0x10",
    "spec",
    "from",
    "to",
    "kind: List\n",
    "items",
    "namespaces",
    "ports",
    "metadata",
];

fn check(loaded: &Loaded, text: &str) -> Result<(), TestCaseError> {
    let lines = u32::try_from(text.split('\n').count()).unwrap_or(u32::MAX);
    for diagnostic in &loaded.diagnostics {
        let place = diagnostic.at.as_ref().map(|at| (at.line, at.column));
        let inside = place.is_some_and(|(line, column)| (1..=lines).contains(&line) && column >= 1);
        prop_assert!(inside, "{diagnostic:?} of {lines} lines");
        let plain = !diagnostic.message.contains(char::is_control);
        prop_assert!(plain, "{diagnostic:?}");
    }
    let errors = loaded
        .diagnostics
        .iter()
        .any(|found| found.severity == Severity::Error);
    let clean = loaded
        .ledger
        .iter()
        .all(|entry| matches!(entry.fate, Fate::Used | Fate::Ignored));
    prop_assert_eq!(
        errors,
        !clean,
        "{:?} {:?}",
        &loaded.diagnostics,
        &loaded.ledger
    );
    Ok(())
}

#[derive(Clone, Debug)]
struct Edit {
    at: prop::sample::Index,
    remove: usize,
    insert: Vec<&'static str>,
}

fn edit() -> impl Strategy<Value = Edit> {
    let remove = prop_oneof![3 => Just(0usize), 2 => 1..4usize, 1 => 1..200usize];
    let insert = prop::collection::vec(prop::sample::select(&TOKENS[..]), 0..3);
    (any::<prop::sample::Index>(), remove, insert).prop_map(|(at, remove, insert)| Edit {
        at,
        remove,
        insert,
    })
}

fn mutate(text: &str, edits: &[Edit]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for edit in edits {
        let start = edit.at.index(chars.len() + 1);
        let end = (start + edit.remove).min(chars.len());
        chars.splice(start..end, edit.insert.concat().chars());
    }
    chars.into_iter().collect()
}

/// A value in which fields with a meaning are frequent and have any type.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop::sample::select(vec![-1i64, 0, 1, 80, 1000, 65_535, 65_536, i64::MAX])
            .prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec![
            "",
            "p",
            "default",
            "TCP",
            "Ingress",
            "In",
            "Admin",
            "Deny",
            "Allow",
            "web",
            "10.0.0.0/8",
            "::/0",
            "a.b",
            "80",
            "Running",
            "10.0.0.1",
        ])
        .prop_map(Value::from),
    ];
    let fields = prop::sample::select(vec![
        "metadata",
        "name",
        "namespace",
        "labels",
        "spec",
        "status",
        "podSelector",
        "namespaceSelector",
        "matchLabels",
        "matchExpressions",
        "key",
        "operator",
        "values",
        "policyTypes",
        "ingress",
        "egress",
        "from",
        "to",
        "ports",
        "protocols",
        "port",
        "endPort",
        "protocol",
        "ipBlock",
        "cidr",
        "except",
        "tier",
        "priority",
        "subject",
        "namespaces",
        "pods",
        "networks",
        "nodes",
        "domainNames",
        "action",
        "portNumber",
        "portRange",
        "namedPort",
        "tcp",
        "destinationPort",
        "number",
        "range",
        "start",
        "end",
        "destinationNamedPort",
        "containers",
        "initContainers",
        "containerPort",
        "podIPs",
        "ip",
        "addresses",
        "endpoints",
        "template",
        "replicas",
        "workloadRef",
        "kind",
        "host",
        "rules",
        "http",
        "paths",
        "backend",
        "service",
        "parentRefs",
        "hostnames",
        "backendRefs",
        "listeners",
        "allowedRoutes",
    ]);
    leaf.prop_recursive(8, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((fields.clone(), inner), 0..6).prop_map(|entries| {
                entries
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect()
            }),
        ]
    })
}

/// As many cases as every property of the project, `NETPOL_PROPTEST_CASES`, or enough for a minute.
fn config() -> ProptestConfig {
    let cases = std::env::var("NETPOL_PROPTEST_CASES");
    ProptestConfig::with_cases(cases.map_or(2_000, |cases| {
        cases.parse().expect("NETPOL_PROPTEST_CASES is a number")
    }))
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn mutated_manifests(edits in prop::collection::vec(edit(), 1..8)) {
        let text = mutate(SEED, &edits);
        let loaded = load([("m.yaml", &*text)], &Settings::default());
        check(&loaded, &text)?;
        let again = load([("m.yaml", &*text)], &Settings::default());
        prop_assert_eq!(loaded.snapshot, again.snapshot);
        prop_assert_eq!(loaded.diagnostics, again.diagnostics);
    }

    #[test]
    fn any_text(text in "\\PC*", tokens in prop::collection::vec(prop::sample::select(&TOKENS[..]), 0..40)) {
        for text in [text, tokens.concat()] {
            let loaded = load([("m.yaml", &*text)], &Settings::default());
            check(&loaded, &text)?;
        }
    }

    #[test]
    fn any_object(value in value()) {
        let locator = Locator::none();
        for channel in [Channel::Standard, Channel::Experimental] {
            let settings = Settings { channel, ..Settings::default() };
            let policy = parse::network_policy(&value, &locator, &settings);
            prop_assert!(policy.object.is_some());
            // Nothing is refused silently.
            prop_assert!(!policy.rejected || !policy.diagnostics.is_empty());
            for read in [
                parse::admin_network_policy,
                parse::baseline_admin_network_policy,
                parse::cluster_network_policy,
            ] {
                let policy = read(&value, &locator, &settings);
                prop_assert!(policy.object.is_some() || policy.rejected);
            }
            parse::pod(&value, &locator, &settings);
            parse::service(&value, &locator, &settings);
            parse::endpoint_slice(&value, &locator, &settings);
            parse::gateway(&value, &locator, &settings);
            parse::grant(&value, &locator, &settings);
            for kind in [RouteKind::Ingress, RouteKind::HttpRoute] {
                parse::route(kind, &value, &locator, &settings);
            }
            for kind in WorkloadKind::ALL {
                parse::workload(kind, &value, &locator, &settings);
            }
        }
        parse::namespace(&value, &locator);
        parse::node(&value, &locator);
    }
}

#[test]
fn the_seed_is_clean() {
    let loaded = load([("m.yaml", SEED)], &Settings::default());
    let problems: Vec<&str> = loaded.diagnostics.iter().map(|found| found.id).collect();
    assert_eq!(problems, ["domain-names-unsupported"]);
    assert!(loaded.ledger.iter().all(|entry| entry.fate == Fate::Used));
    assert_eq!(loaded.snapshot.pods.len(), 3);
}
