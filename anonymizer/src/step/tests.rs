use bus::testing::ReferenceStep;
use bus::{Record, RecordKey};
use events::edit::EditContext;
use events::{
    Arm, ConsentTier, DataKey, Decision, Disposition, EventText, ModelVersion, OffsetEncoding, OpportunityId, Origin,
    PersonPseudonym, Probabilities, Receipt, ReceiptState, SessionId, Sha256Digest, SuggestionId, TenantId,
    TenantSecret, Window,
};
use proptest::prelude::*;
use service::consent::{self, ConsentDecision};

use super::*;
use crate::fixture::{LETTERS_DIGITS, noise};

const START: i64 = 1_800_000_000;

/// The step with a key store behind it, and one person with one session.
struct Bench {
    runtime: tokio::runtime::Runtime,
    keys: KeyStore,
    handler: Arc<dyn StepHandler>,
    step: ReferenceStep,
    secret: TenantSecret,
    data_key: Arc<DataKey>,
    person: PersonPseudonym,
    session: SessionId,
    _directory: tempfile::TempDir,
}

fn uuid(number: u8) -> uuid::Uuid {
    uuid::Uuid::from_bytes([number; 16])
}

fn opportunity(number: u8) -> OpportunityId {
    OpportunityId::from_uuid(uuid(number))
}

fn at(second: f64) -> Timestamp {
    Timestamp::from_micros(START * 1_000_000 + (second * 1e6) as i64)
}

impl Bench {
    fn new() -> Self {
        Self::with(AnonymizerConfig::default())
    }

