// SPDX-License-Identifier: Apache-2.0
//! Services behind the rules that kube-proxy's iptables mode writes, with either iptables: scenarios 30
//! and 33 once more, with every kind of address a Service may have, session affinity, and UDP.
//!
//! Rules choose endpoints at random, so what is compared is not a share of connections but the rules' own
//! counters: what went to an endpoint that policy admits got through, and nothing else did.

use std::{
    fmt::Write as _,
    io::Write as _,
    net::{IpAddr, SocketAddr},
    process::{Command, Stdio},
    time::Duration,
};

use agent::demo::{
    plan::{Probe, Transport},
    probe::{Measured, measure},
};
use ipnet::IpNet;

use crate::world::{Plan, Tcp, Udp, World, policy};

/// Shorter than the first retransmission of a SYN, which would be translated anew.
const ONCE: [Duration; 1] = [Duration::from_millis(800)];

/// Both implementations of the command.
const FLAVOURS: [&str; 2] = ["legacy", "nft"];

/// Connections to an address of a Service with two endpoints.
const MANY: usize = 10;

/// Endpoints on the sender's node and on the other, by family.
const BACKENDS: [[&str; 2]; 2] = [
    ["10.40.1.12", "10.40.2.11"],
    ["fd00:40:1::12", "fd00:40:2::11"],
];

/// Cluster address, external address, address of a load balancer.
const ADDRESSES: [[&str; 3]; 2] = [
    ["10.96.0.7", "198.51.100.7", "198.51.100.8"],
    ["fd00:96::7", "2001:db8:7::7", "2001:db8:7::8"],
];

/// Addresses of node n1, and what its pods are in.
const NODE: [&str; 2] = ["172.40.0.1", "fd00:172:40::1"];
const PODS: [&str; 2] = ["10.40.0.0/16", "fd00:40::/32"];

const NODE_PORT: u16 = 30_080;

fn family(v6: bool) -> usize {
    usize::from(v6)
}

/// The Service that [`rules`] are for, with TCP and UDP on port 80 of all addresses and on the node port.
fn service() -> String {
    let list = |index: usize| {
        format!(
            "'{}', '{}'",
            ADDRESSES[family(false)][index],
            ADDRESSES[family(true)][index]
        )
    };
    let mut text = format!(
        "
apiVersion: v1
kind: Service
metadata: {{namespace: 'y', name: shop}}
spec:
  type: LoadBalancer
  clusterIPs: [{}]
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: RequireDualStack
  externalIPs: [{}]
  ports:
  - {{name: tcp, port: 80, targetPort: 8080, nodePort: {NODE_PORT}}}
  - {{name: udp, port: 80, targetPort: 81, protocol: UDP, nodePort: {NODE_PORT}}}
status: {{loadBalancer: {{ingress: [{{ip: {}}}, {{ip: '{}'}}]}}}}
---",
        list(0),
        list(1),
        ADDRESSES[family(false)][2],
        ADDRESSES[family(true)][2],
    );
    for (v6, kind) in [(false, "IPv4"), (true, "IPv6")] {
        let [near, far] = BACKENDS[family(v6)];
        write!(
            text,
            "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{namespace: 'y', name: shop-{}, labels: {{kubernetes.io/service-name: shop}}}}
addressType: {kind}
ports: [{{name: tcp, port: 8080, protocol: TCP}}, {{name: udp, port: 81, protocol: UDP}}]
endpoints: [{{addresses: ['{near}'], conditions: {{ready: true}}}}, {{addresses: ['{far}'], conditions: {{ready: true}}}}]
---",
            kind.to_lowercase()
        )
        .unwrap();
    }
    text
}

