// SPDX-License-Identifier: Apache-2.0
//! Real packets between network namespaces.
//!
//! ```text
//!  x/a eth0 ──veth──┐
//!  y/a eth0 ──veth──┤ node ──veth── outside
//!  y/c eth0 ──veth──┘
//! ```

use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use agent::{
    datapath::{Attachment, Datapath, Hook, Options, Origin},
    net::{Netlink, Netns, Route},
};
use ipnet::IpNet;
use policy_compiler::{
    compile::{Scope, compile},
    lower::{Capacity, Image, Reasons, lower},
};

use super::lab::{Root, cluster, fresh_root, key, may_run};

const GATEWAY4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// How long an attempt that must fail is given: longer than any that succeeds takes here.
const PATIENCE: Duration = Duration::from_millis(400);

const X_A: [&str; 2] = ["10.0.1.1", "fd00:1::1"];
const Y_A: [&str; 2] = ["10.0.2.1", "fd00:2::1"];
const Y_C: [&str; 2] = ["10.0.2.3", "fd00:2::3"];
const OUTSIDE: [&str; 2] = ["203.0.113.9", "2001:db8::9"];
const NODE: [&str; 2] = ["192.168.0.1", "fd00:c::1"];

/// A node with three pods and the world behind its uplink.
struct Wire {
    node: Netns,
    ends: BTreeMap<&'static str, Netns>,
    ifindex: BTreeMap<&'static str, u32>,
    uplink: u32,
    datapath: Datapath,
    options: Options,
    reasons: Reasons,
    names: Vec<String>,
    _root: Root,
}

impl Wire {
    fn new(attachment: Attachment) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut names = Vec::new();
        let mut namespace = |what: &str| {
            let name = format!("dpw-{}-{number}-{what}", std::process::id());
            let namespace = Netns::create("/run/netns".as_ref(), &name).unwrap();
            names.push(name);
            for (key, value) in [
                ("ipv4/conf/all/rp_filter", "0"),
                ("ipv4/conf/default/rp_filter", "0"),
                ("ipv6/conf/all/accept_dad", "0"),
                ("ipv6/conf/default/accept_dad", "0"),
                ("ipv4/ping_group_range", "0 2147483647"),
            ] {
                namespace.set_sysctl(key, value).unwrap();
            }
            let links = Netlink::open(&namespace).unwrap();
            let loopback = links.link_named("lo").unwrap().unwrap();
            links.set_up(loopback.index).unwrap();
            namespace
        };
        let node = namespace("node");
        for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            node.set_sysctl(key, "1").unwrap();
        }
        let links = Netlink::open(&node).unwrap();
        let loopback = links.link_named("lo").unwrap().unwrap();
        for address in NODE {
            links
                .add_address(loopback.index, IpNet::from(parse(address)))
                .unwrap();
        }
        let mut ends = BTreeMap::new();
        let mut ifindex = BTreeMap::new();
        for (i, (name, addresses)) in [
            ("x/a", X_A),
            ("y/a", Y_A),
            ("y/c", Y_C),
            ("outside", OUTSIDE),
        ]
        .into_iter()
        .enumerate()
        {
            let end = namespace(&format!("end{i}"));
            let near = connect(&links, &format!("v{i}"), &end, addresses);
            ends.insert(name, end);
            ifindex.insert(name, near);
        }
        let uplink = ifindex.remove("outside").unwrap();
        let root = fresh_root();
        let options = Options {
            root: root.path.clone(),
            flows: 4096,
            attachment: Some(attachment),
            ..Options::default()
        };
        let datapath = node
            .run(|| {
                let mut datapath = Datapath::open(&options).map_err(io::Error::other)?;
                for (pod, index) in &ifindex {
                    datapath
                        .add(*index, Origin::New)
                        .and_then(|()| datapath.bind(*index, &key(pod)))
                        .map_err(io::Error::other)?;
                }
                Ok(datapath)
            })
            .unwrap();
        Self {
            node,
            ends,
            ifindex,
            uplink,
            datapath,
            options,
            reasons: Reasons::default(),
            names,
            _root: root,
        }
    }

    fn image(&mut self, policies: &str) -> Image {
        let tables = compile(&cluster(policies), &Scope::Node("n1".into()));
        lower(&tables, &Capacity::default(), &mut self.reasons).unwrap()
    }

    fn apply(&mut self, policies: &str) {
        let image = self.image(policies);
        self.datapath.publish(&image).unwrap();
    }

    fn end(&self, name: &str) -> &Netns {
        if name == "node" {
            &self.node
        } else {
            &self.ends[name]
        }
    }

    /// Whether a TCP connection from one end gets an echo from a server at another.
    fn tcp(&self, from: &str, to: (&str, &str), port: u16) -> bool {
        let listener = self.listen(to.0, to.1, port);
        self.connects(from, &listener, SocketAddr::new(parse(to.1), port))
    }

    fn listen(&self, at: &str, address: &str, port: u16) -> TcpListener {
        let address = SocketAddr::new(parse(address), port);
        self.end(at).run(|| TcpListener::bind(address)).unwrap()
    }

    /// Whether a connection to `address` reaches `listener` and gets its echo.
    fn connects(&self, from: &str, listener: &TcpListener, address: SocketAddr) -> bool {
        let client = self
            .end(from)
            .run(|| TcpStream::connect_timeout(&address, PATIENCE));
        let Ok(mut client) = client else { return false };
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"ping").unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut bytes = [0; 4];
        server.read_exact(&mut bytes).is_ok()
            && server.write_all(&bytes).is_ok()
            && client.read_exact(&mut bytes).is_ok()
    }

    /// Whether a datagram of `size` bytes from one end gets its echo from another.
    fn udp(&self, from: &str, to: (&str, &str), port: u16, size: usize) -> bool {
        let address = SocketAddr::new(parse(to.1), port);
        let server = self.end(to.0).run(|| UdpSocket::bind(address)).unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let client = self.end(from).run(|| connected(address)).unwrap();
        client.send(&vec![1; size]).unwrap();
        let mut bytes = vec![0; 65_536];
        let Ok((length, peer)) = server.recv_from(&mut bytes) else {
            return false;
        };
        server.send_to(&bytes[..length], peer).unwrap();
        client.recv(&mut bytes).is_ok_and(|length| length == size)
    }

    /// Whether an echo request is answered.
    fn ping(&self, from: &str, to: &str) -> bool {
        let timeout = format!("{}", PATIENCE.as_secs_f32());
        let output = self
            .end(from)
            .run(|| {
                Command::new("ping")
                    .args(["-c", "1", "-W", &timeout, to])
                    .output()
            })
            .expect("ping");
        output.status.success()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for name in &self.names {
            let removed = Netns::remove("/run/netns".as_ref(), name);
            if !std::thread::panicking() {
                removed.unwrap();
            }
        }
    }
}

