// SPDX-License-Identifier: Apache-2.0
//! Are tables that follow changes what a compilation from scratch makes of the cluster?
#![expect(clippy::expect_used, reason = "tests fail loudly")]

mod suite;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use policy_compiler::{
    Decision, Snapshot, Verdict,
    change::Change,
    compile::{
        Applied, ClassId, Compiler, DecisionId, Delta, PortSetId, RowId, Scope, Tables, compile,
    },
    lower::{Capacity, EndpointImage, Image, ImagePeer, Lowered, Reasons},
    manifest,
    model::{Direction, Family, Labels, Pod, PodKey, Protocol},
    parse,
    portmap::PortMap,
    strategies::{Settings, change, interesting_addresses, interesting_ports, probe, snapshot},
};
use policy_ebpf_common::{abi::Cell, lookup::word_of, parse::Address};
use proptest::{
    collection::vec,
    prop_assert, prop_assert_eq,
    strategy::Strategy,
    test_runner::{TestCaseError, TestCaseResult},
};
use suite::{Coverage, EVERYTHING, check};

/// What the tables say of all protocols and ports, with reasons.
type Said = PortMap<Arc<Decision>>;

/// P15: after any sequence of changes.
#[test]
fn following_changes_is_compiling_from_scratch() {
    follow("incremental", Settings::default(), 2_000, 12);
}

/// The same with more of everything.
#[test]
fn following_changes_of_crowded_worlds() {
    follow("incremental-crowded", Settings::crowded(), 300, 16);
}

/// Classes that are there between two publications only have no place in the rows of the second.
#[test]
fn classes_that_come_and_go_unseen_leave_nothing() {
    let port = |number| {
        format!(
            "  - from: [{{podSelector: {{matchLabels: {{app: p{number}}}}}}}]\n    ports: [{{port: {number}}}]\n"
        )
    };
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: a, namespace: x, labels: {{app: a}}}}\n\
         spec: {{nodeName: {NODE}}}\nstatus: {{podIP: 10.0.0.1}}\n---\n\
         apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: a, namespace: x}}\n\
         spec:\n  podSelector: {{matchLabels: {{app: a}}}}\n  policyTypes: [Ingress, Egress]\n  egress: [{{}}]\n  ingress:\n{}",
        (1..=80).map(port).collect::<String>()
    );
    let loaded = manifest::load([("world.yaml", text.as_str())], &parse::Settings::default());
    let mut snapshot = loaded.snapshot;
    let mut follower = Follower::new(&snapshot);
    let pods = (1..=80_u8).map(|number| {
        let like = snapshot.pods.values().next().expect("there is a pod");
        let mut pod = Pod::clone(like);
        pod.key = PodKey::new("x", &format!("p{number}"));
        pod.labels = Labels::from_iter([("app", format!("p{number}"))]);
        pod.node = None;
        pod.addresses = vec![[10, 0, 1, number].into()];
        Arc::new(pod)
    });
    let pods: Vec<Arc<Pod>> = pods.collect();
    let come = pods.iter().map(|pod| Some(pod.clone()));
    let go = pods.iter().map(|_| None);
    for (pod, key) in come.chain(go).zip(pods.iter().chain(&pods)) {
        let change = Change::Pod(key.key.clone(), pod);
        snapshot.apply(change.clone());
        follower.apply(&change);
    }
    let mut met = Coverage::default();
    follower.catch_up(&mut met);
    met.require("publications", &["image followed"]);
    follower.check(&snapshot).expect("the image is the tables'");
}

