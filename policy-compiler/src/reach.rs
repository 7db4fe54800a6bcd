// SPDX-License-Identifier: Apache-2.0
//! What one end may open to another, exactly, over every protocol and port.

use std::{
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use crate::{
    Decision, Flow, Reason, Snapshot, Trace, Verdict,
    compile::{
        reduce::{Candidate, Exempt, Isolation, Situation, explain, reduce},
        rules::{
            Atom, Atoms, Peers, Rule, Selecting, admin_policies_in_order, admin_rule, network_rule,
        },
    },
    model::{AdminPolicy, Direction, Family, Labels, Pod, Tier, family_of},
    portmap::{PortMap, PortSet},
    verdict::Endpoint,
};

/// Answers questions about a snapshot one pair at a time. For all pairs, compile tables.
#[derive(Debug)]
pub struct Reach<'a> {
    snapshot: &'a Snapshot,
    admin: Vec<&'a Arc<AdminPolicy>>,
}

/// What each side of a pair says of every protocol and destination port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The source's side.
    pub egress: PortMap<Decision>,
    /// The destination's side.
    pub ingress: PortMap<Decision>,
}

impl Connection {
    /// What both sides admit.
    pub fn allowed(&self) -> PortSet {
        self.egress.zip(&self.ingress, |e, i| {
            e.verdict == Verdict::Allow && i.verdict == Verdict::Allow
        })
    }
}

/// An end of a flow as policies see it: who owns it and which address is on the wire.
#[derive(Clone, Debug, Default)]
pub struct Party<'a> {
    /// The policed pod, if the end is one.
    pub pod: Option<&'a Arc<Pod>>,
    /// The node, if the end is a node's own network stack.
    pub node: Option<Arc<str>>,
    /// The address of the family in question; unknown if the pod or node has none.
    pub address: Option<IpAddr>,
}

impl<'a> Reach<'a> {
    /// Prepares `snapshot` for questions.
    pub fn new(snapshot: &'a Snapshot) -> Self {
        Self {
            snapshot,
            admin: admin_policies_in_order(snapshot),
        }
    }

    /// The verdict of one flow.
    pub fn decide(&self, flow: &Flow) -> Trace {
        let connection = self.connection(
            &flow.source,
            &flow.destination,
            flow.family,
            flow.via_service,
        );
        Trace::new(
            connection.egress.at(flow.protocol, flow.port).clone(),
            connection.ingress.at(flow.protocol, flow.port).clone(),
        )
    }

    /// What `source` may open to `destination`, both after Service translation. `via_service` tells
    /// that a Service was addressed, which matters for traffic of a pod to itself.
    pub fn connection(
        &self,
        source: &Endpoint,
        destination: &Endpoint,
        family: Family,
        via_service: bool,
    ) -> Connection {
        let source = self.party(source, family);
        let destination = self.party(destination, family);
        if !via_service && same_pod(&source, &destination) {
            let own = PortMap::uniform(Decision {
                verdict: Verdict::Allow,
                tier: Tier::Default,
                reason: Reason::SelfTraffic,
                passed: Vec::new(),
                audited: None,
            });
            return Connection {
                egress: own.clone(),
                ingress: own,
            };
        }
        Connection {
            egress: self.direction(Direction::Egress, &source, &destination),
            ingress: self.direction(Direction::Ingress, &destination, &source),
        }
    }

    /// What the policies of `me` say of connections with `peer` in one direction.
    pub fn direction(
        &self,
        direction: Direction,
        me: &Party<'a>,
        peer: &Party<'a>,
    ) -> PortMap<Decision> {
        let Some(pod) = me.pod else {
            return PortMap::uniform(Decision {
                verdict: Verdict::Allow,
                tier: Tier::Default,
                reason: Reason::NotASubject,
                passed: Vec::new(),
                audited: None,
            });
        };
        let selecting =
            Selecting::find(self.snapshot, &self.admin, &pod.key.namespace, &pod.labels);
        let mut atoms = Atoms::default();
        let rules = rules_of(
            &selecting,
            direction,
            self.snapshot.domains.is_some(),
            &mut atoms,
        );
        let isolating = selecting.isolating(direction);
        let matches: Vec<bool> = atoms
            .iter()
            .map(|(_, atom)| self.matches(atom, peer))
            .collect();
        let destination = match direction {
            Direction::Ingress => me.pod,
            Direction::Egress => peer.pod,
        };
        let ports = destination.map_or(&[][..], |pod| &pod.ports);
        let candidates: Vec<_> = (0..)
            .zip(&rules)
            .filter(|(_, rule)| match &rule.peers {
                Peers::All => true,
                Peers::Any(any) => any
                    .iter()
                    .any(|id| matches.get(id.0 as usize) == Some(&true)),
            })
            .map(|(index, rule)| Candidate::new(index, rule, ports))
            .collect();
        let situation = Situation {
            isolation: Isolation::by(isolating.as_ref()),
            exempt: self.exempt(direction, pod, me, peer),
        };
        reduce(&candidates, situation).map(|outcome| explain(*outcome, &rules, isolating.as_ref()))
    }

