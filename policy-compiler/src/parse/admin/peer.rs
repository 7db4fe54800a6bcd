// SPDX-License-Identifier: Apache-2.0
//! Peers of rules of cluster-scoped policies.

use serde_json::Value;

use super::{Schema, namespaced_pods, too_many};
use crate::{
    manifest::Step,
    model::{Action, AdminKind, AdminPeer, Direction, DomainPattern, Selector},
    parse::{
        net,
        reader::Reader,
        selector::{CheckedBy, selector},
        syntax,
    },
};

/// Reads one entry of `from` or `to`. What cannot be interpreted closes the rule.
pub(super) fn peer<'a>(
    r: &mut Reader<'a>,
    value: &'a Value,
    schema: Schema,
    direction: Direction,
    action: Option<Action>,
) -> Option<AdminPeer> {
    let known = known_peers(schema, direction);
    let Some(fields) = r.object(value, known) else {
        r.close("not a peer");
        return None;
    };
    if fields.has_unknown {
        r.close("unknown field in a peer");
    }
    if fields.count(known) != 1 {
        r.close("no peer this engine knows, or several in one");
        r.reject(format!("exactly one of {} is required", known.join(", ")));
    }
    // Every field is read for its problems; the first one is the peer.
    let mut peers = Vec::new();
    for name in known.iter().copied() {
        let peer = r.field(&fields, name, |r, value| match name {
            "namespaces" => namespaces(r, value),
            "pods" => pods(r, value, schema),
            "networks" => Some(networks(r, value)),
            "nodes" => closing_selector(r, value).map(AdminPeer::Nodes),
            _ => Some(domain_names(r, value, action)),
        });
        peers.extend(peer.flatten());
    }
    peers.into_iter().next()
}

fn known_peers(schema: Schema, direction: Direction) -> &'static [&'static str] {
    match (direction, schema.is_experimental(), schema.kind) {
        (Direction::Ingress, _, _) => &["namespaces", "pods"],
        (Direction::Egress, false, _) => &["namespaces", "pods", "networks"],
        (Direction::Egress, true, AdminKind::Baseline) => {
            &["namespaces", "pods", "networks", "nodes"]
        }
        (Direction::Egress, true, AdminKind::Admin | AdminKind::Cluster) => {
            &["namespaces", "pods", "networks", "nodes", "domainNames"]
        }
    }
}

fn closing_selector<'a>(r: &mut Reader<'a>, value: &'a Value) -> Option<Selector> {
    let selector = selector(r, value, CheckedBy::Nobody).exact();
    if selector.is_none() {
        r.close("invalid selector");
    }
    selector
}

fn pods<'a>(r: &mut Reader<'a>, value: &'a Value, schema: Schema) -> Option<AdminPeer> {
    let pods = namespaced_pods(r, value, schema);
    if pods.is_none() {
        r.close("invalid selector");
    }
    pods.map(|(namespaces, pods)| AdminPeer::Pods { namespaces, pods })
}

fn namespaces<'a>(r: &mut Reader<'a>, value: &'a Value) -> Option<AdminPeer> {
    let legacy = ["namespaceSelector", "sameLabels", "notSameLabels"];
    let written = legacy.into_iter().find(|name| value.get(name).is_some());
    if let Some(name) = written {
        r.close("a peer in the shape from before v0.1.3");
        r.within(Step::Field(name), |r| {
            let message = format!(
                "`{name}` is a shape from before v0.1.3: an API server drops it and the peer becomes all namespaces"
            );
            let help = match name {
                "namespaceSelector" => "write the selector directly under `namespaces`",
                _ => "there is no replacement: name the namespaces by their labels",
            };
            r.error("legacy-peer-shape", message).help = Some(help.to_owned());
        });
        return None;
    }
    Some(AdminPeer::Pods {
        namespaces: closing_selector(r, value)?,
        pods: Selector::default(),
    })
}

fn networks<'a>(r: &mut Reader<'a>, value: &'a Value) -> AdminPeer {
    let networks = r.items(value, |r, value| {
        let Some(text) = r.string(value) else {
            r.close("invalid CIDR");
            return None;
        };
        if let Some(net) = net::strict_cidr(text) {
            return Some(net);
        }
        let diagnostic = r.reject(format!("`{text}` is not a CIDR"));
        // CRDs before v0.1.7 let an address pass for its host route.
        let host = net::bare_address(text);
        match &host {
            Some(host) => diagnostic.help = Some(format!("taken for `{host}`: write that")),
            None => r.close("invalid CIDR"),
        }
        host
    });
    check_set(r, value, networks.len(), "networks");
    AdminPeer::Networks(networks.into_iter().flatten().collect())
}

fn domain_names<'a>(r: &mut Reader<'a>, value: &'a Value, action: Option<Action>) -> AdminPeer {
    let names = r.items(value, |r, value| {
        let name = r.string(value);
        let valid = name.filter(|name| match syntax::domain_name(name) {
            Ok(()) => true,
            Err(why) => {
                r.reject(format!("`{name}` is {why}"));
                false
            }
        });
        if valid.is_none() {
            r.close("invalid domain name");
        }
        valid.map(|name| {
            let name = name.strip_suffix('.').unwrap_or(name);
            DomainPattern(name.to_ascii_lowercase().into())
        })
    });
    check_set(r, value, names.len(), "domain names");
    if action == Some(Action::Allow) {
        r.warn(
            "domain-names-unsupported",
            "domain names match only addresses learned from DNS; where none are learned, nothing",
        );
    } else {
        r.close("domain names outside a rule that allows");
        r.warn(
            "domain-names-unsupported",
            "domain names are defined only for rules that allow; this rule denies everything",
        );
    }
    AdminPeer::DomainNames(names.into_iter().flatten().collect())
}

/// Checks what the CRDs say of a list of strings that is a set of 1 to 25.
fn check_set<'a>(r: &mut Reader<'a>, value: &'a Value, count: usize, what: &str) {
    if count == 0 {
        r.close("empty list");
        if value.is_array() {
            r.reject(format!("at least one of the {what} is required"));
        }
    }
    too_many(r, count, 25, what);
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    for (index, item) in items.iter().enumerate().take(25) {
        if items.get(..index).unwrap_or_default().contains(item) {
            r.within(Step::Index(index), |r| {
                r.reject(format!("{item} is there twice"));
            });
        }
    }
}
