//! Dead letters: what a step gave up, with place and reason. Content only as the step's room sealed it.

use std::sync::LazyLock;

use bytes::Bytes;
use events::Timestamp;
use events::avro::{self, AvroError, AvroRecord};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::record::{Position, Record, RecordKey};

/// The Avro schema of the values of the dead-letter topic.
pub const SCHEMA: &str = include_str!("../schemas/dead_letter.avsc");

/// What was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadLetterKind {
    /// A record.
    Record,
    /// A timer.
    Timer,
    /// Written by a later release.
    #[serde(other)]
    Unknown,
}

/// An event that ends in a dead letter, for the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affected {
    /// The event's id.
    pub event_id: String,
    /// When the door received it.
    pub received_at: Timestamp,
}

/// The value of a record of the dead-letter topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The step that gave it up.
    pub step: String,
    /// The topic that the step reads; a redriven record is published to it again.
    pub topic: String,
    /// The partition of that topic.
    pub partition: u32,
    /// Position of the record; for a timer, the step's next position.
    pub position: Position,
    /// The record key.
    #[serde(with = "key_as_text")]
    pub key: RecordKey,
    /// Record or timer.
    pub kind: DeadLetterKind,
    /// Name of the timer.
    pub timer_name: Option<String>,
    /// When the timer was due.
    pub due_at: Option<Timestamp>,
    /// Why: a code without content.
    pub reason: String,
    /// Whether the state and the timers of the key ended with it.
    pub key_poisoned: bool,
    /// The partition time at which it was given up.
    pub partition_time: Timestamp,
    /// Content, sealed by the step's room.
    #[serde(with = "optional_bytes")]
    pub payload: Option<Bytes>,
    /// The events that end here.
    pub affected: Vec<Affected>,
}

impl AvroRecord for DeadLetter {
    const NAME: &'static str = "flywheel.bus.v1.DeadLetter";

    fn schemas() -> &'static [serde_avro_fast::Schema] {
        static SCHEMAS: LazyLock<Vec<serde_avro_fast::Schema>> = LazyLock::new(|| SCHEMA.parse().into_iter().collect());
        &SCHEMAS
    }
}

impl DeadLetter {
    /// The value in Avro's single-object encoding.
    ///
    /// # Errors
    /// When the encoder refuses it, which no value of this type makes it do.
    pub fn encode(&self) -> Result<Bytes, AvroError> {
        avro::encode(self).map(Bytes::from)
    }

    /// Reads a value of the dead-letter topic.
    ///
    /// # Errors
    /// When the bytes are no dead letter of this schema. One of a later release is told apart: its reader waits.
    pub fn decode(value: &[u8]) -> Result<Self, AvroError> {
        avro::decode(value)
    }

    /// The record to publish to [`DeadLetter::topic`] to have it handled again; none for timers and for letters that
    /// kept no content. A poisoned key must be released first ([`crate::control::RELEASE_KEY`]).
    #[must_use]
    pub fn redrive(&self) -> Option<Record> {
        match self.kind {
            DeadLetterKind::Record => self.payload.clone().map(|value| Record { key: self.key, value }),
            DeadLetterKind::Timer | DeadLetterKind::Unknown => None,
        }
    }
}

mod key_as_text {
    use super::{Deserialize, Deserializer, RecordKey, Serializer};

    pub(super) fn serialize<S: Serializer>(key: &RecordKey, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(key)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RecordKey, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

mod optional_bytes {
    use serde_bytes::ByteBuf;

    use super::{Bytes, Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &Option<Bytes>, serializer: S) -> Result<S::Ok, S::Error> {
        bytes.as_deref().map(serde_bytes::Bytes::new).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bytes>, D::Error> {
        Ok(Option::<ByteBuf>::deserialize(deserializer)?.map(|bytes| Bytes::from(bytes.into_vec())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> DeadLetter {
        DeadLetter {
            step: "anonymizer".into(),
            topic: "telemetry.raw.v1".into(),
            partition: 3,
            position: Position::from_offset(17),
            key: RecordKey([5; 16]),
            kind: DeadLetterKind::Record,
            timer_name: None,
            due_at: None,
            reason: "unknown_schema".into(),
            key_poisoned: false,
            partition_time: Timestamp::from_micros(1_700_000_000_000_000),
            payload: Some(Bytes::from_static(b"\x00sealed\xff")),
            affected: vec![Affected { event_id: "e1".into(), received_at: Timestamp::from_micros(5) }],
        }
    }

    #[test]
    fn reads_what_it_writes() {
        let record = letter();
        assert_eq!(DeadLetter::decode(&record.encode().unwrap()).unwrap(), record);
        assert_eq!(record.redrive().unwrap().value, record.payload.clone().unwrap());
        let timer = DeadLetter {
            kind: DeadLetterKind::Timer,
            timer_name: Some("settle".into()),
            due_at: Some(Timestamp::from_micros(9)),
            payload: None,
            affected: vec![],
            key_poisoned: true,
            ..record
        };
        assert_eq!(DeadLetter::decode(&timer.encode().unwrap()).unwrap(), timer);
        assert_eq!(timer.redrive(), None);
    }

    #[test]
    fn refuses_other_bytes() {
        assert!(DeadLetter::decode(b"").is_err());
        assert!(DeadLetter::decode(b"\xc3\x01 something else").is_err());
        let mut cut = letter().encode().unwrap().to_vec();
        cut.truncate(cut.len() - 3);
        assert!(DeadLetter::decode(&cut).is_err());
        let mut longer = letter().encode().unwrap().to_vec();
        longer.push(0);
        assert!(matches!(DeadLetter::decode(&longer), Err(AvroError::TrailingBytes { count: 1, .. })));
        let mut later = letter().encode().unwrap().to_vec();
        later[5] ^= 1;
        assert!(matches!(DeadLetter::decode(&later), Err(AvroError::UnknownFingerprint(_))));
    }
}
