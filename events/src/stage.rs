//! Stage types: what has not been scrubbed can not be mistaken for what has.
//!
//! A [`ScrubbedText`] is the only thing that [`CleanEvent::scrubbed`] seals, and making one takes a [`ScrubWitness`].
//! `clippy.toml` disallows [`ScrubWitness::issue`] everywhere; the anonymizer alone lifts it, at one line,
//! and so do tests that play it.

use crate::sealing::{DataKey, Sealed};
use crate::telemetry::{CleanEvent, EventHeader, EventText};
use crate::topics::TELEMETRY_CLEAN;
use crate::vocabulary::Disposition;

/// Evidence that the holder is the anonymizer.
#[derive(Debug)]
pub struct ScrubWitness(());

impl ScrubWitness {
    /// For the anonymizer, nobody else.
    #[must_use]
    pub const fn issue() -> Self {
        Self(())
    }
}

/// Text that went through scrubbing.
#[derive(Debug, Clone, PartialEq)]
pub struct ScrubbedText {
    text: EventText,
    altered: bool,
}

impl ScrubbedText {
    /// Declares `text` scrubbed; `altered` says whether scrubbing changed it.
    #[must_use]
    pub fn declare(text: EventText, altered: bool, _witness: &ScrubWitness) -> Self {
        Self { text, altered }
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &EventText {
        &self.text
    }

    /// Whether scrubbing changed it.
    #[must_use]
    pub fn altered(&self) -> bool {
        self.altered
    }
}

impl CleanEvent {
    /// The clean form of an event: its header and its scrubbed text, sealed for the clean topic.
    #[must_use]
    pub fn scrubbed(header: EventHeader, text: Option<&ScrubbedText>, key: Option<&DataKey>) -> Self {
        let sealed = text.zip(key).and_then(|(text, key)| {
            let plaintext = serde_json::to_vec(&text.text).ok()?;
            Some(key.seal(header.event_id, TELEMETRY_CLEAN, &plaintext))
        });
        let altered = text.is_some_and(ScrubbedText::altered);
        Self { header, disposition: Disposition::Clean, reason: None, altered, sealed }
    }

    /// The notice that an event was left out on purpose.
    #[must_use]
    pub fn filtered(header: EventHeader, reason: &str) -> Self {
        Self::notice(header, Disposition::Filtered, reason)
    }

    /// The notice that an event went with its person's key.
    #[must_use]
    pub fn erased(header: EventHeader, reason: &str) -> Self {
        Self::notice(header, Disposition::Erased, reason)
    }

    fn notice(header: EventHeader, disposition: Disposition, reason: &str) -> Self {
        Self { header, disposition, reason: Some(reason.to_owned()), altered: false, sealed: None }
    }

    /// The scrubbed text, sealed for this event and the clean topic.
    #[must_use]
    pub fn sealed(&self) -> Option<&Sealed> {
        self.sealed.as_ref()
    }
}
