// SPDX-License-Identifier: Apache-2.0
//! What do the rules of a v1alpha1 policy look like in v1alpha2?

use super::{MOST_RULES, Migration, entry_mut, map, new_entry, set, text};
use crate::{
    diagnostic::{Diagnostic, Severity},
    manifest::{Content, Document, Entry, Node},
    model::{AdminPolicy, Direction},
    parse::bare_address,
};

/// The specs of the policies that a policy becomes, with priority as written and without tier: one, or as
/// many as its rules fill.
pub(super) fn parts(
    document: &Document,
    policy: &AdminPolicy,
    migration: &mut Migration,
) -> Vec<Node> {
    let Some(spec) = document.node.get("spec") else {
        return Vec::new();
    };
    let lists = [Direction::Ingress, Direction::Egress].map(|direction| {
        let written = spec
            .get(&direction.to_string())
            .map(items)
            .unwrap_or_default();
        let rules: Vec<Node> = written
            .iter()
            .zip(0..)
            .flat_map(|(node, index)| {
                let mut rule = RuleWriter {
                    document,
                    direction,
                    index,
                    migration,
                };
                rule.write(node)
            })
            .collect();
        (direction, rules)
    });
    let most = lists
        .iter()
        .map(|(_, rules)| rules.len())
        .max()
        .unwrap_or_default();
    let count = most.div_ceil(MOST_RULES).max(1);
    if count > 1 {
        let message = format!(
            "{most} rules are more than the {MOST_RULES} of a ClusterNetworkPolicy: this becomes {count} of them"
        );
        migration.diagnostics.push(Diagnostic {
            object: Some(document.object_ref()),
            ..Diagnostic::new("migrate-split", Severity::Info, &message, policy.at.clone())
        });
    }
    (0..count)
        .map(|part| {
            let mut spec = spec.clone();
            for (direction, rules) in &lists {
                let own = rules
                    .chunks(MOST_RULES)
                    .nth(part)
                    .unwrap_or_default()
                    .to_vec();
                let key = direction.to_string();
                if own.is_empty() && part > 0 || spec.get(&key).is_none() {
                    super::remove(&mut spec, &[&key]);
                } else if let Some(entry) = entry_mut(&mut spec, &key) {
                    entry.value.content = Content::List(own);
                }
            }
            spec
        })
        .collect()
}

struct RuleWriter<'a, 'm> {
    document: &'a Document,
    direction: Direction,
    index: usize,
    migration: &'m mut Migration,
}

impl RuleWriter<'_, '_> {
    /// The rules that a rule becomes: one, none if it matches nothing, or several with the same action if
    /// it has more peers or ports than fit.
    fn write(&mut self, node: &Node) -> Vec<Node> {
        let peers_key = match self.direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        };
        let peers: Vec<Node> = node
            .get(peers_key)
            .map(items)
            .unwrap_or_default()
            .iter()
            .map(peer)
            .collect();
        let ports = match node.get("ports") {
            None => None,
            Some(ports) if ports.content == Content::Null => None,
            Some(ports) => {
                let written = items(ports);
                let kept: Vec<Node> = written.iter().filter_map(port).collect();
                if kept.len() < written.len() {
                    self.report_inverted(kept.is_empty());
                }
                if kept.is_empty() {
                    return Vec::new();
                }
                Some(kept)
            }
        };
        let peer_chunks: Vec<Vec<Node>> = chunks(&peers);
        let port_chunks: Vec<Option<Vec<Node>>> = match &ports {
            None => vec![None],
            Some(ports) => chunks(ports).into_iter().map(Some).collect(),
        };
        let count = peer_chunks.len() * port_chunks.len();
        let pairs = peer_chunks
            .iter()
            .flat_map(|peers| port_chunks.iter().map(move |ports| (peers, ports)));
        pairs
            .enumerate()
            .map(|(number, (peers, ports))| {
                let mut rule = node.clone();
                if let Some(entry) = entry_mut(&mut rule, "action")
                    && entry.value.as_str() == Some("Allow")
                {
                    entry.value.content = Content::String("Accept".to_owned());
                }
                if let Some(entry) = entry_mut(&mut rule, peers_key) {
                    entry.value.content = Content::List(peers.clone());
                }
                match ports {
                    None => super::remove(&mut rule, &["ports"]),
                    Some(ports) => {
                        if let Some(entry) = entry_mut(&mut rule, "ports") {
                            "protocols".clone_into(&mut entry.key);
                            entry.value.content = Content::List(ports.clone());
                        }
                    }
                }
                if count > 1 {
                    name_part(&mut rule, number + 1);
                }
                rule
            })
            .collect()
    }

    fn report_inverted(&mut self, nothing_left: bool) {
        let path = format!("spec.{}[{}].ports", self.direction, self.index);
        let message = if nothing_left {
            "this rule matches nothing, because its port ranges end before they start; it is left out"
        } else {
            "a port range that ends before it starts matches nothing; it is left out"
        };
        self.migration.diagnostics.push(Diagnostic {
            object: Some(self.document.object_ref()),
            at: self.document.locator().at(&path),
            path,
            ..Diagnostic::new("migrate-inverted-range", Severity::Warning, message, None)
        });
    }
}

