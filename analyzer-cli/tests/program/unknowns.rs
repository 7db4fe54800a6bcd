// SPDX-License-Identifier: Apache-2.0
//! What the input does not tell is never taken for known. Each test is named after what is not.

use serde_json::Value;

use super::{Run, analyze, cluster, network_policy};

/// What `why` says of a flow.
fn why(arguments: &[&str], manifests: &str) -> Run {
    let mut all = vec!["why", "-o", "json"];
    all.extend(arguments);
    analyze(&all, manifests)
}

/// Asks about a flow that depends on a fact, with and without the fact in question.
#[track_caller]
fn unknown(ends: &[&str], manifests: &str, missing: &str) {
    let answer = why(ends, manifests);
    let json = answer.json();
    assert_eq!(json["verdict"], "unknown", "{}", answer.out);
    let facts: Vec<&str> = json["unknown"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|part| part["missing"].as_array())
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(facts, [missing], "{}", answer.out);
    assert_eq!(answer.code, 3, "{}", answer.err);
}

#[track_caller]
fn definite(ends: &[&str], manifests: &str, verdict: &str) {
    let answer = why(ends, manifests);
    let json = answer.json();
    assert_eq!(json["verdict"], verdict, "{}{}", answer.out, answer.err);
}

fn odd_pod(metadata: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: odd, namespace: t, {metadata}}}\n\
         spec: {{nodeName: n1, {spec}}}\nstatus: {{phase: Running, podIPs: [{{ip: 10.0.0.9}}]}}\n"
    )
}

const PLAIN: &str = "containers: [{name: c}]";

#[test]
fn labels_of_a_refused_pod() {
    let odd = odd_pod("labels: {app: 1, tier: db}", PLAIN);
    let isolates = |selector: &str| network_policy("p", &format!("{{podSelector: {selector}}}"));
    let label = "the value of label `app` of t/odd";
    let input = cluster(&(odd.clone() + &isolates("{matchLabels: {app: \"1\"}}")));
    unknown(&["t/a", "t/odd"], &input, label);
    definite(&["--allow-incomplete", "t/a", "t/odd"], &input, "allowed");
    let input = cluster(&(odd.clone() + &isolates("{matchLabels: {tier: db}}")));
    definite(&["t/a", "t/odd"], &input, "denied");
    let input = cluster(&(odd.clone() + &isolates("{matchLabels: {tier: web}}")));
    definite(&["t/a", "t/odd"], &input, "allowed");
    let input = cluster(&(odd + &isolates("{matchExpressions: [{key: app, operator: Exists}]}")));
    definite(&["t/a", "t/odd"], &input, "denied");
    // A misspelt field leaves every label open.
    let odd = odd_pod("lables: {app: web}", PLAIN);
    let input = cluster(&(odd + &isolates("{matchLabels: {tier: db}}")));
    unknown(&["t/a", "t/odd"], &input, "the labels of t/odd");
}

#[test]
fn labels_of_a_refused_peer() {
    let odd = odd_pod("labels: {app: 1}", PLAIN);
    let policy = network_policy(
        "p",
        "{podSelector: {matchLabels: {app: b}}, ingress: [{from: [{podSelector: {matchLabels: {app: \"1\"}}}]}]}",
    );
    let input = cluster(&(odd + &policy));
    unknown(
        &["t/odd", "t/b"],
        &input,
        "the value of label `app` of t/odd",
    );
    definite(&["t/a", "t/b"], &input, "denied");
    let matrix = analyze(&["matrix", "-o", "json"], &input);
    assert_eq!(matrix.code, 3, "{}", matrix.out);
}

#[test]
fn ports_of_a_refused_pod() {
    let odd = odd_pod(
        "labels: {app: odd}",
        "containers: [{name: c, ports: [{name: web, containerPort: \"80\"}]}]",
    );
    let policy = network_policy(
        "p",
        "{podSelector: {matchLabels: {app: odd}}, ingress: [{ports: [{port: web}, {port: 9090}]}]}",
    );
    let input = cluster(&(odd + &policy));
    let ends = |port| ["t/a", "t/odd", "--port", port];
    unknown(&ends("80"), &input, "the container ports of t/odd");
    definite(&ends("9090"), &input, "allowed");
    definite(&ends("udp/80"), &input, "denied");
    let lint = analyze(&["lint", "-o", "json"], &input);
    assert!(!lint.out.contains("NPA042"), "{}", lint.out);
}

