// SPDX-License-Identifier: Apache-2.0
//! Is the page what the results say?

use std::{fs, path::Path};

use super::page::{
    chart::number,
    criterion,
    goals::goals,
    record::Record,
    render::render,
    results::{Results, added},
};

fn line(suite: &str, name: &str, unit: &str, rounds: &[f64], baseline: &[f64]) -> String {
    let record = Record {
        baseline: baseline.first().copied(),
        baseline_rounds: baseline.to_vec(),
        ratio: None,
        ..Record::new(suite, name, unit, rounds.to_vec()).unwrap()
    };
    serde_json::to_string(&record).unwrap() + "\n"
}

fn wire(name: &str, added: f64) -> String {
    line("wire", name, "us", &[15.0 + added], &[15.0])
}

fn alone(suite: &str, name: &str, unit: &str, value: f64) -> String {
    line(suite, name, unit, &[value], &[])
}

/// A run in which one configuration was measured that meets its goal, one that does not.
fn example() -> Vec<String> {
    vec![
        wire("tcp_rr/empty-tcx", 0.25),
        wire("tcp_rr/ours-tcx", 0.5),
        wire("tcp_rr/kube-router-iptables-10", 2.0),
        wire("tcp_rr/kube-router-nftables-10", 1.0),
        wire("tcp_rr/ours-unselected", 1.0),
        alone(
            "verdict",
            "to_pod/forward/v4/10-rules/1000-peers/1k-flows",
            "ns",
            20.0,
        ),
        alone(
            "verdict",
            "to_pod/forward/v4/1000-rules/10000-peers/1k-flows",
            "ns",
            21.0,
        ),
        alone("verdict", "to_pod/instructions", "insns", 600.0),
        alone("latency", "policy-change/20-pods/p99", "ms", 400.0),
        alone("latency", "policy-change/1000-pods/p99", "ms", 40.0),
        alone("compiler", "node/compile/10000x10000 Realistic", "ms", 85.0),
        alone("analyzer", "matrix/1000x400/processor", "ms", 300.0),
        line(
            "analyzer",
            "why/10000x2000/processor",
            "ms",
            &[900.0, 990.0, 910.0],
            &[800.0, 900.0, 820.0],
        ),
        alone(
            "compiler",
            "100000x10000 Realistic: policy of a pod of the node changed, p50",
            "ns",
            2e6,
        ),
    ]
}

fn results(lines: &[String]) -> Results {
    let machine = r#"[["CPU", "one | two"]]"#;
    Results::parse(machine, lines.iter().map(String::as_str)).unwrap()
}

fn page(lines: &[String]) -> String {
    let files = render(&results(lines));
    let (_, page) = files
        .into_iter()
        .find(|(name, _)| name == "README.md")
        .unwrap();
    page
}

#[test]
fn goals_are_told_met_missed_and_not_measured() {
    let page = page(&example());
    for row in [
        "| G4 | request and response, added | kube-router's layout in iptables, 10 policies | 0.250 | ≤ 0.350 | met |",
        "| G4 | request and response, added | kube-router's layout in nftables, 10 policies | 0.500 | ≤ 0.300 | **missed** |",
        "| G4 | request and response, added | AWS network policy agent |  | ≤ 0.500 | not measured |",
        "| G6 | request and response, added per hook | empty programs | 62.5 ns | ≤ 80.0 ns | met |",
        "| G10 | a changed policy until the node's tables are new, p50 |  | 2.00 ms | ≤ 1.00 ms | **missed** |",
        "| G12 | a policy from the API server to the wire, p99 |  | 40.0 ms | ≤ 250 ms | met |",
        "| A1 | matrix of 1,000 workloads under 400 policies, processor |  | 300 ms | ≤ 500 ms | met |",
        "| A3 | why for one of their pairs, processor, added | reading the same input | 90.0 ms | ≤ 50.0 ms | **missed** |",
        "| kube-router's layout, iptables, 10 | 4.00 |  |  |  |  |",
        "| CPU | one \\| two |",
    ] {
        assert!(page.contains(row), "{row}\n{page}");
    }
}

