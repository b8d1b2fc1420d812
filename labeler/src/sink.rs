//! Sinks: effects in the database that follow the log, exactly once.
//!
//! A sink tails topics from positions that stand in its own database and moves them in the transaction of the effect,
//! by compare-and-set: of two processes that run the same sink, one moves the positions and the other one's transaction
//! changes nothing. What must be stored outside the database (objects) is stored before the transaction and is garbage
//! until a row names it. The bus learns the positions afterwards, for retention only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bus::{Bus, BusError, CommittedRecord, Positions, Tail};
use metrics::{counter, gauge};
use migrations::Retries;
use service::lease::{LeaseStore, keep};
use sqlx::{Any, AnyPool, Executor, Transaction};
use tokio_util::sync::CancellationToken;

/// Longest time of one transaction; SQLite alone waits 30 s for another writer.
const LONGEST_WRITE: Duration = Duration::from_secs(120);
/// Longest pause between attempts after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How long a process that vanished keeps others from going on with its sinks. Real time.
pub(crate) const LEASE: Duration = Duration::from_secs(6);

/// The lease under which one process runs a sink.
pub(crate) fn lease_name(sink: &str) -> String {
    format!("sink/{sink}")
}

/// Why a sink could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// The bus failed.
    #[error("sink: {0}")]
    Bus(#[from] BusError),
    /// The database failed.
    #[error("sink: {0}")]
    Database(#[from] sqlx::Error),
    /// A part could not be written.
    #[error("sink: {0}")]
    Lake(#[from] crate::lake::LakeError),
    /// Another process moved the positions of this sink.
    #[error("sink {sink}: another process has gone on from the same positions")]
    Overtaken {
        /// The sink.
        sink: String,
    },
    /// A stored position is none.
    #[error("sink: a stored position of topic {topic} cannot be read")]
    BadPosition {
        /// The topic.
        topic: String,
    },
    /// A record was written by a newer release; the sink waits for one that knows it.
    #[error("sink: a record of {topic} has a schema that this release does not know")]
    UnknownSchema {
        /// The topic.
        topic: String,
    },
}

impl SinkError {
    /// Whether trying again can help. A position that retention deleted does not come back.
    fn is_final(&self) -> bool {
        matches!(self, Self::Bus(BusError::PositionGone { .. } | BusError::Closed) | Self::BadPosition { .. })
    }
}

/// When a batch is closed, at whichever comes first.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// Records.
    pub records: usize,
    /// Bytes of their values.
    pub bytes: usize,
    /// Real time since the first of them was read.
    pub age: Duration,
}

/// What follows the log.
#[async_trait]
pub trait Sink: Send {
    /// Name of its positions.
    fn name(&self) -> &str;

    /// The topics it reads. What stood in the first topic when a record of a later one was read is written before it.
    fn topics(&self) -> Vec<String>;

    /// When a batch is closed.
    fn limits(&self) -> BatchLimits;

    /// What must be stored before the transaction, for records of one topic. May be repeated.
    ///
    /// # Errors
    /// The batch is tried again later.
    async fn store(&mut self, pool: &AnyPool, records: &[CommittedRecord]) -> Result<(), SinkError> {
        let _ = (pool, records);
        Ok(())
    }

    /// The effect, in the transaction that moves the positions.
    ///
    /// # Errors
    /// The transaction is rolled back and the batch tried again later.
    async fn write(
        &mut self,
        transaction: &mut Transaction<'static, Any>,
        records: &[CommittedRecord],
    ) -> Result<(), SinkError>;

    /// What was written last is committed. Whatever counts effects counts here: a transaction may be rolled back and
    /// written again. May not be called for a batch whose commit was not answered.
    fn committed(&mut self) {}

    /// Everything that stood in the first topic a moment ago, and everything read of the others, is written. Called
    /// again and again while records come; what it does may be done twice.
    ///
    /// # Errors
    /// The sink goes on from its stored positions after a pause.
    async fn caught_up(&mut self, pool: &AnyPool) -> Result<(), SinkError> {
        let _ = pool;
        Ok(())
    }
}

/// Runs a sink until `shutdown`; after a failure it goes on from the stored positions. What was read and not written is
/// written before it ends.
///
/// # Errors
/// Only what trying again cannot help: a position that is gone.
pub async fn run_sink(
    bus: Arc<dyn Bus>,
    pool: AnyPool,
    mut sink: Box<dyn Sink>,
    shutdown: CancellationToken,
) -> Result<(), SinkError> {
    run(&*bus, &pool, &mut *sink, &shutdown).await
}

/// [`run_sink`] while this process leads: of several that run the sink one works, and another follows when it is gone.
/// Two at once would lose nothing, since the positions move for one of them only; but both would do all the work.
/// `holder` names this process among all that share the database.
///
/// # Errors
/// As [`run_sink`].
pub async fn run_sink_in_turn(
    bus: Arc<dyn Bus>,
    pool: AnyPool,
    mut sink: Box<dyn Sink>,
    holder: &str,
    shutdown: CancellationToken,
) -> Result<(), SinkError> {
    // Ends with this call, however it ends.
    let stop = shutdown.child_token();
    let name = lease_name(sink.name());
    let (mut lease, keeping) = keep(LeaseStore::new(pool.clone()), &name, holder, LEASE, stop.clone());
    let following = async {
        while let Some(fence) = lease.wait().await {
            let turn = stop.child_token();
            let leads = || lease.fence().is_some_and(|now| now.epoch() == fence.epoch());
            let watching = async {
                while leads() {
                    tokio::time::sleep(LEASE / 20).await;
                }
                turn.cancel();
                std::future::pending::<()>().await;
            };
            let result = tokio::select! {
                result = run(&*bus, &pool, &mut *sink, &turn) => result,
                () = watching => Ok(()),
            };
            if result.is_err() || shutdown.is_cancelled() {
                return result;
            }
        }
        Ok(())
    };
    let ((), result) = tokio::join!(keeping, async {
        let result = following.await;
        stop.cancel();
        result
    });
    result
}

async fn run(
    bus: &dyn Bus,
    pool: &AnyPool,
    sink: &mut dyn Sink,
    shutdown: &CancellationToken,
) -> Result<(), SinkError> {
    let mut pause = Duration::from_millis(50);
    loop {
        let started = Instant::now();
        let result = follow(bus, pool, sink, shutdown).await;
        let Err(error) = result else { return Ok(()) };
        counter!("flywheel_labeler_sink_failures_total", "sink" => sink.name().to_owned()).increment(1);
        if error.is_final() {
            return Err(error);
        }
        if shutdown.is_cancelled() {
            // The positions did not move: whoever starts next goes on from them.
            tracing::warn!(sink = sink.name(), %error, "the sink ends with an attempt that failed");
            return Ok(());
        }
        tracing::warn!(sink = sink.name(), %error, "the sink goes on from its stored positions after a pause");
        if started.elapsed() > LONGEST_PAUSE {
            pause = Duration::from_millis(50);
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

struct Source {
    topic: String,
    tail: Box<dyn Tail>,
    stored: Positions,
    batch: Vec<CommittedRecord>,
    batch_bytes: usize,
    since: Instant,
}

async fn follow(
    bus: &dyn Bus,
    pool: &AnyPool,
    sink: &mut dyn Sink,
    shutdown: &CancellationToken,
) -> Result<(), SinkError> {
    let limits = sink.limits();
    let mut sources = Vec::new();
    for topic in sink.topics() {
        let stored = stored_positions(pool, sink.name(), &topic).await?;
        let tail = bus.tail(&topic, sink.name(), stored.clone()).await?;
        sources.push(Source { topic, tail, stored, batch: Vec::new(), batch_bytes: 0, since: Instant::now() });
    }
    let wait = limits.age.min(Duration::from_millis(200));
    loop {
        let stopping = shutdown.is_cancelled();
        let Some((first, later)) = sources.split_first_mut() else { return Ok(()) };
        let mut read_later = false;
        for source in later.iter_mut() {
            read_later |= read(source, limits, Duration::ZERO).await?;
        }
        if read_later || later.iter().any(|source| !source.batch.is_empty()) {
            let cut = bus.end_positions(&first.topic).await?;
            while !first.tail.positions().reached(&cut) {
                let had_room = read(first, limits, Duration::ZERO).await?;
                flush(pool, sink, first, limits, !had_room).await?;
                if !had_room && !first.tail.positions().reached(&cut) {
                    // The tail needs a moment.
                    if !read(first, limits, wait).await? {
                        break;
                    }
                }
            }
            flush(pool, sink, first, limits, true).await?;
            if !first.tail.positions().reached(&cut) {
                // Nothing of the others may be written before it. Positions that do not move lose nothing.
                if stopping {
                    return Ok(());
                }
                continue;
            }
            for source in later.iter_mut() {
                flush(pool, sink, source, limits, true).await?;
            }
            sink.caught_up(pool).await?;
            continue;
        }
        let got = read(first, limits, if stopping { Duration::ZERO } else { wait }).await?;
        flush(pool, sink, first, limits, stopping).await?;
        if stopping && !got {
            return Ok(());
        }
    }
}

/// Reads what fits; true when something came.
async fn read(source: &mut Source, limits: BatchLimits, wait: Duration) -> Result<bool, SinkError> {
    let room = limits.records.saturating_sub(source.batch.len());
    if room == 0 || source.batch_bytes >= limits.bytes {
        return Ok(false);
    }
    let records = source.tail.next(room, wait).await?;
    if records.is_empty() {
        return Ok(false);
    }
    if source.batch.is_empty() {
        source.since = Instant::now();
    }
    source.batch_bytes += records.iter().map(|record| record.value.len()).sum::<usize>();
    source.batch.extend(records);
    Ok(true)
}

fn is_due(source: &Source, limits: BatchLimits) -> bool {
    !source.batch.is_empty()
        && (source.batch.len() >= limits.records
            || source.batch_bytes >= limits.bytes
            || source.since.elapsed() >= limits.age)
}

/// Writes batches within the limits while one is due; `everything`, whatever was read.
async fn flush(
    pool: &AnyPool,
    sink: &mut dyn Sink,
    source: &mut Source,
    limits: BatchLimits,
    everything: bool,
) -> Result<(), SinkError> {
    while !source.batch.is_empty() && (everything || is_due(source, limits)) {
        let rest = source.batch.split_off(fitting(&source.batch, limits));
        let batch = std::mem::replace(&mut source.batch, rest);
        source.batch_bytes = source.batch.iter().map(|record| record.value.len()).sum();
        let mut next = source.stored.clone();
        for record in &batch {
            next.advance_past(record);
        }
        sink.store(pool, &batch).await?;
        let mut retries = Retries::new();
        while let Err(error) = write_in_time(pool, sink, &source.topic, (&source.stored, &next), &batch).await {
            if !retries.again(migrations::trouble(&error)).await {
                return Err(error);
            }
        }
        sink.committed();
        let name = sink.name().to_owned();
        counter!("flywheel_labeler_sink_records_total", "sink" => name.clone(), "topic" => source.topic.clone())
            .increment(u64::try_from(batch.len()).unwrap_or(u64::MAX));
        gauge!("flywheel_labeler_sink_batch_records", "sink" => name)
            .set(f64::from(u32::try_from(batch.len()).unwrap_or(u32::MAX)));
        source.stored = next;
        // Retention may run behind; the truth stands in the database.
        if let Err(error) = source.tail.commit(&source.stored).await {
            tracing::warn!(%error, topic = source.topic, "the bus did not take the positions of a sink");
        }
    }
    Ok(())
}

/// [`write()`], unless the database vanished without a word. Whether it has committed is told by the positions.
async fn write_in_time(
    pool: &AnyPool,
    sink: &mut dyn Sink,
    topic: &str,
    moved: (&Positions, &Positions),
    batch: &[CommittedRecord],
) -> Result<(), SinkError> {
    match tokio::time::timeout(LONGEST_WRITE, write(pool, sink, topic, moved, batch)).await {
        Ok(result) => result,
        // Not to be done again here: it may have been committed.
        Err(_) => Err(SinkError::Database(sqlx::Error::PoolTimedOut)),
    }
}

/// The effect of a batch and the positions behind it, in one transaction.
async fn write(
    pool: &AnyPool,
    sink: &mut dyn Sink,
    topic: &str,
    (from, to): (&Positions, &Positions),
    batch: &[CommittedRecord],
) -> Result<(), SinkError> {
    let mut transaction = migrations::begin_write(pool).await?;
    // First, so that whoever was overtaken learns it before it writes what stands there already.
    move_positions(&mut transaction, sink.name(), topic, from, to).await?;
    sink.write(&mut transaction, batch).await?;
    migrations::commit(transaction).await?;
    Ok(())
}

/// How many of the records make one batch: the last one of them reaches a limit. A read may bring more than that.
fn fitting(records: &[CommittedRecord], limits: BatchLimits) -> usize {
    let mut bytes = 0;
    let fits = |record: &&CommittedRecord| {
        let has_room = bytes < limits.bytes;
        bytes += record.value.len();
        has_room
    };
    records.iter().take(limits.records).take_while(fits).count().max(1)
}

/// Where a sink goes on in a topic.
///
/// # Errors
/// A database that fails, or a position that cannot be read.
pub async fn stored_positions<'c>(
    database: impl Executor<'c, Database = Any>,
    sink: &str,
    topic: &str,
) -> Result<Positions, SinkError> {
    let rows: Vec<(i64, String)> =
        sqlx::query_as("SELECT partition_index, next_position FROM sink_positions WHERE sink = $1 AND topic = $2")
            .bind(sink)
            .bind(topic)
            .fetch_all(database)
            .await?;
    rows.into_iter()
        .map(|(partition, position)| {
            let bad = || SinkError::BadPosition { topic: topic.to_owned() };
            Ok((u32::try_from(partition).map_err(|_| bad())?, position.parse().map_err(|_| bad())?))
        })
        .collect()
}

/// Moves the positions from `from` to `to`, each only if nobody else moved it.
pub(crate) async fn move_positions(
    transaction: &mut Transaction<'static, Any>,
    sink: &str,
    topic: &str,
    from: &Positions,
    to: &Positions,
) -> Result<(), SinkError> {
    for (partition, position) in to.iter() {
        let moved = match from.get(partition) {
            Some(known) if known == position => continue,
            Some(known) => sqlx::query(
                "UPDATE sink_positions SET next_position = $1 \
                 WHERE sink = $2 AND topic = $3 AND partition_index = $4 AND next_position = $5",
            )
            .bind(position.to_string())
            .bind(sink)
            .bind(topic)
            .bind(i64::from(partition))
            .bind(known.to_string()),
            None => sqlx::query(
                "INSERT INTO sink_positions (next_position, sink, topic, partition_index) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (sink, topic, partition_index) DO NOTHING",
            )
            .bind(position.to_string())
            .bind(sink)
            .bind(topic)
            .bind(i64::from(partition)),
        };
        if moved.execute(&mut **transaction).await?.rows_affected() != 1 {
            return Err(SinkError::Overtaken { sink: sink.to_owned() });
        }
    }
    Ok(())
}
