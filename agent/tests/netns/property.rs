// SPDX-License-Identifier: Apache-2.0
//! What packets do is what the oracle says: random clusters and policies, one after the other, on one
//! set of network namespaces.
//!
//! A case is a sequence of clusters, most of which differ from the one before by a few policies. Each is
//! compiled, lowered and published as agents do it, then probed; connections that were open before must
//! live or die by the new policies. More cases than a test run has time for:
//! `NETPOL_NETNS_CASES=4294967295`.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    env,
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use agent::{
    datapath::Options,
    demo::{
        Root, matrix,
        plan::{self, Party, Probe, Transport},
        probe::{Measured, measure},
        servers::Servers,
        topology::Topology,
    },
    engine::{Engine, Interfaces, Settings as EngineSettings},
    kernel::Kernel,
    net::{HostLinks, Netns},
};
use policy_compiler::{
    Snapshot, Trace, Verdict,
    model::{Family, Pod, Tier, family_of},
    reference::evaluate,
    strategies::{Settings, everybody, outside, snapshot},
    verdict::{Endpoint, Flow},
};
use proptest::{
    collection::vec,
    prelude::*,
    sample::Index,
    test_runner::{Config, FileFailurePersistence, TestCaseError, TestCaseResult, TestRunner},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::world::LIMIT;

/// Nodes that enforce; the third is a stranger's machine.
const ENFORCING: [&str; 2] = ["n1", "n2"];
/// Probes of one cluster at the most.
const PROBES: usize = 500;
/// Connections that are held open across a change of policy.
const OPEN: usize = 10;
/// Cases in a test run.
const CASES: u32 = 24;
/// How long silence must last at first, and how long before an admitted packet counts as lost.
const QUICK: [Duration; 1] = [Duration::from_millis(200)];
const CALM: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

/// No two pods with one address, which no network could be built for.
const WORLDS: Settings = Settings {
    namespaces: 3,
    nodes: 3,
    pods: 7,
    services: 2,
    network_policies: 5,
    admin_policies: 2,
    rules: 2,
    peers: 2,
    ports: 2,
    dual_stack: true,
    broken: true,
    domains: true,
    contested_addresses: false,
    audited: true,
};

#[test]
fn packets_do_what_the_oracle_says() {
    let cases = env::var("NETPOL_NETNS_CASES")
        .ok()
        .map(|cases| cases.parse().unwrap());
    let config = Config {
        cases: cases.unwrap_or(CASES),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "proptest-regressions/netns.txt",
        ))),
        max_shrink_iters: 400,
        ..Config::default()
    };
    let rig = RefCell::new(Rig::build());
    let sequences = vec((snapshot(WORLDS), step(), any::<Index>()), 1..=3);
    let result = TestRunner::new(config).run(&sequences, |sequence| {
        let mut rig = rig.borrow_mut();
        rig.connections.clear();
        let mut last = None;
        for (drawn, step, sample) in sequence {
            let snapshot = match last {
                Some(before) => step.take(before, drawn),
                None => settle(drawn),
            };
            rig.judge(&snapshot, sample)?;
            last = Some(snapshot);
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    if cases.is_none_or(|cases| cases >= CASES) {
        rig.borrow().met.require();
    }
}

/// What becomes of a cluster.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// It loses a policy, and keeps everything else.
    Lose(Index),
    /// It gets the policies of another cluster beside its own; who has the name keeps it.
    Gain,
    /// It is another cluster from then on.
    Replace,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => any::<Index>().prop_map(Step::Lose),
        1 => Just(Step::Gain),
        1 => Just(Step::Replace),
    ]
}

impl Step {
    fn take(self, mut before: Snapshot, drawn: Snapshot) -> Snapshot {
        match self {
            Self::Lose(index) => {
                let network = before.network_policies.len();
                let all = network + before.admin_policies.len();
                if all > 0 {
                    let mut kept = (0..all).map(|i| i != index.index(all));
                    before
                        .network_policies
                        .retain(|_, _| kept.next() == Some(true));
                    before
                        .admin_policies
                        .retain(|_, _| kept.next() == Some(true));
                }
                before
            }
            Self::Gain => {
                let mut drawn = drawn;
                drawn.network_policies.append(&mut before.network_policies);
                drawn.admin_policies.append(&mut before.admin_policies);
                before.network_policies = drawn.network_policies;
                before.admin_policies = drawn.admin_policies;
                for (namespace, _) in before.network_policies.clone().keys() {
                    before.ensure_namespace(namespace);
                }
                before
            }
            Self::Replace => settle(drawn),
        }
    }
}

