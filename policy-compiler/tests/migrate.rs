// SPDX-License-Identifier: Apache-2.0
//! Do ClusterNetworkPolicies that were AdminNetworkPolicies decide as those did, in every world?
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

mod suite;

use policy_compiler::{
    Snapshot,
    difference::{self, Difference},
    manifest::{self, Loaded},
    migrate::{Migration, ORIGIN, migrate},
    model::{
        Action, AdminKind, AdminPeer, AdminPolicy, AdminPort, AdminRule, Direction, Operator,
        Protocol, Selector, Subject,
    },
    parse::Settings as ParseSettings,
    partial::{Assumptions, Evaluator},
    reference,
    strategies::{Settings, world},
    symbolic::Symbols,
};
use proptest::{prop_assert, prop_assert_eq, strategy::Strategy};
use serde_json::{Value, json};
use suite::{EVERYTHING, check};

/// The policies as text; those whose subject nobody could write are left out.
fn written(policies: &Snapshot) -> Vec<Value> {
    let policies = policies.admin_policies.values();
    let readable = policies.filter(|policy| policy.subject != Subject::Nothing);
    readable.map(|policy| object(policy)).collect()
}

#[test]
fn migration_changes_no_verdict() {
    let own = ["migrated", "renumbered", "kept", "inverted"];
    let required: Vec<&str> = EVERYTHING.into_iter().chain(own).collect();
    let settings = Settings {
        admin_policies: 3,
        rules: 3,
        ..Settings::default()
    };
    check(
        "migration",
        10_000,
        world(settings, 48).boxed(),
        &required,
        |(mut snapshot, flows), met| {
            let documents = written(&snapshot);
            let documents: Vec<String> =
                documents.iter().map(|it| format!("---\n{it}\n")).collect();
            let text = documents.concat();
            let loaded = manifest::load([("all.yaml", text.as_str())], &ParseSettings::default());
            snapshot
                .admin_policies
                .clone_from(&loaded.snapshot.admin_policies);
            let migration = migrate(
                &loaded.cluster_policies,
                &snapshot,
                &ParseSettings::default(),
            );
            let left = migration
                .snapshot
                .admin_policies
                .keys()
                .filter(|(kind, _)| *kind != AdminKind::Cluster);
            prop_assert_eq!(left.count(), migration.kept.len());
            for (what, happened) in [
                ("migrated", !migration.replaced.is_empty()),
                ("renumbered", !migration.renumbered.is_empty()),
                ("kept", !migration.kept.is_empty()),
                (
                    "inverted",
                    migration
                        .diagnostics
                        .iter()
                        .any(|it| it.id == "migrate-inverted-range"),
                ),
            ] {
                if happened {
                    met.met(what);
                }
            }
            for flow in &flows {
                let expected = reference::evaluate(&snapshot, flow);
                met.trace(&expected);
                let found = reference::evaluate(&migration.snapshot, flow);
                prop_assert!(
                    expected.verdict == found.verdict
                        && expected.egress.verdict == found.egress.verdict
                        && expected.ingress.verdict == found.ingress.verdict,
                    "{:?}: {:?} became {:?}",
                    flow,
                    expected,
                    found
                );
            }
            Ok(())
        },
    );
}

/// The object as somebody would write it.
fn object(policy: &AdminPolicy) -> Value {
    let v1alpha2 = policy.kind == AdminKind::Cluster;
    let Subject::Pods { namespaces, pods } = &policy.subject else {
        unreachable!("no broken subject is generated")
    };
    let rules = |direction: Direction| -> Vec<Value> {
        let rules = policy.rules(direction).iter();
        rules.map(|it| rule(it, direction, v1alpha2)).collect()
    };
    let mut spec = json!({
        "subject": {"pods": {"namespaceSelector": selector(namespaces), "podSelector": selector(pods)}},
        "ingress": rules(Direction::Ingress),
        "egress": rules(Direction::Egress),
    });
    if policy.kind != AdminKind::Baseline {
        spec["priority"] = json!(policy.priority.0);
    }
    if v1alpha2 {
        spec["tier"] = json!(policy.tier.to_string());
    }
    let version = if v1alpha2 { "v1alpha2" } else { "v1alpha1" };
    json!({
        "apiVersion": format!("policy.networking.k8s.io/{version}"),
        "kind": policy.policy_ref().kind.to_string(),
        "metadata": {"name": policy.name},
        "spec": spec,
    })
}

