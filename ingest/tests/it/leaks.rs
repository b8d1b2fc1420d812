//! Code, names and keys reach neither an answer, nor the log at its most talkative, nor a metric.

use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock};

use bus::PublishError;
use events::ConsentTier;
use serde_json::{Value, json};

use crate::{OPPORTUNITY, Running, SESSION, batch, edit, shown};

/// In everything that the test sends, and in nothing that anybody may see.
const CANARY: &str = "c4narySecr3t";

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Everything that this process logs from the first call on.
fn captured() -> Captured {
    static CAPTURED: OnceLock<Captured> = OnceLock::new();
    CAPTURED
        .get_or_init(|| {
            let captured = Captured::default();
            let writer = captured.clone();
            tracing_subscriber::fmt()
                .with_max_level(tracing::Level::TRACE)
                .with_writer(move || writer.clone())
                .with_ansi(false)
                .init();
            captured
        })
        .clone()
}

fn canary_events() -> Vec<Value> {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut event = edit(1, CANARY);
        event["path"] = json!(format!("src/{CANARY}.rs"));
        change(&mut event);
        event
    };
    let look = json!({
        "sequence": 2, "monotonic_ms": 1, "kind": "region_look", "opportunity_id": OPPORTUNITY, "look_delay_s": 30,
        "path": CANARY, "text": CANARY,
    });
    vec![
        with(&|_| ()),
        look,
        shown(3, Some(CANARY)),
        with(&|event| event["origin"] = json!(CANARY)),
        with(&|event| event["kind"] = json!(CANARY)),
        with(&|event| event["start"] = json!(CANARY)),
        with(&|event| event["end"] = json!(77)),
        with(&|event| event["suggestion_id"] = json!(CANARY)),
        with(&|event| event["path"] = json!(CANARY.repeat(200))),
        with(&|event| event["new_text"] = json!(format!("{CANARY}\u{0}"))),
        with(&|event| event["new_text"] = json!(CANARY.repeat(10_000))),
        with(&|event| event[CANARY] = json!({ CANARY: CANARY })),
        json!(CANARY),
        json!([CANARY]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_sent_is_told_to_anybody() {
    let captured = captured();
    let metrics = service::metrics::install().unwrap();
    let door = Running::start().await;
    let mut answers = Vec::new();
    let person = format!("jane {CANARY}");
    for tier in [ConsentTier::Code, ConsentTier::Usage, ConsentTier::None] {
        door.consent(&person, tier).await;
        let response = door.send(batch(&person, json!(canary_events()))).await;
        assert_eq!(response.status(), 200);
        answers.push(response.text().await.unwrap());
    }
    *door.switch.failing.lock() = Some(PublishError::Storage("the disk is gone".to_owned()));
    answers.push(door.send(batch(&person, json!(canary_events()))).await.text().await.unwrap());
    *door.switch.failing.lock() = None;
    let good = batch(&person, json!([edit(1, CANARY)]));
    let bodies: Vec<Vec<u8>> = vec![
        good.as_bytes()[..good.len() - 3].to_vec(),
        format!("{CANARY}{good}").into_bytes(),
        good.replace(SESSION, CANARY).into_bytes(),
        good.replace(&person, &CANARY.repeat(30)).into_bytes(),
        json!({ "person": CANARY, "session_id": SESSION, "events": CANARY }).to_string().into_bytes(),
        json!({ "person": CANARY, "session_id": SESSION, "events": vec![CANARY; 2000] }).to_string().into_bytes(),
        [good.as_bytes(), b"\xff"].concat(),
        CANARY.repeat(100_000).into_bytes(),
    ];
    for body in bodies {
        let response = door.send(body).await;
        assert!(response.status().is_client_error());
        answers.push(response.text().await.unwrap());
    }
    for key in [format!("fw_{CANARY}"), CANARY.to_owned()] {
        let request = door.http.post(&door.url).bearer_auth(key).header("content-type", "application/json");
        let response = request.body(good.clone()).send().await.unwrap();
        assert_eq!(response.status(), 401);
        answers.push(response.text().await.unwrap());
    }
    let unknown = door.http.post(door.url.replace("telemetry", CANARY)).body(CANARY).send().await.unwrap();
    answers.push(unknown.text().await.unwrap());
    door.stop().await;

    for answer in &answers {
        assert!(!answer.contains(CANARY), "{answer}");
    }
    let rendered = metrics.render();
    assert!(rendered.contains("flywheel_ingest_events_total") && !rendered.contains(CANARY), "{rendered}");
    let log = captured.0.lock().unwrap();
    let log = String::from_utf8_lossy(&log);
    assert!(log.contains("an event can not be published"), "the log was not captured");
    // The client of this test is in the same process and may log what it sends; the door may not.
    for line in log.lines().filter(|line| line.contains(CANARY)) {
        assert!(line.contains("reqwest") || line.contains("hyper_util::client"), "{line}");
    }
}