#[test]
fn the_network_of_a_pod_with_a_misspelt_field() {
    let odd = odd_pod("labels: {app: odd}", &format!("hostnetwork: true, {PLAIN}"));
    let policy = network_policy("p", "{podSelector: {matchLabels: {app: odd}}}");
    let input = cluster(&(odd + &policy));
    let missing = "whether t/odd is on the host network or has finished";
    unknown(&["t/a", "t/odd"], &input, missing);
    definite(&["t/a", "t/b"], &input, "allowed");
}

#[test]
fn labels_of_a_refused_namespace() {
    let team = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: u, labels: {team: 5}}\n\
                ---\napiVersion: v1\nkind: Pod\nmetadata: {name: c, namespace: u}\n\
                spec: {nodeName: n1, containers: [{name: c}]}\nstatus: {podIP: 10.0.0.3}\n";
    let admits = |selector: &str| {
        let spec = format!(
            "{{podSelector: {{}}, ingress: [{{from: [{{namespaceSelector: {selector}}}]}}]}}"
        );
        cluster(&(team.to_owned() + &network_policy("p", &spec)))
    };
    let input = admits("{matchLabels: {team: \"5\"}}");
    unknown(&["u/c", "t/b"], &input, "the labels of namespace u");
    let input = admits("{matchLabels: {kubernetes.io/metadata.name: u}}");
    definite(&["u/c", "t/b"], &input, "allowed");
    let input = admits("{matchLabels: {kubernetes.io/metadata.name: v}}");
    definite(&["u/c", "t/b"], &input, "denied");
}

#[test]
fn labels_of_a_refused_template() {
    let deployment = "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d, namespace: t}\n\
                      spec: {selector: {matchLabels: {app: d}}, template: {metadata: {labels: {app: d, \
                      version: 1}}, spec: {containers: [{name: c}]}}}\n";
    let policy = network_policy("p", "{podSelector: {matchLabels: {version: \"1\"}}}");
    let input = cluster(&(deployment.to_owned() + &policy));
    let missing = "the value of label `version` of t/deployment/d";
    unknown(&["t/a", "t/deploy/d"], &input, missing);
}

/// A workload, the label of its pods whose value only its controller knows, and how it is called.
const GENERATED: [(&str, &str, &str); 5] = [
    (
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: w, namespace: t}\n\
         spec: {template: {metadata: {labels: {app: w}}, spec: {containers: [{name: c}]}}}",
        "pod-template-hash",
        "t/deployment/w",
    ),
    (
        "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: w, namespace: t}\n\
         spec: {template: {metadata: {labels: {app: w}}, spec: {containers: [{name: c}]}}}",
        "controller-revision-hash",
        "t/daemonset/w",
    ),
    (
        "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: w, namespace: t}\n\
         spec: {template: {metadata: {labels: {app: w}}, spec: {containers: [{name: c}]}}}",
        "controller-revision-hash",
        "t/w-0",
    ),
    (
        "apiVersion: batch/v1\nkind: Job\nmetadata: {name: w, namespace: t}\n\
         spec: {template: {metadata: {labels: {app: w}}, spec: {containers: [{name: c}]}}}",
        "batch.kubernetes.io/controller-uid",
        "t/job/w",
    ),
    (
        "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: w, namespace: t}\n\
         spec: {jobTemplate: {spec: {template: {metadata: {labels: {app: w}}, spec: {containers: [{name: c}]}}}}}",
        "batch.kubernetes.io/job-name",
        "t/cronjob/w",
    ),
];

