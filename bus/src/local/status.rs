//! Where things stand: ends of topics, what nobody has read, how far steps are.

use std::sync::Arc;

use events::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::Inner;
use super::retention::slowest_reader;
use super::schema::record_id;
use super::topics::{TopicInfo, retention};
use crate::error::BusError;
use crate::interface::{PartitionLag, StepLag, TopicStatus};
use crate::record::{Position, Positions};

impl Inner {
    pub(super) async fn end_positions(self: &Arc<Self>, topic: &str) -> Result<Positions, BusError> {
        let topic = self.topic(topic).await?;
        self.read(move |connection| {
            let mut query = connection.prepare_cached("SELECT partition, next FROM partitions WHERE topic = ?1")?;
            query.query_map([topic.id], |row| Ok((row.get(0)?, offset(row.get(1)?))))?.collect()
        })
        .await
    }

    pub(super) async fn oldest_positions(self: &Arc<Self>, topic: &str) -> Result<Positions, BusError> {
        let topic = self.topic(topic).await?;
        self.read(move |connection| {
            let mut query = connection.prepare_cached("SELECT partition, oldest FROM partitions WHERE topic = ?1")?;
            query.query_map([topic.id], |row| Ok((row.get(0)?, offset(row.get(1)?))))?.collect()
        })
        .await
    }

    pub(super) async fn topic_status(self: &Arc<Self>, topic: &str) -> Result<TopicStatus, BusError> {
        let topic = self.topic(topic).await?;
        self.read(move |connection| topic_status(connection, &topic)).await
    }

    pub(super) async fn step_lag(self: &Arc<Self>, step: &str) -> Result<StepLag, BusError> {
        let live = self.live.lock().clone();
        let name = self.config.stored_name(step);
        let lag = self
            .read(move |connection| {
                // One snapshot, so that position and end belong together.
                let transaction = connection.unchecked_transaction()?;
                let lag = step_lag(&transaction, &name, |slot| live.get(&slot).and_then(|live| live.time));
                transaction.finish()?;
                lag
            })
            .await?;
        let mut lag = lag.ok_or_else(|| BusError::UnknownStep(step.to_owned()))?;
        lag.input = self.config.callers_name(&lag.input);
        Ok(lag)
    }
}

const fn offset(offset: i64) -> Position {
    Position::from_offset(offset.cast_unsigned())
}

fn topic_status(connection: &Connection, topic: &TopicInfo) -> rusqlite::Result<TopicStatus> {
    let mut status = TopicStatus {
        partitions: topic.partitions(),
        records: 0,
        bytes: 0,
        oldest_unread: None,
        retention: retention(connection, topic.id)?,
    };
    let mut query =
        connection.prepare_cached("SELECT id, partition, oldest, next, bytes FROM partitions WHERE topic = ?1")?;
    let mut rows = query.query([topic.id])?;
    while let Some(row) = rows.next()? {
        let (id, partition): (i64, u32) = (row.get(0)?, row.get(1)?);
        let (oldest, next): (i64, i64) = (row.get(2)?, row.get(3)?);
        status.records += next.saturating_sub(oldest).max(0).cast_unsigned();
        status.bytes += row.get::<_, i64>(4)?.max(0).cast_unsigned();
        if let Some(unread) = slowest_reader(connection, topic.id, partition)? {
            let mut at =
                connection.prepare_cached("SELECT appended_at FROM records WHERE id >= ?1 AND id < ?2 LIMIT 1")?;
            let at: Option<i64> =
                at.query_row([record_id(id, unread), record_id(id + 1, 0)], |row| row.get(0)).optional()?;
            let at = at.map(Timestamp::from_micros);
            status.oldest_unread = match (status.oldest_unread, at) {
                (Some(known), Some(at)) => Some(known.min(at)),
                (known, at) => known.or(at),
            };
        }
    }
    Ok(status)
}

fn step_lag(
    connection: &Connection,
    step: &str,
    live_time: impl Fn(i64) -> Option<Timestamp>,
) -> rusqlite::Result<Option<StepLag>> {
    let mut query = connection.prepare_cached(
        "SELECT steps.id, topics.id, topics.name FROM steps JOIN topics ON topics.id = steps.topic
         WHERE steps.name = ?1",
    )?;
    let found = query.query_row([step], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
    let Some((step, topic, input)): Option<(i64, i64, String)> = found else { return Ok(None) };
    let mut query = connection.prepare_cached(
        "SELECT slots.id, slots.partition, slots.position, partitions.next, slots.partition_time, slots.paused,
            (SELECT COUNT(*) FROM timers WHERE timers.slot = slots.id),
            (SELECT MIN(due) FROM timers WHERE timers.slot = slots.id),
            (SELECT COUNT(*) FROM poisoned_keys WHERE poisoned_keys.slot = slots.id)
         FROM slots JOIN partitions ON partitions.topic = ?2 AND partitions.partition = slots.partition
         WHERE slots.step = ?1 ORDER BY slots.partition",
    )?;
    let rows = query.query_map(params![step, topic], |row| {
        let slot: i64 = row.get(0)?;
        let (position, end) = (offset(row.get(2)?), offset(row.get(3)?));
        let committed = row.get::<_, Option<i64>>(4)?.map(Timestamp::from_micros);
        Ok(PartitionLag {
            partition: row.get(1)?,
            position,
            end,
            records_behind: end.offset().saturating_sub(position.offset()),
            partition_time: committed.max(live_time(slot)),
            paused: row.get(5)?,
            pending_timers: row.get::<_, i64>(6)?.max(0).cast_unsigned(),
            next_timer: row.get::<_, Option<i64>>(7)?.map(Timestamp::from_micros),
            poisoned_keys: row.get::<_, i64>(8)?.max(0).cast_unsigned(),
        })
    })?;
    let partitions = rows.collect::<rusqlite::Result<_>>()?;
    Ok(Some(StepLag { input, partitions }))
}
