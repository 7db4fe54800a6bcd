// SPDX-License-Identifier: Apache-2.0
//! Peers, ports and selectors in words.

use crate::{
    model::{NetworkPeer, NetworkPort, Operator, PortRange, Selector},
    snapshot::NAMESPACE_NAME_LABEL,
};

/// `app=web,tier in (a,b)`; `any` if nothing is required.
pub fn spell_selector(selector: &Selector) -> String {
    if selector.is_everything() {
        return "any".to_owned();
    }
    let terms = selector.requirements().iter().map(|term| {
        let values = term.values.join(",");
        match (term.operator, term.values.len()) {
            (Operator::In, 1) => format!("{}={values}", term.key),
            (Operator::NotIn, 1) => format!("{}!={values}", term.key),
            (Operator::In, _) => format!("{} in ({values})", term.key),
            (Operator::NotIn, _) => format!("{} notin ({values})", term.key),
            (Operator::Exists, _) => term.key.to_string(),
            (Operator::DoesNotExist, _) => format!("!{}", term.key),
        }
    });
    terms.collect::<Vec<_>>().join(",")
}

/// What a rule of a NetworkPolicy in `namespace` wants of its peer.
pub fn words_of_peers(peers: Option<&[NetworkPeer]>, namespace: &str) -> String {
    let Some(peers) = peers else {
        return "any peer".to_owned();
    };
    let words = peers.iter().map(|peer| match peer {
        NetworkPeer::Pods {
            namespaces: None,
            pods,
        } => format!("pods {} of namespace {namespace}", spell_selector(pods)),
        NetworkPeer::Pods {
            namespaces: Some(namespaces),
            pods,
        } => match one_name(namespaces) {
            Some(name) => format!("pods {} of namespace {name}", spell_selector(pods)),
            None => format!(
                "pods {} of namespaces {}",
                spell_selector(pods),
                spell_selector(namespaces)
            ),
        },
        NetworkPeer::IpBlock(block) if block.except.is_empty() => block.cidr.to_string(),
        NetworkPeer::IpBlock(block) => {
            let except: Vec<String> = block.except.iter().map(ToString::to_string).collect();
            format!("{} except {}", block.cidr, except.join(", "))
        }
        NetworkPeer::Nothing => "a peer that cannot be read".to_owned(),
    });
    words.collect::<Vec<_>>().join(" or ")
}

/// What a rule of a NetworkPolicy wants of the port.
pub fn words_of_ports(ports: Option<&[NetworkPort]>) -> String {
    let Some(ports) = ports else {
        return "any port".to_owned();
    };
    let words = ports.iter().map(|port| match port {
        NetworkPort::Range(protocol, range) => {
            let protocol = protocol.to_string().to_lowercase();
            match (range.start, range.end) {
                _ if *range == PortRange::ALL => format!("{protocol}/*"),
                (start, end) if start == end => format!("{protocol}/{start}"),
                (start, end) => format!("{protocol}/{start}-{end}"),
            }
        }
        NetworkPort::Named(protocol, name) => {
            format!("{}/{name}", protocol.to_string().to_lowercase())
        }
        NetworkPort::Nothing => "a port that cannot be read".to_owned(),
    });
    words.collect::<Vec<_>>().join(" or ")
}

/// The one namespace that a selector by name means.
fn one_name(selector: &Selector) -> Option<&str> {
    match selector.requirements() {
        [only] if *only.key == *NAMESPACE_NAME_LABEL && only.operator == Operator::In => {
            match only.values.as_slice() {
                [name] => Some(name),
                _ => None,
            }
        }
        _ => None,
    }
}
