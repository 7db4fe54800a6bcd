// SPDX-License-Identifier: Apache-2.0
//! Ingresses, and Gateways, routes and grants of the Gateway API: who leads to which Service.
//!
//! Only what decides where traffic ends up is read; what is left out of an object leads nowhere.

use std::sync::Arc;

use serde_json::Value;

use super::{
    Parsed, Settings,
    meta::Frame,
    pod::port_number,
    reader::{Fields, Reader},
    selector::{CheckedBy, selector},
    syntax,
};
use crate::{
    manifest::Locator,
    model::{Backend, BackendPort, Gateway, Grant, Listener, Parent, Route, RouteKind, RoutesFrom},
};

/// Reads an Ingress or a route of the Gateway API.
pub fn route(
    kind: RouteKind,
    value: &Value,
    locator: &Locator<'_>,
    settings: &Settings,
) -> Parsed<Route> {
    let mut r = Reader::new(locator);
    let frame = frame(kind.name(), settings);
    let (fields, meta) = frame.open(&mut r, value);
    if meta.name.is_empty() {
        return r.finish(None);
    }
    let mut route = Route {
        kind,
        namespace: meta.namespace,
        name: meta.name,
        class: None,
        parents: Vec::new(),
        hosts: Vec::new(),
        backends: Vec::new(),
        at: r.here(),
    };
    if let Some(fields) = fields {
        r.field(&fields, "spec", |r, value| match kind {
            RouteKind::Ingress => ingress_spec(r, value, &mut route),
            RouteKind::GrpcRoute
            | RouteKind::HttpRoute
            | RouteKind::TcpRoute
            | RouteKind::TlsRoute
            | RouteKind::UdpRoute => route_spec(r, value, &mut route),
        });
        if kind == RouteKind::Ingress && route.class.is_none() {
            let annotations = value.pointer("/metadata/annotations");
            let class = annotations.and_then(|it| it.get("kubernetes.io/ingress.class"));
            route.class = class.and_then(Value::as_str).map(Arc::from);
        }
    }
    r.finish(Some(route))
}

/// Reads a Gateway.
pub fn gateway(value: &Value, locator: &Locator<'_>, settings: &Settings) -> Parsed<Gateway> {
    let mut r = Reader::new(locator);
    let (fields, meta) = frame("Gateway", settings).open(&mut r, value);
    if meta.name.is_empty() {
        return r.finish(None);
    }
    let mut gateway = Gateway {
        namespace: meta.namespace,
        name: meta.name,
        class: "".into(),
        listeners: Vec::new(),
        addresses: Vec::new(),
    };
    let spec = fields.and_then(|fields| {
        r.field(&fields, "spec", |r, value| {
            r.open_object(value, &["gatewayClassName", "listeners", "addresses"])
        })
        .flatten()
    });
    if let Some(spec) = spec {
        let class = r.field(&spec, "gatewayClassName", Reader::string).flatten();
        gateway.class = class.unwrap_or_default().into();
        let listeners = r.field(&spec, "listeners", |r, value| r.items(value, listener));
        gateway.listeners = listeners.into_iter().flatten().flatten().collect();
    }
    let status = fields.and_then(|fields| {
        r.field(&fields, "status", |r, value| {
            r.open_object(value, &["addresses"])
        })
        .flatten()
    });
    // What is assigned counts; what is wished for, as long as nothing is.
    for part in [status, spec].into_iter().flatten() {
        if gateway.addresses.is_empty() {
            let addresses = r.field(&part, "addresses", |r, value| r.items(value, value_of));
            gateway.addresses = addresses.into_iter().flatten().flatten().collect();
        }
    }
    r.finish(Some(gateway))
}

/// Reads a ReferenceGrant.
pub fn grant(value: &Value, locator: &Locator<'_>, settings: &Settings) -> Parsed<Grant> {
    let mut r = Reader::new(locator);
    let (fields, meta) = frame("ReferenceGrant", settings).open(&mut r, value);
    if meta.name.is_empty() {
        return r.finish(None);
    }
    let spec = fields.and_then(|fields| {
        r.field(&fields, "spec", |r, value| {
            r.open_object(value, &["from", "to"])
        })
        .flatten()
    });
    let (mut from, mut services) = (Vec::new(), Vec::new());
    if let Some(spec) = spec {
        r.field(&spec, "from", |r, value| {
            r.items(value, |r, value| {
                let fields = r.open_object(value, &["group", "kind", "namespace"])?;
                let kind = text(r, &fields, "kind")?;
                from.push((kind, text(r, &fields, "namespace")?));
                Some(())
            });
        });
        r.field(&spec, "to", |r, value| {
            r.items(value, |r, value| {
                let fields = r.open_object(value, &["group", "kind", "name"])?;
                if text(r, &fields, "kind").as_deref() == Some("Service") {
                    services.push(text(r, &fields, "name"));
                }
                Some(())
            });
        });
    }
    r.finish(Some(Grant {
        namespace: meta.namespace,
        from,
        services,
    }))
}

