// SPDX-License-Identifier: Apache-2.0
//! Which cluster-scoped policies can disagree about a flow? Those of one tier and priority whose order
//! among each other the API leaves open.
//!
//! The answer follows from the policies alone, so that it does not change with every pod.

use policy_compiler::model::{
    Action, AdminPeer, AdminPolicy, AdminPort, AdminRule, Direction, Subject,
};

/// Whether some pod could be a subject of both, and some flow of it get another verdict from each.
pub(super) fn can_disagree(a: &AdminPolicy, b: &AdminPolicy) -> bool {
    subjects_meet(&a.subject, &b.subject)
        && Direction::BOTH.into_iter().any(|direction| {
            let pairs = a.rules(direction).iter().flat_map(|mine| {
                let theirs = b.rules(direction).iter();
                theirs.map(move |theirs| (mine, theirs))
            });
            pairs
                .into_iter()
                .any(|(mine, theirs)| rules_differ(mine, theirs))
        })
}

fn subjects_meet(a: &Subject, b: &Subject) -> bool {
    match (a, b) {
        (
            Subject::Pods { namespaces, pods },
            Subject::Pods {
                namespaces: other_namespaces,
                pods: other_pods,
            },
        ) => namespaces.meets(other_namespaces) && pods.meets(other_pods),
        (Subject::Nothing, _) | (_, Subject::Nothing) => false,
    }
}

fn rules_differ(a: &AdminRule, b: &AdminRule) -> bool {
    let (Some(mine), Some(theirs)) = (Effect::of(a), Effect::of(b)) else {
        return false;
    };
    mine.action != theirs.action
        && (mine.is_everything || theirs.is_everything || (peers_meet(a, b) && ports_meet(a, b)))
}

/// What a rule does to what it matches.
struct Effect {
    action: Action,
    is_everything: bool,
}

impl Effect {
    /// `None` if the rule matches nothing.
    fn of(rule: &AdminRule) -> Option<Self> {
        let is_closed = rule.closed.is_some() || rule.has_domain_names();
        match rule.action {
            Action::Allow if is_closed => None,
            action => Some(Self {
                action: if is_closed { Action::Deny } else { action },
                is_everything: is_closed,
            }),
        }
    }
}

fn peers_meet(a: &AdminRule, b: &AdminRule) -> bool {
    a.peers.iter().any(|mine| {
        let mut theirs = b.peers.iter();
        theirs.any(|theirs| match (mine, theirs) {
            (
                AdminPeer::Pods { namespaces, pods },
                AdminPeer::Pods {
                    namespaces: other_namespaces,
                    pods: other_pods,
                },
            ) => namespaces.meets(other_namespaces) && pods.meets(other_pods),
            (AdminPeer::Nodes(mine), AdminPeer::Nodes(theirs)) => mine.meets(theirs),
            (AdminPeer::Networks(mine), AdminPeer::Networks(theirs)) => mine.iter().any(|mine| {
                let mut theirs = theirs.iter();
                theirs.any(|theirs| mine.contains(theirs) || theirs.contains(mine))
            }),
            // Pods and nodes have addresses.
            (AdminPeer::Networks(_), AdminPeer::Pods { .. } | AdminPeer::Nodes(_))
            | (AdminPeer::Pods { .. } | AdminPeer::Nodes(_), AdminPeer::Networks(_)) => true,
            (AdminPeer::Pods { .. }, AdminPeer::Nodes(_))
            | (AdminPeer::Nodes(_), AdminPeer::Pods { .. })
            | (AdminPeer::DomainNames(_), _)
            | (_, AdminPeer::DomainNames(_)) => false,
        })
    })
}

fn ports_meet(a: &AdminRule, b: &AdminRule) -> bool {
    let (Some(mine), Some(theirs)) = (&a.ports, &b.ports) else {
        return true;
    };
    mine.iter().any(|mine| {
        theirs.iter().any(|theirs| match (mine, theirs) {
            (AdminPort::Range(protocol, mine), AdminPort::Range(other, theirs)) => {
                protocol == other
                    && mine.start().max(theirs.start()) <= mine.end().min(theirs.end())
            }
            // A pod may give any port any name.
            (AdminPort::Named(_), _) | (_, AdminPort::Named(_)) => true,
        })
    })
}

#[cfg(test)]
mod tests {
    use policy_compiler::{
        manifest::Locator,
        parse::{self, Settings},
    };
    use serde_json::{Value, json};

    use super::*;

    fn policy(team: &str, action: &str, from: &Value, port: u16) -> AdminPolicy {
        let value = json!({
            "apiVersion": "policy.networking.k8s.io/v1alpha1", "kind": "AdminNetworkPolicy",
            "metadata": {"name": "p"},
            "spec": {
                "priority": 1,
                "subject": {"namespaces": {"matchLabels": {"team": team}}},
                "ingress": [{
                    "action": action, "from": [from],
                    "ports": [{"portNumber": {"protocol": "TCP", "port": port}}],
                }],
            },
        });
        let parsed = parse::admin_network_policy(&value, &Locator::none(), &Settings::default());
        parsed.object.unwrap()
    }

    fn pods(app: &str) -> Value {
        json!({"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": app}}}})
    }

    #[track_caller]
    fn check(a: &AdminPolicy, b: &AdminPolicy, expected: bool) {
        assert_eq!(can_disagree(a, b), expected);
        assert_eq!(can_disagree(b, a), expected);
    }

    #[test]
    fn only_what_can_meet_can_disagree() {
        let first = policy("a", "Deny", &pods("x"), 80);
        check(&first, &policy("a", "Allow", &pods("x"), 80), true);
        check(
            &first,
            &policy("a", "Pass", &json!({"namespaces": {}}), 80),
            true,
        );
        check(&first, &policy("a", "Deny", &pods("x"), 80), false);
        check(&first, &policy("b", "Allow", &pods("x"), 80), false);
        check(&first, &policy("a", "Allow", &pods("y"), 80), false);
        check(&first, &policy("a", "Allow", &pods("x"), 81), false);
    }

    #[test]
    fn rules_that_fail_closed_count_as_what_they_do() {
        let unknown = json!({"services": {"name": "x"}});
        let denies_all = policy("a", "Pass", &unknown, 80);
        check(&denies_all, &policy("a", "Allow", &pods("y"), 443), true);
        check(&denies_all, &policy("a", "Deny", &pods("y"), 443), false);
        let matches_nothing = policy("a", "Allow", &unknown, 80);
        check(
            &matches_nothing,
            &policy("a", "Deny", &pods("y"), 80),
            false,
        );
    }
}