/// At most 25 each; an empty list stays one empty list.
fn chunks(nodes: &[Node]) -> Vec<Vec<Node>> {
    if nodes.is_empty() {
        return vec![Vec::new()];
    }
    nodes.chunks(MOST_ITEMS).map(<[Node]>::to_vec).collect()
}

/// The number of a part at the end of the rule's name.
fn name_part(rule: &mut Node, part: usize) {
    let Some(name) = rule.get("name").and_then(Node::as_str) else {
        return;
    };
    let suffix = format!("-{part}");
    let short: String = name
        .chars()
        .take(LONGEST_RULE_NAME - suffix.len())
        .collect();
    set(rule, "name", text(&(short + &suffix)));
}

/// The peer with bare addresses as host routes (B33); everything else is the same in both versions.
fn peer(node: &Node) -> Node {
    let mut peer = node.clone();
    if let Some(networks) = entry_mut(&mut peer, "networks")
        && let Content::List(networks) = &mut networks.value.content
    {
        for network in networks {
            let host = network.as_str().and_then(bare_address);
            if let Some(host) = host {
                network.content = Content::String(host.to_string());
            }
        }
    }
    peer
}

/// The port in the shape of v1alpha2; `None` for a range that holds nothing.
fn port(node: &Node) -> Option<Node> {
    if let Some(name) = node
        .get("namedPort")
        .filter(|it| it.content != Content::Null)
    {
        return Some(reshaped(
            node,
            vec![new_entry("destinationNamedPort", name.clone())],
        ));
    }
    let (key, written) = ["portNumber", "portRange"]
        .into_iter()
        .find_map(|key| Some((key, present(node, key)?)))?;
    let destination = if key == "portNumber" {
        vec![renamed(written.entry("port")?, "number")]
    } else {
        let (start, end) = (written.entry("start")?, written.entry("end")?);
        let (first, last) = (integer(&start.value)?, integer(&end.value)?);
        if first > last {
            return None;
        }
        if first == last {
            vec![renamed(start, "number")]
        } else {
            let range = map(vec![start.clone(), end.clone()]);
            vec![new_entry("range", range)]
        }
    };
    let protocol = written.entry("protocol");
    let name = match protocol.and_then(|entry| entry.value.as_str()) {
        Some("UDP") => "udp",
        Some("SCTP") => "sctp",
        // TCP, or absent; whatever else closes the rule and never gets here.
        _ => "tcp",
    };
    let mut destination = new_entry("destinationPort", map(destination));
    if let Some(protocol) = protocol {
        (destination.line, destination.column) = (protocol.line, protocol.column);
    }
    Some(reshaped(
        node,
        vec![new_entry(name, map(vec![destination]))],
    ))
}

/// The field under another name.
fn renamed(entry: &Entry, key: &str) -> Entry {
    Entry {
        key: key.to_owned(),
        ..entry.clone()
    }
}

/// New fields at the place of an old item.
fn reshaped(node: &Node, entries: Vec<Entry>) -> Node {
    Node {
        line: node.line,
        column: node.column,
        ..map(entries)
    }
}

fn present<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    node.get(key).filter(|value| value.content != Content::Null)
}

fn integer(node: &Node) -> Option<i64> {
    match &node.content {
        Content::Number(number) => number.as_i64(),
        Content::Null
        | Content::Bool(_)
        | Content::String(_)
        | Content::List(_)
        | Content::Map(_) => None,
    }
}

fn items(node: &Node) -> &[Node] {
    match &node.content {
        Content::List(items) => items,
        Content::Null
        | Content::Bool(_)
        | Content::Number(_)
        | Content::String(_)
        | Content::Map(_) => &[],
    }
}

/// Most peers or ports of a rule (C5).
const MOST_ITEMS: usize = 25;
/// Most characters of a rule's name (C5).
const LONGEST_RULE_NAME: usize = 100;
