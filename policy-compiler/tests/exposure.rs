// SPDX-License-Identifier: Apache-2.0
//! Does exposure say of the world, the cluster and pods to come what the oracle says of each of them?
#![expect(clippy::expect_used, reason = "tests fail loudly")]

mod facts;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use facts::complete;
use ipnet::IpNet;
use policy_compiler::{
    Flow, Snapshot, Verdict,
    exposure::{Analysis, Members, Newcomer, Reach},
    model::{Entrances, Family, Phase, Pod, PodKey, Protocol, family_of},
    partial::{Assumptions, Evaluator},
    ranges, reference,
    snapshot::NAMESPACE_NAME_LABEL,
    strategies::{self, Settings},
    verdict::Endpoint,
};
use proptest::{prelude::*, sample::Index};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

fn oracle(
    snapshot: &Snapshot,
    source: Endpoint,
    target: &PodKey,
    family: Family,
    port: (Protocol, u16),
) -> bool {
    let flow = Flow {
        source,
        destination: Endpoint::Pod(target.clone()),
        protocol: port.0,
        port: port.1,
        family,
        via_service: false,
    };
    reference::evaluate(snapshot, &flow).verdict == Verdict::Allow
}

/// `truth` has the oracle's answer for everybody a [`Reach`] is about.
fn agrees(reach: &Reach, truth: &[bool], port: (Protocol, u16)) -> Result<(), TestCaseError> {
    let (always, certain) = (reach.always.at(port.0, port.1), reach.certain());
    prop_assert!(reach.unknown.is_empty(), "every fact is known: {:?}", reach);
    prop_assert_eq!(
        *always,
        !truth.is_empty() && truth.iter().all(|allowed| *allowed),
        "{:?} {:?}",
        port,
        reach
    );
    prop_assert_eq!(
        *certain.at(port.0, port.1),
        truth.contains(&true),
        "{:?} {:?}",
        port,
        reach
    );
    Ok(())
}

/// The snapshot with a pod to come at `address`.
fn arrived(snapshot: &Snapshot, newcomer: &Newcomer, address: IpAddr) -> (Snapshot, PodKey) {
    let mut snapshot = snapshot.clone();
    let namespace = newcomer.namespace.clone().unwrap_or_else(|| {
        let name = newcomer.namespace_labels.get(NAMESPACE_NAME_LABEL);
        let name = name.expect("every namespace has its name as a label");
        snapshot.insert_namespace(name, newcomer.namespace_labels.clone());
        name.into()
    });
    let key = PodKey::new(&namespace, "the-new-one");
    snapshot.insert_pod(Pod {
        key: key.clone(),
        uid: "".into(),
        labels: newcomer.labels.clone(),
        node: Some("n1".into()),
        addresses: vec![address],
        host_network: false,
        phase: Phase::Running,
        ports: [].into(),
        created: None,
        owner: None,
        at: None,
    });
    (snapshot, key)
}

#[derive(Default, Debug)]
struct Seen {
    always: usize,
    sometimes: usize,
    never: usize,
    new_namespaces: usize,
}

impl Seen {
    fn count(&mut self, reach: &Reach, port: (Protocol, u16)) {
        if *reach.always.at(port.0, port.1) {
            self.always += 1;
        } else if *reach.sometimes.at(port.0, port.1) {
            self.sometimes += 1;
        } else {
            self.never += 1;
        }
    }
}

/// The pods that an audience of `target` stands for.
fn named<'a>(
    analysis: &'a Analysis<'_>,
    who: &'a [Members],
    target: &'a PodKey,
) -> impl Iterator<Item = &'a PodKey> {
    who.iter().flat_map(move |members| {
        let pods = analysis.members(members.class()).iter();
        pods.filter(move |key| match members {
            Members::All(_) => true,
            Members::Others(_) => *key != target,
        })
    })
}

