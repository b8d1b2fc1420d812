//! The log between services: publish, tail, and the exactly-once step with keyed state and timers.
//!
//! [`Bus`] is the whole interface. [`local::LocalLog`] implements it in one SQLite file for a machine, `kafka::KafkaBus`
//! (cargo feature `production`) on Apache Kafka; both run the same test suite. Nothing in the interface knows which one is behind it.
//!
//! # The exactly-once argument
//!
//! A step reads one topic and owns some of its partitions. For every partition the outputs, the changes of keyed state,
//! the timers set and fired, the dead letters, the control table, the partition time and the next input position are
//! written in **one transaction of the bus**, and that transaction also checks that the writer still owns the partition
//! (a row with an epoch: a later owner has a greater one). Three things follow:
//!
//! 1. *Nothing twice.* If the transaction commits, the input position has moved past the records, so no later owner
//!    reads them again; if it does not commit, nothing of it is visible anywhere. There is no moment at which an output
//!    is readable and its input position is not committed.
//! 2. *Nothing lost.* The position moves only together with the effects of the records before it. A process that dies
//!    at any point leaves the last committed position, state and timers; the next owner goes on from exactly there.
//! 3. *No split brain.* An owner that was stopped (SIGSTOP, a paused machine) and was replaced finds another epoch when
//!    it commits. Its transaction fails as a whole, it discards what it computed and its cache of state, and stops.
//!
//! What makes the *result* independent of where transactions fall is that a handler is a pure function of the record or
//! timer, the keyed state of its key, and the partition time; and partition time is advanced record by record, with due
//! timers fired before the record that made them due is handled. Batch boundaries cannot be seen from inside a handler.
//! Silence makes time pass too; a step that follows another one ([`StepSpec::following`]) takes for silence only what
//! that one has concluded, so that its results do not depend on how long the wheel stood still.
//!
//! Effects outside the bus are not covered by this argument: they are sinks, which [`Bus::tail`] the log and store
//! their positions in the same database transaction as the effect.

pub mod control;
pub mod dead_letter;
mod error;
mod interface;
pub mod kafka;
pub mod local;
pub mod measure;
#[cfg(test)]
mod model_tests;
mod partition;
mod record;
mod sizes;
mod step;
pub mod testing;
pub mod watch;
mod worker;

pub use dead_letter::{Affected, DeadLetter, DeadLetterKind};
pub use error::{BusError, PublishError};
pub use interface::{Bus, History, Loss, LossBook, PartitionLag, StepLag, Tail, TopicStatus};
pub use partition::partition_for;
pub use record::{CommittedRecord, HistoryEntry, Position, Positions, Record, RecordKey, Retention, TopicSpec};
pub use step::{Failed, FailedInput, Input, Outcome, Prepared, Sealed, StepContext, StepHandler, StepLimits, StepSpec};

/// An idle partition's time is the own clock less this, as far as the step before (if the step follows one) has
/// concluded; a partition is idle when it was read to its end for this long.
pub const IDLE_AFTER: std::time::Duration = std::time::Duration::from_secs(2);

/// Reason of dead letters of records whose key was poisoned earlier.
pub const REASON_KEY_POISONED: &str = "key_poisoned";
/// Reason of dead letters of records or timers whose handler panicked.
pub const REASON_PANIC: &str = "panic";
/// Reason of dead letters of records that ended the process three times.
pub const REASON_KILLED_PROCESS: &str = "killed_process";
/// Reason of dead letters of records whose handler emitted to a topic that the step did not declare.
pub const REASON_UNDECLARED_OUTPUT: &str = "undeclared_output";
/// Reason of dead letters of records whose handler emitted a record or stored a value beyond the limits.
pub const REASON_LIMIT_EXCEEDED: &str = "limit_exceeded";
