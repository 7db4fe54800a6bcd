// SPDX-License-Identifier: Apache-2.0
//! The validated domain: what policies and the cluster mean, free of how they were written.
//!
//! Values of these types are built by `parse` (from API objects) and by `strategies` (at random).
//! Defaults are applied, selectors are checked, and what the API's fail-closed rules say of broken
//! parts is already part of the value ([`AdminRule::closed`], [`Selection::Nothing`]).

mod entrance;
mod labels;
mod net;
mod policy;
mod port;
mod workload;

pub use entrance::{
    Backend, BackendPort, Entrances, Gateway, Grant, Listener, Offer, Parent, Route, RouteKind,
    RoutesFrom, ServiceType,
};
pub use labels::{Labels, Operator, Requirement, Selection, Selector, UnknownLabels};
pub use net::{Family, IpBlock, family_of};
pub use policy::{
    Action, AdminKind, AdminPeer, AdminPolicy, AdminPort, AdminRule, Direction, DomainPattern,
    FailClosed, MODE_AUDIT, MODE_LABEL, NetworkPeer, NetworkPolicy, NetworkPort, NetworkRule,
    PolicyKind, PolicyRef, Priority, Subject, Tier,
};
pub use port::{ContainerPort, PortRange, Protocol};
pub use workload::{
    Namespace, Node, Phase, Pod, PodKey, Service, ServiceBackend, ServicePort, ServiceTarget,
};
