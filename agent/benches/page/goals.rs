// SPDX-License-Identifier: Apache-2.0
//! Which goals does a run meet?
//!
//! Every goal is a ratio or a difference of quantities of one run, so that it means the same on other
//! machines.

use super::results::Results;

/// What a quantity should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Limit {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

/// One quantity beside its threshold. A goal may have several.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Comparison {
    /// `G1` to `G14`, and `A1` to `A4` of the analyzer.
    pub(crate) goal: &'static str,
    /// What is compared.
    pub(crate) what: &'static str,
    /// What it is compared with.
    pub(crate) against: &'static str,
    /// `None` if the run has no such quantity.
    pub(crate) measured: Option<f64>,
    /// What comes behind the number: empty for a ratio.
    pub(crate) unit: &'static str,
    pub(crate) limit: Limit,
}

impl Comparison {
    /// Whether the goal is met, if it was measured.
    pub(crate) fn is_met(&self) -> Option<bool> {
        let measured = self.measured?;
        Some(match self.limit {
            Limit::AtMost(limit) => measured <= limit,
            Limit::AtLeast(limit) => measured >= limit,
        })
    }
}

/// Programs that a packet passes on its way there and back: two for each pod.
const HOOKS: f64 = 4.0;

/// What is measured of a packet of an open connection, and at which sizes.
const FORWARD: &str = "to_pod/forward/v4";
const SMALL: &str = "10-rules/1000-peers/1k-flows";
const MIDDLE: &str = "1000-rules/10000-peers/1k-flows";
const LARGE: &str = "10000-rules/100000-peers/1k-flows";

/// The largest cluster, and the change that a node's agent feels most.
const LARGEST: &str = "100000x10000 Realistic";
const CHANGED: &str = "policy of a pod of the node changed";

