// SPDX-License-Identifier: Apache-2.0
//! Does every engine say of the shared edge cases what they ask for, with the deciding rule?
//!
//! The cases are shared with other projects and live beside the repository.
#![expect(clippy::panic, clippy::unwrap_used, reason = "tests fail loudly")]

mod engines;

use std::{collections::BTreeMap, env, fmt::Write, fs, path::Path};

use engines::Answer;
use policy_compiler::{
    Decision, Flow, Reason, RuleRef, Snapshot, Verdict, manifest,
    model::{Direction, Family, PodKey, PolicyKind, PolicyRef, Protocol, family_of},
    parse::Settings,
    verdict::Endpoint,
};
use serde_json::{Value, json};

#[test]
fn edge_cases() {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../shared/golden/edge-cases.yaml"
    );
    if !Path::new(file).exists() {
        assert!(env::var("CI").is_err(), "{file} is always there in CI");
        println!("skipped: the shared edge cases are not there");
        return;
    }
    let golden: Value = serde_yaml::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    let mut queries = 0;
    let mut answered: BTreeMap<_, usize> = BTreeMap::new();
    let mut failures = String::new();
    for case in cases {
        let snapshot = snapshot(&golden["fixture"], case);
        for query in case["q"].as_array().unwrap() {
            queries += 1;
            let flow = flow(query, case["viaService"] == json!(true));
            for engine in engines::all() {
                let answer = engine.load(&snapshot)(&flow);
                if !matches!(answer, Answer::Skip(_)) {
                    *answered.entry(engine.name()).or_default() += 1;
                }
                if let Err(why) = compare(query, &answer) {
                    let (name, id) = (engine.name(), &case["id"]);
                    writeln!(failures, "{name}: {id} {query}: {why}").unwrap();
                }
            }
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
    assert_eq!((cases.len(), queries), (77, 181), "the file is complete");
    assert!(answered.values().all(|count| *count > 100), "{answered:?}");
}

fn compare(query: &Value, answer: &Answer) -> Result<(), String> {
    let wanted = match query[4].as_str() {
        Some("Allow") => Verdict::Allow,
        Some("Deny") => Verdict::Deny,
        other => panic!("{other:?} is no verdict"),
    };
    let because = query[5].as_str().unwrap();
    match answer {
        Answer::Skip(_) => Ok(()),
        Answer::Verdict(verdict) if *verdict == wanted => Ok(()),
        Answer::Verdict(verdict) => Err(format!("{verdict:?}")),
        Answer::Trace(trace) => {
            let decides =
                |side: &&Decision| trace.verdict == Verdict::Allow || side.verdict == Verdict::Deny;
            let sides = [&trace.egress, &trace.ingress];
            let mut sides = sides.into_iter().filter(decides).map(spell);
            if trace.verdict == wanted && sides.any(|side| side.contains(because)) {
                return Ok(());
            }
            Err(format!(
                "{:?}, {} and {}",
                trace.verdict,
                spell(&trace.egress),
                spell(&trace.ingress)
            ))
        }
    }
}

/// The fixture with the policies of `case`, read as a user's manifests are.
fn snapshot(fixture: &Value, case: &Value) -> Snapshot {
    let mut objects = Vec::new();
    for (name, labels) in fixture["namespaces"].as_object().unwrap() {
        objects.push(json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels},
        }));
    }
    for (name, node) in fixture["nodes"].as_object().unwrap() {
        let addresses = node["ips"].as_array().unwrap().iter();
        let addresses: Vec<_> = addresses
            .map(|ip| json!({"type": "InternalIP", "address": ip}))
            .collect();
        objects.push(json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": node["labels"]},
            "status": {"addresses": addresses},
        }));
    }
    for (key, pod) in fixture["pods"].as_object().unwrap() {
        let (namespace, name) = key.split_once('/').unwrap();
        let ports = pod["ports"].as_array().into_iter().flatten();
        let ports: Vec<_> = ports
            .map(|p| json!({"name": p[0], "protocol": p[1], "containerPort": p[2]}))
            .collect();
        let ips = pod["ips"].as_array().into_iter().flatten();
        let ips: Vec<_> = ips.map(|ip| json!({"ip": ip})).collect();
        objects.push(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name, "labels": pod["labels"]},
            "spec": {
                "nodeName": pod["node"],
                "hostNetwork": pod["host"] == json!(true),
                "containers": [{"name": "c", "image": "example.test/c", "ports": ports}],
            },
            "status": {"phase": pod["phase"].as_str().unwrap_or("Running"), "podIPs": ips},
        }));
    }
    for policy in case["policies"].as_array().unwrap() {
        let mut policy = policy.clone();
        policy["apiVersion"] = match policy["kind"].as_str() {
            Some("NetworkPolicy") => "networking.k8s.io/v1",
            Some("ClusterNetworkPolicy") => "policy.networking.k8s.io/v1alpha2",
            _ => "policy.networking.k8s.io/v1alpha1",
        }
        .into();
        objects.push(policy);
    }
    let text: Vec<_> = objects.iter().map(Value::to_string).collect();
    let text = text.join("\n---\n");
    let mut snapshot =
        manifest::load([("case.yaml", text.as_str())], &Settings::default()).snapshot;
    let policies = snapshot.network_policies.len() + snapshot.admin_policies.len();
    assert_eq!(
        policies,
        case["policies"].as_array().unwrap().len(),
        "{}",
        case["id"]
    );
    if let Some(domains) = case["domains"].as_object() {
        let learned = domains.iter().map(|(name, ips)| {
            let ips = ips.as_array().unwrap().iter();
            (
                name.as_str().into(),
                ips.map(|ip| ip.as_str().unwrap().parse().unwrap())
                    .collect(),
            )
        });
        snapshot.domains = Some(learned.collect());
    }
    snapshot
}

