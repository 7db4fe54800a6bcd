// SPDX-License-Identifier: Apache-2.0
//! What do rule sets of netfilter look like that enforce the same policy?
//!
//! The shapes, not the programs: what a packet has to walk through under the layout of chains that
//! kube-router makes (a jump per pod and direction, a chain per pod that asks connection tracking
//! first, a chain per policy, address sets for peers and targets, marks for the verdict), and under the
//! best that one could write by hand (connection tracking, then a single set lookup).

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    net::Ipv4Addr,
    process::{Command, Stdio},
};

use agent::net::Netns;
use anyhow::{Context as _, Result, bail};

use super::world::{ALLOWED, CLIENT, SERVER};

/// Pods of the node; the two that talk are in the middle.
const PODS: u32 = 110;
/// Where they are in the order of rules.
const PLACE: u32 = PODS / 2;
/// Addresses in each set of peers and targets.
const SET: u32 = 100;

/// What `accept` is told by: the policy chain says yes to one direction, the pod chain to the packet.
const MATCHED: &str = "0x10000";
const ACCEPTED: &str = "0x20000";

/// Connection tracking in the path and no policy: what a cluster with kube-proxy has anyway.
pub(crate) fn tracked(router: &Netns) -> Result<()> {
    let rules = "
table ip bench {
  chain forward {
    type filter hook forward priority 0; policy accept;
    ct state established,related accept
  }
}
";
    feed(router, &["nft", "-f", "-"], rules)
}

/// One set of (source, destination, protocol, port) with this many elements, behind connection
/// tracking.
pub(crate) fn ideal(router: &Netns, elements: u32) -> Result<()> {
    let mut rules = String::from(
        "table ip bench {
  set flows {
    type ipv4_addr . ipv4_addr . inet_proto . inet_service
    elements = {
",
    );
    for protocol in ["tcp", "udp"] {
        let _ = writeln!(rules, "{CLIENT} . {SERVER} . {protocol} . {ALLOWED},");
    }
    for element in 2..elements {
        let [from, to] = [element, element.rotate_left(7)].map(|seed| stranger(seed, 0));
        let _ = writeln!(rules, "{from} . {to} . tcp . {},", 8000 + element % 200);
    }
    rules += "}
  }
  chain forward {
    type filter hook forward priority 0; policy drop;
    ct state established,related accept
    ip saddr . ip daddr . meta l4proto . th dport @flows accept
  }
}
";
    feed(router, &["nft", "-f", "-"], &rules)
}

/// Connection tracking, and a program in user space that is asked about every new flow.
pub(crate) fn queued(router: &Netns, queue: u16) -> Result<()> {
    let rules = format!(
        "*filter
:FORWARD ACCEPT [0:0]
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -j NFQUEUE --queue-num {queue}
COMMIT
"
    );
    feed(router, &iptables(), &rules)
}

/// kube-router's layout in iptables and ipset, with this many policies for each of the two pods.
pub(crate) fn kube_router_iptables(router: &Netns, policies: u32) -> Result<()> {
    let mut sets = String::new();
    let mut heads = String::from(
        "*filter
:FORWARD ACCEPT [0:0]
:PODS - [0:0]
",
    );
    let mut rules = format!(
        "-A FORWARD -j PODS
-A FORWARD -m mark --mark {ACCEPTED}/{ACCEPTED} -j ACCEPT
"
    );
    for index in 0..PODS {
        let address = pod(index);
        let chain = format!("POD-{index}");
        let _ = writeln!(heads, ":{chain} - [0:0]");
        let _ = write!(
            rules,
            "-A PODS -d {address} -j {chain}
-A PODS -s {address} -j {chain}
-A {chain} -m conntrack --ctstate INVALID -j DROP
-A {chain} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A {chain} -d {address} -m addrtype --src-type LOCAL -j ACCEPT
"
        );
        for policy in policies_of(index, policies) {
            let Policy { name, from, to, .. } = &policy;
            let _ = writeln!(heads, ":{name} - [0:0]");
            for (set, addresses) in [("f", from), ("t", to)] {
                let _ = writeln!(sets, "create {name}-{set} hash:ip");
                for address in addresses {
                    let _ = writeln!(sets, "add {name}-{set} {address}");
                }
            }
            for protocol in ["tcp", "udp"] {
                let _ = writeln!(
                    rules,
                    "-A {name} -p {protocol} -m set --match-set {name}-f src -m set --match-set {name}-t dst \
                     -m {protocol} --dport {} -j MARK --set-xmark {MATCHED}/{MATCHED}",
                    policy.port
                );
            }
            let _ = write!(
                rules,
                "-A {name} -m mark --mark {MATCHED}/{MATCHED} -j RETURN
-A {chain} -j {name}
"
            );
        }
        let unmatched = format!("-m mark ! --mark {MATCHED}/{MATCHED}");
        let _ = write!(
            rules,
            "-A {chain} {unmatched} -m limit --limit 10/minute --limit-burst 10 -j NFLOG --nflog-group 100
-A {chain} {unmatched} -j REJECT --reject-with icmp-port-unreachable
-A {chain} -j MARK --set-xmark 0x0/{MATCHED}
-A {chain} -j MARK --set-xmark {ACCEPTED}/{ACCEPTED}
"
        );
    }
    feed(router, &["ipset", "restore"], &sets)?;
    feed(router, &iptables(), &format!("{heads}{rules}COMMIT\n"))
}

