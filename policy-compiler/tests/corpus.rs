// SPDX-License-Identifier: Apache-2.0
//! Does every engine say of every case in `testdata/cases` what the case expects, and do the cases
//! together prove every rule?
#![expect(clippy::panic, clippy::unwrap_used, reason = "tests fail loudly")]

mod engines;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use engines::Answer;
use policy_compiler::{
    cases::{self, Expectation, because},
    compile::{Scope, compile},
    diagnostic::Severity,
    lower::{Capacity, Reasons, lower},
    manifest::{self, Document, Loaded},
    parse::{Channel, Settings},
};

/// Rules that no verdict of a flow and no diagnostic of an object can show, and what shows them instead.
const NOT_IN_THE_CORPUS: [(&str, &str); 14] = [
    (
        "A33",
        "where addresses are translated; a case states the address on the wire",
    ),
    (
        "A34",
        "answers in three values, which tests/partial.rs checks",
    ),
    (
        "A51",
        "packets that are never judged; the datapath's tests send them",
    ),
    ("A52", "fragments; the datapath's tests send them"),
    (
        "A59",
        "open connections; the scenario tests change policies under them",
    ),
    ("A71", "NetworkPolicy has no status to look at"),
    ("A72", "generations are counted by the API server"),
    (
        "A85",
        "verdicts over time; the incremental property changes labels",
    ),
    (
        "B24",
        "how a denied packet ends; the scenario tests see it time out",
    ),
    ("B50", "status; the agent's tests look at conditions"),
    ("B51", "status; the agent's tests count writes"),
    (
        "C30",
        "replies and related ICMP; the datapath's tests send them",
    ),
    ("C36", "a Service without endpoints makes no flow"),
    ("C38", "verdicts over time; the incremental property"),
];

