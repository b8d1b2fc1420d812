//! One run of a simulated editor: ids, sequence numbers and times as a client keeps them.

use super::doors::{Answer, Doors, DriverError};
use crate::behaviour::OPPORTUNITY_MS;
use crate::developer::{Behaviour, ClientActionKind, Developer};
use crate::random::Dice;
use crate::tasks::EditTask;
use events::ids::uuid_v7;
use events::vocabulary::Origin;
use events::wire::{ClientEvent, ClientEventBody, DocumentExcerpt, SuggestionReference, SuggestionRequest};
use events::{ActionList, ByteRange, EditAction, OffsetEncoding, OpportunityId, SessionId, Timestamp};
use std::time::Duration;

/// A session of one developer. Everything in it follows from the seed, the developer, the number of the session and
/// how many opportunities there were.
#[derive(Debug, Clone)]
pub struct ClientSession {
    seed: u64,
    developer: u64,
    number: u64,
    person: String,
    session_id: SessionId,
    started: Timestamp,
    next_sequence: u64,
    opportunities: u64,
}

/// The events of one opportunity, in order of their numbers and times.
#[derive(Debug, Clone, PartialEq)]
pub struct Episode {
    /// The opportunity.
    pub opportunity_id: OpportunityId,
    /// When the request was made, by the client's monotonic clock.
    pub asked_at_ms: u64,
    events: Vec<ClientEvent>,
    sent: usize,
}

/// What came of one opportunity.
#[derive(Debug, Clone)]
pub struct Played {
    /// What serving answered.
    pub answer: Answer,
    /// What was visible to the developer.
    pub served: ActionList,
    /// What the developer did.
    pub behaviour: Behaviour,
    /// What is to be reported.
    pub episode: Episode,
}

impl Episode {
    /// The events up to `after_ms` after the request that were not taken yet.
    pub fn due(&mut self, after_ms: u64) -> &[ClientEvent] {
        let from = self.sent;
        let limit = self.asked_at_ms.saturating_add(after_ms);
        let count = self.events.iter().skip(from).take_while(|event| event.monotonic_ms <= limit).count();
        self.sent = from + count;
        self.events.get(from..self.sent).unwrap_or_default()
    }

    /// All events.
    #[must_use]
    pub fn events(&self) -> &[ClientEvent] {
        &self.events
    }

    /// Whether everything was taken.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.sent == self.events.len()
    }
}

impl ClientSession {
    /// The `number`-th session of a developer, who calls himself `person`; `started` only dates the ids.
    #[must_use]
    pub fn new(seed: u64, developer: u64, person: impl Into<String>, number: u64, started: Timestamp) -> Self {
        let mut dice = Dice::new(seed, "session id", &[developer, number]);
        let session_id = SessionId::from_uuid(uuid_v7(started, dice.id_bytes()));
        Self { seed, developer, number, person: person.into(), session_id, started, next_sequence: 1, opportunities: 0 }
    }

    /// The session's id.
    #[must_use]
    pub fn session_id(&self) -> SessionId {
        self.session_id
    }

    /// The developer's own name.
    #[must_use]
    pub fn person(&self) -> &str {
        &self.person
    }

    /// How many opportunities there were.
    #[must_use]
    pub fn opportunities(&self) -> u64 {
        self.opportunities
    }

    /// What is asked of serving about `task`. The excerpt is the window: whole lines around the cursor.
    #[must_use]
    pub fn request(&self, task: &EditTask, opportunity_id: OpportunityId) -> SuggestionRequest {
        let context = &task.context;
        SuggestionRequest {
            person: self.person.clone(),
            session_id: self.session_id,
            opportunity_id: Some(opportunity_id),
            model: None,
            repository: context.repository.clone(),
            path: context.path.clone(),
            language: context.language.clone(),
            offset_encoding: OffsetEncoding::Utf8,
            document: DocumentExcerpt {
                start: context.window.start_byte,
                first_line: context.window.first_line,
                text: context.window.text.clone(),
            },
            cursor: context.cursor_byte,
            recent_edits: context.recent_edits.clone(),
        }
    }

