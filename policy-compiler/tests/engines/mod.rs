// SPDX-License-Identifier: Apache-2.0
//! Everything that can judge a flow, behind one trait: what the corpus and the properties run on.

use policy_compiler::{
    Flow, Snapshot, Trace, Verdict,
    compile::{Scope, compile},
    reach::Reach,
    reference,
};

/// A way to judge flows.
pub(crate) trait Engine {
    /// The name that a corpus case skips the engine by.
    fn name(&self) -> &'static str;

    /// Prepares `snapshot` for questions.
    fn load<'a>(&self, snapshot: &'a Snapshot) -> Box<dyn Fn(&Flow) -> Answer + 'a>;
}

/// What an engine says of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "answers are looked at one at a time"
)]
pub(crate) enum Answer {
    /// The verdict with the reasons of both directions.
    Trace(Trace),
    /// The verdict only.
    #[expect(dead_code, reason = "engines without reasons are yet to come")]
    Verdict(Verdict),
    /// The engine cannot be asked, and why.
    #[expect(dead_code, reason = "no engine is that limited yet")]
    Skip(&'static str),
}

/// Every engine of this crate, the oracle first.
pub(crate) fn all() -> Vec<Box<dyn Engine>> {
    vec![Box::new(Oracle), Box::new(Compiled), Box::new(Tabled)]
}

/// [`reference::evaluate`].
struct Oracle;

impl Engine for Oracle {
    fn name(&self) -> &'static str {
        "reference"
    }

    fn load<'a>(&self, snapshot: &'a Snapshot) -> Box<dyn Fn(&Flow) -> Answer + 'a> {
        Box::new(|flow| Answer::Trace(reference::evaluate(snapshot, flow)))
    }
}

/// [`Reach`], which compiles one pair of endpoints at a time.
struct Compiled;

impl Engine for Compiled {
    fn name(&self) -> &'static str {
        "reach"
    }

    fn load<'a>(&self, snapshot: &'a Snapshot) -> Box<dyn Fn(&Flow) -> Answer + 'a> {
        let reach = Reach::new(snapshot);
        Box::new(move |flow| Answer::Trace(reach.decide(flow)))
    }
}

/// [`compile`], the tables of the whole cluster.
struct Tabled;

impl Engine for Tabled {
    fn name(&self) -> &'static str {
        "tables"
    }

    fn load<'a>(&self, snapshot: &'a Snapshot) -> Box<dyn Fn(&Flow) -> Answer + 'a> {
        let tables = compile(snapshot, &Scope::Cluster);
        Box::new(move |flow| Answer::Trace(tables.evaluate(snapshot, flow)))
    }
}
