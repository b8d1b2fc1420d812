//! The threads that decode: a fixed number, and a bounded queue before them.
//!
//! Decoding keeps a core busy for its whole length, so it must not run where requests are read. A full queue refuses at
//! once: a suggestion that comes late is worth nothing, and a queue that grows makes all of them late.
//!
//! A thread may take more work to what it does, if it is of the same kind ([`Work::Kind`]). It gets what waits longest and
//! only while no thread is idle: nobody is overtaken, and work shares a thread only where it would have to wait for one.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use metrics::gauge;
use parking_lot::{Condvar, Mutex};

use crate::error::ServingError;

/// The queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueFull;

/// What threads do.
pub(crate) trait Work: Send + Sized + 'static {
    /// What can be done together is of one kind.
    type Kind: PartialEq;

    /// Its kind.
    fn kind(&self) -> Self::Kind;

    /// Whether nobody waits for it any more.
    fn is_cancelled(&self) -> bool;

    /// Does it, and what `more` hands out meanwhile.
    fn run(self, more: &mut dyn FnMut() -> Option<Self>);
}

struct Queue<W> {
    jobs: VecDeque<W>,
    idle: usize,
    stopped: bool,
}

impl<W: Work> Queue<W> {
    fn take(&mut self) -> Option<W> {
        let job = self.jobs.pop_front();
        gauge!("flywheel_serving_queue_depth").set(self.jobs.len() as f64);
        job
    }
}

struct Shared<W> {
    queue: Mutex<Queue<W>>,
    changed: Condvar,
    capacity: usize,
}

/// The threads; they end when the pool is dropped, after the work at hand.
pub(crate) struct DecodePool<W> {
    shared: Arc<Shared<W>>,
    threads: Vec<JoinHandle<()>>,
}

impl<W> std::fmt::Debug for DecodePool<W> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "DecodePool({} threads)", self.threads.len())
    }
}

impl<W: Work> DecodePool<W> {
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

    /// Queues `work`; it never starts once it is cancelled.
    pub(crate) fn submit(&self, work: W) -> Result<(), QueueFull> {
        let mut queue = self.shared.queue.lock();
        // What an idle thread is about to take does not wait.
        if queue.jobs.len() >= self.shared.capacity + queue.idle {
            queue.jobs.retain(|job| !job.is_cancelled());
        }
        if queue.jobs.len() >= self.shared.capacity + queue.idle {
            return Err(QueueFull);
        }
        queue.jobs.push_back(work);
        gauge!("flywheel_serving_queue_depth").set(queue.jobs.len() as f64);
        drop(queue);
        self.shared.changed.notify_one();
        Ok(())
    }
}

impl<W: Work> Shared<W> {
    fn work(&self) {
        while let Some(job) = self.next() {
            if job.is_cancelled() {
                continue;
            }
            let kind = job.kind();
            // Whoever waits for the work sees its channel close; the thread lives on.
            if catch_unwind(AssertUnwindSafe(|| job.run(&mut || self.joining(&kind)))).is_err() {
                tracing::error!("decoding panicked");
                metrics::counter!("flywheel_serving_decode_failures_total", "reason" => "panic").increment(1);
            }
        }
    }

    fn next(&self) -> Option<W> {
        let mut queue = self.queue.lock();
        queue.idle += 1;
        while queue.jobs.is_empty() && !queue.stopped {
            self.changed.wait(&mut queue);
        }
        queue.idle -= 1;
        if queue.stopped { None } else { queue.take() }
    }

    /// What waits longest, if it may join work of `kind` and no thread is about to take it.
    fn joining(&self, kind: &W::Kind) -> Option<W> {
        let mut queue = self.queue.lock();
        while queue.jobs.front().is_some_and(Work::is_cancelled) {
            queue.take();
        }
        let joins = queue.jobs.front().is_some_and(|job| job.kind() == *kind);
        if !joins || queue.jobs.len() <= queue.idle {
            return None;
        }
        metrics::counter!("flywheel_serving_joined_answers_total").increment(1);
        queue.take()
    }
}

impl<W> Drop for DecodePool<W> {
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

    use tokio_util::sync::CancellationToken;

    use super::*;

    const WAIT: Duration = Duration::from_secs(10);

    /// What is handed out while it runs.
    type More<'a> = &'a mut dyn FnMut() -> Option<Task>;

