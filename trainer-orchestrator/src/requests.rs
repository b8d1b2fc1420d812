//! Requests for a run, which somebody makes and a look answers.

use std::sync::atomic::{AtomicU64, Ordering};

/// How many requests were made, and up to which one they are answered. What is made while a look is under way is for
/// the next one, and a look that failed or could not decide leaves everything as it is.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    made: AtomicU64,
    answered: AtomicU64,
}

impl Requests {
    pub(crate) fn make(&self) {
        self.made.fetch_add(1, Ordering::SeqCst);
    }

    /// Number of the newest request, unless it is answered.
    pub(crate) fn pending(&self) -> Option<u64> {
        let newest = self.made.load(Ordering::SeqCst);
        (newest > self.answered.load(Ordering::SeqCst)).then_some(newest)
    }

    /// Answers every request up to number `newest`.
    pub(crate) fn answer(&self, newest: u64) {
        self.answered.fetch_max(newest, Ordering::SeqCst);
    }

    /// Takes back whatever is not answered.
    pub(crate) fn withdraw(&self) {
        self.answer(self.made.load(Ordering::SeqCst));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_pending_until_it_is_answered_or_withdrawn() {
        let requests = Requests::default();
        assert_eq!(requests.pending(), None);
        requests.make();
        let first = requests.pending().unwrap();
        assert_eq!(requests.pending(), Some(first), "to look at it is no answer");
        // One that is made while the first is being answered waits for the next look.
        requests.make();
        requests.answer(first);
        let second = requests.pending().unwrap();
        requests.answer(second);
        requests.answer(first);
        assert_eq!(requests.pending(), None, "a late answer to an older one opens nothing again");
        requests.make();
        requests.withdraw();
        assert_eq!(requests.pending(), None);
        requests.make();
        assert!(requests.pending().is_some());
    }
}
