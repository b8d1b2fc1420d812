//! Measures an implementation of the bus: acknowledged records, and records through a stateful step.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use events::Timestamp;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::error::{BusError, PublishError};
use crate::interface::Bus;
use crate::record::{CommittedRecord, Record, RecordKey, Retention, TopicSpec};
use crate::step::{Input, Outcome, StepContext, StepHandler, StepSpec};

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
            small_state_bytes: 200,
        }
    }
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

/// Time between two records of a key.
const KEY_INTERVAL: Duration = Duration::from_secs(200);

/// A key's timer fires when it was quiet for so long, and ends its state.
const QUIET: Duration = Duration::from_secs(300);

/// Runs a stateful step over a topic that [`publish`] filled (one publisher keeps its records in order), until every
/// record is committed. Each record reads and writes both values of its key's state, moves the key's timer and emits a
/// record of its own size. The timer fires once, after the key's last record, reads both values and removes them.
///
/// # Errors
/// When the step fails, or something is missing from its output.
pub async fn step(bus: &Arc<dyn Bus>, topic: &str, load: &Load) -> Result<Rate, MeasureError> {
    let (output, dead_letters) = (format!("{topic}.out"), format!("{topic}.dead-letters"));
    for topic in [&output, &dead_letters] {
        bus.create_topics(&[TopicSpec::new(topic, load.partitions, Retention::default())]).await?;
    }
    let name = format!("{topic}.step");
    let spec = StepSpec::new(&name, topic, [&output], &dead_letters);
    let handler = Arc::new(Document { output: output.clone(), load: load.clone(), fired: AtomicU64::new(0) });
    let shutdown = CancellationToken::new();
    let started = Instant::now();
    let (running, token) = (Arc::clone(bus), shutdown.clone());
    let shared = Arc::clone(&handler) as Arc<dyn StepHandler>;
    let task = tokio::spawn(async move { running.step(spec, shared, token).await });
    let seconds = loop {
        if task.is_finished() {
            break started.elapsed().as_secs_f64();
        }
        match bus.step_lag(&name).await {
            Ok(lag) if lag.records_behind() == 0 => break started.elapsed().as_secs_f64(),
            Ok(_) | Err(BusError::UnknownStep(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => return Err(error.into()),
        }
    };
    shutdown.cancel();
    task.await.map_err(|error| MeasureError::Ended(error.to_string()))??;
    let emitted = bus.topic_status(&output).await?.records;
    let failed = bus.topic_status(&dead_letters).await?.records;
    let fired = handler.fired.load(Ordering::Relaxed);
    if emitted != load.records || failed != 0 || fired == 0 {
        let message = format!("{emitted} records came out, {failed} failed, {fired} timers fired");
        return Err(MeasureError::Ended(message));
    }
    Ok(Rate { records: emitted, seconds })
}

/// The key of a record: `alternating_keys` keys take turns until each has had its records.
fn record(number: u64, load: &Load) -> Record {
    let alternating = load.alternating_keys.max(1);
    let block = number / (alternating * load.records_per_key.max(1));
    let session = u128::from(block * alternating + number % alternating);
    // Spread as keys that are digests are.
    let key = RecordKey((session + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes());
    let mut value = number.to_be_bytes().to_vec();
    value.resize(load.record_bytes.max(value.len()), 0x5a);
    Record { key, value: Bytes::from(value) }
}

struct Document {
    output: String,
    load: Load,
    fired: AtomicU64,
}

impl StepHandler for Document {
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
        for (name, bytes) in [("document", self.load.large_state_bytes), ("summary", self.load.small_state_bytes)] {
            let mut value = context.get(name).map_or_else(|| vec![0; bytes], |value| value.to_vec());
            if let (Some(place), Some(byte)) = (value.first_mut(), record.value.first()) {
                *place = place.wrapping_add(*byte).wrapping_add(1);
            }
            context.put(name, Bytes::from(value));
        }
        let due = context.partition_time() + QUIET;
        context.set_timer("close", due);
        let emitted = Record { key: record.key, value: record.value.clone() };
        context.emit(&self.output, emitted);
        Outcome::Ok
    }

    fn partition_time_of(&self, record: &CommittedRecord) -> Option<Timestamp> {
        let number = u64::from_be_bytes(*record.value.first_chunk()?);
        let interval = u64::try_from(KEY_INTERVAL.as_micros()).ok()?;
        let micros = u128::from(number) * u128::from(interval) / u128::from(self.load.alternating_keys.max(1));
        Some(Timestamp::from_micros(i64::try_from(micros).ok()?))
    }
}
