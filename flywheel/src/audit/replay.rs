//! A step, run again: its input is copied into a log of its own in a temporary directory, and the real handler reads it
//! there from empty state.
//!
//! # What time it is
//!
//! A handler's result depends on its records, the control records between them, and partition time: the greatest
//! `received_at` so far or, when a partition is idle, the clock. The first is in the log, the last is not. So the copy
//! tells time itself: its clock stands still, and marks between the records let partition time go on and timers fire,
//! where [`Model`] says that they did. Results that depend on how the platform's own time went (it stood still for a
//! while, a record was hours under way) come out differently under different models; the comparison knows them by that.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bus::local::{LocalLog, LocalLogConfig};
use bus::{
    Bus, CommittedRecord, Failed, HistoryEntry, IDLE_AFTER, Input, Outcome, Position, Positions, Prepared, RecordKey,
    Retention, Sealed, StepContext, StepHandler, TopicSpec,
};
use bytes::Bytes;
use events::Timestamp;
use service::clock::SimulatedClock;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::stage::Stage;
use crate::failure::Failure;
use crate::progress::Progress;

/// The key of marks. Keys of records are 16 bytes of a keyed digest; none is this one.
const MARK: RecordKey = RecordKey([0xff; 16]);
/// Control records in one transaction, for each partition.
const SEEDS: usize = 200;
const LOOK: Duration = Duration::from_millis(10);
/// A replay that waits for a dependency for so long can not have it.
const PATIENCE: Duration = Duration::from_secs(60);

/// How partition time went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Model {
    /// As the records tell it; and a platform that was idle when a control record came had followed the clock.
    Records,
    /// The clock was followed before every record: the step was never behind.
    Awake,
    /// The clock was never followed: the step always found the next record waiting.
    Busy,
}

impl Model {
    pub(crate) const ALL: [Self; 3] = [Self::Records, Self::Awake, Self::Busy];

    /// Whether the clock is followed before this entry.
    fn follows_clock_before(self, entry: &HistoryEntry) -> bool {
        match self {
            Self::Records => entry.is_control,
            Self::Awake => true,
            Self::Busy => false,
        }
    }
}

/// Whose records are handled.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    /// These alone; none: all.
    pub(crate) only: Option<HashSet<RecordKey>>,
    /// Never these: a record of theirs has ended processes.
    pub(crate) never: HashSet<RecordKey>,
}

impl Selection {
    fn takes(&self, key: &RecordKey) -> bool {
        *key != MARK && !self.never.contains(key) && self.only.as_ref().is_none_or(|only| only.contains(key))
    }
}

/// Where the input of a replay is, and how much of it.
pub(crate) struct Tape {
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) from: Positions,
    /// Up to where the step had read it for certain.
    pub(crate) reached: Positions,
    /// The time that it had reached there.
    pub(crate) times: BTreeMap<u32, Timestamp>,
    pub(crate) until: Positions,
    /// No later time was reached.
    pub(crate) time: Timestamp,
}

/// Sees every entry of the input while it is copied.
#[async_trait(?Send)]
pub(crate) trait Visitor {
    async fn visit(&mut self, entry: &HistoryEntry) -> anyhow::Result<()>;
}

/// Nobody looks.
pub(crate) struct Nobody;

#[async_trait(?Send)]
impl Visitor for Nobody {
    async fn visit(&mut self, _entry: &HistoryEntry) -> anyhow::Result<()> {
        Ok(())
    }
}

/// What a replay has made: a log of its own, gone with this.
pub(crate) struct Replayed {
    stage: Stage,
    log: Arc<LocalLog>,
    _directory: TempDir,
    /// Where the input of the certain part ends here.
    reached: Positions,
    /// Where each output ended when the certain part was done: what stands before it must be on the platform.
    required: BTreeMap<&'static str, Positions>,
    partitions: u32,
}

/// What a replay is made with.
pub(crate) struct Player<'a> {
    pub(crate) stage: Stage,
    pub(crate) handler: Arc<dyn StepHandler>,
    pub(crate) selection: Selection,
    pub(crate) model: Model,
    /// Largest record that the platform takes.
    pub(crate) record_bytes: usize,
    /// Control records that stand before everything else in the partitions whose beginning is gone.
    pub(crate) seeds: Vec<Bytes>,
    pub(crate) truncated: BTreeSet<u32>,
    pub(crate) scratch: &'a std::path::Path,
    pub(crate) progress: &'a Progress,
}

