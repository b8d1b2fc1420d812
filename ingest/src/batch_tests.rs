use proptest::prelude::*;
use serde_json::json;

use super::*;

const SESSION: &str = "0190f3c0-7b5a-7c3e-9d51-6f2f4a1b2c3d";

fn body(events: &str) -> String {
    format!("{{\"person\": \"jane\", \"session_id\": \"{SESSION}\", \"events\": [{events}]}}")
}

fn parsed(body: impl AsRef<[u8]>) -> Result<Batch, BatchError> {
    parse(body.as_ref(), &IngestLimits::default())
}

fn codes(body: impl AsRef<[u8]>) -> Vec<&'static str> {
    let code = |entry: Entry| entry.event.err().map_or("ok", |refusal| refusal.code);
    parsed(body).unwrap().entries.into_iter().map(code).collect()
}

const GOOD: &str = "{\"sequence\": 1, \"monotonic_ms\": 5, \"kind\": \"session_ended\"}";

/// A good edit, but for one field.
fn edit_with(field: &str, value: Value) -> String {
    let mut event = json!({
        "sequence": 1, "monotonic_ms": 5, "kind": "document_edited", "path": "a", "start": 0, "end": 0,
        "old_text": "", "new_text": "", "origin": "typed",
    });
    event[field] = value;
    event.to_string()
}

fn shown(opportunity: &str, actions_visible: u64) -> String {
    json!({
        "kind": "suggestion_shown", "sequence": 1, "monotonic_ms": 1, "opportunity_id": opportunity,
        "actions_visible": actions_visible,
    })
    .to_string()
}

#[test]
fn every_bad_event_has_its_code_and_harms_no_neighbour() {
    let deep = format!(
        "{{\"sequence\": 1, \"monotonic_ms\": 1, \"kind\": \"session_ended\", \"x\": {}{}}}",
        "[".repeat(40),
        "]".repeat(40)
    );
    let cases: Vec<(&str, String)> = vec![
        ("wrong_type", "7".into()),
        ("wrong_type", "null".into()),
        ("wrong_type", "[]".into()),
        ("missing_field", "{}".into()),
        ("wrong_type", "{\"kind\": 5}".into()),
        ("unknown_kind", "{\"kind\": \"teleported\", \"sequence\": 1, \"monotonic_ms\": 1}".into()),
        ("unknown_kind", "{\"kind\": \"exposure\", \"sequence\": 1, \"monotonic_ms\": 1}".into()),
        ("missing_field", "{\"kind\": \"session_ended\", \"monotonic_ms\": 1}".into()),
        ("missing_field", "{\"kind\": \"session_ended\", \"sequence\": 1}".into()),
        ("bad_sequence", "{\"kind\": \"session_ended\", \"sequence\": 0, \"monotonic_ms\": 1}".into()),
        ("wrong_type", "{\"kind\": \"session_ended\", \"sequence\": -1, \"monotonic_ms\": 1}".into()),
        ("wrong_type", "{\"kind\": \"session_ended\", \"sequence\": 1.5, \"monotonic_ms\": 1}".into()),
        ("wrong_type", "{\"kind\": \"session_ended\", \"sequence\": \"1\", \"monotonic_ms\": 1}".into()),
        ("wrong_type", "{\"kind\": \"session_ended\", \"sequence\": 1e400, \"monotonic_ms\": 1}".into()),
        ("out_of_range", "{\"kind\": \"session_ended\", \"sequence\": 9007199254740993, \"monotonic_ms\": 1}".into()),
        ("too_deep", deep),
        ("event_too_large", edit_with("new_text", json!("x".repeat(70_000)))),
        ("unknown_symbol", edit_with("origin", json!("dreamt"))),
        ("unknown_symbol", edit_with("origin", json!("unknown"))),
        ("wrong_type", edit_with("old_text", json!(5))),
        // Half of a surrogate pair: JSON by its grammar, and no text.
        ("wrong_type", edit_with("new_text", json!("#")).replace('#', "\\ud800")),
        ("bad_range", edit_with("start", json!(5))),
        ("range_mismatch", edit_with("end", json!(5))),
        ("nul_character", edit_with("new_text", json!("a\u{0}b"))),
        ("nul_character", edit_with("path", json!("a\u{0}"))),
        ("out_of_range", edit_with("path", json!(""))),
        ("too_long", edit_with("path", json!("p".repeat(1025)))),
        ("wrong_type", shown("x", 1)),
        ("out_of_range", shown(SESSION, 4_294_967_296)),
        (
            "unknown_symbol",
            json!({
                "kind": "region_look", "sequence": 1, "monotonic_ms": 1, "opportunity_id": SESSION,
                "look_delay_s": 31, "path": "a", "text": "",
            })
            .to_string(),
        ),
    ];
    for (code, event) in &cases {
        assert_eq!(codes(body(&format!("{GOOD}, {event}, {GOOD}"))), ["ok", code, "ok"], "{event}");
    }
    let all: Vec<&str> = cases.iter().map(|(_, event)| event.as_str()).collect();
    let expected: Vec<&str> = cases.iter().map(|(code, _)| *code).collect();
    assert_eq!(codes(body(&all.join(","))), expected);
}

