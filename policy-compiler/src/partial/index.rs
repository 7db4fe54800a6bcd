// SPDX-License-Identifier: Apache-2.0
//! Which rules and peers are there? The policies of a snapshot, flattened and numbered once.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::{Assumptions, Doubt, Extent};
use crate::{
    compile::hash::FastMap,
    model::{
        Action, AdminPeer, AdminPolicy, AdminPort, Direction, DomainPattern, IpBlock, NetworkPeer,
        NetworkPolicy, NetworkPort, Pod, PolicyKind, PolicyRef, PortRange, Protocol, Selection,
        Selector, Subject, Tier,
    },
    portmap::PortSet,
    snapshot::Snapshot,
    verdict::RuleRef,
};

/// A policy of an [`Evaluator`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyId(pub u32);

/// A rule of an [`Evaluator`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub u32);

/// A distinct peer of some rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TermId(pub(crate) u32);

/// The policies of a snapshot, ready to be asked about any two ends.
#[derive(Debug)]
pub struct Evaluator<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) assumptions: Assumptions,
    doubts: Vec<Doubt>,
    policies: Vec<PolicyInfo<'a>>,
    rules: Vec<RuleInfo>,
    pub(super) terms: Vec<Term<'a>>,
    pub(super) terms_by: TermsBy,
    /// Policies in order of precedence.
    pub(super) admin: Vec<PolicyId>,
    /// Policies in order of precedence.
    pub(super) baseline: Vec<PolicyId>,
    /// By namespace, in order of names.
    pub(super) network: BTreeMap<Arc<str>, Vec<PolicyId>>,
    /// Names of container ports that some rule uses, sorted.
    pub(super) port_names: Vec<Arc<str>>,
    /// For every distinct namespace selector of [`Self::terms`] and subjects, which namespaces match;
    /// `None` if labels that are not known decide.
    pub(super) namespace_matches: Vec<Vec<Option<bool>>>,
    pub(super) namespace_ids: BTreeMap<Arc<str>, usize>,
    /// Keys of labels that selectors of pods name, where labels of some pod are not known.
    pub(super) label_keys: BTreeSet<Arc<str>>,
    /// Nodes that hostNetwork and finished pods stand for; the empty name if it is not known which.
    pub(super) impersonated: BTreeSet<Arc<str>>,
    /// The addresses that hostNetwork pods report, by node; the empty name if it is not known which.
    pub(super) reported: BTreeMap<Arc<str>, BTreeSet<IpAddr>>,
}

/// A policy and its rules.
#[derive(Debug)]
pub(crate) struct PolicyInfo<'a> {
    pub(crate) reference: PolicyRef,
    pub(super) audited: bool,
    pub(super) subject: SubjectOf<'a>,
    /// Rules in order; `None` where the policy has nothing to say about the direction.
    pub(crate) ingress: Option<Vec<RuleId>>,
    pub(crate) egress: Option<Vec<RuleId>>,
    /// Set if the directions are unreadable; an index into the doubts.
    pub(super) ingress_doubt: Option<u32>,
    pub(super) egress_doubt: Option<u32>,
}

impl PolicyInfo<'_> {
    pub(crate) fn rules(&self, direction: Direction) -> Option<&[RuleId]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }

    pub(super) fn doubt(&self, direction: Direction) -> Option<u32> {
        match direction {
            Direction::Ingress => self.ingress_doubt,
            Direction::Egress => self.egress_doubt,
        }
    }
}

