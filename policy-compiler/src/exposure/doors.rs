// SPDX-License-Identifier: Apache-2.0
//! Which Services, Ingresses and Gateways lead to a workload, and do policies let through who comes in by
//! them?
//!
//! Policies see what is on the wire at the pod. Behind a load balancer or a port of a node that is the
//! client, or a node that put its own address in place of the client's; behind an Ingress or a Gateway it
//! is one of the pods that serve it.

use std::{collections::BTreeSet, net::IpAddr, rc::Rc, sync::Arc};

use super::{
    Analysis, Audience, Newcomer, Passage, Reach,
    alike::{Alike, Stranger},
};
use crate::{
    diagnostic::{Location, ObjectRef},
    model::{
        Backend, BackendPort, Gateway, Listener, Parent, Pod, PodKey, Protocol, Route, RouteKind,
        RoutesFrom, Service, ServicePort, ServiceType,
    },
    partial::Party,
    ranges,
    symbolic::TooMany,
    verdict::Endpoint,
};

/// What a door is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DoorKind {
    /// A Service, from inside the cluster.
    ClusterIp,
    /// `externalIPs` of a Service.
    ExternalIp,
    /// A pod in the network of its node.
    HostNetwork,
    /// `hostPort` of a container.
    HostPort,
    /// A load balancer in front of a Service.
    LoadBalancer,
    /// A port of every node, in front of a Service.
    NodePort,
    /// An Ingress, or a Gateway and its route.
    Route(RouteKind),
}

impl DoorKind {
    /// What manifests call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::ExternalIp => "ExternalIP",
            Self::HostNetwork => "HostNetwork",
            Self::HostPort => "HostPort",
            Self::LoadBalancer => "LoadBalancer",
            Self::NodePort => "NodePort",
            Self::Route(kind) => kind.name(),
        }
    }

    /// Whether clients outside the cluster can come in.
    pub const fn is_outer(self) -> bool {
        !matches!(self, Self::ClusterIp)
    }
}

/// A way in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// What it is made of.
    pub kind: DoorKind,
    /// The Service, Ingress or route; the pod, where its own ports are the door.
    pub object: ObjectRef,
    /// Where that is written.
    pub at: Option<Location>,
    /// The Gateway that a route is attached to, or the class of an Ingress.
    pub served_by: Option<Arc<str>>,
    /// The Service behind an Ingress or a route.
    pub service: Option<ObjectRef>,
    /// Addresses and names at which clients meet it, as far as they are known; sorted.
    pub hosts: Vec<Arc<str>>,
    /// Protocol, of what reaches the workload.
    pub protocol: Protocol,
    /// The port that clients connect to; `None` if the cluster has yet to assign it.
    pub port: Option<u16>,
    /// The port of the workload; `None` for all of them.
    pub target: Option<u16>,
    /// Whether policies let through who comes in.
    pub passage: Passage,
    /// Why nobody gets as far as the policies.
    pub barred: Option<String>,
}

type Future = Result<Vec<Audience<Rc<Newcomer>>>, TooMany>;

impl Analysis<'_> {
    /// The ways in to any of `replicas`, sorted. Without `future` nothing is said for certain about a door
    /// whose serving pods are unknown.
    pub(super) fn doors(&self, replicas: &[PodKey], future: Option<&Future>) -> Vec<Door> {
        let mut doors: Vec<Door> = Vec::new();
        let mut seen = BTreeSet::new();
        let snapshot = self.evaluator.snapshot();
        for key in replicas {
            let Some(pod) = snapshot.pods.get(key) else {
                continue;
            };
            let Some(number) = self.class_of.get(key).copied() else {
                continue;
            };
            let Some(class) = self.class(number) else {
                continue;
            };
            let search = Search {
                analysis: self,
                pod,
                number,
                class,
                future,
            };
            // Replicas that are alike and behind the same Services have the same doors.
            let behind = search.services();
            let led_by = behind.iter().map(|led| {
                let service = (&led.service.namespace, &led.service.name);
                (service, led.port.protocol, led.port.port, led.target)
            });
            let look: (_, Vec<_>) = (self.class_of.get(key), led_by.collect());
            let own = pod.host_network || pod.ports.iter().any(|port| port.host_port != 0);
            if !own && !seen.insert(look) {
                continue;
            }
            for door in search.all(&behind) {
                add(&mut doors, door);
            }
        }
        doors.sort_by(|a, b| {
            let key = |door: &Door| {
                let rank = (!door.kind.is_outer(), door.kind);
                (rank, door.object.clone(), door.port, door.target)
            };
            key(a).cmp(&key(b))
        });
        doors
    }
}

