//! The step: raw records in, every one of them out as exactly one disposition.

mod conclude;
mod keys;

use std::sync::Arc;

use async_trait::async_trait;
use bus::{CommittedRecord, Failed, FailedInput, Input, Outcome, Prepared, Sealed, StepContext, StepHandler};
use bytes::Bytes;
use events::avro::{self, AvroError, schema_dependency};
use events::{CleanEvent, EventHeader, EventId, EventKind, QuarantinedEvent, RawEvent, SessionId, Timestamp, topics};
use service::keys::KeyStore;

use crate::config::AnonymizerConfig;
use crate::error::AnonymizerError;
use crate::rules::Rules;
use crate::session::{Held, Session};
use keys::KeyRing;

/// Name of the session's bookkeeping in keyed state.
const SESSION: &str = "session";
/// Name of the sealed memory of earlier groups.
const MEMORY: &str = "memory";
/// The mark of a session of which nothing else is kept any more.
const FORGOTTEN: &str = "forgotten";
/// The one timer of a session.
const WAKE: &str = "wake";
/// Content digests of this many consecutive sequence numbers lie under one name.
const DIGESTS_PER_CHUNK: i64 = 256;
/// Bytes kept of a content digest: it is keyed, so nobody can look for collisions.
const DIGEST_BYTES: usize = 8;

/// Codes under which events end.
pub mod reason {
    /// The person's consent went to `none` after the door.
    pub const CONSENT_WITHDRAWN: &str = "consent_withdrawn";
    /// After the end of its session, or more than a day after its first event; also what was served then.
    pub const SESSION_ENDED: &str = "session_ended";
    /// It came when its session was forgotten: nobody can tell any more whether it is a repetition. The ledger takes
    /// this for the event's end only when it had none.
    pub const SESSION_FORGOTTEN: &str = "session_forgotten";
    /// Its place in the sequence was given up.
    pub const LATE: &str = "late";
    /// The person's data key was erased.
    pub const KEY_ERASED: &str = "key_erased";
    /// The id was used for other content before.
    pub const CONTENT_CONFLICT: &str = "content_conflict";
    /// The session belongs to somebody else.
    pub const PERSON_CONFLICT: &str = "person_conflict";
    /// A client event without a usable sequence number.
    pub const BAD_SEQUENCE: &str = "bad_sequence";
    /// No such data key exists.
    pub const KEY_UNKNOWN: &str = "key_unknown";
    /// The sealed text does not open.
    pub const SEAL_BROKEN: &str = "seal_broken";
    /// The text is not what its schema says.
    pub const TEXT_UNDECODABLE: &str = "text_undecodable";
    /// More text than is scanned at once.
    pub const TEXT_TOO_LARGE: &str = "text_too_large";
    /// Scanning went on finding something.
    pub const SCRUB_RESTLESS: &str = "scrub_restless";
    /// A rule could not run.
    pub const RULE_FAILED: &str = "rule_failed";
    /// The client counts offsets in a way that only a newer release knows.
    pub const UNKNOWN_OFFSET_ENCODING: &str = "unknown_offset_encoding";
    /// A raw record that can not be decoded.
    pub const UNDECODABLE_RECORD: &str = "undecodable_record";
    /// State of a session that can not be decoded.
    pub const UNDECODABLE_STATE: &str = "undecodable_state";
    /// A value that can not be encoded.
    pub const UNENCODABLE: &str = "unencodable";
}

/// The handler of the step `anonymizer`.
///
/// # Errors
/// Settings that cannot work, or rules that do not compile.
pub fn handler(config: AnonymizerConfig, keys: KeyStore) -> Result<Arc<dyn StepHandler>, AnonymizerError> {
    config.check()?;
    let rules = Arc::new(Rules::new()?);
    Ok(Arc::new(Handler { config, keys: KeyRing::new(keys, rules) }))
}

struct Handler {
    config: AnonymizerConfig,
    keys: KeyRing,
}

/// Ends handling early.
type Handled<T> = Result<T, Outcome>;

fn poison(reason: &str) -> Outcome {
    Outcome::Poison(reason.to_owned())
}

