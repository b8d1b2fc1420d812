//! Records, positions and topics.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use events::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What orders and places a record: 16 bytes of HMAC(tenant secret, session id), or of another id for topics keyed
/// otherwise.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey(pub [u8; 16]);

impl fmt::Display for RecordKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for RecordKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "RecordKey({self})")
    }
}

impl FromStr for RecordKey {
    type Err = InvalidRecordKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut key = [0; 16];
        hex::decode_to_slice(text, &mut key).map_err(|_| InvalidRecordKey)?;
        Ok(Self(key))
    }
}

/// A text that is not 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record key is 32 hexadecimal digits")]
pub struct InvalidRecordKey;

/// A record to publish. Its partition is [`crate::partition_for`] of its key.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Orders and places the record.
    pub key: RecordKey,
    /// The encoded value; the bus never looks into it.
    pub value: Bytes,
}

impl fmt::Debug for Record {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Record({}, {} bytes)", self.key, self.value.len())
    }
}

/// A record as it stands in the log.
#[derive(Clone, PartialEq, Eq)]
pub struct CommittedRecord {
    /// The topic it was published to.
    pub topic: Arc<str>,
    /// The partition it lies in.
    pub partition: u32,
    /// Its place in the partition.
    pub position: Position,
    /// Its key.
    pub key: RecordKey,
    /// Its encoded value.
    pub value: Bytes,
    /// When the bus wrote it, by the injected clock of the process that published it.
    pub appended_at: Timestamp,
}

impl CommittedRecord {
    /// Where a reader goes on after this record.
    #[must_use]
    pub fn next_position(&self) -> Position {
        self.position.next()
    }
}

impl fmt::Debug for CommittedRecord {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, partition, position, key, value, appended_at } = self;
        write!(
            formatter,
            "CommittedRecord({topic}/{partition}@{position}, {key}, {} bytes, {appended_at})",
            value.len()
        )
    }
}

/// What stands at one place of the log: a record, or a control record, which tails do not see.
#[derive(Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The partition it lies in.
    pub partition: u32,
    /// Its place in the partition.
    pub position: Position,
    /// Whether it is a control record ([`crate::control::Control`]).
    pub is_control: bool,
    /// When the bus wrote it, by the injected clock of the process that published it.
    pub appended_at: Timestamp,
    /// Its key.
    pub key: RecordKey,
    /// Its encoded value.
    pub value: Bytes,
}

impl fmt::Debug for HistoryEntry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, position, is_control, appended_at, key, value } = self;
        let what = if *is_control { "control" } else { "record" };
        write!(formatter, "HistoryEntry({what} {partition}@{position}, {key}, {} bytes, {appended_at})", value.len())
    }
}

/// A place in a partition: opaque, ordered within its partition, and nothing else. Positions of one partition may have
/// gaps.
///
/// The text form (also its serialized form) has a fixed width and sorts as the position does, so that it can stand in a
/// text column and be compared there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(u64);

impl Position {
    /// Before every record.
    pub const START: Self = Self(0);

    /// For implementations of the bus: the position with this number.
    #[must_use]
    pub(crate) const fn from_offset(offset: u64) -> Self {
        Self(offset)
    }

    /// For implementations of the bus: the number behind the position.
    #[must_use]
    pub(crate) const fn offset(self) -> u64 {
        self.0
    }

    /// The least position after this one: where a reader of the record at this position goes on.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:020}", self.0)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Position({})", self.0)
    }
}

/// A text that no position wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a position is 20 decimal digits")]
pub struct InvalidPosition;

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 20 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(InvalidPosition);
        }
        text.parse().map(Self).map_err(|_| InvalidPosition)
    }
}

impl Serialize for Position {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The next position to read, by partition. A partition that is absent is read from its oldest record.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Positions(BTreeMap<u32, Position>);

impl Positions {
    /// Every partition from its oldest record.
    #[must_use]
    pub const fn oldest() -> Self {
        Self(BTreeMap::new())
    }

    /// The next position to read in a partition, if one is set.
    #[must_use]
    pub fn get(&self, partition: u32) -> Option<Position> {
        self.0.get(&partition).copied()
    }

