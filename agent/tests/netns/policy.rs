// SPDX-License-Identifier: Apache-2.0
//! Basic policy on the wire: scenarios 16 to 27 of the datapath's list, host traffic (63 to 66), open
//! connections and edits (41, 42), audit (73).

use crate::world::{Icmp, LIMIT, Plan, Sctp, Tcp, Udp, World, audited, pod, policy};
use std::{
    io::{Read as _, Write as _},
    time::Duration,
};

use agent::{
    args::{Attach, DatapathArgs, Established},
    datapath,
    demo::{
        plan::Transport,
        probe::{Measured, PATIENCE},
    },
    event::Report,
    names::Names,
};

const EVERYTHING: [Transport; 4] = [Tcp(80), Udp(80), Sctp(80), Icmp];

fn on(attach: Attach, policies: &str) -> World {
    World::with(Plan {
        policies: policies.to_owned(),
        datapath: DatapathArgs {
            attach,
            ..Plan::default().datapath
        },
        ..Plan::default()
    })
}

#[test]
fn s16_default_deny_ingress() {
    for attach in [Attach::Tcx, Attach::Clsact] {
        let world = on(
            attach,
            &policy(
                "deny",
                "{podSelector: {matchLabels: {app: a}}, policyTypes: [Ingress]}",
            ),
        );
        world.denies("x/b", "x/a", &EVERYTHING);
        world.denies("y/b", "x/a", &EVERYTHING);
        // What goes out is nobody's business, and its replies come in.
        world.allows("x/a", "x/b", &EVERYTHING);
        world.allows("x/a", "y/b", &EVERYTHING);
        world.allows("x/a", "outside", &EVERYTHING);
        // A pod that nobody selects is open.
        world.allows("y/b", "x/b", &EVERYTHING);
    }
}

#[test]
fn s17_default_deny_egress() {
    let world = World::new(&policy(
        "deny",
        "{podSelector: {matchLabels: {app: a}}, policyTypes: [Egress]}",
    ));
    world.denies("x/a", "x/b", &EVERYTHING);
    world.denies("x/a", "x/c", &EVERYTHING);
    world.denies("x/a", "outside", &EVERYTHING);
    // Replies to what comes in go out.
    world.allows("x/b", "x/a", &EVERYTHING);
    world.allows("y/b", "x/a", &EVERYTHING);
    world.allows("outside", "x/a", &EVERYTHING);
}

#[test]
fn s18_a_port_and_no_port() {
    let world = World::new(&policy(
        "one",
        "{podSelector: {matchLabels: {app: a}}, ingress: [{ports: [{port: 80}]}]}",
    ));
    world.allows("y/b", "x/a", &[Tcp(80)]);
    world.denies("y/b", "x/a", &[Tcp(81), Udp(80), Sctp(80), Icmp]);
    world.edit(&policy(
        "any",
        "{podSelector: {matchLabels: {app: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: 'y'}}}]}]}",
    ));
    world.allows("y/b", "x/a", &EVERYTHING);
    world.denies("x/c", "x/a", &EVERYTHING);
}

#[test]
fn s19_port_ranges_and_many_ports() {
    let world = World::new(&policy(
        "range",
        "{podSelector: {matchLabels: {app: a}}, ingress: [{ports: [{port: 8000, endPort: 9000}]}]}",
    ));
    world.allows("x/c", "x/a", &[Tcp(8000), Tcp(8500), Tcp(9000)]);
    world.denies("x/c", "x/a", &[Tcp(7999), Tcp(9001)]);
    // Every second port: 200 ranges that cannot be merged.
    let ports: Vec<String> = (0..200)
        .map(|i| format!("{{port: {}}}", 20_000 + 2 * i))
        .collect();
    let ports = ports.join(", ");
    world.edit(&policy(
        "many",
        &format!("{{podSelector: {{matchLabels: {{app: a}}}}, ingress: [{{ports: [{{port: 443}}, {ports}]}}]}}"),
    ));
    world.allows("x/c", "x/a", &[Tcp(443)]);
    world.denies("x/c", "x/a", &[Tcp(80), Tcp(9000)]);
    let pod = world.addresses("x/a");
    let served = (0..200).map(|i| Tcp(20_000 + 2 * i)).collect();
    for address in &pod {
        world
            .servers
            .add(world.namespace("x/a"), *address, &served)
            .unwrap();
    }
    let served: Vec<_> = served.into_iter().collect();
    world.allows("x/c", "x/a", &served);
}

