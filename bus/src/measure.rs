//! Measures an implementation of the bus: acknowledged records, and records through a stateful step.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use events::Timestamp;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::error::{BusError, PublishError};
use crate::interface::Bus;
use crate::record::{CommittedRecord, Positions, Record, RecordKey, Retention, TopicSpec};
use crate::step::{Input, Outcome, Prepared, StepContext, StepHandler, StepSpec};

/// The load of a measurement.
#[derive(Debug, Clone)]
pub struct Load {
    /// Records in all.
    pub records: u64,
    /// Bytes of a record's value.
    pub record_bytes: usize,
    /// Partitions of the topics.
    pub partitions: u32,
    /// Records of one publish call.
    pub batch_records: usize,
    /// Publish calls in flight.
    pub publishers: usize,
    /// Records of one key.
    pub records_per_key: u64,
    /// Keys whose records alternate: the more, the fewer records of one key meet in one transaction.
    pub alternating_keys: u64,
    /// Bytes of the large value of keyed state; each record reads and writes it.
    pub large_state_bytes: usize,
    /// Only the first record of a key writes the large value, as an episode's context is written.
    pub large_state_once: bool,
    /// Bytes of the small value of keyed state; each record reads and writes it.
    pub small_state_bytes: usize,
}

impl Default for Load {
    /// 1 KiB records, six of a key, 8 KiB and 200 bytes of state, one timer a key.
    fn default() -> Self {
        Self {
            records: 60_000,
            record_bytes: 1024,
            partitions: 4,
            batch_records: 500,
            publishers: 4,
            records_per_key: 6,
            alternating_keys: 200,
            large_state_bytes: 8 << 10,
            large_state_once: false,
            small_state_bytes: 200,
        }
    }
}

/// What a step does with each record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Emits it again.
    PassThrough,
    /// Emits it again; reads and writes both values of its key's state, and moves the key's timer. The timer fires once,
    /// after the key's last record, reads both values and removes them.
    Stateful,
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Records.
    pub records: u64,
    /// Real time.
    pub seconds: f64,
}

impl Rate {
    /// Records a second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.records as f64 / self.seconds
    }
}

/// Why a measurement failed.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// A record was not acknowledged.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// Something else failed.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The step ended early, or not every record came out.
    #[error("the measurement ended early: {0}")]
    Ended(String),
}

/// Time between two records of a key.
pub const KEY_INTERVAL: Duration = Duration::from_secs(200);

/// A key's timer fires when it was quiet for so long, and ends its state.
pub const QUIET: Duration = Duration::from_secs(300);

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// The topic that a measured step emits to.
#[must_use]
pub fn output_of(step: &str) -> String {
    format!("{step}.out")
}

