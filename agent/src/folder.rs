// SPDX-License-Identifier: Apache-2.0
//! How is a folder of YAML enforced on this machine's pods?

use policy_compiler::model::PodKey;

/// The file name of a pod's network namespace. Names of pods and namespaces hold no underscore, so two
/// pods never share a file name.
pub fn pod_file(pod: &PodKey) -> String {
    format!("{}_{}", pod.namespace, pod.name)
}
