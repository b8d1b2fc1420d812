//! From the events kept in state to a story: decoded, opened, in the client's order.

use std::collections::BTreeMap;

use bus::StepContext;
use events::avro::{self, AvroError};
use events::topics::TELEMETRY_CLEAN;
use events::{CleanEvent, EventKind, EventText, OpportunityId, Origin, SuggestionId};

use crate::keys::{LoadedKeys, Unloaded};
use crate::state::{SessionState, facts_prefix};
use crate::story::{Answer, EditText, ExposureText, Fact, Story, What, opened_ms};

/// Why a story cannot be read now.
pub(crate) enum ReadError {
    /// A key must be loaded first, or a newer release must read it.
    Unloaded(Unloaded),
    /// The state of that name is not what was put there.
    Undecodable(String),
}

/// How long before the first signal an edit that came from the suggestion may have been made.
const EDIT_MARGIN_MS: i64 = 10_000;

/// Reads stories while one input is handled; the session's edits are read once.
pub(crate) struct StoryReader<'a> {
    keys: &'a LoadedKeys,
    edits: Option<Vec<Fact>>,
}

impl<'a> StoryReader<'a> {
    pub(crate) fn new(keys: &'a LoadedKeys) -> Self {
        Self { keys, edits: None }
    }

    /// The story of an opportunity; none when nothing of it is kept.
    pub(crate) fn read(
        &mut self,
        session: &SessionState,
        context: &mut dyn StepContext,
        opportunity: OpportunityId,
    ) -> Result<Option<Story>, ReadError> {
        let mut answers: BTreeMap<Option<SuggestionId>, Answer> = BTreeMap::new();
        let mut facts = Vec::new();
        let mut key_id = None;
        let mut session_id = None;
        for name in context.names(&facts_prefix(opportunity)) {
            let event = self.event(context, &name)?;
            session_id = Some(event.header.session_id);
            if let Some(sealed) = event.sealed() {
                key_id = key_id.or(Some(sealed.key_id));
            }
            let text = self.text(&event)?;
            let Some(receipt) = event.header.receipt.clone() else { continue };
            let answer = answers.entry(receipt.suggestion_id).or_insert_with(|| Answer {
                receipt,
                encoding: event.header.offset_encoding,
                exposed: false,
                first_received_at: event.header.received_at,
                text: None,
            });
            if event.header.kind == EventKind::Exposure {
                answer.exposed = true;
                answer.encoding = event.header.offset_encoding;
                answer.first_received_at = event.header.received_at;
                answer.text = text.clone().and_then(|text| exposure_text(text, event.altered));
                if let Some(sealed) = event.sealed() {
                    key_id = Some(sealed.key_id);
                }
            } else if !answer.exposed {
                answer.first_received_at = answer.first_received_at.min(event.header.received_at);
            }
            facts.extend(fact(&event, text));
        }
        let mut answers: Vec<Answer> = answers.into_values().collect();
        answers.sort_by_key(|answer| (answer.receipt.issued_at, answer.receipt.suggestion_id));
        let Some((answer, session_id)) = answers.pop().zip(session_id) else { return Ok(None) };
        let from_ms = opened_ms(facts.iter()).map_or(i64::MIN, |opened| opened.saturating_sub(EDIT_MARGIN_MS));
        let until_ms = facts.iter().map(|fact| fact.monotonic_ms.saturating_add(EDIT_MARGIN_MS)).max();
        let first = facts.iter().map(|fact| fact.sequence).min().unwrap_or(i64::MAX);
        // Before the first report time tells what belongs to the opportunity, from there on order does: a clock that
        // went back must hide no edit.
        let belongs = |edit: &&Fact| {
            edit.sequence > first
                || (edit.monotonic_ms >= from_ms && until_ms.is_none_or(|until| edit.monotonic_ms <= until))
        };
        let edits = self.edits(context)?;
        facts.extend(edits.iter().filter(belongs).cloned());
        facts.sort_by_key(|fact| fact.sequence);
        let gaps = session.gaps(facts.iter().map(|fact| fact.sequence));
        Ok(Some(Story {
            session_id,
            key_id,
            answer,
            earlier: answers,
            facts,
            gaps,
            known_until_ms: session.latest_ms,
            ended: session.ended,
        }))
    }

