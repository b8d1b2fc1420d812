//! What the door takes in at once.

use std::sync::Arc;
use std::time::Duration;

use service::problem::Problem;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// When clients should try again while too much is in flight.
const BUSY_RETRY: Duration = Duration::from_secs(1);

/// Bounds on what is in flight.
pub(crate) struct Admission {
    requests: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    capacity_bytes: usize,
}

/// A place for one request and its bytes; given back when dropped.
pub(crate) struct Place {
    _request: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

impl Admission {
    pub(crate) fn new(requests: usize, bytes: usize) -> Self {
        let bytes = bytes.clamp(1, u32::MAX as usize);
        Self {
            requests: Arc::new(Semaphore::new(requests.clamp(1, Semaphore::MAX_PERMITS))),
            bytes: Arc::new(Semaphore::new(bytes)),
            capacity_bytes: bytes,
        }
    }

    /// A place for a request whose body has at most `bytes`.
    pub(crate) fn enter(&self, bytes: usize) -> Result<Place, Problem> {
        let busy = || Problem::unavailable("busy", "too many requests are in flight", BUSY_RETRY);
        let bytes = u32::try_from(bytes.min(self.capacity_bytes)).unwrap_or(u32::MAX);
        let request = self.requests.clone().try_acquire_owned().map_err(|_| busy())?;
        let bytes = self.bytes.clone().try_acquire_many_owned(bytes).map_err(|_| busy())?;
        Ok(Place { _request: request, _bytes: bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back() {
        let admission = Admission::new(2, 100);
        let first = admission.enter(60).unwrap();
        assert_eq!(admission.enter(60).err().map(|problem| problem.code()), Some("busy"));
        drop(first);
        let _all = admission.enter(1_000_000).unwrap();
    }
}
