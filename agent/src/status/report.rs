// SPDX-License-Identifier: Apache-2.0
//! What does a node say of the policies it enforces?

use kube::{CustomResource, CustomResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::index::PolicyRecord;

/// What one node enforces. The object is named as its Node and owned by it, so that it goes when the
/// node goes. It changes only when its content does; there is no heartbeat in it.
#[derive(
    CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema,
)]
#[kube(
    group = "netpol.internal",
    version = "v1alpha1",
    kind = "NodeEnforcement",
    plural = "nodeenforcements",
    shortname = "nenf",
    derive = "PartialEq",
    printcolumn = r#"{"name": "Policies", "type": "string", "jsonPath": ".spec.policies"}"#,
    printcolumn = r#"{"name": "Enforced", "type": "integer", "jsonPath": ".spec.pods.enforced"}"#,
    printcolumn = r#"{"name": "Quarantined", "type": "integer", "jsonPath": ".spec.pods.quarantined"}"#,
    printcolumn = r#"{"name": "Unsupported", "type": "integer", "jsonPath": ".spec.pods.unsupported"}"#,
    printcolumn = r#"{"name": "Failure", "type": "string", "jsonPath": ".spec.failure.reason"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct NodeEnforcementSpec {
    /// Digest of the cluster-scoped policies in force on the node, each in one exact generation.
    pub policies: String,
    /// Numbers of local pods by what is done for them.
    pub pods: PodCounts,
    /// Why the node does not follow the latest policies, if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Policies that are not in force for some pod of the node, at most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub policy_failures: Vec<PolicyFailure>,
    /// Local pods that no policy can be enforced for, at most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub unsupported_pods: Vec<UnsupportedPod>,
}

impl NodeEnforcementSpec {
    /// How many entries each list holds at most.
    pub const LIST_LIMIT: usize = 64;
}

/// Numbers of local pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodCounts {
    /// Pods whose tables are in force.
    pub enforced: u32,
    /// Pods that are kept from all traffic until they are identified and programmed.
    pub quarantined: u32,
    /// Pods without an interface on the host.
    pub unsupported: u32,
}

/// Why something is not in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// One word in `CamelCase`: `TableOverflow`, `NotSynced`, `NoHostInterface`, ...
    #[schemars(length(max = 64))]
    pub reason: String,
    /// One sentence for people.
    #[schemars(length(max = 256))]
    pub message: String,
}

/// A policy that is not fully in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyFailure {
    /// `AdminNetworkPolicy`, `BaselineAdminNetworkPolicy`, `ClusterNetworkPolicy` or `NetworkPolicy`.
    pub kind: String,
    /// Namespace of a `NetworkPolicy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of the policy.
    pub name: String,
    /// What is wrong.
    #[serde(flatten)]
    pub failure: Failure,
}

/// A pod that no policy can be enforced for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnsupportedPod {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// Why.
    #[serde(flatten)]
    pub failure: Failure,
}

/// Identifies a set of cluster-scoped policies, each in one exact generation and mode. Two agents that
/// have read the same objects compute the same digest, whatever the order and whatever status was written
/// since.
pub fn digest<'a>(policies: impl IntoIterator<Item = &'a PolicyRecord>) -> String {
    let mut lines: Vec<String> = policies
        .into_iter()
        .filter(|record| record.policy.namespace.is_none())
        .map(|record| {
            let (policy, uid) = (&record.policy, &record.uid);
            // A label does not count as a new generation.
            let mode = if record.audited { "\0audited" } else { "" };
            format!("{policy}\0{uid}\0{}{mode}\n", record.generation)
        })
        .collect();
    lines.sort_unstable();
    format!("{:016x}", fnv1a(lines.iter().flat_map(|line| line.bytes())))
}

/// FNV-1a with 64 bits: stable across builds and machines, which `std`'s hashers do not promise.
pub(crate) fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The CustomResourceDefinition of [`NodeEnforcement`] as YAML, as the manifests carry it.
pub fn definition() -> Result<String, serde_yaml::Error> {
    let mut crd = serde_yaml::to_value(NodeEnforcement::crd())?;
    // The API server owns the status; an empty one in a manifest is noise.
    if let Some(map) = crd.as_mapping_mut() {
        map.remove("status");
    }
    serde_yaml::to_string(&crd)
}

#[cfg(test)]
mod tests {
    use policy_compiler::model::{PolicyKind, PolicyRef};

    use super::*;

    fn record(kind: PolicyKind, name: &str, generation: i64) -> PolicyRecord {
        PolicyRecord {
            uid: format!("uid-{name}").into(),
            generation,
            ..PolicyRecord::new(PolicyRef {
                kind,
                namespace: (kind == PolicyKind::NetworkPolicy).then(|| "shop".into()),
                name: name.into(),
            })
        }
    }

    #[test]
    fn digest_depends_on_generations_and_modes_alone() {
        let a = record(PolicyKind::AdminNetworkPolicy, "a", 1);
        let b = record(PolicyKind::ClusterNetworkPolicy, "b", 1);
        let newer = record(PolicyKind::ClusterNetworkPolicy, "b", 2);
        let np = record(PolicyKind::NetworkPolicy, "n", 1);
        assert_eq!(digest([&a, &b]), digest([&b, &a, &np]));
        assert_ne!(digest([&a, &b]), digest([&a, &newer]));
        assert_ne!(digest([&a, &b]), digest([&a]));
        let audited = PolicyRecord {
            audited: true,
            ..b.clone()
        };
        assert_ne!(digest([&a, &b]), digest([&a, &audited]));
    }

    #[test]
    fn fnv1a_is_the_published_function() {
        assert_eq!(fnv1a(*b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(*b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(*b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn definition_names_the_kind() {
        let text = definition().unwrap();
        assert!(
            text.contains("name: nodeenforcements.netpol.internal"),
            "{text}"
        );
    }
}