    struct Task {
        kind: u8,
        cancel: CancellationToken,
        run: Box<dyn FnOnce(More<'_>) + Send>,
    }

    impl Work for Task {
        type Kind = u8;

        fn kind(&self) -> u8 {
            self.kind
        }

        fn is_cancelled(&self) -> bool {
            self.cancel.is_cancelled()
        }

        fn run(self, more: &mut dyn FnMut() -> Option<Self>) {
            (self.run)(more);
        }
    }

    fn task(kind: u8, cancel: &CancellationToken, run: impl FnOnce(More<'_>) + Send + 'static) -> Task {
        Task { kind, cancel: cancel.clone(), run: Box::new(run) }
    }

    fn simple(run: impl FnOnce() + Send + 'static) -> Task {
        task(0, &CancellationToken::default(), |_| run())
    }

    /// A pool of one thread, which is busy until something is sent.
    fn busy(capacity: usize) -> (DecodePool<Task>, mpsc::Sender<()>) {
        let pool = DecodePool::start(1, capacity).unwrap();
        let (started, starts) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        pool.submit(simple(move || {
            started.send(()).unwrap();
            released.recv_timeout(WAIT).unwrap();
        }))
        .unwrap();
        starts.recv_timeout(WAIT).unwrap();
        (pool, release)
    }

    #[test]
    fn a_full_queue_refuses_and_cancelled_jobs_make_room() {
        let (pool, release) = busy(1);
        let waiting = CancellationToken::default();
        pool.submit(task(0, &waiting, |_| panic!("cancelled jobs never start"))).unwrap();
        assert_eq!(pool.submit(simple(|| {})), Err(QueueFull));
        waiting.cancel();
        let (done, ends) = mpsc::channel();
        pool.submit(simple(move || done.send(()).unwrap())).unwrap();
        release.send(()).unwrap();
        ends.recv_timeout(WAIT).unwrap();
    }

    #[test]
    fn a_panic_costs_one_job_and_no_thread() {
        let pool = DecodePool::start(1, 4).unwrap();
        pool.submit(simple(|| panic!("on purpose"))).unwrap();
        let (done, ends) = mpsc::channel();
        pool.submit(simple(move || done.send(()).unwrap())).unwrap();
        ends.recv_timeout(WAIT).unwrap();
    }

    #[test]
    fn work_of_the_same_kind_joins_in_its_turn() {
        let (pool, release) = busy(9);
        let (done, ends) = mpsc::channel();
        let alone = |name: &'static str, kind: u8, cancel: &CancellationToken| {
            let done = done.clone();
            task(kind, cancel, move |_| done.send(format!("{name} alone")).unwrap())
        };
        let (joined, live, gone) = (done.clone(), CancellationToken::default(), CancellationToken::default());
        pool.submit(task(7, &live, move |more| {
            joined.send("first".to_owned()).unwrap();
            let mut count = 0;
            while let Some(other) = more() {
                assert_eq!(other.kind, 7);
                count += 1;
            }
            joined.send(format!("{count} joined")).unwrap();
        }))
        .unwrap();
        pool.submit(alone("a", 7, &live)).unwrap();
        pool.submit(alone("cancelled", 8, &gone)).unwrap();
        pool.submit(alone("b", 7, &live)).unwrap();
        // Of another kind: what came later does not overtake it.
        pool.submit(alone("c", 8, &live)).unwrap();
        pool.submit(alone("d", 7, &live)).unwrap();
        gone.cancel();
        release.send(()).unwrap();
        for wanted in ["first", "2 joined", "c alone", "d alone"] {
            assert_eq!(ends.recv_timeout(WAIT).unwrap(), wanted);
        }
    }

    #[test]
    fn nothing_joins_that_an_idle_thread_is_about_to_take() {
        let (pool, release) = busy(9);
        let (done, ends) = mpsc::channel();
        let live = CancellationToken::default();
        pool.submit(task(7, &live, |_| {})).unwrap();
        let shared = Arc::clone(&pool.shared);
        shared.queue.lock().idle += 1;
        assert!(shared.joining(&7).is_none());
        pool.submit(task(7, &live, move |_| done.send(()).unwrap())).unwrap();
        assert!(shared.joining(&7).is_some());
        shared.queue.lock().idle -= 1;
        release.send(()).unwrap();
        ends.recv_timeout(WAIT).unwrap();
    }
}
