// SPDX-License-Identifier: Apache-2.0
//! Does `diff` say what really changes, and does its comment fit?

use std::{collections::BTreeMap, fs, path::Path};

use policy_compiler::{
    Flow, Snapshot, Verdict, manifest,
    model::{Family, PodKey, Protocol},
    parse::Settings,
    reference,
    verdict::Endpoint,
};
use serde_json::Value;

use super::{Run, cluster, network_policy, program, run};

/// A cluster from the developers' generator, object by object.
fn generated(workloads: &str, policies: &str) -> Vec<String> {
    let mut command = program();
    command.args(["generate", "--replicas", "2", "--seed", "7"]);
    command.args(["--workloads", workloads, "--policies", policies]);
    let text = run(command, b"").out;
    let objects = text.split("---\n").filter(|object| !object.is_empty());
    objects.map(str::to_owned).collect()
}

/// The same cluster with some policies removed, others opened and others moved to another port.
fn edited(objects: &[String]) -> Vec<String> {
    let mut edited = Vec::new();
    for (number, object) in objects.iter().enumerate() {
        match (object.contains("kind: NetworkPolicy"), number % 6) {
            (true, 0) => {}
            (true, 1) => edited.push(object.replace("port: 8001", "port: 8002")),
            (true, 2) => edited.push(object.replace("team: t1", "team: t2")),
            (true, 3) => edited.push(object.replace("10.1.0.0/16", "10.0.0.0/24")),
            _ => edited.push(object.clone()),
        }
    }
    edited
}

fn write(folder: &Path, name: &str, objects: &[String]) -> (String, Snapshot) {
    let text = objects.join("---\n");
    let path = folder.join(name);
    fs::write(&path, &text).unwrap();
    let loaded = manifest::load([(name, text.as_str())], &Settings::default());
    assert!(loaded.diagnostics.is_empty(), "{:?}", loaded.diagnostics);
    (path.display().to_string(), loaded.snapshot)
}

fn diff(old: &str, new: &str, arguments: &[&str]) -> Run {
    let mut command = program();
    command.args(["diff", old, new]).args(arguments);
    run(command, b"")
}

fn endpoint(name: &str) -> Endpoint {
    if let Ok(address) = name.parse() {
        return Endpoint::Address(address);
    }
    match name.split_once('/') {
        Some((namespace, name)) => Endpoint::Pod(PodKey::new(namespace, name)),
        None => Endpoint::Node(name.trim_start_matches("node:").into()),
    }
}

fn flow(source: &str, destination: &str, protocol: Protocol, port: u16) -> Flow {
    Flow {
        source: endpoint(source),
        destination: endpoint(destination),
        protocol,
        port,
        family: Family::V4,
        via_service: false,
    }
}

fn names(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap().iter();
    list.map(|name| name.as_str().unwrap()).collect()
}

#[test]
fn a_diff_is_what_the_oracle_says_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let objects = generated("30", "60");
    let (old_path, old) = write(folder.path(), "old.yaml", &objects);
    let (new_path, new) = write(folder.path(), "new.yaml", &edited(&objects));
    let answer = diff(&old_path, &new_path, &["-o", "json", "--exit-code"]);
    assert_eq!(answer.code, 1, "{}", answer.err);
    let json = answer.json();
    let changes = json["changes"].as_array().unwrap();

    // One packet each that the two sets of policies decide differently.
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for change in changes {
        let kind = change["change"].as_str().unwrap();
        *kinds.entry(kind).or_default() += 1;
        let witness = &change["witness"];
        let protocol = match witness["protocol"].as_str().unwrap() {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            _ => Protocol::Other,
        };
        let end = |end: &str| witness[end].as_str().unwrap();
        let port = u16::try_from(witness["port"].as_u64().unwrap()).unwrap();
        let flow = flow(end("src"), end("dst"), protocol, port);
        let verdicts = [&old, &new].map(|world| reference::evaluate(world, &flow).verdict);
        let expected = match kind {
            "newly-allowed" => [Verdict::Deny, Verdict::Allow],
            "newly-denied" => [Verdict::Allow, Verdict::Deny],
            other => panic!("{other}: {change}"),
        };
        assert_eq!(verdicts, expected, "{change}");
    }
    assert!(kinds.len() == 2, "{kinds:?}");

    // And nothing else changes.
    let mut said: BTreeMap<(&str, &str, u16), &str> = BTreeMap::new();
    for change in changes {
        for source in names(&change["src"]) {
            for destination in names(&change["dst"]) {
                for (protocol, port) in PORTS {
                    if is_named(&change["ports"], protocol, port) {
                        let kind = change["change"].as_str().unwrap();
                        said.insert((source, destination, port), kind);
                    }
                }
            }
        }
    }
    let pods: Vec<String> = old.pods.keys().map(ToString::to_string).collect();
    let mut changed = 0;
    for source in &pods {
        for destination in pods.iter().filter(|destination| *destination != source) {
            for (protocol, port) in PORTS {
                let flow = flow(source, destination, protocol, port);
                let verdicts = [&old, &new].map(|world| reference::evaluate(world, &flow).verdict);
                let expected = match verdicts {
                    [Verdict::Deny, Verdict::Allow] => Some("newly-allowed"),
                    [Verdict::Allow, Verdict::Deny] => Some("newly-denied"),
                    _ => None,
                };
                changed += usize::from(expected.is_some());
                let found = said.get(&(source.as_str(), destination.as_str(), port));
                assert_eq!(found.copied(), expected, "{flow:?}");
            }
        }
    }
    assert!(changed > 100, "{changed}");
}