/// Puts pods where the network has them and adds the nodes that enforce.
fn settle(mut snapshot: Snapshot) -> Snapshot {
    let stage = everybody(WORLDS);
    for name in ENFORCING {
        if !snapshot.nodes.contains_key(name) {
            snapshot.insert_node((*stage.nodes[name]).clone());
        }
    }
    let pods: Vec<Arc<Pod>> = snapshot.pods.values().cloned().collect();
    for pod in pods.iter().filter(|pod| !pod.host_network) {
        let mut pod = Pod::clone(pod);
        pod.node = Some(home(&stage, &pod).into());
        snapshot.insert_pod(pod);
    }
    snapshot
}

/// The node that has the pod's namespace.
fn home(stage: &Snapshot, pod: &Pod) -> &'static str {
    let position = stage.pods.keys().position(|key| *key == pod.key);
    ENFORCING[position.unwrap() / 2 % ENFORCING.len()]
}

/// One set of namespaces for all cases, with an engine per node.
struct Rig {
    // Dropped in this order: engines before their maps, servers before their namespaces.
    engines: BTreeMap<&'static str, Engine<Kernel>>,
    connections: Vec<Connection>,
    servers: Servers,
    served: BTreeSet<(IpAddr, Transport)>,
    topology: Topology,
    met: Met,
    _root: Root,
}

/// A connection that some cluster admitted.
struct Connection {
    flow: Flow,
    stream: TcpStream,
}

/// What the cases have shown: how often something was admitted and dropped.
#[derive(Debug, Default)]
struct Met(BTreeMap<String, [usize; 2]>);

impl Rig {
    fn build() -> Self {
        // Every address serves dozens of ports.
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        let current = maximum;
        setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();

        let path = format!("/run/netpol-property-{}", std::process::id());
        let root = Root::claim(Path::new(&path)).unwrap();
        let mut stage = everybody(WORLDS);
        let pods: Vec<Arc<Pod>> = stage.pods.values().cloned().collect();
        for pod in pods {
            let mut pod = Pod::clone(&pod);
            pod.node = Some(home(&stage, &pod).into());
            stage.insert_pod(pod);
        }
        // Beside what policies name: strangers in blocks that pods and nodes are in.
        let strangers = [
            "203.0.113.8",
            "203.0.113.11",
            "10.0.1.77",
            "10.77.0.1",
            "192.168.0.77",
            "100.64.0.1",
            "2001:db8::8",
            "2001:db8::a",
            "fd00:1::77",
        ];
        let strangers = strangers.map(|address| address.parse().unwrap());
        let outside = outside().into_iter().chain(strangers).collect();
        let topology = Topology::build(&root, &stage, &outside).unwrap();
        let engines = ENFORCING.map(|name| {
            let node = &topology.nodes[name];
            let options = Options {
                root: root.bpf(name).unwrap(),
                ..Options::default()
            };
            let kernel = node.run(|| Kernel::open(&options).map_err(io::Error::other));
            let settings = EngineSettings {
                fresh: true,
                ..EngineSettings::default()
            };
            let mut engine = Engine::new(name, settings, kernel.unwrap());
            let interfaces = interfaces(&topology, &stage, name);
            node.run(|| engine.set_interfaces(interfaces).map_err(io::Error::other))
                .unwrap();
            (name, engine)
        });
        Self {
            engines: engines.into(),
            connections: Vec::new(),
            servers: Servers::start().unwrap(),
            served: BTreeSet::new(),
            topology,
            met: Met::default(),
            _root: root,
        }
    }

    /// Enforces the cluster and compares every probe of it with the oracle.
    fn judge(&mut self, snapshot: &Snapshot, sample: Index) -> TestCaseResult {
        self.publish(snapshot);
        self.judge_connections(snapshot)?;
        let parties = plan::parties(snapshot, &self.topology.outside_addresses);
        let all = plan::probes(snapshot, &parties);
        let stride = all.len().div_ceil(PROBES).max(1);
        let all = all.into_iter().skip(sample.index(stride));
        let probes: Vec<Probe> = all.step_by(stride).collect();
        self.serve(&parties, &probes);

        let expected: Vec<Trace> = probes
            .iter()
            .map(|probe| evaluate(snapshot, &probe.flow(&parties)))
            .collect();
        let mut measured = self.measure(&parties, &probes, &QUICK);
        // What should pass may be slow on a busy machine; what should not must never pass.
        let slow: Vec<usize> = (0..probes.len())
            .filter(|i| expected[*i].verdict == Verdict::Allow && measured[*i] == Measured::Deny)
            .collect();
        let repeated: Vec<Probe> = slow.iter().map(|i| probes[*i]).collect();
        let repeated = self.measure(&parties, &repeated, &CALM);
        for (i, again) in slow.into_iter().zip(repeated) {
            measured[i] = again;
        }
        let mut wrong = Vec::new();
        for ((probe, trace), measured) in probes.iter().zip(&expected).zip(measured) {
            let wanted = match trace.verdict {
                Verdict::Allow => Measured::Allow,
                Verdict::Deny => Measured::Deny,
            };
            if measured == wanted {
                self.met.note(probe, &parties, trace);
            } else {
                let again = self.measure(&parties, &[*probe], &CALM);
                wrong.push(format!(
                    "{probe:?} from {} to {}: {measured:?}, once more {again:?}, but the oracle says {trace:?}",
                    parties[probe.source].endpoint, parties[probe.destination].endpoint,
                ));
            }
        }
        if !wrong.is_empty() {
            let message = format!("of {} probes: {}", probes.len(), wrong.join("\n"));
            return Err(TestCaseError::fail(message));
        }
        self.open_connections(&probes, &parties, &expected);
        Ok(())
    }

