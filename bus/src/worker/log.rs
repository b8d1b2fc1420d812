//! What a worker needs of the log in which its partition lies, and what it hands to it. Everything else that it does
//! (reading ahead, handlers, timers, poison, attempts) is the same for every log.

use std::collections::HashSet;

use bytes::Bytes;
use events::Timestamp;

use super::pending::Pending;
use super::timers::TimerWindow;
use crate::control::ControlTable;
use crate::error::BusError;
use crate::record::RecordKey;

/// One partition of a step, owned by this process. Methods block; they are called on threads that may.
pub(crate) trait PartitionLog: Send + 'static {
    /// The partition's number.
    fn partition(&self) -> u32;

    /// Records of a transaction at most: where each transaction has a price of its own, more of them share it.
    fn most_records(&self) -> usize;

    /// What was committed last, and what an earlier owner left behind. An error when what must be read next is gone.
    fn load(&mut self) -> Result<(Loaded, Suspicion), BusError>;

    /// The timers that are due next, as they were committed.
    fn load_timers(&mut self) -> Result<TimerWindow, BusError>;

    /// Where the partition ends, as far as this process knows. It may lag behind.
    fn known_end(&self) -> u64;

    /// Looks where the partition ends now. What had been appended when this was called is counted in. None: something
    /// that is not decided yet hides the end.
    fn look_for_end(&mut self, position: u64) -> Result<Option<u64>, BusError>;

    /// The next records: at least one when there is one, whatever its size.
    fn read(&mut self, range: ReadRange) -> Result<Vec<StoredRecord>, BusError>;

    /// Writes down, durably and before an attempt, that it is made. Fenced as a commit is.
    fn mark(&mut self, mark: AttemptMark) -> Result<(), BusError>;

    /// Writes everything in one transaction, if this process still owns the partition. After an error it is not known
    /// whether it was made, unless it is [`BusError::Fenced`].
    fn commit(&mut self, write: StepWrite) -> Result<(), BusError>;

    /// How far another step has concluded in the partition of the same number. What that one had emitted by then is
    /// found by a [`PartitionLog::look_for_end`] that follows.
    fn concluded(&self, step: &str) -> Result<Concluded, BusError>;

    /// The time that was reached, for status and for steps that follow. `concluded`: neither a record nor a due timer
    /// is left up to that time; none: what was said before stays.
    fn reached(&self, time: Option<Timestamp>, concluded: Option<Timestamp>);

    /// Committed state by key and name.
    fn state(&self, key: &RecordKey, name: &str) -> Result<Option<Bytes>, BusError>;

    /// A key's committed state under names that start with `prefix`, in order of names.
    fn states(&self, key: &RecordKey, prefix: &str) -> Result<Vec<(String, Bytes)>, BusError>;

    /// The names of a key's committed state, in order.
    fn state_names(&self, key: &RecordKey) -> Result<Vec<String>, BusError>;

    /// The same, each with its value unless that is large; none when there are very many.
    fn outline(&self, key: &RecordKey) -> Result<Option<Outline>, BusError>;
}

/// All names of a key's state, in order, with what was read of their values.
pub(crate) type Outline = Vec<(String, Option<Bytes>)>;

/// What was committed about a partition of a step; between commits, with what is pending applied.
pub(crate) struct Loaded {
    pub(crate) position: u64,
    pub(crate) time: Option<Timestamp>,
    pub(crate) committed_time: Option<Timestamp>,
    pub(crate) paused: bool,
    pub(crate) poisoned: HashSet<RecordKey>,
    pub(crate) control: ControlTable,
    pub(crate) timers: TimerWindow,
}

/// What an earlier owner left behind when it ended within a batch.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Suspicion {
    pub(crate) attempts: u32,
    pub(crate) until: u64,
    pub(crate) input: Option<String>,
    pub(crate) input_attempts: u32,
}

impl Suspicion {
    /// How often the process ended with this input.
    pub(crate) fn attempts_of(&self, input: &str) -> u32 {
        if self.input.as_deref() == Some(input) { self.input_attempts } else { self.attempts }
    }
}

/// What to read of a partition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadRange {
    pub(crate) from: u64,
    pub(crate) records: usize,
    pub(crate) bytes: usize,
}

/// A record of a partition.
#[derive(Debug, Clone)]
pub(crate) struct StoredRecord {
    pub(crate) position: u64,
    pub(crate) control: bool,
    pub(crate) appended_at: Timestamp,
    pub(crate) key: RecordKey,
    pub(crate) value: Bytes,
}

/// An attempt that is about to be made.
#[derive(Debug, Clone)]
pub(crate) struct AttemptMark {
    pub(crate) time: Option<Timestamp>,
    pub(crate) suspicion: Suspicion,
}

/// Everything that one transaction of a partition writes.
pub(crate) struct StepWrite {
    pub(crate) position: u64,
    pub(crate) time: Option<Timestamp>,
    /// The dependency that the partition waits for.
    pub(crate) paused: Option<String>,
    pub(crate) suspicion: Suspicion,
    pub(crate) pending: std::sync::Arc<Pending>,
}

/// How far a step has concluded in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Concluded {
    /// Nothing will come of it: no such step ever ran here.
    Everything,
    /// Everything up to `time` is in its outputs; none: nothing is known yet.
    UpTo { time: Option<Timestamp>, holder: Held },
}

/// Where the step works that holds back the one behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// In this process: what it has reached is known as soon as it has.
    Here,
    /// In another process, or nowhere now: what it has reached is known when it has committed it.
    Elsewhere,
}
