// SPDX-License-Identifier: Apache-2.0
//! What does the kernel do with a flow, in words?

use std::{fmt::Write as _, net::IpAddr};

use anyhow::{Context as _, Result, bail};
use policy_compiler::model::PodKey;
use policy_ebpf_common::{
    abi::{Cell, Endpoint},
    decide::{Judgement, Outcome},
    flow::{Direction, Source},
    parse::{Address, ICMP, ICMPV6, Kind, Packet, SCTP, TCP, UDP},
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
    let endpoints = tables.endpoints();
    let source = end(&args.source, &names)?;
    let destination = end(&args.destination, &names)?;
    let flow = Flow::new(&args.port, args.source_port)?;

    let endpoint_of = |pod: &PodKey| {
        let mut interfaces = names.interfaces_of(pod);
        interfaces
            .find_map(|ifindex| endpoints.iter().find(|(_, e)| e.ifindex == ifindex))
            .map(|(slot, endpoint)| (*slot, endpoint))
            .with_context(|| format!("pod `{pod}` is not enforced here"))
    };
    let mut out = String::new();
    for (direction, me, peer) in [
        (Direction::Egress, &source, &destination),
        (Direction::Ingress, &destination, &source),
    ] {
        let End::Pod(pod) = me else { continue };
        let (slot, endpoint) = endpoint_of(pod)?;
        let (known, peers) = match peer {
            End::Host => (Source::Host, vec![None]),
            End::Address(address) => (Source::Address, vec![Some(*address)]),
            End::Pod(other) => {
                let (other_slot, other_endpoint) = endpoint_of(other)?;
                let known = match direction {
                    _ if other == pod => Source::Own,
                    // The mark that the other pod's program leaves on its packets.
                    Direction::Ingress => Source::Slot(other_slot),
                    Direction::Egress => Source::Address,
                };
                let peers = addresses(other_endpoint);
                (known, peers.into_iter().map(Some).collect())
            }
        };
        for peer in peers {
            let question = Question {
                slot,
                direction,
                source: known,
                packet: flow.packet(direction, endpoint, peer),
            };
            let verdict = explain(&tables, &question)?.context("the pod is leaving")?;
            let side = match direction {
                Direction::Egress => "egress",
                Direction::Ingress => "ingress",
            };
            let peer = peer.map_or_else(|| "host".to_owned(), |peer| peer.to_string());
            let because = because(verdict.judgement, &names);
            let word = verdict.word();
            writeln!(
                out,
                "{side:8} {pod}  peer {peer}  {}  {word}  {because}",
                args.port
            )?;
            if steps {
                for step in &verdict.steps {
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

fn because(judgement: Judgement, names: &Names) -> String {
    let Judgement { outcome, cell } = judgement;
    match outcome {
        Outcome::Unenforced => "no policy concerns the pod in this direction".to_owned(),
        Outcome::Quarantined => "quarantined: nothing is known of the pod".to_owned(),
        Outcome::Spoofed => "the source address is not the pod's".to_owned(),
        Outcome::Established => format!("part of a flow admitted by {}", rule(cell, names)),
        Outcome::Reply => format!("replies to what is admitted by {}", rule(cell, names)),
        _ => rule(cell, names),
    }
}

fn rule(cell: Cell, names: &Names) -> String {
    match names.decisions.get(&cell.reason()) {
        Some(decision) => {
            let said = decision.with_all();
            let at = reason::location(said).map(|at| format!("  {at}"));
            let instead = match &decision.audited {
                Some(_) => format!("; audited, {} decides", reason::describe(decision)),
                None => String::new(),
            };
            format!(
                "{} ({}){}{instead}",
                reason::describe(said),
                said.tier,
                at.unwrap_or_default()
            )
        }
        None if cell.reason() == 0 => "no reason recorded".to_owned(),
        None => format!("reason {}", cell.reason()),
    }
}

/// A flow, whoever its ends are.
#[derive(Clone, Copy, Debug)]
struct Flow {
    /// IP protocol number; of the two of ICMP, that of IPv4.
    protocol: u8,
    port: u16,
    /// The packet is one of an open flow, from this port; else it opens one.
    source_port: Option<u16>,
}

impl Flow {
    /// Reads `tcp/80`.
    fn new(text: &str, source_port: Option<u16>) -> Result<Self> {
        let (protocol, port) = transport(text)?;
        Ok(Self {
            protocol,
            port,
            source_port,
        })
    }

    /// A packet of the flow at the interface of `pod`. Where the node is the other end, its address does
    /// not matter.
    fn packet(self, direction: Direction, pod: &Endpoint, peer: Option<IpAddr>) -> Packet {
        let ipv6 = match peer {
            Some(peer) => peer.is_ipv6(),
            None => pod.ipv4 == [0; 4],
        };
        let own = if ipv6 {
            Address::v6(pod.ipv6)
        } else {
            Address::v4(pod.ipv4)
        };
        let peer = match peer {
            Some(IpAddr::V4(peer)) => Address::v4(peer.octets()),
            Some(IpAddr::V6(peer)) => Address::v6(peer.octets()),
            None => Address::default(),
        };
        let (source, destination) = match direction {
            Direction::Ingress => (peer, own),
            Direction::Egress => (own, peer),
        };
        Packet {
            source,
            destination,
            source_port: self.source_port.unwrap_or_default(),
            destination_port: self.port,
            protocol: if self.protocol == ICMP && ipv6 {
                ICMPV6
            } else {
                self.protocol
            },
            kind: match self.protocol {
                TCP if self.source_port.is_none() => Kind::Opening,
                TCP => Kind::Stream,
                ICMP => Kind::EchoRequest,
                _ => Kind::Datagram,
            },
            ipv6,
            ..Packet::default()
        }
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
        return Ok((ICMP, 0));
    }
    let (protocol, port) = text.split_once('/').unwrap_or(("tcp", &text));
    let protocol = match protocol {
        "tcp" => TCP,
        "udp" => UDP,
        "sctp" => SCTP,
        _ => bail!("`{protocol}` is neither tcp, udp, sctp nor icmp"),
    };
    let port = port
        .parse()
        .with_context(|| format!("`{port}` is no port number"))?;
    Ok((protocol, port))
}
