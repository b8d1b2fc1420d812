//! The client against a door that is played by a few lines here: what is tested is the client's side of the wire.

use super::{plan, says_what_is_wanted};
use events::wire::{ClientEventBody, SuggestionRequest, TelemetryBatch};
use events::{SuggestionId, Timestamp};
use serde_json::{Value, json};
use simulator::driver::{ClientSession, DoorSettings, Doors, DriverError, LoadSettings, run_load};
use simulator::{BehaviourRates, Developer, TaskKind};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// What the door has seen, and how many of the next reports it is too busy for.
#[derive(Default)]
struct Seen {
    requests: Vec<SuggestionRequest>,
    batches: Vec<TelemetryBatch>,
    busy_answers: usize,
    unavailable_events: usize,
}

async fn read_request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let count = stream.read(&mut chunk).await.ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&chunk[..count]);
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let length: usize = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap();
        if bytes.len() >= end + 4 + length {
            return Some((head, bytes[end + 4..].to_vec()));
        }
    }
}

/// Repeats the last substitution, as the baseline does, in the wire format.
fn suggestion(request: &SuggestionRequest) -> String {
    let context = events::EditContext {
        repository: request.repository.clone(),
        path: request.path.clone(),
        language: request.language.clone(),
        recent_edits: request.recent_edits.clone(),
        window: events::Window {
            start_byte: request.document.start,
            first_line: request.document.first_line,
            text: request.document.text.clone(),
        },
        cursor_byte: request.cursor,
    };
    let actions = simulator::baseline::repeat_last_substitution(&context).actions;
    let id = SuggestionId::from_uuid(events::ids::uuid_v7(Timestamp::EPOCH, [7; 10]));
    let mut body = String::new();
    for (index, action) in actions.iter().enumerate() {
        let event = json!({
            "opportunity_id": request.opportunity_id, "suggestion_id": id, "action_index": index, "path": action.path,
            "start": action.range.start, "end": action.range.end,
            "old_text": action.old_text, "new_text": action.new_text,
        });
        body.push_str(&format!("event: action\ndata: {event}\n\n"));
    }
    let decision = if actions.is_empty() { "silent" } else { "shown" };
    let end = json!({
        "opportunity_id": request.opportunity_id, "suggestion_id": (!actions.is_empty()).then_some(id),
        "decision": decision, "actions": actions.len(), "model": "repeat", "model_version": 1,
        "receipt": "receipt-of-the-test",
    });
    body + &format!("event: end\ndata: {end}\n\n")
}

async fn answer(mut stream: TcpStream, seen: Arc<Mutex<Seen>>) {
    let Some((head, body)) = read_request(&mut stream).await else { return };
    assert!(head.contains("authorization: bearer fw_test"));
    let (status, text) = if head.starts_with("post /v1/suggestions") {
        let request: SuggestionRequest = serde_json::from_slice(&body).unwrap();
        let text = suggestion(&request);
        seen.lock().unwrap().requests.push(request);
        ("200 OK", text)
    } else {
        let mut seen = seen.lock().unwrap();
        if seen.busy_answers > 0 {
            seen.busy_answers -= 1;
            ("503 Service Unavailable", json!({"code": "bus_unavailable"}).to_string())
        } else {
            let batch: TelemetryBatch = serde_json::from_slice(&body).unwrap();
            let refused = std::mem::take(&mut seen.unavailable_events);
            let results: Vec<Value> = (batch.events.iter().enumerate())
                .map(|(index, event)| {
                    let status = if index < refused { "unavailable" } else { "admitted" };
                    json!({"sequence": event.sequence, "event_id": null, "status": status})
                })
                .collect();
            seen.batches.push(batch);
            ("200 OK", json!({ "results": results }).to_string())
        }
    };
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", text.len());
    let middle = text.len() / 2;
    for part in [head.as_bytes(), &text.as_bytes()[..middle], &text.as_bytes()[middle..]] {
        stream.write_all(part).await.unwrap();
        stream.flush().await.unwrap();
    }
}

async fn door() -> (Doors, Arc<Mutex<Seen>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Seen::default()));
    let shared = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, shared.clone()));
        }
    });
    (Doors::new(DoorSettings::new(address.clone(), address, "fw_test")).unwrap(), seen)
}

