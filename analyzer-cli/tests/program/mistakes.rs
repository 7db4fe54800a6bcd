// SPDX-License-Identifier: Apache-2.0
//! Mistakes that tools of this kind are known for. Each test is named after what happens here instead.

use std::collections::BTreeSet;

use super::{Run, analyze, cluster, network_policy, pod, program, run};

fn reach(arguments: &[&str], manifests: &str) -> Run {
    let mut all = vec!["why", "-o", "json"];
    all.extend(arguments);
    analyze(&all, manifests)
}

#[track_caller]
fn verdict(answer: &Run, expected: &str) {
    assert_eq!(
        answer.json()["verdict"],
        expected,
        "{}{}",
        answer.out,
        answer.err
    );
}

fn admin_policy(name: &str, priority: u32, rules: &str) -> String {
    format!(
        "---\napiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {{name: {name}}}\n\
         spec: {{priority: {priority}, subject: {{namespaces: {{}}}}, {rules}}}\n"
    )
}

#[test]
fn blocks_of_one_family_do_not_match_the_other() {
    let policy = network_policy(
        "p",
        "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: \"::/0\"}}]}]}",
    );
    verdict(&reach(&["t/a", "192.0.2.1"], &cluster(&policy)), "denied");
    verdict(
        &reach(&["t/a", "2001:db8::1"], &cluster(&policy)),
        "allowed",
    );
}

#[test]
fn networks_of_either_family_and_nodes_are_rules_like_others() {
    let policy = admin_policy(
        "p",
        1,
        "egress: [{action: Deny, to: [{networks: [\"2001:db8::/32\"]}, {nodes: {matchLabels: {role: db}}}]}]",
    );
    let nodes = "---\napiVersion: v1\nkind: Node\nmetadata: {name: n2, labels: {role: db}}\n\
                 status: {addresses: [{type: InternalIP, address: 192.0.2.7}]}\n";
    let input = cluster(&(policy + nodes));
    verdict(&reach(&["t/a", "2001:db8::1"], &input), "denied");
    verdict(&reach(&["t/a", "node:n2"], &input), "denied");
    verdict(&reach(&["t/a", "192.0.2.8"], &input), "allowed");
}

#[test]
fn domain_names_are_a_warning_and_every_other_rule_still_counts() {
    let policy = "---\napiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n\
                  metadata: {name: p}\nspec: {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [\
                  {action: Accept, to: [{domainNames: [\"*.example.com\"]}]}, \
                  {action: Deny, to: [{networks: [192.0.2.0/24]}]}]}\n";
    let answer = reach(&["t/a", "192.0.2.1"], &cluster(policy));
    verdict(&answer, "denied");
    assert!(answer.err.contains("NPA019"), "{}", answer.err);
}

#[test]
fn equal_priorities_are_decided_by_name_and_reported() {
    let policies = admin_policy(
        "b",
        5,
        "ingress: [{action: Deny, from: [{namespaces: {}}]}]",
    ) + &admin_policy(
        "a",
        5,
        "ingress: [{action: Allow, from: [{namespaces: {}}]}]",
    );
    let input = cluster(&policies);
    verdict(&reach(&["t/a", "t/b"], &input), "allowed");
    let lint = analyze(&["lint", "-o", "json"], &input);
    assert!(lint.out.contains("\"priority-tie\""), "{}", lint.out);
}

#[test]
fn a_named_port_needs_no_peer() {
    let policy = network_policy(
        "p",
        "{podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{port: web}]}]}",
    );
    let input = cluster(&policy);
    verdict(&reach(&["t/a", "t/b", "--port", "8080"], &input), "allowed");
    verdict(&reach(&["t/a", "t/b", "--port", "8081"], &input), "denied");
}

#[test]
fn a_malformed_policy_is_never_skipped() {
    let broken = network_policy("p", "{podSelector: {}, ingress: {from: []}}");
    let answer = reach(&["t/a", "t/b"], &cluster(&broken));
    assert_eq!(answer.code, 3, "{}", answer.err);
    verdict(&answer, "unknown");
    assert!(answer.err.contains("expected a list"), "{}", answer.err);
    let unclosed = network_policy("p", "{podSelector: {");
    let answer = reach(&["t/a", "t/b"], &cluster(&unclosed));
    assert_eq!(answer.code, 2, "{}", answer.err);
    assert!(
        answer.out.is_empty() && answer.err.contains("NPA001"),
        "{}",
        answer.err
    );
}

#[test]
fn a_chart_template_is_refused_with_the_command_that_renders_it() {
    let template = network_policy(
        "p",
        "{podSelector: {matchLabels: {app: {{ .Values.app }}}}}",
    );
    let answer = reach(&["t/a", "t/b"], &cluster(&template));
    assert_eq!(answer.code, 2, "{}", answer.err);
    assert!(answer.err.contains("--helm"), "{}", answer.err);
}

