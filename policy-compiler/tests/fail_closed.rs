// SPDX-License-Identifier: Apache-2.0
//! What is left of a policy that an API server would refuse or that holds something unknown?
//!
//! Every case names the rules of docs/semantics.md it proves.
#![expect(clippy::expect_used, reason = "tests")]

use policy_compiler::{
    compile::{PortSetId, Scope, compile},
    manifest::{self, Locator},
    model::{
        Action, AdminPeer, AdminPolicy, AdminPort, AdminRule, NetworkPeer, NetworkPolicy,
        NetworkPort, Priority, Protocol, Selection, Subject, Tier,
    },
    parse::{self, Settings},
};
use serde_json::{Value, json};

fn network_policy(spec: &str) -> NetworkPolicy {
    let object = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": yaml(spec)});
    let parsed = parse::network_policy(&object, &Locator::none(), &Settings::default());
    parsed
        .object
        .expect("a NetworkPolicy always means something")
}

fn admin(kind: &str, name: &str, spec: &str) -> Option<AdminPolicy> {
    let object = json!({"metadata": {"name": name}, "spec": yaml(spec)});
    let read = match kind {
        "ANP" => parse::admin_network_policy,
        "BANP" => parse::baseline_admin_network_policy,
        _ => parse::cluster_network_policy,
    };
    read(&object, &Locator::none(), &Settings::default()).object
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).expect("the test's YAML is valid")
}

/// The peers of an ingress rule written as `peers`.
fn peers(peers: &str) -> Vec<NetworkPeer> {
    let policy = network_policy(&format!("{{ingress: [{{from: {peers}}}]}}"));
    let rules = policy.ingress.expect("isolates for ingress");
    rules[0].peers.clone().expect("some peers")
}

fn ports(ports: &str) -> Vec<NetworkPort> {
    let policy = network_policy(&format!("{{ingress: [{{ports: {ports}}}]}}"));
    let rules = policy.ingress.expect("isolates for ingress");
    rules[0].ports.clone().expect("some ports")
}

#[test]
fn broken_peers_match_nothing() {
    // A27, A60, A61, A67, A70, A84
    for broken in [
        "{}",
        "null",
        "7",
        "{podSelector: null}",
        "{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}",
        "{podSelector: {matchlabels: {a: b}}}",
        "{podSelector: {}, namespaceselector: {}}",
        "{podSelector: {matchExpressions: [{key: a, operator: In}]}}",
        "{podSelector: {matchExpressions: [{key: a, operator: Gt, values: [b]}]}}",
        "{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}",
        "{podSelector: {matchExpressions: {}}}",
        "{podSelector: {matchExpressions: [{operator: Exists}]}}",
        "{namespaceSelector: {matchLabels: {a: -b}}}",
        "{namespaceSelector: {matchLabels: {a: 1}}}",
        "{namespaceSelector: {matchLabels: []}}",
        "{podSelector: {}, namespaceSelector: {matchLabels: {a: true}}}",
        "{ipBlock: {}}",
        "{ipBlock: {cidr: 10.0.0.1}}",
        "{ipBlock: {cidr: 10.0.0.0/8, excpet: []}}",
        "{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}",
        "{ipBlock: {cidr: 10.0.0.0/8, except: 10.1.0.0/16}}",
    ] {
        assert_eq!(
            peers(&format!("[{broken}]")),
            [NetworkPeer::Nothing],
            "{broken}"
        );
    }
    // Only the broken one: peers are alternatives.
    assert_eq!(peers("[{podSelector: {}}, {}]").len(), 2);
    assert_eq!(peers("{podSelector: {}}"), []);
}