    fn with(config: AnonymizerConfig) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let keys = runtime.block_on(async {
            let url = migrations::sqlite_url(&directory.path().join("flywheel.sqlite"));
            let pool = migrations::connect(&url, 2).await.unwrap();
            migrations::migrate(&pool).await.unwrap();
            KeyStore::open(pool, &directory.path().join("master.key")).await.unwrap()
        });
        let secret = runtime.block_on(keys.tenant_secret(&TenantId::default())).unwrap();
        let person = secret.person_pseudonym("jane");
        let data_key = runtime.block_on(keys.data_key(&TenantId::default(), &person)).unwrap();
        let handler = handler(config, keys.clone()).unwrap();
        let step = ReferenceStep::new(crate::step_spec(), Arc::clone(&handler), 4);
        let session = SessionId::from_uuid(uuid(7));
        let mut bench = Self { runtime, keys, handler, step, secret, data_key, person, session, _directory: directory };
        bench.ceiling(ConsentTier::Code, -60.0);
        bench
    }

    /// A control record: the widest tier that the tenant allows.
    fn ceiling(&mut self, tier: ConsentTier, second: f64) {
        self.control(&consent::ceiling_subject(&TenantId::default()), tier, second);
    }

    /// A control record: what the person chose.
    fn decide(&mut self, tier: ConsentTier, second: f64) {
        self.control(&consent::control_subject(&TenantId::default(), &self.person), tier, second);
    }

    fn control(&mut self, subject: &str, tier: ConsentTier, second: f64) {
        let decision = ConsentDecision { tier, decided_at: at(second) };
        self.step.publish_control(consent::CONTROL_KIND, subject, serde_json::to_vec(&decision).unwrap().into());
    }

    fn header(&self, sequence: i64, second: f64) -> EventHeader {
        EventHeader {
            event_id: EventId::of_client_event(self.session, sequence as u64),
            tenant: TenantId::default(),
            person: self.person.clone(),
            session_id: self.session,
            sequence,
            kind: EventKind::DocumentEdited,
            consent: ConsentTier::Code,
            received_at: at(second),
            monotonic_ms: (second * 1000.0) as i64,
            opportunity_id: None,
            suggestion_id: None,
            action_index: None,
            actions_visible: None,
            accepted_length: None,
            visible_ms: None,
            look_delay_s: None,
            origin: Some(Origin::Typed),
            offset_encoding: OffsetEncoding::Utf8,
            receipt_state: ReceiptState::Absent,
            receipt: None,
            content_digest: format!("{sequence:032x}"),
        }
    }

    fn seal(&self, header: EventHeader, text: &EventText) -> RawEvent {
        let plaintext = serde_json::to_vec(text).unwrap();
        let sealed = Some(self.data_key.seal(header.event_id, topics::TELEMETRY_RAW, &plaintext));
        RawEvent { header, filtered_at_door: None, sealed }
    }

    /// An insertion of `text` at `place`.
    fn typed(&self, sequence: i64, second: f64, place: u64, text: &str) -> RawEvent {
        let text = EventText::Edit {
            path: "src/a.rs".into(),
            start: place,
            end: place,
            old_text: String::new(),
            new_text: text.into(),
        };
        self.seal(self.header(sequence, second), &text)
    }

    fn bare(&self, sequence: i64, second: f64, kind: EventKind) -> RawEvent {
        let header = EventHeader { kind, origin: None, ..self.header(sequence, second) };
        RawEvent { header, filtered_at_door: None, sealed: None }
    }

    fn receipt(&self, number: u8) -> Receipt {
        Receipt {
            tenant: TenantId::default(),
            person: self.person.clone(),
            session_id: self.session,
            opportunity_id: opportunity(number),
            suggestion_id: Some(SuggestionId::from_uuid(uuid(number))),
            model: "edit".parse().unwrap(),
            model_version: ModelVersion(1),
            rollout_id: None,
            arm: Arm::Current,
            block: None,
            decision: Decision::Shown,
            probabilities: Probabilities {
                arm_probability: 1.0,
                p_show: 1.0,
                log_p_text: -1.0,
                gate_score: 0.5,
                threshold: 0.5,
                explored: false,
            },
            context_digest: Sha256Digest::of(b"c"),
            actions_digest: Sha256Digest::of(b"a"),
            issued_at: at(0.0),
        }
    }

    /// A signal about a decision, with a receipt that holds.
    fn shown(&self, sequence: i64, second: f64, number: u8) -> RawEvent {
        let mut event = self.bare(sequence, second, EventKind::SuggestionShown);
        event.header.opportunity_id = Some(opportunity(number));
        event.header.suggestion_id = Some(SuggestionId::from_uuid(uuid(number)));
        event.header.receipt_state = ReceiptState::Valid;
        event.header.receipt = Some(self.receipt(number));
        event
    }

    fn exposure(&self, number: u8, second: f64, window: &str) -> RawEvent {
        let receipt = self.receipt(number);
        let mut header = self.header(0, second);
        header.event_id = EventId::of_exposure(receipt.opportunity_id, receipt.suggestion_id);
        header.kind = EventKind::Exposure;
        header.opportunity_id = Some(receipt.opportunity_id);
        header.suggestion_id = receipt.suggestion_id;
        header.receipt_state = ReceiptState::Valid;
        header.receipt = Some(receipt);
        header.monotonic_ms = 0;
        header.content_digest = format!("{number:032x}");
        let context = EditContext {
            repository: "acme".into(),
            path: "src/a.rs".into(),
            language: "rust".into(),
            recent_edits: vec![],
            window: Window { start_byte: 0, first_line: 0, text: window.into() },
            cursor_byte: 0,
        };
        let text = EventText::Exposure {
            context,
            actions: vec![],
            window_start_offset: 0,
            altered: false,
            first_action_ms: None,
        };
        self.seal(header, &text)
    }

    fn publish(&mut self, event: &RawEvent) {
        let key = RecordKey(self.secret.record_key(event.header.session_id));
        self.step.publish(Record { key, value: avro::encode(event).unwrap().into() });
        while let Some(paused) = self.step.run().pop() {
            self.runtime.block_on(self.handler.make_available(&paused.dependencies));
        }
    }

    fn advance(&mut self, second: f64) {
        while let Some(paused) = self.step.advance_to(at(second) + bus::IDLE_AFTER).pop() {
            self.runtime.block_on(self.handler.make_available(&paused.dependencies));
        }
    }

    fn clean(&self) -> Vec<CleanEvent> {
        self.step.emitted(topics::TELEMETRY_CLEAN).iter().map(|record| avro::decode(&record.value).unwrap()).collect()
    }

    fn quarantined(&self) -> Vec<QuarantinedEvent> {
        let records = self.step.emitted(topics::TELEMETRY_QUARANTINE);
        records.iter().map(|record| avro::decode(&record.value).unwrap()).collect()
    }

    fn text(&self, event: &CleanEvent) -> Option<EventText> {
        let sealed = event.sealed()?;
        let plaintext = self.data_key.open(event.header.event_id, topics::TELEMETRY_CLEAN, sealed).unwrap();
        Some(serde_json::from_slice(&plaintext).unwrap())
    }

    /// Sequence number (exposures: minus the opportunity's number), disposition and reason of everything emitted.
    fn story(&self) -> Vec<String> {
        let told = |event: &CleanEvent| {
            let name = match (event.header.kind, event.header.opportunity_id) {
                (EventKind::Exposure, Some(opportunity)) => format!("x{}", opportunity.as_bytes()[0]),
                _ => event.header.sequence.to_string(),
            };
            match &event.reason {
                Some(reason) => format!("{name} {} {reason}", event.disposition),
                None => name,
            }
        };
        self.clean().iter().map(told).collect()
    }
}

