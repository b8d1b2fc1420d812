//! What retention deleted before a step or a sink read it, once a person let that one pass over it.
//!
//! A range of the raw topic that a step passed over makes those events lost whose raw records all stand in it, and of
//! which nothing else is decided: the anonymizer never saw them. The end is a weak one. Should it turn out that somebody
//! had read a record after all, what was decided about it counts; should the event come again, it is pending again.
//!
//! What a sink passed over ([`crate::skip`]) makes no event lost: steps had read it, or still may.

use std::fmt;

use bus::{CommittedRecord, Position};
use events::Timestamp;
use events::topics::TELEMETRY_RAW;
use migrations::storable;
use serde::Serialize;
use sqlx::{Any, AnyPool, Executor, Row, Transaction};

use crate::ledger::SINK;
use crate::sink::SinkError;

/// How the ledger calls the end of an event that was lost.
pub(crate) const LOST: &str = "lost";
/// Why it was lost.
const REASON: &str = "deleted_unread";

/// Stands before the name of a sink in the column of steps. No step is called so.
const OF_SINKS: &str = "sink/";

/// Who passed over a range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reader {
    /// The step of that name.
    Step(String),
    /// The sink of that name.
    Sink(String),
}

impl Reader {
    /// As it stands in the table.
    pub(crate) fn stored(&self) -> String {
        match self {
            Self::Step(step) => step.clone(),
            Self::Sink(sink) => format!("{OF_SINKS}{sink}"),
        }
    }

    fn of_stored(stored: String) -> Self {
        match stored.strip_prefix(OF_SINKS) {
            Some(sink) => Self::Sink(sink.to_owned()),
            None => Self::Step(stored),
        }
    }
}

impl fmt::Display for Reader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(step) => write!(formatter, "step {step}"),
            Self::Sink(sink) => write!(formatter, "sink {sink}"),
        }
    }
}

/// A range that a step or a sink passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LostRange {
    /// Who passed over it.
    #[serde(flatten)]
    pub reader: Reader,
    /// What it reads.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// The first position that was lost.
    pub from: Position,
    /// The one at which the reader went on.
    pub to: Position,
    /// When somebody decided so.
    pub skipped_at: Timestamp,
    /// Who.
    pub skipped_by: String,
}

/// Writes down a range that a step passes over, and books what it made lost. Answers how many events that are. The same
/// range may be written down again, and may have grown since; who decided first stays.
///
/// # Errors
/// A database that fails; nothing is changed then.
pub async fn write_down(pool: &AnyPool, range: &LostRange) -> Result<u64, SinkError> {
    Ok(migrations::retried(|| try_write_down(pool, range)).await?)
}

async fn try_write_down(pool: &AnyPool, range: &LostRange) -> Result<u64, sqlx::Error> {
    let mut transaction = migrations::begin_write(pool).await?;
    // Whoever writes the ledger moves its positions first; what it had in hand finds the range below.
    sqlx::query("UPDATE sink_positions SET next_position = next_position WHERE sink = $1")
        .bind(SINK)
        .execute(&mut *transaction)
        .await?;
    insert(&mut transaction, range).await?;
    let booked = match range.topic.as_str() {
        TELEMETRY_RAW => book(&mut transaction, range.partition, range.from, range.to).await?,
        // What a later step passes over has its end already.
        _ => 0,
    };
    migrations::commit(transaction).await?;
    Ok(booked)
}

/// The row of a range.
pub(crate) async fn insert(transaction: &mut Transaction<'static, Any>, range: &LostRange) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO lost_ranges \
         (step, topic, partition_index, first_position, next_position, skipped_at, skipped_by) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (step, topic, partition_index, first_position) DO UPDATE SET \
         next_position = CASE WHEN excluded.next_position > lost_ranges.next_position \
         THEN excluded.next_position ELSE lost_ranges.next_position END",
    )
    .bind(range.reader.stored())
    .bind(&range.topic)
    .bind(i64::from(range.partition))
    .bind(range.from.to_string())
    .bind(range.to.to_string())
    .bind(range.skipped_at.as_micros())
    .bind(storable(&range.skipped_by).into_owned())
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// All ranges that were passed over, in the order in which that was decided.
///
/// # Errors
/// A database that fails, or a stored position that cannot be read.
pub async fn ranges<'c>(database: impl Executor<'c, Database = Any>) -> Result<Vec<LostRange>, SinkError> {
    let rows = sqlx::query(
        "SELECT step, topic, partition_index, first_position, next_position, skipped_at, skipped_by FROM lost_ranges \
         ORDER BY skipped_at, step, topic, partition_index, first_position",
    )
    .fetch_all(database)
    .await?;
    rows.iter()
        .map(|row| {
            let topic: String = row.try_get(1)?;
            let bad = || SinkError::BadPosition { topic: topic.clone() };
            let position = |text: String| text.parse::<Position>().map_err(|_| bad());
            Ok(LostRange {
                reader: Reader::of_stored(row.try_get(0)?),
                partition: u32::try_from(row.try_get::<i64, _>(2)?).map_err(|_| bad())?,
                from: position(row.try_get(3)?)?,
                to: position(row.try_get(4)?)?,
                skipped_at: Timestamp::from_micros(row.try_get(5)?),
                skipped_by: row.try_get(6)?,
                topic: topic.clone(),
            })
        })
        .collect()
}

/// Books what the ledger read before a range was passed over, and writes only now.
pub(crate) async fn book_late(
    transaction: &mut Transaction<'static, Any>,
    records: &[CommittedRecord],
) -> Result<(), SinkError> {
    let raw: Vec<&CommittedRecord> = records.iter().filter(|record| record.topic.ends_with(TELEMETRY_RAW)).collect();
    if raw.is_empty() {
        return Ok(());
    }
    for range in ranges(&mut **transaction).await? {
        let is_in = |record: &&CommittedRecord| {
            record.partition == range.partition && (range.from..range.to).contains(&record.position)
        };
        let is_of_step = matches!(range.reader, Reader::Step(_));
        if is_of_step && range.topic == TELEMETRY_RAW && raw.iter().any(is_in) {
            book(transaction, range.partition, range.from, range.to).await?;
        }
    }
    Ok(())
}

async fn book(
    transaction: &mut Transaction<'static, Any>,
    partition: u32,
    from: Position,
    to: Position,
) -> Result<u64, sqlx::Error> {
    let booked = sqlx::query(
        "UPDATE ledger_events SET disposition = $1, reason = $2 WHERE disposition IS NULL AND entered IS NOT NULL \
         AND raw_partition = $3 AND raw_first >= $4 AND raw_last < $5",
    )
    .bind(LOST)
    .bind(REASON)
    .bind(i64::from(partition))
    .bind(from.to_string())
    .bind(to.to_string())
    .execute(&mut **transaction)
    .await?;
    Ok(booked.rows_affected())
}