#[test]
fn broken_ports_match_nothing() {
    // A45, A62, A63, A64, A65, A70
    for broken in [
        "7",
        "{port: 0}",
        "{port: 65536}",
        "{port: \"80\"}",
        "{port: Web}",
        "{port: true}",
        "{port: 80.5}",
        "{protocol: tcp}",
        "{protocol: ICMP, port: 80}",
        "{port: 80, endPort: 79}",
        "{port: web, endPort: 90}",
        "{endPort: 90}",
        "{port: 80, endport: 90}",
    ] {
        assert_eq!(
            ports(&format!("[{broken}]")),
            [NetworkPort::Nothing],
            "{broken}"
        );
    }
    assert_eq!(ports("7"), []);
}

#[test]
fn unknown_fields_do_not_open_rules() {
    // A70
    let policy = network_policy("{ingress: [{form: [{podSelector: {}}]}], egress: [7]}");
    for rules in [policy.ingress, policy.egress] {
        let rules = rules.expect("isolates");
        assert_eq!(rules[0].peers.as_deref(), Some(&[NetworkPeer::Nothing][..]));
    }
    let policy = network_policy("{podSelector: {matchlabels: {a: b}}}");
    assert_eq!(policy.pod_selector, Selection::Matching(<_>::default()));
    // A84
    let policy = network_policy("{podSelector: {matchExpressions: [{key: a, operator: In}]}}");
    assert_eq!(policy.pod_selector, Selection::Nothing);
    assert_eq!(network_policy("7").pod_selector, Selection::Nothing);
}

#[test]
fn types_are_defaulted() {
    // A1, A2, A10, A66
    let directions = |spec: &str| {
        let policy = network_policy(spec);
        (policy.ingress.is_some(), policy.egress.is_some())
    };
    assert_eq!(directions("null"), (true, false));
    assert_eq!(directions("{egress: []}"), (true, false));
    assert_eq!(directions("{egress: [{}]}"), (true, true));
    assert_eq!(directions("{policyTypes: [], egress: [{}]}"), (true, true));
    assert_eq!(directions("{policyTypes: [Egress]}"), (false, true));
    assert_eq!(directions("{policyTypes: [egress]}"), (false, true));
    assert_eq!(directions("{policyTypes: Egress}"), (true, false));
}

/// The only rule of an egress list.
#[track_caller]
fn egress(kind: &str, rule: &str) -> AdminRule {
    let head = "priority: 1, tier: Admin, subject: {namespaces: {}}";
    let policy = admin(kind, "default", &format!("{{{head}, egress: [{rule}]}}"));
    policy.expect("a policy that can be placed").egress[0].clone()
}

