// SPDX-License-Identifier: Apache-2.0
//! Which pods and namespaces that do not exist yet could policies tell apart?
//!
//! Selectors can distinguish only finitely many sets of labels: per key a label is absent, has one of the
//! values that some selector names, or has any other value. [`Symbols`] holds one pod for every set of
//! selectors that some labels match together, in every namespace that exists and in one namespace for
//! every such set of namespace selectors. What holds for all of them holds for whatever comes.
//!
//! A namespace to come has no NetworkPolicy of its own, and its pods have an address of their own.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt::Write as _,
    sync::Arc,
};

use fixedbitset::FixedBitSet;

use crate::{
    model::{
        AdminPeer, Direction, Labels, Namespace, NetworkPeer, Operator, Phase, Pod, PodKey,
        Requirement, Selection, Selector, Subject,
    },
    snapshot::{NAMESPACE_NAME_LABEL, Snapshot},
    verdict::Endpoint,
};

/// Pods and namespaces that do not exist yet, one for each way in which policies could treat them.
#[derive(Clone, Debug, Default)]
pub struct Symbols {
    namespaces: BTreeMap<Arc<str>, Labels>,
    pods: BTreeMap<PodKey, Labels>,
}

/// Policies distinguish more sets of labels than are worth enumerating.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("policies distinguish more than {limit} kinds of pods that do not exist yet")]
pub struct TooMany {
    /// The bound that was passed.
    pub limit: usize,
}

impl Symbols {
    /// The kinds of pods to come that the policies of any of `snapshots` could tell apart, at most
    /// `limit`; `also` are namespace selectors to tell apart besides.
    pub fn of(snapshots: &[&Snapshot], also: &[Selector], limit: usize) -> Result<Self, TooMany> {
        let terms = Terms::of(snapshots);
        let existing: BTreeMap<&Arc<str>, &Labels> = snapshots
            .iter()
            .flat_map(|snapshot| &snapshot.namespaces)
            .map(|(name, namespace)| (name, &namespace.labels))
            .collect();
        let mut symbols = Self::default();
        for (name, labels) in &existing {
            symbols.populate(&terms, name, labels, limit)?;
        }
        let selectors: BTreeSet<&Selector> = terms
            .pods
            .iter()
            .map(|(namespaces, _)| *namespaces)
            .chain(also)
            .collect();
        let selectors: Vec<&Selector> = selectors.into_iter().collect();
        let taken: BTreeSet<&str> = existing.keys().map(|name| &***name).collect();
        for (number, labels) in combinations(&selectors, Some(&taken), limit)?
            .into_iter()
            .enumerate()
        {
            let name: Arc<str> = format!("{MARK}{number}").into();
            symbols.populate(&terms, &name, &labels, limit)?;
            symbols.namespaces.insert(name, labels);
        }
        Ok(symbols)
    }

    /// `snapshot` with these pods and namespaces. They have no address, node or ports.
    #[must_use]
    pub fn join(&self, snapshot: &Snapshot) -> Snapshot {
        let mut joined = snapshot.clone();
        for (name, labels) in &self.namespaces {
            let namespace = Namespace {
                name: name.clone(),
                labels: labels.clone(),
            };
            joined.namespaces.insert(name.clone(), Arc::new(namespace));
        }
        for (key, labels) in &self.pods {
            joined.insert_pod(Pod {
                key: key.clone(),
                uid: "".into(),
                labels: labels.clone(),
                node: None,
                addresses: Vec::new(),
                host_network: false,
                phase: Phase::Pending,
                ports: Arc::default(),
                created: None,
                owner: None,
                at: None,
            });
        }
        joined
    }

    /// The pods, by name.
    pub fn pods(&self) -> impl Iterator<Item = &PodKey> {
        self.pods.keys()
    }

    /// Labels of the pod, if it does not exist yet.
    pub fn labels(&self, key: &PodKey) -> Option<&Labels> {
        self.pods.get(key)
    }