#[test]
fn order_is_restored_and_nothing_waits_without_a_gap() {
    let mut bench = Bench::new();
    for (sequence, second) in [(1, 0.0), (3, 1.0), (2, 1.5), (4, 2.0)] {
        let event = bench.typed(sequence, second, 0, "ab");
        bench.publish(&event);
    }
    bench.advance(11.9);
    assert!(bench.story().is_empty(), "still within the 10 s of quiet");
    bench.advance(12.0);
    assert_eq!(bench.story(), ["1", "2", "3", "4"]);
    // A pause of the client closes the group without any wait.
    let event = bench.typed(5, 20.0, 0, "x");
    bench.publish(&event);
    let event = bench.typed(6, 40.0, 0, "y");
    bench.publish(&event);
    assert_eq!(bench.story().last().map(String::as_str), Some("5"));
}

#[test]
fn a_gap_waits_for_lateness_and_no_longer() {
    let mut bench = Bench::new();
    for (sequence, second) in [(1, 0.0), (3, 1.0), (4, 2.0)] {
        let event = bench.typed(sequence, second, 0, "ab");
        bench.publish(&event);
    }
    bench.advance(900.0);
    assert_eq!(bench.story(), ["1"]);
    bench.advance(901.0);
    assert_eq!(bench.story(), ["1", "3", "4"]);
    let late = bench.typed(2, 902.0, 0, "late");
    bench.publish(&late);
    bench.publish(&late);
    assert_eq!(bench.story(), ["1", "3", "4", "2 filtered late"]);
}

#[test]
fn duplicates_go_and_conflicts_are_quarantined() {
    let mut bench = Bench::new();
    let first = bench.typed(1, 0.0, 0, "ab");
    bench.publish(&first);
    bench.publish(&first);
    let mut other = bench.typed(1, 0.5, 0, "other");
    other.header.content_digest = "f".repeat(32);
    bench.publish(&other);
    bench.advance(30.0);
    let again = bench.typed(1, 31.0, 0, "ab");
    bench.publish(&again);
    let exposure = bench.exposure(1, 32.0, "x");
    bench.publish(&exposure);
    bench.publish(&exposure);
    bench.advance(100.0);
    bench.publish(&exposure);
    bench.advance(200.0);
    assert_eq!(bench.story(), ["1", "x1"]);
    let quarantined = bench.quarantined();
    assert_eq!(quarantined.len(), 1);
    assert_eq!(quarantined[0].reason, reason::CONTENT_CONFLICT);
    let sealed = quarantined[0].sealed.as_ref().unwrap();
    assert!(bench.data_key.open(quarantined[0].header.event_id, topics::TELEMETRY_QUARANTINE, sealed).is_ok());
}

