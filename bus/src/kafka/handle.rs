//! The handle: the interface of the bus, and what all its parts share.

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

use super::client::{Context, OurConsumer, Questions};
use super::config::KafkaConfig;
use super::existing::Mending;
use super::publish::Publisher;
use super::registry::{Opened, Schemas};
use super::status::{LivePartition, StepPlace};
use super::topics::Wanted;
use super::{existing, keeper, topics, versions};
use crate::control::Control;
use crate::error::{BusError, PublishError};
use crate::interface::{Bus, History, Loss, LossBook, StepLag, Tail, TopicStatus};
use crate::record::{Position, Positions, Record, Retention, TopicSpec};
use crate::sizes::Sizes;
use crate::step::{StepHandler, StepSpec};

/// A handle to the brokers. Clones share it.
#[derive(Clone)]
pub struct KafkaBus {
    pub(super) inner: Arc<Inner>,
}

/// What steps need besides the brokers.
#[derive(Debug, Clone)]
pub struct KafkaSteps {
    /// Where partitions are leased: a database that all processes share.
    pub leases: LeaseStore,
    /// Where the copies of state lie: this process's own while it runs.
    pub state_dir: PathBuf,
}

/// What all clones share.
pub(super) struct Inner {
    pub(super) config: KafkaConfig,
    pub(super) context: Context,
    pub(super) questions: Questions,
    pub(super) schemas: Schemas,
    pub(super) publisher: Publisher,
    pub(super) clock: SharedClock,
    steps: Option<KafkaSteps>,
    pub(super) runtime: tokio::runtime::Handle,
    /// What steps read, by the callers' names.
    pub(super) inputs: Mutex<HashMap<String, String>>,
    pub(super) live: Mutex<HashMap<StepPlace, LivePartition>>,
    /// Clients by the group that they speak for.
    pub(super) groups: Mutex<HashMap<String, Arc<OurConsumer>>>,
    pub(super) admin: AdminClient<Context>,
    /// Number of partitions by the callers' name.
    pub(super) topics: RwLock<HashMap<String, u32>>,
    /// Who must see every record of a topic, by the callers' name: as this process was told.
    pub(super) registered: Mutex<HashMap<String, Registered>>,
}

/// Who must see every record of a topic.
#[derive(Debug, Clone, Default)]
pub(super) struct Registered {
    pub(super) retention: Retention,
    pub(super) steps: BTreeSet<String>,
    pub(super) readers: BTreeSet<String>,
}

/// What is found when a topic is looked at.
enum Found {
    Nothing,
    /// It can be used, once this is changed.
    Topic(Option<Mending>),
}

impl KafkaBus {
    /// Reaches the brokers. Without `steps` no step can be run.
    ///
    /// # Errors
    /// When a setting can not be used, or no broker lets us in: the sentence says why.
    pub async fn open(config: KafkaConfig, clock: SharedClock, steps: Option<KafkaSteps>) -> Result<Self, BusError> {
        Self::open_as(config, clock, steps, Opened::ToWork).await
    }

    /// The same for whoever looks: nothing is registered at the registry of schemas, and what it does not know can be
    /// read and not written.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_to_look(
        config: KafkaConfig,
        clock: SharedClock,
        steps: Option<KafkaSteps>,
    ) -> Result<Self, BusError> {
        Self::open_as(config, clock, steps, Opened::ToLook).await
    }

    async fn open_as(
        config: KafkaConfig,
        clock: SharedClock,
        steps: Option<KafkaSteps>,
        to: Opened,
    ) -> Result<Self, BusError> {
        config.check().map_err(|invalid| BusError::Invalid(invalid.to_string()))?;
        config.tls.check_files()?;
        let context = Context::new(&config)?;
        context.renew_token().await?;
        let schemas = Schemas::open(&config, to).await?;
        let opened = tokio::task::spawn_blocking(move || Inner::open(config, context, schemas, clock, steps)).await;
        let inner = opened.unwrap_or_else(|error| Err(BusError::Storage(error.to_string())))?;
        let inner = Arc::new(inner);
        tokio::spawn(keeper::keep(Arc::downgrade(&inner)));
        Ok(Self { inner })
    }
}