/// Bytes that do not shrink, as sealed text does not. They follow from `seed`.
#[must_use]
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut noise = Vec::with_capacity(bytes.next_multiple_of(8));
    let mut state = seed;
    while noise.len() < bytes {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        noise.extend_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

/// A record of the load: its number, then noise. `alternating_keys` keys take turns until each has had its records.
#[must_use]
pub fn record(number: u64, load: &Load) -> Record {
    let alternating = load.alternating_keys.max(1);
    let block = number / (alternating * load.records_per_key.max(1));
    let session = u128::from(block * alternating + number % alternating);
    // Spread as keys that are digests are.
    let key = RecordKey((session + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes());
    let mut value = noise(number, load.record_bytes.max(8));
    if let Some(first) = value.first_chunk_mut() {
        *first = number.to_be_bytes();
    }
    Record { key, value: Bytes::from(value) }
}

/// When a record of the load was received, in microseconds; none: it is no record of the load.
#[must_use]
pub fn micros_of(value: &[u8], load: &Load) -> Option<i64> {
    let number = u64::from_be_bytes(*value.first_chunk()?);
    let micros = u128::from(number) * KEY_INTERVAL.as_micros() / u128::from(load.alternating_keys.max(1));
    i64::try_from(micros).ok()
}

/// The state that a key begins with: the large value and the small one.
#[must_use]
pub fn first_state(key: &RecordKey, load: &Load) -> [Vec<u8>; 2] {
    let [one, two, three, four, five, six, seven, eight, ..] = key.0;
    let seed = u64::from_be_bytes([one, two, three, four, five, six, seven, eight]);
    [noise(seed, load.large_state_bytes), noise(!seed, load.small_state_bytes)]
}

/// Publishes the load to a topic and waits for every acknowledgement. The topic must not exist, or have the same number
/// of partitions.
///
/// # Errors
/// When a record is not acknowledged.
pub async fn publish(bus: &Arc<dyn Bus>, topic: &str, load: &Load) -> Result<Rate, MeasureError> {
    bus.create_topics(&[TopicSpec::new(topic, load.partitions, Retention::default())]).await?;
    let batches = load.records.div_ceil(load.batch_records.max(1) as u64);
    let started = Instant::now();
    let mut publishers = JoinSet::new();
    for publisher in 0..load.publishers.max(1) as u64 {
        let (bus, topic, load) = (Arc::clone(bus), topic.to_owned(), load.clone());
        publishers.spawn(async move {
            let mut published = 0;
            for batch in (publisher..batches).step_by(load.publishers.max(1)) {
                let from = batch * load.batch_records as u64;
                let until = (from + load.batch_records as u64).min(load.records);
                let records: Vec<Record> = (from..until).map(|number| record(number, &load)).collect();
                for result in bus.publish(&topic, records).await {
                    result?;
                    published += 1;
                }
            }
            Ok::<u64, PublishError>(published)
        });
    }
    let mut records = 0;
    while let Some(published) = publishers.join_next().await {
        records += published.map_err(|error| MeasureError::Ended(error.to_string()))??;
    }
    Ok(Rate { records, seconds: started.elapsed().as_secs_f64() })
}

/// A measured step that runs in the background.
pub struct RunningStep {
    bus: Arc<dyn Bus>,
    name: String,
    handler: Arc<Measured>,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), BusError>>,
}

impl RunningStep {
    /// Starts a step of this name over a topic, which must exist.
    ///
    /// # Errors
    /// When the topics it writes to can not be made.
    pub async fn start(
        bus: &Arc<dyn Bus>,
        topic: &str,
        name: &str,
        work: Work,
        load: &Load,
    ) -> Result<Self, MeasureError> {
        let (output, dead_letters) = (output_of(name), dead_letters_of(name));
        for topic in [&output, &dead_letters] {
            bus.create_topics(&[TopicSpec::new(topic, load.partitions, Retention::default())]).await?;
        }
        let spec = StepSpec::new(name, topic, [&output], &dead_letters);
        let handler = Arc::new(Measured {
            output,
            work,
            load: load.clone(),
            first: OnceLock::new(),
            handled: AtomicU64::new(0),
            fired: AtomicU64::new(0),
        });
        let shutdown = CancellationToken::new();
        let (running, token) = (Arc::clone(bus), shutdown.clone());
        let shared = Arc::clone(&handler) as Arc<dyn StepHandler>;
        let task = tokio::spawn(async move { running.step(spec, shared, token).await });
        Ok(Self { bus: Arc::clone(bus), name: name.to_owned(), handler, shutdown, task })
    }

    /// Records that were handled; some of them more than once, when a transaction was not made.
    #[must_use]
    pub fn handled(&self) -> u64 {
        self.handler.handled.load(Ordering::Relaxed)
    }

    /// When the first record was handled.
    #[must_use]
    pub fn first_handled(&self) -> Option<Instant> {
        self.handler.first.get().copied()
    }

    /// Waits until so many records were handled.
    ///
    /// # Errors
    /// When the step ends before.
    pub async fn until_handled(&self, records: u64) -> Result<(), MeasureError> {
        while self.handled() < records {
            self.still_runs()?;
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Waits until everything that was published is committed.
    ///
    /// # Errors
    /// When the step ends before.
    pub async fn until_committed(&self) -> Result<(), MeasureError> {
        loop {
            match self.bus.step_lag(&self.name).await {
                Ok(lag) if lag.records_behind() == 0 => return Ok(()),
                Ok(_) | Err(BusError::UnknownStep(_)) => self.still_runs()?,
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn still_runs(&self) -> Result<(), MeasureError> {
        if self.task.is_finished() {
            return Err(MeasureError::Ended(format!("step {} is not running any more", self.name)));
        }
        Ok(())
    }

    /// Stops it.
    ///
    /// # Errors
    /// The one with which it had ended.
    pub async fn stop(self) -> Result<(), MeasureError> {
        self.shutdown.cancel();
        Ok(self.task.await.map_err(|error| MeasureError::Ended(error.to_string()))??)
    }
}

fn dead_letters_of(step: &str) -> String {
    format!("{step}.dead-letters")
}

/// Runs a step of this name over a topic that [`publish`] filled (one publisher keeps its records in order), until every
/// record is committed. The time is that from the first record handled to everything committed: opening a step's clients
/// is no part of its rate.
///
/// # Errors
/// When the step fails, or something is missing from its output.
pub async fn step(bus: &Arc<dyn Bus>, topic: &str, name: &str, work: Work, load: &Load) -> Result<Rate, MeasureError> {
    let running = RunningStep::start(bus, topic, name, work, load).await?;
    // What the log is asked while the step works would slow both down.
    running.until_handled(load.records).await?;
    running.until_committed().await?;
    let seconds = running.first_handled().map_or(0.0, |first| first.elapsed().as_secs_f64());
    let handler = Arc::clone(&running.handler);
    running.stop().await?;
    let emitted = count(bus, &output_of(name)).await?;
    let failed = count(bus, &dead_letters_of(name)).await?;
    let fired = handler.fired.load(Ordering::Relaxed);
    let must_fire = work == Work::Stateful && load.records_per_key > 1;
    if emitted != load.records || failed != 0 || (must_fire && fired == 0) {
        let message = format!("{emitted} records came out, {failed} failed, {fired} timers fired");
        return Err(MeasureError::Ended(message));
    }
    Ok(Rate { records: emitted, seconds })
}

/// How many committed records a topic holds.
///
/// # Errors
/// When it can not be read.
pub async fn count(bus: &Arc<dyn Bus>, topic: &str) -> Result<u64, BusError> {
    let end = bus.end_positions(topic).await?;
    let mut look = bus.look(topic, Positions::oldest()).await?;
    let mut records = 0;
    while !look.positions().reached(&end) {
        records += look.next(1000, Duration::from_millis(50)).await?.len() as u64;
    }
    Ok(records)
}

struct Measured {
    output: String,
    work: Work,
    load: Load,
    first: OnceLock<Instant>,
    handled: AtomicU64,
    fired: AtomicU64,
}

impl Measured {
    fn keep(&self, record: &CommittedRecord, context: &mut dyn StepContext) {
        let known = ["document", "summary"].map(|name| context.get(name).map(|value| value.to_vec()));
        let (is_first, [document, summary]) = match known {
            [Some(document), Some(summary)] => (false, [document, summary]),
            _ => (true, first_state(&record.key, &self.load)),
        };
        for (name, mut value) in [("document", document), ("summary", summary)] {
            if name == "document" && self.load.large_state_once && !is_first {
                continue;
            }
            if let Some(first) = value.first_mut() {
                *first = first.wrapping_add(1);
            }
            context.put(name, Bytes::from(value));
        }
        let due = context.partition_time() + QUIET;
        context.set_timer("close", due);
    }
}

impl StepHandler for Measured {
    fn handle(&self, input: Input<'_>, context: &mut dyn StepContext) -> Outcome {
        let Input::Record { record, .. } = input else {
            for name in ["document", "summary"] {
                if context.get(name).is_none() {
                    return Outcome::Poison("state_is_missing".into());
                }
                context.delete(name);
            }
            self.fired.fetch_add(1, Ordering::Relaxed);
            return Outcome::Ok;
        };
        self.first.get_or_init(Instant::now);
        if self.work == Work::Stateful {
            self.keep(record, context);
        }
        let emitted = Record { key: record.key, value: record.value.clone() };
        context.emit(&self.output, emitted);
        self.handled.fetch_add(1, Ordering::Relaxed);
        Outcome::Ok
    }

    fn partition_time_of(&self, record: &CommittedRecord, _: &Prepared) -> Option<Timestamp> {
        micros_of(&record.value, &self.load).map(Timestamp::from_micros)
    }
}
