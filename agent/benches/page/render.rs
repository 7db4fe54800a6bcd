// SPDX-License-Identifier: Apache-2.0
//! What does the page say? A function of the results and of nothing else.

use std::fmt::Write as _;

use super::{
    chart::{Bar, Scale, bars, number},
    goals::{Comparison, Limit, goals},
    record::Record,
    results::{Machine, Results, added},
};

/// Configurations in the order of tables and charts, and what the reader calls them.
const CONFIGURATIONS: [(&str, &str); 13] = [
    ("none", "no policy, again (the noise)"),
    ("empty-tcx", "empty programs, TCX"),
    ("ours-tcx", "netpol, TCX"),
    ("ours-clsact", "netpol, clsact"),
    ("ours-unselected", "netpol, pods that no policy selects"),
    ("conntrack", "connection tracking, no policy"),
    ("ours-conntrack", "netpol and connection tracking"),
    ("nftables-ideal-set", "one nftables set, 100,000 elements"),
    (
        "kube-router-iptables-10",
        "kube-router's layout, iptables, 10",
    ),
    (
        "kube-router-nftables-10",
        "kube-router's layout, nftables, 10",
    ),
    (
        "kube-router-iptables-100",
        "kube-router's layout, iptables, 100",
    ),
    (
        "kube-router-nftables-100",
        "kube-router's layout, nftables, 100",
    ),
    ("nfqueue", "queue to user space, accepts"),
];

/// What is measured on the wire: its name, a title, and whether less is better, in which case what is
/// added to no policy is shown, else the share of no policy that is left.
const QUANTITIES: [(&str, &str, bool); 8] = [
    ("tcp_rr", "TCP request and response", true),
    (
        "tcp_rr_program",
        "one run of a program among them, by the kernel's clock",
        true,
    ),
    ("tcp_crr", "TCP connection, request and response", true),
    ("udp_new", "UDP datagram of an unanswered flow", true),
    ("udp_answered", "UDP datagram of an answered flow", true),
    ("flood", "UDP datagram that is denied, in all", true),
    ("connections", "connections per second", false),
    ("tcp_stream", "throughput of one TCP connection", false),
];

const INTRODUCTION: &str = "# Benchmarks

Written by `make bench` from the JSON beside it, which keeps what every round measured: [wire](wire.jsonl), [verdict](verdict.jsonl), [latency](latency.jsonl), [compiler](compiler.jsonl), [analyzer](analyzer.jsonl), [machine](machine.json).
Ratios and differences hold within this run; absolute numbers hold for this machine.

`make bench` takes less than twenty minutes, `NETPOL_BENCH_QUICK=1 make bench` about five.
";

const WIRE: &str = "
## On the wire

`cargo bench --profile dev -p agent --bench wire`, as root.

A client, a router and a server, each a network namespace, joined by veth pairs.
Client and server run on one CPU at a real-time priority, so the middle of many transactions is the whole CPU work of one.
Every reading takes a new set of namespaces and measures it twice, without and with the configuration; what is shown is the median over the rounds of what the second has on top of the first.
Rounds shuffle the configurations.
Before each reading, probes make sure that the allowed port answers and the forbidden one does not.

The policy isolates both pods in both directions, which is the most there is to do: a request and its response pass four programs.
Of configurations with BPF programs the kernel also says what one run of a program takes meanwhile; its clock is part of that, as the empty programs show.
netpol's tables are those of a cluster of 10,000 pods and 1,000 policies.
\"kube-router's layout\" stands for chains and sets of the shape that kube-router makes, for 110 pods with sets of 100 addresses, made by this project's own generator; 10 and 100 are the policies that select each of the two pods.
iptables is its older backend where the machine has it.
The queue's consumer reads the destination port and nothing else, so it is a lower bound for engines that judge in user space.
Other eBPF engines are not among the configurations: their programs do not come with this project.
";

const VERDICT: &str = "
## Verdicts in the kernel

`cargo bench --profile dev -p agent --bench verdict`, as root.

Nanoseconds for one packet by `BPF_PROG_TEST_RUN`, 1,000 flows, less what an empty program takes.
The reference programs are this project's own, of the shape of the lookups that others do.
";