impl Player<'_> {
    /// Plays the tape to its end.
    pub(crate) async fn play(self, tape: &Tape, visitor: &mut dyn Visitor) -> Result<Replayed, Failure> {
        let Self { stage, handler, selection, model, record_bytes, seeds, truncated, scratch, progress } = self;
        let directory = tempfile::Builder::new().prefix("replay-").tempdir_in(scratch)?;
        // Before every record: the clock tells nothing.
        let clock = SimulatedClock::new(Timestamp::EPOCH);
        let config = LocalLogConfig { record_bytes, ..LocalLogConfig::default() };
        let log = Arc::new(LocalLog::open(&directory.path().join("log.sqlite"), clock.shared(), config)?);
        let partitions = tape.bus.partitions(stage.input()).await?;
        let spec = stage.spec();
        let mut topics = vec![stage.input(), events::topics::DEAD_LETTERS];
        topics.extend(stage.kinds().map(super::stage::Kind::topic));
        let topics = topics.iter().map(|topic| {
            let spec = TopicSpec::new(*topic, partitions, Retention::default());
            if *topic == stage.input() { spec.read_by_step(stage.step()) } else { spec }
        });
        log.create_topics(&topics.collect::<Vec<_>>()).await?;
        for seeds in seeds.chunks(SEEDS) {
            let seeds =
                seeds.iter().flat_map(|seed| truncated.iter().map(|partition| control(*partition, seed.clone())));
            log.append_entries(stage.input(), seeds.collect()).await?;
        }
        let stop = CancellationToken::new();
        let handler = Arc::new(Replay { inner: handler, selection });
        let running = tokio::spawn({
            let (log, stop) = (Arc::clone(&log), stop.clone());
            async move { log.step(spec, handler, stop).await }
        });
        let mut copier = Copier { stage, model, log: &log, marked: BTreeMap::new(), progress };
        let copied = async {
            copier.copy(tape, &tape.from, &tape.reached, visitor).await?;
            let at = |partition: u32| tape.times.get(&partition).copied();
            copier.mark_ends(partitions, at).await?;
            finished(&log, stage, &running).await?;
            let reached = log.end_positions(stage.input()).await?;
            let mut required = BTreeMap::new();
            for kind in stage.kinds() {
                required.insert(kind.topic(), log.end_positions(kind.topic()).await?);
            }
            // A partition of which nothing was read for certain begins here.
            let rest: Positions =
                (0..partitions).filter_map(|one| Some((one, tape.reached.get(one).max(tape.from.get(one))?))).collect();
            copier.copy(tape, &rest, &tape.until, visitor).await?;
            copier.mark_ends(partitions, |_| Some(tape.time)).await?;
            finished(&log, stage, &running).await?;
            Ok::<_, Failure>((reached, required))
        };
        let copied = copied.await;
        stop.cancel();
        let ended = running.await.map_err(|_| Failure::from(anyhow::anyhow!("the replay ended abnormally")))?;
        let (reached, required) = copied?;
        ended?;
        Ok(Replayed { stage, log, _directory: directory, reached, required, partitions })
    }
}

fn control(partition: u32, value: Bytes) -> HistoryEntry {
    HistoryEntry {
        partition,
        position: Position::START,
        is_control: true,
        appended_at: Timestamp::EPOCH,
        key: RecordKey([0; 16]),
        value,
    }
}

struct Copier<'a> {
    stage: Stage,
    model: Model,
    log: &'a LocalLog,
    /// The latest mark of each partition.
    marked: BTreeMap<u32, Timestamp>,
    progress: &'a Progress,
}

impl Copier<'_> {
    async fn copy(
        &mut self,
        tape: &Tape,
        from: &Positions,
        until: &Positions,
        visitor: &mut dyn Visitor,
    ) -> Result<(), Failure> {
        let mut history = tape.bus.history(self.stage.input(), from.clone(), until.clone()).await?;
        loop {
            let entries = history.next().await?;
            if entries.is_empty() {
                return Ok(());
            }
            self.progress.advance(entries.len() as u64);
            let mut copies = Vec::with_capacity(entries.len());
            for entry in entries {
                // The marks of another replay are not records.
                if entry.key == MARK && !entry.is_control {
                    continue;
                }
                visitor.visit(&entry).await?;
                if self.model.follows_clock_before(&entry) {
                    copies.extend(self.mark(entry.partition, entry.appended_at - IDLE_AFTER));
                }
                copies.push(entry);
            }
            self.log.append_entries(self.stage.input(), copies).await?;
        }
    }

    /// A mark for a partition, if it lets time go on.
    fn mark(&mut self, partition: u32, time: Timestamp) -> Option<HistoryEntry> {
        let latest = self.marked.entry(partition).or_default();
        if time <= *latest {
            return None;
        }
        *latest = time;
        Some(HistoryEntry {
            partition,
            position: Position::START,
            is_control: false,
            appended_at: time,
            key: MARK,
            value: Bytes::copy_from_slice(&time.as_micros().to_be_bytes()),
        })
    }

    async fn mark_ends(&mut self, partitions: u32, at: impl Fn(u32) -> Option<Timestamp>) -> Result<(), Failure> {
        let marks = (0..partitions).filter_map(|partition| self.mark(partition, at(partition)?)).collect();
        Ok(self.log.append_entries(self.stage.input(), marks).await?)
    }
}