fn parse(address: &str) -> IpAddr {
    address.parse().unwrap()
}

/// A UDP socket that waits no longer than an answer takes.
fn connected(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(to)?;
    Ok(socket)
}

/// Joins `far` to the node as the ptp plugin does; returns the index of the node's side.
fn connect(links: &Netlink, name: &str, far: &Netns, addresses: [&str; 2]) -> u32 {
    links.add_veth(name, "eth0", far).unwrap();
    let near = links.link_named(name).unwrap().unwrap().index;
    let inside = Netlink::open(far).unwrap();
    let eth0 = inside.link_named("eth0").unwrap().unwrap().index;
    links
        .add_address(near, IpNet::from(IpAddr::V4(GATEWAY4)))
        .unwrap();
    links
        .add_address(near, IpNet::new(GATEWAY6.into(), 64).unwrap())
        .unwrap();
    for address in addresses {
        inside
            .add_address(eth0, IpNet::from(parse(address)))
            .unwrap();
    }
    links.set_up(near).unwrap();
    inside.set_up(eth0).unwrap();
    for (address, node) in addresses.into_iter().zip(NODE) {
        links
            .add_route(Route {
                to: IpNet::from(parse(address)),
                via: None,
                device: near,
                source: Some(parse(node)),
            })
            .unwrap();
    }
    for (to, via) in [
        ("0.0.0.0/0", IpAddr::V4(GATEWAY4)),
        ("::/0", GATEWAY6.into()),
    ] {
        inside
            .add_route(Route {
                to: to.parse().unwrap(),
                via: Some(via),
                device: eth0,
                source: None,
            })
            .unwrap();
    }
    near
}

/// Runs a test on both attachments.
fn on_both(test: impl Fn(&mut Wire)) {
    if !may_run() {
        return;
    }
    for attachment in [Attachment::Tcx, Attachment::Clsact] {
        test(&mut Wire::new(attachment));
    }
}