    /// Whether `key` is a pod that does not exist yet.
    pub fn contains(&self, key: &PodKey) -> bool {
        self.pods.contains_key(key)
    }

    /// Whether the namespace of `key` does not exist yet either.
    pub fn is_in_new_namespace(&self, key: &PodKey) -> bool {
        self.namespaces.contains_key(&key.namespace)
    }

    /// Labels of the pod's namespace, if that does not exist yet.
    pub fn namespace_labels(&self, key: &PodKey) -> Option<&Labels> {
        self.namespaces.get(&key.namespace)
    }

    /// `new pod app=db in new namespace team=red`; `None` if the pod exists.
    pub fn describe(&self, key: &PodKey) -> Option<String> {
        let mut words = format!("new pod {}", spell(self.pods.get(key)?, None));
        // Writing to a String cannot fail.
        let _ = match self.namespaces.get(&key.namespace) {
            Some(labels) => write!(words, " in new namespace {}", spell(labels, Some(FUTURE))),
            None => write!(words, " in {}", key.namespace),
        };
        Some(words)
    }

    /// How to call an end, whether it exists or not.
    pub fn name(&self, end: &Endpoint) -> String {
        let new = match end {
            Endpoint::Pod(key) => self.describe(key),
            Endpoint::Node(_) | Endpoint::Address(_) => None,
        };
        new.unwrap_or_else(|| end.to_string())
    }

    fn populate(
        &mut self,
        terms: &Terms<'_>,
        name: &Arc<str>,
        labels: &Labels,
        limit: usize,
    ) -> Result<(), TooMany> {
        let own = terms.own.get(name).into_iter().flatten().copied();
        let reaching = terms
            .pods
            .iter()
            .filter(|(namespaces, _)| namespaces.matches(labels));
        let selectors: BTreeSet<&Selector> = own.chain(reaching.map(|(_, pods)| *pods)).collect();
        let selectors: Vec<&Selector> = selectors.into_iter().collect();
        for (number, labels) in combinations(&selectors, None, limit)?
            .into_iter()
            .enumerate()
        {
            if self.pods.len() >= limit {
                return Err(TooMany { limit });
            }
            let key = PodKey::new(name, &format!("{MARK}{number}"));
            self.pods.insert(key, labels);
        }
        Ok(())
    }
}

/// The values of a namespace label that policies tell apart from every other value, and the namespaces
/// that are selected by having the label at all: pass these to [`Symbols::of`] to have one namespace for
/// each value, one for all other values, and one without the label.
pub fn selectors_of_label(snapshots: &[&Snapshot], key: &str) -> Vec<Selector> {
    let terms = Terms::of(snapshots);
    let requirements = terms.pods.iter().flat_map(|(it, _)| it.requirements());
    let values: BTreeSet<&Arc<str>> = requirements
        .filter(|requirement| *requirement.key == *key)
        .flat_map(|requirement| &requirement.values)
        .collect();
    let selector = |operator, values: Vec<Arc<str>>| {
        let key = key.into();
        Selector::new(vec![Requirement {
            key,
            operator,
            values,
        }])
    };
    let each = values
        .into_iter()
        .map(|value| selector(Operator::In, vec![value.clone()]));
    std::iter::once(selector(Operator::Exists, Vec::new()))
        .chain(each)
        .collect()
}

/// The selectors of policies.
#[derive(Default)]
struct Terms<'a> {
    /// Pod selectors that reach only pods of one namespace.
    own: BTreeMap<&'a Arc<str>, BTreeSet<&'a Selector>>,
    /// Namespace and pod selectors.
    pods: BTreeSet<(&'a Selector, &'a Selector)>,
}

