//! Topics: creating them, checking them, and the changelogs of steps.
//!
//! What a topic may hold is ordered: an event as it is published is the smallest, what a step makes of it may be
//! larger, a value of keyed state larger still, and a dead letter holds any of them with its reasons. So whatever was
//! taken in at the door can go all the way, and nothing fails half-way for its size.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigSource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::error::RDKafkaErrorCode;

use super::client::Context;
use super::config::KafkaConfig;
use crate::error::BusError;
use crate::record::{Retention, TopicSpec};

/// Topics have at most that many partitions.
const MOST_PARTITIONS: u32 = 4096;

/// Dead letters of every service lie in topics of such names.
const DEAD_LETTERS: &str = "dead";

/// Records are deleted by whole segments; a segment ends after a tenth of the retention, so that what is kept beyond it
/// is little.
const SEGMENTS_PER_RETENTION: u32 = 10;
const SHORTEST_SEGMENT: Duration = Duration::from_secs(60);
const LONGEST_SEGMENT: Duration = Duration::from_secs(86_400);

/// What a topic is for decides how large its records may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    /// Records of the door.
    Raw,
    /// Records of steps and of the control plane.
    Derived,
    /// Dead letters.
    DeadLetters,
}

impl Purpose {
    fn of(topic: &str) -> Self {
        match topic {
            events::topics::TELEMETRY_RAW => Self::Raw,
            name if name.contains(DEAD_LETTERS) => Self::DeadLetters,
            _ => Self::Derived,
        }
    }

    /// Largest message of such a topic.
    pub(super) const fn message_bytes(self, record_bytes: usize) -> usize {
        let value = match self {
            Self::Raw => record_bytes,
            Self::Derived => record_bytes.saturating_mul(2),
            Self::DeadLetters => record_bytes.saturating_mul(8),
        };
        KafkaConfig::topic_bytes(value)
    }
}

/// Checks that need no broker.
pub(super) fn check(config: &KafkaConfig, specs: &[TopicSpec]) -> Result<(), BusError> {
    for spec in specs {
        if spec.name.is_empty() || config.stored_name(&spec.name).len() > 249 {
            return Err(BusError::Invalid("a topic's name has 1 to 249 bytes, the prefix included".into()));
        }
        if spec.partitions == 0 || spec.partitions > MOST_PARTITIONS {
            let message = format!("topic {} must have 1 to {MOST_PARTITIONS} partitions", spec.name);
            return Err(BusError::Invalid(message));
        }
    }
    Ok(())
}

/// The settings of a topic that are ours.
fn settings(config: &KafkaConfig, spec: &TopicSpec) -> BTreeMap<&'static str, String> {
    let Retention { age, partition_bytes } = spec.retention;
    let forever = || "-1".to_owned();
    let mut settings = BTreeMap::from([
        ("cleanup.policy", "delete".to_owned()),
        ("retention.ms", age.map_or_else(forever, |age| age.as_millis().to_string())),
        ("retention.bytes", partition_bytes.map_or_else(forever, |bytes| bytes.to_string())),
        ("max.message.bytes", Purpose::of(&spec.name).message_bytes(config.record_bytes).to_string()),
        ("min.insync.replicas", min_insync_replicas(config).to_string()),
    ]);
    if let Some(age) = age {
        let segment = (age / SEGMENTS_PER_RETENTION).clamp(SHORTEST_SEGMENT, LONGEST_SEGMENT);
        settings.insert("segment.ms", segment.as_millis().to_string());
    }
    settings
}

/// A majority of the copies: one broker may be away, and what was acknowledged then is still in two places.
const fn min_insync_replicas(config: &KafkaConfig) -> u16 {
    config.replication / 2 + 1
}

/// Creates a topic that is absent.
pub(super) async fn create(
    admin: &AdminClient<Context>,
    context: &Context,
    config: &KafkaConfig,
    spec: &TopicSpec,
) -> Result<(), BusError> {
    create_with(admin, context, config, &spec.name, spec.partitions, &settings(config, spec)).await
}

/// Creates the changelog of a step whose values of state have at most `state_bytes`.
pub(super) async fn create_changelog(
    admin: &AdminClient<Context>,
    context: &Context,
    config: &KafkaConfig,
    name: &str,
    partitions: u32,
    state_bytes: usize,
) -> Result<(), BusError> {
    let bytes = state_bytes.max(config.record_bytes.saturating_mul(2));
    let settings = BTreeMap::from([
        ("cleanup.policy", "compact".to_owned()),
        // What is gone stays known for that long: copies on disks rely on it (state.rs).
        ("delete.retention.ms", (2 * super::state::TRUSTED.as_millis()).to_string()),
        ("max.message.bytes", KafkaConfig::topic_bytes(bytes).to_string()),
        ("min.insync.replicas", min_insync_replicas(config).to_string()),
    ]);
    create_with(admin, context, config, name, partitions, &settings).await
}