const LATENCY: &str = "
## From a change to the wire

`cargo bench --profile dev -p agent --bench latency`, as root, with the API server that `.ci/setup controlplane` builds.

From a request to a real kube-apiserver to the first datagram that meets another verdict, and what an agent takes of the machine meanwhile.
A quick run changes a policy 20 times among 1,000 pods at the most and starts few pods, so that its p99 is its slowest.
";

const COMPILER: &str = "
## Compilation

`cargo bench -p policy-compiler`.

What one node's tables take, from nothing and after one change, beside the evaluation of every selector on every pod in the same process where that ends in reasonable time.
`10000x1000` stands for 10,000 pods and 1,000 policies.
";

const ANALYZER: &str = "
## Answers about large clusters

`cargo bench -p analyzer-cli --no-default-features --bench answers`.

What `netpol-analyze` takes from its start to its end, in time and of a processor's time, beside reading the same input and nothing else; commands take turns.
`10000x2000` stands for 10,000 pods, ten of a workload, and 2,000 policies, made by `netpol-analyze generate`; `diff` reads two such clusters, of which one has another port in some policies.
What every pair of pods would take, asked about one by one, is estimated from the pairs of a hundred pods.
";

/// The page and its pictures, by file name.
pub(crate) fn render(results: &Results) -> Vec<(String, String)> {
    let mut page = INTRODUCTION.to_owned();
    let mut files = Vec::new();
    machine(&mut page, &results.machine);
    goals_table(&mut page, &goals(results));
    if results.suite("wire").next().is_some() {
        page += WIRE;
        wire(&mut page, &mut files, results);
    }
    if results.suite("verdict").next().is_some() {
        page += VERDICT;
        verdict(&mut page, &mut files, results);
    }
    if results.suite("latency").next().is_some() {
        page += LATENCY;
        latency(&mut page, &mut files, results);
    }
    if results.suite("compiler").next().is_some() {
        page += COMPILER;
        compiler(&mut page, &mut files, results);
    }
    if results.suite("analyzer").next().is_some() {
        page += ANALYZER;
        compared(&mut page, results.suite("analyzer"));
    }
    files.push(("README.md".to_owned(), page));
    files
}

fn machine(page: &mut String, machine: &Machine) {
    *page += "\n## Machine\n\n| | |\n|---|---|\n";
    for (key, value) in &machine.0 {
        let _ = writeln!(page, "| {key} | {} |", cell(value));
    }
}

fn goals_table(page: &mut String, goals: &[Comparison]) {
    *page += "\n## Goals\n\n\
              A number without a unit is a ratio.\n\
              What this run did not measure is said to be so.\n\n\
              | | what | compared with | measured | goal | |\n\
              |---|---|---|---|---|---|\n";
    for goal in goals {
        let unit = |value: f64| format!("{} {}", number(value), goal.unit).trim().to_owned();
        let limit = match goal.limit {
            Limit::AtMost(limit) => format!("≤ {}", unit(limit)),
            Limit::AtLeast(limit) => format!("≥ {}", unit(limit)),
        };
        let measured = goal.measured.map(unit).unwrap_or_default();
        let outcome = match goal.is_met() {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "not measured",
        };
        let _ = writeln!(
            page,
            "| {} | {} | {} | {measured} | {limit} | {outcome} |",
            goal.goal, goal.what, goal.against
        );
    }
}