#[async_trait]
impl StepHandler for Handler {
    fn prepare(&self, records: &[CommittedRecord]) -> Vec<Prepared> {
        records
            .iter()
            .map(|record| match avro::decode::<RawEvent>(&record.value) {
                Ok(event) => {
                    let missing = self.keys.missing(&event);
                    if missing.is_empty() { Prepared::ready(event) } else { Prepared::Unavailable(missing) }
                }
                Err(AvroError::UnknownFingerprint(fingerprint)) => {
                    Prepared::Unavailable(vec![schema_dependency(&fingerprint)])
                }
                Err(_) => Prepared::Poison(reason::UNDECODABLE_RECORD.to_owned()),
            })
            .collect()
    }

    fn handle(&self, input: Input<'_>, context: &mut dyn StepContext) -> Outcome {
        let handled = match input {
            Input::Record { record, prepared } => match prepared.take::<RawEvent>() {
                Some(event) => self.record(event, &record.value, context),
                None => Err(poison(reason::UNDECODABLE_RECORD)),
            },
            Input::Timer { .. } => self.timer(context),
        };
        handled.err().unwrap_or(Outcome::Ok)
    }

    fn partition_time_of(&self, record: &CommittedRecord, prepared: &Prepared) -> Option<Timestamp> {
        match prepared.get::<RawEvent>() {
            Some(event) => Some(event.header.received_at),
            None => avro::decode::<RawEvent>(&record.value).ok().map(|event| event.header.received_at),
        }
    }

    fn dead_letter(&self, failed: &Failed<'_>) -> Sealed {
        let mut ended: Vec<(EventId, Timestamp)> = Vec::new();
        let (mut session, mut nameless, mut payload) = (None, Vec::new(), None);
        for (name, value) in failed.lost_state.iter().filter(|(name, _)| is_held(name)) {
            match header_of(value) {
                Some(header) => {
                    session = Some(header.session_id);
                    ended.push((header.event_id, header.received_at));
                }
                None => nameless.push(name),
            }
        }
        if let FailedInput::Record(record) = failed.input
            && let Some(header) = header_of(&record.value)
        {
            session = Some(header.session_id);
            ended.push((header.event_id, header.received_at));
            // What decodes as a raw event holds its text sealed; of anything else nothing is kept.
            payload = Some(record.value.clone());
        }
        let session = session.or_else(|| session_of(failed.lost_state));
        // It was received by now; the ledger knows from the raw record when exactly.
        let received_at = failed.partition_time;
        ended.extend(nameless.into_iter().filter_map(|name| Some((held_event(name, session)?, received_at))));
        let affected =
            |(event, received_at): (EventId, Timestamp)| bus::Affected { event_id: event.to_string(), received_at };
        Sealed { payload, affected: ended.into_iter().map(affected).collect() }
    }

    async fn make_available(&self, dependencies: &[String]) {
        self.keys.load(dependencies).await;
    }
}

/// Held client events are named by their sequence number, held exposures by their id.
const HELD_EVENT: &str = "e/";
const HELD_EXPOSURE: &str = "x/";

fn is_held(name: &str) -> bool {
    name.starts_with(HELD_EVENT) || name.starts_with(HELD_EXPOSURE)
}

fn event_name(sequence: i64) -> String {
    format!("{HELD_EVENT}{sequence:019}")
}

fn exposure_name(event: EventId) -> String {
    format!("{HELD_EXPOSURE}{event}")
}

/// The id of the held event of that name.
fn held_event(name: &str, session: Option<SessionId>) -> Option<EventId> {
    match name.strip_prefix(HELD_EVENT) {
        Some(sequence) => Some(EventId::of_client_event(session?, sequence.parse().ok()?)),
        None => name.strip_prefix(HELD_EXPOSURE)?.parse().ok(),
    }
}

fn header_of(value: &[u8]) -> Option<EventHeader> {
    avro::decode::<RawEvent>(value).ok().map(|event| event.header)
}

/// The session as its bookkeeping knows it.
fn session_of(state: &[(String, Bytes)]) -> Option<SessionId> {
    let (_, session) = state.iter().find(|(name, _)| name == SESSION)?;
    serde_json::from_slice::<Session>(session).ok()?.session_id
}

fn known_exposure_name(event: EventId) -> String {
    format!("k/{event}")
}

