//! Reading committed records.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rusqlite::params;
use tokio::sync::watch;

use super::Inner;
use super::reader::{partition_bounds, read_records};
use super::topics::TopicInfo;
use super::writer::{Refusal, WriteTransaction};
use crate::error::BusError;
use crate::interface::Tail;
use crate::record::{CommittedRecord, Position, Positions};
use crate::worker::log::ReadRange;

/// Bytes that one call returns about at most.
const BATCH_BYTES: usize = 4 << 20;

/// At least that many records are read at once: control records among them are passed over, and may be many in a row.
const LEAST_READ: usize = 64;

pub(super) async fn open(
    inner: Arc<Inner>,
    topic: &str,
    reader: &str,
    from: Positions,
) -> Result<Box<dyn Tail>, BusError> {
    if reader.is_empty() || reader.len() > 249 {
        return Err(BusError::Invalid("a reader's name has 1 to 249 bytes".into()));
    }
    let topic = inner.topic(topic).await?;
    let (registered, name) = (Arc::clone(&topic), reader.to_owned());
    let register = move |transaction: &mut WriteTransaction<'_>| register(transaction, &registered, &name, &from);
    let next = inner.writer.write(0, register).await?;
    let changes = inner.ends.subscribe();
    Ok(Box::new(LocalTail { inner, topic, reader: Some(reader.to_owned()), next, first: 0, changes }))
}

/// Reads without being registered.
pub(super) async fn look(inner: Arc<Inner>, topic: &str, from: Positions) -> Result<Box<dyn Tail>, BusError> {
    let topic = inner.topic(topic).await?;
    let looked_at = Arc::clone(&topic);
    let next = inner.read(move |connection| {
        let mut next = Vec::with_capacity(looked_at.partition_ids.len());
        for (partition, id) in (0..).zip(&looked_at.partition_ids) {
            let (oldest, end) = partition_bounds(connection, *id)?;
            next.push(from.get(partition).unwrap_or(oldest).clamp(oldest, end).offset());
        }
        Ok(next)
    });
    let next = next.await?;
    let changes = inner.ends.subscribe();
    Ok(Box::new(LocalTail { inner, topic, reader: None, next, first: 0, changes }))
}

/// Where every partition is read on. Checks come first: a job that is refused must have changed nothing.
fn register(
    transaction: &mut WriteTransaction<'_>,
    topic: &TopicInfo,
    reader: &str,
    from: &Positions,
) -> Result<Vec<u64>, Refusal> {
    let mut next = Vec::with_capacity(topic.partition_ids.len());
    for (partition, id) in (0..).zip(&topic.partition_ids) {
        let (oldest, end) = partition_bounds(transaction.connection, *id)?;
        let position = from.get(partition).unwrap_or(oldest);
        let topic = || topic.name.to_string();
        if position < oldest {
            return Err(Refusal::Job(BusError::PositionGone { topic: topic(), partition, position, oldest }));
        }
        if position > end {
            return Err(Refusal::Job(BusError::PositionAhead { topic: topic(), partition, position, end }));
        }
        next.push(position.offset());
    }
    for (partition, position) in (0_u32..).zip(&next) {
        hold(transaction, topic.id, reader, partition, *position)?;
    }
    Ok(next)
}

fn hold(
    transaction: &mut WriteTransaction<'_>,
    topic: i64,
    reader: &str,
    partition: u32,
    position: u64,
) -> rusqlite::Result<()> {
    transaction
        .connection
        .prepare_cached(
            "INSERT INTO readers (topic, name, partition, position) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET position = excluded.position",
        )?
        .execute(params![topic, reader, partition, position.cast_signed()])
        .map(drop)
}

impl Inner {
    pub(super) async fn forget_reader(self: &Arc<Self>, topic: &str, reader: &str) -> Result<(), BusError> {
        let topic = self.topic(topic).await?;
        let reader = reader.to_owned();
        let forget = move |transaction: &mut WriteTransaction<'_>| {
            let delete = "DELETE FROM readers WHERE topic = ?1 AND name = ?2";
            transaction.connection.prepare_cached(delete)?.execute(params![topic.id, reader])?;
            Ok(())
        };
        self.writer.write(0, forget).await
    }
}

struct LocalTail {
    inner: Arc<Inner>,
    topic: Arc<TopicInfo>,
    /// Under what name it is registered; none: it only looks.
    reader: Option<String>,
    /// By partition.
    next: Vec<u64>,
    /// The partition that is read first next time, so that a busy one does not starve the others.
    first: usize,
    changes: watch::Receiver<u64>,
}

