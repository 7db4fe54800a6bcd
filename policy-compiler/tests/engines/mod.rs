// SPDX-License-Identifier: Apache-2.0
//! Everything that can judge a flow, behind one trait: what the corpus and the properties run on.
#![expect(clippy::expect_used, clippy::panic, reason = "tests fail loudly")]

mod frames;

use std::collections::{BTreeMap, BTreeSet};

use policy_compiler::{
    Decision, Flow, Reason, Snapshot, Trace, Verdict,
    compile::{Scope, compile},
    lower::{Capacity, EndpointImage, Image, ImagePeer, Reasons, lower},
    model::{Direction, Family, Pod, Protocol, Tier},
    reach::{Party, Reach},
    reference,
    verdict::Endpoint,
};
use policy_ebpf_common::abi::Cell;

/// A way to judge flows.
pub(crate) trait Engine {
    /// The name that a corpus case skips the engine by.
    fn name(&self) -> &'static str;

    /// Prepares `snapshot` for questions.
    fn load<'a>(&self, snapshot: &'a Snapshot) -> Box<dyn Fn(&Flow) -> Answer + 'a>;
}

/// What an engine says of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "answers are looked at one at a time"
)]
pub(crate) enum Answer {
    /// The verdict with the reasons of both directions.
    Trace(Trace),
    /// The verdict only.
    #[expect(dead_code, reason = "engines without reasons are yet to come")]
    Verdict(Verdict),
    /// The engine cannot be asked, and why.
    Skip(&'static str),
}

/// Every engine of this crate, the oracle first.
pub(crate) fn all() -> Vec<Box<dyn Engine>> {
    vec![
        Box::new(Oracle),
        Box::new(Compiled),
        Box::new(Tabled),
        Box::new(Lowered),
        Box::new(Framed),
        Box::new(PerNode),
    ]
}

/// [`reference::evaluate`].
struct Oracle;

impl Engine for Oracle {
    fn name(&self) -> &'static str {
        "reference"
    }

    fn load<'a>(&self, snapshot: &'a Snapshot) -> Box<dyn Fn(&Flow) -> Answer + 'a> {
        Box::new(|flow| Answer::Trace(reference::evaluate(snapshot, flow)))
    }
}

/// [`Reach`], which compiles one pair of endpoints at a time.
struct Compiled;

impl Engine for Compiled {
    fn name(&self) -> &'static str {
        "reach"
    }

    fn load<'a>(&self, snapshot: &'a Snapshot) -> Box<dyn Fn(&Flow) -> Answer + 'a> {
        let reach = Reach::new(snapshot);
        Box::new(move |flow| Answer::Trace(reach.decide(flow)))
    }
}

/// [`compile`], the tables of the whole cluster.
struct Tabled;

impl Engine for Tabled {
    fn name(&self) -> &'static str {
        "tables"
    }

    fn load<'a>(&self, snapshot: &'a Snapshot) -> Box<dyn Fn(&Flow) -> Answer + 'a> {
        let tables = compile(snapshot, &Scope::Cluster);
        Box::new(move |flow| Answer::Trace(tables.evaluate(snapshot, flow)))
    }
}

/// [`lower`], the tables of the whole cluster as the datapath's own code reads them on the host.
struct Lowered;

impl Engine for Lowered {
    fn name(&self) -> &'static str {
        "lowered"
    }

    fn load<'a>(&self, snapshot: &'a Snapshot) -> Box<dyn Fn(&Flow) -> Answer + 'a> {
        let image = Lower::new(snapshot, &Scope::Cluster);
        let reach = Reach::new(snapshot);
        Box::new(move |flow| judge(&reach, flow, looked_up, |_| Ok(&image)))
    }
}

/// [`lower`], the tables of the whole cluster as the datapath's own code judges frames by them on the
/// host.
struct Framed;

impl Engine for Framed {
    fn name(&self) -> &'static str {
        "frames"
    }

    fn load<'a>(&self, snapshot: &'a Snapshot) -> Box<dyn Fn(&Flow) -> Answer + 'a> {
        let image = Lower::new(snapshot, &Scope::Cluster);
        let reach = Reach::new(snapshot);
        Box::new(move |flow| judge(&reach, flow, frames::cell, |_| Ok(&image)))
    }
}

/// [`lower`] as agents use it: each direction is asked of the tables of its pod's node.
struct PerNode;

