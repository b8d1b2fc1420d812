//! The labeler's step on the local log, timed from its first record to its last commit, and what memory it takes.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use async_trait::async_trait;
use bus::local::{LocalLog, LocalLogConfig};
use bus::measure::{Load, Work, count, publish, step};
use bus::{
    Bus, BusError, CommittedRecord, Failed, Input, Outcome, Prepared, Record, Retention, Sealed, StepContext,
    StepHandler, TopicSpec,
};
use events::topics::{DEAD_LETTERS, PREFERENCE_PAIRS, SERVING_OUTCOMES, TELEMETRY_CLEAN};
use events::{Audience, TenantId, Timestamp};
use service::clock::RealClock;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::load::Stream;
use super::office::{AUDIENCE, Office};
use super::wheel::handler;
use crate::memory::own_resident;

/// Partitions of every topic, as on a laptop.
const PARTITIONS: u32 = 4;
/// Records of one publish call.
const BATCH: usize = 500;
/// How often something is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// A step that has handled nothing for so long is not waited for any more.
const STILL: Duration = Duration::from_secs(60);
/// Records that the step may be behind before no more are published, when both run at once.
const MOST_BEHIND: u64 = 20_000;
/// What the log keeps of each partition, when both run at once: it would grow without end.
const KEPT_BYTES: u64 = 64 << 20;
/// The context that the bare step keeps of each key, once, and its small state.
const CONTEXT_BYTES: usize = 8 << 10;
const SMALL_BYTES: usize = 200;

/// Counts what the labeler's own handler handles; changes nothing.
struct Counted {
    inner: Arc<dyn StepHandler>,
    first: OnceLock<Instant>,
    handled: AtomicU64,
    /// Why the first dead letter was written.
    failed: OnceLock<String>,
}

#[async_trait]
impl StepHandler for Counted {
    fn prepare(&self, records: &[CommittedRecord]) -> Vec<Prepared> {
        self.inner.prepare(records)
    }

    fn handle(&self, input: Input<'_>, context: &mut dyn StepContext) -> Outcome {
        self.first.get_or_init(Instant::now);
        let is_record = matches!(input, Input::Record { .. });
        let outcome = self.inner.handle(input, context);
        if is_record && outcome == Outcome::Ok {
            self.handled.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }

    fn partition_time_of(&self, record: &CommittedRecord, prepared: &Prepared) -> Option<Timestamp> {
        self.inner.partition_time_of(record, prepared)
    }

    fn dead_letter(&self, failed: &Failed<'_>) -> Sealed {
        self.failed.get_or_init(|| failed.reason.to_owned());
        self.inner.dead_letter(failed)
    }

    async fn make_available(&self, dependencies: &[String]) {
        self.inner.make_available(dependencies).await;
    }
}

/// The labeler's step at work on a log.
struct Labeling {
    bus: Arc<dyn Bus>,
    handler: Arc<Counted>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), BusError>>,
}

/// A log in `folder` with the labeler's topics.
async fn open_log(folder: &Path, name: &str, retention: Retention) -> anyhow::Result<Arc<dyn Bus>> {
    let path = folder.join(format!("{name}.sqlite"));
    let bus: Arc<dyn Bus> = Arc::new(LocalLog::open(&path, RealClock::shared(), LocalLogConfig::default())?);
    let outputs = [PREFERENCE_PAIRS, SERVING_OUTCOMES, DEAD_LETTERS];
    let mut topics = vec![TopicSpec::new(TELEMETRY_CLEAN, PARTITIONS, retention).read_by_step(labeler::step::STEP)];
    topics.extend(outputs.map(|topic| TopicSpec::new(topic, PARTITIONS, retention)));
    bus.create_topics(&topics).await?;
    let audience: Audience = AUDIENCE.parse()?;
    labeler::audience::publish_rule(&*bus, &TenantId::default(), "*", Some(&audience)).await?;
    Ok(bus)
}

