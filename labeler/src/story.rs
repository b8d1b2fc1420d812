//! Everything known about one opportunity, in the client's order.

use events::{EditAction, EditContext, KeyId, OffsetEncoding, Origin, Receipt, SessionId, SuggestionId, Timestamp};

/// What serving delivered, as text.
#[derive(Debug, Clone, PartialEq)]
pub struct ExposureText {
    /// What the model saw.
    pub context: EditContext,
    /// What it proposed, in served order.
    pub actions: Vec<EditAction>,
    /// Offset of the window's first byte in units of the client's encoding.
    pub window_start_offset: u64,
    /// Whether scrubbing changed something.
    pub altered: bool,
    /// From the question to the first action on its way; none when nothing was shown.
    pub first_action_ms: Option<u32>,
}

/// The answer that counts: the last one delivered.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// What serving signed.
    pub receipt: Receipt,
    /// How offsets of the client count.
    pub encoding: OffsetEncoding,
    /// Whether its exposure was read.
    pub exposed: bool,
    /// `received_at` of the exposure, else of the first signal.
    pub first_received_at: Timestamp,
    /// Its text, if it may be read.
    pub text: Option<ExposureText>,
}

/// One change of a document, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EditText {
    /// File.
    pub path: String,
    /// First replaced unit.
    pub start: u64,
    /// After the last replaced unit.
    pub end: u64,
    /// What was replaced.
    pub old_text: String,
    /// What replaced it.
    pub new_text: String,
}

/// What a client reported.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// The suggestion became visible.
    Shown {
        /// How many of its actions.
        actions_visible: i32,
    },
    /// It left the screen without Tab or Esc.
    Hidden {
        /// How long it was visible.
        visible_ms: i64,
    },
    /// Tab.
    Accepted {
        /// Which action.
        action_index: i32,
        /// Cumulative accepted length in the client's units; none = whole.
        accepted_length: Option<i64>,
    },
    /// Esc aimed at it.
    Dismissed {
        /// Which action was next.
        action_index: i32,
    },
    /// What stands in the window now.
    Look {
        /// 30, 120 or 300.
        delay_s: i32,
        /// The window's lines, if they may be read.
        text: Option<String>,
    },
    /// The document changed.
    Edit {
        /// Where the change came from.
        origin: Origin,
        /// What changed, if it may be read.
        text: Option<EditText>,
    },
}

/// One report of the client.
#[derive(Debug, Clone, PartialEq)]
pub struct Fact {
    /// Number within the session.
    pub sequence: i64,
    /// The client's monotonic clock.
    pub monotonic_ms: i64,
    /// When the door received it.
    pub received_at: Timestamp,
    /// The suggestion that it is about (for an edit: that it came from).
    pub suggestion_id: Option<SuggestionId>,
    /// Whether scrubbing changed its text.
    pub altered: bool,
    /// What was reported.
    pub what: What,
}

/// Everything known about one opportunity.
#[derive(Debug, Clone, PartialEq)]
pub struct Story {
    /// The session that it lives in.
    pub session_id: SessionId,
    /// The data key that its text is sealed under, if there is any text.
    pub key_id: Option<KeyId>,
    /// The answer that counts.
    pub answer: Answer,
    /// Earlier answers of the same opportunity, superseded.
    pub earlier: Vec<Answer>,
    /// Reports about the opportunity and changes of documents, in order of their sequence numbers.
    pub facts: Vec<Fact>,
    /// Numbers of the session's reports, in order, that came although the ones before them are missing.
    pub gaps: Vec<i64>,
    /// How far the client's monotonic clock is known to have come.
    pub known_until_ms: i64,
    /// Client's time and `received_at` of the session's end, if it ended.
    pub ended: Option<(i64, Timestamp)>,
}

impl Story {
    /// Whether a report is about the answer that counts (every answer, for looks).
    #[must_use]
    pub fn is_about_answer(&self, fact: &Fact) -> bool {
        match fact.what {
            What::Edit { .. } => false,
            What::Look { .. } => true,
            _ => fact.suggestion_id == self.answer.receipt.suggestion_id,
        }
    }

