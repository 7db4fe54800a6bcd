// SPDX-License-Identifier: Apache-2.0
//! Addresses and address blocks as the APIs' own parsers read them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// A block as the parser for older fields of Kubernetes reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lenient {
    /// Host bits cleared; an IPv4-mapped block is the IPv4 block.
    pub(super) net: IpNet,
    /// How the text differs from the canonical form.
    pub(super) quirk: Option<Quirk>,
}

/// A form that stricter parsers refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quirk {
    /// `10.1.2.3/8`.
    HostBits,
    /// `010.0.0.0/08`, which is decimal.
    LeadingZeros,
    /// `::ffff:10.0.0.0/104`.
    Mapped,
}

/// Parses `ipBlock.cidr` and its exceptions (apimachinery `IsValidCIDRForLegacyField`).
pub(super) fn lenient_cidr(text: &str) -> Option<Lenient> {
    let (address, length) = text.split_once('/')?;
    let plain = without_zeros(address);
    let zeros = plain != address || length.len() > 1 && length.starts_with('0');
    let address: IpAddr = plain.parse().ok()?;
    let length = decimal(length, 128)?;
    let (net, mapped) = match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() && length >= 96 => {
            (IpNet::new(v6.to_canonical(), length - 96).ok()?, true)
        }
        IpAddr::V4(_) | IpAddr::V6(_) => (IpNet::new(address, length).ok()?, false),
    };
    let quirk = if mapped {
        Some(Quirk::Mapped)
    } else if zeros {
        Some(Quirk::LeadingZeros)
    } else if net.trunc() != net {
        Some(Quirk::HostBits)
    } else {
        None
    };
    Some(Lenient {
        net: net.trunc(),
        quirk,
    })
}

/// Parses an entry of `networks` as CEL's `isCIDR` does: host bits may be set, leading zeros and
/// IPv4-mapped addresses are refused.
pub(super) fn strict_cidr(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    if is_mapped(address) || length.len() > 1 && length.starts_with('0') {
        return None;
    }
    let length = decimal(length, 128)?;
    IpNet::new(address, length).ok().map(|net| net.trunc())
}

/// An address without a length, as older CRDs let through for a host route.
pub(crate) fn bare_address(text: &str) -> Option<IpNet> {
    let address: IpAddr = text.parse().ok()?;
    (!is_mapped(address)).then(|| address.into())
}

/// An address of a pod or node; IPv4-mapped IPv6 is IPv4.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    let address: IpAddr = without_zeros(text).parse().ok()?;
    Some(address.to_canonical())
}

fn is_mapped(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.to_ipv4_mapped().is_some(),
    }
}

/// Removes leading zeros from a dotted IPv4 address, also at the end of an IPv6 address.
fn without_zeros(text: &str) -> String {
    let (head, dotted) = match text.rfind(':') {
        Some(colon) => text.split_at(colon + 1),
        None => ("", text),
    };
    if !dotted.contains('.') {
        return text.to_owned();
    }
    let parts: Vec<&str> = dotted
        .split('.')
        .map(|part| match part.trim_start_matches('0') {
            "" if part.is_empty() => "",
            "" => "0",
            rest => rest,
        })
        .collect();
    format!("{head}{}", parts.join("."))
}

fn decimal(text: &str, max: u8) -> Option<u8> {
    let digits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    let value: u32 = digits.then(|| text.parse().ok())??;
    u8::try_from(value).ok().filter(|value| *value <= max)
}

/// Whether `inner` lies in `outer` and is smaller.
pub(super) fn is_strict_subset(inner: &IpNet, outer: &IpNet) -> bool {
    outer.contains(inner) && outer != inner
}

/// The address no host has, in either family: a pod that was given none.
pub(super) fn is_unset(address: IpAddr) -> bool {
    address == IpAddr::V4(Ipv4Addr::UNSPECIFIED) || address == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn lenient(text: &str, expect: &str, quirk: Option<Quirk>) {
        let net = expect.parse().unwrap();
        assert_eq!(lenient_cidr(text), Some(Lenient { net, quirk }), "{text}");
    }

    #[test]
    fn legacy_forms() {
        lenient("10.0.0.0/8", "10.0.0.0/8", None);
        lenient("10.1.2.3/8", "10.0.0.0/8", Some(Quirk::HostBits));
        lenient("010.000.0.0/08", "10.0.0.0/8", Some(Quirk::LeadingZeros));
        lenient("::ffff:10.0.0.0/104", "10.0.0.0/8", Some(Quirk::Mapped));
        lenient("::ffff:010.0.0.0/104", "10.0.0.0/8", Some(Quirk::Mapped));
        lenient("FD00::1/64", "fd00::/64", Some(Quirk::HostBits));
        lenient("0.0.0.0/0", "0.0.0.0/0", None);
        lenient("::/0", "::/0", None);
        for bad in [
            "",
            "/",
            "10.0.0.1",
            "10.0.0.0/33",
            "10.0.0/8",
            "10.0.0.0/+8",
            "10.0.0.0/",
            "10..0.0/8",
            "256.0.0.0/8",
            "::/129",
            "fe80::1%eth0/64",
            " 10.0.0.0/8",
            "a/8",
        ] {
            assert_eq!(lenient_cidr(bad), None, "{bad}");
        }
    }

    #[test]
    fn strict_forms() {
        assert_eq!(strict_cidr("10.0.0.5/8"), "10.0.0.0/8".parse().ok());
        assert_eq!(strict_cidr("fd00::5/64"), "fd00::/64".parse().ok());
        for bad in [
            "10.0.0.5",
            "::ffff:10.0.0.0/104",
            "010.0.0.0/8",
            "10.0.0.0/08",
            "",
        ] {
            assert_eq!(strict_cidr(bad), None, "{bad}");
        }
        assert_eq!(bare_address("10.0.0.5"), "10.0.0.5/32".parse().ok());
        assert_eq!(bare_address("fd00::5"), "fd00::5/128".parse().ok());
        assert_eq!(bare_address("::ffff:10.0.0.5"), None);
        assert_eq!(address("::ffff:10.0.0.5"), "10.0.0.5".parse().ok());
        assert_eq!(address("010.0.0.5"), "10.0.0.5".parse().ok());
    }
}