impl<'a> Terms<'a> {
    fn of(snapshots: &[&'a Snapshot]) -> Self {
        let mut terms = Self::default();
        for snapshot in snapshots {
            for policy in snapshot.network_policies.values() {
                let own = terms.own.entry(&policy.namespace).or_default();
                if let Selection::Matching(selector) = &policy.pod_selector {
                    own.insert(selector);
                }
                let rules = Direction::BOTH
                    .iter()
                    .flat_map(|way| policy.rules(*way).unwrap_or_default());
                for peer in rules.flat_map(|rule| rule.peers.iter().flatten()) {
                    match peer {
                        NetworkPeer::Pods {
                            namespaces: None,
                            pods,
                        } => {
                            own.insert(pods);
                        }
                        NetworkPeer::Pods {
                            namespaces: Some(namespaces),
                            pods,
                        } => {
                            terms.pods.insert((namespaces, pods));
                        }
                        NetworkPeer::IpBlock(_) | NetworkPeer::Nothing => {}
                    }
                }
            }
            for policy in snapshot.admin_policies.values() {
                if let Subject::Pods { namespaces, pods } = &policy.subject {
                    terms.pods.insert((namespaces, pods));
                }
                let rules = Direction::BOTH.iter().flat_map(|way| policy.rules(*way));
                for peer in rules.flat_map(|rule| &rule.peers) {
                    match peer {
                        AdminPeer::Pods { namespaces, pods } => {
                            terms.pods.insert((namespaces, pods));
                        }
                        AdminPeer::Networks(_)
                        | AdminPeer::Nodes(_)
                        | AdminPeer::DomainNames(_) => {}
                    }
                }
            }
        }
        terms
    }
}

/// One set of labels for every set of `selectors` that can match together. For namespaces, `taken` are
/// the names that no other namespace can have.
///
/// Keys are added one at a time; sets of labels that leave the same selectors standing are merged at
/// once, so the work is bounded by the number of results.
fn combinations(
    selectors: &[&Selector],
    taken: Option<&BTreeSet<&str>>,
    limit: usize,
) -> Result<Vec<Labels>, TooMany> {
    let mut values: BTreeMap<&Arc<str>, BTreeSet<&Arc<str>>> = BTreeMap::new();
    for requirement in selectors.iter().flat_map(|it| it.requirements()) {
        values
            .entry(&requirement.key)
            .or_default()
            .extend(&requirement.values);
    }
    let name_key: Arc<str> = NAMESPACE_NAME_LABEL.into();
    if taken.is_some() {
        values.entry(&name_key).or_default();
    }
    let mut standing = FixedBitSet::with_capacity(selectors.len());
    standing.insert_range(..);
    let mut found = vec![(standing, Labels::default())];
    for (key, named) in values {
        let mut candidates: Vec<Option<Arc<str>>> = Vec::new();
        let is_name = taken.is_some() && *key == name_key;
        if is_name {
            candidates.push(Some(unused(FUTURE, &named, taken)));
            let free = |name: &&&Arc<str>| !taken.is_some_and(|taken| taken.contains(&****name));
            candidates.extend(named.iter().filter(free).map(|name| Some((*name).clone())));
        } else {
            candidates.push(None);
            candidates.extend(named.iter().map(|value| Some((*value).clone())));
            candidates.push(Some(unused("other", &named, None)));
        }
        let mut masks: Vec<(FixedBitSet, Option<Arc<str>>)> = Vec::new();
        for candidate in candidates {
            let labels: Labels = candidate
                .iter()
                .map(|value| (key.clone(), value.clone()))
                .collect();
            let mut mask = FixedBitSet::with_capacity(selectors.len());
            for (bit, selector) in selectors.iter().enumerate() {
                let mut own = selector.requirements().iter().filter(|it| it.key == *key);
                mask.set(bit, own.all(|requirement| requirement.matches(&labels)));
            }
            if masks.iter().all(|(known, _)| *known != mask) {
                masks.push((mask, candidate));
            }
        }
        let mut seen: HashSet<FixedBitSet> = HashSet::new();
        let mut next = Vec::new();
        for (standing, labels) in &found {
            for (mask, candidate) in &masks {
                let mut standing = standing.clone();
                standing.intersect_with(mask);
                if !seen.insert(standing.clone()) {
                    continue;
                }
                if next.len() >= limit {
                    return Err(TooMany { limit });
                }
                let mut labels = labels.clone();
                Arc::make_mut(&mut labels.0)
                    .extend(candidate.iter().map(|value| (key.clone(), value.clone())));
                next.push((standing, labels));
            }
        }
        found = next;
    }
    Ok(found.into_iter().map(|(_, labels)| labels).collect())
}

/// A value like `wish` that nobody names.
fn unused(wish: &str, named: &BTreeSet<&Arc<str>>, taken: Option<&BTreeSet<&str>>) -> Arc<str> {
    let is_free = |value: &str| {
        !named.iter().any(|named| ***named == *value)
            && !taken.is_some_and(|taken| taken.contains(value))
    };
    let mut value = wish.to_owned();
    // INVARIANT: every round makes another value, and finitely many are in use.
    while !is_free(&value) {
        value.push_str("-1");
    }
    value.into()
}

/// `app=db, tier=web`; a namespace's own name only if it is not the one that stands for any.
fn spell(labels: &Labels, any_name: Option<&str>) -> String {
    let shown = labels.0.iter().filter(|(key, value)| {
        let stands_for_any = any_name.is_some_and(|any| value.starts_with(any));
        !(&***key == NAMESPACE_NAME_LABEL && stands_for_any)
    });
    let words: Vec<String> = shown.map(|(key, value)| format!("{key}={value}")).collect();
    if words.is_empty() {
        "without labels".to_owned()
    } else {
        words.join(", ")
    }
}

/// How names of what does not exist begin: no object can be called that.
const MARK: char = '*';
/// The name of a namespace whose name no selector knows.
const FUTURE: &str = "future";

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(terms: &[(&str, Operator, &[&str])]) -> Selector {
        let requirement = |(key, operator, values): &(&str, Operator, &[&str])| Requirement {
            key: (*key).into(),
            operator: *operator,
            values: values.iter().map(|value| Arc::from(*value)).collect(),
        };
        Selector::new(terms.iter().map(requirement).collect())
    }

