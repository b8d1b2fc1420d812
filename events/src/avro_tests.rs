use super::*;
use crate::*;

fn uuid(byte: u8) -> uuid::Uuid {
    uuid::Uuid::from_bytes([byte; 16])
}

fn receipt() -> Receipt {
    Receipt {
        tenant: TenantId::default(),
        person: "00112233445566778899aabbccddeeff".parse().unwrap(),
        opportunity_id: OpportunityId::from_uuid(uuid(1)),
        suggestion_id: Some(SuggestionId::from_uuid(uuid(2))),
        model: "edit".parse().unwrap(),
        model_version: ModelVersion(3),
        rollout_id: Some(RolloutId::from_uuid(uuid(3))),
        arm: Arm::Canary,
        block: Some(2),
        decision: Decision::Shown,
        probabilities: Probabilities {
            arm_probability: 0.4,
            p_show: 0.98,
            log_p_text: -0.25,
            gate_score: 0.75,
            threshold: 0.5,
            explored: false,
        },
        context_digest: Sha256Digest::of(b"context"),
        actions_digest: Sha256Digest::of(b"actions"),
        issued_at: Timestamp::from_seconds(1_800_000_000),
    }
}

fn header() -> EventHeader {
    EventHeader {
        event_id: EventId::from_uuid(uuid(4)),
        tenant: TenantId::default(),
        person: receipt().person,
        session_id: SessionId::from_uuid(uuid(5)),
        sequence: 7,
        kind: EventKind::SuggestionAccepted,
        consent: ConsentTier::Code,
        received_at: Timestamp::from_seconds(1_800_000_001),
        monotonic_ms: 1234,
        opportunity_id: Some(receipt().opportunity_id),
        suggestion_id: receipt().suggestion_id,
        action_index: Some(0),
        actions_visible: None,
        accepted_length: Some(12),
        visible_ms: None,
        look_delay_s: None,
        origin: Some(Origin::Typed),
        offset_encoding: OffsetEncoding::Utf16,
        receipt_state: ReceiptState::Valid,
        receipt: Some(receipt()),
        content_digest: "00".repeat(16),
    }
}

fn raw() -> RawEvent {
    let key = DataKey::new(KeyId::from_uuid(uuid(6)), [1; 32]);
    RawEvent {
        header: header(),
        filtered_at_door: None,
        sealed: Some(key.seal(header().event_id, "telemetry.raw.v1", b"{}")),
    }
}

fn pair() -> PreferencePair {
    let pair_id = PairId::derive(&TenantId::default(), receipt().opportunity_id, None, -1, "missed", 1);
    PreferencePair {
        pair_id,
        tenant: TenantId::default(),
        person: receipt().person,
        session_id: header().session_id,
        opportunity_id: receipt().opportunity_id,
        suggestion_id: None,
        action_index: -1,
        reason: PairReason::Missed,
        label_policy_version: 1,
        weight: 0.5,
        divergence: Some(DivergencePoint { action_index: 0, byte: 3 }),
        audience: "repository:a".parse().unwrap(),
        repository: "a".to_owned(),
        language: "rust".to_owned(),
        model: receipt().model,
        model_version: ModelVersion(1),
        probabilities: receipt().probabilities,
        altered: false,
        opened_at: Timestamp::from_seconds(1),
        labeled_at: Timestamp::from_seconds(2),
        last_signal_at: Timestamp::from_seconds(2),
        event_id: PreferencePair::event_id_of(pair_id),
        content_digest: Sha256Digest::of(b""),
        sealed: None,
    }
}

fn outcome() -> OpportunityOutcome {
    OpportunityOutcome {
        opportunity_id: receipt().opportunity_id,
        suggestion_id: None,
        tenant: TenantId::default(),
        person: receipt().person,
        model: receipt().model,
        model_version: ModelVersion(1),
        rollout_id: None,
        arm: Arm::Holdback,
        block: None,
        decision: Decision::Silent,
        signal: Signal::NotShown,
        utility: 0.0,
        shown: false,
        accepted: false,
        kept_characters: 0,
        censored: false,
        exposure_missing: false,
        explored: false,
        repository: "a".to_owned(),
        exposed_at: Timestamp::from_seconds(1),
        closed_at: Timestamp::from_seconds(2),
    }
}