#[test]
fn s20_s21_s22_blocks() {
    // Two blocks with an exception and other ports: the union of both rules, exactly.
    let world = World::new(&policy(
        "blocks",
        "{podSelector: {matchLabels: {app: a}}, policyTypes: [Egress], egress: [
          {to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.40.2.0/24]}}]},
          {to: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: 443}]}]}",
    ));
    world.allows("x/a", "10.40.1.12", &[Tcp(80), Tcp(443), Udp(80), Icmp]);
    world.allows("x/a", "10.40.2.11", &[Tcp(443)]);
    world.denies("x/a", "10.40.2.11", &[Tcp(80), Udp(80), Icmp]);
    world.denies("x/a", "fd00:40:1::12", &EVERYTHING);
    // A pod inside a block that another rule selects gets both rules.
    world.edit(&policy(
        "union",
        "{podSelector: {matchLabels: {app: a}}, policyTypes: [Egress], egress: [
          {to: [{ipBlock: {cidr: 10.40.0.0/16}}], ports: [{port: 80}]},
          {to: [{podSelector: {matchLabels: {app: c}}}], ports: [{port: 443}]}]}",
    ));
    world.allows("x/a", "10.40.2.10", &[Tcp(80), Tcp(443)]);
    world.denies("x/a", "10.40.2.10", &[Tcp(81)]);
    world.allows("x/a", "10.40.2.11", &[Tcp(80)]);
    world.denies("x/a", "10.40.2.11", &[Tcp(443)]);
    world.allows("x/a", "fd00:40:2::10", &[Tcp(443)]);
    world.denies("x/a", "fd00:40:2::10", &[Tcp(80)]);
}

fn admin(kind: &str, tier: &str, priority: u16, action: &str, extra: &str) -> String {
    let (version, head, everyone) = match kind {
        "ClusterNetworkPolicy" => (
            "v1alpha2",
            format!("tier: {tier}, priority: {priority}, "),
            "{namespaces: {}}",
        ),
        "AdminNetworkPolicy" => (
            "v1alpha1",
            format!("priority: {priority}, "),
            "{namespaces: {}}",
        ),
        _ => ("v1alpha1", String::new(), "{namespaces: {}}"),
    };
    let name = if kind == "BaselineAdminNetworkPolicy" {
        "default".to_owned()
    } else {
        format!("{}-{priority}", action.to_lowercase())
    };
    format!(
        "
apiVersion: policy.networking.k8s.io/{version}
kind: {kind}
metadata: {{name: {name}}}
spec: {{{head}subject: {{namespaces: {{matchLabels: {{team: x}}}}}}, ingress: [{{action: {action}, from: [{everyone}]{extra}}}]}}
---"
    )
}

#[test]
fn s23_tiers() {
    let allow_all = policy("open", "{podSelector: {}, ingress: [{}]}");
    let closed = policy("closed", "{podSelector: {}, policyTypes: [Ingress]}");
    let anp = |priority, action| admin("AdminNetworkPolicy", "", priority, action, "");
    let cnp = |tier, priority, action| admin("ClusterNetworkPolicy", tier, priority, action, "");
    let banp = |action| admin("BaselineAdminNetworkPolicy", "", 0, action, "");

    let world = World::new(&(anp(10, "Deny") + &allow_all));
    world.denies("y/b", "x/a", &EVERYTHING);
    world.edit(&(anp(10, "Pass") + &anp(20, "Deny") + &allow_all));
    world.allows("y/b", "x/a", &EVERYTHING);
    world.edit(&(anp(10, "Pass") + &closed));
    world.denies("y/b", "x/a", &EVERYTHING);
    world.edit(&(anp(10, "Allow") + &closed));
    world.allows("y/b", "x/a", &EVERYTHING);
    world.edit(&(cnp("Admin", 5, "Accept") + &anp(10, "Deny") + &closed));
    world.allows("y/b", "x/a", &EVERYTHING);
    world.edit(&banp("Deny"));
    world.denies("y/b", "x/a", &EVERYTHING);
    world.edit(&(banp("Deny") + &allow_all));
    world.allows("y/b", "x/a", &EVERYTHING);
    world.edit(&(cnp("Baseline", 5, "Accept") + &banp("Deny")));
    world.allows("y/b", "x/a", &EVERYTHING);
    // Pods outside the subject are not touched.
    world.allows("x/a", "y/b", &EVERYTHING);
}

#[test]
fn s26_named_ports_differ_by_pod() {
    let world = World::new(&policy(
        "named",
        "{podSelector: {matchLabels: {app: b}}, policyTypes: [Egress], egress: [
          {to: [{namespaceSelector: {}}], ports: [{port: web}]}]}",
    ));
    world.allows("x/b", "x/a", &[Tcp(80)]);
    world.denies("x/b", "x/a", &[Tcp(8080)]);
    world.allows("x/b", "y/b", &[Tcp(8080)]);
    world.denies("x/b", "y/b", &[Tcp(80)]);
}

