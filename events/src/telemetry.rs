//! Telemetry between the door and the labeler: the header that stays readable, and the text that is sealed.

use serde::{Deserialize, Serialize};

use crate::edit::{EditAction, EditContext, OffsetEncoding};
use crate::ids::{EventId, OpportunityId, PersonPseudonym, SessionId, SuggestionId, TenantId};
use crate::receipt::Receipt;
use crate::sealing::Sealed;
use crate::time::Timestamp;
use crate::vocabulary::{ConsentTier, Disposition, EventKind, Origin, ReceiptState};

/// What of an event stays readable on the bus: ids, numbers and symbols.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventHeader {
    /// Derived from (session, sequence), or from the suggestion for an exposure.
    pub event_id: EventId,
    /// Owner of the data.
    pub tenant: TenantId,
    /// Keyed pseudonym of the developer.
    pub person: PersonPseudonym,
    /// One run of the editor.
    pub session_id: SessionId,
    /// From 1 without gaps within the session; 0 for an exposure, which is outside the sequence.
    pub sequence: i64,
    /// What is reported.
    pub kind: EventKind,
    /// What the person agreed to when the event arrived.
    pub consent: ConsentTier,
    /// When the door (or serving, for an exposure) received it. Microseconds since the epoch.
    pub received_at: Timestamp,
    /// The client's monotonic clock, milliseconds; differences within a session decide labels. 0 for an exposure.
    pub monotonic_ms: i64,
    /// The decision that it is about, if any.
    pub opportunity_id: Option<OpportunityId>,
    /// The suggestion that it is about, if any.
    pub suggestion_id: Option<SuggestionId>,
    /// Index of the action that it is about, from 0.
    pub action_index: Option<i32>,
    /// How many actions were visible.
    pub actions_visible: Option<i32>,
    /// Cumulative accepted length in units of `offset_encoding`; none = the whole action.
    pub accepted_length: Option<i64>,
    /// How long the suggestion was visible.
    pub visible_ms: Option<i64>,
    /// Which look this is: 30, 120 or 300.
    pub look_delay_s: Option<i32>,
    /// Where an edit came from.
    pub origin: Option<Origin>,
    /// How offsets of this client count: `utf8` or `utf16`.
    #[serde(deserialize_with = "OffsetEncoding::from_bus")]
    pub offset_encoding: OffsetEncoding,
    /// Whether the receipt held.
    pub receipt_state: ReceiptState,
    /// What serving signed, if it held.
    pub receipt: Option<Receipt>,
    /// Keyed digest of the whole content, 32 hexadecimal digits: the same id with another digest is quarantined.
    pub content_digest: String,
}

/// The text of an event. Exists in clear only inside ingest, the anonymizer, the labeler's step and serving's memory.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventText {
    /// What the model saw and said.
    Exposure {
        /// Everything the model saw.
        context: EditContext,
        /// What it proposed (also when withheld), in served order.
        actions: Vec<EditAction>,
        /// Offset of the window's first byte in units of the client's encoding.
        window_start_offset: u64,
        /// The file's and repository's real names never leave serving; this says what reading the window altered.
        altered: bool,
        /// From the question to the first action on its way, in milliseconds; none when nothing was shown. No part of
        /// the content digest: the same answer again is a repetition, however long it took.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        first_action_ms: Option<u32>,
    },
    /// A change of a document.
    Edit {
        /// File, relative to the repository root.
        path: String,
        /// First replaced unit, in the client's encoding, in the document before this change.
        start: u64,
        /// After the last replaced unit.
        end: u64,
        /// What was replaced.
        old_text: String,
        /// What replaced it.
        new_text: String,
    },
    /// What stands in the suggestion's region.
    Look {
        /// File, relative to the repository root.
        path: String,
        /// The region's whole lines, as they stand now.
        text: String,
    },
}

impl std::fmt::Debug for EventText {
    /// Code never reaches a log through `Debug`.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Exposure { .. } => "EventText::Exposure(..)",
            Self::Edit { .. } => "EventText::Edit(..)",
            Self::Look { .. } => "EventText::Look(..)",
        })
    }
}

/// A record of `telemetry.raw.v1`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RawEvent {
    /// What stays readable.
    pub header: EventHeader,
    /// Why consent filtered it at the door, if it did; such a record is a content-free stub.
    #[serde(default)]
    pub filtered_at_door: Option<String>,
    /// [`EventText`] as JSON, sealed for this event and topic.
    pub sealed: Option<Sealed>,
}

/// A record of `telemetry.clean.v1`: a scrubbed event, or the notice that one was left out on purpose.
///
/// Only its constructors make one, and text comes into it only as [`crate::ScrubbedText`]:
///
/// ```compile_fail
/// fn smuggle(raw: events::RawEvent, notice: events::CleanEvent) -> events::CleanEvent {
///     events::CleanEvent { sealed: raw.sealed, ..notice }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CleanEvent {
    /// What stays readable.
    pub header: EventHeader,
    /// `clean` or `filtered`.
    pub disposition: Disposition,
    /// Why it was filtered.
    #[serde(default)]
    pub reason: Option<String>,
    /// Whether scrubbing changed the text.
    pub altered: bool,
    /// Scrubbed [`EventText`] as JSON, sealed for this event and topic.
    pub(crate) sealed: Option<Sealed>,
}

/// A record of `telemetry.quarantine.v1`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuarantinedEvent {
    /// What stays readable.
    pub header: EventHeader,
    /// Why scrubbing refused it; a stable code without content.
    pub reason: String,
    /// The text as it arrived, sealed for this event and topic.
    pub sealed: Option<Sealed>,
}