#[test]
fn an_exposure_comes_before_its_signals_whichever_arrives_first() {
    let mut bench = Bench::new();
    // Exposure first; its signal in a batch with an earlier edit.
    let events = [bench.exposure(1, 0.2, "x"), bench.typed(1, 1.0, 0, "a"), bench.shown(2, 1.0, 1)];
    events.iter().for_each(|event| bench.publish(event));
    bench.advance(20.0);
    assert_eq!(bench.story(), ["x1", "1", "2"]);
    // Signal first: its group waits, also past the quiet.
    let signal = bench.shown(3, 30.0, 2);
    bench.publish(&signal);
    bench.advance(100.0);
    assert_eq!(bench.story().len(), 3);
    let exposure = bench.exposure(2, 101.0, "x");
    bench.publish(&exposure);
    assert_eq!(bench.story()[3..], ["x2", "3"]);
    // A lost exposure is waited for as long as for a gap.
    let signal = bench.shown(4, 200.0, 3);
    bench.publish(&signal);
    bench.advance(1099.0);
    assert_eq!(bench.story().len(), 5);
    bench.advance(1100.0);
    assert_eq!(bench.story()[5..], ["4"]);
    // An exposure without signals comes by itself.
    let exposure = bench.exposure(4, 1200.0, "x");
    bench.publish(&exposure);
    bench.advance(1211.0);
    assert_eq!(bench.story()[6..], ["x4"]);
}

#[test]
fn a_session_ends_with_its_end_or_after_a_day() {
    let mut bench = Bench::new();
    let events =
        [bench.typed(1, 0.0, 0, "a"), bench.bare(2, 1.0, EventKind::SessionEnded), bench.typed(3, 2.0, 0, "b")];
    events.iter().for_each(|event| bench.publish(event));
    bench.advance(30.0);
    assert_eq!(bench.story(), ["1", "2", "3 filtered session_ended"]);

    let mut bench = Bench::new();
    let events = [bench.typed(1, 0.0, 0, "a"), bench.typed(2, 86_400.0, 0, "b"), bench.typed(3, 86_401.0, 0, "c")];
    events.iter().for_each(|event| bench.publish(event));
    bench.advance(87_000.0);
    assert_eq!(bench.story(), ["1", "2", "3 filtered session_ended"]);
    // Forgotten with everything that was kept of it, but for the mark that there was such a session.
    bench.advance(49.0 * 3600.0);
    let key = RecordKey(bench.secret.record_key(bench.session));
    assert_eq!(bench.step.state(&key).keys().collect::<Vec<_>>(), [FORGOTTEN]);
    // A laptop that slept over the weekend sends again what it has no answer for.
    bench.publish(&events[0]);
    let mut stub = bench.bare(2, 86_400.0, EventKind::Unknown);
    stub.filtered_at_door = Some("consent_none".into());
    bench.publish(&stub);
    assert_eq!(bench.story()[3..], ["1 filtered session_forgotten"]);
    bench.advance(49.0 * 3600.0 + 60.0 * 86_400.0);
    assert!(bench.step.state(&key).is_empty() && bench.step.timers(&key).is_empty());
}

