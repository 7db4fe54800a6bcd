// SPDX-License-Identifier: Apache-2.0
//! The oracle: what the API documents say of one flow, read clause by clause.
//!
//! Everything here is a linear scan in the order the documents describe, so that it can be checked
//! against them by reading. It shares the model's types with the compiler and nothing else. Rule ids are
//! those of `docs/semantics.md`; sentences are paraphrased from the API types named beside them.
//!
//! Packets of established connections, ARP, neighbour discovery and related ICMP errors (A51, A54, C30)
//! are the datapath's business: a [`Flow`] is always the first packet of a connection.

use std::net::IpAddr;

use crate::{
    model::{
        Action, AdminPeer, AdminPolicy, AdminPort, AdminRule, Direction, Family, NetworkPeer,
        NetworkPolicy, NetworkPort, NetworkRule, Pod, PolicyRef, Protocol, Selector, Subject, Tier,
        family_of,
    },
    snapshot::Snapshot,
    verdict::{Decision, Endpoint, Flow, Reason, RuleRef, Trace, Verdict},
};

/// The verdict of `flow` and the reason of both directions.
///
/// An end without an address in the flow's family (a single-stack pod asked about the other family, a
/// pod that has no address yet) is still subject to its policies, and selectors still match it: they
/// select pods, not addresses (A28). Peers that compare addresses cannot match it (A32).
pub fn evaluate(snapshot: &Snapshot, flow: &Flow) -> Trace {
    let source = resolve(snapshot, &flow.source, flow.family);
    let destination = resolve(snapshot, &flow.destination, flow.family);

    // A57, "a pod cannot block access to itself" (concepts/network-policies): traffic to the pod's own
    // address never leaves it. Through a Service it does (C33, network-policy-api overview).
    if source.is_same_pod(&destination) && !flow.via_service {
        let own = || decision(Verdict::Allow, Tier::Default, Reason::SelfTraffic, &[]);
        return Trace::new(own(), own());
    }

    // A54, "for a connection to be allowed, both the egress policy on the source pod and the ingress
    // policy on the destination pod need to allow it". Neither reads the other's result (B23, C31, D4).
    let judge = |direction, me, peer| {
        let question = Question {
            snapshot,
            direction,
            me,
            peer,
            destination: &destination,
            protocol: flow.protocol,
            port: flow.port,
            audits: false,
        };
        question.judge()
    };
    Trace::new(
        judge(Direction::Egress, &source, &destination),
        judge(Direction::Ingress, &destination, &source),
    )
}

/// One end of a flow as policies see it. The default is an end nobody knows anything about.
#[derive(Default)]
struct End<'a> {
    /// A pod that selectors can see: not hostNetwork (A12), not finished (A13).
    pod: Option<&'a Pod>,
    /// The node whose own stack this is.
    node: Option<&'a str>,
    /// The address on the wire.
    address: Option<IpAddr>,
}

impl<'a> End<'a> {
    fn pod(pod: &'a Pod, address: Option<IpAddr>) -> Self {
        let (pod, node) = (Some(pod), None);
        Self { pod, node, address }
    }

    fn node(node: &'a str, address: Option<IpAddr>) -> Self {
        let (pod, node) = (None, Some(node));
        Self { pod, node, address }
    }

    fn is_same_pod(&self, other: &Self) -> bool {
        matches!((self.pod, other.pod), (Some(a), Some(b)) if a.key == b.key)
    }
}

fn resolve<'a>(snapshot: &'a Snapshot, endpoint: &'a Endpoint, family: Family) -> End<'a> {
    let in_family = |addresses: &[IpAddr]| {
        let mut addresses = addresses.iter().copied();
        addresses.find(|address| family_of(*address) == family)
    };
    let node_address = |name: &str| in_family(&snapshot.nodes.get(name)?.addresses);
    match endpoint {
        Endpoint::Pod(key) => match snapshot.pods.get(key) {
            Some(pod) if pod.is_policed() => End::pod(pod, in_family(&pod.addresses)),
            Some(pod) => match &pod.node {
                // A12, "hostNetwork pods are treated like the node they run on".
                Some(name) if pod.host_network => End::node(
                    name,
                    node_address(name).or_else(|| in_family(&pod.addresses)),
                ),
                // A13: a finished pod is the address it had, which may be somebody else's by now.
                _ => resolve_address(snapshot, in_family(&pod.addresses)),
            },
            None => End::default(),
        },
        Endpoint::Node(name) => End::node(name, node_address(name)),
        Endpoint::Address(address) => resolve_address(snapshot, Some(*address)),
    }
}

