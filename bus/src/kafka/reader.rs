//! A consumer whose partitions are assigned by hand, without a group's coordination, that sees committed records only.
//!
//! # Positions past what is no record
//!
//! Transactions leave markers in the log, and aborted ones leave records that nobody may see; both take up positions.
//! The client tells when it has read to the end of a partition, but not at which position that is. So the end is asked
//! for *first*, then the client is made to read from its position on, and when it says "end" after that, everything
//! before the end that was asked for has been returned, and the position is that end ([`Reading::look_past`]).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};

use super::Inner;
use super::client::{Isolation, OurConsumer, close, consumer, number, offset};
use super::forbidden::{self, Need};
use super::record::stored;
use super::rights::Operation;
use crate::error::BusError;
use crate::record::Position;
use crate::worker::log::StoredRecord;

/// After an end, this long without a record is silence, and worth a question where the end is.
const QUIET: Duration = Duration::from_millis(20);

/// After this long without a word from the client it is asked whether there is more than it has returned. A client that
/// stands still says nothing.
const STILL: Duration = Duration::from_secs(5);

/// What one look takes in at most: the largest batch of a step.
pub(super) const LOOK_RECORDS: usize = 2_048;
const LOOK_BYTES: usize = 4 << 20;
/// What a broker is asked for of a partition at once, at least.
const FETCH_BYTES: usize = 1 << 20;

/// What a look found, in order.
pub(super) enum Found {
    Record {
        partition: u32,
        record: StoredRecord,
    },
    /// A message of a changelog, which is none of our records.
    Change {
        position: u64,
        key: Vec<u8>,
        value: Option<Vec<u8>>,
    },
    /// Nothing that may be seen is left before `next`.
    Passed {
        partition: u32,
        next: u64,
    },
}

/// What is read and not yet returned, apart from the client: whoever drops a call in the middle finds it here again.
pub(super) type Buffer = Arc<Mutex<VecDeque<Found>>>;

/// Whether a reader whose position is gone is told, or goes on with the oldest record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gone {
    Told,
    PassedOver,
}

/// The client and what it has told.
pub(super) struct Reading {
    inner: Arc<Inner>,
    /// Emptied before it is dropped: closing takes a while, and happens on a thread of its own.
    consumer: Option<OurConsumer>,
    topic: Arc<str>,
    stored: String,
    /// As the brokers know it.
    group: String,
    gone: Gone,
    /// Messages are taken as they are.
    raw: bool,
    partitions: BTreeMap<u32, Progress>,
    /// When the client said something last, or was asked.
    heard_at: Instant,
    /// It was found to stand still, and was told to go on.
    stood_still: bool,
    /// A position that the client has passed and that was not taken: it must go back there first.
    back: Option<(u32, u64)>,
    pub(super) buffer: Buffer,
}

#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    /// Everything before was put into the buffer.
    next: u64,
    /// The next "end" that the client tells is at least here.
    end_is_at_least: Option<u64>,
    /// An end was told since it was last asked where it is.
    at_unknown_end: bool,
}

impl Reading {
    /// Reads partitions from `next` on; at the end of each that is known now, or later, its position is told.
    pub(super) fn open(
        inner: Arc<Inner>,
        topic: Arc<str>,
        group: &str,
        gone: Gone,
        from: &[(u32, u64)],
    ) -> Result<Self, BusError> {
        let stored = inner.config.stored_name(&topic);
        let numbers: Vec<u32> = from.iter().map(|(partition, _)| *partition).collect();
        let ends = inner.questions.ends(Isolation::Committed, &stored, &numbers)?;
        let fetched = (LOOK_BYTES / numbers.len().max(1)).max(FETCH_BYTES);
        let consumer = consumer(&inner.config, &inner.context, group, Isolation::Committed, |client| {
            // Whoever reads a single partition asks as seldom as one who reads several.
            client.set("fetch.message.max.bytes", fetched.to_string());
            if gone == Gone::PassedOver {
                client.set("auto.offset.reset", "earliest");
            }
        })?;
        let mut assigned = TopicPartitionList::new();
        let mut partitions = BTreeMap::new();
        for ((partition, next), end) in from.iter().zip(ends) {
            assigned
                .add_partition_offset(&stored, number(*partition), offset(*next))
                .map_err(|error| inner.context.error("a Kafka position can not be used", &error))?;
            let progress = Progress { next: *next, end_is_at_least: Some(end), at_unknown_end: false };
            partitions.insert(*partition, progress);
        }
        consumer.assign(&assigned).map_err(|error| inner.context.error("a Kafka topic can not be read", &error))?;
        drop(assigned);
        let (buffer, group) = (Buffer::default(), inner.config.stored_name(group));
        Ok(Self {
            inner,
            consumer: Some(consumer),
            topic,
            stored,
            group,
            gone,
            raw: false,
            partitions,
            heard_at: Instant::now(),
            stood_still: false,
            back: None,
            buffer,
        })
    }