    /// Who an end of a flow is: hostNetwork pods stand for their node, finished pods for their address,
    /// addresses for the pod or node that owns them.
    pub fn party(&self, endpoint: &Endpoint, family: Family) -> Party<'a> {
        let pod = match endpoint {
            Endpoint::Pod(key) => self.snapshot.pods.get(key),
            Endpoint::Node(name) => return self.node_party(name, &[], family),
            Endpoint::Address(address) => return self.address_party(*address),
        };
        let Some(pod) = pod else {
            return Party::default();
        };
        let address = address_in(&pod.addresses, family);
        match (&pod.node, address) {
            _ if pod.is_policed() => Party {
                pod: Some(pod),
                node: None,
                address,
            },
            (Some(node), _) if pod.host_network => self.node_party(node, &pod.addresses, family),
            (_, Some(address)) => self.address_party(address),
            (_, None) => Party::default(),
        }
    }

    /// A node, at its own address or, if that is unknown, at one that a hostNetwork pod reports.
    fn node_party(&self, name: &Arc<str>, reported: &[IpAddr], family: Family) -> Party<'a> {
        let node = self.snapshot.nodes.get(name);
        let address = node.and_then(|node| address_in(&node.addresses, family));
        Party {
            pod: None,
            node: Some(name.clone()),
            address: address.or_else(|| address_in(reported, family)),
        }
    }

    fn address_party(&self, address: IpAddr) -> Party<'a> {
        let pod = self.snapshot.pod_at(address);
        let node = match pod {
            Some(_) => None,
            None => self.snapshot.node_at(address),
        };
        Party {
            pod,
            node: node.cloned(),
            address: Some(address),
        }
    }

    fn exempt(
        &self,
        direction: Direction,
        pod: &Pod,
        me: &Party<'_>,
        peer: &Party<'_>,
    ) -> Option<Exempt> {
        let own_node = peer.node.is_some() && peer.node == pod.node;
        let node_exempt = match direction {
            Direction::Ingress => own_node,
            Direction::Egress => own_node && self.snapshot.options.local_node_egress,
        };
        if node_exempt {
            return Some(Exempt::LocalNode);
        }
        same_pod(me, peer).then_some(Exempt::SelfTraffic)
    }

    fn matches(&self, atom: &Atom, peer: &Party<'_>) -> bool {
        match atom {
            Atom::PodsIn { namespace, pods } => peer
                .pod
                .is_some_and(|pod| pod.key.namespace == *namespace && pods.matches(&pod.labels)),
            Atom::Pods { namespaces, pods } => peer.pod.is_some_and(|pod| {
                pods.matches(&pod.labels)
                    && namespaces.matches(self.namespace_labels(&pod.key.namespace))
            }),
            Atom::Block(block) => peer.address.is_some_and(|address| block.contains(address)),
            Atom::Nodes(selector) => peer.address.is_some_and(|address| {
                self.snapshot
                    .nodes
                    .values()
                    .any(|node| selector.matches(&node.labels) && node.addresses.contains(&address))
            }),
            Atom::Domains(patterns) => peer
                .address
                .is_some_and(|address| self.snapshot.resolves(patterns, address)),
        }
    }

    fn namespace_labels(&self, name: &Arc<str>) -> &'a Labels {
        static NONE: LazyLock<Labels> = LazyLock::new(Labels::default);
        self.snapshot
            .namespaces
            .get(name)
            .map_or(&NONE, |namespace| &namespace.labels)
    }
}

/// The rules of the selecting policies in one direction, in order of precedence.
pub(crate) fn rules_of(
    selecting: &Selecting<'_>,
    direction: Direction,
    learns_domains: bool,
    atoms: &mut Atoms,
) -> Vec<Rule> {
    let mut rules = Vec::new();
    let admin = |tier: Tier, rules: &mut Vec<Rule>, atoms: &mut Atoms| {
        for policy in selecting.admin.iter().filter(|policy| policy.tier == tier) {
            for (index, rule) in policy.rules(direction).iter().enumerate() {
                rules.extend(admin_rule(
                    policy,
                    direction,
                    index,
                    rule,
                    learns_domains,
                    atoms,
                ));
            }
        }
    };
    admin(Tier::Admin, &mut rules, atoms);
    for policy in &selecting.network {
        for (index, rule) in policy.rules(direction).into_iter().flatten().enumerate() {
            rules.push(network_rule(policy, direction, index, rule, atoms));
        }
    }
    admin(Tier::Baseline, &mut rules, atoms);
    rules
}

fn address_in(addresses: &[IpAddr], family: Family) -> Option<IpAddr> {
    addresses
        .iter()
        .copied()
        .find(|address| family_of(*address) == family)
}

fn same_pod(a: &Party<'_>, b: &Party<'_>) -> bool {
    a.pod.zip(b.pod).is_some_and(|(a, b)| a.key == b.key)
}
