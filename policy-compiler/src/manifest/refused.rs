// SPDX-License-Identifier: Apache-2.0
//! Which facts about pods, namespaces and nodes does a manifest leave open that no API server takes?

use std::{collections::BTreeMap, sync::Arc};

use super::pods::WorkloadId;
use crate::{
    diagnostic::{Diagnostic, ObjectRef, Severity},
    model::{PodKey, UnknownLabels},
    parse::WorkloadKind,
    snapshot::Gaps,
};

/// What the errors among `diagnostics` leave open; `made` are the pods made of workloads that have none.
pub(super) fn gaps(diagnostics: &[Diagnostic], made: &BTreeMap<WorkloadId, Vec<PodKey>>) -> Gaps {
    let mut gaps = Gaps::default();
    let errors = diagnostics
        .iter()
        .filter(|diagnostic| diagnostic.severity == Severity::Error);
    for error in errors {
        let Some(object) = &error.object else {
            continue;
        };
        let is_unknown_field = error.id == "unknown-field";
        match &*object.kind {
            "Pod" => {
                if let Some(namespace) = &object.namespace {
                    let pod = PodKey::new(namespace, &object.name);
                    Open::of_pod(&error.path, is_unknown_field).note(&pod, &mut gaps);
                }
            }
            "Namespace" | "Node" => {
                if Open::of_pod(&error.path, is_unknown_field).labels.is_some() {
                    let of_kind = if &*object.kind == "Node" {
                        &mut gaps.nodes
                    } else {
                        &mut gaps.namespaces
                    };
                    of_kind.insert(object.name.clone());
                }
            }
            _ => {
                let pods = workload(object).and_then(|id| made.get(&id));
                let open = Open::of_workload(&error.path, is_unknown_field);
                for pod in pods.into_iter().flatten() {
                    open.note(pod, &mut gaps);
                }
            }
        }
    }
    gaps
}

fn workload(object: &ObjectRef) -> Option<WorkloadId> {
    let kind = WorkloadKind::named(&object.kind)?;
    Some((object.namespace.clone()?, kind, object.name.clone()))
}

/// What of a pod is open.
#[derive(Default)]
struct Open {
    labels: Option<UnknownLabels>,
    ports: bool,
    standing: bool,
}

impl Open {
    /// What an error at `path` of a pod leaves open.
    fn of_pod(path: &str, is_unknown_field: bool) -> Self {
        let key = path
            .strip_prefix("metadata.labels[")
            .and_then(|rest| rest.strip_suffix(']'));
        if let Some(key) = key {
            return Self {
                labels: Some(UnknownLabels::values([Arc::from(key)])),
                ..Self::default()
            };
        }
        // Fields are also misspelt in case only.
        let path = path.to_ascii_lowercase();
        let (part, rest) = path.split_once('.').unwrap_or((&path, ""));
        let field = rest.split(['.', '[']).next().unwrap_or_default();
        match (part, field) {
            ("metadata", "" | "labels") => Self::labels(),
            ("metadata", _) if is_unknown_field => Self::labels(),
            ("spec", "") => Self {
                ports: true,
                standing: true,
                labels: None,
            },
            ("spec", "containers" | "initcontainers") => Self {
                ports: true,
                ..Self::default()
            },
            ("spec", "hostnetwork") | ("status", "phase") => Self {
                standing: true,
                ..Self::default()
            },
            _ => Self::default(),
        }
    }

    /// What an error at `path` of a workload leaves open of the pods that are made of it.
    fn of_workload(path: &str, is_unknown_field: bool) -> Self {
        let lower = path.to_ascii_lowercase();
        let in_template = TEMPLATES.iter().find_map(|template| {
            let rest = lower.strip_prefix(template)?;
            rest.starts_with('.').then(|| template.len() + 1)
        });
        if let Some(rest) = in_template.and_then(|start| path.get(start..)) {
            Self::of_pod(rest, is_unknown_field)
        } else if !lower.is_empty() && TEMPLATES.iter().any(|it| it.starts_with(&lower)) {
            // What holds the template is not what it should be.
            Self {
                labels: Some(UnknownLabels::others()),
                ports: true,
                standing: true,
            }
        } else {
            Self::default()
        }
    }

    fn labels() -> Self {
        Self {
            labels: Some(UnknownLabels::others()),
            ..Self::default()
        }
    }

    fn note(&self, pod: &PodKey, gaps: &mut Gaps) {
        if let Some(unknown) = &self.labels {
            gaps.lose_labels(pod.clone(), unknown);
        }
        if self.ports {
            gaps.ports.insert(pod.clone());
        }
        if self.standing {
            gaps.standing.insert(pod.clone());
        }
    }
}

/// Where workloads have the template of their pods, in lower case.
const TEMPLATES: [&str; 2] = ["spec.template", "spec.jobtemplate.spec.template"];

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(open: &Open, labels: Option<&UnknownLabels>, ports: bool, standing: bool) {
        assert_eq!(open.labels.as_ref(), labels);
        assert_eq!((open.ports, open.standing), (ports, standing));
    }

    #[test]
    fn what_is_open_follows_from_where_the_error_is() {
        let others = UnknownLabels::others();
        let app = UnknownLabels::values(["app".into()]);
        let of_pod = |path| Open::of_pod(path, false);
        check(&of_pod("metadata.labels[app]"), Some(&app), false, false);
        check(&of_pod("metadata.labels"), Some(&others), false, false);
        check(&of_pod("metadata.ownerReferences"), None, false, false);
        let misspelt = Open::of_pod("metadata.lables", true);
        check(&misspelt, Some(&others), false, false);
        let ports = of_pod("spec.containers[0].ports[0].containerPort");
        check(&ports, None, true, false);
        check(&of_pod("spec.hostnetwork"), None, false, true);
        check(&of_pod("spec.nodeName"), None, false, false);
        let of_workload = |path| Open::of_workload(path, false);
        let label = of_workload("spec.jobTemplate.spec.template.metadata.labels[app]");
        check(&label, Some(&app), false, false);
        let ports = of_workload("spec.template.spec.initContainers[0].ports");
        check(&ports, None, true, false);
        check(&of_workload("spec.template"), Some(&others), true, true);
        check(&of_workload("spec.replicas"), None, false, false);
        check(&of_workload("spec.selector"), None, false, false);
    }
}
