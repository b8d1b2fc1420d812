//! The conclusion of a group: consent, session end, scrubbing as one document, emission in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bus::{Outcome, StepContext};
use bytes::{BufMut, Bytes, BytesMut};
use events::avro::{self, AvroError, schema_dependency};
use events::{
    CleanEvent, ConsentTier, DataKey, EventHeader, EventId, EventKind, EventText, KeyId, OpportunityId,
    QuarantinedEvent, RawEvent, ReceiptState, ScrubWitness, ScrubbedText, Sealed, Timestamp, topics,
};
use service::consent::{self, ConsentDecision};

use super::{
    Handled, Handler, MEMORY, count, emit, emit_clean, event_name, exposure_name, filter, keys, poison, reason,
    undecodable,
};
use crate::rules::Rules;
use crate::scene::{Memory, Placed, Scene};
use crate::scrub::ScrubError;
use crate::session::{Group, Session};

/// The topic to whose name the seal of the memory is bound; no record of it exists.
const MEMORY_TOPIC: &str = "anonymizer.memory.v1";

/// A held record and how large it was.
struct Item {
    event: RawEvent,
    bytes: usize,
}

/// What was decided about an item.
enum Decided {
    /// A stub of the door; its disposition is the raw record.
    Nothing,
    Filtered(EventHeader, &'static str),
    Erased(EventHeader),
    /// The text is sealed for the quarantine, or as it came if it does not open.
    Quarantined(EventHeader, &'static str, Option<Sealed>),
    /// Without text, by nature or by consent.
    Plain(EventHeader),
    /// Opened, to be scrubbed.
    Opened(EventHeader, Opened),
}

/// An opened text and its place in the scene.
struct Opened {
    plaintext: Vec<u8>,
    key: Arc<DataKey>,
    placed: Option<Placed>,
}

impl Handler {
    /// Concludes a group with the exposures that belong before or into it.
    pub(super) fn conclude_group(
        &self,
        group: &Group,
        session: &mut Session,
        context: &mut dyn StepContext,
    ) -> Handled<()> {
        let mut items = Vec::new();
        for sequence in group.first..=group.last {
            let name = event_name(sequence);
            items.push(load_item(&name, context)?);
            context.delete(&name);
        }
        let named: Vec<OpportunityId> = items.iter().filter_map(|item| item.event.header.opportunity_id).collect();
        let mut exposures = Vec::new();
        for (event, received_at) in session.exposures.clone() {
            let item = load_item(&exposure_name(event), context)?;
            let belongs = item.event.header.opportunity_id.is_some_and(|opportunity| named.contains(&opportunity));
            if belongs || received_at <= group.last_received_at {
                exposures.push(self.release(event, item, session, context));
            }
        }
        sort_exposures(&mut exposures);
        for exposure in exposures.into_iter().rev() {
            let header = &exposure.event.header;
            // Other exposures may stand between already; they are before their own signals and stay there.
            let place = items.iter().position(|item| {
                let other = &item.event.header;
                other.kind != EventKind::Exposure
                    && (other.received_at > header.received_at
                        || other.opportunity_id.is_some() && other.opportunity_id == header.opportunity_id)
            });
            items.insert(place.unwrap_or(items.len()), exposure);
        }
        self.conclude_items(items, session, context)
    }

    /// Concludes the exposures received until `until` by themselves.
    pub(super) fn conclude_exposures(
        &self,
        until: Timestamp,
        session: &mut Session,
        context: &mut dyn StepContext,
    ) -> Handled<()> {
        let mut items = Vec::new();
        for (event, received_at) in session.exposures.clone() {
            if received_at <= until {
                let item = load_item(&exposure_name(event), context)?;
                items.push(self.release(event, item, session, context));
            }
        }
        sort_exposures(&mut items);
        self.conclude_items(items, session, context)
    }

    fn release(&self, event: EventId, item: Item, session: &mut Session, context: &mut dyn StepContext) -> Item {
        session.release_exposure(event, item.bytes);
        context.delete(&exposure_name(event));
        item
    }

    fn conclude_items(&self, items: Vec<Item>, session: &mut Session, context: &mut dyn StepContext) -> Handled<()> {
        let Some(first) = items.first() else { return Ok(()) };
        let tools = self.keys.tenant(&first.event.header.tenant)?;
        let memory_event = EventId::of_client_event(first.event.header.session_id, 0);
        let mut decided = Vec::with_capacity(items.len());
        for item in items {
            decided.push(self.decide(item.event, session, context)?);
        }
        end_exposures(&mut decided, session.over_at());
        // The person's current key: the last one used seals the memory.
        let key = decided.iter().rev().find_map(|decided| match decided {
            Decided::Opened(_, opened) => Some(Arc::clone(&opened.key)),
            _ => None,
        });
        let Some(key) = key else { return emit_all(decided, None, context) };
        let memory = self.memory(memory_event, context)?;
        let scene = match Scene::new(&tools.scrubber, &tools.shape, self.config.scene_limits(), memory) {
            Ok(scene) => self.scrub(scene, &mut decided),
            Err(error) => {
                refuse_all(&mut decided, error);
                None
            }
        };
        emit_all(decided, scene.as_ref(), context)?;
        let Some(memory) = scene.map(Scene::remember) else { return Ok(()) };
        if memory.is_empty() {
            context.delete(MEMORY);
            session.memory_until = None;
        } else {
            let plaintext = serde_json::to_vec(&memory).map_err(|_| poison(reason::UNENCODABLE))?;
            context.put(MEMORY, memory_bytes(&key.seal(memory_event, MEMORY_TOPIC, &plaintext)));
            session.memory_until = Some(context.partition_time() + self.config.memory());
        }
        Ok(())
    }

    /// Consent, session end and keys: everything that is decided before the text is looked at.
    fn decide(&self, event: RawEvent, session: &mut Session, context: &mut dyn StepContext) -> Handled<Decided> {
        let RawEvent { mut header, filtered_at_door, sealed } = event;
        if filtered_at_door.is_some() {
            return Ok(Decided::Nothing);
        }
        if header.kind != EventKind::Exposure {
            let first = *session.first_monotonic_ms.get_or_insert(header.monotonic_ms);
            let limit_ms = i64::try_from(self.config.longest_session_s.saturating_mul(1000)).unwrap_or(i64::MAX);
            let left_ms = limit_ms.saturating_sub(header.monotonic_ms.saturating_sub(first));
            let left = u64::try_from(left_ms).ok().filter(|_| session.ended_at.is_none());
            let Some(left) = left else {
                return Ok(Decided::Filtered(header, reason::SESSION_ENDED));
            };
            session.goes_on(header.received_at, Duration::from_millis(left));
            if header.kind == EventKind::SessionEnded {
                session.ended_at = Some(header.sequence);
                session.end_received_at = Some(header.received_at);
            }
        }
        header.consent = current_consent(&header, session, context);
        if header.consent == ConsentTier::None {
            return Ok(Decided::Filtered(content_free(header), reason::CONSENT_WITHDRAWN));
        }
        let Some(sealed) = sealed.filter(|_| header.consent == ConsentTier::Code) else {
            return Ok(Decided::Plain(header));
        };
        Ok(match self.keys.open(&header, &sealed)? {
            keys::Opened::Text(plaintext, key) => Decided::Opened(header, Opened { plaintext, key, placed: None }),
            keys::Opened::Erased => Decided::Erased(header),
            keys::Opened::Unknown => Decided::Quarantined(header, reason::KEY_UNKNOWN, Some(sealed)),
            keys::Opened::Broken => Decided::Quarantined(header, reason::SEAL_BROKEN, Some(sealed)),
        })
    }

    /// Scrubs all opened texts as one document. None when nothing could be scrubbed; all of them are quarantined then.
    fn scrub<'a>(&self, mut scene: Scene<'a>, decided: &mut [Decided]) -> Option<Scene<'a>> {
        for decided in decided.iter_mut() {
            let Decided::Opened(header, opened) = decided else { continue };
            let placed = match serde_json::from_slice::<EventText>(&opened.plaintext) {
                Ok(text) => scene.place(text, header.offset_encoding).map_err(code),
                Err(_) => Err(reason::TEXT_UNDECODABLE),
            };
            match placed {
                Ok(placed) => opened.placed = Some(placed),
                Err(reason) => refuse(decided, reason),
            }
        }
        let mut hits =
            |rule| metrics::counter!("flywheel_anonymizer_rule_hits_total", "rule" => Rules::name(rule)).increment(1);
        match scene.settle(&mut hits) {
            Ok(()) => Some(scene),
            Err(error) => {
                refuse_all(decided, error);
                None
            }
        }
    }

