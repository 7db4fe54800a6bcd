// SPDX-License-Identifier: Apache-2.0
//! What is said of one direction of a pair, before names are put to it?

use policy_compiler::{
    Decision,
    model::Direction,
    partial::{Evaluator, Fact, Outcome, Party},
    portmap::{PortMap, PortSet},
};

use super::Side;
use crate::flow::is_nothing;

/// One direction of a pair of ends: the same for all pairs whose ends play the same parts in it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Told {
    /// Parts of what was asked, each with its reason.
    parts: Vec<(PortSet, Decision)>,
    /// Parts that missing facts decide.
    unknown: Vec<(PortSet, Vec<Fact>)>,
    assumptions: Vec<&'static str>,
}

impl Told {
    /// What `outcomes` say of the part that was asked about. `otherwise` says what they were if blocks
    /// did not match pods, or did, whichever is not assumed.
    pub fn new(
        evaluator: &Evaluator<'_>,
        direction: Direction,
        subject: &Party,
        peer: &Party,
        outcomes: &PortMap<Outcome>,
        otherwise: impl FnOnce() -> PortMap<Outcome>,
        asked: &PortSet,
    ) -> Self {
        let leaning = evaluator.leans_on(direction, subject, peer);
        let mut told = Self {
            parts: Vec::new(),
            unknown: Vec::new(),
            assumptions: Vec::new(),
        };
        if leaning.blocks_match_pods && otherwise() != *outcomes {
            told.assumptions
                .push(if evaluator.assumptions().blocks_match_pods {
                    "ipblock-matches-pods"
                } else {
                    "ipblock-matches-pods=no"
                });
        }
        if leaning.local_node_egress {
            told.assumptions
                .push(if evaluator.snapshot().options.local_node_egress {
                    "local-node-egress=allow"
                } else {
                    "local-node-egress"
                });
        }
        for (part, outcome) in grouped(outcomes, asked) {
            let decision = evaluator.decision(direction, subject, outcome);
            match outcome {
                Outcome::Unknown(facts) => told.unknown.push((part, facts.clone())),
                Outcome::Decided { .. } => told.parts.extend(decision.map(|it| (part, it))),
            }
        }
        told.parts.sort_by_key(|(_, decision)| decision.verdict);
        told
    }

    /// The switches that it leans on.
    pub fn assumptions(&self) -> &[&'static str] {
        &self.assumptions
    }

    /// Whether nothing it says names the ends: facts about them are not missing.
    pub fn is_nameless(&self) -> bool {
        let mut facts = self.unknown.iter().flat_map(|(_, facts)| facts);
        facts.all(|fact| match fact {
            Fact::Doubt(_) => true,
            Fact::PeerAddress
            | Fact::PeerNode
            | Fact::PeerLabels
            | Fact::PeerPorts
            | Fact::PeerStanding
            | Fact::SubjectNode
            | Fact::SubjectLabels
            | Fact::SubjectPorts
            | Fact::SubjectStanding => false,
        })
    }

    /// The same of two ends.
    pub fn side(&self, evaluator: &Evaluator<'_>, subject: &Party, peer: &Party) -> Side {
        let unknown = self.unknown.iter().map(|(part, facts)| {
            let facts = facts.iter();
            let words = facts.map(|fact| evaluator.describe(*fact, subject, peer));
            (part.clone(), words.collect())
        });
        Side {
            parts: self.parts.clone(),
            unknown: unknown.collect(),
            denial: None,
        }
    }
}

/// The distinct outcomes of a direction within what is asked, in order of their first port.
fn grouped<'o>(
    outcomes: &'o PortMap<Outcome>,
    asked: &PortSet,
) -> impl Iterator<Item = (PortSet, &'o Outcome)> {
    let mut distinct: Vec<&Outcome> = Vec::new();
    for (_, outcome) in outcomes.runs() {
        if !distinct.contains(&outcome) {
            distinct.push(outcome);
        }
    }
    let parts = distinct.into_iter().map(|outcome| {
        let part = outcomes.map(|at| at == outcome).intersection(asked);
        (part, outcome)
    });
    parts.filter(|(part, _)| !is_nothing(part))
}