impl Labeling {
    fn start(bus: &Arc<dyn Bus>, office: &Office) -> Self {
        let inner = handler(office);
        let (first, handled, failed) = (OnceLock::new(), AtomicU64::new(0), OnceLock::new());
        let handler = Arc::new(Counted { inner, first, handled, failed });
        let (running, shared) = (Arc::clone(bus), Arc::clone(&handler) as Arc<dyn StepHandler>);
        let stop = CancellationToken::new();
        let token = stop.clone();
        let task = tokio::spawn(async move { running.step(labeler::step::spec(), shared, token).await });
        Self { bus: Arc::clone(bus), handler, stop, task }
    }

    fn handled(&self) -> u64 {
        self.handler.handled.load(Ordering::Relaxed)
    }

    /// Waits a moment. `still` is since when nothing was seen to go on.
    async fn pause(&self, still: Instant) -> anyhow::Result<()> {
        ensure!(!self.task.is_finished(), "the labeler's step is not running any more");
        if let Some(reason) = self.handler.failed.get() {
            bail!("a record ended as a dead letter: {reason}");
        }
        ensure!(still.elapsed() < STILL, "the labeler's step has stood still for {} s", STILL.as_secs());
        tokio::time::sleep(LOOK).await;
        Ok(())
    }

    async fn until_handled(&self, records: u64) -> anyhow::Result<()> {
        let (mut seen, mut still) = (self.handled(), Instant::now());
        while self.handled() < records {
            self.pause(still).await?;
            if self.handled() > seen {
                (seen, still) = (self.handled(), Instant::now());
            }
        }
        Ok(())
    }

    async fn until_committed(&self) -> anyhow::Result<()> {
        let (mut least, mut still) = (u64::MAX, Instant::now());
        loop {
            match self.bus.step_lag(labeler::step::STEP).await {
                Ok(lag) if lag.records_behind() == 0 => return Ok(()),
                Ok(lag) if lag.records_behind() < least => (least, still) = (lag.records_behind(), Instant::now()),
                Ok(_) | Err(BusError::UnknownStep(_)) => {}
                Err(error) => return Err(error.into()),
            }
            self.pause(still).await?;
        }
    }

    /// Stops it. Everything must have been labeled by then.
    async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.task.await??;
        let failed = count(&self.bus, DEAD_LETTERS).await?;
        if failed > 0 {
            bail!("{failed} records ended as dead letters");
        }
        Ok(())
    }
}

async fn send(bus: &Arc<dyn Bus>, records: Vec<Record>) -> anyhow::Result<()> {
    for result in bus.publish(TELEMETRY_CLEAN, records).await {
        result?;
    }
    Ok(())
}

/// Rates of both steps over as many records of the same size.
pub(crate) struct Rates {
    /// Events/s of the labeler's step.
    pub(crate) labeled: f64,
    /// Records/s of the bare stateful step.
    pub(crate) bare: f64,
    pub(crate) events: u64,
    pub(crate) bytes: u64,
    pub(crate) pairs: u64,
}

