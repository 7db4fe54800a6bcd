// SPDX-License-Identifier: Apache-2.0
//! What does the kernel do with a flow, in words?

use std::{fmt::Write as _, net::IpAddr};

use anyhow::{Context as _, Result, bail};
use policy_compiler::model::PodKey;
use policy_ebpf_common::{
    abi::{Cell, Endpoint},
    flow::Direction,
};

use super::{Question, explain};
use crate::{args::ExplainArgs, datapath::Pinned, names::Names, reason};

/// One end of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// The node's own network stack.
    Host,
    /// A pod of this node: its endpoint's addresses are known.
    Pod(PodKey),
    /// Anybody else.
    Address(IpAddr),
}

/// Answers for each end that is a pod of this node, once per address family; with `steps`, shows every
/// lookup.
pub fn answer(args: &ExplainArgs, steps: bool) -> Result<String> {
    let names = Names::read(&args.place.state_dir)?;
    let tables = Pinned::open(&args.place.bpffs)?;
    let bank = tables.bank();
    let endpoints = tables.endpoints();
    let source = end(&args.source, &names)?;
    let destination = end(&args.destination, &names)?;
    let (protocol, port) = transport(&args.port)?;

    let endpoint_of = |pod: &PodKey| {
        let mut interfaces = names.interfaces_of(pod);
        interfaces.find_map(|ifindex| endpoints.values().find(|e| e.ifindex == ifindex))
    };
    let mut out = String::new();
    for (direction, me, peer) in [
        (Direction::Egress, &source, &destination),
        (Direction::Ingress, &destination, &source),
    ] {
        let End::Pod(pod) = me else { continue };
        let endpoint =
            endpoint_of(pod).with_context(|| format!("pod `{pod}` is not enforced here"))?;
        let peers = match peer {
            End::Host => vec![None],
            End::Address(address) => vec![Some(*address)],
            End::Pod(peer) => {
                let peer = endpoint_of(peer)
                    .with_context(|| format!("pod `{peer}` is not enforced here"))?;
                addresses(peer).into_iter().map(Some).collect()
            }
        };
        for peer in peers {
            let question = Question {
                direction,
                peer,
                protocol,
                port,
            };
            let verdicts = explain(&tables, &bank, endpoint, &question);
            let side = match direction {
                Direction::Egress => "egress",
                Direction::Ingress => "ingress",
            };
            let peer = peer.map_or_else(|| "host".to_owned(), |peer| peer.to_string());
            let because = because(verdicts.quarantined, verdicts.cell, &names);
            let verdict = verdicts.verdict();
            writeln!(
                out,
                "{side:8} {pod}  peer {peer}  {}  {verdict}  {because}",
                args.port
            )?;
            if steps {
                for step in &verdicts.steps {
                    writeln!(out, "    {step}")?;
                }
            }
        }
    }
    if out.is_empty() {
        bail!("neither end is a pod that is enforced on this node");
    }
    Ok(out)
}

fn because(quarantined: bool, cell: Option<Cell>, names: &Names) -> String {
    if quarantined {
        return "quarantined: nothing is known of the pod".to_owned();
    }
    let Some(cell) = cell else {
        return "no policy concerns the pod in this direction".to_owned();
    };
    match names.decisions.get(&cell.reason()) {
        Some(decision) => {
            let at = reason::location(decision).map(|at| format!("  {at}"));
            format!(
                "{} ({}){}",
                reason::describe(decision),
                decision.tier,
                at.unwrap_or_default()
            )
        }
        None if cell.reason() == 0 => "no reason recorded".to_owned(),
        None => format!("reason {}", cell.reason()),
    }
}

/// The addresses in an endpoint entry.
fn addresses(endpoint: &Endpoint) -> Vec<IpAddr> {
    let addresses = [IpAddr::from(endpoint.ipv4), IpAddr::from(endpoint.ipv6)];
    addresses
        .into_iter()
        .filter(|address| !address.is_unspecified())
        .collect()
}

fn end(text: &str, names: &Names) -> Result<End> {
    if text == "host" {
        return Ok(End::Host);
    }
    if let Ok(address) = text.parse() {
        return Ok(End::Address(address));
    }
    let Some((namespace, name)) = text.split_once('/') else {
        bail!("`{text}` is neither `host`, an address, nor a pod as `namespace/name`");
    };
    let pod = PodKey::new(namespace, name);
    if names.interfaces_of(&pod).next().is_none() {
        bail!(
            "pod `{pod}` has no interface on node `{}`: give its address",
            names.node
        );
    }
    Ok(End::Pod(pod))
}

/// `tcp/80` as IP protocol number and port.
fn transport(text: &str) -> Result<(u8, u16)> {
    let text = text.to_ascii_lowercase();
    if text == "icmp" {
        return Ok((1, 0));
    }
    let (protocol, port) = text.split_once('/').unwrap_or(("tcp", &text));
    let protocol = match protocol {
        "tcp" => 6,
        "udp" => 17,
        "sctp" => 132,
        _ => bail!("`{protocol}` is neither tcp, udp, sctp nor icmp"),
    };
    let port = port
        .parse()
        .with_context(|| format!("`{port}` is no port number"))?;
    Ok((protocol, port))
}
