//! Reading for sinks, who own their positions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::KafkaError;

use super::Inner;
use super::client::{self, Isolation, number, offset, refusal_of};
use super::forbidden::Need;
use super::reader::{Buffer, Found, Gone, Reading};
use super::rights::Operation;
use crate::error::BusError;
use crate::interface::Tail;
use crate::record::{CommittedRecord, Position, Positions};
use crate::worker::log::StoredRecord;

/// One look at the client takes at most so long, so that a tail that is dropped is gone soon.
const LOOK: Duration = Duration::from_millis(100);

/// Opens a tail; `reader`: under what name it tells how far it is.
pub(super) async fn open(
    inner: Arc<Inner>,
    topic: &str,
    reader: Option<&str>,
    from: Positions,
) -> Result<Box<dyn Tail>, BusError> {
    if reader.is_some_and(|reader| reader.is_empty() || reader.len() > 100) {
        return Err(BusError::Invalid("a reader's name has 1 to 100 bytes".into()));
    }
    let partitions = inner.partitions(topic).await?;
    let (topic, group) = (Arc::<str>::from(topic), reader.map(|reader| reader_group(topic, reader)));
    let reading = {
        let (inner, topic, group) = (Arc::clone(&inner), Arc::clone(&topic), group.clone());
        Arc::clone(&inner).blocking(move || open_reading(inner, topic, partitions, group, &from)).await?
    };
    let buffer = Arc::clone(&reading.buffer);
    let positions = (0..partitions).map(|partition| reading.next(partition)).collect();
    if let Some(reader) = reader {
        inner.register_reader(&topic, reader);
    }
    Ok(Box::new(KafkaTail { inner, topic, group, positions, buffer, reading: Arc::new(Mutex::new(reading)) }))
}

/// Checks the positions first: a reader that is refused must have changed nothing.
fn open_reading(
    inner: Arc<Inner>,
    topic: Arc<str>,
    count: u32,
    group: Option<String>,
    from: &Positions,
) -> Result<Reading, BusError> {
    let stored = inner.config.stored_name(&topic);
    let numbers: Vec<u32> = (0..count).collect();
    let oldest = inner.questions.oldest(&stored, &numbers)?;
    let ends = inner.questions.ends(Isolation::Committed, &stored, &numbers)?;
    let mut positions = Vec::with_capacity(count as usize);
    for (partition, (oldest, end)) in numbers.into_iter().zip(oldest.into_iter().zip(ends)) {
        let mut next = from.get(partition).map_or(oldest, Position::offset);
        let (position, oldest_position) = (Position::from_offset(next), Position::from_offset(oldest));
        if group.is_none() {
            next = next.clamp(oldest, end.max(oldest));
        } else if next < oldest {
            let topic = topic.to_string();
            return Err(BusError::PositionGone { topic, partition, position, oldest: oldest_position });
        } else if next > end {
            let (topic, end) = (topic.to_string(), Position::from_offset(end));
            return Err(BusError::PositionAhead { topic, partition, position, end });
        }
        positions.push((partition, next));
    }
    match group {
        Some(group) => {
            inner.commit_positions(&group, &stored, &positions)?;
            Reading::open(inner, topic, &group, Gone::Told, &positions)
        }
        None => Reading::open(inner, topic, client::LOOK, Gone::PassedOver, &positions),
    }
}

/// The group under which a reader tells how far it is.
pub(super) fn reader_group(topic: &str, reader: &str) -> String {
    format!("reader.{topic}.{reader}")
}

struct KafkaTail {
    inner: Arc<Inner>,
    topic: Arc<str>,
    /// The group under which it tells how far it is; none: it only looks.
    group: Option<String>,
    /// Past everything returned, by partition.
    positions: Vec<u64>,
    buffer: Buffer,
    reading: Arc<Mutex<Reading>>,
}

impl KafkaTail {
    /// What the buffer holds, and whether positions went on.
    fn take(&mut self, max_records: usize) -> (Vec<CommittedRecord>, bool) {
        let mut buffer = self.buffer.lock();
        let (mut records, mut moved) = (Vec::new(), false);
        while records.len() < max_records {
            let Some(found) = buffer.pop_front() else { break };
            moved = true;
            let (partition, next) = match found {
                Found::Passed { partition, next } => (partition, next),
                Found::Change { .. } => continue,
                Found::Record { partition, record } if record.control => (partition, record.position + 1),
                Found::Record { partition, record } => {
                    let StoredRecord { position, appended_at, key, value, .. } = record;
                    let (topic, at) = (Arc::clone(&self.topic), Position::from_offset(position));
                    records.push(CommittedRecord { topic, partition, position: at, key, value, appended_at });
                    (partition, position + 1)
                }
            };
            if let Some(place) = self.positions.get_mut(partition as usize) {
                *place = next;
            }
        }
        (records, moved)
    }
}

#[async_trait]
impl Tail for KafkaTail {
    async fn next(&mut self, max_records: usize, max_wait: Duration) -> Result<Vec<CommittedRecord>, BusError> {
        let deadline = Instant::now() + max_wait;
        loop {
            let (records, moved) = self.take(max_records.max(1));
            // Whoever waits for positions, and not for records, is told when they go on.
            if !records.is_empty() || moved {
                return Ok(records);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() && max_wait > Duration::ZERO {
                return Ok(records);
            }
            let reading = Arc::clone(&self.reading);
            let looked = self.inner.clone().blocking(move || reading.lock().look(left.min(LOOK))).await;
            if looked.is_err() || max_wait.is_zero() {
                // What was read before something failed comes first.
                let (records, _) = self.take(max_records.max(1));
                return if records.is_empty() { looked.map(|()| records) } else { Ok(records) };
            }
        }
    }

    fn positions(&self) -> Positions {
        (0..).zip(&self.positions).map(|(partition, next)| (partition, Position::from_offset(*next))).collect()
    }

    async fn commit(&mut self, positions: &Positions) -> Result<(), BusError> {
        let Some(group) = self.group.clone() else { return Ok(()) };
        let stored = self.inner.config.stored_name(&self.topic);
        let positions: Vec<(u32, u64)> =
            positions.iter().map(|(partition, position)| (partition, position.offset())).collect();
        let inner = Arc::clone(&self.inner);
        self.inner.clone().blocking(move || inner.commit_positions(&group, &stored, &positions)).await
    }
}

impl Inner {
    /// Tells the brokers how far a group is. Blocks.
    fn commit_positions(&self, group: &str, stored: &str, positions: &[(u32, u64)]) -> Result<(), BusError> {
        if positions.is_empty() {
            return Ok(());
        }
        let client = self.group(group)?;
        self.context.give_token(client.client())?;
        let mut list = TopicPartitionList::new();
        let added: Result<(), KafkaError> = positions.iter().try_for_each(|(partition, position)| {
            list.add_partition_offset(stored, number(*partition), offset(*position))
        });
        added.and_then(|()| client.commit(&list, CommitMode::Sync)).map_err(|error| {
            let group = self.config.stored_name(group);
            let doing = format!("positions of Kafka group {group} can not be committed");
            let needs = [Need::group(Operation::Read, group), Need::topic(Operation::Read, stored)];
            self.context.error_of(&doing, &refusal_of(&client, error), &needs)
        })
    }
}
