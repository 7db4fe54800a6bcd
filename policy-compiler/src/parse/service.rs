// SPDX-License-Identifier: Apache-2.0
//! Services and the endpoints behind them.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;
use serde_json::Value;

use super::{
    Parsed, Settings,
    meta::{Frame, labels},
    net,
    pod::{address, port_number, transport},
    reader::{Reader, whole_number},
    syntax,
};
use crate::{
    manifest::{Locator, Step},
    model::{Offer, Protocol, Service, ServiceBackend, ServicePort, ServiceTarget, ServiceType},
};

/// Reads a Service; [`ServicePort::backends`] stay empty, see [`attach_endpoints`].
pub fn service(value: &Value, locator: &Locator<'_>, settings: &Settings) -> Parsed<Service> {
    let mut r = Reader::new(locator);
    let frame = Frame {
        kind: "Service",
        default_namespace: Some(&settings.default_namespace),
        name: syntax::dns_label,
        closed: false,
    };
    let (fields, meta) = frame.open(&mut r, value);
    if meta.name.is_empty() {
        return r.finish(None);
    }
    let mut service = Service {
        namespace: meta.namespace,
        name: meta.name,
        addresses: Vec::new(),
        selector: None,
        ports: Vec::new(),
        offer: Offer {
            at: r.here(),
            ..Offer::default()
        },
    };
    if let Some(fields) = fields {
        r.field(&fields, "spec", |r, value| spec(r, value, &mut service));
        r.field(&fields, "status", |r, value| {
            load_balancer(r, value, &mut service.offer)
        });
        let balancer = service.offer.balancer_addresses.iter();
        service.addresses.extend(balancer);
    }
    service.addresses.sort();
    service.addresses.dedup();
    r.finish(Some(service))
}

fn spec<'a>(r: &mut Reader<'a>, value: &'a Value, service: &mut Service) -> Option<()> {
    let read = [
        "type",
        "selector",
        "clusterIP",
        "clusterIPs",
        "externalIPs",
        "ports",
        "loadBalancerSourceRanges",
        "externalTrafficPolicy",
        "allocateLoadBalancerNodePorts",
    ];
    let fields = r.open_object(value, &read)?;
    let kind = r.field(&fields, "type", service_type).flatten();
    service.offer.kind = kind.unwrap_or_default();
    if service.offer.kind == ServiceType::ExternalName {
        return None;
    }
    let selector = r.field(&fields, "selector", labels);
    service.selector = selector.filter(|selector| !selector.0.is_empty());
    let first = r.field(&fields, "clusterIP", cluster_ip).flatten();
    let all = r.field(&fields, "clusterIPs", |r, value| r.items(value, cluster_ip));
    let external = r.field(&fields, "externalIPs", |r, value| r.items(value, address));
    let external: Vec<IpAddr> = external.into_iter().flatten().flatten().collect();
    let all = all.into_iter().flatten().flatten();
    service.addresses = first.into_iter().chain(all).collect();
    service.addresses.extend(&external);
    service.offer.external_addresses = external;
    let ranges = r.field(&fields, "loadBalancerSourceRanges", |r, value| {
        r.items(value, source_range)
    });
    service.offer.source_ranges = ranges.into_iter().flatten().flatten().collect();
    let policy = r.field(&fields, "externalTrafficPolicy", Reader::string);
    service.offer.keeps_client = policy.flatten() == Some("Local");
    let node_ports = r.field(&fields, "allocateLoadBalancerNodePorts", Reader::boolean);
    service.offer.without_node_ports = node_ports.flatten() == Some(false);
    let ports = r.field(&fields, "ports", |r, value| r.items(value, port));
    service.ports = ports.unwrap_or_default().into_iter().flatten().collect();
    Some(())
}

/// `None` is the name of the cluster IP of a headless Service.
fn cluster_ip<'a>(r: &mut Reader<'a>, value: &'a Value) -> Option<IpAddr> {
    if value.as_str() == Some("None") {
        return None;
    }
    address(r, value)
}

fn port<'a>(r: &mut Reader<'a>, value: &'a Value) -> Option<ServicePort> {
    let fields = r.open_object(
        value,
        &["name", "protocol", "port", "targetPort", "nodePort"],
    )?;
    let name = r.field(&fields, "name", Reader::string).flatten();
    let protocol = transport(r, &fields);
    let port = if let Some(value) = fields.get("port") {
        r.within(Step::Field("port"), |r| port_number(r, value))
    } else {
        r.reject_at("port", "a port is required");
        None
    };
    let target = r.field(&fields, "targetPort", |r, value| match value {
        // Both are how the default is written.
        Value::String(name) if name.is_empty() => None,
        Value::Number(_) if whole_number(value) == Some(0) => None,
        Value::String(name) => Some(ServiceTarget::Name(name.as_str().into())),
        _ => port_number(r, value).map(ServiceTarget::Number),
    });
    let node_port = r.field(&fields, "nodePort", |r, value| {
        (whole_number(value) != Some(0))
            .then(|| port_number(r, value))
            .flatten()
    });
    let port = port?;
    Some(ServicePort {
        name: name.unwrap_or_default().into(),
        protocol: protocol?,
        port,
        target: target.flatten().unwrap_or(ServiceTarget::Number(port)),
        node_port: node_port.flatten().unwrap_or_default(),
        backends: Vec::new(),
    })
}

