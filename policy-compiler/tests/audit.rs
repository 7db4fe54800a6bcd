// SPDX-License-Identifier: Apache-2.0
//! Do audited policies deny nothing, and is everything reported that they would have denied? On the
//! oracle, which all other engines are held to in `equivalence`; and of Services on the tables of a node.
#![expect(clippy::expect_used, reason = "tests fail loudly")]

mod suite;

use std::{fmt::Write as _, net::IpAddr, sync::Arc};

use policy_compiler::{
    Decision, Snapshot, Verdict,
    compile::{PortSetId, Scope, Tables, compile},
    manifest,
    model::{PodKey, Protocol},
    parse,
    reference::evaluate,
    strategies::{Settings, world},
};
use proptest::{prop_assert_eq, strategy::Strategy};
use suite::{EVERYTHING, check};

/// Flows tried in each world.
const FLOWS: usize = 24;

/// P16: to audit policies only opens, and exactly what their denials had closed is reported, with what
/// denied it.
#[test]
fn audited_policies_deny_nothing_and_report_it() {
    let required = [&EVERYTHING[..], &["opened", "still closed"]].concat();
    check(
        "p16",
        10_000,
        world(Settings::default(), FLOWS).boxed(),
        &required,
        |(audited, flows), met| {
            let mut enforced = audited.clone();
            set_audited(&mut enforced, false);
            for flow in &flows {
                let (old, new) = (evaluate(&enforced, flow), evaluate(&audited, flow));
                met.trace(&new);
                for (old, new) in [(old.egress, new.egress), (old.ingress, new.ingress)] {
                    prop_assert_eq!(&old.audited, &None);
                    match (old.verdict, new.verdict) {
                        (Verdict::Allow, _) => prop_assert_eq!(new, old, "{:?}", flow),
                        (Verdict::Deny, Verdict::Allow) => {
                            met.met("opened");
                            prop_assert_eq!(new.with_all(), &old, "{:?}", flow);
                        }
                        (Verdict::Deny, Verdict::Deny) => {
                            met.met("still closed");
                            prop_assert_eq!(new.audited, None, "{:?}", flow);
                        }
                    }
                }
            }
            Ok(())
        },
    );
}

/// P16: where every policy is audited nothing is denied, and everything that would be is reported.
#[test]
fn nothing_is_denied_where_everything_is_audited() {
    let required = ["allow", "audited", "enforced elsewhere"];
    check(
        "p16-all",
        10_000,
        world(Settings::default(), FLOWS).boxed(),
        &required,
        |(mut enforced, flows), met| {
            let mut audited = enforced.clone();
            set_audited(&mut enforced, false);
            set_audited(&mut audited, true);
            for flow in &flows {
                let (old, new) = (evaluate(&enforced, flow), evaluate(&audited, flow));
                met.trace(&new);
                for (old, new) in [(old.egress, new.egress), (old.ingress, new.ingress)] {
                    prop_assert_eq!(new.verdict, Verdict::Allow, "{:?}", flow);
                    prop_assert_eq!(new.audited.is_some(), old.verdict == Verdict::Deny);
                    if old.verdict == Verdict::Deny {
                        met.met("enforced elsewhere");
                    }
                }
            }
            Ok(())
        },
    );
}

fn set_audited(snapshot: &mut Snapshot, audited: bool) {
    let admin = snapshot.admin_policies.values_mut().map(Arc::make_mut);
    admin.for_each(|policy| policy.audited = audited);
    let network = snapshot.network_policies.values_mut().map(Arc::make_mut);
    network.for_each(|policy| policy.audited = audited);
}

/// What the rows of pods on node n1 say of a Service, by what they say of its endpoints: an audited
/// endpoint is reached like an admitted one, and reported.
#[test]
fn a_service_is_what_all_its_endpoints_are() {
    // A CNP's rules toward the endpoints `one` and `two` and toward the node itself.
    let cases = [
        // Nothing is denied.
        (["", "", ""], "allow"),
        // All are audited: told where the packet leaves the pod.
        (["audit", "audit", "audit"], "audit"),
        // Some are: told behind translation.
        (["audit", "", ""], "defer"),
        (["", "audit", ""], "defer"),
        (["audit", "audit", ""], "defer"),
        // Enforced denials go first.
        (["deny", "deny", "deny"], "deny"),
        (["deny", "audit", ""], "defer"),
        (["deny", "", ""], "defer"),
        // What is for the node itself passes nothing behind translation.
        (["", "", "deny"], "deny"),
        (["audit", "audit", "deny"], "deny"),
        (["", "", "audit"], "audit"),
        (["audit", "", "audit"], "audit"),
        (["deny", "", "audit"], "defer"),
    ];
    for (ends, expected) in cases {
        let snapshot = with_service(ends);
        let tables = compile(&snapshot, &Scope::Node("n1".into()));
        let said = said_of_service(&tables);
        let word = match said {
            None => "defer",
            Some(decision) if decision.audited.is_some() => "audit",
            Some(decision) if decision.verdict == Verdict::Allow => "allow",
            Some(_) => "deny",
        };
        assert_eq!(word, expected, "{ends:?}: {said:?}");
    }
}

/// What x/client's row says of the Service at 10.96.0.1; `None` to judge behind translation.
fn said_of_service(tables: &Tables) -> Option<&Decision> {
    let address = IpAddr::from([10, 96, 0, 1]);
    let class = tables.services[&(address, Protocol::Tcp, 80)];
    let row = tables.pods[&PodKey::new("x", "client")].egress;
    let port_set = tables.port_set(row.expect("the client has policies"), class);
    (port_set != PortSetId::DEFER).then(|| tables.decision(port_set, Protocol::Tcp, 80))
}

/// A client with a policy that admits, and for each end one that audits or denies.
fn with_service(ends: [&str; 3]) -> Snapshot {
    let mut text = String::from(
        "
apiVersion: v1
kind: Namespace
metadata: {name: x}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: x, name: client, labels: {app: client}}
spec: {nodeName: n1, containers: [{name: c, image: i}]}
status: {phase: Running, podIPs: [{ip: 10.40.1.9}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: x, name: web}
spec: {clusterIPs: [10.96.0.1], ipFamilies: [IPv4], ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: x, name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080, protocol: TCP}]
endpoints:
- {addresses: [203.0.113.1], conditions: {ready: true}}
- {addresses: [203.0.113.2], conditions: {ready: true}}
- {addresses: [192.0.2.1], conditions: {ready: true}}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: last}
spec: {tier: Admin, priority: 100, subject: {namespaces: {}}, egress: [{action: Accept, to: [{networks: [0.0.0.0/0]}]}]}
---
",
    );
    for (end, address) in ends
        .into_iter()
        .zip(["203.0.113.1", "203.0.113.2", "192.0.2.1"])
    {
        let mode = match end {
            "" => continue,
            "audit" => "audit",
            _ => "enforce",
        };
        write!(
            text,
            "
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {{name: 'of-{address}', labels: {{netpol.dev/mode: {mode}}}}}
spec: {{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}, egress: [{{action: Deny, to: [{{networks: [{address}/32]}}]}}]}}
---
"
        )
        .expect("a String takes everything");
    }
    let loaded = manifest::load([("service", text.as_str())], &parse::Settings::default());
    assert_eq!(loaded.diagnostics, []);
    loaded.snapshot
}
