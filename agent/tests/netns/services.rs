// SPDX-License-Identifier: Apache-2.0
//! Services behind real address translation: scenarios 28 to 38 and 40.
//!
//! The rules are those that kube-proxy's nftables mode amounts to: destination translation on the way
//! in, round robin over endpoints, masquerade where the reply would not come back by itself.

use std::{
    fmt::Write as _,
    io::Write as _,
    process::{Command, Stdio},
    time::Duration,
};

use agent::{
    args::DatapathArgs,
    demo::{
        plan::{Probe, Transport},
        probe::{Measured, measure},
    },
};

use crate::world::{LIMIT, Plan, Tcp, Udp, World, audited, policy};

/// Shorter than the first retransmission of a SYN, which would be translated anew.
const ONCE: [Duration; 1] = [Duration::from_millis(800)];

/// Loads nftables rules on a node.
#[track_caller]
fn nft(world: &World, node: &str, rules: &str) {
    let namespace = world.namespace(&format!("node:{node}"));
    let output = namespace
        .run(|| {
            let mut child = Command::new("nft")
                .args(["-f", "-"])
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            child.stdin.take().unwrap().write_all(rules.as_bytes())?;
            child.wait_with_output()
        })
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Translates 10.96.0.1:80 and [fd00:96::1]:80 (TCP and UDP) to the backends in turn.
pub(crate) fn translate(world: &World, node: &str, backends: [&[&str]; 2], masquerade: &str) {
    let mut rules = String::from("table inet services\ndelete table inet services\n");
    rules +=
        "table inet services {\n chain translate {\n type nat hook prerouting priority dstnat;\n";
    for (family, address, backends) in [
        ("ip", "10.96.0.1", backends[0]),
        ("ip6", "fd00:96::1", backends[1]),
    ] {
        for protocol in ["tcp", "udp"] {
            let targets: Vec<String> = backends
                .iter()
                .enumerate()
                .map(|(i, backend)| {
                    let (address, port) = backend.rsplit_once(':').unwrap();
                    format!("{i} : {address} . {port}")
                })
                .collect();
            writeln!(
                rules,
                " {family} daddr {address} {protocol} dport 80 dnat {family} to numgen inc mod {} map {{ {} }}",
                backends.len(),
                targets.join(", ")
            )
            .unwrap();
        }
    }
    rules += " }\n chain return_path {\n type nat hook postrouting priority srcnat;\n";
    rules += masquerade;
    rules += "\n }\n}\n";
    nft(world, node, &rules);
}

/// A Service with the addresses that [`translate`] translates, for the pods of namespace y.
const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {namespace: 'y', name: web}
spec:
  clusterIPs: [10.96.0.1, 'fd00:96::1']
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: RequireDualStack
  selector: {}
  ports:
  - {name: tcp, port: 80, targetPort: 8080}
  - {name: udp, port: 80, targetPort: 81, protocol: UDP}
---
";

/// The Service with endpoints of its own, by family: address lists in flow style.
pub(crate) fn service(v4: &str, v6: &str) -> String {
    let mut text = SERVICE.replace("  selector: {}\n", "");
    for (name, kind, addresses) in [("v4", "IPv4", v4), ("v6", "IPv6", v6)] {
        write!(
            text,
            "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{namespace: 'y', name: web-{name}, labels: {{kubernetes.io/service-name: web}}}}
addressType: {kind}
ports: [{{name: tcp, port: 8080, protocol: TCP}}, {{name: udp, port: 81, protocol: UDP}}]
endpoints: [{{addresses: {addresses}, conditions: {{ready: true}}}}]
---"
        )
        .unwrap();
    }
    text
}

/// Endpoints on the sender's node and on another one.
pub(crate) fn both() -> String {
    let extra =
        |address: &str| format!(", {{addresses: [{address}], conditions: {{ready: true}}}}]\n---");
    let text = service("[10.40.1.12]", "['fd00:40:1::12']");
    let mut parts = text.split("]\n---");
    let head = parts.next().unwrap();
    let tail = parts.next().unwrap();
    format!(
        "{head}{}{tail}{}",
        extra("10.40.2.11"),
        extra("'fd00:40:2::11'")
    )
}

const BOTH: [&[&str]; 2] = [
    &["10.40.1.12:8080", "10.40.2.11:8080"],
    &["fd00:40:1::12:8080", "fd00:40:2::11:8080"],
];

fn with(objects: String, policies: &str) -> World {
    World::with(Plan {
        objects,
        policies: policies.to_owned(),
        ..Plan::default()
    })
}

/// How many of `count` connections from `from` to the Service get through, by family.
pub(crate) fn tally(world: &World, from: &str, transport: Transport, count: usize) -> [usize; 2] {
    let namespace = world.namespace(from);
    world.new_source_ports(from);
    ["10.96.0.1", "fd00:96::1"].map(|service| {
        let to: std::net::IpAddr = service.parse().unwrap();
        let from_address = world
            .addresses(from)
            .into_iter()
            .find(|address| address.is_ipv4() == to.is_ipv4())
            .unwrap();
        let probe = Probe {
            source: 0,
            destination: 0,
            from: from_address,
            to,
            transport,
        };
        let measured = measure(namespace, &vec![probe; count], &ONCE).unwrap();
        assert!(
            measured.iter().all(|m| !matches!(m, Measured::Broken(_))),
            "{measured:?}"
        );
        measured.iter().filter(|m| **m == Measured::Allow).count()
    })
}

/// Egress of x/a to pods of namespace y called `app`, on a port.
pub(crate) fn egress(app: &str, port: u16) -> String {
    policy(
        "egress",
        &format!(
            "{{podSelector: {{matchLabels: {{app: a}}}}, policyTypes: [Egress], egress: [{{to: [{{namespaceSelector: {{matchLabels: {{team: 'y'}}}}, podSelector: {{matchLabels: {{app: {app}}}}}}}], ports: [{{port: {port}}}]}}]}}"
        ),
    )
}

const ANY: &str = "{podSelector: {matchLabels: {app: a}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {team: 'y'}}}]}]}";

#[test]
fn s28_policy_is_about_the_backends_port() {
    let world = with(
        service("[10.40.2.11]", "['fd00:40:2::11']"),
        &egress("b", 8080),
    );
    translate(
        &world,
        "n1",
        [&["10.40.2.11:8080"], &["fd00:40:2::11:8080"]],
        "",
    );
    assert_eq!(tally(&world, "x/a", Tcp(80), 6), [6, 6]);
    world.edit(&egress("b", 80));
    assert_eq!(tally(&world, "x/a", Tcp(80), 6), [0, 0]);
}

#[test]
fn s29_s30_s31_backends_that_fare_alike_and_those_that_do_not() {
    let world = with(both(), &policy("any", ANY));
    for masquerade in [
        "",
        "ip daddr 10.40.0.0/16 ct status dnat masquerade; ip6 daddr fd00:40::/32 ct status dnat masquerade",
    ] {
        translate(&world, "n1", BOTH, masquerade);
        world.edit(&policy("any", ANY));
        assert_eq!(tally(&world, "x/a", Tcp(80), 20), [20, 20], "{masquerade}");
        // Only the backend on this node: judged where packets enter its pod.
        world.edit(&egress("a", 8080));
        assert_eq!(tally(&world, "x/a", Tcp(80), 20), [10, 10], "{masquerade}");
        // Only the backend on the other node: judged where packets leave this one.
        world.edit(&egress("b", 8080));
        assert_eq!(tally(&world, "x/a", Tcp(80), 20), [10, 10], "{masquerade}");
        // Neither.
        world.edit(&egress("nobody", 8080));
        assert_eq!(tally(&world, "x/a", Tcp(80), 20), [0, 0], "{masquerade}");
    }
}

#[test]
fn s32_a_backend_outside_is_judged_by_its_address() {
    let block = policy(
        "block",
        "{podSelector: {matchLabels: {app: a}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 203.0.113.0/24}}, {ipBlock: {cidr: '2001:db8::/64'}}]}]}",
    );
    let world = with(service("[203.0.113.10]", "['2001:db8::10']"), &block);
    translate(
        &world,
        "n1",
        [&["203.0.113.10:8080"], &["2001:db8::10:8080"]],
        "",
    );
    assert_eq!(tally(&world, "x/a", Tcp(80), 4), [4, 4]);
    // The Service lives in namespace y, its backends do not.
    world.edit(&policy("any", ANY));
    assert_eq!(tally(&world, "x/a", Tcp(80), 4), [0, 0]);
    // Nor does admitting the Service's own address open anything.
    world.edit(&policy(
        "vip",
        "{podSelector: {matchLabels: {app: a}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.96.0.0/16}}, {ipBlock: {cidr: 'fd00:96::/64'}}]}]}",
    ));
    assert_eq!(tally(&world, "x/a", Tcp(80), 4), [0, 0]);
}

#[test]
fn s35_a_service_nobody_told_of() {
    let world = World::with(Plan {
        policies: egress("a", 8080),
        datapath: DatapathArgs {
            service_cidr: vec![
                "10.96.0.0/16".parse().unwrap(),
                "fd00:96::/64".parse().unwrap(),
            ],
            ..Plan::default().datapath
        },
        ..Plan::default()
    });
    translate(&world, "n1", BOTH, "");
    assert_eq!(tally(&world, "x/a", Tcp(80), 20), [10, 10]);
}

#[test]
fn s37_s38_a_pod_reaches_itself_but_not_its_sibling() {
    let hairpin = "ip saddr 10.40.1.10 ip daddr 10.40.1.10 masquerade; ip6 saddr fd00:40:1::10 ip6 daddr fd00:40:1::10 masquerade";
    let closed = policy("closed", "{podSelector: {}, policyTypes: [Ingress]}");
    let world = with(service("[10.40.1.10]", "['fd00:40:1::10']"), &closed);
    translate(
        &world,
        "n1",
        [&["10.40.1.10:8080"], &["fd00:40:1::10:8080"]],
        hairpin,
    );
    assert_eq!(tally(&world, "x/a", Tcp(80), 4), [4, 4]);
    assert_eq!(tally(&world, "x/b", Tcp(80), 4), [0, 0]);
    // A platform rule about the pod's own namespace is about the pod, too.
    world.edit(&(closed + "
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: own}
spec: {tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {team: x}}}, ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: x}}}]}]}
"));
    assert_eq!(tally(&world, "x/a", Tcp(80), 4), [0, 0]);
}

