// SPDX-License-Identifier: Apache-2.0
//! Who reaches whom, also through others: the connectivity graph of groups of endpoints.
//!
//! A node is a group of endpoints that policies cannot tell apart, an edge what may be opened from one
//! group to another. Somebody who takes an endpoint over can go on from there, so what matters to an
//! attacker is reachability through hops, which groups reach each other both ways, and which single
//! group stands between two others.

use std::{
    collections::{BTreeSet, VecDeque},
    rc::Rc,
};

use petgraph::{
    Direction as Along,
    algo::{dominators, tarjan_scc},
    graph::{DiGraph, NodeIndex},
    visit::EdgeRef,
};

use crate::{portmap::PortSet, verdict::Endpoint};

/// The connectivity graph. Groups are named by their position in the list they were given in.
#[derive(Clone, Debug)]
pub struct Connectivity {
    graph: DiGraph<Vec<Endpoint>, Rc<PortSet>>,
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The group the step leads to.
    pub to: usize,
    /// What may be opened on the step.
    pub ports: Rc<PortSet>,
}

impl Connectivity {
    /// Builds the graph. Edges that open nothing, and edges of a group to itself, are left out.
    pub fn new(
        groups: impl IntoIterator<Item = Vec<Endpoint>>,
        edges: impl IntoIterator<Item = (usize, usize, Rc<PortSet>)>,
    ) -> Self {
        let mut graph = DiGraph::new();
        for group in groups {
            graph.add_node(group);
        }
        let exist = |(from, to, ports): &(usize, usize, Rc<PortSet>)| {
            let known = *from < graph.node_count() && *to < graph.node_count();
            known && from != to && !ports.is_empty()
        };
        // Of two edges between the same groups the later one counts. The graph would look for the earlier
        // one among all edges of the group.
        let mut open: Vec<_> = edges.into_iter().filter(exist).collect();
        open.reverse();
        open.sort_by_key(|(from, to, _)| (*from, *to));
        open.dedup_by_key(|(from, to, _)| (*from, *to));
        for (from, to, ports) in open {
            graph.add_edge(NodeIndex::new(from), NodeIndex::new(to), ports);
        }
        Self { graph }
    }

    /// The members of each group.
    pub fn groups(&self) -> impl Iterator<Item = &[Endpoint]> {
        self.graph.node_weights().map(Vec::as_slice)
    }

    /// What may be opened from each group to each other one, sorted.
    pub fn edges(&self) -> Vec<(usize, usize, &PortSet)> {
        let edges = self.graph.edge_references();
        let mut edges: Vec<_> = edges
            .map(|edge| {
                (
                    edge.source().index(),
                    edge.target().index(),
                    &**edge.weight(),
                )
            })
            .collect();
        edges.sort_by_key(|(from, to, _)| (*from, *to));
        edges
    }

    /// A shortest path from `from` to every group it reaches, by group. Among equally short paths the
    /// one through lower numbers.
    pub fn paths(&self, from: usize) -> Vec<Option<Vec<Hop>>> {
        let mut paths: Vec<Option<Vec<Hop>>> = vec![None; self.graph.node_count()];
        let mut queue = VecDeque::new();
        if let Some(path) = paths.get_mut(from) {
            *path = Some(Vec::new());
            queue.push_back(from);
        }
        while let Some(at) = queue.pop_front() {
            let so_far = paths.get(at).cloned().flatten().unwrap_or_default();
            let mut steps: Vec<_> = self.graph.edges(NodeIndex::new(at)).collect();
            steps.sort_by_key(EdgeRef::target);
            for edge in steps {
                let to = edge.target().index();
                if let Some(path) = paths.get_mut(to).filter(|path| path.is_none()) {
                    let hop = Hop {
                        to,
                        ports: edge.weight().clone(),
                    };
                    *path = Some(so_far.iter().cloned().chain([hop]).collect());
                    queue.push_back(to);
                }
            }
        }
        paths
    }

