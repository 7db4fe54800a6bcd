// SPDX-License-Identifier: Apache-2.0
//! What gets through between two different classes? Every combination of what the two sides say is
//! worked out once.

use std::collections::HashMap;

use policy_compiler::{
    partial::{Evaluator, Grid, Party},
    portmap::PortSet,
};

use super::classes::{Class, Families, Kinds, Sets, merge_families};

/// What the two sides say in one family: numbers of partitions.
type Sides = (u32, u32);

/// The cells between different classes.
pub struct Pairs {
    /// One per family.
    grids: Vec<Grid>,
    /// By class: in which families it has an address, as bits.
    families: Vec<u8>,
    /// The families in which classes meet that are not outside the cluster, as bits.
    inside: u8,
    /// By class: whether it is outside the cluster.
    external: Vec<bool>,
    /// By class: the number in `questions` of what is asked about toward it.
    asked: Vec<usize>,
    questions: Vec<Option<PortSet>>,
    known: HashMap<([Option<Sides>; 2], usize), u32>,
}

impl Pairs {
    /// Asks about every pair of classes, family by family, and of the destination about what `asked` says;
    /// `None` is everything.
    pub fn new(
        evaluator: &Evaluator<'_>,
        classes: &[Class],
        families: &Families,
        asked: &dyn Fn(&Class) -> Option<PortSet>,
    ) -> Self {
        let grids = (0..families.all().count()).map(|family| {
            let seen = classes.iter().filter_map(|class| class.party(family));
            let parties: Vec<&Party> = seen.collect();
            evaluator.grid(&parties)
        });
        let mut questions: Vec<Option<PortSet>> = Vec::new();
        let asked = classes.iter().map(|class| {
            let asked = asked(class);
            let known = questions.iter().position(|known| *known == asked);
            known.unwrap_or_else(|| {
                questions.push(asked);
                questions.len() - 1
            })
        });
        let asked = asked.collect();
        let bits = |class: &Class| {
            let has = class.parties().map(|(_, party)| party.has_family());
            has.enumerate()
                .fold(0, |bits, (family, has)| bits | u8::from(has) << family)
        };
        Self {
            grids: grids.collect(),
            families: classes.iter().map(bits).collect(),
            inside: (0..families.inside.len()).fold(0, |bits, family| bits | 1 << family),
            external: classes.iter().map(|class| class.external).collect(),
            asked,
            questions,
            known: HashMap::new(),
        }
    }

    /// The number of the cell from one class to another.
    pub fn between(&mut self, from: usize, to: usize, sets: &mut Sets, kinds: &mut Kinds) -> u32 {
        let of = |class: usize| self.families.get(class).copied().unwrap_or_default();
        let is_external = |class: usize| self.external.get(class) == Some(&true);
        let families = match (is_external(from), is_external(to)) {
            (false, false) => of(from) & of(to) & self.inside,
            (true, false) => of(from),
            (false, true) => of(to),
            (true, true) => of(from) & of(to),
        };
        let mut sides = [None; 2];
        for (family, (grid, sides)) in self.grids.iter().zip(&mut sides).enumerate() {
            if families >> family & 1 == 1 {
                *sides = Some(grid.pair(from, to));
            }
        }
        let question = self.asked.get(to).copied().unwrap_or_default();
        let (grids, questions) = (&self.grids, &self.questions);
        *self.known.entry((sides, question)).or_insert_with(|| {
            let asked = questions.get(question).and_then(Option::as_ref);
            let answers = grids.iter().zip(sides).filter_map(|(grid, sides)| {
                let (allowed, unknown) = grid.through(sides?);
                Some(match asked {
                    None => (allowed, unknown),
                    Some(asked) => (allowed.intersection(asked), unknown.intersection(asked)),
                })
            });
            kinds.number(merge_families(sets, answers.collect(), asked))
        })
    }
}
