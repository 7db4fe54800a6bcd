// SPDX-License-Identifier: Apache-2.0
//! Pods, and the pods that a workload's template would become.

use std::{net::IpAddr, sync::Arc};

use serde_json::Value;

use super::{
    Parsed, Settings,
    meta::{Frame, labels},
    net,
    network_policy::protocol,
    reader::{Fields, Reader},
    syntax,
};
use crate::{
    manifest::{Locator, Step},
    model::{ContainerPort, Labels, Phase, Pod, PodKey, Protocol},
};

/// Reads a Pod. Only what policies see is checked.
pub fn pod(value: &Value, locator: &Locator<'_>, settings: &Settings) -> Parsed<Pod> {
    let mut r = Reader::new(locator);
    let frame = Frame {
        kind: "Pod",
        default_namespace: Some(&settings.default_namespace),
        name: syntax::dns_subdomain,
        closed: false,
    };
    let (fields, meta) = frame.open(&mut r, value);
    let spec = fields.and_then(|fields| r.field(&fields, "spec", pod_spec));
    let status = fields.and_then(|fields| r.field(&fields, "status", status));
    let (spec, status) = (spec.unwrap_or_default(), status.unwrap_or_default());
    if meta.name.is_empty() {
        return r.finish(None);
    }
    let at = r.here();
    r.finish(Some(Pod {
        key: PodKey {
            namespace: meta.namespace,
            name: meta.name,
        },
        uid: meta.uid,
        labels: meta.labels,
        node: spec.node,
        addresses: status.addresses,
        host_network: spec.host_network,
        phase: status.phase,
        ports: spec.ports.into(),
        created: meta.created,
        owner: meta.owner,
        at,
    }))
}

/// What the pods of a workload have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    /// `metadata.labels` of the template.
    pub labels: Labels,
    /// `spec.nodeName`.
    pub node: Option<Arc<str>>,
    /// `spec.nodeSelector`.
    pub node_selector: Labels,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// Ports of regular and sidecar containers.
    pub ports: Vec<ContainerPort>,
}

/// Reads a pod template at the reader's place.
pub(super) fn template<'a>(r: &mut Reader<'a>, value: &'a Value) -> Option<Template> {
    let fields = r.open_object(value, &["metadata", "spec"])?;
    let labels = r.field(&fields, "metadata", |r, value| {
        let fields = r.open_object(value, &["labels"])?;
        r.field(&fields, "labels", labels)
    });
    let spec = r.field(&fields, "spec", pod_spec).unwrap_or_default();
    Some(Template {
        labels: labels.flatten().unwrap_or_default(),
        ..spec
    })
}

/// Everything but the labels.
fn pod_spec<'a>(r: &mut Reader<'a>, value: &'a Value) -> Template {
    let read = [
        "nodeName",
        "nodeSelector",
        "hostNetwork",
        "containers",
        "initContainers",
    ];
    let Some(fields) = r.open_object(value, &read) else {
        return Template::default();
    };
    let node = r.field(&fields, "nodeName", Reader::string).flatten();
    let node_selector = r.field(&fields, "nodeSelector", self::labels);
    let host_network = r.field(&fields, "hostNetwork", Reader::boolean).flatten();
    let mut ports = r.field(&fields, "containers", |r, value| {
        r.items(value, |r, value| container_ports(r, value, false))
    });
    // Of the containers that run before the others only those that go on running have ports.
    let sidecars = r.field(&fields, "initContainers", |r, value| {
        r.items(value, |r, value| container_ports(r, value, true))
    });
    ports
        .get_or_insert_default()
        .extend(sidecars.unwrap_or_default());
    Template {
        labels: Labels::default(),
        node: node.filter(|name| !name.is_empty()).map(Arc::from),
        node_selector: node_selector.unwrap_or_default(),
        host_network: host_network.unwrap_or_default(),
        ports: ports.unwrap_or_default().into_iter().flatten().collect(),
    }
}

fn container_ports<'a>(r: &mut Reader<'a>, value: &'a Value, init: bool) -> Vec<ContainerPort> {
    let Some(fields) = r.open_object(value, &["ports", "restartPolicy"]) else {
        return Vec::new();
    };
    if init && fields.get("restartPolicy").and_then(Value::as_str) != Some("Always") {
        return Vec::new();
    }
    let ports = r.field(&fields, "ports", |r, value| r.items(value, container_port));
    ports.unwrap_or_default().into_iter().flatten().collect()
}

