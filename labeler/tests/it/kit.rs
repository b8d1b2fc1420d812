//! Editors that report what a developer does, with real keys and receipts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bus::testing::ReferenceStep;
use bus::{Affected, DeadLetter, DeadLetterKind, Position, Record, RecordKey, StepHandler};
use bytes::Bytes;
use events::avro;
use events::topics::{PREFERENCE_PAIRS, SERVING_OUTCOMES, TELEMETRY_CLEAN, TELEMETRY_RAW};
use events::{
    Arm, ByteRange, CleanEvent, ConsentTier, DataKey, Decision, EditAction, EditContext, EventHeader, EventId,
    EventKind, EventText, ModelVersion, OffsetEncoding, OpportunityId, OpportunityOutcome, Origin, PairText,
    PersonPseudonym, PreferencePair, Probabilities, RawEvent, Receipt, ReceiptState, ScrubWitness, ScrubbedText,
    Sealed, SessionId, Sha256Digest, SuggestionId, TenantId, TenantSecret, Timestamp, Window,
};
use labeler::audience::{CONTROL_KIND, subject};
use labeler::config::SessionLimits;
use labeler::keys::LoadedKeys;
use labeler::policy_record::VersionedPolicy;
use labeler::{LabelPolicy, step};
use service::keys::KeyStore;
use test_databases::TestDatabase;

pub(crate) const START: Timestamp = Timestamp::from_seconds(1_800_000_000);
pub(crate) const REPOSITORY: &str = "repo-a";
/// How long every suggestion takes to come.
pub(crate) const FIRST_ACTION_MS: u32 = 120;

/// A policy as a new platform has it, whose releases all read details.
pub(crate) fn telling(policy: LabelPolicy) -> VersionedPolicy {
    VersionedPolicy::of(policy, true)
}

/// What all editors of a test share.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) keys: KeyStore,
    pub(crate) pool: sqlx::AnyPool,
    pub(crate) secret: TenantSecret,
    pub(crate) directory: Arc<tempfile::TempDir>,
}

impl World {
    pub(crate) async fn new() -> Self {
        let TestDatabase { directory, pool, .. } = TestDatabase::fresh().await;
        let directory = Arc::new(directory);
        let keys = KeyStore::open(pool.clone(), &directory.path().join("master.key")).await.unwrap();
        let secret = keys.tenant_secret(&TenantId::default()).await.unwrap();
        Self { keys, pool, secret, directory }
    }

    pub(crate) async fn person(&self, name: &str) -> Person {
        let pseudonym = self.secret.person_pseudonym(name);
        let key = self.keys.data_key(&TenantId::default(), &pseudonym).await.unwrap();
        Person { pseudonym, key, secret: self.secret.clone() }
    }

    pub(crate) fn handler(&self, policy: VersionedPolicy) -> Arc<dyn StepHandler> {
        step::handler(Arc::new(LoadedKeys::new(self.keys.clone())), policy, SessionLimits::default())
    }

    /// A step with a rule for the repository of the tests.
    pub(crate) fn step(&self, partitions: u32) -> Labeling {
        self.step_with(partitions, telling(LabelPolicy::default()))
    }

    pub(crate) fn step_with(&self, partitions: u32, policy: VersionedPolicy) -> Labeling {
        Self::step_of(partitions, self.handler(policy))
    }

    pub(crate) fn step_of(partitions: u32, handler: Arc<dyn StepHandler>) -> Labeling {
        let mut step = ReferenceStep::new(step::spec(), Arc::clone(&handler), partitions);
        let rule = Bytes::from_static(b"repository:a");
        step.publish_control(CONTROL_KIND, &subject(&TenantId::default(), REPOSITORY), rule);
        Labeling { step, handler }
    }

    /// The text of a pair.
    pub(crate) async fn text(&self, pair: &PreferencePair) -> PairText {
        labeler::lake::open_text(pair, &self.keys).await.unwrap()
    }
}

/// A running reference step.
pub(crate) struct Labeling {
    pub(crate) step: ReferenceStep,
    handler: Arc<dyn StepHandler>,
}

impl Labeling {
    pub(crate) fn publish(&mut self, event: &CleanEvent, secret: &TenantSecret) {
        self.step.publish(record_of(event, secret));
    }

    /// Handles what waits, loading what is missing.
    pub(crate) async fn run(&mut self) {
        loop {
            let paused = self.step.run();
            if paused.is_empty() {
                return;
            }
            for paused in paused {
                self.handler.make_available(&paused.dependencies).await;
            }
        }
    }

