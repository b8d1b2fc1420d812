//! The driver of reconcilers.
//!
//! A reconciler compares what should be with what is and takes one step towards it. Its `activate` has no input, so a
//! timer, a notification and a request all run the same code, and a restart is an ordinary day. The driver's timer runs
//! on real time: how often one looks decides nothing about data.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::lease::LeaseHandle;

/// An error of an activation, whatever its type.
pub type ReconcileError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// When to look again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// After the usual period, or when notified.
    Period,
    /// At once: there is more to do.
    Now,
    /// After this time at the latest.
    After(Duration),
}

/// Something that keeps reality close to intention.
#[async_trait]
pub trait Reconciler: Send + Sync {
    /// A name for logs, metrics and the lease.
    fn name(&self) -> &'static str;

    /// Compares and takes steps. Idempotent; may be dropped at any await point.
    ///
    /// # Errors
    /// Whatever went wrong; it is logged and tried again after a pause that grows.
    async fn activate(&self) -> Result<Next, ReconcileError>;
}

/// How often a reconciler looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Without a notification.
    pub period: Duration,
    /// After the first error in a row.
    pub first_pause: Duration,
    /// After many.
    pub longest_pause: Duration,
}

impl Schedule {
    /// A period, with pauses from 100 ms up to a minute after errors.
    #[must_use]
    pub fn every(period: Duration) -> Self {
        Self { period, first_pause: Duration::from_millis(100), longest_pause: Duration::from_secs(60) }
    }

    fn pause(&self, errors: u32) -> Duration {
        let factor = 1_u32.checked_shl(errors.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first_pause.saturating_mul(factor).min(self.longest_pause)
    }
}

/// Why a requested activation has no good result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// It failed.
    #[error("{reconciler}: {message}")]
    Failed {
        /// Its name.
        reconciler: &'static str,
        /// What it said.
        message: String,
    },
    /// Another process leads.
    #[error("{reconciler}: another process leads")]
    NotLeader {
        /// Its name.
        reconciler: &'static str,
    },
    /// The driver has ended.
    #[error("{reconciler}: stopped")]
    Stopped {
        /// Its name.
        reconciler: &'static str,
    },
}

#[derive(Debug, Clone, Default)]
struct Finished {
    /// The highest request that this activation has seen before it began.
    request: u64,
    result: Option<Result<(), RequestError>>,
}

/// Asks a driven reconciler to look.
#[derive(Debug, Clone)]
pub struct ReconcilerHandle {
    name: &'static str,
    requests: Arc<watch::Sender<u64>>,
    finished: watch::Receiver<Finished>,
}

impl ReconcilerHandle {
    /// Something may have changed. Cheap; many notifications make one activation.
    pub fn notify(&self) {
        self.requests.send_modify(|request| *request += 1);
    }

    /// Notifies, and waits for an activation that began afterwards.
    ///
    /// # Errors
    /// The activation failed, this process does not lead, or the driver has ended.
    pub async fn request(&self) -> Result<(), RequestError> {
        let mut finished = self.finished.clone();
        let mut mine = 0;
        self.requests.send_modify(|request| {
            *request += 1;
            mine = *request;
        });
        match finished.wait_for(|finished| finished.request >= mine).await {
            Ok(finished) => finished.result.clone().unwrap_or(Ok(())),
            Err(_) => Err(RequestError::Stopped { reconciler: self.name }),
        }
    }
}

/// Returns a handle, and the task that activates `reconciler` until `stop`; with a lease, only while this process
/// holds it.
pub fn drive(
    reconciler: Arc<dyn Reconciler>,
    schedule: Schedule,
    lease: Option<LeaseHandle>,
    stop: CancellationToken,
) -> (ReconcilerHandle, impl Future<Output = ()> + Send + 'static) {
    let name = reconciler.name();
    let (requests, finished) = (Arc::new(watch::Sender::new(0)), watch::Sender::new(Finished::default()));
    let handle = ReconcilerHandle { name, requests: requests.clone(), finished: finished.subscribe() };
    let requests = requests.subscribe();
    (handle, Driver { reconciler, name, schedule, lease, stop, requests, finished, errors: 0 }.run())
}

struct Driver {
    reconciler: Arc<dyn Reconciler>,
    name: &'static str,
    schedule: Schedule,
    lease: Option<LeaseHandle>,
    stop: CancellationToken,
    requests: watch::Receiver<u64>,
    finished: watch::Sender<Finished>,
    errors: u32,
}