impl Handler {
    fn record(&self, event: RawEvent, value: &Bytes, context: &mut dyn StepContext) -> Handled<()> {
        let header = &event.header;
        if context.get(FORGOTTEN).is_some() {
            let is_stub = event.filtered_at_door.is_some();
            return if is_stub { Ok(()) } else { filter(event.header, reason::SESSION_FORGOTTEN, context) };
        }
        let mut session = match load_session(context)? {
            Some(session) => session,
            None => Session::new(header.person.clone(), header.received_at, &self.config),
        };
        session.session_id = Some(header.session_id);
        if session.person != header.person {
            self.quarantine(event, reason::PERSON_CONFLICT, context)?;
        } else if header.kind == EventKind::Exposure {
            self.exposure(event, value, &mut session, context)?;
        } else {
            self.client_event(event, value, &mut session, context)?;
        }
        self.advance(session, context)
    }

    fn timer(&self, context: &mut dyn StepContext) -> Handled<()> {
        match load_session(context)? {
            Some(session) => self.advance(session, context),
            None => {
                context.delete(FORGOTTEN);
                Ok(())
            }
        }
    }

    fn exposure(
        &self,
        event: RawEvent,
        value: &Bytes,
        session: &mut Session,
        context: &mut dyn StepContext,
    ) -> Handled<()> {
        let id = event.header.event_id;
        let digest = short_digest(&event.header);
        match context.get(&known_exposure_name(id)) {
            Some(known) if known[..] == digest => {
                metrics::counter!("flywheel_anonymizer_duplicates_total").increment(1)
            }
            Some(_) => self.quarantine(event, reason::CONTENT_CONFLICT, context)?,
            None => {
                context.put(&known_exposure_name(id), Bytes::copy_from_slice(&digest));
                context.put(&exposure_name(id), value.clone());
                session.hold_exposure(id, event.header.received_at, value.len());
            }
        }
        Ok(())
    }

    fn client_event(
        &self,
        event: RawEvent,
        value: &Bytes,
        session: &mut Session,
        context: &mut dyn StepContext,
    ) -> Handled<()> {
        let header = &event.header;
        let sequence = header.sequence;
        if sequence < 1 || sequence == i64::MAX {
            return self.quarantine(event, reason::BAD_SEQUENCE, context);
        }
        let digest = short_digest(header);
        match known_digest(context, sequence) {
            Some(known) if known == digest => {
                metrics::counter!("flywheel_anonymizer_duplicates_total").increment(1);
                return Ok(());
            }
            Some(_) => return self.quarantine(event, reason::CONTENT_CONFLICT, context),
            None => put_digest(context, sequence, digest),
        }
        if session.is_past(sequence) {
            return if event.filtered_at_door.is_some() { Ok(()) } else { filter(event.header, reason::LATE, context) };
        }
        // A receipt that holds says that serving published an exposure, or tried to.
        let exposure = header
            .receipt
            .as_ref()
            .map(|receipt| EventId::of_exposure(receipt.opportunity_id, receipt.suggestion_id))
            .filter(|exposure| context.get(&known_exposure_name(*exposure)).is_none());
        let held =
            Held { received_at: header.received_at, monotonic_ms: header.monotonic_ms, bytes: value.len(), exposure };
        context.put(&event_name(sequence), value.clone());
        session.hold(sequence, held, &self.config);
        Ok(())
    }

    /// Concludes whatever may be concluded now, and sets the timer for the rest.
    fn advance(&self, mut session: Session, context: &mut dyn StepContext) -> Handled<()> {
        let time = context.partition_time();
        let forget = time >= session.forget_at;
        loop {
            let early = session.over_bounds(&self.config);
            let force = forget || early.is_some();
            if let Some(group) = session.conclude(time, force, &self.config) {
                count_early(early);
                self.conclude_group(&group, &mut session, context)?;
            } else if let Some(missing) = session.skip_gap(time, force, &self.config) {
                count_early(early);
                metrics::counter!("flywheel_anonymizer_missing_total").increment(missing);
            } else if !session.exposures.is_empty()
                && (force || session.lone_exposures_due(&self.config).is_some_and(|due| due <= time))
            {
                count_early(early);
                let until = if force { Timestamp::from_micros(i64::MAX) } else { time - self.config.settle() };
                self.conclude_exposures(until, &mut session, context)?;
            } else {
                break;
            }
        }
        if forget {
            for name in context.names("") {
                context.delete(&name);
            }
            context.put(FORGOTTEN, Bytes::from_static(b"1"));
            context.set_timer(WAKE, session.forget_at + self.config.mark_for());
            return Ok(());
        }
        if session.memory_until.is_some_and(|until| until <= time) {
            session.memory_until = None;
            context.delete(MEMORY);
        }
        context.set_timer(WAKE, session.next_wake(&self.config));
        let state = serde_json::to_vec(&session).map_err(|_| poison(reason::UNENCODABLE))?;
        context.put(SESSION, state.into());
        Ok(())
    }