/// The rules of one family, as kube-proxy writes them; `sticky` is `sessionAffinity: ClientIP`.
fn rules(v6: bool, sticky: bool) -> String {
    let mut text = String::from(
        "*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
",
    );
    let pods = PODS[family(v6)];
    let mut chains = String::new();
    let mut add = |line: &str| writeln!(chains, "-A {line}").unwrap();
    add("PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES");
    add("OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES");
    add("POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING");
    add("KUBE-MARK-MASQ -j MARK --or-mark 0x4000");
    add("KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN");
    add("KUBE-POSTROUTING -j MARK --xor-mark 0x4000");
    add("KUBE-POSTROUTING -j MASQUERADE --random-fully");
    for (protocol, target) in [("tcp", 8080), ("udp", 81)] {
        let name = protocol.to_uppercase();
        let matches = format!("-p {protocol} -m {protocol} --dport");
        let [cluster, external, balancer] = ADDRESSES[family(v6)];
        write!(text, ":KUBE-SVC-{name} - [0:0]\n:KUBE-EXT-{name} - [0:0]\n").unwrap();
        add(&format!(
            "KUBE-SERVICES -d {cluster} {matches} 80 -j KUBE-SVC-{name}"
        ));
        for address in [external, balancer] {
            add(&format!(
                "KUBE-SERVICES -d {address} {matches} 80 -j KUBE-EXT-{name}"
            ));
        }
        add(&format!(
            "KUBE-NODEPORTS {matches} {NODE_PORT} -j KUBE-EXT-{name}"
        ));
        add(&format!("KUBE-EXT-{name} -s {pods} -j KUBE-SVC-{name}"));
        add(&format!("KUBE-EXT-{name} -j KUBE-MARK-MASQ"));
        add(&format!("KUBE-EXT-{name} -j KUBE-SVC-{name}"));
        add(&format!(
            "KUBE-SVC-{name} ! -s {pods} -d {cluster} {matches} 80 -j KUBE-MARK-MASQ"
        ));
        let endpoints = BACKENDS[family(v6)];
        for i in 0..endpoints.len() {
            if sticky {
                add(&format!(
                    "KUBE-SVC-{name} -m recent --name KUBE-SEP-{name}{i} --rcheck --seconds 10800 --reap --rsource -j KUBE-SEP-{name}{i}"
                ));
            }
        }
        for (i, endpoint) in endpoints.into_iter().enumerate() {
            let choice = if i + 1 < endpoints.len() {
                "-m statistic --mode random --probability 0.5 "
            } else {
                ""
            };
            let remember = if sticky {
                format!("-m recent --name KUBE-SEP-{name}{i} --set --rsource ")
            } else {
                String::new()
            };
            let to = SocketAddr::new(endpoint.parse().unwrap(), target);
            writeln!(text, ":KUBE-SEP-{name}{i} - [0:0]").unwrap();
            add(&format!("KUBE-SVC-{name} {choice}-j KUBE-SEP-{name}{i}"));
            add(&format!(
                "KUBE-SEP-{name}{i} -s {endpoint} -j KUBE-MARK-MASQ"
            ));
            add(&format!(
                "KUBE-SEP-{name}{i} -p {protocol} {remember}-m {protocol} -j DNAT --to-destination {to}"
            ));
        }
    }
    add("KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS");
    text + &chains + "COMMIT\n"
}

/// The command of a flavour and family: `iptables-nft-save` and the like.
fn command(flavour: &str, v6: bool, what: &str) -> Command {
    let tables = if v6 { "ip6tables" } else { "iptables" };
    Command::new(format!("{tables}-{flavour}-{what}"))
}

/// Loads rules on node n1 in the place of whatever is in the table.
#[track_caller]
fn restore(world: &World, flavour: &str, v6: bool, rules: &str) {
    let output = world.namespace("node:n1").run(|| {
        let mut child = command(flavour, v6, "restore")
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().unwrap().write_all(rules.as_bytes())?;
        child.wait_with_output()
    });
    let output = output.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
}

/// Connections that the rules have sent to each endpoint.
fn chosen(world: &World, flavour: &str, v6: bool, transport: Transport) -> [usize; 2] {
    let output = world.namespace("node:n1").run(|| {
        command(flavour, v6, "save")
            .args(["-c", "-t", "nat"])
            .output()
    });
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let name = if matches!(transport, Tcp(_)) {
        "TCP"
    } else {
        "UDP"
    };
    [0, 1].map(|i| {
        let rule = text.lines().find(|line| {
            line.contains(&format!("-A KUBE-SEP-{name}{i} ")) && line.contains("DNAT")
        });
        let (packets, _) = rule.unwrap()[1..].split_once(':').unwrap();
        packets.parse().unwrap()
    })
}

/// How many of `count` probes from x/a to each address got through.
fn passed(world: &World, to: &[(&str, Transport)], count: usize) -> Vec<usize> {
    let probes = to.iter().flat_map(|(address, transport)| {
        let to: IpAddr = address.parse().unwrap();
        let from = world.addresses("x/a").into_iter();
        let mut from = from.filter(|from| from.is_ipv4() == to.is_ipv4());
        let probe = Probe {
            source: 0,
            destination: 0,
            from: from.next().unwrap(),
            to,
            transport: *transport,
        };
        vec![probe; count]
    });
    let probes: Vec<Probe> = probes.collect();
    world.new_source_ports("x/a");
    let measured = measure(world.namespace("x/a"), &probes, &ONCE).unwrap();
    let broken = measured.iter().find(|m| matches!(m, Measured::Broken(_)));
    assert_eq!(broken, None);
    let passed = |seen: &[Measured]| seen.iter().filter(|m| **m == Measured::Allow).count();
    measured.chunks(count).map(passed).collect()
}

