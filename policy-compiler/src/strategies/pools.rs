// SPDX-License-Identifier: Apache-2.0
//! The small pools that everything random is drawn from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

pub(super) const NAMESPACES: [&str; 4] = ["x", "y", "z", "default"];
pub(super) const NODES: [&str; 3] = ["n1", "n2", "n3"];
pub(super) const POD_NAMES: [&str; 4] = ["a", "b", "c", "d"];
pub(super) const POLICY_NAMES: [&str; 4] = ["a", "b", "c", "d"];
pub(super) const RULE_NAMES: [&str; 3] = ["r", "s", "r"];

/// Label keys of pods, with the values they may have.
pub(super) const POD_LABELS: [(&str, &[&str]); 2] =
    [("app", &["a", "b", ""]), ("tier", &["web", "db"])];
/// Label keys of namespaces.
pub(super) const NAMESPACE_LABELS: [(&str, &[&str]); 2] = [
    ("team", &["red", "blue"]),
    (crate::snapshot::NAMESPACE_NAME_LABEL, &NAMESPACES),
];
/// Label keys of nodes.
pub(super) const NODE_LABELS: [(&str, &[&str]); 1] = [("role", &["worker", "cp"])];

pub(super) const PORT_NAMES: [&str; 3] = ["web", "dns", "web"];
/// Ports on both sides of what rules are likely to name, and the ends of the range.
pub(super) const PORTS: [u16; 9] = [1, 53, 79, 80, 81, 443, 8080, 65534, 65535];

pub(super) const DOMAINS: [&str; 3] = ["a.example", "b.a.example", "other.test"];
pub(super) const DOMAIN_PATTERNS: [&str; 4] =
    ["a.example", "*.a.example", "*.example", "other.test"];

/// Nested IPv4 blocks: everything, pods, single pods, nodes, outside, and the far end.
pub(super) const BLOCKS4: [Ipv4Net; 16] = [
    v4(0, 0, 0, 0, 0),
    v4(0, 0, 0, 0, 1),
    v4(128, 0, 0, 0, 1),
    v4(10, 0, 0, 0, 8),
    v4(10, 0, 0, 0, 16),
    v4(10, 0, 1, 0, 24),
    v4(10, 0, 1, 0, 30),
    v4(10, 0, 1, 1, 32),
    v4(10, 0, 1, 2, 31),
    v4(10, 0, 2, 1, 32),
    v4(192, 168, 0, 0, 24),
    v4(192, 168, 0, 1, 32),
    v4(203, 0, 113, 0, 24),
    v4(203, 0, 113, 8, 31),
    v4(203, 0, 113, 9, 32),
    v4(255, 255, 255, 255, 32),
];

/// The same for IPv6.
pub(super) const BLOCKS6: [Ipv6Net; 11] = [
    v6(0, 0, 0, 0),
    v6(0x8000, 0, 0, 1),
    v6(0xfd00, 0, 0, 8),
    v6(0xfd00, 1, 0, 32),
    v6(0xfd00, 1, 1, 128),
    v6(0xfd00, 1, 2, 127),
    v6(0xfd00, 0xc, 0, 64),
    v6(0xfd00, 0xc, 1, 128),
    v6(0x2001, 0xdb8, 0, 32),
    v6(0x2001, 0xdb8, 8, 127),
    v6(0x2001, 0xdb8, 9, 128),
];

/// Addresses outside the cluster.
pub(super) const OUTSIDE: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9)),
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 10)),
];

/// All blocks of the pools, or only those of IPv4.
pub(super) fn blocks(dual_stack: bool) -> Vec<IpNet> {
    let v4 = BLOCKS4.into_iter().map(IpNet::V4);
    let v6 = BLOCKS6.into_iter().map(IpNet::V6);
    v4.chain(v6.filter(|_| dual_stack)).collect()
}

/// The IPv4 and IPv6 address of the pod in `slot`.
pub(super) const fn pod_addresses(slot: u8) -> [IpAddr; 2] {
    let net = 1 + slot % 2;
    let host = 1 + slot / 2;
    [
        IpAddr::V4(Ipv4Addr::new(10, 0, net, host)),
        IpAddr::V6(Ipv6Addr::new(
            0xfd00,
            net as u16,
            0,
            0,
            0,
            0,
            0,
            host as u16,
        )),
    ]
}

/// The IPv4 and IPv6 address of the node with this position in the pool.
pub(super) const fn node_addresses(node: u8) -> [IpAddr; 2] {
    [
        IpAddr::V4(Ipv4Addr::new(192, 168, 0, 1 + node)),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0xc, 0, 0, 0, 0, 0, 1 + node as u16)),
    ]
}

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(first: u16, second: u16, last: u16, length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(first, second, 0, 0, 0, 0, 0, last), length)
}