impl LocalTail {
    /// Partitions that have more, the one whose turn it is first.
    fn behind(&self) -> Vec<usize> {
        let count = self.next.len();
        (0..count)
            .map(|step| (self.first + step) % count)
            .filter(|partition| self.inner.ends.end(self.topic.partition_ids[*partition]) > self.next[*partition])
            .collect()
    }

    /// Reads on in the given partitions. The positions change only after the read, so that a dropped call loses
    /// nothing.
    async fn read(&mut self, behind: Vec<usize>, max_records: usize) -> Result<Vec<CommittedRecord>, BusError> {
        let inner = Arc::clone(&self.inner);
        let ranges: Vec<(usize, i64, u64)> = behind
            .into_iter()
            .map(|partition| (partition, self.topic.partition_ids[partition], self.next[partition]))
            .collect();
        let topic = Arc::clone(&self.topic);
        let only_looks = self.reader.is_none();
        let read = move || read_partitions(&inner, &topic, &ranges, max_records, only_looks);
        let read = tokio::task::spawn_blocking(read).await;
        let read = read.unwrap_or_else(|error| Err(BusError::Storage(error.to_string())))?;
        for (partition, next) in read.next {
            self.next[partition] = next;
            self.first = partition + 1;
        }
        Ok(read.records)
    }
}

struct Read {
    records: Vec<CommittedRecord>,
    next: Vec<(usize, u64)>,
}

fn read_partitions(
    inner: &Inner,
    topic: &TopicInfo,
    ranges: &[(usize, i64, u64)],
    max_records: usize,
    only_looks: bool,
) -> Result<Read, BusError> {
    let mut read = Read { records: Vec::new(), next: Vec::new() };
    let mut bytes = 0;
    for (partition, partition_id, from) in ranges {
        let wanted = max_records.saturating_sub(read.records.len());
        if wanted == 0 || bytes >= BATCH_BYTES {
            break;
        }
        let range = ReadRange { from: *from, records: wanted.max(LEAST_READ), bytes: BATCH_BYTES - bytes };
        let mut next = *from;
        let stored = read_records(&inner.readers, *partition_id, range)?;
        match stored.first() {
            Some(first) if first.position == *from => {}
            Some(_) if only_looks => {}
            None if only_looks => {
                let (oldest, _) = inner.readers.with(|connection| partition_bounds(connection, *partition_id))?;
                next = next.max(oldest.offset());
            }
            _ => return Err(gone(inner, topic, *partition, *partition_id, *from)?),
        }
        for stored in stored {
            if !stored.control {
                if read.records.len() >= max_records {
                    break;
                }
                bytes += stored.value.len();
                read.records.push(CommittedRecord {
                    topic: Arc::clone(&topic.name),
                    partition: u32::try_from(*partition).unwrap_or(u32::MAX),
                    position: Position::from_offset(stored.position),
                    key: stored.key,
                    value: stored.value,
                    appended_at: stored.appended_at,
                });
            }
            next = stored.position + 1;
        }
        read.next.push((*partition, next));
    }
    Ok(read)
}

fn gone(inner: &Inner, topic: &TopicInfo, partition: usize, id: i64, from: u64) -> Result<BusError, BusError> {
    let (oldest, _) = inner.readers.with(|connection| partition_bounds(connection, id))?;
    let (topic, partition) = (topic.name.to_string(), u32::try_from(partition).unwrap_or(u32::MAX));
    Ok(BusError::PositionGone { topic, partition, position: Position::from_offset(from), oldest })
}

#[async_trait]
impl Tail for LocalTail {
    async fn next(&mut self, max_records: usize, max_wait: Duration) -> Result<Vec<CommittedRecord>, BusError> {
        let deadline = Instant::now() + max_wait;
        loop {
            // Seen before the look, so that a change during the look wakes the wait below.
            self.changes.borrow_and_update();
            let behind = self.behind();
            if !behind.is_empty() {
                let records = self.read(behind, max_records.max(1)).await?;
                if !records.is_empty() {
                    return Ok(records);
                }
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, self.changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(BusError::Closed),
                Err(_) => return Ok(Vec::new()),
            }
        }
    }

    fn positions(&self) -> Positions {
        (0..).zip(&self.next).map(|(partition, next)| (partition, Position::from_offset(*next))).collect()
    }

    async fn commit(&mut self, positions: &Positions) -> Result<(), BusError> {
        let Some(reader) = self.reader.clone() else { return Ok(()) };
        let (topic, positions) = (self.topic.id, positions.clone());
        let commit = move |transaction: &mut WriteTransaction<'_>| {
            for (partition, position) in positions.iter() {
                hold(transaction, topic, &reader, partition, position.offset())?;
            }
            Ok(())
        };
        self.inner.writer.write(0, commit).await
    }
}
