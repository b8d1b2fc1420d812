//! A partition of a step in the file: the local log under a worker.

use std::sync::Arc;

use bytes::Bytes;
use events::Timestamp;
use rusqlite::{Connection, params};

use super::Inner;
use super::concluded::LivePartition;
use super::ownership::Owned;
use super::reader::{partition_bounds, read_records};
use super::topics::TopicInfo;
use super::writer::{Refusal, WriteTransaction};
use crate::error::BusError;
use crate::partition::partition_for;
use crate::record::{Position, Record, RecordKey};
use crate::worker::log::{
    AttemptMark, Concluded, Loaded, Outline, PartitionLog, ReadRange, StepWrite, StoredRecord, Suspicion,
};
use crate::worker::tables;
use crate::worker::timers::TimerWindow;

/// Records of a transaction at most. All steps of the file write one after the other, so that one may not take long.
const MOST_RECORDS: usize = 512;

/// What all partitions of a running step share here.
pub(super) struct RunTopics {
    pub(super) step: String,
    pub(super) owner: String,
    pub(super) input: Arc<TopicInfo>,
    pub(super) outputs: Vec<Arc<TopicInfo>>,
    pub(super) dead_letters: Arc<TopicInfo>,
}

/// A partition that this process owns.
pub(super) struct SlotLog {
    inner: Arc<Inner>,
    topics: Arc<RunTopics>,
    owned: Owned,
    partition_id: i64,
}

impl SlotLog {
    pub(super) fn new(inner: Arc<Inner>, topics: Arc<RunTopics>, owned: Owned) -> Result<Self, BusError> {
        let partition_id = topics.input.partition_ids.get(owned.partition as usize).copied();
        let partition_id = partition_id.ok_or_else(|| BusError::UnknownTopic(topics.input.name.to_string()))?;
        Ok(Self { inner, topics, owned, partition_id })
    }

    pub(super) const fn partition_id(&self) -> i64 {
        self.partition_id
    }

    #[cfg(test)]
    pub(super) const fn slot(&self) -> i64 {
        self.owned.slot
    }

    fn bounds(&self) -> Result<(Position, Position), BusError> {
        self.inner.readers.with(|connection| partition_bounds(connection, self.partition_id))
    }
}

impl PartitionLog for SlotLog {
    fn partition(&self) -> u32 {
        self.owned.partition
    }

    fn most_records(&self) -> usize {
        MOST_RECORDS
    }

    fn load(&mut self) -> Result<(Loaded, Suspicion), BusError> {
        let (slot, partition_id) = (self.owned.slot, self.partition_id);
        let ((loaded, suspicion), oldest) = self.inner.readers.with(|connection| {
            let loaded = load_slot(connection, slot)?;
            Ok((loaded, partition_bounds(connection, partition_id)?.0))
        })?;
        if loaded.position < oldest.offset() {
            let (topic, partition) = (self.topics.input.name.to_string(), self.owned.partition);
            let position = Position::from_offset(loaded.position);
            return Err(BusError::PositionGone { topic, partition, position, oldest });
        }
        Ok((loaded, suspicion))
    }

    fn load_timers(&mut self) -> Result<TimerWindow, BusError> {
        let slot = self.owned.slot;
        self.inner.readers.with(|connection| TimerWindow::load(connection, slot))
    }

    fn known_end(&self) -> u64 {
        self.inner.ends.end(self.partition_id)
    }

    fn look_for_end(&mut self, _position: u64) -> Result<Option<u64>, BusError> {
        let (_, end) = self.bounds()?;
        self.inner.ends.appended(std::iter::once((self.partition_id, end.offset())));
        Ok(Some(self.known_end()))
    }

    fn read(&mut self, range: ReadRange) -> Result<Vec<StoredRecord>, BusError> {
        read_records(&self.inner.readers, self.partition_id, range)
    }

    fn mark(&mut self, mark: AttemptMark) -> Result<(), BusError> {
        let (topics, owned) = (Arc::clone(&self.topics), self.owned);
        self.inner.writer.write_blocking(0, move |transaction| apply_mark(transaction, &topics, owned, &mark))
    }

    fn commit(&mut self, write: StepWrite) -> Result<(), BusError> {
        let (topics, owned, bytes) = (Arc::clone(&self.topics), self.owned, write.pending.bytes);
        let apply = move |transaction: &mut WriteTransaction<'_>| apply_write(transaction, &topics, owned, &write);
        self.inner.writer.write_blocking(bytes, apply)
    }

    fn concluded(&self, step: &str) -> Result<Concluded, BusError> {
        self.inner.concluded(step, self.owned.partition)
    }

    fn reached(&self, time: Option<Timestamp>, concluded: Option<Timestamp>) {
        let mut live = self.inner.live.lock();
        let live: &mut LivePartition = live.entry(self.owned.slot).or_default();
        live.time = time;
        live.concluded = concluded.or(live.concluded);
    }

