// SPDX-License-Identifier: Apache-2.0
//! Does the shop of `testdata/demo` work as its teams meant it, and does every kind of policy decide
//! something in it?
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeSet, fs, path::Path};

use policy_compiler::{
    Decision, Flow, Reason, Snapshot, Verdict,
    manifest::{Fate, Loaded, load},
    model::{Family, PodKey, Protocol},
    parse::Settings,
    reference::evaluate,
    verdict::Endpoint,
};

/// Source, destination, what is sent, verdict and why: the side that denies, or the destination's.
const EXPECTED: &str = "
infra/gateway       shop/web               tcp/8080 v4   allow  NetworkPolicy shop/web
infra/gateway       shop/web               tcp/8080 v6   allow  NetworkPolicy shop/web
infra/gateway       shop/web               tcp/22   v4   deny   isolated
infra/gateway       shop/web               icmp     v4   deny   isolated
infra/gateway       shop/api               tcp/8080 v4   deny   isolated
shop/web            shop/api               tcp/8080 v6   allow  NetworkPolicy shop/api
shop/web            data/db                tcp/5432 v4   deny   isolated
shop/worker         shop/api               tcp/8999 v4   deny   isolated
shop/worker         shop/api               tcp/9000 v4   allow  NetworkPolicy shop/api
shop/worker         shop/api               tcp/9010 v4   allow  NetworkPolicy shop/api
shop/worker         shop/api               tcp/9011 v4   deny   isolated
shop/api            data/db                tcp/5432 v6   allow  NetworkPolicy data/db
shop/worker         data/queue             tcp/5672 v4   allow  NetworkPolicy data/queue
shop/worker         data/cache             tcp/6379 v4   deny   isolated
data/db             data/queue             tcp/5672 v4   deny   isolated
data/cache          data/db                tcp/5432 v4   allow  NetworkPolicy data/db
data/cache          data/db                icmp     v4   allow  NetworkPolicy data/db
data/cache          data/db                icmp     v6   allow  NetworkPolicy data/db
shop/web            infra/dns              udp/53   v4   allow  default
shop/web            infra/dns              tcp/53   v4   deny   isolated
shop/web            infra/dns              icmp     v4   deny   isolated
payments/payments-api infra/dns            tcp/53   v6   allow  default
shop/api            payments/payments-api  tcp/8443 v4   allow  NetworkPolicy payments/payments-api
shop/api            payments/payments-api  tcp/9103 v4   deny   isolated
shop/web            payments/payments-api  tcp/8443 v4   deny   isolated
data/cache          payments/payments-api  tcp/8443 v4   deny   AdminNetworkPolicy tenant-isolation
data/cache          payments/payments-api  icmp     v6   deny   AdminNetworkPolicy tenant-isolation
data/cache          infra/dns              udp/53   v4   allow  default
payments/payments-api payments/payments-db tcp/5432 v4   allow  NetworkPolicy payments/payments-db
payments/payments-api payments/payments-db tcp/5432 v6   allow  NetworkPolicy payments/payments-db
payments/payments-api payments/payments-db icmp     v4   deny   isolated
shop/worker         payments/payments-db   tcp/5432 v4   deny   isolated
data/queue          payments/payments-db   tcp/5432 v4   deny   ClusterNetworkPolicy cardholder-data
payments/payments-db payments/payments-api tcp/8443 v4   deny   ClusterNetworkPolicy cardholder-data
payments/payments-db infra/dns             udp/53   v6   deny   ClusterNetworkPolicy cardholder-data
monitoring/prometheus payments/payments-db tcp/9187 v4   allow  ClusterNetworkPolicy cardholder-data
monitoring/prometheus payments/payments-db tcp/5432 v4   deny   ClusterNetworkPolicy cardholder-data
monitoring/prometheus shop/web             tcp/9100 v6   allow  AdminNetworkPolicy platform-services
monitoring/prometheus shop/api             tcp/9101 v4   allow  AdminNetworkPolicy platform-services
monitoring/prometheus shop/api             tcp/9100 v4   deny   isolated
monitoring/prometheus monitoring/grafana   tcp/3001 v4   allow  AdminNetworkPolicy platform-services
monitoring/grafana  monitoring/prometheus  tcp/9090 v4   allow  BaselineAdminNetworkPolicy default
data/queue          monitoring/grafana     tcp/3000 v4   deny   BaselineAdminNetworkPolicy default
data/queue          monitoring/grafana     icmp     v6   deny   BaselineAdminNetworkPolicy default
data/queue          203.0.113.10           tcp/443  v4   deny   BaselineAdminNetworkPolicy default
data/queue          2001:db8::10           tcp/443  v6   deny   BaselineAdminNetworkPolicy default
shop/api            203.0.113.10           tcp/443  v4   allow  not-a-subject
shop/api            203.0.113.200          tcp/443  v4   deny   isolated
shop/api            2001:db8::10           tcp/443  v6   deny   isolated
payments/payments-api 2001:db8::10         tcp/443  v6   allow  not-a-subject
payments/payments-api node:n2              tcp/10250 v4  deny   AdminNetworkPolicy node-protection
data/queue          node:n1                icmp     v4   deny   AdminNetworkPolicy node-protection
monitoring/prometheus node:n2              tcp/9100 v4   allow  not-a-subject
node:n1             shop/web               tcp/8080 v4   allow  local-node
node:n2             shop/web               tcp/8080 v4   deny   isolated
203.0.113.10        infra/gateway          tcp/8443 v4   allow  default
203.0.113.10        shop/web               tcp/8080 v4   deny   isolated
203.0.113.10        monitoring/grafana     tcp/3000 v4   allow  default
shop/worker         shop/worker            tcp/9102 v4   allow  self
";

