//! One partition of a step: read, prepare, handle, commit.
//!
//! A turn takes a batch through all of that. What a turn does is independent of where the batch ends: time goes on
//! record by record, timers that a record makes due fire before it, and everything waits in [`Pending`] until one
//! transaction, in which the log checks that the partition is still ours, writes it together with the next position.
//! The log itself is behind [`PartitionLog`]; everything here is the same on every one.
//!
//! # Records that end the process
//!
//! Before an owner handles its first batch, the batch's end and the count of attempts are committed ([`Suspicion`]:
//! `until`, `attempts`); the batch's own commit clears them. A new owner that finds a count knows that a process ended
//! within that range, and handles the range input by input, each with its own mark (`input`, and the attempts
//! made with it) committed before. So the input that ends the process is told from its neighbours, and after three
//! times (one in the batch, two alone) it goes to dead letters instead of being handled. Only the first batch is
//! marked: a process that ends in a later one is followed by an owner whose first batch begins at the same place, so
//! that input is met once more, and every other batch is spared a write of its own.

mod batch_size;
mod cache;
mod handling;
pub(crate) mod log;
pub(crate) mod pending;
pub(crate) mod tables;
pub(crate) mod timers;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use events::Timestamp;
use service::clock::SharedClock;

use self::batch_size::BatchSize;
use self::cache::StateCache;
use self::log::{AttemptMark, Concluded, Held, Loaded, PartitionLog, ReadRange, StepWrite, StoredRecord, Suspicion};
use self::pending::Pending;
use self::timers::NextTimer;
use crate::control::Control;
use crate::error::BusError;
use crate::record::{CommittedRecord, Position};
use crate::sizes::Sizes;
use crate::step::{Prepared, StepHandler, StepSpec};
use crate::{IDLE_AFTER, REASON_PANIC};

/// An input is given up after it ended the process that often.
const MOST_ATTEMPTS: u32 = 3;

/// Batches are prepared in slices of that many records, in parallel.
const PREPARE_SLICE: usize = 32;

/// What is prepared within that time is prepared on the worker's own thread: to wake others takes about as long.
const PREPARED_ALONE: Duration = Duration::from_micros(200);

/// An idle partition's time in memory may lag behind the clock by this.
const IDLE_TICK: Duration = Duration::from_millis(250);

/// What all partitions of a running step share.
pub(crate) struct StepShared {
    pub(crate) spec: StepSpec,
    pub(crate) handler: Arc<dyn StepHandler>,
    pub(crate) clock: SharedClock,
    /// The input, as callers know it.
    pub(crate) input: Arc<str>,
    pub(crate) output_index: HashMap<String, usize>,
    /// Largest record that may be emitted.
    pub(crate) record_bytes: usize,
    /// Largest dead letter.
    pub(crate) dead_letter_bytes: usize,
}

impl StepShared {
    /// `record_bytes`: largest record of the door.
    pub(crate) fn new(spec: StepSpec, handler: Arc<dyn StepHandler>, clock: SharedClock, record_bytes: usize) -> Self {
        let Sizes { derived: record_bytes, dead_letter: dead_letter_bytes, .. } = Sizes::of(record_bytes);
        let output_index = spec.outputs.iter().enumerate().map(|(index, name)| (name.clone(), index)).collect();
        Self {
            input: Arc::from(spec.input.as_str()),
            output_index,
            spec,
            handler,
            clock,
            record_bytes,
            dead_letter_bytes,
        }
    }
}

/// How a turn ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Something was done; there may be more.
    Progress,
    /// Nothing to do until a record comes or the clock reaches `wake_at`; or, when it is `held`, until the step before
    /// has concluded more.
    Idle { wake_at: Timestamp, held: Option<Held> },
    /// Waits for these dependencies.
    Paused(Vec<String>),
}

/// What a batch came to, before it is committed.
pub(crate) struct Computed {
    pending: Pending,
    position: u64,
    time: Option<Timestamp>,
    paused: Option<Vec<String>>,
    handled: usize,
}