    /// The own clock goes on.
    pub(crate) async fn advance(&mut self, now: Timestamp) {
        loop {
            let paused = self.step.advance_to(now);
            if paused.is_empty() {
                return;
            }
            for paused in paused {
                self.handler.make_available(&paused.dependencies).await;
            }
        }
    }

    /// Nothing happens any more for so long that every timer fires.
    pub(crate) async fn finish(&mut self) {
        self.run().await;
        for hours in [1, 2, 30] {
            let paused = self.step.advance_to(START + Duration::from_secs(hours * 3600));
            assert!(paused.is_empty(), "{paused:?}");
        }
        assert_eq!(self.step.dead_letters(), []);
    }

    pub(crate) fn pairs(&self) -> Vec<PreferencePair> {
        self.step.emitted(PREFERENCE_PAIRS).iter().map(|record| avro::decode(&record.value).unwrap()).collect()
    }

    pub(crate) fn outcomes(&self) -> Vec<OpportunityOutcome> {
        self.step.emitted(SERVING_OUTCOMES).iter().map(|record| avro::decode(&record.value).unwrap()).collect()
    }
}

/// The session of an editor with that seed.
pub(crate) fn session(seed: u8) -> SessionId {
    SessionId::from_uuid(uuid::Uuid::from_bytes([seed; 16]))
}

/// The `number`th id of its `kind` in the session of that seed.
fn numbered(seed: u8, number: u8, kind: u8) -> uuid::Uuid {
    let mut bytes = [kind; 16];
    (bytes[0], bytes[1]) = (seed, number);
    uuid::Uuid::from_bytes(bytes)
}

/// The letter of a step that gave the record of an event up.
pub(crate) fn dead_letter(header: &EventHeader, topic: &str) -> DeadLetter {
    DeadLetter {
        step: anonymizer::STEP.to_owned(),
        topic: topic.to_owned(),
        partition: 0,
        position: Position::START,
        key: RecordKey([1; 16]),
        kind: DeadLetterKind::Record,
        timer_name: None,
        due_at: None,
        reason: "panic".to_owned(),
        key_poisoned: false,
        partition_time: START,
        payload: None,
        affected: vec![Affected { event_id: header.event_id.to_string(), received_at: header.received_at }],
    }
}

pub(crate) fn record_of(event: &CleanEvent, secret: &TenantSecret) -> Record {
    let key = RecordKey(secret.record_key(event.header.session_id));
    Record { key, value: Bytes::from(avro::encode(event).unwrap()) }
}

#[derive(Clone)]
pub(crate) struct Person {
    pub(crate) pseudonym: PersonPseudonym,
    pub(crate) key: Arc<DataKey>,
    secret: TenantSecret,
}

impl Person {
    /// The event as the door publishes it, with `change` made to its text.
    pub(crate) fn raw(&self, event: &CleanEvent, change: impl FnOnce(EventText) -> EventText) -> RawEvent {
        let mut header = event.header.clone();
        let text = event.sealed().map(|sealed| {
            let text = self.key.open(header.event_id, TELEMETRY_CLEAN, sealed).unwrap();
            serde_json::to_vec(&change(serde_json::from_slice(&text).unwrap())).unwrap()
        });
        let told = serde_json::to_vec(&(&header, &text)).unwrap();
        header.content_digest = Sha256Digest::of(&told).to_string()[..32].to_owned();
        let sealed = text.map(|text| self.key.seal(header.event_id, TELEMETRY_RAW, &text));
        RawEvent { header, filtered_at_door: None, sealed }
    }

    /// The event as the anonymizer publishes it.
    pub(crate) fn clean(&self, header: EventHeader, text: Option<EventText>) -> CleanEvent {
        #[expect(clippy::disallowed_methods, reason = "the test plays the anonymizer")]
        let text = text.map(|text| ScrubbedText::declare(text, false, &ScrubWitness::issue()));
        CleanEvent::scrubbed(header, text.as_ref(), Some(&self.key))
    }

    /// The event with `change` made to its header and text.
    pub(crate) fn changed(
        &self,
        event: &CleanEvent,
        change: impl FnOnce(&mut EventHeader, &mut Option<EventText>),
    ) -> CleanEvent {
        let mut header = event.header.clone();
        let mut text = event.sealed().map(|sealed| {
            let text = self.key.open(header.event_id, TELEMETRY_CLEAN, sealed).unwrap();
            serde_json::from_slice(&text).unwrap()
        });
        change(&mut header, &mut text);
        self.clean(header, text)
    }

    /// What was sealed for an event of a topic.
    pub(crate) fn open(&self, event: EventId, topic: &str, sealed: &Sealed) -> Vec<u8> {
        self.key.open(event, topic, sealed).unwrap()
    }