#[test]
fn what_is_served_after_the_end_of_its_session_ends_with_it() {
    let mut bench = Bench::new();
    let events = [
        bench.typed(1, 0.0, 0, "a"),
        bench.bare(2, 5.0, EventKind::SessionEnded),
        bench.exposure(1, 6.0, "x"),
        bench.exposure(2, 7.0, "x"),
        bench.shown(3, 8.0, 2),
        // Served before the end, and on its way for long.
        bench.exposure(3, 4.0, "x"),
    ];
    events.iter().for_each(|event| bench.publish(event));
    bench.advance(60.0);
    let mut story = bench.story();
    story.sort();
    let ended = ["3 filtered session_ended", "x1 filtered session_ended", "x2 filtered session_ended"];
    assert_eq!(story, [&["1", "2"][..], &ended[..], &["x3"][..]].concat());
    assert!(bench.clean().iter().all(|event| event.reason.is_none() || event.sealed().is_none()));

    let mut bench = Bench::new();
    let day = 86_400.0;
    let mut reported_late = bench.typed(1, 0.0, 0, "a");
    reported_late.header.received_at = at(100.0);
    let events = [
        reported_late,
        bench.exposure(1, day + 20.0, "x"),
        bench.shown(2, day - 1.0, 2),
        // What is reported of it says more than when it was served.
        bench.exposure(2, day + 150.0, "x"),
        bench.exposure(3, day + 160.0, "x"),
        bench.shown(3, day + 170.0, 4),
        bench.exposure(4, day + 20.0, "x"),
    ];
    events.iter().for_each(|event| bench.publish(event));
    bench.advance(day + 2_000.0);
    let mut story = bench.story();
    story.sort();
    let ended = ["3 filtered session_ended", "x1", "x2", "x3 filtered session_ended", "x4 filtered session_ended"];
    assert_eq!(story, [&["1", "2"][..], &ended[..]].concat());
}

#[test]
fn what_is_served_after_the_client_slept_ends_by_its_own_clock() {
    let mut bench = Bench::new();
    let day = 86_400.0;
    // An hour of the client's clock, and a night in which that stood still.
    let mut woken = bench.typed(2, 3_600.0, 1, "b");
    woken.header.received_at = at(day - 60.0);
    // Nothing is reported of silence.
    let events = [
        bench.typed(1, 0.0, 0, "a"),
        woken,
        bench.exposure(1, day + 600.0, "x"),
        bench.exposure(2, 2.0 * day - 3_000.0, "x"),
    ];
    events.iter().for_each(|event| bench.publish(event));
    bench.advance(2.0 * day);
    let mut story = bench.story();
    story.sort();
    assert_eq!(story, ["1", "2", "x1", "x2 filtered session_ended"]);
}

#[test]
fn consent_is_looked_at_again_when_scrubbing() {
    let mut bench = Bench::new();
    let event = bench.typed(1, 0.0, 0, "secret text");
    bench.publish(&event);
    bench.decide(ConsentTier::None, 1.0);
    bench.advance(11.0);
    assert_eq!(bench.story(), ["1 filtered consent_withdrawn"]);
    assert!(bench.clean()[0].sealed().is_none() && bench.clean()[0].header.kind == EventKind::Unknown);
    bench.decide(ConsentTier::Usage, 20.0);
    // A relay that repeats the older decision changes nothing.
    let event = bench.typed(2, 21.0, 0, "x");
    bench.publish(&event);
    bench.advance(32.0);
    bench.decide(ConsentTier::None, 1.0);
    let event = bench.typed(3, 41.0, 0, "x");
    bench.publish(&event);
    bench.advance(60.0);
    assert_eq!(bench.story()[1..], ["2", "3"]);
    assert!(bench.clean().iter().all(|event| event.sealed().is_none()));
    // A stub keeps its place and is emitted nowhere.
    let mut stub = bench.bare(4, 61.0, EventKind::Unknown);
    stub.filtered_at_door = Some("consent_none".into());
    bench.publish(&stub);
    bench.decide(ConsentTier::Code, 62.0);
    let event = bench.typed(5, 63.0, 0, "y");
    bench.publish(&event);
    bench.advance(90.0);
    assert_eq!(bench.story()[3..], ["5"]);
    assert!(bench.clean()[3].sealed().is_some());
}

#[test]
fn a_ceiling_raised_after_the_person_agreed_lets_text_through() {
    let mut bench = Bench::new();
    bench.ceiling(ConsentTier::Usage, 0.0);
    bench.decide(ConsentTier::Code, 1.0);
    let event = bench.typed(1, 2.0, 0, "text");
    bench.publish(&event);
    bench.advance(20.0);
    assert!(bench.clean()[0].sealed().is_none() && bench.clean()[0].header.consent == ConsentTier::Usage);
    bench.ceiling(ConsentTier::Code, 30.0);
    let event = bench.typed(2, 31.0, 0, "text");
    bench.publish(&event);
    bench.advance(50.0);
    assert_eq!(bench.story(), ["1", "2"]);
    assert!(bench.clean()[1].sealed().is_some() && bench.clean()[1].header.consent == ConsentTier::Code);
}