/// What a turn works on.
enum Work {
    Batch {
        records: Vec<Entry>,
    },
    /// One input alone, and how often it ended the process before.
    Alone {
        record: Option<Entry>,
        attempts: u32,
    },
}

impl Work {
    fn records(&self) -> usize {
        match self {
            Self::Batch { records } => records.len(),
            Self::Alone { .. } => 0,
        }
    }
}

enum Entry {
    Data { record: CommittedRecord, prepared: Prepared },
    Control { position: u64, control: Option<Control> },
}

/// A worker owns one partition of a step.
pub(crate) struct PartitionWorker<L> {
    log: L,
    shared: Arc<StepShared>,
    batch_size: BatchSize,
    /// How long the records of the last batch took to be prepared.
    prepared_in: Duration,
    /// What a record of it took of one thread; none: there was none yet.
    prepared_each: Option<Duration>,
    cache: StateCache,
    loaded: Option<Loaded>,
    suspicion: Option<Suspicion>,
    /// The suspicion has ended here, and not yet in the file.
    suspicion_ended: bool,
    reload_timers: bool,
    /// The first batch of this owner was marked.
    marked: bool,
    /// What was suspected before a mark whose attempt is not committed yet.
    unmarked: Option<Suspicion>,
    idle_since: Option<Timestamp>,
    /// The step before has not concluded as much as the clock would allow.
    held: Option<Held>,
}

/// What stands at a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Records,
    Nothing,
    /// It can not be told yet.
    Hidden,
}

enum Begin {
    Work(Work),
    Done(Turn),
}

impl<L: PartitionLog> PartitionWorker<L> {
    pub(crate) fn new(log: L, shared: Arc<StepShared>) -> Self {
        let limits = &shared.spec.limits;
        let cache = StateCache::new(limits.state_cache_bytes);
        let batch_size = BatchSize::new(limits.batch_records.min(log.most_records()), limits.batch_time);
        Self {
            log,
            shared,
            batch_size,
            prepared_in: Duration::ZERO,
            prepared_each: None,
            cache,
            loaded: None,
            suspicion: None,
            suspicion_ended: false,
            reload_timers: false,
            marked: false,
            unmarked: None,
            idle_since: None,
            held: None,
        }
    }

    pub(crate) const fn log(&self) -> &L {
        &self.log
    }

    /// Does something with the log between turns. After an error the next turn starts from what is committed.
    #[cfg(feature = "production")]
    pub(crate) fn with_log<R>(&mut self, work: impl FnOnce(&mut L) -> Result<R, BusError>) -> Result<R, BusError> {
        let result = work(&mut self.log);
        if result.is_err() {
            self.forget();
        }
        result
    }

    /// Where the step goes on in this partition.
    pub(crate) fn position(&self) -> u64 {
        self.loaded.as_ref().map_or(0, |loaded| loaded.position)
    }

    /// Takes one batch through to its commit. After an error other than [`BusError::Fenced`] nothing was committed (or
    /// everything, if only the answer was lost), and the next turn starts from what the file says.
    pub(crate) fn turn(&mut self) -> Result<Turn, BusError> {
        let result = self.begin().and_then(|begun| match begun {
            Some(computed) => self.commit(computed),
            None => Ok(self.idle_turn()),
        });
        if result.is_err() {
            self.forget();
        }
        result
    }

    /// Takes back the mark of an attempt that was not committed: this process did not end with it. Nobody waits for it.
    #[cfg(feature = "production")]
    pub(crate) fn leave(&mut self) {
        let Some(suspicion) = self.unmarked.take() else { return };
        let time = self.loaded.as_ref().and_then(|loaded| loaded.time);
        if let Err(error) = self.log.mark(AttemptMark { time, suspicion }) {
            tracing::debug!(%error, "the mark of an attempt stays");
        }
    }

    /// What the file holds is not known any more: a commit that was answered with an error may still have been made.
    fn forget(&mut self) {
        self.loaded = None;
        self.cache = StateCache::new(self.shared.spec.limits.state_cache_bytes);
    }

