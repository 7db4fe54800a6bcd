// SPDX-License-Identifier: Apache-2.0
//! `tables-too-large`: reports clusters whose verdict tables do not fit the datapath of a node.

use super::{Lint, context::Context};
use crate::{
    compile::{Scope, compile},
    diagnostic::{Diagnostic, Severity},
    lower::{Capacity, Reasons, lower},
};

pub(super) const LINT: Lint = Lint {
    code: "NPA053",
    name: "tables-too-large",
    severity: Severity::Error,
    what: "Reports clusters whose verdict tables do not fit the datapath of a node.",
    why: "The agent keeps the last tables that fit, and new policies do not take effect.",
    example: "Tens of thousands of distinct blocks with exceptions",
    instead: "Fewer distinct peers, or a larger capacity.",
};

pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Diagnostic>) {
    // Small inputs fit, and compiling for every node is not for nothing.
    if context.evaluator.rule_count() < SMALL {
        return;
    }
    let capacity = Capacity::default();
    for name in context.snapshot.nodes.keys() {
        let tables = compile(context.snapshot, &Scope::Node(name.clone()));
        let Err(error) = lower(&tables, &capacity, &mut Reasons::default()) else {
            continue;
        };
        findings.push(Diagnostic {
            id: LINT.name,
            severity: LINT.severity,
            message: format!("the tables of node `{name}` do not fit: {error}"),
            object: None,
            path: String::new(),
            at: None,
            help: None,
            is_refused: false,
        });
        return;
    }
}

/// Rules that fit whatever they are.
const SMALL: usize = 2_000;
