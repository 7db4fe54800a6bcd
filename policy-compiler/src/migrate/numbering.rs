// SPDX-License-Identifier: Apache-2.0
//! Which priorities keep the order of precedence?

use std::sync::Arc;

use crate::model::{AdminKind, Priority};

/// A policy in the order of precedence of its tier.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// The priority it should get, if it can.
    pub(super) priority: i32,
    /// It must have that priority.
    pub(super) fixed: bool,
    /// Kind and name afterwards, which break ties.
    pub(super) kind: AdminKind,
    pub(super) name: Arc<str>,
    /// The priority before.
    pub(super) original: Priority,
    /// It is a further part of the policy before it.
    pub(super) continues: bool,
}

/// Priorities from 0 to 1000 that keep the order of `slots`, and as many of their own as that permits;
/// `None` if there are not enough.
///
/// Where two policies shared a priority they may go on to do so if kind and name keep them in order;
/// otherwise the later one gets a greater priority.
pub(super) fn number(slots: &[Slot]) -> Option<Vec<i32>> {
    let gaps: Vec<i32> = slots
        .windows(2)
        .map(|pair| match pair {
            [a, b] => i32::from(b.continues || !may_share(a, b)),
            _ => 0,
        })
        .collect();
    // Up, until each is behind the one before.
    let mut numbers: Vec<i32> = Vec::with_capacity(slots.len());
    for (index, slot) in slots.iter().enumerate() {
        let least = match (
            numbers.last(),
            index.checked_sub(1).and_then(|at| gaps.get(at)),
        ) {
            (Some(last), Some(gap)) => last + gap,
            _ => 0,
        };
        numbers.push(if slot.fixed {
            slot.priority
        } else {
            slot.priority.max(least)
        });
    }
    // Down, until each is before the one behind.
    let mut most = GREATEST;
    for index in (0..slots.len()).rev() {
        let (slot, number) = (slots.get(index)?, numbers.get_mut(index)?);
        if slot.fixed && slot.priority > most {
            return None;
        }
        *number = (*number).min(most);
        most = *number
            - index
                .checked_sub(1)
                .and_then(|at| gaps.get(at))
                .unwrap_or(&0);
    }
    let in_order = numbers
        .windows(2)
        .zip(&gaps)
        .all(|(pair, gap)| matches!(pair, [a, b] if b - a >= *gap));
    (in_order && numbers.first().is_none_or(|first| *first >= 0)).then_some(numbers)
}

fn may_share(a: &Slot, b: &Slot) -> bool {
    a.original == b.original && (a.kind, &a.name) < (b.kind, &b.name)
}

/// The greatest priority (C2).
const GREATEST: i32 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(priority: i32, name: &str) -> Slot {
        Slot {
            priority,
            fixed: false,
            kind: AdminKind::Cluster,
            name: name.into(),
            original: Priority(priority),
            continues: false,
        }
    }

    #[track_caller]
    fn check(slots: &[Slot], expect: Option<&[i32]>) {
        assert_eq!(number(slots).as_deref(), expect);
    }

    #[test]
    fn what_is_in_order_keeps_its_number() {
        check(
            &[slot(0, "a"), slot(7, "c"), slot(7, "d"), slot(1000, "b")],
            Some(&[0, 7, 7, 1000]),
        );
    }

    #[test]
    fn ties_that_names_would_break_the_other_way_are_parted() {
        check(
            &[slot(7, "d"), slot(7, "c"), slot(8, "b")],
            Some(&[7, 8, 9]),
        );
    }

    #[test]
    fn parts_push_what_follows_up_or_what_precedes_down() {
        let part = |priority, name| Slot {
            continues: true,
            ..slot(priority, name)
        };
        check(
            &[slot(5, "a"), part(5, "a-2"), slot(6, "b")],
            Some(&[5, 6, 7]),
        );
        check(
            &[slot(999, "a"), slot(1000, "b"), part(1000, "b-2")],
            Some(&[998, 999, 1000]),
        );
    }

    #[test]
    fn what_cannot_move_holds_the_others() {
        let fixed = |priority, name| Slot {
            fixed: true,
            kind: AdminKind::Admin,
            ..slot(priority, name)
        };
        check(
            &[slot(7, "d"), slot(7, "c"), fixed(7, "e")],
            Some(&[6, 7, 7]),
        );
        check(&[slot(0, "d"), slot(0, "c"), fixed(0, "e")], None);
    }

    #[test]
    fn there_are_a_thousand_and_one() {
        let slots: Vec<Slot> = (0..1001)
            .rev()
            .map(|n| slot(0, &format!("{n:04}")))
            .collect();
        assert_eq!(number(&slots).map(|it| it.len()), Some(1001));
        let slots: Vec<Slot> = (0..1002)
            .rev()
            .map(|n| slot(0, &format!("{n:04}")))
            .collect();
        assert_eq!(number(&slots), None);
    }
}