/// Publishes events until they come to `bytes`, labels them, and runs the bare step over as many records.
pub(crate) async fn rates(
    folder: &Path,
    office: &Office,
    stream: &mut Stream<'_>,
    bytes: u64,
    open: usize,
    events_each: f64,
) -> anyhow::Result<Rates> {
    let bus = open_log(folder, "labeler", Retention::default()).await?;
    let (mut events, mut published) = (0_u64, 0_u64);
    while published < bytes {
        let records = stream.records(BATCH)?;
        ensure!(!records.is_empty(), "nobody is at work");
        published += records.iter().map(|record| record.value.len() as u64).sum::<u64>();
        events += records.len() as u64;
        send(&bus, records).await?;
    }
    let labeling = Labeling::start(&bus, office);
    labeling.until_handled(events).await?;
    labeling.until_committed().await?;
    let seconds = labeling.handler.first.get().context("nothing was handled")?.elapsed().as_secs_f64();
    labeling.stop().await?;
    let pairs = count(&bus, PREFERENCE_PAIRS).await?;
    drop(bus);

    let path = folder.join("bare.sqlite");
    let bare: Arc<dyn Bus> = Arc::new(LocalLog::open(&path, RealClock::shared(), LocalLogConfig::default())?);
    let records_per_key = events_each.round().max(1.0) as u64;
    let load = Load {
        records: events,
        record_bytes: usize::try_from(published / events.max(1))?,
        partitions: PARTITIONS,
        publishers: 1,
        records_per_key,
        // Two rounds of keys at least: the records of the second make the timers of the first fire.
        alternating_keys: (open as u64).min(events / records_per_key / 2).max(1),
        large_state_bytes: CONTEXT_BYTES,
        large_state_once: true,
        small_state_bytes: SMALL_BYTES,
        ..Load::default()
    };
    publish(&bare, "bare", &load).await?;
    let rate = step(&bare, "bare", "bare-stateful", Work::Stateful, &load).await?;
    Ok(Rates { labeled: events as f64 / seconds, bare: rate.per_second(), events, bytes: published, pairs })
}

/// Resident memory of this process while the labeler runs.
pub(crate) struct Resident {
    /// The most at any time, MiB.
    pub(crate) most: f64,
    /// The most while the second quarter was labeled: the first one fills what is bounded.
    pub(crate) early: f64,
    /// The most while the last quarter was labeled.
    pub(crate) late: f64,
    pub(crate) events: u64,
    pub(crate) seconds: f64,
}

/// Publishes and labels so many events at once, the load made as it goes.
pub(crate) async fn resident(
    folder: &Path,
    office: &Office,
    stream: &mut Stream<'_>,
    events: u64,
) -> anyhow::Result<Resident> {
    let retention = Retention { age: None, partition_bytes: Some(KEPT_BYTES) };
    let bus = open_log(folder, "resident", retention).await?;
    let started = Instant::now();
    let labeling = Labeling::start(&bus, office);
    let (mut published, mut samples) = (0_u64, Vec::new());
    while published < events {
        let records = stream.records(BATCH)?;
        ensure!(!records.is_empty(), "nobody is at work");
        published += records.len() as u64;
        send(&bus, records).await?;
        labeling.until_handled(published.saturating_sub(MOST_BEHIND)).await?;
        samples.push(own_resident()?);
    }
    labeling.until_committed().await?;
    samples.push(own_resident()?);
    let seconds = started.elapsed().as_secs_f64();
    labeling.stop().await?;
    let most = |samples: &[f64]| samples.iter().copied().fold(0.0, f64::max);
    let quarter = samples.len().div_ceil(4);
    let early = samples.get(quarter..quarter * 2).unwrap_or_default();
    let late = samples.get(samples.len().saturating_sub(quarter)..).unwrap_or_default();
    Ok(Resident { most: most(&samples), early: most(early), late: most(late), events: published, seconds })
}

#[cfg(test)]
mod tests {
    use bus::RecordKey;
    use bytes::Bytes;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_record_that_can_not_be_labeled_ends_the_measurement() {
        let folder = tempfile::tempdir().unwrap();
        let office = Office::open(1, 1).await.unwrap();
        let bus = open_log(folder.path(), "poison", Retention::default()).await.unwrap();
        let labeling = Labeling::start(&bus, &office);
        let poison = Record { key: RecordKey([1; 16]), value: Bytes::from_static(b"no event") };
        send(&bus, vec![poison]).await.unwrap();
        let waited = tokio::time::timeout(STILL / 2, labeling.until_handled(1)).await;
        let said = waited.expect("it is not waited for without end").unwrap_err().to_string();
        assert!(said.starts_with("a record ended as a dead letter: "), "{said}");
        // Whether the dead letter is committed by then is open.
        let _either_way = labeling.stop().await;
    }
}