impl Engine for PerNode {
    fn name(&self) -> &'static str {
        "nodes"
    }

    fn load<'a>(&self, snapshot: &'a Snapshot) -> Box<dyn Fn(&Flow) -> Answer + 'a> {
        let nodes: BTreeSet<_> = snapshot
            .pods
            .values()
            .filter_map(|pod| pod.node.clone())
            .collect();
        let images: BTreeMap<_, _> = nodes
            .into_iter()
            .map(|node| (node.clone(), Lower::new(snapshot, &Scope::Node(node))))
            .collect();
        let reach = Reach::new(snapshot);
        Box::new(move |flow| {
            judge(&reach, flow, looked_up, |pod| match &pod.node {
                Some(node) => Ok(&images[node]),
                None => Err("no node enforces for a pod without one"),
            })
        })
    }
}

struct Lower {
    image: Image,
    reasons: Reasons,
}

impl Lower {
    fn new(snapshot: &Snapshot, scope: &Scope) -> Self {
        let mut reasons = Reasons::default();
        let tables = compile(snapshot, scope);
        let image = lower(&tables, &Capacity::default(), &mut reasons).expect("small worlds fit");
        Self { image, reasons }
    }
}

/// How an image is asked about a peer and the family, protocol and port of a flow: `None` if nothing
/// is enforced in that direction, an error if the question cannot be asked in that way.
type Ask = fn(
    &Image,
    &EndpointImage,
    Direction,
    ImagePeer,
    (Family, Protocol, u16),
) -> Result<Option<Cell>, &'static str>;

/// By looking up.
#[expect(clippy::unnecessary_wraps, reason = "one of the ways to ask")]
fn looked_up(
    image: &Image,
    endpoint: &EndpointImage,
    direction: Direction,
    peer: ImagePeer,
    (_, protocol, port): (Family, Protocol, u16),
) -> Result<Option<Cell>, &'static str> {
    Ok(image.cell(endpoint, direction, peer, protocol, port))
}

/// Asks the image that is responsible for each end.
fn judge<'a>(
    reach: &Reach<'_>,
    flow: &Flow,
    ask: Ask,
    image: impl Fn(&Pod) -> Result<&'a Lower, &'static str>,
) -> Answer {
    let source = reach.party(&flow.source, flow.family);
    let destination = reach.party(&flow.destination, flow.family);
    let same = source
        .pod
        .zip(destination.pod)
        .is_some_and(|(a, b)| a.key == b.key);
    let allowed = |reason| Decision {
        verdict: Verdict::Allow,
        tier: Tier::Default,
        reason,
        passed: vec![],
        audited: None,
    };
    if same && !flow.via_service {
        let own = || allowed(Reason::SelfTraffic);
        return Answer::Trace(Trace::new(own(), own()));
    }
    let direction = |direction, me: &Party<'_>, peer: &Party<'_>| {
        let Some(pod) = me.pod else {
            return Ok(allowed(Reason::NotASubject));
        };
        let Lower { image, reasons } = image(pod)?;
        let own_node = peer.node.is_some() && peer.node == pod.node;
        let host = own_node && (direction == Direction::Ingress || peer.address.is_none());
        let peer = match (peer.pod, peer.address) {
            _ if same => ImagePeer::Own(flow.family),
            _ if host => ImagePeer::Host,
            // The datapath knows a peer by its address. Who has none, or lost it to another pod, cannot
            // be met there, and stands for its class.
            (Some(pod), Some(address))
                if reach.party(&Endpoint::Address(address), flow.family).pod == Some(pod) =>
            {
                ImagePeer::Address(address)
            }
            (Some(pod), _) => {
                let peer = image.endpoints.get(&pod.key);
                let classes = peer
                    .ok_or("a pod of another node is met by its address only")?
                    .classes;
                ImagePeer::Class(match flow.family {
                    Family::V4 => (classes & 0xffff) as u16,
                    Family::V6 => (classes >> 16) as u16,
                })
            }
            (None, Some(address)) => ImagePeer::Address(address),
            (None, None) => ImagePeer::Class(2),
        };
        let endpoint = &image.endpoints[&pod.key];
        let about = (flow.family, flow.protocol, flow.port);
        let Some(cell) = ask(image, endpoint, direction, peer, about)? else {
            return Ok(allowed(Reason::Default));
        };
        let decision = reasons.get(cell.reason()).expect("every cell has a reason");
        assert_eq!(cell.audit(), decision.audited.is_some());
        assert_eq!(
            cell.action() == Cell::ALLOW || cell.audit(),
            decision.verdict == Verdict::Allow
        );
        Ok((**decision).clone())
    };
    let egress = direction(Direction::Egress, &source, &destination);
    let ingress = direction(Direction::Ingress, &destination, &source);
    match (egress, ingress) {
        (Ok(egress), Ok(ingress)) => Answer::Trace(Trace::new(egress, ingress)),
        (Err(why), _) | (_, Err(why)) => Answer::Skip(why),
    }
}