    /// Sets the next position to read in a partition.
    pub fn set(&mut self, partition: u32, position: Position) {
        self.0.insert(partition, position);
    }

    /// Moves past a record; never backwards.
    pub fn advance_past(&mut self, record: &CommittedRecord) {
        let next = self.0.entry(record.partition).or_default();
        *next = (*next).max(record.next_position());
    }

    /// Whether every partition of `other` has been read at least that far here.
    #[must_use]
    pub fn reached(&self, other: &Self) -> bool {
        other.iter().all(|(partition, position)| self.get(partition).unwrap_or_default() >= position)
    }

    /// Partition and next position, in order of partitions.
    pub fn iter(&self) -> impl Iterator<Item = (u32, Position)> + '_ {
        self.0.iter().map(|(partition, position)| (*partition, *position))
    }
}

impl FromIterator<(u32, Position)> for Positions {
    fn from_iter<I: IntoIterator<Item = (u32, Position)>>(positions: I) -> Self {
        Self(positions.into_iter().collect())
    }
}

/// How long records are kept at most. Nothing is deleted before the slowest registered reader has read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Retention {
    /// Records older than this may go; none: age is no reason.
    pub age: Option<Duration>,
    /// Once a partition holds more bytes of values than this, its oldest records may go; none: size is no reason.
    pub partition_bytes: Option<u64>,
}

impl Retention {
    /// By age alone.
    #[must_use]
    pub const fn age(age: Duration) -> Self {
        Self { age: Some(age), partition_bytes: None }
    }
}

/// A topic as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// The name; the prefix that is a setting of the bus is not part of it.
    pub name: String,
    /// Number of partitions; fixed when the topic is created and checked afterwards.
    pub partitions: u32,
    /// How long its records are kept; may change.
    pub retention: Retention,
    /// The steps that must see every record of it.
    pub steps: Vec<String>,
    /// The readers that must see every record of it, by the name with which they tail.
    pub readers: Vec<String>,
}

impl TopicSpec {
    /// A topic of that name.
    #[must_use]
    pub fn new(name: impl Into<String>, partitions: u32, retention: Retention) -> Self {
        let (steps, readers) = (Vec::new(), Vec::new());
        Self { name: name.into(), partitions, retention, steps, readers }
    }

    /// The same, read by a step. Retention waits for it from the creation of the topic on, whether it has ever run or
    /// not.
    #[must_use]
    pub fn read_by_step(mut self, step: impl Into<String>) -> Self {
        self.steps.push(step.into());
        self
    }

    /// The same, tailed by a reader of that name. Retention waits for it from the creation of the topic on, whether it
    /// has ever come or not.
    #[must_use]
    pub fn read_by(mut self, reader: impl Into<String>) -> Self {
        self.readers.push(reader.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_positions_sorts_as_they_do() {
        let positions = [0, 9, 10, 11, 99, 100, 12_345_678_901, u64::MAX].map(Position::from_offset);
        let texts: Vec<String> = positions.iter().map(ToString::to_string).collect();
        assert!(texts.is_sorted());
        for (position, text) in positions.iter().zip(&texts) {
            assert_eq!(text.parse(), Ok(*position));
        }
        for bad in ["", "1", "+0000000000000000001", "99999999999999999999", "0000000000000000000x"] {
            assert_eq!(bad.parse::<Position>(), Err(InvalidPosition), "{bad}");
        }
    }

    #[test]
    fn keys_read_what_they_write() {
        let key = RecordKey([0xab; 16]);
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!("ab".parse::<RecordKey>(), Err(InvalidRecordKey));
    }

    #[test]
    fn reached_compares_partition_by_partition() {
        let far: Positions = [(0, Position::from_offset(5)), (1, Position::from_offset(2))].into_iter().collect();
        let near: Positions = [(0, Position::from_offset(5))].into_iter().collect();
        assert!(far.reached(&near));
        assert!(!near.reached(&far));
        assert!(near.reached(&Positions::oldest()));
    }
}
