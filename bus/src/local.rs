//! The bus of one machine: a log in one SQLite file, shared by all processes of that machine.
//!
//! * One thread a process writes ([`writer`](self)): publishes, step commits and everything else queue up while a
//!   transaction is being fsynced and go into the next one together (group commit; WAL, `synchronous=FULL`). Between
//!   processes SQLite's own write lock decides who is next.
//! * Readers use their own connections and read bounded pieces; no read transaction is open for longer than a second,
//!   so that the write-ahead log can always be folded back into the file.
//! * A partition of a step is owned by a row: owner, epoch, lease. The lease (in real time) only decides when another
//!   process may take over; what keeps two owners apart is that every commit of the step checks owner and epoch in its
//!   own transaction. An owner whose process is gone (its lock file is free) is replaced at once, a silent one when its
//!   lease has run out.
//! * Waiters of the same process are woken by the commit itself; those of other processes notice within
//!   [`LocalLogConfig::watch_interval`], at which every process looks whether somebody else has written.
//!
//! A process that is stopped (SIGSTOP) in the middle of a write transaction holds SQLite's write lock, and the others
//! wait until it goes on or ends; stopped anywhere else it holds up nothing but its own partitions, until their lease
//! runs out.

#[cfg(test)]
mod batch_time_tests;
mod concluded;
mod ends;
#[cfg(test)]
mod following_tests;
mod history;
mod liveness;
mod look;
#[cfg(test)]
mod model_tests;
mod ownership;
mod reader;
mod retention;
mod runner;
mod schema;
mod skip;
mod slot;
mod status;
mod tail;
mod topics;
mod watch;
mod writer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use service::clock::SharedClock;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::concluded::LivePartition;
use self::ends::Ends;
use self::liveness::Liveness;
pub use self::look::{LocalLogFacts, look};
use self::reader::Readers;
use self::schema::Access;
use self::topics::TopicInfo;
use self::watch::Watch;
use self::writer::{GroupLimits, Writer, WriterHandle};
use crate::control::Control;
use crate::error::{BusError, PublishError};
use crate::interface::{Bus, History, Loss, LossBook, StepLag, Tail, TopicStatus};
use crate::partition::partition_for;
use crate::record::{HistoryEntry, Position, Positions, Record, RecordKey, TopicSpec};
use crate::sizes::Sizes;
use crate::step::{StepHandler, StepSpec};

/// Limits and intervals of a local log. Bytes are bytes of values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LocalLogConfig {
    /// Stands before the stored name of every topic and step, so that several wheels can share a log. Callers never see
    /// it. Not part of this section: one setting serves every implementation of the bus.
    #[serde(skip)]
    pub prefix: String,
    /// Largest record of the door; what steps make of it may be larger.
    pub record_bytes: usize,
    /// Largest sum of the records of one publish call.
    pub batch_bytes: usize,
    /// Publish calls in flight; more wait.
    pub in_flight_publishes: usize,
    /// Bytes of publish calls in flight; more wait.
    pub in_flight_bytes: usize,
    /// How long a publish call waits for others to end before it is refused, in milliseconds of real time.
    pub publish_wait_ms: u64,
    /// About the bytes of one transaction.
    pub transaction_bytes: usize,
    /// Largest size of the log's file; none: the disk decides.
    pub file_bytes: Option<u64>,
    /// Pages that the write-ahead log holds before it is folded back into the file.
    pub checkpoint_pages: u32,
    /// Memory of the writing connection for pages of the file, in bytes.
    pub page_cache_bytes: usize,
    /// How long an owner of a partition may be silent, in milliseconds of real time.
    pub lease_ms: u64,
    /// How often to look for records that other processes appended, in milliseconds of real time.
    pub watch_interval_ms: u64,
    /// How often retention runs, in milliseconds of real time.
    pub retention_interval_ms: u64,
}

impl Default for LocalLogConfig {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            record_bytes: 1 << 20,
            batch_bytes: 16 << 20,
            in_flight_publishes: 1024,
            in_flight_bytes: 64 << 20,
            publish_wait_ms: 5_000,
            transaction_bytes: 16 << 20,
            file_bytes: None,
            checkpoint_pages: 4_000,
            page_cache_bytes: 16 << 20,
            lease_ms: 10_000,
            watch_interval_ms: 10,
            retention_interval_ms: 30_000,
        }
    }
}