fn frame<'s>(kind: &'static str, settings: &'s Settings) -> Frame<'s> {
    Frame {
        kind,
        default_namespace: Some(&settings.default_namespace),
        name: syntax::dns_subdomain,
        closed: false,
    }
}

fn text<'a>(r: &mut Reader<'a>, fields: &Fields<'a>, name: &'static str) -> Option<Arc<str>> {
    let text = r.field(fields, name, Reader::string).flatten()?;
    (!text.is_empty()).then(|| text.into())
}

fn port<'a>(r: &mut Reader<'a>, fields: &Fields<'a>, name: &'static str) -> Option<u16> {
    r.field(fields, name, port_number).flatten()
}

fn value_of<'a>(r: &mut Reader<'a>, value: &'a Value) -> Option<Arc<str>> {
    let fields = r.open_object(value, &["type", "value"])?;
    text(r, &fields, "value")
}

// --- Ingress -------------------------------------------------------------------------------------

fn ingress_spec<'a>(r: &mut Reader<'a>, value: &'a Value, route: &mut Route) -> Option<()> {
    let fields = r.open_object(value, &["ingressClassName", "defaultBackend", "rules"])?;
    route.class = text(r, &fields, "ingressClassName");
    let default = r.field(&fields, "defaultBackend", |r, value| {
        ingress_backend(r, value, &route.namespace, None)
    });
    route.backends.extend(default.flatten());
    let rules = r.field(&fields, "rules", |r, value| {
        r.items(value, |r, value| ingress_rule(r, value, &route.namespace))
    });
    let rules = rules.into_iter().flatten();
    route.backends.extend(rules.flatten().flatten());
    Some(())
}

fn ingress_rule<'a>(
    r: &mut Reader<'a>,
    value: &'a Value,
    namespace: &Arc<str>,
) -> Option<Vec<Backend>> {
    let fields = r.open_object(value, &["host", "http"])?;
    let host = text(r, &fields, "host");
    let paths = r.field(&fields, "http", |r, value| {
        let fields = r.open_object(value, &["paths"])?;
        r.field(&fields, "paths", |r, value| {
            r.items(value, |r, value| {
                let fields = r.open_object(value, &["path", "backend"])?;
                r.field(&fields, "backend", |r, value| {
                    ingress_backend(r, value, namespace, host.clone())
                })?
            })
        })
    })??;
    Some(paths.into_iter().flatten().collect())
}

/// `None` if the backend is no Service.
fn ingress_backend<'a>(
    r: &mut Reader<'a>,
    value: &'a Value,
    namespace: &Arc<str>,
    host: Option<Arc<str>>,
) -> Option<Backend> {
    let fields = r.open_object(value, &["service", "resource"])?;
    if fields.has("resource") {
        elsewhere(r);
        return None;
    }
    r.field(&fields, "service", |r, value| {
        let fields = r.open_object(value, &["name", "port"])?;
        let service = text(r, &fields, "name")?;
        let port = r.field(&fields, "port", |r, value| {
            let fields = r.open_object(value, &["number", "name"])?;
            let number = port(r, &fields, "number").map(BackendPort::Number);
            number.or_else(|| text(r, &fields, "name").map(BackendPort::Name))
        });
        Some(Backend {
            namespace: namespace.clone(),
            service,
            port: port.flatten()?,
            host,
        })
    })?
}

// --- Gateway API ---------------------------------------------------------------------------------