/// Egress of x/a to this pod of namespace y, and to the node's own addresses, which are none of the
/// Service's business.
fn egress(app: &str) -> String {
    policy(
        "egress",
        &format!(
            "{{podSelector: {{matchLabels: {{app: a}}}}, policyTypes: [Egress], egress: [
               {{to: [{{namespaceSelector: {{matchLabels: {{team: 'y'}}}}, podSelector: {{matchLabels: {{app: {app}}}}}}}]}},
               {{to: [{{ipBlock: {{cidr: 172.40.0.0/24}}}}, {{ipBlock: {{cidr: 'fd00:172:40::/64'}}}}]}}]}}"
        ),
    )
}

#[test]
fn s30_s33_every_address_of_a_service_is_its_backend() {
    let world = World::with(Plan {
        policies: egress("a"),
        objects: service(),
        ..Plan::default()
    });
    for flavour in FLAVOURS {
        for (app, admitted) in [("a", Some(0)), ("b", Some(1)), ("nobody", None)] {
            world.edit(&egress(app));
            for v6 in [false, true] {
                let [cluster, external, balancer] = ADDRESSES[family(v6)];
                let places = [
                    (cluster, 80),
                    (external, 80),
                    (balancer, 80),
                    (NODE[family(v6)], NODE_PORT),
                ];
                restore(&world, flavour, v6, &rules(v6, false));
                for transport in [Tcp, Udp] {
                    let probes = places.map(|(address, port)| (address, transport(port)));
                    let passed: usize = passed(&world, &probes, MANY).iter().sum();
                    let chosen = chosen(&world, flavour, v6, transport(80));
                    let what = format!("{flavour} {:?} {app}: {chosen:?}", transport(80));
                    match admitted {
                        // Whatever is denied as a whole is dropped before it is translated.
                        None => assert_eq!((passed, chosen), (0, [0, 0]), "{what}"),
                        Some(i) => {
                            let all = MANY * places.len();
                            assert_eq!(chosen.iter().sum::<usize>(), all, "{what}");
                            assert!(!chosen.contains(&0), "{what}");
                            assert_eq!(passed, chosen[i], "{what}");
                        }
                    }
                }
            }
        }
        for v6 in [false, true] {
            restore(&world, flavour, v6, "*nat\nCOMMIT\n");
        }
    }
}

#[test]
fn s30_with_session_affinity_all_connections_fare_alike() {
    let world = World::with(Plan {
        policies: egress("b"),
        objects: service(),
        ..Plan::default()
    });
    for v6 in [false, true] {
        restore(&world, "legacy", v6, &rules(v6, true));
        let to = [(ADDRESSES[family(v6)][0], Tcp(80))];
        // One to be remembered by, then many: which one it is the rules decided at random.
        let first = passed(&world, &to, 1)[0];
        let rest = passed(&world, &to, MANY)[0];
        assert_eq!(rest, first * MANY);
        let chosen = chosen(&world, "legacy", v6, Tcp(80));
        assert_eq!(chosen, [(1 - first) * (MANY + 1), first * (MANY + 1)]);
    }
}

/// A port of the node that the portmap plugin translates to a pod on it.
fn host_port(node: &str, pod: &str) -> String {
    let net = IpNet::from(node.parse::<IpAddr>().unwrap());
    let to = SocketAddr::new(pod.parse().unwrap(), 8080);
    format!(
        "*nat
:CNI-HOSTPORT-DNAT - [0:0]
:CNI-DN-WEB - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment \"dnat name\" -m multiport --dports 8443 -j CNI-DN-WEB
-A CNI-DN-WEB -d {net} -p tcp -m tcp --dport 8443 -j DNAT --to-destination {to}
COMMIT
"
    )
}

#[test]
fn s33_a_host_port_is_its_pod() {
    let pod = "
apiVersion: v1
kind: Pod
metadata: {namespace: 'y', name: front, labels: {app: front}}
spec:
  nodeName: n1
  containers: [{name: c, image: i, ports: [{containerPort: 8080, hostPort: 8443}]}]
status: {phase: Running, podIPs: [{ip: 10.40.1.90}, {ip: 'fd00:40:1::90'}]}
---";
    let world = World::with(Plan {
        policies: egress("front"),
        objects: pod.to_owned(),
        ..Plan::default()
    });
    for (v6, pod) in [(false, "10.40.1.90"), (true, "fd00:40:1::90")] {
        restore(&world, "nft", v6, &host_port(NODE[family(v6)], pod));
    }
    world.allows("x/a", "node:n1", &[Tcp(8443)]);
    // The node's address is admitted, the pod behind the port is not.
    world.edit(&egress("nobody"));
    world.denies("x/a", "node:n1", &[Tcp(8443)]);
    world.allows("x/a", "node:n1", &[Tcp(80)]);
}