impl Inner {
    fn open(
        config: KafkaConfig,
        context: Context,
        schemas: Schemas,
        clock: SharedClock,
        steps: Option<KafkaSteps>,
    ) -> Result<Self, BusError> {
        let questions = Questions::new(&config, &context)?;
        // Any question will do: what matters is who answers.
        questions.partitions(&config.stored_name(events::topics::TELEMETRY_RAW))?;
        versions::check(&config, &context)?;
        let admin: AdminClient<Context> = config
            .client()?
            .create_with_context(context.clone())
            .map_err(|error| BusError::Invalid(format!("the Kafka client refuses its settings: {error}")))?;
        context.give_token(admin.inner())?;
        let publisher = Publisher::new(&config, &context, Arc::clone(&clock))?;
        Ok(Self {
            config,
            context,
            questions,
            schemas,
            publisher,
            clock,
            steps,
            runtime: tokio::runtime::Handle::current(),
            inputs: Mutex::default(),
            live: Mutex::default(),
            groups: Mutex::default(),
            admin,
            topics: RwLock::default(),
            registered: Mutex::default(),
        })
    }

    /// A value as it stands at the brokers, for a topic by the name that they know.
    pub(super) fn outgoing(&self, stored: &str, value: &Bytes) -> Result<Bytes, BusError> {
        self.schemas.outgoing(stored.strip_prefix(&self.config.prefix).unwrap_or(stored), value)
    }

