//! Reading everything between two positions, control records included.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;

use super::Inner;
use super::reader::{partition_bounds, read_records};
use super::topics::TopicInfo;
use crate::error::BusError;
use crate::interface::History;
use crate::record::{HistoryEntry, Position, Positions};
use crate::worker::log::ReadRange;

/// What one call returns about at most.
const RECORDS: usize = 2_000;
const BYTES: usize = 4 << 20;

pub(super) async fn open(
    inner: Arc<Inner>,
    topic: &str,
    from: &Positions,
    until: &Positions,
) -> Result<Box<dyn History>, BusError> {
    let topic = inner.topic(topic).await?;
    let mut parts = VecDeque::new();
    for (partition, id) in (0_u32..).zip(topic.partition_ids.clone()) {
        let (oldest, _) = inner.read(move |connection| partition_bounds(connection, id)).await?;
        let next = from.get(partition).unwrap_or(oldest).offset();
        let until = until.get(partition).map_or(0, Position::offset);
        parts.push_back(Part { partition, id, next, until });
    }
    Ok(Box::new(LocalHistory { inner, topic, parts }))
}

/// What is left of a partition.
#[derive(Debug, Clone, Copy)]
struct Part {
    partition: u32,
    id: i64,
    next: u64,
    until: u64,
}

struct LocalHistory {
    inner: Arc<Inner>,
    topic: Arc<TopicInfo>,
    parts: VecDeque<Part>,
}

#[async_trait]
impl History for LocalHistory {
    async fn next(&mut self) -> Result<Vec<HistoryEntry>, BusError> {
        while let Some(part) = self.parts.front_mut() {
            if part.next >= part.until {
                self.parts.pop_front();
                continue;
            }
            let (inner, topic, wanted) = (Arc::clone(&self.inner), Arc::clone(&self.topic), *part);
            let read = tokio::task::spawn_blocking(move || read(&inner, &topic, wanted)).await;
            let entries = read.unwrap_or_else(|error| Err(BusError::Storage(error.to_string())))?;
            part.next = entries.last().map_or(part.until, |entry| entry.position.offset() + 1);
            if !entries.is_empty() {
                return Ok(entries);
            }
        }
        Ok(Vec::new())
    }
}

fn read(inner: &Inner, topic: &TopicInfo, part: Part) -> Result<Vec<HistoryEntry>, BusError> {
    let records = usize::try_from(part.until - part.next).unwrap_or(usize::MAX).min(RECORDS);
    let stored = read_records(&inner.readers, part.id, ReadRange { from: part.next, records, bytes: BYTES })?;
    // Positions are dense: another one means that the record is gone.
    if stored.first().is_none_or(|first| first.position != part.next) {
        let (oldest, end) = inner.readers.with(|connection| partition_bounds(connection, part.id))?;
        let (topic, position) = (topic.name.to_string(), Position::from_offset(part.next));
        return Err(if position < oldest {
            BusError::PositionGone { topic, partition: part.partition, position, oldest }
        } else {
            BusError::PositionAhead { topic, partition: part.partition, position, end }
        });
    }
    let entry = |stored: crate::worker::log::StoredRecord| HistoryEntry {
        partition: part.partition,
        position: Position::from_offset(stored.position),
        is_control: stored.control,
        appended_at: stored.appended_at,
        key: stored.key,
        value: stored.value,
    };
    Ok(stored.into_iter().filter(|stored| stored.position < part.until).map(entry).collect())
}