    /// What earlier groups left. One that is there and cannot be read is no empty one: a later look would show what was
    /// replaced before.
    fn memory(&self, event: EventId, context: &mut dyn StepContext) -> Handled<Memory> {
        let Some(bytes) = context.get(MEMORY) else { return Ok(Memory::default()) };
        let Some(sealed) = memory_of_bytes(&bytes) else { return Err(undecodable(MEMORY, context)) };
        let key = match self.keys.lookup(sealed.key_id)? {
            Ok(key) => key,
            // Its person was erased, and with the key whatever stood in it.
            Err(false) => return Ok(Memory::default()),
            Err(true) => return Err(undecodable(MEMORY, context)),
        };
        let plaintext = key.open(event, MEMORY_TOPIC, &sealed).ok();
        let memory = plaintext.and_then(|plaintext| serde_json::from_slice(&plaintext).ok());
        memory.ok_or_else(|| undecodable(MEMORY, context))
    }
}

/// Exposures are outside the sequence. One ends as the reports about it do; one of which nothing is reported here, if it
/// was served when the session was over.
fn end_exposures(decided: &mut [Decided], over_at: Option<Timestamp>) {
    let mut ended: BTreeMap<OpportunityId, bool> = BTreeMap::new();
    for decided in decided.iter() {
        let (header, is_ended) = match decided {
            Decided::Nothing => continue,
            Decided::Filtered(header, why) => (header, *why == reason::SESSION_ENDED),
            Decided::Erased(header)
            | Decided::Quarantined(header, ..)
            | Decided::Plain(header)
            | Decided::Opened(header, _) => (header, false),
        };
        if let Some(opportunity) = header.opportunity_id.filter(|_| header.kind != EventKind::Exposure) {
            *ended.entry(opportunity).or_insert(true) &= is_ended;
        }
    }
    for decided in decided {
        let (Decided::Plain(header) | Decided::Opened(header, _)) = &*decided else { continue };
        if header.kind != EventKind::Exposure {
            continue;
        }
        let reported = header.opportunity_id.and_then(|opportunity| ended.get(&opportunity).copied());
        if !reported.unwrap_or_else(|| over_at.is_some_and(|over| header.received_at > over)) {
            continue;
        }
        *decided = match std::mem::replace(decided, Decided::Nothing) {
            Decided::Plain(header) | Decided::Opened(header, _) => Decided::Filtered(header, reason::SESSION_ENDED),
            other => other,
        };
    }
}