#[test]
fn what_cannot_be_interpreted_closes_the_rule() {
    // B34, B36, B41, B61, B63, A84
    for broken in [
        "{action: Deny, to: [{}]}",
        "{action: Deny, to: [{services: {}}]}",
        "{action: Deny, to: [{namespaces: {}}, {services: {}}]}",
        "{action: Deny, to: [{namespaces: {}, services: {}}]}",
        "{action: Deny, to: [{namespaces: {}, nodes: {}}]}",
        "{action: Deny, to: [{namespaces: {namespaceSelector: {}}}]}",
        "{action: Deny, to: [{namespaces: {sameLabels: [a]}}]}",
        "{action: Deny, to: [{namespaces: {matchlabels: {}}}]}",
        "{action: Deny, to: [{namespaces: {matchExpressions: [{key: a, operator: notIn, values: [b]}]}}]}",
        "{action: Deny, to: [{namespaces: {matchLabels: {a: -b}}}]}",
        "{action: Deny, to: [{pods: {namespaceSelector: {}}}]}",
        "{action: Deny, to: [{pods: {podSelector: {}}}]}",
        "{action: Deny, to: [{networks: []}]}",
        "{action: Deny, to: [{networks: [internet]}]}",
        "{action: Deny, to: [{networks: [\"::ffff:10.0.0.0/104\"]}]}",
        "{action: Deny, to: [{domainNames: [a.example]}]}",
        "{action: Allow, to: [{domainNames: [localhost]}]}",
        "{action: Deny, to: []}",
        "{action: Deny}",
        "{action: Deny, to: [{namespaces: {}}], ports: []}",
        "{action: Deny, to: [{namespaces: {}}], protocols: []}",
        "{action: Deny, to: [{namespaces: {}}], ports: [{}]}",
        "{action: Deny, to: [{namespaces: {}}], ports: [{portNumber: {port: 1}, namedPort: a}]}",
        "{action: Deny, to: [{namespaces: {}}], ports: [{portNumber: {port: 1, protocol: ICMP}}]}",
        "{action: Deny, to: [{namespaces: {}}], ports: [{portNumber: {port: 1, protocol: tcp}}]}",
        "{action: Deny, to: [{namespaces: {}}], ports: [{portNumber: {port: 0}}]}",
        "{action: Deny, to: [{namespaces: {}}], ports: [{portNumber: {port: 1, name: a}}]}",
        "{action: Deny, to: [{namespaces: {}}], ports: [{portRange: {start: 1}}]}",
        "{action: Deny, to: [{namespaces: {}}], ports: [{namedPort: \"\"}]}",
        "{action: Deny, to: [{namespaces: {}}], ports: [{icmp: {}}]}",
        "{action: Deny, to: [{namespaces: {}}], until: tomorrow}",
        "7",
    ] {
        assert!(egress("ANP", broken).closed.is_some(), "{broken}");
    }
    // C9, C10
    for broken in [
        "tcp: {}",
        "destinationNamedPort: \"\"",
        "tcp: {destinationPort: {}}",
        "icmp: {}",
    ] {
        let rule =
            format!("{{action: Deny, to: [{{namespaces: {{}}}}], protocols: [{{{broken}}}]}}");
        assert!(egress("CNP", &rule).closed.is_some(), "{broken}");
    }
    let closed = egress(
        "ANP",
        "{action: Deny, to: [{namespaces: {}}, {services: {}}]}",
    );
    let why = closed.closed.expect("closed");
    assert_eq!(
        (&*why.path, &*why.why),
        ("to[1]", "unknown field in a peer")
    );
}

#[test]
fn unknown_actions_deny() {
    // C13, B20
    for (kind, action) in [
        ("ANP", "Drop"),
        ("CNP", "Block"),
        ("BANP", "Pass"),
        ("ANP", "deny"),
    ] {
        let rule = egress(
            kind,
            &format!("{{action: {action}, to: [{{namespaces: {{}}}}]}}"),
        );
        assert_eq!(rule.action, Action::Deny, "{kind} {action}");
        assert!(rule.closed.is_some(), "{kind} {action}");
    }
    let pass = egress("CNP", "{action: Pass, to: [{namespaces: {}}]}");
    assert_eq!((pass.action, pass.closed), (Action::Pass, None));
}

#[test]
fn old_and_odd_forms_keep_their_meaning() {
    // B33
    let rule = egress(
        "ANP",
        "{action: Deny, to: [{networks: [10.0.0.5, 10.1.2.3/8]}]}",
    );
    let networks = ["10.0.0.5/32", "10.0.0.0/8"].map(|net| net.parse().expect("a CIDR"));
    assert_eq!(rule.peers, [AdminPeer::Networks(networks.to_vec())]);
    assert_eq!(rule.closed, None);
    // B41, B42, B43, B44
    let rule = egress(
        "ANP",
        "{action: Deny, to: [{nodes: {}}], ports: [{portNumber: {port: 53}}, {portRange: {start: 9, end: 3}}, {namedPort: web}]}",
    );
    assert_eq!(rule.closed, None);
    #[expect(clippy::reversed_empty_ranges, reason = "what is written")]
    let ports = vec![
        AdminPort::Range(Protocol::Tcp, 53..=53),
        AdminPort::Range(Protocol::Tcp, 9..=3),
        AdminPort::Named("web".into()),
    ];
    assert_eq!(rule.ports, Some(ports));
}

