use std::sync::atomic::Ordering;

use events::edit::Window;
use events::{
    Arm, ByteRange, Decision, ModelVersion, OpportunityId, Probabilities, SessionId, Sha256Digest, SuggestionId,
};
use uuid::Uuid;

use super::*;
use crate::testing::{World, plain_config};

fn exposure(secret: &TenantSecret, person: &str, number: u8, suggested: bool) -> Exposure {
    let suggestion_id = suggested.then(|| SuggestionId::from_uuid(Uuid::from_bytes([number + 100; 16])));
    Exposure {
        secret: Arc::new(secret.clone()),
        offset_encoding: OffsetEncoding::Utf16,
        window_start_offset: 3,
        context: Arc::new(EditContext {
            repository: "xq".to_owned(),
            path: "src/kd.rs".to_owned(),
            language: "rust".to_owned(),
            recent_edits: Vec::new(),
            window: Window { start_byte: 3, first_line: 1, text: "let top_secret = 1;\n".to_owned() },
            cursor_byte: 5,
        }),
        actions: vec![EditAction {
            path: "src/kd.rs".to_owned(),
            range: ByteRange::new(7, 17),
            old_text: "top_secret".to_owned(),
            new_text: "other_secret".to_owned(),
        }],
        receipt: Receipt {
            tenant: TenantId::default(),
            person: secret.person_pseudonym(person),
            session_id: SessionId::from_uuid(Uuid::from_bytes([1; 16])),
            opportunity_id: OpportunityId::from_uuid(Uuid::from_bytes([number; 16])),
            suggestion_id,
            model: "edit".parse().unwrap(),
            model_version: ModelVersion(1),
            rollout_id: None,
            arm: Arm::Current,
            block: None,
            decision: if suggested { Decision::Shown } else { Decision::Silent },
            probabilities: Probabilities {
                arm_probability: 1.0,
                p_show: 0.98,
                log_p_text: -1.0,
                gate_score: 0.9,
                threshold: 0.5,
                explored: false,
            },
            context_digest: Sha256Digest::of(b"context"),
            actions_digest: Sha256Digest::of(b"actions"),
            issued_at: Timestamp::from_seconds(5),
        },
        received_at: Timestamp::from_seconds(6),
        first_action: suggested.then_some(Duration::from_millis(80)),
    }
}

fn publisher(world: &World, attempts: u32) -> Publisher {
    let mut publisher = Publisher::new(Log::Open(Arc::clone(&world.bus)), world.database.clone(), &plain_config());
    publisher.attempts = attempts;
    publisher.retry = Duration::from_millis(1);
    publisher
}