/// The only place where a text is declared scrubbed.
#[expect(clippy::disallowed_methods, reason = "this room is the only maker of scrubbed events")]
fn declare(scene: &Scene<'_>, placed: &Placed) -> ScrubbedText {
    let (text, altered) = scene.rendered(placed);
    ScrubbedText::declare(text, altered, &ScrubWitness::issue())
}

fn emit_all(decided: Vec<Decided>, scene: Option<&Scene<'_>>, context: &mut dyn StepContext) -> Handled<()> {
    for decided in decided {
        match decided {
            Decided::Nothing => {}
            Decided::Filtered(header, reason) => filter(header, reason, context)?,
            Decided::Erased(header) => {
                count("erased", reason::KEY_ERASED);
                emit_clean(&CleanEvent::erased(header, reason::KEY_ERASED), context)?;
            }
            Decided::Quarantined(header, reason, sealed) => {
                count("quarantined", reason);
                let quarantined = QuarantinedEvent { header, reason: reason.to_owned(), sealed };
                emit(topics::TELEMETRY_QUARANTINE, avro::encode(&quarantined), context)?;
            }
            Decided::Plain(header) => {
                count("clean", "");
                emit_clean(&CleanEvent::scrubbed(header, None, None), context)?;
            }
            Decided::Opened(header, Opened { key, placed, .. }) => {
                // A text that was not scrubbed goes nowhere.
                let (Some(scene), Some(placed)) = (scene, placed) else { return Err(poison(reason::UNENCODABLE)) };
                count("clean", "");
                emit_clean(&CleanEvent::scrubbed(header, Some(&declare(scene, &placed)), Some(&key)), context)?;
            }
        }
    }
    Ok(())
}

