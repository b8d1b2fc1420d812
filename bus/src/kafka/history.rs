//! Reading everything between two positions, control records included.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::Inner;
use super::client::{HISTORY, Isolation};
use super::reader::{Found, Gone, Reading};
use crate::error::BusError;
use crate::interface::History;
use crate::record::{HistoryEntry, Position, Positions};

/// One look at the client takes at most so long.
const LOOK: Duration = Duration::from_millis(100);
/// Brokers that bring nothing for so long, while something is left to read, are told.
const SILENCE: Duration = Duration::from_secs(60);

pub(super) async fn open(
    inner: Arc<Inner>,
    topic: &str,
    from: Positions,
    until: Positions,
) -> Result<Box<dyn History>, BusError> {
    let count = inner.partitions(topic).await?;
    let (topic, opening) = (Arc::<str>::from(topic), Arc::clone(&inner));
    let opened = move || {
        let stored = opening.config.stored_name(&topic);
        let numbers: Vec<u32> = (0..count).collect();
        let oldest = opening.questions.oldest(&stored, &numbers)?;
        let ends = opening.questions.ends(Isolation::Committed, &stored, &numbers)?;
        let (mut begins, mut ranges) = (Vec::new(), Vec::new());
        for (partition, (oldest, end)) in numbers.into_iter().zip(oldest.into_iter().zip(ends)) {
            let next = from.get(partition).map_or(oldest, Position::offset);
            let until = until.get(partition).map_or(0, Position::offset);
            if next >= until {
                continue;
            }
            let (position, topic) = (Position::from_offset(next), topic.to_string());
            if next < oldest {
                let oldest = Position::from_offset(oldest);
                return Err(BusError::PositionGone { topic, partition, position, oldest });
            }
            if until > end {
                let (position, end) = (Position::from_offset(until), Position::from_offset(end));
                return Err(BusError::PositionAhead { topic, partition, position, end });
            }
            begins.push((partition, next));
            ranges.push((partition, until));
        }
        let reading = match begins.as_slice() {
            [] => None,
            begins => Some(Reading::open(opening, topic, HISTORY, Gone::Told, begins)?),
        };
        Ok((reading.map(|reading| Arc::new(Mutex::new(reading))), ranges))
    };
    let (reading, ranges) = Arc::clone(&inner).blocking(opened).await?;
    Ok(Box::new(KafkaHistory { inner, reading, ranges }))
}

struct KafkaHistory {
    inner: Arc<Inner>,
    /// None: there is nothing to read.
    reading: Option<Arc<Mutex<Reading>>>,
    /// Partition and the position before which everything is wanted.
    ranges: Vec<(u32, u64)>,
}

#[async_trait]
impl History for KafkaHistory {
    async fn next(&mut self) -> Result<Vec<HistoryEntry>, BusError> {
        let Some(reading) = self.reading.clone() else { return Ok(Vec::new()) };
        let ranges = self.ranges.clone();
        self.inner.clone().blocking(move || next(&mut reading.lock(), &ranges)).await
    }
}

fn next(reading: &mut Reading, ranges: &[(u32, u64)]) -> Result<Vec<HistoryEntry>, BusError> {
    let wanted = |partition: u32, position: u64| ranges.iter().any(|(of, until)| *of == partition && position < *until);
    let (mut since, mut before) = (Instant::now(), places(reading, ranges));
    loop {
        let found = std::mem::take(&mut *reading.buffer.lock());
        let entries: Vec<HistoryEntry> = found
            .into_iter()
            .filter_map(|found| match found {
                Found::Record { partition, record } if wanted(partition, record.position) => Some(HistoryEntry {
                    partition,
                    position: Position::from_offset(record.position),
                    is_control: record.control,
                    appended_at: record.appended_at,
                    key: record.key,
                    value: record.value,
                }),
                _ => None,
            })
            .collect();
        if !entries.is_empty() || ranges.iter().all(|(partition, until)| reading.next(*partition) >= *until) {
            return Ok(entries);
        }
        reading.look(LOOK)?;
        let now = places(reading, ranges);
        if now != before {
            (since, before) = (Instant::now(), now);
        } else if since.elapsed() > SILENCE {
            let seconds = SILENCE.as_secs();
            return Err(BusError::Storage(format!("Kafka brings nothing for {seconds} s although there is more")));
        }
    }
}

fn places(reading: &Reading, ranges: &[(u32, u64)]) -> Vec<u64> {
    ranges.iter().map(|(partition, _)| reading.next(*partition)).collect()
}
