// SPDX-License-Identifier: Apache-2.0
//! Between ends without addresses of a common family there is no flow, whoever asks.

use super::{analyze, network_policy, pod, program, run};

/// A pod of each family, one of both, one of an unknown address, and a policy that admits IPv6.
fn world() -> String {
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: t}\n";
    let unknown = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: unk, namespace: t, labels: {app: unk}}\n\
                   spec: {nodeName: n1, containers: [{name: c}]}\n";
    let policy = network_policy(
        "p",
        "{podSelector: {matchLabels: {app: four}}, ingress: [{from: [{ipBlock: {cidr: \"fd00::/16\"}}]}]}",
    );
    let pods = pod("four", "10.0.0.1") + &pod("six", "fd00::80");
    format!("{namespace}{pods}{unknown}{policy}")
}

#[test]
fn every_command_says_that_nothing_gets_through() {
    let world = world();
    for (src, dst) in [
        ("t/six", "t/four"),
        ("t/four", "t/six"),
        ("192.0.2.1", "2001:db8::1"),
    ] {
        let why = analyze(&["why", src, dst, "-o", "json"], &world).json();
        assert_eq!(why["verdict"], "denied", "{why}");
        assert_eq!(why["because"], "no common address family", "{why}");
        let text = analyze(&["reach", src, dst], &world).out;
        assert!(
            text.contains("not allowed: no common address family"),
            "{text}"
        );
        let csv = analyze(&["reach", src, dst, "-o", "csv"], &world).out;
        assert!(csv.contains("no common address family"), "{csv}");
    }
    let six = analyze(
        &["why", "t/four", "t/unk", "--family", "6", "-o", "json"],
        &world,
    )
    .json();
    assert_eq!(six["because"], "no common address family", "{six}");
    let cells = analyze(&["matrix", "--expand", "-o", "json"], &world).json();
    let mut apart = 0;
    for cell in cells["cells"].as_array().unwrap() {
        let ends = (cell["src"].as_str().unwrap(), cell["dst"].as_str().unwrap());
        let meet = !matches!(ends, ("t/six", "t/four") | ("t/four", "t/six"));
        apart += usize::from(!meet);
        assert_eq!(cell.get("because").is_none(), meet, "{cell}");
        let alone = analyze(&["why", ends.0, ends.1, "-o", "json"], &world).json();
        assert_eq!(cell["verdict"], alone["verdict"], "{cell}");
    }
    assert_eq!(apart, 2);
    let rows = analyze(&["matrix", "--expand", "-o", "csv"], &world).out;
    assert!(rows.contains("t/four,t/six,denied,nothing"), "{rows}");
}

#[test]
fn grouped_and_expanded_matrices_agree_on_addresses_outside() {
    let world = world();
    let rows = analyze(
        &["matrix", "--to-internet", "--expand", "-o", "csv"],
        &world,
    )
    .out;
    let cells = analyze(
        &["matrix", "--to-internet", "--expand", "-o", "json"],
        &world,
    )
    .json();
    let cells = cells["cells"].as_array().unwrap();
    for cell in cells {
        let name = |end: &str| cell[end].as_str().unwrap().to_owned();
        let row = format!(
            "{},{},{}",
            name("src"),
            name("dst"),
            cell["verdict"].as_str().unwrap()
        );
        assert!(
            rows.lines().any(|line| line.starts_with(&row)),
            "{row}\n{rows}"
        );
    }
    // Who names an address asks about its family.
    let outside = |end: &str, cell: &&serde_json::Value| {
        let end = cell[end].as_str().unwrap();
        end.contains("::") || end.contains('.')
    };
    let mut asked = 0;
    for cell in cells
        .iter()
        .filter(|cell| outside("src", cell) || outside("dst", cell))
    {
        let ends = [&cell["src"], &cell["dst"]].map(|end| end.as_str().unwrap());
        let alone = analyze(&["why", ends[0], ends[1], "-o", "json"], &world).json();
        asked += 1;
        assert_eq!(cell["verdict"], alone["verdict"], "{cell}");
        assert_eq!(cell.get("because"), None, "{cell}");
    }
    assert!(asked > 5, "{asked}");
}

#[test]
fn tests_and_replay_know_it_too() {
    let folder = tempfile::tempdir().unwrap();
    let (manifests, test) = (folder.path().join("m.yaml"), folder.path().join("t.yaml"));
    std::fs::write(&manifests, world()).unwrap();
    let never = "apiVersion: netpol-analyze/v1\nkind: PolicyTest\ntests:\n\
                 - {name: apart, from: t/six, to: t/four, never: true}\n";
    std::fs::write(&test, never).unwrap();
    let mut command = program();
    command.arg("-f").arg(&manifests).arg("test").arg(&test);
    let passed = run(command, b"");
    assert_eq!(passed.code, 0, "{}{}", passed.out, passed.err);
    let replay = |flow: &str| {
        let mut command = program();
        command
            .arg("-f")
            .arg(&manifests)
            .args(["replay", "-", "-o", "jsonl"]);
        run(command, flow.as_bytes())
    };
    let pods = replay("{\"src\":\"t/six\",\"dst\":\"t/four\",\"protocol\":\"TCP\",\"port\":80}");
    assert_eq!((pods.code, &pods.json()["verdict"]), (0, &"denied".into()));
    assert_eq!(pods.json()["egress"]["reason"], "no common address family");
    let literal = "{\"src\":\"10.0.1.2\",\"dst\":\"fd00::1\",\"protocol\":\"TCP\",\"port\":80}";
    let literal = replay(literal);
    assert_eq!(literal.code, 2);
    let error = literal.json()["error"].as_str().unwrap().to_owned();
    assert_eq!(
        error,
        "line 1: `10.0.1.2` and `fd00::1` have no common address family"
    );
}
