// SPDX-License-Identifier: Apache-2.0
//! How do results become a page?
//!
//! Collects what the benchmarks left in `target/bench` and in criterion's folder, describes the machine,
//! and writes all of it to `docs/benchmarks`: the results as they are, a page and its pictures. Measures
//! nothing; it is a benchmark target because it belongs to them and ships with nothing.
//!
//! `NETPOL_BENCH_PAGE=again` writes the page anew from the results that `docs/benchmarks` has.

#![expect(clippy::print_stderr, reason = "a benchmark says what it does")]

pub(crate) mod chart;
pub(crate) mod criterion;
pub(crate) mod goals;
mod machine;
pub(crate) mod record;
pub(crate) mod render;
pub(crate) mod results;

use std::{
    collections::BTreeSet,
    env, fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};

use results::{Results, SUITES};

fn main() -> ExitCode {
    // Who runs every target of the project asks for no page.
    if !env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let docs = root.join("docs/benchmarks");
    fs::create_dir_all(&docs).context("cannot make the folder of the page")?;
    if env::var("NETPOL_BENCH_PAGE").as_deref() != Ok("again") {
        let target =
            env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        collect(&target, &docs)?;
    }
    for (name, text) in render::render(&Results::read(&docs)?) {
        let path = docs.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    eprintln!("the page is docs/benchmarks/README.md");
    Ok(())
}

/// Brings the results of this run to the page's folder. A suite that did not run has none, and the page
/// says so: results of different runs are not mixed.
fn collect(target: &Path, docs: &Path) -> Result<()> {
    let bench = target.join("bench");
    fs::create_dir_all(&bench)?;
    // Criterion keeps its results to itself; what other benchmarks of the compiler wrote stands already.
    let path = bench.join("compiler.jsonl");
    let mut compiled: BTreeSet<String> = lines(&path)?.into_iter().collect();
    for record in criterion::read(&target.join("criterion"))? {
        compiled.insert(serde_json::to_string(&record)? + "\n");
    }
    fs::write(&path, Vec::from_iter(compiled).concat())?;
    let machine = serde_json::to_string_pretty(&machine::describe())? + "\n";
    fs::write(bench.join("machine.json"), machine)?;
    let suites = SUITES.map(|suite| format!("{suite}.jsonl"));
    for name in suites.into_iter().chain(["machine.json".to_owned()]) {
        let text = lines(&bench.join(&name))?.concat();
        fs::write(docs.join(&name), text)
            .with_context(|| format!("cannot bring `{name}` to the page"))?;
    }
    Ok(())
}

/// The lines of a file, each with its end; none of a file that is not there.
fn lines(path: &Path) -> Result<Vec<String>> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => {
            let text = read.with_context(|| format!("cannot read `{}`", path.display()))?;
            Ok(text.split_inclusive('\n').map(str::to_owned).collect())
        }
    }
}