#[test]
fn a_misspelt_selector_is_not_an_empty_one() {
    let typo = network_policy(
        "p",
        "{podSelector: {matchlabels: {app: z}}, policyTypes: [Ingress]}",
    );
    let answer = reach(&["t/a", "t/b"], &cluster(&typo));
    assert_eq!(answer.code, 3, "{}", answer.err);
    verdict(&answer, "unknown");
    assert!(answer.err.contains("`matchLabels`"), "{}", answer.err);
}

#[test]
fn a_named_port_means_the_same_to_every_command() {
    let policy = network_policy(
        "p",
        "{podSelector: {matchLabels: {app: b}}, policyTypes: [Ingress], ingress: [{ports: [{port: web}]}]}",
    );
    let input = cluster(&policy);
    let expected = serde_json::json!([{"protocol": "TCP", "ports": [[8080, 8080]]}]);
    assert_eq!(reach(&["t/a", "t/b"], &input).json()["allowed"], expected);
    let matrix = analyze(&["matrix", "--expand", "-o", "json"], &input).json();
    let cells = matrix["cells"].as_array().unwrap();
    let cell = cells
        .iter()
        .find(|cell| cell["src"] == "t/a" && cell["dst"] == "t/b");
    assert_eq!(cell.unwrap()["allowed"], expected);
    let folder = tempfile::tempdir().unwrap();
    let flows = folder.path().join("flows");
    let flow = |port| {
        format!("{{\"src\":\"t/a\",\"dst\":\"t/b\",\"protocol\":\"TCP\",\"port\":{port}}}\n")
    };
    std::fs::write(&flows, flow(8080) + &flow(8081)).unwrap();
    let replay = analyze(
        &["replay", "-o", "jsonl", &flows.display().to_string()],
        &input,
    );
    let verdicts: Vec<bool> = replay
        .out
        .lines()
        .map(|line| line.contains("\"verdict\":\"allowed\",\"egress\""))
        .collect();
    assert_eq!(verdicts, [true, false], "{}", replay.out);
}

/// Pods that no policy tells apart may still call different ports by one name.
#[test]
fn a_name_stands_for_each_pods_own_port() {
    let pods = pod("c", "10.0.0.3").replace("8080", "9090")
        + &pod("h", "192.168.0.1")
            .replace("8080", "7070")
            .replace("nodeName", "hostNetwork: true, nodeName");
    let input = cluster(&pods);
    for (dst, port) in [("t/b", 8080), ("t/c", 9090), ("t/h", 7070)] {
        let expected = serde_json::json!([{"protocol": "TCP", "ports": [[port, port]]}]);
        let alone = analyze(
            &["reach", "t/a", dst, "--port", "web", "-o", "json"],
            &input,
        );
        assert_eq!(alone.json()["allowed"], expected, "{dst}");
        for by in ["pod", "workload"] {
            let arguments = [
                "matrix", "--expand", "--by", by, "--port", "web", "-o", "json",
            ];
            let matrix = analyze(&arguments, &input).json();
            let cells = matrix["cells"].as_array().unwrap();
            let cell = cells
                .iter()
                .find(|cell| cell["src"] == "t/a" && cell["dst"] == dst);
            assert_eq!(cell.unwrap()["allowed"], expected, "{by}: {dst}");
        }
    }
}

/// Pods that no policy tells apart are asked about once, but what is missing is missing of each.
#[test]
fn missing_facts_are_those_of_the_pair() {
    let policy = network_policy(
        "p",
        "{podSelector: {matchLabels: {app: b}}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}",
    );
    let replica = |name| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: t}}\nspec: {{containers: []}}\n"
        )
    };
    let input = cluster(&(replica("r1") + &replica("r2") + &policy));
    let matrix = analyze(&["matrix", "--expand", "-o", "json"], &input).json();
    let cells = matrix["cells"].as_array().unwrap();
    for src in ["t/r1", "t/r2"] {
        let mut cells = cells.iter();
        let cell = cells.find(|cell| cell["src"] == src && cell["dst"] == "t/b");
        let alone = reach(&[src, "t/b"], &input).json();
        assert_eq!(cell.unwrap()["unknown"], alone["unknown"], "{src}");
        assert!(alone["unknown"].to_string().contains(src), "{alone}");
    }
}

#[test]
fn different_ports_on_both_sides_let_nothing_through() {
    let policies = network_policy(
        "out",
        "{podSelector: {matchLabels: {app: a}}, policyTypes: [Egress], egress: [{ports: [{port: 80}]}]}",
    ) + &network_policy(
        "in",
        "{podSelector: {matchLabels: {app: b}}, policyTypes: [Ingress], ingress: [{ports: [{port: 443}]}]}",
    );
    let answer = reach(&["t/a", "t/b"], &cluster(&policies));
    verdict(&answer, "denied");
    assert_eq!(answer.json()["allowed"], serde_json::json!([]));
}

#[test]
fn a_pod_reaches_itself() {
    let deny = network_policy("p", "{podSelector: {}, policyTypes: [Ingress, Egress]}");
    verdict(&reach(&["t/a", "t/a"], &cluster(&deny)), "allowed");
    verdict(&reach(&["t/a", "t/b"], &cluster(&deny)), "denied");
}

