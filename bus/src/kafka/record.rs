//! Our records as Kafka's messages.
//!
//! | part | what it is |
//! |---|---|
//! | key | the 16 bytes of the record key; the partition is set by us, never by the client |
//! | value | the value |
//! | header `at` | microseconds since 1970 by our injected clock, eight bytes, big-endian |
//! | header `control` | present: a control record (`control.rs`) |
//!
//! Kafka's own timestamp stays the real time of sending, because retention goes by it.

use events::Timestamp;
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};

use crate::record::RecordKey;
use crate::worker::log::StoredRecord;

const APPENDED_AT: &str = "at";
const CONTROL: &str = "control";

/// The headers of a record.
pub(super) fn headers(appended_at: Timestamp, control: bool) -> OwnedHeaders {
    let at = appended_at.as_micros().to_be_bytes();
    let headers = OwnedHeaders::new_with_capacity(2).insert(Header { key: APPENDED_AT, value: Some(&at) });
    if control { headers.insert(Header { key: CONTROL, value: Some(b"1") }) } else { headers }
}

/// The record in a message. A message of somebody else, which has no key of ours, becomes one under the key of zeros:
/// whoever reads it will find that it can not be decoded, and say so.
pub(super) fn stored(message: &BorrowedMessage<'_>) -> StoredRecord {
    let (mut appended_at, mut control) = (None, false);
    for header in message.headers().into_iter().flat_map(Headers::iter) {
        match (header.key, header.value) {
            (APPENDED_AT, Some(value)) => {
                let micros = value.try_into().ok().map(i64::from_be_bytes);
                appended_at = micros.map(Timestamp::from_micros);
            }
            (CONTROL, _) => control = true,
            _ => {}
        }
    }
    let sent_at = || Timestamp::from_micros(message.timestamp().to_millis().unwrap_or(0).saturating_mul(1_000));
    StoredRecord {
        position: u64::try_from(message.offset()).unwrap_or(0),
        control,
        appended_at: appended_at.unwrap_or_else(sent_at),
        key: RecordKey(message.key().and_then(|key| key.try_into().ok()).unwrap_or([0; 16])),
        value: bytes::Bytes::copy_from_slice(message.payload().unwrap_or_default()),
    }
}
