//! From a client's event to the raw record: header, receipt, sealed text.

use events::wire::{ClientEvent, ClientEventBody, SuggestionReference};
use events::{
    ConsentTier, DataKey, EventHeader, EventId, EventKind, EventText, OffsetEncoding, OpportunityId, Origin,
    PersonPseudonym, RawEvent, Receipt, ReceiptState, SessionId, SuggestionId, TenantId, TenantSecret, Timestamp,
    topics,
};
use serde::Serialize;

/// Code of events that consent filters at the door.
pub(crate) const CONSENT_NONE: &str = "consent_none";

/// What all events of a batch share.
#[derive(Debug)]
pub struct Sender<'a> {
    /// Owner of the data.
    pub tenant: TenantId,
    /// Signs receipts, and keys digests.
    pub secret: &'a TenantSecret,
    /// The developer.
    pub person: PersonPseudonym,
    /// One run of the editor.
    pub session_id: SessionId,
    /// How offsets of this client count.
    pub offset_encoding: OffsetEncoding,
    /// What the person agreed to.
    pub consent: ConsentTier,
    /// When the batch arrived.
    pub received_at: Timestamp,
}

/// What the digest of an event's content covers: all that is known of it, in one order.
#[derive(Serialize)]
struct Content<'a> {
    offset_encoding: OffsetEncoding,
    event: &'a ClientEvent,
}

/// Numbers and symbols of an event.
#[derive(Default)]
struct Facts {
    action_index: Option<u64>,
    actions_visible: Option<u64>,
    accepted_length: Option<u64>,
    visible_ms: Option<u64>,
    look_delay_s: Option<u64>,
    origin: Option<Origin>,
}

impl Sender<'_> {
    /// The event's id; the same for every attempt to send it.
    #[must_use]
    pub fn event_id(&self, sequence: u64) -> EventId {
        EventId::of_client_event(self.session_id, sequence)
    }

    /// The record of an event. `key` is needed for the text, when there is any and consent is `code`.
    ///
    /// # Errors
    /// Content that can not be written as JSON.
    pub fn record(&self, event: ClientEvent, key: Option<&DataKey>) -> Result<RawEvent, serde_json::Error> {
        let content = serde_json::to_vec(&Content { offset_encoding: self.offset_encoding, event: &event })?;
        let content_digest = hex::encode(self.secret.content_digest(&self.tenant, &content));
        let event_id = self.event_id(event.sequence);
        let sequence = signed(event.sequence);
        if self.consent == ConsentTier::None {
            let header = self.stub(event_id, sequence, content_digest);
            return Ok(RawEvent { header, filtered_at_door: Some(CONSENT_NONE.to_owned()), sealed: None });
        }
        let (kind, reference, facts, text) = take_apart(event.body);
        let (opportunity_id, suggestion_id, receipt_state, receipt) = match reference {
            Reference::Decision(reference) => self.verified(reference),
            Reference::Suggestion(suggestion) => (None, suggestion, ReceiptState::Absent, None),
        };
        let header = EventHeader {
            kind,
            monotonic_ms: signed(event.monotonic_ms),
            opportunity_id,
            suggestion_id,
            action_index: facts.action_index.and_then(|number| i32::try_from(number).ok()),
            actions_visible: facts.actions_visible.and_then(|number| i32::try_from(number).ok()),
            accepted_length: facts.accepted_length.map(signed),
            visible_ms: facts.visible_ms.map(signed),
            look_delay_s: facts.look_delay_s.and_then(|number| i32::try_from(number).ok()),
            origin: facts.origin,
            receipt_state,
            receipt,
            ..self.stub(event_id, sequence, content_digest)
        };
        let sealed = match (text, key) {
            (Some(text), Some(key)) if self.consent == ConsentTier::Code => {
                Some(key.seal(event_id, topics::TELEMETRY_RAW, &serde_json::to_vec(&text)?))
            }
            _ => None,
        };
        Ok(RawEvent { header, filtered_at_door: None, sealed })
    }

    /// A header without content: ids, the number, and when it came.
    fn stub(&self, event_id: EventId, sequence: i64, content_digest: String) -> EventHeader {
        EventHeader {
            event_id,
            tenant: self.tenant.clone(),
            person: self.person.clone(),
            session_id: self.session_id,
            sequence,
            kind: EventKind::Unknown,
            consent: self.consent,
            received_at: self.received_at,
            monotonic_ms: 0,
            opportunity_id: None,
            suggestion_id: None,
            action_index: None,
            actions_visible: None,
            accepted_length: None,
            visible_ms: None,
            look_delay_s: None,
            origin: None,
            offset_encoding: self.offset_encoding,
            receipt_state: ReceiptState::Absent,
            receipt: None,
            content_digest,
        }
    }

    /// A receipt holds when we signed it for this tenant, person and session and the decision that the event names.
    fn verified(
        &self,
        reference: SuggestionReference,
    ) -> (Option<OpportunityId>, Option<SuggestionId>, ReceiptState, Option<Receipt>) {
        let SuggestionReference { opportunity_id, suggestion_id, receipt } = reference;
        let Some(token) = receipt else { return (Some(opportunity_id), suggestion_id, ReceiptState::Absent, None) };
        let verified = Receipt::verify(&token, self.secret).ok().filter(|receipt| {
            receipt.tenant == self.tenant
                && receipt.person == self.person
                && receipt.session_id == self.session_id
                && receipt.opportunity_id == opportunity_id
                && suggestion_id.is_none_or(|suggestion| receipt.suggestion_id == Some(suggestion))
        });
        match verified {
            Some(receipt) => {
                (Some(opportunity_id), suggestion_id.or(receipt.suggestion_id), ReceiptState::Valid, Some(receipt))
            }
            None => (Some(opportunity_id), suggestion_id, ReceiptState::Invalid, None),
        }
    }
}

