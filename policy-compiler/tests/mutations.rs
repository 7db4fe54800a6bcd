// SPDX-License-Identifier: Apache-2.0
//! Does every object of a damaged file leave a trace, whatever happened to its bytes and lines?

use std::collections::BTreeSet;

use policy_compiler::{
    manifest::{Content, Fate, Loaded, Node, load, read},
    parse::Settings,
};
use proptest::{prelude::*, sample::Index};

/// One object a document, no lists: whatever says `kind` has to turn up again.
const SEED: &str = r#"apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: web
  namespace: shop
spec:
  podSelector: &web
    matchLabels: {app: web}
  ingress:
  - from:
    - podSelector: *web
    - ipBlock:
        cidr: 10.0.0.0/8
        except: [10.1.0.0/16]
    ports:
    - {port: 80, endPort: 90}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: c}
spec:
  tier: Admin
  priority: 7
  subject: {namespaces: {}}
  egress:
  - action: Deny
    to:
    - networks: [0.0.0.0/0, "::/0"]
---
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: shop, labels: {app: web}}
spec:
  containers:
  - name: c
    command: ["sh", "-c", "echo 'x: y'"]
    ports: [{name: web, containerPort: 80}]
status: {phase: Running, podIP: 10.0.0.1}
---
apiVersion: v1
kind: Service
metadata: {name: s, namespace: shop}
spec:
  type: LoadBalancer
  externalIPs: [192.0.2.1]
  loadBalancerSourceRanges: [198.51.100.0/24]
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: web, nodePort: 30080}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: i
  namespace: shop
  annotations:
    note: |
      text with: colons
spec:
  ingressClassName: nginx
  rules:
  - host: example.org
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: s, port: {name: http}}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g, namespace: shop}
spec:
  gatewayClassName: x
  listeners:
  - {name: l, port: 443, protocol: HTTPS, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {a: b}}}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec:
  parentRefs: [{name: g, sectionName: l}]
  hostnames: [example.org]
  rules: [{backendRefs: [{name: s, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: r, namespace: shop}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: other}]
  to: [{group: "", kind: Service}]
---
apiVersion: argoproj.io/v1alpha1
kind: Rollout
metadata: {name: ro, namespace: shop}
spec:
  workloadRef: {apiVersion: apps/v1, kind: Deployment, name: d}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: d, namespace: shop}
spec:
  replicas: 0
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c}]}}
---
apiVersion: apps.openshift.io/v1
kind: DeploymentConfig
metadata: {name: dc, namespace: shop}
spec:
  template: {metadata: {labels: {app: dc}}, spec: {containers: [{name: c}]}}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: red}}
"#;

#[derive(Clone, Debug)]
enum Damage {
    Remove(Index),
    Repeat(Index),
    Swap(Index, Index),
    Indent(Index, usize),
    Outdent(Index, usize),
    Cut(Index),
    /// One byte of the whole text becomes another.
    Byte(Index, u8),
    /// Some bytes of the whole text are lost.
    Lose(Index, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let line = any::<Index>;
    prop_oneof![
        2 => line().prop_map(Damage::Remove),
        1 => line().prop_map(Damage::Repeat),
        2 => (line(), line()).prop_map(|(a, b)| Damage::Swap(a, b)),
        2 => (line(), 1..4usize).prop_map(|(at, by)| Damage::Indent(at, by)),
        2 => (line(), 1..6usize).prop_map(|(at, by)| Damage::Outdent(at, by)),
        1 => line().prop_map(Damage::Cut),
        4 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Byte(at, byte)),
        2 => (any::<Index>(), 1..40usize).prop_map(|(at, count)| Damage::Lose(at, count)),
    ]
}

fn apply(text: &str, damage: &Damage) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if lines.is_empty() {
        return String::new();
    }
    let at = |index: &Index| index.index(lines.len());
    match damage {
        Damage::Byte(index, byte) => {
            let at = index.index(bytes.len());
            bytes[at] = *byte;
            return String::from_utf8_lossy(&bytes).into_owned();
        }
        Damage::Lose(index, count) => {
            let start = index.index(bytes.len());
            bytes.drain(start..(start + count).min(text.len()));
            return String::from_utf8_lossy(&bytes).into_owned();
        }
        Damage::Remove(index) => {
            let at = at(index);
            lines.remove(at);
        }
        Damage::Repeat(index) => {
            let at = at(index);
            lines.insert(at, lines[at].clone());
        }
        Damage::Swap(a, b) => {
            let (a, b) = (at(a), at(b));
            lines.swap(a, b);
        }
        Damage::Indent(index, by) => {
            let at = at(index);
            lines[at].insert_str(0, &" ".repeat(*by));
        }
        Damage::Outdent(index, by) => {
            let at = at(index);
            let blanks = lines[at].len() - lines[at].trim_start().len();
            lines[at].drain(..blanks.min(*by));
        }
        Damage::Cut(index) => {
            let at = at(index);
            lines.truncate(at);
        }
    }
    lines.join("\n") + "\n"
}