impl Driver {
    async fn run(mut self) {
        let stop = self.stop.clone();
        // Dropping an activation in the middle is allowed, so a stop is never late.
        stop.run_until_cancelled(async {
            loop {
                let wait = self.once().await;
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    changed = self.requests.changed() => {
                        if changed.is_err() {
                            // No handle is left; only the timer remains.
                            tokio::time::sleep(wait).await;
                        }
                    }
                }
            }
        })
        .await;
    }

    /// Activates once and says how long to wait.
    async fn once(&mut self) -> Duration {
        let request = *self.requests.borrow_and_update();
        if self.lease.as_ref().is_some_and(|lease| lease.fence().is_none()) {
            self.finish(request, Err(RequestError::NotLeader { reconciler: self.name }));
            return self.schedule.period.min(Duration::from_secs(1));
        }
        let started = Instant::now();
        let result = self.reconciler.activate().await;
        metrics::histogram!("flywheel_service_activation_seconds", "reconciler" => self.name)
            .record(started.elapsed().as_secs_f64());
        let outcome = if result.is_ok() { "ok" } else { "error" };
        metrics::counter!("flywheel_service_activations_total", "reconciler" => self.name, "outcome" => outcome)
            .increment(1);
        match result {
            Ok(next) => {
                self.errors = 0;
                self.finish(request, Ok(()));
                match next {
                    Next::Period => self.schedule.period,
                    Next::Now => Duration::ZERO,
                    Next::After(duration) => duration.min(self.schedule.period),
                }
            }
            Err(error) => {
                self.errors = self.errors.saturating_add(1);
                let pause = self.schedule.pause(self.errors);
                tracing::warn!(reconciler = self.name, %error, errors = self.errors, ?pause, "activation failed");
                self.finish(request, Err(RequestError::Failed { reconciler: self.name, message: error.to_string() }));
                // Notifications must not shorten the pause, or a busy neighbour would hammer what is broken.
                tokio::time::sleep(pause).await;
                Duration::ZERO
            }
        }
    }

    fn finish(&self, request: u64, result: Result<(), RequestError>) {
        self.finished.send_replace(Finished { request, result: Some(result) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    struct Counting {
        count: AtomicU32,
        failures: u32,
        next: Next,
    }

    #[async_trait]
    impl Reconciler for Counting {
        fn name(&self) -> &'static str {
            "counting"
        }

        async fn activate(&self) -> Result<Next, ReconcileError> {
            let count = self.count.fetch_add(1, Ordering::SeqCst);
            if count < self.failures { Err(format!("failure {count}").into()) } else { Ok(self.next) }
        }
    }

    async fn until(reconciler: &Counting, count: u32) {
        let reached = async {
            while reconciler.count.load(Ordering::SeqCst) < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), reached).await.unwrap();
    }

    fn counting(failures: u32, next: Next) -> Arc<Counting> {
        Arc::new(Counting { count: AtomicU32::new(0), failures, next })
    }

    #[tokio::test]
    async fn the_timer_activates_once_a_period() {
        let reconciler = counting(0, Next::Period);
        let stop = CancellationToken::new();
        let period = Duration::from_millis(20);
        let started = Instant::now();
        let (_handle, task) = drive(reconciler.clone(), Schedule::every(period), None, stop.clone());
        let task = tokio::spawn(task);
        until(&reconciler, 6).await;
        assert!(started.elapsed() >= period * 5);
        stop.cancel();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_request_waits_for_an_activation_that_began_after_it() {
        let reconciler = counting(0, Next::Period);
        let stop = CancellationToken::new();
        let (handle, task) = drive(reconciler.clone(), Schedule::every(Duration::from_secs(3600)), None, stop.clone());
        let task = tokio::spawn(task);
        for expected in 2..6 {
            tokio::task::yield_now().await;
            handle.request().await.unwrap();
            assert!(reconciler.count.load(Ordering::SeqCst) >= expected - 1);
        }
        stop.cancel();
        task.await.unwrap();
        assert_eq!(handle.request().await, Err(RequestError::Stopped { reconciler: "counting" }));
    }

    #[tokio::test]
    async fn errors_pause_longer_each_time_and_notifications_do_not_shorten_it() {
        let reconciler = counting(4, Next::Period);
        let stop = CancellationToken::new();
        let first_pause = Duration::from_millis(20);
        let schedule = Schedule { first_pause, ..Schedule::every(Duration::from_secs(3600)) };
        let started = Instant::now();
        let (handle, task) = drive(reconciler.clone(), schedule, None, stop.clone());
        let task = tokio::spawn(task);
        let notifying = tokio::spawn(async move {
            loop {
                handle.notify();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        until(&reconciler, 5).await;
        // 1 + 2 + 4 + 8 times the first pause.
        assert!(started.elapsed() >= first_pause * 15);
        notifying.abort();
        stop.cancel();
        task.await.unwrap();
    }

    #[test]
    fn the_pause_is_bounded() {
        let schedule = Schedule::every(Duration::from_secs(1));
        assert_eq!(schedule.pause(1), Duration::from_millis(100));
        assert_eq!(schedule.pause(200), Duration::from_secs(60));
    }
}