    /// Everything of a turn before its commit; none when there is nothing to do now.
    pub(crate) fn begin(&mut self) -> Result<Option<Computed>, BusError> {
        self.load()?;
        match self.gather()? {
            Begin::Work(work) => {
                let (records, begun) = (work.records(), Instant::now());
                let computed = self.compute(work)?;
                self.batch_size.handled(records, std::mem::take(&mut self.prepared_in) + begun.elapsed());
                Ok(Some(computed))
            }
            Begin::Done(Turn::Progress) => Ok(Some(self.nothing_but_time())),
            Begin::Done(_) => Ok(None),
        }
    }

    fn load(&mut self) -> Result<(), BusError> {
        if self.loaded.is_none() {
            let (loaded, suspicion) = self.log.load()?;
            // Marks made by this worker itself say nothing: its process is alive.
            self.suspicion.get_or_insert(suspicion);
            self.loaded = Some(loaded);
            self.reload_timers = false;
        }
        if self.reload_timers {
            let timers = self.log.load_timers()?;
            if let Some(loaded) = &mut self.loaded {
                loaded.timers = timers;
            }
            self.reload_timers = false;
        }
        Ok(())
    }

    fn loaded(&mut self) -> Result<&mut Loaded, BusError> {
        self.loaded.as_mut().ok_or(BusError::Closed)
    }

    /// Reads what comes next, and marks it as attempted where that is needed.
    fn gather(&mut self) -> Result<Begin, BusError> {
        let limits = self.shared.spec.limits.clone();
        let position = self.loaded()?.position;
        let now = self.shared.clock.now();
        // Before the look for records: what the step before had concluded by now is found by that look.
        let before = match &self.shared.spec.follows {
            Some(step) if self.is_idle(now) => self.log.concluded(step)?,
            _ => Concluded::Everything,
        };
        let found = self.look(position, now)?;
        let has_records = found == Look::Records;
        match found {
            Look::Records => self.idle_since = None,
            Look::Nothing => self.advance_idle_time(now, before)?,
            // What is hidden may be older than now: the silence that means something begins after it.
            Look::Hidden => self.idle_since = Some(now),
        }
        if self.next_timer()? == NextTimer::Load {
            self.reload_timers = true;
            self.load()?;
        }
        let timer_is_due = matches!(self.next_timer()?, NextTimer::Due { .. });
        if !timer_is_due {
            self.end_suspicion(position);
        }
        if !has_records && !timer_is_due {
            return self.rest();
        }
        let alone = self.is_suspect();
        let range = ReadRange {
            from: position,
            records: if alone { 1 } else { self.batch_size.records() },
            bytes: limits.batch_bytes,
        };
        // Timers that are due already come first, and need no records.
        let stored = if timer_is_due { Vec::new() } else { self.log.read(range)? };
        if stored.is_empty() && !timer_is_due {
            return Err(BusError::Storage("records are missing in the middle of a partition".into()));
        }
        if alone {
            return self.gather_alone(stored).map(|work| work.map_or(Begin::Done(Turn::Progress), Begin::Work));
        }
        let until = stored.last().map_or(position, |record| record.position + 1);
        if !self.marked {
            self.mark(None, until)?;
            self.marked = true;
        }
        let begun = Instant::now();
        let records = self.entries(stored);
        self.prepared_in = begun.elapsed();
        Ok(Begin::Work(Work::Batch { records }))
    }

    /// Whether there are records from `position` on. What is known of other processes' records lags behind (by much,
    /// when this process was stopped), so before time goes on because there are none, the log itself is asked.
    fn look(&mut self, position: u64, now: Timestamp) -> Result<Look, BusError> {
        let known = self.log.known_end();
        let end = if known <= position && self.is_idle(now) { self.log.look_for_end(position)? } else { Some(known) };
        Ok(match end {
            Some(end) if end > position => Look::Records,
            Some(_) => Look::Nothing,
            None => Look::Hidden,
        })
    }

    fn next_timer(&mut self) -> Result<NextTimer, BusError> {
        let loaded = self.loaded()?;
        Ok(loaded.timers.next(loaded.time))
    }