#[test]
fn s27_families_do_not_cross() {
    let world = World::new(&policy(
        "v4",
        "{podSelector: {matchLabels: {app: a}}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}",
    ));
    world.allows("outside", "10.40.1.10", &EVERYTHING);
    world.denies("outside", "fd00:40:1::10", &EVERYTHING);
    world.allows("y/b", "10.40.1.10", &EVERYTHING);
    world.denies("y/b", "fd00:40:1::10", &EVERYTHING);
}

/// An open connection from y/b to x/a, which is closed to anything but its peer's patience.
struct Connection(std::net::TcpStream);

impl Connection {
    fn open(world: &World) -> Self {
        let opened = world
            .namespace("y/b")
            .run(|| std::net::TcpStream::connect("10.40.1.10:80"));
        let mut connection = Self(opened.unwrap());
        assert!(connection.answers(LIMIT));
        connection
    }

    /// Whether an echo comes back in time.
    fn answers(&mut self, patience: Duration) -> bool {
        self.0.set_read_timeout(Some(patience)).unwrap();
        self.0.write_all(b"ping").unwrap();
        self.0.read_exact(&mut [0; 4]).is_ok()
    }
}

#[test]
fn s41_s42_a_policy_change_reaches_open_connections() {
    // Egress stays open: the pod may talk to its peer, but this connection was not its idea.
    let open = policy("ours", "{podSelector: {}, ingress: [{}]}");
    let other = policy(
        "other",
        "{podSelector: {matchLabels: {app: b}}, policyTypes: [Ingress], ingress: [{}]}",
    );
    let closed = policy("ours", "{podSelector: {}, policyTypes: [Ingress]}");
    for established in [Established::Reevaluate, Established::Keep] {
        let world = World::with(Plan {
            policies: open.clone(),
            datapath: DatapathArgs {
                established,
                ..Plan::default().datapath
            },
            ..Plan::default()
        });
        let mut connection = Connection::open(&world);
        world.edit(&(open.clone() + &other));
        assert!(connection.answers(LIMIT));
        world.edit(&closed);
        // Silence cannot be waited out in full: twice the patience of a probe will do.
        assert_eq!(
            connection.answers(PATIENCE[1] * 2),
            established == Established::Keep
        );
        world.denies("y/b", "x/a", &[Tcp(80)]);
        // What the pod opens itself is answered.
        world.allows("x/a", "y/b", &EVERYTHING);
    }
}

#[test]
fn s41_in_strict_mode() {
    let world = World::with(Plan {
        policies: policy("open", "{podSelector: {}, ingress: [{}]}"),
        datapath: DatapathArgs {
            strict_tcp: true,
            ..Plan::default().datapath
        },
        ..Plan::default()
    });
    let mut connection = Connection::open(&world);
    world.edit(&policy("open", "{podSelector: {}, policyTypes: [Ingress]}"));
    assert!(!connection.answers(PATIENCE[1] * 2));
    // What the pod opens itself is answered.
    world.allows("x/a", "y/b", &EVERYTHING);
}

#[test]
fn s63_s64_host_traffic() {
    let world = World::new(&policy(
        "closed",
        "{podSelector: {}, policyTypes: [Ingress]}",
    ));
    // The pod's own node may talk to it; another node is a stranger.
    world.allows("node:n1", "x/a", &EVERYTHING);
    world.denies("node:n2", "x/a", &EVERYTHING);
    world.allows("node:n2", "x/c", &EVERYTHING);
    world.denies("node:n1", "x/c", &EVERYTHING);
}

#[test]
fn s65_a_pod_and_its_node() {
    let deny = policy("closed", "{podSelector: {}, policyTypes: [Egress]}");
    let world = World::new(&deny);
    world.denies("x/a", "node:n1", &[Tcp(10250), Icmp]);
    world.denies("x/a", "node:n2", &[Tcp(10250), Icmp]);
    drop(world);
    let world = World::with(Plan {
        policies: deny.clone(),
        local_node_egress: true,
        ..Plan::default()
    });
    world.allows("x/a", "node:n1", &[Tcp(10250), Icmp]);
    world.denies("x/a", "node:n2", &[Tcp(10250), Icmp]);
    // Whatever NetworkPolicies admit, the platform may still deny.
    world.edit(&(deny + "
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: nodes}
spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{nodes: {}}]}]}
"));
    world.denies("x/a", "node:n1", &[Tcp(10250), Icmp]);
}