#[test]
fn the_values_of_labels_that_controllers_make_up() {
    for (workload, key, end) in GENERATED {
        let admits = |operator: &str| {
            let spec = format!(
                "{{podSelector: {{matchLabels: {{app: b}}}}, ingress: [{{from: [{{podSelector: \
                 {{matchExpressions: [{{key: {key}, {operator}}}]}}}}]}}]}}"
            );
            cluster(&format!("{workload}\n{}", network_policy("p", &spec)))
        };
        let missing = format!("the value of label `{key}` of {end}");
        for operator in [
            "operator: In, values: [x]",
            "operator: NotIn, values: [unknown]",
        ] {
            unknown(&[end, "t/b"], &admits(operator), &missing);
        }
        definite(&[end, "t/b"], &admits("operator: Exists"), "allowed");
        definite(&[end, "t/b"], &admits("operator: DoesNotExist"), "denied");
        let lint = analyze(
            &["lint", "-o", "json"],
            &admits("operator: In, values: [x]"),
        );
        assert!(!lint.out.contains("NPA031"), "{}", lint.out);
    }
}

#[test]
fn whom_a_policy_isolates_by_a_label_that_a_controller_makes_up() {
    let (workload, key, end) = GENERATED[0];
    let isolates = |rest: &str| {
        let spec = format!("{{podSelector: {{matchLabels: {{{key}: x}}}}, {rest}}}");
        cluster(&format!("{workload}\n{}", network_policy("p", &spec)))
    };
    let missing = format!("the value of label `{key}` of {end}");
    unknown(&["t/a", end], &isolates("policyTypes: [Ingress]"), &missing);
    // What it would admit gets through either way.
    definite(&["t/a", end], &isolates("ingress: [{}]"), "allowed");
    let ports = isolates("ingress: [{ports: [{port: 80}]}]");
    definite(&["t/a", end, "--port", "80"], &ports, "allowed");
    unknown(&["t/a", end, "--port", "81"], &ports, &missing);
}

/// A cluster that tells its nodes' addresses only through pods of the host network.
fn silent_node(policy: &str) -> String {
    let host = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: host, namespace: t}\n\
                spec: {nodeName: n2, hostNetwork: true, containers: [{name: c}]}\n\
                status: {phase: Running, podIPs: [{ip: 192.0.2.7}]}\n";
    let stray = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: stray, namespace: t}\n\
                 spec: {hostNetwork: true, containers: [{name: c}]}\n\
                 status: {phase: Running, podIPs: [{ip: 192.0.2.8}]}\n";
    cluster(&format!("{host}{stray}{policy}"))
}

#[test]
fn an_address_of_a_node_is_that_of_its_pods() {
    let policy = network_policy(
        "p",
        "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 192.0.2.7/32}}]}]}",
    );
    let input = silent_node(&policy);
    for end in ["t/host", "node:n2", "192.0.2.7"] {
        definite(&["t/a", end], &input, "allowed");
    }
    for end in ["t/stray", "192.0.2.8"] {
        definite(&["t/a", end], &input, "denied");
    }
}

#[test]
fn the_node_of_an_address_that_only_a_pod_tells() {
    let nodes = "---\napiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n\
                 metadata: {name: c}\nspec: {tier: Admin, priority: 1, subject: {namespaces: {}}, \
                 egress: [{action: Deny, to: [{nodes: {}}]}]}\n";
    let input = silent_node(nodes);
    for end in ["t/host", "node:n2", "192.0.2.7", "t/stray", "192.0.2.8"] {
        let missing = format!("name, labels and addresses of the node of {end}");
        unknown(&["t/a", end], &input, &missing);
    }
    definite(&["t/a", "192.0.2.9"], &input, "allowed");
}

#[test]
fn which_way_an_assumption_is_made_is_said() {
    let policy = network_policy(
        "p",
        "{podSelector: {matchLabels: {app: b}}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}",
    );
    let input = cluster(&policy);
    let said = |arguments: &[&str]| why(arguments, &input).json()["assumptions"].clone();
    assert_eq!(
        said(&["t/a", "t/b"]),
        serde_json::json!(["ipblock-matches-pods"])
    );
    let otherwise = said(&["t/a", "t/b", "--assume", "ipblock-matches-pods=no"]);
    assert_eq!(otherwise, serde_json::json!(["ipblock-matches-pods=no"]));
}

