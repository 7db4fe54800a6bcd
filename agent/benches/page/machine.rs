// SPDX-License-Identifier: Apache-2.0
//! What machine is this?

use std::{fs, path::Path};

use super::results::Machine;

/// Describes the machine as far as it lets itself be read. Says nothing that names it.
pub(crate) fn describe() -> Machine {
    let cpuinfo = read("/proc/cpuinfo");
    let field = |name: &str| {
        let mut lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(key, _)| key.trim() == name)?;
        Some(value.trim().to_owned())
    };
    let cores = cpuinfo
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let is_virtual =
        field("flags").is_some_and(|flags| flags.split(' ').any(|f| f == "hypervisor"));
    let mut lines = vec![
        (
            "Taken (UTC)",
            jiff::Timestamp::now()
                .strftime("%Y-%m-%d %H:%M")
                .to_string(),
        ),
        ("CPU", field("model name").unwrap_or_else(unknown)),
        (
            "Cores",
            format!(
                "{cores}{}",
                if is_virtual {
                    ", in a virtual machine"
                } else {
                    ""
                }
            ),
        ),
        ("Memory", memory()),
        ("Kernel", read("/proc/sys/kernel/osrelease")),
        (
            "BPF just-in-time compiler",
            switch("/proc/sys/net/core/bpf_jit_enable"),
        ),
        (
            "Frequency governor",
            read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        ),
        ("Mitigations", mitigations()),
        (
            "Load before the benchmarks",
            std::env::var("NETPOL_BENCH_LOAD").unwrap_or_default(),
        ),
        (
            "Run",
            std::env::var("NETPOL_BENCH_COMMAND").unwrap_or_else(|_| "make bench".to_owned()),
        ),
    ];
    for (_, value) in &mut lines {
        let trimmed = value.trim();
        *value = if trimmed.is_empty() {
            unknown()
        } else {
            trimmed.to_owned()
        };
    }
    let lines = lines
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value));
    Machine(lines.collect())
}

fn memory() -> String {
    let info = read("/proc/meminfo");
    let total = info.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = total.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.map_or_else(unknown, |kib| format!("{} GiB", (kib + (1 << 19)) >> 20))
}

/// What the kernel does against the CPU's weaknesses, leaving out those that the CPU does not have.
fn mitigations() -> String {
    let folder = Path::new("/sys/devices/system/cpu/vulnerabilities");
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let state = fs::read_to_string(entry.path()).unwrap_or_default();
        let state = state.trim();
        if !state.is_empty() && state != "Not affected" {
            found.push(format!("{}: {state}", entry.file_name().to_string_lossy()));
        }
    }
    found.sort();
    found.join("; ")
}

fn switch(path: &str) -> String {
    match read(path).trim() {
        "0" => "off".to_owned(),
        "1" | "2" => "on".to_owned(),
        _ => unknown(),
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn unknown() -> String {
    "not readable".to_owned()
}
