// SPDX-License-Identifier: Apache-2.0
//! Who talks to whom, on which ports? The grammar of SRC, DST and PORT.

mod port;
mod resolve;

use std::{net::IpAddr, str::FromStr, sync::Arc};

use ipnet::IpNet;
use policy_compiler::model::{Operator, Requirement, Selector};

pub use port::{PortQuery, is_all, is_nothing, protocol_of, spell_ports};
pub use resolve::{Group, Resolved, internet, resolve};

use crate::exit::UsageError;

/// One end of a question, as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `ns/pod`.
    Pod {
        /// Namespace; the default one if not written.
        namespace: Option<Arc<str>>,
        /// Pod.
        name: Arc<str>,
    },
    /// `ns/kind/name`.
    Workload {
        /// Namespace.
        namespace: Arc<str>,
        /// Canonical kind, `Deployment`.
        kind: &'static str,
        /// Workload.
        name: Arc<str>,
    },
    /// `ns/svc/name[:port]`.
    Service {
        /// Namespace.
        namespace: Arc<str>,
        /// Service.
        name: Arc<str>,
    },
    /// `ns?selector`; every namespace if none is written.
    Set {
        /// Namespace.
        namespace: Option<Arc<str>>,
        /// Labels.
        selector: Selector,
    },
    /// An address.
    Address(IpAddr),
    /// A range of addresses.
    Range(IpNet),
    /// Every address that is no pod, Service or node.
    Internet,
    /// A node's own network stack.
    Node(Arc<str>),
    /// Everything.
    Any,
}

/// Parses a target and, after a colon, its port.
pub fn parse_target(text: &str) -> Result<(Target, Option<String>), UsageError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(UsageError::new("an end of the flow is empty"));
    }
    if let Some(target) = address(text) {
        return Ok((target, None));
    }
    if let Some(node) = text.strip_prefix("node:") {
        return Ok((Target::Node(node.into()), None));
    }
    if let Some((namespace, selector)) = text.split_once('?') {
        let selector = parse_selector(selector)?;
        let namespace = match namespace {
            "" | "*" => None,
            name => Some(name.into()),
        };
        return Ok((
            Target::Set {
                namespace,
                selector,
            },
            None,
        ));
    }
    let (rest, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => (address, port.strip_prefix(':')),
        None => match text.rsplit_once(':') {
            Some((rest, port)) => (rest, Some(port)),
            None => (text, None),
        },
    };
    let port = port.map(str::to_owned);
    if let Some(target) = address(rest) {
        return Ok((target, port));
    }
    let target = match rest.split('/').collect::<Vec<_>>().as_slice() {
        ["internet"] => Target::Internet,
        ["any"] => Target::Any,
        [name] if is_name(name) => Target::Pod {
            namespace: None,
            name: (*name).into(),
        },
        [namespace, name] if is_name(namespace) && is_name(name) => Target::Pod {
            namespace: Some((*namespace).into()),
            name: (*name).into(),
        },
        [namespace, kind, name] if is_name(namespace) && is_name(name) => {
            let (namespace, name) = ((*namespace).into(), (*name).into());
            match canonical_kind(kind) {
                Some("Service") => Target::Service { namespace, name },
                Some("Pod") => Target::Pod {
                    namespace: Some(namespace),
                    name,
                },
                Some(kind) => Target::Workload {
                    namespace,
                    kind,
                    name,
                },
                None => {
                    return Err(UsageError::new(format!("`{kind}` is no kind of workload"))
                        .help("pod, deployment, statefulset, daemonset, replicaset, job, cronjob, svc"));
                }
            }
        }
        _ => {
            return Err(
                UsageError::new(format!("`{text}` names no end of a flow")).help(
                    "ns/pod, ns/kind/name, ns/svc/name[:port], ns?label=value, an address, a CIDR, \
                 internet, node:NAME, any",
                ),
            );
        }
    };
    Ok((target, port))
}

