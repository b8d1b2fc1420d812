use events::{Arm, Decision, ModelVersion, Probabilities, SuggestionId, TenantId, TenantSecret, Timestamp};
use service::ids::SeededIds;
use uuid::Uuid;

use super::*;

fn ids() -> SeededIds {
    SeededIds::new(1, Timestamp::from_seconds(1_700_000_000))
}

fn caller(number: u8) -> Caller {
    Some(Sha256Digest::of(&[number]))
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

fn completion(session_id: SessionId, caller: Caller, answered: Instant) -> Remembered {
    let receipt = Receipt {
        tenant: TenantId::default(),
        person: TenantSecret::new([7; 32]).person_pseudonym("someone"),
        session_id,
        opportunity_id: OpportunityId::from_uuid(Uuid::from_bytes([3; 16])),
        suggestion_id: Some(SuggestionId::from_uuid(Uuid::from_bytes([2; 16]))),
        model: "upstream".parse().unwrap(),
        model_version: ModelVersion(0),
        rollout_id: None,
        arm: Arm::Current,
        block: None,
        decision: Decision::Shown,
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
    Remembered { receipt: Arc::new(receipt), caller, place: None, answered, viewed: None }
}

#[test]
fn a_session_ends_after_half_an_hour_of_quiet_or_a_day() {
    let (mut memory, ids, start) = (Memory::new(8), ids(), Instant::now());
    let first = memory.session(caller(1), start, &ids);
    assert_eq!(memory.session(caller(1), start + seconds(1799), &ids), first);
    assert_ne!(memory.session(caller(2), start + seconds(1799), &ids), first);
    assert_ne!(memory.session(None, start, &ids), first);
    assert_ne!(memory.session(caller(1), start + seconds(1799 + 1800), &ids), first);

    let mut now = start + seconds(4000);
    let long = memory.session(caller(3), now, &ids);
    for _ in 0..86 {
        now += seconds(1000);
        assert_eq!(memory.session(caller(3), now, &ids), long);
    }
    assert_ne!(memory.session(caller(3), now + seconds(400), &ids), long);
}

#[test]
fn a_signal_keeps_its_session_alive() {
    let (mut memory, ids, start) = (Memory::new(8), ids(), Instant::now());
    let session = memory.session(caller(1), start, &ids);
    memory.remember("a".to_owned(), completion(session, caller(1), start + seconds(10)));
    assert!(memory.recall("a", &caller(1), start + seconds(600)).is_some());
    assert_eq!(memory.session(caller(1), start + seconds(600 + 1799), &ids), session);
}

#[test]
fn asking_again_at_a_place_is_the_same_decision_until_something_is_taken_there() {
    let (mut memory, ids, start) = (Memory::new(8), ids(), Instant::now());
    let place = Sha256Digest::of(b"place");
    let first = memory.opportunity(Some(place), start, &ids);
    assert_eq!(memory.opportunity(Some(place), start + seconds(9), &ids), first);
    assert_eq!(memory.opportunity(Some(place), start + seconds(18), &ids), first);
    let second = memory.opportunity(Some(place), start + seconds(28), &ids);
    assert_ne!(second, first);
    assert_ne!(memory.opportunity(Some(Sha256Digest::of(b"elsewhere")), start + seconds(28), &ids), second);
    memory.decided(&place);
    assert_ne!(memory.opportunity(Some(place), start + seconds(29), &ids), second);
    assert_ne!(memory.opportunity(None, start, &ids), memory.opportunity(None, start, &ids));
}

#[test]
fn a_completion_is_known_to_its_client_for_ten_minutes() {
    let (mut memory, ids, start) = (Memory::new(8), ids(), Instant::now());
    let session = memory.session(caller(1), start, &ids);
    memory.remember("a".to_owned(), completion(session, caller(1), start));
    memory.viewed("a", start + seconds(1));
    memory.viewed("a", start + seconds(2));
    let recalled = memory.recall("a", &caller(1), start + seconds(599)).unwrap();
    assert_eq!(recalled.viewed, Some(start + seconds(1)));
    for (id, caller) in [("a", caller(2)), ("a", None), ("b", caller(1))] {
        assert!(memory.recall(id, &caller, start).is_none());
    }
    assert!(memory.recall("a", &caller(1), start + seconds(600)).is_none());
    assert!(memory.recall("a", &caller(1), start).is_none(), "what is over is forgotten");
}

#[test]
fn completions_are_bounded() {
    let (mut memory, ids, start) = (Memory::new(8), ids(), Instant::now());
    let session = memory.session(None, start, &ids);
    for number in 0..1000 {
        memory.remember(number.to_string(), completion(session, None, start));
    }
    let known = (0..1000).filter(|number: &u32| memory.recall(&number.to_string(), &None, start).is_some());
    assert!((1..=8).contains(&known.count()));
}

#[test]
fn numbers_are_used_up_only_by_what_goes_on() {
    let (mut memory, ids, start) = (Memory::new(8), ids(), Instant::now());
    let session = memory.session(None, start, &ids);
    assert_eq!((memory.number(session), memory.number(session)), (Some(1), Some(1)));
    memory.count(session);
    assert_eq!(memory.session(None, start, &ids), session);
    assert_eq!(memory.number(session), Some(2));
    assert_eq!(memory.number(SessionId::new(&ids)), None);
}
