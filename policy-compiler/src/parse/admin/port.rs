// SPDX-License-Identifier: Apache-2.0
//! Ports of rules of cluster-scoped policies, in the shapes of both versions.

use serde_json::Value;

use super::Schema;
use crate::{
    manifest::Step,
    model::{AdminKind, AdminPeer, AdminPort, Protocol},
    parse::{
        network_policy::protocol,
        reader::{Fields, Reader},
        syntax,
    },
};

/// Reads one entry of `ports` or `protocols`. What cannot be interpreted closes the rule.
pub(super) fn port<'a>(r: &mut Reader<'a>, value: &'a Value, schema: Schema) -> Option<AdminPort> {
    let known: &[&str] = match (schema.kind, schema.is_experimental()) {
        (AdminKind::Cluster, _) => &["tcp", "udp", "sctp", "destinationNamedPort"],
        (AdminKind::Admin | AdminKind::Baseline, true) => &["portNumber", "portRange", "namedPort"],
        (AdminKind::Admin | AdminKind::Baseline, false) => &["portNumber", "portRange"],
    };
    let Some(fields) = r.object(value, known) else {
        r.close("not a port");
        return None;
    };
    if fields.has_unknown {
        r.close("unknown field in a port");
    }
    if fields.count(known) != 1 {
        r.close("no port this engine knows, or several in one");
        r.reject(format!("exactly one of {} is required", known.join(", ")));
    }
    // Every field is read for its problems; the first one is the port.
    let mut ports = Vec::new();
    for name in known.iter().copied() {
        let port = r.field(&fields, name, |r, value| {
            let port = match name {
                "tcp" => transport(r, value, name, Protocol::Tcp),
                "udp" => transport(r, value, name, Protocol::Udp),
                "sctp" => transport(r, value, name, Protocol::Sctp),
                "portNumber" => port_number(r, value),
                "portRange" => port_range(r, value),
                _ => named(r, value),
            };
            if port.is_none() {
                r.close("a port this engine cannot interpret");
            }
            port
        });
        ports.extend(port.flatten());
    }
    ports.into_iter().next()
}

fn named<'a>(r: &mut Reader<'a>, value: &'a Value) -> Option<AdminPort> {
    let name = r.string(value)?;
    if name.is_empty() {
        r.error(
            "invalid-port-name",
            "the port name is empty; an API server lets that pass",
        );
        return None;
    }
    if let Err(why) = syntax::port_name(name) {
        r.warn(
            "invalid-port-name",
            format!("`{name}` is {why}; no container port can be called that"),
        );
    }
    Some(AdminPort::Named(name.into()))
}

fn port_number<'a>(r: &mut Reader<'a>, value: &'a Value) -> Option<AdminPort> {
    let fields = r.object(value, &["protocol", "port"])?;
    let protocol = defaulted_protocol(r, &fields);
    let port = required_number(r, &fields, "port")?;
    let protocol = protocol?;
    (!fields.has_unknown).then_some(AdminPort::Range(protocol, port..=port))
}

fn port_range<'a>(r: &mut Reader<'a>, value: &'a Value) -> Option<AdminPort> {
    let fields = r.object(value, &["protocol", "start", "end"])?;
    let protocol = defaulted_protocol(r, &fields);
    let start = required_number(r, &fields, "start");
    let end = required_number(r, &fields, "end");
    let (start, end) = (start?, end?);
    if start > end {
        r.error(
            "inverted-port-range",
            "`start` is greater than `end`: the range matches nothing; an API server lets that pass",
        );
    }
    let protocol = protocol?;
    (!fields.has_unknown).then_some(AdminPort::Range(protocol, start..=end))
}

/// v1alpha1 takes any string for a protocol.
fn defaulted_protocol<'a>(r: &mut Reader<'a>, fields: &Fields<'a>) -> Option<Protocol> {
    let Some(value) = fields.get("protocol") else {
        return Some(Protocol::Tcp);
    };
    r.within(Step::Field("protocol"), |r| {
        let name = r.string(value)?;
        let known = protocol(name);
        if known.is_none() {
            let message = format!("`{name}` is none of TCP, UDP, SCTP; an API server lets it pass");
            r.error("unknown-protocol", message);
        }
        known
    })
}

/// `tcp`, `udp` or `sctp` of v1alpha2. An empty one is not "all ports": it may be a matcher that an older
/// CRD dropped.
fn transport<'a>(
    r: &mut Reader<'a>,
    value: &'a Value,
    name: &str,
    protocol: Protocol,
) -> Option<AdminPort> {
    let fields = r.object(value, &["destinationPort"])?;
    if !fields.has("destinationPort") {
        r.reject("a destinationPort is required").help = Some(format!(
            "all ports are `{name}: {{destinationPort: {{range: {{start: 1, end: 65535}}}}}}`"
        ));
    }
    let port = r.field(&fields, "destinationPort", |r, value| {
        destination_port(r, value, protocol)
    });
    port.flatten().filter(|_| !fields.has_unknown)
}

fn destination_port<'a>(
    r: &mut Reader<'a>,
    value: &'a Value,
    protocol: Protocol,
) -> Option<AdminPort> {
    let fields = r.object(value, &["number", "range"])?;
    let mut port = None;
    if fields.has("number") {
        port = required_number(r, &fields, "number").map(|port| port..=port);
    }
    let range = r.field(&fields, "range", |r, value| {
        let fields = r.object(value, &["start", "end"])?;
        let start = required_number(r, &fields, "start");
        let end = required_number(r, &fields, "end");
        let (start, end) = (start?, end?);
        if start >= end {
            r.reject("`start` must be less than `end`").help =
                (start == end).then(|| format!("one port is `number: {start}`"));
        }
        (!fields.has_unknown).then_some(start..=end)
    });
    if fields.count(&["number", "range"]) != 1 {
        r.reject("exactly one of number and range is required");
        return None;
    }
    let port = port.or(range.flatten())?;
    (!fields.has_unknown).then_some(AdminPort::Range(protocol, port))
}

fn required_number<'a>(r: &mut Reader<'a>, fields: &Fields<'a>, name: &'static str) -> Option<u16> {
    let Some(value) = fields.get(name) else {
        r.reject_at(name, "a port is required");
        return None;
    };
    r.within(Step::Field(name), |r| {
        let number = r.integer(value)?;
        let port = u16::try_from(number).ok().filter(|port| *port > 0);
        if port.is_none() {
            r.reject(format!("`{number}` is not a port: 1 to 65535"));
        }
        port
    })
}

/// A port name finds nothing on a peer that has no container ports. Of the schemas only the standard one
/// of v1alpha2 lets the combination pass.
pub(super) fn named_port_without_pod(
    r: &mut Reader<'_>,
    peers: &[AdminPeer],
    ports: Option<&[AdminPort]>,
    schema: Schema,
) {
    let named = ports
        .unwrap_or_default()
        .iter()
        .any(|port| matches!(port, AdminPort::Named(_)));
    let networks = peers
        .iter()
        .any(|peer| matches!(peer, AdminPeer::Networks(_)));
    // Peers that no standard schema has.
    let others = peers.iter().any(|peer| match peer {
        AdminPeer::Pods { .. } | AdminPeer::Networks(_) => false,
        AdminPeer::Nodes(_) | AdminPeer::DomainNames(_) => true,
    });
    if !(named && (networks || others)) {
        return;
    }
    let message = "a named port beside networks, nodes or domainNames matches only where the destination is a pod";
    if others && schema.is_experimental() || !schema.takes_names_beside_networks() {
        r.reject(message);
    } else {
        r.warn("named-port-without-pod", message);
    }
}