impl LocalLogConfig {
    /// How long an owner may be silent.
    #[must_use]
    pub const fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    /// How often other processes' records are looked for.
    #[must_use]
    pub const fn watch_interval(&self) -> Duration {
        Duration::from_millis(self.watch_interval_ms)
    }

    /// The name under which the file knows a topic or step.
    fn stored_name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The name that callers know.
    fn callers_name(&self, stored: &str) -> String {
        stored.strip_prefix(&self.prefix).unwrap_or(stored).to_owned()
    }

    fn check(&self) -> Result<(), BusError> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if self.prefix.len() > 100 || !self.prefix.bytes().all(fits) {
            return Err(BusError::Invalid("the prefix must be at most 100 of a-z, A-Z, 0-9, '.', '_' and '-'".into()));
        }
        for (name, value) in [
            ("record_bytes", self.record_bytes),
            ("batch_bytes", self.batch_bytes),
            ("in_flight_publishes", self.in_flight_publishes),
            ("in_flight_bytes", self.in_flight_bytes),
            ("transaction_bytes", self.transaction_bytes),
        ] {
            if value == 0 {
                return Err(BusError::Invalid(format!("{name} must be greater than 0")));
            }
        }
        if self.lease_ms < 100 {
            return Err(BusError::Invalid("lease_ms must be at least 100".into()));
        }
        if u32::try_from(self.in_flight_bytes).is_err() || self.in_flight_bytes < self.batch_bytes {
            return Err(BusError::Invalid("in_flight_bytes must be at least batch_bytes and below 4 GiB".into()));
        }
        Ok(())
    }
}

/// A handle to the log. Clones share it; the file may also be open in other processes, and more than once in this one.
#[derive(Clone)]
pub struct LocalLog {
    inner: Arc<Inner>,
}

/// What all clones share.
struct Inner {
    config: LocalLogConfig,
    clock: SharedClock,
    writer: WriterHandle,
    readers: Readers,
    ends: Arc<Ends>,
    topics: RwLock<HashMap<String, Arc<TopicInfo>>>,
    publishes: Arc<Semaphore>,
    publish_bytes: Arc<Semaphore>,
    live: Mutex<HashMap<i64, LivePartition>>,
    /// None: the log is only read, and steps do not run.
    liveness: Option<Liveness>,
    _watch: Watch,
}

impl LocalLog {
    /// Opens the log, creating it when absent. Folders must exist.
    ///
    /// # Errors
    /// When the file cannot be opened or written, was written in another format, or a limit cannot be used.
    pub fn open(path: &Path, clock: SharedClock, config: LocalLogConfig) -> Result<Self, BusError> {
        Self::open_for(Access::Write, path, clock, config)
    }

    /// Opens a log that is there, to read it: nothing is written, not by retention either, and whatever would write is
    /// refused by SQLite.
    ///
    /// # Errors
    /// When the file cannot be opened, or was written in another format.
    pub fn open_to_read(path: &Path, clock: SharedClock, config: LocalLogConfig) -> Result<Self, BusError> {
        Self::open_for(Access::Read, path, clock, config)
    }

    fn open_for(access: Access, path: &Path, clock: SharedClock, config: LocalLogConfig) -> Result<Self, BusError> {
        config.check()?;
        let connection = match access {
            Access::Write => schema::open_writer(path, &config)?,
            Access::Read => schema::open_to_read(path)?,
        };
        let ends = Arc::new(Ends::new());
        let readers = Readers::new(path.to_owned(), access);
        readers.with(|reader| ends::load(reader, &ends))?;
        let liveness = match access {
            Access::Write => Some(Liveness::start(&owners_folder(path))?),
            Access::Read => None,
        };
        let limits = GroupLimits { jobs: 4096, bytes: config.transaction_bytes };
        let writer = Writer { connection, clock: Arc::clone(&clock), ends: Arc::clone(&ends), limits };
        let writer = writer.start(config.in_flight_publishes.max(64))?;
        let sweeping = (access == Access::Write).then(|| (writer.clone(), Arc::clone(&clock)));
        let watch = Watch::start(path, access, &config, Arc::clone(&ends), sweeping)?;
        Ok(Self {
            inner: Arc::new(Inner {
                publishes: Arc::new(Semaphore::new(config.in_flight_publishes.min(Semaphore::MAX_PERMITS))),
                publish_bytes: Arc::new(Semaphore::new(config.in_flight_bytes)),
                config,
                clock,
                writer,
                readers,
                ends,
                topics: RwLock::new(HashMap::new()),
                live: Mutex::new(HashMap::new()),
                liveness,
                _watch: watch,
            }),
        })
    }

