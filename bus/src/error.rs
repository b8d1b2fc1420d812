//! What can go wrong, and what it means to the caller.

use crate::record::Position;

/// Why a record was not acknowledged. Nothing of it is in the log unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// No topic of that name was created.
    #[error("topic {0} does not exist")]
    UnknownTopic(String),
    /// The record's value is larger than a record may be.
    #[error("the record has {bytes} bytes, at most {limit} are allowed")]
    RecordTooLarge {
        /// Size of the value.
        bytes: usize,
        /// The configured limit.
        limit: usize,
    },
    /// The call carries more bytes than one call may.
    #[error("the batch has {bytes} bytes, at most {limit} are allowed")]
    BatchTooLarge {
        /// Sum of the values.
        bytes: usize,
        /// The configured limit.
        limit: usize,
    },
    /// As many publishes are in flight as are allowed, and none ended in time. Try later.
    #[error("too many publishes are in flight")]
    Overloaded,
    /// The disk (or quota) is full. What was acknowledged before is safe.
    #[error("the log's storage is full")]
    StorageFull,
    /// The storage failed. Whether the record is in the log is unknown only if the process died meanwhile.
    #[error("the log's storage failed: {0}")]
    Storage(String),
    /// The bus was closed.
    #[error("the bus is closed")]
    Closed,
}

/// Why an operation other than publishing failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// No topic of that name was created.
    #[error("topic {0} does not exist")]
    UnknownTopic(String),
    /// No step of that name has ever run.
    #[error("step {0} has never run")]
    UnknownStep(String),
    /// The topic exists with another number of partitions; keys would move.
    #[error(
        "topic {topic} has {actual} partitions, configured are {expected}: keys would move; set `bus.partitions` = \
         {actual}, or begin anew with another `bus.prefix`"
    )]
    PartitionsDiffer {
        /// The topic.
        topic: String,
        /// What was asked for.
        expected: u32,
        /// What is stored.
        actual: u32,
    },
    /// A step of that name reads another topic; its state and positions belong to that one.
    #[error("step {step} reads {actual}, not {expected}")]
    InputDiffers {
        /// The step.
        step: String,
        /// What was asked for.
        expected: String,
        /// What is stored.
        actual: String,
    },
    /// Retention has deleted what the reader was to read next. It must not go on as if nothing happened.
    #[error("position {position} of {topic}/{partition} is gone; the oldest that is left is {oldest}")]
    PositionGone {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// Where the reader wanted to go on.
        position: Position,
        /// The oldest position that can be read.
        oldest: Position,
    },
    /// The reader is ahead of the log: the log was replaced or restored from an older copy.
    #[error("position {position} of {topic}/{partition} is beyond the end of the log, {end}")]
    PositionAhead {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// Where the reader wanted to go on.
        position: Position,
        /// The position after the last record.
        end: Position,
    },
    /// Another process took the partition over; what was computed was discarded.
    #[error("partition {partition} of step {step} is owned by another process now")]
    Fenced {
        /// The step.
        step: String,
        /// The partition.
        partition: u32,
    },
    /// Somebody works on the partition, so nothing keeps it from going on, or its lease has not run out yet.
    #[error(
        "partition {partition} of step {step} is owned by a process that runs; stop every process that runs the step, \
         wait until its lease has run out, and try again"
    )]
    Owned {
        /// The step.
        step: String,
        /// The partition.
        partition: u32,
    },
    /// The brokers do not let us in, or do not let us do this: a password, token or certificate is wrong, here or there,
    /// or a right is lacking. Nothing was done, and it goes on by itself when that was mended.
    #[error("{0}")]
    NotAdmitted(String),
    /// The schema of a value can not be had from the registry now. The reader waits where it is.
    #[error("a value of {topic} has schema {schema}, and its reader waits for it: {why}")]
    SchemaUnavailable {
        /// The topic.
        topic: String,
        /// The number of the schema.
        schema: u32,
        /// Why it can not be had.
        why: String,
    },
    /// A name or limit that cannot be used.
    #[error("{0}")]
    Invalid(String),
    /// The disk (or quota) is full.
    #[error("the log's storage is full")]
    StorageFull,
    /// The storage failed.
    #[error("the log's storage failed: {0}")]
    Storage(String),
    /// The log was written by another, incompatible release.
    #[error("the log has format {found}, this release reads {expected}")]
    FormatDiffers {
        /// Found in the log.
        found: i64,
        /// What this release reads and writes.
        expected: i64,
    },
    /// The bus was closed.
    #[error("the bus is closed")]
    Closed,
}

impl BusError {
    /// Whether the same may succeed later, without anything being done here.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::Storage(_) | Self::StorageFull | Self::NotAdmitted(_) | Self::SchemaUnavailable { .. })
    }
}

impl From<BusError> for PublishError {
    fn from(error: BusError) -> Self {
        match error {
            BusError::UnknownTopic(topic) => Self::UnknownTopic(topic),
            BusError::StorageFull => Self::StorageFull,
            BusError::Closed => Self::Closed,
            BusError::Storage(message) => Self::Storage(message),
            other => Self::Storage(other.to_string()),
        }
    }
}
