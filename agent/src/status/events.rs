// SPDX-License-Identifier: Apache-2.0
//! How does somebody who writes NetworkPolicies, which have no status, learn of a problem?

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};

use super::{
    DOMAIN,
    report::fnv1a,
    writer::{count, within_patience},
};
use crate::{
    index::{PolicyRecord, Problem},
    metrics::Metrics,
};

/// Tells every problem of a NetworkPolicy once, as a Warning.
///
/// The name of an Event follows from what it says, so that a second agent, or the same one after a
/// restart, finds it there instead of repeating it.
pub(super) struct Announcer {
    client: Client,
    metrics: Metrics,
    instance: String,
    /// Namespaces and names of Events that were told.
    told: BTreeSet<(String, String)>,
}

impl Announcer {
    pub(super) fn new(client: Client, metrics: Metrics, instance: &str) -> Self {
        Self {
            client,
            metrics,
            instance: instance.to_owned(),
            told: BTreeSet::new(),
        }
    }

    /// Tells what has not been told of `record`; says whether everything was.
    pub(super) async fn announce(&mut self, record: &PolicyRecord) -> bool {
        let mut complete = true;
        for problem in &record.problems {
            let event = event(record, problem, &self.instance);
            let namespace = event.metadata.namespace.clone().unwrap_or_default();
            let name = event.metadata.name.clone().unwrap_or_default();
            if self.told.contains(&(namespace.clone(), name.clone())) {
                continue;
            }
            let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
            let request = async {
                match api.create(&PostParams::default(), &event).await {
                    Ok(_) => Ok("written"),
                    Err(kube::Error::Api(status)) if status.code == 409 => Ok("unchanged"),
                    Err(error) => Err(error),
                }
            };
            match within_patience(request).await {
                Ok(outcome) => {
                    count(&self.metrics, "event", outcome);
                    self.told.insert((namespace, name));
                }
                Err(why) => {
                    count(&self.metrics, "event", "failed");
                    tracing::warn!(policy = %record.policy, %why, "event not written");
                    complete = false;
                }
            }
        }
        complete
    }

    /// Forgets what was told of policies that are gone.
    pub(super) fn forget_all_but(&mut self, policies: &[&PolicyRecord]) {
        if self.told.is_empty() {
            return;
        }
        let current: BTreeSet<(String, String)> = policies
            .iter()
            .flat_map(|record| {
                let names = record.problems.iter();
                names.map(|problem| {
                    let namespace = record.policy.namespace.as_deref().unwrap_or_default();
                    (namespace.to_owned(), event_name(record, problem))
                })
            })
            .collect();
        self.told.retain(|told| current.contains(told));
    }
}

fn event(record: &PolicyRecord, problem: &Problem, instance: &str) -> Event {
    let policy = &record.policy;
    let namespace = policy.namespace.as_deref().map(str::to_owned);
    Event {
        metadata: ObjectMeta {
            name: Some(event_name(record, problem)),
            namespace: namespace.clone(),
            ..ObjectMeta::default()
        },
        action: Some("Compile".to_owned()),
        event_time: Some(MicroTime(Timestamp::now())),
        note: Some(super::conditions::capped(
            problem.message.clone(),
            NOTE_LIMIT,
        )),
        reason: Some(reason(problem)),
        regarding: Some(ObjectReference {
            api_version: Some("networking.k8s.io/v1".to_owned()),
            kind: Some("NetworkPolicy".to_owned()),
            name: Some(policy.name.to_string()),
            namespace,
            uid: Some(record.uid.to_string()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(format!("{DOMAIN}/agent")),
        reporting_instance: Some(super::conditions::capped(instance.to_owned(), 128)),
        type_: Some("Warning".to_owned()),
        ..Event::default()
    }
}

fn event_name(record: &PolicyRecord, problem: &Problem) -> String {
    let said = format!("{}\0{}\0{}", record.uid, problem.id, problem.message);
    // Names of objects are limited to 253 characters.
    let prefix: String = record.policy.name.chars().take(230).collect();
    let prefix = prefix.trim_end_matches(['.', '-']);
    format!("{prefix}.{:016x}", fnv1a(said.bytes()))
}

/// In one word, what a problem comes to.
fn reason(problem: &Problem) -> String {
    match problem.id {
        "named-port-unresolved" => "UnresolvedNamedPort".to_owned(),
        "selects-nothing" | "peer-selects-nothing" => "NeverMatches".to_owned(),
        // What no API server should have taken is read so that it admits nothing.
        _ if problem.is_error => "FailClosedRule".to_owned(),
        id => camel_case(id),
    }
}

/// `host-bits` as `HostBits`.
fn camel_case(id: &str) -> String {
    id.split('-')
        .flat_map(|word| {
            let mut letters = word.chars();
            let first = letters.next().map(|letter| letter.to_ascii_uppercase());
            first.into_iter().chain(letters)
        })
        .collect()
}

/// The API allows 1 KiB.
const NOTE_LIMIT: usize = 1024;

#[cfg(test)]
mod tests {
    use policy_compiler::model::{PolicyKind, PolicyRef};

    use super::*;

    fn record() -> PolicyRecord {
        PolicyRecord {
            uid: "u1".into(),
            ..PolicyRecord::new(PolicyRef {
                kind: PolicyKind::NetworkPolicy,
                namespace: Some("shop".into()),
                name: "web".into(),
            })
        }
    }

    fn problem(message: &str) -> Problem {
        Problem {
            id: "selects-nothing",
            is_error: false,
            message: message.into(),
        }
    }

    #[test]
    fn the_same_problem_has_the_same_event() {
        let (a, b) = (
            event(&record(), &problem("m"), "n1"),
            event(&record(), &problem("m"), "n2"),
        );
        assert_eq!(a.metadata.name, b.metadata.name);
        assert_eq!(a.reason.as_deref(), Some("NeverMatches"));
        let other = event(&record(), &problem("other"), "n1");
        assert_ne!(a.metadata.name, other.metadata.name);
        let mut recreated = record();
        recreated.uid = "u2".into();
        let mut invalid = problem("m");
        (invalid.id, invalid.is_error) = ("invalid-object", true);
        assert_eq!(reason(&invalid), "FailClosedRule");
        invalid.is_error = false;
        assert_eq!(reason(&invalid), "InvalidObject");
        let other = event(&recreated, &problem("m"), "n1");
        assert_ne!(a.metadata.name, other.metadata.name);
    }

    #[test]
    fn names_and_notes_fit() {
        let mut record = record();
        record.policy.name = format!("{}.{}", "a".repeat(229), "b".repeat(20)).into();
        let event = event(&record, &problem(&"x".repeat(5000)), &"n".repeat(300));
        let name = event.metadata.name.unwrap();
        assert!(name.len() <= 253 && !name.contains(".."), "{name}");
        assert_eq!(event.note.unwrap().len(), NOTE_LIMIT);
        assert_eq!(event.reporting_instance.unwrap().len(), 128);
    }
}