#[test]
fn s73_audit_drops_nothing() {
    let mut plan = Plan {
        policies: policy(
            "closed",
            "{podSelector: {}, policyTypes: [Ingress, Egress]}",
        ),
        ..Plan::default()
    };
    plan.datapath.audit = true;
    let world = World::with(plan);
    world.allows("y/b", "x/a", &EVERYTHING);
    world.allows("x/a", "outside", &EVERYTHING);
}

#[test]
fn s73_audit_of_a_namespace() {
    let closed = policy(
        "closed",
        "{podSelector: {}, policyTypes: [Ingress, Egress]}",
    );
    let namespace = |mode: &str| {
        format!(
            "
apiVersion: v1
kind: Namespace
metadata: {{name: z, labels: {{netpol.dev/mode: {mode}}}}}
---"
        )
    };
    let closed = closed.clone() + &closed.replace("namespace: x", "namespace: z");
    let world = World::with(Plan {
        policies: closed.clone() + &namespace("audit"),
        objects: pod("z", "f", 1, 66),
        ..Plan::default()
    });
    for (from, to) in [("y/b", "z/f"), ("z/f", "outside")] {
        for (probe, measured) in world.measure(from, to, &EVERYTHING) {
            assert_eq!(measured, Measured::Allow, "{probe:?}");
        }
    }
    let explained = world.trace("n1", ["10.9.9.9", "z/f"], "tcp/80", None, false);
    let said = "  would drop  isolated by NetworkPolicy z/closed";
    assert!(explained.contains(said), "{explained}");
    // Nobody else is spared.
    world.denies("y/b", "x/a", &EVERYTHING);
    world.denies("x/a", "outside", &EVERYTHING);
    world.edit(&(closed + &namespace("enforce")));
    world.denies("y/b", "z/f", &EVERYTHING);
    world.denies("z/f", "outside", &EVERYTHING);
}

/// What the policy would keep out is reported and gets in; without the label it is kept out.
#[test]
fn s73_audit_of_a_policy() {
    let of = |app: &str| {
        format!("{{podSelector: {{matchLabels: {{app: {app}}}}}, policyTypes: [Ingress]}}")
    };
    let (closed, neighbour) = (policy("closed", &of("a")), policy("neighbour", &of("b")));
    let mut plan = Plan {
        policies: audited(&closed) + &neighbour,
        ..Plan::default()
    };
    plan.datapath.events_per_second = 1000;
    let mut world = World::with(plan);
    // The log takes events off the buffer: look without an agent.
    world.stop();
    for (probe, measured) in world.measure("y/b", "x/a", &EVERYTHING) {
        assert_eq!(measured, Measured::Allow, "{probe:?}");
    }
    let place = world.place("n1");
    let names = Names::read(&place.state_dir).unwrap();
    let events: Vec<_> = datapath::events(&place.bpffs).unwrap().collect();
    // Each transport and family.
    assert!(events.len() >= EVERYTHING.len() * 2, "{events:?}");
    for event in &events {
        let report = Report::new(event, &names);
        assert_eq!((report.verdict(), event.audited), ("would drop", 1));
        assert_eq!(report.because(), "isolated by NetworkPolicy x/closed");
        assert_eq!(names.interface(event.ifindex), "x/a");
    }
    let explained = world.trace("n1", ["10.9.9.9", "x/a"], "tcp/80", None, false);
    let said = "  would drop  isolated by NetworkPolicy x/closed (NetworkPolicy); audited, default decides";
    assert!(explained.contains(said), "{explained}");
    world.start();
    // Another policy of the same namespace is enforced.
    world.denies("y/b", "x/b", &EVERYTHING);
    world.edit(&(closed + &neighbour));
    world.denies("y/b", "x/a", &EVERYTHING);
}

#[test]
fn a_broken_edit_changes_nothing_on_the_wire() {
    let world = World::new(&policy(
        "closed",
        "{podSelector: {}, policyTypes: [Ingress]}",
    ));
    world.denies("y/b", "x/a", &[Tcp(80)]);
    let path = world.dir.path().join("policies.yaml");
    for status in world.break_policies(&policy("open", "{podSelektor: {}, ingress: [{}]}")) {
        let place = format!("{}:5:", path.display());
        assert!(status.problems[0].starts_with(&place), "{status:?}");
    }
    world.denies("y/b", "x/a", &[Tcp(80)]);
    world.edit(&policy("open", "{podSelector: {}, ingress: [{}]}"));
    world.allows("y/b", "x/a", &[Tcp(80)]);
}
