// SPDX-License-Identifier: Apache-2.0
//! Which endpoints does a target stand for?

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use policy_compiler::{
    Snapshot,
    model::{Pod, PodKey, PortRange, Service},
    portmap::PortSet,
    ranges,
    verdict::Endpoint,
};

use super::{PortQuery, Target};
use crate::{exit::UsageError, suggest::nearest};

/// What a target stands for.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The target as the user would write it.
    pub name: String,
    /// Its members.
    pub groups: Vec<Group>,
    /// The member's pods are reached through a Service.
    pub via_service: bool,
}

/// An endpoint that stands for itself, or for every address of some ranges.
#[derive(Clone, Debug)]
pub struct Group {
    /// How to call it.
    pub name: String,
    /// Who is asked about.
    pub endpoint: Endpoint,
    /// The ranges it stands for; empty if only for itself.
    pub ranges: Vec<IpNet>,
    /// For members of a Service: where each port of the Service leads.
    pub legs: Vec<ServiceLeg>,
}

/// A port of a Service and the ports of one member behind it.
#[derive(Clone, Debug)]
pub struct ServiceLeg {
    /// Name of the port; may be empty.
    pub name: Arc<str>,
    /// The port clients connect to.
    pub service: PortSet,
    /// Where the connection ends up.
    pub target: PortSet,
}

impl Group {
    /// One end under its own name.
    pub fn of(endpoint: Endpoint) -> Self {
        Self {
            name: endpoint.to_string(),
            endpoint,
            ranges: Vec::new(),
            legs: Vec::new(),
        }
    }

    /// The ports asked about: those of the query, after translation if a Service is in between.
    pub fn asked(&self, snapshot: &Snapshot, query: &PortQuery) -> PortSet {
        if self.legs.is_empty() {
            let ports = match &self.endpoint {
                Endpoint::Pod(key) => snapshot.pods.get(key).map_or(&[][..], |pod| &pod.ports),
                Endpoint::Node(_) | Endpoint::Address(_) => &[],
            };
            return query.toward(ports);
        }
        let nothing = PortSet::uniform(false);
        self.legs
            .iter()
            .filter(|leg| match query {
                PortQuery::All => true,
                PortQuery::Named(_, name) => leg.name == *name,
                PortQuery::Ports(..) => !query.toward(&[]).intersection(&leg.service).is_empty(),
            })
            .fold(nothing, |set, leg| set.union(&leg.target))
    }
}

