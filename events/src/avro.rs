//! Avro single-object encoding: `C3 01`, the schema's 8-byte fingerprint, the datum.
//!
//! Readers decode with the schema that the writer used (found by fingerprint) into the current type: unknown fields are
//! skipped, absent ones take their serde default, unknown symbols become `unknown`. A fingerprint that is not known here
//! is [`AvroError::UnknownFingerprint`]: the partition waits for a release that knows it; it is never a dead letter.

use std::sync::LazyLock;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_avro_fast::Schema;
use serde_avro_fast::de::read::ReaderRead;
use serde_avro_fast::de::{DeserializerConfig, DeserializerState};
use serde_avro_fast::ser::SerializerConfig;

use crate::pair::{FlywheelEvent, OpportunityOutcome, PreferencePair};
use crate::telemetry::{CleanEvent, QuarantinedEvent, RawEvent};

/// Name of what a step waits for when it meets a value of a later release: the schema of
/// [`AvroError::UnknownFingerprint`].
#[must_use]
pub fn schema_dependency(fingerprint: &str) -> String {
    format!("schema:{fingerprint}")
}

/// Why a value could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum AvroError {
    /// Not `C3 01` and 8 bytes.
    #[error("value has no Avro single-object header")]
    NoHeader,
    /// No schema of this release has that fingerprint; a newer writer is ahead of this reader.
    #[error("unknown schema fingerprint {0}")]
    UnknownFingerprint(String),
    /// The bytes do not follow the schema. The message names types and positions, never content.
    #[error("value does not follow its schema {schema}")]
    Malformed {
        /// Full name of the schema.
        schema: &'static str,
    },
    /// The datum ended before the value did.
    #[error("{count} bytes follow the value of schema {schema}")]
    TrailingBytes {
        /// Full name of the schema.
        schema: &'static str,
        /// How many.
        count: usize,
    },
    /// The value does not fit the schema it is written with.
    #[error("value can not be written with schema {schema}")]
    Unwritable {
        /// Full name of the schema.
        schema: &'static str,
    },
}

/// A type with a schema in `events/schemas`.
pub trait AvroRecord: Serialize + DeserializeOwned {
    /// Full name of the schema.
    const NAME: &'static str;
    /// All schemas that this release reads, oldest first; see [`encode`] for the one it writes.
    fn schemas() -> &'static [Schema];
}

macro_rules! avro_record {
    ($type:ty, $name:literal, [$($file:literal),+]) => {
        impl AvroRecord for $type {
            const NAME: &'static str = $name;

            fn schemas() -> &'static [Schema] {
                static SCHEMAS: LazyLock<Vec<Schema>> =
                    LazyLock::new(|| [$(include_str!(concat!("../schemas/", $file))),+].iter().filter_map(|text| text.parse().ok()).collect());
                &SCHEMAS
            }
        }
    };
}

avro_record!(RawEvent, "flywheel.RawEvent", ["raw_event.v1.avsc"]);
avro_record!(CleanEvent, "flywheel.CleanEvent", ["clean_event.v1.avsc"]);
avro_record!(QuarantinedEvent, "flywheel.QuarantinedEvent", ["quarantined_event.v1.avsc"]);
avro_record!(PreferencePair, "flywheel.PreferencePair", ["preference_pair.v1.avsc", "preference_pair.v2.avsc"]);
avro_record!(
    OpportunityOutcome,
    "flywheel.OpportunityOutcome",
    ["opportunity_outcome.v1.avsc", "opportunity_outcome.v2.avsc"]
);
avro_record!(FlywheelEvent, "flywheel.FlywheelEvent", ["flywheel_event.v1.avsc"]);

/// Writes a value with the oldest schema that can hold it, so that a release before reads all that it would
/// understand. A field of a later schema that has its default is left out when it is serialized.
///
/// # Errors
/// When the value fits no schema.
pub fn encode<T: AvroRecord>(value: &T) -> Result<Vec<u8>, AvroError> {
    let write = |schema| serde_avro_fast::to_single_object_vec(value, &mut SerializerConfig::new(schema)).ok();
    T::schemas().iter().find_map(write).ok_or(AvroError::Unwritable { schema: T::NAME })
}

/// Reads a value that any schema of this release wrote.
///
/// # Errors
/// When the header is missing, the fingerprint unknown, the datum malformed, or bytes follow it.
pub fn decode<T: AvroRecord>(bytes: &[u8]) -> Result<T, AvroError> {
    decode_with(bytes, T::schemas(), T::NAME)
}

fn decode_with<T: DeserializeOwned>(bytes: &[u8], schemas: &[Schema], name: &'static str) -> Result<T, AvroError> {
    let (header, datum) = bytes.split_first_chunk::<10>().ok_or(AvroError::NoHeader)?;
    if header[..2] != [0xC3, 0x01] {
        return Err(AvroError::NoHeader);
    }
    let schema = schemas
        .iter()
        .find(|schema| schema.rabin_fingerprint() == &header[2..])
        .ok_or_else(|| AvroError::UnknownFingerprint(hex::encode(&header[2..])))?;
    let mut reader = ReaderRead::new(datum);
    // All of it is at hand: a length beyond it is damage, and nothing to make room for.
    reader.max_alloc_size = datum.len();
    let mut state = DeserializerState::with_config(reader, DeserializerConfig::new(schema));
    let value: T =
        serde::Deserialize::deserialize(state.deserializer()).map_err(|_| AvroError::Malformed { schema: name })?;
    let rest = state.into_reader().into_inner();
    if rest.is_empty() { Ok(value) } else { Err(AvroError::TrailingBytes { schema: name, count: rest.len() }) }
}

#[cfg(test)]
#[path = "avro_tests.rs"]
mod tests;