/// Keeps a door of another replica as the same one, if it is.
fn add(doors: &mut Vec<Door>, door: Door) {
    let same = |known: &&mut Door| {
        (known.kind, &known.object, &known.served_by, &known.hosts)
            == (door.kind, &door.object, &door.served_by, &door.hosts)
            && (&known.service, known.protocol, known.port, known.target)
                == (&door.service, door.protocol, door.port, door.target)
    };
    let Some(known) = doors.iter_mut().find(same) else {
        doors.push(door);
        return;
    };
    known.passage = match (&known.passage, &door.passage) {
        (one, other) if one == other => door.passage,
        // Another replica may be unreachable and this one not.
        (Passage::Unknown(facts), Passage::Unknown(others)) => {
            let facts: BTreeSet<&String> = facts.iter().chain(others).collect();
            Passage::Unknown(facts.into_iter().cloned().collect())
        }
        (Passage::Unknown(facts), Passage::Closed) | (Passage::Closed, Passage::Unknown(facts)) => {
            Passage::Unknown(facts.clone())
        }
        (Passage::Open | Passage::Partly | Passage::Closed | Passage::Unknown(_), _) => {
            Passage::Partly
        }
    };
}

/// A port of a Service that leads to a port of the pod.
struct Led<'s> {
    service: &'s Service,
    port: &'s ServicePort,
    target: u16,
}

struct Search<'s> {
    analysis: &'s Analysis<'s>,
    pod: &'s Pod,
    /// Of the pod's class.
    number: usize,
    class: &'s Alike,
    future: Option<&'s Future>,
}