/// A label that says whether a policy is audited changes nothing else of it.
#[test]
fn following_nothing_but_labels() {
    let settings = Settings::default();
    let worlds = (snapshot(settings), vec(probe(), 16)).boxed();
    let required = ["delta", "network-policy", "admin-policy", "audited", "deny"];
    check(
        "incremental-labels",
        500,
        worlds,
        &required,
        |(mut snapshot, probes), met| {
            let mut follower = Follower::new(&snapshot);
            for change in relabelled(&snapshot) {
                snapshot.apply(change.clone());
                let applied = follower.apply(&change);
                count(&change, &applied, met);
                follower.catch_up(met);
                follower
                    .check(&snapshot)
                    .map_err(|error| TestCaseError::fail(format!("after {change:?}: {error}")))?;
                let (ports, addresses) = (
                    interesting_ports(&snapshot),
                    interesting_addresses(&snapshot),
                );
                let scratch = compile(&snapshot, &Scope::Node(NODE.into()));
                for probe in &probes {
                    let flow = probe.place(&snapshot, &addresses, &ports);
                    let expected = scratch.evaluate(&snapshot, &flow);
                    met.trace(&expected);
                    let said = follower.compiler.tables().evaluate(&snapshot, &flow);
                    prop_assert_eq!(said, expected);
                }
            }
            Ok(())
        },
    );
}

/// Every policy, audited if it is enforced and enforced if it is audited.
fn relabelled(snapshot: &Snapshot) -> Vec<Change> {
    let network = snapshot.network_policies.iter().map(|(key, policy)| {
        let mut policy = policy.clone();
        let changed = Arc::make_mut(&mut policy);
        changed.audited = !changed.audited;
        Change::NetworkPolicy(key.clone(), Some(policy))
    });
    let admin = snapshot.admin_policies.iter().map(|(key, policy)| {
        let mut policy = policy.clone();
        let changed = Arc::make_mut(&mut policy);
        changed.audited = !changed.audited;
        Change::AdminPolicy(key.clone(), Some(policy))
    });
    network.chain(admin).collect()
}

#[track_caller]
fn follow(name: &'static str, settings: Settings, cases: u32, changes: usize) {
    let worlds = (
        snapshot(settings),
        vec(change(settings), 1..=changes),
        vec(probe(), 16),
        1..=3_usize,
    )
        .boxed();
    let mut required = vec![
        "unchanged",
        "delta",
        "rebuilt",
        "image followed",
        "image laid out again",
        "blocks followed",
        "several changes followed at once",
        "namespace",
        "node",
        "pod",
        "service",
        "network-policy",
        "admin-policy",
        "one address",
    ];
    required.extend(EVERYTHING);
    check(
        name,
        cases,
        worlds,
        &required,
        |(mut snapshot, changes, probes, at_once), met| {
            let mut follower = Follower::new(&snapshot);
            follower.check(&snapshot)?;
            for (number, change) in (1..).zip(changes) {
                let before = follower.compiler.tables().services.clone();
                snapshot.apply(change.clone());
                let applied = follower.apply(&change);
                if number % at_once == 0 {
                    follower.catch_up(met);
                }
                count(&change, &applied, met);
                match applied {
                    Applied::Unchanged => {
                        prop_assert_eq!(&follower.compiler.tables().services, &before);
                    }
                    Applied::Delta(delta) => prop_assert!(!delta.is_empty()),
                    Applied::Rebuilt => {}
                }
                prop_assert_eq!(follower.compiler.snapshot(), &snapshot);
                follower
                    .check(&snapshot)
                    .map_err(|error| TestCaseError::fail(format!("after {change:?}: {error}")))?;
            }
            let scratch = compile(&snapshot, &Scope::Node(NODE.into()));
            let (ports, addresses) = (
                interesting_ports(&snapshot),
                interesting_addresses(&snapshot),
            );
            for probe in &probes {
                let flow = probe.place(&snapshot, &addresses, &ports);
                let expected = scratch.evaluate(&snapshot, &flow);
                met.trace(&expected);
                prop_assert_eq!(
                    follower.compiler.tables().evaluate(&snapshot, &flow),
                    expected
                );
            }
            Ok(())
        },
    );
}

const NODE: &str = "n1";

