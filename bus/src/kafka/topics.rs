//! Topics: what they must be like, creating them, and mending the settings of those that are there (`existing.rs` says
//! what is wrong with them).

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigSource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::error::RDKafkaErrorCode;

use super::client::Context;
use super::config::KafkaConfig;
use super::existing::{Existing, Mending};
use crate::error::BusError;
use crate::record::{Retention, TopicSpec};
use crate::sizes::Sizes;

/// Topics have at most that many partitions.
const MOST_PARTITIONS: u32 = 4096;

/// Records are deleted by whole segments; a segment ends after a tenth of the retention, so that what is kept beyond it
/// is little.
const SEGMENTS_PER_RETENTION: u32 = 10;
const SHORTEST_SEGMENT: Duration = Duration::from_secs(60);
const LONGEST_SEGMENT: Duration = Duration::from_secs(86_400);

/// Segments of changelogs.
const CHANGELOG_SEGMENT_BYTES: u32 = 64 << 20;
const CHANGELOG_SEGMENT: Duration = Duration::from_secs(3_600);

/// What a topic is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Records, which retention deletes.
    Records(Retention),
    /// The state of a step: the last value of every key.
    Changelog,
}

/// A topic as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// As the brokers know it.
    pub(super) stored: String,
    /// As callers know it.
    pub(super) name: String,
    pub(super) partitions: u32,
    /// At least that many copies of every partition.
    pub(super) copies: u16,
    pub(super) purpose: Purpose,
    /// Settings of the topic, as it is created with them.
    pub(super) settings: BTreeMap<&'static str, String>,
}

impl Wanted {
    /// A topic of records.
    pub(super) fn records(config: &KafkaConfig, spec: &TopicSpec) -> Self {
        let Retention { age, partition_bytes } = spec.retention;
        let forever = || "-1".to_owned();
        let value_bytes = Sizes::of(config.record_bytes).of_topic(&spec.name);
        let mut settings = BTreeMap::from([
            ("cleanup.policy", "delete".to_owned()),
            ("retention.ms", age.map_or_else(forever, |age| age.as_millis().to_string())),
            ("retention.bytes", partition_bytes.map_or_else(forever, |bytes| bytes.to_string())),
        ]);
        if let Some(age) = age {
            let segment = (age / SEGMENTS_PER_RETENTION).clamp(SHORTEST_SEGMENT, LONGEST_SEGMENT);
            settings.insert("segment.ms", segment.as_millis().to_string());
        }
        Self::new(config, &spec.name, spec.partitions, Purpose::Records(spec.retention), settings, value_bytes)
    }

    /// The changelog of a step that reads a topic of so many partitions, with values of state of up to `state_bytes`.
    pub(super) fn changelog(config: &KafkaConfig, name: &str, partitions: u32, state_bytes: usize) -> Self {
        let settings = BTreeMap::from([
            ("cleanup.policy", "compact".to_owned()),
            // What is gone stays known for that long: copies on disks rely on it (state.rs).
            ("delete.retention.ms", (2 * super::state::TRUSTED.as_millis()).to_string()),
            // What is being written is never compacted, and whoever builds the state reads all of it.
            ("segment.bytes", CHANGELOG_SEGMENT_BYTES.to_string()),
            ("segment.ms", CHANGELOG_SEGMENT.as_millis().to_string()),
        ]);
        let value_bytes = state_bytes.max(Sizes::of(config.record_bytes).state);
        Self::new(config, name, partitions, Purpose::Changelog, settings, value_bytes)
    }

    fn new(
        config: &KafkaConfig,
        name: &str,
        partitions: u32,
        purpose: Purpose,
        mut settings: BTreeMap<&'static str, String>,
        value_bytes: usize,
    ) -> Self {
        settings.insert("max.message.bytes", KafkaConfig::topic_bytes(value_bytes).to_string());
        settings.insert("min.insync.replicas", majority(config.replication).to_string());
        let (stored, name) = (config.stored_name(name), name.to_owned());
        Self { stored, name, partitions, copies: config.replication, purpose, settings }
    }
}

/// A majority of the copies: one broker may be away, and what was acknowledged then is still in two places.
pub(super) const fn majority(copies: u16) -> u16 {
    copies / 2 + 1
}