/// First and last line of each document that says at its top level what kind it is.
fn objects(text: &str) -> Vec<(u32, u32)> {
    let (mut found, mut start, mut says_kind, mut number) = (Vec::new(), 1, false, 0);
    for line in text.split('\n') {
        number += 1;
        if line.trim_end() == "---" {
            if says_kind {
                found.push((start, number));
            }
            (start, says_kind) = (number, false);
        }
        says_kind |= line.starts_with("kind: ");
    }
    if says_kind {
        found.push((start, number));
    }
    found
}

fn check(text: &str) -> Result<Loaded, TestCaseError> {
    let loaded = load([("m.yaml", text)], &Settings::default());
    let entries = loaded.ledger.iter().map(|entry| entry.at.line);
    let problems = loaded
        .diagnostics
        .iter()
        .filter_map(|found| found.at.as_ref());
    let traces: BTreeSet<u32> = entries.chain(problems.map(|at| at.line)).collect();
    for (start, end) in objects(text) {
        let mut own = traces.range(start..=end);
        prop_assert!(
            own.next().is_some(),
            "nothing is said of lines {start} to {end} of\n{text}"
        );
    }
    for entry in &loaded.ledger {
        let refused = matches!(entry.fate, Fate::Rejected { .. } | Fate::UsedWithProblems);
        let about_it = loaded.diagnostics.iter().any(|found| {
            found.at.as_ref() == Some(&entry.at)
                || found
                    .object
                    .as_ref()
                    .is_some_and(|object| object.kind == entry.kind)
        });
        prop_assert!(!refused || about_it, "no reason is given for {entry:?}");
    }
    // What is held of a file grows with the file, whatever its anchors and lists say.
    let held: usize = read("m.yaml", text)
        .0
        .iter()
        .map(|document| size(&document.node))
        .sum();
    prop_assert!(
        held <= 20 * text.len() + 1_000,
        "{held} nodes of {} bytes",
        text.len()
    );
    Ok(loaded)
}

fn size(node: &Node) -> usize {
    match &node.content {
        Content::Null | Content::Bool(_) | Content::Number(_) | Content::String(_) => 1,
        Content::List(items) => 1 + items.iter().map(size).sum::<usize>(),
        Content::Map(entries) => {
            1 + entries
                .iter()
                .map(|entry| size(&entry.value))
                .sum::<usize>()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn every_damaged_object_leaves_a_trace(damages in prop::collection::vec(damage(), 1..6)) {
        let text = damages.iter().fold(SEED.to_owned(), |text, damage| apply(&text, damage));
        check(&text)?;
    }
}

#[test]
fn an_undamaged_file_is_used_whole() {
    let loaded = check(SEED).expect("everything leaves a trace");
    assert_eq!(objects(SEED).len(), loaded.ledger.len());
    let unused: Vec<_> = loaded
        .ledger
        .iter()
        .filter(|entry| entry.fate != Fate::Used)
        .collect();
    assert!(unused.is_empty(), "{unused:?}");
    let pods: Vec<String> = loaded
        .snapshot
        .pods
        .keys()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        pods,
        ["shop/a", "shop/deploymentconfig/dc", "shop/rollout/ro"]
    );
    assert_eq!(loaded.diagnostics, []);
}

/// The property proves nothing if every damage broke everything, or nothing.
#[test]
fn damage_spoils_some_objects_and_spares_others() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let (mut used, mut refused, mut unreadable) = (0, 0, 0);
    for _ in 0..300 {
        let tree = damage().new_tree(&mut runner).expect("never rejected");
        let loaded = check(&apply(SEED, &tree.current())).expect("everything leaves a trace");
        for entry in &loaded.ledger {
            match entry.fate {
                Fate::Used | Fate::Ignored => used += 1,
                Fate::UsedWithProblems | Fate::Rejected { used: true } => refused += 1,
                Fate::Rejected { used: false } => unreadable += 1,
            }
        }
    }
    assert!(
        used > 1_000 && refused > 10 && unreadable > 50,
        "{used} {refused} {unreadable}"
    );
}
