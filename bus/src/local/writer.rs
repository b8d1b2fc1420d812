//! The one thread that writes: group commit.
//!
//! Every change of the log is a job. The thread takes what has queued up while the last transaction was being fsynced,
//! applies it in one transaction, commits, and answers each job. Answers come after the commit only, so an `Ok` is
//! durable. When a transaction fails, its jobs are applied again one by one, so that a job that cannot be written (a
//! full disk) does not fail its neighbours. When it could not even begin (another process holds the file's lock), all
//! of them fail: each alone would wait as long again.

use std::collections::HashMap;
use std::time::Instant;

use events::Timestamp;
use rusqlite::{Connection, params};
use service::clock::SharedClock;
use tokio::sync::{mpsc, oneshot};

use super::ends::Ends;
use super::schema::{is_busy, record_id, storage};
use crate::error::BusError;
use crate::record::RecordKey;

/// Why a job was not applied.
pub(super) enum Refusal {
    /// The storage failed; the whole transaction ends.
    Storage(rusqlite::Error),
    /// The job itself cannot be done, and has changed nothing. The transaction goes on without it.
    Job(BusError),
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        Self::Storage(error)
    }
}

impl From<BusError> for Refusal {
    fn from(error: BusError) -> Self {
        Self::Job(error)
    }
}

/// A transaction that several jobs share.
pub(super) struct WriteTransaction<'a> {
    /// The connection with the open transaction.
    pub(super) connection: &'a Connection,
    clock: &'a SharedClock,
    appended: HashMap<i64, Appended>,
}

struct Appended {
    next: u64,
    bytes: u64,
}

impl WriteTransaction<'_> {
    /// Appends a record and returns its position. Positions are dense within a partition: the counter is read and
    /// written in the transaction that appends.
    pub(super) fn append(
        &mut self,
        partition_id: i64,
        control: bool,
        key: &RecordKey,
        value: &[u8],
    ) -> rusqlite::Result<u64> {
        self.append_at(partition_id, control, self.clock.now(), key, value)
    }

    /// The same, with the time at which it was appended elsewhere.
    pub(super) fn append_at(
        &mut self,
        partition_id: i64,
        control: bool,
        appended_at: Timestamp,
        key: &RecordKey,
        value: &[u8],
    ) -> rusqlite::Result<u64> {
        let appended = match self.appended.entry(partition_id) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let mut next = self.connection.prepare_cached("SELECT next FROM partitions WHERE id = ?1")?;
                let next = next.query_row([partition_id], |row| row.get::<_, i64>(0))?.cast_unsigned();
                entry.insert(Appended { next, bytes: 0 })
            }
        };
        let position = appended.next;
        let mut insert = self
            .connection
            .prepare_cached("INSERT INTO records (id, control, appended_at, key, value) VALUES (?1, ?2, ?3, ?4, ?5)")?;
        let appended_at = appended_at.as_micros();
        insert.execute(params![record_id(partition_id, position), control, appended_at, key.0, value])?;
        appended.next += 1;
        appended.bytes += value.len() as u64;
        Ok(position)
    }

    fn finish(self) -> rusqlite::Result<HashMap<i64, Appended>> {
        let mut update =
            self.connection.prepare_cached("UPDATE partitions SET next = ?2, bytes = bytes + ?3 WHERE id = ?1")?;
        for (partition_id, appended) in &self.appended {
            update.execute([*partition_id, appended.next.cast_signed(), appended.bytes.cast_signed()])?;
        }
        Ok(self.appended)
    }
}