fn round_trip<T: AvroRecord + PartialEq + std::fmt::Debug>(value: &T) {
    let bytes = encode(value).unwrap();
    assert_eq!(&decode::<T>(&bytes).unwrap(), value);
    assert!(matches!(decode::<T>(&bytes[..9]), Err(AvroError::NoHeader)));
    assert!(decode::<T>(&bytes[..bytes.len() - 1]).is_err());
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(matches!(decode::<T>(&longer), Err(AvroError::TrailingBytes { count: 1, .. })));
    let mut newer = bytes;
    newer[4] ^= 0xFF;
    assert!(matches!(decode::<T>(&newer), Err(AvroError::UnknownFingerprint(_))));
}

#[test]
fn every_record_round_trips_and_refuses_damage() {
    round_trip(&raw());
    round_trip(&CleanEvent::filtered(header(), "session_ended"));
    round_trip(&QuarantinedEvent { header: header(), reason: "undecodable".to_owned(), sealed: raw().sealed });
    round_trip(&pair());
    round_trip(&outcome());
    round_trip(&FlywheelEvent {
        event_id: header().event_id,
        tenant: TenantId::default(),
        at: Timestamp::from_seconds(3),
        kind: "run_succeeded".to_owned(),
        subject: "run".to_owned(),
        detail: "{}".to_owned(),
    });
}

#[test]
fn every_schema_in_the_folder_parses() {
    assert_eq!(RawEvent::schemas().len(), 1);
    assert_eq!(CleanEvent::schemas().len(), 1);
    assert_eq!(QuarantinedEvent::schemas().len(), 1);
    assert_eq!(PreferencePair::schemas().len(), 1);
    assert_eq!(OpportunityOutcome::schemas().len(), 1);
    assert_eq!(FlywheelEvent::schemas().len(), 1);
}

/// A later release adds an optional field and a symbol; this release must read it, and it must read this release.
#[test]
fn schema_versions_read_each_other() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct NewerFlywheelEvent {
        event_id: EventId,
        tenant: TenantId,
        at: Timestamp,
        kind: String,
        subject: String,
        detail: String,
        #[serde(default)]
        severity: Option<String>,
    }
    let newer_schema: Schema = include_str!("../schemas/flywheel_event.v1.avsc")
        .replace(
            "\"name\": \"detail\",",
            "\"name\": \"severity\", \"type\": [\"null\", \"string\"], \"default\": null }, { \"name\": \"detail\",",
        )
        .parse()
        .unwrap();
    let newer = NewerFlywheelEvent {
        event_id: header().event_id,
        tenant: TenantId::default(),
        at: Timestamp::from_seconds(3),
        kind: "k".to_owned(),
        subject: "s".to_owned(),
        detail: "{}".to_owned(),
        severity: Some("high".to_owned()),
    };
    let bytes = serde_avro_fast::to_single_object_vec(&newer, &mut SerializerConfig::new(&newer_schema)).unwrap();
    let schemas = vec![include_str!("../schemas/flywheel_event.v1.avsc").parse().unwrap(), newer_schema];
    let read: FlywheelEvent = decode_with(&bytes, &schemas, "flywheel.FlywheelEvent").unwrap();
    assert_eq!(read.kind, "k");
    let written_by_us = encode(&read).unwrap();
    let read_by_newer: NewerFlywheelEvent = decode_with(&written_by_us, &schemas, "flywheel.FlywheelEvent").unwrap();
    assert_eq!(read_by_newer.severity, None);
}

#[test]
fn a_symbol_of_a_newer_writer_becomes_unknown() {
    #[derive(serde::Serialize)]
    struct Newer {
        kind: &'static str,
    }
    #[derive(serde::Deserialize)]
    struct Older {
        kind: EventKind,
    }
    let schema: Schema = r#"{"type":"record","name":"R","fields":[{"name":"kind","type":{"type":"enum","name":"EventKind","symbols":["exposure","teleported","unknown"],"default":"unknown"}}]}"#
        .parse()
        .unwrap();
    let bytes =
        serde_avro_fast::to_datum_vec(&Newer { kind: "teleported" }, &mut SerializerConfig::new(&schema)).unwrap();
    let read: Older = serde_avro_fast::from_datum_slice(&bytes, &schema).unwrap();
    assert_eq!(read.kind, EventKind::Unknown);
}