#[test]
fn s40_a_masqueraded_client_is_not_the_node() {
    let world = World::new(&policy(
        "closed",
        "{podSelector: {}, policyTypes: [Ingress]}",
    ));
    nft(
        &world,
        "n1",
        "table inet nodeport {
          chain in { type nat hook prerouting priority dstnat; ip daddr 172.40.0.1 tcp dport 443 dnat ip to 10.40.1.10:80; }
          chain out { type nat hook postrouting priority srcnat; ip daddr 10.40.1.10 tcp dport 80 masquerade; }
        }",
    );
    // On the pod's interface the client has the node's address, but the node did not send it.
    world.denies("outside", "172.40.0.1", &[Tcp(443)]);
    world.allows("node:n1", "x/a", &[Tcp(80), Udp(80)]);
    world.edit("");
    world.allows("outside", "172.40.0.1", &[Tcp(443)]);
}

#[test]
fn s34_a_backend_that_goes_takes_its_connections_only() {
    use std::io::{Read as _, Write as _};
    let world = with(both(), &policy("any", ANY));
    translate(
        &world,
        "n1",
        [&["10.40.1.12:8080"], &["fd00:40:1::12:8080"]],
        "",
    );
    let mut streams = ["10.96.0.1:80", "[fd00:96::1]:80"].map(|service| {
        let stream = world
            .namespace("x/a")
            .run(|| std::net::TcpStream::connect(service))
            .unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    });
    let mut exchange = || {
        for stream in &mut streams {
            stream.write_all(b"ping").unwrap();
            stream.read_exact(&mut [0; 4]).unwrap();
        }
    };
    exchange();
    // It is no endpoint any more; who is connected to it stays so.
    std::fs::write(
        world.dir.path().join("objects.yaml"),
        service("[10.40.2.11]", "['fd00:40:2::11']"),
    )
    .unwrap();
    world.edit(&policy("any", ANY));
    translate(
        &world,
        "n1",
        [&["10.40.2.11:8080"], &["fd00:40:2::11:8080"]],
        "",
    );
    exchange();
    assert_eq!(tally(&world, "x/a", Tcp(80), 4), [4, 4]);
    // New connections are judged by the endpoint that is left, and the old ones with them.
    world.edit(&egress("a", 8080));
    assert_eq!(tally(&world, "x/a", Tcp(80), 4), [0, 0]);
    for stream in &mut streams {
        stream.set_read_timeout(Some(ONCE[0])).unwrap();
        stream.write_all(b"ping").unwrap();
        assert!(stream.read_exact(&mut [0; 4]).is_err());
    }
}