/// What the others add, in multiples of what netpol adds.
fn beside_others(page: &mut String, results: &Results) {
    const COLUMNS: [&str; 5] = ["tcp_rr", "tcp_crr", "udp_new", "udp_answered", "flood"];
    let cost = |quantity: &str, configuration: &str| {
        let record = results.record("wire", &format!("{quantity}/{configuration}"))?;
        if quantity == "flood" {
            Some(record.value)
        } else {
            added(record)
        }
    };
    let titles = COLUMNS.map(|column| {
        let found = QUANTITIES.iter().find(|(quantity, ..)| *quantity == column);
        found.map_or(column, |(_, title, _)| *title)
    });
    let _ = write!(
        page,
        "\n### Beside others\n\n\
         How many times as much as netpol by TCX the others add; of what is denied, how many times as much it costs in all.\n\n\
         | | {} |\n|---|---|---|---|---|---|\n",
        titles.join(" | ")
    );
    let is_other = |name: &str| !name.starts_with("ours") && !name.starts_with("none");
    for (configuration, label) in CONFIGURATIONS.iter().filter(|(name, _)| is_other(name)) {
        let _ = write!(page, "| {label} |");
        for quantity in COLUMNS {
            let times = cost(quantity, configuration)
                .zip(cost(quantity, "ours-tcx").filter(|ours| *ours > 0.0))
                .map(|(other, ours)| number(other / ours));
            let _ = write!(page, " {} |", times.unwrap_or_default());
        }
        page.push('\n');
    }
}

fn wire(page: &mut String, files: &mut Vec<(String, String)>, results: &Results) {
    beside_others(page, results);
    for (quantity, title, is_added) in QUANTITIES {
        let records: Vec<(&str, &str, &Record)> = CONFIGURATIONS
            .iter()
            .filter_map(|(configuration, label)| {
                let record = results.record("wire", &format!("{quantity}/{configuration}"))?;
                Some((*configuration, *label, record))
            })
            .collect();
        let Some((_, _, first)) = records.first() else {
            continue;
        };
        // What is denied has no cost without policy to be compared with.
        let is_total = quantity == "flood";
        let (unit, what) = match (is_total, is_added) {
            (true, _) => (micro(&first.unit), "in all"),
            (false, true) => (micro(&first.unit), "added"),
            (false, false) => ("times as much", "of no policy"),
        };
        let shown = |record: &Record| {
            if is_total {
                Some(record.value)
            } else if is_added {
                added(record)
            } else {
                record.baseline.map(|baseline| record.value / baseline)
            }
        };
        let _ = write!(
            page,
            "\n### {title}\n\n![{title}]({quantity}.svg)\n\n\
             | configuration | {what}, {unit} | measured, {} | without policy |\n|---|---|---|---|\n",
            micro(&first.unit)
        );
        let mut drawn = Vec::new();
        for (configuration, label, record) in &records {
            let Some(value) = shown(record) else {
                continue;
            };
            let baseline = record.baseline.map(number).unwrap_or_default();
            let _ = writeln!(
                page,
                "| {label} | {} | {} | {baseline} |",
                number(value),
                number(record.value)
            );
            drawn.push(Bar {
                label: (*label).to_owned(),
                value,
                is_ours: configuration.starts_with("ours"),
            });
        }
        let heading = format!("{title}: {what}");
        files.push((
            format!("{quantity}.svg"),
            bars(&heading, unit, Scale::Linear, &drawn),
        ));
    }
}

/// Clusters of the verdict benchmark, in columns.
const SIZES: [(&str, &str); 3] = [
    ("10-rules/1000-peers/1k-flows", "10 rules, 1,000 peers"),
    (
        "1000-rules/10000-peers/1k-flows",
        "1,000 rules, 10,000 peers",
    ),
    (
        "10000-rules/100000-peers/1k-flows",
        "10,000 rules, 100,000 peers",
    ),
];

