//! What of an observed completion goes onto the bus: its exposure, and what its client said of it. Ids, numbers and
//! symbols; no text, whatever the person agreed to.
//!
//! Why not: a proxy does not see what the developer typed instead, nor what became of an acceptance. With the text of
//! the suggestion alone the labeler would take every Tab for text that was kept. Text is recorded from the day on which
//! the next request of the same file is read for that.

use std::sync::Arc;

use events::{ConsentTier, DataKey, EventHeader, EventId, EventKind, RawEvent, Receipt, TenantSecret, Timestamp};

use crate::exposure::{About, Leaving, LeavingKind, SILENT, is_stub};
use crate::proxy::tabby::Said;

/// The length that an acceptance of unknown length is reported with: the least that it can have. Lengths are
/// cumulative, so whatever is taken after it is no less.
const LEAST_ACCEPTED: i64 = 1;

/// A completion that the upstream delivered.
pub(crate) struct ObservedExposure {
    pub(crate) secret: Arc<TenantSecret>,
    pub(crate) receipt: Arc<Receipt>,
    pub(crate) received_at: Timestamp,
}

impl Leaving for ObservedExposure {
    fn kind(&self) -> LeavingKind {
        LeavingKind::Exposure
    }

    fn secret(&self) -> &TenantSecret {
        &self.secret
    }

    fn receipt(&self) -> &Receipt {
        &self.receipt
    }

    fn has_text(&self) -> bool {
        false
    }

    fn event(&self, consent: ConsentTier, _key: Option<&DataKey>) -> Result<RawEvent, serde_json::Error> {
        let about = About { receipt: &self.receipt, secret: &self.secret, received_at: self.received_at };
        let content: &[u8] =
            if self.receipt.suggestion_id.is_some() { self.receipt.actions_digest.as_bytes() } else { SILENT };
        Ok(about.record(about.exposure(consent, content), None))
    }
}

/// What a client said of a completion.
pub(crate) struct ObservedSignal {
    pub(crate) secret: Arc<TenantSecret>,
    pub(crate) receipt: Arc<Receipt>,
    pub(crate) received_at: Timestamp,
    /// Within the session, from 1 without gaps.
    pub(crate) sequence: u64,
    /// On this door's own clock.
    pub(crate) monotonic_ms: i64,
    pub(crate) said: Said,
}

impl Leaving for ObservedSignal {
    fn kind(&self) -> LeavingKind {
        LeavingKind::Signal
    }

    fn secret(&self) -> &TenantSecret {
        &self.secret
    }

    fn receipt(&self) -> &Receipt {
        &self.receipt
    }

    fn has_text(&self) -> bool {
        false
    }

    fn event(&self, consent: ConsentTier, _key: Option<&DataKey>) -> Result<RawEvent, serde_json::Error> {
        let visible = match self.said {
            Said::Hidden { visible_ms } => Some(i64::try_from(visible_ms).unwrap_or(i64::MAX)),
            _ => None,
        };
        let content = serde_json::to_vec(&(self.sequence, self.monotonic_ms, self.said.as_str(), visible))?;
        let about = About { receipt: &self.receipt, secret: &self.secret, received_at: self.received_at };
        let event_id = EventId::of_client_event(self.receipt.session_id, self.sequence);
        let sequence = i64::try_from(self.sequence).unwrap_or(i64::MAX);
        let kind = match self.said {
            _ if is_stub(consent) => EventKind::Unknown,
            Said::Shown => EventKind::SuggestionShown,
            Said::Accepted | Said::AcceptedInPart => EventKind::SuggestionAccepted,
            Said::Hidden { .. } => EventKind::SuggestionHidden,
        };
        let header = EventHeader { sequence, ..about.header(event_id, kind, consent, &content) };
        if is_stub(consent) {
            return Ok(about.record(header, None));
        }
        let header = EventHeader {
            monotonic_ms: self.monotonic_ms,
            action_index: self.said.is_accepted().then_some(0),
            actions_visible: (self.said == Said::Shown).then_some(1),
            accepted_length: (self.said == Said::AcceptedInPart).then_some(LEAST_ACCEPTED),
            visible_ms: visible,
            ..header
        };
        Ok(about.record(header, None))
    }
}