    fn edits(&mut self, context: &mut dyn StepContext) -> Result<&[Fact], ReadError> {
        if self.edits.is_none() {
            let mut edits = Vec::new();
            for name in context.names("e/") {
                let event = self.event(context, &name)?;
                let text = self.text(&event)?;
                edits.extend(fact(&event, text));
            }
            self.edits = Some(edits);
        }
        Ok(self.edits.as_deref().unwrap_or_default())
    }

    fn event(&self, context: &mut dyn StepContext, name: &str) -> Result<CleanEvent, ReadError> {
        let undecodable = || ReadError::Undecodable(name.to_owned());
        let value = context.get(name).ok_or_else(undecodable)?;
        avro::decode(&value).map_err(|error| match error {
            AvroError::UnknownFingerprint(fingerprint) => ReadError::Unloaded(Unloaded::schema(&fingerprint)),
            _ => undecodable(),
        })
    }

    /// The text of an event; none when it has none, or its person was erased.
    fn text(&self, event: &CleanEvent) -> Result<Option<EventText>, ReadError> {
        let Some(sealed) = event.sealed() else { return Ok(None) };
        let Some(key) = self.keys.data_key(sealed.key_id).map_err(ReadError::Unloaded)? else { return Ok(None) };
        let opened = key.open(event.header.event_id, TELEMETRY_CLEAN, sealed).ok();
        Ok(opened.and_then(|plaintext| serde_json::from_slice(&plaintext).ok()))
    }
}

pub(crate) fn exposure_text(text: EventText, event_altered: bool) -> Option<ExposureText> {
    match text {
        EventText::Exposure { context, actions, window_start_offset, altered, first_action_ms } => Some(ExposureText {
            context,
            actions,
            window_start_offset,
            altered: altered || event_altered,
            first_action_ms,
        }),
        EventText::Edit { .. } | EventText::Look { .. } => None,
    }
}

/// The fact that an event reports; none for exposures and for what a newer release reports.
pub(crate) fn fact(event: &CleanEvent, text: Option<EventText>) -> Option<Fact> {
    let header = &event.header;
    let what = match header.kind {
        EventKind::SuggestionShown => What::Shown { actions_visible: header.actions_visible.unwrap_or(1) },
        EventKind::SuggestionHidden => What::Hidden { visible_ms: header.visible_ms.unwrap_or_default() },
        EventKind::SuggestionAccepted => What::Accepted {
            action_index: header.action_index.unwrap_or_default(),
            accepted_length: header.accepted_length,
        },
        EventKind::SuggestionDismissed => What::Dismissed { action_index: header.action_index.unwrap_or_default() },
        EventKind::RegionLook => What::Look {
            delay_s: header.look_delay_s.unwrap_or_default(),
            text: match text {
                Some(EventText::Look { text, .. }) => Some(text),
                _ => None,
            },
        },
        EventKind::DocumentEdited => What::Edit {
            origin: header.origin.unwrap_or(Origin::Unknown),
            text: match text {
                Some(EventText::Edit { path, start, end, old_text, new_text }) => {
                    Some(EditText { path, start, end, old_text, new_text })
                }
                _ => None,
            },
        },
        EventKind::Exposure | EventKind::SessionEnded | EventKind::Unknown => return None,
    };
    Some(Fact {
        sequence: header.sequence,
        monotonic_ms: header.monotonic_ms,
        received_at: header.received_at,
        suggestion_id: header.suggestion_id.or(header.receipt.as_ref().and_then(|receipt| receipt.suggestion_id)),
        altered: event.altered,
        what,
    })
}