/// Waits until the step has handled everything that is in its log; then every timer that was due has fired, too, since
/// marks come last and timers fire before them.
async fn finished(
    log: &LocalLog,
    stage: Stage,
    running: &tokio::task::JoinHandle<Result<(), bus::BusError>>,
) -> Result<(), Failure> {
    let mut last = None;
    let mut since = Instant::now();
    loop {
        let lag = log.step_lag(stage.step()).await?;
        if lag.records_behind() == 0 {
            return Ok(());
        }
        if running.is_finished() {
            return Err(anyhow::anyhow!("the replay of {} ended before its end", stage.step()).into());
        }
        let behind: Vec<u64> = lag.partitions.iter().map(|partition| partition.records_behind).collect();
        if last.as_ref() != Some(&behind) {
            (last, since) = (Some(behind), Instant::now());
        } else if since.elapsed() > PATIENCE
            && let Some((partition, dependency)) = lag.paused().next()
        {
            return Err(Failure::refused(format!(
                "the replay of {} waits for what it can not have in partition {partition}: {dependency}",
                stage.step()
            )));
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl Replayed {
    /// The same input for another replay.
    pub(crate) async fn tape(&self, of: &Tape) -> Result<Tape, Failure> {
        Ok(Tape {
            bus: Arc::clone(&self.log) as Arc<dyn Bus>,
            from: (0..self.partitions).map(|partition| (partition, Position::START)).collect(),
            reached: self.reached.clone(),
            times: of.times.clone(),
            until: self.log.end_positions(self.stage.input()).await?,
            time: of.time,
        })
    }

    /// Everything that was put out to a topic, and whether the platform must have it.
    pub(crate) async fn outputs(
        &self,
        topic: &'static str,
        mut see: impl AsyncFnMut(HistoryEntry, bool) -> anyhow::Result<()>,
    ) -> Result<(), Failure> {
        let end = self.log.end_positions(topic).await?;
        let mut history = self.log.history(topic, Positions::oldest(), end).await?;
        let required = self.required.get(topic).cloned().unwrap_or_default();
        loop {
            let entries = history.next().await?;
            if entries.is_empty() {
                return Ok(());
            }
            for entry in entries {
                let is_required = required.get(entry.partition).is_some_and(|end| entry.position < end);
                see(entry, is_required).await?;
            }
        }
    }
}

/// The real handler, which sees the records of the selection and nothing else; marks and all other records tell time.
struct Replay {
    inner: Arc<dyn StepHandler>,
    selection: Selection,
}

#[async_trait]
impl StepHandler for Replay {
    fn prepare(&self, records: &[CommittedRecord]) -> Vec<Prepared> {
        let taken: Vec<CommittedRecord> =
            records.iter().filter(|record| self.selection.takes(&record.key)).cloned().collect();
        let mut prepared = self.inner.prepare(&taken).into_iter();
        let of = |record: &CommittedRecord| {
            if self.selection.takes(&record.key) { prepared.next() } else { None }.unwrap_or(Prepared::Nothing)
        };
        records.iter().map(of).collect()
    }

    fn handle(&self, input: Input<'_>, context: &mut dyn StepContext) -> Outcome {
        match &input {
            Input::Record { record, .. } if !self.selection.takes(&record.key) => Outcome::Ok,
            _ => self.inner.handle(input, context),
        }
    }

    fn partition_time_of(&self, record: &CommittedRecord, prepared: &Prepared) -> Option<Timestamp> {
        if record.key != MARK {
            return self.inner.partition_time_of(record, prepared);
        }
        record.value[..].try_into().ok().map(|micros| Timestamp::from_micros(i64::from_be_bytes(micros)))
    }

    fn dead_letter(&self, failed: &Failed<'_>) -> Sealed {
        self.inner.dead_letter(failed)
    }

    async fn make_available(&self, dependencies: &[String]) {
        self.inner.make_available(dependencies).await;
    }
}
