// SPDX-License-Identifier: Apache-2.0
//! What does an object from the API server mean?

use std::sync::Arc;

use policy_compiler::{
    diagnostic::Diagnostic,
    manifest::Locator,
    model::{AdminPolicy, Labels, NetworkPolicy, Node, Pod, Service},
    parse::{self, EndpointSlice, Parsed, Settings},
};
use serde_json::Value;

use super::{Kind, ObjectKey};

/// An object as the index keeps it.
pub(super) enum Object {
    Namespace { name: Arc<str>, labels: Labels },
    Node { node: Node, uid: Arc<str> },
    Pod(Box<Pod>),
    Service(Service),
    EndpointSlice(EndpointSlice),
    NetworkPolicy(NetworkPolicy),
    AdminPolicy(AdminPolicy),
}

/// Namespace and name, as far as the object has them.
pub(super) fn key(value: &Value) -> ObjectKey {
    ObjectKey::new(
        metadata(value, "namespace"),
        metadata(value, "name").unwrap_or_default(),
    )
}

/// Reads an object of `kind`, with everything that does not fit. An object that means nothing at all is
/// an error; whatever is wrong with less than that follows the fail-closed rules.
pub(super) fn decode(kind: Kind, value: &Value) -> (Result<Object, String>, Vec<Diagnostic>) {
    let settings = Settings::default();
    let nowhere = Locator::none();
    match kind {
        Kind::Namespace => take(parse::namespace(value, &nowhere), |namespace| {
            Object::Namespace {
                name: namespace.name,
                labels: namespace.labels,
            }
        }),
        Kind::Node => take(parse::node(value, &nowhere), |node| Object::Node {
            node,
            uid: metadata(value, "uid").unwrap_or_default().into(),
        }),
        Kind::Pod => take(parse::pod(value, &nowhere, &settings), |pod| {
            Object::Pod(Box::new(pod))
        }),
        Kind::Service => take(parse::service(value, &nowhere, &settings), Object::Service),
        Kind::EndpointSlice => take(
            parse::endpoint_slice(value, &nowhere, &settings),
            Object::EndpointSlice,
        ),
        Kind::NetworkPolicy => take(
            parse::network_policy(value, &nowhere, &settings),
            Object::NetworkPolicy,
        ),
        Kind::AdminNetworkPolicy => take(
            parse::admin_network_policy(value, &nowhere, &settings),
            Object::AdminPolicy,
        ),
        Kind::BaselineAdminNetworkPolicy => take(
            parse::baseline_admin_network_policy(value, &nowhere, &settings),
            Object::AdminPolicy,
        ),
        Kind::ClusterNetworkPolicy => take(
            parse::cluster_network_policy(value, &nowhere, &settings),
            Object::AdminPolicy,
        ),
    }
}

fn take<T>(
    parsed: Parsed<T>,
    object: impl FnOnce(T) -> Object,
) -> (Result<Object, String>, Vec<Diagnostic>) {
    let result = match parsed.object {
        Some(value) => Ok(object(value)),
        None => Err(parsed
            .diagnostics
            .first()
            .map_or_else(|| "not an object of its kind".to_owned(), spell)),
    };
    (result, parsed.diagnostics)
}

/// Path and message of a diagnostic.
pub(super) fn spell(diagnostic: &Diagnostic) -> String {
    match &*diagnostic.path {
        "" => diagnostic.message.clone(),
        path => format!("{path}: {}", diagnostic.message),
    }
}

fn metadata<'v>(value: &'v Value, field: &str) -> Option<&'v str> {
    value.get("metadata")?.get(field)?.as_str()
}