const PORTS: [(Protocol, u16); 4] = [
    (Protocol::Tcp, 8001),
    (Protocol::Tcp, 8002),
    (Protocol::Tcp, 8003),
    (Protocol::Udp, 53),
];

fn is_named(ports: &Value, protocol: Protocol, port: u16) -> bool {
    if ports == "all" {
        return true;
    }
    let protocol = protocol.to_string().to_uppercase();
    let of_protocol = ports.as_array().unwrap().iter();
    of_protocol
        .filter(|it| it["protocol"] == protocol.as_str())
        .flat_map(|it| it["ports"].as_array().unwrap())
        .any(|range| {
            let bound = |at: usize| range[at].as_u64().unwrap();
            (bound(0)..=bound(1)).contains(&u64::from(port))
        })
}

#[test]
fn a_comment_on_a_pull_request_is_never_too_long() {
    let folder = tempfile::tempdir().unwrap();
    let objects = generated("300", "300");
    let policies = objects.iter().filter(|it| it.contains("NetworkPolicy"));
    assert_eq!(policies.count(), 300);
    let without: Vec<String> = objects
        .iter()
        .filter(|object| !object.contains("NetworkPolicy"))
        .cloned()
        .collect();
    let (old, _) = write(folder.path(), "old.yaml", &objects);
    let (new, _) = write(folder.path(), "new.yaml", &without);
    let comment = diff(&old, &new, &["-o", "md"]);
    assert_eq!(comment.code, 0, "{}", comment.err);
    assert!(comment.out.len() < 65_536, "{}", comment.out.len());
    let rows = |run: &Run| {
        let rows = run.out.lines().filter(|line| line.starts_with("| newly"));
        rows.count()
    };
    let total = diff(&old, &new, &["-o", "json"]);
    let total = total.json()["changes"].as_array().unwrap().len();
    let left = total - rows(&comment);
    assert!(left > 0);
    let rest = format!("... and {left} more: {left} newly allowed, 0 newly denied, 0 unknown");
    assert!(comment.out.contains(&rest), "{}", comment.out);
}

/// A verdict of one family only used to hide behind the other's.
#[test]
fn a_change_of_one_family_is_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let world = |cidrs: &str| {
        cluster(&network_policy(
            "in",
            &format!(
                "{{podSelector: {{matchLabels: {{app: a}}}}, ingress: [{{from: [{cidrs}]}}]}}"
            ),
        ))
        .replace("\"}]}\n", "\"}, {ip: \"fd00::1\"}]}\n")
        .replacen("fd00::1", "fd00::2", 1)
    };
    let four = "{ipBlock: {cidr: 0.0.0.0/0}}";
    let (old, _) = write(folder.path(), "old.yaml", &[world(four)]);
    let both = format!("{four}, {{ipBlock: {{cidr: \"::/0\"}}}}");
    let (new, _) = write(folder.path(), "new.yaml", &[world(&both)]);
    let answer = diff(&old, &new, &["-o", "json", "--exit-code"]);
    assert_eq!(answer.code, 1, "{}{}", answer.out, answer.err);
    let json = answer.json();
    let changes = json["changes"].as_array().unwrap();
    assert!(
        changes
            .iter()
            .any(|it| it["family"] == 6 && names(&it["src"]).contains(&"t/b")),
        "{}",
        answer.out
    );
    assert!(changes.iter().all(|it| it["change"] == "newly-allowed"));
}

/// What nobody can read is as unknown after as before.
#[test]
fn what_stays_unknown_is_no_change() {
    let folder = tempfile::tempdir().unwrap();
    let unreadable = "{podSelector: {matchLabels: {app: a}}, ingress: [{from: [{frob: {}}]}]}";
    let world = cluster(&network_policy("odd", unreadable));
    for name in ["old.yaml", "new.yaml"] {
        fs::write(folder.path().join(name), &world).unwrap();
    }
    let path = |name: &str| folder.path().join(name).display().to_string();
    let answer = diff(&path("old.yaml"), &path("new.yaml"), &["-o", "json"]);
    assert_eq!(answer.code, 3, "{}{}", answer.out, answer.err);
    assert_eq!(answer.json()["changes"].as_array().unwrap().len(), 0);
}
