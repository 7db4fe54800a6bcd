// SPDX-License-Identifier: Apache-2.0
//! Protocols, port ranges and container ports.

use std::{fmt, net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

/// What a flow carries: the three protocols that policies know ports of, or anything else
/// (ICMP, GRE, ESP, ...), which only rules without ports match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// Every other IP protocol.
    Other,
}

impl Protocol {
    /// All protocols, in table order.
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Udp, Self::Sctp, Self::Other];
    /// The protocols that have ports, in table order.
    pub const WITH_PORTS: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
            Self::Other => "OTHER",
        })
    }
}

/// An inclusive range of ports, `start <= end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortRange {
    /// First port.
    pub start: u16,
    /// Last port.
    pub end: u16,
}

impl PortRange {
    /// Every port a packet can carry, 0 included.
    pub const ALL: Self = Self {
        start: 0,
        end: u16::MAX,
    };

    /// The range of one port.
    pub const fn single(port: u16) -> Self {
        Self {
            start: port,
            end: port,
        }
    }

    /// Whether `port` lies in the range.
    pub const fn contains(self, port: u16) -> bool {
        self.start <= port && port <= self.end
    }
}

/// A named or unnamed port of a regular or sidecar container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContainerPort {
    /// `name`, if any.
    pub name: Option<Arc<str>>,
    /// `protocol`, defaulted to TCP; never [`Protocol::Other`].
    pub protocol: Protocol,
    /// `containerPort`.
    pub number: u16,
    /// `hostPort`: the port of the pod's node that leads here; 0 if none.
    #[serde(default)]
    pub host_port: u16,
    /// `hostIP`: the only address of the node on which it does, if not all.
    #[serde(default)]
    pub host_address: Option<IpAddr>,
}
