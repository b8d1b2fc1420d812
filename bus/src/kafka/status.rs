//! Where things stand: ends of topics, and what nobody has read.

use std::sync::Arc;
use std::time::Duration;

use events::Timestamp;
use rdkafka::error::RDKafkaErrorCode;

use super::Inner;
use super::client::{Isolation, committed};
use super::tail::{self, reader_group};
use crate::error::BusError;
use crate::interface::TopicStatus;
use crate::record::{Position, Positions};

impl Inner {
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
        let groups: Vec<String> = known.readers.iter().map(|reader| reader_group(topic, reader)).collect();
        let (inner, stored) = (Arc::clone(self), self.config.stored_name(topic));
        let bounds = move || {
            let numbers: Vec<u32> = (0..partitions).collect();
            let oldest = inner.questions.oldest(&stored, &numbers)?;
            let ends = inner.questions.ends(Isolation::Committed, &stored, &numbers)?;
            let mut slowest: Option<Vec<u64>> = None;
            for group in &groups {
                let positions = committed(&inner.config, &inner.context, group, &stored, partitions)?;
                let read = positions.into_iter().zip(&oldest).map(|(position, oldest)| position.unwrap_or(*oldest));
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
        /// A partition whose next record does not come within this has none.
        const WAIT: Duration = Duration::from_secs(2);
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
        while !seen_all(&oldest) && !look.positions().reached(&end) && started.elapsed() < WAIT {
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
