//! What a broken or hostile editor meets.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{Running, SESSION, batch, edit, problem};

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_body_has_its_problem_and_the_door_stays_open() {
    let door = Running::start().await;
    let tiny: Vec<Value> =
        (1..=10_000).map(|number| json!({ "sequence": number, "monotonic_ms": 0, "kind": "session_ended" })).collect();
    let mut not_utf8 = batch("ja#e", json!([])).into_bytes();
    not_utf8.iter_mut().filter(|byte| **byte == b'#').for_each(|byte| *byte = 0xff);
    let table: Vec<(&str, Vec<u8>, (u16, &str))> = vec![
        ("empty", vec![], (400, "invalid_json")),
        ("cut off", batch("jane", json!([edit(1, "a")])).into_bytes()[..40].to_vec(), (400, "invalid_json")),
        ("no JSON", b"\x00\x01\x02".to_vec(), (400, "invalid_json")),
        ("not UTF-8", not_utf8, (400, "invalid_text")),
        ("an array", b"[]".to_vec(), (422, "invalid_shape")),
        ("no person", json!({ "session_id": SESSION, "events": [] }).to_string().into_bytes(), (422, "invalid_shape")),
        ("long person", batch(&"j".repeat(257), json!([])).into_bytes(), (422, "invalid_shape")),
        (
            "events of another type",
            json!({ "person": "a", "session_id": SESSION, "events": 5 }).to_string().into_bytes(),
            (422, "invalid_shape"),
        ),
        ("10,000 tiny events", batch("jane", json!(tiny)).into_bytes(), (413, "too_many_events")),
        ("a huge body", vec![b' '; (1 << 20) + 1], (413, "too_large")),
        ("a deep body", "[".repeat(500_000).into_bytes(), (422, "invalid_shape")),
    ];
    for (name, body, expected) in table {
        let (status, code) = door.problem(body).await;
        assert_eq!((status, code.as_str()), expected, "{name}");
        let good = door.results(batch("jane", json!([edit(1, "a")]))).await;
        assert_eq!(good, [("admitted".to_owned(), None)], "after {name}");
    }
    let response = door.http.post(&door.url).bearer_auth(&door.key).body("{}").send().await.unwrap();
    assert_eq!(problem(response).await, (415, "unsupported_media_type".into()));
    let response = door.http.get(&door.url).send().await.unwrap();
    assert_eq!(problem(response).await, (405, "method_not_allowed".into()));
    door.stop().await;
}