impl<'s> Search<'s> {
    /// The Services in front of the pod: those whose endpoints it is among, or that will select it.
    fn services(&self) -> Vec<Led<'s>> {
        let mut found = Vec::new();
        let services = &self.analysis.evaluator.snapshot().services;
        for service in services.values() {
            let selected = self.pod.addresses.is_empty() && service.selects(self.pod);
            for port in &service.ports {
                let listed = port
                    .backends
                    .iter()
                    .filter(|backend| self.pod.addresses.contains(&backend.address))
                    .map(|backend| backend.port);
                let mut targets: Vec<u16> = listed.collect();
                targets.extend(selected.then(|| port.target_on(self.pod)).flatten());
                targets.sort_unstable();
                targets.dedup();
                found.extend(targets.into_iter().map(|target| Led {
                    service,
                    port,
                    target,
                }));
            }
        }
        found
    }

    fn all(&self, behind: &[Led<'s>]) -> Vec<Door> {
        let mut doors = self.own();
        for led in behind {
            doors.extend(self.of_service(led));
        }
        for route in &self.analysis.entrances.routes {
            for backend in &route.backends {
                let led = behind.iter().find(|led| {
                    led.service.namespace == backend.namespace
                        && led.service.name == backend.service
                        && match &backend.port {
                            BackendPort::Number(number) => led.port.port == *number,
                            BackendPort::Name(name) => led.port.name == *name,
                        }
                });
                if let Some(led) = led {
                    doors.extend(self.of_route(route, backend, led));
                }
            }
        }
        doors
    }

    /// The doors that the pod itself opens on its node.
    fn own(&self) -> Vec<Door> {
        let object = ObjectRef {
            kind: "Pod".into(),
            namespace: Some(self.pod.key.namespace.clone()),
            name: self.pod.key.name.clone(),
        };
        let snapshot = self.analysis.evaluator.snapshot();
        let node = self.pod.node.as_ref();
        let node = node.and_then(|name| snapshot.nodes.get(name));
        let of_node = node.map_or(&[][..], |node| &node.addresses);
        let door = |kind, protocol, port, target, passage, hosts: &[IpAddr]| Door {
            kind,
            object: object.clone(),
            at: self.pod.at.clone(),
            served_by: None,
            service: None,
            hosts: names(hosts),
            protocol,
            port,
            target,
            passage,
            barred: None,
        };
        if self.pod.host_network {
            // No policy sees a pod in the network of its node.
            let kind = DoorKind::HostNetwork;
            return vec![door(
                kind,
                Protocol::Tcp,
                None,
                None,
                Passage::Open,
                of_node,
            )];
        }
        let ports = self.pod.ports.iter().filter(|port| port.host_port != 0);
        ports
            .map(|port| {
                let hosts = port
                    .host_address
                    .map_or_else(|| of_node.to_vec(), |own| vec![own]);
                door(
                    DoorKind::HostPort,
                    port.protocol,
                    Some(port.host_port),
                    Some(port.number),
                    self.world_reach(&[]).passage(port.protocol, port.number),
                    &hosts,
                )
            })
            .collect()
    }

    fn of_service(&self, led: &Led<'_>) -> Vec<Door> {
        let Led {
            service,
            port,
            target,
        } = led;
        let offer = &service.offer;
        let door = |kind, hosts: Vec<Arc<str>>, number, passage| Door {
            kind,
            object: service_ref(service),
            at: offer.at.clone(),
            served_by: None,
            service: None,
            hosts,
            protocol: port.protocol,
            port: number,
            target: Some(*target),
            passage,
            barred: None,
        };
        let outer = |ranges: &[ipnet::IpNet]| self.outside_passage(ranges, led);
        let mut doors = Vec::new();
        if offer.kind == ServiceType::LoadBalancer {
            let mut hosts = names(&offer.balancer_addresses);
            hosts.extend(offer.balancer_names.iter().cloned());
            let passage = outer(&offer.source_ranges);
            doors.push(door(
                DoorKind::LoadBalancer,
                hosts,
                Some(port.port),
                passage,
            ));
        }
        let has_node_port = match offer.kind {
            ServiceType::NodePort => true,
            ServiceType::LoadBalancer => !offer.without_node_ports,
            ServiceType::ClusterIp | ServiceType::ExternalName => port.node_port != 0,
        };
        if has_node_port {
            let number = (port.node_port != 0).then_some(port.node_port);
            doors.push(door(DoorKind::NodePort, Vec::new(), number, outer(&[])));
        }
        if !offer.external_addresses.is_empty() {
            let hosts = names(&offer.external_addresses);
            let kind = DoorKind::ExternalIp;
            doors.push(door(kind, hosts, Some(port.port), outer(&[])));
        }
        let inside: Vec<IpAddr> = service
            .addresses
            .iter()
            .filter(|address| {
                !offer.external_addresses.contains(address)
                    && !offer.balancer_addresses.contains(address)
            })
            .copied()
            .collect();
        let passage = self.cluster_reach().map_or(Passage::Closed, |reach| {
            reach.passage(port.protocol, *target)
        });
        let kind = DoorKind::ClusterIp;
        doors.push(door(kind, names(&inside), Some(port.port), passage));
        doors
    }

    fn of_route(&self, route: &Route, backend: &Backend, led: &Led<'_>) -> Vec<Door> {
        let object = ObjectRef {
            kind: route.kind.name().into(),
            namespace: Some(route.namespace.clone()),
            name: route.name.clone(),
        };
        let host = backend.host.iter().chain(&route.hosts).cloned();
        let door = Door {
            kind: DoorKind::Route(route.kind),
            object,
            at: route.at.clone(),
            served_by: route.class.clone(),
            service: Some(service_ref(led.service)),
            hosts: host.collect(),
            protocol: led.port.protocol,
            port: None,
            target: Some(led.target),
            passage: Passage::Closed,
            barred: None,
        };
        if route.kind == RouteKind::Ingress {
            let what = match &route.class {
                Some(class) => format!("which pods serve Ingress class `{class}`"),
                None => "which pods serve the Ingress".to_owned(),
            };
            let passage = self.controller_passage(&[], led, what);
            return vec![Door { passage, ..door }];
        }
        let permitted = self.analysis.entrances.permits(route, backend);
        let parents = route.parents.iter();
        parents
            .flat_map(|parent| {
                let gateway = format!("{}/{}", parent.namespace, parent.name);
                let door = Door {
                    served_by: Some(gateway.as_str().into()),
                    ..door.clone()
                };
                if !permitted {
                    let why = format!(
                        "no ReferenceGrant lets it refer to Services of {}",
                        backend.namespace
                    );
                    return vec![Door {
                        barred: Some(why),
                        ..door
                    }];
                }
                self.of_parent(route, parent, led, &door)
            })
            .collect()
    }

    /// The listeners of a Gateway that take a route.
    fn of_parent(&self, route: &Route, parent: &Parent, led: &Led<'_>, door: &Door) -> Vec<Door> {
        let id = (parent.namespace.clone(), parent.name.clone());
        let gateway = format!("Gateway {}/{}", parent.namespace, parent.name);
        let Some(known) = self.analysis.entrances.gateways.get(&id) else {
            let facts = vec![format!("{gateway}, which is not in the input")];
            return vec![Door {
                passage: Passage::Unknown(facts),
                ..door.clone()
            }];
        };
        let taking: Vec<&Listener> = known
            .listeners
            .iter()
            .filter(|listener| self.takes(listener, parent, route))
            .collect();
        if taking.is_empty() {
            return vec![Door {
                barred: Some(format!("no listener of {gateway} takes it")),
                ..door.clone()
            }];
        }
        let serving = self.serving(&id);
        let what = format!("which pods serve {gateway} (class `{}`)", known.class);
        let passage = self.controller_passage(&serving, led, what);
        let at = |listener: &&Listener| Door {
            hosts: hosts_of(known, listener, &door.hosts),
            port: Some(listener.port),
            passage: passage.clone(),
            ..door.clone()
        };
        taking.iter().map(at).collect()
    }

    fn takes(&self, listener: &Listener, parent: &Parent, route: &Route) -> bool {
        let namespaces = &self.analysis.evaluator.snapshot().namespaces;
        let from = match &listener.routes_from {
            RoutesFrom::All => true,
            RoutesFrom::Same => parent.namespace == route.namespace,
            RoutesFrom::Selected(selector) => namespaces
                .get(&route.namespace)
                .is_some_and(|namespace| selector.matches(&namespace.labels)),
            RoutesFrom::Nowhere => false,
        };
        let named = parent
            .listener
            .as_ref()
            .is_none_or(|name| *name == listener.name);
        let at_port = parent.port.is_none_or(|port| port == listener.port);
        let kinds = listener.kinds.as_ref();
        let kind = kinds.is_none_or(|kinds| kinds.iter().any(|kind| **kind == *route.kind.name()));
        from && named && at_port && kind && listener.serves(&route.hosts)
    }

    /// The pods that implementations make for a Gateway of its own, which they label with its name.
    fn serving(&self, (namespace, name): &(Arc<str>, Arc<str>)) -> Vec<PodKey> {
        let pods = self.analysis.evaluator.snapshot().pods.values();
        pods.filter(|pod| {
            pod.key.namespace == *namespace
                && !pod.phase.is_finished()
                && pod.labels.get(GATEWAY_NAME) == Some(&**name)
        })
        .map(|pod| pod.key.clone())
        .collect()
    }

    // --- who comes in ----------------------------------------------------------------------------

    /// Clients behind a port of a node or a load balancer: as themselves, or as some node.
    fn outside_passage(&self, ranges: &[ipnet::IpNet], led: &Led<'_>) -> Passage {
        let (protocol, target) = (led.port.protocol, led.target);
        let as_client = self.world_reach(ranges).passage(protocol, target);
        if led.service.offer.keeps_client {
            return as_client;
        }
        let as_node = self.forwarded_reach().passage(protocol, target);
        if as_client == as_node {
            return as_client;
        }
        let masked = "whether a node puts its own address in place of the client's \
                      (externalTrafficPolicy: Cluster)";
        Passage::Unknown(vec![masked.to_owned()])
    }

    /// Outside addresses, all of them or those of some ranges.
    fn world_reach(&self, only: &[ipnet::IpNet]) -> Reach {
        let analysis = self.analysis;
        if only.is_empty() {
            let ranges = 0..analysis.world.len();
            let found = ranges.map(|range| analysis.ask_range(range, &[self.number]));
            return analysis.merged(found).unwrap_or_else(Reach::nothing);
        }
        let ranges = ranges::within(analysis.evaluator.snapshot(), only);
        let found: Vec<Reach> = ranges
            .into_iter()
            .map(|range| self.stranger_reach(&Endpoint::Address(range.example)))
            .collect();
        Reach::merge(&found)
    }

    fn stranger_reach(&self, end: &Endpoint) -> Reach {
        let analysis = self.analysis;
        let stranger = Stranger::new(analysis.evaluator, &analysis.families, end);
        stranger.reach(analysis.evaluator, self.class.parties())
    }

    /// Any node that forwards for somebody else: its address has no privilege then, not even on the
    /// pod's own node.
    fn forwarded_reach(&self) -> Reach {
        let analysis = self.analysis;
        let elsewhere: Arc<str> = "*".into();
        let parties: Vec<Party> = self
            .class
            .parties()
            .map(|party| party.on_node(&elsewhere))
            .collect();
        let found: Vec<Reach> = if analysis.nodes.is_empty() {
            let some = Endpoint::Node("some node".into());
            let stranger = Stranger::new(analysis.evaluator, &analysis.families, &some);
            vec![stranger.reach(analysis.evaluator, &parties)]
        } else {
            let nodes = analysis.nodes.iter();
            nodes
                .map(|(_, stranger)| stranger.reach(analysis.evaluator, &parties))
                .collect()
        };
        Reach::merge(&found)
    }

    /// Every other pod of the cluster; `None` if there is none.
    fn cluster_reach(&self) -> Option<Reach> {
        let analysis = self.analysis;
        let classes = 0..analysis.classes.len();
        analysis.merged(classes.filter_map(|from| analysis.ask_pods(from, &[self.number])))
    }

    /// The pods that serve an Ingress or a Gateway: `serving`, else those that were named for all, else
    /// anybody; then only what holds for everybody is certain.
    fn controller_passage(&self, serving: &[PodKey], led: &Led<'_>, what: String) -> Passage {
        let analysis = self.analysis;
        let (protocol, target) = (led.port.protocol, led.target);
        let known = if serving.is_empty() {
            analysis.controllers
        } else {
            serving
        };
        if !known.is_empty() {
            let classes = analysis.classes_of(known).into_iter();
            let found = classes.filter_map(|from| analysis.ask_pods(from, &[self.number]));
            let reach = analysis.merged(found).unwrap_or_else(Reach::nothing);
            return reach.passage(protocol, target);
        }
        let mut anybody: Vec<Reach> = vec![self.world_reach(&[]), self.forwarded_reach()];
        anybody.extend(self.cluster_reach());
        let everybody_is_known = match self.future {
            Some(Ok(future)) => {
                anybody.extend(future.iter().map(|audience| Reach::clone(&audience.reach)));
                true
            }
            Some(Err(_)) | None => false,
        };
        match Reach::merge(&anybody).passage(protocol, target) {
            certain @ (Passage::Open | Passage::Closed) if everybody_is_known => certain,
            Passage::Open | Passage::Partly | Passage::Closed | Passage::Unknown(_) => {
                Passage::Unknown(vec![what])
            }
        }
    }
}

/// Where clients meet a listener: the names that a route is for, else the listener's own, else the
/// addresses of the Gateway.
fn hosts_of(gateway: &Gateway, listener: &Listener, route: &[Arc<str>]) -> Vec<Arc<str>> {
    if !route.is_empty() {
        return route.to_vec();
    }
    match &listener.host {
        Some(host) => vec![host.clone()],
        None => gateway.addresses.clone(),
    }
}

fn service_ref(service: &Service) -> ObjectRef {
    ObjectRef {
        kind: "Service".into(),
        namespace: Some(service.namespace.clone()),
        name: service.name.clone(),
    }
}

fn names(addresses: &[IpAddr]) -> Vec<Arc<str>> {
    let mut addresses = addresses.to_vec();
    addresses.sort();
    addresses.dedup();
    let spelt = addresses.iter().map(|address| address.to_string().into());
    spelt.collect()
}

/// The label by which implementations mark what belongs to a Gateway (GEP-1762).
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
