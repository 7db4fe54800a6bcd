// SPDX-License-Identifier: Apache-2.0
//! Does three-valued evaluation ever promise what the facts, once known, deny?

mod facts;

use facts::complete;
use policy_compiler::{
    Flow, Snapshot, Verdict,
    model::{Direction, Family, Labels, Node, Pod, PodKey, UnknownLabels},
    partial::{Assumptions, Doubt, Evaluator, Extent, Outcome, Party},
    reference,
    strategies::{self, Settings},
    verdict::Endpoint,
};
use proptest::{collection::vec, prelude::*};

/// Drops what manifests do not say of some live pods: addresses and node.
fn forget(snapshot: &Snapshot, what: &[u8]) -> Snapshot {
    let mut known = snapshot.clone();
    for (pod, what) in snapshot.pods.values().zip(what.iter().cycle()) {
        let mut pod = Pod::clone(pod);
        if pod.phase.is_finished() {
            continue;
        }
        if what & 1 == 1 {
            pod.addresses.clear();
        }
        if what & 2 == 2 {
            pod.node = None;
        }
        known.insert_pod(pod);
    }
    for (node, what) in snapshot.nodes.values().zip(what.iter().rev().cycle()) {
        if what & 4 == 4 {
            let mut node = Node::clone(node);
            node.addresses.clear();
            known.insert_node(node);
        }
    }
    known
}

/// Drops what stands in manifests that no API server takes, and what only controllers know: labels,
/// container ports and namespaces' and nodes' labels, and whether a pod is on the host network.
fn leave_open(snapshot: &Snapshot, what: &[u8]) -> Snapshot {
    let mut known = snapshot.clone();
    for (pod, what) in snapshot.pods.values().zip(what.iter().cycle()) {
        let mut pod = Pod::clone(pod);
        let first = pod.labels.0.keys().next().cloned();
        if let (true, Some(key)) = (what & 1 == 1, first) {
            pod.labels.insert(key.clone(), "placeholder".into());
            let unknown = UnknownLabels::values([key]);
            known.gaps.lose_labels(pod.key.clone(), &unknown);
        }
        if what & 2 == 2 {
            let unknown = UnknownLabels::others();
            pod.labels = pod
                .labels
                .0
                .iter()
                .skip(1)
                .take(1)
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect();
            known.gaps.labels.insert(pod.key.clone(), unknown);
        }
        if what & 4 == 4 {
            pod.ports = pod.ports.iter().skip(1).cloned().collect();
            known.gaps.ports.insert(pod.key.clone());
        }
        if what & 8 == 8 && !pod.phase.is_finished() {
            pod.host_network = false;
            pod.addresses.clear();
            known.gaps.standing.insert(pod.key.clone());
        }
        known.insert_pod(pod);
    }
    for (namespace, what) in snapshot.namespaces.values().zip(what.iter().rev().cycle()) {
        if what & 16 == 16 {
            known.insert_namespace(&namespace.name, Labels::default());
            known.gaps.namespaces.insert(namespace.name.clone());
        }
    }
    for (node, what) in snapshot.nodes.values().zip(what.iter().rev().cycle()) {
        if what & 32 == 32 {
            let mut node = Node::clone(node);
            node.labels = Labels::default();
            known.gaps.nodes.insert(node.name.clone());
            known.insert_node(node);
        }
    }
    known
}

/// Gives pods of the host network the addresses of their nodes, which they have in every cluster.
fn at_their_nodes(mut snapshot: Snapshot) -> Snapshot {
    let pods: Vec<_> = snapshot.pods.values().cloned().collect();
    for pod in pods.iter().filter(|pod| pod.host_network) {
        let node = pod.node.as_ref().and_then(|node| snapshot.nodes.get(node));
        let Some(node) = node else { continue };
        let mut pod = Pod::clone(pod);
        // One of each family, as a pod's status has it.
        pod.addresses = [true, false]
            .into_iter()
            .filter_map(|v4| node.addresses.iter().copied().find(|it| it.is_ipv4() == v4))
            .collect();
        snapshot.insert_pod(pod);
    }
    snapshot
}

