// SPDX-License-Identifier: Apache-2.0
//! Namespaces and nodes.

use ipnet::IpNet;
use serde_json::Value;

use super::{Parsed, meta::Frame, net, pod::address, reader::Reader, syntax};
use crate::{
    manifest::Locator,
    model::{Namespace, Node},
    snapshot::NAMESPACE_NAME_LABEL,
};

/// Reads a Namespace. Its name label is what the API server makes it, whatever is written.
pub fn namespace(value: &Value, locator: &Locator<'_>) -> Parsed<Namespace> {
    let mut r = Reader::new(locator);
    let frame = Frame {
        kind: "Namespace",
        default_namespace: None,
        name: syntax::dns_label,
        closed: false,
    };
    let (_, meta) = frame.open(&mut r, value);
    if meta.name.is_empty() {
        return r.finish(None);
    }
    let mut labels = meta.labels;
    labels.insert(NAMESPACE_NAME_LABEL.into(), meta.name.clone());
    r.finish(Some(Namespace {
        name: meta.name,
        labels,
    }))
}

/// Reads a Node. Addresses that are names are passed over.
pub fn node(value: &Value, locator: &Locator<'_>) -> Parsed<Node> {
    let mut r = Reader::new(locator);
    let frame = Frame {
        kind: "Node",
        default_namespace: None,
        name: syntax::dns_subdomain,
        closed: false,
    };
    let (fields, meta) = frame.open(&mut r, value);
    if meta.name.is_empty() {
        return r.finish(None);
    }
    let addresses = fields.and_then(|fields| {
        r.field(&fields, "status", |r, value| {
            let fields = r.open_object(value, &["addresses"])?;
            r.field(&fields, "addresses", |r, value| {
                r.items(value, |r, value| {
                    let fields = r.open_object(value, &["type", "address"])?;
                    let names = fields.get("type").and_then(Value::as_str);
                    if names.is_some_and(|kind| kind.ends_with("DNS")) {
                        return None;
                    }
                    // A host name may be an address, as every other type is.
                    let is_name = names == Some("Hostname");
                    r.field(&fields, "address", |r, value| {
                        if is_name {
                            net::address(value.as_str()?)
                        } else {
                            address(r, value)
                        }
                    })?
                })
            })
        })
    });
    let pod_cidrs = fields.and_then(|fields| {
        r.field(&fields, "spec", |r, value| {
            let fields = r.open_object(value, &["podCIDR", "podCIDRs"])?;
            let first = r.field(&fields, "podCIDR", cidr);
            let all = r.field(&fields, "podCIDRs", |r, value| r.items(value, cidr));
            Some(
                first
                    .into_iter()
                    .chain(all.unwrap_or_default())
                    .flatten()
                    .collect::<Vec<_>>(),
            )
        })
    });
    let mut addresses: Vec<_> = addresses
        .flatten()
        .unwrap_or_default()
        .into_iter()
        .flatten()
        .collect();
    let mut pod_cidrs: Vec<IpNet> = pod_cidrs.flatten().unwrap_or_default();
    remove_repeated(&mut addresses);
    remove_repeated(&mut pod_cidrs);
    r.finish(Some(Node {
        name: meta.name,
        labels: meta.labels,
        addresses,
        pod_cidrs,
    }))
}

fn cidr<'a>(r: &mut Reader<'a>, value: &'a Value) -> Option<IpNet> {
    let text = r.string(value).filter(|text| !text.is_empty())?;
    let block = net::lenient_cidr(text);
    if block.is_none() {
        r.reject(format!("`{text}` is not a CIDR"));
    }
    block.map(|block| block.net)
}

fn remove_repeated<T: PartialEq + Copy>(items: &mut Vec<T>) {
    let mut seen: Vec<T> = Vec::new();
    items.retain(|item| {
        let new = !seen.contains(item);
        if new {
            seen.push(*item);
        }
        new
    });
}