fn admin_policy(version: &str, kind: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: policy.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{name: c}}\n\
         spec: {{priority: 1, subject: {{namespaces: {{}}}}, {spec}}}\n"
    )
}

#[test]
fn what_an_api_server_takes_is_certain() {
    let inverted = admin_policy(
        "v1alpha1",
        "AdminNetworkPolicy",
        "egress: [{action: Deny, to: [{namespaces: {}}], ports: [{portRange: {start: 200, end: 100}}]}]",
    );
    let answer = why(&["t/a", "t/b"], &cluster(&inverted));
    assert_eq!(
        (answer.code, &answer.json()["verdict"]),
        (0, &"allowed".into())
    );
    assert!(answer.err.contains("error[NPA022]"), "{}", answer.err);
    let named = |to: &str| {
        let rule = format!("action: Deny, to: [{to}], protocols: [{{destinationNamedPort: web}}]");
        let spec = format!("tier: Admin, egress: [{{{rule}}}]");
        cluster(&admin_policy("v1alpha2", "ClusterNetworkPolicy", &spec))
    };
    let networks = named("{networks: [10.0.0.0/8]}");
    let answer = why(&["t/a", "t/b", "--port", "8080"], &networks);
    assert_eq!(
        (answer.code, &answer.json()["verdict"]),
        (0, &"denied".into())
    );
    assert!(answer.err.contains("warning[NPA023]"), "{}", answer.err);
    definite(&["t/a", "10.9.9.9", "--port", "8080"], &networks, "allowed");
    // No CRD has `nodes` and takes a name beside them.
    let nodes = why(&["t/a", "t/b", "--port", "8080"], &named("{nodes: {}}"));
    assert_eq!(
        (nodes.code, &nodes.json()["verdict"]),
        (3, &"unknown".into())
    );
}

#[test]
fn whom_a_test_is_about() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("t.yaml");
    let test = |tests: &str, manifests: &str| {
        let head = "apiVersion: netpol-analyze/v1\nkind: PolicyTest\ntests:\n";
        std::fs::write(&file, format!("{head}{tests}")).unwrap();
        analyze(&["test", file.to_str().unwrap()], manifests)
    };
    let odd = cluster(&odd_pod("labels: {app: 1}", PLAIN));
    let selected = test(
        "- {name: s, to: {labels: {app: \"1\"}}, from: t/a, expect: allowed}\n",
        &odd,
    );
    assert_eq!(selected.code, 3, "{}", selected.out);
    assert!(selected.out.contains("t/odd"), "{}", selected.out);
    let known = test(
        "- {name: s, to: {labels: {app: a}}, from: t/b, expect: allowed}\n",
        &cluster(""),
    );
    assert_eq!(known.code, 0, "{}", known.out);
    // A test of no pair at all proves nothing.
    let nothing = "- {name: nothing, from: t/a, to: t/b, onlyFrom: [t/a]}\n";
    let nothing = test(nothing, &cluster(""));
    assert_eq!(nothing.code, 1, "{}", nothing.out);
    assert!(nothing.out.contains("about no pair"), "{}", nothing.out);
    let team = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: u, labels: {team: 5}}\n";
    let for_all = "- {name: f, forAll: {a: {namespaceLabel: team}, b: {namespaceLabel: team}, where: a != b}, never: true}\n";
    let for_all = test(for_all, &cluster(team));
    assert_eq!(for_all.code, 3, "{}{}", for_all.out, for_all.err);
}

#[test]
fn a_matrix_of_a_port_calls_allowed_what_is() {
    let policy = network_policy("p", "{podSelector: {}, ingress: [{ports: [{port: 80}]}]}");
    let input = cluster(&policy);
    let words = |format: &str| analyze(&["matrix", "--port", "80", "-o", format], &input).out;
    assert!(words("csv").contains(",allowed,tcp/80"), "{}", words("csv"));
    assert!(!words("csv").contains("partial"), "{}", words("csv"));
    assert!(!words("md").contains("partial"), "{}", words("md"));
}
