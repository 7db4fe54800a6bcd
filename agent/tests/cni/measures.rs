// SPDX-License-Identifier: Apache-2.0
//! Every metric that is promised is fed by an agent that enforces policies on traffic.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use agent::{args::DatapathArgs, bundle::Bundle, metrics::Metrics, run::kernel};
use serde_json::json;

use crate::{
    container::start,
    node::{Node, answers, comes_to_answer},
};

const POLICIES: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: api}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 80}]}]
";

/// What appears only when something happens that does not happen here: tables that cannot be published,
/// and an API server to write to, for which see `tests/apiserver`.
const NOT_HERE: [&str; 2] = [
    "netpol_publish_failures_total",
    "netpol_status_writes_total",
];

#[test]
fn every_documented_metric_has_a_sample() {
    let Some(mut node) = Node::new("measures") else {
        return;
    };
    let plugin = json!({"type": "ptp", "ipMasq": false, "ipam": node.ipam("10.45.6.0/24")});
    for name in ["web", "api", "other"] {
        node.add_pod(name, std::slice::from_ref(&plugin));
    }
    // There is no API server: the agent enforces what it knew the last time.
    let bundle = Bundle::new(&node.bundle());
    bundle.save("n1", &node.snapshot(POLICIES)).unwrap();
    let datapath = DatapathArgs {
        bpffs: node.bpffs(),
        events_per_second: 1,
        ..DatapathArgs::default()
    };
    let agent = start(&node, &[], kernel(&datapath));
    let api = node.address("api");
    assert!(comes_to_answer(node.pod("web"), api, 80), "admitted");
    assert!(!answers(node.pod("other"), api, 80), "not admitted");

    let metrics = agent.metrics();
    let fed = [
        r#"netpol_verdicts_total{dir="ingress",tier="networkpolicy",action="allow"}"#,
        r#"netpol_verdicts_total{dir="either",tier="networkpolicy",action="deny"}"#,
        r#"netpol_drops_total{dir="ingress",reason="Denied"}"#,
        r#"netpol_endpoints{state="enforced"}"#,
        r#"netpol_endpoints{state="unisolated"}"#,
        r#"netpol_map_entries{map="ROWS"}"#,
        r#"netpol_map_capacity{map="ROWS"}"#,
        "netpol_compile_seconds_count",
        "netpol_apply_seconds_count",
        r#"netpol_watch_errors_total{kind="Pod"}"#,
    ];
    let deadline = Instant::now() + Duration::from_secs(30);
    let is_fed = |name: &&str| {
        samples(&metrics)
            .get(*name)
            .is_some_and(|value| *value > 0.0)
    };
    while !fed.iter().all(is_fed) {
        let missing: Vec<_> = fed.iter().filter(|name| !is_fed(name)).collect();
        assert!(Instant::now() < deadline, "not fed: {missing:?}");
        thread::sleep(Duration::from_millis(100));
    }
    let samples = samples(&metrics);
    let is_sampled = |family: &str| samples.keys().any(|name| name.starts_with(family));
    let silent: Vec<String> = documented()
        .into_iter()
        .filter(|family| !is_sampled(family) && !NOT_HERE.contains(&family.as_str()))
        .collect();
    assert!(
        silent.is_empty(),
        "promised and without a sample: {silent:?}"
    );
}

/// Values by name and labels.
fn samples(metrics: &Metrics) -> BTreeMap<String, f64> {
    let text = metrics.encode().unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        })
        .collect()
}

/// Every metric in the reference.
fn documented() -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let text = fs::read_to_string(page).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| Some(row.split_once('`')?.0.to_owned()))
        .collect()
}
