// SPDX-License-Identifier: Apache-2.0
//! `allow-all-defeats-default-deny`: reports policies that admit everything to every pod of a namespace that another policy closes.

use super::{
    Lint,
    context::{Context, at_words, place},
};
use crate::{
    diagnostic::{Diagnostic, Severity},
    model::{Direction, NetworkPolicy, Selection},
};

pub(super) const LINT: Lint = Lint {
    code: "NPA035",
    name: "allow-all-defeats-default-deny",
    severity: Severity::Warning,
    what: "Reports policies that admit everything to every pod of a namespace that another policy closes.",
    why: "NetworkPolicies only add: one that admits everything makes every other policy of its pods pointless.",
    example: "A default-deny policy, and one with `podSelector: {}` and `ingress: [{}]`",
    instead: "Remove one of the two, or narrow the selector.",
};

pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Diagnostic>) {
    for policies in context.by_namespace().values() {
        for direction in Direction::BOTH {
            let closes = |policy: &&&std::sync::Arc<NetworkPolicy>| {
                !policy.audited
                    && selects_all(policy)
                    && policy.rules(direction).is_some_and(<[_]>::is_empty)
            };
            let Some(closing) = policies.iter().find(closes) else {
                continue;
            };
            for policy in policies.iter().filter(|policy| selects_all(policy)) {
                let rules = policy.rules(direction).unwrap_or_default();
                let open = rules
                    .iter()
                    .position(|rule| rule.peers.is_none() && rule.ports.is_none());
                let Some(index) = open else { continue };
                let message = format!(
                    "everything is admitted, although {}{} closes the namespace",
                    closing.policy_ref(),
                    at_words(closing.at.as_ref())
                );
                let path = format!("spec.{}", place(direction, index));
                let at = rules.get(index).and_then(|rule| rule.at.clone());
                findings.push(LINT.at(message, &policy.policy_ref(), path, at));
            }
        }
    }
}

fn selects_all(policy: &NetworkPolicy) -> bool {
    match &policy.pod_selector {
        Selection::Matching(selector) => selector.is_everything(),
        Selection::Nothing => false,
    }
}