    /// The groups that reach `to`, itself included.
    pub fn reaching(&self, to: usize) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        let mut next: Vec<usize> = (to < self.graph.node_count())
            .then_some(to)
            .into_iter()
            .collect();
        while let Some(at) = next.pop() {
            if found.insert(at) {
                let before = self
                    .graph
                    .neighbors_directed(NodeIndex::new(at), Along::Incoming);
                next.extend(before.map(NodeIndex::index));
            }
        }
        found
    }

    /// Sets of groups that reach each other both ways, larger than one, sorted.
    pub fn mutually_reachable(&self) -> Vec<Vec<usize>> {
        let sorted = |set: Vec<NodeIndex>| {
            let mut set: Vec<usize> = set.into_iter().map(NodeIndex::index).collect();
            set.sort_unstable();
            set
        };
        let components = tarjan_scc(&self.graph)
            .into_iter()
            .filter(|set| set.len() > 1);
        let mut components: Vec<_> = components.map(sorted).collect();
        components.sort();
        components
    }

    /// The groups that every path from `from` to `to` passes, in order, both ends left out; `None` if
    /// there is no path. To take any of them off the network cuts `from` off from `to`.
    pub fn cut_points(&self, from: usize, to: usize) -> Option<Vec<usize>> {
        self.cut_points_from(from).into_iter().nth(to).flatten()
    }

    /// As [`Connectivity::cut_points`], to every group.
    pub fn cut_points_from(&self, from: usize) -> Vec<Option<Vec<usize>>> {
        if from >= self.graph.node_count() {
            return vec![None; self.graph.node_count()];
        }
        let dominators = dominators::simple_fast(&self.graph, NodeIndex::new(from));
        let between = |to: NodeIndex| {
            let between = dominators.strict_dominators(to)?;
            let mut between: Vec<usize> = between
                .map(NodeIndex::index)
                .filter(|at| *at != from)
                .collect();
            between.reverse();
            Some(between)
        };
        self.graph.node_indices().map(between).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PodKey;

    /// web → api → db, api ⇄ cache, and a batch job that reaches nothing.
    fn shop() -> Connectivity {
        let names = ["web", "api", "db", "cache", "batch"];
        let all = || Rc::new(PortSet::uniform(true));
        Connectivity::new(
            names.map(|name| vec![Endpoint::Pod(PodKey::new("shop", name))]),
            [
                (0, 1, all()),
                (1, 2, all()),
                (1, 3, all()),
                (3, 1, all()),
                (0, 4, Rc::new(PortSet::uniform(false))),
                (2, 2, all()),
            ],
        )
    }

    #[test]
    fn edges_that_open_nothing_are_left_out() {
        let edges: Vec<_> = shop()
            .edges()
            .iter()
            .map(|(from, to, _)| (*from, *to))
            .collect();
        assert_eq!(edges, [(0, 1), (1, 2), (1, 3), (3, 1)]);
    }

    #[test]
    fn paths_go_through_hops() {
        let to: Vec<_> = shop()
            .paths(0)
            .iter()
            .map(|path| {
                path.as_ref()
                    .map(|path| path.iter().map(|hop| hop.to).collect::<Vec<_>>())
            })
            .collect();
        assert_eq!(
            to,
            [
                Some(vec![]),
                Some(vec![1]),
                Some(vec![1, 2]),
                Some(vec![1, 3]),
                None
            ]
        );
    }

    #[test]
    fn what_reaches_the_database() {
        assert_eq!(shop().reaching(2), BTreeSet::from([0, 1, 2, 3]));
        assert_eq!(shop().reaching(4), BTreeSet::from([4]));
        assert!(shop().reaching(9).is_empty());
    }

    #[test]
    fn api_and_cache_reach_each_other() {
        assert_eq!(shop().mutually_reachable(), [[1, 3]]);
    }

    #[test]
    fn api_stands_between_web_and_everything() {
        assert_eq!(shop().cut_points(0, 2), Some(vec![1]));
        assert_eq!(shop().cut_points(0, 1), Some(vec![]));
        assert_eq!(shop().cut_points(0, 4), None);
    }
}
