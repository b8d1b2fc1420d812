//! What a service hands to [`crate::Bus::step`], and what it is handed.

use std::any::Any;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use events::Timestamp;

use crate::dead_letter::Affected;
use crate::record::{CommittedRecord, Record, RecordKey};

/// A step: its name is the identity of its positions, state and timers.
#[derive(Debug, Clone)]
pub struct StepSpec {
    /// The step's name. A step of another name starts from the oldest record with empty state.
    pub name: String,
    /// The one topic it reads.
    pub input: String,
    /// The topics it may emit to.
    pub outputs: Vec<String>,
    /// The topic of its dead letters.
    pub dead_letters: String,
    /// The step that writes the input, if one does, key for key into partitions of the same number. The time of an idle
    /// partition never passes what that step has concluded there: what it still holds back is no silence. A step that
    /// the log does not know holds nothing back.
    pub follows: Option<String>,
    /// Bounds of batches, caches and waits.
    pub limits: StepLimits,
}

impl StepSpec {
    /// A step with default limits.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        input: impl Into<String>,
        outputs: impl IntoIterator<Item = impl Into<String>>,
        dead_letters: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            input: input.into(),
            outputs: outputs.into_iter().map(Into::into).collect(),
            dead_letters: dead_letters.into(),
            follows: None,
            limits: StepLimits::default(),
        }
    }

    /// The same, behind the step that writes its input.
    #[must_use]
    pub fn following(self, step: impl Into<String>) -> Self {
        Self { follows: Some(step.into()), ..self }
    }
}

/// Bounds of a step. None of them can be seen from inside a handler, except that a value beyond `state_value_bytes`
/// makes its record poison.
#[derive(Debug, Clone)]
pub struct StepLimits {
    /// At most that many records in a batch (one transaction a partition); the first has at most 512, and the local log
    /// takes no more in any.
    pub batch_records: usize,
    /// At most that many bytes of values in a batch, unless its first record alone is larger.
    pub batch_bytes: usize,
    /// What a transaction writes is computed in about that time: batches whose inputs take longer become smaller.
    pub batch_time: Duration,
    /// At most that many timers fire in one transaction.
    pub batch_timers: usize,
    /// Bytes of keyed state that each partition keeps in memory.
    pub state_cache_bytes: usize,
    /// Bytes of one value of keyed state.
    pub state_value_bytes: usize,
    /// First pause of a partition whose handler was `Unavailable`; doubles up to `longest_pause`.
    pub first_pause: Duration,
    /// Longest pause between two attempts.
    pub longest_pause: Duration,
    /// An idle partition's time is written down when it went on by this since it was last written.
    pub idle_commit_after: Duration,
}

impl Default for StepLimits {
    fn default() -> Self {
        Self {
            batch_records: 2_048,
            batch_bytes: 4 << 20,
            batch_time: Duration::from_millis(500),
            batch_timers: 512,
            state_cache_bytes: 16 << 20,
            state_value_bytes: 4 << 20,
            first_pause: Duration::from_millis(50),
            longest_pause: Duration::from_secs(5),
            idle_commit_after: Duration::from_secs(10),
        }
    }
}

/// What a step does. One handler serves all partitions of the step, at the same time.
#[async_trait]
pub trait StepHandler: Send + Sync {
    /// Work on records that needs no state: decode, unseal, scan. Called on slices of a batch, in parallel where that is
    /// worth it, possibly more than once for a record; sees only the records and the data-key cache. Answers one entry
    /// per record, in order.
    fn prepare(&self, records: &[CommittedRecord]) -> Vec<Prepared> {
        records.iter().map(|_| Prepared::Nothing).collect()
    }

    /// Handles one record or one timer of one key. A pure function of its input, the state of the key in `context`, the
    /// partition time and the control table; it may be run again when a transaction did not commit.
    fn handle(&self, input: Input<'_>, context: &mut dyn StepContext) -> Outcome;

    /// When the record was received at the door (`received_at`); partition time is the greatest so far. None leaves it.
    /// `prepared` is what [`StepHandler::prepare`] found, so that nothing need be decoded again, or nothing.
    fn partition_time_of(&self, record: &CommittedRecord, prepared: &Prepared) -> Option<Timestamp>;

    /// Makes the sealed content of a dead letter: the bus itself never stores text of a record there. The default keeps
    /// nothing but key, place and reason, which the bus adds. Must not fail on content that made the handler fail.
    fn dead_letter(&self, failed: &Failed<'_>) -> Sealed {
        let _ = failed;
        Sealed::default()
    }

    /// Fetches what [`Prepared::Unavailable`] or [`Outcome::Unavailable`] named, before the bus tries again after a
    /// pause.
    async fn make_available(&self, dependencies: &[String]) {
        let _ = dependencies;
    }
}

/// What [`StepHandler::prepare`] found for one record.
pub enum Prepared {
    /// Nothing was prepared.
    Nothing,
    /// A value for [`StepHandler::handle`], which knows its type.
    Ready(Box<dyn Any + Send>),
    /// The data key of this record was erased. `handle` decides what becomes of it.
    Erased,
    /// Names (ids of data keys) that must be made available first; the partition waits at this record.
    Unavailable(Vec<String>),
    /// The record cannot be processed; the reason is a code without content. It goes to dead letters.
    Poison(String),
}

impl Prepared {
    /// A value for `handle`.
    #[must_use]
    pub fn ready<T: Any + Send>(value: T) -> Self {
        Self::Ready(Box::new(value))
    }