    /// Bytes of any kind in place of an event's text.
    pub(crate) fn seal(&self, event: EventId, plaintext: &[u8]) -> Option<Sealed> {
        Some(self.key.seal(event, TELEMETRY_RAW, plaintext))
    }
}

/// One decision of serving, as the editor knows it.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) opportunity: OpportunityId,
    pub(crate) receipt: Receipt,
    pub(crate) actions: Vec<EditAction>,
}

/// One session of an editor with one document.
pub(crate) struct Editor {
    person: Person,
    session: SessionId,
    sequence: i64,
    pub(crate) now_ms: i64,
    pub(crate) document: String,
    window_start: usize,
    /// Bytes of the document behind the window.
    behind: usize,
    encoding: OffsetEncoding,
    counter: u8,
    seed: u8,
    pub(crate) events: Vec<CleanEvent>,
}

pub(crate) const DOCUMENT: &str = "use é::😀;\n\nfn main() {\n    let a = get_name(user);\n    let b = \
                                   get_name(other);\n    send(a, b);\n}\n\nfn after() {}\n";

/// Bytes of a document from the empty line before `after` on.
fn behind(document: &str) -> usize {
    let after = document.find("fn after").unwrap();
    let line_break = if document[..after].ends_with("\r\n") { 2 } else { 1 };
    document.len() - after + line_break
}

impl Editor {
    /// A session whose window is `main` of [`DOCUMENT`].
    pub(crate) fn new(person: &Person, seed: u8) -> Self {
        Self::over(person, seed, DOCUMENT)
    }

    /// A session whose window is `main` of a document that ends as [`DOCUMENT`] does.
    pub(crate) fn over(person: &Person, seed: u8, document: &str) -> Self {
        Self {
            person: person.clone(),
            session: session(seed),
            sequence: 0,
            now_ms: 1_000,
            document: document.to_owned(),
            window_start: document.find("fn main").unwrap(),
            behind: behind(document),
            encoding: if seed.is_multiple_of(2) { OffsetEncoding::Utf16 } else { OffsetEncoding::Utf8 },
            counter: 0,
            seed,
            events: Vec::new(),
        }
    }

    fn at(&self) -> Timestamp {
        START + Duration::from_millis(u64::try_from(self.now_ms).unwrap())
    }

    pub(crate) fn wait(&mut self, ms: i64) -> &mut Self {
        self.now_ms += ms;
        self
    }

    fn units(&self, text: &str) -> u64 {
        let units = match self.encoding {
            OffsetEncoding::Utf8 => text.len(),
            OffsetEncoding::Utf16 => text.encode_utf16().count(),
            OffsetEncoding::Unknown => 0,
        };
        u64::try_from(units).unwrap()
    }

    fn window(&self) -> String {
        self.document[self.window_start..self.document.len() - self.behind].to_owned()
    }

    fn header(&mut self, kind: EventKind) -> EventHeader {
        let sequence = if kind == EventKind::Exposure {
            0
        } else {
            self.sequence += 1;
            self.sequence
        };
        EventHeader {
            event_id: EventId::of_client_event(self.session, u64::try_from(sequence).unwrap()),
            tenant: TenantId::default(),
            person: self.person.pseudonym.clone(),
            session_id: self.session,
            sequence,
            kind,
            consent: ConsentTier::Code,
            received_at: self.at() + Duration::from_millis(40),
            monotonic_ms: if sequence == 0 { 0 } else { self.now_ms },
            opportunity_id: None,
            suggestion_id: None,
            action_index: None,
            actions_visible: None,
            accepted_length: None,
            visible_ms: None,
            look_delay_s: None,
            origin: None,
            offset_encoding: self.encoding,
            receipt_state: ReceiptState::Absent,
            receipt: None,
            content_digest: "00".repeat(16),
        }
    }

    fn push(&mut self, header: EventHeader, text: Option<EventText>) -> &mut Self {
        self.events.push(self.person.clean(header, text));
        self
    }

    /// An action on the `nth` occurrence of `old` in the window.
    pub(crate) fn action(&self, old: &str, nth: usize, new_text: &str) -> EditAction {
        let window = self.window();
        let place = window.match_indices(old).nth(nth).unwrap().0 + self.window_start;
        EditAction {
            path: "src/a.rs".to_owned(),
            range: ByteRange::new(place as u64, (place + old.len()) as u64),
            old_text: old.to_owned(),
            new_text: new_text.to_owned(),
        }
    }

