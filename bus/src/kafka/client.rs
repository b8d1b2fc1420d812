//! Clients of the brokers, and what their errors mean to us.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::config::KafkaConfig;
use crate::error::BusError;

/// How soon a question is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// What a client says while it works. Why the brokers do not let it in is told here and nowhere else: the call that
/// failed knows only that no broker could be reached.
#[derive(Debug, Clone, Default)]
pub(super) struct Context {
    refused: Arc<Mutex<Option<String>>>,
}

impl Context {
    /// Why the brokers do not let us in, if they do not.
    pub(super) fn refused(&self) -> Option<String> {
        self.refused.lock().clone()
    }

    /// An error of a client, with the reason why we are not let in, if that is known.
    pub(super) fn error(&self, doing: &str, error: &KafkaError) -> BusError {
        let code = error.rdkafka_error_code();
        let code = code.map_or_else(|| error.to_string(), |code| code.to_string());
        match self.refused() {
            Some(reason) => BusError::Storage(format!("{doing}: {code} ({reason})")),
            None => BusError::Storage(format!("{doing}: {code}")),
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => tracing::debug!(facility, message, "kafka client"),
            _ => tracing::trace!(facility, message, "kafka client"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::SaslAuthenticationFailed
                | RDKafkaErrorCode::UnsupportedSASLMechanism
                | RDKafkaErrorCode::SSL,
            ) => {
                let mut refused = self.refused.lock();
                if refused.as_deref() != Some(reason) {
                    tracing::error!(reason, "the Kafka brokers do not let us in");
                    *refused = Some(reason.to_owned());
                }
            }
            // Repeated for as long as the brokers are away; whoever needs them says so once.
            _ => tracing::debug!(%error, reason, "kafka client"),
        }
    }
}

impl ConsumerContext for Context {}

/// A consumer of ours.
pub(super) type OurConsumer = BaseConsumer<Context>;

/// Which records a client counts as being there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isolation {
    /// Those whose transaction was committed; an open one hides everything behind it.
    Committed,
    /// Everything, also of open and of aborted transactions.
    Uncommitted,
}

impl Isolation {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Committed => "read_committed",
            Self::Uncommitted => "read_uncommitted",
        }
    }
}

/// Makes a consumer.
pub(super) fn consumer(
    config: &KafkaConfig,
    context: &Context,
    group: &str,
    isolation: Isolation,
    change: impl FnOnce(&mut ClientConfig),
) -> Result<OurConsumer, BusError> {
    let mut client = config.consumer(group)?;
    client.set("isolation.level", isolation.name());
    change(&mut client);
    client
        .create_with_context(context.clone())
        .map_err(|error| BusError::Invalid(format!("the Kafka client refuses its settings: {error}")))
}

/// Asks the brokers questions. All of this blocks.
pub(super) struct Questions {
    committed: OurConsumer,
    uncommitted: OurConsumer,
    context: Context,
    timeout: Duration,
}

impl Questions {
    pub(super) fn new(config: &KafkaConfig, context: &Context) -> Result<Self, BusError> {
        let open = |isolation| consumer(config, context, "questions", isolation, |_| {});
        Ok(Self {
            committed: open(Isolation::Committed)?,
            uncommitted: open(Isolation::Uncommitted)?,
            context: context.clone(),
            timeout: Duration::from_millis(config.request_timeout_ms),
        })
    }

    fn client(&self, isolation: Isolation) -> &OurConsumer {
        match isolation {
            Isolation::Committed => &self.committed,
            Isolation::Uncommitted => &self.uncommitted,
        }
    }

    /// An error, after what the client had to say besides was heard.
    fn failed(&self, client: &OurConsumer, doing: &str, error: &KafkaError) -> BusError {
        for _ in 0..16 {
            if client.poll(Duration::from_millis(5)).is_none() {
                break;
            }
        }
        self.context.error(doing, error)
    }