/// The pods a policy applies to.
#[derive(Debug)]
pub(super) enum SubjectOf<'a> {
    /// Any pod, because the subject is unreadable.
    Any,
    /// Pods of the policy's own namespace.
    Own(&'a Selection),
    /// Pods by namespace and label; the first is an index into `namespace_matches`.
    Pods(usize, &'a Selector),
    /// No pod.
    Nothing,
}

/// A rule, resolved as far as that needs no pod.
#[derive(Debug)]
pub(crate) struct RuleInfo {
    pub(crate) reference: RuleRef,
    pub(crate) action: Action,
    /// Fails closed: an Allow matches nothing, anything else denies everything.
    pub(crate) closed: bool,
    /// The policy is audited: what the rule denies is noted, and the next rule asked.
    pub(crate) audited: bool,
    /// `None` matches every peer.
    pub(crate) peers: Option<Vec<TermId>>,
    pub(crate) ports: Ports,
    /// Set if the rule is unreadable; an index into the doubts.
    pub(super) doubt: Option<u32>,
}

/// The ports of a rule.
#[derive(Debug)]
pub(crate) struct Ports {
    pub(crate) fixed: PortSet,
    /// Names, with the protocol where the API has one.
    pub(crate) names: Vec<(Option<Protocol>, Arc<str>)>,
}

/// A distinct peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Term<'a> {
    /// Pods of one namespace.
    Own(Arc<str>, &'a Selector),
    /// Pods by namespace and label; the first is an index into `namespace_matches`.
    Pods(usize, &'a Selector),
    Block(&'a IpBlock),
    Networks(&'a [IpNet]),
    Nodes(&'a Selector),
    Domains(&'a [DomainPattern]),
    Nothing,
}

impl Term<'_> {
    /// Whether the term is about addresses, so that pods with the same labels may differ in it.
    pub(crate) fn is_by_address(&self) -> bool {
        match self {
            Self::Block(_) | Self::Networks(_) | Self::Nodes(_) | Self::Domains(_) => true,
            Self::Own(..) | Self::Pods(..) | Self::Nothing => false,
        }
    }
}

/// Where the terms are that may match an end of some kind.
#[derive(Debug, Default)]
pub(super) struct TermsBy {
    /// Those about pods of one namespace.
    pub(super) namespace: BTreeMap<Arc<str>, Vec<usize>>,
    /// All others.
    pub(super) wide: Vec<usize>,
    /// Of these, the ones about addresses.
    pub(super) address: Vec<usize>,
}

impl TermsBy {
    fn of(terms: &[Term<'_>]) -> Self {
        let mut by = Self::default();
        for (bit, term) in terms.iter().enumerate() {
            if let Term::Own(namespace, _) = term {
                by.namespace.entry(namespace.clone()).or_default().push(bit);
            } else {
                by.wide.push(bit);
            }
            if term.is_by_address() {
                by.address.push(bit);
            }
        }
        by
    }
}

impl<'a> Evaluator<'a> {
    /// Flattens the policies of `snapshot`; `doubts` replace what cannot be read.
    pub fn new(snapshot: &'a Snapshot, assumptions: Assumptions, doubts: Vec<Doubt>) -> Self {
        let mut builder = Builder::new(snapshot, &doubts);
        let mut network: BTreeMap<Arc<str>, Vec<PolicyId>> = BTreeMap::new();
        for policy in snapshot.network_policies.values() {
            let id = builder.network_policy(policy);
            network
                .entry(policy.namespace.clone())
                .or_default()
                .push(id);
        }
        let mut ordered: Vec<&AdminPolicy> = snapshot
            .admin_policies
            .values()
            .map(AsRef::as_ref)
            .collect();
        ordered.sort_by(|a, b| a.precedence().cmp(&b.precedence()));
        let (mut admin, mut baseline) = builder.strangers(&mut network);
        for policy in ordered {
            let id = builder.admin_policy(policy);
            match policy.tier {
                Tier::Admin => admin.push(id),
                Tier::Baseline => baseline.push(id),
                // Cluster-scoped policies act in no other tier.
                Tier::NetworkPolicy | Tier::Default => {}
            }
        }
        let Builder {
            policies,
            rules,
            terms,
            mut port_names,
            namespace_matches,
            namespace_ids,
            ..
        } = builder;
        port_names.sort();
        port_names.dedup();
        let label_keys = if snapshot.gaps.labels.is_empty() {
            BTreeSet::new()
        } else {
            label_keys(&terms, &policies)
        };
        Self {
            label_keys,
            snapshot,
            assumptions,
            doubts,
            policies,
            rules,
            terms_by: TermsBy::of(&terms),
            terms,
            admin,
            baseline,
            network,
            port_names,
            namespace_matches,
            namespace_ids,
            impersonated: impersonated(snapshot),
            reported: reported(snapshot),
        }
    }

    /// Asks about another snapshot under the same assumptions and doubts.
    pub fn of_snapshot<'s>(&self, snapshot: &'s Snapshot) -> Evaluator<'s> {
        Evaluator::new(snapshot, self.assumptions, self.doubts.clone())
    }

    /// Asks as if blocks matched pods, where that is not assumed: which of them then did is said beside
    /// answers.
    pub fn if_blocks_match_pods(&self) -> Option<Evaluator<'a>> {
        let assumptions = Assumptions {
            blocks_match_pods: true,
        };
        (self.assumptions != assumptions)
            .then(|| Evaluator::new(self.snapshot, assumptions, self.doubts.clone()))
    }

    /// What cannot be read.
    pub fn doubts(&self) -> &[Doubt] {
        &self.doubts
    }

    /// INVARIANT: ids are only made by [`Builder`], which pushes what they number.
    pub(crate) fn policy(&self, id: PolicyId) -> &PolicyInfo<'a> {
        &self.policies[id.0 as usize]
    }

    /// INVARIANT: as [`Self::policy`].
    pub(crate) fn rule(&self, id: RuleId) -> &RuleInfo {
        &self.rules[id.0 as usize]
    }

    /// INVARIANT: as [`Self::policy`].
    pub(crate) fn term(&self, id: TermId) -> &Term<'a> {
        &self.terms[id.0 as usize]
    }

    /// How many rules there are.
    pub fn rule_count(&self) -> usize {
        self.rules.len()
    }

    /// The rules, in no particular order of precedence.
    pub fn rule_ids(&self) -> impl Iterator<Item = RuleId> + use<> {
        (0..u32::try_from(self.rules.len()).unwrap_or(u32::MAX)).map(RuleId)
    }

    /// Identity and place of a rule.
    pub fn rule_reference(&self, id: RuleId) -> &RuleRef {
        &self.rule(id).reference
    }
}

struct Builder<'a, 'd> {
    snapshot: &'a Snapshot,
    doubts: &'d [Doubt],
    policies: Vec<PolicyInfo<'a>>,
    rules: Vec<RuleInfo>,
    terms: Vec<Term<'a>>,
    term_ids: FastMap<Term<'a>, TermId>,
    selector_ids: FastMap<&'a Selector, usize>,
    namespace_matches: Vec<Vec<Option<bool>>>,
    namespace_ids: BTreeMap<Arc<str>, usize>,
    port_names: Vec<Arc<str>>,
}

impl<'a, 'd> Builder<'a, 'd> {
    fn new(snapshot: &'a Snapshot, doubts: &'d [Doubt]) -> Self {
        Self {
            snapshot,
            doubts,
            policies: Vec::new(),
            rules: Vec::new(),
            terms: Vec::new(),
            term_ids: FastMap::default(),
            selector_ids: FastMap::default(),
            namespace_matches: Vec::new(),
            namespace_ids: snapshot.namespaces.keys().cloned().zip(0..).collect(),
            port_names: Vec::new(),
        }
    }

    fn network_policy(&mut self, policy: &'a NetworkPolicy) -> PolicyId {
        let reference = policy.policy_ref();
        let whole = self.doubt(&reference, |extent| extent == Extent::Whole);
        let subject = self.doubt(&reference, |extent| extent == Extent::Subject);
        let existence = self.doubt(&reference, |extent| extent == Extent::Existence);
        let mut rules = |direction| {
            policy.rules(direction).map(|rules| {
                rules
                    .iter()
                    .zip(0..)
                    .map(|(rule, index)| {
                        let peers = rule.peers.as_ref().map(|peers| {
                            peers
                                .iter()
                                .map(|peer| self.network_peer(&policy.namespace, peer))
                                .collect()
                        });
                        let ports = self.network_ports(rule.ports.as_deref());
                        self.rule(RuleInfo {
                            reference: RuleRef {
                                policy: reference.clone(),
                                tier: Tier::NetworkPolicy,
                                direction,
                                index,
                                name: None,
                                at: rule.at.clone(),
                            },
                            action: Action::Allow,
                            closed: false,
                            audited: policy.audited,
                            peers,
                            ports,
                            doubt: self.doubt(&reference, |extent| {
                                extent == Extent::Rule(direction, index)
                            }),
                        })
                    })
                    .collect()
            })
        };
        let (ingress, egress) = (rules(Direction::Ingress), rules(Direction::Egress));
        self.push(PolicyInfo {
            audited: policy.audited && whole.is_none(),
            subject: match whole.or(subject) {
                Some(_) => SubjectOf::Any,
                None => SubjectOf::Own(&policy.pod_selector),
            },
            ingress_doubt: whole
                .or_else(|| self.direction_doubt(&reference, Direction::Ingress))
                .or_else(|| subject.or(existence).filter(|_| ingress.is_some())),
            egress_doubt: whole
                .or_else(|| self.direction_doubt(&reference, Direction::Egress))
                .or_else(|| subject.or(existence).filter(|_| egress.is_some())),
            ingress,
            egress,
            reference,
        })
    }

    fn admin_policy(&mut self, policy: &'a AdminPolicy) -> PolicyId {
        let reference = policy.policy_ref();
        let mut rules = |direction| -> Vec<RuleId> {
            policy
                .rules(direction)
                .iter()
                .zip(0..)
                .map(|(rule, index)| {
                    // Names are only understood in Allow rules, and where addresses are learned.
                    let unresolved = rule.has_domain_names()
                        && (rule.action != Action::Allow || self.snapshot.domains.is_none());
                    let peers = rule
                        .peers
                        .iter()
                        .map(|peer| self.admin_peer(peer))
                        .collect();
                    let ports = self.admin_ports(rule.ports.as_deref());
                    self.rule(RuleInfo {
                        reference: RuleRef {
                            policy: reference.clone(),
                            tier: policy.tier,
                            direction,
                            index,
                            name: rule.name.clone(),
                            at: rule.at.clone(),
                        },
                        action: rule.action,
                        closed: rule.closed.is_some() || unresolved,
                        audited: policy.audited,
                        peers: Some(peers),
                        ports,
                        doubt: self.doubt(&reference, |extent| {
                            extent == Extent::Rule(direction, index)
                        }),
                    })
                })
                .collect()
        };
        let (ingress, egress) = (rules(Direction::Ingress), rules(Direction::Egress));
        let existence = self.doubt(&reference, |extent| extent == Extent::Existence);
        let existence = |rules: &[RuleId]| existence.filter(|_| !rules.is_empty());
        let (no_ingress, no_egress) = (existence(&ingress), existence(&egress));
        let subject = match &policy.subject {
            Subject::Nothing => SubjectOf::Nothing,
            Subject::Pods { namespaces, pods } => {
                SubjectOf::Pods(self.namespace_selector(namespaces), pods)
            }
        };
        self.push(PolicyInfo {
            audited: policy.audited,
            subject,
            ingress: Some(ingress),
            egress: Some(egress),
            ingress_doubt: self
                .direction_doubt(&reference, Direction::Ingress)
                .or(no_ingress),
            egress_doubt: self
                .direction_doubt(&reference, Direction::Egress)
                .or(no_egress),
            reference,
        })
    }

    /// Policies about which nothing is certain: cluster-scoped ones come before every other, because
    /// their priority may be what is unreadable, and in both tiers; NetworkPolicies that are not even
    /// in the snapshot join their namespace.
    fn strangers(
        &mut self,
        network: &mut BTreeMap<Arc<str>, Vec<PolicyId>>,
    ) -> (Vec<PolicyId>, Vec<PolicyId>) {
        let mut cluster = Vec::new();
        let doubts = self.doubts;
        for (doubt, index) in doubts.iter().zip(0..) {
            // Egress, ingress: whether the policy is known to have nothing to say.
            let mut silent = [false; 2];
            // Of a policy that cannot be read as a whole nobody knows whether it is enforced.
            let mut audited = false;
            let place = if let Some(namespace) = &doubt.policy.namespace {
                let key = (namespace.clone(), doubt.policy.name.clone());
                if self.snapshot.network_policies.contains_key(&key) {
                    continue;
                }
                network.entry(namespace.clone()).or_default()
            } else {
                let mut known = self.snapshot.admin_policies.values();
                let known = known.find(|policy| policy.policy_ref() == doubt.policy);
                match (doubt.extent, known) {
                    (Extent::Direction(_) | Extent::Rule(..) | Extent::Existence, Some(_)) => {
                        continue;
                    }
                    (Extent::Subject, Some(known)) => {
                        silent = Direction::BOTH.map(|way| known.rules(way).is_empty());
                        audited = known.audited;
                    }
                    _ => {}
                }
                &mut cluster
            };
            place.push(PolicyId(
                u32::try_from(self.policies.len()).unwrap_or(u32::MAX),
            ));
            self.push(PolicyInfo {
                reference: doubt.policy.clone(),
                audited,
                subject: SubjectOf::Any,
                ingress: None,
                egress: None,
                egress_doubt: (!silent[0]).then_some(index),
                ingress_doubt: (!silent[1]).then_some(index),
            });
        }
        let of_tier = |tier| {
            let may_act = |id: &PolicyId| match self.policies[id.0 as usize].reference.kind {
                PolicyKind::ClusterNetworkPolicy => true,
                PolicyKind::AdminNetworkPolicy => tier == Tier::Admin,
                PolicyKind::BaselineAdminNetworkPolicy => tier == Tier::Baseline,
                PolicyKind::NetworkPolicy => false,
            };
            cluster.iter().copied().filter(may_act).collect()
        };
        (of_tier(Tier::Admin), of_tier(Tier::Baseline))
    }

    fn network_peer(&mut self, own: &Arc<str>, peer: &'a NetworkPeer) -> TermId {
        let term = match peer {
            NetworkPeer::Pods {
                namespaces: None,
                pods,
            } => Term::Own(own.clone(), pods),
            NetworkPeer::Pods {
                namespaces: Some(namespaces),
                pods,
            } => Term::Pods(self.namespace_selector(namespaces), pods),
            NetworkPeer::IpBlock(block) => Term::Block(block),
            NetworkPeer::Nothing => Term::Nothing,
        };
        self.term(term)
    }

    fn admin_peer(&mut self, peer: &'a AdminPeer) -> TermId {
        let term = match peer {
            AdminPeer::Pods { namespaces, pods } => {
                Term::Pods(self.namespace_selector(namespaces), pods)
            }
            AdminPeer::Networks(networks) => Term::Networks(networks),
            AdminPeer::Nodes(selector) => Term::Nodes(selector),
            AdminPeer::DomainNames(patterns) => Term::Domains(patterns),
        };
        self.term(term)
    }

    fn network_ports(&mut self, ports: Option<&'a [NetworkPort]>) -> Ports {
        let Some(ports) = ports else {
            return Ports::everything();
        };
        let mut names = Vec::new();
        let ranges = ports.iter().filter_map(|port| match port {
            NetworkPort::Range(protocol, range) => Some((*protocol, *range)),
            NetworkPort::Named(protocol, name) => {
                names.push((Some(*protocol), name.clone()));
                None
            }
            NetworkPort::Nothing => None,
        });
        let fixed = PortSet::of(ranges.collect::<Vec<_>>());
        self.ports(fixed, names)
    }

    fn admin_ports(&mut self, ports: Option<&'a [AdminPort]>) -> Ports {
        let Some(ports) = ports else {
            return Ports::everything();
        };
        let mut names = Vec::new();
        let ranges = ports.iter().filter_map(|port| match port {
            AdminPort::Range(protocol, range) => {
                let (start, end) = (*range.start(), *range.end());
                Some((*protocol, PortRange { start, end }))
            }
            AdminPort::Named(name) => {
                names.push((None, name.clone()));
                None
            }
        });
        let fixed = PortSet::of(ranges.collect::<Vec<_>>());
        self.ports(fixed, names)
    }

    fn ports(&mut self, fixed: PortSet, names: Vec<(Option<Protocol>, Arc<str>)>) -> Ports {
        self.port_names
            .extend(names.iter().map(|(_, name)| name.clone()));
        Ports { fixed, names }
    }

    fn namespace_selector(&mut self, selector: &'a Selector) -> usize {
        if let Some(id) = self.selector_ids.get(selector) {
            return *id;
        }
        let id = self.namespace_matches.len();
        self.namespace_matches.push(
            self.snapshot
                .namespaces
                .values()
                .map(|namespace| self.snapshot.namespace_matches(selector, namespace))
                .collect(),
        );
        self.selector_ids.insert(selector, id);
        id
    }

    fn term(&mut self, term: Term<'a>) -> TermId {
        if let Some(id) = self.term_ids.get(&term) {
            return *id;
        }
        let id = TermId(u32::try_from(self.terms.len()).unwrap_or(u32::MAX));
        self.terms.push(term.clone());
        self.term_ids.insert(term, id);
        id
    }

    fn rule(&mut self, rule: RuleInfo) -> RuleId {
        let id = RuleId(u32::try_from(self.rules.len()).unwrap_or(u32::MAX));
        self.rules.push(rule);
        id
    }

    fn push(&mut self, policy: PolicyInfo<'a>) -> PolicyId {
        let id = PolicyId(u32::try_from(self.policies.len()).unwrap_or(u32::MAX));
        self.policies.push(policy);
        id
    }

    fn doubt(&self, policy: &PolicyRef, extent: impl Fn(Extent) -> bool) -> Option<u32> {
        self.doubts
            .iter()
            .zip(0..)
            .find(|(doubt, _)| doubt.policy == *policy && extent(doubt.extent))
            .map(|(_, index)| index)
    }

    fn direction_doubt(&self, policy: &PolicyRef, direction: Direction) -> Option<u32> {
        self.doubt(policy, |extent| extent == Extent::Direction(direction))
    }
}

/// The keys that selectors of peers and subjects name.
fn label_keys(terms: &[Term<'_>], policies: &[PolicyInfo<'_>]) -> BTreeSet<Arc<str>> {
    let peers = terms.iter().filter_map(|term| match term {
        Term::Own(_, pods) | Term::Pods(_, pods) => Some(*pods),
        Term::Block(_) | Term::Networks(_) | Term::Nodes(_) | Term::Domains(_) | Term::Nothing => {
            None
        }
    });
    let subjects = policies.iter().filter_map(|policy| match policy.subject {
        SubjectOf::Own(Selection::Matching(pods)) | SubjectOf::Pods(_, pods) => Some(pods),
        SubjectOf::Own(Selection::Nothing) | SubjectOf::Any | SubjectOf::Nothing => None,
    });
    let requirements = peers.chain(subjects).flat_map(Selector::requirements);
    requirements
        .map(|requirement| requirement.key.clone())
        .collect()
}

fn impersonated(snapshot: &Snapshot) -> BTreeSet<Arc<str>> {
    let may_be_stranger = |pod: &Pod| snapshot.gaps.standing.contains(&pod.key);
    let pods = snapshot.pods.values();
    let strangers = pods.filter(|pod| !pod.is_policed() || may_be_stranger(pod));
    strangers
        .flat_map(|pod| {
            let owners = pod
                .addresses
                .iter()
                .filter_map(|address| snapshot.node_at(*address));
            let named = if pod.host_network || may_be_stranger(pod) {
                Some(pod.node.clone().unwrap_or_else(|| "".into()))
            } else {
                None
            };
            owners.cloned().chain(named)
        })
        .collect()
}

fn reported(snapshot: &Snapshot) -> BTreeMap<Arc<str>, BTreeSet<IpAddr>> {
    let mut reported: BTreeMap<Arc<str>, BTreeSet<IpAddr>> = BTreeMap::new();
    for pod in snapshot.pods.values().filter(|pod| pod.host_network) {
        if !pod.addresses.is_empty() {
            let node = pod.node.clone().unwrap_or_else(|| "".into());
            reported.entry(node).or_default().extend(&pod.addresses);
        }
    }
    reported
}

impl Ports {
    fn everything() -> Self {
        Self {
            fixed: PortSet::uniform(true),
            names: Vec::new(),
        }
    }
}