    pub(crate) fn ask(&mut self, decision: Decision, actions: Vec<EditAction>) -> Served {
        let opportunity = OpportunityId::from_uuid(numbered(self.seed, self.counter, 1));
        self.counter += 1;
        self.ask_again(opportunity, decision, actions)
    }

    pub(crate) fn ask_again(
        &mut self,
        opportunity: OpportunityId,
        decision: Decision,
        actions: Vec<EditAction>,
    ) -> Served {
        let number = self.counter;
        self.counter += 1;
        let suggestion = (!actions.is_empty()).then(|| SuggestionId::from_uuid(numbered(self.seed, number, 2)));
        let receipt = Receipt {
            tenant: TenantId::default(),
            person: self.person.pseudonym.clone(),
            session_id: self.session,
            opportunity_id: opportunity,
            suggestion_id: suggestion,
            model: "edit".parse().unwrap(),
            model_version: ModelVersion(1),
            rollout_id: None,
            arm: Arm::Current,
            block: None,
            decision,
            probabilities: Probabilities {
                arm_probability: 1.0,
                p_show: 0.98,
                log_p_text: -0.5,
                gate_score: 0.7,
                threshold: 0.5,
                explored: false,
            },
            context_digest: Sha256Digest::of(b"context"),
            actions_digest: Sha256Digest::of(b"actions"),
            issued_at: self.at(),
        };
        let receipt = Receipt::verify(&receipt.sign(&self.person.secret), &self.person.secret).unwrap();
        let mut header = self.header(EventKind::Exposure);
        header.event_id = EventId::of_exposure(opportunity, suggestion);
        header.received_at = self.at();
        header.opportunity_id = Some(opportunity);
        header.suggestion_id = suggestion;
        header.receipt = Some(receipt.clone());
        header.receipt_state = ReceiptState::Valid;
        let context = EditContext {
            repository: REPOSITORY.to_owned(),
            path: "src/a.rs".to_owned(),
            language: "rust".to_owned(),
            recent_edits: Vec::new(),
            window: Window { start_byte: self.window_start as u64, first_line: 2, text: self.window() },
            cursor_byte: self.window_start as u64,
        };
        let window_start_offset = self.units(&self.document[..self.window_start]);
        let first_action_ms = (decision == Decision::Shown).then_some(FIRST_ACTION_MS);
        let text = EventText::Exposure {
            context,
            actions: actions.clone(),
            window_start_offset,
            altered: false,
            first_action_ms,
        };
        self.push(header, Some(text));
        Served { opportunity, receipt, actions }
    }

    fn about(&mut self, kind: EventKind, served: &Served) -> EventHeader {
        let mut header = self.header(kind);
        header.opportunity_id = Some(served.opportunity);
        header.suggestion_id = served.receipt.suggestion_id;
        header.receipt = Some(served.receipt.clone());
        header.receipt_state = ReceiptState::Valid;
        header
    }

    pub(crate) fn shown(&mut self, served: &Served, actions_visible: i32) -> &mut Self {
        let header =
            EventHeader { actions_visible: Some(actions_visible), ..self.about(EventKind::SuggestionShown, served) };
        self.push(header, None)
    }

    pub(crate) fn hidden(&mut self, served: &Served, visible_ms: i64) -> &mut Self {
        let header = EventHeader { visible_ms: Some(visible_ms), ..self.about(EventKind::SuggestionHidden, served) };
        self.push(header, None)
    }

    pub(crate) fn dismissed(&mut self, served: &Served, action_index: i32) -> &mut Self {
        let header =
            EventHeader { action_index: Some(action_index), ..self.about(EventKind::SuggestionDismissed, served) };
        self.push(header, None)
    }

    /// Tab: the document changes and both events are reported. `length` in bytes of the new text.
    pub(crate) fn accepted(&mut self, served: &Served, index: usize, length: Option<usize>) -> &mut Self {
        let action = served.actions[index].clone();
        let written = &action.new_text[..length.unwrap_or(action.new_text.len())];
        let accepted_length = length.map(|_| i64::try_from(self.units(written)).unwrap());
        let header = EventHeader {
            action_index: Some(i32::try_from(index).unwrap()),
            accepted_length,
            ..self.about(EventKind::SuggestionAccepted, served)
        };
        self.push(header, None);
        let place = action.range.start as usize;
        let end = place + action.old_text.len();
        self.edit(place, end, written, Origin::Suggestion, served.receipt.suggestion_id)
    }

