// SPDX-License-Identifier: Apache-2.0
//! NetworkPolicy of networking.k8s.io/v1 (kubernetes `pkg/apis/networking/validation`).

use serde_json::Value;

use super::{
    Parsed, Settings,
    meta::Frame,
    net::{self, Quirk},
    reader::{Reader, whole_number},
    selector::{CheckedBy, selector},
    syntax,
};
use crate::{
    manifest::{Locator, Step},
    model::{
        Direction, IpBlock, NetworkPeer, NetworkPolicy, NetworkPort, NetworkRule, PortRange,
        Protocol, Selection, Selector,
    },
};

/// Reads a NetworkPolicy and applies the API's defaults.
pub fn network_policy(
    value: &Value,
    locator: &Locator<'_>,
    settings: &Settings,
) -> Parsed<NetworkPolicy> {
    let mut r = Reader::new(locator);
    let frame = Frame {
        kind: "NetworkPolicy",
        default_namespace: Some(&settings.default_namespace),
        name: syntax::dns_subdomain,
        closed: true,
    };
    let (fields, meta) = frame.open(&mut r, value);
    let spec = fields.and_then(|fields| r.field(&fields, "spec", spec));
    let broken = fields.is_none() || matches!(spec, Some(None));
    let spec = spec.flatten().unwrap_or_else(|| Spec::empty(broken));
    let policy = NetworkPolicy {
        audited: meta.is_audited(&mut r),
        namespace: meta.namespace,
        name: meta.name,
        pod_selector: spec.pod_selector,
        ingress: spec.ingress,
        egress: spec.egress,
        generation: meta.generation,
        at: r.here(),
    };
    r.finish(Some(policy))
}

struct Spec {
    pod_selector: Selection,
    ingress: Option<Vec<NetworkRule>>,
    egress: Option<Vec<NetworkRule>>,
}

impl Spec {
    /// No `spec`: isolates every pod of the namespace for ingress. A `spec` that is no object is invalid.
    fn empty(invalid: bool) -> Self {
        Self {
            pod_selector: if invalid {
                Selection::Nothing
            } else {
                Selection::Matching(Selector::default())
            },
            ingress: Some(Vec::new()),
            egress: None,
        }
    }
}

fn spec<'a>(r: &mut Reader<'a>, value: &'a Value) -> Option<Spec> {
    let fields = r.object(value, &["podSelector", "ingress", "egress", "policyTypes"])?;
    // Not a pointer: absent and null are the empty selector.
    let pod_selector = r.field(&fields, "podSelector", |r, value| {
        let read = selector(r, value, CheckedBy::ApiServer);
        if read.invalid {
            Selection::Nothing
        } else {
            Selection::Matching(read.selector)
        }
    });
    let ingress = r.field(&fields, "ingress", |r, value| {
        r.items(value, |r, value| rule(r, value, Direction::Ingress))
    });
    let egress = r.field(&fields, "egress", |r, value| {
        r.items(value, |r, value| rule(r, value, Direction::Egress))
    });
    let types = r.field(&fields, "policyTypes", policy_types);
    let (ingress, egress) = (ingress.unwrap_or_default(), egress.unwrap_or_default());
    // Absent, null and empty types are defaulted: Ingress always, Egress if there are egress rules.
    let (isolates_ingress, isolates_egress) = match types {
        Some(types) if types.written => (types.ingress, types.egress),
        Some(_) | None => (true, !egress.is_empty()),
    };
    Some(Spec {
        pod_selector: pod_selector.unwrap_or(Selection::Matching(Selector::default())),
        ingress: isolates_ingress.then_some(ingress),
        egress: isolates_egress.then_some(egress),
    })
}

#[derive(Default)]
struct Types {
    written: bool,
    ingress: bool,
    egress: bool,
}

fn policy_types<'a>(r: &mut Reader<'a>, value: &'a Value) -> Types {
    let mut types = Types::default();
    let names = r.items(value, |r, value| {
        let name = r.string(value)?;
        if !matches!(name, "Ingress" | "Egress") {
            r.reject(format!("`{name}` is neither Ingress nor Egress"));
        }
        Some(name)
    });
    if names.len() > 2 {
        r.reject("more than two policy types");
    }
    for name in names.into_iter().flatten() {
        // A type in the wrong case counts as what it says: the alternative is to isolate nothing.
        types.written = true;
        types.ingress |= name.eq_ignore_ascii_case("Ingress");
        types.egress |= name.eq_ignore_ascii_case("Egress");
    }
    types
}

