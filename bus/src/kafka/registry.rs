//! A registry of schemas beside the brokers, so that other readers of our topics can read them: Confluent's wire format
//! and REST.
//!
//! Everybody here writes and reads Avro's single-object encoding: `C3 01`, the fingerprint of the schema, the datum. With
//! a registry the values of our topics stand at the brokers as `00`, the schema's number (four bytes, big-endian), the
//! datum. Only what stands before the datum is exchanged, on the way out and on the way in, so text in it stays sealed,
//! and nothing behind the bus knows of it. Control records and changelogs stay as they are.
//!
//! * Every schema that this release may write is registered, or looked up, when the bus is opened: writing asks nobody.
//!   Whoever opens it to look registers nothing, and lacks nothing that is not there.
//! * The schema of a number is asked for once. While it can not be had, the reader waits with
//!   [`BusError::SchemaUnavailable`], and the record stays where it is: never a dead letter. One that is had and is none
//!   of this release's gets its fingerprint, which handlers do not know and wait for, as without a registry.
//! * Values from before there was a registry are read as they are. Without a registry, a value with a number waits.

use std::collections::HashMap;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use events::avro::AvroRecord;
use events::{CleanEvent, FlywheelEvent, OpportunityOutcome, PreferencePair, QuarantinedEvent, RawEvent, topics};
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode};
use parking_lot::RwLock;
use serde::Deserialize;
use serde_avro_fast::Schema;
use service::config::Secret;

use super::config::KafkaConfig;
use super::web::{Answer, Web, basic, encoded};
use crate::dead_letter::DeadLetter;
use crate::error::BusError;

const SINGLE_OBJECT: [u8; 2] = [0xC3, 0x01];
const NUMBERED: u8 = 0;
const JSON: &str = "application/vnd.schemaregistry.v1+json";
/// How often a question is asked before it has no answer, and how long it is waited between.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);

/// Fingerprint of a schema, as single-object encoding has it.
type Fingerprint = [u8; 8];

/// Under what name the schemas of a topic's values are known.
pub(super) fn subject_of(config: &KafkaConfig, topic: &str) -> String {
    format!("{}-value", config.stored_name(topic))
}

/// The schemas of a topic's values, oldest first; none: the topic is none of ours.
fn schemas_of(topic: &str) -> &'static [Schema] {
    match topic {
        topics::TELEMETRY_RAW => RawEvent::schemas(),
        topics::TELEMETRY_CLEAN => CleanEvent::schemas(),
        topics::TELEMETRY_QUARANTINE => QuarantinedEvent::schemas(),
        topics::DEAD_LETTERS => DeadLetter::schemas(),
        topics::PREFERENCE_PAIRS => PreferencePair::schemas(),
        topics::SERVING_OUTCOMES => OpportunityOutcome::schemas(),
        topics::FLYWHEEL_EVENTS => FlywheelEvent::schemas(),
        _ => &[],
    }
}

/// The number before a value, and the datum behind it.
fn numbered(value: &[u8]) -> Option<(u32, &[u8])> {
    let (header, datum) = value.split_first_chunk::<5>()?;
    let [NUMBERED, number @ ..] = *header else { return None };
    Some((u32::from_be_bytes(number), datum))
}

/// The fingerprint before a value, and the datum behind it.
fn fingerprinted(value: &[u8]) -> Option<(Fingerprint, &[u8])> {
    let (header, datum) = value.split_first_chunk::<10>()?;
    let fingerprint = header.strip_prefix(&SINGLE_OBJECT)?.try_into().ok()?;
    Some((fingerprint, datum))
}

fn with_number(number: u32, datum: &[u8]) -> Bytes {
    let mut value = BytesMut::with_capacity(5 + datum.len());
    value.put_u8(NUMBERED);
    value.put_u32(number);
    value.put_slice(datum);
    value.freeze()
}

fn with_fingerprint(fingerprint: Fingerprint, datum: &[u8]) -> Bytes {
    let mut value = BytesMut::with_capacity(10 + datum.len());
    value.put_slice(&SINGLE_OBJECT);
    value.put_slice(&fingerprint);
    value.put_slice(datum);
    value.freeze()
}

/// What a bus is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opened {
    /// Whatever may be written is known to the registry from then on.
    ToWork,
    /// The registry stays as it is; what it does not know can not be written.
    ToLook,
}

/// How the values of our topics stand at the brokers.
pub(super) struct Schemas {
    registry: Option<Registry>,
    /// Numbers of what is written, by topic and fingerprint.
    numbers: HashMap<(&'static str, Fingerprint), u32>,
    /// What was read so far.
    fingerprints: RwLock<HashMap<u32, Fingerprint>>,
}

impl Schemas {
    /// Registers what may be written, or looks it up, if there is a registry.
    ///
    /// # Errors
    /// The registry can not be reached, or does not have or take a schema: the sentence says which.
    pub(super) async fn open(config: &KafkaConfig, opened: Opened) -> Result<Self, BusError> {
        let mut schemas = Self { registry: None, numbers: HashMap::new(), fingerprints: RwLock::default() };
        let Some(registry) = Registry::of(config)? else { return Ok(schemas) };
        for topic in topics::ALL {
            for schema in schemas_of(topic) {
                let subject = subject_of(config, topic);
                let register = config.schema_registry.register && opened == Opened::ToWork;
                let number = match registry.number_of(&subject, schema, register).await {
                    Err(refusal) if refusal.is_unknown && opened == Opened::ToLook => continue,
                    number => number.map_err(|refusal| BusError::Invalid(refusal.sentence))?,
                };
                let fingerprint = *schema.rabin_fingerprint();
                schemas.numbers.insert((topic, fingerprint), number);
                schemas.fingerprints.get_mut().insert(number, fingerprint);
            }
        }
        schemas.registry = Some(registry);
        Ok(schemas)
    }

