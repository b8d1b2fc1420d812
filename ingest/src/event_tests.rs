use events::{Arm, Decision, KeyId, ModelVersion, Probabilities, Sha256Digest};

use super::*;

fn uuid(number: u8) -> uuid::Uuid {
    uuid::Uuid::from_bytes([number; 16])
}

fn sender(secret: &TenantSecret, consent: ConsentTier) -> Sender<'_> {
    Sender {
        tenant: TenantId::default(),
        secret,
        person: secret.person_pseudonym("jane"),
        session_id: SessionId::from_uuid(uuid(1)),
        offset_encoding: OffsetEncoding::Utf8,
        consent,
        received_at: Timestamp::from_seconds(5),
    }
}

fn receipt(secret: &TenantSecret) -> Receipt {
    Receipt {
        tenant: TenantId::default(),
        person: secret.person_pseudonym("jane"),
        session_id: SessionId::from_uuid(uuid(1)),
        opportunity_id: OpportunityId::from_uuid(uuid(2)),
        suggestion_id: Some(SuggestionId::from_uuid(uuid(3))),
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
        issued_at: Timestamp::from_seconds(1),
    }
}

fn shown(suggestion: Option<u8>, receipt: Option<String>) -> ClientEvent {
    ClientEvent {
        sequence: 7,
        monotonic_ms: 1000,
        body: ClientEventBody::SuggestionShown {
            suggestion: SuggestionReference {
                opportunity_id: OpportunityId::from_uuid(uuid(2)),
                suggestion_id: suggestion.map(|number| SuggestionId::from_uuid(uuid(number))),
                receipt,
            },
            actions_visible: 2,
        },
    }
}

fn edit() -> ClientEvent {
    ClientEvent {
        sequence: 8,
        monotonic_ms: 1000,
        body: ClientEventBody::DocumentEdited {
            path: "src/a.rs".into(),
            start: 0,
            end: 0,
            old_text: String::new(),
            new_text: "code".into(),
            origin: Origin::Typed,
            suggestion_id: None,
        },
    }
}

#[test]
fn receipts_hold_only_where_they_belong() {
    let secret = TenantSecret::new([1; 32]);
    let own = receipt(&secret);
    let state = |suggestion, token: Option<String>| {
        let record = sender(&secret, ConsentTier::Usage).record(shown(suggestion, token), None).unwrap();
        assert_eq!(record.header.receipt.is_some(), record.header.receipt_state == ReceiptState::Valid);
        record.header.receipt_state
    };
    assert_eq!(state(Some(3), Some(own.sign(&secret))), ReceiptState::Valid);
    assert_eq!(state(None, Some(own.sign(&secret))), ReceiptState::Valid);
    assert_eq!(state(Some(3), None), ReceiptState::Absent);
    let mut forged = own.sign(&secret);
    forged.replace_range(3..4, if &forged[3..4] == "A" { "B" } else { "A" });
    let invalid = [
        forged,
        String::new(),
        "x".repeat(5000),
        own.sign(&TenantSecret::new([2; 32])),
        Receipt { tenant: "other".parse().unwrap(), ..own.clone() }.sign(&secret),
        Receipt { person: secret.person_pseudonym("john"), ..own.clone() }.sign(&secret),
        Receipt { session_id: SessionId::from_uuid(uuid(9)), ..own.clone() }.sign(&secret),
        Receipt { opportunity_id: OpportunityId::from_uuid(uuid(9)), ..own.clone() }.sign(&secret),
    ];
    for token in invalid {
        assert_eq!(state(Some(3), Some(token)), ReceiptState::Invalid);
    }
    assert_eq!(state(Some(4), Some(own.sign(&secret))), ReceiptState::Invalid);
}

proptest::proptest! {
    /// Whatever a client sends as a receipt: the event is kept, and counts as invalid.
    #[test]
    fn no_text_passes_as_a_receipt_or_makes_it_panic(
        token in "\\PC{0,200}|[A-Za-z0-9_-]{0,300}\\.[A-Za-z0-9_-]{0,60}",
    ) {
        let secret = TenantSecret::new([1; 32]);
        let record = sender(&secret, ConsentTier::Usage).record(shown(Some(3), Some(token)), None).unwrap();
        proptest::prop_assert_eq!(record.header.receipt_state, ReceiptState::Invalid);
        proptest::prop_assert!(record.header.receipt.is_none());
    }
}

#[test]
fn consent_decides_what_is_kept() {
    let secret = TenantSecret::new([1; 32]);
    let key = DataKey::new(KeyId::from_uuid(uuid(5)), [5; 32]);
    let record = |consent| sender(&secret, consent).record(edit(), Some(&key)).unwrap();
    let code = record(ConsentTier::Code);
    let plaintext = key.open(code.header.event_id, topics::TELEMETRY_RAW, code.sealed.as_ref().unwrap()).unwrap();
    let text: EventText = serde_json::from_slice(&plaintext).unwrap();
    assert!(matches!(text, EventText::Edit { new_text, .. } if new_text == "code"));
    let usage = record(ConsentTier::Usage);
    assert!(usage.sealed.is_none() && usage.filtered_at_door.is_none());
    assert_eq!(usage.header.origin, Some(Origin::Typed));
    let stub = record(ConsentTier::None);
    assert_eq!(stub.filtered_at_door.as_deref(), Some(CONSENT_NONE));
    assert!(stub.sealed.is_none() && stub.header.origin.is_none());
    assert_eq!((stub.header.kind, stub.header.monotonic_ms), (EventKind::Unknown, 0));
    // One digest whatever the consent: a retry after a change of mind is still the same event.
    assert_eq!(code.header.content_digest, stub.header.content_digest);
    assert_eq!(code.header.event_id, stub.header.event_id);
}

#[test]
fn the_digest_tells_contents_apart() {
    let secret = TenantSecret::new([1; 32]);
    let digest =
        |event: ClientEvent| sender(&secret, ConsentTier::Code).record(event, None).unwrap().header.content_digest;
    assert_eq!(digest(edit()).len(), 32);
    let mut other = edit();
    other.monotonic_ms += 1;
    assert_ne!(digest(edit()), digest(other));
}