#[test]
fn a_node_reaches_its_own_pods_and_no_others() {
    let deny = network_policy("p", "{podSelector: {}, policyTypes: [Ingress, Egress]}");
    let nodes = "---\napiVersion: v1\nkind: Node\nmetadata: {name: n1}\n\
                 status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}\n\
                 ---\napiVersion: v1\nkind: Node\nmetadata: {name: n2}\n\
                 status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}\n";
    let input = cluster(&(deny + nodes));
    verdict(&reach(&["node:n1", "t/a"], &input), "allowed");
    verdict(&reach(&["node:n2", "t/a"], &input), "denied");
}

#[test]
fn completions_ask_no_cluster() {
    for shell in ["bash", "zsh", "fish"] {
        let mut command = program();
        command
            .args(["completions", shell])
            .env("KUBECONFIG", "/nonexistent/config");
        let completions = run(command, b"");
        assert_eq!(completions.code, 0, "{}", completions.err);
        assert!(completions.out.contains("netpol-analyze"));
    }
}

#[test]
fn output_grows_with_what_differs_and_not_with_the_square_of_the_pods() {
    let matrix = |replicas: &str| {
        let mut generate = program();
        generate.args([
            "generate",
            "--workloads",
            "40",
            "--policies",
            "30",
            "--replicas",
            replicas,
        ]);
        let manifests = run(generate, b"").out;
        let matrix = analyze(&["matrix", "-o", "json"], &manifests);
        assert_eq!(matrix.code, 0, "{}", matrix.err);
        (
            matrix.out.len(),
            matrix.json()["cells"].as_array().unwrap().len(),
        )
    };
    let ((small, few), (large, many)) = (matrix("2"), matrix("64"));
    assert_eq!(many, few);
    // Only names of members are added.
    assert!(large <= small * 6, "{small} and {large} bytes");
}

#[test]
fn no_change_selects_by_a_label_of_one_rollout() {
    let deployment = "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d, namespace: t}\nspec:\n  \
                      selector: {matchLabels: {app: d}}\n  template:\n    metadata: {labels: {app: d}}\n    \
                      spec: {containers: [{name: c}]}\n";
    let deny = network_policy(
        "p",
        "{podSelector: {matchLabels: {app: a}}, policyTypes: [Ingress]}",
    );
    let answer = reach(&["t/deploy/d", "t/a"], &cluster(&(deny + deployment)));
    verdict(&answer, "denied");
    assert!(answer.out.contains("app=d"), "{}", answer.out);
    assert!(!answer.out.contains("pod-template-hash"), "{}", answer.out);
}

#[cfg(unix)]
#[test]
fn a_link_back_to_a_folder_is_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("z.yaml"), cluster("")).unwrap();
    std::os::unix::fs::symlink(".", folder.path().join("again")).unwrap();
    for input in [".", "./**/*.yaml", "**/*.yaml", "*"] {
        let mut command = program();
        command
            .current_dir(folder.path())
            .args(["-f", input, "inputs", "-o", "json"]);
        let answer = run(command, b"");
        assert_eq!(answer.code, 0, "{}", answer.err);
        let documents = answer.json()["documents"].as_array().unwrap().len();
        assert_eq!(documents, 3, "{input}: {}", answer.out);
    }
}

#[test]
fn bytes_that_are_no_text_are_said_to_be_none() {
    let mut command = program();
    command.args(["-f", "-", "inputs"]);
    let answer = run(
        command,
        b"apiVersion: v1\nkind: Namespace\nmetadata: {name: a\xff}\n",
    );
    assert_eq!(answer.code, 2, "{}{}", answer.out, answer.err);
    assert!(answer.err.contains("NPA001"), "{}", answer.err);
    assert!(answer.err.contains("-:3:"), "{}", answer.err);
}

#[test]
fn a_matrix_says_the_same_in_every_form() {
    let policy = network_policy(
        "p",
        "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 192.0.2.0/24}}]}]}",
    );
    let manifests = cluster(&policy);
    let matrix = |format| {
        let arguments = ["matrix", "--expand", "--to-internet", "-o", format];
        let answer = analyze(&arguments, &manifests);
        assert_eq!(answer.code, 0, "{}", answer.err);
        answer
    };
    let json = matrix("json").json();
    let cells = json["cells"].as_array().unwrap().iter();
    let word = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let cells: BTreeSet<[String; 3]> = cells
        .map(|cell| ["src", "dst", "verdict"].map(|field| word(&cell[field])))
        .collect();
    let csv = matrix("csv").out;
    let rows = csv.lines().skip(1);
    let rows: BTreeSet<[String; 3]> = rows
        .map(|row| {
            let mut columns = row.split(',').map(str::to_owned);
            std::array::from_fn(|_| columns.next().unwrap())
        })
        .collect();
    assert_eq!(cells, rows);
    let allowed = ["t/a", "192.0.2.0/24", "allowed"].map(str::to_owned);
    assert!(cells.contains(&allowed), "{cells:?}");
}