fn route_spec<'a>(r: &mut Reader<'a>, value: &'a Value, route: &mut Route) -> Option<()> {
    let fields = r.open_object(value, &["parentRefs", "hostnames", "rules"])?;
    let namespace = route.namespace.clone();
    let parents = r.field(&fields, "parentRefs", |r, value| {
        r.items(value, |r, value| parent(r, value, &namespace))
    });
    route.parents = parents.into_iter().flatten().flatten().collect();
    let hosts = r.field(&fields, "hostnames", |r, value| {
        r.items(value, |r, value| r.string(value).map(Arc::from))
    });
    route.hosts = hosts.into_iter().flatten().flatten().collect();
    let rules = r.field(&fields, "rules", |r, value| {
        r.items(value, |r, value| {
            let fields = r.open_object(value, &["backendRefs"])?;
            r.field(&fields, "backendRefs", |r, value| {
                r.items(value, |r, value| backend(r, value, &namespace))
            })
        })
    });
    let backends = rules.into_iter().flatten().flatten().flatten().flatten();
    route.backends = backends.collect();
    Some(())
}

/// `None` if the parent is no Gateway: a mesh leads nobody in from outside.
fn parent<'a>(r: &mut Reader<'a>, value: &'a Value, own: &Arc<str>) -> Option<Parent> {
    let known = ["group", "kind", "namespace", "name", "sectionName", "port"];
    let fields = r.open_object(value, &known)?;
    let kind = text(r, &fields, "kind");
    if kind.is_some_and(|kind| *kind != *"Gateway") {
        return None;
    }
    Some(Parent {
        namespace: text(r, &fields, "namespace").unwrap_or_else(|| own.clone()),
        name: text(r, &fields, "name")?,
        listener: text(r, &fields, "sectionName"),
        port: port(r, &fields, "port"),
    })
}

/// `None` if the backend is no Service.
fn backend<'a>(r: &mut Reader<'a>, value: &'a Value, own: &Arc<str>) -> Option<Backend> {
    let known = ["group", "kind", "namespace", "name", "port", "weight"];
    let fields = r.open_object(value, &known)?;
    let kind = text(r, &fields, "kind");
    if kind.is_some_and(|kind| *kind != *"Service") {
        elsewhere(r);
        return None;
    }
    let weight = r.field(&fields, "weight", Reader::integer).flatten();
    if weight == Some(0) {
        return None;
    }
    Some(Backend {
        namespace: text(r, &fields, "namespace").unwrap_or_else(|| own.clone()),
        service: text(r, &fields, "name")?,
        port: BackendPort::Number(port(r, &fields, "port")?),
        host: None,
    })
}

fn elsewhere(r: &mut Reader<'_>) {
    r.warn(
        "foreign-entrance",
        "the backend is no Service: where it leads is not read",
    );
}

fn listener<'a>(r: &mut Reader<'a>, value: &'a Value) -> Option<Listener> {
    let known = ["name", "port", "protocol", "hostname", "allowedRoutes"];
    let fields = r.open_object(value, &known)?;
    let allowed = r.field(&fields, "allowedRoutes", |r, value| {
        r.open_object(value, &["namespaces", "kinds"])
    });
    let (mut routes_from, mut kinds) = (RoutesFrom::Same, None);
    if let Some(allowed) = allowed.flatten() {
        if let Some(from) = r.field(&allowed, "namespaces", routes_of) {
            routes_from = from;
        }
        kinds = r.field(&allowed, "kinds", |r, value| {
            let kinds = r.items(value, |r, value| {
                let fields = r.open_object(value, &["group", "kind"])?;
                text(r, &fields, "kind")
            });
            kinds.into_iter().flatten().collect::<Vec<_>>()
        });
    }
    Some(Listener {
        name: text(r, &fields, "name")?,
        port: port(r, &fields, "port")?,
        host: text(r, &fields, "hostname"),
        routes_from,
        kinds: kinds.filter(|kinds| !kinds.is_empty()),
    })
}

fn routes_of<'a>(r: &mut Reader<'a>, value: &'a Value) -> RoutesFrom {
    let Some(fields) = r.open_object(value, &["from", "selector"]) else {
        return RoutesFrom::Nowhere;
    };
    match text(r, &fields, "from").as_deref() {
        None | Some("Same") => RoutesFrom::Same,
        Some("All") => RoutesFrom::All,
        Some("Selector") => {
            let read = r.field(&fields, "selector", |r, value| {
                selector(r, value, CheckedBy::Nobody).exact()
            });
            read.flatten()
                .map_or(RoutesFrom::Nowhere, RoutesFrom::Selected)
        }
        Some(_) => RoutesFrom::Nowhere,
    }
}