    fn publish(&mut self, snapshot: &Snapshot) {
        let Self {
            engines, topology, ..
        } = self;
        thread::scope(|scope| {
            for (name, engine) in engines {
                let node = &topology.nodes[*name];
                scope.spawn(move || {
                    node.run(|| engine.apply(snapshot.clone()).map_err(io::Error::other))
                        .unwrap();
                });
            }
        });
    }

    fn namespace(&self, party: &Party) -> &Netns {
        match &party.endpoint {
            Endpoint::Pod(pod) => &self.topology.pods[pod],
            Endpoint::Node(node) => &self.topology.nodes[node],
            Endpoint::Address(_) => &self.topology.outside,
        }
    }

    /// Serves what the probes ask for and nobody asked for before.
    fn serve(&mut self, parties: &[Party], probes: &[Probe]) {
        let mut wanted: BTreeMap<(usize, IpAddr), BTreeSet<Transport>> = BTreeMap::new();
        for probe in probes {
            // One socket answers every port of SCTP.
            let transport = match probe.transport {
                Transport::Sctp(_) => Transport::Sctp(1),
                transport @ (Transport::Tcp(_) | Transport::Udp(_) | Transport::Icmp) => transport,
            };
            if self.served.insert((probe.to, transport)) {
                let key = (probe.destination, probe.to);
                wanted.entry(key).or_default().insert(transport);
            }
        }
        for ((party, address), transports) in wanted {
            let namespace = self.namespace(&parties[party]);
            self.servers.add(namespace, address, &transports).unwrap();
        }
    }

    /// Sends the probes of all senders at the same time; one result per probe, in order.
    fn measure(&self, parties: &[Party], probes: &[Probe], patience: &[Duration]) -> Vec<Measured> {
        let mut by_source: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (i, probe) in probes.iter().enumerate() {
            by_source.entry(probe.source).or_default().push(i);
        }
        let results: BTreeMap<usize, Measured> = thread::scope(|scope| {
            let senders: Vec<_> = by_source
                .into_iter()
                .map(|(source, indices)| {
                    let namespace = self.namespace(&parties[source]);
                    scope.spawn(move || {
                        let own: Vec<Probe> = indices.iter().map(|i| probes[*i]).collect();
                        let measured = measure(namespace, &own, patience).unwrap();
                        indices.into_iter().zip(measured)
                    })
                })
                .collect();
            senders
                .into_iter()
                .flat_map(|sender| sender.join().unwrap())
                .collect()
        });
        results.into_values().collect()
    }

    /// Opens connections between pods that the next cluster will judge again.
    fn open_connections(&mut self, probes: &[Probe], parties: &[Party], expected: &[Trace]) {
        let is_pod = |party: usize| matches!(parties[party].endpoint, Endpoint::Pod(_));
        for (probe, trace) in probes.iter().zip(expected) {
            let Transport::Tcp(port) = probe.transport else {
                continue;
            };
            if self.connections.len() < OPEN
                && trace.verdict == Verdict::Allow
                && is_pod(probe.source)
                && is_pod(probe.destination)
            {
                let to = SocketAddr::new(probe.to, port);
                let namespace = self.namespace(&parties[probe.source]);
                let stream = namespace.run(|| TcpStream::connect_timeout(&to, LIMIT));
                let mut connection = Connection {
                    flow: probe.flow(parties),
                    stream: stream.unwrap(),
                };
                assert!(connection.answers(LIMIT));
                self.connections.push(connection);
            }
        }
    }

