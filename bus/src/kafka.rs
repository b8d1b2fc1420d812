//! The bus on Apache Kafka.
//!
//! * `publish` is an idempotent producer with `acks=all` ([`publish`](self)); a control record goes to all partitions
//!   of its topic in one Kafka transaction.
//! * `tail` is a consumer with partitions assigned by hand that sees committed records only; the positions belong to
//!   the sink. What a sink tells with [`Tail::commit`] is kept as the positions of a group of its own, for lag only.
//! * A step owns partitions by leases in the database; a partition's transactions bear a name of its own, so that a new
//!   owner ends those of the one before (`slot.rs`). Its state is a compacted topic, with a copy on this machine's disk.
//! * Positions are offsets. Partitions are chosen by [`partition_for`](crate::partition_for), as on the local log.
//!
//! # What errors mean
//!
//! *Fatal*: the client can do nothing more. For the idempotent producer that is a gap in its numbers; it is replaced.
//! For a transactional producer it is another one of the same name, or its own end; whatever it had open is aborted by
//! the brokers. *Abortable*: the transaction is lost and the client is not. *Retriable*: nothing is known; asked again,
//! the brokers answer what became of it. A record is acknowledged only by the brokers' own answer, and a commit only by
//! a commit's; everything else is an error to the caller, who then knows that it does not know.
//!
//! What retention deletes is decided by the brokers, by age or bytes, whoever has read it: a reader whose position is
//! gone is told so ([`BusError::PositionGone`]) and stops; `auto.offset.reset` is `error`. That records wait for their
//! readers is the job of [`Bus::topic_status`]: ingest refuses new records before unread ones are in danger.

mod changelog;
mod client;
mod config;
mod publish;
mod reader;
mod record;
mod slot;
mod state;
mod status;
mod step;
mod tail;
mod topics;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use rdkafka::admin::AdminClient;
use service::clock::SharedClock;
use service::lease::LeaseStore;
use tokio_util::sync::CancellationToken;

use self::client::{Context, Questions};
pub use self::config::{Compression, KafkaConfig, KafkaSasl, KafkaTls, SaslMechanism};
use self::publish::Publisher;
use self::status::{LivePartition, StepPlace};
use crate::control::Control;
use crate::error::{BusError, PublishError};
use crate::interface::{Bus, StepLag, Tail, TopicStatus};
use crate::record::{Position, Positions, Record, Retention, TopicSpec};
use crate::step::{StepHandler, StepSpec};

/// A handle to the brokers. Clones share it.
#[derive(Clone)]
pub struct KafkaBus {
    inner: Arc<Inner>,
}

/// What all clones share.
struct Inner {
    config: KafkaConfig,
    context: Context,
    questions: Questions,
    publisher: Publisher,
    clock: SharedClock,
    leases: LeaseStore,
    state_dir: PathBuf,
    runtime: tokio::runtime::Handle,
    /// What steps read, by the callers' names.
    inputs: Mutex<HashMap<String, String>>,
    live: Mutex<HashMap<StepPlace, LivePartition>>,
    admin: AdminClient<Context>,
    /// Number of partitions by the callers' name.
    topics: RwLock<HashMap<String, u32>>,
    /// Who must see every record of a topic, by the callers' name: as this process was told.
    registered: Mutex<HashMap<String, Registered>>,
}

/// Who must see every record of a topic.
#[derive(Debug, Clone, Default)]
struct Registered {
    retention: Retention,
    steps: BTreeSet<String>,
    readers: BTreeSet<String>,
}

impl KafkaBus {
    /// Reaches the brokers. Partitions of steps are leased in a database that all processes share; the copies of their
    /// state lie in `state_dir`, which is this process's own while it runs.
    ///
    /// # Errors
    /// When a setting can not be used, or no broker lets us in: the sentence says why.
    pub async fn open(
        config: KafkaConfig,
        clock: SharedClock,
        leases: LeaseStore,
        state_dir: PathBuf,
    ) -> Result<Self, BusError> {
        config.check()?;
        let opened = tokio::task::spawn_blocking(move || Inner::open(config, clock, leases, state_dir)).await;
        let inner = opened.unwrap_or_else(|error| Err(BusError::Storage(error.to_string())))?;
        Ok(Self { inner: Arc::new(inner) })
    }
}