    /// The value that was prepared, when it is of that type, left where it is.
    #[must_use]
    pub fn get<T: Any>(&self) -> Option<&T> {
        match self {
            Self::Ready(value) => value.downcast_ref(),
            _ => None,
        }
    }

    /// The value that was prepared, when it is of that type.
    #[must_use]
    pub fn take<T: Any>(self) -> Option<T> {
        match self {
            Self::Ready(value) => value.downcast().ok().map(|value| *value),
            _ => None,
        }
    }
}

/// One thing to handle.
pub enum Input<'a> {
    /// The next record.
    Record {
        /// The record.
        record: &'a CommittedRecord,
        /// [`Prepared::Nothing`], [`Prepared::Ready`] or [`Prepared::Erased`].
        prepared: Prepared,
    },
    /// A timer of the key that is due at the current partition time. It is not set any more.
    Timer {
        /// Its name.
        name: &'a str,
        /// When it was due.
        due: Timestamp,
    },
}

/// How handling ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Everything that was put, set and emitted counts.
    Ok,
    /// The input cannot be processed; the reason is a code without content. A record goes to dead letters and its
    /// changes vanish; a timer poisons its key.
    Poison(String),
    /// Something is missing for now, by name; the changes vanish, the partition waits and tries again.
    Unavailable(String),
}

/// What a handler sees and does. Everything is of the current key only.
pub trait StepContext {
    /// The current key.
    fn key(&self) -> RecordKey;
    /// The current partition.
    fn partition(&self) -> u32;
    /// Greatest `received_at` so far, the current record's included; when the partition is idle, the own clock less 2
    /// s, or what the followed step has concluded, if that is less.
    fn partition_time(&self) -> Timestamp;
    /// The state of that name, as this record has left it so far.
    fn get(&mut self, name: &str) -> Option<Bytes>;
    /// Sets the state of that name.
    fn put(&mut self, name: &str, value: Bytes);
    /// Removes the state of that name.
    fn delete(&mut self, name: &str);
    /// The names of this key's state that start with `prefix`, in order.
    fn names(&mut self, prefix: &str) -> Vec<String>;
    /// The state of this key under names that start with `prefix`, in order of names.
    fn entries(&mut self, prefix: &str) -> Vec<(String, Bytes)>;
    /// Sets (or moves) the timer of that name. It fires once partition time is at or past `due`, before the next
    /// record.
    fn set_timer(&mut self, name: &str, due: Timestamp);
    /// Unsets the timer of that name.
    fn cancel_timer(&mut self, name: &str);
    /// Appends a record to an output topic, when and only when the input's transaction commits.
    fn emit(&mut self, topic: &str, record: Record);
    /// What control records said last about a subject.
    fn control(&self, kind: &str, subject: &str) -> Option<Bytes>;
    /// The state of that name cannot be decoded. If the input then ends as [`Outcome::Poison`], the whole key is
    /// poisoned: its state and timers go, later records of it go to dead letters, and nothing is concluded from it.
    fn undecodable(&mut self, name: &str);
}

/// What failed, for [`StepHandler::dead_letter`].
#[derive(Debug)]
pub struct Failed<'a> {
    /// The key.
    pub key: RecordKey,
    /// The reason: a code without content.
    pub reason: &'a str,
    /// The partition time at which it was given up.
    pub partition_time: Timestamp,
    /// What was being handled.
    pub input: FailedInput<'a>,
    /// When the whole key is poisoned with this: all its state, by name, which is lost after this call. Else empty.
    pub lost_state: &'a [(String, Bytes)],
}

/// The input that failed.
#[derive(Debug)]
pub enum FailedInput<'a> {
    /// A record.
    Record(&'a CommittedRecord),
    /// A timer.
    Timer {
        /// Its name.
        name: &'a str,
        /// When it was due.
        due: Timestamp,
    },
}

/// What a dead letter keeps of the content.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sealed {
    /// Sealed content, as the room seals it (a record of a sealed topic is sealed already).
    pub payload: Option<Bytes>,
    /// The events that end here, for the ledger: ids and numbers stay readable.
    pub affected: Vec<Affected>,
}