/// Whether an event carries text that consent `code` keeps.
pub(crate) fn has_text(event: &ClientEvent) -> bool {
    matches!(event.body, ClientEventBody::DocumentEdited { .. } | ClientEventBody::RegionLook { .. })
}

enum Reference {
    Decision(SuggestionReference),
    Suggestion(Option<SuggestionId>),
}

/// Numbers were checked to be far below 2^63.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn take_apart(body: ClientEventBody) -> (EventKind, Reference, Facts, Option<EventText>) {
    let decided = |kind, suggestion, facts| (kind, Reference::Decision(suggestion), facts, None);
    match body {
        ClientEventBody::SuggestionShown { suggestion, actions_visible } => decided(
            EventKind::SuggestionShown,
            suggestion,
            Facts { actions_visible: Some(actions_visible.into()), ..Facts::default() },
        ),
        ClientEventBody::SuggestionHidden { suggestion, visible_ms } => {
            decided(EventKind::SuggestionHidden, suggestion, Facts { visible_ms: Some(visible_ms), ..Facts::default() })
        }
        ClientEventBody::SuggestionAccepted { suggestion, action_index, accepted_length } => decided(
            EventKind::SuggestionAccepted,
            suggestion,
            Facts { action_index: Some(action_index.into()), accepted_length, ..Facts::default() },
        ),
        ClientEventBody::SuggestionDismissed { suggestion, action_index } => decided(
            EventKind::SuggestionDismissed,
            suggestion,
            Facts { action_index: Some(action_index.into()), ..Facts::default() },
        ),
        ClientEventBody::DocumentEdited { path, start, end, old_text, new_text, origin, suggestion_id } => (
            EventKind::DocumentEdited,
            Reference::Suggestion(suggestion_id),
            Facts { origin: Some(origin), ..Facts::default() },
            Some(EventText::Edit { path, start, end, old_text, new_text }),
        ),
        ClientEventBody::RegionLook { suggestion, look_delay_s, path, text } => (
            EventKind::RegionLook,
            Reference::Decision(suggestion),
            Facts { look_delay_s: Some(look_delay_s.into()), ..Facts::default() },
            Some(EventText::Look { path, text }),
        ),
        ClientEventBody::SessionEnded {} => {
            (EventKind::SessionEnded, Reference::Suggestion(None), Facts::default(), None)
        }
    }
}

#[cfg(test)]
#[path = "event_tests.rs"]
mod tests;
