// SPDX-License-Identifier: Apache-2.0
//! Network namespaces, and the interfaces that join them to the node.

mod link;
mod netlink;
mod netns;
mod peer;
mod watch;

pub use link::Link;
pub use netlink::{Filter, NetError, Netlink, Route};
pub use netns::Netns;
pub use peer::{HostLinks, PodInterface};
pub use watch::{LinkEvent, LinkWatch};