fn code(error: ScrubError) -> &'static str {
    match error {
        ScrubError::TooLarge => reason::TEXT_TOO_LARGE,
        ScrubError::Restless => reason::SCRUB_RESTLESS,
        ScrubError::RuleFailed => reason::RULE_FAILED,
        ScrubError::UnknownEncoding => reason::UNKNOWN_OFFSET_ENCODING,
    }
}

/// Fails closed: an opened text becomes a quarantined one.
fn refuse(decided: &mut Decided, reason: &'static str) {
    *decided = match std::mem::replace(decided, Decided::Nothing) {
        Decided::Opened(header, opened) => {
            let sealed = opened.key.seal(header.event_id, topics::TELEMETRY_QUARANTINE, &opened.plaintext);
            Decided::Quarantined(header, reason, Some(sealed))
        }
        other => other,
    };
}

fn refuse_all(decided: &mut [Decided], error: ScrubError) {
    for decided in decided {
        refuse(decided, code(error));
    }
}

/// The narrowest of what held at the door, what the person chose and what the tenant allows, the last two as control
/// records say now.
fn current_consent(header: &EventHeader, session: &mut Session, context: &dyn StepContext) -> ConsentTier {
    let subject = consent::control_subject(&header.tenant, &header.person);
    follow(&mut session.consent, &subject, header, context);
    follow(&mut session.ceiling, &consent::ceiling_subject(&header.tenant), header, context);
    let chosen = session.consent.as_ref().map_or(header.consent, |decision| decision.tier);
    let ceiling = session.ceiling.as_ref().map_or(consent::DEFAULT_CEILING, |decision| decision.tier);
    consent::narrower(consent::narrower(header.consent, chosen), ceiling)
}

/// Brings `known` up to the control record of `subject`. What can not be read allows nothing.
fn follow(known: &mut Option<ConsentDecision>, subject: &str, header: &EventHeader, context: &dyn StepContext) {
    let Some(value) = context.control(consent::CONTROL_KIND, subject) else { return };
    let decision = ConsentDecision::from_value(&value);
    let decision = decision.unwrap_or(ConsentDecision { tier: ConsentTier::None, decided_at: header.received_at });
    if known.as_ref().is_none_or(|known| known.decided_at <= decision.decided_at) {
        *known = Some(decision);
    }
}

/// What of a header may be kept without consent: ids, the number and the times that place it.
fn content_free(header: EventHeader) -> EventHeader {
    EventHeader {
        kind: EventKind::Unknown,
        monotonic_ms: 0,
        opportunity_id: None,
        suggestion_id: None,
        action_index: None,
        actions_visible: None,
        accepted_length: None,
        visible_ms: None,
        look_delay_s: None,
        origin: None,
        receipt_state: ReceiptState::Absent,
        receipt: None,
        ..header
    }
}

fn load_item(name: &str, context: &mut dyn StepContext) -> Handled<Item> {
    let value = context.get(name).unwrap_or_default();
    match avro::decode(&value) {
        Ok(event) => Ok(Item { event, bytes: value.len() }),
        Err(AvroError::UnknownFingerprint(fingerprint)) => Err(Outcome::Unavailable(schema_dependency(&fingerprint))),
        Err(_) => Err(undecodable(name, context)),
    }
}

fn sort_exposures(items: &mut [Item]) {
    items.sort_by_key(|item| (item.event.header.received_at, item.event.header.event_id));
}

fn memory_bytes(sealed: &Sealed) -> Bytes {
    let mut bytes = BytesMut::with_capacity(16 + sealed.ciphertext.len());
    bytes.put_slice(sealed.key_id.as_bytes());
    bytes.put_slice(&sealed.ciphertext);
    bytes.freeze()
}

fn memory_of_bytes(bytes: &Bytes) -> Option<Sealed> {
    let (key_id, ciphertext) = bytes.split_first_chunk::<16>()?;
    Some(Sealed { key_id: KeyId::from_uuid(uuid::Uuid::from_bytes(*key_id)), ciphertext: ciphertext.to_vec() })
}