    fn state(&self, key: &RecordKey, name: &str) -> Result<Option<Bytes>, BusError> {
        self.inner.readers.with(|connection| tables::state(connection, self.owned.slot, key, name))
    }

    fn states(&self, key: &RecordKey, prefix: &str) -> Result<Vec<(String, Bytes)>, BusError> {
        self.inner.readers.with(|connection| tables::states(connection, self.owned.slot, key, prefix))
    }

    fn state_names(&self, key: &RecordKey) -> Result<Vec<String>, BusError> {
        self.inner.readers.with(|connection| tables::state_names(connection, self.owned.slot, key))
    }

    fn outline(&self, key: &RecordKey) -> Result<Option<Outline>, BusError> {
        self.inner.readers.with(|connection| tables::outline(connection, self.owned.slot, key))
    }
}

/// Says, before an attempt, that it is made.
fn apply_mark(
    transaction: &mut WriteTransaction<'_>,
    topics: &RunTopics,
    owned: Owned,
    mark: &AttemptMark,
) -> Result<(), Refusal> {
    let AttemptMark { time, suspicion } = mark;
    let mut update = transaction.connection.prepare_cached(
        "UPDATE slots SET suspect_attempts = ?4, suspect_until = ?5, suspect_input = ?6,
         suspect_input_attempts = ?7, partition_time = ?8 WHERE id = ?1 AND owner = ?2 AND epoch = ?3",
    )?;
    let updated = update.execute(params![
        owned.slot,
        topics.owner,
        owned.epoch,
        suspicion.attempts,
        suspicion.until.cast_signed(),
        suspicion.input,
        suspicion.input_attempts,
        time.map(Timestamp::as_micros),
    ])?;
    if updated == 1 { Ok(()) } else { Err(fenced(topics, owned)) }
}

fn fenced(topics: &RunTopics, owned: Owned) -> Refusal {
    Refusal::Job(BusError::Fenced { step: topics.step.clone(), partition: owned.partition })
}

/// Loads a slot.
fn load_slot(connection: &Connection, slot: i64) -> rusqlite::Result<(Loaded, Suspicion)> {
    let mut query = connection.prepare_cached(
        "SELECT position, partition_time, paused, suspect_attempts, suspect_until, suspect_input, suspect_input_attempts
         FROM slots WHERE id = ?1",
    )?;
    query.query_row([slot], |row| {
        let time = row.get::<_, Option<i64>>(1)?.map(Timestamp::from_micros);
        let loaded = Loaded {
            position: row.get::<_, i64>(0)?.cast_unsigned(),
            time,
            committed_time: time,
            paused: row.get::<_, Option<String>>(2)?.is_some(),
            poisoned: tables::poisoned_keys(connection, slot)?,
            control: tables::control_table(connection, slot)?,
            timers: TimerWindow::load(connection, slot)?,
        };
        let suspicion = Suspicion {
            attempts: row.get(3)?,
            until: row.get::<_, i64>(4)?.cast_unsigned(),
            input: row.get(5)?,
            input_attempts: row.get(6)?,
        };
        Ok((loaded, suspicion))
    })
}

/// The transaction of a step.
fn apply_write(
    transaction: &mut WriteTransaction<'_>,
    topics: &RunTopics,
    owned: Owned,
    write: &StepWrite,
) -> Result<(), Refusal> {
    let StepWrite { position, time, paused, suspicion, pending } = write;
    // The fence comes first: whoever lost the partition changes nothing.
    let mut update = transaction.connection.prepare_cached(
        "UPDATE slots SET position = ?4, partition_time = ?5, paused = ?6, suspect_attempts = ?7,
         suspect_until = ?8, suspect_input = ?9, suspect_input_attempts = ?10
         WHERE id = ?1 AND owner = ?2 AND epoch = ?3",
    )?;
    let updated = update.execute(params![
        owned.slot,
        topics.owner,
        owned.epoch,
        position.cast_signed(),
        time.map(Timestamp::as_micros),
        paused,
        suspicion.attempts,
        suspicion.until.cast_signed(),
        suspicion.input,
        suspicion.input_attempts,
    ])?;
    if updated != 1 {
        return Err(fenced(topics, owned));
    }
    tables::write_changes(transaction.connection, owned.slot, pending)?;
    for (output, record) in &pending.emitted {
        if let Some(topic) = topics.outputs.get(*output) {
            append(transaction, topic, record)?;
        }
    }
    for record in &pending.dead_letters {
        append(transaction, &topics.dead_letters, record)?;
    }
    Ok(())
}

fn append(transaction: &mut WriteTransaction<'_>, topic: &TopicInfo, record: &Record) -> rusqlite::Result<()> {
    let partition = partition_for(&record.key, topic.partitions());
    match topic.partition_ids.get(partition as usize) {
        Some(id) => transaction.append(*id, false, &record.key, &record.value).map(drop),
        None => Ok(()),
    }
}
