// SPDX-License-Identifier: Apache-2.0
//! When are accumulated changes worth a compilation?

use std::time::{Duration, Instant};

/// Collects a burst of changes into one compilation: it waits until changes pause, but not for ever,
/// and not at all for a change that a pod of this node waits for.
///
/// Time is an argument, so the rule can be tested without a clock.
#[derive(Clone, Copy, Debug)]
pub struct Coalescer {
    idle: Duration,
    max: Duration,
    pending: Option<Pending>,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    arrived: Instant,
    first: Instant,
    last: Instant,
    urgent: bool,
}

impl Coalescer {
    /// A pause of `idle` ends a burst; no change waits longer than `max`.
    pub const fn new(idle: Duration, max: Duration) -> Self {
        Self {
            idle,
            max,
            pending: None,
        }
    }

    /// Notes at `now` a change that came at `arrived`. How long it has waited to be noted makes no
    /// difference to when it is due: those behind it are noted together with it.
    pub fn changed(&mut self, arrived: Instant, now: Instant, urgent: bool) {
        let pending = self.pending.get_or_insert(Pending {
            arrived,
            first: now,
            last: now,
            urgent,
        });
        // Kinds have connections of their own, so they need not be noted in the order they came.
        pending.arrived = pending.arrived.min(arrived);
        pending.last = now;
        pending.urgent |= urgent;
    }

    /// When the changes noted so far are due; `None` if there are none.
    pub fn deadline(&self) -> Option<Instant> {
        self.pending.map(|pending| {
            if pending.urgent {
                pending.first
            } else {
                (pending.last + self.idle).min(pending.first + self.max)
            }
        })
    }

    /// When the oldest change noted since the last call came, if the changes are due.
    pub fn take_due(&mut self, now: Instant) -> Option<Instant> {
        self.deadline()
            .is_some_and(|deadline| deadline <= now)
            .then(|| self.pending.take().map(|pending| pending.arrived))
            .flatten()
    }
}

impl Default for Coalescer {
    /// 20 ms without a change, 200 ms at most.
    fn default() -> Self {
        Self::new(Duration::from_millis(20), Duration::from_millis(200))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn nothing_is_due_without_a_change() {
        let mut coalescer = Coalescer::default();
        assert_eq!(coalescer.deadline(), None);
        assert_eq!(coalescer.take_due(Instant::now()), None);
    }

    #[test]
    fn a_lone_change_waits_for_the_idle_time() {
        let start = Instant::now();
        let mut coalescer = Coalescer::default();
        coalescer.changed(start, start, false);
        assert_eq!(coalescer.take_due(start + ms(19)), None);
        assert_eq!(coalescer.take_due(start + ms(20)), Some(start));
        assert_eq!(coalescer.take_due(start + ms(40)), None);
    }

    #[test]
    fn a_stream_of_changes_waits_at_most_the_maximum() {
        let start = Instant::now();
        let mut coalescer = Coalescer::default();
        for step in 0..20 {
            let now = start + ms(step * 10);
            coalescer.changed(now, now, false);
            assert_eq!(coalescer.take_due(start + ms(step * 10)), None);
        }
        assert_eq!(coalescer.deadline(), Some(start + ms(200)));
        assert_eq!(coalescer.take_due(start + ms(200)), Some(start));
    }

    #[test]
    fn an_urgent_change_takes_the_waiting_ones_along() {
        let start = Instant::now();
        let mut coalescer = Coalescer::default();
        coalescer.changed(start, start, false);
        coalescer.changed(start + ms(5), start + ms(5), true);
        assert_eq!(coalescer.take_due(start + ms(5)), Some(start));
    }

    #[test]
    fn the_time_in_a_queue_counts_as_age_and_not_as_pause() {
        let came = Instant::now();
        let noted = came + ms(500);
        let mut coalescer = Coalescer::default();
        coalescer.changed(came + ms(400), noted, false);
        coalescer.changed(came, noted, false);
        assert_eq!(coalescer.deadline(), Some(noted + ms(20)));
        assert_eq!(coalescer.take_due(noted + ms(19)), None);
        assert_eq!(coalescer.take_due(noted + ms(20)), Some(came));
    }
}
