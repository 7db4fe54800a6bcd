// SPDX-License-Identifier: Apache-2.0
//! Do labels, blocks, ranges and domain names match as the documents say? The oracle and the compiler
//! share these, so they are held to something else: the documents again, written another way.

#[expect(dead_code, reason = "nothing here judges a flow")]
mod suite;

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;
use policy_compiler::model::{
    DomainPattern, IpBlock, Labels, Operator, PortRange, Requirement, Selector,
};
use proptest::{
    collection::{btree_map, vec},
    prelude::*,
    sample::select,
};
use suite::check;

/// apimachinery `Requirement.Matches` by cases: A80 to A83.
#[test]
fn selectors_match_labels() {
    let word = || select(vec!["", "a", "A", "b", "ab"]).prop_map(str::to_owned);
    let operator = select(vec![
        Operator::In,
        Operator::NotIn,
        Operator::Exists,
        Operator::DoesNotExist,
    ]);
    let terms = vec((word(), operator, vec(word(), 1..3)), 0..3);
    let labels = btree_map(word(), word(), 0..4);
    check(
        "selectors",
        10_000,
        (terms, labels),
        &["selected", "not selected"],
        |(terms, labels), met| {
            let expected =
                terms.iter().all(
                    |(key, operator, values)| match (operator, labels.get(key)) {
                        (Operator::In, Some(value)) => values.contains(value),
                        (Operator::In | Operator::Exists, None)
                        | (Operator::DoesNotExist, Some(_)) => false,
                        (Operator::NotIn, Some(value)) => !values.contains(value),
                        (Operator::NotIn | Operator::DoesNotExist, None)
                        | (Operator::Exists, Some(_)) => true,
                    },
                );
            let requirements = terms.iter().map(|(key, operator, values)| Requirement {
                key: key.as_str().into(),
                operator: *operator,
                values: match operator {
                    Operator::In | Operator::NotIn => {
                        values.iter().map(|v| Arc::from(v.as_str())).collect()
                    }
                    Operator::Exists | Operator::DoesNotExist => Vec::new(),
                },
            });
            let selector = Selector::new(requirements.collect());
            let labels: Labels = labels
                .iter()
                .map(|(k, v)| (k.as_str(), v.as_str()))
                .collect();
            met.met(if expected { "selected" } else { "not selected" });
            prop_assert_eq!(selector.matches(&labels), expected);
            Ok(())
        },
    );
}

/// Bit by bit: A29, A30, A32.
#[test]
fn blocks_contain_addresses() {
    let address = || {
        prop_oneof![
            (0..4_u32).prop_map(|low| IpAddr::V4((0x0a00_0000 + low).into())),
            any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())),
            (0..4_u128).prop_map(|low| IpAddr::V6(((0xfd00 << 112) + low).into())),
            (0..4_u128).prop_map(|low| IpAddr::V6((0x0a00_0000 + low).into())),
        ]
    };
    let block = move || {
        (address(), prop_oneof![0..=128_u8, 28..=32_u8, Just(0_u8)]).prop_map(
            |(address, length)| {
                let most = if address.is_ipv4() { 32 } else { 128 };
                IpNet::new(address, length.min(most)).expect("a length of the family")
            },
        )
    };
    let values = (block(), vec(block(), 0..3), address());
    check(
        "blocks",
        10_000,
        values,
        &["inside", "outside", "excepted"],
        |(cidr, except, address), met| {
            let within = |net: &IpNet| {
                let (net_bits, length) = bits(net.addr(), Some(net.prefix_len()));
                let (address_bits, _) = bits(address, None);
                net_bits.len() == address_bits.len() && net_bits[..length] == address_bits[..length]
            };
            let block = IpBlock {
                cidr: cidr.trunc(),
                except: except.iter().map(IpNet::trunc).collect(),
            };
            let excepted = except.iter().any(within);
            let expected = within(&cidr) && !excepted;
            met.met(match (within(&cidr), excepted) {
                (false, _) => "outside",
                (true, true) => "excepted",
                (true, false) => "inside",
            });
            prop_assert_eq!(block.contains(address), expected);
            Ok(())
        },
    );
}

/// Label by label: B36.
#[test]
fn patterns_cover_domain_names() {
    let label = || select(vec!["a", "b", "ab"]).prop_map(str::to_owned);
    let values = (
        vec(label(), 1..4),
        vec(label(), 1..4),
        any::<bool>(),
        any::<bool>(),
    );
    check(
        "domains",
        10_000,
        values,
        &["covered", "not covered", "deep"],
        |(suffix, name, wildcard, dot), met| {
            let expected = if wildcard {
                name.len() > suffix.len() && name[name.len() - suffix.len()..] == suffix[..]
            } else {
                name == suffix
            };
            if expected && name.len() > suffix.len() + 1 {
                met.met("deep");
            }
            met.met(if expected { "covered" } else { "not covered" });
            let star = if wildcard { "*." } else { "" };
            let pattern = DomainPattern(format!("{star}{}", suffix.join(".")).into());
            let spelt = name.join(".").to_uppercase() + if dot { "." } else { "" };
            prop_assert_eq!(pattern.matches(&spelt), expected, "{:?} {}", pattern, spelt);
            Ok(())
        },
    );
}

/// A42, A43, and that a range of everything includes port 0, which only packets have.
#[test]
fn ranges_contain_their_ends() {
    check(
        "ranges",
        10_000,
        (any::<u16>(), any::<u16>(), any::<u16>()),
        &["in", "out"],
        |(a, b, port), met| {
            let range = PortRange {
                start: a.min(b),
                end: a.max(b),
            };
            let expected = (range.start..=range.end).contains(&port);
            met.met(if expected { "in" } else { "out" });
            prop_assert_eq!(range.contains(port), expected);
            prop_assert!(range.contains(range.start) && range.contains(range.end));
            prop_assert!(PortRange::single(port).contains(port) && PortRange::ALL.contains(port));
            Ok(())
        },
    );
}

/// The bits of an address, first to last, and how many of them a prefix length covers.
fn bits(address: IpAddr, length: Option<u8>) -> (Vec<bool>, usize) {
    let octets = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let bits: Vec<_> = octets
        .iter()
        .flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1 == 1))
        .collect();
    let length = length.map_or(bits.len(), usize::from);
    (bits, length)
}
