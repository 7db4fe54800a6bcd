// SPDX-License-Identifier: Apache-2.0
//! What is in the pinned maps?

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use anyhow::Result;
use policy_ebpf_common::{
    abi::{
        CLASS_HOST, Cell, ENDPOINT_AUDIT, ENDPOINT_QUARANTINE, PORT_PROTOCOL_OTHER,
        PORT_SET_BOUNDARIES, ROW_CHUNK, ROW_DENY, RowEntry,
    },
    lookup::{Bank, Tables, entry_of_class},
};

use super::{Listing, halves, peers};
use crate::{
    args::{Dump, DumpArgs, Output},
    datapath::Pinned,
    event::{ProtocolName, address},
    names::Names,
    reason,
};

/// Lists what is asked for.
pub fn dump(args: &DumpArgs) -> Result<String> {
    let tables = Pinned::open(&args.place.bpffs)?;
    // Without names there are still the numbers.
    let names = Names::read(&args.place.state_dir).unwrap_or_default();
    let listing = match args.what {
        Dump::Conntrack => conntrack(&tables, &names)?,
        Dump::Endpoints => endpoints(&tables, &names),
        Dump::Links => links(&tables, &names)?,
        Dump::Peers => classes(&tables),
        Dump::Services => services(&tables),
        Dump::Table => verdicts(&tables, &names)?,
    };
    Ok(match args.output {
        Output::Json => format!("{:#}\n", listing.json()),
        Output::Text => listing.to_string(),
    })
}

fn endpoints(tables: &Pinned, names: &Names) -> Listing {
    let bank = tables.bank();
    let columns = [
        "slot",
        "interface",
        "pod",
        "state",
        "ingress row",
        "egress row",
        "addresses",
    ];
    let mut listing = Listing::new(&columns);
    for (slot, endpoint) in tables.endpoints() {
        let [ingress, egress] = halves(endpoint.rows[bank.number as usize & 1]);
        let state = if endpoint.flags & ENDPOINT_QUARANTINE != 0 {
            "quarantined"
        } else if endpoint.flags & ENDPOINT_AUDIT != 0 {
            "audited"
        } else {
            "enforced"
        };
        let addresses: Vec<String> = [IpAddr::from(endpoint.ipv4), IpAddr::from(endpoint.ipv6)]
            .into_iter()
            .filter(|address| !address.is_unspecified())
            .map(|address| address.to_string())
            .collect();
        listing.push([
            slot.to_string(),
            endpoint.ifindex.to_string(),
            names.interface(endpoint.ifindex),
            state.to_owned(),
            row_name(ingress),
            row_name(egress),
            addresses.join(" "),
        ]);
    }
    listing
}

fn row_name(row: u16) -> String {
    match row {
        0 => "none".to_owned(),
        ROW_DENY => "deny".to_owned(),
        row => row.to_string(),
    }
}

fn classes(tables: &Pinned) -> Listing {
    let mut listing = Listing::new(&["block", "class", "service"]);
    for (block, word) in peers(tables, &tables.bank()) {
        let service = if word.is_service() { "yes" } else { "" };
        listing.push([
            block.to_string(),
            word.class().to_string(),
            service.to_owned(),
        ]);
    }
    listing
}

fn services(tables: &Pinned) -> Listing {
    let mut listing = Listing::new(&["address", "protocol", "port", "class"]);
    for (key, class) in tables.services(tables.bank().number) {
        listing.push([
            address(key.address).to_string(),
            ProtocolName(key.protocol).to_string(),
            u16::from_be_bytes(key.port).to_string(),
            class.to_string(),
        ]);
    }
    listing
}

fn links(tables: &Pinned, names: &Names) -> Result<Listing> {
    let mut listing = Listing::new(&["interface", "pod", "program"]);
    for (hook, ifindex) in tables.links()? {
        listing.push([
            ifindex.to_string(),
            names.interface(ifindex),
            hook.name().to_owned(),
        ]);
    }
    Ok(listing)
}

fn conntrack(tables: &Pinned, names: &Names) -> Result<Listing> {
    let columns = [
        "pod",
        "local",
        "remote",
        "protocol",
        "idle s",
        "state",
        "admitted by",
    ];
    let mut listing = Listing::new(&columns);
    let endpoints = tables.endpoints();
    for flow in tables.flows()? {
        let endpoint = endpoints
            .values()
            .find(|endpoint| endpoint.id == flow.endpoint);
        let pod = endpoint.map_or_else(
            || format!("endpoint {}", flow.endpoint),
            |endpoint| names.interface(endpoint.ifindex),
        );
        let end = |address: IpAddr, port: u16| std::net::SocketAddr::new(address, port).to_string();
        let state = if flow.expired { "expired" } else { "live" };
        listing.push([
            pod,
            end(flow.local, flow.local_port),
            end(flow.remote, flow.remote_port),
            ProtocolName(flow.protocol).to_string(),
            flow.idle_seconds.to_string(),
            state.to_owned(),
            admitter(Cell(flow.state.cell), names),
        ]);
    }
    Ok(listing)
}