/// TCP and UDP 80 in from namespace y, TCP 443 and UDP 53 out.
const POLICY: &str = "
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p, namespace: x}, spec: {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{namespaceSelector: {matchLabels: {team: blue}}}], ports: [{port: 80}, {port: 80, protocol: UDP}]}], egress: [{ports: [{port: 443}, {port: 53, protocol: UDP}]}]}}
";

#[test]
fn what_policies_say_is_what_arrives() {
    on_both(|wire| {
        wire.apply(POLICY);
        for family in 0..2 {
            let x_a = ("x/a", X_A[family]);
            let y_a = ("y/a", Y_A[family]);
            let outside = ("outside", OUTSIDE[family]);
            assert!(wire.tcp("y/a", x_a, 80));
            assert!(!wire.tcp("y/a", x_a, 81));
            assert!(!wire.tcp("outside", x_a, 80));
            assert!(wire.tcp("x/a", outside, 443));
            assert!(wire.tcp("x/a", y_a, 443));
            assert!(!wire.tcp("x/a", outside, 80));
            assert!(wire.tcp("outside", y_a, 9));
            assert!(wire.udp("y/a", x_a, 80, 10));
            assert!(!wire.udp("y/a", x_a, 53, 10));
            assert!(wire.udp("x/a", outside, 53, 10));
            assert!(!wire.udp("x/a", outside, 80, 10));
            // Fragmented both ways.
            assert!(wire.udp("x/a", outside, 53, 4000));
            assert!(!wire.udp("x/a", outside, 80, 4000));
            assert!(wire.udp("y/a", x_a, 80, 4000));
            assert!(!wire.ping("x/a", OUTSIDE[family]));
            assert!(!wire.ping("y/a", X_A[family]));
            assert!(wire.ping("y/a", OUTSIDE[family]));
            // The node reaches its pods, and they answer it.
            assert!(wire.tcp("node", x_a, 4000));
            assert!(wire.udp("node", x_a, 4000, 10));
            assert!(wire.ping("node", X_A[family]));
            assert!(!wire.tcp("x/a", ("node", NODE[family]), 4000));
        }
    });
}

#[test]
fn nothing_is_dropped_while_tables_change() {
    on_both(|wire| {
        // Two tables that differ, and both admit UDP 80 from y to x/a.
        let images = [
            wire.image(POLICY),
            wire.image(&POLICY.replace("{port: 443}", "{port: 444}, {port: 445}")),
        ];
        wire.datapath.publish(&images[0]).unwrap();
        let address = SocketAddr::new(parse(X_A[0]), 80);
        let server = wire.end("x/a").run(|| UdpSocket::bind(address)).unwrap();
        let client = wire.end("y/a").run(|| connected(address)).unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let done = AtomicBool::new(false);
        let (rounds, flips) = std::thread::scope(|scope| {
            let traffic = scope.spawn(|| {
                let mut rounds = 0_u32;
                let mut bytes = [0; 4];
                while !done.load(Ordering::Relaxed) {
                    client.send(&rounds.to_ne_bytes()).unwrap();
                    let (_, peer) = server.recv_from(&mut bytes).expect("request");
                    server.send_to(&bytes, peer).unwrap();
                    client.recv(&mut bytes).expect("reply");
                    assert_eq!(u32::from_ne_bytes(bytes), rounds);
                    rounds += 1;
                }
                rounds
            });
            let mut flips = 0;
            while flips < 100 && !traffic.is_finished() {
                flips += 1;
                wire.datapath.publish(&images[flips % 2]).unwrap();
            }
            done.store(true, Ordering::Relaxed);
            (traffic.join().expect("no packet is lost"), flips)
        });
        assert_eq!(flips, 100);
        assert!(rounds > 100, "{rounds} round trips");
    });
}

#[test]
fn connections_outlive_the_agent() {
    on_both(|wire| {
        wire.apply(POLICY);
        let listener = wire.listen("x/a", X_A[0], 80);
        let address = SocketAddr::new(parse(X_A[0]), 80);
        let mut client = wire.end("y/a").run(|| TcpStream::connect(address)).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let mut talk = || {
            let mut bytes = [0; 2];
            client.write_all(b"hi").unwrap();
            server.read_exact(&mut bytes).unwrap();
            server.write_all(&bytes).unwrap();
            client.read_exact(&mut bytes).unwrap();
        };
        talk();
        // The agent is gone, as after kill -9; the next one finds everything in place.
        let options = wire.options.clone();
        wire.datapath = wire
            .node
            .run(|| Datapath::open(&options).map_err(io::Error::other))
            .unwrap();
        talk();
        assert!(!wire.tcp("y/a", ("x/a", X_A[0]), 81));
        for (pod, index) in &wire.ifindex {
            wire.datapath.bind(*index, &key(pod)).unwrap();
        }
        talk();
        wire.apply(POLICY);
        talk();
        assert!(!wire.tcp("y/a", ("x/a", X_A[0]), 81));
    });
}