    /// Behind the range in which a process ended, and with none of its timers left, nothing is suspect any more.
    fn end_suspicion(&mut self, position: u64) {
        if self.suspicion.as_ref().is_some_and(|suspicion| suspicion.attempts > 0 && position >= suspicion.until) {
            self.suspicion = Some(Suspicion::default());
            self.suspicion_ended = true;
        }
    }

    /// Nothing is to be handled; but the time of an idle partition is written down now and then.
    fn rest(&mut self) -> Result<Begin, BusError> {
        let time = self.loaded()?.time;
        self.log.reached(time, time);
        let ended = self.suspicion_ended;
        let commit_after = self.shared.spec.limits.idle_commit_after;
        let loaded = self.loaded()?;
        let overdue = match (loaded.time, loaded.committed_time) {
            (Some(time), Some(committed)) => time > committed && time.since(committed) >= commit_after,
            (Some(_), None) => true,
            (None, _) => false,
        };
        let turn = if overdue || loaded.paused || ended { Turn::Progress } else { self.idle_turn() };
        Ok(Begin::Done(turn))
    }

    /// The next input alone. None: only partition time went on, and is committed before the timers it made due.
    fn gather_alone(&mut self, stored: Vec<StoredRecord>) -> Result<Option<Work>, BusError> {
        if let NextTimer::Due { due, key, name } = self.next_timer()? {
            let attempts = self.mark(Some(format!("timer {due} {key} {name}")), 0)?;
            return Ok(Some(Work::Alone { record: None, attempts }));
        }
        let Some(stored) = stored.into_iter().next() else { return Ok(None) };
        let attempts = self.mark(Some(format!("record {}", stored.position)), 0)?;
        let record = if stored.control {
            control_of(&stored)
        } else {
            let record = self.record(stored);
            let mut prepared = Prepared::Nothing;
            if attempts < MOST_ATTEMPTS {
                let received = self.received_at(&record, &prepared);
                let loaded = self.loaded()?;
                loaded.time = loaded.time.max(received);
                if loaded.timers.next(loaded.time) != NextTimer::None {
                    return Ok(None);
                }
                let alone = prepare_slice(self.shared.handler.as_ref(), std::slice::from_ref(&record));
                prepared = alone.into_iter().next().unwrap_or(prepared);
            }
            Entry::Data { record, prepared }
        };
        Ok(Some(Work::Alone { record: Some(record), attempts }))
    }

    /// Whether inputs are handled one by one, because a process ended within them.
    pub(crate) fn is_suspect(&self) -> bool {
        self.suspicion.as_ref().is_some_and(|suspicion| suspicion.attempts > 0)
    }

    /// Commits that an attempt is made, and answers how many attempts ended the process before.
    fn mark(&mut self, input: Option<String>, until: u64) -> Result<u32, BusError> {
        let suspicion = self.suspicion.get_or_insert_default();
        let before = input.as_deref().map_or(suspicion.attempts, |input| suspicion.attempts_of(input));
        let marked = match input {
            None => Suspicion { attempts: before + 1, until, input: None, input_attempts: 0 },
            Some(input) => Suspicion { input: Some(input), input_attempts: before + 1, ..suspicion.clone() },
        };
        let suspected = suspicion.clone();
        let time = self.loaded()?.time;
        self.log.mark(AttemptMark { time, suspicion: marked })?;
        self.unmarked.get_or_insert(suspected);
        Ok(before)
    }

    /// A record as handlers see it.
    fn record(&self, stored: StoredRecord) -> CommittedRecord {
        let StoredRecord { position, appended_at, key, value, .. } = stored;
        let topic = Arc::clone(&self.shared.input);
        let (partition, position) = (self.log.partition(), Position::from_offset(position));
        CommittedRecord { topic, partition, position, key, value, appended_at }
    }