fn flow(query: &Value, via_service: bool) -> Flow {
    let end = |value: &Value| {
        let text = value.as_str().unwrap();
        match (text.strip_prefix("node:"), text.split_once('/')) {
            (Some(name), _) => Endpoint::Node(name.into()),
            (None, Some((namespace, name))) => Endpoint::Pod(PodKey::new(namespace, name)),
            (None, None) => Endpoint::Address(text.parse().unwrap()),
        }
    };
    let (source, destination) = (end(&query[0]), end(&query[1]));
    let family = [&source, &destination]
        .into_iter()
        .find_map(|end| match end {
            Endpoint::Address(address) => Some(family_of(*address)),
            Endpoint::Pod(_) | Endpoint::Node(_) => None,
        });
    Flow {
        source,
        destination,
        protocol: match query[2].as_str().unwrap() {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            "ICMP" => Protocol::Other,
            other => panic!("{other} is no protocol"),
        },
        port: query[3].as_u64().unwrap().try_into().unwrap(),
        family: match query[6].as_u64() {
            Some(6) => Family::V6,
            _ => family.unwrap_or(Family::V4),
        },
        via_service,
    }
}

/// A reason as the shared cases spell it: `ANP/pass:p -> NP/x/np:ingress[0]`.
fn spell(decision: &Decision) -> String {
    let mut text = String::new();
    for rule in &decision.passed {
        write!(text, "{} -> ", spell_rule(rule)).unwrap();
    }
    match &decision.reason {
        Reason::Rule(rule) => text + &spell_rule(rule),
        Reason::FailClosed(rule) => format!("{text}{} (fail-closed)", spell_rule(rule)),
        Reason::Isolated(policies) => {
            let names: Vec<_> = policies.iter().map(|policy| &*policy.name).collect();
            format!("{text}NP/isolated-by:{}", names.join(","))
        }
        Reason::LocalNode => text + "NP/local-node",
        Reason::SelfTraffic => text + "NP/self",
        Reason::NotASubject => text + "not-a-subject",
        Reason::Default => text + "default",
    }
}

fn spell_rule(rule: &RuleRef) -> String {
    let PolicyRef {
        kind,
        namespace,
        name,
    } = &rule.policy;
    let policy = match (kind, namespace) {
        (PolicyKind::NetworkPolicy, Some(namespace)) => format!("NP/{namespace}/{name}"),
        (PolicyKind::NetworkPolicy, None) => panic!("{name} has no namespace"),
        (PolicyKind::AdminNetworkPolicy, _) => format!("ANP/{name}"),
        (PolicyKind::BaselineAdminNetworkPolicy, _) => format!("BANP/{name}"),
        (PolicyKind::ClusterNetworkPolicy, _) => format!("CNP/{name}"),
    };
    match (&rule.name, rule.direction) {
        (Some(name), _) => format!("{policy}:{name}"),
        (None, Direction::Ingress) => format!("{policy}:ingress[{}]", rule.index),
        (None, Direction::Egress) => format!("{policy}:egress[{}]", rule.index),
    }
}
