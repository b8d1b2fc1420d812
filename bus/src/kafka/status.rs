//! Where things stand: ends of topics, and what nobody has read.

use std::sync::Arc;
use std::time::Duration;

use events::Timestamp;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use super::Inner;
use super::changelog::Told;
use super::client::{Isolation, LOOK, OurConsumer, consumer, number, refusal_of};
use super::forbidden::Need;
use super::reader::{Found, Gone, Reading};
use super::rights::Operation;
use super::tail::{self, reader_group};
use crate::error::BusError;
use crate::interface::{PartitionLag, StepLag, TopicStatus};
use crate::record::{Position, Positions};

/// A partition of a step.
pub(super) type StepPlace = (String, u32);

/// What this process knows about a partition it works on: for status, and for the steps that follow.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LivePartition {
    pub(super) time: Option<Timestamp>,
    pub(super) concluded: Option<Timestamp>,
}

/// The group under which a step commits its positions.
pub(super) fn step_group(step: &str) -> String {
    format!("step.{step}")
}

/// The most records between a position and the end that are counted one by one: among few, markers make a difference.
const COUNTED: u64 = 2_000;

/// A committed position, and what stands beside it.
pub(super) type ToldAt = Option<(u64, Told)>;

impl Inner {
    /// The client that asks for what a group has committed, and speaks for it in transactions: one for all who do. It
    /// is told the last committed position also while a transaction about it is open. To wait for that one's end would
    /// be to wait for its time-out where its owner was killed: whoever comes next asks here before it takes over.
    pub(super) fn group(&self, group: &str) -> Result<Arc<OurConsumer>, BusError> {
        let mut groups = self.groups.lock();
        if let Some(client) = groups.get(group) {
            return Ok(Arc::clone(client));
        }
        let client = Arc::new(consumer(&self.config, &self.context, group, Isolation::Uncommitted, |_| {})?);
        groups.insert(group.to_owned(), Arc::clone(&client));
        Ok(client)
    }