#[test]
fn s36_a_denied_backend_on_the_own_node_denies_the_service() {
    // Behind translation, what is for the node itself meets no program any more.
    let objects = service("[172.40.0.1]", "['fd00:172:40::1']");
    let mut parts = objects.split("]\n---");
    let (v4, v6) = (parts.next().unwrap(), parts.next().unwrap());
    let ready = "conditions: {ready: true}}]\n---";
    let objects = format!(
        "{v4}, {{addresses: [10.40.1.12], {ready}{v6}, {{addresses: ['fd00:40:1::12'], {ready}"
    );
    let world = with(objects, &egress("a", 8080));
    let to_pod: [&[&str]; 2] = [&["10.40.1.12:8080"], &["fd00:40:1::12:8080"]];
    let to_node: [&[&str]; 2] = [&["172.40.0.1:8080"], &["fd00:172:40::1:8080"]];
    for backends in [to_pod, to_node] {
        translate(&world, "n1", backends, "");
        assert_eq!(tally(&world, "x/a", Tcp(80), 4), [0, 0], "{backends:?}");
    }
    // With the node admitted, too, the endpoints fare alike.
    let node = "{to: [{ipBlock: {cidr: 172.40.0.1/32}}, {ipBlock: {cidr: 'fd00:172:40::1/128'}}]}";
    world.edit(&egress("a", 8080).replace("egress: [", &format!("egress: [{node}, ")));
    for backends in [to_pod, to_node] {
        translate(&world, "n1", backends, "");
        assert_eq!(tally(&world, "x/a", Tcp(80), 4), [4, 4], "{backends:?}");
    }
}