#[tokio::test]
async fn a_session_is_numbered_without_gaps_and_survives_a_busy_door() {
    let (doors, seen) = door().await;
    let plan = plan(4);
    let developer = Developer::new(BehaviourRates::noiseless());
    let mut session = ClientSession::new(4, 0, "someone", 0, Timestamp::from_seconds(1_000_000));
    {
        let mut seen = seen.lock().unwrap();
        (seen.busy_answers, seen.unavailable_events) = (2, 1);
    }
    let mut sequences = Vec::new();
    for opportunity in 0..6 {
        let planned = plan.task(0, opportunity).unwrap();
        let mut played = session.play(&doors, &developer, &planned.task).await.unwrap();
        if planned.task.kind == TaskKind::Plain {
            assert_eq!(played.served, planned.task.wanted, "the baseline can repeat a rename");
        }
        for until_ms in [29_999, 30_000, 300_000] {
            let due = played.episode.due(until_ms).to_vec();
            session.send(&doors, &due).await.unwrap();
            sequences.extend(due.iter().map(|event| event.sequence));
        }
        assert!(played.episode.is_sent());
        assert!(says_what_is_wanted(&planned.task, &played.behaviour.document));
    }
    let end = session.end();
    assert_eq!(end.body, ClientEventBody::SessionEnded {});
    session.send(&doors, std::slice::from_ref(&end)).await.unwrap();
    sequences.push(end.sequence);
    assert_eq!(sequences, (1..=sequences.len() as u64).collect::<Vec<_>>());
    let seen = seen.lock().unwrap();
    let mut events: Vec<_> = seen.batches.iter().flat_map(|batch| batch.events.clone()).collect();
    events.sort_by_key(|event| event.sequence);
    events.dedup_by_key(|event| event.sequence);
    assert_eq!(events.len(), sequences.len());
    assert!(events.windows(2).all(|pair| pair[0].monotonic_ms <= pair[1].monotonic_ms));
    let request = &seen.requests[0];
    let cursor = usize::try_from(request.cursor - request.document.start).unwrap();
    assert!(request.document.text.is_char_boundary(cursor));
}

#[tokio::test]
async fn ids_follow_from_the_seed_and_load_is_bounded() {
    let (doors, seen) = door().await;
    let plan = Arc::new(plan(4));
    let settings = LoadSettings {
        sessions: 4,
        opportunities: 3,
        session_number: 1,
        started: Timestamp::from_seconds(5),
        longest: Duration::from_secs(60),
    };
    let report = run_load(&doors, plan.clone(), &settings, &CancellationToken::new()).await.unwrap();
    assert_eq!((report.opportunities, report.failures), (12, 0));
    assert!(report.first_action_quantile(0.5).is_some());
    let ids = |seen: &Seen| {
        seen.requests.iter().filter_map(|request| request.opportunity_id).collect::<std::collections::BTreeSet<_>>()
    };
    let first = ids(&seen.lock().unwrap());
    assert_eq!(first.len(), 12);
    let (doors, seen) = door().await;
    run_load(&doors, plan, &settings, &CancellationToken::new()).await.unwrap();
    assert_eq!(first, ids(&seen.lock().unwrap()));
}

#[tokio::test]
async fn a_door_that_stays_busy_or_is_not_there_is_an_error() {
    let (doors, seen) = door().await;
    seen.lock().unwrap().busy_answers = usize::MAX;
    let mut session = ClientSession::new(1, 1, "someone", 0, Timestamp::EPOCH);
    let error = session.send(&doors, &[session.clone().end()]).await.unwrap_err();
    assert!(matches!(&error, DriverError::Refused { code, .. } if code == "bus_unavailable"), "{error}");
    let nowhere = Doors::new(DoorSettings::new("http://127.0.0.1:9", "http://127.0.0.1:9", "fw_test")).unwrap();
    let task = plan(4).task(0, 0).unwrap().task;
    assert!(matches!(session.play(&nowhere, &Developer::default(), &task).await, Err(DriverError::Transport { .. })));
}