fn rule(rule: &AdminRule, direction: Direction, v1alpha2: bool) -> Value {
    let action = match rule.action {
        Action::Allow if v1alpha2 => "Accept",
        Action::Allow => "Allow",
        Action::Deny => "Deny",
        Action::Pass => "Pass",
    };
    let peer = |peer: &AdminPeer| match peer {
        AdminPeer::Pods { namespaces, pods } => {
            json!({"pods": {"namespaceSelector": selector(namespaces), "podSelector": selector(pods)}})
        }
        AdminPeer::Networks(networks) => json!({"networks": networks}),
        AdminPeer::Nodes(nodes) => json!({"nodes": selector(nodes)}),
        AdminPeer::DomainNames(names) => json!({"domainNames": names}),
    };
    let mut peers: Vec<Value> = rule.peers.iter().map(peer).collect();
    if rule.closed.is_some() {
        peers.push(json!({"martians": {}}));
    }
    let list = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let mut written = json!({"action": action, list: peers});
    if let Some(name) = &rule.name {
        written["name"] = json!(name);
    }
    if let Some(ports) = &rule.ports {
        let key = if v1alpha2 { "protocols" } else { "ports" };
        written[key] = ports.iter().map(|it| port(it, v1alpha2)).collect();
    }
    written
}

fn port(port: &AdminPort, v1alpha2: bool) -> Value {
    match port {
        AdminPort::Named(name) if v1alpha2 => json!({"destinationNamedPort": name}),
        AdminPort::Named(name) => json!({"namedPort": name}),
        AdminPort::Range(protocol, range) => {
            let (start, end) = (*range.start(), *range.end());
            let name = protocol.to_string();
            if v1alpha2 {
                let port = if start == end {
                    json!({"number": start})
                } else {
                    json!({"range": {"start": start, "end": end}})
                };
                json!({name.to_lowercase(): {"destinationPort": port}})
            } else if start == end && *protocol == Protocol::Tcp {
                json!({"portNumber": {"port": start, "protocol": name}})
            } else {
                json!({"portRange": {"start": start, "end": end, "protocol": name}})
            }
        }
    }
}

fn selector(selector: &Selector) -> Value {
    let term = |it: &policy_compiler::model::Requirement| match it.operator {
        Operator::In | Operator::NotIn => {
            json!({"key": it.key, "operator": format!("{:?}", it.operator), "values": it.values})
        }
        Operator::Exists | Operator::DoesNotExist => {
            json!({"key": it.key, "operator": format!("{:?}", it.operator)})
        }
    };
    let terms: Vec<Value> = selector.requirements().iter().map(term).collect();
    json!({"matchExpressions": terms})
}

fn migrated(text: &str) -> (Loaded, Migration) {
    let loaded = manifest::load([("a.yaml", text)], &ParseSettings::default());
    let migration = migrate(
        &loaded.cluster_policies,
        &loaded.snapshot,
        &ParseSettings::default(),
    );
    (loaded, migration)
}

/// Exactly compared, pods and namespaces to come included.
fn compared(before: &Snapshot, after: &Snapshot) -> Difference {
    let symbols = Symbols::of(&[before, after], &[], 2000).expect("few kinds of pods");
    let (before, after) = (symbols.join(before), symbols.join(after));
    let of = |snapshot| Evaluator::new(snapshot, Assumptions::default(), Vec::new());
    difference::between(&of(&before), &of(&after), &symbols)
}