#[test]
fn every_goal_has_a_row() {
    let page = page(&[]);
    let goals_of = |letter, last| (1..=last).map(move |goal| format!("{letter}{goal}"));
    for goal in goals_of("G", 14).chain(goals_of("A", 4)) {
        assert!(page.contains(&format!("\n| {goal} |")), "{goal}\n{page}");
    }
    assert!(!page.contains("missed"), "{page}");
    assert!(
        goals(&results(&[]))
            .iter()
            .all(|goal| goal.is_met().is_none())
    );
}

#[test]
fn pages_depend_on_nothing_but_results() {
    let mut lines = example();
    let files = render(&results(&lines));
    lines.reverse();
    assert_eq!(files, render(&results(&lines)));
    lines.pop();
    assert_ne!(files, render(&results(&lines)));
    let (_, page) = files.iter().find(|(name, _)| name == "README.md").unwrap();
    for (name, text) in &files {
        if name != "README.md" {
            assert!(page.contains(&format!("]({name})")), "nobody shows {name}");
            assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        }
    }
    assert_eq!(page.matches(".svg)").count(), files.len() - 1);
}

#[test]
fn what_is_added_is_taken_round_by_round() {
    // The machine was slow in the second round; the difference was the same.
    let line = line("wire", "x", "us", &[11.0, 21.0, 12.0], &[10.0, 20.0, 10.0]);
    let record: Record = serde_json::from_str(&line).unwrap();
    assert_eq!(added(&record), Some(1.0));
}

#[test]
fn a_baseline_may_be_a_name() {
    let line = r#"{"suite": "compiler", "name": "x", "unit": "ns", "value": 1, "baseline": "scratch", "ratio": 9.0}"#;
    let record: Record = serde_json::from_str(line).unwrap();
    assert_eq!((record.baseline, record.value), (None, 1.0));
}

#[test]
fn numbers_have_three_digits() {
    for (value, text) in [
        (12_345.6, "12346"),
        (99.96, "100"),
        (12.34, "12.3"),
        (9.999, "10.0"),
        (1.5, "1.50"),
        (0.1234, "0.123"),
        (-0.0001, "0.000"),
        (-0.5, "-0.500"),
    ] {
        assert_eq!(number(value), text);
    }
}

#[test]
fn criterions_files_become_records() {
    let dir = tempfile::tempdir().unwrap();
    for (name, times) in [("compile", "[2e6, 6e6, 8e6]"), ("naive", "[4e8, 4e8, 4e8]")] {
        let folder = dir.path().join("node").join(name).join("shape/new");
        fs::create_dir_all(&folder).unwrap();
        let benchmark = format!(r#"{{"group_id": "node", "full_id": "node/{name}/shape"}}"#);
        fs::write(folder.join("benchmark.json"), benchmark).unwrap();
        let sample =
            format!(r#"{{"sampling_mode": "Flat", "iters": [1, 2, 4], "times": {times}}}"#);
        fs::write(folder.join("sample.json"), sample).unwrap();
    }
    let records = criterion::read(dir.path()).unwrap();
    let [compile, naive] = records.as_slice() else {
        panic!("{records:?}")
    };
    assert_eq!(
        (compile.name.as_str(), compile.value),
        ("node/compile/shape", 2.0)
    );
    assert_eq!(compile.rounds, [2.0, 3.0, 2.0]);
    assert_eq!(compile.baseline, Some(200.0));
    assert_eq!(compile.ratio, Some(0.01));
    assert_eq!((naive.value, naive.baseline), (200.0, None));
    assert_eq!(criterion::read(&dir.path().join("nothing")).unwrap(), []);
}

#[test]
fn the_page_in_the_documents_is_that_of_the_results_beside_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks");
    let results = Results::read(&folder).unwrap();
    for (name, text) in render(&results) {
        let found = fs::read_to_string(folder.join(&name)).unwrap_or_default();
        assert_eq!(
            found, text,
            "{name} is not up to date: NETPOL_BENCH_PAGE=again cargo bench -p agent --bench page"
        );
    }
}
