// SPDX-License-Identifier: Apache-2.0
//! Of rules that together match something, which are the fewest that do?

use std::collections::BTreeSet;

use super::Ports;

/// What covers a piece: positions of rules, and the ports they match it on.
type Covering<'a> = Vec<(usize, &'a Ports)>;

/// Steps that the search for fewer rules takes at most. Few rules cover another one together, and then
/// it ends long before.
const STEPS: usize = 10_000;

/// The fewest rules that cover every piece on `ports`, sorted; all rules together do. If the search does
/// not end in time, some of which none can be left out.
pub(super) fn of(ports: &Ports, pieces: &[Covering<'_>]) -> Vec<usize> {
    let found = without_needless(ports, pieces);
    let mut search = Search {
        ports,
        pieces,
        chosen: Vec::new(),
        steps: STEPS,
    };
    for size in 1..found.len() {
        if search.completes(size) {
            search.chosen.sort_unstable();
            return search.chosen;
        }
    }
    found
}

/// Rules that cover every piece, of which none can be left out.
fn without_needless(of: &Ports, pieces: &[Covering<'_>]) -> Vec<usize> {
    let mut used: BTreeSet<usize> = BTreeSet::new();
    for covering in pieces {
        let alone = |(_, ports): &&(usize, &Ports)| of.minus(ports).is_empty();
        let mut alone = covering.iter().filter(alone).peekable();
        if let Some((first, _)) = alone.peek().copied() {
            // One that does it alone is the smallest explanation, and one is enough for many pieces.
            if !alone.any(|(at, _)| used.contains(at)) {
                used.insert(*first);
            }
            continue;
        }
        let mut left = of.clone();
        for (at, ports) in covering {
            let after = left.minus(ports);
            if after != left {
                used.insert(*at);
                left = after;
            }
        }
    }
    for at in used.clone().into_iter().rev() {
        let others = |covering: &Covering<'_>| {
            let others = covering.iter().filter(|(other, _)| *other != at);
            let others = others.filter(|(other, _)| used.contains(other)).copied();
            of.left_by(&others.collect::<Vec<_>>()).is_empty()
        };
        if pieces.iter().all(others) {
            used.remove(&at);
        }
    }
    used.into_iter().collect()
}

struct Search<'a> {
    ports: &'a Ports,
    pieces: &'a [Covering<'a>],
    chosen: Vec<usize>,
    /// Steps that are left.
    steps: usize,
}

impl Search<'_> {
    /// Whether `more` rules can be added to those chosen so that nothing is left; chooses them.
    fn completes(&mut self, more: usize) -> bool {
        let Some(left) = self.steps.checked_sub(1) else {
            return false;
        };
        self.steps = left;
        // Some rule has to cover more of the first piece that something is left of.
        let open = self.pieces.iter().find_map(|covering| {
            let chosen = covering.iter().filter(|(at, _)| self.chosen.contains(at));
            let left = self.ports.left_by(&chosen.copied().collect::<Vec<_>>());
            (!left.is_empty()).then_some((covering, left))
        });
        let Some((covering, left)) = open else {
            return true;
        };
        if more == 0 {
            return false;
        }
        for (at, ports) in covering {
            if left.minus(ports) != left {
                self.chosen.push(*at);
                if self.completes(more - 1) {
                    return true;
                }
                self.chosen.pop();
            }
        }
        false
    }
}
