// SPDX-License-Identifier: Apache-2.0
//! What the engine tells the kernel, and when.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;

use agent::engine::{Age, ApplyError, Call, Engine, Interfaces, PodState, Recording, Settings};
use policy_compiler::{
    Snapshot,
    change::Change,
    lower::{Capacity, ImagePeer},
    model::{Direction, Labels, NetworkPolicy, Phase, Pod, PodKey, Protocol, Selection, Selector},
};

fn pod(name: &str, node: &str, address: &str) -> Pod {
    Pod {
        key: PodKey::new("t", name),
        uid: "".into(),
        labels: Labels::default(),
        node: Some(node.into()),
        addresses: vec![address.parse().unwrap()],
        host_network: false,
        phase: Phase::Running,
        ports: [].into(),
        created: None,
        owner: None,
        at: None,
    }
}

fn cluster() -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.insert_pod(pod("here", "n1", "10.0.0.1"));
    snapshot.insert_pod(pod("there", "n2", "10.0.1.1"));
    snapshot
}

fn closed() -> NetworkPolicy {
    NetworkPolicy {
        namespace: "t".into(),
        name: "closed".into(),
        pod_selector: Selection::Matching(Selector::default()),
        ingress: Some(Vec::new()),
        egress: None,
        audited: false,
        generation: 0,
        at: None,
    }
}

fn interfaces(pods: &[(u32, Option<&str>)]) -> Interfaces {
    Interfaces {
        pods: pods
            .iter()
            .map(|(index, pod)| (*index, pod.map(|pod| PodKey::new("t", pod))))
            .collect(),
        ..Interfaces::default()
    }
}

fn engine(settings: Settings) -> Engine<Recording> {
    Engine::new("n1", settings, Recording::default())
}

/// The pods of the last publication.
fn published(engine: &Engine<Recording>) -> BTreeMap<u32, PodKey> {
    match engine.datapath().calls.last() {
        Some(Call::Publish { pods, .. }) => pods.clone(),
        other => panic!("the last call published nothing: {other:?}"),
    }
}

#[test]
fn an_interface_is_closed_before_its_pod_is_known() {
    let mut engine = engine(Settings::default());
    engine.quarantine(7, Age::New);
    engine.quarantine(7, Age::New);
    assert_eq!(engine.datapath().calls, [Call::Attach(7, Age::New)]);
    engine.apply(cluster()).unwrap();
    assert_eq!(published(&engine), BTreeMap::new());

    engine.set_interfaces(interfaces(&[(7, None)])).unwrap();
    assert_eq!(published(&engine), BTreeMap::new());
    assert_eq!(
        engine.report().pods[&PodKey::new("t", "here")],
        PodState::Waiting
    );
    engine
        .set_interfaces(interfaces(&[(7, Some("here"))]))
        .unwrap();
    assert_eq!(
        published(&engine),
        BTreeMap::from([(7, PodKey::new("t", "here"))])
    );
    assert_eq!(
        engine.report().pods,
        BTreeMap::from([(PodKey::new("t", "here"), PodState::Enforced)])
    );
}

#[test]
fn an_interface_whose_pod_the_tables_do_not_know_stays_closed() {
    let mut engine = engine(Settings::default());
    engine.apply(cluster()).unwrap();
    // A pod of another node has no tables here, whatever its interface.
    engine
        .set_interfaces(interfaces(&[(7, Some("there")), (8, Some("nobody"))]))
        .unwrap();
    assert_eq!(published(&engine), BTreeMap::new());
}

#[test]
fn gone_interfaces_are_forgotten() {
    let mut engine = engine(Settings::default());
    engine.apply(cluster()).unwrap();
    engine
        .set_interfaces(interfaces(&[(7, Some("here"))]))
        .unwrap();
    // The pod was recreated: its new interface has another number.
    engine
        .set_interfaces(interfaces(&[(9, Some("here"))]))
        .unwrap();
    let calls = &engine.datapath().calls;
    let position = |call| calls.iter().position(|c| *c == call).unwrap();
    assert!(position(Call::Detach(7)) < position(Call::Attach(9, Age::New)));
    assert_eq!(
        published(&engine),
        BTreeMap::from([(9, PodKey::new("t", "here"))])
    );
}