    /// A change of policy reaches open connections, in both directions.
    fn judge_connections(&mut self, snapshot: &Snapshot) -> TestCaseResult {
        let connections = std::mem::take(&mut self.connections);
        let judged: Vec<_> = thread::scope(|scope| {
            let judged: Vec<_> = connections
                .into_iter()
                .filter_map(|mut connection| {
                    let verdict = verdict_of(snapshot, &connection.flow)?;
                    let patience = match verdict {
                        Verdict::Allow => LIMIT,
                        Verdict::Deny => QUICK[0],
                    };
                    Some(scope.spawn(move || (connection.answers(patience), verdict, connection)))
                })
                .collect();
            judged.into_iter().map(|j| j.join().unwrap()).collect()
        });
        for (answers, verdict, connection) in judged {
            if answers != (verdict == Verdict::Allow) {
                return Err(TestCaseError::fail(format!(
                    "an open connection answers: {answers}, but the verdict is {verdict:?}: {:?}",
                    connection.flow
                )));
            }
            self.met.count("open connections", answers);
            if answers {
                self.connections.push(connection);
            }
        }
        Ok(())
    }
}

/// The verdict of a flow between pods that may be gone: nothing passes the interfaces of such. Pods
/// that have lost their address, but not their interface, are nobody the oracle knows of.
fn verdict_of(snapshot: &Snapshot, flow: &Flow) -> Option<Verdict> {
    let mut lives = true;
    for end in [&flow.source, &flow.destination] {
        let Endpoint::Pod(key) = end else { continue };
        match snapshot.pods.get(key).filter(|pod| pod.is_policed()) {
            Some(pod) if pod.addresses.iter().all(|a| family_of(*a) != flow.family) => return None,
            Some(_) => {}
            None => lives = false,
        }
    }
    Some(if lives {
        evaluate(snapshot, flow).verdict
    } else {
        Verdict::Deny
    })
}

impl Connection {
    /// Whether an echo comes back in time.
    fn answers(&mut self, patience: Duration) -> bool {
        self.stream.set_read_timeout(Some(patience)).unwrap();
        self.stream.write_all(b"ping").unwrap();
        self.stream.read_exact(&mut [0; 4]).is_ok()
    }
}

/// The interfaces of the node's pods and the way out of it.
fn interfaces(topology: &Topology, stage: &Snapshot, name: &str) -> Interfaces {
    let links = HostLinks::read(&topology.nodes[name]).unwrap();
    let mut found = Interfaces::default();
    for pod in stage.pods.values() {
        for inside in links.interfaces_of(&topology.pods[&pod.key]).unwrap() {
            if let Some(outside) = inside.outside {
                found.pods.insert(outside.index, Some(pod.key.clone()));
            }
        }
    }
    let others = links.links().values().filter(|link| !link.is_loopback);
    let others = others.map(|link| link.index);
    found.uplinks = others.filter(|i| !found.pods.contains_key(i)).collect();
    found
}

impl Met {
    fn count(&mut self, what: impl Into<String>, passed: bool) {
        self.0.entry(what.into()).or_default()[usize::from(!passed)] += 1;
    }

    fn note(&mut self, probe: &Probe, parties: &[Party], trace: &Trace) {
        let passed = trace.verdict == Verdict::Allow;
        let end = |party: usize| match parties[party].endpoint {
            Endpoint::Pod(_) => "pod",
            Endpoint::Node(_) => "node",
            Endpoint::Address(_) => "outside",
        };
        self.count(format!("{:?}", matrix::settles(trace).tier), passed);
        self.count(matrix::protocol(probe.transport), passed);
        self.count(matrix::family(probe.family()), passed);
        let ends = (end(probe.source), end(probe.destination));
        self.count(format!("{} to {}", ends.0, ends.1), passed);
        let mut sides = [&trace.egress, &trace.ingress].into_iter();
        if passed && sides.any(|side| side.audited.is_some()) {
            self.count("audited", passed);
        }
    }

    /// Everything was seen to pass and to be dropped, and what is only audited to pass.
    #[track_caller]
    fn require(&self) {
        let tiers = [Tier::Admin, Tier::NetworkPolicy, Tier::Baseline].map(|t| format!("{t:?}"));
        let families = [Family::V4, Family::V6].map(|f| matrix::family(f).to_owned());
        let others = [
            "TCP",
            "UDP",
            "SCTP",
            "ICMP",
            "pod to pod",
            "pod to node",
            "pod to outside",
            "node to pod",
            "outside to pod",
            "open connections",
        ];
        let others = others.map(str::to_owned);
        for what in tiers.iter().chain(&families).chain(&others) {
            let counts = self.0.get(what).copied().unwrap_or_default();
            assert!(!counts.contains(&0), "{what} is missing: {:?}", self.0);
        }
        assert!(self.0.contains_key("audited"), "{:?}", self.0);
    }
}
