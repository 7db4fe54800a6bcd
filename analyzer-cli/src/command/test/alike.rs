// SPDX-License-Identifier: Apache-2.0
//! Which pairs need not be asked about, because a pair that no policy tells from them was?

use std::collections::BTreeMap;

use policy_compiler::{partial::Evaluator, portmap::PortSet, verdict::Endpoint};

use super::super::matrix::alike;
use crate::flow::{Group, PortQuery};

/// Sources and destinations by what policies can see of them.
pub struct Alike {
    sources: Vec<usize>,
    destinations: Vec<usize>,
    /// How many kinds of destinations there are.
    width: usize,
    /// By kind of source and destination.
    asked: Vec<bool>,
}

impl Alike {
    /// Groups both; destinations also by the ports that are asked about toward them.
    pub fn of(
        evaluator: &Evaluator<'_>,
        [sources, destinations]: [&[Group]; 2],
        asked: &PortQuery,
    ) -> Self {
        let ends = sources.iter().chain(destinations);
        let mut inside: Vec<Endpoint> = ends
            .map(|group| group.endpoint.clone())
            .filter(|end| !matches!(end, Endpoint::Address(_)))
            .collect();
        inside.sort();
        inside.dedup();
        let classes = alike(evaluator, &inside, &PortQuery::All);
        let class_of: BTreeMap<&Endpoint, usize> = classes
            .iter()
            .enumerate()
            .flat_map(|(class, members)| members.iter().map(move |member| (member, class)))
            .collect();
        // An address may be a pod's: it is like no other end.
        let class = |index: usize, group: &Group| match class_of.get(&group.endpoint) {
            Some(class) => (Some(*class), None),
            None => (None, Some(index)),
        };
        let mut kinds: BTreeMap<_, usize> = BTreeMap::new();
        let of_source = sources.iter().enumerate().map(|(index, group)| {
            let next = kinds.len();
            *kinds.entry(class(index, group)).or_insert(next)
        });
        let of_source: Vec<usize> = of_source.collect();
        let mut targets: BTreeMap<(_, PortSet), usize> = BTreeMap::new();
        let of_destination = destinations.iter().enumerate().map(|(index, group)| {
            let next = targets.len();
            let ports = group.asked(evaluator.snapshot(), asked);
            *targets.entry((class(index, group), ports)).or_insert(next)
        });
        let of_destination: Vec<usize> = of_destination.collect();
        Self {
            sources: of_source,
            destinations: of_destination,
            width: targets.len(),
            asked: vec![false; kinds.len() * targets.len()],
        }
    }

    /// Whether no pair like this one came before.
    pub fn is_first(&mut self, source: usize, destination: usize) -> bool {
        let (Some(from), Some(to)) = (self.sources.get(source), self.destinations.get(destination))
        else {
            return true;
        };
        let asked = self.asked.get_mut(from * self.width + to);
        asked.is_none_or(|asked| !std::mem::replace(asked, true))
    }
}
