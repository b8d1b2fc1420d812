//! Who is asked: not an address that failed several times in a row, until a health check finds that it writes again.
//!
//! As linkerd's failure accrual does it: so many failures one after the other open the breaker; it is looked at again after
//! a pause that doubles with every look that fails, and has chance in it, so that the instances of a fleet do not look all
//! at once. Whoever looks is a health check and never a developer's question: nobody waits twice for an engine that hangs.
//! An address that asks to be left alone for a time (`Retry-After`) is no failed one.

use std::time::{Duration, Instant};

/// When a breaker opens and for how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Failures in a row that open it.
    pub(super) failures: u32,
    /// The first pause.
    pub(super) pause: Duration,
    /// The longest.
    pub(super) longest_pause: Duration,
    /// After how long without an answer one that is closed is looked at.
    pub(super) interval: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    pause: Duration,
    until: Instant,
}

/// The breaker of an address.
#[derive(Debug)]
pub(super) struct Breaker {
    limits: Limits,
    failures: u32,
    open: Option<Open>,
    /// It asked to be left alone so long.
    alone_until: Option<Instant>,
    answered: Instant,
}

impl Breaker {
    /// A closed one, which was heard of now.
    pub(super) fn new(limits: Limits, now: Instant) -> Self {
        Self { limits, failures: 0, open: None, alone_until: None, answered: now }
    }

    /// Whether it is out.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether questions go there.
    pub(super) fn lets_through(&self, now: Instant) -> bool {
        self.open.is_none() && !self.wants_to_be_alone(now)
    }

    /// Whether a health check should look now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let is_due = match self.open {
            Some(open) => now >= open.until,
            None => now.duration_since(self.answered) >= self.limits.interval,
        };
        is_due && !self.wants_to_be_alone(now)
    }

    /// It answered. Says whether that closed it.
    pub(super) fn answered(&mut self, now: Instant) -> bool {
        self.failures = 0;
        self.alone_until = None;
        self.answered = now;
        self.open.take().is_some()
    }

    /// A question failed. Says whether that opened it. `chance` is in [0, 1).
    pub(super) fn failed(&mut self, now: Instant, chance: f64) -> bool {
        self.failures = self.failures.saturating_add(1);
        // What was asked before it opened may fail later; that says nothing new.
        let opens = self.open.is_none() && self.failures >= self.limits.failures;
        if opens {
            self.trip(now, chance);
        }
        opens
    }

    /// A health check failed: it is open, and longer than before.
    pub(super) fn trip(&mut self, now: Instant, chance: f64) {
        let pause = self.open.map_or(self.limits.pause, |open| open.pause.saturating_mul(2));
        let pause = pause.min(self.limits.longest_pause);
        self.open = Some(Open { pause, until: now + pause.mul_f64(1.0 + chance / 2.0) });
    }

    /// It asked to be left alone for so long, or did not say how long.
    pub(super) fn leave_alone(&mut self, now: Instant, wait: Option<Duration>) {
        let wait = wait.unwrap_or(self.limits.pause).min(self.limits.longest_pause);
        self.alone_until = Some(now + wait);
    }

    fn wants_to_be_alone(&self, now: Instant) -> bool {
        self.alone_until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn breaker(now: Instant) -> Breaker {
        let limits = Limits { failures: 3, pause: SECOND, longest_pause: 3 * SECOND, interval: 10 * SECOND };
        Breaker::new(limits, now)
    }

    #[test]
    fn failures_in_a_row_open_it_and_one_answer_closes_it() {
        let now = Instant::now();
        let mut breaker = breaker(now);
        assert!(!breaker.failed(now, 0.0) && !breaker.failed(now, 0.0));
        assert!(!breaker.answered(now), "it was closed");
        assert!(!breaker.failed(now, 0.0) && !breaker.failed(now, 0.0) && breaker.lets_through(now));
        assert!(breaker.failed(now, 0.0) && !breaker.lets_through(now));
        assert!(!breaker.failed(now, 0.0), "it is open already");
        // Time alone closes nothing.
        assert!(!breaker.lets_through(now + 60 * SECOND));
        assert!(breaker.answered(now) && breaker.lets_through(now));
        assert!(!breaker.failed(now, 0.0), "it begins to count anew");
    }

    #[test]
    fn looks_that_fail_are_farther_and_farther_apart() {
        let now = Instant::now();
        let mut breaker = breaker(now);
        for (chance, expected) in [(0.0, 1.0), (0.0, 2.0), (0.5, 3.75), (0.0, 3.0)] {
            breaker.trip(now, chance);
            let pause = Duration::from_secs_f64(expected);
            assert!(!breaker.is_due(now + pause - Duration::from_millis(1)), "{expected}");
            assert!(breaker.is_due(now + pause), "{expected}");
        }
        breaker.answered(now);
        breaker.trip(now, 0.0);
        assert!(breaker.is_due(now + SECOND), "the first pause again");
    }

    #[test]
    fn one_that_is_not_heard_of_is_looked_at() {
        let now = Instant::now();
        let mut breaker = breaker(now);
        assert!(!breaker.is_due(now + 9 * SECOND) && breaker.is_due(now + 10 * SECOND));
        breaker.answered(now + 5 * SECOND);
        assert!(!breaker.is_due(now + 10 * SECOND) && breaker.is_due(now + 15 * SECOND));
    }

    #[test]
    fn one_that_wants_to_be_alone_is_left_alone_and_did_not_fail() {
        let now = Instant::now();
        let mut breaker = breaker(now);
        for (wait, expected) in [(Some(2 * SECOND), 2), (None, 1), (Some(600 * SECOND), 3)] {
            breaker.leave_alone(now, wait);
            let until = now + expected * SECOND;
            assert!(!breaker.lets_through(until - Duration::from_millis(1)) && breaker.lets_through(until));
        }
        breaker.leave_alone(now + 10 * SECOND, Some(SECOND));
        assert!(!breaker.is_due(now + 10 * SECOND) && breaker.is_due(now + 11 * SECOND));
        // Also while it is out: it says so to a health check.
        breaker.trip(now + 11 * SECOND, 0.0);
        breaker.leave_alone(now + 12 * SECOND, Some(2 * SECOND));
        assert!(!breaker.is_due(now + 13 * SECOND) && breaker.is_due(now + 14 * SECOND));
    }
}
