//! Publishing: an idempotent producer, and transactions for control records.
//!
//! An `Ok` comes after every copy that must have the record has acknowledged it. The client sends again by itself until
//! [`KafkaConfig::delivery_timeout_ms`](super::KafkaConfig::delivery_timeout_ms), and because it is idempotent, a record
//! whose acknowledgement was lost stands in the log once. A record that ran out of time is answered with an error; the
//! brokers may still have it, which only its own id can tell (ingest's ids do).
//!
//! An idempotent producer that has failed for good (its numbers no longer fit those of the brokers) can do nothing more;
//! it is replaced by a new one, which the next call uses.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{Producer, ThreadedProducer};
use service::clock::SharedClock;

use super::client::{Context, close, number};
use super::config::KafkaConfig;
use super::delivery::{Batch, Fate, Message, OurProducer, QUEUE_FULL, send, send_blocking};
use super::forbidden::{self, Need};
use super::record::headers;
use super::rights::Operation;
use crate::error::{BusError, PublishError};
use crate::partition::partition_for;
use crate::record::{Position, Record, RecordKey};

/// How long a control record may take. While it does, it hides what comes behind it, also when we end in the middle.
const CONTROL: Duration = Duration::from_secs(10);
/// How much later than it should a call may answer before it is left alone.
const ANSWER_LATE: Duration = Duration::from_secs(1);
/// How often it is looked whether the client has told all that it tells of at once.
const COUNT_LOOK: Duration = Duration::from_micros(50);

/// What the transactional ids of control records begin with.
pub(super) const CONTROL_IDS: &str = "control-";

/// The producers of a bus.
pub(super) struct Publisher {
    config: KafkaConfig,
    context: Context,
    clock: SharedClock,
    producer: Mutex<Option<OurProducer>>,
    /// For control records, which go to all partitions or to none. One transaction at a time.
    control: Arc<Mutex<Option<OurProducer>>>,
    /// Under which name control records are written: like no other.
    control_name: String,
}

impl Publisher {
    pub(super) fn new(config: &KafkaConfig, context: &Context, clock: SharedClock) -> Result<Self, BusError> {
        let publisher = Self {
            config: config.clone(),
            context: context.clone(),
            clock,
            producer: Mutex::new(None),
            control: Arc::default(),
            control_name: config.stored_name(&format!("{CONTROL_IDS}{}", hex::encode(rand::random::<[u8; 12]>()))),
        };
        drop(publisher.producer()?);
        Ok(publisher)
    }

    fn producer(&self) -> Result<OurProducer, BusError> {
        let mut producer = self.producer.lock();
        if let Some(producer) = producer.as_ref() {
            return Ok(producer.clone());
        }
        let mut client = self.config.producer()?;
        client.set("linger.ms", self.config.linger_ms.to_string());
        let made: ThreadedProducer<Context> = client
            .create_with_context(self.context.clone())
            .map_err(|error| BusError::Invalid(format!("the Kafka client refuses its settings: {error}")))?;
        Ok(producer.insert(Arc::new(made)).clone())
    }

    /// The next call makes new producers: those of now believe what was true before.
    pub(super) fn begin_anew(&self) {
        let before = self.producer.lock().take();
        close(before);
    }

    /// A producer that can do nothing more makes room for a new one.
    fn replace_if_failed(&self, failed: OurProducer) {
        if let Some((code, reason)) = failed.client().fatal_error() {
            tracing::error!(%code, reason, "the Kafka producer has failed for good and is replaced");
            // Only the one that failed: another call may have replaced it already.
            let replaced = self.producer.lock().take_if(|producer| producer.client().fatal_error().is_some());
            close((replaced, failed));
        }
    }

    /// Publishes records that are small enough to a topic that exists. One result per record.
    pub(super) async fn publish(
        &self,
        topic: &str,
        stored: &str,
        partitions: u32,
        records: &[Record],
    ) -> Vec<Result<(u32, Position), PublishError>> {
        let producer = match self.producer() {
            Ok(producer) => producer,
            Err(error) => return vec![Err(error.into()); records.len()],
        };
        let deadline = Instant::now() + Duration::from_millis(self.config.publish_wait_ms);
        let batch = Batch::new(records.len());
        let mut handed = Vec::with_capacity(records.len());
        let mut overloaded = false;
        for record in records {
            let partition = partition_for(&record.key, partitions);
            let message = Message::with_opaque_to(stored, batch.ticket())
                .partition(number(partition))
                .key(&record.key.0)
                .payload(record.value.as_ref())
                .headers(headers(self.clock.now(), false));
            // Once one was refused, none after it may pass it.
            let sent = if overloaded { Err(QUEUE_FULL) } else { send(&producer, message, deadline).await };
            overloaded |= sent == Err(QUEUE_FULL);
            handed.push((partition, sent));
        }
        let fates = batch.fates().await;
        let mut failed = false;
        let results = handed.into_iter().zip(fates).map(|((partition, sent), fate)| {
            let error = match (sent, fate) {
                (Ok(()), Fate::Written(offset)) => return Ok((partition, Position::from_offset(offset))),
                (Ok(()), Fate::Forgotten) => return Err(PublishError::Closed),
                (Err(QUEUE_FULL), _) => return Err(PublishError::Overloaded),
                (Ok(()), Fate::Failed(code)) => KafkaError::MessageProduction(code),
                (Err(error), _) => error,
            };
            failed = true;
            Err(self.refused(&producer, topic, stored, &error))
        });
        let results = results.collect();
        if failed {
            self.replace_if_failed(producer);
        }
        results
    }