fn anp(name: &str, priority: i32, rules: usize, extra: &str) -> String {
    let rules: Vec<String> = (0..rules)
        .map(|port| {
            format!(
                "  - {{name: r{port}, action: {}, from: [{{namespaces: {{}}}}], ports: [{{portNumber: {{protocol: TCP, port: {}}}}}]}}\n",
                ["Allow", "Deny", "Pass"][port % 3],
                port + 1
            )
        })
        .collect();
    let rules = rules.concat();
    format!(
        "---\napiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {{name: {name}}}\nspec:\n  priority: {priority}\n  subject: {{namespaces: {{}}}}\n  ingress:\n{rules}{extra}"
    )
}

#[test]
fn what_does_not_fit_is_split_and_stays_the_same() {
    let peers: Vec<String> = (0..30)
        .map(|n| format!("{{namespaces: {{matchLabels: {{n: n{n}}}}}}}"))
        .collect();
    let wide = format!(
        "  - {{name: wide, action: Deny, from: [{}]}}\n",
        peers.join(", ")
    );
    let text = anp("long", 1000, 60, &wide) + &anp("next", 1000, 1, "");
    let (loaded, migration) = migrated(&text);
    let numbers: Vec<(String, i32, usize)> = migration
        .snapshot
        .admin_policies
        .values()
        .map(|it| (it.name.to_string(), it.priority.0, it.ingress.len()))
        .collect();
    assert_eq!(
        numbers,
        [
            ("long".to_owned(), 998, 25),
            ("long-2".to_owned(), 999, 25),
            ("long-3".to_owned(), 1000, 12),
            ("next".to_owned(), 1000, 1),
        ]
    );
    assert!(migration.documents.iter().all(|it| {
        policy_compiler::parse::cluster_network_policy(
            &it.value(),
            &it.locator(),
            &ParseSettings::default(),
        )
        .diagnostics
        .is_empty()
    }));
    assert_eq!(compared(&loaded.snapshot, &migration.snapshot).changes, []);
}

#[test]
fn an_admin_policy_called_default_and_the_baseline_do_not_clash() {
    let text = anp("default", 3, 1, "")
        + "---\napiVersion: policy.networking.k8s.io/v1alpha1\nkind: BaselineAdminNetworkPolicy\nmetadata: {name: default}\nspec:\n  subject: {namespaces: {}}\n  ingress: [{action: Deny, from: [{namespaces: {}}]}]\n";
    let (loaded, migration) = migrated(&text);
    let names: Vec<Value> = migration
        .documents
        .iter()
        .map(|it| it.value()["metadata"].clone())
        .collect();
    assert_eq!(
        names,
        [
            json!({"name": "default"}),
            json!({
                "name": "default-baseline",
                "annotations": {ORIGIN: "BaselineAdminNetworkPolicy/default"},
            }),
        ]
    );
    assert_eq!(
        migration.documents[1].value()["spec"]["priority"],
        json!(1000)
    );
    assert_eq!(compared(&loaded.snapshot, &migration.snapshot).changes, []);
}

#[test]
fn what_has_no_counterpart_is_reported_and_stays() {
    let text = anp(
        "legacy",
        3,
        0,
        "  - {action: Deny, from: [{namespaces: {sameLabels: [team]}}]}\n",
    ) + &anp("fine", 4, 1, "");
    let (loaded, migration) = migrated(&text);
    let kept: Vec<String> = migration.kept.iter().map(ToString::to_string).collect();
    assert_eq!(kept, ["AdminNetworkPolicy legacy"]);
    let problems: Vec<String> = migration
        .diagnostics
        .iter()
        .map(|it| {
            format!(
                "{} {}",
                it.path,
                it.at.as_ref().expect("it is written somewhere")
            )
        })
        .collect();
    assert_eq!(problems, ["spec.ingress[0].from[0].namespaces a.yaml:9:28"]);
    assert_eq!(compared(&loaded.snapshot, &migration.snapshot).changes, []);
}