#[test]
fn policies_that_cannot_be_placed_mean_nothing() {
    // B4, C13
    let subject = "subject: {namespaces: {}}";
    assert!(
        admin(
            "CNP",
            "c",
            &format!("{{tier: admin, priority: 1, {subject}}}")
        )
        .is_none()
    );
    assert!(admin("CNP", "c", &format!("{{tier: Admin, {subject}}}")).is_none());
    assert!(admin("ANP", "a", &format!("{{{subject}}}")).is_none());
    assert!(admin("BANP", "other", &format!("{{{subject}}}")).is_none());
    let baseline = admin("BANP", "default", &format!("{{{subject}}}")).expect("placed");
    // D2
    assert_eq!(
        (baseline.tier, baseline.priority),
        (Tier::Baseline, AdminPolicy::BASELINE_PRIORITY)
    );
    let late = admin("ANP", "a", &format!("{{priority: 1001, {subject}}}")).expect("placed");
    assert_eq!(late.priority, Priority(1001));
    let huge = admin(
        "CNP",
        "c",
        &format!("{{tier: Baseline, priority: 99999999999, {subject}}}"),
    );
    assert!(huge.expect("placed").priority < AdminPolicy::BASELINE_PRIORITY);
}

#[test]
fn broken_subjects_select_nothing() {
    // A84, B10
    for broken in [
        "null",
        "{}",
        "{namespaces: {}, pods: {namespaceSelector: {}, podSelector: {}}}",
        "{pods: {podSelector: {}}}",
        "{namespaces: {matchlabels: {}}}",
        "{namespaces: {matchExpressions: [{key: a, operator: In}]}}",
        "{namespaces: {}, nodes: {}}",
        "7",
    ] {
        let policy = admin("ANP", "a", &format!("{{priority: 1, subject: {broken}}}"));
        assert_eq!(
            policy.expect("placed").subject,
            Subject::Nothing,
            "{broken}"
        );
    }
    // C6
    let policy = admin(
        "CNP",
        "c",
        "{tier: Admin, priority: 1, subject: {pods: {podSelector: {}}}}",
    );
    let subject = policy.expect("placed").subject;
    assert!(matches!(subject, Subject::Pods { namespaces, .. } if namespaces.is_everything()));
}

/// What a Service leads to may itself be something that is translated: nobody knows what comes of it
/// before that, whichever endpoint comes first.
#[test]
fn a_service_behind_a_service_is_judged_behind_translation() {
    let world = |endpoints: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a, namespace: x}}\n\
             spec: {{nodeName: n1}}\nstatus: {{podIP: 10.0.0.1}}\n---\n\
             apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: a, namespace: x}}\n\
             spec: {{podSelector: {{}}, policyTypes: [Egress], egress: [{{to: [{{ipBlock: {{cidr: 10.0.0.0/16}}}}]}}]}}\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {{name: s, namespace: x}}\n\
             spec: {{clusterIP: 10.96.0.7, ports: [{{port: 80}}]}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
             metadata: {{name: s-1, namespace: x, labels: {{kubernetes.io/service-name: s}}}}\n\
             ports: [{{port: 80, protocol: TCP}}]\nendpoints: [{endpoints}]\n"
        )
    };
    let class = |endpoints: &str| {
        let text = world(endpoints);
        let loaded = manifest::load([("world.yaml", text.as_str())], &Settings::default());
        let mut snapshot = loaded.snapshot;
        snapshot.options.service_cidrs = vec!["10.96.0.0/16".parse().expect("a CIDR")];
        let tables = compile(&snapshot, &Scope::Node("n1".into()));
        let row = tables.pods.values().find_map(|pod| pod.egress);
        let service = tables.services.values().next();
        tables.port_set(row.expect("a row"), *service.expect("a Service"))
    };
    let (pod, other) = ("{addresses: ['10.0.0.9']}", "{addresses: ['10.96.0.9']}");
    assert_ne!(class(pod), PortSetId::DEFER);
    assert_eq!(class(&format!("{pod}, {other}")), PortSetId::DEFER);
    assert_eq!(class(&format!("{other}, {pod}")), PortSetId::DEFER);
}