#[test]
fn only_what_was_there_before_the_engine_may_have_old_flows() {
    let mut engine = engine(Settings::default());
    engine.set_interfaces(interfaces(&[(7, None)])).unwrap();
    // Nobody announced this one before it was found, as happens when many pods start at once.
    let both = interfaces(&[(7, Some("here")), (8, None)]);
    engine.set_interfaces(both).unwrap();
    let attached = [Call::Attach(7, Age::Running), Call::Attach(8, Age::New)];
    assert_eq!(engine.datapath().calls, attached);
}

#[test]
fn an_interface_that_cannot_be_attached_to_is_tried_again() {
    let mut engine = engine(Settings::default());
    engine.datapath_mut().broken.insert(7);
    engine.apply(cluster()).unwrap();
    engine
        .set_interfaces(interfaces(&[(7, Some("here"))]))
        .unwrap();
    let here = PodKey::new("t", "here");
    assert!(matches!(
        engine.report().pods[&here],
        PodState::Unreachable(_)
    ));
    assert_eq!(published(&engine), BTreeMap::new());
    engine.datapath_mut().broken.clear();
    engine
        .set_interfaces(interfaces(&[(7, Some("here"))]))
        .unwrap();
    assert_eq!(engine.report().pods[&here], PodState::Enforced);
}

#[test]
fn tables_that_do_not_fit_change_nothing() {
    let mut engine = engine(Settings {
        capacity: Capacity {
            rows: 1,
            ..Capacity::default()
        },
        ..Settings::default()
    });
    engine.apply(cluster()).unwrap();
    engine
        .set_interfaces(interfaces(&[(7, Some("here"))]))
        .unwrap();
    let before = engine.published().unwrap().image.clone();
    let calls = engine.datapath().calls.len();

    let mut larger = cluster();
    larger.insert_network_policy(closed());
    let error = engine.apply(larger).unwrap_err();
    assert!(matches!(error, ApplyError::TooLarge { .. }));
    assert_eq!(engine.published().unwrap().image, before);
    assert_eq!(engine.datapath().calls.len(), calls);
    let report = engine.report();
    assert!(
        report.error.as_ref().unwrap().contains("ROWS"),
        "{report:?}"
    );
    assert_eq!(report.generation, 1);
    assert_eq!(
        report.pods[&PodKey::new("t", "here")],
        PodState::Enforced,
        "by the tables before"
    );

    engine.apply(cluster()).unwrap();
    assert_eq!(engine.report().error, None);
}

#[test]
fn tables_that_the_kernel_refuses_change_nothing() {
    let mut engine = engine(Settings::default());
    engine.apply(cluster()).unwrap();
    engine.datapath_mut().refuse = true;
    let mut next = cluster();
    next.insert_network_policy(closed());
    let error = engine.apply(next.clone()).unwrap_err();
    assert!(matches!(error, ApplyError::Refused { .. }));
    assert!(
        engine
            .published()
            .unwrap()
            .snapshot
            .network_policies
            .is_empty()
    );
    engine.datapath_mut().refuse = false;
    engine.apply(next).unwrap();
    assert_eq!(engine.report().generation, 2);
}

#[test]
fn what_makes_no_difference_is_not_published() {
    let mut engine = engine(Settings::default());
    engine.apply(cluster()).unwrap();
    let calls = engine.datapath().calls.len();
    // Nobody's rules can see the pod, and a policy of another namespace selects nobody here.
    let far = pod("far", "n3", "10.0.2.1");
    let mut elsewhere = closed();
    elsewhere.namespace = "u".into();
    let changes = vec![
        Change::Pod(far.key.clone(), Some(far.clone().into())),
        Change::NetworkPolicy(("u".into(), "closed".into()), Some(elsewhere.into())),
    ];
    engine.follow(changes).unwrap();
    assert_eq!(engine.datapath().calls.len(), calls);
    assert_eq!(engine.report().generation, 1);
    let snapshot = &engine.published().unwrap().snapshot;
    assert!(
        snapshot.pods.contains_key(&far.key),
        "it is in force all the same"
    );
    assert_eq!(snapshot.network_policies.len(), 1);

    let key = ("t".into(), "closed".into());
    let policy = Change::NetworkPolicy(key, Some(closed().into()));
    engine.follow(vec![policy.clone()]).unwrap();
    assert_eq!(engine.datapath().calls.len(), calls + 1);
    assert_eq!(engine.report().generation, 2);
    engine.follow(vec![policy]).unwrap();
    assert_eq!(engine.report().generation, 2, "told twice");
}

