// SPDX-License-Identifier: Apache-2.0
//! Which conditions should a cluster-scoped policy carry?

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::{
    DOMAIN,
    report::{NodeEnforcementSpec, PolicyFailure},
};
use crate::index::PolicyRecord;

/// What the lease holder knows of the nodes: every node that should enforce policies, with its report
/// if it has one.
pub type Fleet = BTreeMap<Arc<str>, Option<NodeEnforcementSpec>>;

/// The conditions of `record`: whether it is understood, and where it is in force. `digest` is the
/// digest of the latest policies, `ties` are the policies of equal priority. Times are kept where the
/// status does not change.
pub fn desired(
    record: &PolicyRecord,
    ties: &[&PolicyRecord],
    fleet: &Fleet,
    digest: &str,
    now: Timestamp,
) -> Vec<Condition> {
    let accepted = accepted(record, ties);
    let programmed = programmed(record, fleet, digest);
    [("Accepted", accepted), ("Programmed", programmed)]
        .into_iter()
        .map(|(name, opinion)| opinion.into_condition(name, record, now))
        .collect()
}

/// Whether two lists of conditions say the same, whenever they were written.
pub fn same(a: &[Condition], b: &[Condition]) -> bool {
    let timeless = |condition: &Condition| Condition {
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
        ..condition.clone()
    };
    a.len() == b.len() && a.iter().map(timeless).eq(b.iter().map(timeless))
}

/// Whether a condition of this type is one of ours.
pub fn is_ours(condition_type: &str) -> bool {
    condition_type
        .strip_prefix(DOMAIN)
        .is_some_and(|rest| rest.starts_with('/'))
}

struct Opinion {
    holds: bool,
    reason: String,
    message: String,
}

impl Opinion {
    fn new(holds: bool, reason: &str, message: impl Into<String>) -> Self {
        Self {
            holds,
            reason: reason.to_owned(),
            message: capped(message.into(), MESSAGE_LIMIT),
        }
    }

    fn into_condition(self, name: &str, record: &PolicyRecord, now: Timestamp) -> Condition {
        let type_ = format!("{DOMAIN}/{name}");
        let status = if self.holds { "True" } else { "False" };
        let before = record
            .conditions
            .iter()
            .find(|condition| condition.type_ == type_ && condition.status == status);
        Condition {
            last_transition_time: before.map_or(Time(now), |condition| {
                condition.last_transition_time.clone()
            }),
            message: self.message,
            observed_generation: Some(record.generation),
            reason: self.reason,
            status: status.to_owned(),
            type_,
        }
    }
}

fn accepted(record: &PolicyRecord, ties: &[&PolicyRecord]) -> Opinion {
    if let Some(why) = &record.rejected {
        return Opinion::new(false, "InvalidSpec", &**why);
    }
    let errors = record.problems.iter().filter(|problem| problem.is_error);
    let errors: Vec<&str> = errors.map(|problem| &*problem.message).collect();
    if !record.unsupported.is_empty() {
        let rules = record.unsupported.iter().map(|rule| &**rule);
        let all: Vec<&str> = rules.chain(errors).collect();
        return Opinion::new(false, "UnsupportedField", all.join("; "));
    }
    if !errors.is_empty() {
        return Opinion::new(false, "InvalidSpec", errors.join("; "));
    }
    if let Some((first, more)) = ties.split_first() {
        let mut message = format!("same priority as {}", first.policy);
        for tie in more {
            let _ = write!(message, ", {}", tie.policy);
        }
        message.push_str("; equal priorities are evaluated by kind, then by name");
        return Opinion::new(true, "PriorityTie", message);
    }
    Opinion::new(true, "Valid", "")
}

fn programmed(record: &PolicyRecord, fleet: &Fleet, digest: &str) -> Opinion {
    if record.rejected.is_some() {
        return Opinion::new(false, "InvalidSpec", "no node enforces the policy");
    }
    let mut done = 0_usize;
    let mut failed = Vec::new();
    let mut pending = Vec::new();
    for (node, report) in fleet {
        let Some(report) = report else {
            pending.push((node, "NoReport", "no agent has reported"));
            continue;
        };
        let failure = report
            .failure
            .as_ref()
            .or_else(|| policy_failure(report, record).map(|failure| &failure.failure));
        match failure {
            Some(failure) => failed.push((node, &*failure.reason, &*failure.message)),
            None if report.policies == digest => done += 1,
            None => pending.push((node, "Pending", "")),
        }
    }

    let mut message = format!("{done}/{} nodes", fleet.len());
    if record.audited {
        message.push_str("; audited, not enforced");
    }
    for (node, reason, detail) in failed.iter().chain(&pending).take(NAMED_NODES) {
        let _ = write!(message, "; {node}: {reason}");
        if !detail.is_empty() {
            let _ = write!(message, " ({detail})");
        }
    }
    match failed.first() {
        Some((_, reason, _)) if failed.iter().all(|(_, other, _)| other == reason) => {
            Opinion::new(false, reason, message)
        }
        Some(_) => Opinion::new(false, "NodesFailed", message),
        None if pending.is_empty() => Opinion::new(true, "AllNodes", message),
        None => Opinion::new(false, "Pending", message),
    }
}

