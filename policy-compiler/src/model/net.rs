// SPDX-License-Identifier: Apache-2.0
//! Addresses and address blocks.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// IP version. Blocks of one family never contain addresses of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The family of `address`.
pub fn family_of(address: IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

/// `NetworkPolicyPeer.ipBlock`: a block minus its exceptions, host bits cleared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IpBlock {
    /// `cidr`.
    pub cidr: IpNet,
    /// `except`; carved out of this block only.
    pub except: Vec<IpNet>,
}

impl IpBlock {
    /// Whether the block contains `address` and no exception does.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.cidr.contains(&address) && !self.except.iter().any(|except| except.contains(&address))
    }
}