    /// Whether a report is that of text that the answer that counts wrote.
    #[must_use]
    pub fn is_written_by_answer(&self, fact: &Fact) -> bool {
        let suggestion = self.answer.receipt.suggestion_id;
        matches!(fact.what, What::Edit { origin: Origin::Suggestion, .. })
            && suggestion.is_some()
            && fact.suggestion_id == suggestion
    }

    /// Client's time of the decision, as far as it can be told: the first signal, or a look less its delay.
    #[must_use]
    pub fn opened_ms(&self) -> Option<i64> {
        opened_ms(self.facts.iter())
    }
}

/// See [`Story::opened_ms`]; facts of one opportunity.
pub fn opened_ms<'a>(facts: impl Iterator<Item = &'a Fact>) -> Option<i64> {
    facts
        .filter_map(|fact| match fact.what {
            What::Edit { .. } => None,
            What::Look { delay_s, .. } => Some(fact.monotonic_ms.saturating_sub(i64::from(delay_s) * 1000)),
            _ => Some(fact.monotonic_ms),
        })
        .min()
}

#[cfg(test)]
pub(crate) mod testing {
    //! Stories of one suggestion over one line.

    use events::{
        Arm, ByteRange, Decision, EditAction, EditContext, ModelVersion, OffsetEncoding, OpportunityId, Probabilities,
        Receipt, SessionId, Sha256Digest, SuggestionId, TenantId, TenantSecret, Timestamp, Window,
    };
    use uuid::Uuid;

    use super::{Answer, ExposureText, Fact, Story, What};

    /// The window.
    pub(crate) const TEXT: &str = "let a = b;\n";

    pub(crate) fn action(start: u64, old_text: &str, new_text: &str) -> EditAction {
        EditAction {
            path: "p".to_owned(),
            range: ByteRange::new(start, start + old_text.len() as u64),
            old_text: old_text.to_owned(),
            new_text: new_text.to_owned(),
        }
    }

    pub(crate) fn story(decision: Decision, actions: Vec<EditAction>, reports: &[(i64, What)]) -> Story {
        let session_id = SessionId::from_uuid(Uuid::from_bytes([1; 16]));
        let suggestion_id = Some(SuggestionId::from_uuid(Uuid::from_bytes([2; 16])));
        let receipt = Receipt {
            tenant: TenantId::default(),
            person: TenantSecret::new([7; 32]).person_pseudonym("someone"),
            session_id,
            opportunity_id: OpportunityId::from_uuid(Uuid::from_bytes([3; 16])),
            suggestion_id,
            model: "edit".parse().unwrap(),
            model_version: ModelVersion(1),
            rollout_id: None,
            arm: Arm::Current,
            block: None,
            decision,
            probabilities: Probabilities {
                arm_probability: 1.0,
                p_show: 1.0,
                log_p_text: 0.0,
                gate_score: 1.0,
                threshold: 0.0,
                explored: false,
            },
            context_digest: Sha256Digest::of(b"context"),
            actions_digest: Sha256Digest::of(b"actions"),
            issued_at: Timestamp::EPOCH,
        };
        let context = EditContext {
            repository: "r".to_owned(),
            path: "p".to_owned(),
            language: "rust".to_owned(),
            recent_edits: Vec::new(),
            window: Window { start_byte: 0, first_line: 0, text: TEXT.to_owned() },
            cursor_byte: 0,
        };
        let fact = |(index, (monotonic_ms, what)): (usize, &(i64, What))| Fact {
            sequence: i64::try_from(index).unwrap() + 1,
            monotonic_ms: *monotonic_ms,
            received_at: Timestamp::EPOCH,
            suggestion_id,
            altered: false,
            what: what.clone(),
        };
        Story {
            session_id,
            key_id: None,
            answer: Answer {
                receipt,
                encoding: OffsetEncoding::Utf16,
                exposed: true,
                first_received_at: Timestamp::EPOCH,
                text: Some(ExposureText {
                    context,
                    actions,
                    window_start_offset: 0,
                    altered: false,
                    first_action_ms: None,
                }),
            },
            earlier: Vec::new(),
            facts: reports.iter().enumerate().map(fact).collect(),
            gaps: Vec::new(),
            known_until_ms: 0,
            ended: None,
        }
    }
}
