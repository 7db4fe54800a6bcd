// SPDX-License-Identifier: Apache-2.0
//! Which rules of a ruleset match each class?
//!
//! Most of many classes are matched by the same rules. Classes are told apart rule by rule, so that each
//! distinct list of rules is written once, as the list before its last rule and that rule.

use super::ClassId;

/// The list of rules that match a class, as long as [`Matching`] holds what it was filled with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct ListId(u32);

impl ListId {
    /// No rule.
    pub(super) const EMPTY: Self = Self(0);

    /// Lists count from zero without gaps.
    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A list of rules.
#[derive(Clone, Copy, Debug)]
struct List {
    before: ListId,
    rule: u32,
    /// The list with one more rule, and which that is.
    longer: ListId,
    by: u32,
}

const NONE: u32 = u32::MAX;

impl List {
    const fn new(before: ListId, rule: u32) -> Self {
        Self {
            before,
            rule,
            longer: ListId::EMPTY,
            by: NONE,
        }
    }
}

/// The rules that match each class. Filled rule by rule, in order.
#[derive(Debug)]
pub(super) struct Matching {
    of_class: Vec<ListId>,
    lists: Vec<List>,
    /// The classes that some rule matches, each once.
    classes: Vec<ClassId>,
}

impl Matching {
    /// Nothing matches any of so many classes.
    pub(super) fn new(classes: u32) -> Self {
        Self {
            of_class: vec![ListId::EMPTY; classes as usize],
            lists: vec![List::new(ListId::EMPTY, NONE)],
            classes: Vec::new(),
        }
    }

    /// Nothing matches any class any more.
    pub(super) fn clear(&mut self) {
        for class in self.classes.drain(..) {
            if let Some(list) = self.of_class.get_mut(class.0 as usize) {
                *list = ListId::EMPTY;
            }
        }
        self.lists.clear();
        self.lists.push(List::new(ListId::EMPTY, NONE));
    }

    /// A rule, not before any that was added earlier, matches a class.
    pub(super) fn add(&mut self, rule: u32, class: ClassId) {
        let Some(of_class) = self.of_class.get_mut(class.0 as usize) else {
            return;
        };
        let next = ListId(u32::try_from(self.lists.len()).unwrap_or(NONE));
        let Some(list) = self.lists.get_mut(of_class.index()) else {
            return;
        };
        if list.rule == rule {
            return;
        }
        if *of_class == ListId::EMPTY {
            self.classes.push(class);
        }
        let before = std::mem::replace(of_class, list.longer);
        if list.by != rule {
            (list.longer, list.by) = (next, rule);
            *of_class = next;
            self.lists.push(List::new(before, rule));
        }
    }

    /// The classes that some rule matches, in no order.
    pub(super) fn classes(&self) -> &[ClassId] {
        &self.classes
    }

    /// The rules that match a class.
    pub(super) fn of(&self, class: ClassId) -> ListId {
        let list = self.of_class.get(class.0 as usize);
        list.copied().unwrap_or_default()
    }

    /// The rules of a list, the last one first.
    pub(super) fn rules(&self, list: ListId) -> impl Iterator<Item = u32> {
        let mut at = list;
        std::iter::from_fn(move || {
            let list = self.lists.get(at.index()).filter(|_| at != ListId::EMPTY)?;
            at = list.before;
            Some(list.rule)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(matching: &Matching, class: u32) -> Vec<u32> {
        let mut rules: Vec<u32> = matching.rules(matching.of(ClassId(class))).collect();
        rules.reverse();
        rules
    }

    #[test]
    fn equal_lists_are_one() {
        let mut matching = Matching::new(9);
        for (rule, classes) in [(0, [1, 2, 3]), (2, [2, 3, 2]), (5, [4, 3, 2])] {
            for class in classes {
                matching.add(rule, ClassId(class));
            }
        }
        assert_eq!(rules(&matching, 1), [0]);
        assert_eq!(rules(&matching, 2), [0, 2, 5]);
        assert_eq!(matching.of(ClassId(2)), matching.of(ClassId(3)));
        assert_eq!(rules(&matching, 4), [5]);
        assert_eq!(matching.of(ClassId(7)), ListId::EMPTY);
        let mut classes = matching.classes().to_vec();
        classes.sort_unstable();
        assert_eq!(classes, [1, 2, 3, 4].map(ClassId));
    }

    #[test]
    fn nothing_is_left_of_what_was_cleared() {
        let mut matching = Matching::new(3);
        matching.add(0, ClassId(1));
        matching.clear();
        assert_eq!(rules(&matching, 1), [0; 0]);
        assert!(matching.classes().is_empty());
        matching.add(0, ClassId(2));
        assert_eq!(rules(&matching, 2), [0]);
        assert_eq!(rules(&matching, 1), [0; 0]);
    }
}