    /// Asks serving, lets the developer act on the answer, and numbers what is to be reported.
    ///
    /// # Errors
    /// When serving does not answer. The session then goes on as if it had not asked.
    pub async fn play(&mut self, doors: &Doors, developer: &Developer, task: &EditTask) -> Result<Played, DriverError> {
        let asked_at_ms = 1000 + self.opportunities * OPPORTUNITY_MS;
        let mut dice = Dice::new(self.seed, "opportunity id", &[self.developer, self.number, self.opportunities]);
        let time = self.started + Duration::from_millis(asked_at_ms);
        let opportunity_id = OpportunityId::from_uuid(uuid_v7(time, dice.id_bytes()));
        let answer = doors.suggest(&self.request(task, opportunity_id)).await?;
        let served = visible(task, &answer);
        let mut dice = Dice::new(self.seed, "behaviour", &[self.developer, self.number, self.opportunities]);
        let behaviour = developer.decide(task, &served, &mut dice);
        self.opportunities += 1;
        let suggestion = SuggestionReference {
            opportunity_id,
            suggestion_id: answer.end.suggestion_id,
            receipt: Some(answer.end.receipt.clone()),
        };
        let events = self.numbered(task, &suggestion, &behaviour, asked_at_ms);
        Ok(Played { answer, served, behaviour, episode: Episode { opportunity_id, asked_at_ms, events, sent: 0 } })
    }

    fn numbered(
        &mut self,
        task: &EditTask,
        suggestion: &SuggestionReference,
        behaviour: &Behaviour,
        asked_at_ms: u64,
    ) -> Vec<ClientEvent> {
        let mut events = Vec::with_capacity(behaviour.actions.len());
        for action in &behaviour.actions {
            let body = reported_as(action.kind.clone(), suggestion.clone(), &task.context.path);
            events.push(self.event(asked_at_ms + action.at_ms, body));
        }
        events
    }

    fn event(&mut self, monotonic_ms: u64, body: ClientEventBody) -> ClientEvent {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        ClientEvent { sequence, monotonic_ms, body }
    }

    /// The last event of the session.
    pub fn end(&mut self) -> ClientEvent {
        let at = 1000 + self.opportunities * OPPORTUNITY_MS;
        self.event(at, ClientEventBody::SessionEnded {})
    }

    /// Reports events of this session.
    ///
    /// # Errors
    /// When ingest does not take them.
    pub async fn send(&self, doors: &Doors, events: &[ClientEvent]) -> Result<(), DriverError> {
        if events.is_empty() { Ok(()) } else { doors.report(&self.person, self.session_id, events).await }
    }
}

/// How a client reports what was done about a suggestion. `path` is the file's. An edit of origin `suggestion` is told
/// to be this suggestion's.
#[must_use]
pub fn reported_as(kind: ClientActionKind, suggestion: SuggestionReference, path: &str) -> ClientEventBody {
    match kind {
        ClientActionKind::Shown { actions_visible } => ClientEventBody::SuggestionShown { suggestion, actions_visible },
        ClientActionKind::Hidden { visible_ms } => ClientEventBody::SuggestionHidden { suggestion, visible_ms },
        ClientActionKind::Accepted { action_index, accepted_length } => {
            ClientEventBody::SuggestionAccepted { suggestion, action_index, accepted_length }
        }
        ClientActionKind::Dismissed { action_index } => {
            ClientEventBody::SuggestionDismissed { suggestion, action_index }
        }
        ClientActionKind::Edited { range, old_text, new_text, origin } => ClientEventBody::DocumentEdited {
            path: path.to_owned(),
            start: range.start,
            end: range.end,
            old_text,
            new_text,
            origin,
            suggestion_id: suggestion.suggestion_id.filter(|_| origin == Origin::Suggestion),
        },
        ClientActionKind::Look { delay_s, text } => {
            ClientEventBody::RegionLook { suggestion, look_delay_s: delay_s, path: path.to_owned(), text }
        }
    }
}

/// The actions that the editor can show: those that fit the document as it is.
fn visible(task: &EditTask, answer: &Answer) -> ActionList {
    if !answer.is_shown() {
        return ActionList { actions: Vec::new(), closed: true };
    }
    let fits = |action: &EditAction| {
        let (start, end) = (action.range.start as usize, action.range.end as usize);
        action.path == task.context.path && task.base_document.get(start..end) == Some(action.old_text.as_str())
    };
    let actions = (answer.actions.iter())
        .map(|action| EditAction {
            path: action.path.clone(),
            range: ByteRange::new(action.start, action.end),
            old_text: action.old_text.clone(),
            new_text: action.new_text.clone(),
        })
        // Later actions lean on earlier ones: the first that does not fit ends the list.
        .take_while(fits)
        .collect();
    ActionList { actions, closed: true }
}
