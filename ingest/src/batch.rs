//! From bytes to events. The batch is taken apart before any event is understood, so that a bad one harms no other.
//!
//! Invalid UTF-8 and control characters would make the whole body unreadable. They are first replaced, byte by byte, in
//! a copy; whatever event covered such a byte is refused, and if none did, the body is.

use std::collections::BTreeMap;

use events::wire::ClientEvent;
use events::{OffsetEncoding, Origin, SessionId};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::config::IngestLimits;
use crate::fields::{self, Spec};

/// Largest number that passes: what every JSON implementation can carry exactly.
pub(crate) const LARGEST_NUMBER: u64 = 1 << 53;
/// Largest name of a person, in bytes.
const PERSON_BYTES: usize = 256;

/// Why a batch is refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BatchError {
    #[error("the body is no valid JSON")]
    InvalidJson,
    #[error("the body is not UTF-8 outside its events, or has control characters there")]
    InvalidText,
    #[error("`{field}`: expected {expected}")]
    Shape { field: &'static str, expected: &'static str },
    #[error("{count} events in a batch, at most {limit} are accepted")]
    TooManyEvents { count: usize, limit: usize },
}

/// Why one event is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Stable.
    pub(crate) code: &'static str,
    /// Without content.
    pub(crate) detail: String,
}

impl Refusal {
    pub(crate) fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }
}

/// One entry of the batch.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The sequence number, when it could be read.
    pub(crate) sequence: Option<u64>,
    pub(crate) event: Result<ClientEvent, Refusal>,
}

/// A batch taken apart.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) person: String,
    pub(crate) session_id: SessionId,
    pub(crate) offset_encoding: OffsetEncoding,
    pub(crate) entries: Vec<Entry>,
    /// Fields that nobody knows, dropped.
    pub(crate) unknown_fields: u64,
}

/// Takes a body apart.
pub(crate) fn parse(body: &[u8], limits: &IngestLimits) -> Result<Batch, BatchError> {
    let (text, replaced) = readable(body);
    let outer: BTreeMap<std::borrow::Cow<'_, str>, &RawValue> =
        serde_json::from_str(&text).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => BatchError::Shape { field: "", expected: "an object" },
            _ => BatchError::InvalidJson,
        })?;
    let known = ["person", "session_id", "offset_encoding", "events"];
    let mut unknown_fields = outer.keys().filter(|name| !known.contains(&name.as_ref())).count() as u64;

    let person = outer.get("person").and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
    let person = person
        .filter(|person| (1..=PERSON_BYTES).contains(&person.len()) && !person.chars().any(char::is_control))
        .ok_or(BatchError::Shape {
            field: "person",
            expected: "a text of 1 to 256 bytes without control characters",
        })?;
    let session_id = outer
        .get("session_id")
        .and_then(|raw| serde_json::from_str::<SessionId>(raw.get()).ok())
        .ok_or(BatchError::Shape { field: "session_id", expected: "a UUID" })?;
    let offset_encoding = match outer.get("offset_encoding") {
        Some(raw) => serde_json::from_str(raw.get())
            .map_err(|_| BatchError::Shape { field: "offset_encoding", expected: "\"utf8\" or \"utf16\"" })?,
        None => OffsetEncoding::default(),
    };
    let events: Vec<&RawValue> = outer
        .get("events")
        .and_then(|raw| serde_json::from_str(raw.get()).ok())
        .ok_or(BatchError::Shape { field: "events", expected: "an array" })?;
    if events.len() > limits.events {
        return Err(BatchError::TooManyEvents { count: events.len(), limit: limits.events });
    }

    let mut covered = 0;
    let mut entries = Vec::with_capacity(events.len());
    for raw in events {
        let start = raw.get().as_ptr() as usize - text.as_ptr() as usize;
        let end = start + raw.get().len();
        let bad: Vec<Bad> =
            replaced.iter().filter(|(place, _)| (start..end).contains(place)).map(|(_, bad)| *bad).collect();
        covered += bad.len();
        entries.push(entry(raw.get(), bad.first().copied(), offset_encoding, limits, &mut unknown_fields));
    }
    if covered < replaced.len() {
        return Err(BatchError::InvalidText);
    }
    Ok(Batch { person, session_id, offset_encoding, entries, unknown_fields })
}

/// What kind of byte was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bad {
    NotUtf8,
    Control,
}

/// The body as text of the same length, with the places where bytes had to be replaced.
fn readable(body: &[u8]) -> (std::borrow::Cow<'_, str>, Vec<(usize, Bad)>) {
    let mut replaced = Vec::new();
    let mut place = 0;
    for chunk in body.utf8_chunks() {
        place += chunk.valid().len();
        replaced.extend((0..chunk.invalid().len()).map(|offset| (place + offset, Bad::NotUtf8)));
        place += chunk.invalid().len();
    }
    let control = |byte: &u8| *byte < 0x20 && !matches!(byte, b'\t' | b'\n' | b'\r');
    replaced.extend(body.iter().enumerate().filter(|(_, byte)| control(byte)).map(|(place, _)| (place, Bad::Control)));
    if replaced.is_empty() {
        return (String::from_utf8_lossy(body), replaced);
    }
    let mut bytes = body.to_vec();
    for (place, _) in &replaced {
        bytes[*place] = b'?';
    }
    (String::from_utf8_lossy(&bytes).into_owned().into(), replaced)
}