fn verdict(page: &mut String, files: &mut Vec<(String, String)>, results: &Results) {
    let mut names: Vec<&str> = results
        .suite("verdict")
        .filter_map(|record| {
            let name = record.name.as_str();
            SIZES.iter().find_map(|(size, _)| name.strip_suffix(size))
        })
        .map(|name| name.trim_end_matches('/'))
        .collect();
    names.sort_unstable();
    names.dedup();
    let rows = names.iter().filter_map(|name| {
        let value = results.value("verdict", &format!("{name}/{}", SIZES[1].0))?;
        Some(Bar {
            label: (*name).to_owned(),
            value,
            is_ours: !name.starts_with("reference/"),
        })
    });
    let drawn: Vec<Bar> = rows.collect();
    if !drawn.is_empty() {
        *page += "\n![Verdicts](verdict.svg)\n";
        let title = format!("Verdicts: {}", SIZES[1].1);
        let chart = bars(&title, "ns", Scale::Linear, &drawn);
        files.push(("verdict.svg".to_owned(), chart));
    }
    if !names.is_empty() {
        let titles = SIZES.map(|(_, title)| title).join(" | ");
        let _ = write!(page, "\n| packet | {titles} |\n|---|---|---|---|\n");
    }
    for name in names {
        let _ = write!(page, "| `{name}` |");
        for (size, _) in SIZES {
            let value = results.value("verdict", &format!("{name}/{size}"));
            let _ = write!(page, " {} |", value.map(number).unwrap_or_default());
        }
        page.push('\n');
    }
    let programs: Vec<&Record> = results
        .suite("verdict")
        .filter(|record| record.unit == "insns")
        .collect();
    if !programs.is_empty() {
        *page += "\nWhat the kernel says of the programs, the same in every run:\n\n| program | instructions |\n|---|---|\n";
        for record in programs {
            let _ = writeln!(page, "| `{}` | {} |", record.name, record.value);
        }
    }
}

fn latency(page: &mut String, files: &mut Vec<(String, String)>, results: &Results) {
    let times = results
        .suite("latency")
        .filter(|record| record.name.ends_with("/p50") || record.name.ends_with("/p99"));
    let drawn: Vec<Bar> = times.filter_map(bar).collect();
    picture(
        page,
        files,
        "latency.svg",
        "From a change to the wire",
        &drawn,
    );
    *page += "\n| what | | |\n|---|---|---|\n";
    for record in results.suite("latency") {
        let Record { name, unit, .. } = record;
        let _ = writeln!(page, "| `{name}` | {} | {unit} |", number(record.value));
    }
}

fn compiler(page: &mut String, files: &mut Vec<(String, String)>, results: &Results) {
    let shown = |is_shown: fn(&str) -> bool| -> Vec<Bar> {
        let records = results.suite("compiler");
        let records = records.filter(|record| is_shown(&record.name));
        records.filter_map(bar).collect()
    };
    let cold = shown(|name| name.starts_with("node/") || name.ends_with("cold"));
    let changes = shown(|name| name.contains("Realistic") && name.ends_with(", p50"));
    picture(
        page,
        files,
        "compiler.svg",
        "Compilation from nothing",
        &cold,
    );
    picture(
        page,
        files,
        "changes.svg",
        "Following one change, p50",
        &changes,
    );
    compared(page, results.suite("compiler"));
}

/// A table of quantities, each beside its baseline.
fn compared<'r>(page: &mut String, records: impl Iterator<Item = &'r Record>) {
    *page += "\n| what | | | compared with |\n|---|---|---|---|\n";
    for record in records {
        let Record { name, unit, .. } = record;
        let (value, unit) = match record.milliseconds() {
            Some(time) => (time, "ms"),
            None => (record.value, unit.as_str()),
        };
        let baseline = record.baseline.filter(|_| record.value > 0.0);
        let beside = baseline.map(|baseline| {
            let times = baseline / record.value;
            format!(
                "{} {unit}, {} times as much",
                number(value * times),
                number(times)
            )
        });
        let _ = writeln!(
            page,
            "| `{name}` | {} | {unit} | {} |",
            number(value),
            beside.unwrap_or_default()
        );
    }
}

/// A chart of times of very different length, if there are any.
fn picture(
    page: &mut String,
    files: &mut Vec<(String, String)>,
    file: &str,
    title: &str,
    drawn: &[Bar],
) {
    if drawn.is_empty() {
        return;
    }
    let _ = write!(page, "\n![{title}]({file})\n");
    let chart = bars(title, "ms", Scale::Logarithmic, drawn);
    files.push((file.to_owned(), chart));
}

/// The bar of a time.
fn bar(record: &Record) -> Option<Bar> {
    Some(Bar {
        label: record.name.clone(),
        value: record.milliseconds()?,
        is_ours: !record.name.contains("naive"),
    })
}

/// Units as people write them.
fn micro(unit: &str) -> &str {
    if unit == "us" { "µs" } else { unit }
}

/// Text that stays inside its cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
