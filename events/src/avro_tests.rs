use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::*;
use crate::*;

fn uuid(byte: u8) -> uuid::Uuid {
    uuid::Uuid::from_bytes([byte; 16])
}

fn receipt() -> Receipt {
    Receipt {
        tenant: TenantId::default(),
        person: "00112233445566778899aabbccddeeff".parse().unwrap(),
        session_id: SessionId::from_uuid(uuid(5)),
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
        session_id: receipt().session_id,
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
        off_policy: false,
        opened_at: Timestamp::from_seconds(1),
        labeled_at: Timestamp::from_seconds(2),
        last_signal_at: Timestamp::from_seconds(2),
        event_id: PreferencePair::event_id_of(pair_id),
        content_digest: Sha256Digest::of(b""),
        sealed: None,
    }
}

fn off_policy() -> PreferencePair {
    PreferencePair { off_policy: true, ..pair() }
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
        detail: None,
    }
}

fn detailed() -> OpportunityOutcome {
    let detail = OutcomeDetail {
        language: "rust".to_owned(),
        pattern: Some(EditPattern::Replace),
        first_action_ms: Some(120),
        standing_30_s_permille: Some(1000),
        standing_120_s_permille: Some(500),
        standing_300_s_permille: None,
    };
    OpportunityOutcome { detail: Some(detail), ..outcome() }
}