#[test]
fn manifests_are_used_as_written() {
    let loaded = shop();
    let messages: Vec<&str> = loaded
        .diagnostics
        .iter()
        .map(|diagnostic| diagnostic.message.as_str())
        .collect();
    assert!(messages.is_empty(), "{messages:#?}");
    for entry in &loaded.ledger {
        assert_eq!(entry.fate, Fate::Used, "{} {}", entry.kind, entry.name);
    }
}

#[test]
fn teams_get_what_they_meant() {
    let snapshot = shop().snapshot;
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for line in EXPECTED.lines().filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [source, destination, what, family, verdict, because @ ..] = words.as_slice() else {
            panic!("`{line}` is no expectation");
        };
        let flow = flow(&snapshot, source, destination, what, family);
        let trace = evaluate(&snapshot, &flow);
        let side = match trace.egress.verdict {
            Verdict::Deny => &trace.egress,
            Verdict::Allow => &trace.ingress,
        };
        let got = format!("{} {}", word(trace.verdict), reason(side));
        if got != format!("{verdict} {}", because.join(" ")) {
            wrong.push(format!("{line}\n    but it is: {got}"));
        }
        seen.insert(because[0].to_owned());
        seen.insert((*family).to_owned());
        seen.insert(what.split('/').next().unwrap().to_owned());
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    for kind in [
        "NetworkPolicy",
        "AdminNetworkPolicy",
        "BaselineAdminNetworkPolicy",
        "ClusterNetworkPolicy",
        "default",
        "v4",
        "v6",
        "tcp",
        "udp",
        "icmp",
    ] {
        assert!(seen.contains(kind), "nothing is expected of {kind}");
    }
}

fn flow(snapshot: &Snapshot, source: &str, destination: &str, what: &str, family: &str) -> Flow {
    let (protocol, port) = match what.split_once('/') {
        Some(("tcp", port)) => (Protocol::Tcp, port.parse().unwrap()),
        Some(("udp", port)) => (Protocol::Udp, port.parse().unwrap()),
        _ => (Protocol::Other, 0),
    };
    Flow {
        source: endpoint(snapshot, source),
        destination: endpoint(snapshot, destination),
        protocol,
        port,
        family: if family == "v6" {
            Family::V6
        } else {
            Family::V4
        },
        via_service: false,
    }
}

fn endpoint(snapshot: &Snapshot, text: &str) -> Endpoint {
    if let Some(node) = text.strip_prefix("node:") {
        assert!(snapshot.nodes.contains_key(node), "there is no {text}");
        return Endpoint::Node(node.into());
    }
    if let Some((namespace, name)) = text.split_once('/') {
        let key = PodKey::new(namespace, name);
        assert!(snapshot.pods.contains_key(&key), "there is no {text}");
        return Endpoint::Pod(key);
    }
    Endpoint::Address(text.parse().unwrap())
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
    }
}

fn reason(decision: &Decision) -> String {
    match &decision.reason {
        Reason::Rule(rule) => rule.policy.to_string(),
        Reason::FailClosed(rule) => format!("fail-closed {}", rule.policy),
        Reason::Isolated(_) => "isolated".to_owned(),
        Reason::LocalNode => "local-node".to_owned(),
        Reason::SelfTraffic => "self".to_owned(),
        Reason::NotASubject => "not-a-subject".to_owned(),
        Reason::Default => "default".to_owned(),
    }
}

fn shop() -> Loaded {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/demo");
    let mut files: Vec<(String, String)> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).unwrap())
        })
        .collect();
    files.sort();
    load(
        files
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str())),
        &Settings::default(),
    )
}
