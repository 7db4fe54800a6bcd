// SPDX-License-Identifier: Apache-2.0
//! Labels and label selectors with the semantics of apimachinery.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

/// `metadata.labels`. Objects with equal labels may share them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels(pub Arc<BTreeMap<Arc<str>, Arc<str>>>);

impl Labels {
    /// Keys of labels that controllers add to pods and that change with every rollout.
    pub const VOLATILE: [&str; 6] = [
        "batch.kubernetes.io/controller-uid",
        "controller-revision-hash",
        "controller-uid",
        "pod-template-generation",
        "pod-template-hash",
        "rollouts-pod-template-hash",
    ];

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|value| &**value)
    }

    /// Adds or replaces a label. Labels that are shared are copied first.
    pub fn insert(&mut self, key: Arc<str>, value: Arc<str>) {
        Arc::make_mut(&mut self.0).insert(key, value);
    }
}

impl<K: Into<Arc<str>>, V: Into<Arc<str>>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(iter: I) -> Self {
        let labels = iter.into_iter().map(|(k, v)| (k.into(), v.into()));
        Self(Arc::new(labels.collect()))
    }
}

/// A label selector: all requirements hold. No requirement selects everything
/// (apimachinery `LabelSelectorAsSelector`).
///
/// `matchLabels` entries become [`Operator::In`] with one value; requirements are sorted and free of
/// duplicates, so equal selectors compare equal however they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

impl Selector {
    /// Normalises `requirements`.
    pub fn new(mut requirements: Vec<Requirement>) -> Self {
        for requirement in &mut requirements {
            requirement.values.sort();
            requirement.values.dedup();
        }
        requirements.sort();
        requirements.dedup();
        Self { requirements }
    }

    /// The sorted requirements.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether the selector has no requirement.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether every requirement holds for `labels`.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements
            .iter()
            .all(|requirement| requirement.matches(labels))
    }
}

impl Selector {
    /// Whether every requirement holds for `labels` of which some are `unknown`; `None` if those decide.
    pub fn matches_partly(&self, labels: &Labels, unknown: &UnknownLabels) -> Option<bool> {
        let mut holds = Some(true);
        for requirement in &self.requirements {
            match requirement.matches_partly(labels, unknown) {
                Some(true) => {}
                Some(false) => return Some(false),
                None => holds = None,
            }
        }
        holds
    }

    /// Whether there are labels that both selectors match.
    pub fn meets(&self, other: &Self) -> bool {
        let both = || self.requirements.iter().chain(&other.requirements);
        // A key counts by itself: absent, with a value that is listed somewhere, or with another one.
        both().all(|of| {
            let same = || both().filter(|requirement| requirement.key == of.key);
            let listed = || same().flat_map(|requirement| &requirement.values);
            let other: String = listed().map(|value| &**value).chain(["+"]).collect();
            let values = listed().map(|value| &**value).chain([&*other]);
            let absent = Labels::default();
            let mut candidates = values.map(|value| {
                let key: Arc<str> = of.key.clone();
                [(key, value)].into_iter().collect::<Labels>()
            });
            let fits = |labels: &Labels| same().all(|requirement| requirement.matches(labels));
            fits(&absent) || candidates.any(|labels| fits(&labels))
        })
    }
}

/// Which labels of an object are not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnknownLabels {
    /// Sorted keys of labels that are there, with any value.
    values: Arc<[Arc<str>]>,
    /// There may be any labels besides those that the object is known to have.
    others: bool,
}

impl UnknownLabels {
    /// The values of labels with these keys, which are there.
    pub fn values(keys: impl IntoIterator<Item = Arc<str>>) -> Self {
        let keys: BTreeSet<Arc<str>> = keys.into_iter().collect();
        Self {
            values: keys.into_iter().collect(),
            others: false,
        }
    }

    /// Any labels besides those that the object is known to have.
    pub fn others() -> Self {
        Self {
            others: true,
            ..Self::default()
        }
    }

    /// What is not known if neither is.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let values = self.values.iter().chain(other.values.iter()).cloned();
        Self {
            others: self.others || other.others,
            ..Self::values(values)
        }
    }

    /// The keys of labels whose values are all that is not known; `None` if there may be other labels.
    pub fn keys(&self) -> Option<&[Arc<str>]> {
        (!self.others).then_some(&self.values)
    }
}

/// One term of a selector.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Requirement {
    /// Label key.
    pub key: Arc<str>,
    /// How `values` are compared.
    pub operator: Operator,
    /// Sorted; empty for [`Operator::Exists`] and [`Operator::DoesNotExist`].
    pub values: Vec<Arc<str>>,
}

impl Requirement {
    /// Whether the requirement holds for `labels` (apimachinery `Requirement.Matches`): `NotIn` also
    /// holds where the key is absent.
    pub fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        let listed = |value| self.values.binary_search_by(|v| (**v).cmp(value)).is_ok();
        match self.operator {
            Operator::In => value.is_some_and(listed),
            Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }

    /// Whether the requirement holds for `labels` of which some are `unknown`; `None` if those decide.
    pub fn matches_partly(&self, labels: &Labels, unknown: &UnknownLabels) -> Option<bool> {
        if unknown.values.binary_search(&self.key).is_ok() {
            return match self.operator {
                Operator::In | Operator::NotIn => None,
                Operator::Exists => Some(true),
                Operator::DoesNotExist => Some(false),
            };
        }
        let is_known = !unknown.others || labels.get(&self.key).is_some();
        is_known.then(|| self.matches(labels))
    }
}

/// Selector operators of `metav1.LabelSelectorRequirement`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Operator {
    /// The key is present with one of the values.
    In,
    /// The key is absent or has none of the values.
    NotIn,
    /// The key is present.
    Exists,
    /// The key is absent.
    DoesNotExist,
}

/// A selector, or the nothing that a selector means which no API server accepts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Selection {
    /// What the selector matches.
    Matching(Selector),
    /// The selector is invalid: it selects nothing.
    Nothing,
}

impl Selection {
    /// Whether `labels` are selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        match self {
            Self::Matching(selector) => selector.matches(labels),
            Self::Nothing => false,
        }
    }

    /// Whether `labels` of which some are `unknown` are selected; `None` if those decide.
    pub fn matches_partly(&self, labels: &Labels, unknown: &UnknownLabels) -> Option<bool> {
        match self {
            Self::Matching(selector) => selector.matches_partly(labels, unknown),
            Self::Nothing => Some(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(terms: &[(&str, Operator, &[&str])]) -> Selector {
        let terms = terms.iter().map(|(key, operator, values)| Requirement {
            key: (*key).into(),
            operator: *operator,
            values: values.iter().map(|value| (*value).into()).collect(),
        });
        Selector::new(terms.collect())
    }

    #[track_caller]
    fn check(a: &[(&str, Operator, &[&str])], b: &[(&str, Operator, &[&str])], meet: bool) {
        assert_eq!(selector(a).meets(&selector(b)), meet);
        assert_eq!(selector(b).meets(&selector(a)), meet);
    }

    #[test]
    fn labels_that_are_not_known_decide_only_what_is_about_them() {
        use Operator::{DoesNotExist, Exists, In, NotIn};
        let labels: Labels = [("app", "web"), ("hash", "placeholder")]
            .into_iter()
            .collect();
        let hash = UnknownLabels::values(["hash".into()]);
        let others = UnknownLabels::others();
        let check = |unknown: &UnknownLabels, term: (&str, Operator, &[&str]), expected| {
            let found = selector(&[term]).matches_partly(&labels, unknown);
            assert_eq!(found, expected, "{unknown:?} {term:?}");
        };
        check(&hash, ("hash", In, &["placeholder"]), None);
        check(&hash, ("hash", NotIn, &["placeholder"]), None);
        check(&hash, ("hash", Exists, &[]), Some(true));
        check(&hash, ("hash", DoesNotExist, &[]), Some(false));
        check(&hash, ("app", In, &["web"]), Some(true));
        check(&hash, ("tier", Exists, &[]), Some(false));
        check(&others, ("app", In, &["web"]), Some(true));
        check(&others, ("app", NotIn, &["web"]), Some(false));
        check(&others, ("tier", Exists, &[]), None);
        check(&others, ("tier", NotIn, &["db"]), None);
        let both = hash.and(&others);
        check(&both, ("hash", In, &["placeholder"]), None);
        check(&both, ("app", In, &["web"]), Some(true));
        check(&both, ("tier", Exists, &[]), None);
        let never = selector(&[("hash", In, &["a"]), ("app", In, &["db"])]);
        assert_eq!(never.matches_partly(&labels, &hash), Some(false));
        let maybe = selector(&[("app", In, &["web"]), ("hash", In, &["a"])]);
        assert_eq!(maybe.matches_partly(&labels, &hash), None);
    }

    #[test]
    fn selectors_meet_where_labels_fit_both() {
        use Operator::{DoesNotExist, Exists, In, NotIn};
        check(&[], &[], true);
        check(&[("app", In, &["a"])], &[], true);
        check(&[("app", In, &["a"])], &[("app", In, &["b"])], false);
        check(
            &[("app", In, &["a", "b"])],
            &[("app", In, &["b", "c"])],
            true,
        );
        check(&[("app", In, &["a"])], &[("tier", In, &["b"])], true);
        check(&[("app", In, &["a"])], &[("app", NotIn, &["a"])], false);
        check(&[("app", In, &["a", "b"])], &[("app", NotIn, &["a"])], true);
        check(&[("app", NotIn, &["a"])], &[("app", NotIn, &["b"])], true);
        check(
            &[("app", Exists, &[])],
            &[("app", DoesNotExist, &[])],
            false,
        );
        check(
            &[("app", NotIn, &["a"])],
            &[("app", DoesNotExist, &[])],
            true,
        );
        check(
            &[("app", Exists, &[]), ("app", NotIn, &["a"])],
            &[("app", NotIn, &["b"])],
            true,
        );
        check(&[("app", In, &["a"])], &[("app", DoesNotExist, &[])], false);
    }
}