/// One that somebody else has created meanwhile is as good.
async fn create_with(
    admin: &AdminClient<Context>,
    context: &Context,
    config: &KafkaConfig,
    name: &str,
    partitions: u32,
    settings: &BTreeMap<&'static str, String>,
) -> Result<(), BusError> {
    let stored = config.stored_name(name);
    let partitions = i32::try_from(partitions).unwrap_or(i32::MAX);
    let mut topic = NewTopic::new(&stored, partitions, TopicReplication::Fixed(i32::from(config.replication)));
    for (name, value) in settings {
        topic = topic.set(name, value);
    }
    let created = admin
        .create_topics([&topic], &options(config))
        .await
        .map_err(|error| context.error("Kafka topics can not be created", &error))?;
    for result in created {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, RDKafkaErrorCode::InvalidReplicationFactor)) => {
                return Err(BusError::Invalid(format!(
                    "Kafka topic {name} can not have {} copies: there are fewer brokers",
                    config.replication
                )));
            }
            Err((name, code)) => return Err(BusError::Storage(format!("Kafka topic {name}: {code}"))),
        }
    }
    Ok(())
}

/// Checks a topic that is there, and brings its settings up to date. Settings of the topic that are not ours stay: the
/// brokers take a list of settings for all there is, so theirs are sent along.
pub(super) async fn update(
    admin: &AdminClient<Context>,
    context: &Context,
    config: &KafkaConfig,
    spec: &TopicSpec,
) -> Result<(), BusError> {
    let stored = config.stored_name(&spec.name);
    let doing = format!("the settings of Kafka topic {stored} can not be had");
    let described = admin
        .describe_configs([&ResourceSpecifier::Topic(&stored)], &options(config))
        .await
        .map_err(|error| context.error(&doing, &error))?;
    let Some(found) = described.into_iter().next() else { return Err(BusError::Storage(doing)) };
    let found = found.map_err(|code| BusError::Storage(format!("{doing}: {code}")))?;
    let present = |name: &str| found.get(name).and_then(|entry| entry.value.clone());
    if present("cleanup.policy").is_some_and(|policy| policy.contains("compact")) {
        return Err(BusError::Invalid(format!(
            "Kafka topic {stored} is compacted: it would lose every record of a key but the last"
        )));
    }
    let wanted = settings(config, spec);
    if wanted.iter().all(|(name, value)| present(name).as_ref() == Some(value)) {
        return Ok(());
    }
    let mut all: BTreeMap<&str, &str> = found
        .entries
        .iter()
        .filter(|entry| entry.source == ConfigSource::DynamicTopic)
        .filter_map(|entry| Some((entry.name.as_str(), entry.value.as_deref()?)))
        .collect();
    all.extend(wanted.iter().map(|(name, value)| (*name, value.as_str())));
    let mut alter = AlterConfig::new(ResourceSpecifier::Topic(&stored));
    for (name, value) in all {
        alter = alter.set(name, value);
    }
    let doing = format!("the settings of Kafka topic {stored} can not be changed");
    let altered =
        admin.alter_configs([&alter], &options(config)).await.map_err(|error| context.error(&doing, &error))?;
    for result in altered {
        result.map_err(|(_, code)| BusError::Storage(format!("{doing}: {code}")))?;
    }
    Ok(())
}

fn options(config: &KafkaConfig) -> AdminOptions {
    let timeout = Duration::from_millis(config.request_timeout_ms);
    AdminOptions::new().request_timeout(Some(timeout)).operation_timeout(Some(timeout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_taken_in_fits_all_the_way() {
        let bytes = [Purpose::Raw, Purpose::Derived, Purpose::DeadLetters].map(|purpose| purpose.message_bytes(1_000));
        assert!(bytes[0] > 1_000 && bytes.is_sorted_by(|less, more| less < more), "{bytes:?}");
        assert_eq!(Purpose::of(events::topics::DEAD_LETTERS), Purpose::DeadLetters);
        assert_eq!(Purpose::of(events::topics::TELEMETRY_RAW), Purpose::Raw);
        assert_eq!(Purpose::of(events::topics::PREFERENCE_PAIRS), Purpose::Derived);
    }

    #[test]
    fn one_of_three_brokers_may_be_away_and_none_of_one() {
        let of = |replication| min_insync_replicas(&KafkaConfig { replication, ..KafkaConfig::default() });
        assert_eq!([1, 3, 5].map(of), [1, 2, 3]);
    }
}