/// A Service of two pods and an address outside, of which x/a may reach some.
const SERVICE: &str = "
{apiVersion: v1, kind: Service, metadata: {name: s, namespace: 'y'}, spec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], ports: [{name: p, port: 80, targetPort: 8080, protocol: TCP}, {name: q, port: 81, targetPort: 8080, protocol: TCP}, {name: r, port: 82, targetPort: 8080, protocol: TCP}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s-p, namespace: 'y', labels: {kubernetes.io/service-name: s}}, addressType: IPv4, ports: [{name: p, port: 8080, protocol: TCP}], endpoints: [{addresses: [10.0.2.1]}, {addresses: [10.0.2.3]}, {addresses: [203.0.113.9]}]}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s-q, namespace: 'y', labels: {kubernetes.io/service-name: s}}, addressType: IPv4, ports: [{name: q, port: 8080, protocol: TCP}], endpoints: [{addresses: [10.0.2.1]}]}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s-r, namespace: 'y', labels: {kubernetes.io/service-name: s}}, addressType: IPv4, ports: [{name: r, port: 8080, protocol: TCP}], endpoints: [{addresses: [10.0.2.3]}]}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: out, namespace: x}, spec: {podSelector: {}, policyTypes: [Ingress, Egress], egress: [{to: [{namespaceSelector: {matchLabels: {team: blue}}, podSelector: {matchLabels: {app: a}}}], ports: [{port: 8080}]}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: in, namespace: 'y'}, spec: {podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchLabels: {team: red}}}]}]}}
";

#[test]
fn a_service_is_judged_at_its_backend() {
    on_both(|wire| {
        let uplink = wire.uplink;
        let datapath = &mut wire.datapath;
        wire.node
            .run(|| {
                datapath
                    .cover(Hook::ToAny, uplink)
                    .map_err(io::Error::other)
            })
            .unwrap();
        wire.apply(SERVICE);
        for masquerade in [false, true] {
            for (backend, address, port, expected) in [
                // Backends fare differently: each by itself.
                ("y/a", Y_A[0], 80, true),
                ("y/c", Y_C[0], 80, false),
                ("outside", OUTSIDE[0], 80, false),
                // One backend, decided at once.
                ("y/a", Y_A[0], 81, true),
                ("y/c", Y_C[0], 82, false),
            ] {
                translate(&wire.node, port, address, masquerade);
                let listener = wire.listen(backend, address, 8080);
                let service = SocketAddr::new(parse("10.96.0.1"), port);
                let reached = wire.connects("x/a", &listener, service);
                assert_eq!(reached, expected, "{backend} by {port}, {masquerade}");
            }
        }
        // The port of the Service means nothing.
        assert!(wire.tcp("x/a", ("y/a", Y_A[0]), 8080));
        assert!(!wire.tcp("x/a", ("y/a", Y_A[0]), 80));
    });
}

/// Translates the Service's address to one backend, as kube-proxy does with nftables.
fn translate(node: &Netns, port: u16, backend: &str, masquerade: bool) {
    let masquerade = if masquerade {
        "ct status dnat masquerade"
    } else {
        ""
    };
    let rules = format!(
        "table ip t\ndelete table ip t\ntable ip t {{\n\
         chain pre {{ type nat hook prerouting priority dstnat; ip daddr 10.96.0.1 tcp dport {port} dnat to {backend}:8080; }}\n\
         chain post {{ type nat hook postrouting priority srcnat; {masquerade}; }}\n}}\n"
    );
    let rules = rules.replace("; ; }", "; }");
    node.run(|| {
        let mut nft = Command::new("nft")
            .args(["-f", "-"])
            .stdin(std::process::Stdio::piped())
            .spawn()?;
        nft.stdin
            .take()
            .map_or(Ok(()), |mut input| input.write_all(rules.as_bytes()))?;
        let status = nft.wait()?;
        status
            .success()
            .then_some(())
            .ok_or_else(|| io::Error::other("nft"))
    })
    .unwrap();
}