#[test]
fn the_report_follows_the_pods_of_the_node() {
    let mut engine = engine(Settings::default());
    engine.apply(cluster()).unwrap();
    let names = |engine: &Engine<Recording>| -> Vec<String> {
        let pods = engine.report().pods.keys();
        pods.map(|key| key.name.to_string()).collect()
    };
    assert_eq!(names(&engine), ["here"]);
    let change = |engine: &mut Engine<Recording>, name: &str, pod: Option<Pod>| {
        let change = Change::Pod(PodKey::new("t", name), pod.map(Into::into));
        engine.follow(vec![change]).unwrap();
    };
    change(&mut engine, "late", Some(pod("late", "n1", "10.0.0.7")));
    assert_eq!(names(&engine), ["here", "late"]);
    let mut over = pod("late", "n1", "10.0.0.7");
    over.phase = Phase::Succeeded;
    change(&mut engine, "late", Some(over));
    assert_eq!(names(&engine), ["here"]);
    change(&mut engine, "here", None);
    assert_eq!(names(&engine), [""; 0]);

    // Refused tables leave the pods that the published ones are of.
    engine.datapath_mut().refuse = true;
    let next = Change::Pod(
        PodKey::new("t", "next"),
        Some(pod("next", "n1", "10.0.0.8").into()),
    );
    engine.follow(vec![next]).unwrap_err();
    assert_eq!(names(&engine), [""; 0]);
    engine.datapath_mut().refuse = false;
    engine.follow(Vec::new()).unwrap();
    assert_eq!(names(&engine), ["next"]);
}

#[test]
fn following_changes_publishes_what_the_whole_would() {
    let mut engine = engine(Settings::default());
    engine.apply(cluster()).unwrap();
    let mut next = cluster();
    next.insert_network_policy(closed());
    next.insert_pod(pod("new", "n1", "10.0.0.7"));
    engine.apply(next.clone()).unwrap();
    let mut fresh = self::engine(Settings::default());
    fresh.apply(next).unwrap();
    let endpoints = |engine: &Engine<Recording>| {
        let image = &engine.published().unwrap().image;
        image.endpoints.keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(endpoints(&engine), endpoints(&fresh));
    let said = |engine: &Engine<Recording>, pod: &str| {
        let image = &engine.published().unwrap().image;
        let endpoint = &image.endpoints[&PodKey::new("t", pod)];
        let peer = ImagePeer::Address("10.0.1.1".parse().unwrap());
        let cell = image
            .cell(endpoint, Direction::Ingress, peer, Protocol::Tcp, 80)
            .unwrap();
        engine.reasons().get(cell.reason()).cloned()
    };
    for pod in ["here", "new"] {
        assert_eq!(said(&engine, pod), said(&fresh, pod));
    }
}

#[test]
fn tables_that_were_refused_are_published_with_the_next_change() {
    let mut engine = engine(Settings::default());
    engine.apply(cluster()).unwrap();
    engine.datapath_mut().refuse = true;
    let key = ("t".into(), "closed".into());
    let policy = Change::NetworkPolicy(key, Some(closed().into()));
    assert!(matches!(
        engine.follow(vec![policy]),
        Err(ApplyError::Refused { .. })
    ));
    engine.datapath_mut().refuse = false;
    engine.follow(Vec::new()).unwrap();
    assert_eq!(engine.report().error, None);
    assert_eq!(engine.report().generation, 2);
    assert_eq!(
        engine.published().unwrap().snapshot.network_policies.len(),
        1
    );
}
