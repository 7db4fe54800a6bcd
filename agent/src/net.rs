// SPDX-License-Identifier: Apache-2.0
//! Network namespaces, and the interfaces that join them to the node.

mod gate;
mod link;
mod netlink;
mod netns;
mod peer;
mod priority;
mod watch;

pub use gate::{Close, Gate, Guard, Why};
pub use link::Link;
pub use netlink::{Filter, NetError, Netlink, Route};
pub use netns::Netns;
pub use peer::{HostLinks, PodInterface, outside_of};
pub use watch::{LinkEvent, LinkWatch};