/// The topic with the state of a step.
pub(super) fn changelog_of(step: &str) -> String {
    format!("{step}.changelog.v1")
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

/// Creates the changelog of a step whose values of state have at most `state_bytes`.
pub(super) async fn create_changelog(
    admin: &AdminClient<Context>,
    context: &Context,
    config: &KafkaConfig,
    name: &str,
    partitions: u32,
    state_bytes: usize,
) -> Result<(), BusError> {
    create(admin, context, config, &Wanted::changelog(config, name, partitions, state_bytes)).await
}

/// Creates a topic that is absent. One that somebody else has created meanwhile is as good.
pub(super) async fn create(
    admin: &AdminClient<Context>,
    context: &Context,
    config: &KafkaConfig,
    wanted: &Wanted,
) -> Result<(), BusError> {
    let partitions = i32::try_from(wanted.partitions).unwrap_or(i32::MAX);
    let mut topic = NewTopic::new(&wanted.stored, partitions, TopicReplication::Fixed(i32::from(wanted.copies)));
    for (name, value) in &wanted.settings {
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
                    "Kafka topic {name} can not have {} copies, as `bus.kafka.replication` says: there are fewer \
                     brokers",
                    wanted.copies
                )));
            }
            Err((name, code)) if is_forbidden(code) => {
                return Err(BusError::Invalid(format!(
                    "Kafka topic {name} is not there, and our user may not create it: create it, or allow the user \
                     Create on it"
                )));
            }
            Err((name, code)) => return Err(BusError::Storage(format!("Kafka topic {name}: {code}"))),
        }
    }
    Ok(())
}

/// The settings of a topic that is there, and whether they are its own.
pub(super) async fn described(
    admin: &AdminClient<Context>,
    context: &Context,
    config: &KafkaConfig,
    stored: &str,
) -> Result<BTreeMap<String, Existing>, BusError> {
    let doing = format!("the settings of Kafka topic {stored} can not be had");
    let described = admin
        .describe_configs([&ResourceSpecifier::Topic(stored)], &options(config))
        .await
        .map_err(|error| context.error(&doing, &error))?;
    let Some(found) = described.into_iter().next() else { return Err(BusError::Storage(doing)) };
    let found = found.map_err(|code| {
        let forbidden = || BusError::Invalid(format!("{doing}: allow our user DescribeConfigs on it"));
        if is_forbidden(code) { forbidden() } else { BusError::Storage(format!("{doing}: {code}")) }
    })?;
    let settings = found.entries.into_iter().filter_map(|entry| {
        let is_own = entry.source == ConfigSource::DynamicTopic;
        Some((entry.name, Existing { value: entry.value?, is_own }))
    });
    Ok(settings.collect())
}

/// Mends the settings of a topic. Settings of the topic that are not ours stay: the brokers take a list of settings for
/// all there is, so theirs are sent along.
pub(super) async fn mend(
    admin: &AdminClient<Context>,
    context: &Context,
    config: &KafkaConfig,
    mending: &Mending,
) -> Result<(), BusError> {
    let stored = &mending.stored;
    let mut alter = AlterConfig::new(ResourceSpecifier::Topic(stored));
    for (name, value) in mending.all() {
        alter = alter.set(name, value);
    }
    let doing = format!("the settings of Kafka topic {stored} can not be changed");
    let altered =
        admin.alter_configs([&alter], &options(config)).await.map_err(|error| context.error(&doing, &error))?;
    for result in altered {
        match result {
            Ok(_) => tracing::info!(topic = %stored, changed = ?mending.changes, "settings of a Kafka topic changed"),
            Err((_, code)) if is_forbidden(code) => return mending.without_rights(),
            Err((_, code)) => return Err(BusError::Storage(format!("{doing}: {code}"))),
        }
    }
    Ok(())
}

fn is_forbidden(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::PolicyViolation
    )
}

pub(super) fn options(config: &KafkaConfig) -> AdminOptions {
    let timeout = Duration::from_millis(config.request_timeout_ms);
    AdminOptions::new().request_timeout(Some(timeout)).operation_timeout(Some(timeout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_three_brokers_may_be_away_and_none_of_one() {
        assert_eq!([1, 3, 5].map(majority), [1, 2, 3]);
    }

    #[test]
    fn the_limits_of_topics_are_in_the_order_of_the_way() {
        let config = KafkaConfig::default();
        let bytes = |wanted: Wanted| wanted.settings["max.message.bytes"].parse::<usize>().unwrap();
        let records = |name: &str| bytes(Wanted::records(&config, &TopicSpec::new(name, 4, Retention::default())));
        let order = [
            config.record_bytes,
            records(events::topics::TELEMETRY_RAW),
            records(events::topics::TELEMETRY_CLEAN),
            bytes(Wanted::changelog(&config, "labeler.changelog.v1", 4, 0)),
            records(events::topics::DEAD_LETTERS),
        ];
        assert!(order.is_sorted_by(|less, more| less < more), "{order:?}");
    }
}