    /// Appends entries of another log as they are: each to the partition that it names, control records among them,
    /// with the time at which they were appended there. Their positions are new.
    ///
    /// # Errors
    /// A topic or partition that does not exist, or storage that fails; nothing of the call is in the log then.
    pub async fn append_entries(&self, topic: &str, entries: Vec<HistoryEntry>) -> Result<(), BusError> {
        let topic = self.inner.topic(topic).await?;
        let bytes = entries.iter().map(|entry| entry.value.len()).sum();
        let write = move |transaction: &mut writer::WriteTransaction<'_>| {
            // First, since a job that is refused must have changed nothing.
            let ids = &topic.partition_ids;
            if let Some(entry) = entries.iter().find(|entry| entry.partition as usize >= ids.len()) {
                let refused = BusError::Invalid(format!("{} has no partition {}", topic.name, entry.partition));
                return Err(refused.into());
            }
            for entry in &entries {
                let Some(id) = ids.get(entry.partition as usize) else { continue };
                transaction.append_at(*id, entry.is_control, entry.appended_at, &entry.key, &entry.value)?;
            }
            Ok(())
        };
        self.inner.writer.write(bytes, write).await
    }

    async fn append(
        &self,
        topic: &str,
        control: bool,
        records: Vec<(u32, Record)>,
        bytes: usize,
    ) -> Result<Vec<(u32, Position)>, PublishError> {
        let inner = &self.inner;
        let topic = inner.topic(topic).await.map_err(PublishError::from)?;
        let wait = Duration::from_millis(inner.config.publish_wait_ms);
        let permits = async {
            let one = inner.publishes.acquire().await;
            let bytes = inner.publish_bytes.acquire_many(u32::try_from(bytes).unwrap_or(u32::MAX)).await;
            (one, bytes)
        };
        let permits = tokio::time::timeout(wait, permits).await.map_err(|_| PublishError::Overloaded)?;
        let count = records.len() as u64;
        let name = topic.name.to_string();
        let written = inner
            .writer
            .write(bytes, move |transaction| {
                let mut positions = Vec::with_capacity(records.len());
                for (partition, record) in &records {
                    let Some(partition_id) = topic.partition_ids.get(*partition as usize) else { continue };
                    let position = transaction.append(*partition_id, control, &record.key, &record.value)?;
                    positions.push((*partition, Position::from_offset(position)));
                }
                Ok(positions)
            })
            .await
            .map_err(PublishError::from);
        drop(permits);
        match &written {
            Ok(_) => metrics::counter!("flywheel_bus_published_records_total", "topic" => name).increment(count),
            Err(_) => metrics::counter!("flywheel_bus_refused_records_total", "topic" => name).increment(count),
        }
        written
    }
}

impl Inner {
    /// How owners of partitions know each other; there are none on a log that is only read.
    fn liveness(&self) -> Result<&Liveness, BusError> {
        self.liveness.as_ref().ok_or_else(|| BusError::Invalid("the log was opened to be read only".into()))
    }
}

fn owners_folder(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push("-owners");
    path.with_file_name(name)
}

#[async_trait]
impl Bus for LocalLog {
    async fn create_topics(&self, specs: &[TopicSpec]) -> Result<(), BusError> {
        self.inner.create_topics(specs).await
    }

    async fn partitions(&self, topic: &str) -> Result<u32, BusError> {
        Ok(self.inner.topic(topic).await?.partitions())
    }