    /// Writes a message as it is, and waits until it is durable.
    pub(super) async fn publish_raw(
        &self,
        stored: &str,
        partition: u32,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), BusError> {
        let producer = self.producer()?;
        let batch = Batch::new(1);
        let message =
            Message::with_opaque_to(stored, batch.ticket()).partition(number(partition)).key(key).payload(value);
        let deadline = Instant::now() + Duration::from_millis(self.config.publish_wait_ms);
        let error = match send(&producer, message, deadline).await {
            Ok(()) => match batch.fates().await.pop() {
                Some(Fate::Written(_)) => return Ok(()),
                Some(Fate::Failed(code)) => KafkaError::MessageProduction(code),
                Some(Fate::Forgotten) | None => KafkaError::Canceled,
            },
            Err(error) => error,
        };
        let doing = format!("Kafka did not acknowledge a message of {stored}");
        let refused = self.unacknowledged(&producer, &doing, stored, &error);
        self.replace_if_failed(producer);
        Err(refused)
    }

    /// Why a message of a topic was not acknowledged.
    fn unacknowledged(&self, producer: &OurProducer, doing: &str, stored: &str, error: &KafkaError) -> BusError {
        let needs = [Need::topic(Operation::Write, stored)];
        self.context.error_of(doing, &why(producer, error), &needs)
    }

    fn refused(&self, producer: &OurProducer, topic: &str, stored: &str, error: &KafkaError) -> PublishError {
        match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownPartition,
            ) => PublishError::UnknownTopic(topic.to_owned()),
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
                PublishError::RecordTooLarge { bytes: 0, limit: self.config.record_bytes }
            }
            _ => {
                let doing = format!("Kafka did not acknowledge a record of {topic}");
                self.unacknowledged(producer, &doing, stored, error).into()
            }
        }
    }

    /// Writes a control record to every partition, in one transaction. Blocks.
    pub(super) fn publish_control(&self, stored: &str, partitions: u32, value: &Bytes) -> Result<(), BusError> {
        let mut control = self.control.lock();
        let producer = match control.take() {
            Some(producer) => producer,
            None => self.control_producer()?,
        };
        let written = self.control_transaction(&producer, stored, partitions, value);
        // After a failure nothing is known of it: the next call makes a new one.
        if written.is_ok() {
            *control = Some(producer);
        } else {
            close(producer);
        }
        written
    }

    /// A transactional producer of this handle alone. One that takes the place of another ends what that had open.
    fn control_producer(&self) -> Result<OurProducer, BusError> {
        let mut client = self.config.producer()?;
        client
            .set("transactional.id", &self.control_name)
            .set("linger.ms", "0")
            .set("message.timeout.ms", CONTROL.as_millis().to_string())
            .set("transaction.timeout.ms", CONTROL.as_millis().to_string());
        let producer: ThreadedProducer<Context> = client
            .create_with_context(self.context.clone())
            .map_err(|error| BusError::Invalid(format!("the Kafka client refuses its settings: {error}")))?;
        let timeout = Duration::from_millis(self.config.request_timeout_ms);
        if let Err(error) = producer.init_transactions(timeout) {
            let needs = [Need::transactions(self.control_name.as_str())];
            let error = self.context.error_of("a Kafka transaction can not be begun", &error, &needs);
            close(producer);
            return Err(error);
        }
        self.context.forbidden.used_transactions(&self.control_name);
        Ok(Arc::new(producer))
    }

    fn control_transaction(
        &self,
        producer: &OurProducer,
        stored: &str,
        partitions: u32,
        value: &Bytes,
    ) -> Result<(), BusError> {
        let deadline = Instant::now() + CONTROL;
        let failed = |error: &KafkaError| {
            let needs = [Need::topic(Operation::Write, stored), Need::transactions(self.control_name.as_str())];
            self.context.error_of("Kafka did not acknowledge a control record", &why(producer, error), &needs)
        };
        producer.begin_transaction().map_err(|error| failed(&error))?;
        let at = self.clock.now();
        let key = RecordKey([0; 16]);
        let batch = Batch::new(partitions as usize);
        for partition in 0..partitions {
            let message = Message::with_opaque_to(stored, batch.ticket())
                .partition(number(partition))
                .key(&key.0)
                .payload(value.as_ref())
                .headers(headers(at, true));
            if let Err(error) = send_blocking(producer, message, deadline) {
                return Err(self.abort(producer, failed(&error)));
            }
        }
        let written = acknowledged(producer, &batch, deadline).and_then(|_| commit(producer, deadline));
        written.map_err(|error| self.abort(producer, failed(&error)))
    }

    /// Ends a transaction that failed, and answers why it did.
    fn abort(&self, producer: &OurProducer, error: BusError) -> BusError {
        let timeout = Duration::from_millis(self.config.request_timeout_ms);
        if let Err(error) = producer.abort_transaction(timeout) {
            // Its time-out ends it, and until then it hides what comes behind it.
            tracing::warn!(%error, "a Kafka transaction could not be aborted");
        }
        error
    }
}

