//! What the door takes in at once, and whether the log behind it is read fast enough.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::{Bus, TopicStatus};
use events::{Timestamp, topics};
use parking_lot::Mutex;
use service::problem::Problem;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::IngestConfig;

/// When clients should try again while too much is in flight.
const BUSY_RETRY: Duration = Duration::from_secs(1);
/// When clients should try again while the log is not read fast enough.
const BACKLOG_RETRY: Duration = Duration::from_secs(30);

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

/// New is refused before acknowledged is dropped.
pub(crate) struct Backlog {
    bus: Arc<dyn Bus>,
    share: f64,
    staleness: Duration,
    seen: Mutex<Option<(TopicStatus, Instant)>>,
}

impl Backlog {
    pub(crate) fn new(bus: Arc<dyn Bus>, config: &IngestConfig) -> Self {
        Self { bus, share: config.backlog_share, staleness: config.backlog_staleness(), seen: Mutex::new(None) }
    }

    /// Refuses while the oldest unread raw record is older than the share of the topic's retention.
    pub(crate) async fn check(&self, now: Timestamp) -> Result<(), Problem> {
        let seen = self.seen.lock().clone();
        let status = match seen {
            Some((status, at)) if at.elapsed() < self.staleness && !is_behind(&status, now, self.share) => status,
            // Looked at again also when it was behind, so that the door opens as soon as the readers have caught up.
            _ => match self.bus.topic_status(topics::TELEMETRY_RAW).await {
                Ok(status) => {
                    *self.seen.lock() = Some((status.clone(), Instant::now()));
                    status
                }
                Err(error) => {
                    tracing::warn!(%error, "the backlog can not be looked at");
                    return Err(Problem::unavailable("log_unavailable", "the log does not answer", BUSY_RETRY));
                }
            },
        };
        if is_behind(&status, now, self.share) {
            metrics::counter!("flywheel_ingest_backlog_refusals_total").increment(1);
            let detail = "what was acknowledged before has not been read yet; new events would put it at risk";
            return Err(Problem::unavailable("backlog", detail, BACKLOG_RETRY));
        }
        Ok(())
    }
}

fn is_behind(status: &TopicStatus, now: Timestamp, share: f64) -> bool {
    match (status.oldest_unread, status.retention.age) {
        (Some(oldest), Some(retention)) => now.since(oldest) > retention.mul_f64(share.clamp(0.0, 1.0)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use bus::Retention;

    use super::*;

    #[test]
    fn three_quarters_of_the_retention_are_the_limit() {
        let mut status = TopicStatus {
            partitions: 4,
            records: 1,
            bytes: 1,
            oldest_unread: Some(Timestamp::from_seconds(0)),
            retention: Retention::age(Duration::from_secs(100)),
        };
        assert!(!is_behind(&status, Timestamp::from_seconds(75), 0.75));
        assert!(is_behind(&status, Timestamp::from_seconds(76), 0.75));
        status.oldest_unread = None;
        assert!(!is_behind(&status, Timestamp::from_seconds(1000), 0.75));
    }

    #[test]
    fn places_are_given_back() {
        let admission = Admission::new(2, 100);
        let first = admission.enter(60).unwrap();
        assert_eq!(admission.enter(60).err().map(|problem| problem.code()), Some("busy"));
        drop(first);
        let _all = admission.enter(1_000_000).unwrap();
    }
}