    /// The same of a changelog.
    pub(super) fn raw(mut self) -> Self {
        self.raw = true;
        self
    }

    /// Everything of a partition before this position was put into the buffer.
    pub(super) fn next(&self, partition: u32) -> u64 {
        self.partitions.get(&partition).map_or(0, |progress| progress.next)
    }

    /// Waits for what comes next, for a short while, and puts it into the buffer.
    pub(super) fn look(&mut self, wait: Duration) -> Result<(), BusError> {
        let Some(consumer) = self.consumer.take() else { return Err(BusError::Closed) };
        let result = self.look_with(&consumer, wait);
        self.consumer = Some(consumer);
        result
    }

    /// Puts into the buffer what the client has read already, up to so many records. It waits for nothing
    /// but a schema that is not known yet.
    pub(super) fn take(&mut self, records: usize) -> Result<(), BusError> {
        if self.back.is_some() {
            return Ok(());
        }
        let Some(consumer) = self.consumer.take() else { return Err(BusError::Closed) };
        let result = self.take_in(&consumer, Duration::ZERO, records);
        self.consumer = Some(consumer);
        result.map(drop)
    }

    fn look_with(&mut self, consumer: &OurConsumer, wait: Duration) -> Result<(), BusError> {
        if let Some((partition, position)) = self.back {
            consumer
                .seek(&self.stored, number(partition), offset(position), self.inner.request_timeout())
                .map_err(|error| self.inner.context.error("a Kafka topic can not be read again", &error))?;
            self.back = None;
        }
        let unknown_ends = self.partitions.values().any(|progress| progress.at_unknown_end);
        let wait = if unknown_ends { wait.min(QUIET) } else { wait };
        let records = self.take_in(consumer, wait, LOOK_RECORDS)?;
        if records == 0 && unknown_ends {
            self.look_past(consumer)?;
        }
        if self.heard_at.elapsed() > STILL {
            self.rouse(consumer)?;
        }
        Ok(())
    }

    /// Puts what the client has into the buffer, up to so many records, and waits only for the first. How many there were.
    fn take_in(&mut self, consumer: &OurConsumer, mut wait: Duration, most: usize) -> Result<usize, BusError> {
        let (mut records, mut bytes, mut heard) = (0, 0, false);
        while records < most && bytes < LOOK_BYTES {
            let Some(polled) = consumer.poll(wait) else { break };
            if !heard && !matches!(polled, Err(ref error) if !matches!(error, KafkaError::PartitionEOF(_))) {
                // All of it comes within moments.
                (self.heard_at, self.stood_still, heard) = (Instant::now(), false, true);
            }
            match polled {
                Ok(message) => {
                    let Ok(partition) = u32::try_from(message.partition()) else { continue };
                    let record = if self.raw { None } else { Some(self.record(partition, &message)?) };
                    let Some(progress) = self.partitions.get_mut(&partition) else { continue };
                    records += 1;
                    bytes += message.payload_len();
                    progress.next = u64::try_from(message.offset()).unwrap_or(0) + 1;
                    progress.at_unknown_end = false;
                    let found = match record {
                        Some(record) => Found::Record { partition, record },
                        None => {
                            let (key, value) = (message.key().unwrap_or_default().to_vec(), message.payload());
                            Found::Change { position: progress.next - 1, key, value: value.map(<[u8]>::to_vec) }
                        }
                    };
                    self.buffer.lock().push_back(found);
                    wait = Duration::ZERO;
                }
                Err(KafkaError::PartitionEOF(partition)) => {
                    self.end_of(partition);
                    if !self.buffer.lock().is_empty() {
                        wait = Duration::ZERO;
                    }
                }
                Err(error) => self.failed(&error)?,
            }
        }
        Ok(records)
    }

    /// The record in a message. One whose schema can not be had is not taken: it will be read again.
    fn record(&mut self, partition: u32, message: &BorrowedMessage<'_>) -> Result<StoredRecord, BusError> {
        let mut record = stored(message);
        while !record.control {
            match self.inner.schemas.incoming(&self.topic, record.value.clone()) {
                Ok(value) => {
                    record.value = value;
                    break;
                }
                Err(number) => {
                    let asking = self.inner.schemas.ask(&self.topic, number);
                    self.inner.runtime.block_on(asking).inspect_err(|_| {
                        self.back = Some((partition, record.position));
                    })?;
                }
            }
        }
        Ok(record)
    }