    /// Writes the event to the quarantine, its text sealed for that topic where it opens.
    fn quarantine(&self, event: RawEvent, reason: &'static str, context: &mut dyn StepContext) -> Handled<()> {
        let sealed = match event.sealed {
            Some(sealed) => match self.keys.open(&event.header, &sealed)? {
                keys::Opened::Text(plaintext, key) => {
                    Some(key.seal(event.header.event_id, topics::TELEMETRY_QUARANTINE, &plaintext))
                }
                keys::Opened::Erased => None,
                // Nobody can open it; it stays as it came, for whoever finds the key.
                keys::Opened::Unknown | keys::Opened::Broken => Some(sealed),
            },
            None => None,
        };
        let quarantined = QuarantinedEvent { header: event.header, reason: reason.to_owned(), sealed };
        count("quarantined", reason);
        emit(topics::TELEMETRY_QUARANTINE, avro::encode(&quarantined), context)
    }
}

fn count_early(early: Option<crate::session::Early>) {
    if let Some(early) = early {
        metrics::counter!("flywheel_anonymizer_concluded_early_total", "reason" => early.as_str()).increment(1);
    }
}

fn count(disposition: &'static str, reason: &'static str) {
    metrics::counter!("flywheel_anonymizer_events_total", "disposition" => disposition, "reason" => reason)
        .increment(1);
}

fn filter(header: EventHeader, reason: &'static str, context: &mut dyn StepContext) -> Handled<()> {
    count("filtered", reason);
    emit_clean(&CleanEvent::filtered(header, reason), context)
}

fn emit_clean(event: &CleanEvent, context: &mut dyn StepContext) -> Handled<()> {
    emit(topics::TELEMETRY_CLEAN, avro::encode(event), context)
}

fn emit(topic: &str, value: Result<Vec<u8>, AvroError>, context: &mut dyn StepContext) -> Handled<()> {
    let value = value.map_err(|_| poison(reason::UNENCODABLE))?;
    let key = context.key();
    context.emit(topic, bus::Record { key, value: value.into() });
    Ok(())
}

fn load_session(context: &mut dyn StepContext) -> Handled<Option<Session>> {
    let Some(state) = context.get(SESSION) else { return Ok(None) };
    serde_json::from_slice(&state).map(Some).map_err(|_| undecodable(SESSION, context))
}

/// State of that name cannot be read: the whole key is poisoned.
fn undecodable(name: &str, context: &mut dyn StepContext) -> Outcome {
    context.undecodable(name);
    poison(reason::UNDECODABLE_STATE)
}

fn short_digest(header: &EventHeader) -> [u8; DIGEST_BYTES] {
    let digest = events::Sha256Digest::of(header.content_digest.as_bytes());
    let mut short = [0; DIGEST_BYTES];
    short.copy_from_slice(&digest.as_bytes()[..DIGEST_BYTES]);
    // All zeros stand for a number that was never seen.
    short[0] |= 1;
    short
}

fn digest_place(sequence: i64) -> (String, usize) {
    let place = usize::try_from(sequence % DIGESTS_PER_CHUNK).unwrap_or(0) * DIGEST_BYTES;
    (format!("d/{:016}", sequence / DIGESTS_PER_CHUNK), place)
}

fn known_digest(context: &mut dyn StepContext, sequence: i64) -> Option<[u8; DIGEST_BYTES]> {
    let (name, place) = digest_place(sequence);
    let known = context.get(&name)?.get(place..place + DIGEST_BYTES)?.try_into().ok()?;
    (known != [0; DIGEST_BYTES]).then_some(known)
}

fn put_digest(context: &mut dyn StepContext, sequence: i64, digest: [u8; DIGEST_BYTES]) {
    let (name, place) = digest_place(sequence);
    let mut chunk = context.get(&name).map(|chunk| chunk.to_vec()).unwrap_or_default();
    if chunk.len() < place + DIGEST_BYTES {
        chunk.resize(place + DIGEST_BYTES, 0);
    }
    chunk[place..place + DIGEST_BYTES].copy_from_slice(&digest);
    context.put(&name, chunk.into());
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
