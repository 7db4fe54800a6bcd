// SPDX-License-Identifier: Apache-2.0
//! Which flows are worth a probe?

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use policy_compiler::{
    Snapshot,
    model::{Family, Protocol, family_of},
    portmap::PortMap,
    reach::Reach,
    verdict::{Endpoint, Flow},
};

/// Nobody's port: what is open there is open everywhere.
const UNUSED: u16 = 64_999;

/// One end of probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// Who it is.
    pub endpoint: Endpoint,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Ports it would serve if it ran for real.
    pub ports: BTreeSet<(Protocol, u16)>,
}

/// What a probe sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// A connection to a port.
    Tcp(u16),
    /// A datagram to a port.
    Udp(u16),
    /// An INIT chunk to a port.
    Sctp(u16),
    /// An echo request.
    Icmp,
}

impl Transport {
    /// What policies know of it.
    pub const fn protocol_and_port(self) -> (Protocol, u16) {
        match self {
            Self::Tcp(port) => (Protocol::Tcp, port),
            Self::Udp(port) => (Protocol::Udp, port),
            Self::Sctp(port) => (Protocol::Sctp, port),
            Self::Icmp => (Protocol::Other, 0),
        }
    }
}

/// One probe: indices into the list of parties, and addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Probe {
    /// Who sends.
    pub source: usize,
    /// Who should answer.
    pub destination: usize,
    /// The sender's address.
    pub from: IpAddr,
    /// The receiver's address.
    pub to: IpAddr,
    /// What is sent.
    pub transport: Transport,
}

impl Probe {
    /// The address family.
    pub fn family(&self) -> Family {
        family_of(self.to)
    }

    /// The question that the probe answers.
    pub fn flow(&self, parties: &[Party]) -> Flow {
        let (protocol, port) = self.transport.protocol_and_port();
        let end = |party: usize, address| match &parties[party].endpoint {
            Endpoint::Address(_) => Endpoint::Address(address),
            endpoint @ (Endpoint::Pod(_) | Endpoint::Node(_)) => endpoint.clone(),
        };
        Flow {
            source: end(self.source, self.from),
            destination: end(self.destination, self.to),
            protocol,
            port,
            family: self.family(),
            via_service: false,
        }
    }
}

/// Every pod, every node, and every address outside the cluster.
pub fn parties(snapshot: &Snapshot, outside: &[IpAddr]) -> Vec<Party> {
    let mut parties = Vec::new();
    let mut node_ports: BTreeMap<&str, BTreeSet<(Protocol, u16)>> = BTreeMap::new();
    for pod in snapshot.pods.values() {
        let ports: BTreeSet<_> = pod
            .ports
            .iter()
            .map(|port| (port.protocol, port.number))
            .collect();
        if pod.is_policed() && pod.node.is_some() && !pod.addresses.is_empty() {
            parties.push(Party {
                endpoint: Endpoint::Pod(pod.key.clone()),
                addresses: pod.addresses.clone(),
                ports,
            });
        } else if let (true, Some(node)) = (pod.host_network, &pod.node) {
            node_ports.entry(node).or_default().extend(ports);
        }
    }
    for node in snapshot.nodes.values() {
        parties.push(Party {
            endpoint: Endpoint::Node(node.name.clone()),
            addresses: first_of_each_family(&node.addresses),
            ports: node_ports.remove(&*node.name).unwrap_or_default(),
        });
    }
    for address in outside {
        parties.push(Party {
            endpoint: Endpoint::Address(*address),
            addresses: vec![*address],
            ports: BTreeSet::from([(Protocol::Tcp, 443)]),
        });
    }
    parties
}

/// For every pair of parties of which at least one is a pod, and each family both have: the
/// destination's ports, the ports on both sides of every border that a policy draws, a port nobody
/// uses, and an echo request.
pub fn probes(snapshot: &Snapshot, parties: &[Party]) -> Vec<Probe> {
    let reach = Reach::new(snapshot);
    let is_pod = |party: &Party| matches!(party.endpoint, Endpoint::Pod(_));
    let mut probes = Vec::new();
    for (source, sender) in parties.iter().enumerate() {
        for (destination, receiver) in parties.iter().enumerate() {
            if source == destination || !(is_pod(sender) || is_pod(receiver)) {
                continue;
            }
            for (from, to) in sender
                .addresses
                .iter()
                .flat_map(|from| receiver.addresses.iter().map(move |to| (*from, *to)))
                .filter(|(from, to)| family_of(*from) == family_of(*to))
            {
                let mut transports =
                    borders(&reach, &sender.endpoint, &receiver.endpoint, family_of(to));
                transports.extend(
                    receiver
                        .ports
                        .iter()
                        .filter_map(|(protocol, port)| transport(*protocol, *port)),
                );
                transports.extend([
                    Transport::Icmp,
                    Transport::Tcp(UNUSED),
                    Transport::Udp(UNUSED),
                    Transport::Sctp(UNUSED),
                ]);
                probes.extend(transports.into_iter().map(|transport| Probe {
                    source,
                    destination,
                    from,
                    to,
                    transport,
                }));
            }
        }
    }
    probes
}

/// The ports on both sides of every border that the policies of the pair draw.
fn borders(
    reach: &Reach<'_>,
    from: &Endpoint,
    to: &Endpoint,
    family: Family,
) -> BTreeSet<Transport> {
    let connection = reach.connection(from, to, family, false);
    [&connection.egress, &connection.ingress]
        .into_iter()
        .flat_map(PortMap::segments)
        .flat_map(|segment| {
            let ports = [segment.ports.start, segment.ports.end];
            ports.map(|port| (segment.protocol, port))
        })
        .filter(|(_, port)| !matches!(*port, 0 | u16::MAX))
        .filter_map(|(protocol, port)| transport(protocol, port))
        .collect()
}

fn transport(protocol: Protocol, port: u16) -> Option<Transport> {
    match protocol {
        Protocol::Tcp => Some(Transport::Tcp(port)),
        Protocol::Udp => Some(Transport::Udp(port)),
        Protocol::Sctp => Some(Transport::Sctp(port)),
        Protocol::Other => None,
    }
}

fn first_of_each_family(addresses: &[IpAddr]) -> Vec<IpAddr> {
    [Family::V4, Family::V6]
        .into_iter()
        .filter_map(|family| {
            let mut addresses = addresses.iter().copied();
            addresses.find(|address| family_of(*address) == family)
        })
        .collect()
}