#[test]
fn a_ceiling_lowered_after_an_event_was_admitted_keeps_its_text_back() {
    let mut bench = Bench::new();
    bench.decide(ConsentTier::Code, 0.0);
    let event = bench.typed(1, 1.0, 0, "text");
    bench.publish(&event);
    bench.ceiling(ConsentTier::Usage, 2.0);
    bench.advance(20.0);
    assert_eq!(bench.story(), ["1"]);
    assert!(bench.clean()[0].sealed().is_none());
    // A relay that repeats the older ceiling changes nothing.
    bench.ceiling(ConsentTier::Code, -60.0);
    let event = bench.typed(2, 21.0, 0, "text");
    bench.publish(&event);
    bench.ceiling(ConsentTier::None, 22.0);
    bench.advance(40.0);
    assert_eq!(bench.story(), ["1", "2 filtered consent_withdrawn"]);
    assert!(bench.clean().iter().all(|event| event.sealed().is_none()));
}

#[test]
fn without_a_ceiling_in_the_log_the_default_holds() {
    let mut bench = Bench::new();
    bench.step = ReferenceStep::new(crate::step_spec(), Arc::clone(&bench.handler), 4);
    bench.decide(ConsentTier::Code, 0.0);
    let event = bench.typed(1, 1.0, 0, "text");
    bench.publish(&event);
    bench.advance(20.0);
    assert_eq!(bench.story(), ["1"]);
    assert!(bench.clean()[0].sealed().is_none() && bench.clean()[0].header.consent == consent::DEFAULT_CEILING);
}

#[test]
fn an_erased_key_erases_what_is_held_and_an_unknown_one_quarantines() {
    let mut bench = Bench::new();
    let event = bench.typed(1, 0.0, 0, "text");
    bench.publish(&event);
    bench.keys.forget(&[bench.data_key.id()]);
    bench.advance(30.0);
    assert_eq!(bench.clean()[0].disposition, Disposition::Erased);
    assert_eq!(bench.story(), ["1 erased key_erased"]);
    let stranger = DataKey::new(events::KeyId::from_uuid(uuid(99)), [9; 32]);
    let mut event = bench.typed(2, 31.0, 0, "text");
    event.sealed = Some(stranger.seal(event.header.event_id, topics::TELEMETRY_RAW, b"{}"));
    bench.publish(&event);
    bench.advance(60.0);
    assert_eq!(bench.quarantined()[0].reason, reason::KEY_UNKNOWN);
}

#[test]
fn what_can_not_be_scrubbed_is_quarantined_and_harms_no_neighbour() {
    let config = AnonymizerConfig { event_text_bytes: 100, ..AnonymizerConfig::default() };
    let mut bench = Bench::with(config);
    let mut broken = bench.typed(2, 1.0, 0, "x");
    broken.sealed = Some(bench.data_key.seal(broken.header.event_id, topics::TELEMETRY_RAW, b"\xff not json"));
    let mut foreign = bench.typed(3, 2.0, 0, "x");
    foreign.sealed = bench.typed(4, 2.0, 0, "x").sealed;
    let mut stranger = bench.typed(5, 3.0, 0, "x");
    stranger.header.person = bench.secret.person_pseudonym("somebody else");
    let events = [
        bench.typed(1, 0.0, 0, "a"),
        broken,
        foreign,
        bench.typed(4, 2.5, 0, &"y".repeat(101)),
        stranger,
        bench.typed(5, 3.5, 0, "b"),
    ];
    events.iter().for_each(|event| bench.publish(event));
    bench.advance(30.0);
    assert_eq!(bench.story(), ["1", "5"]);
    let mut reasons: Vec<_> =
        bench.quarantined().into_iter().map(|event| (event.header.sequence, event.reason)).collect();
    reasons.sort();
    let expected = [
        (2, reason::TEXT_UNDECODABLE),
        (3, reason::SEAL_BROKEN),
        (4, reason::TEXT_TOO_LARGE),
        (5, reason::PERSON_CONFLICT),
    ];
    assert_eq!(reasons, expected.map(|(sequence, reason)| (sequence, reason.to_owned())));
}