/// Looks a target up.
pub fn resolve(
    target: &Target,
    snapshot: &Snapshot,
    default_namespace: &str,
) -> Result<Resolved, UsageError> {
    let mut via_service = false;
    let (name, groups) = match target {
        Target::Pod { namespace, name } => {
            let namespace = namespace.as_deref().unwrap_or(default_namespace);
            pod_or_workload(namespace, name, snapshot)?
        }
        Target::Workload {
            namespace,
            kind,
            name,
        } => workload(namespace, kind, name, snapshot)?,
        Target::Service { namespace, name } => {
            via_service = true;
            let key = (namespace.clone(), name.clone());
            let service = snapshot.services.get(&key).ok_or_else(|| {
                let known = snapshot
                    .services
                    .keys()
                    .map(|(ns, name)| format!("{ns}/svc/{name}"));
                missing("Service", &format!("{namespace}/svc/{name}"), known)
            })?;
            let groups = behind(service, snapshot);
            if groups.is_empty() {
                return Err(UsageError::new(format!(
                    "there is no pod behind Service `{namespace}/{name}`"
                )));
            }
            (format!("{namespace}/svc/{name}"), groups)
        }
        Target::Set {
            namespace,
            selector,
        } => {
            let selected = snapshot.pods.values().filter(|pod| {
                namespace
                    .as_ref()
                    .is_none_or(|namespace| *namespace == pod.key.namespace)
                    && selector.matches(&pod.labels)
                    && !pod.phase.is_finished()
            });
            let groups: Vec<Group> = selected.map(|pod| pod_group(pod)).collect();
            let terms: Vec<String> = selector.requirements().iter().map(spell).collect();
            let name = format!(
                "{}?{}",
                namespace.as_deref().unwrap_or_default(),
                terms.join(",")
            );
            if groups.is_empty() {
                return Err(UsageError::new(format!("no pod matches `{name}`")));
            }
            (name, groups)
        }
        // Policies see where a Service leads, never its address.
        Target::Address(address) => match services_at(*address, snapshot).as_slice() {
            [] => (
                address.to_string(),
                vec![Group::of(Endpoint::Address(*address))],
            ),
            services => {
                via_service = true;
                let names = services
                    .iter()
                    .map(|it| format!("{}/svc/{}", it.namespace, it.name));
                let names = names.collect::<Vec<_>>().join(", ");
                let groups: Vec<Group> = services
                    .iter()
                    .flat_map(|it| behind(it, snapshot))
                    .collect();
                if groups.is_empty() {
                    return Err(UsageError::new(format!(
                        "`{address}` is the address of {names}: there is no pod behind it"
                    )));
                }
                (names, groups)
            }
        },
        Target::Range(network) => {
            let groups = ranges::within(snapshot, &[*network])
                .into_iter()
                .map(range_group)
                .collect();
            (network.to_string(), groups)
        }
        Target::Internet => ("internet".to_owned(), internet(snapshot)),
        Target::Node(name) => {
            let known = snapshot
                .pods
                .values()
                .any(|pod| pod.node.as_ref() == Some(name));
            if !known && !snapshot.nodes.contains_key(name) {
                let known = snapshot.nodes.keys().map(|name| format!("node:{name}"));
                return Err(missing("node", &format!("node:{name}"), known));
            }
            let endpoint = Endpoint::Node(name.clone());
            (endpoint.to_string(), vec![Group::of(endpoint)])
        }
        Target::Any => {
            let live = snapshot
                .pods
                .values()
                .filter(|pod| !pod.phase.is_finished());
            let mut groups: Vec<Group> = live.map(|pod| pod_group(pod)).collect();
            groups.extend(
                snapshot
                    .nodes
                    .keys()
                    .cloned()
                    .map(Endpoint::Node)
                    .map(Group::of),
            );
            groups.extend(internet(snapshot));
            ("any".to_owned(), groups)
        }
    };
    Ok(Resolved {
        name,
        groups,
        via_service,
    })
}

/// Every address that is no pod, Service or node, in ranges that policies do not tell apart.
pub fn internet(snapshot: &Snapshot) -> Vec<Group> {
    let outside = ranges::outside(&[snapshot]);
    outside.into_iter().map(range_group).collect()
}

fn range_group(range: ranges::Range) -> Group {
    let names: Vec<String> = range.networks.iter().map(ToString::to_string).collect();
    Group {
        name: names.join(","),
        endpoint: Endpoint::Address(range.example),
        ranges: range.networks,
        legs: Vec::new(),
    }
}

type Named = (String, Vec<Group>);

fn pod_or_workload(namespace: &str, name: &str, snapshot: &Snapshot) -> Result<Named, UsageError> {
    let key = PodKey::new(namespace, name);
    if snapshot.pods.contains_key(&key) {
        let group = Group::of(Endpoint::Pod(key.clone()));
        return Ok((key.to_string(), vec![group]));
    }
    // A workload of this name is the next best thing that can be meant.
    let owners: BTreeSet<&Arc<str>> = owned_pods(namespace, name, snapshot)
        .filter_map(|pod| pod.owner.as_ref().map(|(kind, _)| kind))
        .collect();
    if let [kind] = owners.into_iter().collect::<Vec<_>>().as_slice() {
        return workload(namespace, kind, name, snapshot);
    }
    let pods = snapshot.pods.keys().map(ToString::to_string);
    // As long as it is unambiguous, a workload's kind can be left out.
    let short = snapshot.pods.values().filter_map(|pod| {
        let (_, name) = pod.owner.as_ref()?;
        Some(format!("{}/{name}", pod.key.namespace))
    });
    let known = pods.chain(workloads(snapshot)).chain(short);
    Err(missing("pod or workload", &key.to_string(), known))
}

fn workload(
    namespace: &str,
    kind: &str,
    name: &str,
    snapshot: &Snapshot,
) -> Result<Named, UsageError> {
    let groups: Vec<Group> = owned_pods(namespace, name, snapshot)
        .filter(|pod| {
            pod.owner
                .as_ref()
                .is_some_and(|(owner, _)| **owner == *kind)
        })
        .map(|pod| pod_group(pod))
        .collect();
    let short = kind.to_ascii_lowercase();
    let full = format!("{namespace}/{short}/{name}");
    if groups.is_empty() {
        return Err(missing("workload with pods", &full, workloads(snapshot)));
    }
    Ok((full, groups))
}