/// Parses `app=web,tier!=db,env in (a,b),!legacy`.
pub fn parse_selector(text: &str) -> Result<Selector, UsageError> {
    let bad = || UsageError::new(format!("`{text}` is no label selector"));
    let mut requirements = Vec::new();
    for term in split_terms(text) {
        let term = term.trim();
        if term.is_empty() {
            continue;
        }
        let requirement = |key: &str, operator, values: Vec<&str>| Requirement {
            key: key.trim().into(),
            operator,
            values: values
                .into_iter()
                .map(|value| value.trim().into())
                .collect(),
        };
        let set = term.strip_suffix(')').and_then(|term| term.split_once('('));
        requirements.push(if let Some((head, values)) = set {
            match head.split_whitespace().collect::<Vec<_>>().as_slice() {
                [key, "in"] => requirement(key, Operator::In, values.split(',').collect()),
                [key, "notin"] => requirement(key, Operator::NotIn, values.split(',').collect()),
                _ => return Err(bad()),
            }
        } else if let Some((key, value)) = term.split_once("!=") {
            requirement(key, Operator::NotIn, vec![value])
        } else if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
            requirement(key, Operator::In, vec![value])
        } else if let Some(key) = term.strip_prefix('!') {
            requirement(key, Operator::DoesNotExist, Vec::new())
        } else if term.contains(char::is_whitespace) {
            return Err(bad());
        } else {
            requirement(term, Operator::Exists, Vec::new())
        });
    }
    Ok(Selector::new(requirements))
}

/// The kind a short or long name stands for, as kubectl reads it.
pub fn canonical_kind(name: &str) -> Option<&'static str> {
    Some(match name.to_ascii_lowercase().as_str() {
        "pod" | "pods" | "po" => "Pod",
        "deployment" | "deployments" | "deploy" => "Deployment",
        "statefulset" | "statefulsets" | "sts" => "StatefulSet",
        "daemonset" | "daemonsets" | "ds" => "DaemonSet",
        "replicaset" | "replicasets" | "rs" => "ReplicaSet",
        "replicationcontroller" | "replicationcontrollers" | "rc" => "ReplicationController",
        "deploymentconfig" | "deploymentconfigs" | "dc" => "DeploymentConfig",
        "rollout" | "rollouts" | "ro" => "Rollout",
        "job" | "jobs" => "Job",
        "cronjob" | "cronjobs" | "cj" => "CronJob",
        "service" | "services" | "svc" => "Service",
        _ => return None,
    })
}

fn address(text: &str) -> Option<Target> {
    if let Ok(address) = IpAddr::from_str(text) {
        return Some(Target::Address(address.to_canonical()));
    }
    let network = IpNet::from_str(text).ok()?.trunc();
    Some(Target::Range(network))
}

/// Commas separate terms, except inside parentheses.
fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut depth) = (0, 0u32);
    for (at, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                terms.extend(text.get(start..at));
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.extend(text.get(start..));
    terms
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let shown = match parse_target(text) {
            Ok((target, port)) => format!("{target:?} {port:?}"),
            Err(error) => error.to_string(),
        };
        assert_eq!(shown, expected);
    }

    #[test]
    fn every_form_is_read() {
        check("x/a", r#"Pod { namespace: Some("x"), name: "a" } None"#);
        check("a", r#"Pod { namespace: None, name: "a" } None"#);
        check(
            "x/a:80",
            r#"Pod { namespace: Some("x"), name: "a" } Some("80")"#,
        );
        check(
            "x/deploy/web",
            r#"Workload { namespace: "x", kind: "Deployment", name: "web" } None"#,
        );
        check(
            "x/svc/web:http",
            r#"Service { namespace: "x", name: "web" } Some("http")"#,
        );
        check("::1", "Address(::1) None");
        check("::ffff:10.0.0.1", "Address(10.0.0.1) None");
        check("[::1]:80", r#"Address(::1) Some("80")"#);
        check("10.1.2.3/8", "Range(10.0.0.0/8) None");
        check("10.1.2.3:53", r#"Address(10.1.2.3) Some("53")"#);
        check("node:n1", r#"Node("n1") None"#);
        check("internet", "Internet None");
        check("any:443", r#"Any Some("443")"#);
        check("x/frob/web", "`frob` is no kind of workload");
        check("x/y/z/w", "`x/y/z/w` names no end of a flow");
        check("", "an end of the flow is empty");
    }

    #[test]
    fn selectors_are_kubectls() {
        let selector =
            parse_selector("app=web,tier!=db,env in (a, b),zone notin (c),!old,new").unwrap();
        let shown: Vec<String> = selector
            .requirements()
            .iter()
            .map(|term| format!("{} {:?} {:?}", term.key, term.operator, term.values))
            .collect();
        assert_eq!(
            shown,
            [
                r#"app In ["web"]"#,
                r#"env In ["a", "b"]"#,
                "new Exists []",
                "old DoesNotExist []",
                r#"tier NotIn ["db"]"#,
                r#"zone NotIn ["c"]"#,
            ]
        );
        assert!(parse_selector("a b").is_err());
    }
}