#[test]
fn bytes_that_are_no_text_harm_only_the_event_that_holds_them() {
    let good = body(&format!("{GOOD}, {}, {GOOD}", edit_with("new_text", json!("ä#"))));
    for (byte, code) in
        [(0xff, "invalid_utf8"), (0xc3, "invalid_utf8"), (0, "control_character"), (0x1b, "control_character")]
    {
        let bytes: Vec<u8> = good.bytes().map(|known| if known == b'#' { byte } else { known }).collect();
        let batch = parsed(&bytes).unwrap();
        let codes: Vec<_> =
            batch.entries.iter().map(|entry| entry.event.as_ref().err().map(|refusal| refusal.code)).collect();
        assert_eq!(codes, [None, Some(code), None]);
        assert_eq!(batch.entries[1].sequence, Some(1));
    }
    let outside = body(GOOD).replace("jane", "ja#e");
    let bytes: Vec<u8> = outside.bytes().map(|known| if known == b'#' { 0xff } else { known }).collect();
    assert_eq!(parsed(bytes).unwrap_err(), BatchError::InvalidText);
}

#[test]
fn a_batch_is_refused_as_a_whole_when_it_can_not_be_taken_apart() {
    let shape = |body: &str| match parsed(body).unwrap_err() {
        BatchError::Shape { field, .. } => field,
        other => panic!("{other}"),
    };
    for bad in ["", "{", "nonsense", "{\"person\": \"a\"", &body("{"), &body(GOOD).replace('}', "")] {
        assert_eq!(parsed(bad).unwrap_err(), BatchError::InvalidJson, "{bad}");
    }
    assert_eq!(shape("[]"), "");
    assert_eq!(shape("{}"), "person");
    assert_eq!(shape(&body("").replace("\"jane\"", "5")), "person");
    assert_eq!(shape(&body("").replace("jane", "")), "person");
    assert_eq!(shape(&body("").replace("jane", "a\\u0000")), "person");
    assert_eq!(shape(&body("").replace(SESSION, "x")), "session_id");
    assert_eq!(shape(&body("").replace("[]", "5")), "events");
    assert_eq!(shape(&body("").replacen('{', "{\"offset_encoding\": \"utf7\",", 1)), "offset_encoding");
    let many = [GOOD; 1001].join(",");
    assert_eq!(parsed(body(&many)).unwrap_err(), BatchError::TooManyEvents { count: 1001, limit: 1000 });
}

#[test]
fn unknown_fields_are_dropped_and_counted() {
    let event = GOOD.replacen('{', "{\"colour\": \"red\", \"nested\": {\"a\": [1, 2]},", 1);
    let batch = parsed(body(&event).replacen('{', "{\"editor\": \"vi\",", 1)).unwrap();
    assert_eq!(batch.unknown_fields, 3);
    let plain = parsed(body(GOOD)).unwrap();
    assert_eq!(batch.entries[0].event, plain.entries[0].event);
    // A field of another kind of event is unknown here.
    let batch = parsed(body(&GOOD.replacen('{', "{\"path\": \"a\",", 1))).unwrap();
    assert_eq!(batch.unknown_fields, 1);
}

#[test]
fn optional_fields_may_be_null() {
    let event = json!({
        "sequence": 1, "monotonic_ms": 5, "kind": "document_edited", "path": "a", "start": 0, "end": 2,
        "old_text": "🦀", "new_text": "", "origin": "undo", "suggestion_id": null,
    })
    .to_string();
    let utf16 = body(&event).replacen('{', "{\"offset_encoding\": \"utf16\",", 1);
    assert_eq!(codes(utf16), ["ok"]);
    assert_eq!(codes(body(&event)), ["range_mismatch"]);
}

fn event_by_number(kind: u8, number: usize) -> String {
    match kind {
        0 => format!("{{\"sequence\": {number}, \"monotonic_ms\": 5, \"kind\": \"session_ended\"}}"),
        1 => format!("{{\"sequence\": {number}, \"monotonic_ms\": 5, \"kind\": \"dreamt\"}}"),
        2 => format!("{{\"sequence\": {number}, \"kind\": \"session_ended\"}}"),
        3 => format!("{{\"monotonic_ms\": {number}, \"sequence\": {number}, \"kind\": [[]]}}"),
        _ => format!("\"{number}\""),
    }
}

proptest! {
    #[test]
    fn every_event_has_one_entry_in_its_place(kinds in prop::collection::vec(0_u8..5, 0..50)) {
        let events: Vec<String> =
            kinds.iter().zip(1..).map(|(kind, number)| event_by_number(*kind, number)).collect();
        let batch = parsed(body(&events.join(","))).unwrap();
        prop_assert_eq!(batch.entries.len(), kinds.len());
        for ((entry, kind), number) in batch.entries.iter().zip(&kinds).zip(1..) {
            prop_assert_eq!(entry.event.is_ok(), *kind == 0);
            prop_assert_eq!(entry.sequence, (*kind < 4).then_some(number));
        }
    }

    #[test]
    fn no_body_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parsed(bytes);
    }

    #[test]
    fn no_damage_to_one_event_reaches_another(place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let event = edit_with("new_text", json!("abc"));
        let whole = body(&format!("{GOOD}, {event}, {GOOD}"));
        let start = whole.find(&event).unwrap();
        let mut bytes = whole.into_bytes();
        bytes[start + place.index(event.len())] = byte;
        // Either the batch can not be taken apart any more, or its neighbours are as before.
        if let Ok(batch) = parsed(&bytes) && batch.entries.len() == 3 {
            prop_assert!(batch.entries[0].event.is_ok() && batch.entries[2].event.is_ok());
        }
    }
}
