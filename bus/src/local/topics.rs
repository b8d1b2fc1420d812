//! Topics: creating them and looking them up.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::Inner;
use super::ownership::register;
use super::writer::{Refusal, WriteTransaction};
use crate::error::BusError;
use crate::record::{Retention, TopicSpec};

/// Topics have at most that many partitions.
const MOST_PARTITIONS: u32 = 4096;

/// What never changes about a topic.
#[derive(Debug)]
pub(super) struct TopicInfo {
    pub(super) id: i64,
    /// As callers know it, without the prefix.
    pub(super) name: Arc<str>,
    /// Row ids of the partitions, in order.
    pub(super) partition_ids: Vec<i64>,
}

impl TopicInfo {
    pub(super) fn partitions(&self) -> u32 {
        u32::try_from(self.partition_ids.len()).unwrap_or(u32::MAX)
    }
}

impl Inner {
    /// Runs a read on a thread that may block.
    pub(super) async fn read<R: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> rusqlite::Result<R> + Send + 'static,
    ) -> Result<R, BusError> {
        let inner = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || inner.readers.with(read)).await;
        read.unwrap_or_else(|error| Err(BusError::Storage(error.to_string())))
    }

    /// The topic of that name.
    pub(super) async fn topic(self: &Arc<Self>, name: &str) -> Result<Arc<TopicInfo>, BusError> {
        if let Some(topic) = self.topics.read().get(name) {
            return Ok(Arc::clone(topic));
        }
        let stored = self.config.stored_name(name);
        let found = self.read(move |connection| find(connection, &stored)).await?;
        let (id, partition_ids) = found.ok_or_else(|| BusError::UnknownTopic(name.to_owned()))?;
        let topic = Arc::new(TopicInfo { id, name: Arc::from(name), partition_ids });
        self.topics.write().insert(name.to_owned(), Arc::clone(&topic));
        Ok(topic)
    }

    pub(super) async fn create_topics(self: &Arc<Self>, specs: &[TopicSpec]) -> Result<(), BusError> {
        for spec in specs {
            if spec.name.is_empty() || self.config.stored_name(&spec.name).len() > 249 {
                return Err(BusError::Invalid("a topic's name has 1 to 249 bytes, the prefix included".into()));
            }
            if spec.partitions == 0 || spec.partitions > MOST_PARTITIONS {
                let message = format!("topic {} must have 1 to {MOST_PARTITIONS} partitions", spec.name);
                return Err(BusError::Invalid(message));
            }
        }
        for name in specs.iter().flat_map(|spec| spec.steps.iter().chain(&spec.readers)) {
            if name.is_empty() || self.config.stored_name(name).len() > 249 {
                return Err(BusError::Invalid("the name of a step or reader has 1 to 249 bytes".into()));
            }
        }
        let mut steps = HashSet::new();
        if let Some(step) = specs.iter().flat_map(|spec| &spec.steps).find(|step| !steps.insert(*step)) {
            return Err(BusError::Invalid(format!("step {step} is to read more than one topic")));
        }
        let stored = |spec: &TopicSpec| {
            let steps = spec.steps.iter().map(|step| self.config.stored_name(step)).collect();
            (self.config.stored_name(&spec.name), TopicSpec { steps, ..spec.clone() })
        };
        let specs: Vec<(String, TopicSpec)> = specs.iter().map(stored).collect();
        let create = move |transaction: &mut WriteTransaction<'_>| create(transaction.connection, &specs);
        self.writer.write(0, create).await.map_err(|error| match error {
            BusError::InputDiffers { step, expected, actual } => BusError::InputDiffers {
                step: self.config.callers_name(&step),
                expected,
                actual: self.config.callers_name(&actual),
            },
            other => other,
        })
    }
}

/// Id and ids of the partitions.
fn find(connection: &Connection, name: &str) -> rusqlite::Result<Option<(i64, Vec<i64>)>> {
    let id = connection.prepare_cached("SELECT id FROM topics WHERE name = ?1")?;
    let Some(id) = { id }.query_row([name], |row| row.get::<_, i64>(0)).optional()? else { return Ok(None) };
    let mut partitions = connection.prepare_cached("SELECT id FROM partitions WHERE topic = ?1 ORDER BY partition")?;
    let partition_ids = partitions.query_map([id], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(Some((id, partition_ids)))
}

/// All checks come first: a job that is refused must have changed nothing.
fn create(connection: &Connection, specs: &[(String, TopicSpec)]) -> Result<(), Refusal> {
    for (name, spec) in specs {
        let mut query = connection.prepare_cached("SELECT partitions FROM topics WHERE name = ?1")?;
        let actual: Option<u32> = query.query_row([name], |row| row.get(0)).optional()?;
        if let Some(actual) = actual.filter(|actual| *actual != spec.partitions) {
            let (topic, expected) = (spec.name.clone(), spec.partitions);
            return Err(Refusal::Job(BusError::PartitionsDiffer { topic, expected, actual }));
        }
        for step in &spec.steps {
            let mut query = connection.prepare_cached(
                "SELECT topics.name FROM steps JOIN topics ON topics.id = steps.topic WHERE steps.name = ?1",
            )?;
            let actual: Option<String> = query.query_row([step], |row| row.get(0)).optional()?;
            if let Some(actual) = actual.filter(|actual| actual != name) {
                let (step, expected) = (step.clone(), spec.name.clone());
                return Err(Refusal::Job(BusError::InputDiffers { step, expected, actual }));
            }
        }
    }
    for (name, spec) in specs {
        let Retention { age, partition_bytes } = spec.retention;
        let age = age.map(|age| i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
        let bytes = partition_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        connection.execute(
            "INSERT INTO topics (name, partitions, retention_age_us, retention_partition_bytes) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (name) DO UPDATE SET retention_age_us = ?3, retention_partition_bytes = ?4",
            params![name, spec.partitions, age, bytes],
        )?;
        let id: i64 = connection.query_row("SELECT id FROM topics WHERE name = ?1", [name], |row| row.get(0))?;
        for partition in 0..spec.partitions {
            connection.execute(
                "INSERT INTO partitions (topic, partition, oldest, next, bytes) VALUES (?1, ?2, 0, 0, 0)
                 ON CONFLICT DO NOTHING",
                params![id, partition],
            )?;
        }
        for step in &spec.steps {
            register(connection, step, id)?;
        }
        for reader in &spec.readers {
            // Where it is known, it has told how far it is.
            connection.execute(
                "INSERT INTO readers (topic, name, partition, position)
                 SELECT ?1, ?2, partition, oldest FROM partitions WHERE topic = ?1
                 ON CONFLICT DO NOTHING",
                params![id, reader],
            )?;
        }
    }
    Ok(())
}

/// How long a topic's records are kept.
pub(super) fn retention(connection: &Connection, topic: i64) -> rusqlite::Result<Retention> {
    let mut query =
        connection.prepare_cached("SELECT retention_age_us, retention_partition_bytes FROM topics WHERE id = ?1")?;
    query.query_row([topic], |row| {
        let age: Option<i64> = row.get(0)?;
        let bytes: Option<i64> = row.get(1)?;
        Ok(Retention {
            age: age.map(|micros| Duration::from_micros(micros.max(0).cast_unsigned())),
            partition_bytes: bytes.map(|bytes| bytes.max(0).cast_unsigned()),
        })
    })
}