    /// What was read, in its order, and prepared where there is something to prepare.
    fn entries(&mut self, stored: Vec<StoredRecord>) -> Vec<Entry> {
        let (controls, stored): (Vec<_>, Vec<_>) = stored.into_iter().partition(|stored| stored.control);
        let records: Vec<CommittedRecord> = stored.into_iter().map(|stored| self.record(stored)).collect();
        let prepared = self.prepare(&records);
        let mut entries = Vec::with_capacity(records.len() + controls.len());
        let mut controls = controls.iter().peekable();
        for (record, prepared) in records.into_iter().zip(prepared) {
            let position = record.position.offset();
            entries
                .extend(std::iter::from_fn(|| controls.next_if(|control| control.position < position)).map(control_of));
            entries.push(Entry::Data { record, prepared });
        }
        entries.extend(controls.map(control_of));
        entries
    }

    fn prepare(&mut self, records: &[CommittedRecord]) -> Vec<Prepared> {
        if records.is_empty() {
            return Vec::new();
        }
        let handler = self.shared.handler.as_ref();
        let count = u32::try_from(records.len()).unwrap_or(u32::MAX);
        let is_soon = self.prepared_each.is_some_and(|each| each.saturating_mul(count) < PREPARED_ALONE);
        let slices = |slice: &[CommittedRecord]| {
            let begun = Instant::now();
            (prepare_slice(handler, slice), begun.elapsed())
        };
        let parts: Vec<(Vec<Prepared>, Duration)> = if is_soon || records.len() <= PREPARE_SLICE {
            records.chunks(PREPARE_SLICE).map(slices).collect()
        } else {
            use rayon::prelude::*;
            records.par_chunks(PREPARE_SLICE).map(slices).collect()
        };
        let (mut prepared, mut took) = (Vec::with_capacity(records.len()), Duration::ZERO);
        for (part, part_took) in parts {
            prepared.extend(part);
            took += part_took;
        }
        self.prepared_each = Some(took / count);
        prepared
    }

    fn received_at(&self, record: &CommittedRecord, prepared: &Prepared) -> Option<Timestamp> {
        catch_unwind(AssertUnwindSafe(|| self.shared.handler.partition_time_of(record, prepared))).unwrap_or(None)
    }

    /// Lets an idle partition's time follow the clock, as far as the step before has concluded.
    fn advance_idle_time(&mut self, now: Timestamp, before: Concluded) -> Result<(), BusError> {
        self.idle_since.get_or_insert(now);
        let is_idle = self.is_idle(now);
        let loaded = self.loaded()?;
        let mut held = None;
        if is_idle {
            let clock = now - IDLE_AFTER;
            let (reached, holder) = match before {
                Concluded::Everything => (Some(clock), None),
                Concluded::UpTo { time, holder } => (time.map(|time| time.min(clock)), Some(holder)),
            };
            loaded.time = loaded.time.max(reached);
            held = holder.filter(|_| reached.is_none_or(|reached| reached + IDLE_TICK < clock));
        }
        let time = loaded.time;
        self.held = held;
        self.log.reached(time, None);
        Ok(())
    }

    /// Whether nothing came for long enough that silence means something.
    fn is_idle(&self, now: Timestamp) -> bool {
        self.idle_since.is_some_and(|since| now.since(since) >= IDLE_AFTER)
    }

    /// When an idle partition has something to do, if no record comes.
    pub(crate) fn idle_turn(&self) -> Turn {
        let now = self.shared.clock.now();
        let idle_at = self.idle_since.unwrap_or(now) + IDLE_AFTER;
        let timer_at =
            self.loaded.as_ref().and_then(|loaded| loaded.timers.nothing_before()).map(|due| due + IDLE_AFTER);
        let tick = now + IDLE_TICK;
        let wake_at =
            if now < idle_at { idle_at } else { timer_at.filter(|at| *at > now).map_or(tick, |at| at.min(tick)) };
        Turn::Idle { wake_at, held: self.held }
    }

    fn nothing_but_time(&self) -> Computed {
        let (position, time) = self.loaded.as_ref().map_or((0, None), |loaded| (loaded.position, loaded.time));
        Computed { pending: Pending::default(), position, time, paused: None, handled: 0 }
    }

