// SPDX-License-Identifier: Apache-2.0
//! From one API object, as JSON, to its meaning, with everything that is wrong with it.
//!
//! ```text
//! network_policy(&Value, &Locator, &Settings)                -> Parsed<NetworkPolicy>
//! admin_network_policy, baseline_admin_network_policy,
//! cluster_network_policy(&Value, &Locator, &Settings)        -> Parsed<AdminPolicy>
//! pod, service, endpoint_slice(&Value, &Locator, &Settings)  -> Parsed<Pod | Service | EndpointSlice>
//! namespace, node(&Value, &Locator)                          -> Parsed<Namespace | Node>
//! workload(WorkloadKind, &Value, &Locator, &Settings)        -> Parsed<Workload>
//! route(RouteKind, &Value, &Locator, &Settings)              -> Parsed<Route>
//! gateway, grant(&Value, &Locator, &Settings)                -> Parsed<Gateway | Grant>
//! ```
//!
//! Nothing fails: what an API server would refuse is a diagnostic and [`Parsed::rejected`]; what is left
//! of the object follows the API's fail-closed rules. The value is read instead of a typed object so that
//! fields this version does not know are seen: most of them would have narrowed a selector.
//!
//! Of an invalid part of a NetworkPolicy nothing remains but its isolation:
//!
//! - an invalid `spec.podSelector` selects nothing; misspelt fields in it are dropped, as an API server
//!   does, because the wider selector isolates more;
//! - an invalid peer or port, or one with unknown fields, matches nothing; a rule with unknown fields
//!   matches nothing.
//!
//! An invalid or unknown part of a rule of a cluster-scoped policy closes the whole rule
//! ([`crate::model::AdminRule::closed`]).

mod admin;
mod entrance;
mod meta;
mod net;
mod network_policy;
mod pod;
mod reader;
mod selector;
mod service;
mod syntax;
mod topology;
mod workload;

pub use admin::{admin_network_policy, baseline_admin_network_policy, cluster_network_policy};
pub use entrance::{gateway, grant, route};
pub(crate) use net::bare_address;
pub use network_policy::network_policy;
pub use pod::{Template, pod};
pub(crate) use reader::similar;
pub use service::{EndpointPort, EndpointSlice, attach_endpoints, endpoint_slice, service};
pub use topology::{namespace, node};
pub use workload::{Workload, WorkloadKind, workload};

use std::sync::Arc;

use crate::diagnostic::Diagnostic;

/// What came of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed<T> {
    /// What the object means, or `None` if it cannot be placed at all.
    pub object: Option<T>,
    /// Everything wrong or surprising, in the order of the object's fields as this reader visits them.
    pub diagnostics: Vec<Diagnostic>,
    /// Whether an API server would refuse the object.
    pub rejected: bool,
}

/// What an API server would add from its own configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which of the two CRD bundles of policy.networking.k8s.io is installed.
    pub channel: Channel,
    /// The namespace of objects that name none.
    pub default_namespace: Arc<str>,
}

impl Default for Settings {
    /// Everything the engine understands; namespace `default`.
    fn default() -> Self {
        Self {
            channel: Channel::Experimental,
            default_namespace: "default".into(),
        }
    }
}

/// The bundles in which the CRDs of policy.networking.k8s.io are released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Without experimental fields: an API server drops them.
    Standard,
    /// With every field.
    Experimental,
    /// Nobody knows which: what either takes is taken.
    Either,
}
