//! Readiness: a set of latches. The service is ready once all are released, and not any more once it drains.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<u64, &'static str>,
    next: u64,
    draining: bool,
}

/// Whether a service may receive work.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<watch::Sender<State>>);

/// Holds readiness back until it is released. Dropping it unreleased holds it back for ever: what was to be done
/// failed.
#[derive(Debug)]
#[must_use = "a latch that is never released keeps the service unready"]
pub struct Latch {
    readiness: Readiness,
    id: u64,
}

impl Readiness {
    /// Ready, until a gate is added.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds something that must happen first.
    pub fn gate(&self, name: &'static str) -> Latch {
        let mut id = 0;
        self.0.send_modify(|state| {
            id = state.next;
            state.next += 1;
            state.waiting.insert(id, name);
        });
        Latch { readiness: self.clone(), id }
    }

    /// Says for good that no new work should come.
    pub fn drain(&self) {
        self.0.send_modify(|state| state.draining = true);
    }

    /// Whether everything is released and nothing drains.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let state = self.0.borrow();
        state.waiting.is_empty() && !state.draining
    }

    /// What is still awaited, sorted; `drain` when the service is on its way out.
    #[must_use]
    pub fn waiting_for(&self) -> Vec<&'static str> {
        let state = self.0.borrow();
        let mut names: Vec<&'static str> = state.waiting.values().copied().collect();
        if state.draining {
            names.push("drain");
        }
        names.sort_unstable();
        names
    }

    /// Ends when every latch is released.
    pub async fn ready(&self) {
        let mut state = self.0.subscribe();
        // The sender lives in `self`, so it cannot be gone.
        let _ = state.wait_for(|state| state.waiting.is_empty()).await;
    }
}

impl Latch {
    /// What was awaited has happened.
    pub fn release(self) {
        self.readiness.0.send_modify(|state| {
            state.waiting.remove(&self.id);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_once_every_latch_is_released() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let (database, model) = (readiness.gate("database"), readiness.gate("model"));
        assert_eq!(readiness.waiting_for(), ["database", "model"]);
        let waiting = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.ready().await }
        });
        database.release();
        assert!(!readiness.is_ready());
        model.release();
        tokio::time::timeout(std::time::Duration::from_secs(10), waiting).await.unwrap().unwrap();
        assert!(readiness.is_ready());
        readiness.drain();
        assert_eq!(readiness.waiting_for(), ["drain"]);
    }

    #[test]
    fn a_dropped_latch_is_a_failure_and_no_release() {
        let readiness = Readiness::new();
        drop(readiness.gate("database"));
        assert_eq!(readiness.waiting_for(), ["database"]);
    }
}