/// Tables and their image, change by change.
struct Follower {
    compiler: Compiler,
    lowered: Option<Lowered>,
    reasons: Reasons,
    /// What the image does not follow yet; `None` if it is to be laid out again.
    pending: Option<Delta>,
    /// How many changes that is of.
    changes: usize,
    /// Every address at which anything ever changed.
    addresses: BTreeSet<IpAddr>,
}

impl Follower {
    fn new(snapshot: &Snapshot) -> Self {
        let compiler = Compiler::new(&NODE.into(), snapshot.clone());
        let mut reasons = Reasons::default();
        let lowered = lay_out(compiler.tables(), &mut reasons);
        Self {
            compiler,
            lowered: Some(lowered),
            reasons,
            pending: Some(Delta::default()),
            changes: 0,
            addresses: BTreeSet::new(),
        }
    }

    fn apply(&mut self, change: &Change) -> Applied {
        let applied = self.compiler.apply(change.clone());
        match &applied {
            Applied::Unchanged => return applied,
            Applied::Delta(delta) => {
                if let Some(pending) = &mut self.pending {
                    pending.extend(delta.clone());
                }
            }
            Applied::Rebuilt => self.pending = None,
        }
        self.changes += 1;
        applied
    }

    /// Makes the image that of the tables.
    fn catch_up(&mut self, met: &mut Coverage) {
        if std::mem::take(&mut self.changes) > 1 {
            met.met("several changes followed at once");
        }
        let pending = self.pending.replace(Delta::default());
        let tables = self.compiler.tables();
        let followed = self.lowered.take().zip(pending);
        let followed = followed.and_then(|(lowered, delta)| {
            let blocks = !delta.blocks.is_empty();
            let (capacity, reasons) = (Capacity::default(), &mut self.reasons);
            let followed = lowered.follow(tables, &delta, &capacity, reasons)?;
            if blocks {
                met.met("blocks followed");
            }
            Some(followed)
        });
        met.met(if followed.is_some() {
            "image followed"
        } else {
            "image laid out again"
        });
        let lowered = followed.unwrap_or_else(|| lay_out(tables, &mut self.reasons));
        self.lowered = Some(lowered);
    }

    fn image(&self) -> &Image {
        self.lowered.as_ref().expect("tables are laid out").image()
    }

    fn check(&mut self, snapshot: &Snapshot) -> TestCaseResult {
        same(&self.compiler, snapshot)?;
        let tables = self.compiler.tables();
        self.addresses.extend(boundaries([tables, tables]));
        if self.changes > 0 {
            return Ok(());
        }
        let (tables, image) = (self.compiler.tables(), self.image());
        prop_assert_eq!(image.endpoints.len(), tables.pods.len());
        prop_assert_eq!(image.services.len(), tables.services.len());
        let services: BTreeSet<IpAddr> = tables
            .services
            .keys()
            .map(|(address, ..)| *address)
            .collect();
        for address in self.addresses.iter().chain(&services) {
            let on_wire = match address {
                IpAddr::V4(v4) => Address::v4(v4.octets()),
                IpAddr::V6(v6) => Address::v6(v6.octets()),
            };
            let word = word_of(image, &image.bank(), &on_wire, address.is_ipv6());
            prop_assert_eq!(
                u32::from(word.class()),
                tables.addresses.class_of(*address).0,
                "{}",
                address
            );
            prop_assert_eq!(word.is_service(), services.contains(address), "{}", address);
        }
        for (key, pod) in &tables.pods {
            let endpoint = &image.endpoints[key];
            for direction in Direction::BOTH {
                let said_of = |peer, port_set: Option<PortSetId>| {
                    self.says(endpoint, direction, peer, port_set)
                };
                let row = pod.row(direction);
                let at = |class| row.map(|row| tables.port_set(row, class));
                said_of(ImagePeer::Host, at(ClassId::HOST))?;
                for class in (2..tables.classes).map(ClassId) {
                    let number = class.0.try_into().expect("classes are few");
                    said_of(ImagePeer::Class(number), at(class))?;
                }
                for (family, (ingress, egress)) in [Family::V4, Family::V6].into_iter().zip(pod.own)
                {
                    let own = if direction == Direction::Ingress {
                        ingress
                    } else {
                        egress
                    };
                    said_of(ImagePeer::Own(family), row.map(|_| own))?;
                }
            }
        }
        Ok(())
    }