#[tokio::test(flavor = "multi_thread")]
async fn consent_decides_what_leaves() {
    let world = World::new().await;
    let secret = world.secret().await;
    world.consent("open", ConsentTier::Code).await;
    world.consent("closed", ConsentTier::None).await;
    let (queue, receiver) = ExposureQueue::new(10);
    for (number, person) in ["open", "closed", "unasked"].into_iter().enumerate() {
        queue.offer(exposure(&secret, person, number as u8, true));
    }
    let stop = CancellationToken::new();
    let running = tokio::spawn(publisher(&world, 3).run(receiver, stop.clone()));
    queue.settled().await;
    stop.cancel();
    running.await.unwrap();

    let events = world.exposures().await;
    let of = |person: &str| {
        let person = secret.person_pseudonym(person);
        events.iter().find(|event| event.header.person == person).unwrap()
    };
    let open = of("open");
    assert_eq!(open.header.consent, ConsentTier::Code);
    assert_eq!(open.header.receipt_state, ReceiptState::Valid);
    assert_eq!(open.header.sequence, 0);
    assert_eq!(open.header.received_at, Timestamp::from_seconds(6));
    let key = world.keys.data_key(&TenantId::default(), &secret.person_pseudonym("open")).await.unwrap();
    let text = key.open(open.header.event_id, TELEMETRY_RAW, open.sealed.as_ref().unwrap()).unwrap();
    let text: EventText = serde_json::from_slice(&text).unwrap();
    assert_eq!(
        text,
        EventText::Exposure {
            context: EditContext::clone(&exposure(&secret, "open", 0, true).context),
            actions: exposure(&secret, "open", 0, true).actions,
            window_start_offset: 3,
            altered: false,
            first_action_ms: Some(80),
        }
    );

    let closed = of("closed");
    assert_eq!(closed.filtered_at_door.as_deref(), Some("consent_none"));
    assert!(closed.sealed.is_none() && closed.header.receipt.is_none() && closed.header.opportunity_id.is_none());
    let usage = of("unasked");
    assert_eq!(usage.header.consent, ConsentTier::Usage);
    assert!(usage.sealed.is_none() && usage.header.receipt.is_some() && usage.filtered_at_door.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_value_on_the_bus_holds_code_in_clear() {
    let world = World::new().await;
    let secret = world.secret().await;
    let key = DataKey::new(events::KeyId::from_uuid(Uuid::from_bytes([9; 16])), [9; 32]);
    for (consent, key) in [(ConsentTier::Code, Some(&key)), (ConsentTier::Usage, None), (ConsentTier::None, Some(&key))]
    {
        let event = raw_event(&exposure(&secret, "ada", 1, true), consent, key).unwrap();
        assert_eq!(event.sealed.is_some(), consent == ConsentTier::Code);
        let value = events::avro::encode(&event).unwrap();
        for word in [&b"top_secret"[..], b"other_secret", b"ada"] {
            assert!(!value.windows(word.len()).any(|window| window == word), "{consent}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_silence_is_a_duplicate_and_another_suggestion_is_another_event() {
    let world = World::new().await;
    let secret = world.secret().await;
    let silent = exposure(&secret, "ada", 1, false);
    let mut again = exposure(&secret, "ada", 1, false);
    again.context = Arc::new(EditContext { cursor_byte: 9, ..EditContext::clone(&again.context) });
    let header = |exposure: &Exposure| raw_event(exposure, ConsentTier::Usage, None).unwrap().header;
    assert_eq!(header(&silent).event_id, header(&again).event_id);
    assert_eq!(header(&silent).content_digest, header(&again).content_digest);
    let (one, other) = (exposure(&secret, "ada", 1, true), exposure(&secret, "ada", 2, true));
    assert_ne!(header(&one).event_id, header(&other).event_id);
    assert_ne!(header(&one).content_digest, header(&other).content_digest);
    let slower = Exposure { first_action: Some(Duration::from_secs(9)), ..exposure(&secret, "ada", 1, true) };
    assert_eq!(header(&one).content_digest, header(&slower).content_digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_drops_at_once_and_a_database_that_returns_loses_nothing() {
    let world = World::new().await;
    let secret = world.secret().await;
    world.consent("ada", ConsentTier::Code).await;
    world.database.is_down.store(true, Ordering::Release);
    let (queue, receiver) = ExposureQueue::new(2);
    for number in 0..5 {
        queue.offer(exposure(&secret, "ada", number, true));
    }
    assert_eq!(queue.pending(), 2);
    let stop = CancellationToken::new();
    let running = tokio::spawn(publisher(&world, 30).run(receiver, stop.clone()));
    world.database.is_down.store(false, Ordering::Release);
    queue.settled().await;
    stop.cancel();
    running.await.unwrap();
    assert_eq!(world.exposures().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_are_bounded_and_a_stop_does_not_wait_for_ever() {
    let world = World::new().await;
    let secret = world.secret().await;
    world.database.is_down.store(true, Ordering::Release);
    let (queue, receiver) = ExposureQueue::new(10);
    queue.offer(exposure(&secret, "ada", 1, true));
    let stop = CancellationToken::new();
    let running = tokio::spawn(publisher(&world, 3).run(receiver, stop.clone()));
    queue.settled().await;
    stop.cancel();
    running.await.unwrap();

    let (queue, receiver) = ExposureQueue::new(10);
    for number in 0..4 {
        queue.offer(exposure(&secret, "ada", number, true));
    }
    let mut stubborn = publisher(&world, u32::MAX);
    stubborn.retry = Duration::from_secs(3600);
    stubborn.drain = Duration::from_millis(50);
    let stop = CancellationToken::new();
    stop.cancel();
    stubborn.run(receiver, stop).await;
    assert_eq!(queue.pending(), 0);
    assert!(world.exposures().await.is_empty());
}