#[test]
fn an_undecodable_record_goes_to_dead_letters_without_its_content() {
    let mut bench = Bench::new();
    let key = RecordKey(bench.secret.record_key(bench.session));
    let mut value = avro::encode(&bench.typed(1, 0.0, 0, "a")).unwrap();
    value.push(0);
    bench.step.publish(Record { key, value: value.into() });
    bench.step.run();
    let letter = &bench.step.dead_letters()[0];
    assert_eq!((letter.reason.as_str(), letter.payload.as_ref()), (reason::UNDECODABLE_RECORD, None));
}

#[test]
fn held_events_are_bounded_and_the_oldest_go_first() {
    let config = AnonymizerConfig { held_events: 10, ..AnonymizerConfig::default() };
    let mut bench = Bench::with(config);
    for sequence in 2..=30 {
        let event = bench.typed(sequence, 0.1 * sequence as f64, 0, "x");
        bench.publish(&event);
    }
    let story = bench.story();
    assert_eq!(story, (2..=story.len() + 1).map(|sequence| sequence.to_string()).collect::<Vec<_>>());
    assert!((15..=28).contains(&story.len()), "{story:?}");
    let key = RecordKey(bench.secret.record_key(bench.session));
    assert!(bench.step.state(&key).keys().filter(|name| name.starts_with("e/")).count() <= 10);
    bench.advance(1000.0);
    assert_eq!(bench.story().len(), 29);
}

#[test]
fn later_looks_know_what_was_replaced() {
    let mut bench = Bench::new();
    let secret = noise(70, LETTERS_DIGITS, 16);
    let window = format!("let api_key = \"{secret}\";\n");
    let exposure = bench.exposure(1, 0.1, &window);
    let signal = bench.shown(1, 1.0, 1);
    bench.publish(&exposure);
    bench.publish(&signal);
    bench.advance(20.0);
    let look = EventText::Look { path: "src/a.rs".into(), text: format!("send({secret})\n") };
    let look = bench.seal(EventHeader { kind: EventKind::RegionLook, ..bench.header(2, 31.0) }, &look);
    bench.publish(&look);
    // What is kept until then is sealed.
    let key = RecordKey(bench.secret.record_key(bench.session));
    for value in bench.step.state(&key).values() {
        assert!(!value.windows(secret.len()).any(|bytes| bytes == secret.as_bytes()));
    }
    bench.advance(60.0);
    let Some(EventText::Look { text, .. }) = bench.text(&bench.clean()[2]) else { panic!() };
    assert!(text.starts_with("send(") && !text.contains(&secret));
    assert!(bench.clean()[2].altered);
    // The look was concluded at 60 s; the memory stays for close and lateness after that.
    bench.advance(1259.0);
    assert!(bench.step.state(&key).contains_key(MEMORY));
    bench.advance(1260.0);
    assert!(!bench.step.state(&key).contains_key(MEMORY));
}

/// An event of a session: text or bare, and how long after the one before it.
#[derive(Debug, Clone)]
enum Act {
    Type(String),
    Show(u8),
    Bare,
}

fn acts() -> impl Strategy<Value = Vec<(Act, u16)>> {
    let secret = noise(80, LETTERS_DIGITS, 24);
    let act = prop_oneof![
        3 => "[a-z =;\n]{1,6}".prop_map(Act::Type),
        1 => Just(Act::Type(format!("\nlet token = \"{secret}\";\n"))),
        1 => Just(Act::Type("x = y@".to_owned())),
        2 => (1_u8..5).prop_map(Act::Show),
        1 => Just(Act::Bare),
    ];
    prop::collection::vec((act, 0_u16..400), 1..16)
}

