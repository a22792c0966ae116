//! How long a worker looks on before it sleeps.
//!
//! Going to sleep and being woken costs more than a small request does, so a
//! worker whose next work tends to come at once had better wait for it awake.
//! It must not cost others: the moment is bounded, begins at nothing, grows
//! only while sleeps turn out short, and is given up for a long while where
//! work comes soon but never while it is waited for (as on a processor that
//! the guest itself needs).

use std::time::{Duration, Instant};

/// What a moment begins with.
const LEAST: Duration = Duration::from_micros(8);
/// A sleep of so many longest moments was short: a wake-up alone may take
/// more than one.
const SHORT: u32 = 4;
/// Sleeps without looking on, after it was given up once and at most.
const REST: (u32, u32) = (32, 4096);

/// One worker's habit.
#[derive(Debug)]
pub(super) struct Poll {
    most: Duration,
    moment: Duration,
    /// Sleeps until it may be tried again.
    rest: u32,
    next_rest: u32,
}

impl Poll {
    /// Never longer than `us` microseconds; 0 is never.
    pub(super) fn new(us: u16) -> Self {
        Self {
            most: Duration::from_micros(us.into()),
            moment: Duration::ZERO,
            rest: 0,
            next_rest: REST.0,
        }
    }

    /// Whether to look on at all, for now.
    pub(super) fn pays(&self) -> bool {
        !self.moment.is_zero()
    }

    /// Looks until there is something or the moment is over; true if there is.
    pub(super) fn watch(&mut self, mut look: impl FnMut() -> bool) -> bool {
        let begin = Instant::now();
        while begin.elapsed() < self.moment {
            if look() {
                self.next_rest = REST.0;
                return true;
            }
            std::hint::spin_loop();
        }
        false
    }

    /// Learns from a sleep, which followed a moment in vain if there was one.
    pub(super) fn slept(&mut self, time: Duration) {
        if self.rest > 0 {
            self.rest -= 1;
        } else if time > self.most * SHORT {
            self.moment = Duration::ZERO;
        } else if self.moment < self.most {
            self.moment = (self.moment * 2).max(LEAST).min(self.most);
        } else {
            self.moment = Duration::ZERO;
            self.rest = self.next_rest;
            self.next_rest = (self.next_rest * 2).min(REST.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_micros(20);
    const LATE: Duration = Duration::from_millis(2);

    #[test]
    fn it_is_learnt_and_forgotten() {
        let mut poll = Poll::new(50);
        assert!(!poll.pays(), "an idle device costs nothing");
        poll.slept(LATE);
        assert!(!poll.pays());
        poll.slept(SOON);
        assert_eq!(poll.moment, LEAST);
        poll.slept(SOON);
        assert_eq!(poll.moment, LEAST * 2);
        for _ in 0..100 {
            assert!(poll.watch(|| true));
        }
        assert!(poll.pays());
        poll.slept(LATE);
        assert!(!poll.pays());
    }

    #[test]
    fn it_is_given_up_where_it_is_in_vain() {
        let mut poll = Poll::new(50);
        let mut watched = 0;
        for _ in 0..10_000 {
            if poll.pays() {
                watched += 1;
                assert!(!poll.watch(|| false));
            }
            poll.slept(SOON);
        }
        assert!(watched < 50, "{watched}");
    }

    #[test]
    fn it_can_be_forbidden() {
        let mut poll = Poll::new(0);
        for _ in 0..10_000 {
            poll.slept(Duration::ZERO);
            assert!(!poll.pays());
            assert!(!poll.watch(|| true));
        }
    }

    #[test]
    fn a_moment_is_bounded() {
        for us in [1, 8, 9, 1000] {
            let mut poll = Poll::new(us);
            for _ in 0..20 {
                poll.slept(Duration::ZERO);
                assert!(poll.moment <= Duration::from_micros(us.into()));
            }
        }
    }
}
