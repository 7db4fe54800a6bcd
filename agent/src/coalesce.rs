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

    /// Notes a change.
    pub fn changed(&mut self, now: Instant, urgent: bool) {
        let pending = self.pending.get_or_insert(Pending {
            first: now,
            last: now,
            urgent,
        });
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

    /// When the oldest change noted since the last call was noted, if the changes are due.
    pub fn take_due(&mut self, now: Instant) -> Option<Instant> {
        self.deadline()
            .is_some_and(|deadline| deadline <= now)
            .then(|| self.pending.take().map(|pending| pending.first))
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
        coalescer.changed(start, false);
        assert_eq!(coalescer.take_due(start + ms(19)), None);
        assert_eq!(coalescer.take_due(start + ms(20)), Some(start));
        assert_eq!(coalescer.take_due(start + ms(40)), None);
    }

    #[test]
    fn a_stream_of_changes_waits_at_most_the_maximum() {
        let start = Instant::now();
        let mut coalescer = Coalescer::default();
        for step in 0..20 {
            coalescer.changed(start + ms(step * 10), false);
            assert_eq!(coalescer.take_due(start + ms(step * 10)), None);
        }
        assert_eq!(coalescer.deadline(), Some(start + ms(200)));
        assert_eq!(coalescer.take_due(start + ms(200)), Some(start));
    }

    #[test]
    fn an_urgent_change_takes_the_waiting_ones_along() {
        let start = Instant::now();
        let mut coalescer = Coalescer::default();
        coalescer.changed(start, false);
        coalescer.changed(start + ms(5), true);
        assert_eq!(coalescer.take_due(start + ms(5)), Some(start));
    }
}