fn container_port<'a>(r: &mut Reader<'a>, value: &'a Value) -> Option<ContainerPort> {
    let fields = r.open_object(
        value,
        &["name", "protocol", "containerPort", "hostPort", "hostIP"],
    )?;
    let name = r.field(&fields, "name", |r, value| {
        let name = r.string(value).filter(|name| !name.is_empty())?;
        match syntax::port_name(name) {
            Ok(()) => Some(name),
            Err(why) => {
                r.reject(format!("`{name}` is {why}"));
                None
            }
        }
    });
    let protocol = transport(r, &fields);
    let Some(number) = fields.get("containerPort") else {
        r.reject_at("containerPort", "a port is required");
        return None;
    };
    let number = r.within(Step::Field("containerPort"), |r| port_number(r, number));
    // Zero is what absent means.
    let host_port = r.field(&fields, "hostPort", |r, value| {
        (value.as_i64() != Some(0)).then(|| port_number(r, value))?
    });
    let host_address = r.field(&fields, "hostIP", address);
    Some(ContainerPort {
        name: name.flatten().map(Arc::from),
        protocol: protocol?,
        number: number?,
        host_port: host_port.flatten().unwrap_or_default(),
        host_address: host_address.flatten(),
    })
}

/// `protocol`, TCP if absent.
pub(super) fn transport<'a>(r: &mut Reader<'a>, fields: &Fields<'a>) -> Option<Protocol> {
    let Some(value) = fields.get("protocol") else {
        return Some(Protocol::Tcp);
    };
    r.within(Step::Field("protocol"), |r| {
        let name = r.string(value)?;
        let known = protocol(name);
        if known.is_none() {
            r.reject(format!("`{name}` is none of TCP, UDP, SCTP"));
        }
        known
    })
}

/// A port, 1 to 65535.
pub(super) fn port_number<'a>(r: &mut Reader<'a>, value: &'a Value) -> Option<u16> {
    let number = r.integer(value)?;
    let port = u16::try_from(number).ok().filter(|port| *port > 0);
    if port.is_none() {
        r.reject(format!("`{number}` is not a port: 1 to 65535"));
    }
    port
}

#[derive(Default)]
struct Status {
    phase: Phase,
    addresses: Vec<IpAddr>,
}

fn status<'a>(r: &mut Reader<'a>, value: &'a Value) -> Status {
    let Some(fields) = r.open_object(value, &["phase", "podIP", "podIPs"]) else {
        return Status::default();
    };
    let phase = r.field(&fields, "phase", |r, value| match r.string(value)? {
        "" | "Pending" => Some(Phase::Pending),
        "Running" => Some(Phase::Running),
        "Succeeded" => Some(Phase::Succeeded),
        "Failed" => Some(Phase::Failed),
        "Unknown" => Some(Phase::Unknown),
        other => {
            r.reject(format!("`{other}` is no phase of a pod"));
            None
        }
    });
    let first = r.field(&fields, "podIP", address).flatten();
    let all = r.field(&fields, "podIPs", |r, value| {
        r.items(value, |r, value| {
            let fields = r.open_object(value, &["ip"])?;
            r.field(&fields, "ip", address).flatten()
        })
    });
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in first
        .into_iter()
        .chain(all.unwrap_or_default().into_iter().flatten())
    {
        // One address of each family, as the API has it.
        if addresses
            .iter()
            .all(|known| known.is_ipv4() != address.is_ipv4())
        {
            addresses.push(address);
        }
    }
    Status {
        phase: phase.flatten().unwrap_or_default(),
        addresses,
    }
}

/// An address; an empty one is none.
pub(super) fn address<'a>(r: &mut Reader<'a>, value: &'a Value) -> Option<IpAddr> {
    let text = r.string(value).filter(|text| !text.is_empty())?;
    let address = net::address(text);
    if address.is_none() {
        r.reject(format!("`{text}` is not an IP address"));
    }
    address.filter(|address| !net::is_unset(*address))
}