fn policy_failure<'a>(
    report: &'a NodeEnforcementSpec,
    record: &PolicyRecord,
) -> Option<&'a PolicyFailure> {
    report.policy_failures.iter().find(|failure| {
        failure.name == *record.policy.name && failure.kind == record.policy.kind.to_string()
    })
}

pub(super) fn capped(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        let end = (0..=limit - ELLIPSIS.len())
            .rev()
            .find(|end| text.is_char_boundary(*end))
            .unwrap_or(0);
        text.truncate(end);
        text.push_str(ELLIPSIS);
    }
    text
}

/// Bytes of a message, so that a thousand failing nodes do not make a large object.
const MESSAGE_LIMIT: usize = 1024;
/// Nodes a message names at most: the set named then rarely changes while many nodes converge.
const NAMED_NODES: usize = 5;
const ELLIPSIS: &str = "...";

#[cfg(test)]
mod tests {
    use policy_compiler::model::{PolicyKind, PolicyRef};

    use super::{super::report::Failure, *};

    fn record() -> PolicyRecord {
        PolicyRecord {
            generation: 3,
            ..PolicyRecord::new(PolicyRef {
                kind: PolicyKind::AdminNetworkPolicy,
                namespace: None,
                name: "guard".into(),
            })
        }
    }

    fn failure(reason: &str) -> Failure {
        Failure {
            reason: reason.into(),
            message: "m".into(),
        }
    }

    fn node(digest: &str, reason: Option<&str>) -> NodeEnforcementSpec {
        NodeEnforcementSpec {
            policies: digest.into(),
            failure: reason.map(failure),
            ..NodeEnforcementSpec::default()
        }
    }

    #[track_caller]
    fn check(record: &PolicyRecord, fleet: &Fleet, expected: &[(&str, &str, &str, &str)]) {
        let conditions = desired(record, &[], fleet, "new", Timestamp::UNIX_EPOCH);
        let got: Vec<_> = conditions
            .iter()
            .map(|c| (&*c.type_, &*c.status, &*c.reason, &*c.message))
            .collect();
        assert_eq!(got, expected);
        for condition in &conditions {
            assert_eq!(condition.observed_generation, Some(record.generation));
        }
    }

    #[test]
    fn in_force_everywhere() {
        let fleet = Fleet::from([
            ("n1".into(), Some(node("new", None))),
            ("n2".into(), Some(node("new", None))),
        ]);
        check(
            &record(),
            &fleet,
            &[
                ("netpol.internal/Accepted", "True", "Valid", ""),
                (
                    "netpol.internal/Programmed",
                    "True",
                    "AllNodes",
                    "2/2 nodes",
                ),
            ],
        );
    }

    #[test]
    fn a_node_that_lags_or_never_reported_is_pending() {
        let fleet = Fleet::from([
            ("n1".into(), Some(node("new", None))),
            ("n2".into(), Some(node("old", None))),
            ("n3".into(), None),
        ]);
        check(
            &record(),
            &fleet,
            &[
                ("netpol.internal/Accepted", "True", "Valid", ""),
                (
                    "netpol.internal/Programmed",
                    "False",
                    "Pending",
                    "1/3 nodes; n2: Pending; n3: NoReport (no agent has reported)",
                ),
            ],
        );
    }

    #[test]
    fn failures_come_before_pending_nodes() {
        let mut fleet = Fleet::from([
            ("n1".into(), Some(node("old", None))),
            ("n7".into(), Some(node("old", Some("TableOverflow")))),
        ]);
        let accepted = ("netpol.internal/Accepted", "True", "Valid", "");
        let message = "0/2 nodes; n7: TableOverflow (m); n1: Pending";
        check(
            &record(),
            &fleet,
            &[
                accepted,
                (
                    "netpol.internal/Programmed",
                    "False",
                    "TableOverflow",
                    message,
                ),
            ],
        );
        fleet.insert("n1".into(), Some(node("new", Some("NotSynced"))));
        let message = "0/2 nodes; n1: NotSynced (m); n7: TableOverflow (m)";
        check(
            &record(),
            &fleet,
            &[
                accepted,
                (
                    "netpol.internal/Programmed",
                    "False",
                    "NodesFailed",
                    message,
                ),
            ],
        );
    }