/// The names of all workloads that have pods.
fn workloads(snapshot: &Snapshot) -> impl Iterator<Item = String> {
    let names = snapshot.pods.values().filter_map(|pod| {
        let (kind, name) = pod.owner.as_ref()?;
        let kind = kind.to_ascii_lowercase();
        Some(format!("{}/{kind}/{name}", pod.key.namespace))
    });
    names.collect::<BTreeSet<String>>().into_iter()
}

fn owned_pods<'s>(
    namespace: &'s str,
    name: &'s str,
    snapshot: &'s Snapshot,
) -> impl Iterator<Item = &'s Arc<Pod>> {
    snapshot.pods.values().filter(move |pod| {
        *pod.key.namespace == *namespace
            && pod
                .owner
                .as_ref()
                .is_some_and(|(_, owner)| **owner == *name)
    })
}

fn pod_group(pod: &Pod) -> Group {
    Group::of(Endpoint::Pod(pod.key.clone()))
}

/// The Services with an address, unless a pod or node owns it, which their other ports then reach.
fn services_at(address: IpAddr, snapshot: &Snapshot) -> Vec<&Service> {
    if snapshot.pod_at(address).is_some() || snapshot.node_at(address).is_some() {
        return Vec::new();
    }
    let services = snapshot.services.values().map(|service| &**service);
    services
        .filter(|service| service.addresses.contains(&address))
        .collect()
}

/// The pods behind a Service: its listed endpoints, or else the pods it selects.
fn behind(service: &Service, snapshot: &Snapshot) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut add = |endpoint: Endpoint, leg: ServiceLeg| match groups
        .iter_mut()
        .find(|group| group.endpoint == endpoint)
    {
        Some(group) => group.legs.push(leg),
        None => groups.push(Group {
            legs: vec![leg],
            ..Group::of(endpoint)
        }),
    };
    for port in &service.ports {
        let leg = |number: u16| ServiceLeg {
            name: port.name.clone(),
            service: PortSet::of([(port.protocol, PortRange::single(port.port))]),
            target: PortSet::of([(port.protocol, PortRange::single(number))]),
        };
        for backend in &port.backends {
            let endpoint = match snapshot.pod_at(backend.address) {
                Some(pod) => Endpoint::Pod(pod.key.clone()),
                None => Endpoint::Address(backend.address),
            };
            add(endpoint, leg(backend.port));
        }
        if !port.backends.is_empty() {
            continue;
        }
        for pod in snapshot.pods.values() {
            if !service.selects(pod) {
                continue;
            }
            if let Some(number) = port.target_on(pod) {
                add(Endpoint::Pod(pod.key.clone()), leg(number));
            }
        }
    }
    groups.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
    groups
}

fn spell(term: &policy_compiler::model::Requirement) -> String {
    use policy_compiler::model::Operator;
    let values = term.values.join(",");
    match (term.operator, term.values.len()) {
        (Operator::In, 1) => format!("{}={values}", term.key),
        (Operator::NotIn, 1) => format!("{}!={values}", term.key),
        (Operator::In, _) => format!("{} in ({values})", term.key),
        (Operator::NotIn, _) => format!("{} notin ({values})", term.key),
        (Operator::Exists, _) => term.key.to_string(),
        (Operator::DoesNotExist, _) => format!("!{}", term.key),
    }
}

fn missing(what: &str, name: &str, known: impl Iterator<Item = String>) -> UsageError {
    let error = UsageError::new(format!("there is no {what} `{name}`"));
    let last = |path: &str| path.rsplit('/').next().map(str::to_owned);
    let known: Vec<String> = known.filter(|other| other != name).collect();
    // A namespace is forgotten more often than a name is misspelt.
    let namesake = known.iter().find(|other| last(other) == last(name));
    match namesake
        .cloned()
        .or_else(|| nearest(name, known.into_iter()))
    {
        Some(near) => error.help(format!("there is `{near}`")),
        None => error,
    }
}