fn service_type<'a>(r: &mut Reader<'a>, value: &'a Value) -> Option<ServiceType> {
    Some(match r.string(value)? {
        "ClusterIP" | "" => ServiceType::ClusterIp,
        "NodePort" => ServiceType::NodePort,
        "LoadBalancer" => ServiceType::LoadBalancer,
        "ExternalName" => ServiceType::ExternalName,
        other => {
            r.reject(format!("`{other}` is no type of Service")).help =
                Some("ClusterIP, NodePort, LoadBalancer, ExternalName".to_owned());
            return None;
        }
    })
}

fn source_range<'a>(r: &mut Reader<'a>, value: &'a Value) -> Option<IpNet> {
    let text = r.string(value)?;
    let range = net::lenient_cidr(text.trim());
    if range.is_none() {
        r.reject(format!("`{text}` is no range of addresses"));
    }
    Some(range?.net)
}

fn load_balancer<'a>(r: &mut Reader<'a>, value: &'a Value, offer: &mut Offer) -> Option<()> {
    let fields = r.open_object(value, &["loadBalancer"])?;
    r.field(&fields, "loadBalancer", |r, value| {
        let fields = r.open_object(value, &["ingress"])?;
        r.field(&fields, "ingress", |r, value| {
            r.items(value, |r, value| {
                let fields = r.open_object(value, &["ip", "hostname"])?;
                let address = r.field(&fields, "ip", address).flatten();
                offer.balancer_addresses.extend(address);
                let name = r.field(&fields, "hostname", Reader::string).flatten();
                offer.balancer_names.extend(name.map(Arc::from));
                Some(())
            });
        })
    })?
}

/// Endpoints of a Service, one of possibly many slices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// The Service, from the label `kubernetes.io/service-name`.
    pub service: Option<Arc<str>>,
    /// `ports`.
    pub ports: Vec<EndpointPort>,
    /// The addresses of all `endpoints`, whatever their conditions say.
    pub addresses: Vec<IpAddr>,
}

/// A port that every endpoint of a slice has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// `name`: the Service port's.
    pub name: Arc<str>,
    /// `protocol`, defaulted to TCP.
    pub protocol: Protocol,
    /// `port`; `None` stands for all ports.
    pub port: Option<u16>,
}

/// Reads an EndpointSlice of discovery.k8s.io/v1.
pub fn endpoint_slice(
    value: &Value,
    locator: &Locator<'_>,
    settings: &Settings,
) -> Parsed<EndpointSlice> {
    let mut r = Reader::new(locator);
    let frame = Frame {
        kind: "EndpointSlice",
        default_namespace: Some(&settings.default_namespace),
        name: syntax::dns_subdomain,
        closed: false,
    };
    let (_, meta) = frame.open(&mut r, value);
    if meta.name.is_empty() {
        return r.finish(None);
    }
    let fields = r.open_object(value, &["addressType", "endpoints", "ports"]);
    let named = fields
        .is_some_and(|fields| fields.get("addressType").and_then(Value::as_str) == Some("FQDN"));
    let ports = fields.and_then(|fields| {
        r.field(&fields, "ports", |r, value| {
            r.items(value, |r, value| {
                let fields = r.open_object(value, &["name", "protocol", "port"])?;
                let name = r.field(&fields, "name", Reader::string).flatten();
                let protocol = transport(r, &fields);
                let port = r.field(&fields, "port", port_number).flatten();
                Some(EndpointPort {
                    name: name.unwrap_or_default().into(),
                    protocol: protocol?,
                    port,
                })
            })
        })
    });
    let endpoints = fields.filter(|_| !named).and_then(|fields| {
        r.field(&fields, "endpoints", |r, value| {
            r.items(value, |r, value| {
                let fields = r.open_object(value, &["addresses"])?;
                r.field(&fields, "addresses", |r, value| r.items(value, address))
            })
        })
    });
    let addresses = endpoints
        .unwrap_or_default()
        .into_iter()
        .flatten()
        .flatten();
    r.finish(Some(EndpointSlice {
        namespace: meta.namespace,
        name: meta.name,
        service: meta.labels.get("kubernetes.io/service-name").map(Arc::from),
        ports: ports.unwrap_or_default().into_iter().flatten().collect(),
        addresses: addresses.flatten().collect(),
    }))
}

/// Sets the backends of `service` from those of `slices` that are its own.
pub fn attach_endpoints<'s>(
    service: &mut Service,
    slices: impl IntoIterator<Item = &'s EndpointSlice>,
) {
    for port in &mut service.ports {
        port.backends.clear();
    }
    for slice in slices {
        if slice.namespace != service.namespace || slice.service.as_ref() != Some(&service.name) {
            continue;
        }
        for port in &mut service.ports {
            let own = slice.ports.iter().filter(|endpoint| {
                endpoint.name == port.name && endpoint.protocol == port.protocol
            });
            for endpoint in own {
                port.backends
                    .extend(slice.addresses.iter().map(|address| ServiceBackend {
                        address: *address,
                        port: endpoint.port.unwrap_or(port.port),
                    }));
            }
        }
    }
    for port in &mut service.ports {
        port.backends.sort();
        port.backends.dedup();
    }
}