    /// The image says what the tables' port set does.
    fn says(
        &self,
        endpoint: &EndpointImage,
        direction: Direction,
        peer: ImagePeer,
        port_set: Option<PortSetId>,
    ) -> TestCaseResult {
        let (tables, image) = (self.compiler.tables(), self.image());
        let Some(port_set) = port_set else {
            let cell = image.cell(endpoint, direction, peer, Protocol::Tcp, 1);
            prop_assert!(cell.is_none());
            return Ok(());
        };
        for segment in tables.port_sets[port_set.0 as usize].segments() {
            for port in [segment.ports.start, segment.ports.end] {
                let cell = image.cell(endpoint, direction, peer, segment.protocol, port);
                let cell = cell.expect("a row has cells");
                if *segment.value == DecisionId::DEFER {
                    prop_assert_eq!(cell.action(), Cell::DEFER);
                    continue;
                }
                let decision = &tables.decisions[segment.value.0 as usize];
                prop_assert_eq!(
                    self.reasons.get(cell.reason()),
                    Some(decision),
                    "{:?} of {:?}, {:?} {}",
                    direction,
                    peer,
                    segment.protocol,
                    port
                );
                prop_assert_eq!(cell.audit(), decision.audited.is_some());
                prop_assert_eq!(
                    cell.action() == Cell::ALLOW || cell.audit(),
                    decision.verdict == Verdict::Allow
                );
            }
        }
        Ok(())
    }
}

fn lay_out(tables: &Tables, reasons: &mut Reasons) -> Lowered {
    Lowered::new(tables, &Capacity::default(), reasons).expect("small worlds fit")
}

fn count(change: &Change, applied: &Applied, met: &mut Coverage) {
    match applied {
        Applied::Unchanged => met.met("unchanged"),
        Applied::Rebuilt => met.met("rebuilt"),
        Applied::Delta(delta) => {
            met.met("delta");
            if delta.hosts.len() == 1 && delta.rows.is_empty() && delta.cells.is_empty() {
                met.met("one address");
            }
            met.met(match change {
                Change::Namespace(..) => "namespace",
                Change::Node(..) => "node",
                Change::Pod(..) => "pod",
                Change::Service(..) => "service",
                Change::NetworkPolicy(..) => "network-policy",
                Change::AdminPolicy(..) => "admin-policy",
                Change::Domains(_) | Change::Options(_) => "rebuilt",
            });
        }
    }
}