/// Every goal, in order.
pub(crate) fn goals(results: &Results) -> Vec<Comparison> {
    use Limit::{AtLeast, AtMost};
    let verdict = |name: &str, size: &str| results.value("verdict", &format!("{name}/{size}"));
    let wire = |quantity: &str, configuration: &str| {
        results.added("wire", &format!("{quantity}/{configuration}"))
    };
    let rr = |configuration: &str| wire("tcp_rr", configuration);
    let crr = |configuration: &str| wire("tcp_crr", configuration);
    let flood = |configuration: &str| results.value("wire", &format!("flood/{configuration}"));
    let compiler = |name: &str| results.milliseconds("compiler", name);
    let latency = |name: &str| results.milliseconds("latency", name);
    let analyzer = |name: &str| results.value("analyzer", name);
    let per_hook = |added: f64| added * 1000.0 / HOOKS;

    let goal = |goal, what, against, measured, unit, limit| Comparison {
        goal,
        what,
        against,
        measured,
        unit,
        limit,
    };
    vec![
        goal(
            "G1",
            "verdict on a packet of an open connection, 1,000 flows",
            "a hit in a connection table",
            ratio(
                verdict(FORWARD, MIDDLE),
                verdict("reference/tracked/v4", MIDDLE),
            ),
            "",
            AtMost(0.5),
        ),
        goal(
            "G2",
            "the same",
            "identities and prefixes in LPM tries",
            ratio(
                verdict(FORWARD, MIDDLE),
                verdict("reference/prefixes/v4", MIDDLE),
            ),
            "",
            AtMost(0.15),
        ),
        goal(
            "G3",
            "the same among 100,000 peers and 10,000 rules",
            "among 1,000 peers and 10 rules",
            ratio(verdict(FORWARD, LARGE), verdict(FORWARD, SMALL)),
            "",
            AtMost(1.5),
        ),
        goal(
            "G4",
            "request and response, added",
            "AWS network policy agent",
            None,
            "",
            AtMost(0.5),
        ),
        goal(
            "G4",
            "request and response, added",
            "kube-router's layout in iptables, 10 policies",
            ratio(rr("ours-tcx"), rr("kube-router-iptables-10")),
            "",
            AtMost(0.35),
        ),
        goal(
            "G4",
            "request and response, added",
            "kube-router's layout in nftables, 10 policies",
            ratio(rr("ours-tcx"), rr("kube-router-nftables-10")),
            "",
            AtMost(0.3),
        ),
        goal(
            "G5",
            "connection, request and response, added",
            "AWS network policy agent",
            None,
            "",
            AtMost(0.2),
        ),
        goal(
            "G5",
            "connection, request and response, added",
            "kube-router's layout in iptables, 10 policies",
            ratio(crr("ours-tcx"), crr("kube-router-iptables-10")),
            "",
            AtMost(0.25),
        ),
        goal(
            "G5",
            "connection, request and response, added",
            "kube-router's layout in iptables, 100 policies",
            ratio(crr("ours-tcx"), crr("kube-router-iptables-100")),
            "",
            AtMost(0.1),
        ),
        goal(
            "G5",
            "connection, request and response, added",
            "a queue to user space that accepts",
            ratio(crr("ours-tcx"), crr("nfqueue")),
            "",
            AtMost(0.2),
        ),
        goal(
            "G6",
            "request and response, added per hook",
            "empty programs",
            difference(rr("ours-tcx"), rr("empty-tcx")).map(per_hook),
            "ns",
            AtMost(80.0),
        ),
        goal(
            "G7",
            "request and response between pods that no policy selects, added",
            "no policy",
            rr("ours-unselected"),
            "µs",
            // Nothing at all, as far as can be told.
            AtMost(0.1),
        ),
        goal(
            "G8",
            "a denied flood, the sender's cost",
            "one nftables set written by hand",
            ratio(flood("ours-tcx"), flood("nftables-ideal-set")),
            "",
            AtMost(0.75),
        ),
        goal(
            "G9",
            "cold compilation for one node, 100,000 pods and 10,000 policies",
            "",
            compiler(&format!("node/compile/{LARGEST}")),
            "ms",
            AtMost(300.0),
        ),
        goal(
            "G9",
            "naive evaluation, 10,000 pods and 10,000 policies",
            "compilation for one node",
            ratio(
                compiler("node/naive/10000x10000 Realistic"),
                compiler("node/compile/10000x10000 Realistic"),
            ),
            "",
            AtLeast(100.0),
        ),
        goal(
            "G10",
            "a changed policy until the node's tables are new, p50",
            "",
            compiler(&format!("{LARGEST}: {CHANGED}, p50")),
            "ms",
            AtMost(1.0),
        ),
        goal(
            "G10",
            "a changed policy until the node's tables are new, p99",
            "",
            compiler(&format!("{LARGEST}: {CHANGED}, p99")),
            "ms",
            AtMost(10.0),
        ),
        goal(
            "G11",
            "a new pod until it is reached, p99",
            "",
            latency("pod-start/p99"),
            "ms",
            AtMost(50.0),
        ),
        goal(
            "G12",
            "a policy from the API server to the wire, p99",
            "",
            policy_change(results),
            "ms",
            AtMost(250.0),
        ),
        goal(
            "G13",
            "memory of the agent at its peak, 100,000 pods and 10,000 policies",
            "",
            results.value("latency", "agent/peak/100000-pods/10000-policies"),
            "MB",
            AtMost(150.0),
        ),
        goal(
            "G14",
            "request and response where connections are tracked, added",
            "connection tracking alone",
            difference(rr("ours-conntrack"), rr("conntrack")),
            "µs",
            AtMost(0.6),
        ),
        goal(
            "G14",
            "connection, request and response where connections are tracked, added",
            "connection tracking alone",
            difference(crr("ours-conntrack"), crr("conntrack")),
            "µs",
            AtMost(3.5),
        ),
        goal(
            "A1",
            "matrix of 1,000 workloads under 400 policies, processor",
            "",
            analyzer("matrix/1000x400/processor"),
            "ms",
            AtMost(500.0),
        ),
        goal(
            "A1",
            "the same, memory at its peak",
            "",
            analyzer("matrix/1000x400/memory"),
            "MB",
            AtMost(150.0),
        ),
        goal(
            "A2",
            "matrix of 10,000 pods under 2,000 policies, processor",
            "",
            analyzer("matrix/10000x2000/processor"),
            "ms",
            AtMost(3000.0),
        ),
        goal(
            "A3",
            "why for one of their pairs, processor, added",
            "reading the same input",
            results.added("analyzer", "why/10000x2000/processor"),
            "ms",
            AtMost(50.0),
        ),
        goal(
            "A4",
            "lint of 10,000 policies, processor",
            "",
            analyzer("lint/10000x10000/processor"),
            "ms",
            AtMost(5000.0),
        ),
    ]
}

/// Among the most other pods that were tried.
fn policy_change(results: &Results) -> Option<f64> {
    let times = results.suite("latency").filter_map(|record| {
        let pods = record.name.strip_prefix("policy-change/")?;
        let pods: u64 = pods.strip_suffix("-pods/p99")?.parse().ok()?;
        Some((pods, record.milliseconds()?))
    });
    let (_, time) = times.max_by_key(|(pods, _)| *pods)?;
    Some(time)
}

/// Of quantities that are more than noise.
fn ratio(of: Option<f64>, to: Option<f64>) -> Option<f64> {
    let (of, to) = (of?, to?);
    (to > 0.0).then(|| of / to)
}

fn difference(of: Option<f64>, from: Option<f64>) -> Option<f64> {
    Some(of? - from?)
}