    async fn publish(&self, topic: &str, records: Vec<Record>) -> Vec<Result<(u32, Position), PublishError>> {
        let count = records.len();
        if count == 0 {
            return Vec::new();
        }
        let partitions = match self.inner.topic(topic).await {
            Ok(topic) => topic.partitions(),
            Err(error) => return vec![Err(error.into()); count],
        };
        let limit = Sizes::of(self.inner.config.record_bytes).of_topic(topic);
        let mut results = Vec::with_capacity(count);
        let mut fitting = Vec::with_capacity(count);
        let mut bytes = 0;
        for record in records {
            if record.value.len() > limit {
                results.push(Some(PublishError::RecordTooLarge { bytes: record.value.len(), limit }));
            } else {
                results.push(None);
                bytes += record.value.len();
                fitting.push((partition_for(&record.key, partitions), record));
            }
        }
        let limit = self.inner.config.batch_bytes;
        let written = if bytes > limit {
            Err(PublishError::BatchTooLarge { bytes, limit })
        } else if fitting.is_empty() {
            Ok(Vec::new())
        } else {
            self.append(topic, false, fitting, bytes).await
        };
        let mut written = written.map(Vec::into_iter);
        let result = |refused: Option<PublishError>| match (refused, &mut written) {
            (Some(refused), _) => Err(refused),
            (None, Err(error)) => Err(error.clone()),
            (None, Ok(positions)) => positions.next().ok_or(PublishError::Closed),
        };
        results.into_iter().map(result).collect()
    }

    async fn publish_control(&self, topic: &str, kind: &str, subject: &str, value: Bytes) -> Result<(), PublishError> {
        let limit = self.inner.config.record_bytes;
        let Some(control) = Control::new(kind, subject, value) else {
            return Err(PublishError::Storage("a control record needs a kind, and short names".into()));
        };
        let value = control.encode();
        if value.len() > limit {
            return Err(PublishError::RecordTooLarge { bytes: value.len(), limit });
        }
        let partitions = self.inner.topic(topic).await?.partitions();
        let record = Record { key: RecordKey([0; 16]), value };
        let bytes = record.value.len() * partitions as usize;
        let records = (0..partitions).map(|partition| (partition, record.clone())).collect();
        self.append(topic, true, records, bytes.min(self.inner.config.in_flight_bytes)).await.map(drop)
    }

    async fn tail(&self, topic: &str, reader: &str, from: Positions) -> Result<Box<dyn Tail>, BusError> {
        tail::open(Arc::clone(&self.inner), topic, reader, from).await
    }

    async fn look(&self, topic: &str, from: Positions) -> Result<Box<dyn Tail>, BusError> {
        tail::look(Arc::clone(&self.inner), topic, from).await
    }

    async fn forget_reader(&self, topic: &str, reader: &str) -> Result<(), BusError> {
        self.inner.forget_reader(topic, reader).await
    }

    async fn history(&self, topic: &str, from: Positions, until: Positions) -> Result<Box<dyn History>, BusError> {
        history::open(Arc::clone(&self.inner), topic, &from, &until).await
    }

    async fn oldest_positions(&self, topic: &str) -> Result<Positions, BusError> {
        self.inner.oldest_positions(topic).await
    }

    async fn end_positions(&self, topic: &str) -> Result<Positions, BusError> {
        self.inner.end_positions(topic).await
    }

    async fn topic_status(&self, topic: &str) -> Result<TopicStatus, BusError> {
        self.inner.topic_status(topic).await
    }

    async fn step(
        &self,
        spec: StepSpec,
        handler: Arc<dyn StepHandler>,
        shutdown: CancellationToken,
    ) -> Result<(), BusError> {
        runner::run(Arc::clone(&self.inner), spec, handler, shutdown).await
    }

    async fn step_lag(&self, step: &str) -> Result<StepLag, BusError> {
        self.inner.step_lag(step).await
    }

    async fn skip_lost(&self, step: &str, partition: u32, book: &dyn LossBook) -> Result<Loss, BusError> {
        skip::skip_lost(&self.inner, step, partition, book).await
    }
}