    /// What a group has committed about partitions of a topic. A client of committed records waits until every
    /// transaction about them is settled. Blocks.
    pub(super) fn told(
        &self,
        client: &OurConsumer,
        group: &str,
        stored: &str,
        partitions: &[u32],
    ) -> Result<Vec<(u32, ToldAt)>, BusError> {
        self.context.give_token(client.client())?;
        let mut asked = TopicPartitionList::new();
        for partition in partitions {
            asked.add_partition(stored, number(*partition));
        }
        let group = self.config.stored_name(group);
        let doing = format!("the positions of Kafka group {group} can not be had");
        let refused = |error: KafkaError| {
            let needs = [Need::group(Operation::Describe, group.as_str()), Need::topic(Operation::Describe, stored)];
            self.context.error_of(&doing, &error, &needs)
        };
        let answered = client
            .committed_offsets(asked, self.request_timeout())
            .map_err(|error| refused(refusal_of(client, error)))?;
        let mut told = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let at = match answered.find_partition(stored, number(*partition)) {
                Some(element) => {
                    element.error().map_err(&refused)?;
                    match element.offset() {
                        Offset::Offset(position) => {
                            let beside = serde_json::from_str(element.metadata()).unwrap_or_default();
                            Some((u64::try_from(position).unwrap_or(0), beside))
                        }
                        _ => None,
                    }
                }
                None => None,
            };
            told.push((*partition, at));
        }
        Ok(told)
    }

    /// The topic that a step reads, by the callers' name: the one for whose partitions its group has positions. None:
    /// it has never run, and nobody has said that it will. Blocks.
    pub(super) fn input_of_step(&self, step: &str) -> Result<Option<String>, BusError> {
        if let Some(input) = self.inputs.lock().get(step) {
            return Ok(Some(input.clone()));
        }
        let client = self.group(&step_group(step))?;
        let mut asked = TopicPartitionList::new();
        for (topic, partitions) in self.questions.topics(&self.config.prefix)? {
            asked.add_partition_range(&topic, 0, number(partitions).saturating_sub(1));
        }
        let found = {
            let answered = client.committed_offsets(asked, self.request_timeout()).map_err(|error| {
                let group = self.config.stored_name(&step_group(step));
                let doing = format!("the positions of Kafka group {group} can not be had");
                self.context.error_of(&doing, &refusal_of(&client, error), &[Need::group(Operation::Describe, group)])
            })?;
            let elements = answered.elements();
            let found = elements.iter().find(|element| matches!(element.offset(), Offset::Offset(_)));
            found.map(|element| element.topic().to_owned())
        };
        let input = found.and_then(|stored| stored.strip_prefix(&self.config.prefix).map(str::to_owned));
        if let Some(input) = &input {
            self.inputs.lock().insert(step.to_owned(), input.clone());
        }
        Ok(input)
    }

    pub(super) async fn step_lag(self: &Arc<Self>, step: &str) -> Result<StepLag, BusError> {
        let (inner, name) = (Arc::clone(self), step.to_owned());
        let looked_up = move || {
            let unknown = || BusError::UnknownStep(name.clone());
            let input = inner.input_of_step(&name)?.ok_or_else(unknown)?;
            let stored = inner.config.stored_name(&input);
            let partitions = inner.questions.partitions(&stored)?.ok_or_else(unknown)?;
            let numbers: Vec<u32> = (0..partitions).collect();
            let group = step_group(&name);
            let told = inner.told(&*inner.group(&group)?, &group, &stored, &numbers)?;
            if told.iter().all(|(_, at)| at.is_none()) {
                return Err(unknown());
            }
            let ends = inner.questions.ends(Isolation::Committed, &stored, &numbers)?;
            let oldest = inner.questions.oldest(&stored, &numbers)?;
            let live = inner.live.lock().clone();
            let lag = told.into_iter().zip(oldest.into_iter().zip(ends)).map(|((partition, at), (oldest, end))| {
                let (position, told) = at.unwrap_or((oldest, Told::default()));
                let live = live.get(&(name.clone(), partition)).and_then(|live| live.time);
                PartitionLag {
                    partition,
                    position: Position::from_offset(position),
                    end: Position::from_offset(end),
                    records_behind: end.saturating_sub(position),
                    pending_timers: told.timers,
                    next_timer: told.due.map(Timestamp::from_micros),
                    partition_time: told.time.map(Timestamp::from_micros).max(live),
                    paused: told.paused,
                    poisoned_keys: told.poisoned,
                }
            });
            let partitions = lag.collect();
            Ok(StepLag { input, partitions })
        };
        let mut lag = Arc::clone(self).blocking(looked_up).await?;
        self.count_records(&mut lag).await?;
        Ok(lag)
    }

    /// Positions behind are not records behind: markers of transactions and aborted records are no records. Where few
    /// are left they are counted.
    async fn count_records(self: &Arc<Self>, lag: &mut StepLag) -> Result<(), BusError> {
        let few = |partition: &PartitionLag| (1..=COUNTED).contains(&partition.records_behind);
        if !lag.partitions.iter().any(few) {
            return Ok(());
        }
        let (inner, topic) = (Arc::clone(self), Arc::<str>::from(lag.input.as_str()));
        let behind: Vec<(u32, u64, u64)> = lag
            .partitions
            .iter()
            .filter(|partition| few(partition))
            .map(|partition| (partition.partition, partition.position.offset(), partition.end.offset()))
            .collect();
        let counted = Arc::clone(self).blocking(move || inner.records_between(topic, &behind)).await?;
        for (partition, records) in counted {
            if let Some(place) = lag.partitions.get_mut(partition as usize) {
                place.records_behind = records;
            }
        }
        Ok(())
    }

    /// How many records stand between positions. Blocks.
    fn records_between(
        self: &Arc<Self>,
        topic: Arc<str>,
        ranges: &[(u32, u64, u64)],
    ) -> Result<Vec<(u32, u64)>, BusError> {
        let from: Vec<(u32, u64)> = ranges.iter().map(|(partition, position, _)| (*partition, *position)).collect();
        let mut reading = Reading::open(Arc::clone(self), topic, LOOK, Gone::PassedOver, &from)?;
        let started = std::time::Instant::now();
        let mut counted = vec![0; ranges.len()];
        while ranges.iter().any(|(partition, _, end)| reading.next(*partition) < *end) {
            if started.elapsed() > self.request_timeout() {
                let message = "the records behind a step can not be counted in time".to_owned();
                return Err(BusError::Storage(message));
            }
            reading.look(Duration::from_millis(50))?;
            for found in std::mem::take(&mut *reading.buffer.lock()) {
                let Found::Record { partition, record } = found else { continue };
                for ((of, _, end), count) in ranges.iter().zip(&mut counted) {
                    if *of == partition && record.position < *end {
                        *count += 1;
                    }
                }
            }
        }
        Ok(ranges.iter().map(|(partition, ..)| *partition).zip(counted).collect())
    }

    pub(super) async fn oldest_positions(self: &Arc<Self>, topic: &str) -> Result<Positions, BusError> {
        let partitions = self.partitions(topic).await?;
        let (inner, stored) = (Arc::clone(self), self.config.stored_name(topic));
        let numbers: Vec<u32> = (0..partitions).collect();
        let oldest = Arc::clone(self).blocking(move || inner.questions.oldest(&stored, &numbers)).await?;
        Ok((0..).zip(oldest.into_iter().map(Position::from_offset)).collect())
    }

    /// The end of what is committed: an open transaction hides what lies behind it, and it will be read in its turn.
    pub(super) async fn end_positions(self: &Arc<Self>, topic: &str) -> Result<Positions, BusError> {
        let partitions = self.partitions(topic).await?;
        let (inner, stored) = (Arc::clone(self), self.config.stored_name(topic));
        let numbers: Vec<u32> = (0..partitions).collect();
        let ends = move || inner.questions.ends(Isolation::Committed, &stored, &numbers);
        let ends = Arc::clone(self).blocking(ends).await?;
        Ok((0..).zip(ends.into_iter().map(Position::from_offset)).collect())
    }

    /// `records` counts positions, those of transaction markers and of aborted records included; how many bytes they
    /// have the brokers do not tell here, so `bytes` is zero.
    pub(super) async fn topic_status(self: &Arc<Self>, topic: &str) -> Result<TopicStatus, BusError> {
        let partitions = self.partitions(topic).await?;
        let known = self.registered.lock().get(topic).cloned().unwrap_or_default();
        let readers = known.readers.iter().map(|reader| reader_group(topic, reader));
        let groups: Vec<String> = readers.chain(known.steps.iter().map(|step| step_group(step))).collect();
        let (inner, stored) = (Arc::clone(self), self.config.stored_name(topic));
        let bounds = move || {
            let numbers: Vec<u32> = (0..partitions).collect();
            let oldest = inner.questions.oldest(&stored, &numbers)?;
            let ends = inner.questions.ends(Isolation::Committed, &stored, &numbers)?;
            let mut slowest: Option<Vec<u64>> = None;
            for group in &groups {
                let told = inner.told(&*inner.group(group)?, group, &stored, &numbers)?;
                let positions = told.into_iter().map(|(_, at)| at.map(|(position, _)| position));
                let read = positions.zip(&oldest).map(|(position, oldest)| position.unwrap_or(*oldest));
                slowest = Some(match slowest {
                    Some(slowest) => slowest.into_iter().zip(read).map(|(one, other)| one.min(other)).collect(),
                    None => read.collect(),
                });
            }
            Ok((oldest, ends, slowest))
        };
        let (oldest, ends, slowest) = Arc::clone(self).blocking(bounds).await?;
        let records = ends.iter().zip(&oldest).map(|(end, oldest)| end.saturating_sub(*oldest)).sum();
        let oldest_unread = match slowest {
            Some(slowest) => self.oldest_unread(topic, &slowest, &ends).await?,
            None => None,
        };
        Ok(TopicStatus { partitions, records, bytes: 0, oldest_unread, retention: known.retention })
    }

    /// When the oldest of the records was appended that stand at or behind these positions.
    async fn oldest_unread(
        self: &Arc<Self>,
        topic: &str,
        unread: &[u64],
        ends: &[u64],
    ) -> Result<Option<Timestamp>, BusError> {
        const WAIT: Duration = Duration::from_millis(200);
        let behind: Vec<u32> =
            (0..).zip(unread.iter().zip(ends)).filter(|(_, (next, end))| next < end).map(|(place, _)| place).collect();
        if behind.is_empty() {
            return Ok(None);
        }
        let from = (0..)
            .zip(unread.iter().zip(ends))
            .map(|(partition, (next, end))| (partition, Position::from_offset((*next).min(*end))))
            .collect();
        let end: Positions = (0..).zip(ends.iter().map(|end| Position::from_offset(*end))).collect();
        let mut look = tail::open(Arc::clone(self), topic, None, from).await?;
        let mut oldest: Vec<Option<Timestamp>> = vec![None; unread.len()];
        let started = std::time::Instant::now();
        let seen_all = |oldest: &[Option<Timestamp>]| {
            behind.iter().all(|partition| oldest.get(*partition as usize).is_some_and(Option::is_some))
        };
        while !seen_all(&oldest) && !look.positions().reached(&end) {
            // Records that are there and do not come are no reason to say that all was read.
            if started.elapsed() > self.request_timeout() {
                return Err(BusError::Storage(format!("what is unread of {topic} can not be looked at in time")));
            }
            for record in look.next(100, WAIT).await? {
                if let Some(place) = oldest.get_mut(record.partition as usize) {
                    place.get_or_insert(record.appended_at);
                }
            }
        }
        Ok(oldest.into_iter().flatten().min())
    }

    /// The positions that a reader has told are forgotten with it.
    pub(super) async fn forget_reader(self: &Arc<Self>, topic: &str, reader: &str) -> Result<(), BusError> {
        self.partitions(topic).await?;
        if let Some(known) = self.registered.lock().get_mut(topic) {
            known.readers.remove(reader);
        }
        let group = self.config.stored_name(&reader_group(topic, reader));
        let timeout = self.request_timeout();
        let options = rdkafka::admin::AdminOptions::new().request_timeout(Some(timeout));
        let deleted = self
            .admin
            .delete_groups(&[&group], &options)
            .await
            .map_err(|error| self.context.error("a Kafka group can not be deleted", &error))?;
        for result in deleted {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::GroupIdNotFound)) => {}
                Err((name, code)) => return Err(BusError::Storage(format!("Kafka group {name}: {code}"))),
            }
        }
        Ok(())
    }
}
