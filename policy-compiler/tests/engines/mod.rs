// SPDX-License-Identifier: Apache-2.0
//! Everything that can judge a flow, behind one trait: what the corpus and the properties run on.
#![expect(clippy::expect_used, reason = "tests fail loudly")]

use policy_compiler::{
    Decision, Flow, Reason, Snapshot, Trace, Verdict,
    compile::{Scope, compile},
    lower::{Capacity, ImagePeer, Reasons, lower},
    model::{Direction, Family, Tier},
    reach::{Party, Reach},
    reference,
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
    #[expect(dead_code, reason = "no engine is that limited yet")]
    Skip(&'static str),
}

/// Every engine of this crate, the oracle first.
pub(crate) fn all() -> Vec<Box<dyn Engine>> {
    vec![
        Box::new(Oracle),
        Box::new(Compiled),
        Box::new(Tabled),
        Box::new(Lowered),
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

/// [`lower`], the tables as the datapath's own code reads them on the host.
struct Lowered;

impl Engine for Lowered {
    fn name(&self) -> &'static str {
        "lowered"
    }

    fn load<'a>(&self, snapshot: &'a Snapshot) -> Box<dyn Fn(&Flow) -> Answer + 'a> {
        let tables = compile(snapshot, &Scope::Cluster);
        let mut reasons = Reasons::default();
        let image = lower(&tables, &Capacity::default(), &mut reasons).expect("small worlds fit");
        let reach = Reach::new(snapshot);
        Box::new(move |flow| {
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
            };
            if same && !flow.via_service {
                let own = || allowed(Reason::SelfTraffic);
                return Answer::Trace(Trace::new(own(), own()));
            }
            let direction = |direction, me: &Party<'_>, peer: &Party<'_>| {
                let Some(pod) = me.pod else {
                    return allowed(Reason::NotASubject);
                };
                let endpoint = &image.endpoints[&pod.key];
                let own_node = peer.node.is_some() && peer.node == pod.node;
                let class = |classes: u32| match flow.family {
                    Family::V4 => (classes & 0xffff) as u16,
                    Family::V6 => (classes >> 16) as u16,
                };
                let peer = match (peer.pod, peer.address) {
                    _ if same => ImagePeer::Own(flow.family),
                    _ if own_node
                        && (direction == Direction::Ingress || peer.address.is_none()) =>
                    {
                        ImagePeer::Host
                    }
                    (Some(pod), _) => ImagePeer::Class(class(image.endpoints[&pod.key].classes)),
                    (None, Some(address)) => ImagePeer::Address(address),
                    (None, None) => ImagePeer::Class(2),
                };
                let cell = image.cell(endpoint, direction, peer, flow.protocol, flow.port);
                let Some(cell) = cell else {
                    return allowed(Reason::Default);
                };
                let decision = reasons.get(cell.reason()).expect("every cell has a reason");
                assert_eq!(
                    cell.action() == Cell::ALLOW,
                    decision.verdict == Verdict::Allow
                );
                (**decision).clone()
            };
            Answer::Trace(Trace::new(
                direction(Direction::Egress, &source, &destination),
                direction(Direction::Ingress, &destination, &source),
            ))
        })
    }
}