fn outcomes(evaluator: &Evaluator<'_>, flow: &Flow) -> (Outcome, Outcome) {
    let source = evaluator.party(&flow.source, Some(flow.family));
    let destination = evaluator.party(&flow.destination, Some(flow.family));
    let connection = evaluator.connection(&source, &destination, flow.via_service);
    (
        connection.egress.at(flow.protocol, flow.port).clone(),
        connection.ingress.at(flow.protocol, flow.port).clone(),
    )
}

/// Whether an end is looked up by an address that a forgetful snapshot no longer ties to its pod.
fn is_by_address(snapshot: &Snapshot, end: &Endpoint) -> bool {
    match end {
        Endpoint::Address(_) => true,
        Endpoint::Pod(key) => snapshot
            .pods
            .get(key)
            .is_some_and(|pod| pod.phase.is_finished()),
        Endpoint::Node(_) => false,
    }
}

/// Whether what is `known` gives no definite answer that the `truth` does not give.
fn never_contradicts(
    known: &Snapshot,
    truth: &Snapshot,
    flows: Vec<Flow>,
) -> Result<(), TestCaseError> {
    let evaluator = Evaluator::new(known, Assumptions::default(), Vec::new());
    for flow in flows {
        let ends = [&flow.source, &flow.destination];
        if ends.into_iter().any(|end| is_by_address(truth, end)) {
            continue;
        }
        let expected = reference::evaluate(truth, &flow);
        let (egress, ingress) = outcomes(&evaluator, &flow);
        if let Some(verdict) = egress.verdict() {
            prop_assert_eq!(verdict, expected.egress.verdict, "egress of {:?}", flow);
        }
        if let Some(verdict) = ingress.verdict() {
            prop_assert_eq!(verdict, expected.ingress.verdict, "ingress of {:?}", flow);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn with_all_facts_it_is_the_oracle((snapshot, flows) in strategies::world(Settings::default(), 12)) {
        let snapshot = complete(snapshot);
        let evaluator = Evaluator::new(&snapshot, Assumptions::default(), Vec::new());
        for flow in flows {
            let expected = reference::evaluate(&snapshot, &flow);
            let source = evaluator.party(&flow.source, Some(flow.family));
            let destination = evaluator.party(&flow.destination, Some(flow.family));
            let (egress, ingress) = outcomes(&evaluator, &flow);
            prop_assert_eq!(
                evaluator.decision(Direction::Egress, &source, &egress),
                Some(expected.egress), "egress of {:?}", flow
            );
            prop_assert_eq!(
                evaluator.decision(Direction::Ingress, &destination, &ingress),
                Some(expected.ingress), "ingress of {:?}", flow
            );
        }
    }

    #[test]
    fn completion_never_contradicts_a_definite_answer(
        (snapshot, flows) in strategies::world(Settings::default(), 12),
        what in vec(0u8..8, 5),
    ) {
        let truth = at_their_nodes(complete(snapshot));
        let known = forget(&truth, &what);
        never_contradicts(&known, &truth, flows)?;
    }

    #[test]
    fn what_manifests_leave_open_is_never_taken_for_known(
        (snapshot, flows) in strategies::world(Settings::default(), 12),
        what in vec(0u8..64, 5),
    ) {
        let truth = at_their_nodes(complete(snapshot));
        let known = leave_open(&truth, &what);
        never_contradicts(&known, &truth, flows)?;
    }

    /// What an API server refuses is not there, unless it is mended.
    #[test]
    fn a_refused_policy_may_not_exist(
        (snapshot, flows) in strategies::world(Settings::default(), 12),
        pick in any::<prop::sample::Index>(),
    ) {
        let truth = complete(snapshot);
        let refs: Vec<_> = truth.network_policies.values().map(|policy| policy.policy_ref())
            .chain(truth.admin_policies.values().map(|policy| policy.policy_ref()))
            .collect();
        if refs.is_empty() {
            return Ok(());
        }
        let policy = pick.get(&refs).clone();
        let mut without = truth.clone();
        without.network_policies.retain(|_, known| known.policy_ref() != policy);
        without.admin_policies.retain(|_, known| known.policy_ref() != policy);
        let doubt = Doubt { policy, extent: Extent::Existence, why: String::new(), at: None };
        let evaluator = Evaluator::new(&truth, Assumptions::default(), vec![doubt]);
        for flow in flows {
            let (egress, ingress) = outcomes(&evaluator, &flow);
            for world in [&truth, &without] {
                let expected = reference::evaluate(world, &flow);
                for (outcome, expected) in [(&egress, expected.egress), (&ingress, expected.ingress)] {
                    if let Some(verdict) = outcome.verdict() {
                        prop_assert_eq!(verdict, expected.verdict, "{:?}", flow);
                    }
                }
            }
        }
    }

    /// Whatever an unreadable policy turns out to be, here: any other policy of the same name, or none.
    #[test]
    fn a_doubtful_policy_may_be_anything(
        (snapshot, flows) in strategies::world(Settings::default(), 12),
        other in strategies::snapshot(Settings::default()),
        pick in any::<prop::sample::Index>(),
    ) {
        let truth = complete(snapshot);
        let refs: Vec<_> = truth.network_policies.values().map(|policy| policy.policy_ref())
            .chain(truth.admin_policies.values().map(|policy| policy.policy_ref()))
            .collect();
        if refs.is_empty() {
            return Ok(());
        }
        let policy = pick.get(&refs).clone();
        let doubt = Doubt { policy: policy.clone(), extent: Extent::Whole, why: String::new(), at: None };
        let evaluator = Evaluator::new(&truth, Assumptions::default(), vec![doubt]);
        let mut without = truth.clone();
        without.network_policies.retain(|_, known| known.policy_ref() != policy);
        without.admin_policies.retain(|_, known| known.policy_ref() != policy);
        let mut changed = without.clone();
        for known in other.network_policies.values() {
            if policy.namespace.as_ref() == Some(&known.namespace) {
                let mut known = policy_compiler::model::NetworkPolicy::clone(known);
                known.name = policy.name.clone();
                changed.insert_network_policy(known);
            }
        }
        for known in other.admin_policies.values() {
            if known.policy_ref().kind == policy.kind {
                let mut known = policy_compiler::model::AdminPolicy::clone(known);
                known.name = policy.name.clone();
                changed.insert_admin_policy(known);
            }
        }
        for flow in flows {
            let (egress, ingress) = outcomes(&evaluator, &flow);
            for world in [&truth, &without, &changed] {
                let expected = reference::evaluate(world, &flow);
                if let Some(verdict) = egress.verdict() {
                    prop_assert_eq!(verdict, expected.egress.verdict, "egress of {:?}", flow);
                }
                if let Some(verdict) = ingress.verdict() {
                    prop_assert_eq!(verdict, expected.ingress.verdict, "ingress of {:?}", flow);
                }
            }
        }
    }

    /// Of a policy that cannot be read in one direction it is known whom it selects and whether it is
    /// audited; it may hold any rules.
    #[test]
    fn a_doubtful_direction_may_hold_any_rules(
        (snapshot, flows) in strategies::world(Settings::default(), 12),
        other in strategies::snapshot(Settings::default()),
        pick in any::<prop::sample::Index>(),
        direction in prop::sample::select(Direction::BOTH.to_vec()),
    ) {
        let truth = complete(snapshot);
        let mut worlds = vec![truth.clone()];
        let network: Vec<_> = truth.network_policies.values().collect();
        let admin: Vec<_> = truth.admin_policies.values().collect();
        if network.is_empty() && admin.is_empty() {
            return Ok(());
        }
        let at = pick.index(network.len() + admin.len());
        let policy = if let Some(policy) = network.get(at) {
            for other in other.network_policies.values() {
                let mut policy = policy_compiler::model::NetworkPolicy::clone(policy);
                match direction {
                    Direction::Ingress => policy.ingress.clone_from(&other.ingress),
                    Direction::Egress => policy.egress.clone_from(&other.egress),
                }
                let mut world = truth.clone();
                world.insert_network_policy(policy);
                worlds.push(world);
            }
            policy.policy_ref()
        } else {
            let policy = admin[at - network.len()];
            for other in other.admin_policies.values() {
                let mut policy = policy_compiler::model::AdminPolicy::clone(policy);
                match direction {
                    Direction::Ingress => policy.ingress.clone_from(&other.ingress),
                    Direction::Egress => policy.egress.clone_from(&other.egress),
                }
                let mut world = truth.clone();
                world.insert_admin_policy(policy);
                worlds.push(world);
            }
            policy.policy_ref()
        };
        let extent = Extent::Direction(direction);
        let doubt = Doubt { policy, extent, why: String::new(), at: None };
        let evaluator = Evaluator::new(&truth, Assumptions::default(), vec![doubt]);
        for flow in flows {
            let (egress, ingress) = outcomes(&evaluator, &flow);
            for world in &worlds {
                let expected = reference::evaluate(world, &flow);
                if let Some(verdict) = egress.verdict() {
                    prop_assert_eq!(verdict, expected.egress.verdict, "egress of {:?}", flow);
                }
                if let Some(verdict) = ingress.verdict() {
                    prop_assert_eq!(verdict, expected.ingress.verdict, "ingress of {:?}", flow);
                }
            }
        }
    }

    #[test]
    fn members_of_a_class_are_alike(
        snapshot in strategies::snapshot(Settings { pods: 8, ..Settings::default() }),
        open in vec(0u8..64, 1..5),
    ) {
        let snapshot = leave_open(&complete(snapshot), &open);
        let evaluator = Evaluator::new(&snapshot, Assumptions::default(), Vec::new());
        let live = snapshot.pods.values().filter(|pod| !pod.phase.is_finished());
        let pods: Vec<Endpoint> = live.map(|pod| Endpoint::Pod(pod.key.clone())).collect();
        let classes = evaluator.classes(&pods, None);
        prop_assert_eq!(classes.iter().map(|class| class.members.len()).sum::<usize>(), pods.len());
        for class in &classes {
            for member in &class.members {
                let member = evaluator.party(member, None);
                for peer in &classes {
                    if peer.members == class.members {
                        continue;
                    }
                    prop_assert_eq!(
                        evaluator.connection(&member, &peer.party, false).verdicts(),
                        evaluator.connection(&class.party, &peer.party, false).verdicts()
                    );
                    prop_assert_eq!(
                        evaluator.connection(&peer.party, &member, false).verdicts(),
                        evaluator.connection(&peer.party, &class.party, false).verdicts()
                    );
                }
            }
        }
    }

    /// The grid is another way to ask the same questions.
    #[test]
    fn a_grid_says_what_single_connections_do(
        snapshot in strategies::snapshot(Settings { pods: 8, ..Settings::default() }),
        what in vec(0u8..8, 5),
        open in vec(0u8..64, 1..5),
        family in prop::option::of(prop::sample::select(vec![Family::V4, Family::V6])),
    ) {
        let known = leave_open(&forget(&complete(snapshot), &what), &open);
        let evaluator = Evaluator::new(&known, Assumptions::default(), Vec::new());
        let live = known.pods.values().filter(|pod| !pod.phase.is_finished());
        let ends = live.map(|pod| Endpoint::Pod(pod.key.clone()));
        let ends = ends.chain(known.nodes.keys().cloned().map(Endpoint::Node));
        let outside = ["203.0.113.9", "10.0.0.200", "2001:db8::9"].map(|address| {
            Endpoint::Address(address.parse().expect("an address"))
        });
        let parties: Vec<_> = ends.chain(outside).map(|end| evaluator.party(&end, family)).collect();
        let grid = evaluator.grid(&parties.iter().collect::<Vec<_>>());
        for (from, source) in parties.iter().enumerate() {
            for (to, destination) in parties.iter().enumerate() {
                let pod = |party: &Party| party.pod().map(|pod| pod.key.clone());
                let destination = if pod(source).is_some() && pod(source) == pod(destination) {
                    &destination.sibling()
                } else {
                    destination
                };
                let single = evaluator.connection(source, destination, false);
                prop_assert_eq!(
                    grid.through(grid.pair(from, to)),
                    (single.allowed(), single.unknown()),
                    "{} to {}", source, destination
                );
            }
        }
    }
}

/// The suites above prove nothing if everything were unknown.
#[test]
fn forgetting_leaves_definite_and_unknown_answers() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let (mut allowed, mut denied, mut unknown) = (0, 0, 0);
    let mut left_open = 0;
    for _ in 0..900 {
        let tree = strategies::world(Settings::default(), 8).new_tree(&mut runner);
        let (snapshot, flows) = tree.expect("worlds are never rejected").current();
        let snapshot = complete(snapshot);
        let open = leave_open(&snapshot, &[1, 14, 16, 32, 0]);
        let evaluator = Evaluator::new(&open, Assumptions::default(), Vec::new());
        let open = flows.iter().map(|flow| outcomes(&evaluator, flow));
        left_open += open
            .filter(|(egress, ingress)| egress.verdict().is_none() || ingress.verdict().is_none())
            .count();
        let known = forget(&snapshot, &[1, 3, 0]);
        let evaluator = Evaluator::new(&known, Assumptions::default(), Vec::new());
        for flow in flows {
            let (egress, ingress) = outcomes(&evaluator, &flow);
            for outcome in [egress, ingress] {
                match outcome.verdict() {
                    Some(Verdict::Allow) => allowed += 1,
                    Some(Verdict::Deny) => denied += 1,
                    None => unknown += 1,
                }
            }
        }
    }
    assert!(
        allowed > 500 && denied > 300 && unknown > 40 && left_open > 300,
        "{allowed} {denied} {unknown} {left_open}"
    );
}

#[test]
fn a_block_of_the_whole_family_matches_pods_without_an_address() {
    let text_free = |cidr: &str| {
        let mut snapshot = Snapshot::default();
        for name in ["a", "b"] {
            snapshot.insert_pod(bare_pod(name));
        }
        snapshot.insert_network_policy(policy_compiler::model::NetworkPolicy {
            namespace: "x".into(),
            name: "p".into(),
            pod_selector: policy_compiler::model::Selection::Matching(
                policy_compiler::model::Selector::default(),
            ),
            ingress: Some(vec![policy_compiler::model::NetworkRule {
                peers: Some(vec![policy_compiler::model::NetworkPeer::IpBlock(
                    policy_compiler::model::IpBlock {
                        cidr: cidr.parse().expect("a CIDR"),
                        except: Vec::new(),
                    },
                )]),
                ports: None,
                at: None,
            }]),
            egress: None,
            audited: false,
            generation: 0,
            at: None,
        });
        let evaluator = Evaluator::new(&snapshot, Assumptions::default(), Vec::new());
        let a = evaluator.party(&Endpoint::Pod(PodKey::new("x", "a")), None);
        let b = evaluator.party(&Endpoint::Pod(PodKey::new("x", "b")), None);
        let connection = evaluator.connection(&a, &b, false);
        connection.verdicts().as_uniform().copied()
    };
    assert_eq!(text_free("0.0.0.0/0"), Some(Some(Verdict::Allow)));
    assert_eq!(text_free("::/0"), Some(Some(Verdict::Allow)));
    assert_eq!(text_free("10.0.0.0/8"), Some(None));
}

fn bare_pod(name: &str) -> Pod {
    Pod {
        key: PodKey::new("x", name),
        uid: "".into(),
        labels: Labels::default(),
        node: None,
        addresses: Vec::new(),
        host_network: false,
        phase: policy_compiler::model::Phase::default(),
        ports: [].into(),
        created: None,
        owner: None,
        at: None,
    }
}