    /// Number of partitions of a topic; none when there is no such topic.
    pub(super) fn partitions(&self, stored: &str) -> Result<Option<u32>, BusError> {
        let client = &self.committed;
        let metadata = client
            .fetch_metadata(Some(stored), self.timeout)
            .map_err(|error| self.failed(client, "the Kafka brokers do not answer", &error))?;
        let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == stored) else { return Ok(None) };
        match topic.error().map(RDKafkaErrorCode::from) {
            None if topic.partitions().is_empty() => Ok(None),
            None => Ok(u32::try_from(topic.partitions().len()).ok()),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(None),
            Some(code) => Err(BusError::Storage(format!("Kafka topic {stored}: {code}"))),
        }
    }

    /// Where every partition begins.
    pub(super) fn oldest(&self, stored: &str, partitions: &[u32]) -> Result<Vec<u64>, BusError> {
        self.offsets(Isolation::Uncommitted, stored, partitions, Offset::Beginning)
    }

    /// Where every partition ends: for what is committed, before the first open transaction.
    pub(super) fn ends(&self, isolation: Isolation, stored: &str, partitions: &[u32]) -> Result<Vec<u64>, BusError> {
        self.offsets(isolation, stored, partitions, Offset::End)
    }

    /// Where one partition ends.
    pub(super) fn end(&self, isolation: Isolation, stored: &str, partition: u32) -> Result<u64, BusError> {
        let ends = self.ends(isolation, stored, &[partition])?;
        ends.first().copied().ok_or_else(|| BusError::UnknownTopic(stored.to_owned()))
    }

    /// The topics whose stored names begin with `prefix`, and their numbers of partitions.
    pub(super) fn topics(&self, prefix: &str) -> Result<Vec<(String, u32)>, BusError> {
        let client = &self.committed;
        let metadata = client
            .fetch_metadata(None, self.timeout)
            .map_err(|error| self.failed(client, "the Kafka brokers do not answer", &error))?;
        let ours = metadata.topics().iter().filter(|topic| topic.name().starts_with(prefix));
        Ok(ours.map(|topic| (topic.name().to_owned(), u32::try_from(topic.partitions().len()).unwrap_or(0))).collect())
    }

    /// One question for all partitions: the offset of a "time" that means the beginning or the end. A broker that does
    /// not lead a partition yet, or any more, says so; then it is asked again, as the client itself does elsewhere.
    fn offsets(
        &self,
        isolation: Isolation,
        stored: &str,
        partitions: &[u32],
        which: Offset,
    ) -> Result<Vec<u64>, BusError> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let client = self.client(isolation);
        let deadline = Instant::now() + self.timeout;
        loop {
            match self.offsets_once(client, stored, partitions, which) {
                Err(error) if may_pass(&error) && Instant::now() < deadline => std::thread::sleep(ASK_AGAIN),
                Err(error) => {
                    let doing = format!("the positions of Kafka topic {stored} can not be had");
                    return Err(self.failed(client, &doing, &error));
                }
                Ok(offsets) => return Ok(offsets),
            }
        }
    }

    fn offsets_once(
        &self,
        client: &OurConsumer,
        stored: &str,
        partitions: &[u32],
        which: Offset,
    ) -> Result<Vec<u64>, KafkaError> {
        let mut asked = TopicPartitionList::new();
        for partition in partitions {
            asked.add_partition_offset(stored, number(*partition), which)?;
        }
        let answered = client.offsets_for_times(asked, self.timeout)?;
        let mut offsets = vec![None; partitions.len()];
        for element in answered.elements() {
            element.error()?;
            let place = partitions.iter().position(|partition| number(*partition) == element.partition());
            let place = place.and_then(|place| offsets.get_mut(place));
            if let (Some(place), Offset::Offset(offset)) = (place, element.offset()) {
                *place = u64::try_from(offset).ok();
            }
        }
        let offsets: Option<Vec<u64>> = offsets.into_iter().collect();
        offsets.ok_or(KafkaError::OffsetFetch(RDKafkaErrorCode::NoOffset))
    }
}

/// Whether an answer is of the kind that another one follows by itself.
fn may_pass(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::FencedLeaderEpoch
                | RDKafkaErrorCode::UnknownLeaderEpoch
                | RDKafkaErrorCode::OffsetNotAvailable
        )
    )
}

/// Partitions are signed where Kafka names them.
pub(super) fn number(partition: u32) -> i32 {
    i32::try_from(partition).unwrap_or(i32::MAX)
}

/// A position as Kafka writes it.
pub(super) fn offset(position: u64) -> Offset {
    Offset::Offset(i64::try_from(position).unwrap_or(i64::MAX))
}