/// The session's records, each at the client's time.
fn script(bench: &Bench, acts: &[(Act, u16)]) -> Vec<RawEvent> {
    let mut events = Vec::new();
    let mut exposed = std::collections::BTreeSet::new();
    let (mut second, mut place) = (0.0, 0);
    for (number, (act, pause)) in acts.iter().enumerate() {
        second += f64::from(*pause) / 1000.0;
        let sequence = number as i64 + 1;
        match act {
            Act::Type(text) => {
                events.push(bench.typed(sequence, second, place, text));
                place += text.len() as u64;
            }
            Act::Show(number) => {
                if exposed.insert(*number) {
                    events.push(bench.exposure(*number, second, "fn f() {}\n"));
                }
                events.push(bench.shown(sequence, second, *number));
            }
            Act::Bare => events.push(bench.bare(sequence, second, EventKind::SuggestionHidden)),
        }
    }
    events
}

/// What the labeler sees, without the times of arrival.
fn seen(bench: &Bench) -> Vec<(String, Option<String>, bool)> {
    let exposures_first = |event: &CleanEvent| event.header.kind != EventKind::Exposure;
    let mut clean: Vec<_> = bench.clean();
    // Where exposures stand among events that do not name them depends on when they came.
    clean.sort_by_key(|event| (exposures_first(event), event.header.sequence, event.header.event_id));
    let text = |event: &CleanEvent| bench.text(event).map(|text| serde_json::to_string(&text).unwrap());
    clean
        .iter()
        .map(|event| (format!("{} {:?}", event.header.event_id, event.reason), text(event), event.altered))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn every_order_and_repetition_gives_the_same_clean_events(
        acts in acts(),
        order in prop::collection::vec(any::<u32>(), 40),
        repeated in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        spread in prop::sample::select(vec![0.0, 0.2, 5.0, 30.0]),
    ) {
        let mut plain = Bench::new();
        let script = script(&plain, &acts);
        script.iter().for_each(|event| plain.publish(event));
        plain.advance(10_000.0);

        let mut shuffled = Bench::new();
        // The same keys, so that the same text has the same seal.
        (shuffled.keys, shuffled.handler) = (plain.keys.clone(), Arc::clone(&plain.handler));
        shuffled.data_key = Arc::clone(&plain.data_key);
        (shuffled.secret, shuffled.person) = (plain.secret.clone(), plain.person.clone());
        shuffled.step = ReferenceStep::new(crate::step_spec(), Arc::clone(&plain.handler), 4);
        shuffled.ceiling(ConsentTier::Code, -60.0);
        let mut arrivals: Vec<&RawEvent> = script.iter().collect();
        arrivals.extend(repeated.iter().map(|index| index.get(&script)));
        let mut numbered: Vec<(u32, &RawEvent)> = order.iter().copied().cycle().zip(arrivals).collect();
        numbered.sort_by_key(|(number, _)| *number);
        for (arrival, (_, event)) in numbered.into_iter().enumerate() {
            let mut event = event.clone();
            event.header.received_at = at(5.0 + spread * arrival as f64);
            shuffled.publish(&event);
        }
        shuffled.advance(10_000.0);

        prop_assert_eq!(seen(&shuffled), seen(&plain));
        for bench in [&plain, &shuffled] {
            let clean = bench.clean();
            let sequences = clean.iter().map(|event| event.header.sequence);
            let sequences: Vec<i64> = sequences.filter(|sequence| *sequence > 0).collect();
            prop_assert!(sequences.is_sorted());
            prop_assert_eq!(sequences.len(), acts.len());
            for (place, event) in clean.iter().enumerate() {
                let Some(opportunity) = event.header.opportunity_id else { continue };
                let exposure = clean.iter().position(|other| {
                    other.header.kind == EventKind::Exposure && other.header.opportunity_id == Some(opportunity)
                });
                prop_assert!(exposure.is_some_and(|exposure| exposure <= place), "{:?}", bench.story());
            }
        }
    }
}