    pub(super) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.config.request_timeout_ms)
    }

    /// What steps need, where they may run.
    pub(super) fn steps(&self) -> Result<&KafkaSteps, BusError> {
        self.steps.as_ref().ok_or_else(|| BusError::Invalid("this process can not run steps: it has no leases".into()))
    }

    /// How long an owner of a partition may be silent.
    pub(super) fn lease(&self) -> Duration {
        Duration::from_millis(self.config.lease_ms)
    }

    /// Runs what blocks on a thread that may.
    pub(super) async fn blocking<R: Send + 'static>(
        self: Arc<Self>,
        work: impl FnOnce() -> Result<R, BusError> + Send + 'static,
    ) -> Result<R, BusError> {
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or_else(|error| Err(BusError::Storage(error.to_string())))
    }

    /// Number of partitions of a topic. It never changes: keys would move.
    pub(super) async fn partitions(self: &Arc<Self>, topic: &str) -> Result<u32, BusError> {
        if let Some(partitions) = self.topics.read().get(topic) {
            return Ok(*partitions);
        }
        let partitions = self.ask_partitions(topic).await?.ok_or_else(|| BusError::UnknownTopic(topic.to_owned()))?;
        self.topics.write().insert(topic.to_owned(), partitions);
        Ok(partitions)
    }

    pub(super) async fn ask_partitions(self: &Arc<Self>, topic: &str) -> Result<Option<u32>, BusError> {
        let (inner, stored) = (Arc::clone(self), self.config.stored_name(topic));
        Arc::clone(self).blocking(move || inner.questions.partitions(&stored)).await
    }

    pub(super) async fn create_topics(self: &Arc<Self>, specs: &[TopicSpec]) -> Result<(), BusError> {
        topics::check(&self.config, specs)?;
        // All checks come first: what is refused must have changed nothing.
        let (mut absent, mut mendings) = (Vec::new(), Vec::new());
        for spec in specs {
            let wanted = Wanted::records(&self.config, spec);
            match self.look_at(&wanted).await? {
                Found::Nothing => absent.push(wanted),
                Found::Topic(mending) => mendings.extend(mending),
            }
            for step in &spec.steps {
                let changelog = Wanted::changelog(&self.config, &topics::changelog_of(step), spec.partitions, 0);
                // One that is absent is created by the step.
                if let Found::Topic(mending) = self.look_at(&changelog).await? {
                    mendings.extend(mending);
                }
            }
        }
        for mending in &mendings {
            topics::mend(&self.admin, &self.context, &self.config, mending).await?;
        }
        for wanted in absent {
            topics::create(&self.admin, &self.context, &self.config, &wanted).await?;
            self.appears(&wanted.name, wanted.partitions).await?;
        }
        for spec in specs {
            self.register(spec);
        }
        Ok(())
    }

    /// Whether a topic is there, and can be used as it is or with some changes.
    async fn look_at(self: &Arc<Self>, wanted: &Wanted) -> Result<Found, BusError> {
        let (inner, stored) = (Arc::clone(self), wanted.stored.clone());
        let copies = Arc::clone(self).blocking(move || inner.questions.copies(&stored)).await?;
        let Some(copies) = copies else { return Ok(Found::Nothing) };
        existing::check_shape(wanted, &copies)?;
        let settings = topics::described(&self.admin, &self.context, &self.config, &wanted.stored).await?;
        Ok(Found::Topic(existing::check_settings(wanted, &copies, &settings)?))
    }

    /// A step as it runs here: with room in its state for everything that its input may hold, and a changelog that can
    /// be used, if there is one.
    async fn prepare_step(self: &Arc<Self>, mut spec: StepSpec) -> Result<StepSpec, BusError> {
        let sizes = Sizes::of(self.config.record_bytes);
        spec.limits.state_value_bytes = spec.limits.state_value_bytes.max(sizes.state);
        if spec.limits.state_value_bytes >= sizes.dead_letter {
            return Err(BusError::Invalid(format!(
                "step {} keeps values of up to {} bytes, and dead letters have at most {}: raise \
                 `bus.kafka.record_bytes`",
                spec.name, spec.limits.state_value_bytes, sizes.dead_letter
            )));
        }
        let (name, partitions) = (topics::changelog_of(&spec.name), self.partitions(&spec.input).await?);
        let wanted = Wanted::changelog(&self.config, &name, partitions, spec.limits.state_value_bytes);
        if let Found::Topic(Some(mending)) = self.look_at(&wanted).await? {
            topics::mend(&self.admin, &self.context, &self.config, &mending).await?;
        }
        Ok(spec)
    }

    /// Waits until every broker that answers knows a new topic: it is created before all of them have heard of it.
    pub(super) async fn appears(self: &Arc<Self>, topic: &str, partitions: u32) -> Result<(), BusError> {
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

    pub(super) fn register(&self, spec: &TopicSpec) {
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

    pub(super) fn register_reader(&self, topic: &str, reader: &str) {
        self.registered.lock().entry(topic.to_owned()).or_default().readers.insert(reader.to_owned());
    }
}

#[async_trait]
impl Bus for KafkaBus {
    async fn create_topics(&self, specs: &[TopicSpec]) -> Result<(), BusError> {
        self.inner.create_topics(specs).await
    }

    async fn use_topics(&self, specs: &[TopicSpec]) -> Result<(), BusError> {
        for spec in specs {
            // Keys may be made before the first service has made the topics.
            let Some(actual) = self.inner.ask_partitions(&spec.name).await? else { continue };
            if actual != spec.partitions {
                let (topic, expected) = (spec.name.clone(), spec.partitions);
                return Err(BusError::PartitionsDiffer { topic, expected, actual });
            }
            self.inner.register(spec);
        }
        Ok(())
    }

    async fn check(&self) -> Result<(), BusError> {
        if self.inner.context.refused().is_some() {
            // One connection was refused; whether that is still so, and for all, a new one tells.
            let knocking = Arc::clone(&self.inner);
            return Arc::clone(&self.inner).blocking(move || knocking.knock()).await;
        }
        if self.inner.context.forbidden.is_anything() {
            let asking = Arc::clone(&self.inner);
            Arc::clone(&self.inner).blocking(move || asking.check_rights()).await?;
        }
        self.inner.ask_partitions(events::topics::TELEMETRY_RAW).await.map(drop)
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
        let limit = Sizes::of(self.inner.config.record_bytes).of_topic(topic);
        let (mut refused, mut fitting) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for record in records {
            let bytes = record.value.len();
            let value = if bytes > limit {
                Err(PublishError::RecordTooLarge { bytes, limit })
            } else {
                self.inner.schemas.outgoing(topic, &record.value).map_err(PublishError::from)
            };
            refused.push(value.as_ref().err().cloned());
            fitting.extend(value.map(|value| Record { key: record.key, value }));
        }
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
        super::tail::open(Arc::clone(&self.inner), topic, Some(reader), from).await
    }

    async fn look(&self, topic: &str, from: Positions) -> Result<Box<dyn Tail>, BusError> {
        super::tail::open(Arc::clone(&self.inner), topic, None, from).await
    }

    async fn forget_reader(&self, topic: &str, reader: &str) -> Result<(), BusError> {
        self.inner.forget_reader(topic, reader).await
    }

    async fn history(&self, topic: &str, from: Positions, until: Positions) -> Result<Box<dyn History>, BusError> {
        super::history::open(Arc::clone(&self.inner), topic, from, until).await
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
        let spec = self.inner.prepare_step(spec).await?;
        super::step::run(Arc::clone(&self.inner), spec, handler, shutdown).await
    }

    async fn step_lag(&self, step: &str) -> Result<StepLag, BusError> {
        self.inner.step_lag(step).await
    }

    async fn skip_lost(&self, step: &str, partition: u32, book: &dyn LossBook) -> Result<Loss, BusError> {
        super::skip::skip_lost(&self.inner, step, partition, book).await
    }
}