    #[test]
    fn only_satisfiable_combinations_are_listed() {
        let (a, b) = (
            selector(&[("app", Operator::In, &["a"])]),
            selector(&[("app", Operator::In, &["b"])]),
        );
        let not_a = selector(&[("app", Operator::NotIn, &["a"])]);
        let selectors = [&a, &b, &not_a];
        let found = combinations(&selectors, None, 10);
        let matches: Vec<Vec<bool>> = found
            .iter()
            .flatten()
            .map(|labels| selectors.iter().map(|it| it.matches(labels)).collect())
            .collect();
        assert_eq!(
            matches,
            [
                [false, false, true],
                [true, false, false],
                [false, true, true]
            ]
        );
    }

    #[test]
    fn too_many_are_refused() {
        let selectors: Vec<Selector> = (0..12)
            .map(|key| selector(&[(&format!("k{key}"), Operator::Exists, &[])]))
            .collect();
        let selectors: Vec<&Selector> = selectors.iter().collect();
        assert_eq!(
            combinations(&selectors, None, 1000),
            Err(TooMany { limit: 1000 })
        );
        assert_eq!(
            combinations(&selectors, None, 4096).map(|it| it.len()),
            Ok(4096)
        );
    }

    #[test]
    fn new_namespaces_have_new_names() {
        let selector = selector(&[(NAMESPACE_NAME_LABEL, Operator::In, &["old", "new"])]);
        let taken = BTreeSet::from(["old"]);
        let names: Vec<_> = combinations(&[&selector], Some(&taken), 10)
            .into_iter()
            .flatten()
            .map(|labels| labels.get(NAMESPACE_NAME_LABEL).map(str::to_owned))
            .collect();
        assert_eq!(names, [Some("future".to_owned()), Some("new".to_owned())]);
    }
}