fn entry(
    raw: &str,
    bad: Option<Bad>,
    encoding: OffsetEncoding,
    limits: &IngestLimits,
    unknown_fields: &mut u64,
) -> Entry {
    if raw.len() > limits.event_bytes {
        let detail = format!("an event has at most {} bytes", limits.event_bytes);
        return Entry { sequence: None, event: Err(Refusal::new("event_too_large", detail)) };
    }
    if depth(raw) > limits.json_depth {
        let detail = format!("an event is at most {} levels deep", limits.json_depth);
        return Entry { sequence: None, event: Err(Refusal::new("too_deep", detail)) };
    }
    let mut object = match serde_json::from_str(raw) {
        Ok(Value::Object(object)) => object,
        read => {
            let expected = match read {
                Ok(_) => "an event is an object",
                // It is JSON, or there were no batch.
                Err(_) => "a number or an escape in the event stands for nothing",
            };
            return Entry { sequence: None, event: Err(Refusal::new("wrong_type", expected)) };
        }
    };
    let sequence =
        object.get("sequence").and_then(Value::as_u64).filter(|sequence| (1..=LARGEST_NUMBER).contains(sequence));
    let event = match bad {
        Some(Bad::NotUtf8) => Err(Refusal::new("invalid_utf8", "the event is not UTF-8")),
        Some(Bad::Control) => Err(Refusal::new("control_character", "control characters in JSON must be escaped")),
        None => understand(&mut object, encoding, limits, unknown_fields),
    };
    Entry { sequence, event }
}

/// How deep arrays and objects are nested.
fn depth(raw: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_text, mut escaped) = (false, false);
    for byte in raw.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn understand(
    object: &mut Map<String, Value>,
    encoding: OffsetEncoding,
    limits: &IngestLimits,
    unknown_fields: &mut u64,
) -> Result<ClientEvent, Refusal> {
    let kind = match object.get("kind") {
        Some(Value::String(kind)) => kind.as_str(),
        Some(_) => return Err(Refusal::new("wrong_type", "`kind`: expected a text")),
        None => return Err(Refusal::new("missing_field", "`kind` is missing")),
    };
    let Some(specs) = fields::of_kind(kind) else {
        return Err(Refusal::new("unknown_kind", "`kind`: no event of that kind is known"));
    };
    let known = |name: &str| name == "kind" || fields::COMMON.iter().chain(specs).any(|spec| spec.name == name);
    let before = object.len();
    object.retain(|name, _| known(name));
    *unknown_fields += (before - object.len()) as u64;
    for spec in fields::COMMON.iter().chain(specs) {
        check(object, spec, limits)?;
    }
    // All fields have passed; what is still refused here is refused without repeating any of it.
    let event: ClientEvent = serde_json::from_value(Value::Object(std::mem::take(object)))
        .map_err(|_| Refusal::new("wrong_type", "the event does not have the documented shape"))?;
    fields::check_together(&event, encoding)?;
    Ok(event)
}

fn check(object: &mut Map<String, Value>, spec: &Spec, limits: &IngestLimits) -> Result<(), Refusal> {
    let name = spec.name;
    if matches!(object.get(name), Some(Value::Null)) && !spec.required {
        object.remove(name);
    }
    let Some(value) = object.get(name) else {
        return if spec.required { Err(Refusal::new("missing_field", format!("`{name}` is missing"))) } else { Ok(()) };
    };
    let wrong = |expected: &str| Err(Refusal::new("wrong_type", format!("`{name}`: expected {expected}")));
    match (&spec.kind, value) {
        (fields::Kind::Number { most }, Value::Number(number)) => match number.as_u64() {
            Some(number) if number > *most => {
                Err(Refusal::new("out_of_range", format!("`{name}`: expected at most {most}")))
            }
            Some(_) => Ok(()),
            None => wrong("a whole number, not negative"),
        },
        (fields::Kind::Number { .. }, _) => wrong("a whole number, not negative"),
        (fields::Kind::Uuid, Value::String(text)) if uuid::Uuid::try_parse(text).is_ok() => Ok(()),
        (fields::Kind::Uuid, _) => wrong("a UUID"),
        (fields::Kind::Origin, Value::String(text)) if Origin::from_symbol(text) != Origin::Unknown => Ok(()),
        (fields::Kind::Origin, Value::String(_)) => {
            Err(Refusal::new("unknown_symbol", format!("`{name}`: this symbol is not known")))
        }
        (fields::Kind::Origin, _) => wrong("a text"),
        (fields::Kind::Path, Value::String(text)) if text.len() > limits.path_bytes => {
            Err(Refusal::new("too_long", format!("`{name}`: at most {} bytes", limits.path_bytes)))
        }
        (fields::Kind::Receipt, Value::String(_)) => Ok(()),
        (fields::Kind::Path | fields::Kind::Text, Value::String(text)) if text.contains('\0') => {
            Err(Refusal::new("nul_character", format!("`{name}`: NUL is not accepted")))
        }
        (fields::Kind::Path, Value::String(text)) if text.is_empty() => {
            Err(Refusal::new("out_of_range", format!("`{name}`: expected at least one character")))
        }
        (fields::Kind::Path | fields::Kind::Text, Value::String(_)) => Ok(()),
        (fields::Kind::Path | fields::Kind::Text | fields::Kind::Receipt, _) => wrong("a text"),
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