/// The tables decide the same everywhere, and need no more than those from scratch.
fn same(compiler: &Compiler, snapshot: &Snapshot) -> TestCaseResult {
    let scratch = compile(snapshot, &Scope::Node(NODE.into()));
    let tables = compiler.tables();
    let keys = |tables: &Tables| tables.pods.keys().cloned().collect::<BTreeSet<PodKey>>();
    prop_assert_eq!(keys(tables), keys(&scratch));
    let addresses = boundaries([tables, &scratch]);
    for (key, expected) in &scratch.pods {
        let pod = &tables.pods[key];
        prop_assert_eq!(&pod.addresses, &expected.addresses);
        for family in 0..2 {
            let both = |(ingress, egress)| [ingress, egress];
            for (port_set, wanted) in both(pod.own[family])
                .into_iter()
                .zip(both(expected.own[family]))
            {
                prop_assert_eq!(
                    said(tables, port_set),
                    said(&scratch, wanted),
                    "own of {}",
                    key
                );
            }
        }
        for direction in Direction::BOTH {
            let rows = (pod.row(direction), expected.row(direction));
            let (Some(row), Some(wanted)) = rows else {
                prop_assert_eq!(rows.0.is_none(), rows.1.is_none(), "{} {}", key, direction);
                continue;
            };
            let at = |tables: &Tables, row: RowId, class| said(tables, tables.port_set(row, class));
            for class in [ClassId::HOST, ClassId::FIRST] {
                prop_assert_eq!(
                    at(tables, row, class),
                    at(&scratch, wanted, class),
                    "{} {} {:?}",
                    key,
                    direction,
                    class
                );
            }
            for address in &addresses {
                let class = |tables: &Tables| tables.addresses.class_of(*address);
                let (class, wanted_class) = (class(tables), class(&scratch));
                prop_assert_eq!(
                    at(tables, row, class),
                    at(&scratch, wanted, wanted_class),
                    "{} {} {}",
                    key,
                    direction,
                    address
                );
            }
            for (peer, expected) in &scratch.pods {
                for family in 0..2 {
                    prop_assert_eq!(
                        at(tables, row, tables.pods[peer].classes[family]),
                        at(&scratch, wanted, expected.classes[family]),
                        "{} {} {}",
                        key,
                        direction,
                        peer
                    );
                }
            }
            let services = |tables: &Tables, row| -> BTreeMap<(IpAddr, Protocol, u16), Said> {
                let services = tables.services.iter();
                services
                    .map(|(key, class)| (*key, at(tables, row, *class)))
                    .collect()
            };
            if direction == Direction::Egress {
                prop_assert_eq!(services(tables, row), services(&scratch, wanted));
            }
        }
    }
    let known = |tables: &Tables| tables.services.keys().copied().collect::<Vec<_>>();
    prop_assert_eq!(known(tables), known(&scratch));
    prop_assert_eq!(compiler.row_count(), scratch.rows.len() - 1);
    let last = tables
        .pods
        .values()
        .flat_map(|pod| [pod.ingress, pod.egress])
        .flatten()
        .max();
    prop_assert_eq!(
        tables.rows.len() - 1,
        last.map_or(0, |RowId(row)| row as usize)
    );
    let in_use = classes(tables);
    prop_assert_eq!(compiler.class_count(), in_use);
    // Whoever owns an address hides the block that is as small.
    let hosts = tables.addresses.hosts();
    let hidden = hosts
        .filter(|(address, _)| tables.addresses.is_block(*address))
        .count();
    prop_assert!(in_use <= classes(&scratch) + hidden);
    Ok(())
}

/// How many classes there are anything of.
fn classes(tables: &Tables) -> usize {
    let blocks = tables.addresses.blocks().iter().map(|(_, class)| *class);
    let hosts = tables.addresses.hosts().map(|(_, class)| class);
    let pods = tables.pods.values().flat_map(|pod| pod.classes);
    let services = tables.services.values().copied();
    let all = blocks.chain(hosts).chain(pods).chain(services);
    all.chain([ClassId::FIRST]).collect::<BTreeSet<_>>().len()
}

fn said(tables: &Tables, port_set: PortSetId) -> Said {
    let map = tables
        .port_sets
        .get(port_set.0 as usize)
        .expect("port sets exist");
    map.map(|decision| tables.decisions[decision.0 as usize].clone())
}

/// Every address at which anything may change in any of the tables, and the one before.
fn boundaries(all: [&Tables; 2]) -> BTreeSet<IpAddr> {
    let mut addresses = BTreeSet::new();
    for tables in all {
        for (net, _) in tables.addresses.blocks() {
            addresses.extend([net.network(), net.broadcast()]);
            addresses.extend([before(net.network()), after(net.broadcast())]);
        }
        for (address, _) in tables.addresses.hosts() {
            addresses.extend([address, before(address), after(address)]);
        }
    }
    addresses
}

fn before(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4(v4.to_bits().saturating_sub(1).into()),
        IpAddr::V6(v6) => IpAddr::V6(v6.to_bits().saturating_sub(1).into()),
    }
}

fn after(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4(v4.to_bits().saturating_add(1).into()),
        IpAddr::V6(v6) => IpAddr::V6(v6.to_bits().saturating_add(1).into()),
    }
}
