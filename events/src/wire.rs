//! JSON of the two doors, as clients write and read it. Documented in `docs/wire.md`.

use serde::{Deserialize, Serialize};

use crate::edit::{OffsetEncoding, RecentEdit};
use crate::ids::{EventId, ModelName, ModelVersion, OpportunityId, SessionId, SuggestionId};
use crate::vocabulary::{Decision, Origin};

/// Body of `POST /v1/telemetry`: events of one session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TelemetryBatch {
    /// The client's own name for the developer; only a keyed pseudonym passes the door. At most 256 bytes.
    pub person: String,
    /// One run of the editor.
    pub session_id: SessionId,
    /// How offsets and lengths in this batch count.
    #[serde(default)]
    pub offset_encoding: OffsetEncoding,
    /// In any order; the sequence numbers decide.
    pub events: Vec<ClientEvent>,
}

/// One event of a client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClientEvent {
    /// From 1 without gaps within the session, unchanged by retries.
    pub sequence: u64,
    /// The client's monotonic clock in milliseconds.
    pub monotonic_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub body: ClientEventBody,
}

/// What a client reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ClientEventBody {
    /// The suggestion became visible.
    SuggestionShown {
        /// Which.
        #[serde(flatten)]
        suggestion: SuggestionReference,
        /// How many of its actions.
        actions_visible: u32,
    },
    /// The suggestion left the screen without Tab or Esc.
    SuggestionHidden {
        /// Which.
        #[serde(flatten)]
        suggestion: SuggestionReference,
        /// How long it was visible.
        visible_ms: u64,
    },
    /// Tab.
    SuggestionAccepted {
        /// Which.
        #[serde(flatten)]
        suggestion: SuggestionReference,
        /// Which action, from 0.
        action_index: u32,
        /// Cumulative accepted length for accept by word or line; absent = whole.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        accepted_length: Option<u64>,
    },
    /// Esc aimed at the suggestion.
    SuggestionDismissed {
        /// Which.
        #[serde(flatten)]
        suggestion: SuggestionReference,
        /// Which action was next, from 0.
        action_index: u32,
    },
    /// The document changed. Accepting an action is reported with origin `suggestion` too.
    DocumentEdited {
        /// File, relative to the repository root.
        path: String,
        /// First replaced unit in the document before this change.
        start: u64,
        /// After the last replaced unit.
        end: u64,
        /// What was replaced.
        old_text: String,
        /// What replaced it.
        new_text: String,
        /// Where the change came from.
        origin: Origin,
        /// The suggestion, when it came from one of ours.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        suggestion_id: Option<SuggestionId>,
    },
    /// What stands in the region of an opportunity 30, 120 or 300 s after the decision.
    RegionLook {
        /// Which opportunity.
        #[serde(flatten)]
        suggestion: SuggestionReference,
        /// 30, 120 or 300.
        look_delay_s: u32,
        /// File, relative to the repository root.
        path: String,
        /// The window's whole lines as they stand now.
        text: String,
    },
    /// The editor closed, or the session reached its limit.
    SessionEnded {},
}

/// How an event names the decision that it is about. `receipt` is what serving handed out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SuggestionReference {
    /// The decision.
    pub opportunity_id: OpportunityId,
    /// The suggestion; absent after silence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suggestion_id: Option<SuggestionId>,
    /// The signed token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<String>,
}

/// Answer of `POST /v1/telemetry`: one result per event, in input order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TelemetryAnswer {
    /// One per event, in input order.
    pub results: Vec<EventResult>,
}

/// What became of one event at the door.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventResult {
    /// The event's sequence number, if it could be read.
    pub sequence: Option<u64>,
    /// Its id, if one could be derived.
    pub event_id: Option<EventId>,
    /// `admitted`, `filtered` (consent), `refused` (mend it before sending again) or `unavailable` (send it again).
    pub status: EventStatus,
    /// Stable code of the reason, unless admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// One sentence, without content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// See [`EventResult::status`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventStatus {
    /// Durable.
    Admitted,
    /// Durable as a content-free stub.
    Filtered,
    /// Not stored; the client must change it.
    Refused,
    /// Not stored; the client should send it again.
    Unavailable,
}

/// Body of `POST /v1/suggestions`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SuggestionRequest {
    /// The client's own name for the developer. At most 256 bytes.
    pub person: String,
    /// One run of the editor.
    pub session_id: SessionId,
    /// The client's id of this decision, repeated while it asks at the same file and line within 10 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opportunity_id: Option<OpportunityId>,
    /// Model name; the tenant's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelName>,
    /// The repository's own name.
    pub repository: String,
    /// File, relative to the repository root.
    pub path: String,
    /// Language id as in LSP.
    pub language: String,
    /// How offsets in this request and its answer count.
    #[serde(default)]
    pub offset_encoding: OffsetEncoding,
    /// The document, or whole lines of it around the cursor.
    pub document: DocumentExcerpt,
    /// Offset of the cursor in the document.
    pub cursor: u64,
    /// What the developer changed shortly before, oldest first.
    #[serde(default)]
    pub recent_edits: Vec<RecentEdit>,
}

/// Whole lines of a document.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DocumentExcerpt {
    /// Offset of the first unit of `text` in the document.
    #[serde(default)]
    pub start: u64,
    /// Number of the first line of `text` in the document, from 0.
    #[serde(default)]
    pub first_line: u64,
    /// The lines.
    pub text: String,
}

/// Server-sent event `action`: flushed as soon as it is complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActionEvent {
    /// The decision.
    pub opportunity_id: OpportunityId,
    /// The suggestion.
    pub suggestion_id: SuggestionId,
    /// From 0.
    pub action_index: u32,
    /// File, relative to the repository root.
    pub path: String,
    /// First replaced unit in the document before the suggestion.
    pub start: u64,
    /// After the last replaced unit.
    pub end: u64,
    /// What stands there.
    pub old_text: String,
    /// What should stand there.
    pub new_text: String,
}

/// Server-sent event `end`: the decision with its receipt. Always the last event of a successful answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndEvent {
    /// The decision.
    pub opportunity_id: OpportunityId,
    /// The suggestion; absent when serving had nothing to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suggestion_id: Option<SuggestionId>,
    /// What was decided.
    pub decision: Decision,
    /// How many actions were sent.
    pub actions: u32,
    /// The model that answered.
    pub model: ModelName,
    /// Its version.
    pub model_version: ModelVersion,
    /// To be returned with every later event about this decision.
    pub receipt: String,
}