    /// A value as it is written to a topic, by the callers' name.
    ///
    /// # Errors
    /// Its schema is none that this release may write there.
    pub(super) fn outgoing(&self, topic: &str, value: &Bytes) -> Result<Bytes, BusError> {
        if self.registry.is_none() || schemas_of(topic).is_empty() {
            return Ok(value.clone());
        }
        let Some((fingerprint, datum)) = fingerprinted(value) else {
            // What is no value of ours is for its readers to refuse, as without a registry; but it must not look like one.
            return match numbered(value) {
                None => Ok(value.clone()),
                Some(_) => {
                    Err(BusError::Invalid(format!("a value for topic {topic} is not in single-object encoding")))
                }
            };
        };
        let known = self.numbers.iter().find(|((of, known), _)| *of == topic && *known == fingerprint);
        let (_, number) = known.ok_or_else(|| {
            let fingerprint = hex::encode(fingerprint);
            BusError::Invalid(format!("a value for topic {topic} has a schema that is not registered: {fingerprint}"))
        })?;
        Ok(with_number(*number, datum))
    }

    /// A value as it is read from a topic, by the callers' name.
    ///
    /// # Errors
    /// The number of its schema, which must be asked for first.
    pub(super) fn incoming(&self, topic: &str, value: Bytes) -> Result<Bytes, u32> {
        let Some((number, datum)) = numbered(&value) else { return Ok(value) };
        if schemas_of(topic).is_empty() {
            return Ok(value);
        }
        let known = self.fingerprints.read().get(&number).copied();
        known.map(|fingerprint| with_fingerprint(fingerprint, datum)).ok_or(number)
    }

    /// Asks for the schema with a number, found in a topic.
    ///
    /// # Errors
    /// It can not be had now.
    pub(super) async fn ask(&self, topic: &str, number: u32) -> Result<(), BusError> {
        let asked = match &self.registry {
            Some(registry) => registry.schema_of(number).await,
            None => Err("`bus.kafka.schema_registry.url` names no registry to ask".to_owned()),
        };
        let unavailable = |why| BusError::SchemaUnavailable { topic: topic.to_owned(), schema: number, why };
        let fingerprint = asked.map_err(unavailable)?;
        self.fingerprints.write().insert(number, fingerprint);
        Ok(())
    }
}

/// The registry.
pub(super) struct Registry {
    web: Web,
    /// Without a slash at its end.
    url: String,
    authorization: Option<HeaderValue>,
}

#[derive(Deserialize)]
struct Numbered {
    id: u32,
}

#[derive(Deserialize)]
struct Described {
    schema: String,
}

#[derive(Deserialize)]
struct Refused {
    message: String,
}

/// Why there is no number of a schema.
struct Refusal {
    /// It was looked up, and is not there.
    is_unknown: bool,
    sentence: String,
}

impl Registry {
    pub(super) fn of(config: &KafkaConfig) -> Result<Option<Self>, BusError> {
        let settings = &config.schema_registry;
        let Some(url) = &settings.url else { return Ok(None) };
        let timeout = Duration::from_millis(config.request_timeout_ms);
        let web = Web::new(settings.ca_file.as_deref(), timeout)
            .map_err(|why| BusError::Invalid(format!("`bus.kafka.schema_registry.ca_file`: {why}")))?;
        let password = settings.password.as_ref().map_or("", Secret::expose_secret).trim_end_matches(['\r', '\n']);
        let authorization = match settings.username.as_str() {
            "" => None,
            user => {
                let refused = |_| BusError::Invalid("`bus.kafka.schema_registry.password`: can not be sent".to_owned());
                let mut header = HeaderValue::try_from(basic(user, password)).map_err(refused)?;
                header.set_sensitive(true);
                Some(header)
            }
        };
        Ok(Some(Self { web, url: url.trim_end_matches('/').to_owned(), authorization }))
    }

    /// As sentences name it.
    pub(super) fn name(&self) -> String {
        format!("the schema registry {}", self.url)
    }