/// Fields that the doors of this process dropped so far.
fn unknown_fields() -> u64 {
    service::metrics::install().unwrap().counter("flywheel_ingest_unknown_fields_total", &[])
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_are_dropped_and_counted() {
    let before = unknown_fields();
    let door = Running::start().await;
    let mut event = edit(1, "a");
    for number in 0..1000 {
        event[format!("later_{number}")] = json!(number);
    }
    let mut body: Value = serde_json::from_str(&batch("jane", json!([event]))).unwrap();
    body["editor"] = json!({ "name": "vi" });
    assert_eq!(door.results(body.to_string()).await, [("admitted".to_owned(), None)]);
    // Other tests of this process may send some as well.
    assert!(unknown_fields() - before >= 1001);
    door.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_tiny_events_in_batches_are_all_admitted() {
    let door = Running::start().await;
    for first in (0..10_000).step_by(1000) {
        let events: Vec<Value> = (first + 1..=first + 1000)
            .map(|number| {
                json!({
                    "sequence": number, "monotonic_ms": number, "kind": "suggestion_hidden",
                    "opportunity_id": SESSION, "visible_ms": 1,
                })
            })
            .collect();
        let results = door.results(batch("jane", json!(events))).await;
        assert!(results.iter().all(|(status, _)| status == "admitted") && results.len() == 1000);
    }
    let raw = door.raw().await;
    assert_eq!(raw.len(), 10_000);
    assert!(raw.iter().zip(1..).all(|(event, number)| event.header.sequence == number));
    door.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_events_are_refused_in_place() {
    let door = Running::start().await;
    let mut body = batch(
        "jane",
        json!([
            edit(1, "a"), 5, edit(2, "#"), edit(3, "a\u{0}b"), { "kind": "teleported", "sequence": 4 },
            edit(5, &"x".repeat(70_000)), edit(6, "b"),
        ]),
    )
    .into_bytes();
    body.iter_mut().filter(|byte| **byte == b'#').for_each(|byte| *byte = 0xfe);
    let results = door.results(body).await;
    let codes: Vec<_> = results.iter().map(|(_, code)| code.as_deref().unwrap_or("admitted")).collect();
    assert_eq!(
        codes,
        ["admitted", "wrong_type", "invalid_utf8", "nul_character", "unknown_kind", "event_too_large", "admitted"]
    );
    assert_eq!(door.raw().await.len(), 2);
    door.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_crowding_clients_are_bounded() {
    let door = Running::with(|config| {
        config.limits.in_flight_requests = 1;
        config.body_timeout_ms = 1_500;
    })
    .await;
    let address = door.url.trim_start_matches("http://").split('/').next().unwrap().to_owned();
    let head = format!(
        "POST /v1/telemetry HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: 100\r\n\r\n{{",
        door.key
    );
    let crowded = || async {
        loop {
            let response = door.send(batch("jane", json!([]))).await;
            if response.status() == 503 {
                return problem(response).await;
            }
        }
    };
    let entered = async {
        loop {
            let mut slow = tokio::net::TcpStream::connect(&address).await.unwrap();
            slow.write_all(head.as_bytes()).await.unwrap();
            let mut answer = [0; 1];
            tokio::select! {
                // Once the slow one is inside, nobody else is.
                refused = crowded() => return (slow, refused),
                // One of the crowd was inside just then: the slow one tries again.
                _ = slow.read(&mut answer) => {}
            }
        }
    };
    let (mut slow, refused) = tokio::time::timeout(Duration::from_secs(60), entered).await.unwrap();
    assert_eq!(refused, (503, "busy".into()));
    let mut answer = vec![0; 4096];
    let count = tokio::time::timeout(Duration::from_secs(30), slow.read(&mut answer)).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&answer[..count]).starts_with("HTTP/1.1 408"));
    assert_eq!(door.results(batch("jane", json!([edit(1, "a")]))).await, [("admitted".to_owned(), None)]);
    door.stop().await;
}

/// A client that sends before it listens gets its answer also when nobody wanted what it sends.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_arrives_although_the_body_was_not_wanted() {
    let door = Running::start().await;
    let address = door.url.trim_start_matches("http://").split('/').next().unwrap().to_owned();
    let large = 4 << 20;
    for (key, path, status) in [
        ("fw_nobody", "/v1/telemetry", "401"),
        (door.key.as_str(), "/v1/telemetry", "413"),
        ("", "/v1/telemetry", "401"),
    ] {
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\
             content-type: application/json\r\ncontent-length: {large}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b' '; large]).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(Duration::from_secs(30), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert!(answer.contains("application/problem+json"), "{answer}");
    }
    door.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_door_speaks_http2_as_well() {
    let door = Running::start().await;
    let client = reqwest::Client::builder().http2_prior_knowledge().no_proxy().build().unwrap();
    let request = client.post(&door.url).bearer_auth(&door.key).header("content-type", "application/json");
    let response = request.body(batch("jane", json!([edit(1, "a")]))).send().await.unwrap();
    assert_eq!((response.version(), response.status().as_u16()), (reqwest::Version::HTTP_2, 200));
    let request = client.post(&door.url).bearer_auth("fw_nobody").header("content-type", "application/json");
    let response = request.body(vec![b' '; 1 << 20]).send().await.unwrap();
    assert_eq!(problem(response).await, (401, "unauthorized".into()));
    assert_eq!(door.raw().await.len(), 1);
    door.stop().await;
}