/// The owner of an address: a live pod (A14), else a node, else nobody in the cluster.
fn resolve_address(snapshot: &Snapshot, address: Option<IpAddr>) -> End<'_> {
    let Some(ip) = address else {
        return End::default();
    };
    if let Some(pod) = snapshot.pod_at(ip) {
        return End::pod(pod, address);
    }
    let node = snapshot.node_at(ip).map(|name| &**name);
    End {
        node,
        address,
        ..End::default()
    }
}

/// One direction of a flow.
#[derive(Clone, Copy)]
struct Question<'a> {
    snapshot: &'a Snapshot,
    direction: Direction,
    me: &'a End<'a>,
    peer: &'a End<'a>,
    destination: &'a End<'a>,
    protocol: Protocol,
    port: u16,
    /// Leave out the denials of audited policies.
    audits: bool,
}

impl Question<'_> {
    /// D8, D9: what is enforced leaves out the denials of audited policies. D10: if with them the flow
    /// were denied, that is reported.
    fn judge(self) -> Decision {
        let with_all = self.decide();
        let audits = true;
        let mut enforced = Question { audits, ..self }.decide();
        if (with_all.verdict, enforced.verdict) == (Verdict::Deny, Verdict::Allow) {
            enforced.audited = Some(Box::new(with_all));
        }
        enforced
    }

    fn decide(&self) -> Decision {
        // B11, A12, A13: nodes, outside addresses, hostNetwork and finished pods are never subjects.
        let Some(me) = self.me.pod else {
            return decision(Verdict::Allow, Tier::Default, Reason::NotASubject, &[]);
        };
        let mut passed = Vec::new();
        // B2, C2: Admin, then NetworkPolicy, then Baseline, then allow.
        self.admin_tier(Tier::Admin, me, &mut passed)
            .or_else(|| self.network_policy_tier(me, &passed))
            .or_else(|| self.admin_tier(Tier::Baseline, me, &mut passed))
            // B21: "if no match, the default is to allow".
            .unwrap_or_else(|| decision(Verdict::Allow, Tier::Default, Reason::Default, &passed))
    }

    /// Admin (B2) or Baseline (C2). `None` if no rule matched, or a Pass did (B20, C4).
    fn admin_tier(&self, tier: Tier, me: &Pod, passed: &mut Vec<RuleRef>) -> Option<Decision> {
        let mut policies: Vec<&AdminPolicy> = Vec::new();
        for policy in self.snapshot.admin_policies.values() {
            if policy.tier == tier {
                policies.push(policy);
            }
        }
        // B2, "a lower value has higher precedence"; ties by kind (D1) and name (B3). The baseline
        // singleton comes last by its priority (D2).
        policies.sort_by_key(|policy| (policy.priority, policy.kind, &policy.name));
        for policy in policies {
            // B10: exactly the pods of the subject. B6: having no rules, it says nothing.
            let Subject::Pods { namespaces, pods } = &policy.subject else {
                continue; // A84: an invalid subject selects nothing.
            };
            if !self.selects(namespaces, pods, me) {
                continue;
            }
            // D8: instead of denying, a rule of an audited policy leaves it to the next rule.
            let is_left_out = self.audits && policy.audited;
            // B5, "the first matching rule in order applies".
            for (index, rule) in (0..).zip(policy.rules(self.direction)) {
                let reference = || RuleRef {
                    policy: policy.policy_ref(),
                    tier,
                    direction: self.direction,
                    index,
                    name: rule.name.clone(),
                    at: rule.at.clone(),
                };
                if self.is_closed(rule) {
                    match rule.action {
                        // B34: an Allow rule that is not understood matches nothing,
                        Action::Allow => continue,
                        Action::Deny | Action::Pass if is_left_out => continue,
                        // any other denies everything to its subject, ports ignored.
                        Action::Deny | Action::Pass => {
                            let reason = Reason::FailClosed(reference());
                            return Some(decision(Verdict::Deny, tier, reason, passed));
                        }
                    }
                }
                // B38: peers are OR-ed. B40: absent ports mean all traffic, ports are OR-ed.
                let ports = rule.ports.as_deref();
                if !rule.peers.iter().any(|peer| self.admin_peer(peer))
                    || !ports.is_none_or(|ports| ports.iter().any(|port| self.admin_port(port)))
                {
                    continue;
                }
                let verdict = match rule.action {
                    Action::Allow => Verdict::Allow,
                    Action::Deny if is_left_out => continue,
                    Action::Deny => Verdict::Deny,
                    Action::Pass => {
                        passed.push(reference());
                        return None;
                    }
                };
                return Some(decision(verdict, tier, Reason::Rule(reference()), passed));
            }
        }
        None
    }

    /// B34, and B36, B37 for domain names: only in Allow rules, and only where addresses are learned.
    fn is_closed(&self, rule: &AdminRule) -> bool {
        let domains = |peer: &AdminPeer| matches!(peer, AdminPeer::DomainNames(_));
        rule.closed.is_some()
            || rule.peers.iter().any(domains)
                && (rule.action != Action::Allow || self.snapshot.domains.is_none())
    }

    fn admin_peer(&self, peer: &AdminPeer) -> bool {
        match peer {
            // B32: pods by selectors; hostNetwork pods are never `peer.pod` (A12).
            AdminPeer::Pods { namespaces, pods } => self
                .peer
                .pod
                .is_some_and(|pod| self.selects(namespaces, pods, pod)),
            // B33: any address in the blocks, pods and nodes included; families never cross (A32).
            AdminPeer::Networks(networks) => self
                .peer_address(|address| networks.iter().any(|network| network.contains(&address))),
            // B35: any address in the status of a selected node.
            AdminPeer::Nodes(selector) => self.peer_address(|address| {
                let mut nodes = self.snapshot.nodes.values();
                nodes
                    .any(|node| selector.matches(&node.labels) && node.addresses.contains(&address))
            }),
            // B36, B37: addresses that DNS answered for a name the patterns cover.
            AdminPeer::DomainNames(patterns) => {
                self.peer_address(|address| self.snapshot.resolves(patterns, address))
            }
        }
    }

    fn admin_port(&self, port: &AdminPort) -> bool {
        match port {
            // B41, B42, C8: inclusive, destination port; an inverted range holds nothing.
            AdminPort::Range(protocol, range) => {
                self.is_port_of(*protocol) && range.contains(&self.port)
            }
            // B43, C10: protocol and number are those of the container port. B44: of a pod only.
            AdminPort::Named(name) => self.named_port(name, self.protocol),
        }
    }

    /// `None` if no NetworkPolicy isolates `me` in this direction (A16).
    fn network_policy_tier(&self, me: &Pod, passed: &[RuleRef]) -> Option<Decision> {
        let tier = Tier::NetworkPolicy;
        let allow = |reason| Some(decision(Verdict::Allow, tier, reason, passed));
        // A11: of the pod's namespace. A10, A84: selected. A1, A16, A17: with this policyType.
        let mut isolating: Vec<(&NetworkPolicy, &[NetworkRule])> = Vec::new();
        for policy in self.snapshot.network_policies.values() {
            let selected = policy.pod_selector.matches(&me.labels);
            if policy.namespace == me.key.namespace && selected {
                isolating.extend(policy.rules(self.direction).map(|rules| (&**policy, rules)));
            }
        }
        if isolating.is_empty() {
            return None;
        }
        isolating.sort_by_key(|(policy, _)| &policy.name);

        // A55, "traffic to and from the node where a Pod is running is always allowed": ingress only
        // unless the operator says otherwise.
        let own_node = self.peer.node.is_some() && self.peer.node == me.node.as_deref();
        if own_node
            && (self.direction == Direction::Ingress || self.snapshot.options.local_node_egress)
        {
            return allow(Reason::LocalNode);
        }
        // A58: this tier cannot keep a pod from itself, not even through a Service.
        if self.me.is_same_pod(self.peer) {
            return allow(Reason::SelfTraffic);
        }
        // A23: some rule of some policy; the first by (policy name, rule index) is named (D6).
        for (policy, rules) in &isolating {
            for (index, rule) in (0..).zip(*rules) {
                // A21, A22: absent lists match all. A23: some peer and some port.
                let peers = rule.peers.as_deref();
                let ports = rule.ports.as_deref();
                if peers.is_none_or(|peers| peers.iter().any(|p| self.network_peer(policy, p)))
                    && ports.is_none_or(|ports| ports.iter().any(|p| self.network_port(p)))
                {
                    return allow(Reason::Rule(RuleRef {
                        policy: policy.policy_ref(),
                        tier,
                        direction: self.direction,
                        index,
                        name: None,
                        at: rule.at.clone(),
                    }));
                }
            }
        }
        // D9: that an audited policy isolates denies nothing.
        isolating.retain(|(policy, _)| !(self.audits && policy.audited));
        if isolating.is_empty() {
            return None;
        }
        // A20, B22: isolation is final; the Baseline tier is not asked.
        let policies: Vec<PolicyRef> = isolating.iter().map(|(p, _)| p.policy_ref()).collect();
        let reason = Reason::Isolated(policies);
        Some(decision(Verdict::Deny, tier, reason, passed))
    }

    fn network_peer(&self, policy: &NetworkPolicy, peer: &NetworkPeer) -> bool {
        match peer {
            // A24: no namespaceSelector means the policy's namespace. A25, A26: both are AND-ed.
            // A28: never nodes or outside addresses.
            NetworkPeer::Pods { namespaces, pods } => {
                self.peer.pod.is_some_and(|pod| match namespaces {
                    Some(namespaces) => self.selects(namespaces, pods, pod),
                    None => pod.key.namespace == policy.namespace && pods.matches(&pod.labels),
                })
            }
            // A29: whoever owns the address. A30: exceptions are subtracted from this block only.
            NetworkPeer::IpBlock(block) => self.peer_address(|address| block.contains(address)),
            NetworkPeer::Nothing => false, // A27, A84
        }
    }

    fn network_port(&self, port: &NetworkPort) -> bool {
        match port {
            // A40, A42, A43: destination port, inclusive range.
            NetworkPort::Range(protocol, range) => {
                self.is_port_of(*protocol) && range.contains(self.port)
            }
            // A44: container port of this name and this protocol.
            NetworkPort::Named(protocol, name) => self.named_port(name, *protocol),
            NetworkPort::Nothing => false, // A45, A64
        }
    }

    /// A50, C32: protocols without ports are matched only by rules without ports.
    fn is_port_of(&self, protocol: Protocol) -> bool {
        self.protocol == protocol && self.protocol != Protocol::Other
    }

    /// A44, B43: resolved on the destination pod, ingress or egress. A46: every port of that name.
    /// A48: nodes and outside addresses have none.
    fn named_port(&self, name: &str, protocol: Protocol) -> bool {
        let ports = self.destination.pod.iter().flat_map(|pod| pod.ports.iter());
        let mut named = ports.filter(|port| port.name.as_deref() == Some(name));
        self.is_port_of(protocol)
            && named.any(|port| port.protocol == protocol && port.number == self.port)
    }

    fn peer_address(&self, holds: impl FnOnce(IpAddr) -> bool) -> bool {
        self.peer.address.is_some_and(holds)
    }

    /// Namespace labels and pod labels are both selected (A26, B10, B32).
    fn selects(&self, namespaces: &Selector, pods: &Selector, pod: &Pod) -> bool {
        let namespace = self.snapshot.namespaces.get(&pod.key.namespace);
        namespace.is_some_and(|namespace| namespaces.matches(&namespace.labels))
            && pods.matches(&pod.labels)
    }
}

fn decision(verdict: Verdict, tier: Tier, reason: Reason, passed: &[RuleRef]) -> Decision {
    Decision {
        verdict,
        tier,
        reason,
        passed: passed.to_vec(),
        audited: None,
    }
}