fn rule<'a>(r: &mut Reader<'a>, value: &'a Value, direction: Direction) -> NetworkRule {
    let at = r.here();
    let peers_name = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    // A null item is the rule `{}`, as Go decodes it.
    let fields = (!value.is_null()).then(|| r.object(value, &[peers_name, "ports"]));
    let Some(fields) = fields else {
        return NetworkRule {
            peers: None,
            ports: None,
            at,
        };
    };
    let Some(fields) = fields else {
        return NetworkRule {
            peers: Some(vec![NetworkPeer::Nothing]),
            ports: None,
            at,
        };
    };
    let mut peers = r.field(&fields, peers_name, |r, value| {
        let peers = r.items(value, peer);
        // Empty matches everything; something that is no list must not.
        (!peers.is_empty() || !value.is_array()).then_some(peers)
    });
    if fields.has_unknown {
        peers = Some(Some(vec![NetworkPeer::Nothing]));
    }
    let ports = r.field(&fields, "ports", |r, value| {
        let ports = r.items(value, port);
        (!ports.is_empty() || !value.is_array()).then_some(ports)
    });
    NetworkRule {
        peers: peers.flatten(),
        ports: ports.flatten(),
        at,
    }
}

fn peer<'a>(r: &mut Reader<'a>, value: &'a Value) -> NetworkPeer {
    if value.is_null() {
        r.reject("a peer needs podSelector, namespaceSelector or ipBlock");
        return NetworkPeer::Nothing;
    }
    let names = ["podSelector", "namespaceSelector", "ipBlock"];
    let Some(fields) = r.object(value, &names) else {
        return NetworkPeer::Nothing;
    };
    let select = |r: &mut Reader<'a>, value| selector(r, value, CheckedBy::ApiServer).exact();
    let pods = r.field(&fields, "podSelector", select);
    let namespaces = r.field(&fields, "namespaceSelector", select);
    let block = r.field(&fields, "ipBlock", ip_block);
    if fields.count(&names) == 0 {
        r.reject("a peer needs podSelector, namespaceSelector or ipBlock");
        return NetworkPeer::Nothing;
    }
    if block.is_some() && (pods.is_some() || namespaces.is_some()) {
        r.reject("`ipBlock` excludes podSelector and namespaceSelector");
        return NetworkPeer::Nothing;
    }
    if fields.has_unknown {
        return NetworkPeer::Nothing;
    }
    match (block, namespaces, pods) {
        (Some(block), _, _) => block.map_or(NetworkPeer::Nothing, NetworkPeer::IpBlock),
        (None, Some(None), _) | (None, _, Some(None)) => NetworkPeer::Nothing,
        (None, namespaces, pods) => NetworkPeer::Pods {
            namespaces: namespaces.flatten(),
            pods: pods.flatten().unwrap_or_default(),
        },
    }
}

fn ip_block<'a>(r: &mut Reader<'a>, value: &'a Value) -> Option<IpBlock> {
    let fields = r.object(value, &["cidr", "except"])?;
    let cidr = if let Some(value) = fields.get("cidr") {
        r.within(Step::Field("cidr"), |r| cidr(r, value))
    } else {
        r.reject_at("cidr", "a CIDR is required");
        None
    };
    let except = r.field(&fields, "except", |r, value| {
        let valid = value.is_array();
        let except = r.items(value, |r, value| {
            let inner = self::cidr(r, value)?;
            if let Some(outer) = &cidr
                && !net::is_strict_subset(&inner, outer)
            {
                r.reject(format!("`{inner}` is not a strict subset of `{outer}`"));
                return None;
            }
            Some(inner)
        });
        valid
            .then(|| except.into_iter().collect::<Option<Vec<_>>>())
            .flatten()
    });
    if fields.has_unknown {
        return None;
    }
    Some(IpBlock {
        cidr: cidr?,
        except: except.unwrap_or(Some(Vec::new()))?,
    })
}