/// The same layout in nftables.
pub(crate) fn kube_router_nftables(router: &Netns, policies: u32) -> Result<()> {
    let clear = "0xfffeffff";
    let mut rules = String::from("table ip bench {\n");
    let mut jumps = String::new();
    for index in 0..PODS {
        let address = pod(index);
        let mut chain = format!(
            "chain pod-{index} {{
ct state invalid drop
ct state established,related accept
ip daddr {address} fib saddr type local accept
"
        );
        for policy in policies_of(index, policies) {
            let Policy { name, from, to, .. } = &policy;
            for (set, addresses) in [("f", from), ("t", to)] {
                let elements: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                let _ = writeln!(
                    rules,
                    "set {name}-{set} {{ type ipv4_addr; elements = {{ {} }}; }}",
                    elements.join(", ")
                );
            }
            let _ = writeln!(rules, "chain {name} {{");
            for protocol in ["tcp", "udp"] {
                let _ = writeln!(
                    rules,
                    "ip saddr @{name}-f ip daddr @{name}-t {protocol} dport {} meta mark set meta mark or {MATCHED}",
                    policy.port
                );
            }
            let _ = writeln!(rules, "meta mark and {MATCHED} == {MATCHED} return\n}}");
            let _ = writeln!(chain, "jump {name}");
        }
        let _ = write!(
            rules,
            "{chain}meta mark and {MATCHED} == 0 limit rate 10/minute burst 10 packets log group 100
meta mark and {MATCHED} == 0 reject with icmp type port-unreachable
meta mark set meta mark and {clear}
meta mark set meta mark or {ACCEPTED}
}}
"
        );
        let _ = write!(
            jumps,
            "ip daddr {address} jump pod-{index}
ip saddr {address} jump pod-{index}
"
        );
    }
    let _ = write!(
        rules,
        "chain forward {{
type filter hook forward priority 0; policy accept;
{jumps}meta mark and {ACCEPTED} == {ACCEPTED} accept
}}
}}
"
    );
    feed(router, &["nft", "-f", "-"], &rules)
}

/// A policy of one pod and direction.
struct Policy {
    name: String,
    from: Vec<Ipv4Addr>,
    to: Vec<Ipv4Addr>,
    port: u16,
}

/// The policies of the pod in this place. Those of the two that talk hold one, in the middle, that
/// admits their traffic; pods without policies of their own still have a chain that denies.
fn policies_of(place: u32, count: u32) -> Vec<Policy> {
    let (own, is_sender) = match place {
        PLACE => (CLIENT, true),
        place if place == PLACE + 1 => (SERVER, false),
        _ => return Vec::new(),
    };
    let others = |seed: u32| (0..SET).map(move |i| stranger(seed, i));
    let policies = (0..count).map(|index| {
        let admits = index == count / 2;
        let seed = 2 * index + u32::from(is_sender);
        let mut own_side: Vec<_> = others(2 * seed).skip(1).collect();
        own_side.push(own);
        let mut far_side: Vec<_> = others(2 * seed + 1).collect();
        if admits {
            far_side.pop();
            far_side.push(if is_sender { SERVER } else { CLIENT });
        }
        let (from, to) = if is_sender {
            (own_side, far_side)
        } else {
            (far_side, own_side)
        };
        Policy {
            name: format!("{}{index}", if is_sender { "out" } else { "in" }),
            from,
            to,
            port: ALLOWED,
        }
    });
    policies.collect()
}

/// The pod in this place of the node's list.
fn pod(place: u32) -> Ipv4Addr {
    match place {
        PLACE => CLIENT,
        place if place == PLACE + 1 => SERVER,
        _ => Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 200, 1, 0)) + place),
    }
}

/// Somebody in 10.64.0.0/10 who takes no part, another one for each pair of numbers.
fn stranger(seed: u32, index: u32) -> Ipv4Addr {
    let number = (seed * SET + index) & 0x003f_ffff;
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 64, 0, 0)) | number)
}

/// What loads rules into the older of iptables' two backends, or into the one there is.
fn iptables() -> [&'static str; 3] {
    let has_legacy = Command::new("iptables-legacy-restore")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    let program = if has_legacy {
        "iptables-legacy-restore"
    } else {
        "iptables-restore"
    };
    [program, "--wait", "5"]
}

/// Runs a program inside the namespace and gives it `input` to read.
fn feed(namespace: &Netns, command: &[&str], input: &str) -> Result<()> {
    let (program, arguments) = command.split_first().context("no command")?;
    let output = namespace.run(|| {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // Who does not read to the end says on standard error why.
            match stdin.write_all(input.as_bytes()) {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
                _ => {}
            }
        }
        child.wait_with_output()
    });
    let output = output.with_context(|| format!("cannot run `{program}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{}`: {}", command.join(" "), said.trim());
    }
    Ok(())
}