/// One line per pod, direction, port range and verdict, with the classes it holds for.
fn verdicts(tables: &Pinned, names: &Names) -> Result<Listing> {
    let bank = tables.bank();
    let columns = [
        "pod",
        "direction",
        "classes",
        "ports",
        "verdict",
        "because",
        "packets",
    ];
    let mut listing = Listing::new(&columns);
    let mut classes: BTreeSet<u16> = peers(tables, &bank)
        .into_iter()
        .map(|(_, word)| word.class())
        .collect();
    classes.insert(CLASS_HOST);
    classes.extend(
        tables
            .services(bank.number)
            .filter_map(|(_, class)| u16::try_from(class).ok()),
    );
    debug_assert!(classes.len() <= bank.row_chunks as usize * ROW_CHUNK);
    for endpoint in tables.endpoints().values() {
        let rows = halves(endpoint.rows[bank.number as usize & 1]);
        for (direction, row) in ["ingress", "egress"].into_iter().zip(rows) {
            if row == 0 {
                continue;
            }
            let mut by_entry: BTreeMap<u16, Vec<u16>> = BTreeMap::new();
            for class in &classes {
                let entry = entry_of_class(tables, &bank, row, *class);
                by_entry.entry(entry.0).or_default().push(*class);
            }
            for (entry, classes) in by_entry {
                let classes: Vec<String> = classes.iter().map(u16::to_string).collect();
                for (ports, cell) in intervals(tables, &bank, RowEntry(entry)) {
                    let verdict = match cell.action() {
                        _ if cell.audit() => "would drop",
                        Cell::ALLOW => "allow",
                        Cell::DEFER => "defer",
                        Cell::DESCEND => "continued",
                        _ => "deny",
                    };
                    let counter = tables.rule_counter(cell.reason())?;
                    listing.push([
                        names.interface(endpoint.ifindex),
                        direction.to_owned(),
                        classes.join(","),
                        ports,
                        verdict.to_owned(),
                        said(cell, names),
                        counter.packets.to_string(),
                    ]);
                }
            }
        }
    }
    Ok(listing)
}

/// What a cell says, the denial of audited policies included.
fn said(cell: Cell, names: &Names) -> String {
    let decision = names.decisions.get(&cell.reason());
    decision.map_or_else(String::new, |decision| {
        reason::describe(decision.with_all())
    })
}

/// What let a flow pass.
fn admitter(cell: Cell, names: &Names) -> String {
    names
        .decisions
        .get(&cell.reason())
        .map_or_else(String::new, |decision| reason::describe(decision))
}

/// The runs of ports that an entry tells apart, as `tcp/0-79`, with their cells.
fn intervals(tables: &Pinned, bank: &Bank, entry: RowEntry) -> Vec<(String, Cell)> {
    if let Some(index) = entry.as_uniform() {
        let cell = tables.uniform(bank.number, u32::from(index));
        return vec![("all".to_owned(), Cell(cell.unwrap_or_default()))];
    }
    let Some(set) = tables.port_set(bank.number, u32::from(entry.0)) else {
        return Vec::new();
    };
    let end = (PORT_PROTOCOL_OTHER << 16) + 1;
    let starts: Vec<u32> = std::iter::once(0)
        .chain(set.boundaries)
        .take(PORT_SET_BOUNDARIES + 1)
        .collect();
    let mut runs: Vec<(u32, u32, Cell)> = Vec::new();
    for (i, start) in starts.iter().enumerate() {
        let next = starts.get(i + 1).copied().unwrap_or(end).min(end);
        if *start >= next {
            continue;
        }
        let cell = Cell(set.cells[i]);
        match runs.last_mut() {
            Some((_, last, same)) if *same == cell => *last = next,
            _ => runs.push((*start, next, cell)),
        }
    }
    runs.into_iter()
        .map(|(start, end, cell)| (keys(start, end), cell))
        .collect()
}

/// A half-open run of port keys.
fn keys(start: u32, end: u32) -> String {
    let mut parts = Vec::new();
    for (protocol, name) in ["tcp", "udp", "sctp", "other"].into_iter().enumerate() {
        let first = u32::try_from(protocol).unwrap_or_default() << 16;
        let last = if name == "other" {
            first + 1
        } else {
            first + 0x1_0000
        };
        let (from, to) = (start.max(first), end.min(last));
        if from >= to {
            continue;
        }
        parts.push(match (from - first, to - first - 1) {
            (0, _) if to == last => name.to_owned(),
            (one, same) if one == same => format!("{name}/{one}"),
            (from, to) => format!("{name}/{from}-{to}"),
        });
    }
    parts.join(" ")
}
