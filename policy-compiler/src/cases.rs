// SPDX-License-Identifier: Apache-2.0
//! What the corpus expects: how an `Expectation` document is read, and how reasons are spelt in it.
//!
//! `testdata/README.md` describes the format. Any engine can be held to it: the oracle and the compiler
//! here, the datapath and the command line in the tests of their crates.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    net::IpAddr,
    sync::Arc,
};

use serde::Deserialize;

use crate::{
    diagnostic::{Diagnostic, Severity},
    model::{Direction, Family, PodKey, PolicyKind, PolicyRef, Protocol, family_of},
    snapshot::Snapshot,
    verdict::{Decision, Endpoint, Flow, Reason, RuleRef, Trace, Verdict},
};

/// `kind` of the documents that [`Expectation`] reads.
pub const KIND: &str = "Expectation";

/// What the objects beside it must lead to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Expectation {
    /// `netpol-analyze/v1`.
    pub api_version: String,
    /// [`KIND`].
    pub kind: String,
    /// What the case shows, in one sentence.
    pub title: String,
    /// The rules of `docs/semantics.md` that the case proves.
    pub rules: Vec<String>,
    /// Verdicts.
    #[serde(default)]
    pub flows: Vec<ExpectedFlow>,
    /// Problems that must be reported. No other error may be.
    #[serde(default)]
    pub diagnostics: Vec<ExpectedDiagnostic>,
    /// Which bundle of CRDs is installed: `standard`, or `experimental` if absent.
    #[serde(default)]
    pub channel: Option<String>,
    /// What DNS answered; absent if nobody listens.
    #[serde(default)]
    pub domains: Option<BTreeMap<Arc<str>, BTreeSet<IpAddr>>>,
    /// NetworkPolicies admit traffic of a pod to its own node.
    #[serde(default)]
    pub local_node_egress: bool,
    /// Engines that cannot be asked, and why.
    #[serde(default)]
    pub skip: BTreeMap<String, String>,
}

/// A flow and what is said of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ExpectedFlow {
    /// `NAMESPACE/POD`, `node:NAME` or an address.
    pub from: String,
    /// `NAMESPACE/POD`, `node:NAME` or an address; after Service translation.
    pub to: String,
    /// `80/TCP`, `53/UDP`, `9003/SCTP`, or `ICMP` for all that has no ports.
    pub port: String,
    /// 4 or 6. Absent: that of the addresses named, else 4.
    #[serde(default)]
    pub family: Option<u8>,
    /// The source addressed a Service.
    #[serde(default)]
    pub via_service: bool,
    /// What happens.
    pub verdict: Verdict,
    /// Why, as [`because`] spells it.
    pub because: String,
}

/// A problem that must be reported.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ExpectedDiagnostic {
    /// How much it matters.
    pub severity: Severity,
    /// `KIND NAMESPACE/NAME` or `KIND NAME`.
    pub object: String,
    /// Field path.
    pub path: String,
    /// A part of the message.
    #[serde(default)]
    pub message: String,
}

impl Expectation {
    /// Puts what no manifest can say into `snapshot`.
    pub fn complete(&self, snapshot: &mut Snapshot) {
        snapshot.domains.clone_from(&self.domains);
        snapshot.options.local_node_egress = self.local_node_egress;
    }
}

impl ExpectedFlow {
    /// The flow to ask about, or what is wrong with the line.
    pub fn flow(&self) -> Result<Flow, String> {
        let source = endpoint(&self.from)?;
        let destination = endpoint(&self.to)?;
        let (protocol, port) = protocol_and_port(&self.port)?;
        let named = [&source, &destination]
            .into_iter()
            .find_map(|end| match end {
                Endpoint::Address(address) => Some(family_of(*address)),
                Endpoint::Pod(_) | Endpoint::Node(_) => None,
            });
        let family = match self.family {
            None => named.unwrap_or(Family::V4),
            Some(4) => Family::V4,
            Some(6) => Family::V6,
            Some(other) => return Err(format!("family {other} is neither 4 nor 6")),
        };
        Ok(Flow {
            source,
            destination,
            protocol,
            port,
            family,
            via_service: self.via_service,
        })
    }
}