    #[test]
    fn an_audited_policy_is_said_not_to_be_enforced() {
        let mut record = record();
        record.audited = true;
        let mut fleet = Fleet::from([("n1".into(), Some(node("new", None)))]);
        let accepted = ("netpol.internal/Accepted", "True", "Valid", "");
        let message = "1/1 nodes; audited, not enforced";
        check(
            &record,
            &fleet,
            &[
                accepted,
                ("netpol.internal/Programmed", "True", "AllNodes", message),
            ],
        );
        fleet.insert("n2".into(), None);
        let message = "1/2 nodes; audited, not enforced; n2: NoReport (no agent has reported)";
        check(
            &record,
            &fleet,
            &[
                accepted,
                ("netpol.internal/Programmed", "False", "Pending", message),
            ],
        );
    }

    #[test]
    fn a_failure_of_one_policy_leaves_the_others_alone() {
        let mut report = node("new", None);
        report.policy_failures.push(PolicyFailure {
            kind: "AdminNetworkPolicy".into(),
            namespace: None,
            name: "guard".into(),
            failure: failure("NoHostInterface"),
        });
        let fleet = Fleet::from([("n1".into(), Some(report))]);
        let message = "0/1 nodes; n1: NoHostInterface (m)";
        check(
            &record(),
            &fleet,
            &[
                ("netpol.internal/Accepted", "True", "Valid", ""),
                (
                    "netpol.internal/Programmed",
                    "False",
                    "NoHostInterface",
                    message,
                ),
            ],
        );
        let mut other = record();
        other.policy.kind = PolicyKind::ClusterNetworkPolicy;
        let conditions = desired(&other, &[], &fleet, "new", Timestamp::UNIX_EPOCH);
        assert_eq!(conditions[1].reason, "AllNodes");
    }

    #[test]
    fn what_fails_closed_is_named() {
        let mut record = record();
        record.unsupported =
            vec!["ingress[0]: from[0]: unknown field `services`, denies everything".into()];
        let conditions = desired(&record, &[], &Fleet::new(), "new", Timestamp::UNIX_EPOCH);
        assert_eq!(conditions[0].status, "False");
        assert_eq!(conditions[0].reason, "UnsupportedField");
        assert_eq!(conditions[0].message, record.unsupported[0]);
    }

    #[test]
    fn a_tie_is_accepted_with_a_warning() {
        let mut other = record();
        other.policy.name = "other".into();
        let conditions = desired(
            &record(),
            &[&other],
            &Fleet::new(),
            "",
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(
            (&*conditions[0].status, &*conditions[0].reason),
            ("True", "PriorityTie")
        );
        assert!(conditions[0].message.contains("AdminNetworkPolicy other"));
    }

    #[test]
    fn transition_times_move_only_with_the_status() {
        let early = Timestamp::UNIX_EPOCH;
        let late = Timestamp::from_second(100).unwrap();
        let mut record = record();
        let pending = Fleet::from([("n1".into(), Some(node("old", None)))]);
        record.conditions = desired(&record, &[], &pending, "new", early);
        let unchanged = desired(&record, &[], &pending, "new", late);
        assert_eq!(unchanged, record.conditions);

        let done = Fleet::from([("n1".into(), Some(node("new", None)))]);
        let changed = desired(&record, &[], &done, "new", late);
        assert!(!same(&changed, &record.conditions));
        assert_eq!(changed[0].last_transition_time, Time(early));
        assert_eq!(changed[1].last_transition_time, Time(late));
    }

    #[test]
    fn messages_are_bounded() {
        let fleet: Fleet = (0..1000)
            .map(|n| {
                (
                    format!("node-{n:04}-{}", "x".repeat(200)).into(),
                    Some(node("old", None)),
                )
            })
            .collect();
        let conditions = desired(&record(), &[], &fleet, "new", Timestamp::UNIX_EPOCH);
        assert!(conditions[1].message.len() <= MESSAGE_LIMIT);
        assert!(conditions[1].message.starts_with("0/1000 nodes; "));
        assert_eq!(capped("ö".repeat(600), 1024).len(), 1023);
    }

    #[test]
    fn conditions_of_others_are_not_ours() {
        assert!(is_ours("netpol.internal/Accepted"));
        assert!(!is_ours("netpol.internals/Accepted"));
        assert!(!is_ours("Ready-In-Zone-a"));
    }
}