    pub(crate) fn edit(
        &mut self,
        start: usize,
        end: usize,
        new_text: &str,
        origin: Origin,
        suggestion: Option<SuggestionId>,
    ) -> &mut Self {
        let text = EventText::Edit {
            path: "src/a.rs".to_owned(),
            start: self.units(&self.document[..start]),
            end: self.units(&self.document[..end]),
            old_text: self.document[start..end].to_owned(),
            new_text: new_text.to_owned(),
        };
        if end <= self.window_start {
            self.window_start = self.window_start - (end - start) + new_text.len();
        } else if start >= self.document.len() - self.behind {
            self.behind = self.behind - (end - start) + new_text.len();
        }
        self.document.replace_range(start..end, new_text);
        let mut header = self.header(EventKind::DocumentEdited);
        header.origin = Some(origin);
        header.suggestion_id = suggestion;
        self.push(header, Some(text))
    }

    /// Replaces the `nth` occurrence of `old` in the document.
    pub(crate) fn replace(&mut self, old: &str, nth: usize, new_text: &str, origin: Origin) -> &mut Self {
        let start = self.document.match_indices(old).nth(nth).unwrap().0;
        self.edit(start, start + old.len(), new_text, origin, None)
    }

    /// Writes the whole document anew and reports it as one edit.
    pub(crate) fn rewrites(&mut self, document: &str, origin: Origin) -> &mut Self {
        let end = self.document.len();
        self.edit(0, end, document, origin, None);
        self.window_start = document.find("fn main").unwrap();
        self.behind = behind(document);
        self
    }

    /// Types over the `nth` occurrence of `old`, one character each 100 ms.
    pub(crate) fn types(&mut self, old: &str, nth: usize, new_text: &str) -> &mut Self {
        let start = self.document.match_indices(old).nth(nth).unwrap().0;
        self.edit(start, start + old.len(), "", Origin::Typed, None);
        let mut place = start;
        for character in new_text.chars() {
            self.wait(100);
            self.edit(place, place, &character.to_string(), Origin::Typed, None);
            place += character.len_utf8();
        }
        self
    }

    pub(crate) fn look(&mut self, served: &Served, delay_s: i32) -> &mut Self {
        let header = EventHeader { look_delay_s: Some(delay_s), ..self.about(EventKind::RegionLook, served) };
        let text = EventText::Look { path: "src/a.rs".to_owned(), text: self.window() };
        self.push(header, Some(text))
    }

    /// The three looks, at their times after `opened_ms`.
    pub(crate) fn looks(&mut self, served: &Served, opened_ms: i64) -> &mut Self {
        for delay in [30, 120, 300] {
            self.now_ms = self.now_ms.max(opened_ms + i64::from(delay) * 1000);
            self.look(served, delay);
        }
        self
    }

    /// What only a newer client reports.
    pub(crate) fn reports_something_new(&mut self) -> &mut Self {
        let header = self.header(EventKind::Unknown);
        self.push(header, None)
    }

    pub(crate) fn end(&mut self) -> &mut Self {
        let header = self.header(EventKind::SessionEnded);
        self.push(header, None)
    }
}

/// A session in which the first suggestion is accepted and kept: exposure, shown, accepted and its edit, three looks.
pub(crate) fn accepted_and_kept(person: &Person, seed: u8) -> Vec<CleanEvent> {
    let mut editor = Editor::new(person, seed);
    let action = editor.action("get_name", 0, "fetch_name");
    let served = editor.ask(Decision::Shown, vec![action]);
    let opened = editor.now_ms;
    editor.shown(&served, 1).wait(900).accepted(&served, 0, None).looks(&served, opened);
    editor.events
}

/// Labels one session by itself.
pub(crate) async fn label(world: &World, editor: &Editor) -> (Vec<PreferencePair>, Vec<OpportunityOutcome>) {
    label_with(world, editor, telling(LabelPolicy::default())).await
}

pub(crate) async fn label_with(
    world: &World,
    editor: &Editor,
    policy: VersionedPolicy,
) -> (Vec<PreferencePair>, Vec<OpportunityOutcome>) {
    let mut labeling = world.step_with(2, policy);
    for event in &editor.events {
        labeling.publish(event, &world.secret);
    }
    labeling.finish().await;
    (labeling.pairs(), labeling.outcomes())
}

/// Emitted values of all keys, in an order that does not depend on the order of keys.
pub(crate) fn sorted_values(step: &ReferenceStep) -> BTreeMap<String, Vec<Vec<u8>>> {
    [PREFERENCE_PAIRS, SERVING_OUTCOMES]
        .into_iter()
        .map(|topic| {
            let mut values: Vec<Vec<u8>> = step.emitted(topic).iter().map(|record| record.value.to_vec()).collect();
            values.sort();
            (topic.to_owned(), values)
        })
        .collect()
}