fn cidr<'a>(r: &mut Reader<'a>, value: &'a Value) -> Option<ipnet::IpNet> {
    let text = r.string(value)?;
    let Some(block) = net::lenient_cidr(text) else {
        let diagnostic = r.reject(format!("`{text}` is not a CIDR"));
        if let Some(host) = net::bare_address(text) {
            diagnostic.help = Some(format!("one address is `{host}`"));
        }
        return None;
    };
    let net = block.net;
    let (id, what) = match block.quirk {
        None => return Some(net),
        Some(Quirk::HostBits) => ("cidr-host-bits", "has host bits set and"),
        Some(Quirk::LeadingZeros) => (
            "cidr-legacy-form",
            "has leading zeros, reads as decimal and",
        ),
        Some(Quirk::Mapped) => ("cidr-legacy-form", "is an IPv4-mapped block and"),
    };
    let diagnostic = r.warn(id, format!("`{text}` {what} means `{net}`"));
    diagnostic.help = Some(format!(
        "write `{net}`: API servers with StrictIPCIDRValidation refuse the other form"
    ));
    Some(net)
}

fn port<'a>(r: &mut Reader<'a>, value: &'a Value) -> NetworkPort {
    let every_tcp_port = NetworkPort::Range(Protocol::Tcp, PortRange::ALL);
    if value.is_null() {
        return every_tcp_port;
    }
    let Some(fields) = r.object(value, &["protocol", "port", "endPort"]) else {
        return NetworkPort::Nothing;
    };
    let protocol = r.field(&fields, "protocol", |r, value| {
        let name = r.string(value)?;
        let protocol = protocol(name);
        if protocol.is_none() {
            let diagnostic = r.reject(format!("`{name}` is none of TCP, UDP, SCTP"));
            if self::protocol(&name.to_ascii_uppercase()).is_some() {
                diagnostic.help = Some("protocols are written in capitals".to_owned());
            }
        }
        protocol
    });
    let port = r.field(&fields, "port", port_or_name);
    let end = r.field(&fields, "endPort", Reader::integer);
    let start = match &port {
        Some(Some(PortOrName::Number(number))) => Some(*number),
        Some(Some(PortOrName::Name(_)) | None) | None => None,
    };
    let end = end.map(|end| {
        r.within(Step::Field("endPort"), |r| {
            let end = end?;
            if !fields.has("port") {
                r.reject("`endPort` needs a `port`");
            } else if let Some(Some(PortOrName::Name(_))) = &port {
                r.reject("`endPort` needs a numeric `port`");
            }
            let Some(end) = u16::try_from(end).ok().filter(|end| *end > 0) else {
                r.reject(format!("`{end}` is not a port: 1 to 65535"));
                return None;
            };
            if start.is_some_and(|start| end < start) {
                r.reject("`endPort` is less than `port`");
                return None;
            }
            start.map(|_| end)
        })
    });
    if fields.has_unknown {
        return NetworkPort::Nothing;
    }
    let protocol = match protocol {
        None => Protocol::Tcp,
        Some(Some(protocol)) => protocol,
        Some(None) => return NetworkPort::Nothing,
    };
    match (port, end) {
        (None, None) => NetworkPort::Range(protocol, PortRange::ALL),
        (Some(Some(PortOrName::Number(start))), None) => {
            NetworkPort::Range(protocol, PortRange::single(start))
        }
        (Some(Some(PortOrName::Number(start))), Some(Some(end))) => {
            NetworkPort::Range(protocol, PortRange { start, end })
        }
        (Some(Some(PortOrName::Name(name))), None) => NetworkPort::Named(protocol, name.into()),
        (None | Some(_), _) => NetworkPort::Nothing,
    }
}

enum PortOrName<'a> {
    Number(u16),
    Name(&'a str),
}

fn port_or_name<'a>(r: &mut Reader<'a>, value: &'a Value) -> Option<PortOrName<'a>> {
    if let Value::String(name) = value {
        let Err(why) = syntax::port_name(name) else {
            return Some(PortOrName::Name(name));
        };
        if name.parse::<u16>().is_ok() {
            let message = format!("`\"{name}\"` in quotes is the name of a port, and no valid one");
            r.reject_as("quoted-port-number", &message).help =
                Some(format!("write {name} without quotes"));
        } else {
            r.reject(format!("`{name}` is {why}"));
        }
        return None;
    }
    let Some(number) = whole_number(value) else {
        r.wrong_type("a port number or name", value);
        return None;
    };
    let port = u16::try_from(number).ok().filter(|port| *port > 0);
    if port.is_none() {
        r.reject(format!("`{number}` is not a port: 1 to 65535"));
    }
    port.map(PortOrName::Number)
}

/// The protocol that an API object calls `name`.
pub(super) fn protocol(name: &str) -> Option<Protocol> {
    match name {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}
