// SPDX-License-Identifier: Apache-2.0
//! What holds for every text?
//!
//! The properties behind the fuzz targets; the tests of `policy-compiler` check more, on inputs that are
//! drawn instead of searched for.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use policy_compiler::{
    Flow, Snapshot,
    change::Change,
    compile::{Applied, Compiler, Scope, Tables, compile},
    diagnostic::Severity,
    lower::{Capacity, Image, Lowered, Reasons},
    manifest::{Fate, Loaded, load},
    model::{Family, Protocol},
    parse::Settings,
    reference,
    verdict::Endpoint,
};
use policy_ebpf_common::{lookup::word_of, parse::Address};

/// Reads `text`: every problem has a place in it, and what is used is not also refused.
pub fn parse(text: &str) {
    let loaded = read(text);
    // A carriage return alone ends a line, too (YAML 1.2, section 5.4).
    let ends = text.replace("\r\n", "\n");
    let lines = ends.split(['\n', '\r']).count();
    let lines = u32::try_from(lines).unwrap_or(u32::MAX);
    for diagnostic in &loaded.diagnostics {
        let at = diagnostic.at.as_ref();
        let inside = at.is_some_and(|at| (1..=lines).contains(&at.line) && at.column >= 1);
        assert!(inside, "{diagnostic:?} of {lines} lines");
        assert!(
            !diagnostic.message.contains(char::is_control),
            "{diagnostic:?}"
        );
    }
    let mut problems = loaded.diagnostics.iter();
    let is_wrong = problems.any(|problem| problem.severity == Severity::Error);
    let mut fates = loaded.ledger.iter().map(|entry| &entry.fate);
    let is_whole = fates.all(|fate| matches!(fate, Fate::Used | Fate::Ignored));
    assert_ne!(is_wrong, is_whole, "{:?}", loaded.diagnostics);
}

/// Reads `text`, compiles it for one of its nodes and lays it out, then takes one object after the other
/// away. Oracle, tables and image agree at every step.
pub fn lower(text: &str) {
    let mut snapshot = read(text).snapshot;
    if objects(&snapshot) > MANY {
        return;
    }
    let of_pods = snapshot.pods.values().find_map(|pod| pod.node.clone());
    let node = of_pods.or_else(|| snapshot.nodes.keys().next().cloned());
    let node: Arc<str> = node.unwrap_or_else(|| "n1".into());
    let mut compiler = Compiler::new(&node, snapshot.clone());
    let mut reasons = Reasons::default();
    let mut lowered = lay_out(compiler.tables(), &mut reasons);
    let mut addresses = boundaries(compiler.tables());
    agree(&snapshot, compiler.tables(), lowered.image(), &addresses);
    for change in snapshot.changes_to(&Snapshot::default()) {
        snapshot.apply(change.clone());
        lowered = follow(&mut compiler, change, lowered, &mut reasons);
        addresses.extend(boundaries(compiler.tables()));
        agree(&snapshot, compiler.tables(), lowered.image(), &addresses);
    }
}

/// Clusters of more objects are not searched: they are slow, and need nothing that small ones lack.
const MANY: usize = 24;

fn read(text: &str) -> Loaded {
    load([("input", text)], &Settings::default())
}

fn objects(snapshot: &Snapshot) -> usize {
    snapshot.pods.len()
        + snapshot.nodes.len()
        + snapshot.services.len()
        + snapshot.network_policies.len()
        + snapshot.admin_policies.len()
}

fn lay_out(tables: &Tables, reasons: &mut Reasons) -> Lowered {
    Lowered::new(tables, &Capacity::default(), reasons).expect("small clusters fit")
}

fn follow(
    compiler: &mut Compiler,
    change: Change,
    lowered: Lowered,
    reasons: &mut Reasons,
) -> Lowered {
    let followed = match compiler.apply(change) {
        Applied::Unchanged => Some(lowered),
        Applied::Delta(delta) => {
            lowered.follow(compiler.tables(), &delta, &Capacity::default(), reasons)
        }
        Applied::Rebuilt => None,
    };
    followed.unwrap_or_else(|| lay_out(compiler.tables(), reasons))
}

fn agree(snapshot: &Snapshot, tables: &Tables, image: &Image, addresses: &BTreeSet<IpAddr>) {
    for address in addresses {
        let on_wire = match address {
            IpAddr::V4(v4) => Address::v4(v4.octets()),
            IpAddr::V6(v6) => Address::v6(v6.octets()),
        };
        let word = word_of(image, &image.bank(), &on_wire, address.is_ipv6());
        let class = tables.addresses.class_of(*address).0;
        assert_eq!(u32::from(word.class()), class, "{address}");
    }
    assert_eq!(image.endpoints.len(), tables.pods.len());

    let whole = compile(snapshot, &Scope::Cluster);
    let outside = [
        IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7)),
    ];
    let mut ends: Vec<Endpoint> = snapshot.endpoints().take(6).collect();
    ends.extend(outside.map(Endpoint::Address));
    for source in &ends {
        for destination in &ends {
            for (family, protocol, port) in [
                (Family::V4, Protocol::Tcp, 80),
                (Family::V6, Protocol::Udp, 53),
                (Family::V4, Protocol::Other, 0),
            ] {
                let flow = Flow {
                    source: source.clone(),
                    destination: destination.clone(),
                    protocol,
                    port,
                    family,
                    via_service: false,
                };
                let expected = reference::evaluate(snapshot, &flow);
                assert_eq!(whole.evaluate(snapshot, &flow), expected, "{flow:?}");
            }
        }
    }
}

/// Addresses beside which another class may begin.
fn boundaries(tables: &Tables) -> BTreeSet<IpAddr> {
    let blocks = tables.addresses.blocks().iter();
    let blocks = blocks.flat_map(|(net, _)| [net.network(), net.broadcast()]);
    let hosts = tables.addresses.hosts().map(|(address, _)| address);
    let edges: Vec<IpAddr> = blocks.chain(hosts).collect();
    edges.into_iter().flat_map(around).collect()
}

/// The address, the one before and the one behind.
fn around(address: IpAddr) -> [IpAddr; 3] {
    match address {
        IpAddr::V4(v4) => {
            let bits = v4.to_bits();
            [bits.saturating_sub(1), bits, bits.saturating_add(1)]
                .map(|bits| IpAddr::V4(bits.into()))
        }
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            [bits.saturating_sub(1), bits, bits.saturating_add(1)]
                .map(|bits| IpAddr::V6(bits.into()))
        }
    }
}
