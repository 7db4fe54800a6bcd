// SPDX-License-Identifier: Apache-2.0
//! Which ports are asked about?

use std::{str::FromStr, sync::Arc};

use policy_compiler::{
    model::{ContainerPort, PortRange, Protocol},
    portmap::PortSet,
};

use crate::exit::UsageError;

/// A port as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortQuery {
    /// Everything.
    All,
    /// Ports of one protocol; every port if none is written.
    Ports(Protocol, PortRange),
    /// A container port of the destination, perhaps of one protocol only.
    Named(Option<Protocol>, Arc<str>),
}

impl FromStr for PortQuery {
    type Err = UsageError;

    fn from_str(text: &str) -> Result<Self, UsageError> {
        let bad = || {
            UsageError::new(format!("`{text}` is no port"))
                .help("80, tcp/80, udp/53, sctp/9003, tcp/8000-9000, a port name, icmp")
        };
        let text = text.trim();
        let (protocol, rest) = match text.split_once('/') {
            None => (None, text),
            Some((protocol, rest)) => (Some(protocol_of(protocol).ok_or_else(bad)?), rest),
        };
        if protocol.is_none() {
            match protocol_of(rest) {
                Some(Protocol::Other) => return Ok(Self::Ports(Protocol::Other, PortRange::ALL)),
                Some(protocol) => return Ok(Self::Ports(protocol, PortRange::ALL)),
                None => {}
            }
        }
        let with_ports = protocol.unwrap_or(Protocol::Tcp);
        let (start, end) = rest.split_once('-').unwrap_or((rest, rest));
        if let (Ok(start), Ok(end)) = (start.parse::<u16>(), end.parse::<u16>()) {
            if start > end || start == 0 || with_ports == Protocol::Other {
                return Err(bad());
            }
            return Ok(Self::Ports(with_ports, PortRange { start, end }));
        }
        let is_name = !rest.is_empty()
            && rest
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            && rest.chars().any(|c| c.is_ascii_lowercase());
        if is_name && with_ports != Protocol::Other {
            return Ok(Self::Named(protocol, rest.into()));
        }
        Err(bad())
    }
}

impl PortQuery {
    /// The ports asked about toward a destination with these container ports.
    pub fn toward(&self, ports: &[ContainerPort]) -> PortSet {
        match self {
            Self::All => PortSet::uniform(true),
            Self::Ports(protocol, range) => PortSet::of([(*protocol, *range)]),
            Self::Named(wanted, name) => PortSet::of(
                ports
                    .iter()
                    .filter(|port| port.name.as_deref() == Some(name))
                    .filter(|port| wanted.is_none_or(|wanted| wanted == port.protocol))
                    .map(|port| (port.protocol, PortRange::single(port.number))),
            ),
        }
    }
}

/// Reads a protocol's name, whatever its case; everything without ports is [`Protocol::Other`].
pub fn protocol_of(text: &str) -> Option<Protocol> {
    Some(match text.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        "icmp" | "icmpv4" | "icmpv6" | "ping" | "other" => Protocol::Other,
        _ => return None,
    })
}

/// `tcp/80, udp/53`, `all`, `nothing`; port 0 is not worth a word.
pub fn spell_ports(set: &PortSet) -> String {
    if is_all(set) {
        return "all".to_owned();
    }
    let mut parts = Vec::new();
    for (protocol, ports) in set.ranges() {
        let name = protocol.to_string().to_lowercase();
        let start = ports.start.max(1);
        match protocol {
            Protocol::Other => parts.push("other protocols".to_owned()),
            Protocol::Tcp | Protocol::Udp | Protocol::Sctp if ports.end == 0 => {}
            Protocol::Tcp | Protocol::Udp | Protocol::Sctp => {
                parts.push(match (start, ports.end) {
                    (1, u16::MAX) => format!("{name}/*"),
                    (start, end) if start == end => format!("{name}/{start}"),
                    (start, end) => format!("{name}/{start}-{end}"),
                });
            }
        }
    }
    if parts.is_empty() {
        return "nothing".to_owned();
    }
    parts.join(", ")
}

/// Whether everything a rule can name is in the set.
pub fn is_all(set: &PortSet) -> bool {
    set.union(&port_zero()).is_full()
}

/// Whether nothing a rule can name is in the set.
pub fn is_nothing(set: &PortSet) -> bool {
    set.minus(&port_zero()).is_empty()
}

fn port_zero() -> PortSet {
    PortSet::of(Protocol::WITH_PORTS.map(|protocol| (protocol, PortRange::single(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let shown = match text.parse::<PortQuery>() {
            Ok(query) => match query {
                PortQuery::Named(protocol, name) => format!("{protocol:?} {name}"),
                PortQuery::All | PortQuery::Ports(..) => spell_ports(&query.toward(&[])),
            },
            Err(error) => error.to_string(),
        };
        assert_eq!(shown, expected);
    }

    #[test]
    fn ports_are_read() {
        check("80", "tcp/80");
        check("udp/53", "udp/53");
        check("TCP/8000-9000", "tcp/8000-9000");
        check("sctp", "sctp/*");
        check("icmp", "other protocols");
        check("web", "None web");
        check("udp/dns", "Some(Udp) dns");
        check("0", "`0` is no port");
        check("90-80", "`90-80` is no port");
        check("65536", "`65536` is no port");
        check("gre/1", "`gre/1` is no port");
        check("icmp/8", "`icmp/8` is no port");
    }
}
