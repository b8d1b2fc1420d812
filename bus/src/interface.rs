//! The interface that every implementation of the bus has.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use events::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::error::{BusError, PublishError};
use crate::record::{CommittedRecord, HistoryEntry, Position, Positions, Record, Retention, TopicSpec};
use crate::step::{StepHandler, StepSpec};

/// The log between services.
#[async_trait]
pub trait Bus: Send + Sync {
    /// Creates topics that are absent. For those present the number of partitions is checked and the retention updated.
    /// The steps and readers that a spec names are registered where they are new: from then on retention waits for
    /// them, and what they have not read counts as unread, even when none of them has ever run.
    async fn create_topics(&self, specs: &[TopicSpec]) -> Result<(), BusError>;

    /// The same for somebody who only gives commands or looks: where others may be at work on other settings, nothing is
    /// made and nothing changed.
    async fn use_topics(&self, specs: &[TopicSpec]) -> Result<(), BusError> {
        self.create_topics(specs).await
    }

    /// Whether the log can be used now: it answers, and lets us in. What is there as long as this process is always can.
    async fn check(&self) -> Result<(), BusError> {
        Ok(())
    }

    /// Number of partitions of a topic.
    async fn partitions(&self, topic: &str) -> Result<u32, BusError>;

    /// Appends records, each to the partition of its key, in the given order. One result per record, in the same order:
    /// `Ok` means durable (it survives the machine), with partition and position; an error means that it is not in the
    /// log.
    async fn publish(&self, topic: &str, records: Vec<Record>) -> Vec<Result<(u32, Position), PublishError>>;

    /// Appends a control record to every partition of the topic, in all or in none. A step that reads the topic applies
    /// it to its control table (`ctx.control(kind, subject)`) where it stands in the log; an empty value removes the
    /// entry. Tails do not see it.
    async fn publish_control(&self, topic: &str, kind: &str, subject: &str, value: Bytes) -> Result<(), PublishError>;

    /// Reads committed records from positions that the caller owns, normally stored in the transaction of its effects.
    /// `reader` is registered under its name and holds retention back from those positions on, until it commits others
    /// ([`Tail::commit`]) or is forgotten ([`Bus::forget_reader`]).
    async fn tail(&self, topic: &str, reader: &str, from: Positions) -> Result<Box<dyn Tail>, BusError>;

    /// Reads committed records as [`Bus::tail`] does, for somebody who only looks: nothing is registered, and retention
    /// does not wait. What it has deleted is passed over, and [`Tail::commit`] does nothing.
    async fn look(&self, topic: &str, from: Positions) -> Result<Box<dyn Tail>, BusError>;

    /// A reader of that name no longer holds retention of the topic back.
    async fn forget_reader(&self, topic: &str, reader: &str) -> Result<(), BusError>;

    /// Reads everything between two positions, control records among it, for whoever replays or audits the log. Nothing
    /// is registered; what retention deletes before it was read is told ([`BusError::PositionGone`]) and not passed over.
    /// A partition that `from` does not name is read from its oldest record, one that `until` does not name not at all.
    async fn history(&self, topic: &str, from: Positions, until: Positions) -> Result<Box<dyn History>, BusError>;

    /// The oldest position of every partition that can still be read.
    async fn oldest_positions(&self, topic: &str) -> Result<Positions, BusError>;

    /// The position after the last record of every partition.
    async fn end_positions(&self, topic: &str) -> Result<Positions, BusError>;

    /// What a topic holds, and how old the oldest record is that some registered reader or step has not read.
    async fn topic_status(&self, topic: &str) -> Result<TopicStatus, BusError>;

    /// Runs a step until `shutdown`: takes partitions that nobody owns (sharing them with other processes that run the
    /// same step) and processes them. A partition that another process took over is dropped and the rest goes on.
    /// Returns an error only when the step cannot run at all, or when what it must read next is gone.
    async fn step(
        &self,
        spec: StepSpec,
        handler: Arc<dyn StepHandler>,
        shutdown: CancellationToken,
    ) -> Result<(), BusError>;

    /// How far a step is, by partition.
    async fn step_lag(&self, step: &str) -> Result<StepLag, BusError>;

    /// Finds what keeps a partition of a step from going on ([`Loss`]), and lets it go on behind that if `book` agrees.
    /// The partition is taken as a run of the step would take it, so nobody works on it meanwhile, and given back.
    /// Where nothing is wrong `book` is not asked. State and timers stay as they are. Somebody else who owns the
    /// partition is an error, and so is anything but a loss that would stop the step.
    async fn skip_lost(&self, step: &str, partition: u32, book: &dyn LossBook) -> Result<Loss, BusError>;
}

