//! Deleting what is old or too much, and never what a registered reader or step has not read.

use rusqlite::{Connection, params};
use service::clock::SharedClock;

use super::schema::{position_of, record_id};
use super::topics::retention;
use super::writer::{WriteTransaction, WriterHandle};
use crate::error::BusError;
use crate::record::Retention;

/// Records that one transaction deletes at most, so that publishes never wait for long.
const RECORDS_PER_TRANSACTION: i64 = 2_000;

/// Deletes what may go, piece by piece. Runs on a thread that may block.
pub(super) fn sweep(writer: &WriterHandle, clock: &SharedClock) {
    loop {
        let clock = clock.clone();
        let piece = writer.write_blocking(0, move |transaction: &mut WriteTransaction<'_>| {
            Ok(sweep_piece(transaction.connection, clock.now().as_micros())?)
        });
        match piece {
            Ok(true) => {}
            Ok(false) | Err(BusError::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, "retention could not delete old records");
                return;
            }
        }
    }
}

/// One transaction's worth; whether there is more.
fn sweep_piece(connection: &Connection, now: i64) -> rusqlite::Result<bool> {
    let mut query = connection.prepare_cached("SELECT id, topic, partition, oldest, next, bytes FROM partitions")?;
    let rows = query.query_map([], |row| {
        Ok(Partition {
            id: row.get(0)?,
            topic: row.get(1)?,
            partition: row.get(2)?,
            oldest: row.get::<_, i64>(3)?.cast_unsigned(),
            next: row.get::<_, i64>(4)?.cast_unsigned(),
            bytes: row.get::<_, i64>(5)?.cast_unsigned(),
        })
    })?;
    let mut budget = RECORDS_PER_TRANSACTION;
    for partition in rows.collect::<rusqlite::Result<Vec<_>>>()? {
        budget -= sweep_partition(connection, &partition, now, budget)?;
        if budget <= 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

struct Partition {
    id: i64,
    topic: i64,
    partition: u32,
    oldest: u64,
    next: u64,
    bytes: u64,
}

fn sweep_partition(connection: &Connection, partition: &Partition, now: i64, budget: i64) -> rusqlite::Result<i64> {
    let Retention { age, partition_bytes } = retention(connection, partition.topic)?;
    if age.is_none() && partition_bytes.is_none_or(|limit| partition.bytes <= limit) {
        return Ok(0);
    }
    let oldest_kept = age.map(|age| now.saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX)));
    let until = slowest_reader(connection, partition.topic, partition.partition)?.unwrap_or(partition.next);
    let (from, until) = (record_id(partition.id, partition.oldest), record_id(partition.id, until));
    let mut query = connection.prepare_cached(
        "SELECT id, appended_at, length(value) FROM records WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3",
    )?;
    let mut rows = query.query([from, until, budget])?;
    let (mut oldest, mut bytes, mut deleted) = (partition.oldest, partition.bytes, 0_i64);
    while let Some(row) = rows.next()? {
        let too_old = oldest_kept.is_some_and(|oldest_kept| row.get(1).is_ok_and(|at: i64| at < oldest_kept));
        if !too_old && partition_bytes.is_none_or(|limit| bytes <= limit) {
            break;
        }
        oldest = position_of(row.get(0)?) + 1;
        bytes = bytes.saturating_sub(row.get::<_, i64>(2)?.cast_unsigned());
        deleted += 1;
    }
    drop(rows);
    if deleted > 0 {
        let delete = "DELETE FROM records WHERE id >= ?1 AND id < ?2";
        connection.prepare_cached(delete)?.execute([from, record_id(partition.id, oldest)])?;
        let update = "UPDATE partitions SET oldest = ?2, bytes = ?3 WHERE id = ?1";
        connection.prepare_cached(update)?.execute(params![partition.id, oldest.cast_signed(), bytes.cast_signed()])?;
        metrics::counter!("flywheel_bus_expired_records_total").increment(deleted.cast_unsigned());
    }
    Ok(deleted)
}

/// The next position of whoever has read least of a partition: registered readers, and steps.
pub(super) fn slowest_reader(connection: &Connection, topic: i64, partition: u32) -> rusqlite::Result<Option<u64>> {
    let mut query = connection.prepare_cached(
        "SELECT MIN(position) FROM (
            SELECT position FROM readers WHERE topic = ?1 AND partition = ?2
            UNION ALL
            SELECT slots.position FROM slots JOIN steps ON steps.id = slots.step
            WHERE steps.topic = ?1 AND slots.partition = ?2
         )",
    )?;
    query.query_row(params![topic, partition], |row| Ok(row.get::<_, Option<i64>>(0)?.map(i64::cast_unsigned)))
}