impl Inner {
    fn open(config: KafkaConfig, clock: SharedClock, leases: LeaseStore, state_dir: PathBuf) -> Result<Self, BusError> {
        let context = Context::default();
        let questions = Questions::new(&config, &context)?;
        // Any question will do: what matters is who answers.
        questions.partitions(&config.stored_name(events::topics::TELEMETRY_RAW))?;
        let admin = config
            .client()?
            .create_with_context(context.clone())
            .map_err(|error| BusError::Invalid(format!("the Kafka client refuses its settings: {error}")))?;
        let publisher = Publisher::new(&config, &context, Arc::clone(&clock))?;
        Ok(Self {
            config,
            context,
            questions,
            publisher,
            clock,
            leases,
            state_dir,
            runtime: tokio::runtime::Handle::current(),
            inputs: Mutex::default(),
            live: Mutex::default(),
            admin,
            topics: RwLock::default(),
            registered: Mutex::default(),
        })
    }

    fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.config.request_timeout_ms)
    }

    /// How long an owner of a partition may be silent.
    fn lease(&self) -> Duration {
        Duration::from_millis(self.config.lease_ms)
    }

    /// Runs what blocks on a thread that may.
    async fn blocking<R: Send + 'static>(
        self: Arc<Self>,
        work: impl FnOnce() -> Result<R, BusError> + Send + 'static,
    ) -> Result<R, BusError> {
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or_else(|error| Err(BusError::Storage(error.to_string())))
    }

    /// Number of partitions of a topic. It never changes: keys would move.
    async fn partitions(self: &Arc<Self>, topic: &str) -> Result<u32, BusError> {
        if let Some(partitions) = self.topics.read().get(topic) {
            return Ok(*partitions);
        }
        let partitions = self.ask_partitions(topic).await?.ok_or_else(|| BusError::UnknownTopic(topic.to_owned()))?;
        self.topics.write().insert(topic.to_owned(), partitions);
        Ok(partitions)
    }

    async fn ask_partitions(self: &Arc<Self>, topic: &str) -> Result<Option<u32>, BusError> {
        let (inner, stored) = (Arc::clone(self), self.config.stored_name(topic));
        Arc::clone(self).blocking(move || inner.questions.partitions(&stored)).await
    }

    async fn create_topics(self: &Arc<Self>, specs: &[TopicSpec]) -> Result<(), BusError> {
        topics::check(&self.config, specs)?;
        // All checks come first: what is refused must have changed nothing.
        let mut absent = Vec::new();
        for spec in specs {
            match self.ask_partitions(&spec.name).await? {
                None => absent.push(spec),
                Some(actual) if actual == spec.partitions => {}
                Some(actual) => {
                    let (topic, expected) = (spec.name.clone(), spec.partitions);
                    return Err(BusError::PartitionsDiffer { topic, expected, actual });
                }
            }
        }
        for spec in specs {
            if absent.iter().any(|absent| absent.name == spec.name) {
                topics::create(&self.admin, &self.context, &self.config, spec).await?;
                self.appears(&spec.name, spec.partitions).await?;
            } else {
                topics::update(&self.admin, &self.context, &self.config, spec).await?;
            }
            self.register(spec);
        }
        Ok(())
    }

    /// Waits until every broker that answers knows a new topic: it is created before all of them have heard of it.
    async fn appears(self: &Arc<Self>, topic: &str, partitions: u32) -> Result<(), BusError> {
        const LOOKS: u32 = 100;
        for _ in 0..LOOKS {
            match self.ask_partitions(topic).await? {
                Some(actual) if actual == partitions => return Ok(()),
                Some(actual) => {
                    let (topic, expected) = (topic.to_owned(), partitions);
                    return Err(BusError::PartitionsDiffer { topic, expected, actual });
                }
                None => tokio::time::sleep(self.request_timeout() / LOOKS).await,
            }
        }
        Err(BusError::UnknownTopic(topic.to_owned()))
    }

    fn register(&self, spec: &TopicSpec) {
        let mut registered = self.registered.lock();
        let known = registered.entry(spec.name.clone()).or_default();
        known.retention = spec.retention;
        known.steps.extend(spec.steps.iter().cloned());
        let mut inputs = self.inputs.lock();
        for step in &spec.steps {
            inputs.entry(step.clone()).or_insert_with(|| spec.name.clone());
        }
        known.readers.extend(spec.readers.iter().cloned());
    }

    fn register_reader(&self, topic: &str, reader: &str) {
        self.registered.lock().entry(topic.to_owned()).or_default().readers.insert(reader.to_owned());
    }
}

