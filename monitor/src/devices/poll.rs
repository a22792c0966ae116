//! How long a worker looks on before it sleeps.
//!
//! Going to sleep and being woken costs more than a small request does, so a
//! worker whose next work tends to come at once had better wait for it awake.
//! It must not cost others: the moment is bounded, begins at nothing, grows
//! only while sleeps turn out short, and is given up for a long while where
//! work comes soon but never while it is waited for (as on a processor that
//! the guest itself needs), or where the guest has it come so late that
//! waiting awake costs the host more than sleeping would.

use std::time::{Duration, Instant};

/// What a moment begins with.
const LEAST: Duration = Duration::from_micros(8);
/// A sleep of so many longest moments was short: a wake-up alone may take
/// more than one.
const SHORT: u32 = 4;
/// What a sleep and a wake-up cost the host, about: what looking on saves each
/// time that it finds something, and so may cost on average.
const SAVED: Duration = Duration::from_micros(24);
/// Savings that are lent for a try, and the most that are kept.
const SAVINGS: (Duration, Duration) = (Duration::from_micros(250), Duration::from_millis(1));
/// Sleeps without looking on, after it was given up once and at most.
const REST: (u32, u32) = (32, 4096);

/// One worker's habit.
#[derive(Debug)]
pub(super) struct Poll {
    most: Duration,
    moment: Duration,
    /// Time saved by successful polls, less the time spent polling.
    saved: Duration,
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
            saved: SAVINGS.0,
            rest: 0,
            next_rest: REST.0,
        }
    }

    /// Whether to look on at all, for now.
    pub(super) fn pays(&self) -> bool {
        !self.moment.is_zero()
    }

    /// Looks until there is something or the moment is over; true if there is.
    pub(super) fn watch(&mut self, look: impl FnMut() -> bool) -> bool {
        let begin = Instant::now();
        self.watch_by(|| begin.elapsed(), look)
    }

    /// The same by a clock that begins at nothing.
    fn watch_by(&mut self, clock: impl Fn() -> Duration, mut look: impl FnMut() -> bool) -> bool {
        let (mut found, mut spent) = (false, Duration::ZERO);
        while !found && spent < self.moment {
            found = look();
            std::hint::spin_loop();
            spent = clock();
        }
        if found {
            self.saved += SAVED;
            if spent <= SAVED {
                self.next_rest = REST.0;
            }
        }
        // Longer than a moment is only who did not get the processor.
        match self.saved.checked_sub(spent.min(self.moment)) {
            Some(left) => self.saved = left.min(SAVINGS.1),
            None => self.give_up(),
        }
        found
    }

    /// Not again for a while.
    fn give_up(&mut self) {
        self.moment = Duration::ZERO;
        self.saved = SAVINGS.0;
        self.rest = self.next_rest;
        self.next_rest = (self.next_rest * 2).min(REST.1);
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
            self.give_up();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

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

    /// Work that comes by turns so many microseconds after the last, for a
    /// second: how many of them were spent on looking.
    fn watched(turns: &[u64]) -> u64 {
        let mut poll = Poll::new(50);
        let (mut watched, mut now) = (0, 0);
        for every in turns.iter().copied().cycle() {
            now += every;
            if now > 1_000_000 {
                break;
            }
            let time = Cell::new(0);
            if poll.pays() {
                let clock = || Duration::from_micros(time.get());
                poll.watch_by(clock, || {
                    time.set(time.get() + 1);
                    time.get() >= every
                });
            }
            watched += time.get();
            if time.get() < every {
                poll.slept(Duration::from_micros(every - time.get()));
            }
        }
        watched
    }

    /// A guest that has work come just before the moment ends does not keep
    /// the worker awake; one that mixes in some that comes soon, for a part of
    /// the time.
    #[test]
    fn what_it_finds_has_to_be_worth_it() {
        for every in [2, 5, 15, 20] {
            let share = watched(&[every]);
            assert!(share > 900_000, "{share} of a million, {every} apart");
        }
        for every in [30, 40, 49, 60] {
            let share = watched(&[every]);
            assert!(share < 100_000, "{share} of a million, {every} apart");
        }
        for late in 2..40 {
            let mut turns = vec![49; late];
            turns.push(1);
            let share = watched(&turns);
            assert!(share < 600_000, "{share} of a million, {late} late ones");
        }
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
