//! The threads that decode: a fixed number, and a bounded queue before them.
//!
//! Decoding keeps a core busy for its whole length, so it must not run where requests are read. A full queue refuses at
//! once: a suggestion that comes late is worth nothing, and a queue that grows makes all of them late.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use metrics::gauge;
use parking_lot::{Condvar, Mutex};

use crate::error::ServingError;

/// Says that nobody waits for an answer any more.
#[derive(Debug, Clone, Default)]
pub(crate) struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    pub(crate) fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueFull;

struct Job {
    cancel: CancelFlag,
    run: Box<dyn FnOnce() + Send>,
}

struct Queue {
    jobs: VecDeque<Job>,
    idle: usize,
    stopped: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    capacity: usize,
}

/// The threads; they end when the pool is dropped, after the job at hand.
pub(crate) struct DecodePool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for DecodePool {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "DecodePool({} threads)", self.threads.len())
    }
}

impl DecodePool {
    pub(crate) fn start(threads: usize, capacity: usize) -> Result<Self, ServingError> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue { jobs: VecDeque::new(), idle: 0, stopped: false }),
            changed: Condvar::new(),
            capacity,
        });
        let threads = (0..threads)
            .map(|number| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new().name(format!("decode-{number}")).spawn(move || shared.work())
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(ServingError::Thread)?;
        Ok(Self { shared, threads })
    }

    /// Queues `run`; it never starts once `cancel` is set.
    pub(crate) fn submit(&self, cancel: CancelFlag, run: impl FnOnce() + Send + 'static) -> Result<(), QueueFull> {
        let mut queue = self.shared.queue.lock();
        // What an idle thread is about to take does not wait.
        if queue.jobs.len() >= self.shared.capacity + queue.idle {
            queue.jobs.retain(|job| !job.cancel.is_cancelled());
        }
        if queue.jobs.len() >= self.shared.capacity + queue.idle {
            return Err(QueueFull);
        }
        queue.jobs.push_back(Job { cancel, run: Box::new(run) });
        gauge!("flywheel_serving_queue_depth").set(queue.jobs.len() as f64);
        drop(queue);
        self.shared.changed.notify_one();
        Ok(())
    }
}

impl Shared {
    fn work(&self) {
        while let Some(job) = self.next() {
            if job.cancel.is_cancelled() {
                continue;
            }
            // Whoever waits for the job sees its channel close; the thread lives on.
            if catch_unwind(AssertUnwindSafe(job.run)).is_err() {
                tracing::error!("decoding panicked");
                metrics::counter!("flywheel_serving_decode_failures_total", "reason" => "panic").increment(1);
            }
        }
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.queue.lock();
        queue.idle += 1;
        while queue.jobs.is_empty() && !queue.stopped {
            self.changed.wait(&mut queue);
        }
        queue.idle -= 1;
        if queue.stopped {
            return None;
        }
        let job = queue.jobs.pop_front();
        gauge!("flywheel_serving_queue_depth").set(queue.jobs.len() as f64);
        job
    }
}

impl Drop for DecodePool {
    fn drop(&mut self) {
        let abandoned = {
            let mut queue = self.shared.queue.lock();
            queue.stopped = true;
            std::mem::take(&mut queue.jobs)
        };
        drop(abandoned);
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A job's panic is caught in the job; there is nothing to learn here.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    const WAIT: Duration = Duration::from_secs(10);

    #[test]
    fn a_full_queue_refuses_and_cancelled_jobs_make_room() {
        let pool = DecodePool::start(1, 1).unwrap();
        let (started, starts) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        pool.submit(CancelFlag::default(), move || {
            started.send(()).unwrap();
            released.recv_timeout(WAIT).unwrap();
        })
        .unwrap();
        starts.recv_timeout(WAIT).unwrap();
        let waiting = CancelFlag::default();
        pool.submit(waiting.clone(), || panic!("cancelled jobs never start")).unwrap();
        assert_eq!(pool.submit(CancelFlag::default(), || {}), Err(QueueFull));
        waiting.cancel();
        let (done, ends) = mpsc::channel();
        pool.submit(CancelFlag::default(), move || done.send(()).unwrap()).unwrap();
        release.send(()).unwrap();
        ends.recv_timeout(WAIT).unwrap();
    }

    #[test]
    fn a_panic_costs_one_job_and_no_thread() {
        let pool = DecodePool::start(1, 4).unwrap();
        pool.submit(CancelFlag::default(), || panic!("on purpose")).unwrap();
        let (done, ends) = mpsc::channel();
        pool.submit(CancelFlag::default(), move || done.send(()).unwrap()).unwrap();
        ends.recv_timeout(WAIT).unwrap();
    }
}