#[async_trait]
impl Bus for KafkaBus {
    async fn create_topics(&self, specs: &[TopicSpec]) -> Result<(), BusError> {
        self.inner.create_topics(specs).await
    }

    async fn partitions(&self, topic: &str) -> Result<u32, BusError> {
        self.inner.partitions(topic).await
    }

    async fn publish(&self, topic: &str, records: Vec<Record>) -> Vec<Result<(u32, Position), PublishError>> {
        let count = records.len();
        if count == 0 {
            return Vec::new();
        }
        let partitions = match self.inner.partitions(topic).await {
            Ok(partitions) => partitions,
            Err(error) => return vec![Err(error.into()); count],
        };
        let limit = self.inner.config.record_bytes;
        let too_large = |record: &Record| {
            let bytes = record.value.len();
            (bytes > limit).then_some(PublishError::RecordTooLarge { bytes, limit })
        };
        let refused: Vec<Option<PublishError>> = records.iter().map(too_large).collect();
        let fitting: Vec<Record> = records
            .into_iter()
            .zip(&refused)
            .filter(|(_, refused)| refused.is_none())
            .map(|(record, _)| record)
            .collect();
        let (bytes, limit) = (fitting.iter().map(|record| record.value.len()).sum(), self.inner.config.batch_bytes);
        let fitting_count = fitting.len() as u64;
        let mut written = if bytes > limit {
            vec![Err(PublishError::BatchTooLarge { bytes, limit }); fitting.len()]
        } else {
            let stored = self.inner.config.stored_name(topic);
            self.inner.publisher.publish(topic, &stored, partitions, &fitting).await
        }
        .into_iter();
        let results: Vec<Result<(u32, Position), PublishError>> = refused
            .into_iter()
            .map(|refused| match refused {
                Some(refused) => Err(refused),
                None => written.next().unwrap_or(Err(PublishError::Closed)),
            })
            .collect();
        let failed = results.iter().filter(|result| result.is_err()).count() as u64;
        let (name, published) = (topic.to_owned(), (count as u64).saturating_sub(failed).min(fitting_count));
        metrics::counter!("flywheel_bus_published_records_total", "topic" => name.clone()).increment(published);
        metrics::counter!("flywheel_bus_refused_records_total", "topic" => name).increment(failed);
        results
    }

    async fn publish_control(&self, topic: &str, kind: &str, subject: &str, value: Bytes) -> Result<(), PublishError> {
        let Some(control) = Control::new(kind, subject, value) else {
            return Err(PublishError::Storage("a control record needs a kind, and short names".into()));
        };
        let (value, limit) = (control.encode(), self.inner.config.record_bytes);
        if value.len() > limit {
            return Err(PublishError::RecordTooLarge { bytes: value.len(), limit });
        }
        let partitions = self.inner.partitions(topic).await?;
        let (inner, stored) = (Arc::clone(&self.inner), self.inner.config.stored_name(topic));
        let write = move || inner.publisher.publish_control(&stored, partitions, &value);
        Ok(Arc::clone(&self.inner).blocking(write).await?)
    }

    async fn tail(&self, topic: &str, reader: &str, from: Positions) -> Result<Box<dyn Tail>, BusError> {
        tail::open(Arc::clone(&self.inner), topic, Some(reader), from).await
    }

    async fn look(&self, topic: &str, from: Positions) -> Result<Box<dyn Tail>, BusError> {
        tail::open(Arc::clone(&self.inner), topic, None, from).await
    }

    async fn forget_reader(&self, topic: &str, reader: &str) -> Result<(), BusError> {
        self.inner.forget_reader(topic, reader).await
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
        step::run(Arc::clone(&self.inner), spec, handler, shutdown).await
    }

    async fn step_lag(&self, step: &str) -> Result<StepLag, BusError> {
        self.inner.step_lag(step).await
    }
}