/// Something to write.
pub(super) trait Job: Send {
    /// About how much it writes; bounds a transaction.
    fn bytes(&self) -> usize;
    /// Writes it. May be called again when the transaction failed.
    fn apply(&mut self, transaction: &mut WriteTransaction<'_>) -> rusqlite::Result<()>;
    /// Answers who asked: with its own result if the transaction was committed.
    fn finish(&mut self, committed: Result<(), BusError>);
}

struct TypedJob<R, F> {
    bytes: usize,
    apply: F,
    result: Option<Result<R, BusError>>,
    reply: Option<oneshot::Sender<Result<R, BusError>>>,
}

impl<R, F> Job for TypedJob<R, F>
where
    R: Send,
    F: FnMut(&mut WriteTransaction<'_>) -> Result<R, Refusal> + Send,
{
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn apply(&mut self, transaction: &mut WriteTransaction<'_>) -> rusqlite::Result<()> {
        self.result = Some(match (self.apply)(transaction) {
            Ok(result) => Ok(result),
            Err(Refusal::Job(error)) => Err(error),
            Err(Refusal::Storage(error)) => return Err(error),
        });
        Ok(())
    }

    fn finish(&mut self, committed: Result<(), BusError>) {
        let result = committed.and_then(|()| self.result.take().unwrap_or(Err(BusError::Closed)));
        if let Some(reply) = self.reply.take() {
            // Whoever asked may have gone; what was written stays written.
            let _ = reply.send(result);
        }
    }
}

/// Hands jobs to the writer thread.
#[derive(Clone)]
pub(super) struct WriterHandle(mpsc::Sender<Box<dyn Job>>);

impl WriterHandle {
    /// Writes and waits for the commit.
    pub(super) async fn write<R, F>(&self, bytes: usize, apply: F) -> Result<R, BusError>
    where
        R: Send + 'static,
        F: FnMut(&mut WriteTransaction<'_>) -> Result<R, Refusal> + Send + 'static,
    {
        let (job, answer) = typed(bytes, apply);
        self.0.send(job).await.map_err(|_| BusError::Closed)?;
        answer.await.unwrap_or(Err(BusError::Closed))
    }

    /// As [`WriterHandle::write`], from a thread that may block.
    pub(super) fn write_blocking<R, F>(&self, bytes: usize, apply: F) -> Result<R, BusError>
    where
        R: Send + 'static,
        F: FnMut(&mut WriteTransaction<'_>) -> Result<R, Refusal> + Send + 'static,
    {
        let (job, answer) = typed(bytes, apply);
        self.0.blocking_send(job).map_err(|_| BusError::Closed)?;
        answer.blocking_recv().unwrap_or(Err(BusError::Closed))
    }

    /// Queues without waiting for anything; dropped when the queue is full.
    pub(super) fn write_later<F>(&self, mut apply: F)
    where
        F: FnMut(&mut WriteTransaction<'_>) -> Result<(), Refusal> + Send + 'static,
    {
        let (job, _) = typed(0, move |transaction: &mut WriteTransaction<'_>| apply(transaction));
        let _ = self.0.try_send(job);
    }
}

type Answer<R> = oneshot::Receiver<Result<R, BusError>>;

fn typed<R, F>(bytes: usize, apply: F) -> (Box<dyn Job>, Answer<R>)
where
    R: Send + 'static,
    F: FnMut(&mut WriteTransaction<'_>) -> Result<R, Refusal> + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    (Box::new(TypedJob { bytes, apply, result: None, reply: Some(reply) }), answer)
}

/// Bounds of one transaction.
#[derive(Debug, Clone, Copy)]
pub(super) struct GroupLimits {
    pub(super) jobs: usize,
    pub(super) bytes: usize,
}

/// The state of the writer thread.
pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) clock: SharedClock,
    pub(super) ends: std::sync::Arc<Ends>,
    pub(super) limits: GroupLimits,
}

impl Writer {
    /// Starts the thread; it ends when the last handle is dropped and the queue is empty.
    pub(super) fn start(self, queue: usize) -> Result<WriterHandle, BusError> {
        let (sender, receiver) = mpsc::channel(queue.max(1));
        std::thread::Builder::new()
            .name("bus-writer".into())
            .spawn(move || self.run(receiver))
            .map_err(|error| BusError::Storage(error.to_string()))?;
        Ok(WriterHandle(sender))
    }

    fn run(mut self, mut receiver: mpsc::Receiver<Box<dyn Job>>) {
        while let Some(first) = receiver.blocking_recv() {
            let mut bytes = first.bytes();
            let mut group = vec![first];
            while group.len() < self.limits.jobs && bytes < self.limits.bytes {
                let Ok(job) = receiver.try_recv() else { break };
                bytes += job.bytes();
                group.push(job);
            }
            self.write_group(&mut group);
        }
    }

    fn write_group(&mut self, group: &mut [Box<dyn Job>]) {
        let result = self.commit(group);
        let alone = result.as_ref().is_err_and(|error| !is_busy(error)) && group.len() > 1;
        let result = result.map_err(storage);
        for job in group {
            let result = if alone { self.commit(std::slice::from_mut(job)).map_err(storage) } else { result.clone() };
            job.finish(result);
        }
    }

    fn commit(&mut self, group: &mut [Box<dyn Job>]) -> rusqlite::Result<()> {
        let started = Instant::now();
        let result = self.transaction(group);
        if result.is_err() && !self.connection.is_autocommit() {
            // A failure to roll back shows at the next BEGIN.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        metrics::histogram!("flywheel_bus_commit_seconds").record(started.elapsed().as_secs_f64());
        metrics::histogram!("flywheel_bus_commit_jobs").record(group.len() as f64);
        let appended = result?;
        self.ends.appended(appended.iter().map(|(partition_id, appended)| (*partition_id, appended.next)));
        Ok(())
    }

    fn transaction(&self, group: &mut [Box<dyn Job>]) -> rusqlite::Result<HashMap<i64, Appended>> {
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let mut transaction =
            WriteTransaction { connection: &self.connection, clock: &self.clock, appended: HashMap::new() };
        for job in group {
            job.apply(&mut transaction)?;
        }
        let appended = transaction.finish()?;
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(appended)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use service::clock::RealClock;

    use super::super::LocalLogConfig;
    use super::super::schema::open_writer;
    use super::*;

    /// A writer, and how often it has committed.
    fn start(folder: &tempfile::TempDir) -> (WriterHandle, Arc<AtomicUsize>) {
        let connection = open_writer(&folder.path().join("log.sqlite"), &LocalLogConfig::default()).unwrap();
        connection.execute_batch("CREATE TABLE written (number INTEGER PRIMARY KEY)").unwrap();
        let commits = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&commits);
        let count = move || {
            counted.fetch_add(1, Ordering::SeqCst);
            false
        };
        connection.commit_hook(Some(count)).unwrap();
        let limits = GroupLimits { jobs: 100, bytes: 1 << 20 };
        let writer = Writer { connection, clock: RealClock::shared(), ends: Arc::new(Ends::new()), limits };
        (writer.start(100).unwrap(), commits)
    }

    /// Holds the thread inside a transaction while `numbers` queue up, and answers what became of each.
    async fn write_together(writer: &WriterHandle, numbers: &[i64]) -> Vec<Result<(), BusError>> {
        let (entered, has_entered) = std::sync::mpsc::channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let holder = writer.clone();
        let held = tokio::task::spawn_blocking(move || {
            holder.write_blocking(0, move |_| {
                let _ = entered.send(());
                let _ = released.recv();
                Ok(())
            })
        });
        tokio::task::spawn_blocking(move || has_entered.recv()).await.unwrap().unwrap();
        let mut answers = Vec::new();
        for number in numbers.iter().copied() {
            let (job, answer) = typed(8, move |transaction: &mut WriteTransaction<'_>| {
                transaction.connection.execute("INSERT INTO written VALUES (?1)", [number])?;
                Ok(())
            });
            writer.0.send(job).await.unwrap();
            answers.push(answer);
        }
        release.send(()).unwrap();
        held.await.unwrap().unwrap();
        let mut results = Vec::new();
        for answer in answers {
            results.push(answer.await.unwrap());
        }
        results
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_queues_up_during_a_commit_goes_into_the_next_one_together() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, commits) = start(&folder);
        let results = write_together(&writer, &(0..40).collect::<Vec<i64>>()).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        assert_eq!(commits.load(Ordering::SeqCst), 2, "one for the job that held the thread, one for the forty");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_job_that_cannot_be_written_fails_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, _) = start(&folder);
        // The second 3 breaks the primary key.
        let results = write_together(&writer, &[1, 2, 3, 3, 4, 5]).await;
        let failed: Vec<bool> = results.iter().map(Result::is_err).collect();
        assert_eq!(failed, [false, false, false, true, false, false], "{results:?}");
        let count = writer.write(0, |transaction| {
            Ok(transaction.connection.query_row("SELECT COUNT(*) FROM written", [], |row| row.get::<_, i64>(0))?)
        });
        assert_eq!(count.await, Ok(5));
    }
}