    /// The subjects that it knows, those that begin so among them; or what is wrong, and what to do. Asked once.
    pub(super) async fn subjects(&self, prefix: &str) -> Result<Vec<String>, (String, &'static str)> {
        let wrong = |why: String, advice| (format!("{} {why}", self.name()), advice);
        let place = match prefix {
            "" => "/subjects".to_owned(),
            prefix => format!("/subjects?subjectPrefix={}", encoded(prefix)),
        };
        let Answer { status, body } = self.ask_once(&Method::GET, &place, "").await.map_err(|why| {
            let advice = "check `bus.kafka.schema_registry.url` and `bus.kafka.schema_registry.ca_file`, and whether it \
                          runs";
            wrong(why, advice)
        })?;
        if status.is_success() {
            let subjects: Result<Vec<String>, _> = serde_json::from_slice(&body);
            let advice = "check the path in `bus.kafka.schema_registry.url`";
            return subjects.map_err(|_| wrong("answers without a list of subjects".to_owned(), advice));
        }
        let said = said(&body);
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => wrong(
                format!("does not let us in{said}"),
                "check `bus.kafka.schema_registry.username` and `bus.kafka.schema_registry.password`",
            ),
            StatusCode::NOT_FOUND => {
                let advice = "check the path in `bus.kafka.schema_registry.url`";
                wrong(format!("takes no schemas there{said}"), advice)
            }
            status => wrong(format!("answers {}{said}", status.as_u16()), "look whether it is well"),
        })
    }

    /// Whether it knows the schemas of a topic's values under that subject.
    pub(super) async fn knows(&self, topic: &str, subject: &str) -> bool {
        for schema in schemas_of(topic) {
            if self.number_of(subject, schema, false).await.is_err() {
                return false;
            }
        }
        true
    }

    /// The number of a schema under a subject.
    async fn number_of(&self, subject: &str, schema: &Schema, register: bool) -> Result<u32, Refusal> {
        let path = if register { "/versions" } else { "" };
        let body = serde_json::json!({ "schema": schema.json(), "schemaType": "AVRO" }).to_string();
        let refused = |why: String| {
            let sentence = format!("the schema registry {} {why}", self.url);
            Refusal { is_unknown: false, sentence }
        };
        let place = format!("/subjects/{}{path}", encoded(subject));
        let Answer { status, body } = self.ask(Method::POST, &place, body).await.map_err(refused)?;
        if status.is_success() {
            let numbered: Result<Numbered, _> = serde_json::from_slice(&body);
            return numbered.map(|numbered| numbered.id).map_err(|_| refused("answers without a number".to_owned()));
        }
        let said = said(&body);
        let is_unknown = status == StatusCode::NOT_FOUND && !register;
        let refusal = refused(match status {
            StatusCode::NOT_FOUND if !register => format!(
                "does not know the schema of {subject}{said}: register it, or set \
                 `bus.kafka.schema_registry.register` = true"
            ),
            StatusCode::NOT_FOUND => {
                "takes no schemas there: check the path in `bus.kafka.schema_registry.url`".to_owned()
            }
            StatusCode::CONFLICT => format!("holds another schema of {subject}, which ours does not agree with{said}"),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => format!(
                "does not let us in{said}: check `bus.kafka.schema_registry.username` and \
                 `bus.kafka.schema_registry.password`"
            ),
            status => format!("answers {} to the schema of {subject}{said}", status.as_u16()),
        });
        Err(Refusal { is_unknown, ..refusal })
    }

    /// The fingerprint of the schema with a number; or why it can not be had.
    async fn schema_of(&self, number: u32) -> Result<Fingerprint, String> {
        let refused = |why: String| format!("the schema registry {} {why}", self.url);
        let Answer { status, body } =
            self.ask(Method::GET, &format!("/schemas/ids/{number}"), String::new()).await.map_err(refused)?;
        if !status.is_success() {
            return Err(refused(format!("answers {}{}", status.as_u16(), said(&body))));
        }
        let described: Result<Described, _> = serde_json::from_slice(&body);
        let schema = described.ok().and_then(|described| described.schema.parse::<Schema>().ok());
        let schema = schema.ok_or_else(|| refused("answers with no Avro schema".to_owned()))?;
        Ok(*schema.rabin_fingerprint())
    }

    /// Asks a few times, as long as the registry can not be reached or is not well.
    async fn ask(&self, method: Method, place: &str, body: String) -> Result<Answer, String> {
        let mut attempt = 1;
        loop {
            let answered = match self.ask_once(&method, place, &body).await {
                Ok(answer) if !answer.status.is_server_error() => return Ok(answer),
                Ok(answer) => format!("answers {}{}", answer.status.as_u16(), said(&answer.body)),
                Err(why) => why,
            };
            if attempt >= ATTEMPTS {
                return Err(answered);
            }
            attempt += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn ask_once(&self, method: &Method, place: &str, body: &str) -> Result<Answer, String> {
        let mut request = Request::builder().method(method).uri(format!("{}{place}", self.url));
        request = request.header(CONTENT_TYPE, JSON);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes())));
        let request = request.map_err(|error| format!("has no address: {error}"))?;
        self.web.send(request).await.map_err(|why| format!("can not be used: {why}"))
    }
}

/// What a registry says of why it refuses.
fn said(body: &[u8]) -> String {
    let refused: Result<Refused, _> = serde_json::from_slice(body);
    refused.map_or_else(|_| String::new(), |refused| format!(" ({})", refused.message.replace(['\r', '\n'], " ")))
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