    /// Whether there is no need for a transaction.
    pub(crate) fn would_change_nothing(&self, computed: &Computed) -> bool {
        let Computed { pending, position, time, paused, .. } = computed;
        pending.is_empty()
            && paused.is_none()
            && !self.suspicion_ended
            && self
                .loaded
                .as_ref()
                .is_some_and(|loaded| loaded.position == *position && loaded.committed_time == *time && !loaded.paused)
    }

    /// Writes everything in one transaction, if this worker still owns the partition.
    pub(crate) fn commit(&mut self, computed: Computed) -> Result<Turn, BusError> {
        let unchanged = self.would_change_nothing(&computed);
        let before = self.shared.clock.now();
        let Computed { pending, position, time, paused, handled } = computed;
        if !unchanged {
            let pending = Arc::new(pending);
            let suspicion = self.suspicion_after(position);
            let begun = Instant::now();
            self.log.commit(StepWrite {
                position,
                time,
                paused: paused.as_ref().map(|names| names.first().cloned().unwrap_or_default()),
                suspicion: suspicion.clone(),
                pending: Arc::clone(&pending),
            })?;
            let took = begun.elapsed();
            self.suspicion = Some(suspicion);
            self.suspicion_ended = false;
            self.unmarked = None;
            // Whoever sees by this commit that nothing is left, and then lets the clock go on, must find the partition
            // idle since before that; so the end counts from before the commit, if no record came meanwhile.
            if self.log.known_end() == position {
                self.idle_since.get_or_insert(before);
            }
            self.committed(&pending, position, time, paused.is_some())?;
            let step = self.shared.spec.name.clone();
            metrics::histogram!("flywheel_bus_step_commit_seconds", "step" => step.clone()).record(took);
            metrics::counter!("flywheel_bus_step_inputs_total", "step" => step.clone()).increment(handled as u64);
            metrics::histogram!("flywheel_bus_step_batch_inputs", "step" => step).record(handled as f64);
        }
        Ok(paused.map_or(Turn::Progress, Turn::Paused))
    }

    /// A commit clears the mark of its own attempt; what is left of a suspect range stays suspect.
    fn suspicion_after(&self, position: u64) -> Suspicion {
        let before = self.suspicion.clone().unwrap_or_default();
        // Timers that are due at the end of the range belong to it; `gather` ends the suspicion when none is left.
        if before.attempts > 0 && position <= before.until {
            Suspicion { input: None, input_attempts: 0, ..before }
        } else {
            Suspicion::default()
        }
    }

    fn committed(
        &mut self,
        pending: &Pending,
        position: u64,
        time: Option<Timestamp>,
        paused: bool,
    ) -> Result<(), BusError> {
        for (key, changes) in &pending.keys {
            if changes.wiped {
                self.cache.forget_key(key);
            }
            for (name, value) in &changes.values {
                self.cache.put(key, name, value.clone());
            }
        }
        let loaded = self.loaded()?;
        loaded.position = position;
        loaded.committed_time = time;
        loaded.paused = paused;
        self.log.reached(time, None);
        Ok(())
    }
}

fn control_of(stored: &StoredRecord) -> Entry {
    Entry::Control { position: stored.position, control: Control::decode(&stored.value) }
}

fn prepare_slice(handler: &dyn StepHandler, records: &[CommittedRecord]) -> Vec<Prepared> {
    let together = catch_unwind(AssertUnwindSafe(|| handler.prepare(records)));
    match together {
        Ok(prepared) if prepared.len() == records.len() => prepared,
        // One of them panicked (or answers are missing): ask for each alone, so that only the guilty ones are poison.
        _ => records
            .iter()
            .map(|record| {
                catch_unwind(AssertUnwindSafe(|| handler.prepare(std::slice::from_ref(record))))
                    .ok()
                    .and_then(|mut prepared| prepared.pop())
                    .unwrap_or_else(|| Prepared::Poison(REASON_PANIC.to_owned()))
            })
            .collect(),
    }
}