/// Backends that are only audited are reached, those beside them as well.
#[test]
fn s73_audit_of_a_policy_leaves_services_alone() {
    let world = with(both(), &audited(&egress("a", 8080)));
    for masquerade in [
        "",
        "ip daddr 10.40.0.0/16 ct status dnat masquerade; ip6 daddr fd00:40::/32 ct status dnat masquerade",
    ] {
        translate(&world, "n1", BOTH, masquerade);
        for app in ["a", "b", "nobody"] {
            world.edit(&audited(&egress(app, 8080)));
            assert_eq!(tally(&world, "x/a", Tcp(80), 20), [20, 20], "{app}");
        }
        world.edit(&egress("a", 8080));
        assert_eq!(tally(&world, "x/a", Tcp(80), 20), [10, 10], "{masquerade}");
    }
}

#[test]
fn s33_a_headless_service_is_its_pods() {
    let headless = SERVICE.replace(
        "clusterIPs: [10.96.0.1, 'fd00:96::1']",
        "clusterIPs: [None]",
    );
    let world = with(headless, &egress("b", 8080));
    // Resolvers hand out the pods' own addresses and ports.
    world.allows("x/a", "y/b", &[Tcp(8080)]);
    world.denies("x/a", "y/b", &[Tcp(80)]);
    world.denies("x/a", "y/a", &[Tcp(8080)]);
}