fn happened() -> FlywheelEvent {
    FlywheelEvent {
        event_id: header().event_id,
        tenant: TenantId::default(),
        at: Timestamp::from_seconds(3),
        kind: "run_succeeded".to_owned(),
        subject: "run".to_owned(),
        detail: "{}".to_owned(),
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
    round_trip(&off_policy());
    round_trip(&outcome());
    round_trip(&detailed());
    round_trip(&happened());
}

#[test]
fn every_schema_in_the_folder_parses() {
    assert_eq!(RawEvent::schemas().len(), 1);
    assert_eq!(CleanEvent::schemas().len(), 1);
    assert_eq!(QuarantinedEvent::schemas().len(), 1);
    assert_eq!(PreferencePair::schemas().len(), 2);
    assert_eq!(OpportunityOutcome::schemas().len(), 2);
    assert_eq!(FlywheelEvent::schemas().len(), 1);
}

const SCHEMA_TEXTS: [&str; 8] = [
    include_str!("../schemas/raw_event.v1.avsc"),
    include_str!("../schemas/clean_event.v1.avsc"),
    include_str!("../schemas/quarantined_event.v1.avsc"),
    include_str!("../schemas/preference_pair.v1.avsc"),
    include_str!("../schemas/opportunity_outcome.v1.avsc"),
    include_str!("../schemas/flywheel_event.v1.avsc"),
    include_str!("../schemas/preference_pair.v2.avsc"),
    include_str!("../schemas/opportunity_outcome.v2.avsc"),
];

/// Calls `visit` with every schema inside `schema`, itself included, outermost first.
fn walk(schema: &mut Value, visit: &mut impl FnMut(&mut Map<String, Value>)) {
    match schema {
        Value::Array(branches) => branches.iter_mut().for_each(|branch| walk(branch, visit)),
        Value::Object(object) => {
            visit(object);
            for inner in object.get_mut("type").into_iter().filter(|inner| !inner.is_string()) {
                walk(inner, visit);
            }
            for field in object.get_mut("fields").and_then(Value::as_array_mut).into_iter().flatten() {
                walk(&mut field["type"], visit);
            }
        }
        _ => {}
    }
}

#[test]
fn every_enum_of_every_schema_has_our_symbols_and_defaults_to_unknown() {
    fn symbols<T: Copy>(all: &[T], text: impl Fn(T) -> &'static str) -> Value {
        all.iter().map(|symbol| text(*symbol)).chain(["unknown"]).collect::<Vec<_>>().into()
    }
    let known = |name: &str| match name {
        "EventKind" => symbols(EventKind::ALL, EventKind::as_str),
        "Origin" => symbols(Origin::ALL, Origin::as_str),
        "ConsentTier" => symbols(ConsentTier::ALL, ConsentTier::as_str),
        "Decision" => symbols(Decision::ALL, Decision::as_str),
        "Arm" => symbols(Arm::ALL, Arm::as_str),
        "Signal" => symbols(Signal::ALL, Signal::as_str),
        "Disposition" => symbols(Disposition::ALL, Disposition::as_str),
        "ReceiptState" => symbols(ReceiptState::ALL, ReceiptState::as_str),
        "PairReason" => symbols(PairReason::ALL, PairReason::as_str),
        "EditPattern" => symbols(EditPattern::ALL, EditPattern::as_str),
        "OffsetEncoding" => json!(["utf8", "utf16", "unknown"]),
        other => panic!("{other}"),
    };
    let mut seen = BTreeSet::new();
    for text in SCHEMA_TEXTS {
        walk(&mut serde_json::from_str(text).unwrap(), &mut |schema| {
            if schema["type"] == "enum" {
                let name = schema["name"].as_str().unwrap();
                assert_eq!(schema["symbols"], known(name), "{name}");
                assert_eq!(schema["default"], "unknown", "{name}");
                seen.insert(name.to_owned());
            }
        });
    }
    assert_eq!(seen.len(), 11, "{seen:?}");
}

/// Stored in logs and lakes for ever: a change here is a schema that no release can read any more. Add a schema instead.
#[test]
fn written_bytes_are_final() {
    fn line<T: AvroRecord>(value: &T) -> String {
        format!("{} {}", T::NAME, hex::encode(encode(value).unwrap()))
    }
    let notice = CleanEvent::filtered(header(), "late");
    let quarantined = QuarantinedEvent { header: header(), reason: "undecodable".to_owned(), sealed: raw().sealed };
    let lines = [
        line(&raw()),
        line(&notice),
        line(&quarantined),
        line(&pair()),
        line(&outcome()),
        line(&happened()),
        line(&off_policy()),
        line(&detailed()),
    ];
    insta::assert_snapshot!(lines.join("\n"));
}

/// What another release makes of a schema and of a value written with it.
#[derive(Clone, Copy, PartialEq)]
enum Release {
    /// It has one more optional field in every record.
    WithFields,
    /// It has one more symbol in every enum as well, and uses it.
    WithSymbols,
    /// It does not have the fields that have a default.
    Older,
}

fn schema_of(text: &str, release: Release) -> Value {
    let mut schema = serde_json::from_str(text).unwrap();
    walk(&mut schema, &mut |schema| match release {
        Release::Older => {
            if let Some(fields) = schema.get_mut("fields").and_then(Value::as_array_mut) {
                fields.retain(|field| field.get("default").is_none());
            }
        }
        Release::WithFields | Release::WithSymbols => {
            if let Some(fields) = schema.get_mut("fields").and_then(Value::as_array_mut) {
                fields.insert(0, json!({ "name": "added_later", "type": ["null", "string"], "default": null }));
            }
            if let Some(symbols) = schema.get_mut("symbols").and_then(Value::as_array_mut) {
                symbols.insert(0, json!("added_later"));
            }
        }
    });
    schema
}

/// Turns a value of ours into what the other release writes, and `expected` into what we must read of it. `schema` is ours.
fn rewrite(
    schema: &Value,
    named: &mut BTreeMap<String, Value>,
    release: Release,
    written: &mut Value,
    expected: &mut Value,
) {
    match schema {
        Value::String(name) if name == "bytes" => {
            let bytes: Vec<u8> = serde_json::from_value(written.take()).unwrap();
            *written = String::from_utf8(bytes).unwrap().into();
        }
        Value::String(name) => {
            if let Some(schema) = named.get(name).cloned() {
                rewrite(&schema, named, release, written, expected);
            }
        }
        Value::Array(branches) if !written.is_null() => {
            let branch = branches.iter().find(|branch| *branch != "null").unwrap();
            rewrite(branch, named, release, written, expected);
        }
        Value::Object(object) => {
            if let Some(name) = object.get("name") {
                named.insert(name.as_str().unwrap().to_owned(), schema.clone());
            }
            match object["type"].as_str() {
                Some("enum") if release == Release::WithSymbols => {
                    *written = "added_later".into();
                    *expected = "unknown".into();
                }
                Some("record") => {
                    for field in object["fields"].as_array().unwrap() {
                        let name = field["name"].as_str().unwrap();
                        if release == Release::Older && field.get("default").is_some() {
                            written.as_object_mut().unwrap().remove(name);
                            if field["default"].is_null() {
                                expected[name] = Value::Null;
                            } else {
                                // What has its default is left out.
                                expected.as_object_mut().unwrap().remove(name);
                            }
                        } else {
                            rewrite(&field["type"], named, release, &mut written[name], &mut expected[name]);
                        }
                    }
                    if release != Release::Older {
                        written["added_later"] = "something".into();
                    }
                }
                _ => {}
            }
        }
        _ => {}
    }
}

/// What is absent may be left out or be null.
fn without_absent(mut value: Value) -> Value {
    if let Value::Object(fields) = &mut value {
        fields.retain(|_, field| !field.is_null());
        fields.values_mut().for_each(|field| *field = without_absent(field.take()));
    }
    value
}

fn reads_other_releases<T: AvroRecord + PartialEq + std::fmt::Debug>(value: &T, text: &str) {
    for release in [Release::WithFields, Release::WithSymbols, Release::Older] {
        let ours: Value = serde_json::from_str(text).unwrap();
        let theirs: Schema = schema_of(text, release).to_string().parse().unwrap();
        let mut written = serde_json::to_value(value).unwrap();
        let mut expected = written.clone();
        rewrite(&ours, &mut BTreeMap::new(), release, &mut written, &mut expected);
        let bytes = serde_avro_fast::to_single_object_vec(&written, &mut SerializerConfig::new(&theirs)).unwrap();
        let is_new = theirs.rabin_fingerprint() != T::schemas()[0].rabin_fingerprint();
        assert!(is_new || release == Release::Older, "{}", T::NAME);
        assert_eq!(is_new, matches!(decode::<T>(&bytes), Err(AvroError::UnknownFingerprint(_))), "{}", T::NAME);
        let schemas = [text.parse().unwrap(), theirs];
        let read: T = decode_with(&bytes, &schemas, T::NAME).unwrap();
        let read_value = serde_json::to_value(&read).unwrap();
        assert_eq!(without_absent(read_value), without_absent(expected), "{}", T::NAME);
        if release == Release::WithFields {
            assert_eq!(&read, value);
        }
    }
}

#[test]
fn schema_versions_read_each_other() {
    // Bytes that are text, because JSON carries them here.
    let sealed = || Some(Sealed { key_id: KeyId::from_uuid(uuid(6)), ciphertext: b"sealed".to_vec() });
    reads_other_releases(&RawEvent { sealed: sealed(), ..raw() }, SCHEMA_TEXTS[0]);
    let clean = CleanEvent { sealed: sealed(), ..CleanEvent::filtered(header(), "late") };
    reads_other_releases(&clean, SCHEMA_TEXTS[1]);
    let quarantined = QuarantinedEvent { header: header(), reason: "undecodable".to_owned(), sealed: sealed() };
    reads_other_releases(&quarantined, SCHEMA_TEXTS[2]);
    reads_other_releases(&PreferencePair { sealed: sealed(), ..pair() }, SCHEMA_TEXTS[3]);
    reads_other_releases(&outcome(), SCHEMA_TEXTS[4]);
    reads_other_releases(&happened(), SCHEMA_TEXTS[5]);
    reads_other_releases(&PreferencePair { sealed: sealed(), ..off_policy() }, SCHEMA_TEXTS[6]);
    reads_other_releases(&detailed(), SCHEMA_TEXTS[7]);
}

#[test]
fn a_release_before_reads_every_pair_that_is_on_policy() {
    let fingerprint = |value: &PreferencePair| encode(value).unwrap()[2..10].to_vec();
    let [before, now] = PreferencePair::schemas() else { panic!("two schemas") };
    assert_eq!(fingerprint(&pair()), before.rabin_fingerprint());
    assert_eq!(fingerprint(&off_policy()), now.rabin_fingerprint());
    let of_before = &PreferencePair::schemas()[..1];
    let read: PreferencePair = decode_with(&encode(&pair()).unwrap(), of_before, "flywheel.PreferencePair").unwrap();
    assert_eq!(read, pair());
}

#[test]
fn a_release_before_reads_every_outcome_without_detail() {
    let fingerprint = |value: &OpportunityOutcome| encode(value).unwrap()[2..10].to_vec();
    let [before, now] = OpportunityOutcome::schemas() else { panic!("two schemas") };
    assert_eq!(fingerprint(&outcome()), before.rabin_fingerprint());
    assert_eq!(fingerprint(&detailed()), now.rabin_fingerprint());
    let of_before = &OpportunityOutcome::schemas()[..1];
    let bytes = encode(&outcome()).unwrap();
    let read: OpportunityOutcome = decode_with(&bytes, of_before, "flywheel.OpportunityOutcome").unwrap();
    assert_eq!(read, outcome());
}
