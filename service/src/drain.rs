//! Stopping: tokens that are handed down, and a grace period in which what runs may end by itself.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// An error of a task, whatever its type.
pub type TaskError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Why a process stops.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DrainError {
    /// A task ended with an error.
    #[error("{task} failed: {source}")]
    Failed {
        /// Its name.
        task: &'static str,
        /// Its error.
        source: TaskError,
    },
    /// A task ended by a panic.
    #[error("{task} panicked")]
    Panicked {
        /// Its name.
        task: &'static str,
    },
    /// Tasks did not end in time and were cut off.
    #[error("cut off after {} s of grace: {}", grace.as_secs_f64(), tasks.join(", "))]
    CutOff {
        /// Their names.
        tasks: Vec<&'static str>,
        /// How long they had.
        grace: Duration,
    },
}

#[derive(Debug, Default)]
struct Tasks {
    running: BTreeMap<u64, (&'static str, AbortHandle)>,
    next: u64,
    first_error: Option<DrainError>,
}

/// The tasks of a process. When one of them fails, or when somebody says so, all are asked to stop.
#[derive(Debug, Clone)]
pub struct Drain {
    stop: CancellationToken,
    tracker: TaskTracker,
    tasks: Arc<Mutex<Tasks>>,
    grace: Duration,
}

impl Drain {
    /// Tasks get `grace` between the wish to stop and the end.
    #[must_use]
    pub fn new(grace: Duration) -> Self {
        Self { stop: CancellationToken::new(), tracker: TaskTracker::new(), tasks: Arc::default(), grace }
    }

    /// The token that says when to stop. Pass it, or a child of it, to whatever runs.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// How long tasks have between the wish to stop and the end.
    #[must_use]
    pub fn grace(&self) -> Duration {
        self.grace
    }

    /// Asks everything to stop.
    pub fn begin(&self) {
        self.stop.cancel();
    }

    /// From now on the first SIGTERM or SIGINT asks everything to stop. Call it before anybody learns that the process
    /// is there: a signal that comes earlier ends it at once.
    ///
    /// # Errors
    /// The process cannot listen for signals.
    pub fn begin_on_signal(&self) -> std::io::Result<()> {
        let mut signals = StopSignals::install()?;
        let drain = self.clone();
        tokio::spawn(async move {
            let signal = signals.first().await;
            tracing::info!(signal, "stopping");
            drain.begin();
        });
        Ok(())
    }

    /// Runs `task`. Its error or panic stops the process; its plain end does not.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = Result<(), TaskError>> + Send + 'static,
    {
        let mut tasks = self.tasks.lock();
        let id = tasks.next;
        tasks.next += 1;
        let handle = tokio::spawn(task);
        tasks.running.insert(id, (name, handle.abort_handle()));
        drop(tasks);
        let drain = self.clone();
        self.tracker.spawn(async move {
            let error = match handle.await {
                Ok(Ok(())) => None,
                Ok(Err(source)) => Some(DrainError::Failed { task: name, source }),
                Err(error) if error.is_panic() => Some(DrainError::Panicked { task: name }),
                // Cut off by `finish`, which reports it.
                Err(_) => None,
            };
            let mut tasks = drain.tasks.lock();
            tasks.running.remove(&id);
            if let Some(error) = error {
                tracing::error!(task = name, %error, "a task failed; stopping");
                tasks.first_error.get_or_insert(error);
                drain.stop.cancel();
            }
        });
    }

    /// Waits for the wish to stop, then at most the grace period for the tasks to end, and cuts off the rest.
    ///
    /// # Errors
    /// The first task that failed, else the tasks that were cut off.
    pub async fn finish(self) -> Result<(), DrainError> {
        self.stop.cancelled().await;
        self.tracker.close();
        let in_time = tokio::time::timeout(self.grace, self.tracker.wait()).await.is_ok();
        let mut cut_off = Vec::new();
        if !in_time {
            for (name, task) in self.tasks.lock().running.values() {
                cut_off.push(*name);
                task.abort();
            }
            // A task that blocks its thread cannot be aborted; the process ends anyway.
            let _ = tokio::time::timeout(Duration::from_secs(1), self.tracker.wait()).await;
        }
        match self.tasks.lock().first_error.take() {
            Some(error) => Err(error),
            None if cut_off.is_empty() => Ok(()),
            None => Err(DrainError::CutOff { tasks: cut_off, grace: self.grace }),
        }
    }
}

struct StopSignals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl StopSignals {
    fn install() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn first(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Ends with the first SIGTERM or SIGINT.
///
/// # Errors
/// The process cannot listen for signals.
pub async fn stop_signal() -> std::io::Result<&'static str> {
    Ok(StopSignals::install()?.first().await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tasks_end_by_themselves_within_the_grace() {
        let drain = Drain::new(Duration::from_secs(60));
        let stop = drain.token();
        drain.spawn("worker", async move {
            stop.cancelled().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(())
        });
        drain.spawn("short", async { Ok(()) });
        drain.begin();
        drain.finish().await.unwrap();
    }

    #[tokio::test]
    async fn what_does_not_end_is_cut_off_and_named() {
        let drain = Drain::new(Duration::from_millis(500));
        drain.spawn("deaf", std::future::pending());
        drain.begin();
        let error = drain.finish().await.unwrap_err();
        assert_eq!(error.to_string(), "cut off after 0.5 s of grace: deaf");
    }

    #[tokio::test]
    async fn one_failure_stops_all_and_is_the_result() {
        let drain = Drain::new(Duration::from_secs(5));
        let stop = drain.token();
        drain.spawn("neighbour", async move {
            stop.cancelled().await;
            Ok(())
        });
        drain.spawn("broken", async { Err("no disk".into()) });
        let error = drain.finish().await.unwrap_err();
        assert_eq!(error.to_string(), "broken failed: no disk");
    }

    #[tokio::test]
    async fn a_panic_is_a_failure() {
        let drain = Drain::new(Duration::from_secs(5));
        drain.spawn("broken", async { panic!("on purpose") });
        assert_eq!(drain.finish().await.unwrap_err().to_string(), "broken panicked");
    }
}