/// An error of a producer; of one that can do nothing more for want of a right, that one.
pub(super) fn why(producer: &OurProducer, error: &KafkaError) -> KafkaError {
    let fatal = producer.client().fatal_error().map(|(code, _)| code).filter(|code| forbidden::is_refusal(*code));
    fatal.map_or_else(|| error.clone(), KafkaError::MessageProduction)
}

/// Waits until all messages of a transaction are acknowledged, and answers their positions.
pub(super) fn acknowledged(producer: &OurProducer, batch: &Batch, deadline: Instant) -> Result<Vec<u64>, KafkaError> {
    let timed_out = || KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut);
    let fates = batch.fates_until(deadline).ok_or_else(timed_out)?;
    // The client counts what it tells of at once until it has told all of it, and its own wait for that would look only
    // every 100 ms.
    while producer.in_flight_count() > 0 {
        if Instant::now() >= deadline {
            return Err(timed_out());
        }
        std::thread::sleep(COUNT_LOOK);
    }
    let (mut positions, mut failed) = (Vec::with_capacity(fates.len()), None);
    for fate in fates {
        match fate {
            Fate::Written(position) => positions.push(position),
            Fate::Forgotten => return Err(KafkaError::Canceled),
            Fate::Failed(code) if failed.is_none_or(is_taken_back) => failed = Some(code),
            Fate::Failed(_) => {}
        }
    }
    match failed {
        None => Ok(positions),
        Some(code) => Err(why_not_sent(producer, KafkaError::MessageProduction(code))),
    }
}

/// Why the client did not take a message of a transaction, or took it back. When the transaction had failed, that one
/// knows why, and says so when it is to be begun. One that is open and well can not be begun, either, and says only that.
pub(super) fn why_not_sent(producer: &OurProducer, error: KafkaError) -> KafkaError {
    const NOT_NOW: RDKafkaErrorCode = RDKafkaErrorCode::State;
    let code = error.rdkafka_error_code();
    if code.is_some_and(|code| is_taken_back(code) || code == NOT_NOW)
        && let Err(why) = producer.begin_transaction()
        && why.rdkafka_error_code() != Some(NOT_NOW)
    {
        why
    } else {
        error
    }
}

/// Whether a message was not sent because its transaction had failed.
fn is_taken_back(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight)
}

/// The position of a group that a thread adds to a transaction.
pub(super) struct Adding {
    answer: mpsc::Receiver<Result<(), KafkaError>>,
    until: Instant,
}

/// Begins to add the position of a group to a transaction, in `timeout`. Until it is added the client takes messages of
/// the transaction, and nothing else: see [`Adding::added`].
pub(super) fn add_position(
    producer: &OurProducer,
    offsets: TopicPartitionList,
    group: ConsumerGroupMetadata,
    timeout: Duration,
) -> Result<Adding, KafkaError> {
    let (told, answer) = mpsc::channel();
    let producer = producer.clone();
    let adding = std::thread::Builder::new().name("bus-kafka-offsets".into());
    adding
        .spawn(move || {
            // Nobody hears it any more after the time is over.
            let _unheard = told.send(producer.send_offsets_to_transaction(&offsets, &group, timeout));
        })
        .map_err(|_| KafkaError::Canceled)?;
    Ok(Adding { answer, until: Instant::now() + timeout + ANSWER_LATE })
}

impl Adding {
    /// Waits until it is added. The client's own call may never return when whoever keeps the positions is gone
    /// (librdkafka issues 5456 and 5511); it is then left alone with its client, which ends when it does, and the
    /// transaction is whoever's who begins the next one under the name.
    pub(super) fn added(self) -> Result<(), KafkaError> {
        let left = self.until.saturating_duration_since(Instant::now());
        self.answer.recv_timeout(left).unwrap_or_else(|_| {
            tracing::warn!("a Kafka client does not come back from adding a position, and is left for a new one");
            metrics::counter!("flywheel_bus_kafka_stalls_total").increment(1);
            Err(KafkaError::MessageProduction(RDKafkaErrorCode::OperationTimedOut))
        })
    }
}

/// Commits. A commit that is answered with "try again" may have been made; it is repeated until it is known.
pub(super) fn commit(producer: &OurProducer, deadline: Instant) -> Result<(), KafkaError> {
    loop {
        // The client waits for messages and then for the brokers, each up to the time that it is given.
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)) / 2;
        match producer.commit_transaction(left) {
            Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < deadline => {}
            result => return result,
        }
    }
}