    /// The client has returned everything up to the end of a partition.
    fn end_of(&mut self, partition: i32) {
        let Ok(partition) = u32::try_from(partition) else { return };
        let Some(progress) = self.partitions.get_mut(&partition) else { return };
        match progress.end_is_at_least.take() {
            Some(end) if end > progress.next => {
                progress.next = end;
                self.buffer.lock().push_back(Found::Passed { partition, next: end });
            }
            Some(_) => {}
            None => progress.at_unknown_end = true,
        }
    }

    /// Asks where the partitions end whose end was told, and makes the client read again from where they are: when it
    /// tells an end after that, it is at least there.
    fn look_past(&mut self, consumer: &OurConsumer) -> Result<(), BusError> {
        let unknown = self.partitions.iter().filter(|(_, progress)| progress.at_unknown_end);
        let numbers: Vec<u32> = unknown.map(|(partition, _)| *partition).collect();
        let ends = self.inner.questions.ends(Isolation::Committed, &self.stored, &numbers)?;
        let timeout = self.inner.request_timeout();
        for (partition, end) in numbers.into_iter().zip(ends) {
            let Some(progress) = self.partitions.get_mut(&partition) else { continue };
            if !std::mem::take(&mut progress.at_unknown_end) || end <= progress.next {
                continue;
            }
            consumer
                .seek(&self.stored, number(partition), offset(progress.next), timeout)
                .map_err(|error| self.inner.context.error("a Kafka topic can not be read on", &error))?;
            progress.end_is_at_least = Some(end);
        }
        Ok(())
    }

    /// Asks whether there is more than the client has returned, and makes it read on when it does not by itself. One that
    /// does not even then is given up: whoever reads begins anew from where it is.
    fn rouse(&mut self, consumer: &OurConsumer) -> Result<(), BusError> {
        self.heard_at = Instant::now();
        let numbers: Vec<u32> = self.partitions.keys().copied().collect();
        let ends = self.inner.questions.ends(Isolation::Committed, &self.stored, &numbers)?;
        let timeout = self.inner.request_timeout();
        let mut stands_still = false;
        for (partition, end) in numbers.into_iter().zip(ends) {
            let Some(progress) = self.partitions.get_mut(&partition) else { continue };
            if end <= progress.next {
                continue;
            }
            stands_still = true;
            if !self.stood_still {
                tracing::warn!(topic = %self.stored, partition, next = progress.next, end, "a Kafka client stands still");
                consumer
                    .seek(&self.stored, number(partition), offset(progress.next), timeout)
                    .map_err(|error| self.inner.context.error("a Kafka topic can not be read on", &error))?;
                progress.end_is_at_least = Some(end);
            }
        }
        if stands_still && self.stood_still {
            metrics::counter!("flywheel_bus_kafka_stalls_total").increment(1);
            return Err(BusError::Storage(format!("the client that reads Kafka topic {} stands still", self.stored)));
        }
        self.stood_still = stands_still;
        Ok(())
    }

    /// What the client could not do. Most of it it tries again by itself.
    fn failed(&self, error: &KafkaError) -> Result<(), BusError> {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => self.gone(),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                Err(BusError::UnknownTopic(self.topic.to_string()))
            }
            Some(code)
                if forbidden::is_refusal(code)
                    || matches!(
                        code,
                        RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed
                    ) =>
            {
                let needs = [
                    Need::topic(Operation::Read, self.stored.as_str()),
                    Need::group(Operation::Describe, self.group.as_str()),
                ];
                let doing = format!("Kafka topic {} can not be read", self.stored);
                Err(self.inner.context.error_of(&doing, error, &needs))
            }
            _ => {
                tracing::debug!(%error, topic = %self.stored, "the Kafka client goes on trying");
                Ok(())
            }
        }
    }

    /// What was to be read next is not there, and the client reads no further: retention has deleted it, or brokers came
    /// back with less than there was.
    fn gone(&self) -> Result<(), BusError> {
        if self.gone == Gone::PassedOver {
            return Ok(());
        }
        let numbers: Vec<u32> = self.partitions.keys().copied().collect();
        let oldest = self.inner.questions.oldest(&self.stored, &numbers)?;
        for ((partition, progress), oldest) in self.partitions.iter().zip(oldest) {
            if progress.next < oldest {
                let partition = *partition;
                let (position, oldest) = (Position::from_offset(progress.next), Position::from_offset(oldest));
                return Err(BusError::PositionGone { topic: self.topic.to_string(), partition, position, oldest });
            }
        }
        Err(BusError::Storage(format!("Kafka topic {} has no such position any more", self.stored)))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(consumer) = self.consumer.take() {
            close(consumer);
        }
    }
}