#[test]
fn every_engine_meets_every_expectation() {
    let mut failures = String::new();
    let mut answered: BTreeMap<&str, usize> = BTreeMap::new();
    for case in corpus() {
        let name = case.name();
        let Case {
            expectation,
            loaded,
            ..
        } = &case;
        for engine in engines::all() {
            if expectation.skip.contains_key(engine.name()) {
                continue;
            }
            let judge = engine.load(&loaded.snapshot);
            for expected in &expectation.flows {
                let flow = expected
                    .flow()
                    .unwrap_or_else(|why| panic!("{name}: {why}"));
                let told = match judge(&flow) {
                    Answer::Skip(_) => continue,
                    Answer::Verdict(verdict) => (verdict, expected.because.clone()),
                    Answer::Trace(trace) => (trace.verdict, because(&trace)),
                };
                *answered.entry(engine.name()).or_default() += 1;
                if told != (expected.verdict, expected.because.clone()) {
                    writeln!(
                        failures,
                        "{name}: {} says {:?} | {} of\n  {} > {} {} {:?} | {}",
                        engine.name(),
                        told.0,
                        told.1,
                        expected.from,
                        expected.to,
                        expected.port,
                        expected.verdict,
                        expected.because,
                    )
                    .unwrap();
                }
            }
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
    for (engine, flows) in &answered {
        println!("{engine}: {flows} flows");
        assert!(*flows > 300, "{engine} answered {flows} only");
    }
}

#[test]
fn every_problem_is_reported_and_no_other_error() {
    let mut failures = String::new();
    for case in corpus() {
        let found = &case.loaded.diagnostics;
        let expected = &case.expectation.diagnostics;
        for missing in expected
            .iter()
            .filter(|wanted| !found.iter().any(|f| wanted.is(f)))
        {
            writeln!(failures, "{}: missing {missing:?}", case.name()).unwrap();
        }
        let errors = found
            .iter()
            .filter(|found| found.severity == Severity::Error);
        for extra in errors.filter(|found| !expected.iter().any(|wanted| wanted.is(found))) {
            let object = extra
                .object
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default();
            writeln!(
                failures,
                "{}: {object} {}: {}",
                case.name(),
                extra.path,
                extra.message
            )
            .unwrap();
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
}

/// P1, D6: the same documents in any order make the same cluster and the same bytes for the kernel.
#[test]
fn the_order_of_documents_does_not_matter() {
    for case in corpus() {
        let name = case.name();
        let (documents, problems) =
            manifest::read("case", &fs::read_to_string(&case.path).unwrap());
        let load = |documents: Vec<Document>| {
            let mut loaded =
                manifest::assemble(documents, problems.clone(), &settings(&case.expectation));
            case.expectation.complete(&mut loaded.snapshot);
            loaded.snapshot
        };
        let written = load(documents.clone());
        let mut turned = documents.clone();
        turned.rotate_left(documents.len() / 2);
        for other in [documents.into_iter().rev().collect(), turned].map(load) {
            assert!(other == written, "{name}: another cluster");
            for node in written.nodes.keys() {
                let image = |snapshot| {
                    let tables = compile(snapshot, &Scope::Node(node.clone()));
                    lower(&tables, &Capacity::default(), &mut Reasons::default()).unwrap()
                };
                assert!(
                    image(&other) == image(&written),
                    "{name}: another image for {node}"
                );
            }
        }
    }
}

#[test]
fn every_rule_is_proven_by_a_case() {
    let corpus = corpus();
    assert!(corpus.len() >= 150, "only {} cases", corpus.len());
    let semantics = fs::read_to_string(root().join("docs/semantics.md")).unwrap();
    let rules: BTreeSet<_> = semantics
        .lines()
        .filter_map(|line| {
            line.strip_prefix("- **")?
                .split_once("**")
                .map(|(id, _)| id)
        })
        .filter(|id| id.starts_with(['A', 'B', 'C', 'D']))
        .collect();
    assert!(rules.len() > 100, "{rules:?}");
    let proven: BTreeSet<_> = corpus
        .iter()
        .flat_map(|case| case.expectation.rules.iter().map(String::as_str))
        .collect();
    let unknown: Vec<_> = proven.difference(&rules).collect();
    assert!(
        unknown.is_empty(),
        "docs/semantics.md has no rules {unknown:?}"
    );
    let excused: BTreeSet<_> = NOT_IN_THE_CORPUS.iter().map(|(id, _)| *id).collect();
    let both: Vec<_> = proven.intersection(&excused).collect();
    assert!(both.is_empty(), "proven and excused: {both:?}");
    let missing: Vec<_> = rules
        .iter()
        .filter(|id| !id.starts_with('D') && !proven.contains(*id) && !excused.contains(*id))
        .collect();
    assert!(missing.is_empty(), "no case proves {missing:?}");
}

struct Case {
    path: PathBuf,
    expectation: Expectation,
    loaded: Loaded,
}

impl Case {
    fn name(&self) -> String {
        let path = self.path.strip_prefix(root().join("testdata/cases"));
        path.unwrap().with_extension("").display().to_string()
    }
}

/// All cases, sorted by path.
fn corpus() -> Vec<Case> {
    let mut files = Vec::new();
    files_below(&root().join("testdata/cases"), &mut files);
    files.sort();
    files.into_iter().map(read).collect()
}

fn read(path: PathBuf) -> Case {
    let text = fs::read_to_string(&path).unwrap();
    let file = path.display().to_string();
    let (documents, _) = manifest::read(&file, &text);
    let mut expectations = documents
        .iter()
        .filter(|document| &*document.kind == cases::KIND);
    let (Some(document), None) = (expectations.next(), expectations.next()) else {
        panic!("{file} does not have exactly one {}", cases::KIND);
    };
    let expectation: Expectation =
        serde_json::from_value(document.value()).unwrap_or_else(|error| panic!("{file}: {error}"));
    let settings = settings(&expectation);
    let mut loaded = manifest::load([(file.as_str(), text.as_str())], &settings);
    expectation.complete(&mut loaded.snapshot);
    Case {
        path,
        expectation,
        loaded,
    }
}

fn settings(expectation: &Expectation) -> Settings {
    Settings {
        channel: match expectation.channel.as_deref() {
            None | Some("experimental") => Channel::Experimental,
            Some("standard") => Channel::Standard,
            Some(other) => panic!("{}: there is no channel {other}", expectation.title),
        },
        ..Settings::default()
    }
}

fn files_below(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, files);
        } else {
            files.push(path);
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}