/// What keeps a partition of a step from going on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// What the step reads.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// The next position that the step would have read.
    pub from: Position,
    /// Where it can go on: the oldest position that is there. The same as `from` when nothing is lost.
    pub to: Position,
    /// Whether the position that brokers kept for the step is gone. What stands in its changelog is as good.
    pub is_position_forgotten: bool,
}

impl Loss {
    /// How many positions were deleted before they were read; on Kafka, markers of transactions among them.
    #[must_use]
    pub const fn positions(&self) -> u64 {
        self.to.offset().saturating_sub(self.from.offset())
    }

    /// Whether the step can go on as it is.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        self.positions() == 0 && !self.is_position_forgotten
    }
}

/// Who writes down what is lost.
#[async_trait]
pub trait LossBook: Send + Sync {
    /// Asked while the partition is held and before its position moves; may be asked again about the same positions
    /// when a command was interrupted. False: the position is to stay.
    ///
    /// # Errors
    /// The position stays.
    async fn book(&self, loss: &Loss) -> Result<bool, BusError>;
}

/// A reader of committed records.
#[async_trait]
pub trait Tail: Send {
    /// Up to `max_records` next records, in order within each partition. Waits for at most `max_wait` of real time for
    /// the first one; empty when none came. Cancel safe: records that were not returned are returned by the next call.
    async fn next(&mut self, max_records: usize, max_wait: Duration) -> Result<Vec<CommittedRecord>, BusError>;

    /// Where this tail reads on: past everything returned, and past control records between.
    fn positions(&self) -> Positions;

    /// Tells retention how far this reader has read durably. The truth of a sink's position is in its own database.
    async fn commit(&mut self, positions: &Positions) -> Result<(), BusError>;
}

/// A reader of everything that stands between two positions.
#[async_trait]
pub trait History: Send {
    /// What comes next, in order within each partition and a few MiB at most; empty when everything was read.
    async fn next(&mut self) -> Result<Vec<HistoryEntry>, BusError>;
}

/// What a topic holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicStatus {
    /// Number of partitions.
    pub partitions: u32,
    /// Records held, control records included; on Kafka, markers of transactions too.
    pub records: u64,
    /// Bytes of their values; on Kafka zero, since its brokers do not tell.
    pub bytes: u64,
    /// When the oldest record was appended that some registered reader or step has not read; none when all was read, or
    /// nobody is registered. Ingest refuses new records when this is older than 75% of the retention.
    pub oldest_unread: Option<Timestamp>,
    /// How long records are kept at most.
    pub retention: Retention,
}

/// How far a step is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepLag {
    /// The topic it reads.
    pub input: String,
    /// One entry per partition, in order.
    pub partitions: Vec<PartitionLag>,
}

impl StepLag {
    /// Records that stand in the log and are not processed.
    #[must_use]
    pub fn records_behind(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.records_behind).sum()
    }

    /// Timers that are set and have not fired.
    #[must_use]
    pub fn pending_timers(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.pending_timers).sum()
    }

    /// When the next timer of any partition is due.
    #[must_use]
    pub fn next_timer(&self) -> Option<Timestamp> {
        self.partitions.iter().filter_map(|partition| partition.next_timer).min()
    }

    /// The partitions that wait for a dependency, with its name.
    pub fn paused(&self) -> impl Iterator<Item = (u32, &str)> {
        self.partitions.iter().filter_map(|lag| lag.paused.as_deref().map(|dependency| (lag.partition, dependency)))
    }

    /// Whether every record is processed and every partition's time has reached `time`, with no timer due by then:
    /// nothing more will happen in this step until a record comes or the clock goes on.
    #[must_use]
    pub fn settled_at(&self, time: Timestamp) -> bool {
        self.partitions.iter().all(|lag| {
            lag.records_behind == 0
                && lag.paused.is_none()
                && lag.partition_time.is_some_and(|reached| reached >= time)
                && lag.next_timer.is_none_or(|due| due > time)
        })
    }
}

/// How far a step is in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionLag {
    /// The partition.
    pub partition: u32,
    /// The next position that the step reads.
    pub position: Position,
    /// The position after the last record.
    pub end: Position,
    /// Records between the two.
    pub records_behind: u64,
    /// Timers that are set and have not fired.
    pub pending_timers: u64,
    /// When the next of them is due.
    pub next_timer: Option<Timestamp>,
    /// The partition time that was reached; none before the first record.
    pub partition_time: Option<Timestamp>,
    /// The dependency that the partition waits for, when it is paused.
    pub paused: Option<String>,
    /// Keys whose records go to dead letters because their state or a timer was poison.
    pub poisoned_keys: u64,
}