fn check(snapshot: Snapshot, picks: &[Index], seen: &mut Seen) -> Result<(), TestCaseError> {
    let snapshot = complete(snapshot);
    let evaluator = Evaluator::new(&snapshot, Assumptions::default(), Vec::new());
    let entrances = Entrances::default();
    let analysis = Analysis::new(&evaluator, &entrances, &[]);
    let ports = strategies::interesting_ports(&snapshot);
    let addresses = ranges::outside(&[&snapshot]);
    let policed: Vec<&Arc<Pod>> = snapshot
        .pods
        .values()
        .filter(|pod| pod.is_policed())
        .collect();
    if policed.is_empty() {
        return Ok(());
    }
    let target = &picks[0].get(&policed).key;
    let port = *picks[1].get(&ports);
    let exposure = analysis.exposure(std::slice::from_ref(target));

    let ask = |source: Endpoint, family| oracle(&snapshot, source, target, family, port);
    let seen_by = &exposure.seen;
    let mut outside: BTreeSet<IpAddr> = BTreeSet::new();
    for audience in &seen_by.world {
        let networks: Vec<IpNet> = analysis
            .ranges()
            .enumerate()
            .filter(|(number, _)| audience.who.contains(number))
            .flat_map(|(_, range)| range.networks.clone())
            .collect();
        let inside = addresses.iter().map(|range| range.example);
        let inside: Vec<IpAddr> = inside
            .filter(|address| networks.iter().any(|net| net.contains(address)))
            .collect();
        prop_assert!(!inside.is_empty());
        outside.extend(inside.iter().copied());
        for address in inside {
            let truth = [ask(Endpoint::Address(address), family_of(address))];
            agrees(&audience.reach, &truth, port)?;
            seen.count(&audience.reach, port);
        }
    }
    prop_assert_eq!(outside.len(), addresses.len(), "no address is left out");
    let everybody = |end: &Endpoint| FAMILIES.map(|family| ask(end.clone(), family));
    for audience in &exposure.nodes {
        for name in &audience.who {
            agrees(
                &audience.reach,
                &everybody(&Endpoint::Node(name.clone())),
                port,
            )?;
        }
    }
    let mut asked = BTreeSet::from([target.clone()]);
    for audience in &seen_by.cluster {
        for key in named(&analysis, &audience.who, target) {
            prop_assert!(key != target, "a pod is no audience of itself");
            agrees(
                &audience.reach,
                &everybody(&Endpoint::Pod(key.clone())),
                port,
            )?;
            asked.insert(key.clone());
        }
    }
    let live = snapshot
        .pods
        .values()
        .filter(|pod| !pod.phase.is_finished());
    prop_assert_eq!(asked.len(), live.count(), "nobody is left out");

    let future = seen_by.future.as_ref().expect("the pools are small");
    for audience in future {
        for newcomer in &audience.who {
            let truth: Vec<bool> = addresses
                .iter()
                .map(|range| {
                    let (joined, key) = arrived(&snapshot, newcomer, range.example);
                    oracle(
                        &joined,
                        Endpoint::Pod(key),
                        target,
                        family_of(range.example),
                        port,
                    )
                })
                .collect();
            agrees(&audience.reach, &truth, port)?;
            seen.count(&audience.reach, port);
            seen.new_namespaces += usize::from(newcomer.namespace.is_none());
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn everybody_may_what_the_oracle_says(
        snapshot in strategies::snapshot(Settings::default()),
        picks in prop::array::uniform2(any::<Index>()),
    ) {
        check(snapshot, &picks, &mut Seen::default())?;
    }

    /// The kinds of pods to come are all there are: what any pod with any labels may, one of them may.
    #[test]
    fn no_newcomer_is_overlooked(
        snapshot in strategies::snapshot(Settings::default()),
        newcomer in strategies::pod(Settings::default()),
        labels in strategies::namespace_labels(),
        is_new in any::<bool>(),
        picks in prop::array::uniform3(any::<Index>()),
    ) {
        let snapshot = complete(snapshot);
        let evaluator = Evaluator::new(&snapshot, Assumptions::default(), Vec::new());
        let entrances = Entrances::default();
        let analysis = Analysis::new(&evaluator, &entrances, &[]);
        let policed: Vec<_> = snapshot.pods.values().filter(|pod| pod.is_policed()).collect();
        prop_assume!(!policed.is_empty());
        let target = &picks[0].get(&policed).key;
        let port = *picks[1].get(&strategies::interesting_ports(&snapshot));
        let address = picks[2].get(&ranges::outside(&[&snapshot])).example;
        let exposure = analysis.exposure(std::slice::from_ref(target));
        let future = exposure.seen.future.as_ref().expect("the pools are small");
        let mut described = Newcomer {
            namespace: Some(newcomer.key.namespace.clone()),
            namespace_labels: labels.clone(),
            labels: newcomer.labels.clone(),
            words: String::new(),
        };
        if is_new || !snapshot.namespaces.contains_key(&newcomer.key.namespace) {
            described.namespace = None;
            let name = NAMESPACE_NAME_LABEL.into();
            described.namespace_labels.insert(name, "brand-new".into());
        }
        let (joined, key) = arrived(&snapshot, &described, address);
        let allowed = oracle(&joined, Endpoint::Pod(key), target, family_of(address), port);
        let mut kinds = future.iter();
        if allowed {
            prop_assert!(kinds.any(|kind| *kind.reach.certain().at(port.0, port.1)), "{:?}", described);
        } else {
            prop_assert!(kinds.any(|kind| !*kind.reach.always.at(port.0, port.1)), "{:?}", described);
        }
    }
}

/// The suites above prove nothing if everybody might everything.
#[test]
fn every_kind_of_answer_comes_up() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let mut seen = Seen::default();
    for _ in 0..150 {
        let strategy = (
            strategies::snapshot(Settings::default()),
            prop::array::uniform2(any::<Index>()),
        );
        let tree = strategy.new_tree(&mut runner).expect("never rejected");
        let (snapshot, picks) = tree.current();
        check(snapshot, &picks, &mut seen).expect("the oracle agrees");
    }
    assert!(
        seen.always > 500 && seen.never > 500 && seen.sometimes > 20 && seen.new_namespaces > 500,
        "{seen:?}"
    );
}
