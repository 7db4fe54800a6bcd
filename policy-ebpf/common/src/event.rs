// SPDX-License-Identifier: Apache-2.0 OR MIT OR GPL-2.0-only
//! What does the kernel tell about a packet?

use zerocopy::FromBytes as _;

use crate::{
    abi::{Config, Event, EventBudget},
    decide::Outcome,
    flow::Direction,
};

impl Event {
    /// Decodes a ring buffer record; `None` if it is not one of ours.
    pub fn decode(record: &[u8]) -> Option<Self> {
        Self::read_from_bytes(record).ok()
    }

    /// What became of the packet, if this version knows the code.
    pub const fn outcome(&self) -> Option<Outcome> {
        Outcome::from_code(self.outcome)
    }

    /// Which way the packet went.
    pub const fn direction(&self) -> Direction {
        if self.direction == 0 {
            Direction::Ingress
        } else {
            Direction::Egress
        }
    }
}

impl EventBudget {
    /// Takes a token if at least `reserve` are left behind; counts the event as suppressed if not.
    ///
    /// Tokens come at [`Config::events_per_second`] and are kept for a second. Two processors may
    /// spend the same token; the bound is one event more.
    #[inline(always)]
    pub const fn take(&mut self, config: &Config, now: u32, reserve: u32) -> bool {
        let rate = config.events_per_second;
        let elapsed = now.wrapping_sub(self.refilled);
        if elapsed >= config.hz {
            self.tokens = rate;
            self.refilled = now;
        }
        if self.tokens > reserve && self.tokens <= rate {
            self.tokens -= 1;
            true
        } else {
            self.suppressed = self.suppressed.wrapping_add(1);
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::{FromZeros as _, IntoBytes as _};

    use super::*;

    #[test]
    fn a_record_decodes_to_what_was_written() {
        let mut event = Event::new_zeroed();
        event.outcome = Outcome::Denied as u8;
        event.direction = 1;
        event.length = 60;
        let decoded = Event::decode(event.as_bytes()).expect("the record is whole");
        assert_eq!(decoded, event);
        assert_eq!(decoded.outcome(), Some(Outcome::Denied));
        assert_eq!(decoded.direction(), Direction::Egress);
        assert_eq!(Event::decode(&event.as_bytes()[1..]), None);
    }

    #[test]
    fn an_unknown_code_is_not_taken_for_another() {
        let mut event = Event::new_zeroed();
        event.outcome = 255;
        assert_eq!(event.outcome(), None);
    }

    #[test]
    fn a_budget_spends_its_rate_and_refills_after_a_second() {
        let mut config = Config::new_zeroed();
        config.events_per_second = 3;
        config.hz = 100;
        let mut budget = EventBudget::new_zeroed();
        let mut sent = |now| (0..10).filter(|_| budget.take(&config, now, 0)).count();
        assert_eq!(sent(1000), 3);
        assert_eq!(sent(1099), 0);
        assert_eq!(sent(1100), 3);
        assert_eq!(budget.suppressed, 7 + 10 + 7);
    }

    #[test]
    fn a_reserve_is_left_for_more_important_events() {
        let mut config = Config::new_zeroed();
        config.events_per_second = 4;
        config.hz = 100;
        let mut budget = EventBudget::new_zeroed();
        let allowed = (0..10).filter(|_| budget.take(&config, 100, 2)).count();
        let denied = (0..10).filter(|_| budget.take(&config, 100, 0)).count();
        assert_eq!((allowed, denied), (2, 2));
    }

    #[test]
    fn no_rate_means_no_events() {
        let mut config = Config::new_zeroed();
        config.hz = 100;
        let mut budget = EventBudget::new_zeroed();
        assert!(!budget.take(&config, 5000, 0));
    }
}