impl ExpectedDiagnostic {
    /// Whether `found` is the problem described.
    pub fn is(&self, found: &Diagnostic) -> bool {
        let object = found.object.as_ref().map(ToString::to_string);
        self.severity == found.severity
            && self.path == found.path
            && self.object == object.unwrap_or_default()
            && found.message.contains(&self.message)
    }
}

/// What decided, in the words of the corpus.
///
/// Of a denial: the reason of the first side that denies. Of an allowance: the reasons of both sides, but
/// a default only where no policy spoke, not even an audited one, and `not-a-subject` only where there is
/// nothing else.
pub fn because(trace: &Trace) -> String {
    let sides = [&trace.egress, &trace.ingress];
    if let Some(denial) = sides.iter().find(|side| side.verdict == Verdict::Deny) {
        return spell(denial);
    }
    let weight = |side: &Decision| match side.reason {
        Reason::NotASubject => 0,
        Reason::Default if side.passed.is_empty() && side.audited.is_none() => 1,
        Reason::Default
        | Reason::Rule(_)
        | Reason::FailClosed(_)
        | Reason::Isolated(_)
        | Reason::LocalNode
        | Reason::SelfTraffic => 2,
    };
    let most = sides.iter().map(|side| weight(side)).max();
    let mut spelt: Vec<_> = sides
        .iter()
        .filter(|side| Some(weight(side)) == most)
        .map(|side| spell(side))
        .collect();
    spelt.dedup();
    spelt.join(" and ")
}

/// The reason of one side, after the Pass rules that led there; behind it what would deny if audited
/// policies were enforced.
pub fn spell(decision: &Decision) -> String {
    let mut text = String::new();
    for rule in &decision.passed {
        // Writing to a String cannot fail.
        let _ = write!(text, "{} -> ", spell_rule(rule));
    }
    match &decision.reason {
        Reason::Rule(rule) => text.push_str(&spell_rule(rule)),
        Reason::FailClosed(rule) => {
            let _ = write!(text, "fail-closed {}", spell_rule(rule));
        }
        Reason::Isolated(policies) => {
            let policies: Vec<_> = policies.iter().map(spell_policy).collect();
            let _ = write!(text, "isolated by {}", policies.join(", "));
        }
        Reason::LocalNode => text.push_str("local-node"),
        Reason::SelfTraffic => text.push_str("self"),
        Reason::NotASubject => text.push_str("not-a-subject"),
        Reason::Default => text.push_str("default"),
    }
    if let Some(denial) = &decision.audited {
        let _ = write!(text, " (audited: {})", spell(denial));
    }
    text
}

fn spell_rule(rule: &RuleRef) -> String {
    let direction = match rule.direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    format!("{}#{direction}[{}]", spell_policy(&rule.policy), rule.index)
}

fn spell_policy(policy: &PolicyRef) -> String {
    let kind = match policy.kind {
        PolicyKind::NetworkPolicy => "np",
        PolicyKind::AdminNetworkPolicy => "anp",
        PolicyKind::BaselineAdminNetworkPolicy => "banp",
        PolicyKind::ClusterNetworkPolicy => "cnp",
    };
    match &policy.namespace {
        Some(namespace) => format!("{kind}/{namespace}/{}", policy.name),
        None => format!("{kind}/{}", policy.name),
    }
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    if let Some(name) = text.strip_prefix("node:") {
        return Ok(Endpoint::Node(name.into()));
    }
    if let Some((namespace, name)) = text.split_once('/') {
        return Ok(Endpoint::Pod(PodKey::new(namespace, name)));
    }
    let address = text.parse().map(Endpoint::Address);
    address.map_err(|_| format!("`{text}` is no pod, node or address"))
}

fn protocol_and_port(text: &str) -> Result<(Protocol, u16), String> {
    if text == "ICMP" {
        return Ok((Protocol::Other, 0));
    }
    let wrong = || format!("`{text}` is no port: write `80/TCP`, or `ICMP`");
    let (port, protocol) = text.split_once('/').ok_or_else(wrong)?;
    let protocol = match protocol {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        _ => return Err(wrong()),
    };
    Ok((protocol, port.parse().map_err(|_| wrong())?))
}
