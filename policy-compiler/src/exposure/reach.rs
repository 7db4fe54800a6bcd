// SPDX-License-Identifier: Apache-2.0
//! What may an audience of several, or in several address families, open to a target of several?

use crate::{
    model::Protocol,
    partial::{Connection, Evaluator, Outcome, Party},
    portmap::PortSet,
};

/// What an audience may open to a target.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reach {
    /// Whoever of the audience, to whatever replica, in every address family.
    pub always: PortSet,
    /// By some of the audience, to some replica or in some family only.
    pub sometimes: PortSet,
    /// Missing facts decide.
    pub unknown: PortSet,
    /// Those facts in words, sorted.
    pub missing: Vec<String>,
}

/// Whether one port is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passage {
    /// To everybody.
    Open,
    /// To some, or to some replica, or in some family.
    Partly,
    /// To nobody.
    Closed,
    /// These facts decide.
    Unknown(Vec<String>),
}

impl Reach {
    /// Nothing may be opened.
    pub fn nothing() -> Self {
        Self {
            always: PortSet::uniform(false),
            sometimes: PortSet::uniform(false),
            unknown: PortSet::uniform(false),
            missing: Vec::new(),
        }
    }

    /// Everything may be opened.
    pub fn everything() -> Self {
        Self {
            always: PortSet::uniform(true),
            ..Self::nothing()
        }
    }

    /// What one party may open to another.
    pub(super) fn of(evaluator: &Evaluator<'_>, source: &Party, target: &Party) -> Self {
        Self::of_connection(
            evaluator,
            source,
            target,
            &evaluator.connection(source, target, false),
        )
    }

    /// As [`Reach::of`], of a connection that was judged already.
    pub(super) fn of_connection(
        evaluator: &Evaluator<'_>,
        source: &Party,
        target: &Party,
        connection: &Connection,
    ) -> Self {
        let unknown = connection.unknown();
        let mut missing = Vec::new();
        if !unknown.is_empty() {
            for (map, subject, peer) in [
                (&connection.egress, source, target),
                (&connection.ingress, target, source),
            ] {
                for (_, outcome) in map.runs() {
                    if let Outcome::Unknown(facts) = outcome {
                        let words = facts
                            .iter()
                            .map(|fact| evaluator.describe(*fact, subject, peer));
                        missing.extend(words);
                    }
                }
            }
            missing.sort();
            missing.dedup();
        }
        Self {
            always: connection.allowed(),
            sometimes: PortSet::uniform(false),
            unknown,
            missing,
        }
    }

    /// What several have in common, and what only some of them may; nothing if there are none.
    pub fn merge<'r>(all: impl IntoIterator<Item = &'r Self>) -> Self {
        let mut all = all.into_iter();
        let Some(first) = all.next() else {
            return Self::nothing();
        };
        let mut merged = first.clone();
        for reach in all {
            if *reach == merged {
                continue;
            }
            let any = [&merged, reach]
                .map(|reach| reach.always.union(&reach.sometimes))
                .iter()
                .fold(PortSet::uniform(false), |any, own| any.union(own));
            merged.always = merged.always.intersection(&reach.always);
            merged.sometimes = any.minus(&merged.always);
            merged.unknown = merged.unknown.union(&reach.unknown);
            merged.missing.extend(reach.missing.iter().cloned());
        }
        merged.missing.sort();
        merged.missing.dedup();
        merged
    }

    /// Whether nothing gets through, for certain.
    pub fn is_nothing(&self) -> bool {
        self.always.is_empty() && self.sometimes.is_empty() && self.unknown.is_empty()
    }

    /// What gets through for somebody, for certain.
    pub fn certain(&self) -> PortSet {
        self.always.union(&self.sometimes)
    }

    /// What may get through for somebody, as far as is known.
    pub fn possible(&self) -> PortSet {
        self.certain().union(&self.unknown)
    }

    /// Whether one port is open.
    pub fn passage(&self, protocol: Protocol, port: u16) -> Passage {
        if *self.always.at(protocol, port) {
            Passage::Open
        } else if *self.sometimes.at(protocol, port) {
            Passage::Partly
        } else if *self.unknown.at(protocol, port) {
            Passage::Unknown(self.missing.clone())
        } else {
            Passage::Closed
        }
    }
}
